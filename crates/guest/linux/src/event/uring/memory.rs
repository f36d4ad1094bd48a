//! The memory that the library OS and the program share: the two rings and the submission entries.
//!
//! Words are read and written through cells: the program changes them only while the library OS does not run.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::Cell;

use crate::fs::{Pages, Run};
use crate::user::PAGE;
use crate::{Errno, Result};

const WORDS: usize = PAGE as usize / 4;

#[repr(C, align(4096))]
struct Words([Cell<u32>; WORDS]);

/// Whole pages of words.
pub(super) struct Region {
    pages: Vec<Words>,
}

impl Region {
    /// Zeroed memory of at least so many bytes.
    pub(super) fn new(bytes: usize) -> Result<Rc<Self>> {
        let count = bytes.div_ceil(PAGE as usize).max(1);
        let mut pages = Vec::new();
        pages.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        pages.resize_with(count, || Words([const { Cell::new(0) }; WORDS]));
        Ok(Rc::new(Self { pages }))
    }

    /// The word at this offset in bytes; 0 behind the end.
    pub(super) fn word(&self, offset: usize) -> u32 {
        self.cell(offset).map_or(0, Cell::get)
    }

    /// Changes it.
    pub(super) fn set(&self, offset: usize, value: u32) {
        if let Some(cell) = self.cell(offset) {
            cell.set(value);
        }
    }

    fn cell(&self, offset: usize) -> Option<&Cell<u32>> {
        let page = self.pages.get(offset / PAGE as usize)?;
        page.0.get(offset % PAGE as usize / 4)
    }

    fn address(&self) -> u64 {
        self.pages.as_ptr().expose_provenance() as u64
    }
}

/// Where things lie in the ring region, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Submission entries, a power of two.
    pub sq_entries: u32,
    /// Completion entries.
    pub cq_entries: u32,
    /// Bytes of a submission entry.
    pub sqe_size: usize,
    /// Bytes of a completion entry.
    pub cqe_size: usize,
}

impl Layout {
    pub(super) const SQ_HEAD: usize = 0;
    pub(super) const SQ_TAIL: usize = 64;
    pub(super) const CQ_HEAD: usize = 128;
    pub(super) const CQ_TAIL: usize = 192;
    pub(super) const SQ_MASK: usize = 256;
    pub(super) const CQ_MASK: usize = 260;
    pub(super) const SQ_ENTRIES: usize = 264;
    pub(super) const CQ_ENTRIES: usize = 268;
    pub(super) const SQ_DROPPED: usize = 272;
    pub(super) const SQ_FLAGS: usize = 276;
    pub(super) const CQ_FLAGS: usize = 280;
    pub(super) const CQ_OVERFLOW: usize = 284;
    pub(super) const CQES: usize = 320;

    /// Where the array of submission indices begins.
    pub(super) fn array(&self) -> usize {
        Self::CQES + self.cq_entries as usize * self.cqe_size
    }

    pub(super) fn ring_bytes(&self) -> usize {
        self.array() + self.sq_entries as usize * 4
    }

    pub(super) fn sqe_bytes(&self) -> usize {
        self.sq_entries as usize * self.sqe_size
    }
}

/// Both regions, as `mmap(2)` of the descriptor shows them.
pub(super) struct Rings {
    pub(super) ring: Rc<Region>,
    pub(super) sqes: Rc<Region>,
}

/// Offsets of `mmap(2)`: `IORING_OFF_CQ_RING` and `IORING_OFF_SQES`, in pages. The submission ring lies at 0.
const CQ_RING: u64 = 0x800_0000 / PAGE;
const SQES: u64 = 0x1000_0000 / PAGE;

impl Pages for Rings {
    fn run(&self, first: u64, count: u64) -> Result<Run> {
        let (region, index) = match first {
            first if first >= SQES => (&self.sqes, first - SQES),
            // Both rings lie in the same memory (IORING_FEAT_SINGLE_MMAP).
            first if first >= CQ_RING => (&self.ring, first - CQ_RING),
            first => (&self.ring, first),
        };
        let there = region.pages.len() as u64;
        if index >= there {
            return Err(Errno::ENXIO);
        }
        let hold: Rc<dyn Any> = region.clone();
        Ok(Run {
            address: region.address() + index * PAGE,
            pages: count.min(there - index),
            hold,
        })
    }
}
