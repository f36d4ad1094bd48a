//! Connections that have ended and must be remembered for a while: TIME-WAIT, RFC 9293 section 3.6.1.
//!
//! A few numbers for each, in a table of their own; buffers and all else are gone. When there are too many the oldest
//! are forgotten: a lack of memory is worse than what they guard against.

use alloc::collections::VecDeque;

use hashbrown::HashTable;
use kiln_abi::Instant;

use crate::config::Config;
use crate::random::Random;
use crate::table::{Pair, Secret};
use crate::tcp::Segment;
use crate::tcp::time_wait::{TimeWait, Verdict};

/// Bytes that one takes in both lists, roughly.
const EACH: usize = 256;

/// Ended connections by their ends.
pub(crate) struct Ended {
    by_pair: HashTable<(Pair, TimeWait)>,
    /// In the order in which they may be forgotten; one that was restarted is listed again.
    order: VecDeque<(Instant, Pair)>,
    limit: usize,
    secret: Secret,
}

impl Ended {
    pub(crate) fn new(config: &Config, random: &mut Random) -> Self {
        Self {
            by_pair: HashTable::new(),
            order: VecDeque::new(),
            limit: (config.memory_budget / 16 / EACH).clamp(64, 65_536),
            secret: Secret(random.next_u64(), random.next_u64()),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_pair.len()
    }

    #[cfg(test)]
    pub(crate) fn secret(&self) -> Secret {
        self.secret
    }

    pub(crate) fn contains(&self, pair: &Pair) -> bool {
        let hash = self.secret.hash(pair);
        self.by_pair.find(hash, |known| known.0 == *pair).is_some()
    }

    /// The ends of all of them.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = &Pair> {
        self.by_pair.iter().map(|(pair, _)| pair)
    }

    /// Remembers a connection.
    pub(crate) fn insert(&mut self, pair: Pair, ended: TimeWait) {
        let secret = self.secret;
        let hash = secret.hash(&pair);
        self.forget(hash, &pair, Instant::FOREVER);
        while (self.by_pair.len() >= self.limit || self.order.len() >= 2 * self.limit)
            && !self.order.is_empty()
        {
            self.forget_first();
        }
        let rehash = |known: &(Pair, TimeWait)| secret.hash(&known.0);
        self.by_pair.insert_unique(hash, (pair, ended), rehash);
        self.order.push_back((ended.until, pair));
    }

    /// Takes a segment in for an ended connection; nothing if there is none with these ends.
    pub(crate) fn receive(
        &mut self,
        pair: &Pair,
        segment: &Segment<'_>,
        now: Instant,
    ) -> Option<Verdict> {
        let hash = self.secret.hash(pair);
        let (_, ended) = self.by_pair.find_mut(hash, |known| known.0 == *pair)?;
        let until = ended.until;
        let verdict = ended.receive(segment, now);
        if ended.until != until {
            if self.order.len() < 2 * self.limit {
                self.order.push_back((ended.until, *pair));
            } else {
                // What is not listed would never be forgotten.
                ended.until = until;
            }
        }
        if matches!(verdict, Verdict::Reopen(_)) {
            self.remove(pair);
        }
        Some(verdict)
    }

    pub(crate) fn remove(&mut self, pair: &Pair) {
        self.forget(self.secret.hash(pair), pair, Instant::FOREVER);
    }

    /// Forgets one, if its time is over at `now`.
    fn forget(&mut self, hash: u64, pair: &Pair, now: Instant) {
        if let Ok(found) = self.by_pair.find_entry(hash, |known| known.0 == *pair)
            && found.get().1.until <= now
        {
            found.remove();
        }
    }

    /// Forgets those whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_first();
        }
        if self.order.is_empty() && self.order.capacity() > 64 {
            self.order = VecDeque::new();
            self.by_pair = HashTable::new();
        }
    }

    fn forget_first(&mut self) {
        let Some((listed, pair)) = self.order.pop_front() else {
            return;
        };
        self.forget(self.secret.hash(&pair), &pair, listed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::{Flags, Seq};
    use core::time::Duration;

    const PERIOD: Duration = Duration::from_secs(30);

    fn pair(number: usize) -> Pair {
        Pair {
            local: ([10, 0, 0, 1], 80).into(),
            remote: ([10, 0, 0, 2], number as u16).into(),
        }
    }

    fn ended(now: Instant) -> TimeWait {
        TimeWait {
            snd_nxt: Seq(100),
            rcv_nxt: Seq(200),
            until: now + PERIOD,
            period: PERIOD.into(),
            ..TimeWait::default()
        }
    }

    /// The peer's FIN once more, which starts the time again.
    fn last_fin() -> Segment<'static> {
        Segment {
            seq: Seq(199),
            ack: Seq(100),
            flags: Flags::FIN | Flags::ACK,
            joined: 1,
            ..Segment::default()
        }
    }

    fn full(now: Instant) -> Ended {
        let config = Config::new([1; 32]).memory_budget(1);
        let mut table = Ended::new(&config.checked(), &mut Random::new([1; 32]));
        for number in 0..table.limit {
            table.insert(pair(number), ended(now));
        }
        table
    }

    #[test]
    fn repeated_fins_keep_nobody_for_ever() {
        let start = Instant::from_nanos(1 << 40);
        let mut table = full(start);
        // Three times: more restarts than can be listed.
        for second in 1..=3 {
            let now = start + Duration::from_secs(second);
            for number in 0..table.limit {
                let verdict = table.receive(&pair(number), &last_fin(), now);
                assert!(matches!(verdict, Some(Verdict::Answer(_))));
            }
            assert!(table.order.len() <= 2 * table.limit);
        }
        let late = start + Duration::from_secs(4);
        table.insert(pair(table.limit), ended(late));
        assert!(table.len() <= table.limit && table.contains(&pair(table.limit)));
        table.expire(late + PERIOD);
        assert_eq!((table.len(), table.order.len()), (0, 0));
    }

    #[test]
    fn the_oldest_gives_way() {
        let mut table = full(Instant::from_nanos(1 << 40));
        table.insert(pair(table.limit), ended(Instant::from_nanos(1 << 41)));
        assert_eq!(table.len(), table.limit);
        assert!(!table.contains(&pair(0)) && table.contains(&pair(1)));
    }
}
