//! The direction to the tested host: what it was given, and what it has said of that.

use std::collections::VecDeque;

use super::History;
use crate::ranges::{ORIGIN, Place, Ranges};
use crate::rules::Rule;
use crate::segment::{Flags, Options, Time};

/// Data that the host was not allowed to take, and why.
#[derive(Clone, Copy)]
pub struct Rejected {
    /// First place.
    pub start: Place,
    /// One past the last.
    pub end: Place,
    /// The rule.
    pub rule: &'static Rule,
}

/// The direction to the tested host.
#[derive(Default)]
pub struct Input {
    /// The sequence number of the SYN.
    pub irs: Option<u32>,
    /// The options of the SYN.
    pub syn: Options,
    /// Its flags.
    pub syn_flags: Flags,
    /// What was received, SYN and FIN included.
    pub received: Ranges,
    /// One past what was received without a hole, with its past.
    pub next: History<Place>,
    /// The place of the FIN.
    pub fin: Option<Place>,
    /// One past the highest place the host has acknowledged, with its past.
    pub acked: History<Place>,
    /// The right edge the host offers, at its furthest.
    pub edge: Place,
    /// The right edge the host offered last.
    pub last_edge: Place,
    /// The largest window the host has offered.
    pub largest_window: u64,
    /// The largest data segment received.
    pub largest_segment: u64,
    /// Data that must not be taken.
    pub rejected: Vec<Rejected>,
    /// Everything received lately.
    pub recent: VecDeque<Recent>,
    /// Data received a second time.
    pub twice: Ranges,
    /// The newest `TSval` that the host must have taken as TS.Recent (RFC 7323 section 4.3), with its past.
    pub ts_recent: History<u32>,
    /// Each `TSval` the host may have taken as TS.Recent.
    pub ts_possible: VecDeque<(Time, u32)>,
}

/// What a segment brought.
#[derive(Clone, Copy, Debug)]
pub struct Recent {
    /// When it came.
    pub time: Time,
    /// Its first place.
    pub start: Place,
    /// One past its last byte. A FIN out of order need not be kept.
    pub end: Place,
    /// Some of it had not come before.
    pub news: bool,
}

impl Input {
    /// RCV.NXT if everything received is processed.
    pub fn next(&self) -> Place {
        self.next.last().unwrap_or(ORIGIN)
    }

    /// What the host has acknowledged.
    pub fn acked(&self) -> Place {
        self.acked.last().unwrap_or(ORIGIN)
    }

    /// Remembers what of a range was received before.
    pub(super) fn note_repeated(&mut self, from: Place, to: Place) {
        let known: Vec<_> = self.received.iter().collect();
        for (start, end) in known {
            self.twice.insert(start.max(from), end.min(to));
        }
    }
}
