//! Opening a connection. (The choice of the ISN for a connection that was there before is judged in
//! [`crate::flows`], which remembers it.)

use super::{Area, View, rules};
use crate::connection::Placed;
use crate::ranges::ORIGIN;
use crate::report::Findings;
use crate::segment::Flags;

rules! {
    SCALE_UNOFFERED Error "window-scale-unoffered", "RFC 7323 2.2", "a SYN-ACK has the window scale option only if the SYN had it";
    SCALE_LIMIT Error "window-scale-limit", "RFC 7323 2.3", "the shift is at most 14";
    SACK_UNOFFERED Warning "sack-unoffered", "RFC 2018 2", "SACK-permitted answers a peer that sent it";
    TIMESTAMPS_UNOFFERED Error "timestamps-unoffered", "RFC 7323 3.2", "a SYN-ACK has timestamps only if the SYN had them";
    MSS_EXCEEDED Error "mss", "RFC 9293 3.7.1", "data and options fit the peer's MSS";
    SYN_CHANGED Error "syn-changed", "RFC 9293 3.10.7", "a SYN is repeated with the same sequence number";
    SYN_ACK_NUMBER Error "syn-ack-number", "RFC 9293 3.10.7.2", "a SYN-ACK acknowledges the SYN and nothing more";
    DATA_EARLY Error "data-before-handshake", "RFC 9293 3.10.2", "data and FIN wait for the peer's SYN";
    ISN_REUSE Error "isn-reuse", "RFC 9293 3.4.1", "a new incarnation starts above the sequence numbers of the one before";
    ISN_SAME Warning "isn-predictable", "RFC 6528 3", "different connections have different initial sequence numbers";
}

/// See [`RULES`].
pub struct Handshake;

impl Area for Handshake {
    fn sent(&mut self, view: &View, placed: &Placed, findings: &mut Findings) {
        let (connection, segment) = (view.connection, placed.segment);
        let options = &segment.options;
        let data = segment.payload.len() as u64;
        if segment.flags.has(Flags::SYN) {
            if segment.flags.has(Flags::ACK) && !connection.host_opens {
                let offered = &connection.input.syn;
                if options.window_scale.is_some() && offered.window_scale.is_none() {
                    findings.add(&SCALE_UNOFFERED, "the SYN had none");
                }
                if options.sack_permitted && !offered.sack_permitted {
                    findings.add(&SACK_UNOFFERED, "the SYN had none");
                }
                if options.timestamps.is_some() && offered.timestamps.is_none() {
                    findings.add(&TIMESTAMPS_UNOFFERED, "the SYN had none");
                }
                if let Some(irs) = connection.input.irs
                    && segment.ack != irs.wrapping_add(1)
                    && view.connection.input.next() <= ORIGIN + 1
                {
                    findings.add(&SYN_ACK_NUMBER, format!("the SYN was {irs}"));
                }
            }
            if options.window_scale.is_some_and(|shift| shift > 14) {
                findings.add(&SCALE_LIMIT, format!("it is {:?}", options.window_scale));
            }
            if connection.output.isn.is_some_and(|isn| isn != segment.seq) {
                findings.add(&SYN_CHANGED, format!("it was {:?}", connection.output.isn));
            }
            return;
        }
        if segment.flags.has(Flags::RST) {
            return;
        }
        if placed.end > placed.start && connection.input.irs.is_none() {
            findings.add(&DATA_EARLY, "the peer's SYN was not received");
        }
        let limit = connection.peer_mss();
        if connection.synchronized()
            && data > 0
            && !view.config.offload
            && data + options.length as u64 > limit
        {
            findings.add(&MSS_EXCEEDED, format!("it is {limit}"));
        }
    }
}
