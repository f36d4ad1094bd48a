//! The ranges of sequence numbers on their way, and what has become of each.
//!
//! A range is recorded as it was sent: 64 KiB that the link cuts apart are one [`Record`], until the peer reports that a
//! part of it has arrived. Ranges that have arrived are joined, so a peer that repeats its blocks in each
//! acknowledgement, as it must, costs a binary search for each and no more. Sums are kept; nothing is ever counted by going
//! through the records.
//!
//! The record sent last is held in the scoreboard itself: a request with one answer on its way allocates nothing.

use alloc::boxed::Box;
use alloc::collections::VecDeque;

use kiln_abi::Instant;

use crate::tcp::{Block, Seq};

/// With more records than these no more are split for a peer's blocks, and new data join the last one.
const MAX_RECORDS: usize = 4096;
/// Lost records that touch are given together up to this length.
const LONGEST_LOST: u32 = 64 * 1024;
/// Ages are counted in units of 2^20 ns.
const AGE_SHIFT: u32 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Flying,
    Sacked,
    Lost,
}

/// A range. The next record starts where it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    /// When it left last.
    pub(super) sent: Instant,
    pub(super) start: Seq,
    pub(super) end: Seq,
    /// How long before it left for the first time.
    age: u32,
    pub(super) transmissions: u8,
    pub(super) state: State,
    /// It is in [`Scoreboard::resent`], not in the order of time.
    pub(super) resent: bool,
}

impl Record {
    fn len(&self) -> u32 {
        self.end.since(self.start)
    }
}

/// A range that was sent again, in the order in which that happened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resent {
    pub(super) sent: Instant,
    pub(super) block: Block,
}

/// What was found to have arrived.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrived {
    /// Bytes acknowledged that no block had reported.
    pub(super) cumulative: u32,
    /// Bytes reported by blocks.
    pub(super) selective: u32,
    /// When that part left that was sent last, of those sent once: its round trip is certain.
    pub(super) sent_once: Option<Instant>,
    /// The part that was sent last: when, where it ends, and whether it was sent more than once.
    pub(super) latest: Option<(Instant, Seq, bool)>,
    /// The lowest end of what was sent once.
    pub(super) lowest: Option<Seq>,
    /// The highest end of all.
    pub(super) highest: Option<Seq>,
    /// Something that was sent more than once has arrived.
    pub(super) again: bool,
    /// Something counted as lost has arrived without being sent again.
    pub(super) not_lost: bool,
}

impl Arrived {
    fn note(&mut self, record: &Record) {
        let end = record.end;
        if self.highest.is_none_or(|highest| highest < end) {
            self.highest = Some(end);
        }
        self.again |= record.transmissions > 1;
        if record.transmissions <= 1 {
            self.not_lost |= record.state == State::Lost && record.transmissions == 1;
            if self.lowest.is_none_or(|lowest| end < lowest) {
                self.lowest = Some(end);
            }
            if record.transmissions == 1 && self.sent_once.is_none_or(|sent| sent < record.sent) {
                self.sent_once = Some(record.sent);
            }
        }
        if self
            .latest
            .is_none_or(|(sent, last, _)| sent < record.sent || sent == record.sent && last < end)
        {
            self.latest = Some((record.sent, end, record.transmissions > 1));
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Scoreboard {
    older: VecDeque<Record>,
    newest: Option<Record>,
    #[allow(clippy::box_collection, reason = "most connections never need it")]
    pub(super) resent: Option<Box<VecDeque<Resent>>>,
    /// SND.UNA.
    pub(super) una: Seq,
    /// Behind the last record.
    pub(super) nxt: Seq,
    /// Bytes of records of this state.
    pub(super) sacked: u32,
    /// The same.
    pub(super) lost: u32,
    /// No record before it is lost.
    lost_from: Seq,
    /// Records before it that were sent once are known to have arrived or to be lost.
    pub(super) judged: Seq,
}

impl Scoreboard {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.newest.is_none()
    }

    /// Bytes sent and not acknowledged cumulatively: `FlightSize`.
    #[inline]
    pub(super) fn outstanding(&self) -> u32 {
        self.nxt.since(self.una)
    }

    fn count(&self) -> usize {
        self.older.len() + usize::from(self.newest.is_some())
    }

    pub(super) fn get(&self, index: usize) -> Option<&Record> {
        if index == self.older.len() {
            self.newest.as_ref()
        } else {
            self.older.get(index)
        }
    }

    fn get_mut(&mut self, index: usize) -> Option<&mut Record> {
        if index == self.older.len() {
            self.newest.as_mut()
        } else {
            self.older.get_mut(index)
        }
    }

    pub(super) fn first(&self) -> Option<&Record> {
        self.get(0)
    }

    /// The number of the record with `seq`, or of the first one behind.
    pub(super) fn find(&self, seq: Seq) -> usize {
        match self.older.back() {
            Some(last) if seq < last.end => self.older.partition_point(|r| r.end <= seq),
            _ => self.older.len() + usize::from(self.newest.is_some_and(|r| r.end <= seq)),
        }
    }

    /// Makes two records of the one with this number; the second begins at `seq`.
    fn split(&mut self, index: usize, seq: Seq) {
        let Some(record) = self.get_mut(index) else {
            return;
        };
        let first = Record {
            end: seq,
            ..*record
        };
        record.start = seq;
        if index == self.older.len() {
            self.older.push_back(first);
        } else {
            self.older.insert(index, first);
        }
    }

    /// Nothing is on its way, and what is sent next starts here.
    pub(super) fn start_at(&mut self, seq: Seq) {
        self.una = seq;
        self.nxt = seq;
        self.judged = seq;
    }

    /// New data have left, behind everything.
    pub(super) fn push(&mut self, end: Seq, now: Instant) {
        let full = self.count() >= MAX_RECORDS;
        let start = self.nxt;
        self.nxt = end;
        if let Some(last) = &mut self.newest
            && last.state == State::Flying
            && !last.resent
            && last.transmissions == 1
            && (last.sent == now || full)
        {
            last.age = age(last, now);
            last.sent = now;
            last.end = end;
            return;
        }
        let record = Record {
            sent: now,
            start,
            end,
            age: 0,
            transmissions: 1,
            state: State::Flying,
            resent: false,
        };
        if let Some(last) = self.newest.replace(record) {
            self.older.push_back(last);
        }
    }

    /// Calls `change` for each record in `block`, split at its ends.
    fn each(&mut self, block: Block, mut change: impl FnMut(&mut Self, usize)) {
        let mut index = self.find(block.start);
        while let Some(&record) = self.get(index) {
            if record.start >= block.end {
                return;
            }
            if record.state != State::Sacked {
                if record.start < block.start {
                    self.split(index, block.start);
                    index += 1;
                }
                if record.end > block.end {
                    self.split(index, block.end);
                }
                change(self, index);
            }
            index += 1;
        }
    }

    /// A range has left again; `judged_by_time` if RACK will ask when. Returns how many bytes that were.
    pub(super) fn resend(&mut self, block: Block, judged_by_time: bool, now: Instant) -> u32 {
        let mut bytes = 0;
        self.each(block, |board, index| {
            let Some(record) = board.get_mut(index) else {
                return;
            };
            let was_lost = record.state == State::Lost;
            let len = record.len();
            record.state = State::Flying;
            record.age = age(record, now);
            record.sent = now;
            record.transmissions = record.transmissions.saturating_add(1);
            record.resent = true;
            bytes += len;
            if was_lost {
                board.lost -= len;
            }
        });
        if judged_by_time {
            let resent = self.resent.get_or_insert_default();
            match resent.back_mut() {
                Some(last) if last.sent == now && last.block.end == block.start => {
                    last.block.end = block.end;
                }
                _ => resent.push_back(Resent { sent: now, block }),
            }
        }
        self.settle();
        bytes
    }

    /// A range did not leave after all: it is to be sent again.
    pub(super) fn not_sent(&mut self, block: Block) {
        self.each(block, |board, index| {
            if let Some(record) = board.get_mut(index)
                && record.state == State::Flying
            {
                record.transmissions = record.transmissions.saturating_sub(1);
                board.lose(index);
            }
        });
    }

    /// A record on its way counts as lost.
    pub(super) fn lose(&mut self, index: usize) {
        let Some(record) = self.get_mut(index) else {
            return;
        };
        record.state = State::Lost;
        let (start, len) = (record.start, record.len());
        if self.lost == 0 || start < self.lost_from {
            self.lost_from = start;
        }
        self.lost += len;
    }

    /// The first `len` bytes count as lost if they are on their way: without blocks nothing more is known. Returns how
    /// many bytes that were.
    pub(super) fn lose_first(&mut self, len: u32) -> u32 {
        match self.first() {
            Some(record) if record.state == State::Flying => {
                let end = record.start + len;
                if end < record.end {
                    self.split(0, end);
                }
                let before = self.lost;
                self.lose(0);
                self.lost - before
            }
            _ => 0,
        }
    }

    /// Everything on its way counts as lost. Returns how many bytes that were.
    pub(super) fn lose_all(&mut self) -> u32 {
        let before = self.lost;
        for index in 0..self.count() {
            if self.get(index).is_some_and(|r| r.state == State::Flying) {
                self.lose(index);
            }
        }
        self.resent = None;
        self.judged = self.nxt;
        self.lost - before
    }

    /// What was lost and not sent again is on its way after all.
    pub(super) fn find_again(&mut self) {
        for index in 0..self.count() {
            if let Some(record) = self.get_mut(index)
                && record.state == State::Lost
                && record.transmissions > 0
            {
                record.state = State::Flying;
                self.lost -= self.get(index).map_or(0, Record::len);
            }
        }
        self.judged = self.una;
        self.settle();
    }

    /// The peer may have dropped what it reported as arrived (RFC 2018 section 8): it is on its way again.
    pub(super) fn forget_sacked(&mut self) {
        for index in 0..self.count() {
            if let Some(record) = self.get_mut(index)
                && record.state == State::Sacked
            {
                record.state = State::Flying;
                // No round trip is to be measured with it.
                record.transmissions = record.transmissions.max(2);
            }
        }
        self.sacked = 0;
    }

    /// Everything before `ack` has arrived.
    pub(super) fn acknowledge(&mut self, ack: Seq, arrived: &mut Arrived) {
        if self.is_empty() {
            self.start_at(ack);
            return;
        }
        while let Some(record) = self.get_mut(0)
            && record.start < ack
        {
            let part = Record {
                end: record.end.min(ack),
                ..*record
            };
            record.start = part.end;
            let done = record.end == part.end;
            let len = part.len();
            if part.state == State::Sacked {
                self.sacked -= len;
            } else {
                if part.state == State::Lost {
                    self.lost -= len;
                }
                arrived.cumulative += len;
                arrived.note(&part);
            }
            if done && self.older.pop_front().is_none() {
                self.newest = None;
            }
        }
        self.una = self.una.max(ack);
        self.judged = self.judged.max(self.una);
        if let Some(resent) = self.resent.as_deref_mut() {
            while resent.front().is_some_and(|r| r.block.end <= self.una) {
                resent.pop_front();
            }
            if resent.is_empty() {
                self.resent = None;
            }
        }
        if self.newest.is_none() {
            self.nxt = self.una;
            self.older = VecDeque::new();
            self.resent = None;
        }
        self.settle();
    }

    /// A block reports that a range has arrived. The caller has checked that it lies between SND.UNA and SND.NXT.
    pub(super) fn sack(&mut self, block: Block, arrived: &mut Arrived) {
        let first = self.find(block.start);
        let mut index = first;
        let mut changed = false;
        while let Some(&record) = self.get(index)
            && record.start < block.end
        {
            let full = self.count() >= MAX_RECORDS;
            if record.state == State::Sacked {
                index += 1;
            } else if record.start < block.start {
                if full {
                    index += 1;
                    continue;
                }
                self.split(index, block.start);
                index += 1;
            } else if record.end > block.end {
                if full {
                    break;
                }
                self.split(index, block.end);
            } else {
                arrived.note(&record);
                arrived.selective += record.len();
                self.sacked += record.len();
                if record.state == State::Lost {
                    self.lost -= record.len();
                }
                if let Some(record) = self.get_mut(index) {
                    record.state = State::Sacked;
                }
                changed = true;
                index += 1;
            }
        }
        if changed {
            self.join(first.saturating_sub(1), index + 1);
            self.settle();
        }
    }

    /// Joins records that have arrived, among those from `first` to before `end`. The newest one stays apart.
    fn join(&mut self, mut first: usize, end: usize) {
        let mut end = end.min(self.older.len());
        while first < end {
            let sacked = |r: &&Record| r.state == State::Sacked;
            let run = self.older.range(first..end).take_while(sacked).count();
            if run >= 2
                && let Some(last) = self.older.get(first + run - 1).map(|r| r.end)
                && let Some(record) = self.older.get_mut(first)
            {
                record.end = last;
                self.older.drain(first + 1..first + run);
                end -= run - 1;
            }
            first += 1;
        }
    }

    /// Moves `lost_from` to the first record that is lost.
    fn settle(&mut self) {
        if self.lost == 0 {
            return;
        }
        let mut index = self.find(self.lost_from);
        while let Some(record) = self.get(index) {
            if record.state == State::Lost {
                self.lost_from = record.start;
                return;
            }
            index += 1;
        }
    }

    /// The first range that is lost.
    #[inline]
    pub(super) fn next_lost(&self) -> Option<Block> {
        if self.lost == 0 {
            return None;
        }
        self.first_lost()
    }

    fn first_lost(&self) -> Option<Block> {
        let mut index = self.find(self.lost_from);
        let first = self.get(index)?;
        let start = first.start;
        let mut end = first.end;
        while let Some(record) = self.get(index + 1)
            && record.state == State::Lost
            && record.end.since(start) <= LONGEST_LOST
        {
            end = record.end;
            index += 1;
        }
        Some(Block { start, end })
    }

    /// The last `len` bytes at most that are on their way.
    pub(super) fn tail(&self, len: u32) -> Option<Block> {
        let record = (0..self.count())
            .rev()
            .filter_map(|index| self.get(index))
            .find(|record| record.state == State::Flying)?;
        let start = record.start.max(record.end - len);
        Some(Block {
            start,
            end: record.end,
        })
    }

    /// When the first record left for the first time.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let record = self.first()?;
        let age = u64::from(record.age) << AGE_SHIFT;
        Some(Instant::from_nanos(
            record.sent.as_nanos().saturating_sub(age),
        ))
    }
}

/// The age of a record that leaves again.
fn age(record: &Record, now: Instant) -> u32 {
    let more = now.since(record.sent).as_nanos() as u64 >> AGE_SHIFT;
    record
        .age
        .saturating_add(u32::try_from(more).unwrap_or(u32::MAX))
}

#[cfg(test)]
impl Scoreboard {
    /// All records, and whether memory is held for them.
    pub(super) fn records(&self) -> (std::vec::Vec<Record>, bool) {
        let records = self.older.iter().chain(&self.newest).copied().collect();
        (records, self.older.capacity() > 0 || self.resent.is_some())
    }

    /// How many repetitions are remembered.
    pub(super) fn repetitions(&self) -> usize {
        self.resent.as_deref().map_or(0, VecDeque::len)
    }
}
