//! Everything between a link and the transports: neighbours, addresses, routes, ICMP, fragments, groups.
//!
//! An [`Interface`] is one link as the internet protocols see it. Frames go in ([`Interface::receive`]); what is for a
//! transport comes out, everything else is answered or remembered inside. Time passes with [`Interface::advance`].
//! Frames that the interface itself wants to send go into the link's queue, see [`Context`].
//!
//! | module | what it holds | source |
//! | --- | --- | --- |
//! | `packet` | reading and writing headers, checksums | RFC 791, 8200, 1071 |
//! | `interface` | the interface: its parts and their timers | |
//! | `input` | what happens to a frame | RFC 1122 |
//! | `neighbor` | ARP and neighbour discovery, one cache | RFC 826, 4861, 5227 |
//! | `configure` | how addresses and routes come and go | RFC 4862, 2131 |
//! | `address` | which addresses there are, and until when; which one is used as a source | RFC 4862, 6724 |
//! | `router` | router and prefix lists | RFC 4861, 4191, 8106 |
//! | `output` | from datagrams to frames | RFC 1122 |
//! | `route` | the next hop | RFC 1122, 4861 |
//! | `dhcp4`, `dhcp6` | DHCP | RFC 2131, 8415 (stateless) |
//! | `icmp` | errors and echo | RFC 792, 1122, 4443 |
//! | `reassembly`, `fragment` | fragments, both ways | RFC 791, 815, 8200, 5722 |
//! | `group` | IGMP and MLD | RFC 2236, 3376, 2710, 3810 |
//! | `path_mtu` | what routers said about packets that were too big | RFC 1191, 8201 |

mod address;
mod configure;
mod dhcp4;
mod dhcp6;
mod fragment;
mod group;
mod icmp;
mod input;
mod interface;
mod neighbor;
mod output;
mod packet;
mod path_mtu;
mod reassembly;
mod route;
mod router;

#[cfg(test)]
mod tests;

use alloc::borrow::Cow;
use core::net::{IpAddr, SocketAddr};

use crate::error::Error;
use crate::queue::Queue;
use crate::random::Random;
use crate::stats::Stats;
use crate::tcp::{Ecn, Seq};

pub(crate) use address::in_network;
pub(crate) use interface::Interface;
pub(crate) use packet::{
    ICMP, ICMPV6, add_sums, checksum_is_right, headers_len, pseudo_sum, sum, write_headers,
};

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET_HEADER: usize = 14;

/// Protocol numbers of transports.
pub(crate) const TCP: u8 = 6;
/// See [`TCP`].
pub(crate) const UDP: u8 = 17;

/// What an interface needs from its owner while it works.
pub(crate) struct Context<'a> {
    pub queue: &'a mut Queue,
    pub random: &'a mut Random,
    pub stats: &'a mut Stats,
    pub hostname: &'a str,
}

impl Context<'_> {
    /// Queues a frame of `len` bytes that `fill` writes; they are 0 before. False, and counted, if there is no room.
    #[inline(never)]
    fn frame(&mut self, len: usize, fill: output::Fill<'_>) -> bool {
        self.queue.frame(len, fill)
    }
}

/// What a transport has to know of a received packet's IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub ecn: Ecn,
    pub hop_limit: u8,
}

/// An ICMP error about a packet of this stack, checked as far as that can be done here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub protocol: u8,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub kind: TroubleKind,
    /// The sequence number of the TCP segment that is quoted.
    pub seq: Option<Seq>,
}

/// See [`Trouble`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TroubleKind {
    /// Protocol or port unreachable, or forbidden: nobody is there.
    Hard(Error),
    /// Net or host unreachable, time exceeded: may pass.
    Soft(Error),
    /// A packet of `length` bytes was too big for a link that carries `mtu` (0: the router does not say). To be told to
    /// [`Interface::too_big`] by a transport that can have sent the packet.
    TooBig { mtu: u32, length: u32 },
}

/// What comes out of a received frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input<'f> {
    /// Nothing that concerns a transport.
    Done,
    /// A packet for a transport, complete; transport checksums are not verified yet.
    Packet(Header, Cow<'f, [u8]>),
    /// The packet is an answer to an echo request; only within this module.
    Echo,
    /// An error about a packet that a transport has sent.
    Trouble(Trouble),
}

/// What has changed since it was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Addresses or routes.
    pub addresses: bool,
    /// A neighbour that was looked for was found, or not.
    pub neighbors: bool,
}

/// The way to a destination over one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// Length of the prefix that matched: the longest of several interfaces wins.
    pub prefix: u8,
    pub next_hop: IpAddr,
    /// The source address that RFC 6724 chooses.
    pub source: IpAddr,
}

/// The neighbour's Ethernet address, or why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolved {
    Known([u8; 6]),
    /// It is being looked for; [`Changes::neighbors`] tells when that has ended.
    Wait,
    /// Nobody answers. Asking again later starts again.
    Failed,
}

/// A packet to be sent: its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outbound {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub hop_limit: u8,
    pub ecn: Ecn,
}

/// The checksum of a transport's packet, complemented: over the pseudo-header, `header`, whose checksum field is 0, and
/// the pieces behind it.
pub(crate) fn checksum_of<'a>(
    outbound: &Outbound,
    header: &[u8],
    rest: impl Iterator<Item = &'a [u8]>,
) -> u16 {
    let mut total = sum(header);
    let mut length = header.len();
    for piece in rest {
        let part = sum(piece);
        // A piece that starts in the middle of a word has its bytes in the other halves.
        total = add_sums(
            total,
            if length.is_multiple_of(2) {
                part
            } else {
                part.swap_bytes()
            },
        );
        length += piece.len();
    }
    let pseudo = pseudo_sum(
        outbound.source,
        outbound.destination,
        outbound.protocol,
        length,
    );
    !add_sums(total, pseudo)
}
