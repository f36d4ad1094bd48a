//! The folder `/dev`.

use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;

use super::{number, pty};
use crate::Result;
use crate::fs::tmpfs::Tmpfs;
use crate::fs::{Inode, Kind, NewInode};
use crate::proc::pseudo::{self, Named, Node, Sort, Subject, entry, parse};

/// `/dev/null`
pub const NULL: u64 = number(1, 3);
/// `/dev/zero`
pub const ZERO: u64 = number(1, 5);
/// `/dev/full`
pub const FULL: u64 = number(1, 7);
/// `/dev/random`
pub const RANDOM: u64 = number(1, 8);
/// `/dev/urandom`
pub const URANDOM: u64 = number(1, 9);
/// `/dev/kmsg`
pub const KMSG: u64 = number(1, 11);
/// `/dev/tty`: the controlling terminal.
pub const TTY: u64 = number(5, 0);
/// `/dev/console`
pub const CONSOLE: u64 = number(5, 1);
/// `/dev/ptmx`
pub const PTMX: u64 = number(5, 2);
/// The console's other stream, which Linux does not have: standard error output.
pub const ERROR: u64 = number(240, 2);

/// The major number of pseudo-terminals.
pub const PTS_MAJOR: u64 = 136;

/// Bytes that files in `/dev` may have, in pages.
const LIMIT: u64 = 16;

const DEVICES: &[(&str, u32, u64)] = &[
    ("null", 0o666, NULL),
    ("zero", 0o666, ZERO),
    ("full", 0o666, FULL),
    ("random", 0o666, RANDOM),
    ("urandom", 0o666, URANDOM),
    ("kmsg", 0o644, KMSG),
    ("tty", 0o666, TTY),
    ("console", 0o600, CONSOLE),
    ("ptmx", 0o666, PTMX),
];

const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

const FOLDERS: &[(&str, u32)] = &[("shm", 0o1777), ("pts", 0o755), ("mqueue", 0o1777)];

/// A new `/dev`: programs may add to it (`syslog(3)` has its socket there).
///
/// # Errors
/// `ENOSPC`.
pub fn root() -> Result<Rc<dyn Inode>> {
    let root = Tmpfs::empty(LIMIT, 0o755);
    let add = |name: &str, kind, mode, rdev, target: &str| {
        let new = NewInode {
            kind,
            mode,
            uid: 0,
            gid: 0,
            rdev,
            target: target.as_bytes(),
        };
        root.create(name.as_bytes(), &new).map(drop)
    };
    for &(name, mode, rdev) in DEVICES {
        add(name, Kind::Character, mode, rdev, "")?;
    }
    for &(name, target) in LINKS {
        add(name, Kind::Link, 0o777, 0, target)?;
    }
    for &(name, mode) in FOLDERS {
        add(name, Kind::Directory, mode, 0, "")?;
    }
    Ok(root)
}

static TERMINALS: Named = entry(
    "pts",
    0o755,
    Node::Folder(
        &[entry("ptmx", 0o666, Node::Device(Kind::Character, PTMX))],
        Some((list, find)),
    ),
);
static TERMINAL: Named = entry("N", 0o620, Node::Numbered(Kind::Character, PTS_MAJOR));

fn list(_: Subject) -> Vec<Vec<u8>> {
    let numbers = pty::numbers();
    let names = numbers
        .iter()
        .map(|number| format!("{number}").into_bytes());
    names.collect()
}

fn find(subject: Subject, name: &[u8]) -> Option<(Subject, &'static Named)> {
    let number = parse(name).filter(|number| pty::numbers().contains(number))?;
    let number = i32::try_from(number).ok()?;
    Some((Subject { number, ..subject }, &TERMINAL))
}

/// `/dev/pts`
pub fn terminals() -> Rc<dyn Inode> {
    let sort = Sort {
        device: 0x17,
        magic: 0x1cd1,
        size: 0,
    };
    pseudo::root(sort, &TERMINALS)
}
