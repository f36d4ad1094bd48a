//! The form of segments.

use super::{Area, Rule, View, rules};
use crate::connection::Placed;
use crate::report::Findings;
use crate::segment::Flags;

rules! {
    CHECKSUM Error "checksum", "RFC 9293 3.1", "the checksum must be right";
    FLAGS Error "flags", "RFC 9293 3.10.7", "SYN excludes FIN and RST";
    RESERVED Error "reserved-bits", "RFC 9293 3.1", "reserved bits must be zero";
    ACK_ALWAYS Error "ack-always", "RFC 9293 3.1", "once established, ACK is always sent";
    OPTIONS Error "options", "RFC 9293 3.2", "options must have their right length";
    SYN_OPTIONS Error "options-of-syn", "RFC 9293 3.2", "MSS, window scale and SACK-permitted stand in SYNs only";
}

/// See [`RULES`].
pub struct Format;

impl Area for Format {
    fn sent(&mut self, view: &View, placed: &Placed, findings: &mut Findings) {
        let segment = placed.segment;
        let flags = segment.flags;
        let mut check = |rule: &'static Rule, broken: bool| {
            if broken {
                findings.add(rule, "it is otherwise");
            }
        };
        check(&CHECKSUM, !segment.checksum_ok && !view.config.offload);
        check(
            &FLAGS,
            flags.has(Flags::SYN) && flags.any(Flags::FIN | Flags::RST),
        );
        check(&RESERVED, flags.any(Flags::RESERVED));
        check(
            &ACK_ALWAYS,
            !flags.any(Flags::SYN | Flags::RST | Flags::ACK),
        );
        let options = &segment.options;
        check(&OPTIONS, options.malformed);
        let of_syn =
            options.mss.is_some() || options.window_scale.is_some() || options.sack_permitted;
        check(&SYN_OPTIONS, of_syn && !flags.has(Flags::SYN));
    }
}
