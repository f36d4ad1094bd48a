//! Selective acknowledgment.

use super::{Area, View, rules};
use crate::connection::{Placed, Recent};
use crate::ranges::{Place, Ranges, place};
use crate::report::Findings;
use crate::segment::Flags;

rules! {
    NOT_PERMITTED Error "sack-not-permitted", "RFC 2018 2", "SACK blocks are sent only to a peer that sent SACK-permitted";
    UNRECEIVED Error "sack-unreceived", "RFC 2018 3", "SACK blocks cover data that were received";
    FORM Error "sack-form", "RFC 2018 3", "SACK blocks are not empty, above the acknowledgment number and apart from each other";
    FIRST Error "sack-first", "RFC 2018 4", "the first block holds the segment received last";
    DUPLICATE Error "sack-duplicate", "RFC 2883 4", "a D-SACK block covers data that were received twice";
    STALE Warning "sack-stale", "RFC 2018 4", "data just acknowledged are not reported by SACK any more";
    MISSING Warning "sack-missing", "RFC 2018 4", "an acknowledgment tells of data held above a hole";
    OF_SACKED Warning "retransmits-sacked", "RFC 6675 5", "what the peer holds is not sent again before a time-out";
}

/// See [`RULES`].
pub struct Sack;

impl Area for Sack {
    fn sent(&mut self, view: &View, placed: &Placed, findings: &mut Findings) {
        let (connection, input) = (view.connection, &view.connection.input);
        if placed.segment.flags.any(Flags::SYN | Flags::RST) {
            return;
        }
        let blocks = &placed.segment.options.sack;
        let Some((ack, irs)) = placed.ack.zip(input.irs) else {
            return;
        };
        if !blocks.is_empty() && !input.syn.sack_permitted {
            findings.add(&NOT_PERMITTED, "the peer did not");
            return;
        }
        let near = input.next();
        let blocks: Vec<(Place, Place)> = blocks
            .iter()
            .map(|(start, end)| (place(near, irs, *start), place(near, irs, *end)))
            .collect();
        let duplicate = blocks.first().is_some_and(|first| {
            first.0 < ack
                || blocks
                    .get(1)
                    .is_some_and(|next| next.0 <= first.0 && first.1 <= next.1)
        });
        Self::blocks(view, &blocks, duplicate, ack, findings);
        let permitted = input.syn.sack_permitted && connection.output.syn.sack_permitted;
        if blocks.is_empty() && permitted {
            let held = input.recent.iter().any(|one| {
                // Known for long, and still above what this segment acknowledges and its window allows.
                let settled = one.time < view.settled();
                settled && one.start > ack && one.end > one.start && one.end <= input.edge
            });
            if held
                && ack == input.acked()
                && ack < input.next().max(ack + 1)
                && placed.segment.is_empty()
            {
                findings.add(&MISSING, "there is none");
            }
        }
        let output = &connection.output;
        if placed.end > placed.start && placed.end <= output.max && placed.segment.payload.len() > 1
        {
            // The sender forgets what was selectively acknowledged when its timer expires.
            let told_before = output.sacked.covers(placed.start, placed.end);
            let settled = output.evidence.is_some_and(|then| then < view.settled());
            let waited = output.last_sent + view.config.least_rto < view.now;
            let in_recovery = output
                .transmissions
                .values()
                .filter(|sent| sent.count > 1)
                .count()
                > 0;
            if told_before && settled && !waited && !in_recovery {
                findings.add(&OF_SACKED, "it is sacked");
            }
        }
    }
}

impl Sack {
    fn blocks(
        view: &View,
        blocks: &[(Place, Place)],
        duplicate: bool,
        ack: Place,
        findings: &mut Findings,
    ) {
        let input = &view.connection.input;
        let mut told = Ranges::default();
        for (number, (start, end)) in blocks.iter().enumerate() {
            if start >= end {
                findings.add(&FORM, format!("block {number} is empty"));
                continue;
            }
            if !input.received.covers(*start, *end) {
                findings.add(&UNRECEIVED, format!("block {number} is not"));
            }
            if number == 0 && duplicate {
                if !input.twice.touches(*start, *end) && input.received.covers(*start, *end) {
                    let just_acknowledged = *start >= input.acked() && ack > input.acked();
                    let rule = if just_acknowledged {
                        &STALE
                    } else {
                        &DUPLICATE
                    };
                    findings.add(rule, "it came once");
                }
                continue;
            }
            if *start < ack {
                findings.add(
                    &FORM,
                    format!("block {number} is below the acknowledgment number"),
                );
            }
            if told.touches(*start, *end) {
                findings.add(&FORM, format!("block {number} overlaps another"));
            }
            told.insert(*start, *end);
        }
        let above = |one: &&Recent| one.start > ack && one.end > one.start;
        // With one more segment received, not yet processed: the one before it is the last.
        let mut newest_settled = true;
        let mut candidates = input.recent.iter().rev().filter(above).take_while(|one| {
            let lately = one.time >= view.settled();
            lately || std::mem::take(&mut newest_settled)
        });
        let Some(first) = blocks.first().filter(|_| !duplicate) else {
            return;
        };
        let within =
            |block: &(Place, Place), one: &Recent| block.0 <= one.start && one.end <= block.1;
        let mut any = false;
        let lately = candidates.any(|one| {
            any = true;
            within(first, one)
        });
        // What was captured may wait for the host, and an acknowledgment for its capture, for longer than that. But a block says that
        // the segment which brought it was processed, and so everything before it: none of these is the last.
        let processed = |one: &&Recent| one.news && blocks.iter().any(|block| within(block, one));
        let newest = input.recent.iter().rev().filter(above).find(processed);
        let mut waited = input.recent.iter().rev().filter(above);
        let excused = newest.is_none_or(|newest| {
            let mut since = waited.by_ref().take_while(|one| one.time >= newest.time);
            since.any(|one| within(first, one))
        });
        if any && !lately && !excused {
            findings.add(&FIRST, "it holds none of those received lately");
        }
    }
}
