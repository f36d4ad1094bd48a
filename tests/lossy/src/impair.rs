//! What happens to frames of one direction.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::time::Duration;

use crate::random::Random;

/// Parameters of one direction. Probabilities are from 0 to 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Impairment {
    /// How long a frame travels.
    pub delay: Duration,
    /// How much longer or shorter, evenly distributed; frames overtake each other by it.
    pub jitter: Duration,
    /// A frame is lost.
    pub loss: f64,
    /// A frame is sent twice.
    pub duplicate: f64,
    /// One to three bits of one 16-bit word are flipped, which no checksum of TCP misses.
    pub corrupt: f64,
    /// A frame is held back by [`Impairment::reorder_by`] while others pass.
    pub reorder: f64,
    /// How long a frame is held back to be overtaken.
    pub reorder_by: Duration,
    /// Bits per second, Ethernet headers included; none for no limit.
    pub rate: Option<u64>,
    /// Bytes that may wait for the line; more are lost.
    pub queue: u64,
    /// ECN-capable packets are marked while more bytes than this wait.
    pub mark_above: Option<u64>,
    /// Neighbour discovery suffers as well. It is slow to recover, and rarely what a test is about.
    pub everything: bool,
}

/// What has happened to frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Taken from one end.
    pub taken: u64,
    /// Given to the other.
    pub delivered: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Damaged.
    pub corrupted: u64,
    /// Held back.
    pub reordered: u64,
    /// Lost for want of room in the queue.
    pub overflowed: u64,
    /// Marked with CE.
    pub marked: u64,
    /// Refused by the device at the end.
    pub refused: u64,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "taken {} delivered {} bytes {} lost {} duplicated {} corrupted {} reordered {} overflowed {} marked {} refused {}",
            self.taken,
            self.delivered,
            self.bytes,
            self.lost,
            self.duplicated,
            self.corrupted,
            self.reordered,
            self.overflowed,
            self.marked,
            self.refused
        )
    }
}

/// A frame under way: ordered by arrival, then by departure.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    arrives: Duration,
    number: u64,
    frame: Vec<u8>,
}

/// One direction of the link. Times are since any fixed moment.
pub struct Direction {
    how: Impairment,
    random: Random,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    number: u64,
    /// When the line has sent what waits for it.
    line_free: Duration,
    /// What has happened.
    pub counters: Counters,
}

impl Direction {
    /// An empty one.
    pub fn new(how: Impairment, seed: u64) -> Self {
        Self {
            how,
            random: Random::new(seed),
            under_way: BinaryHeap::new(),
            number: 0,
            line_free: Duration::ZERO,
            counters: Counters::default(),
        }
    }

    /// Takes a frame of the sending end.
    pub fn offer(&mut self, frame: &[u8], now: Duration) {
        self.counters.taken += 1;
        let spared = !self.how.everything && !carries_data(frame);
        let mut frame = frame.to_vec();
        // Always the same draws per frame, so that one decision does not change the next frame's.
        let lost = self.random.happens(self.how.loss);
        let duplicated = self.random.happens(self.how.duplicate);
        let corrupted = self.random.happens(self.how.corrupt);
        let reordered = self.random.happens(self.how.reorder);
        let (word, bits) = (self.random.bits(), self.random.bits());
        if spared {
            self.depart(frame, now, false);
            return;
        }
        if lost {
            self.counters.lost += 1;
            return;
        }
        if corrupted && frame.len() >= 2 {
            self.counters.corrupted += 1;
            let at = (word % (frame.len() as u64 / 2)) as usize * 2;
            for n in 0..=(bits % 3) {
                let bit = bits >> (8 + 8 * n) & 15;
                frame[at + (bit / 8) as usize] ^= 1 << (bit % 8);
            }
        }
        if duplicated {
            self.counters.duplicated += 1;
            self.depart(frame.clone(), now, false);
        }
        self.counters.reordered += u64::from(reordered);
        self.depart(frame, now, reordered);
    }

    fn depart(&mut self, mut frame: Vec<u8>, now: Duration, held_back: bool) {
        let mut left = now;
        if let Some(rate) = self.how.rate {
            let nanoseconds = |bytes: u64| {
                Duration::from_nanos((u128::from(bytes) * 8_000_000_000 / u128::from(rate)) as u64)
            };
            let wait = self.line_free.saturating_sub(now);
            if wait > nanoseconds(self.how.queue) {
                self.counters.overflowed += 1;
                return;
            }
            let marks = self
                .how
                .mark_above
                .is_some_and(|above| wait > nanoseconds(above));
            self.counters.marked += u64::from(marks && mark(&mut frame));
            left = now.max(self.line_free) + nanoseconds(frame.len() as u64);
            self.line_free = left;
        }
        let jitter = self.how.jitter.as_nanos() as u64;
        let shift = Duration::from_nanos(self.random.below(2 * jitter + 1));
        let mut arrives = (left + self.how.delay + shift)
            .saturating_sub(self.how.jitter)
            .max(left);
        if held_back {
            arrives += self.how.reorder_by;
        }
        self.number += 1;
        let number = self.number;
        self.under_way.push(Reverse(UnderWay {
            arrives,
            number,
            frame,
        }));
    }

    /// When the next frame arrives.
    pub fn due(&self) -> Option<Duration> {
        self.under_way.peek().map(|Reverse(next)| next.arrives)
    }

    /// The next frame that has arrived.
    pub fn take(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.due()? > now {
            return None;
        }
        let Reverse(next) = self.under_way.pop()?;
        self.counters.delivered += 1;
        self.counters.bytes += next.frame.len() as u64;
        Some(next.frame)
    }
}

/// It is an IP packet, and none of neighbour discovery.
fn carries_data(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => true,
        Some([0x86, 0xdd]) => frame.get(20) != Some(&58),
        _ => false,
    }
}

/// Marks an ECN-capable packet with "congestion experienced"; whether it was one.
fn mark(frame: &mut [u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) if frame.len() >= 34 && frame[15] & 3 != 0 => {
            frame[15] |= 3;
            frame[24..26].fill(0);
            let header = 14 + usize::from(frame[14] & 15) * 4;
            let Some(words) = frame.get(14..header) else {
                return true;
            };
            let mut sum: u32 = words
                .chunks(2)
                .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
                .sum();
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
            true
        }
        Some([0x86, 0xdd]) if frame.len() >= 54 && frame[15] & 0x30 != 0 => {
            frame[15] |= 0x30;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn frame(number: u16) -> Vec<u8> {
        let mut frame = vec![0; 1000];
        frame[12] = 8;
        frame[100..102].copy_from_slice(&number.to_be_bytes());
        frame
    }

    fn number(frame: &[u8]) -> u16 {
        u16::from_be_bytes([frame[100], frame[101]])
    }

    fn all(direction: &mut Direction) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| direction.take(Duration::MAX)).collect()
    }

    #[test]
    fn a_frame_arrives_after_its_delay() {
        let how = Impairment {
            delay: 20 * MS,
            ..Impairment::default()
        };
        let mut direction = Direction::new(how, 1);
        direction.offer(&frame(1), 5 * MS);
        assert_eq!(direction.due(), Some(25 * MS));
        assert_eq!(direction.take(24 * MS), None);
        assert_eq!(direction.take(25 * MS), Some(frame(1)));
    }

    #[test]
    fn chances_are_kept_and_repeat_with_the_seed() {
        let how = Impairment {
            loss: 0.1,
            duplicate: 0.05,
            corrupt: 0.02,
            ..Impairment::default()
        };
        let run = |seed| {
            let mut direction = Direction::new(how.clone(), seed);
            for number in 0..10_000 {
                direction.offer(&frame(number), Duration::ZERO);
            }
            (all(&mut direction), direction.counters)
        };
        let (frames, counters) = run(7);
        assert!((900..1100).contains(&counters.lost), "{counters}");
        assert!((380..520).contains(&counters.duplicated), "{counters}");
        assert!((130..230).contains(&counters.corrupted), "{counters}");
        assert!(frames == run(7).0 && frames != run(8).0);
    }

    #[test]
    fn held_back_frames_are_overtaken() {
        let how = Impairment {
            reorder: 0.1,
            reorder_by: 3 * MS,
            ..Impairment::default()
        };
        let mut direction = Direction::new(how, 3);
        for number in 0..100 {
            direction.offer(&frame(number), MS * number.into());
        }
        let numbers: Vec<_> = all(&mut direction)
            .iter()
            .map(|frame| number(frame))
            .collect();
        assert!(!numbers.is_sorted());
        assert_eq!(numbers.len(), 100);
    }

    #[test]
    fn a_slow_line_queues_then_loses_and_marks() {
        let how = Impairment {
            rate: Some(8_000_000),
            queue: 10_000,
            mark_above: Some(5_000),
            ..Impairment::default()
        };
        let mut direction = Direction::new(how, 1);
        let mut capable = frame(0);
        capable[14] = 0x45;
        capable[15] = 2;
        for _ in 0..50 {
            direction.offer(&capable, Duration::ZERO);
        }
        // A thousand bytes take a millisecond.
        assert_eq!(direction.due(), Some(MS));
        assert_eq!(direction.counters.overflowed, 39);
        assert_eq!(direction.counters.marked, 5);
        let last = all(&mut direction).pop().expect("a frame");
        assert_eq!(last[15], 3);
    }

    #[test]
    fn neighbour_discovery_is_spared() {
        let how = Impairment {
            loss: 1.0,
            ..Impairment::default()
        };
        let mut direction = Direction::new(how, 1);
        let mut arp = frame(0);
        arp[12..14].copy_from_slice(&[8, 6]);
        direction.offer(&arp, Duration::ZERO);
        direction.offer(&frame(1), Duration::ZERO);
        assert_eq!(all(&mut direction), [arp]);
    }
}
