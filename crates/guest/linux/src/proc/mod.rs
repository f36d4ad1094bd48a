//! `/proc` and `/sys`: what programs read there about themselves and the machine.
//!
//! The files are declared in tables ([`pseudo`]) and made when they are read.

mod cpuinfo;
mod memory;
pub mod process;
pub mod pseudo;
pub mod sysctl;
pub mod sysfs;
pub mod system;
mod sysvipc;

use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;

use crate::Result;
use crate::fs::Inode;
use pseudo::{Named, Node, Sort, Subject, entry};

/// What these file systems keep.
#[derive(Debug, Default)]
pub struct State {
    oom_score_adj: Cell<i32>,
    boot_id: Cell<Option<[u8; 16]>>,
}

static ROOT: Named = entry(
    "proc",
    0o555,
    Node::Folder(system::ENTRIES, Some((list, find))),
);

fn list(_: Subject) -> Vec<Vec<u8>> {
    let processes = crate::kernel().processes.all();
    let names = processes
        .iter()
        .map(|process| format!("{}", process.pid).into_bytes());
    names.collect()
}

fn find(_: Subject, name: &[u8]) -> Option<(Subject, &'static Named)> {
    let number = pseudo::parse(name)?;
    let kernel = crate::kernel();
    let processes = &kernel.processes;
    // A thread's number leads to its process too, although it is not listed.
    let pid = match processes.process(number) {
        Some(process) => process.pid,
        None => processes.thread(number)?.process.pid,
    };
    let subject = Subject {
        pid,
        ..Subject::default()
    };
    Some((subject, &process::FOLDER))
}

/// The root of `/proc`.
pub fn root() -> Rc<dyn Inode> {
    let sort = Sort {
        device: 0x14,
        magic: 0x9fa0,
        size: 0,
    };
    pseudo::root(sort, &ROOT)
}

/// Mounts `/proc` and `/sys`.
///
/// # Errors
/// Those of mounting.
pub fn mount() -> Result {
    crate::fs::mount(b"/proc", root(), "proc", b"proc")?;
    crate::fs::mount(b"/sys", sysfs::root(), "sysfs", b"sysfs")?;
    crate::fs::mount(b"/sys/fs/cgroup", sysfs::cgroup(), "cgroup2", b"cgroup2")
}
