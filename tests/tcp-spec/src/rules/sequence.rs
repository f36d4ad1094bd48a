//! Sequence and acknowledgment numbers.

use super::{Area, View, rules};
use crate::connection::Placed;
use crate::ranges::ORIGIN;
use crate::report::Findings;
use crate::segment::Flags;

rules! {
    GAP Error "sequence-gap", "RFC 9293 3.4", "new data follow the data sent before";
    DIFFERS Error "retransmission-differs", "RFC 9293 3.4", "a retransmission repeats the same bytes";
    AFTER_FIN Error "data-after-fin", "RFC 9293 3.6", "nothing follows a FIN";
    FIN_MOVED Error "fin-moved", "RFC 9293 3.6", "the FIN keeps its sequence number";
    BEYOND_WINDOW Error "beyond-window", "RFC 9293 3.8.6", "new data stay within the offered window, but for a probe of one byte into a closed one";
    ACK_UNRECEIVED Error "ack-unreceived", "RFC 9293 3.4", "only what was received without a hole is acknowledged";
    ACK_BACKWARDS Error "ack-backwards", "RFC 9293 3.10.7.4", "acknowledgment numbers do not go back";
    EMPTY_SEQUENCE Error "empty-sequence", "RFC 9293 3.10.7.4", "a segment without data is sent at SND.NXT";
}

/// See [`RULES`].
pub struct Sequence;

impl Area for Sequence {
    fn sent(&mut self, view: &View, placed: &Placed, findings: &mut Findings) {
        let connection = view.connection;
        let output = &connection.output;
        let flags = placed.segment.flags;
        if flags.has(Flags::RST) {
            return;
        }
        if let Some(ack) = placed.ack {
            Self::acknowledgment(view, ack, findings);
        }
        if output.isn.is_none() {
            return;
        }
        if placed.start > output.max {
            let hole = placed.start - output.max;
            findings.add(&GAP, format!("{hole} sequence numbers are left out"));
        }
        if placed.end == placed.start {
            // A window probe or keep-alive is one below; after a time-out SND.NXT may be anywhere from SND.UNA.
            let lowest = output.una_known(view.now, view.config).saturating_sub(1);
            if placed.start < lowest.max(ORIGIN) {
                findings.add(
                    &EMPTY_SEQUENCE,
                    format!("it is {} below SND.UNA", lowest + 1 - placed.start),
                );
            }
        }
        if let Some(fin) = output.fin {
            if placed.end > fin + 1 || !placed.segment.payload.is_empty() && placed.data_end() > fin
            {
                findings.add(&AFTER_FIN, "a FIN was sent");
            }
            if placed.fin().is_some_and(|again| again != fin) {
                findings.add(&FIN_MOVED, "an earlier FIN was elsewhere");
            }
        } else if placed.fin().is_some_and(|fin| fin < output.max) {
            findings.add(&FIN_MOVED, "data beyond it were sent before");
        }
        if let Some(edge) = output.furthest_edge(view.now, view.config)
            && placed.end > output.max.max(edge)
        {
            let closed = edge <= output.una() || edge <= output.max;
            let beyond = placed.end - edge.max(output.max.min(placed.end));
            let probe =
                closed && placed.end - placed.start <= 1 && placed.start <= edge.max(output.una());
            if !probe {
                findings.add(&BEYOND_WINDOW, format!("{beyond} bytes are beyond"));
            }
        }
    }
}

impl Sequence {
    fn acknowledgment(view: &View, ack: u64, findings: &mut Findings) {
        let input = &view.connection.input;
        if input.irs.is_none() {
            return;
        }
        if ack > input.next() {
            let hole = (input.next(), ack);
            let rejected = input
                .rejected
                .iter()
                .find(|rejected| rejected.start <= hole.0 && rejected.end > hole.0);
            match rejected {
                Some(rejected) => findings.add(rejected.rule, "its data are acknowledged"),
                None => findings.add(
                    &ACK_UNRECEIVED,
                    format!("{} bytes more are acknowledged", ack - input.next()),
                ),
            }
        } else if ack < input.acked() {
            findings.add(
                &ACK_BACKWARDS,
                format!("{} less than before", input.acked() - ack),
            );
        }
    }
}

/// Judged where the bytes are kept.
pub fn content(
    view: &View,
    placed: &Placed,
    stream: &mut crate::stream::Stream,
    findings: &mut Findings,
) {
    if placed.segment.flags.has(Flags::RST) || placed.start > view.connection.output.max {
        return;
    }
    if let Some(at) = stream.add(placed.data(), &placed.segment.payload) {
        findings.add(&DIFFERS, format!("byte {} of the stream", at - ORIGIN - 1));
    }
}
