//! Files of `/proc/PID` about its memory: `maps`, `smaps`, `auxv`.

use alloc::rc::Rc;

use super::pseudo::{Subject, Text};
use crate::mm::area::{AreaFlags, Region};
use crate::platform::Access;
use crate::process::Thread;
use crate::{Result, put};

/// What `/proc/PID/stat` and its kin tell of memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sizes {
    pub size: u64,
    pub resident: u64,
    pub peak: u64,
    pub text: u64,
    pub data: u64,
    pub stack: u64,
    pub locked: u64,
}

pub(super) fn sizes(subject: Subject) -> Result<Sizes> {
    let process = subject.process()?;
    let totals = process.memory.totals();
    Ok(Sizes {
        size: totals.size,
        resident: process.memory.resident(),
        peak: process.memory.peak(),
        text: totals.text,
        data: totals.data,
        stack: totals.stack,
        locked: totals.locked,
    })
}

/// The first line of a region, as in `proc_pid_maps(5)`.
fn line(region: &Region, text: &mut Text) {
    let flag = |on: bool, letter: char| if on { letter } else { '-' };
    let start = text.0.len();
    put!(
        text,
        "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {}",
        region.start,
        region.end,
        flag(region.access.contains(Access::READ), 'r'),
        flag(region.access.contains(Access::WRITE), 'w'),
        flag(region.access.contains(Access::EXEC), 'x'),
        if region.flags.contains(AreaFlags::SHARED) {
            's'
        } else {
            'p'
        },
        region.offset,
        region.device >> 8 & 0xfff,
        region.device & 0xff,
        region.inode
    );
    if !region.name.is_empty() {
        let len = text.0.len() - start;
        put!(text, "{:1$}", "", 73_usize.saturating_sub(len).max(1));
        for &byte in &*region.name {
            match byte {
                b'\n' => put!(text, "\\012"),
                _ => text.bytes(&[byte]),
            }
        }
    }
    put!(text, "\n");
}

/// `maps`
pub(super) fn maps(_: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    for region in subject.process()?.memory.regions() {
        line(&region, text);
    }
    Ok(())
}

/// The numbers of `smaps`, in the order in which Linux has them. What is present is the host's secret: what may be used counts as present.
fn numbers(size: u64, present: u64, dirty: u64, anonymous: u64, locked: u64, text: &mut Text) {
    for (name, bytes) in [
        ("Rss", present),
        ("Pss", present),
        ("Pss_Dirty", dirty),
        ("Shared_Clean", 0),
        ("Shared_Dirty", 0),
        ("Private_Clean", present.saturating_sub(dirty)),
        ("Private_Dirty", dirty),
        ("Referenced", present),
        ("Anonymous", anonymous),
        ("LazyFree", 0),
        ("AnonHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FilePmdMapped", 0),
        ("Shared_Hugetlb", 0),
        ("Private_Hugetlb", 0),
        ("Swap", 0),
        ("SwapPss", 0),
        ("Locked", locked.min(size)),
    ] {
        let colon = 16_usize.saturating_sub(name.len() + 1);
        put!(text, "{name}:{:colon$}{:8} kB\n", "", bytes / 1024);
    }
}

/// What of a region may be present at most.
fn present(region: &Region) -> u64 {
    if region.access.is_empty() || region.flags.contains(AreaFlags::NORESERVE) {
        0
    } else {
        region.end - region.start
    }
}

/// `smaps`
pub(super) fn smaps(_: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    for region in subject.process()?.memory.regions() {
        line(&region, text);
        let size = region.end - region.start;
        put!(
            text,
            "Size:           {:8} kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 kB\n",
            size / 1024
        );
        let present = present(&region);
        let dirty = if region.access.contains(Access::WRITE) {
            present
        } else {
            0
        };
        let anonymous = if region.anonymous { present } else { 0 };
        let locked = if region.flags.contains(AreaFlags::LOCKED) {
            size
        } else {
            0
        };
        numbers(size, present, dirty, anonymous, locked, text);
        put!(text, "THPeligible:           0\nVmFlags:");
        for (on, name) in [
            (region.access.contains(Access::READ), "rd"),
            (region.access.contains(Access::WRITE), "wr"),
            (region.access.contains(Access::EXEC), "ex"),
            (region.flags.contains(AreaFlags::SHARED), "sh"),
            (true, "mr"),
            (true, "mw"),
            (true, "me"),
            (region.flags.contains(AreaFlags::GROWS_DOWN), "gd"),
            (region.flags.contains(AreaFlags::LOCKED), "lo"),
            (region.flags.contains(AreaFlags::DONT_FORK), "dc"),
            (region.flags.contains(AreaFlags::NORESERVE), "nr"),
            (region.flags.contains(AreaFlags::WIPE_ON_FORK), "wf"),
            (region.flags.contains(AreaFlags::DONT_DUMP), "dd"),
            (region.flags.contains(AreaFlags::HUGE), "hg"),
        ] {
            if on {
                put!(text, " {name}");
            }
        }
        put!(text, " \n");
    }
    Ok(())
}

/// `smaps_rollup`
pub(super) fn smaps_rollup(_: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    let sizes = sizes(subject)?;
    let regions = subject.process()?.memory.regions();
    let start = regions.first().map_or(0, |region| region.start);
    let end = regions.last().map_or(0, |region| region.end);
    put!(
        text,
        "{start:08x}-{end:08x} ---p 00000000 00:00 0                          [rollup]\n"
    );
    numbers(
        sizes.size,
        sizes.resident,
        sizes.resident,
        sizes.resident,
        sizes.locked,
        text,
    );
    Ok(())
}

/// `auxv`
pub(super) fn auxv(_: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    for word in subject.process()?.memory.layout().auxv {
        text.bytes(&word.to_ne_bytes());
    }
    Ok(())
}
