//! One direction of a link: a queue and the buffers that its descriptors stand for.
//!
//! Descriptor n always stands for buffer n. So it does not matter in which order the device uses buffers, and nothing
//! but the queue's list of free descriptors says which are free.

use crate::Error;
use crate::memory::{Cursor, Region};
use crate::queue::{Piece, Queue, Used, power_below};
use crate::transport::Transport;

/// Buffers are of 4 KiB if there are at least 64 of them, else of 2 KiB.
const LARGE: u32 = 12;
const SMALL: u32 = 11;

/// The fewest buffers: a link that can hold no more than one or two frames would mostly wait.
const FEWEST: usize = 4;

/// The most buffers of one frame: 64 KiB and headers in pieces of 2 KiB.
const LONGEST: usize = 33;

/// One direction of a link.
#[derive(Debug)]
pub(super) struct Lane {
    queue: Queue,
    buffers: Region,
    shift: u32,
    entries: u16,
}

impl Lane {
    /// Divides the memory into buffers and a queue, and starts the queue.
    pub(super) fn new(
        transport: &mut Transport,
        index: u16,
        features: u64,
        memory: Region,
    ) -> Result<Self, Error> {
        let limit = usize::from(power_below(transport.queue_limit(index)));
        let shift = if memory.size() >= 64 << LARGE {
            LARGE
        } else {
            SMALL
        };
        let queue_size = |entries: usize| entries.next_power_of_two() as u16;
        let fits = |entries: usize| {
            let queue = Queue::memory_needed(queue_size(entries), 0);
            (entries << shift) + queue <= memory.size()
        };
        let mut entries = (memory.size() >> shift).min(limit);
        while entries > 0 && !fits(entries) {
            entries -= 1;
        }
        if limit < FEWEST {
            return Err(Error::NoQueue);
        }
        if entries < FEWEST {
            return Err(Error::Memory);
        }
        let (buffers, rings) = memory.split(entries << shift).ok_or(Error::Memory)?;
        let size = queue_size(entries);
        let entries = entries as u16;
        let queue = Queue::new(transport, index, (size, entries), 0, features, rings)?;
        Ok(Self {
            queue,
            buffers,
            shift,
            entries,
        })
    }

    /// The number of buffers.
    pub(super) const fn entries(&self) -> u16 {
        self.entries
    }

    /// The size of a buffer in bytes.
    pub(super) const fn piece(&self) -> usize {
        1 << self.shift
    }

    /// The most bytes, header included, that one frame can have.
    pub(super) fn capacity(&self) -> usize {
        usize::from(self.entries).min(LONGEST) << self.shift
    }

    /// The bytes for which there is room now.
    pub(super) fn room(&self) -> usize {
        usize::from(self.queue.free_count()) << self.shift
    }

    /// Whether the device broke the queue.
    pub(super) const fn is_broken(&self) -> bool {
        self.queue.is_broken()
    }

    /// Whether the device has used `count` buffers. More than there are break the queue.
    pub(super) fn has(&mut self, count: u16) -> bool {
        if count > self.entries {
            self.queue.give_up();
        }
        self.queue.pending() >= count
    }

    /// See [`Queue::listen`].
    pub(super) fn listen(&mut self, on: bool) -> bool {
        self.queue.listen(on)
    }

    /// Notifies the device if it wants to know of what is new.
    pub(super) fn notify(&mut self, transport: &Transport) {
        transport.kick(&mut self.queue);
    }

    /// Gives the device a free buffer to receive into. `false` if there is none.
    pub(super) fn offer(&mut self) -> bool {
        let piece = self.buffer(self.queue.first_free(), self.piece(), true);
        self.queue.add(&[piece]).is_some()
    }

    /// Looks at the first bytes of the next buffer received.
    pub(super) fn peek(&mut self, bytes: &mut [u8]) -> Option<Used> {
        let used = self.queue.peek()?;
        self.buffers.read(self.at(used.head), bytes);
        Some(used)
    }

    /// Copies the next buffer received, but for its first `skip` bytes, and offers it anew. Returns how many bytes found
    /// room.
    pub(super) fn take(&mut self, skip: usize, to: &mut Cursor<'_>) -> usize {
        let Some(used) = self.queue.pop() else {
            return 0;
        };
        let len = (used.len as usize).saturating_sub(skip);
        let copied = self.buffers.scatter(self.at(used.head) + skip, len, to);
        self.offer();
        copied
    }

    /// Takes back the buffers of frames that were sent.
    pub(super) fn reclaim(&mut self) {
        while self.queue.pop().is_some() {}
    }

    /// Queues a frame of `len` bytes, header included. `false` if there is no room.
    pub(super) fn send(&mut self, header: &[u8], frame: &mut Cursor<'_>, len: usize) -> bool {
        if len > self.room() {
            return false;
        }
        if len <= self.piece() {
            // Nearly every frame: no list has to be made.
            let descriptor = self.queue.first_free();
            let start = self.at(descriptor);
            self.buffers.write(start, header);
            let rest = len.saturating_sub(header.len());
            self.buffers.gather(start + header.len(), rest, frame);
            return self
                .queue
                .add(&[self.buffer(descriptor, len, false)])
                .is_some();
        }
        let mut pieces = [Piece::default(); LONGEST];
        let (mut count, mut done) = (0, 0);
        let mut descriptor = self.queue.first_free();
        for piece in &mut pieces {
            let part = (len - done).min(self.piece());
            if part == 0 {
                break;
            }
            let start = self.at(descriptor);
            let skip = if done == 0 {
                self.buffers.write(start, header);
                header.len()
            } else {
                0
            };
            self.buffers
                .gather(start + skip, part.saturating_sub(skip), frame);
            *piece = self.buffer(descriptor, part, false);
            descriptor = self.queue.next_free(descriptor);
            done += part;
            count += 1;
        }
        pieces
            .get(..count)
            .is_some_and(|pieces| self.queue.add(pieces).is_some())
    }

    fn at(&self, descriptor: u16) -> usize {
        usize::from(descriptor) << self.shift
    }

    fn buffer(&self, descriptor: u16, len: usize, writable: bool) -> Piece {
        Piece {
            phys: self.buffers.phys() + self.at(descriptor) as u64,
            len: len as u32,
            writable,
        }
    }
}
