//! Values that change, with their past: a capture does not say what the host had seen when it sent something.

use std::collections::VecDeque;

use super::MEMORY;
use crate::segment::Time;

/// A value with the time from which it holds.
#[derive(Clone, Debug, Default)]
pub struct History<T>(VecDeque<(Time, T)>);

impl<T: Copy> History<T> {
    /// A new value.
    pub fn push(&mut self, now: Time, value: T) {
        self.0.push_back((now, value));
        // One value older than all that matters stays: it held at the beginning of that time.
        while self.0.len() > 1 && self.0[1].0 + MEMORY < now {
            self.0.pop_front();
        }
    }

    /// The value that held at a time.
    pub fn at(&self, time: Time) -> Option<T> {
        let after = self.0.partition_point(|(since, _)| *since <= time);
        after.checked_sub(1).map(|last| self.0[last].1)
    }

    /// The value that holds.
    pub fn last(&self) -> Option<T> {
        self.0.back().map(|(_, value)| *value)
    }

    /// The values that held at some time since.
    pub fn since(&self, time: Time) -> impl Iterator<Item = T> {
        let first = self
            .0
            .partition_point(|(since, _)| *since <= time)
            .saturating_sub(1);
        self.0.iter().skip(first).map(|(_, value)| *value)
    }

    /// Values with the time from which they hold.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &(Time, T)> {
        self.0.iter()
    }
}
