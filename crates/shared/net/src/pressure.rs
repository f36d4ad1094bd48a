//! When memory is short.
//!
//! Buffers grow with what is in them, and their limits add up to more than there is. What connections hold is counted
//! against seven eighths of the stack's budget; the rest is for queues, datagrams and fragments. As it fills up, load is
//! shed in this order:
//!
//! 1. from 7/8: what lies behind gaps is given up (the peer sends it again), and SYNs are answered with cookies, so nothing
//!    is kept of them;
//! 2. still from 7/8: connections that no program holds any more are forgotten, the older half of them at a time;
//! 3. when it is full: data that arrive for a connection with unread data are dropped, writes beyond a few KiB wait, and
//!    nobody new is let in.
//!
//! Established connections that a program holds are never reset for memory.

use alloc::vec::Vec;
use core::time::Duration;

use kiln_abi::Instant;

use crate::connections::{Connection, Phase};
use crate::stack::Core;
use crate::table::Key;

/// Bytes that a connection takes besides its buffers: itself, and its places in the tables.
pub(crate) const EACH: usize = size_of::<Connection>() + 64;
const _: () = assert!(EACH <= 1024, "an idle connection takes more than one KiB");
/// Written data that a connection may hold even when memory is short.
pub(crate) const SPARE_WRITTEN: usize = 4096;
/// Between two looks at all connections.
const RELIEF_INTERVAL: Duration = Duration::from_millis(100);

impl Core {
    fn limit(&self) -> usize {
        self.config.memory_budget / 8 * 7
    }

    fn used(&self) -> usize {
        self.connections.held + self.connections.table.len() * EACH
    }

    /// True if the next stage is to be shed.
    pub(crate) fn is_short(&self) -> bool {
        self.used() > self.limit() / 8 * 7
    }

    /// True if there is no room for more data.
    pub(crate) fn is_full(&self) -> bool {
        self.used() > self.limit()
    }

    /// True if one more connection fits.
    pub(crate) fn has_room(&self) -> bool {
        self.used() + EACH <= self.limit() / 8 * 7
    }

    /// Makes sure that one more connection fits, at the expense of those that nobody holds any more.
    pub(crate) fn make_room(&mut self) -> bool {
        if self.used() + EACH > self.limit() {
            self.relieve();
        }
        let fits = self.used() + EACH <= self.limit();
        self.stats.refused += u64::from(!fits);
        fits
    }

    /// Sheds load, stages 1 and 2.
    pub(crate) fn relieve(&mut self) {
        if self.now.since(self.connections.relieved) < RELIEF_INTERVAL {
            return;
        }
        self.connections.relieved = self.now;
        self.stats.memory_shortages += 1;
        self.connections.spare = Vec::new();
        let keys: Vec<Key> = self.connections.table.iter().map(|(key, _)| key).collect();
        for key in keys {
            if let Some(connection) = self.connections.table.get_mut(key)
                && connection.counted > 0
                && connection.tcb.shed() > 0
            {
                self.settle(key);
            }
        }
        if !self.is_short() || self.connections.lingering == 0 {
            return;
        }
        // The older half of them, by the time they have left: the next look takes the next half.
        let left = |connection: &Connection| match connection.phase {
            Phase::Lingering { until, .. } => Some(until),
            _ => None,
        };
        let (mut first, mut last) = (Instant::FOREVER, Instant::ZERO);
        for (_, connection) in self.connections.table.iter() {
            if let Some(until) = left(connection) {
                (first, last) = (first.min(until), last.max(until));
            }
        }
        let middle = first + last.since(first) / 2;
        let mut old = Vec::new();
        for (key, connection) in self.connections.table.iter() {
            if left(connection).is_some_and(|until| until <= middle) {
                old.push(key);
            }
        }
        for key in old {
            // A peer with something more to say gets a reset for it.
            self.stats.lingering_dropped += 1;
            self.remove(key);
        }
    }
}
