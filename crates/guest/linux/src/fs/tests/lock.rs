//! `flock(2)` and locks on ranges.

use crate::Errno;
use crate::fs::testing::{Program, call, failed, program};
use crate::user::{UserAddr, bytes_of};

const SETLK: i32 = 6;
const GETLK: i32 = 5;
const OFD_SETLK: i32 = 37;
const OFD_SETLKW: i32 = 38;
const READ: u64 = 0;
const WRITE: u64 = 1;
const UNLOCK: u64 = 2;

fn lock(p: &Program, fd: i64, command: i32, kind: u64, start: u64, len: i64) -> i64 {
    let record = [kind, start, len.cast_unsigned(), 0];
    call!(p, "fcntl", fd, command, bytes_of(&record))
}

#[test]
fn whole_files() {
    let program = program();
    let p = &program;
    let (a, b) = (
        call!(p, "open", "/etc/passwd", 0),
        call!(p, "open", "/etc/passwd", 0),
    );
    assert_eq!(call!(p, "flock", a, 1), 0);
    assert_eq!(call!(p, "flock", b, 1 | 4), 0);
    assert_eq!(call!(p, "flock", a, 2 | 4), failed(Errno::EAGAIN));
    assert_eq!(call!(p, "flock", b, 8), 0);
    assert_eq!(call!(p, "flock", a, 2), 0);
    assert_eq!(call!(p, "flock", b, 2 | 4), failed(Errno::EAGAIN));
    // Copies of a descriptor are one owner; the lock goes with the last of them.
    let copy = call!(p, "dup", a);
    assert_eq!(call!(p, "close", a), 0);
    assert_eq!(call!(p, "flock", b, 2 | 4), failed(Errno::EAGAIN));
    assert_eq!(call!(p, "close", copy), 0);
    assert_eq!(call!(p, "flock", b, 2 | 4), 0);
    assert_eq!(call!(p, "flock", b, 7), failed(Errno::EINVAL));
}

#[test]
fn ranges_of_a_process_and_of_descriptions() {
    let program = program();
    let p = &program;
    let a = call!(p, "open", "/etc/passwd", 2);
    let b = call!(p, "open", "/etc/passwd", 2);
    assert_eq!(lock(p, a, SETLK, WRITE, 10, 10), 0);
    assert_eq!(
        lock(p, b, SETLK, WRITE, 10, 10),
        0,
        "the process has it already"
    );
    assert_eq!(lock(p, b, OFD_SETLK, READ, 15, 1), failed(Errno::EAGAIN));
    assert_eq!(lock(p, b, OFD_SETLK, READ, 20, 1), 0);
    assert_eq!(lock(p, a, SETLK, UNLOCK, 12, 4), 0);
    assert_eq!(lock(p, b, OFD_SETLK, WRITE, 12, 4), 0);
    assert_eq!(lock(p, b, OFD_SETLK, WRITE, 11, 1), failed(Errno::EAGAIN));
    // Who stands in the way?
    let record = p.put(bytes_of(&[WRITE, 0, 0, 0]));
    assert_eq!(call!(p, "fcntl", b, 36, record), 0);
    assert_eq!(
        UserAddr(record).read::<[u64; 4]>().unwrap(),
        [WRITE, 10, 2, 1]
    );
    let record = p.put(bytes_of(&[WRITE, 0, 5, 0]));
    assert_eq!(call!(p, "fcntl", a, GETLK, record), 0);
    assert_eq!(
        UserAddr(record).read::<[u64; 4]>().unwrap(),
        [UNLOCK, 0, 5, 0]
    );
    // Nobody else would end this sleep: a signal does.
    assert_eq!(
        lock(p, b, OFD_SETLKW, WRITE, 16, 1),
        failed(Errno::ERESTARTSYS)
    );
    // Closing any descriptor of the file gives up the process's locks, not those of descriptions.
    let c = call!(p, "open", "/etc/passwd", 0);
    assert_eq!(call!(p, "close", c), 0);
    assert_eq!(lock(p, b, OFD_SETLK, WRITE, 10, 2), 0);
    assert_eq!(lock(p, a, SETLK, WRITE, 20, 1), failed(Errno::EAGAIN));
    assert_eq!(call!(p, "close", b), 0);
    assert_eq!(lock(p, a, SETLK, WRITE, 20, 1), 0);
}

#[test]
fn ranges_that_are_none() {
    let program = program();
    let p = &program;
    let fd = call!(p, "open", "/etc/passwd", 0);
    assert_eq!(lock(p, fd, SETLK, WRITE, 0, 0), failed(Errno::EBADF));
    assert_eq!(lock(p, fd, SETLK, 9, 0, 0), failed(Errno::EINVAL));
    assert_eq!(
        lock(p, fd, SETLK, READ | 9 << 16, 0, 0),
        failed(Errno::EINVAL)
    );
    assert_eq!(lock(p, fd, SETLK, READ, 5, -6), failed(Errno::EINVAL));
    assert_eq!(lock(p, fd, SETLK, READ, 5, -5), 0);
    assert_eq!(
        lock(p, fd, SETLK, READ, i64::MAX as u64, 2),
        failed(Errno::EOVERFLOW)
    );
    assert_eq!(
        lock(p, fd, SETLK, READ | 1 << 16, u64::MAX, 0),
        failed(Errno::EINVAL)
    );
    assert_eq!(call!(p, "fcntl", fd, SETLK, 0), failed(Errno::EFAULT));
}
