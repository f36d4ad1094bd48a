//! Opening, closing, `dup(2)`, `fcntl(2)`, `openat2(2)`, and reading and writing at positions.

use crate::Errno;
use crate::fs::testing::{call, failed, program};

const O_WRONLY: i32 = 1;
const O_RDWR: i32 = 2;
const O_CREAT: i32 = 0o100;
const O_EXCL: i32 = 0o200;
const O_APPEND: i32 = 0o2000;
const O_DIRECTORY: i32 = 0o200_000;
const O_NOFOLLOW: i32 = 0o400_000;
const O_CLOEXEC: i32 = 0o2_000_000;
const O_PATH: i32 = 0o10_000_000;
const O_TMPFILE: i32 = 0o20_200_000;

#[test]
fn the_lowest_free_number_is_given() {
    let program = program();
    for expected in 0..4 {
        assert_eq!(call!(program, "open", "/etc/passwd", 0), expected);
    }
    assert_eq!(call!(program, "close", 1), 0);
    assert_eq!(call!(program, "close", 1), failed(Errno::EBADF));
    assert_eq!(call!(program, "dup", 0), 1);
    assert_eq!(call!(program, "dup2", 0, 9), 9);
    assert_eq!(call!(program, "dup2", 9, 9), 9);
    assert_eq!(call!(program, "dup2", 8, 8), failed(Errno::EBADF));
    assert_eq!(call!(program, "dup3", 9, 9, 0), failed(Errno::EINVAL));
    assert_eq!(call!(program, "dup3", 9, 7, O_CLOEXEC), 7);
    assert_eq!(call!(program, "fcntl", 7, 1, 0), 1);
    assert_eq!(call!(program, "fcntl", 9, 1, 0), 0);
    assert_eq!(call!(program, "fcntl", 9, 0, 5), 5);
    assert_eq!(call!(program, "fcntl", 9, 1030, 5), 6);
    assert_eq!(call!(program, "fcntl", 6, 1, 0), 1);
    assert_eq!(call!(program, "fcntl", 6, 0, -1), failed(Errno::EINVAL));
    assert_eq!(call!(program, "close_range", 1, 8, 0), 0);
    assert_eq!(call!(program, "fcntl", 0, 1, 0), 0);
    assert_eq!(call!(program, "fcntl", 5, 1, 0), failed(Errno::EBADF));
    assert_eq!(call!(program, "close_range", 0, u32::MAX, 4), 0);
    assert_eq!(call!(program, "fcntl", 0, 1, 0), 1);
    assert_eq!(
        call!(program, "close_range", 5, 4, 0),
        failed(Errno::EINVAL)
    );
    assert_eq!(call!(program, "dup2", 0, -1), failed(Errno::EBADF));
    assert_eq!(call!(program, "dup2", 0, i32::MAX), failed(Errno::EBADF));
}

#[test]
fn flags_of_open() {
    let program = program();
    let p = &program;
    assert_eq!(
        call!(p, "open", "/etc/passwd", O_CREAT | O_EXCL),
        failed(Errno::EEXIST)
    );
    assert_eq!(
        call!(p, "open", "/bin", O_CREAT | O_EXCL),
        failed(Errno::EEXIST)
    );
    assert_eq!(call!(p, "open", "/bin", O_NOFOLLOW), failed(Errno::ELOOP));
    assert_eq!(
        call!(p, "open", "/etc/passwd", O_DIRECTORY),
        failed(Errno::ENOTDIR)
    );
    assert_eq!(call!(p, "open", "/etc", O_WRONLY), failed(Errno::EISDIR));
    assert_eq!(call!(p, "open", "/etc", O_CREAT), failed(Errno::EISDIR));
    assert_eq!(
        call!(p, "open", "/nothing/x", O_CREAT),
        failed(Errno::ENOENT)
    );
    assert_eq!(call!(p, "open", 0, 0), failed(Errno::EFAULT));
    let long = "/x".repeat(2100);
    assert_eq!(
        call!(p, "open", long.as_str(), 0),
        failed(Errno::ENAMETOOLONG)
    );
    let long = std::format!("/{}", "x".repeat(256));
    assert_eq!(
        call!(p, "open", long.as_str(), O_CREAT),
        failed(Errno::ENAMETOOLONG)
    );
    // A path is a place without content.
    assert_eq!(call!(p, "open", "/bin", O_PATH | O_NOFOLLOW), 0);
    assert_eq!(call!(p, "read", 0, p.room(1), 1), failed(Errno::EBADF));
    assert_eq!(call!(p, "readlinkat", 0, "", p.room(9), 9), 7);
    assert_eq!(call!(p, "fchmod", 0, 0o777), failed(Errno::EBADF));
    // A folder's descriptor is where relative paths start.
    assert_eq!(call!(p, "open", "/usr/share", O_DIRECTORY), 1);
    assert_eq!(call!(p, "openat", 1, "big", 0), 2);
    assert_eq!(call!(p, "openat", 2, "big", 0), failed(Errno::ENOTDIR));
    assert_eq!(call!(p, "openat", 77, "big", 0), failed(Errno::EBADF));
    assert_eq!(call!(p, "openat", 77, "/etc/passwd", 0), 3);
    assert_eq!(call!(p, "fcntl", 3, 3, 0), 0o100_000);
    assert_eq!(call!(p, "fcntl", 3, 4, O_APPEND | O_RDWR | 0o4000), 0);
    assert_eq!(call!(p, "fcntl", 3, 3, 0), 0o106_000);
}

#[test]
fn files_without_a_name_get_one_later() {
    let program = program();
    let p = &program;
    let fd = call!(p, "open", "/tmp", O_TMPFILE | O_RDWR, 0o600);
    assert_eq!(fd, 0);
    assert_eq!(
        call!(p, "open", "/tmp", O_TMPFILE, 0o600),
        failed(Errno::EINVAL)
    );
    assert_eq!(call!(p, "write", fd, b"text", 4), 4);
    assert_eq!(p.list("/tmp").len(), 2);
    assert_eq!(call!(p, "linkat", fd, "", -100, "/tmp/named", 0x1000), 0);
    assert_eq!(p.read_file("/tmp/named").unwrap(), b"text");
    assert_eq!(p.stat("/tmp/named").unwrap()[2], 1);
    // The same through /proc.
    let fd = call!(p, "open", "/tmp", O_TMPFILE | O_RDWR, 0o600);
    let link = std::format!("/proc/self/fd/{fd}");
    assert_eq!(
        call!(p, "linkat", -100, link.as_str(), -100, "/tmp/other", 0x400),
        0
    );
    assert_eq!(p.list("/tmp").len(), 4);
}

#[test]
fn files_that_were_deleted_get_no_name_again() {
    let program = program();
    let p = &program;
    let link = |fd: i64| {
        let path = std::format!("/proc/self/fd/{fd}");
        call!(p, "linkat", -100, path.as_str(), -100, "/tmp/back", 0x400)
    };
    let fd = call!(p, "open", "/tmp", O_TMPFILE | O_RDWR | 0o200, 0o600);
    assert_eq!(link(fd), failed(Errno::ENOENT), "O_EXCL");
    let fd = call!(p, "open", "/tmp/a", O_CREAT | O_RDWR, 0o600);
    assert_eq!(call!(p, "unlink", "/tmp/a"), 0);
    assert_eq!(link(fd), failed(Errno::ENOENT), "deleted");
    // One that was named is as any other.
    let fd = call!(p, "open", "/tmp", O_TMPFILE | O_RDWR, 0o600);
    assert_eq!(link(fd), 0);
    assert_eq!(call!(p, "unlink", "/tmp/back"), 0);
    assert_eq!(link(fd), failed(Errno::ENOENT));
    // Another name is enough to get one more.
    let fd = call!(p, "open", "/tmp/a", O_CREAT | O_RDWR, 0o600);
    assert_eq!(call!(p, "link", "/tmp/a", "/tmp/b"), 0);
    assert_eq!(call!(p, "unlink", "/tmp/a"), 0);
    assert_eq!(link(fd), 0);
}

#[test]
fn buffers_are_used_up_to_the_first_page_that_is_missing() {
    let program = program();
    let p = &program;
    let fd = call!(p, "open", "/tmp/file", O_CREAT | O_RDWR, 0o600);
    // The program's memory ends there.
    let edge = 0x20_0000_u64;
    crate::user::UserAddr(edge - 6)
        .write_bytes(b"012345")
        .unwrap();
    assert_eq!(call!(p, "pwrite64", fd, edge - 6, 100, 0), 6);
    assert_eq!(call!(p, "write", fd, edge - 3, 10_000), 3);
    assert_eq!(call!(p, "write", fd, edge, 10), failed(Errno::EFAULT));
    assert_eq!(p.read_file("/tmp/file").unwrap(), b"345345");
    let of = p.stat("/tmp/file").unwrap();
    assert_eq!((of[6], of[8]), (6, 8), "no pages behind the end");
    assert_eq!(call!(p, "pread64", fd, edge - 4, 100, 0), 4);
    assert_eq!(p.get(edge - 4, 4), b"3453");
    assert_eq!(call!(p, "read", fd, edge - 1, 100), 1);
    assert_eq!(call!(p, "read", fd, edge, 1), failed(Errno::EFAULT));
    let image = call!(p, "open", "/usr/share/big", 0);
    assert_eq!(call!(p, "read", image, edge - 5000, 9000), 5000);
    // What a pipe gives is not lost.
    let ends = p.room(8);
    assert_eq!(call!(p, "pipe", ends), 0);
    let [read, write] = crate::user::UserAddr(ends).read::<[i32; 2]>().unwrap();
    assert_eq!(call!(p, "write", write, b"text", 4), 4);
    assert_eq!(call!(p, "read", read, edge - 2, 4), failed(Errno::EFAULT));
    assert_eq!(call!(p, "read", read, edge - 4, 4), 4);
}

#[test]
fn positions() {
    let program = program();
    let p = &program;
    let fd = call!(p, "open", "/tmp/file", O_CREAT | O_RDWR, 0o600);
    assert_eq!(call!(p, "write", fd, b"0123456789", 10), 10);
    let to = p.room(64);
    assert_eq!(call!(p, "read", fd, to, 10), 0);
    assert_eq!(call!(p, "lseek", fd, -4, 1), 6);
    assert_eq!(call!(p, "read", fd, to, 10), 4);
    assert_eq!(p.get(to, 4), b"6789");
    assert_eq!(call!(p, "lseek", fd, -1, 0), failed(Errno::EINVAL));
    assert_eq!(call!(p, "lseek", fd, 0, 9), failed(Errno::EINVAL));
    assert_eq!(call!(p, "lseek", fd, i64::MAX, 1), failed(Errno::EINVAL));
    assert_eq!(call!(p, "lseek", fd, 5, 2), 15);
    assert_eq!(call!(p, "write", fd, b"x", 1), 1);
    assert_eq!(call!(p, "pread64", fd, to, 64, 8), 8);
    assert_eq!(p.get(to, 8), b"89\0\0\0\0\0x");
    assert_eq!(call!(p, "pread64", fd, to, 64, -1), failed(Errno::EINVAL));
    assert_eq!(call!(p, "pread64", fd, to, 64, 1000), 0);
    assert_eq!(call!(p, "pwrite64", fd, b"AB", 2, 1), 2);
    assert_eq!(call!(p, "pread64", fd, 8, 4, 0), failed(Errno::EFAULT));
    // Vectors.
    let (one, two) = (p.room(3), p.room(100));
    let vectors = p.put(crate::user::bytes_of(&[one, 3, two, 100]));
    assert_eq!(call!(p, "preadv", fd, vectors, 2, 0, 0), 16);
    assert_eq!(
        (p.get(one, 3), p.get(two, 2)),
        (b"0AB".to_vec(), b"34".to_vec())
    );
    assert_eq!(call!(p, "preadv2", fd, vectors, 2, -1, 0, 0), 0);
    assert_eq!(
        call!(p, "preadv2", fd, vectors, 2, 0, 0, 0x100),
        failed(Errno::EOPNOTSUPP)
    );
    assert_eq!(call!(p, "readv", fd, vectors, 1025), failed(Errno::EINVAL));
    assert_eq!(call!(p, "readv", fd, vectors, -1), failed(Errno::EINVAL));
    assert_eq!(call!(p, "lseek", fd, 0, 0), 0);
    assert_eq!(call!(p, "writev", fd, vectors, 1), 3);
    assert_eq!(call!(p, "pwritev2", fd, vectors, 1, -1, 0, 0x10), 3);
    assert_eq!(call!(p, "lseek", fd, 0, 1), 19);
    // Appending ignores the position, also that of pwrite(2).
    assert_eq!(call!(p, "open", "/tmp/file", O_APPEND | O_WRONLY), 1);
    assert_eq!(call!(p, "write", 1, b"e", 1), 1);
    assert_eq!(call!(p, "pwrite64", 1, b"f", 1, 0), 1);
    assert_eq!(
        p.read_file("/tmp/file").unwrap(),
        b"0AB3456789\0\0\0\0\0x0ABef"
    );
    assert_eq!(call!(p, "read", 1, to, 1), failed(Errno::EBADF));
}

#[test]
fn data_and_holes() {
    let program = program();
    let p = &program;
    let fd = call!(p, "open", "/tmp/sparse", O_CREAT | O_RDWR, 0o600);
    assert_eq!(call!(p, "pwrite64", fd, b"a", 1, 8192), 1);
    assert_eq!(call!(p, "ftruncate", fd, 40960), 0);
    assert_eq!(call!(p, "lseek", fd, 0, 3), 8192);
    assert_eq!(call!(p, "lseek", fd, 0, 4), 0);
    assert_eq!(call!(p, "lseek", fd, 8200, 3), 8200);
    assert_eq!(call!(p, "lseek", fd, 8192, 4), 12288);
    assert_eq!(call!(p, "lseek", fd, 12288, 3), failed(Errno::ENXIO));
    assert_eq!(call!(p, "lseek", fd, 40960, 4), failed(Errno::ENXIO));
    assert_eq!(p.stat("/tmp/sparse").unwrap()[8], 8, "blocks of 512 bytes");
    // A terabyte of nothing takes no memory.
    assert_eq!(call!(p, "ftruncate", fd, 1_i64 << 40), 0);
    assert_eq!(call!(p, "lseek", fd, 0, 2), 1 << 40);
    assert_eq!(
        call!(p, "fallocate", fd, 0, 0, 1_i64 << 40),
        failed(Errno::ENOSPC)
    );
    assert_eq!(call!(p, "fallocate", fd, 3, 0, 16384), 0);
    assert_eq!(call!(p, "lseek", fd, 0, 3), failed(Errno::ENXIO));
    assert_eq!(
        call!(p, "fallocate", fd, 2, 0, 4096),
        failed(Errno::EOPNOTSUPP)
    );
    assert_eq!(call!(p, "fallocate", fd, 0, 0, 0), failed(Errno::EINVAL));
    assert_eq!(
        call!(p, "fallocate", fd, 0, i64::MAX, 1),
        failed(Errno::EFBIG)
    );
    assert_eq!(call!(p, "ftruncate", fd, 0), 0);
    assert_eq!(call!(p, "fallocate", fd, 1, 0, 10000), 0);
    assert_eq!(p.stat("/tmp/sparse").unwrap()[6], 0);
    assert_eq!(call!(p, "fallocate", fd, 0, 0, 10000), 0);
    assert_eq!(p.stat("/tmp/sparse").unwrap()[6], 10000);
}

#[test]
fn walks_are_restricted() {
    const NO_XDEV: u64 = 1;
    const NO_MAGICLINKS: u64 = 2;
    const NO_SYMLINKS: u64 = 4;
    const BENEATH: u64 = 8;
    const IN_ROOT: u64 = 0x10;
    let program = program();
    let p = &program;
    assert_eq!(call!(p, "open", "/usr", O_DIRECTORY), 0);
    let open = |path: &str, resolve: u64| {
        let how = p.put(crate::user::bytes_of(&[0_u64, 0, resolve]));
        let fd = call!(p, "openat2", 0, path, how, 24);
        if fd > 0 {
            assert_eq!(call!(p, "close", fd), 0);
            return 1;
        }
        fd
    };
    assert_eq!(open("bin/true", BENEATH), 1);
    assert_eq!(open("bin/../share/big", BENEATH), 1);
    assert_eq!(open("../etc/passwd", BENEATH), failed(Errno::EXDEV));
    assert_eq!(open("/usr/bin/true", BENEATH), failed(Errno::EXDEV));
    assert_eq!(open("../bin/true", IN_ROOT), 1);
    assert_eq!(open("/bin/true", IN_ROOT), 1);
    assert_eq!(open("/etc/passwd", IN_ROOT), failed(Errno::ENOENT));
    assert_eq!(open("/bin/true", NO_SYMLINKS), failed(Errno::ELOOP));
    assert_eq!(open("../dev", NO_XDEV), failed(Errno::EXDEV));
    assert_eq!(open("../etc", NO_XDEV), 1);
    assert_eq!(open("/proc/self/fd/0", NO_MAGICLINKS), failed(Errno::ELOOP));
    assert_eq!(open("x", BENEATH | IN_ROOT), failed(Errno::EINVAL));
    assert_eq!(open("x", 0x80), failed(Errno::EINVAL));
    let how = p.put(&[0; 32]);
    assert_eq!(call!(p, "openat2", 0, "bin", how, 8), failed(Errno::EINVAL));
    assert_eq!(call!(p, "openat2", 0, "bin", how, 32), 1);
    let how = p.put(crate::user::bytes_of(&[0_u64, 0, 0, 1]));
    assert_eq!(call!(p, "openat2", 0, "bin", how, 32), failed(Errno::E2BIG));
    let how = p.put(crate::user::bytes_of(&[0_u64, 0o600, 0]));
    assert_eq!(
        call!(p, "openat2", 0, "bin", how, 24),
        failed(Errno::EINVAL)
    );
}

#[test]
fn what_every_descriptor_answers() {
    let program = program();
    let p = &program;
    assert_eq!(call!(p, "open", "/etc/passwd", 0), 0);
    assert_eq!(call!(p, "ioctl", 0, 0x5451, 0), 0);
    assert_eq!(call!(p, "fcntl", 0, 1, 0), 1);
    assert_eq!(call!(p, "ioctl", 0, 0x5450, 0), 0);
    assert_eq!(call!(p, "fcntl", 0, 1, 0), 0);
    assert_eq!(call!(p, "ioctl", 0, 0x5421, &[1, 0, 0, 0]), 0);
    assert_eq!(call!(p, "fcntl", 0, 3, 0), 0o104_000);
    assert_eq!(
        call!(p, "ioctl", 0, 0x5401, p.room(64)),
        failed(Errno::ENOTTY)
    );
    assert_eq!(call!(p, "ioctl", 0, 0x541b, p.room(4)), 0);
    assert_eq!(call!(p, "fsync", 0), 0);
    assert_eq!(call!(p, "fdatasync", 9), failed(Errno::EBADF));
    assert_eq!(call!(p, "fcntl", 0, 8, 17), 0);
    assert_eq!(call!(p, "fcntl", 0, 9, 0), 17);
    assert_eq!(call!(p, "fcntl", 0, 4711, 0), failed(Errno::EINVAL));
    assert_eq!(call!(p, "readahead", 0, 0, 100), 0);
    assert_eq!(call!(p, "fadvise64", 0, 0, 0, 1), 0);
    assert_eq!(call!(p, "fadvise64", 0, 0, 0, 9), failed(Errno::EINVAL));
}
