//! Explicit congestion notification.

use super::{Area, View, rules};
use crate::connection::Placed;
use crate::ranges::Place;
use crate::report::Findings;
use crate::segment::{Codepoint, Flags, Time};

rules! {
    SETUP Error "ecn-setup", "RFC 3168 6.1.1", "a SYN-ACK has ECE, without CWR, only if the SYN had ECE and CWR";
    UNINVITED Error "ecn-uninvited", "RFC 3168 6.1.1", "ECT, ECE and CWR are not used unless agreed on";
    CONTROL Error "ecn-control", "RFC 3168 6.1.4", "SYNs and pure acknowledgments are not ECT";
    RETRANSMISSION Error "ecn-retransmission", "RFC 3168 6.1.5", "retransmissions and window probes are not ECT";
    ECHO Error "ecn-echo", "RFC 3168 6.1.3", "after CE every acknowledgment has ECE until CWR comes";
    CWR_MISSING Error "ecn-cwr-missing", "RFC 3168 6.1.2", "after ECE the next new data have CWR";
    CWR_UNCALLED Warning "ecn-cwr-uncalled", "RFC 3168 6.1.2", "CWR tells of a reduction that had a reason";
}

/// See [`RULES`].
#[derive(Default)]
pub struct Ecn {
    /// CE came, and no CWR since.
    marked: Option<(Time, Place)>,
    /// ECE came that wants an answer, and when.
    told: Option<Time>,
    /// Until this is acknowledged, ECE asks for no other reduction than the one made.
    reduced: Place,
    /// There was a reason for a reduction.
    reason: bool,
}

impl Area for Ecn {
    fn received(&mut self, view: &View, placed: &Placed, _: &mut Findings) {
        let (connection, segment) = (view.connection, placed.segment);
        if !connection.ecn() || segment.flags.any(Flags::SYN | Flags::RST) {
            return;
        }
        if segment.flags.has(Flags::CWR) {
            self.marked = None;
        }
        let new = placed.end > connection.input.next();
        if segment.ecn == Codepoint::Ce && new && !segment.payload.is_empty() {
            self.marked.get_or_insert((view.now, placed.end));
        }
        if segment.flags.has(Flags::ECE) {
            self.reason = true;
            if placed.ack.is_some_and(|ack| ack > self.reduced) {
                self.told.get_or_insert(view.now);
            }
        }
    }

    fn sent(&mut self, view: &View, placed: &Placed, findings: &mut Findings) {
        let (connection, segment) = (view.connection, placed.segment);
        let (flags, ect) = (segment.flags, segment.ecn != Codepoint::NotEct);
        if flags.has(Flags::RST) {
            return;
        }
        if flags.has(Flags::SYN) {
            if ect {
                findings.add(&CONTROL, "the SYN is");
            }
            let offered = connection.input.syn_flags.has(Flags::ECE | Flags::CWR);
            let wrong = flags.any(Flags::CWR) || flags.has(Flags::ECE) && !offered;
            if flags.has(Flags::ACK) && !connection.host_opens && wrong {
                findings.add(&SETUP, "it is otherwise");
            }
            return;
        }
        if !connection.ecn() {
            if connection.synchronized() && (ect || flags.any(Flags::ECE | Flags::CWR)) {
                findings.add(&UNINVITED, "they are not");
            }
            return;
        }
        let output = &connection.output;
        let again = !segment.payload.is_empty() && placed.start < output.max;
        let probe = segment.payload.len() == 1
            && output
                .edge
                .since(view.settled())
                .all(|edge| edge < placed.end);
        if ect && placed.end == placed.start {
            findings.add(&CONTROL, "it is");
        }
        if ect && (again || probe) {
            findings.add(&RETRANSMISSION, "it is");
        }
        self.reason |= again;
        if again {
            // A loss has reduced the window already.
            self.reduced = output.max;
            self.told = None;
        }
        if let Some((since, end)) = self.marked
            && (since < view.settled() || placed.ack.is_some_and(|ack| ack >= end))
            && !flags.has(Flags::ECE)
        {
            findings.add(&ECHO, "it has none");
        }
        if flags.has(Flags::CWR) {
            if !self.reason {
                findings.add(&CWR_UNCALLED, "there was none");
            }
            self.told = None;
            self.reduced = output.max.max(placed.end);
            self.reason = false;
        } else if let Some(since) = self.told
            && !again
            && !segment.payload.is_empty()
            && since < view.settled()
        {
            findings.add(&CWR_MISSING, format!("ECE came at {since:?}"));
            self.told = None;
        }
    }
}
