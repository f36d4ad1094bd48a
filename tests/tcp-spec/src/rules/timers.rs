//! Retransmission: not without a reason, not too early, backing off.
//!
//! The specification does not compute the host's RTO. Without any sign of loss (a duplicate acknowledgment, a SACK
//! block, a partial acknowledgment, ICMP) only a timer can be the reason, and no timer of RFC 6298 or RFC 8985 is
//! shorter than one round trip.

use std::time::Duration;

use super::{Area, View, rules};
use crate::connection::Placed;
use crate::ranges::{ORIGIN, Place};
use crate::report::Findings;
use crate::segment::{Flags, Time, TooBig};

rules! {
    EARLY Error "retransmission-early", "RFC 6298 5", "nothing is sent again within a round trip without a sign of loss";
    LEAST Warning "rto-minimum", "RFC 6298 2.4", "the time-out has a lower limit";
    BACKOFF Error "rto-backoff", "RFC 6298 5.5", "the time-out doubles each time it expires";
    INITIAL Warning "rto-initial", "RFC 6298 2.1", "before any measurement the time-out is one second";
}

/// See [`RULES`].
#[derive(Default)]
pub struct Timers {
    /// The place retransmitted last by a timer, when, and the interval before.
    expired: Option<(Place, Time, Duration)>,
    /// When anything was received last.
    received: Option<Time>,
    /// Since when a time-out has declared lost what was sent before.
    timeout: Option<Time>,
    /// A reason of another kind.
    told: Option<Time>,
    /// The highest place outstanding when a recovery began.
    recovery: Option<Place>,
}

impl Area for Timers {
    fn received(&mut self, view: &View, placed: &Placed, _: &mut Findings) {
        self.received = Some(view.now);
        // A repeated SYN asks for the SYN-ACK again; a repeated FIN or segment shows that an acknowledgment was lost.
        let input = &view.connection.input;
        if placed.end > placed.start && placed.end <= input.next() {
            self.told = Some(view.now);
        }
    }

    fn too_big(&mut self, view: &View, _: &TooBig) {
        self.told = Some(view.now);
    }

    fn sent(&mut self, view: &View, placed: &Placed, findings: &mut Findings) {
        let output = &view.connection.output;
        if placed.segment.flags.has(Flags::RST)
            || placed.end == placed.start
            || placed.start >= output.max
        {
            return;
        }
        let una = output.una();
        let Some(last) = output.transmission(placed.start.max(una)) else {
            // Acknowledged meanwhile: the host did not know.
            return;
        };
        let closed = output.edge.since(view.settled()).any(|edge| edge <= una);
        if closed && placed.end - placed.start <= 1 {
            // A window probe.
            return;
        }
        let since_sent = view.now.saturating_sub(last.time);
        let after = |moment: Option<Time>| {
            moment.is_some_and(|then| then + view.config.lag >= last.time && then <= view.now)
        };
        let recovering = self.recovery.is_some_and(|end| una < end);
        let signs = after(output.evidence)
            || after(self.timeout.filter(|then| *then > last.time))
            || after(self.told);
        if signs && output.evidence >= self.timeout {
            if !recovering {
                self.recovery = Some(output.max);
            }
            self.expired = None;
            return;
        }
        let repeated = match self.expired {
            Some((place, then, before))
                if place == placed.start
                    && self.received.is_none_or(|received| received < then) =>
            {
                Some((view.now.saturating_sub(then), before))
            }
            _ => None,
        };
        if signs && repeated.is_none() {
            return;
        }
        let shortest = output.least_rtt.unwrap_or(Duration::ZERO);
        let tail = placed.end == output.max;
        let syn = placed.start == ORIGIN;
        if since_sent < shortest.mul_f64(0.9) {
            findings.add(
                &EARLY,
                format!(
                    "{since_sent:?} after it was sent; the shortest round trip was {shortest:?}"
                ),
            );
        } else if syn && since_sent < Duration::from_millis(900) {
            findings.add(&INITIAL, format!("it was {since_sent:?}"));
        } else if !tail && since_sent < view.config.least_rto {
            findings.add(&LEAST, format!("{since_sent:?} after it was sent"));
        }
        if let Some((interval, before)) = repeated {
            // The first may have been shortened by a tail loss probe. Hosts stop doubling at a minute (RFC 6298 2.5).
            let grown = before == Duration::ZERO
                || interval >= before.mul_f64(1.8)
                || before > Duration::from_secs(30);
            if !grown {
                findings.add(&BACKOFF, format!("{interval:?} after {before:?}"));
            }
        }
        self.timeout = Some(view.now);
        let interval = repeated.map_or(Duration::ZERO, |(interval, _)| interval);
        self.expired = Some((placed.start, view.now, interval));
    }
}
