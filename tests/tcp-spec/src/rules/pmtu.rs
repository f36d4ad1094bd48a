//! Path MTU discovery.

use super::{Area, View, rules};
use crate::connection::Placed;
use crate::report::Findings;
use crate::segment::{Time, TooBig};

rules! {
    IGNORED Error "pmtu-ignored", "RFC 8201 4", "after Packet Too Big, packets are no larger than it says";
}

/// What a host need not go below: RFC 1191 lets it refuse less, RFC 8200 section 5 has no link below 1280.
const LEAST: [u32; 2] = [552, 1280];

/// See [`RULES`].
#[derive(Default)]
pub struct Pmtu {
    told: Option<(Time, u32)>,
}

impl Area for Pmtu {
    fn sent(&mut self, view: &View, placed: &Placed, findings: &mut Findings) {
        if let Some((since, mtu)) = self.told
            && since < view.settled()
            && placed.segment.packet_len > mtu as usize
            && !view.config.offload
        {
            findings.add(
                &IGNORED,
                format!("{} bytes, and {mtu} pass", placed.segment.packet_len),
            );
        }
    }

    fn too_big(&mut self, view: &View, message: &TooBig) {
        let connection = view.connection;
        let Some(isn) = connection.output.isn else {
            return;
        };
        let quoted = crate::ranges::place(connection.output.max, isn, message.quoted_seq);
        // RFC 5927 section 4.1: a message about what is not in flight may be forged.
        let in_flight = quoted >= connection.output.una() && quoted < connection.output.max;
        let mtu = message
            .mtu
            .max(LEAST[usize::from(connection.peer.is_ipv6())]);
        if in_flight && self.told.is_none_or(|(_, before)| mtu < before) {
            self.told = Some((view.now, mtu));
        }
    }
}
