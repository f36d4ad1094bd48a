//! Split virtqueues (section 2.7), the driver's side.
//!
//! All of a queue lies in one [`Region`], in this order: descriptor table, available ring, used ring, the driver's own
//! notes, and indirect tables. The notes are what the device's answers are checked against.
//!
//! Descriptors that are not in use form a list, last in, first out. So a caller who adds one buffer knows its descriptor
//! beforehand ([`Queue::first_free`]), and drivers with buffers of their own tie each to one descriptor: no table says
//! which buffer a descriptor stands for. The same goes for indirect tables: the first descriptors own one each.
//!
//! Interrupts are off until [`Queue::listen`] asks for one.

use core::sync::atomic::{Ordering, fence};

use crate::Error;
use crate::memory::{ALIGNMENT, Region};
use crate::transport::{QueueAddresses, Transport, feature};

/// The most buffers of one chain in an indirect table.
pub const TABLE_LENGTH: usize = 34;

/// Bytes of one descriptor: address u64, length u32, flags u16, next u16.
const DESCRIPTOR: usize = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Bytes of a note: the next descriptor u16, the chain's descriptors u16 (0: not the first of a chain in use), what the
/// device may write in bytes u32.
const NOTE: usize = 8;

const TABLE: usize = TABLE_LENGTH * DESCRIPTOR;

/// A buffer, as a device is told of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Physical address.
    pub phys: u64,
    /// Length in bytes.
    pub len: u32,
    /// The device writes to it; otherwise it reads it.
    pub writable: bool,
}

/// A chain of buffers that the device is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// What [`Queue::add`] returned.
    pub head: u16,
    /// How many bytes the device says it wrote, never more than it could.
    pub len: u32,
}

/// A virtqueue.
#[derive(Debug)]
pub struct Queue {
    memory: Region,
    layout: Layout,
    index: u16,
    place: usize,
    mask: u16,
    tables: u16,
    event_index: bool,
    broken: bool,
    /// The first descriptor that is not in use, and their number.
    free: u16,
    free_count: u16,
    /// Where the next chain goes in the available ring.
    available: u16,
    /// `available` when the device was last thought of being notified.
    announced: u16,
    /// Which entry of the used ring comes next.
    used: u16,
}

/// Where the parts lie, from the region's start.
#[derive(Clone, Copy, Debug)]
struct Layout {
    available: usize,
    used: usize,
    notes: usize,
    tables: usize,
    end: usize,
}

impl Layout {
    const fn of(size: u16, tables: u16) -> Self {
        let size = size as usize;
        let available = size * DESCRIPTOR;
        let used = align(available + 6 + size * 2);
        let notes = align(used + 6 + size * 8);
        let indirect = align(notes + size * NOTE);
        Self {
            available,
            used,
            notes,
            tables: indirect,
            end: indirect + tables as usize * TABLE,
        }
    }
}

const fn align(offset: usize) -> usize {
    (offset + ALIGNMENT - 1) & !(ALIGNMENT - 1)
}

/// The greatest power of two not above `limit`; 0 for 0.
pub(crate) const fn power_below(limit: u16) -> u16 {
    match limit.checked_ilog2() {
        Some(log) => 1 << log,
        None => 0,
    }
}

impl Queue {
    /// The memory in bytes of a queue of `size` entries and `tables` indirect tables.
    pub const fn memory_needed(size: u16, tables: u16) -> usize {
        Layout::of(size, tables).end
    }

    /// Sets up queue `index` of the device with `size` entries, a power of two not above the device's limit, of which
    /// `entries` are used. `features` are those negotiated; without indirect descriptors there are no `tables`.
    ///
    /// # Errors
    /// [`Error::Memory`] if the region is too small, [`Error::NoQueue`] if the device does not have the queue.
    pub fn new(
        transport: &mut Transport,
        index: u16,
        (size, entries): (u16, u16),
        tables: u16,
        features: u64,
        memory: Region,
    ) -> Result<Self, Error> {
        let layout = Layout::of(size, tables);
        if memory.size() < layout.end {
            return Err(Error::Memory);
        }
        if !size.is_power_of_two() || size > transport.queue_limit(index) || entries > size {
            return Err(Error::NoQueue);
        }
        for offset in (0..layout.end).step_by(8) {
            memory.store64(offset, 0);
        }
        for entry in 0..entries {
            memory.store16(layout.notes + usize::from(entry) * NOTE, entry + 1);
        }
        let phys = memory.phys();
        let place = transport.enable_queue(
            index,
            size,
            QueueAddresses {
                descriptors: phys,
                available: phys + layout.available as u64,
                used: phys + layout.used as u64,
            },
        )?;
        let mut queue = Self {
            memory,
            layout,
            index,
            place,
            mask: size - 1,
            tables: if features & feature::INDIRECT == 0 {
                0
            } else {
                tables
            },
            event_index: features & feature::EVENT_INDEX != 0,
            broken: false,
            free: 0,
            free_count: entries,
            available: 0,
            announced: 0,
            used: 0,
        };
        queue.listen(false);
        Ok(queue)
    }

    /// The queue's number.
    pub const fn index(&self) -> u16 {
        self.index
    }

    /// Where the transport notifies the device of it.
    pub(crate) const fn place(&self) -> usize {
        self.place
    }

    /// Whether the device broke the rules; the queue does nothing any more.
    pub const fn is_broken(&self) -> bool {
        self.broken
    }

    /// Treats the device as having broken the rules.
    pub(crate) const fn give_up(&mut self) {
        self.broken = true;
    }

    /// How many descriptors are free.
    pub const fn free_count(&self) -> u16 {
        self.free_count
    }

    /// The descriptor that the next chain will start with, if one is free.
    pub const fn first_free(&self) -> u16 {
        self.free
    }

    /// The free descriptor behind another.
    pub(crate) fn next_free(&self, descriptor: u16) -> u16 {
        self.memory.load16(self.note(descriptor))
    }

    /// The longest chain that can ever be added; indirect tables make none longer (section 2.7.5.3.1).
    pub fn longest_chain(&self) -> usize {
        usize::from(self.mask) + 1
    }

    fn note(&self, descriptor: u16) -> usize {
        self.layout.notes + usize::from(descriptor & self.mask) * NOTE
    }

    fn describe(&self, at: usize, piece: Piece, flags: u16, next: u16) {
        self.memory.store64(at, piece.phys);
        let write = if piece.writable { WRITE } else { 0 };
        let flags = u64::from(flags | write);
        // The other three fields in one: the device looks at none of them before it is told.
        let rest = u64::from(piece.len) | flags << 32 | u64::from(next) << 48;
        self.memory.store64(at + 8, rest);
    }

    /// Gives the device a chain of buffers, those it reads before those it writes. Returns the chain's first
    /// descriptor; `None` if there is no room, now or ever, or nothing to add, or the queue is broken.
    pub fn add(&mut self, pieces: &[Piece]) -> Option<u16> {
        let count = pieces.len();
        let head = self.free;
        let indirect = count > 1 && count <= TABLE_LENGTH && head < self.tables;
        let taken = if indirect { 1 } else { count };
        if self.broken
            || count == 0
            || count > self.longest_chain()
            || taken > usize::from(self.free_count)
        {
            return None;
        }
        let (base, mut slot) = if indirect {
            (self.layout.tables + usize::from(head) * TABLE, 0)
        } else {
            (0, head)
        };
        let mut writable = 0u32;
        let mut left = count;
        for piece in pieces {
            left -= 1;
            let next = if indirect {
                slot + 1
            } else {
                self.next_free(slot)
            };
            let flags = if left == 0 { 0 } else { NEXT };
            self.describe(base + usize::from(slot) * DESCRIPTOR, *piece, flags, next);
            if piece.writable {
                writable = writable.saturating_add(piece.len);
            }
            slot = next;
        }
        if indirect {
            let table = Piece {
                phys: self.memory.phys() + base as u64,
                len: (count * DESCRIPTOR) as u32,
                writable: false,
            };
            self.describe(usize::from(head) * DESCRIPTOR, table, INDIRECT, 0);
            slot = self.next_free(head);
        }
        self.free = slot;
        self.free_count -= taken as u16;
        let note = self.note(head);
        self.memory.store16(note + 2, taken as u16);
        self.memory.store32(note + 4, writable);

        let entry = usize::from(self.available & self.mask);
        self.memory
            .store16(self.layout.available + 4 + entry * 2, head);
        self.available = self.available.wrapping_add(1);
        // The device must see chain and entry before the index that covers them.
        fence(Ordering::Release);
        self.memory
            .store16(self.layout.available + 2, self.available);
        Some(head)
    }

    /// Whether the device wants to be notified of what was added since this was asked last.
    pub fn wants_notification(&mut self) -> bool {
        let (old, new) = (self.announced, self.available);
        if old == new {
            return false;
        }
        self.announced = new;
        // The index must be visible before what the device wants is read: it looks in the opposite order.
        fence(Ordering::SeqCst);
        if self.event_index {
            let event = self
                .memory
                .load16(self.layout.used + 4 + (usize::from(self.mask) + 1) * 8);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.memory.load16(self.layout.used) & 1 == 0
        }
    }

    /// How many chains the device has used that were not taken yet.
    pub fn pending(&mut self) -> u16 {
        let count = self
            .memory
            .load16(self.layout.used + 2)
            .wrapping_sub(self.used);
        if count > self.available.wrapping_sub(self.used) {
            self.broken = true;
        }
        if self.broken {
            return 0;
        }
        // What the index covers must be read after it.
        fence(Ordering::Acquire);
        count
    }

    /// The next chain that the device has used, left where it is.
    pub fn peek(&mut self) -> Option<Used> {
        if self.pending() == 0 {
            return None;
        }
        let entry = self.layout.used + 4 + usize::from(self.used & self.mask) * 8;
        let id = self.memory.load32(entry);
        let head = id as u16 & self.mask;
        let note = self.note(head);
        if id > u32::from(self.mask) || self.memory.load16(note + 2) == 0 {
            self.broken = true;
            return None;
        }
        let len = self.memory.load32(entry + 4);
        Some(Used {
            head,
            len: len.min(self.memory.load32(note + 4)),
        })
    }

    /// Takes the next chain that the device has used. Its descriptors are free again, its first one first.
    pub fn pop(&mut self) -> Option<Used> {
        let used = self.peek()?;
        let note = self.note(used.head);
        let count = self.memory.load16(note + 2);
        self.memory.store16(note + 2, 0);
        let mut last = used.head;
        for _ in 1..count {
            last = self.next_free(last);
        }
        self.memory.store16(self.note(last), self.free);
        self.free = used.head;
        self.free_count = self.free_count.wrapping_add(count);
        self.used = self.used.wrapping_add(1);
        Some(used)
    }

    /// Asks for an interrupt when the device uses the next chain, or asks for none. Returns whether there is something to
    /// do already, in which case the interrupt may not come: a used chain, or a broken queue.
    pub fn listen(&mut self, on: bool) -> bool {
        if self.event_index {
            let event = self.used.wrapping_sub(u16::from(!on));
            self.memory.store16(
                self.layout.available + 4 + (usize::from(self.mask) + 1) * 2,
                event,
            );
        } else {
            self.memory.store16(self.layout.available, u16::from(!on));
        }
        // The wish must be visible before the index is read: the device looks in the opposite order.
        fence(Ordering::SeqCst);
        self.pending() != 0 || self.broken
    }
}
