//! The program's part of the page tables in force.
//!
//! They hold what others have put there too, such as the machine part itself: only entries with [`OURS`] are the
//! program's, and only tables with [`OWNED`] were made here.

use super::frames::Frames;
use super::mappings::Kind;
use super::{Ground, NoFrames};
use crate::paging::{ADDRESS, PAGE, access, flag};

/// The entry is of the program's memory. Bits 9 to 11 are software's.
pub const OURS: u64 = 1 << 9;
/// What the entry leads to, a frame or a table, was taken from the pool and is this entry's alone.
pub const OWNED: u64 = 1 << 10;
/// What it leads to is to be written itself, see [`Kind::Same`].
const SAME: u64 = 1 << 11;

/// Pages that lost what the processor may remember of them. More than these, and it had better forget everything.
const FEW: u64 = 16;

/// Bytes that an entry of a level spans.
const fn span(level: u32) -> u64 {
    PAGE << (9 * level)
}

/// Where in a table of a level the entry for an address stands.
const fn offset(address: u64, level: u32) -> u64 {
    (address >> (12 + 9 * level) & 511) * 8
}

/// The bits that the processor looks at.
fn bits(allowed: u32, writable: bool) -> u64 {
    const WRITE: u32 = 2;
    const EXEC: u32 = 4;
    if allowed == 0 {
        return 0;
    }
    let write = if allowed & WRITE != 0 && writable {
        flag::WRITE
    } else {
        0
    };
    let no_execute = if allowed & EXEC == 0 {
        flag::NO_EXECUTE
    } else {
        0
    };
    flag::PRESENT | flag::USER | write | no_execute
}

/// An entry for a frame of the program's own.
pub fn own(frame: u64, allowed: u32) -> u64 {
    frame | OURS | OWNED | bits(allowed, true)
}

/// An entry for memory that is somebody else's.
pub fn borrowed(place: u64, kind: Kind, allowed: u32) -> u64 {
    let same = kind == Kind::Same;
    place | OURS | if same { SAME } else { 0 } | bits(allowed, same)
}

/// The same entry with another access.
fn allowing(entry: u64, allowed: u32) -> u64 {
    let kept = entry & (ADDRESS | OURS | OWNED | SAME);
    kept | bits(allowed, entry & (OWNED | SAME) != 0)
}

/// What an entry allows already: whether an access, of the bits of a page fault's error code, goes through.
pub fn lets(entry: u64, write: bool, execute: bool) -> bool {
    entry & flag::PRESENT != 0
        && (!write || entry & flag::WRITE != 0)
        && (!execute || entry & flag::NO_EXECUTE == 0)
}

/// Counts what the processor has to forget.
#[derive(Debug, Default)]
struct Forgotten(u64);

impl Forgotten {
    fn page(&mut self, ground: &mut impl Ground, address: u64) {
        self.0 += 1;
        if self.0 <= FEW {
            ground.flush_page(address);
        }
    }

    fn finish(self, ground: &mut impl Ground) {
        if self.0 > FEW {
            ground.flush_all();
        }
    }
}

/// The tables.
#[derive(Clone, Copy, Debug)]
pub struct UserTables {
    /// Physical address of the root.
    pub root: u64,
}

impl UserTables {
    /// Physical address of the entry for an address, if there is a table for it.
    pub fn slot(&self, ground: &impl Ground, address: u64) -> Option<u64> {
        let mut table = self.root;
        for level in (1..4).rev() {
            let entry = ground.load(table + offset(address, level));
            if entry & flag::PRESENT == 0 || entry & flag::LARGE != 0 {
                return None;
            }
            table = entry & ADDRESS;
        }
        Some(table + offset(address, 0))
    }

    /// The same, making the tables that are missing.
    ///
    /// # Errors
    /// If there are no frames for them.
    pub fn make_slot(
        &self,
        ground: &mut impl Ground,
        frames: &mut Frames,
        address: u64,
    ) -> Result<u64, NoFrames> {
        let mut table = self.root;
        for level in (1..4).rev() {
            let at = table + offset(address, level);
            let mut entry = ground.load(at);
            if entry & flag::PRESENT == 0 {
                entry = frames.take(ground).ok_or(NoFrames)? | access::ALL | OURS | OWNED;
                ground.store(at, entry);
            }
            table = entry & ADDRESS;
        }
        Ok(table + offset(address, 0))
    }

    /// Calls `visit` with the address and the place of each of the program's entries in a range.
    fn each<G: Ground>(
        self,
        ground: &mut G,
        (start, end): (u64, u64),
        mut visit: impl FnMut(&mut G, u64, u64) -> Result<(), NoFrames>,
    ) -> Result<(), NoFrames> {
        let mut address = start;
        'tables: while address < end {
            let mut table = self.root;
            for level in (1..4).rev() {
                let entry = ground.load(table + offset(address, level));
                if entry & flag::PRESENT == 0 || entry & flag::LARGE != 0 {
                    address = (address | (span(level) - 1)) + 1;
                    continue 'tables;
                }
                table = entry & ADDRESS;
            }
            let behind = ((address | (span(1) - 1)) + 1).min(end);
            while address < behind {
                let at = table + offset(address, 0);
                if ground.load(at) & OURS != 0 {
                    visit(ground, address, at)?;
                }
                address += PAGE;
            }
        }
        Ok(())
    }

    /// Takes away the program's pages in a range, and the tables that only served these.
    pub fn clear(&self, ground: &mut impl Ground, frames: &mut Frames, start: u64, end: u64) {
        let mut forgotten = Forgotten::default();
        clear_table(
            ground,
            frames,
            &mut forgotten,
            (self.root, 3, 0),
            (start, end),
        );
        forgotten.finish(ground);
    }

    /// Takes away the pages in a range that are the program's own.
    pub fn discard(&self, ground: &mut impl Ground, frames: &mut Frames, start: u64, end: u64) {
        let mut forgotten = Forgotten::default();
        // It cannot fail: nothing in it does.
        let _ = self.each(ground, (start, end), |ground, address, at| {
            let entry = ground.load(at);
            if entry & OWNED != 0 {
                ground.store(at, 0);
                if entry & flag::PRESENT != 0 {
                    forgotten.page(ground, address);
                }
                frames.give(ground, entry & ADDRESS);
            }
            Ok(())
        });
        forgotten.finish(ground);
    }

    /// Changes what is allowed in a range.
    pub fn protect(&self, ground: &mut impl Ground, (start, end): (u64, u64), allowed: u32) {
        let mut forgotten = Forgotten::default();
        let _ = self.each(ground, (start, end), |ground, address, at| {
            let old = ground.load(at);
            let new = allowing(old, allowed);
            if old != new {
                ground.store(at, new);
                if old & flag::PRESENT != 0 {
                    forgotten.page(ground, address);
                }
            }
            Ok(())
        });
        forgotten.finish(ground);
    }

    /// Moves the pages of a range to `target`, where there are none.
    ///
    /// # Errors
    /// If there are no frames for tables. No page has moved then.
    pub fn relocate(
        &self,
        ground: &mut impl Ground,
        frames: &mut Frames,
        (start, end): (u64, u64),
        target: u64,
    ) -> Result<(), NoFrames> {
        self.each(ground, (start, end), |ground, address, _| {
            self.make_slot(ground, frames, target + (address - start))
                .map(drop)
        })?;
        let mut forgotten = Forgotten::default();
        let moved = self.each(ground, (start, end), |ground, address, at| {
            let to = self.make_slot(ground, frames, target + (address - start))?;
            let entry = ground.load(at);
            ground.store(at, 0);
            ground.store(to, entry);
            if entry & flag::PRESENT != 0 {
                forgotten.page(ground, address);
            }
            Ok(())
        });
        forgotten.finish(ground);
        moved
    }
}

/// Takes away the program's pages in a range of a table, and the tables below that only served these. `first` is the address that the table's first entry stands for.
fn clear_table(
    ground: &mut impl Ground,
    frames: &mut Frames,
    forgotten: &mut Forgotten,
    (table, level, first): (u64, u32, u64),
    (start, end): (u64, u64),
) {
    let size = span(level);
    let mut index = start.saturating_sub(first) >> (12 + 9 * level);
    while index < 512 && first + index * size < end {
        let at = table + index * 8;
        let address = first + index * size;
        let entry = ground.load(at);
        index += 1;
        if level == 0 {
            if entry & OURS != 0 {
                ground.store(at, 0);
                if entry & flag::PRESENT != 0 {
                    forgotten.page(ground, address);
                }
                if entry & OWNED != 0 {
                    frames.give(ground, entry & ADDRESS);
                }
            }
        } else if entry & flag::PRESENT != 0 && entry & flag::LARGE == 0 {
            let below = (entry & ADDRESS, level - 1, address);
            clear_table(ground, frames, forgotten, below, (start, end));
            if start <= address && address + size <= end && entry & OWNED != 0 {
                ground.store(at, 0);
                // Whatever the address, it forgets which tables there were.
                forgotten.page(ground, address);
                frames.give(ground, entry & ADDRESS);
            }
        }
    }
}
