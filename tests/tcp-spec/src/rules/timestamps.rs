//! Timestamps and protection against wrapped sequence numbers.

use super::{Area, View, rules};
use crate::connection::Placed;
use crate::report::Findings;
use crate::segment::Flags;

rules! {
    MISSING Error "timestamps-missing", "RFC 7323 3.2", "once agreed on, every segment but a RST has timestamps";
    UNINVITED Error "timestamps-uninvited", "RFC 7323 3.2", "timestamps are not sent unless agreed on";
    BACKWARDS Error "timestamps-backwards", "RFC 7323 4.1", "TSval does not go back";
    ECHO Error "timestamps-echo", "RFC 7323 4.3", "TSecr is the TSval of a segment at the left edge of the window, or below";
    ECHO_STALE Error "timestamps-echo-stale", "RFC 7323 4.3", "TSecr keeps up with the segments that are acknowledged";
    ECHO_SYN Error "timestamps-echo-syn", "RFC 7323 3.2", "TSecr is zero where ACK is not set";
    PAWS Error "paws", "RFC 7323 5.3", "a segment older than TS.Recent is not accepted";
}

/// See [`RULES`].
#[derive(Default)]
pub struct Timestamps {
    last: Option<u32>,
}

impl Area for Timestamps {
    fn sent(&mut self, view: &View, placed: &Placed, findings: &mut Findings) {
        let (connection, input) = (view.connection, &view.connection.input);
        let flags = placed.segment.flags;
        if flags.has(Flags::RST) {
            return;
        }
        let Some((value, echo)) = placed.segment.options.timestamps else {
            if connection.timestamps() && connection.synchronized() && !flags.has(Flags::SYN) {
                findings.add(&MISSING, "it has none");
            }
            return;
        };
        if !flags.has(Flags::SYN) && connection.synchronized() && !connection.timestamps() {
            findings.add(&UNINVITED, "they are not");
            return;
        }
        if let Some(last) = self.last
            && value.wrapping_sub(last).cast_signed() < 0
        {
            findings.add(&BACKWARDS, format!("it was {last}"));
        }
        self.last = Some(value);
        if !flags.has(Flags::ACK) {
            if echo != 0 {
                findings.add(&ECHO_SYN, "it is not");
            }
            return;
        }
        if input.ts_possible.is_empty() {
            return;
        }
        if !input
            .ts_possible
            .iter()
            .any(|(_, possible)| *possible == echo)
        {
            findings.add(
                &ECHO,
                format!("the last such was {:?}", input.ts_possible.back()),
            );
        } else if let Some(known) = input.ts_recent.at(view.settled())
            && known.wrapping_sub(echo).cast_signed() > 0
        {
            findings.add(&ECHO_STALE, format!("it must be {known} at least"));
        }
    }
}
