//! UDP for programs.
//!
//! A datagram that is sent goes at once into the queue of its link. Datagrams that arrive wait in the socket, up to a limit
//! (see [`Config`](crate::Config)); those beyond it are lost, as they may be anywhere on their way. Several tasks may use
//! one socket.

mod socket;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::task::{Poll, Waker};

use crate::addresses::peer;
use crate::direct::{BindOptions, Ready, Received, SendOptions, Watch};
use crate::error::Error;
use crate::ingress::HOP_LIMIT;
use crate::ip::{self, Header, Outbound, Trouble, TroubleKind};
use crate::listen::overlap_of;
use crate::ports::Ports;
use crate::stack::{Core, LOOPBACK};
use crate::stats::Stats;
use crate::tcp::Ecn;
use crate::wait::WaitQueue;

pub use socket::UdpSocket;

/// Bytes of a header, RFC 768.
const UDP_HEADER: usize = 8;
/// What a waiting datagram takes besides its data.
const OVERHEAD: usize = 64;
/// The longest datagram over IPv4: 65535 less headers.
const LONGEST4: usize = 65_507;
/// The same over IPv6.
const LONGEST6: usize = 65_527;

/// A datagram that has arrived.
pub(crate) struct Datagram {
    source: SocketAddr,
    destination: IpAddr,
    /// Over which link it came.
    port: u8,
    hop_limit: u8,
    pub data: Box<[u8]>,
}

/// One that is just arriving.
struct Arriving<'a> {
    from: SocketAddr,
    to: SocketAddr,
    port: usize,
    hop_limit: u8,
    limit: usize,
    data: &'a [u8],
}

/// What became of a datagram.
pub(crate) enum Sent {
    /// It is in the link's queue.
    Gone,
    /// The queue of this link has no room.
    NoRoom(usize),
}

/// A socket.
pub(crate) struct Entry {
    id: u32,
    pub local: SocketAddr,
    only: Option<u8>,
    pub options: BindOptions,
    peer: Option<SocketAddr>,
    /// What a router or the peer's host said about a datagram; told once.
    pub error: Option<Error>,
    pub arrived: VecDeque<Datagram>,
    /// Bytes that those take.
    held: usize,
    /// The most that they may take, if not as much as others.
    pub limit: Option<usize>,
    /// Datagrams that found no room.
    pub dropped: u32,
    readers: WaitQueue,
    pub watch: Option<Rc<dyn Watch>>,
    /// The link whose queue had no room for the last datagram.
    pub blocked: Option<u8>,
    /// Groups that were joined, with their links.
    groups: Vec<(IpAddr, usize)>,
}

impl Entry {
    /// Keeps a datagram. Returns what it takes: nothing if it was dropped.
    fn take_in(&mut self, datagram: &Arriving<'_>) -> usize {
        let cost = datagram.data.len() + OVERHEAD;
        if self.held + cost > self.limit.unwrap_or(datagram.limit) {
            self.dropped = self.dropped.wrapping_add(1);
            return 0;
        }
        self.held += cost;
        self.arrived.push_back(Datagram {
            source: datagram.from,
            destination: datagram.to.ip(),
            port: datagram.port as u8,
            hop_limit: datagram.hop_limit,
            data: datagram.data.into(),
        });
        self.readers.wake();
        if let Some(watch) = &self.watch {
            watch.changed(Ready::READ);
        }
        cost
    }

    /// True if the datagram that an ICMP error quotes may be from here.
    fn can_have_sent(&self, trouble: &Trouble) -> bool {
        let local = self.local.ip();
        (local.is_unspecified() || local == trouble.local.ip())
            && self.peer.is_none_or(|peer| peer == trouble.remote)
    }

    /// How well a datagram fits: 0 if it is for another socket.
    fn fit(&self, to: SocketAddr, from: SocketAddr, port: usize) -> u8 {
        if self
            .only
            .is_some_and(|only| usize::from(only) != port && port != LOOPBACK)
        {
            return 0;
        }
        if self.peer.is_some_and(|peer| peer != from) {
            return 0;
        }
        let wildcard = self.local.ip().is_unspecified();
        let family = if self.local.is_ipv6() {
            to.is_ipv6() || !self.options.v6only
        } else {
            to.is_ipv4()
        };
        if !(self.local.ip() == to.ip() || wildcard && family) {
            return 0;
        }
        1 + u8::from(!wildcard)
            + 2 * u8::from(self.peer.is_some())
            + 4 * u8::from(self.only.is_some())
    }
}

/// All UDP sockets, by port.
#[derive(Default)]
pub(crate) struct UdpTable {
    by_port: Ports<Entry>,
    sockets: usize,
    /// Bytes in all buffers.
    held: usize,
}

impl UdpTable {
    fn get(&mut self, port: u16, id: u32) -> Result<&mut Entry, Error> {
        let mut entries = self.by_port.at_mut(port).iter_mut();
        let found = entries.find(|entry| entry.id == id);
        found.ok_or(Error::NotConnected)
    }

    pub(crate) fn count(&self, stats: &mut Stats) {
        stats.udp_sockets = self.sockets;
        stats.buffer_bytes += self.held;
    }
}

impl Core {
    pub(crate) fn bind_udp(
        &mut self,
        address: SocketAddr,
        options: BindOptions,
        only: Option<u8>,
    ) -> Result<(u32, SocketAddr), Error> {
        let mut local = SocketAddr::new(address.ip(), address.port());
        let group = local.ip().is_multicast();
        if !local.ip().is_unspecified() && !group && !self.is_own(local.ip()) {
            return Err(Error::AddressNotAvailable);
        }
        let taken = |core: &Self, port: u16| {
            core.udp.by_port.at(port).iter().any(|entry| {
                let same_link = entry.only.is_none() == only.is_none()
                    && entry.only.is_none_or(|known| only == Some(known));
                let shared = entry.options.reuse_address && options.reuse_address
                    || entry.options.reuse_port && options.reuse_port;
                let (a, b) = (entry.local.ip(), local.ip());
                same_link && !shared && overlap_of((a, entry.options.v6only), (b, options.v6only))
            })
        };
        if local.port() == 0 {
            local.set_port(self.free_port(taken).ok_or(Error::AddressInUse)?);
        } else if taken(self, local.port()) {
            return Err(Error::AddressInUse);
        }
        let id = self.id();
        self.udp.sockets += 1;
        let entry = Entry {
            id,
            local,
            only,
            options,
            peer: None,
            error: None,
            arrived: VecDeque::new(),
            held: 0,
            limit: None,
            dropped: 0,
            readers: WaitQueue::default(),
            watch: None,
            blocked: None,
            groups: Vec::new(),
        };
        self.udp.by_port.push(local.port(), entry);
        Ok((id, local))
    }

    /// Takes in a datagram for a socket.
    pub(crate) fn receive_datagram(&mut self, port: usize, header: &Header, payload: &[u8]) {
        let Some((source, destination, data)) = parse(payload) else {
            self.ports[port].stats.dropped_malformed += 1;
            return;
        };
        let to = SocketAddr::new(header.destination, destination);
        let from = SocketAddr::new(header.source, source);
        let limit = self.config.udp_buffer();
        let many = match to.ip() {
            IpAddr::V4(address) => address.is_multicast() || !self.is_own(to.ip()),
            IpAddr::V6(address) => address.is_multicast(),
        };
        let datagram = Arriving {
            from,
            to,
            port,
            hop_limit: header.hop_limit,
            limit,
            data,
        };
        let entries = self.udp.by_port.at_mut(destination);
        let mut chosen: Option<((u8, u64), usize)> = None;
        let (mut held, mut given, mut lost) = (0, 0, 0);
        let mut give = |entry: &mut Entry| {
            let taken = entry.take_in(&datagram);
            held += taken;
            given += u64::from(taken > 0);
            lost += u64::from(taken == 0);
        };
        for (number, entry) in entries.iter_mut().enumerate() {
            let fit = entry.fit(to, from, port);
            if fit == 0 {
                continue;
            }
            if many {
                // A copy for each who wants it.
                let joined = entry.groups.iter().any(|(group, _)| *group == to.ip());
                if joined || !to.ip().is_multicast() {
                    give(entry);
                }
                continue;
            }
            // Of several whose address may be taken again the last one gets it; those that share it have each their part of the peers.
            let turn = if entry.options.reuse_port {
                spread(from, number)
            } else {
                number as u64
            };
            if chosen.is_none_or(|(known, _)| known < (fit, turn)) {
                chosen = Some(((fit, turn), number));
            }
        }
        if let Some(entry) = chosen.and_then(|(_, number)| entries.get_mut(number)) {
            give(entry);
        } else if !many {
            self.stats.datagrams_unwanted += 1;
            let now = self.now;
            let (interface, mut context) = self.port(port);
            interface.port_unreachable(header, payload, now, &mut context);
            return;
        }
        self.udp.held += held;
        self.stats.datagrams_in += given;
        self.stats.dropped_udp_full += lost;
    }

    /// An ICMP error about a datagram: told to a socket that has a peer, once. The path MTU is learned if a socket can have
    /// sent the datagram.
    pub(crate) fn datagram_trouble(&mut self, port: usize, trouble: &Trouble) {
        let error = match trouble.kind {
            TroubleKind::Hard(error) => error,
            TroubleKind::Soft(_) => return,
            TroubleKind::TooBig { mtu, length } => {
                let mut entries = self.udp.by_port.at(trouble.local.port()).iter();
                if trouble.protocol == ip::UDP && entries.any(|entry| entry.can_have_sent(trouble))
                {
                    let interface = &mut self.ports[port].interface;
                    interface.too_big(trouble.remote.ip(), mtu, length, self.now);
                }
                return;
            }
        };
        for entry in self.udp.by_port.at_mut(trouble.local.port()) {
            if entry.peer == Some(trouble.remote) {
                entry.error = Some(error);
                entry.readers.wake();
                if let Some(watch) = &entry.watch {
                    watch.changed(Ready::READ | Ready::WRITE | Ready::ERROR);
                }
            }
        }
    }

    fn poll_send(
        &mut self,
        local: SocketAddr,
        id: u32,
        data: &[u8],
        to: SocketAddr,
        waker: &Waker,
    ) -> Poll<Result<usize, Error>> {
        match self.send_datagram(local, id, data, to, SendOptions::default()) {
            Ok(Sent::Gone) => Poll::Ready(Ok(data.len())),
            Ok(Sent::NoRoom(port)) => {
                self.ports[port].writers.register(waker);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Sends a datagram, if the link's queue has room for it.
    pub(crate) fn send_datagram(
        &mut self,
        local: SocketAddr,
        id: u32,
        data: &[u8],
        to: SocketAddr,
        options: SendOptions,
    ) -> Result<Sent, Error> {
        let to = SocketAddr::new(peer(to.ip()), to.port());
        if to.port() == 0 {
            return Err(Error::InvalidInput);
        }
        let entry = self.udp.get(local.port(), id)?;
        if let Some(error) = entry.error.take() {
            return Err(error);
        }
        let only = options.link.or(entry.only);
        let (port, way) = self.route(to.ip(), only)?;
        let bound = options.source.unwrap_or(local.ip());
        let source = if bound.is_unspecified() || bound.is_multicast() {
            way.source
        } else {
            bound
        };
        // RFC 1122 section 3.3.4.2: a link carries its own addresses only.
        let is_links = port == LOOPBACK || self.ports[port].interface.has(source);
        if source.is_ipv4() != to.is_ipv4() || !is_links {
            return Err(Error::AddressNotAvailable);
        }
        let longest = if to.is_ipv4() { LONGEST4 } else { LONGEST6 };
        if data.len() > longest {
            return Err(Error::MessageTooLong);
        }
        let outbound = Outbound {
            source,
            destination: to.ip(),
            protocol: ip::UDP,
            // RFC 1112 section 6.1: groups are local unless asked otherwise.
            hop_limit: options.hop_limit.unwrap_or(if to.ip().is_multicast() {
                1
            } else {
                HOP_LIMIT
            }),
            ecn: Ecn::NotEct,
        };
        let length = UDP_HEADER + data.len();
        let fill = |bytes: &mut [u8]| {
            let (header, payload) = bytes.split_at_mut(UDP_HEADER);
            header[..2].copy_from_slice(&local.port().to_be_bytes());
            header[2..4].copy_from_slice(&to.port().to_be_bytes());
            header[4..6].copy_from_slice(&(length as u16).to_be_bytes());
            payload.copy_from_slice(data);
            let sum = ip::checksum_of(&outbound, header, core::iter::once(data));
            // RFC 768: 0 means that there is none.
            let sum = if sum == 0 { 0xffff } else { sum };
            header[6..8].copy_from_slice(&sum.to_be_bytes());
        };
        let now = self.now;
        let (interface, mut context) = self.port(port);
        let sent = interface.send(outbound, way.next_hop, length, fill, now, &mut context);
        match sent {
            Ok(()) => {
                self.pending = true;
                self.stats.datagrams_out += 1;
                Ok(Sent::Gone)
            }
            Err(Error::Exhausted) if !self.ports[port].queue.is_empty() => {
                self.pending |= port == LOOPBACK;
                Ok(Sent::NoRoom(port))
            }
            Err(error) => Err(error),
        }
    }

    /// The next datagram for the program. One that is longer than the buffer is cut.
    fn poll_receive(
        &mut self,
        port: u16,
        id: u32,
        buffer: &mut [u8],
        waker: &Waker,
    ) -> Poll<Result<(usize, SocketAddr), Error>> {
        let received = self.receive_datagram_with(port, id, true, |data| {
            let count = data.len().min(buffer.len());
            buffer[..count].copy_from_slice(&data[..count]);
            count
        })?;
        if let Some((received, count)) = received {
            Poll::Ready(Ok((count, received.source)))
        } else {
            self.udp.get(port, id)?.readers.register(waker);
            Poll::Pending
        }
    }

    /// Shows the next datagram to `copy`, and forgets it if it is to be taken.
    pub(crate) fn receive_datagram_with<R>(
        &mut self,
        port: u16,
        id: u32,
        take: bool,
        copy: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<(Received, R)>, Error> {
        let entry = self.udp.get(port, id)?;
        let Some(datagram) = entry.arrived.front() else {
            return match entry.error.take() {
                Some(error) => Err(error),
                None => Ok(None),
            };
        };
        let received = Received {
            source: datagram.source,
            destination: datagram.destination,
            link: usize::from(datagram.port),
            hop_limit: datagram.hop_limit,
            len: datagram.data.len(),
        };
        let result = copy(&datagram.data);
        if take {
            entry.arrived.pop_front();
            entry.held -= received.len + OVERHEAD;
            if entry.arrived.is_empty() && entry.arrived.capacity() > 64 {
                entry.arrived = VecDeque::new();
            }
            self.udp.held -= received.len + OVERHEAD;
        }
        Ok(Some((received, result)))
    }

    pub(crate) fn join(
        &mut self,
        port: u16,
        id: u32,
        group: IpAddr,
        link: Option<u8>,
    ) -> Result<(), Error> {
        if !group.is_multicast() {
            return Err(Error::InvalidInput);
        }
        let only = link.or(self.udp.get(port, id)?.only);
        let (link, _) = self.route(group, only)?;
        let now = self.now;
        let (interface, mut context) = self.port(link);
        interface.join(group, now, &mut context)?;
        self.pending = true;
        self.udp.get(port, id)?.groups.push((group, link));
        Ok(())
    }

    pub(crate) fn leave(&mut self, port: u16, id: u32, group: IpAddr) -> Result<(), Error> {
        let entry = self.udp.get(port, id)?;
        let found = entry.groups.iter().position(|(known, _)| *known == group);
        let (_, link) = entry.groups.swap_remove(found.ok_or(Error::InvalidInput)?);
        self.leave_group(group, link);
        Ok(())
    }

    fn leave_group(&mut self, group: IpAddr, link: usize) {
        let now = self.now;
        let (interface, mut context) = self.port(link);
        interface.leave(group, now, &mut context);
        self.pending = true;
    }

    /// Sets the only peer whose datagrams are taken, or lets all be taken again. Those of others that wait are dropped.
    pub(crate) fn connect_udp(
        &mut self,
        port: u16,
        id: u32,
        peer: Option<SocketAddr>,
    ) -> Result<(), Error> {
        let entry = self.udp.get(port, id)?;
        entry.peer = peer;
        entry.error = None;
        let Some(peer) = peer else { return Ok(()) };
        entry.arrived.retain(|datagram| datagram.source == peer);
        let held = |datagram: &Datagram| datagram.data.len() + OVERHEAD;
        let kept = entry.arrived.iter().map(held).sum();
        let dropped = core::mem::replace(&mut entry.held, kept) - kept;
        self.udp.held -= dropped;
        Ok(())
    }

    /// Runs `f` on what sockets without futures have set.
    pub(crate) fn with_udp<R>(
        &mut self,
        port: u16,
        id: u32,
        f: impl FnOnce(&mut Entry) -> R,
    ) -> Option<R> {
        self.udp.get(port, id).ok().map(f)
    }

    /// The program has dropped a socket.
    pub(crate) fn release_udp(&mut self, port: u16, id: u32) {
        let Some(entry) = self.udp.by_port.take(port, |entry| entry.id == id) else {
            return;
        };
        self.udp.held -= entry.held;
        self.udp.sockets -= 1;
        for (group, link) in entry.groups {
            self.leave_group(group, link);
        }
    }
}

/// The turn of one of several sockets that share an address to get a peer's datagrams: always the same one's is the greatest.
fn spread(peer: SocketAddr, number: usize) -> u64 {
    let octets = match peer.ip() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    let mixed = octets as u64 ^ (octets >> 64) as u64 ^ u64::from(peer.port()) << 40;
    let mixed = (mixed ^ number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// Ports and data of a datagram, RFC 768. The checksum has been verified.
fn parse(payload: &[u8]) -> Option<(u16, u16, &[u8])> {
    let (words, _) = payload.first_chunk::<UDP_HEADER>()?.as_chunks::<2>();
    let &[source, destination, length, _] = words else {
        return None;
    };
    let data = payload.get(UDP_HEADER..usize::from(u16::from_be_bytes(length)))?;
    let ports = [source, destination].map(u16::from_be_bytes);
    Some((ports[0], ports[1], data))
}
