//! System calls without a trap.
//!
//! A call by a trap costs some hundred times what it costs from a *stub*: a few instructions in reach of the program's text that do what the
//! processor does for `syscall` and jump to the library OS. A place that has trapped [`AFTER`] times is changed to jump to a stub of its own, if
//! it has one of the shapes of [`callsite`](crate::callsite). Nothing else ever causes a change: that the place was executed is what makes its
//! instructions known.
//!
//! Only text of files that the program can neither write nor share is changed, and it gets its bytes back before it becomes writable. What is
//! unmapped or replaced is forgotten ([`forget`]). Stubs lie in *arenas*, ranges that the address space keeps for them within a gigabyte of
//! the text, and are never used twice: a thread may come back to one at any time.
//!
//! A thread that is interrupted in a stub is moved to where it stands in the program's own terms ([`leave_stub`]), so that no signal frame
//! ever shows a stub.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;

use kiln_abi::trap::TrapFrame;

use super::{OneCpu, copy, entry};
use crate::callsite::{self, BEFORE, BEHIND, STUB, Shape, Site};
use crate::platform::{self, Access, Backing};
use crate::process::{Registers, Thread};
use crate::user::PAGE;

/// A place is changed when it traps for this time: a change costs about as much as this many traps.
const AFTER: u32 = 6;
/// Bytes of an arena.
const ARENA: u64 = 64 * 1024;
/// How far from the text it may lie; a jump reaches twice as far.
const REACH: u64 = 1 << 30;
/// More arenas than this are not made.
const MOST_ARENAS: usize = 64;
/// Places whose traps are counted at the same time.
const COUNTED: usize = 256;
/// Stubs of an arena.
const STUBS: usize = ARENA as usize / STUB;

struct Arena {
    start: u64,
    /// The `syscall` that each stub is for; 0 if it is unused. The first is in use: it holds the entry's address.
    stubs: Vec<u64>,
    /// Stubs in use of each page.
    pages: [u16; (ARENA / PAGE) as usize],
}

struct Patches {
    /// By the address of the `syscall`.
    sites: BTreeMap<u64, Site>,
    arenas: Vec<Arena>,
    /// How often places have trapped, found by their address; more than [`AFTER`] times if they cannot be changed.
    counts: [(u64, u32); COUNTED],
}

static PATCHES: OneCpu<Patches> = OneCpu::new(Patches {
    sites: BTreeMap::new(),
    arenas: Vec::new(),
    counts: [(0, 0); COUNTED],
});

fn patches() -> &'static mut Patches {
    // SAFETY: one CPU, and no function here calls another while it holds what this gives.
    unsafe { &mut *PATCHES.get() }
}

/// Changes the place that a call has come from, if it came by a trap and that is worth it.
pub(super) fn look(thread: &Rc<Thread>, registers: *const Registers) {
    static SEEN: OneCpu<u64> = OneCpu::new(0);
    // SAFETY: one CPU; the registers are the thread's.
    unsafe {
        let trapped = (*super::cpu()).trapped;
        if trapped != *SEEN.get() {
            *SEEN.get() = trapped;
            self::trapped(thread, &*registers);
        }
    }
}

fn trapped(thread: &Rc<Thread>, registers: &Registers) {
    let syscall = registers.rip.wrapping_sub(callsite::SYSCALL);
    let slot = &mut patches().counts[(syscall as usize / 2) % COUNTED];
    if slot.0 != syscall {
        *slot = (syscall, 0);
    }
    slot.1 = slot.1.saturating_add(1);
    if slot.1 == AFTER {
        // What cannot be done now is not tried again: the place goes on to trap.
        let _ = change(thread, syscall, registers.orig_rax);
    }
}

fn change(thread: &Rc<Thread>, syscall: u64, number: u64) -> Option<()> {
    if patches().sites.contains_key(&syscall) || arena_of(syscall).is_some() {
        return None;
    }
    let (start, end) = thread.process.memory.fixed_text(syscall)?;
    let mut before = [0; BEFORE];
    let from = syscall
        .checked_sub(BEFORE as u64)
        .filter(|&from| from >= start)?;
    copy::copy_in(from, &mut before).ok()?;
    let mut behind = [0; 2 + BEHIND];
    let there = (end - syscall).min(behind.len() as u64) as usize;
    let behind = behind.get_mut(..there)?;
    copy::copy_in(syscall, behind).ok()?;
    let behind = behind.strip_prefix(&[0x0f, 0x05])?;
    let shape = callsite::recognize(&before, behind, number)?;
    let site = Site {
        syscall,
        shape,
        stub: 0,
    };
    if overlaps(site.start(), site.end()) {
        return None;
    }
    let site = place(thread, site)?;
    let entry = arena_of(site.stub)?;
    let code = site.code(entry)?;
    let (jump, len) = site.jump()?;
    let text = pages(site.start(), site.end());
    let stubs = pages(site.stub, site.stub + STUB as u64);
    let write = Access::READ | Access::WRITE;
    let execute = Access::READ | Access::EXEC;
    if platform::protect_both([text, stubs], write).is_err() {
        // One of them may have been changed.
        let _ = platform::protect_both([text, stubs], execute);
        return None;
    }
    let written = copy::copy_out(site.stub, &code)
        .and_then(|()| copy::copy_out(site.start(), jump.get(..len).unwrap_or(&[])));
    if written.is_ok() {
        patches().sites.insert(syscall, site);
    }
    // Taking back what was just allowed needs nothing that could be missing.
    let back = platform::protect_both([text, stubs], execute);
    assert!(back.is_ok(), "text stays executable");
    Some(())
}

/// Whole pages around a range.
fn pages(start: u64, end: u64) -> (u64, u64) {
    let first = start & !(PAGE - 1);
    (first, end.next_multiple_of(PAGE) - first)
}

/// True if a place that was changed lies there.
fn overlaps(start: u64, end: u64) -> bool {
    let near = patches().sites.range(start.saturating_sub(32)..end + 32);
    near.into_iter()
        .any(|(_, site)| site.start() < end && start < site.end() + callsite::SYSCALL)
}

/// Start of the arena that an address lies in.
fn arena_of(at: u64) -> Option<u64> {
    let mut arenas = patches().arenas.iter();
    arenas
        .find(|arena| (arena.start..arena.start + ARENA).contains(&at))
        .map(|arena| arena.start)
}

/// Finds a place for the site's stub.
fn place(thread: &Rc<Thread>, site: Site) -> Option<Site> {
    let in_reach = |arena: &&mut Arena| arena.start.abs_diff(site.syscall) < 2 * REACH - 2 * ARENA;
    for arena in patches().arenas.iter_mut().filter(in_reach) {
        if let Some(site) = arena.take(site) {
            return Some(site);
        }
    }
    let arena = Arena::new(thread, site.syscall)?;
    let arenas = &mut patches().arenas;
    arenas.push(arena);
    arenas.last_mut()?.take(site)
}

impl Arena {
    fn new(thread: &Rc<Thread>, near: u64) -> Option<Self> {
        if patches().arenas.len() >= MOST_ARENAS {
            return None;
        }
        let memory = &thread.process.memory;
        let start = memory.reserve_near(near, REACH, ARENA).ok()?;
        platform::map(start, ARENA, Access::READ | Access::WRITE, Backing::Zero).ok()?;
        copy::copy_out(start, &entry::address().to_le_bytes()).ok()?;
        platform::protect(start, ARENA, Access::READ | Access::EXEC).ok()?;
        let mut stubs = alloc::vec![0; STUBS];
        *stubs.first_mut()? = u64::MAX;
        let mut pages = [0; (ARENA / PAGE) as usize];
        *pages.first_mut()? = 1;
        Some(Self {
            start,
            stubs,
            pages,
        })
    }

    /// Takes a stub that fits, in a page that is in use already if there is one.
    fn take(&mut self, site: Site) -> Option<Site> {
        const EACH: usize = PAGE as usize / STUB;
        for used in [true, false] {
            for (page, stubs) in self.stubs.chunks_mut(EACH).enumerate() {
                let count = self.pages.get_mut(page)?;
                if (*count > 0) != used {
                    continue;
                }
                for (index, stub) in stubs.iter_mut().enumerate().filter(|(_, stub)| **stub == 0) {
                    let at = self.start + ((page * EACH + index) * STUB) as u64;
                    let site = Site { stub: at, ..site };
                    if site.fits() {
                        *stub = site.syscall;
                        *count += 1;
                        return Some(site);
                    }
                }
            }
        }
        None
    }
}

/// The site whose stub an address lies in.
fn site_of_stub(at: u64) -> Option<Site> {
    let patches = patches();
    let inside = |arena: &&Arena| (arena.start..arena.start + ARENA).contains(&at);
    let arena = patches.arenas.iter().find(inside)?;
    let syscall = *arena.stubs.get((at - arena.start) as usize / STUB)?;
    patches.sites.get(&syscall).copied()
}

/// Moves registers that stand in a stub to the place in the program that corresponds; true if they did.
pub(super) fn leave_stub(registers: &mut Registers) -> bool {
    let found = site_of_stub(registers.rip);
    if let Some(site) = found {
        registers.rip = site.outside(registers.rip);
    }
    found.is_some()
}

/// The other way round, where the program's own place is not what it was.
pub(super) fn enter_stub(thread: &Rc<Thread>) {
    let mut registers = thread.registers.get();
    if let Some(rest) = rest_of(registers.rip) {
        registers.rip = rest;
        thread.registers.set(registers);
    }
}

/// Where the instruction is now that was at `at`.
fn rest_of(at: u64) -> Option<u64> {
    let syscall = at.checked_sub(callsite::SYSCALL)?;
    patches().sites.get(&syscall)?.rest()
}

/// If the program has jumped into the middle of a changed place, goes on where that was meant to lead.
pub(super) fn resume(thread: &Rc<Thread>, frame: &TrapFrame) -> bool {
    const BREAKPOINT: u32 = 3;
    let at = frame
        .rip
        .wrapping_sub(u64::from(frame.vector == BREAKPOINT));
    let Some(rest) = rest_of(at) else {
        return false;
    };
    let mut registers = thread.registers.get();
    registers.rip = rest;
    thread.registers.set(registers);
    true
}

/// What is about to happen to pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// They go, or hold something else afterwards.
    Gone,
    /// They keep what they hold, but may be looked at or written to.
    Seen,
}

/// Forgets what was changed in a range, before it changes itself.
pub(crate) fn forget(at: u64, len: u64, change: Change) {
    let end = at.saturating_add(len);
    if patches().sites.is_empty() {
        return;
    }
    let arena_gone = |arena: &Arena| arena.start < end && at < arena.start + ARENA;
    let arenas: Vec<u64> = {
        let gone = patches().arenas.iter().filter(|arena| arena_gone(arena));
        gone.map(|arena| arena.start).collect()
    };
    if change == Change::Gone {
        for start in arenas {
            // The address space is being cleared: their text goes too.
            let sites = &mut patches().sites;
            sites.retain(|_, site| !(start..start + ARENA).contains(&site.stub));
            patches().arenas.retain(|arena| arena.start != start);
        }
    }
    let near: Vec<Site> = {
        let near = patches()
            .sites
            .range(at.saturating_sub(32)..end.saturating_add(32));
        let near = near.map(|(_, site)| *site);
        near.filter(|site| site.start() < end && at < site.end())
            .collect()
    };
    for site in near {
        if change == Change::Seen {
            restore(&site);
        }
        // The stub stays as it is for those who are still to come back to it.
        patches().sites.remove(&site.syscall);
        let slot = &mut patches().counts[(site.syscall as usize / 2) % COUNTED];
        *slot = (0, 0);
    }
}

/// Gives a place its own bytes back.
fn restore(site: &Site) {
    let text = pages(site.start(), site.end());
    let (original, len) = site.original();
    let write = Access::READ | Access::WRITE;
    if platform::protect_both([text, text], write).is_ok() {
        let _ = copy::copy_out(site.start(), original.get(..len).unwrap_or(&[]));
        let execute = Access::READ | Access::EXEC;
        let _ = platform::protect_both([text, text], execute);
    }
}

/// Calls that came by a trap, from a stub, and places that were changed, of either shape.
pub fn counters() -> [u64; 4] {
    // SAFETY: one CPU.
    let (trapped, direct) = unsafe { ((*super::cpu()).trapped, (*super::cpu()).direct) };
    let sites = patches().sites.values();
    let numbers = sites.filter(|site| matches!(site.shape, Shape::Number { .. }));
    let numbers = numbers.count() as u64;
    [
        trapped,
        direct,
        numbers,
        patches().sites.len() as u64 - numbers,
    ]
}
