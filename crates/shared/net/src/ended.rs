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

    pub(crate) fn contains(&self, pair: &Pair) -> bool {
        let hash = self.secret.hash(pair);
        self.by_pair.find(hash, |known| known.0 == *pair).is_some()
    }

    /// Remembers a connection.
    pub(crate) fn insert(&mut self, pair: Pair, ended: TimeWait) {
        self.remove(&pair);
        while (self.by_pair.len() >= self.limit || self.order.len() >= 2 * self.limit)
            && !self.order.is_empty()
        {
            self.forget_first();
        }
        let secret = self.secret;
        self.by_pair
            .insert_unique(secret.hash(&pair), (pair, ended), |known| {
                secret.hash(&known.0)
            });
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
        let hash = self.secret.hash(pair);
        if let Ok(found) = self.by_pair.find_entry(hash, |known| known.0 == *pair) {
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
        let hash = self.secret.hash(&pair);
        if let Ok(found) = self.by_pair.find_entry(hash, |known| known.0 == pair)
            && found.get().1.until <= listed
        {
            found.remove();
        }
    }
}
