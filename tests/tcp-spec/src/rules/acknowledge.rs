//! When to acknowledge.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Area, View, rules};
use crate::connection::Placed;
use crate::ranges::Place;
use crate::report::Findings;
use crate::segment::{Flags, Time};

rules! {
    LATE Error "ack-late", "RFC 9293 3.8.6.3", "data in order are acknowledged within half a second";
    SECOND Warning "ack-every-second", "RFC 9293 3.8.6.3", "at least every second full-sized segment is acknowledged";
    OUT_OF_ORDER Warning "ack-out-of-order", "RFC 5681 4.2", "a segment out of order is acknowledged at once";
    EXCESS Error "ack-excess", "RFC 5681 4.2", "one segment is answered by one acknowledgment at most";
    AFTER_FIN Error "half-close-data", "RFC 9293 3.10.7.4", "data that come after the host's own FIN are acknowledged, or the connection is reset";
}

/// The longest that an acknowledgment may be delayed.
const LONGEST: Duration = Duration::from_millis(500);
/// "At once", with all that a busy machine may put between.
const AT_ONCE: Duration = Duration::from_millis(100);

/// See [`RULES`].
#[derive(Default)]
pub struct Acknowledge {
    /// What must be acknowledged: since when, and up to where.
    due: VecDeque<(Time, Place)>,
    /// Segments out of order that no acknowledgment has followed yet.
    out_of_order: Option<Time>,
    /// Full-sized segments without an acknowledgment.
    full: Option<(u32, Time)>,
    /// Acknowledgments that may still be sent.
    credit: u64,
}

impl Area for Acknowledge {
    fn received(&mut self, view: &View, placed: &Placed, _: &mut Findings) {
        let input = &view.connection.input;
        self.credit += 1;
        if !view.connection.established()
            || placed.segment.flags.any(Flags::RST | Flags::SYN)
            || placed.end == placed.start
        {
            return;
        }
        let acceptable = placed.end > input.next() && placed.end <= input.last_edge.min(input.edge);
        if !acceptable {
            return;
        }
        if placed.start > input.next() {
            self.out_of_order.get_or_insert(view.now);
            return;
        }
        // A TSval or ACK that the host must refuse takes the duty away.
        let refused = placed
            .segment
            .options
            .timestamps
            .zip(input.ts_recent.last());
        let refused = refused
            .is_some_and(|((value, _), recent)| recent.wrapping_sub(value).cast_signed() > 0);
        let no_ack = placed
            .ack
            .is_none_or(|ack| ack > view.connection.output.max);
        if refused || no_ack {
            return;
        }
        self.due.push_back((view.now, placed.end));
        if placed.segment.payload.len() as u64 >= input.largest_segment.max(536) {
            let (count, _) = self.full.unwrap_or((0, view.now));
            self.full = Some((count + 1, view.now));
        }
    }

    fn sent(&mut self, view: &View, placed: &Placed, findings: &mut Findings) {
        let (connection, segment) = (view.connection, placed.segment);
        if segment.flags.has(Flags::RST) {
            *self = Self::default();
            return;
        }
        let Some(ack) = placed.ack else { return };
        while self.due.front().is_some_and(|(_, end)| *end <= ack) {
            self.due.pop_front();
        }
        self.out_of_order = None;
        if let Some((count, last)) = self.full.take()
            && count > 4
            && ack < connection.input.next()
            && last < view.settled()
        {
            findings.add(&SECOND, format!("{count} were not"));
        }
        let input = &connection.input;
        let repeats = segment.is_pure_ack()
            && connection.established()
            && ack == input.acked()
            && ack + connection.window(placed) == input.last_edge
            && placed.start >= connection.output.una();
        if repeats {
            if self.credit == 0 {
                findings.add(&EXCESS, "nothing was received since the last");
            }
            self.credit = self.credit.saturating_sub(1);
        } else if ack > input.acked() {
            // An acknowledgment of something new is owed for one segment at least.
            self.credit = self.credit.saturating_sub(1);
        }
    }

    fn passed(&mut self, view: &View, findings: &mut Findings) {
        if view.connection.reset.is_some() {
            *self = Self::default();
            return;
        }
        let late = |since: Time, limit: Duration| view.now > since + limit + view.config.lag;
        if let Some((since, _)) = self.due.front().copied()
            && late(since, LONGEST)
        {
            let rule = if view.connection.output.fin.is_some() {
                &AFTER_FIN
            } else {
                &LATE
            };
            findings.add(rule, format!("what came at {since:?} is not"));
            self.due.clear();
        }
        if let Some(since) = self.out_of_order
            && late(since, AT_ONCE)
        {
            findings.add(&OUT_OF_ORDER, format!("what came at {since:?} is not"));
            self.out_of_order = None;
        }
        if let Some((count, last)) = self.full
            && count > 2
            && late(last, AT_ONCE)
        {
            findings.add(&SECOND, format!("{count} segments are not"));
            self.full = None;
        }
    }
}
