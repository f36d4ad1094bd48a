//! The supervisor's end of the ring of copied frames.
//!
//! The gate writes ([`kiln_gate::traffic`]), this reads. On the `process` backend a guest can write there too, so every
//! number is looked at once and held to its bounds: what a hostile guest gets done is that a capture of it shows frames that
//! never were, or none. It cannot make this wait, allocate more than one frame's worth, or read outside the ring.

use std::sync::atomic::{AtomicU64, Ordering};

use kiln_abi::MAX_DEVICES;
use kiln_abi::net::MAX_FRAME;
use kiln_gate::traffic::{RECORD_ALIGN, RING_SIZE, Traffic, WITHDRAWN, record_size};

use crate::capture::{Copied, Direction, Frame};

/// Words of the ring.
const WORDS: usize = RING_SIZE / 8;

/// The ring. Zeroes are a valid one.
#[derive(Debug)]
#[repr(transparent)]
pub struct Ring([AtomicU64; WORDS]);

impl Ring {
    /// One with these words at its start, for tests and fuzzing.
    pub fn with(words: &[u64]) -> Box<Self> {
        let all = words.iter().copied().chain(std::iter::repeat(0));
        let all: Box<[AtomicU64]> = all.take(WORDS).map(AtomicU64::new).collect();
        let all: Box<[AtomicU64; WORDS]> = all.try_into().expect("as many were taken");
        // SAFETY: a `Ring` is that array and nothing else.
        unsafe { Box::from_raw(Box::into_raw(all).cast()) }
    }
}

/// Where the supervisor has come, and what it wants.
#[derive(Debug)]
pub struct Reader {
    /// Bytes read since the start. The gate is told, but what is believed is this.
    tail: u64,
    /// Links, by bit.
    wanted: u64,
    /// Frames dropped by the gate, as last seen.
    dropped: [u32; MAX_DEVICES],
    /// One frame.
    frame: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            tail: 0,
            wanted: 0,
            dropped: [0; MAX_DEVICES],
            frame: Vec::new(),
        }
    }
}

impl Reader {
    /// Says whose frames are wanted, by bit, and how many bytes of each. None wanted ends it.
    pub fn want(&mut self, traffic: &Traffic, wanted: u64, snaplen: u32) {
        if self.wanted == 0 {
            // What is left of a capture before this one is nobody's.
            self.tail = traffic.head.load(Ordering::Acquire) / RECORD_ALIGN * RECORD_ALIGN;
            traffic.tail.store(self.tail, Ordering::Release);
        }
        let new = wanted & !self.wanted;
        for (device, seen) in self.dropped.iter_mut().enumerate() {
            if new >> device & 1 != 0 {
                *seen = traffic.dropped[device].load(Ordering::Relaxed);
            }
        }
        self.wanted = wanted;
        traffic.snaplen.store(snaplen.into(), Ordering::Relaxed);
        traffic.wanted.store(wanted, Ordering::Release);
        if wanted == 0 {
            self.frame = Vec::new();
        }
    }

    /// Hands out what has come, at most one ring's worth. `now` is the time in nanoseconds since 1970: no frame is later.
    pub fn read(
        &mut self,
        traffic: &Traffic,
        ring: &Ring,
        now: u64,
        take: &mut dyn FnMut(Copied<'_>),
    ) {
        if self.wanted == 0 {
            return;
        }
        let head = traffic.head.load(Ordering::Acquire);
        while self.tail != head {
            let left = head.wrapping_sub(self.tail);
            let Some(size) = self.record(ring, left, now, take) else {
                // Not what the gate would have written: what is there is lost, a frame at the least.
                self.tail = head / RECORD_ALIGN * RECORD_ALIGN;
                let device = self.wanted.trailing_zeros();
                take(Copied::Lost { device, frames: 1 });
                break;
            };
            self.tail = self.tail.wrapping_add(size);
        }
        traffic.tail.store(self.tail, Ordering::Release);
        for (device, seen) in (0u32..).zip(&mut self.dropped) {
            if self.wanted >> device & 1 == 0 {
                continue;
            }
            let dropped = traffic.dropped[device as usize].load(Ordering::Relaxed);
            let frames = dropped.wrapping_sub(*seen);
            *seen = dropped;
            if frames != 0 {
                take(Copied::Lost { device, frames });
            }
        }
    }

    /// Hands out the record at the tail, of which there may be `left` bytes, and returns its length. `None` if it is none.
    fn record(
        &mut self,
        ring: &Ring,
        left: u64,
        now: u64,
        take: &mut dyn FnMut(Copied<'_>),
    ) -> Option<u64> {
        if !(RECORD_ALIGN..=RING_SIZE as u64).contains(&left) {
            return None;
        }
        let word = |at: u64| ring.0[(at as usize / 8) % WORDS].load(Ordering::Relaxed);
        let [time, way, lengths] = [0, 8, 16].map(|at| word(self.tail.wrapping_add(at)));
        let (device, direction) = (way as u32, (way >> 32) as u32);
        let (len, captured) = (lengths as u32, (lengths >> 32) as u32);
        let size = record_size(captured.into());
        if len as usize > MAX_FRAME || captured > len || size > left || device >= 64 {
            return None;
        }
        if direction == WITHDRAWN {
            return Some(size);
        }
        let direction = Direction::from_raw(direction)?;
        self.frame.clear();
        for index in 0..u64::from(captured).div_ceil(8) {
            let at = self.tail.wrapping_add(RECORD_ALIGN + index * 8);
            self.frame.extend(word(at).to_le_bytes());
        }
        self.frame.truncate(captured as usize);
        if self.wanted >> device & 1 != 0 {
            take(Copied::Frame(Frame {
                device,
                direction,
                time: time.min(now),
                len,
                bytes: &self.frame,
            }));
        }
        Some(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_abi::op::Segment;
    use kiln_gate::traffic;
    use proptest::prelude::*;

    /// Counters and a ring of zeroes.
    fn shared() -> (Box<Traffic>, Box<Ring>) {
        (Box::default(), Ring::with(&[]))
    }

    fn write(traffic: &Traffic, ring: &Ring, frame: &[u8]) -> Option<traffic::Copy> {
        let (left, right) = frame.split_at(frame.len() / 3);
        let part = |part: &[u8]| Segment {
            addr: part.as_ptr() as u64,
            len: part.len() as u64,
        };
        traffic.count(0, traffic::Direction::Out, frame.len() as u64);
        if !traffic.wants(0) {
            return None;
        }
        // SAFETY: a ring, and parts that can be read. Nobody holds a reference to its words meanwhile.
        unsafe {
            let ring = std::ptr::from_ref(ring).cast_mut().cast();
            let way = (0, traffic::Direction::Out);
            traffic.copy(ring, way, 7, &[part(left), part(right)], frame.len() as u64)
        }
    }

    fn read(reader: &mut Reader, traffic: &Traffic, ring: &Ring) -> (Vec<(u32, Vec<u8>)>, u32) {
        let (mut frames, mut lost) = (Vec::new(), 0);
        reader.read(traffic, ring, 1000, &mut |copied| match copied {
            Copied::Frame(frame) => frames.push((frame.len, frame.bytes.to_vec())),
            Copied::Lost { frames, .. } => lost += frames,
        });
        (frames, lost)
    }

    #[test]
    fn frames_come_out_as_they_went_in() {
        let (traffic, ring) = shared();
        let mut reader = Reader::default();
        write(&traffic, &ring, &[1; 100]);
        assert_eq!(traffic.head.load(Ordering::Relaxed), 0, "not wanted");
        reader.want(&traffic, 1, 60_000);
        // Several times around the ring, at all kinds of places.
        for round in 0..2000u32 {
            let len = (round * 7919 % 5000 + 14) as usize;
            let frame: Vec<u8> = (0..len).map(|at| (at as u32 ^ round) as u8).collect();
            write(&traffic, &ring, &frame);
            let got = read(&mut reader, &traffic, &ring);
            assert_eq!(got, (vec![(len as u32, frame)], 0), "{round}");
        }
        let counts = &traffic.counts[0];
        assert_eq!(counts.sent_frames.load(Ordering::Relaxed), 2001);
    }

    #[test]
    fn what_the_link_did_not_take_is_not_seen() {
        let (traffic, ring) = shared();
        let mut reader = Reader::default();
        reader.want(&traffic, 1, 60_000);
        write(&traffic, &ring, &[1; 100]);
        let refused = write(&traffic, &ring, &[2; 100]).unwrap();
        let at = std::ptr::from_ref(&*ring).cast_mut().cast();
        // SAFETY: copied to this ring just now.
        unsafe { traffic.withdraw(at, &refused) };
        write(&traffic, &ring, &[3; 100]);
        let got = read(&mut reader, &traffic, &ring);
        assert_eq!(got, (vec![(100, vec![1; 100]), (100, vec![3; 100])], 0));
    }

    #[test]
    fn what_does_not_fit_is_counted_and_what_fits_is_whole() {
        let (traffic, ring) = shared();
        let mut reader = Reader::default();
        reader.want(&traffic, 1, u32::MAX);
        let frame = vec![5; MAX_FRAME];
        for _ in 0..100 {
            write(&traffic, &ring, &frame);
        }
        let (frames, lost) = read(&mut reader, &traffic, &ring);
        assert_eq!(frames.len() + lost as usize, 100);
        assert!((60..70).contains(&frames.len()), "{}", frames.len());
        assert!(frames.iter().all(|(_, bytes)| *bytes == frame));
    }

    #[test]
    fn only_the_first_bytes_are_copied_when_no_more_are_wanted() {
        let (traffic, ring) = shared();
        let mut reader = Reader::default();
        reader.want(&traffic, 1, 20);
        write(&traffic, &ring, &[9; 100]);
        let (frames, _) = read(&mut reader, &traffic, &ring);
        assert_eq!(frames, [(100, vec![9; 20])]);
        // A second capture does not see what the first has left.
        write(&traffic, &ring, &[8; 100]);
        reader.want(&traffic, 0, 0);
        write(&traffic, &ring, &[7; 100]);
        reader.want(&traffic, 1, 20);
        assert_eq!(read(&mut reader, &traffic, &ring), (Vec::new(), 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn anything_can_lie_there(
            words in proptest::collection::vec(any::<u64>(), 0..200),
            small in proptest::collection::vec((0u32..3, 0u32..70_000, 0u32..70_000), 0..50),
            head in any::<u64>(),
            ahead in 0..2 * RING_SIZE as u64,
            near in any::<bool>(),
        ) {
            let (traffic, ring) = shared();
            let mut reader = Reader::default();
            reader.want(&traffic, 1, 1000);
            for (to, from) in ring.0.iter().zip(&words) {
                to.store(*from, Ordering::Relaxed);
            }
            for (index, (direction, len, captured)) in small.iter().enumerate() {
                ring.0[index * 4 + 1].store(u64::from(*direction) << 32, Ordering::Relaxed);
                ring.0[index * 4 + 2].store(u64::from(*len) | u64::from(*captured) << 32, Ordering::Relaxed);
            }
            traffic.head.store(if near { ahead } else { head }, Ordering::Relaxed);
            let mut bytes = 0;
            reader.read(&traffic, &ring, 1000, &mut |copied| if let Copied::Frame(frame) = copied {
                assert!(frame.bytes.len() <= frame.len as usize && frame.time <= 1000);
                bytes += frame.bytes.len();
            });
            assert!(bytes <= RING_SIZE);
            // And it goes on afterwards.
            traffic.head.store(reader.tail, Ordering::Relaxed);
            write(&traffic, &ring, &[3; 50]);
            assert_eq!(read(&mut reader, &traffic, &ring).0, [(50, vec![3; 50])]);
        }
    }
}
