//! Files in memory: seals, and the pages that are mapped.

use alloc::rc::Rc;

use crate::Errno;
use crate::fs::Mapped;
use crate::fs::testing::{call, failed, program};

#[test]
fn memory_files_and_seals() {
    let program = program();
    let p = &program;
    let fd = call!(p, "memfd_create", "name", 2 | 1);
    assert_eq!(call!(p, "fcntl", fd, 1, 0), 1);
    let to = p.room(99);
    assert_eq!(call!(p, "readlink", "/proc/self/fd/0", to, 99), 21);
    assert_eq!(p.get(to, 21), b"/memfd:name (deleted)");
    assert_eq!(call!(p, "write", fd, b"0123", 4), 4);
    assert_eq!(call!(p, "fcntl", fd, 1033, 2 | 4), 0);
    assert_eq!(call!(p, "fcntl", fd, 1034, 0), 6);
    assert_eq!(call!(p, "ftruncate", fd, 1), failed(Errno::EPERM));
    assert_eq!(call!(p, "ftruncate", fd, 9), failed(Errno::EPERM));
    assert_eq!(call!(p, "pwrite64", fd, b"ab", 2, 3), failed(Errno::EPERM));
    assert_eq!(call!(p, "pwrite64", fd, b"ab", 2, 2), 2);
    assert_eq!(call!(p, "fcntl", fd, 1033, 8 | 1), 0);
    assert_eq!(call!(p, "pwrite64", fd, b"ab", 2, 2), failed(Errno::EPERM));
    assert_eq!(call!(p, "fcntl", fd, 1033, 8), failed(Errno::EPERM));
    assert_eq!(call!(p, "fcntl", fd, 1033, 0x100), failed(Errno::EINVAL));
    let fd = call!(p, "memfd_create", "name", 0);
    assert_eq!(call!(p, "fcntl", fd, 1033, 2), failed(Errno::EPERM));
    let long = "x".repeat(250);
    assert_eq!(
        call!(p, "memfd_create", long.as_str(), 0),
        failed(Errno::EINVAL)
    );
    assert_eq!(call!(p, "memfd_create", "x", 0x100), failed(Errno::EINVAL));
}

#[test]
fn seals_hold_for_mappings() {
    let program = program();
    let p = &program;
    let map = |access, flags, fd| call!(p, "mmap", 0, 4096, access, flags, fd, 0);
    let memory_file = || {
        let fd = call!(p, "memfd_create", "name", 2);
        assert_eq!(call!(p, "ftruncate", fd, 4096), 0);
        fd
    };
    for seal in [8, 0x10] {
        let fd = memory_file();
        let before = map(3, 1, fd);
        assert!(before > 0);
        // One that may be made writable counts as well, a private one does not.
        assert_eq!(call!(p, "mprotect", before, 4096, 1), 0);
        assert!(map(3, 2, fd) > 0);
        if seal == 8 {
            assert_eq!(call!(p, "fcntl", fd, 1033, 8), failed(Errno::EBUSY));
            assert_eq!(call!(p, "munmap", before, 4096), 0);
        }
        assert_eq!(call!(p, "fcntl", fd, 1033, seal), 0);
        if seal != 8 {
            assert_eq!(call!(p, "mprotect", before, 4096, 3), 0, "it was there");
        }
        assert_eq!(map(3, 1, fd), failed(Errno::EPERM));
        let shared = map(1, 1, fd);
        assert!(shared > 0);
        assert_eq!(call!(p, "mprotect", shared, 4096, 3), failed(Errno::EACCES));
        assert!(map(3, 2, fd) > 0, "a private one is its own");
    }
    // Who can only read cannot write through a mapping, nor seal.
    let fd = memory_file();
    let path = std::format!("/proc/self/fd/{fd}");
    let reader = call!(p, "open", path.as_str(), 0);
    assert!(map(1, 1, reader) > 0);
    assert_eq!(call!(p, "fcntl", reader, 1033, 8), failed(Errno::EPERM));
    assert_eq!(call!(p, "fcntl", fd, 1033, 8), 0);
}

#[test]
fn pages_stay_while_they_are_mapped() {
    let program = program();
    let p = &program;
    let fd = call!(p, "memfd_create", "name", 0);
    let open = p.thread.process.files.get(fd as i32).unwrap();
    let Ok(Mapped::Pages(pages)) = open.file.map(true) else {
        panic!("no pages");
    };
    assert_eq!(pages.run(0, 1).unwrap_err(), Errno::ENXIO, "behind the end");
    assert_eq!(call!(p, "ftruncate", fd, 20_000), 0);
    let run = pages.run(0, 100).unwrap();
    assert_eq!(run.pages, 5);
    assert_eq!(run.address % 4096, 0);
    let again = pages.run(2, 1).unwrap();
    assert_eq!((again.address, again.pages), (run.address + 8192, 1));
    drop(again);
    // Cut and grown again they are the same pages, empty.
    assert_eq!(call!(p, "pwrite64", fd, b"x", 1, 8192), 1);
    assert_eq!(call!(p, "ftruncate", fd, 0), 0);
    assert_eq!(pages.run(2, 1).unwrap_err(), Errno::ENXIO);
    assert_eq!(call!(p, "ftruncate", fd, 20_000), 0);
    assert_eq!(pages.run(2, 1).unwrap().address, run.address + 8192);
    let to = p.room(1);
    assert_eq!(call!(p, "pread64", fd, to, 1, 8192), 1);
    assert_eq!(p.get(to, 1), [0]);
    assert!(Rc::strong_count(&run.hold) > 1);
}

#[test]
fn what_was_never_written_is_mapped_from_the_image() {
    let program = program();
    let p = &program;
    let fd = call!(p, "open", "/usr/share/big", 2);
    let open = p.thread.process.files.get(fd as i32).unwrap();
    let Ok(Mapped::Image(offset)) = open.file.map(false) else {
        panic!("not from the image");
    };
    let image = crate::platform::root_image().unwrap();
    assert_eq!(&image[offset as usize..][..3], [0, 1, 2]);
    assert_eq!(call!(p, "pwrite64", fd, b"x", 1, 5000), 1);
    assert!(matches!(open.file.map(false), Ok(Mapped::Pages(_))));
    let fd = call!(p, "open", "/usr", 0);
    let open = p.thread.process.files.get(fd as i32).unwrap();
    assert!(matches!(open.file.map(false), Err(Errno::ENODEV)));
}
