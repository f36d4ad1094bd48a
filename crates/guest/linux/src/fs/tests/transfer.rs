//! `sendfile(2)`, `splice(2)`, `tee(2)`, `vmsplice(2)`, `copy_file_range(2)`.

use crate::Errno;
use crate::fs::testing::{Program, call, failed, program};
use crate::user::{UserAddr, bytes_of};

fn pipe(p: &Program) -> (i64, i64) {
    let ends = p.room(8);
    assert_eq!(call!(p, "pipe", ends), 0);
    let [read, write] = UserAddr(ends).read::<[i32; 2]>().unwrap();
    (i64::from(read), i64::from(write))
}

#[test]
fn files_are_sent() {
    let program = program();
    let p = &program;
    let from = call!(p, "open", "/usr/share/big", 0);
    let to = call!(p, "open", "/tmp/copy", 0o102, 0o600);
    assert_eq!(call!(p, "sendfile", to, from, 0, 15_000), 15_000);
    let offset = p.put(bytes_of(&15_000_i64));
    assert_eq!(call!(p, "sendfile", to, from, offset, 100_000), 5000);
    assert_eq!(UserAddr(offset).read::<i64>().unwrap(), 20_000);
    assert_eq!(call!(p, "lseek", from, 0, 1), 15_000);
    assert_eq!(p.read_file("/tmp/copy"), p.read_file("/usr/share/big"));
    assert_eq!(call!(p, "sendfile", from, to, 0, 1), failed(Errno::EBADF));
    let (read, write) = pipe(p);
    assert_eq!(
        call!(p, "sendfile", write, read, 0, 1),
        failed(Errno::EINVAL)
    );
    assert_eq!(call!(p, "sendfile", write, from, 0, 10), 10);
    let room = p.room(99);
    assert_eq!(call!(p, "read", read, room, 99), 10);
}

#[test]
fn devices_are_sent() {
    let program = program();
    let p = &program;
    let to = call!(p, "open", "/tmp/copy", 0o102, 0o600);
    let zero = call!(p, "open", "/dev/zero", 0);
    assert_eq!(call!(p, "sendfile", to, zero, 0, 100_000), 100_000);
    let copy = p.read_file("/tmp/copy").unwrap();
    assert!(copy.len() == 100_000 && copy.iter().all(|&byte| byte == 0));
    let random = call!(p, "open", "/dev/urandom", 0);
    assert_eq!(call!(p, "sendfile", to, random, 0, 100), 100);
    let null = call!(p, "open", "/dev/null", 0);
    assert_eq!(call!(p, "sendfile", to, null, 0, 1), failed(Errno::EINVAL));
    let sent = call!(p, "sendfile", to, call!(p, "open", "/dev/ptmx", 2), 0, 1);
    assert_eq!(sent, failed(Errno::EINVAL));
}

#[test]
fn ranges_are_copied() {
    let program = program();
    let p = &program;
    let from = call!(p, "open", "/usr/share/big", 0);
    let to = call!(p, "open", "/tmp/copy", 0o102, 0o600);
    let (at, into) = (p.put(bytes_of(&100_i64)), p.put(bytes_of(&0_i64)));
    assert_eq!(
        call!(p, "copy_file_range", from, at, to, into, 1000, 0),
        1000
    );
    assert_eq!(UserAddr(at).read::<i64>().unwrap(), 1100);
    assert_eq!(p.read_file("/tmp/copy").unwrap()[..3], [100, 101, 102]);
    assert_eq!(
        call!(p, "copy_file_range", from, 0, to, 0, 10, 1),
        failed(Errno::EINVAL)
    );
    let (at, into) = (p.put(bytes_of(&0_i64)), p.put(bytes_of(&5_i64)));
    let same = call!(p, "open", "/tmp/copy", 0);
    assert_eq!(
        call!(p, "copy_file_range", same, at, to, into, 10, 0),
        failed(Errno::EINVAL)
    );
    assert_eq!(call!(p, "copy_file_range", same, at, to, into, 5, 0), 5);
    let folder = call!(p, "open", "/tmp", 0);
    assert_eq!(
        call!(p, "copy_file_range", folder, 0, to, 0, 5, 0),
        failed(Errno::EISDIR)
    );
}

#[test]
fn pipes_are_spliced() {
    let program = program();
    let p = &program;
    let file = call!(p, "open", "/usr/share/big", 0);
    let (read, write) = pipe(p);
    let at = p.put(bytes_of(&10_i64));
    assert_eq!(call!(p, "splice", file, at, write, 0, 20, 0), 20);
    assert_eq!(UserAddr(at).read::<i64>().unwrap(), 30);
    let (read2, write2) = pipe(p);
    assert_eq!(call!(p, "tee", read, write2, 100, 0), 20);
    assert_eq!(call!(p, "splice", read, 0, write2, 0, 5, 0), 5);
    let room = p.room(99);
    assert_eq!(call!(p, "read", read2, room, 99), 25);
    assert_eq!(p.get(room + 20, 2), [10, 11]);
    assert_eq!(call!(p, "read", read, room, 99), 15);
    assert_eq!(p.get(room, 2), [15, 16]);
    let out = call!(p, "open", "/tmp/out", 0o102, 0o600);
    assert_eq!(call!(p, "write", write, b"hello", 5), 5);
    assert_eq!(call!(p, "splice", read, 0, out, 0, 99, 0), 5);
    assert_eq!(p.read_file("/tmp/out").unwrap(), b"hello");
    assert_eq!(
        call!(p, "splice", read, 0, out, 0, 99, 2),
        failed(Errno::EAGAIN)
    );
    assert_eq!(
        call!(p, "splice", read, 0, write, 0, 99, 0),
        failed(Errno::EINVAL)
    );
    assert_eq!(
        call!(p, "splice", file, 0, out, 0, 99, 0),
        failed(Errno::EINVAL)
    );
    assert_eq!(
        call!(p, "splice", read, at, out, 0, 99, 0),
        failed(Errno::ESPIPE)
    );
    assert_eq!(call!(p, "tee", file, write, 9, 0), failed(Errno::EINVAL));
    let bytes = p.put(b"vector");
    let vectors = p.put(bytes_of(&[bytes, 6]));
    assert_eq!(call!(p, "vmsplice", write, vectors, 1, 0), 6);
    assert_eq!(
        call!(p, "vmsplice", file, vectors, 1, 0),
        failed(Errno::EBADF)
    );
    assert_eq!(call!(p, "close", write), 0);
    assert_eq!(call!(p, "splice", read, 0, out, 0, 99, 0), 6);
    assert_eq!(call!(p, "splice", read, 0, out, 0, 99, 0), 0, "its end");
}

/// Another reader empties the pipe while the call waits for room in the other one: it waits for content again, and does not say that there is no more.
#[test]
fn a_splice_that_has_waited_for_room_looks_for_content_again() {
    for name in ["splice", "tee"] {
        let program = program();
        let p = &program;
        let ((read, write), (full_read, full)) = (pipe(p), pipe(p));
        let long = alloc::vec![1_u8; 65_536];
        assert_eq!(call!(p, "write", full, &long[..], 65_536), 65_536);
        assert_eq!(call!(p, "write", write, "x", 1), 1);
        let thread = p.thread.clone();
        let (source, sink) = (read, full_read);
        crate::platform::pretend::while_asleep(move || {
            let mut bytes = alloc::vec![0; 65_536];
            for (fd, len) in [(source, 1), (sink, 65_536)] {
                let open = thread.process.files.get(fd as i32).unwrap();
                let to = &mut crate::io::Sink::kernel(&mut bytes[..len]);
                assert_eq!(open.file.read(&thread, &open, to), Ok(len));
            }
        });
        let thread = p.thread.clone();
        crate::platform::pretend::while_asleep(move || {
            let open = thread.process.files.get(write as i32).unwrap();
            let from = &mut crate::io::Source::kernel(b"later");
            assert_eq!(open.file.write(&thread, &open, from), Ok(5));
        });
        let moved = match name {
            "splice" => call!(p, "splice", read, 0, full, 0, 100, 0),
            _ => call!(p, "tee", read, full, 100, 0),
        };
        assert_eq!(moved, 5, "{name}");
    }
}

/// While a call waits for the socket behind it, what it is about to take out of the pipe stays for it.
#[test]
fn nobody_takes_what_a_splice_is_moving() {
    let program = program();
    let p = &program;
    let (read, write) = pipe(p);
    let ends = p.room(8);
    assert_eq!(call!(p, "socketpair", 1, 1, 0, ends), 0);
    let [near, far] = UserAddr(ends).read::<[i32; 2]>().unwrap().map(i64::from);
    let mut filled = 0;
    let long = alloc::vec![2_u8; 65_536];
    let options = call!(p, "fcntl", near, 3, 0);
    call!(p, "fcntl", near, 4, options | 0o4000);
    loop {
        let sent = call!(p, "write", near, &long[..], 65_536);
        if sent < 0 {
            break;
        }
        filled += sent;
    }
    call!(p, "fcntl", near, 4, options);
    assert_eq!(call!(p, "write", write, "abc", 3), 3);
    let thread = p.thread.clone();
    crate::platform::pretend::while_asleep(move || {
        let mut bytes = alloc::vec![0; 8];
        let open = thread.process.files.get(read as i32).unwrap();
        let to = &mut crate::io::Sink::kernel(&mut bytes);
        assert_eq!(open.file.read(&thread, &open, to), Err(Errno::EAGAIN));
        let mut all = alloc::vec![0; filled as usize];
        let open = thread.process.files.get(far as i32).unwrap();
        let to = &mut crate::io::Sink::kernel(&mut all);
        assert_eq!(open.file.read(&thread, &open, to), Ok(filled as usize));
    });
    assert_eq!(call!(p, "splice", read, 0, near, 0, 100, 0), 3);
    let room = p.room(8);
    assert_eq!(call!(p, "read", far, room, 8), 3);
    assert_eq!(UserAddr(room).read::<[u8; 3]>().unwrap(), *b"abc");
    let pipe = p.thread.process.files.get(read as i32).unwrap();
    assert!(crate::event::pipe::of(&pipe).unwrap().may_read());
}
