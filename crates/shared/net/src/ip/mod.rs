//! Everything between a link and the transports: neighbours, addresses, routes, ICMP, fragments, groups.
//!
//! An [`Interface`] is one link as the internet protocols see it. Frames go in ([`Interface::receive`]); what is for a
//! transport comes out, everything else is answered or remembered inside. Time passes with [`Interface::advance`].
//! Frames that the interface itself wants to send go into the link's queue, see [`Context`].
//!
//! | module | what it holds | source |
//! | --- | --- | --- |
//! | `packet` | reading and writing headers, checksums | RFC 791, 8200, 1071 |
//! | `interface` | the interface: what happens to a frame | RFC 1122 |
//! | `neighbor` | ARP and neighbour discovery, one cache | RFC 826, 4861, 5227 |
//! | `address` | which addresses there are, and until when; which one is used as a source | RFC 4862, 6724 |
//! | `router` | router and prefix lists | RFC 4861, 4191, 8106 |
//! | `route` | the next hop | RFC 1122, 4861 |
//! | `dhcp4`, `dhcp6` | DHCP | RFC 2131, 8415 (stateless) |
//! | `icmp` | errors and echo | RFC 792, 1122, 4443 |
//! | `reassembly`, `fragment` | fragments, both ways | RFC 791, 815, 8200, 5722 |
//! | `group` | IGMP and MLD | RFC 2236, 3376, 2710, 3810 |
//! | `path_mtu` | what routers said about packets that were too big | RFC 1191, 8201 |

use alloc::borrow::Cow;
use core::net::{IpAddr, SocketAddr};

use kiln_abi::Instant;

use crate::config::LinkConfig;
use crate::error::Error;
use crate::queue::Queue;
use crate::random::Random;
use crate::stats::Stats;
use crate::tcp::{Ecn, Seq};

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
    /// The packet was too big for a link with this MTU in bytes.
    TooBig(u32),
}

/// What comes out of a received frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input<'f> {
    /// Nothing that concerns a transport.
    Done,
    /// A packet for a transport, complete; transport checksums are not verified yet.
    Packet(Header, Cow<'f, [u8]>),
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

/// One link as the internet protocols see it.
pub(crate) struct Interface {}

#[allow(unused_variables, clippy::unused_self, clippy::needless_pass_by_ref_mut)]
impl Interface {
    /// An interface that comes up now. `config` has been checked.
    pub(crate) fn new(config: &LinkConfig, now: Instant, cx: &mut Context<'_>) -> Self {
        todo!()
    }

    /// The loopback interface: 127.0.0.0/8 and `::1`, no neighbours; frames have an Ethernet header of zeros, and
    /// everything that arrives is taken, since only this stack sends here.
    pub(crate) fn loopback(mtu: u16) -> Self {
        todo!()
    }

    /// Takes in a frame.
    pub(crate) fn receive<'f>(
        &mut self,
        frame: &'f [u8],
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Input<'f> {
        todo!()
    }

    /// Does what is due.
    pub(crate) fn advance(&mut self, now: Instant, cx: &mut Context<'_>) {
        todo!()
    }

    /// When [`advance`](Self::advance) has something to do.
    pub(crate) fn deadline(&self) -> Instant {
        todo!()
    }

    /// What has changed since the last call.
    pub(crate) fn changes(&mut self) -> Changes {
        todo!()
    }

    /// The addresses that may be used, with the lengths of their prefixes: IPv4 first, link-local last; tentative ones are
    /// not there.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        core::iter::empty()
    }

    /// True for an address of this interface that may be used.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        todo!()
    }

    /// The DNS servers learned or configured, in the order in which they are to be asked.
    pub(crate) fn name_servers(&self) -> impl Iterator<Item = IpAddr> {
        core::iter::empty()
    }

    /// The way to `remote` over this interface. Groups and broadcast are on every link.
    pub(crate) fn way(&self, remote: IpAddr) -> Option<Way> {
        todo!()
    }

    /// The Ethernet address of a next hop. Called for each frame that leaves: cheap when it is known. A use keeps the
    /// entry alive and starts unreachability detection when it is stale.
    pub(crate) fn resolve(
        &mut self,
        next_hop: IpAddr,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Resolved {
        todo!()
    }

    /// An upper layer has evidence that the neighbour hears us (RFC 4861 section 7.3.1).
    pub(crate) fn confirm(&mut self, next_hop: IpAddr, now: Instant) {
        todo!()
    }

    /// The Ethernet address.
    pub(crate) fn mac(&self) -> [u8; 6] {
        todo!()
    }

    /// The MTU of the link.
    pub(crate) fn mtu(&self) -> u16 {
        todo!()
    }

    /// The greatest packet that gets through to `remote`, as far as is known.
    pub(crate) fn path_mtu(&self, remote: IpAddr, now: Instant) -> u16 {
        todo!()
    }

    /// Sends a datagram of a transport: `payload` bytes that `fill` writes behind the IP header; the transport's checksum
    /// is the caller's. Fragments what is too long. While the neighbour is looked for, a few datagrams wait inside.
    ///
    /// # Errors
    /// [`Error::MessageTooLong`] if it does not fit even in fragments, [`Error::Exhausted`] if the queue has no room
    /// (the datagram is not sent), [`Error::Unreachable`].
    pub(crate) fn send(
        &mut self,
        outbound: Outbound,
        next_hop: IpAddr,
        payload: usize,
        fill: impl FnOnce(&mut [u8]),
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Result<(), Error> {
        todo!()
    }

    /// A packet came for a port of this host that nobody has: answers with "port unreachable", within a rate limit.
    pub(crate) fn port_unreachable(
        &mut self,
        header: &Header,
        payload: &[u8],
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        todo!()
    }

    /// Joins a group (counted: leave as often).
    pub(crate) fn join(
        &mut self,
        group: IpAddr,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Result<(), Error> {
        todo!()
    }

    /// Leaves a group.
    pub(crate) fn leave(&mut self, group: IpAddr, now: Instant, cx: &mut Context<'_>) {
        todo!()
    }
}

/// Bytes of Ethernet and IP header together, for packets of this stack (no options).
pub(crate) const fn headers_len(v6: bool) -> usize {
    if v6 { ETHERNET_HEADER + 40 } else { ETHERNET_HEADER + 20 }
}

/// Writes Ethernet and IP header for `payload` bytes into exactly [`headers_len`] bytes. IPv4: do not fragment, `id`.
#[allow(unused_variables)]
pub(crate) fn write_headers(
    bytes: &mut [u8],
    outbound: &Outbound,
    macs: ([u8; 6], [u8; 6]),
    payload: usize,
    id: u16,
) {
    todo!()
}

/// True if the transport checksum of a received packet is right.
#[allow(unused_variables)]
pub(crate) fn checksum_is_right(header: &Header, payload: &[u8]) -> bool {
    todo!()
}

/// The sum over the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1), not complemented.
#[allow(unused_variables)]
pub(crate) fn pseudo_sum(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u16 {
    todo!()
}

/// The transport checksum.
pub(crate) fn checksum_of<'a>(
    outbound: &Outbound,
    header: &[u8],
    rest: impl Iterator<Item = &'a [u8]>,
) -> u16 {
    todo!()
}
