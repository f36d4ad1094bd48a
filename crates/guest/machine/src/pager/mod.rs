//! The program's memory, for images that run a Linux program ([`kiln_abi::user`]).
//!
//! What is mapped is a list of intervals ([`mappings`]); which pages are there, and what may be done with them, say the
//! page tables in force ([`tables`]); pages come from a pool ([`frames`]) when they are touched. None of it needs a heap: the list is a
//! slice, tables and frames are pages of the pool. All of it is portable: physical memory is behind [`Ground`], and the tests run it
//! against a model.

pub mod frames;
pub mod mappings;
pub mod tables;
#[cfg(test)]
mod tests;

use kiln_abi::op::{OpError, Segment};
use kiln_abi::user::{UserAccess, UserAdvice};

use crate::paging::{ADDRESS, PAGE, flag};
use frames::Frames;
use mappings::{Full, Kind, Mapping, Mappings};
use tables::{OWNED, UserTables};

/// Addresses in the user range that are the machine part's own: nothing is mapped there, and nothing can be.
pub const TAKEN: core::ops::Range<u64> = 0x10_0000..0x20_0000;

/// Pages of files that come with the one that was asked for, if they lie in the same aligned run of so many.
const AROUND: u64 = 16;

/// Physical memory and the processor.
pub trait Ground {
    /// The word at a physical address.
    fn load(&self, at: u64) -> u64;
    /// Writes it.
    fn store(&mut self, at: u64, word: u64);
    /// Fills a frame with zeroes.
    fn clear(&mut self, frame: u64);
    /// Copies a page to a frame.
    fn copy(&mut self, frame: u64, from: u64);
    /// Makes the processor forget what it knows of a page.
    fn flush_page(&mut self, address: u64);
    /// Makes it forget all of the program's pages.
    fn flush_all(&mut self);
}

/// The pool is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoFrames;

/// What the program wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Execute.
    Execute,
}

impl Want {
    /// As a page fault's error code says it (SDM volume 3, section 4.7).
    pub fn of_error(error: u64) -> Self {
        match error {
            error if error & 16 != 0 => Self::Execute,
            error if error & 2 != 0 => Self::Write,
            _ => Self::Read,
        }
    }

    /// Whether a mapping's access allows it. What can be written or executed can be read, the processor knows no less.
    fn is_allowed(self, access: u32) -> bool {
        match self {
            Self::Read => access != 0,
            Self::Write => access & 2 != 0,
            Self::Execute => access & 4 != 0,
        }
    }
}

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The page is there.
    Resolved,
    /// The program is not allowed to, or nothing is mapped there.
    Refused,
    /// There is no memory left for it.
    NoMemory,
}

/// The program's memory.
#[derive(Debug)]
pub struct Pager<'a> {
    mappings: Mappings<'a>,
    tables: UserTables,
    frames: Frames,
}

impl From<Full> for OpError {
    fn from(_: Full) -> Self {
        Self::NoSpace
    }
}

impl From<NoFrames> for OpError {
    fn from(_: NoFrames) -> Self {
        Self::NoSpace
    }
}

impl<'a> Pager<'a> {
    /// Nothing is mapped. `root` is the page tables' physical address, `list` the room for mappings.
    pub fn new(root: u64, list: &'a mut [Mapping], frames: Frames) -> Self {
        Self {
            mappings: Mappings::new(list),
            tables: UserTables { root },
            frames,
        }
    }

    /// How many pages can still be had.
    pub fn frames_left(&self) -> u64 {
        self.frames.left()
    }

    /// Maps `range`, `place` being where that lies which `kind` speaks of.
    ///
    /// # Errors
    /// [`OpError::NoSpace`] if there are too many mappings, or the range is not the program's to have.
    pub fn map(
        &mut self,
        ground: &mut impl Ground,
        range: Segment,
        access: UserAccess,
        (kind, place): (Kind, u64),
    ) -> Result<(), OpError> {
        let (start, end) = (range.addr, range.addr + range.len);
        if start < TAKEN.end && end > TAKEN.start {
            return Err(OpError::NoSpace);
        }
        self.mappings.insert(Mapping {
            start,
            end,
            place,
            kind,
            access: access.bits() as u32,
        })?;
        self.tables.clear(ground, &mut self.frames, start, end);
        Ok(())
    }

    /// Takes mappings away.
    ///
    /// # Errors
    /// [`OpError::NoSpace`] if there are too many mappings to cut one in two.
    pub fn unmap(&mut self, ground: &mut impl Ground, range: Segment) -> Result<(), OpError> {
        let (start, end) = (range.addr, range.addr + range.len);
        self.mappings.remove(start, end)?;
        self.tables.clear(ground, &mut self.frames, start, end);
        Ok(())
    }

    /// Changes what is allowed.
    ///
    /// # Errors
    /// [`OpError::NoSpace`] if some of it is not mapped (the others have been changed), or there are too many mappings.
    pub fn protect(
        &mut self,
        ground: &mut impl Ground,
        range: Segment,
        access: UserAccess,
    ) -> Result<(), OpError> {
        let (start, end) = (range.addr, range.addr + range.len);
        let allowed = access.bits() as u32;
        self.mappings.protect(start, end, allowed)?;
        self.tables.protect(ground, (start, end), allowed);
        self.covered(start, end, OpError::NoSpace)
    }

    fn covered(&self, start: u64, end: u64, otherwise: OpError) -> Result<(), OpError> {
        if self.mappings.covers(start, end) {
            Ok(())
        } else {
            Err(otherwise)
        }
    }

    /// Forgets what the pages hold that are the program's own.
    ///
    /// # Errors
    /// [`OpError::NoSpace`] if some of it is not mapped; the others have been forgotten.
    pub fn discard(&mut self, ground: &mut impl Ground, range: Segment) -> Result<(), OpError> {
        let (start, end) = (range.addr, range.addr + range.len);
        self.tables.discard(ground, &mut self.frames, start, end);
        self.covered(start, end, OpError::NoSpace)
    }

    /// Moves pages to `to`. The ranges do not overlap.
    ///
    /// # Errors
    /// [`OpError::BadAddress`] if some are not mapped, [`OpError::NoSpace`] without memory for tables or mappings. No page
    /// has moved then.
    pub fn relocate(
        &mut self,
        ground: &mut impl Ground,
        range: Segment,
        to: u64,
    ) -> Result<(), OpError> {
        let (start, end) = (range.addr, range.addr + range.len);
        let behind = to + range.len;
        if to < TAKEN.end && behind > TAKEN.start {
            return Err(OpError::NoSpace);
        }
        self.covered(start, end, OpError::BadAddress)?;
        self.mappings.relocate(start, end, to)?;
        self.tables.clear(ground, &mut self.frames, to, behind);
        let frames = &mut self.frames;
        let moved = self.tables.relocate(ground, frames, (start, end), to);
        if moved.is_err() {
            // Pages stay with their mappings.
            self.mappings.relocate(to, behind, start)?;
        }
        Ok(moved?)
    }

    /// Follows advice.
    ///
    /// # Errors
    /// [`OpError::BadAddress`] if the access does not allow it, [`OpError::NoSpace`] if something is not mapped or there is no memory.
    pub fn advise(
        &mut self,
        ground: &mut impl Ground,
        range: Segment,
        advice: UserAdvice,
    ) -> Result<(), OpError> {
        let want = match advice {
            UserAdvice::PopulateRead => Want::Read,
            UserAdvice::PopulateWrite => Want::Write,
            // Pages are small.
            UserAdvice::HugePages | UserAdvice::SmallPages => return Ok(()),
        };
        let (start, end) = (range.addr, range.addr + range.len);
        self.covered(start, end, OpError::NoSpace)?;
        for page in (start..end).step_by(PAGE as usize) {
            match self.fault(ground, page, want) {
                Outcome::Resolved => {}
                Outcome::Refused => return Err(OpError::BadAddress),
                Outcome::NoMemory => return Err(OpError::NoSpace),
            }
        }
        Ok(())
    }

    /// Makes all that can be read of a new mapping present.
    pub fn populate(&mut self, ground: &mut impl Ground, range: Segment, access: UserAccess) {
        let advice = if access.bits() & UserAccess::WRITE.bits() == 0 {
            UserAdvice::PopulateRead
        } else {
            UserAdvice::PopulateWrite
        };
        // As `MAP_POPULATE` has it: what cannot be had now comes when it is touched, or not.
        let _ = self.advise(ground, range, advice);
    }

    /// Whether the byte at an address can be read without a fault.
    pub fn is_present(&self, ground: &impl Ground, address: u64) -> bool {
        let slot = self.tables.slot(ground, address);
        slot.is_some_and(|at| ground.load(at) & (flag::PRESENT | flag::USER) == 5)
    }

    /// Answers a page fault, if what is mapped allows the access.
    pub fn fault(&mut self, ground: &mut impl Ground, address: u64, want: Want) -> Outcome {
        let page = address & !(PAGE - 1);
        let Some(mapping) = self.mappings.find(page) else {
            return Outcome::Refused;
        };
        if !want.is_allowed(mapping.access) {
            return Outcome::Refused;
        }
        match self.provide(ground, page, &mapping, want) {
            Ok(()) => Outcome::Resolved,
            Err(NoFrames) => Outcome::NoMemory,
        }
    }

    fn provide(
        &mut self,
        ground: &mut impl Ground,
        page: u64,
        mapping: &Mapping,
        want: Want,
    ) -> Result<(), NoFrames> {
        let slot = self.tables.make_slot(ground, &mut self.frames, page)?;
        let entry = ground.load(slot);
        if tables::lets(entry, want == Want::Write, want == Want::Execute) {
            // The processor remembers what was; or somebody asks to be sure.
            ground.flush_page(page);
            return Ok(());
        }
        let access = mapping.access;
        match mapping.kind {
            Kind::Same => {
                let entry = tables::borrowed(mapping.place_of(page), Kind::Same, access);
                ground.store(slot, entry);
            }
            Kind::Copy if want != Want::Write && entry & OWNED == 0 => {
                around(ground, page, slot, mapping);
            }
            Kind::Copy if entry & OWNED == 0 => {
                let (frame, _) = self.frames.take_any(ground).ok_or(NoFrames)?;
                ground.copy(frame, mapping.place_of(page));
                ground.store(slot, tables::own(frame, access));
            }
            Kind::Zero if entry & OWNED == 0 => {
                let frame = self.frames.take(ground).ok_or(NoFrames)?;
                ground.store(slot, tables::own(frame, access));
            }
            Kind::Copy | Kind::Zero => ground.store(slot, tables::own(entry & ADDRESS, access)),
        }
        if entry & flag::PRESENT != 0 {
            ground.flush_page(page);
        }
        Ok(())
    }
}

/// Maps a page of a file as it is, and its neighbours that nobody has touched.
fn around(ground: &mut impl Ground, page: u64, slot: u64, mapping: &Mapping) {
    let first = page & !(AROUND * PAGE - 1);
    let first_slot = slot - (page - first) / PAGE * 8;
    for index in 0..AROUND {
        let near = first + index * PAGE;
        let at = first_slot + index * 8;
        let inside = (mapping.start..mapping.end).contains(&near);
        if inside && (near == page || ground.load(at) == 0) {
            let place = mapping.place_of(near);
            ground.store(at, tables::borrowed(place, Kind::Copy, mapping.access));
        }
    }
}
