//! The memory that drivers and devices share: a driver's part, contiguous, and a guest's part, whose physical pages are
//! swapped in pairs so that none is followed by the next.

use std::alloc::{Layout, alloc_zeroed};
use std::cell::Cell;
use std::rc::Rc;
use std::vec::Vec;

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, Ordering};

use kiln_abi::op::Segment;

use crate::memory::{Buffers, Platform, Region};

pub(super) const PAGE: usize = 4096;
const HALF: usize = 1 << 20;
/// Where the driver's part lies for devices; above 4 GiB, so that forgotten halves of addresses show.
const PHYS: u64 = 0x7_4000_0000;
const GUEST_PHYS: u64 = 0x9_8000_0000;

/// The memory of one test. It is never freed: addresses in registers cannot dangle.
#[derive(Clone)]
pub(super) struct Memory {
    base: NonNull<u8>,
    taken: Rc<Cell<usize>>,
    guest_taken: Rc<Cell<usize>>,
}

impl Memory {
    pub(super) fn new() -> Self {
        let layout = Layout::from_size_align(2 * HALF, PAGE).expect("a valid layout");
        // SAFETY: the layout has a size.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).expect("memory for a test");
        Self {
            base,
            taken: Rc::default(),
            guest_taken: Rc::default(),
        }
    }

    /// Memory for a driver.
    pub(super) fn region(&self, len: usize) -> Region {
        let start = self.taken.get();
        self.taken.set(start + len.next_multiple_of(PAGE));
        assert!(self.taken.get() <= HALF, "the test wants too much memory");
        // SAFETY: the range lies in the driver's part and is given to nobody else.
        unsafe { Region::new(self.base.add(start), PHYS + start as u64, len) }
    }

    /// A buffer of the guest, `shift` bytes into a page, with a content.
    pub(super) fn buffer(&self, shift: usize, bytes: &[u8]) -> Segment {
        let start = self.guest_taken.get();
        let end = (start + shift + bytes.len()).next_multiple_of(PAGE);
        self.guest_taken.set(end);
        assert!(end <= HALF, "the test wants too much memory");
        // SAFETY: the range lies in the guest's part.
        let at = unsafe { self.base.add(HALF + start + shift) };
        // SAFETY: as above, and `bytes` lies elsewhere.
        unsafe {
            at.as_ptr()
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        Segment {
            addr: at.addr().get() as u64,
            len: bytes.len() as u64,
        }
    }

    /// A buffer of the guest that is contiguous in physical memory: it lies in the driver's part.
    pub(super) fn contiguous(&self, bytes: &[u8]) -> Segment {
        let start = self.taken.get();
        self.region(bytes.len());
        // SAFETY: the range is the region's.
        let at = unsafe { self.base.add(start) };
        // SAFETY: as above, and `bytes` lies elsewhere.
        unsafe {
            at.as_ptr()
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        Segment {
            addr: at.addr().get() as u64,
            len: bytes.len() as u64,
        }
    }

    /// Forgets all buffers of the guest.
    pub(super) fn reset_guest(&self) {
        self.guest_taken.set(0);
    }

    /// What lies in a guest's buffer.
    pub(super) fn content(&self, buffer: Segment) -> Vec<u8> {
        let offset = buffer.addr as usize - self.base.addr().get();
        assert!(offset + buffer.len as usize <= 2 * HALF);
        // SAFETY: the range lies in the memory.
        unsafe {
            std::slice::from_raw_parts(self.base.add(offset).as_ptr(), buffer.len as usize).to_vec()
        }
    }

    /// Where a device finds `len` bytes. Panics if the driver named memory that does not belong to it.
    fn place(&self, phys: u64, len: usize) -> *mut u8 {
        let offset = if (PHYS..PHYS + HALF as u64).contains(&phys) {
            let offset = (phys - PHYS) as usize;
            assert!(offset + len <= self.taken.get(), "behind the driver's part");
            offset
        } else {
            assert!(
                (GUEST_PHYS..GUEST_PHYS + HALF as u64).contains(&phys),
                "{phys:#x} is no memory"
            );
            let offset = ((phys - GUEST_PHYS) as usize) ^ PAGE;
            assert!(
                offset % PAGE + len <= PAGE,
                "across pages that do not follow"
            );
            HALF + offset
        };
        // SAFETY: the range lies in the memory.
        unsafe { self.base.add(offset).as_ptr() }
    }

    pub(super) fn read(&self, phys: u64, bytes: &mut [u8]) {
        let from = self.place(phys, bytes.len());
        // SAFETY: `place` checked the range.
        unsafe { from.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) }
    }

    pub(super) fn write(&self, phys: u64, bytes: &[u8]) {
        let to = self.place(phys, bytes.len());
        // SAFETY: `place` checked the range.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    pub(super) fn load<const N: usize>(&self, phys: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.read(phys, &mut bytes);
        bytes
    }

    /// A 16-bit field that both sides may access at the same time.
    pub(super) fn field(&self, phys: u64) -> &AtomicU16 {
        // SAFETY: `place` checked the range; it is aligned, for the queue's parts are.
        unsafe { AtomicU16::from_ptr(self.place(phys, 2).cast()) }
    }

    pub(super) fn load16(&self, phys: u64) -> u16 {
        self.field(phys).load(Ordering::SeqCst)
    }

    pub(super) fn store16(&self, phys: u64, value: u16) {
        self.field(phys).store(value, Ordering::SeqCst);
    }
}

/// Buffers for an operation.
pub(super) fn buffers(segments: &[Segment]) -> Buffers<'_> {
    // SAFETY: tests name buffers that they made, and use them for one operation at a time.
    unsafe { Buffers::new(segments) }
}

/// The machine below the drivers: waiting runs what the test wants to happen meanwhile.
pub(super) struct Host<'a> {
    pub(super) memory: Memory,
    pub(super) waits: usize,
    pub(super) meanwhile: &'a mut dyn FnMut(usize),
}

impl<'a> Host<'a> {
    pub(super) fn new(memory: &Memory, meanwhile: &'a mut dyn FnMut(usize)) -> Self {
        Self {
            memory: memory.clone(),
            waits: 0,
            meanwhile,
        }
    }
}

// SAFETY: `Memory::place` is the reverse of the translation.
unsafe impl Platform for Host<'_> {
    fn translate(&self, address: u64) -> Option<(u64, u64)> {
        let offset = (address as usize).checked_sub(self.memory.base.addr().get())?;
        if offset < HALF {
            return Some((PHYS + offset as u64, (HALF - offset) as u64));
        }
        let offset = offset - HALF;
        (offset < HALF).then(|| {
            let phys = GUEST_PHYS + (offset ^ PAGE) as u64;
            (phys, (PAGE - offset % PAGE) as u64)
        })
    }

    fn wait(&mut self) {
        self.waits += 1;
        assert!(self.waits < 100_000, "waits for what never comes");
        (self.meanwhile)(self.waits);
    }
}
