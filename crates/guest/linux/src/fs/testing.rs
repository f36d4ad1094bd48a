//! A program for tests: it makes calls as a real one does, with addresses and numbers.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;

use kiln_fs::erofs::{Meta, Source, Tree};

use crate::platform::{Access, Backing, map, pretend};
use crate::process::Thread;
use crate::syscalls::{Args, perform};
use crate::user::UserAddr;

/// Where its memory lies.
const MEMORY: u64 = 0x10_0000;
const LEN: u64 = 0x10_0000;

/// A program.
pub struct Program {
    /// Its thread.
    pub thread: Rc<Thread>,
    next: Cell<u64>,
}

/// Something that a call takes.
pub enum Arg<'a> {
    /// A number, or an address.
    N(i64),
    /// A string, ended by a NUL.
    S(&'a [u8]),
    /// Bytes.
    B(&'a [u8]),
}

impl From<i64> for Arg<'_> {
    fn from(n: i64) -> Self {
        Arg::N(n)
    }
}

impl From<i32> for Arg<'_> {
    fn from(n: i32) -> Self {
        Arg::N(i64::from(n))
    }
}

impl From<u32> for Arg<'_> {
    fn from(n: u32) -> Self {
        Arg::N(i64::from(n))
    }
}

impl From<u64> for Arg<'_> {
    fn from(n: u64) -> Self {
        Arg::N(n.cast_signed())
    }
}

impl From<usize> for Arg<'_> {
    fn from(n: usize) -> Self {
        Arg::N(n as i64)
    }
}

impl<'a> From<&'a str> for Arg<'a> {
    fn from(s: &'a str) -> Self {
        Arg::S(s.as_bytes())
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Arg<'a> {
    fn from(b: &'a [u8; N]) -> Self {
        Arg::B(b)
    }
}

impl<'a> From<&'a [u8]> for Arg<'a> {
    fn from(b: &'a [u8]) -> Self {
        Arg::B(b)
    }
}

/// Makes a call: `call!(program, "open", "/etc/passwd", 0)`. The result is as in the register.
macro_rules! call {
    ($program:expr, $name:literal $(, $arg:expr)* $(,)?) => {
        $program.call($name, &[$($crate::fs::testing::Arg::from($arg)),*])
    };
}
pub(crate) use call;

/// What a call answers when it fails.
pub fn failed(error: crate::Errno) -> i64 {
    error.to_register().cast_signed()
}

/// A root image as distributions have it, small.
pub fn image() -> Vec<u8> {
    let mut tree = Tree::new(Meta::new(0o755));
    let mut file = |path: &[u8], mode, content: &[u8]| {
        tree.file(path, Meta::new(mode), Source::Bytes(content.to_vec()))
            .unwrap();
    };
    file(b"/etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
    file(b"/etc/shadow", 0o600, b"root:*\n");
    file(b"/usr/bin/true", 0o755, b"\x7fELF");
    let big: Vec<u8> = (0..20_000_u32).map(|n| (n % 251) as u8).collect();
    file(b"/usr/share/big", 0o644, &big);
    for n in 0..300 {
        let path = alloc::format!("/usr/share/many/file-{n:03}");
        file(path.as_bytes(), 0o644, path.as_bytes());
    }
    tree.symlink(b"/bin", Meta::new(0o777), b"usr/bin").unwrap();
    tree.symlink(b"/etc/mtab", Meta::new(0o777), b"/proc/self/mounts")
        .unwrap();
    tree.symlink(b"/loop", Meta::new(0o777), b"loop").unwrap();
    tree.directory(b"/root", Meta::new(0o700)).unwrap();
    tree.hard_link(b"/usr/bin/false", b"/usr/bin/true").unwrap();
    tree.to_bytes().unwrap()
}

/// A program of the superuser on a machine with the root image of [`image`].
pub fn program() -> Program {
    program_on(image())
}

/// The same with another root image.
pub fn program_on(image: Vec<u8>) -> Program {
    pretend::reset();
    pretend::set_root_image(image);
    super::start().unwrap();
    let thread = crate::kernel().processes.first();
    map(MEMORY, LEN, Access::READ | Access::WRITE, Backing::Zero).unwrap();
    Program {
        thread,
        next: Cell::new(MEMORY),
    }
}

impl Program {
    /// Some memory of the program's.
    pub fn room(&self, len: usize) -> u64 {
        let mut at = self.next.get();
        if at + len as u64 > MEMORY + LEN {
            at = MEMORY;
        }
        self.next.set((at + len as u64).next_multiple_of(64));
        at
    }

    /// Puts bytes into its memory.
    pub fn put(&self, bytes: &[u8]) -> u64 {
        let at = self.room(bytes.len());
        UserAddr(at).write_bytes(bytes).unwrap();
        at
    }

    /// Bytes of its memory.
    pub fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = alloc::vec![0; len];
        UserAddr(at).read_bytes(&mut bytes).unwrap();
        bytes
    }

    /// Makes a call by its name.
    pub fn call(&self, name: &str, args: &[Arg]) -> i64 {
        let call = crate::syscalls::table::all().find(|call| call.name == name);
        let number = call.unwrap_or_else(|| panic!("no call {name}")).number;
        let mut words = [0; 6];
        for (word, arg) in words.iter_mut().zip(args) {
            *word = match arg {
                Arg::N(n) => n.cast_unsigned(),
                Arg::B(bytes) => self.put(bytes),
                Arg::S(text) => self.put(&[text, &b"\0"[..]].concat()),
            };
        }
        perform(&self.thread, u64::from(number), Args(words)).cast_signed()
    }

    /// Reads a file from its start to its end.
    pub fn read_file(&self, path: &str) -> Result<Vec<u8>, i64> {
        let fd = call!(self, "open", path, 0);
        if fd < 0 {
            return Err(fd);
        }
        let mut all = Vec::new();
        loop {
            let to = self.room(5000);
            let read = call!(self, "read", fd, to, 5000);
            if read < 0 {
                return Err(read);
            }
            if read == 0 {
                break;
            }
            all.extend(self.get(to, read as usize));
        }
        assert_eq!(call!(self, "close", fd), 0);
        Ok(all)
    }

    /// Makes a file with this content.
    pub fn write_file(&self, path: &str, content: &[u8]) -> i64 {
        let fd = call!(self, "creat", path, 0o644);
        if fd < 0 {
            return fd;
        }
        let written = call!(self, "write", fd, content, content.len());
        assert_eq!(call!(self, "close", fd), 0);
        written
    }

    /// The names in a folder, with the kinds that `getdents64(2)` tells, in their order.
    pub fn list(&self, path: &str) -> Vec<(Vec<u8>, u8)> {
        let fd = call!(self, "open", path, 0o200_000);
        assert!(fd >= 0, "open {path}: {fd}");
        let mut all = Vec::new();
        loop {
            let to = self.room(700);
            let len = call!(self, "getdents64", fd, to, 700);
            assert!(len >= 0, "getdents64 {path}: {len}");
            if len == 0 {
                break;
            }
            let bytes = self.get(to, len as usize);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let record = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
                let name = &rest[19..record];
                let end = name.iter().position(|&b| b == 0).unwrap();
                all.push((name[..end].to_vec(), rest[18]));
                rest = &rest[record..];
            }
        }
        assert_eq!(call!(self, "close", fd), 0);
        all
    }

    /// `struct stat` of a path, or the error.
    pub fn stat(&self, path: &str) -> Result<[u64; 18], i64> {
        let to = self.room(144);
        match call!(self, "lstat", path, to) {
            0 => Ok(UserAddr(to).read().unwrap()),
            error => Err(error),
        }
    }

    /// Makes the program another user's.
    pub fn become_user(&self, uid: u32, gid: u32) {
        *self.thread.process.credentials.borrow_mut() = crate::process::Credentials::new(uid, gid);
    }
}
