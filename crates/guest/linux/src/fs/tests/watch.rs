//! `inotify(7)`.

use alloc::string::String;
use alloc::vec::Vec;

use crate::Errno;
use crate::fs::testing::{Program, call, failed, program};

/// Events that wait: watch, mask, name.
fn events(p: &Program, fd: i64) -> Vec<(i32, u32, String)> {
    let to = p.room(4096);
    let len = call!(p, "read", fd, to, 4096);
    let bytes = p.get(to, usize::try_from(len).unwrap_or(0));
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    let mut all = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let len = word(at + 12) as usize;
        let name = bytes[at + 16..at + 16 + len].split(|&b| b == 0).next();
        let name = String::from_utf8(name.unwrap_or_default().to_vec()).unwrap();
        all.push((word(at).cast_signed(), word(at + 4), name));
        at += 16 + len;
    }
    all
}

#[test]
fn what_happens_in_a_folder_is_told() {
    let program = program();
    let p = &program;
    let fd = call!(p, "inotify_init1", 0o4000);
    assert_eq!(call!(p, "inotify_add_watch", fd, "/tmp", 0xfff), 1);
    assert_eq!(call!(p, "read", fd, p.room(99), 99), failed(Errno::EAGAIN));
    p.write_file("/tmp/a", b"text");
    assert_eq!(call!(p, "rename", "/tmp/a", "/tmp/b"), 0);
    assert_eq!(call!(p, "chmod", "/tmp/b", 0o600), 0);
    assert_eq!(call!(p, "unlink", "/tmp/b"), 0);
    assert_eq!(call!(p, "mkdir", "/tmp/d", 0o700), 0);
    let masks: Vec<_> = events(p, fd).into_iter().map(|e| (e.1, e.2)).collect();
    let expected = [
        (0x100, "a"),
        (0x20, "a"),
        (2, "a"),
        (8, "a"),
        (0x40, "a"),
        (0x80, "b"),
        (4, "b"),
        (0x200, "b"),
        (0x4000_0100, "d"),
    ];
    assert_eq!(
        masks,
        expected.map(|(mask, name)| (mask, String::from(name)))
    );
    assert_eq!(call!(p, "inotify_rm_watch", fd, 1), 0);
    assert_eq!(events(p, fd), [(1, 0x8000, String::new())]);
    assert_eq!(call!(p, "inotify_rm_watch", fd, 1), failed(Errno::EINVAL));
    p.write_file("/tmp/c", b"");
    assert_eq!(call!(p, "read", fd, p.room(99), 99), failed(Errno::EAGAIN));
}

#[test]
fn a_watched_file_goes() {
    let program = program();
    let p = &program;
    p.write_file("/tmp/a", b"text");
    let fd = call!(p, "inotify_init1", 0o4000);
    assert_eq!(call!(p, "inotify_add_watch", fd, "/tmp/a", 0x402), 1);
    assert_eq!(
        call!(p, "inotify_add_watch", fd, "/tmp/a", 0x1000_0002),
        failed(Errno::EEXIST)
    );
    assert_eq!(
        call!(p, "inotify_add_watch", fd, "/tmp/a", 0),
        failed(Errno::EINVAL)
    );
    assert_eq!(
        call!(p, "inotify_add_watch", fd, "/tmp/a", 0x100_0002),
        failed(Errno::ENOTDIR)
    );
    assert_eq!(call!(p, "truncate", "/tmp/a", 0), 0);
    assert_eq!(call!(p, "unlink", "/tmp/a"), 0);
    let masks: Vec<_> = events(p, fd).into_iter().map(|e| e.1).collect();
    assert_eq!(masks, [2, 0x400, 0x8000]);
    assert_eq!(
        call!(p, "inotify_add_watch", 77, "/tmp", 2),
        failed(Errno::EBADF)
    );
    assert_eq!(call!(p, "inotify_init1", 1), failed(Errno::EINVAL));
}

#[test]
fn an_open_file_is_watched_until_it_is_closed() {
    let program = program();
    let p = &program;
    let fd = call!(p, "inotify_init1", 0o4000);
    let file = call!(p, "open", "/tmp/f", 0o102, 0o600);
    assert_eq!(call!(p, "link", "/tmp/f", "/tmp/g"), 0);
    assert_eq!(call!(p, "inotify_add_watch", fd, "/tmp/f", 0xfff), 1);
    let to = p.room(9);
    assert_eq!(call!(p, "read", file, to, 9), 0);
    assert_eq!(call!(p, "pread64", file, to, 9, 0), 0);
    assert_eq!(call!(p, "read", fd, p.room(99), 99), failed(Errno::EAGAIN));
    assert_eq!(call!(p, "fallocate", file, 0, 0, 100), 0);
    assert_eq!(call!(p, "unlink", "/tmp/g"), 0);
    let masks = || -> Vec<_> { events(p, fd).into_iter().map(|e| e.1).collect() };
    assert_eq!(masks(), [2, 4], "changed, then one name less");
    assert_eq!(call!(p, "unlink", "/tmp/f"), 0);
    assert_eq!(masks(), [4], "it still is");
    assert_eq!(call!(p, "write", file, b"x", 1), 1);
    assert_eq!(masks(), [2]);
    assert_eq!(call!(p, "close", file), 0);
    assert_eq!(masks(), [8, 0x400, 0x8000]);
    // What is replaced goes likewise.
    p.write_file("/tmp/f", b"");
    p.write_file("/tmp/g", b"");
    assert_eq!(call!(p, "inotify_add_watch", fd, "/tmp/f", 0xfff), 2);
    assert_eq!(call!(p, "rename", "/tmp/g", "/tmp/f"), 0);
    assert_eq!(masks(), [4, 0x400, 0x8000]);
}

#[test]
fn folders_are_told_of_names_that_are_gone() {
    let program = program();
    let p = &program;
    assert_eq!(call!(p, "mkdir", "/tmp/d", 0o700), 0);
    let fd = call!(p, "inotify_init1", 0o4000);
    let without = call!(p, "inotify_init1", 0o4000);
    let file = call!(p, "open", "/tmp/d/f", 0o102, 0o600);
    assert_eq!(call!(p, "inotify_add_watch", fd, "/tmp/d", 0xfff), 1);
    let excl = 0x400_0000 | 0xfff;
    assert_eq!(call!(p, "inotify_add_watch", without, "/tmp/d", excl), 1);
    assert_eq!(call!(p, "unlink", "/tmp/d/f"), 0);
    assert_eq!(call!(p, "write", file, b"x", 1), 1);
    assert_eq!(call!(p, "close", file), 0);
    let masks = |fd| -> Vec<_> { events(p, fd).into_iter().map(|e| (e.1, e.2)).collect() };
    let f = || String::from("f");
    assert_eq!(masks(fd), [(0x200, f()), (2, f()), (8, f())]);
    assert_eq!(masks(without), [(0x200, f())]);
    assert_eq!(call!(p, "rename", "/tmp/d", "/tmp/e"), 0);
    assert_eq!(masks(fd), [(0x800, String::new())]);
    assert_eq!(call!(p, "rmdir", "/tmp/e"), 0);
    assert_eq!(masks(fd), [(0x400, String::new()), (0x8000, String::new())]);
}
