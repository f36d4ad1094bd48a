//! The Linux program: its memory by the [`pager`](crate::pager), its system calls, and what of the guest's traps is its doing.
#![allow(unsafe_code)]

use core::arch::asm;
use core::mem::offset_of;

use kiln_abi::boot::MemoryKind;
use kiln_abi::op::{OpError, Segment};
use kiln_abi::user::{USER_END, USER_START, UserAccess, UserBacking};

use crate::cpu::{self, MAILBOX, Parts, SUPERVISOR, Supervisor};
use crate::end;
use crate::firmware::Region;
use crate::memory::{MAX_FREE, Range};
use crate::pager::frames::Frames;
use crate::pager::mappings::{Kind, Mapping};
use crate::pager::{Ground, Outcome, Pager, Want};
use crate::paging::PAGE;
use crate::reach;
use crate::state::{Slot, State};

/// The part of the guest's memory that is its library OS's, the rest being the program's: a quarter, but not less than this, or
/// a half if that is less.
const LEAST_SHARE: u64 = 32 << 20;
/// Bytes of memory for each mapping that there is room for.
const PER_MAPPING: u64 = 16 << 10;

/// What is known of the program.
#[derive(Debug)]
pub struct Program {
    /// Its memory.
    pager: Slot<Pager<'static>>,
    /// Where its system calls go, 0 for nowhere.
    calls: u64,
    /// The word that tells of ticks which came while the image's code ran.
    deferred: u64,
    /// `syscall` enters ring 0.
    rings: bool,
}

/// Physical memory by [`reach`], and this processor.
#[derive(Clone, Copy, Debug)]
pub struct Direct {
    root: u64,
}

impl Ground for Direct {
    fn load(&self, at: u64) -> u64 {
        // SAFETY: a page table, or a frame of the pool; both are mapped there, and nothing in Rust lies in them.
        unsafe { (reach::at(at) as *const u64).read_volatile() }
    }

    fn store(&mut self, at: u64, word: u64) {
        // SAFETY: as above. What the pager writes to the tables concerns the user range only, where nothing of Rust's lies.
        unsafe { (reach::at(at) as *mut u64).write_volatile(word) };
    }

    fn clear(&mut self, frame: u64) {
        // SAFETY: a frame of the pool that nobody has.
        unsafe { core::ptr::write_bytes(reach::at(frame) as *mut u8, 0, PAGE as usize) };
    }

    fn copy(&mut self, frame: u64, from: u64) {
        // SAFETY: a frame that nobody has, and a page of the root image or of free memory.
        unsafe {
            let (to, from) = (reach::at(frame) as *mut u8, reach::at(from) as *const u8);
            core::ptr::copy_nonoverlapping(from, to, PAGE as usize);
        }
    }

    fn flush_page(&mut self, address: u64) {
        cpu::flush(address);
    }

    fn flush_all(&mut self) {
        // SAFETY: the tables that are in force.
        unsafe { cpu::switch(self.root, 0) };
    }
}

/// The library OS's share of `total` bytes.
pub fn share(total: u64) -> u64 {
    (total / 4).max(LEAST_SHARE.min(total / 2)) & !(PAGE - 1)
}

/// Bytes for the list of mappings of a machine of `total` bytes.
pub fn list_size(total: u64) -> u64 {
    (total / PER_MAPPING * size_of::<Mapping>() as u64).next_multiple_of(PAGE)
}

/// Lets `syscall` be executed, and finds out what it does here: where KVM works by page tables and runs ring 3 only, it stays there.
///
/// # Safety
/// Called once, at the start, while all memory is mapped for ring 3 and everything can be executed by ring 0.
pub unsafe fn allow_system_calls(state: &mut State, parts: &Parts) {
    const EFER: u32 = 0xc000_0080;
    const STAR: u32 = 0xc000_0081;
    const LSTAR: u32 = 0xc000_0082;
    const MASK: u32 = 0xc000_0084;
    /// Trap, direction, nested task and alignment check.
    const MASKED: u64 = 1 << 8 | 1 << 10 | 1 << 14 | 1 << 18;
    /// In ring 0. Where the instruction stays in ring 3 nothing there could set the flag again, and no tick would ever come.
    const INTERRUPTS: u64 = 1 << 9;
    // `sysret` makes 0x33 and 0x2b of it.
    let selectors = 0x23 << 48 | u64::from(cpu::CODE0) << 32;
    let ring: u64;
    // SAFETY: every processor with long mode has the registers; the probe returns with its ring in `rax`.
    unsafe {
        cpu::write_msr(EFER, cpu::read_msr(EFER) | 1);
        cpu::write_msr(STAR, selectors);
        cpu::write_msr(MASK, MASKED | INTERRUPTS);
        cpu::write_msr(LSTAR, parts.probe);
        asm!("syscall", out("rax") ring, out("rcx") _, out("r11") _);
        // The lower two bits of a selector are the ring.
        state.program.rings = ring.is_multiple_of(4);
        if !state.program.rings {
            cpu::write_msr(MASK, MASKED);
        }
        cpu::write_msr(
            LSTAR,
            if state.program.rings {
                SUPERVISOR.get() as u64 + cpu::CALL_AT as u64
            } else {
                parts.system_call
            },
        );
    }
}

impl State {
    /// Gives the program its memory: `list` bytes for the list of mappings, and the pool.
    ///
    /// # Safety
    /// Called once, at the start. The memory is nobody else's, and will be mapped where [`reach`] says; `root` is the root
    /// of the page tables that will be in force, of which all tables will be mapped there too.
    pub unsafe fn give_program(
        &mut self,
        root: u64,
        (list, len): (u64, u64),
        pool: [Region; MAX_FREE],
        dirty: Region,
    ) {
        let count = len as usize / size_of::<Mapping>();
        // SAFETY: the caller's. The list is only looked at as far as it was written to.
        let list = unsafe {
            core::ptr::write_bytes(reach::at(list) as *mut u8, 0, len as usize);
            core::slice::from_raw_parts_mut(reach::at(list) as *mut Mapping, count)
        };
        let pager = Pager::new(root, list, Frames::new(pool, dirty));
        self.program.pager.fill(pager);
    }

    /// The program's memory, and what it lies in.
    ///
    /// # Errors
    /// If there is none.
    pub fn pager(&mut self) -> Result<(&mut Pager<'static>, Direct), OpError> {
        let root = self.reserve.root;
        let pager = self.program.pager.get().ok_or(OpError::Unsupported)?;
        Ok((pager, Direct { root }))
    }

    /// [`UserOp::Map`](kiln_abi::user::UserOp::Map).
    ///
    /// # Errors
    /// As there.
    pub fn user_map(
        &mut self,
        range: Segment,
        access: UserAccess,
        backing: UserBacking,
        populate: bool,
    ) -> Result<(), OpError> {
        let behind = match backing {
            UserBacking::Zero => (Kind::Zero, 0),
            UserBacking::Root(offset) => {
                let root = self.layout.of(MemoryKind::Root);
                let end = offset.checked_add(range.len);
                if end.is_none_or(|end| end > root.len) {
                    return Err(OpError::Invalid);
                }
                (Kind::Copy, root.physical + offset)
            }
            UserBacking::Shared(address) => (Kind::Same, self.free_memory(address, range.len)?),
            UserBacking::Private(address) => (Kind::Copy, self.free_memory(address, range.len)?),
        };
        let (pager, mut ground) = self.pager()?;
        pager.map(&mut ground, range, access, behind)?;
        if populate {
            pager.populate(&mut ground, range, access);
        }
        Ok(())
    }

    /// The physical address of free memory.
    fn free_memory(&self, address: u64, len: u64) -> Result<u64, OpError> {
        let found = self.layout.translate(address);
        match found.filter(|_| self.layout.is_free(address, len)) {
            Some((physical, _)) => Ok(physical),
            None => Err(OpError::Invalid),
        }
    }

    /// [`UserOp::SystemCalls`](kiln_abi::user::UserOp::SystemCalls).
    ///
    /// # Errors
    /// As there.
    pub fn take_calls(&mut self, entry: u64, deferred: u64) -> Result<(), OpError> {
        if !self.layout.text.contains(entry, 1) {
            return Err(OpError::Invalid);
        }
        self.program.calls = entry;
        self.program.deferred = deferred;
        if self.program.rings {
            let rip = SUPERVISOR.get() as u64 + offset_of!(Supervisor, frame) as u64;
            // SAFETY: only a word of the supervisor's memory is written, of which the stub reads where system calls go.
            unsafe { cpu::set_entries(rip, entry, entry, 1) };
        } else {
            // SAFETY: the guest's own entry for it.
            unsafe { cpu::set_system_call(entry) };
        }
        Ok(())
    }

    /// Tells the library OS of ticks that came while the machine part worked.
    pub fn tell_missed_tick(&mut self) {
        // SAFETY: the field is valid; the stub only ever writes 1 to it.
        let missed = unsafe { (&raw mut (*MAILBOX.get()).missed).replace(0) };
        if missed != 0 {
            self.defer_tick();
        }
    }

    /// Tells the library OS that a tick has come. False if it does not want to be told like that.
    pub fn defer_tick(&mut self) -> bool {
        if self.program.calls == 0 {
            return false;
        }
        // SAFETY: the guest has given an aligned word of its writable memory; should it have taken its own access away, the
        // fault ends it.
        unsafe { (self.program.deferred as *mut u64).write_volatile(1) };
        true
    }

    /// Whether code at `rip` is the program's, and not that of the library OS or the machine part.
    pub fn in_program(&self, rip: u64) -> bool {
        self.running
            && !self.layout.text.contains(rip, 1)
            && !(0x10_0000..self.code_end).contains(&rip)
    }

    /// Answers a page fault by the program's memory. False if it is not the program's, or not allowed.
    pub fn resolve(&mut self, address: u64, error: u64) -> bool {
        if !(USER_START..USER_END).contains(&address) {
            return false;
        }
        let Ok((pager, mut ground)) = self.pager() else {
            return false;
        };
        match pager.fault(&mut ground, address, Want::of_error(error)) {
            Outcome::Resolved => true,
            Outcome::Refused => false,
            Outcome::NoMemory => end::out_of_memory(self),
        }
    }

    /// Two bytes of the program's code, if they are there.
    pub fn code_at(&mut self, rip: u64) -> Option<[u8; 2]> {
        if !(USER_START..USER_END - 1).contains(&rip) {
            return None;
        }
        let (pager, ground) = self.pager().ok()?;
        let there = pager.is_present(&ground, rip) && pager.is_present(&ground, rip + 1);
        // SAFETY: just found to be mapped for ring 3.
        there.then(|| unsafe { (rip as *const [u8; 2]).read_volatile() })
    }

    /// The root image's range of addresses.
    pub fn root_image(&self) -> Range {
        self.layout.of(MemoryKind::Root)
    }
}
