//! Resets, and what must not cause one.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Area, View, rules};
use crate::connection::Placed;
use crate::ranges::{ORIGIN, Place};
use crate::report::Findings;
use crate::segment::{Flags, Segment, Time};

rules! {
    SEQUENCE Error "reset-sequence", "RFC 9293 3.10.7.4", "a RST has SND.NXT, or the acknowledgment number it answers, as its sequence number";
    RESPONSE Error "reset-response", "RFC 9293 3.10.7.1", "without a connection a RST takes its numbers from the segment it answers";
    OF_RESET Error "reset-of-reset", "RFC 9293 3.10.7.1", "a RST is not answered";
    AFTER Error "sent-after-reset", "RFC 9293 3.10.7.4", "after a RST nothing but RSTs is sent";
    BLIND_RESET Error "blind-reset", "RFC 5961 3.2", "a RST that is not exactly at RCV.NXT does not end a connection";
    BLIND_SYN Error "blind-syn", "RFC 5961 4.2", "a SYN does not end an established connection";
    BLIND_DATA Error "blind-data", "RFC 5961 5.2", "data with an impossible acknowledgment number are not accepted";
    CHALLENGE Warning "challenge-ack", "RFC 5961 3.2", "a SYN or RST that may be forged is answered by an acknowledgment";
}

/// See [`RULES`].
#[derive(Default)]
pub struct Resets {
    /// Acknowledgment numbers received lately.
    acks: VecDeque<Place>,
    /// A forged RST or SYN was received, which one, and is not answered.
    forged: Option<(Time, Forged)>,
    /// One was received at any time.
    ever: Option<Forged>,
    /// Data were received after it, which a living connection takes.
    data_after: bool,
    acknowledged: Option<Time>,
}

#[derive(Clone, Copy, PartialEq)]
enum Forged {
    Reset,
    Syn,
}

impl Area for Resets {
    fn received(&mut self, view: &View, placed: &Placed, _: &mut Findings) {
        let (connection, flags) = (view.connection, placed.segment.flags);
        self.acks.extend(placed.ack);
        if self.acks.len() > 1000 {
            self.acks.pop_front();
        }
        if !connection.established() || connection.closed() {
            return;
        }
        let input = &connection.input;
        let in_window = placed.start > input.next() && placed.start < input.last_edge;
        let forged = if flags.has(Flags::RST) && in_window {
            Forged::Reset
        } else if flags.has(Flags::SYN) && placed.start != ORIGIN {
            Forged::Syn
        } else {
            self.data_after |= placed.end > placed.start;
            return;
        };
        self.ever = Some(forged);
        self.data_after = false;
        // Challenges are limited in number; one just sent may be all there is.
        if self
            .acknowledged
            .is_none_or(|then| then + Duration::from_secs(1) < view.now)
        {
            self.forged = Some((view.now, forged));
        }
    }

    fn sent(&mut self, view: &View, placed: &Placed, findings: &mut Findings) {
        let (connection, flags) = (view.connection, placed.segment.flags);
        if flags.has(Flags::ACK) && !flags.has(Flags::RST) {
            self.forged = None;
            self.acknowledged = Some(view.now);
        }
        if let Some(reset) = connection.reset {
            let known = reset.by_host || reset.time < view.settled();
            if known && !flags.has(Flags::RST) {
                findings.add(&AFTER, format!("it was at {:?}", reset.time));
            }
            return;
        }
        if !flags.has(Flags::RST) || connection.output.isn.is_none() {
            return;
        }
        let output = &connection.output;
        let lowest = output.una_known(view.now, view.config);
        let next = (lowest..=output.max).contains(&placed.start);
        let answers = self.acks.contains(&placed.start);
        match self.ever {
            Some(Forged::Syn) if self.forged.is_some() => findings.add(&BLIND_SYN, "it did"),
            Some(Forged::Reset) if self.data_after && answers && !flags.has(Flags::ACK) => {
                findings.add(&BLIND_RESET, "data after it are refused");
            }
            _ => {}
        }
        if !next && !answers {
            findings.add(
                &SEQUENCE,
                format!(
                    "SND.NXT is {} further",
                    output.max.saturating_sub(placed.start)
                ),
            );
        }
    }

    fn passed(&mut self, view: &View, findings: &mut Findings) {
        if view.connection.reset.is_some() {
            self.forged = None;
        }
        if let Some((since, _)) = self.forged
            && view.now > since + Duration::from_secs(1) + view.config.lag
        {
            findings.add(&CHALLENGE, format!("the one of {since:?} was not"));
            self.forged = None;
        }
    }
}

/// Judges a RST that the host sends where it has no connection, by what it has received.
pub fn stray<'a>(
    segment: &Segment,
    received: impl Iterator<Item = &'a Segment>,
    findings: &mut Findings,
) {
    let mut resets_only = true;
    let mut any = false;
    let mut answers = false;
    for cause in received {
        any = true;
        resets_only &= cause.flags.has(Flags::RST);
        answers |= if cause.flags.has(Flags::ACK) {
            segment.seq == cause.ack
        } else {
            segment.seq == 0
                && segment.flags.has(Flags::ACK)
                && segment.ack == cause.seq.wrapping_add(cause.len())
        };
    }
    if any && resets_only {
        findings.add(&OF_RESET, "only RSTs were received");
    } else if any && !answers {
        findings.add(&RESPONSE, "it answers nothing that was received");
    }
}
