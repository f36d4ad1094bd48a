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
