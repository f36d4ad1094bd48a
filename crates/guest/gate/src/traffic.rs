//! What goes over the links: counted always, copied while somebody captures.
//!
//! [`Traffic`] lies on the page that the gate shares with the supervisor. The copies go through a ring of shared memory
//! that is there for guests with links whose other end is not the supervisor's own. The supervisor says whose frames it wants
//! ([`Traffic::wanted`]) and how much of each; the gate writes a record for each of them, or counts it as dropped when
//! there is no room. Neither waits for the other, and neither makes a system call for it. While nothing is wanted it
//! costs one look at a word for each frame, and no page of the ring is ever touched.
//!
//! Each word has one writer. To the supervisor all of it is hostile: on the `process` backend the guest can write here.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kiln_abi::MAX_DEVICES;
use kiln_abi::net::MAX_FRAME;
use kiln_abi::op::Segment;

/// Bytes of the ring, a power of two: room for 60 frames of the greatest length, or 2600 of 1514 bytes.
pub const RING_SIZE: usize = 4 << 20;

/// Records start on multiples of this, so that their heads are never divided by the ring's end.
pub const RECORD_ALIGN: u64 = 32;

/// Which way a frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// Into the guest.
    In = 1,
    /// Out of the guest.
    Out = 2,
}

/// In place of a [`Direction`]: the link did not take the frame.
pub const WITHDRAWN: u32 = 0;

/// What stands before each copied frame in the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Head {
    /// Nanoseconds since 1970-01-01 UTC.
    pub time: u64,
    /// The device.
    pub device: u32,
    /// A [`Direction`], or [`WITHDRAWN`].
    pub direction: u32,
    /// Length of the frame in bytes.
    pub len: u32,
    /// How many of them follow, from the first on.
    pub captured: u32,
    /// Reserved, 0.
    pub reserved: u64,
}

/// Counters of one link, written by the gate.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Counts {
    /// Frames into the guest.
    pub received_frames: AtomicU64,
    /// Bytes in them.
    pub received_bytes: AtomicU64,
    /// Frames out of the guest.
    pub sent_frames: AtomicU64,
    /// Bytes in them.
    pub sent_bytes: AtomicU64,
}

/// What gate and supervisor share about links. Zeroes are a valid one.
#[derive(Debug)]
#[repr(C)]
pub struct Traffic {
    /// Links, by bit, whose frames are wanted. Written by the supervisor.
    pub wanted: AtomicU64,
    /// The most bytes of each. Written by the supervisor.
    pub snaplen: AtomicU64,
    /// Bytes read from the ring since the start. Written by the supervisor.
    pub tail: AtomicU64,
    /// Bytes written to the ring since the start. Written by the gate.
    pub head: AtomicU64,
    /// What the guest said with [`Op::Metrics`](kiln_abi::Op::Metrics): the list's address. Written by the gate.
    pub blocks: AtomicU64,
    /// And its length.
    pub block_count: AtomicU64,
    /// By device. Written by the gate.
    pub counts: [Counts; MAX_DEVICES],
    /// Frames that were wanted, and found no room. Written by the gate.
    pub dropped: [AtomicU32; MAX_DEVICES],
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            wanted: AtomicU64::new(0),
            snaplen: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            head: AtomicU64::new(0),
            blocks: AtomicU64::new(0),
            block_count: AtomicU64::new(0),
            counts: core::array::from_fn(|_| Counts::default()),
            dropped: [const { AtomicU32::new(0) }; MAX_DEVICES],
        }
    }
}

impl Traffic {
    /// Whether copies of a link's frames are wanted.
    pub fn wants(&self, device: u32) -> bool {
        self.wanted.load(Ordering::Relaxed) >> (device & 63) & 1 != 0
    }

    /// Counts a frame.
    pub fn count(&self, device: u32, direction: Direction, len: u64) {
        if let Some(counts) = self.counts.get(device as usize) {
            let (frames, bytes) = match direction {
                Direction::In => (&counts.received_frames, &counts.received_bytes),
                Direction::Out => (&counts.sent_frames, &counts.sent_bytes),
            };
            add(frames, 1);
            add(bytes, len);
        }
    }

    /// Copies a frame of `len` bytes, which lies in `parts`, to the ring. Returns where it is, if there was room.
    ///
    /// # Safety
    /// `ring` is the address of [`RING_SIZE`] bytes that only this function writes to; the parts can be read.
    pub unsafe fn copy(
        &self,
        ring: *mut u8,
        (device, direction): (u32, Direction),
        time: u64,
        parts: &[Segment],
        len: u64,
    ) -> Option<Copy> {
        let snaplen = self.snaplen.load(Ordering::Relaxed);
        let captured = len.min(snaplen).min(MAX_FRAME as u64);
        let needed = record_size(captured);
        let head = self.head.load(Ordering::Relaxed);
        let used = head.wrapping_sub(self.tail.load(Ordering::Acquire));
        if needed > (RING_SIZE as u64).saturating_sub(used) {
            if let Some(dropped) = self.dropped.get(device as usize) {
                let more = dropped.load(Ordering::Relaxed).wrapping_add(1);
                dropped.store(more, Ordering::Relaxed);
            }
            return None;
        }
        let start = Head {
            time,
            device,
            direction: direction as u32,
            len: len as u32,
            captured: captured as u32,
            reserved: 0,
        };
        let place = |at: u64| at as usize & (RING_SIZE - 1);
        // SAFETY: inside the ring, since records start on multiples of a head's size, which divides the ring's; both copies of
        // each part end at the ring's end or before.
        unsafe {
            ring.add(place(head)).cast::<Head>().write_unaligned(start);
            let (mut at, mut left) = (head.wrapping_add(RECORD_ALIGN), captured as usize);
            for part in parts {
                let whole = (part.len as usize).min(left);
                let first = whole.min(RING_SIZE - place(at));
                let from = part.addr as *const u8;
                core::ptr::copy_nonoverlapping(from, ring.add(place(at)), first);
                core::ptr::copy_nonoverlapping(from.add(first), ring, whole - first);
                at = at.wrapping_add(whole as u64);
                left -= whole;
            }
        }
        self.head
            .store(head.wrapping_add(needed), Ordering::Release);
        Some(Copy(place(head)))
    }

    /// The frame did not go over the link after all. Whoever has read it already is not told.
    ///
    /// # Safety
    /// As for [`copy`](Self::copy), with the same ring, to which nothing has been copied since.
    pub unsafe fn withdraw(&self, ring: *mut u8, copy: &Copy) {
        let at = copy.0 + core::mem::offset_of!(Head, direction);
        // SAFETY: a field of a record's head inside the ring.
        unsafe { ring.add(at).cast::<u32>().write_unaligned(WITHDRAWN) };
    }
}

/// A frame in the ring.
#[derive(Debug)]
pub struct Copy(usize);

/// Bytes of the ring that a record with `captured` bytes of a frame takes.
pub fn record_size(captured: u64) -> u64 {
    RECORD_ALIGN + captured.div_ceil(RECORD_ALIGN) * RECORD_ALIGN
}

fn add(counter: &AtomicU64, more: u64) {
    // The gate is one thread, and nobody else writes.
    let sum = counter.load(Ordering::Relaxed).wrapping_add(more);
    counter.store(sum, Ordering::Relaxed);
}

const _: () = assert!(size_of::<Head>() as u64 == RECORD_ALIGN);
const _: () = assert!(RING_SIZE.is_power_of_two());
