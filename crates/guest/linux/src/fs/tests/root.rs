//! The root: an image, and what is written over it.

use crate::Errno;
use crate::fs::testing::{call, failed, program};

#[test]
fn files_of_the_image_are_read() {
    let program = program();
    assert_eq!(
        program.read_file("/etc/passwd").unwrap(),
        b"root:x:0:0:root:/root:/bin/sh\n"
    );
    let big = program.read_file("/usr/share/big").unwrap();
    assert_eq!(big.len(), 20_000);
    assert!(big.iter().enumerate().all(|(n, &b)| b == (n % 251) as u8));
    assert_eq!(program.read_file("/bin/true").unwrap(), b"\x7fELF");
    assert_eq!(program.read_file("/nothing"), Err(failed(Errno::ENOENT)));
    assert_eq!(
        program.read_file("/etc/passwd/x"),
        Err(failed(Errno::ENOTDIR))
    );
    assert_eq!(program.read_file("/loop"), Err(failed(Errno::ELOOP)));
    assert_eq!(program.read_file(""), Err(failed(Errno::ENOENT)));
}

#[test]
fn folders_are_listed_with_and_without_changes() {
    let program = program();
    let many = program.list("/usr/share/many");
    assert_eq!(many.len(), 302);
    assert_eq!(many[0].0, b".");
    assert_eq!(many[1].0, b"..");
    assert_eq!(many[2], (b"file-000".to_vec(), 8));
    assert_eq!(call!(program, "unlink", "/usr/share/many/file-000"), 0);
    assert_eq!(program.write_file("/usr/share/many/new", b"new"), 3);
    let many = program.list("/usr/share/many");
    assert_eq!(many.len(), 302);
    assert_eq!(many[301], (b"new".to_vec(), 8));
    assert_eq!(
        program.read_file("/usr/share/many/file-000"),
        Err(failed(Errno::ENOENT))
    );
    assert_eq!(
        program.read_file("/usr/share/many/file-001").unwrap(),
        b"/usr/share/many/file-001"
    );
}

#[test]
fn files_of_the_image_can_be_written() {
    let program = program();
    let before = program.stat("/usr/share/big").unwrap();
    let fd = call!(program, "open", "/usr/share/big", 2);
    assert_eq!(call!(program, "pwrite64", fd, b"abc", 3, 4095), 3);
    assert_eq!(call!(program, "close", fd), 0);
    let big = program.read_file("/usr/share/big").unwrap();
    assert_eq!(big.len(), 20_000);
    for (n, &byte) in big.iter().enumerate() {
        let expected = match n {
            4095 => b'a',
            4096 => b'b',
            4097 => b'c',
            _ => (n % 251) as u8,
        };
        assert_eq!(byte, expected, "at {n}");
    }
    let after = program.stat("/usr/share/big").unwrap();
    assert_eq!(before[1], after[1], "the inode's number stays");
    assert!(after[11] > before[11], "the time of change does not");
    // Cut and grown again, the old content does not show through.
    assert_eq!(call!(program, "truncate", "/usr/share/big", 100), 0);
    assert_eq!(call!(program, "truncate", "/usr/share/big", 9000), 0);
    let big = program.read_file("/usr/share/big").unwrap();
    assert_eq!(big.len(), 9000);
    assert!(big[100..].iter().all(|&b| b == 0));
    // Hard links are one file.
    assert_eq!(program.write_file("/usr/bin/true", b"changed"), 7);
    assert_eq!(program.read_file("/usr/bin/false").unwrap(), b"changed");
    assert_eq!(program.stat("/usr/bin/false").unwrap()[2], 2);
}

#[test]
fn the_first_descriptors_and_the_working_directory() {
    let program = program();
    let to = program.room(64);
    assert_eq!(call!(program, "getcwd", to, 64), 2);
    assert_eq!(program.get(to, 2), b"/\0");
    assert_eq!(call!(program, "chdir", "/bin"), 0);
    assert_eq!(call!(program, "getcwd", to, 64), 9);
    assert_eq!(program.get(to, 9), b"/usr/bin\0");
    assert_eq!(call!(program, "getcwd", to, 8), failed(Errno::ERANGE));
    assert_eq!(program.read_file("true").unwrap(), b"\x7fELF");
    assert_eq!(
        program.read_file("../share/../bin/./true").unwrap().len(),
        4
    );
    assert_eq!(
        call!(program, "chdir", "/etc/passwd"),
        failed(Errno::ENOTDIR)
    );
    assert_eq!(call!(program, "readlink", "/bin", to, 64), 7);
    assert_eq!(program.get(to, 7), b"usr/bin");
    assert_eq!(call!(program, "readlink", "/bin", to, 3), 3);
    assert_eq!(
        call!(program, "readlink", "/etc/passwd", to, 64),
        failed(Errno::EINVAL)
    );
}
