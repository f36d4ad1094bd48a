//! Names: folders, links, renames, mounts, and permissions on the way.

use crate::Errno;
use crate::fs::testing::{call, failed, program};

#[test]
fn folders_are_made_and_removed() {
    let program = program();
    let p = &program;
    assert_eq!(call!(p, "mkdir", "/tmp/a", 0o777), 0);
    assert_eq!(p.stat("/tmp/a").unwrap()[3] as u32, 0o040_755);
    assert_eq!(call!(p, "mkdir", "/tmp/a/", 0o777), failed(Errno::EEXIST));
    assert_eq!(call!(p, "mkdir", "/tmp/b/c", 0o777), failed(Errno::ENOENT));
    assert_eq!(call!(p, "mkdir", "/tmp/a/b/", 0o777), 0);
    assert_eq!(p.stat("/tmp/a").unwrap()[2], 3);
    assert_eq!(call!(p, "rmdir", "/tmp/a"), failed(Errno::ENOTEMPTY));
    assert_eq!(call!(p, "rmdir", "/tmp/a/."), failed(Errno::EINVAL));
    assert_eq!(call!(p, "rmdir", "/tmp/a/b/.."), failed(Errno::ENOTEMPTY));
    assert_eq!(call!(p, "rmdir", "/proc"), failed(Errno::EBUSY));
    assert_eq!(call!(p, "rmdir", "/"), failed(Errno::EBUSY));
    assert_eq!(call!(p, "rmdir", "/etc/passwd"), failed(Errno::ENOTDIR));
    assert_eq!(call!(p, "unlink", "/tmp/a"), failed(Errno::EISDIR));
    assert_eq!(call!(p, "unlinkat", -100, "/tmp/a/b", 0x200), 0);
    assert_eq!(
        call!(p, "unlinkat", -100, "/tmp/a", 1),
        failed(Errno::EINVAL)
    );
    assert_eq!(p.stat("/tmp/a").unwrap()[2], 2);
    assert_eq!(call!(p, "umask", 0o077), 0o022);
    assert_eq!(call!(p, "mkdir", "/tmp/c", 0o777), 0);
    assert_eq!(p.stat("/tmp/c").unwrap()[3] as u32, 0o040_700);
}

#[test]
fn a_folder_that_is_gone_is_empty_and_stays_so() {
    let program = program();
    let p = &program;
    assert_eq!(call!(p, "mkdir", "/tmp/a", 0o777), 0);
    assert_eq!(call!(p, "chdir", "/tmp/a"), 0);
    assert_eq!(call!(p, "rmdir", "/tmp/a"), 0);
    assert_eq!(call!(p, "getcwd", p.room(99), 99), failed(Errno::ENOENT));
    assert_eq!(call!(p, "creat", "x", 0o600), failed(Errno::ENOENT));
    assert_eq!(call!(p, "mkdir", "x", 0o600), failed(Errno::ENOENT));
    assert_eq!(call!(p, "chdir", ".."), 0);
    let to = p.room(9);
    assert_eq!(call!(p, "getcwd", to, 9), 5);
    assert_eq!(p.get(to, 5), b"/tmp\0");
}

#[test]
fn the_working_directory_follows_renames() {
    let program = program();
    let p = &program;
    assert_eq!(call!(p, "mkdir", "/tmp/a", 0o777), 0);
    assert_eq!(call!(p, "mkdir", "/tmp/a/b", 0o777), 0);
    assert_eq!(call!(p, "chdir", "/tmp/a/b"), 0);
    assert_eq!(call!(p, "rename", "/tmp/a", "/tmp/new"), 0);
    let to = p.room(99);
    assert_eq!(call!(p, "getcwd", to, 99), 11);
    assert_eq!(p.get(to, 11), b"/tmp/new/b\0");
    assert_eq!(
        call!(p, "rename", "/tmp/new", "/tmp/new/b/x"),
        failed(Errno::EINVAL)
    );
    assert_eq!(
        call!(p, "rename", "/tmp/new", "/dev/shm/x"),
        failed(Errno::EXDEV)
    );
    assert_eq!(call!(p, "rename", ".", "/tmp/x"), failed(Errno::EBUSY));
}

#[test]
fn renames_exchange_and_refuse() {
    let program = program();
    let p = &program;
    p.write_file("/tmp/a", b"a");
    p.write_file("/tmp/b", b"b");
    let rename = |flags: u32| call!(p, "renameat2", -100, "/tmp/a", -100, "/tmp/b", flags);
    assert_eq!(rename(1), failed(Errno::EEXIST));
    assert_eq!(rename(3), failed(Errno::EINVAL));
    assert_eq!(rename(2), 0);
    assert_eq!(p.read_file("/tmp/a").unwrap(), b"b");
    assert_eq!(p.read_file("/tmp/b").unwrap(), b"a");
    assert_eq!(call!(p, "mkdir", "/tmp/d", 0o755), 0);
    p.write_file("/tmp/d/inside", b"i");
    assert_eq!(call!(p, "renameat2", -100, "/tmp/a", -100, "/tmp/d", 2), 0);
    assert_eq!(p.read_file("/tmp/a/inside").unwrap(), b"i");
    assert_eq!(p.read_file("/tmp/d").unwrap(), b"b");
    // A whiteout is a device without a number.
    assert_eq!(call!(p, "renameat2", -100, "/tmp/d", -100, "/tmp/e", 4), 0);
    assert_eq!(p.stat("/tmp/d").unwrap()[3] as u32 & 0o170_000, 0o020_000);
    assert_eq!(p.read_file("/tmp/e").unwrap(), b"b");
}

#[test]
fn entries_keep_their_places_while_others_go() {
    let program = program();
    let p = &program;
    for n in 0..50 {
        p.write_file(&std::format!("/tmp/{n:02}"), b"");
    }
    let fd = call!(p, "open", "/tmp", 0o200_000);
    let mut seen = std::vec::Vec::new();
    loop {
        let to = p.room(100);
        let len = call!(p, "getdents64", fd, to, 100);
        if len == 0 {
            break;
        }
        let bytes = p.get(to, len as usize);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let record = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
            let name = rest[19..record].split(|&b| b == 0).next().unwrap();
            let name = std::string::String::from_utf8(name.to_vec()).unwrap();
            if !name.starts_with('.') {
                let path = std::format!("/tmp/{name}");
                assert_eq!(call!(p, "unlink", path.as_str()), 0);
                seen.push(name);
            }
            rest = &rest[record..];
        }
    }
    assert_eq!(seen.len(), 50, "what rm -r does misses nothing");
    assert_eq!(call!(p, "getdents64", fd, p.room(8), 8), 0);
    assert_eq!(call!(p, "lseek", fd, 0, 0), 0);
    assert_eq!(
        call!(p, "getdents64", fd, p.room(8), 8),
        failed(Errno::EINVAL)
    );
    assert_eq!(call!(p, "getdents", fd, p.room(99), 99), 48);
}

#[test]
fn permissions_count_for_others_than_the_superuser() {
    let program = program();
    let p = &program;
    p.write_file("/tmp/own", b"x");
    assert_eq!(call!(p, "chmod", "/tmp/own", 0o4711), 0);
    p.become_user(1000, 1000);
    assert_eq!(call!(p, "open", "/etc/shadow", 0), failed(Errno::EACCES));
    assert_eq!(call!(p, "access", "/etc/shadow", 0), 0);
    assert_eq!(call!(p, "access", "/etc/shadow", 4), failed(Errno::EACCES));
    assert_eq!(call!(p, "open", "/root/x", 0), failed(Errno::EACCES));
    assert_eq!(call!(p, "creat", "/etc/x", 0o600), failed(Errno::EACCES));
    assert_eq!(
        call!(p, "unlink", "/tmp/own"),
        failed(Errno::EPERM),
        "sticky"
    );
    assert_eq!(call!(p, "chmod", "/tmp/own", 0o777), failed(Errno::EPERM));
    assert_eq!(
        call!(p, "chown", "/tmp/own", 1000, 1000),
        failed(Errno::EPERM)
    );
    assert_eq!(call!(p, "utime", "/tmp/own", 0), failed(Errno::EACCES));
    assert_eq!(
        call!(p, "mknod", "/tmp/null", 0o020_666, 0x103),
        failed(Errno::EPERM)
    );
    assert_eq!(call!(p, "mknod", "/tmp/fifo", 0o010_666, 0), 0);
    assert_eq!(call!(p, "chroot", "/tmp"), failed(Errno::EPERM));
    assert_eq!(
        call!(p, "mount", "x", "/tmp", "tmpfs", 0, 0),
        failed(Errno::EPERM)
    );
    let of = p.stat("/tmp/fifo").unwrap();
    assert_eq!((of[3] as u32, of[3] >> 32, of[4]), (0o010_644, 1000, 1000));
    assert_eq!(
        call!(p, "open", "/etc/passwd", 0o1_000_000),
        failed(Errno::EPERM),
        "O_NOATIME"
    );
}

#[test]
fn a_root_of_its_own() {
    let program = program();
    let p = &program;
    assert_eq!(call!(p, "open", "/", 0o200_000), 0);
    assert_eq!(call!(p, "chroot", "/usr"), 0);
    assert_eq!(call!(p, "chdir", "/"), 0);
    assert_eq!(p.read_file("/bin/true").unwrap(), b"\x7fELF");
    assert_eq!(p.read_file("../../bin/true").unwrap(), b"\x7fELF");
    assert_eq!(p.read_file("/etc/passwd"), Err(failed(Errno::ENOENT)));
    let to = p.room(9);
    assert_eq!(call!(p, "getcwd", to, 9), 2);
    assert_eq!(call!(p, "fchdir", 0), 0);
    assert_eq!(p.read_file("etc/passwd").unwrap().len(), 30);
}

#[test]
fn file_systems_are_mounted() {
    let program = program();
    let p = &program;
    assert_eq!(call!(p, "mkdir", "/tmp/m", 0o755), 0);
    assert_eq!(
        call!(p, "mount", "none", "/tmp/m", "tmpfs", 0, "size=8k,mode=700"),
        0
    );
    assert_eq!(p.stat("/tmp/m").unwrap()[3] as u32, 0o040_700);
    assert_eq!(p.write_file("/tmp/m/x", &[1; 5000]), 5000);
    assert_eq!(p.write_file("/tmp/m/y", &[1; 5000]), failed(Errno::ENOSPC));
    assert_eq!(call!(p, "unlink", "/tmp/m/x"), 0);
    assert_eq!(p.write_file("/tmp/m/y", &[1; 5000]), 5000);
    assert_eq!(call!(p, "link", "/tmp/m/y", "/tmp/y"), failed(Errno::EXDEV));
    assert_eq!(
        call!(p, "mount", "none", "/tmp/m", "", 0x21, 0),
        0,
        "remount read-only"
    );
    assert_eq!(call!(p, "creat", "/tmp/m/z", 0o600), failed(Errno::EROFS));
    assert_eq!(call!(p, "unlink", "/tmp/m/y"), failed(Errno::EROFS));
    assert_eq!(call!(p, "open", "/tmp/m/y", 2), failed(Errno::EROFS));
    assert_eq!(call!(p, "access", "/tmp/m/y", 2), failed(Errno::EROFS));
    assert_eq!(call!(p, "umount2", "/tmp/m/y", 0), failed(Errno::EINVAL));
    assert_eq!(call!(p, "umount2", "/tmp/m", 0), 0);
    assert_eq!(p.list("/tmp/m").len(), 2);
    assert_eq!(
        call!(p, "mount", "none", "/tmp/m", "ext4", 0, 0),
        failed(Errno::ENODEV)
    );
    // What is mounted at the start.
    for path in ["/proc/self", "/dev/null", "/dev/shm", "/sys", "/run"] {
        assert!(p.stat(path).is_ok(), "{path}");
    }
    assert_eq!(p.read_file("/etc/hostname").unwrap(), b"kiln\n");
    assert!(!p.read_file("/proc/self/mountinfo").unwrap().is_empty());
}

#[test]
fn magic_links() {
    let program = program();
    let p = &program;
    let fd = call!(p, "open", "/etc/passwd", 0);
    let to = p.room(99);
    assert_eq!(call!(p, "readlink", "/proc/self/fd/0", to, 99), 11);
    assert_eq!(p.get(to, 11), b"/etc/passwd");
    assert_eq!(p.read_file("/proc/self/fd/0").unwrap().len(), 30);
    assert_eq!(call!(p, "unlink", "/etc/passwd"), 0);
    assert_eq!(p.read_file("/proc/self/fd/0").unwrap().len(), 30);
    assert_eq!(call!(p, "readlink", "/proc/self/fd/0", to, 99), 21);
    assert_eq!(p.get(to, 21), b"/etc/passwd (deleted)");
    assert_eq!(
        p.read_file("/proc/self/cwd/usr/bin/true").unwrap(),
        b"\x7fELF"
    );
    assert_eq!(call!(p, "close", fd), 0);
    // A pipe is opened anew.
    let ends = p.room(8);
    assert_eq!(call!(p, "pipe", ends), 0);
    assert_eq!(call!(p, "open", "/proc/self/fd/0", 0), 2);
    assert_eq!(call!(p, "write", 1, b"abc", 3), 3);
    assert_eq!(call!(p, "read", 2, to, 9), 3);
}
