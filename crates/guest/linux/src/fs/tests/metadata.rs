//! `stat(2)`, `statx(2)`, `chmod(2)`, `chown(2)`, times, `truncate(2)`, `statfs(2)`, extended attributes.

use crate::Errno;
use crate::fs::testing::{call, failed, program};
use crate::user::UserAddr;

#[test]
fn what_is_told_of_a_file() {
    let program = program();
    let p = &program;
    let of = p.stat("/usr/share/big").unwrap();
    assert_eq!(of[2], 1);
    assert_eq!(of[3] as u32, 0o100_644);
    assert_eq!(of[6], 20_000);
    assert_eq!(p.stat("/bin").unwrap()[3] as u32, 0o120_777);
    let to = p.room(144);
    assert_eq!(call!(p, "stat", "/bin", to), 0);
    assert_eq!(
        UserAddr(to).read::<[u64; 18]>().unwrap()[3] as u32,
        0o040_755
    );
    let fd = call!(p, "open", "/usr/share/big", 0);
    assert_eq!(call!(p, "newfstatat", fd, "", to, 0x1000), 0);
    assert_eq!(UserAddr(to).read::<[u64; 18]>().unwrap(), of);
    assert_eq!(call!(p, "fstat", fd, to), 0);
    assert_eq!(UserAddr(to).read::<[u64; 18]>().unwrap(), of);
    assert_eq!(call!(p, "newfstatat", fd, "", to, 0), failed(Errno::ENOENT));
    assert_eq!(
        call!(p, "newfstatat", -100, "/bin", to, 4),
        failed(Errno::EINVAL)
    );
    assert_eq!(call!(p, "fstat", 55, to), failed(Errno::EBADF));
    assert_eq!(call!(p, "stat", "/bin", 0), failed(Errno::EFAULT));
    let record = p.room(256);
    assert_eq!(call!(p, "statx", fd, "", 0x1000, 0xfff, record), 0);
    let x = UserAddr(record).read::<[u64; 32]>().unwrap();
    assert_eq!((x[4], x[5]), (of[1], 20_000));
    assert_eq!(x[3] >> 32, 0o100_644);
    assert_eq!(x[14], of[11]);
    assert_eq!(
        call!(p, "statx", fd, "", 0x1000, 0x8000_0000_u32, record),
        failed(Errno::EINVAL)
    );
    assert_eq!(
        call!(p, "statx", fd, "", 0x7000, 0xfff, record),
        failed(Errno::EINVAL)
    );
    // The root of a file system is known as such.
    assert_eq!(call!(p, "statx", -100, "/dev/shm", 0, 0xfff, record), 0);
    assert_eq!(UserAddr(record).read::<[u64; 32]>().unwrap()[1], 0x2000);
}

#[test]
fn modes_and_owners() {
    let program = program();
    let p = &program;
    assert_eq!(call!(p, "chmod", "/usr/bin/true", 0o6755), 0);
    assert_eq!(p.stat("/usr/bin/true").unwrap()[3] as u32, 0o106_755);
    assert_eq!(call!(p, "chown", "/usr/bin/true", 7, -1), 0);
    let of = p.stat("/usr/bin/true").unwrap();
    assert_eq!((of[3] >> 32, of[4]), (7, 0));
    assert_eq!(of[3] as u32, 0o100_755, "the set-id bits go");
    assert_eq!(call!(p, "lchown", "/bin", 5, 6), 0);
    assert_eq!(p.stat("/bin").unwrap()[3] >> 32, 5);
    assert_eq!(
        call!(p, "fchmodat2", -100, "/bin", 0o700, 0x100),
        failed(Errno::EOPNOTSUPP)
    );
    assert_eq!(
        call!(p, "fchownat", -100, "/bin", 1, 1, 4),
        failed(Errno::EINVAL)
    );
    // Writing takes the bits away too, unless the writer may set them.
    let file = call!(p, "open", "/usr/bin/true", 1);
    assert_eq!(call!(p, "chmod", "/usr/bin/true", 0o6755), 0);
    assert_eq!(call!(p, "write", file, b"x", 1), 1);
    assert_eq!(p.stat("/usr/bin/true").unwrap()[3] as u32, 0o106_755);
    p.become_user(7, 7);
    assert_eq!(call!(p, "write", file, b"x", 1), 1);
    assert_eq!(p.stat("/usr/bin/true").unwrap()[3] as u32, 0o100_755);
}

#[test]
fn times() {
    let program = program();
    let p = &program;
    p.write_file("/tmp/f", b"");
    let given = p.put(crate::user::bytes_of(&[100_i64, 5, 200, 6]));
    assert_eq!(call!(p, "utimensat", -100, "/tmp/f", given, 0), 0);
    let of = p.stat("/tmp/f").unwrap();
    assert_eq!((of[9], of[10], of[11], of[12]), (100, 5, 200, 6));
    let omit = p.put(crate::user::bytes_of(&[0_i64, 0x3fff_fffe, 0, 0x3fff_ffff]));
    assert_eq!(call!(p, "utimensat", -100, "/tmp/f", omit, 0), 0);
    let of = p.stat("/tmp/f").unwrap();
    assert_eq!((of[9], of[10]), (100, 5));
    assert!(of[11] > 1_000_000_000);
    let bad = p.put(crate::user::bytes_of(&[0_i64, 1_000_000_000, 0, 0]));
    assert_eq!(
        call!(p, "utimensat", -100, "/tmp/f", bad, 0),
        failed(Errno::EINVAL)
    );
    assert_eq!(
        call!(p, "utime", "/tmp/f", crate::user::bytes_of(&[1_i64, 2])),
        0
    );
    assert_eq!(p.stat("/tmp/f").unwrap()[11], 2);
    assert_eq!(
        call!(
            p,
            "utimes",
            "/tmp/f",
            crate::user::bytes_of(&[3_i64, 4, 5, 6])
        ),
        0
    );
    assert_eq!(p.stat("/tmp/f").unwrap()[12], 6000);
    let fd = call!(p, "open", "/tmp/f", 0);
    assert_eq!(call!(p, "utimensat", fd, 0, given, 0), 0);
    assert_eq!(p.stat("/tmp/f").unwrap()[11], 200);
}

#[test]
fn lengths() {
    let program = program();
    let p = &program;
    p.write_file("/tmp/f", b"0123456789");
    assert_eq!(call!(p, "truncate", "/tmp/f", 4), 0);
    assert_eq!(call!(p, "truncate", "/tmp/f", 6), 0);
    assert_eq!(p.read_file("/tmp/f").unwrap(), b"0123\0\0");
    assert_eq!(call!(p, "truncate", "/tmp/f", -1), failed(Errno::EINVAL));
    assert_eq!(call!(p, "truncate", "/tmp", 0), failed(Errno::EISDIR));
    assert_eq!(call!(p, "truncate", "/dev/null", 0), failed(Errno::EINVAL));
    let fd = call!(p, "open", "/tmp/f", 0);
    assert_eq!(call!(p, "ftruncate", fd, 0), failed(Errno::EINVAL));
    p.thread.process.limits.borrow_mut()[1].0 = 8;
    assert_eq!(call!(p, "truncate", "/tmp/f", 8), 0);
    assert_eq!(call!(p, "truncate", "/tmp/f", 9), failed(Errno::EFBIG));
    let fd = call!(p, "open", "/tmp/f", 1);
    assert_eq!(call!(p, "pwrite64", fd, b"abc", 3, 6), 2);
    assert_eq!(call!(p, "pwrite64", fd, b"abc", 3, 8), failed(Errno::EFBIG));
}

#[test]
fn file_systems_are_told() {
    let program = program();
    let p = &program;
    let to = p.room(120);
    assert_eq!(call!(p, "statfs", "/tmp", to), 0);
    let of = UserAddr(to).read::<[u64; 15]>().unwrap();
    assert_eq!((of[0], of[1]), (0x0102_1994, 4096));
    let fd = call!(p, "open", "/proc", 0);
    assert_eq!(call!(p, "fstatfs", fd, to), 0);
    assert_eq!(UserAddr(to).read::<u64>().unwrap(), 0x9fa0);
    assert_eq!(call!(p, "sync"), 0);
    assert_eq!(call!(p, "syncfs", fd), 0);
    assert_eq!(call!(p, "statfs", "/nothing", to), failed(Errno::ENOENT));
}

#[test]
fn extended_attributes() {
    let program = program();
    let p = &program;
    let path = "/etc/passwd";
    assert_eq!(call!(p, "setxattr", path, "user.a", b"value", 5, 0), 0);
    assert_eq!(
        call!(p, "setxattr", path, "user.a", b"v", 1, 1),
        failed(Errno::EEXIST)
    );
    assert_eq!(
        call!(p, "setxattr", path, "user.b", b"v", 1, 2),
        failed(Errno::ENODATA)
    );
    assert_eq!(
        call!(p, "setxattr", path, "user.b", b"v", 1, 3),
        failed(Errno::EINVAL)
    );
    assert_eq!(
        call!(p, "setxattr", path, "other.b", b"v", 1, 0),
        failed(Errno::EOPNOTSUPP)
    );
    assert_eq!(
        call!(p, "setxattr", path, "", b"v", 1, 0),
        failed(Errno::ERANGE)
    );
    assert_eq!(
        call!(p, "setxattr", path, "user.b", b"v", 70_000, 0),
        failed(Errno::E2BIG)
    );
    assert_eq!(call!(p, "setxattr", path, "trusted.t", b"", 0, 0), 0);
    let to = p.room(99);
    assert_eq!(call!(p, "getxattr", path, "user.a", to, 0), 5);
    assert_eq!(
        call!(p, "getxattr", path, "user.a", to, 4),
        failed(Errno::ERANGE)
    );
    assert_eq!(call!(p, "getxattr", path, "user.a", to, 99), 5);
    assert_eq!(p.get(to, 5), b"value");
    assert_eq!(
        call!(p, "getxattr", path, "user.x", to, 99),
        failed(Errno::ENODATA)
    );
    assert_eq!(call!(p, "listxattr", path, to, 99), 17);
    assert_eq!(p.get(to, 17), b"trusted.t\0user.a\0");
    assert_eq!(
        call!(p, "lsetxattr", "/bin", "user.a", b"v", 1, 0),
        failed(Errno::EPERM)
    );
    let fd = call!(p, "open", path, 0);
    assert_eq!(call!(p, "fremovexattr", fd, "user.a"), 0);
    assert_eq!(
        call!(p, "fremovexattr", fd, "user.a"),
        failed(Errno::ENODATA)
    );
    p.become_user(1000, 1000);
    assert_eq!(call!(p, "flistxattr", fd, to, 99), 0);
    assert_eq!(
        call!(p, "setxattr", path, "user.a", b"v", 1, 0),
        failed(Errno::EACCES)
    );
    assert_eq!(
        call!(p, "setxattr", path, "security.a", b"v", 1, 0),
        failed(Errno::EPERM)
    );
}
