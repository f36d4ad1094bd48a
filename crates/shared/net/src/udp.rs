//! UDP for programs.
//!
//! A datagram that is sent goes at once into the queue of its link. Datagrams that arrive wait in the socket, up to a limit
//! (see [`Config`](crate::Config)); those beyond it are lost, as they may be anywhere on their way. Several tasks may use
//! one socket.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;
use core::future::poll_fn;
use core::net::{IpAddr, SocketAddr};
use core::task::{Poll, Waker};

use crate::addresses::peer;
use crate::error::Error;
use crate::ingress::HOP_LIMIT;
use crate::ip::{self, Header, Outbound, Trouble, TroubleKind};
use crate::listen::overlap;
use crate::ports::Ports;
use crate::stack::{Core, LOOPBACK, Orphan, Stack};
use crate::stats::Stats;
use crate::tcp::Ecn;
use crate::wait::WaitQueue;

/// Bytes of a header, RFC 768.
const UDP_HEADER: usize = 8;
/// What a waiting datagram takes besides its data.
const OVERHEAD: usize = 64;
/// The longest datagram over IPv4: 65535 less headers.
const LONGEST4: usize = 65_507;
/// The same over IPv6.
const LONGEST6: usize = 65_527;

/// A datagram that has arrived.
struct Datagram {
    source: SocketAddr,
    data: Box<[u8]>,
}

struct Entry {
    id: u32,
    local: SocketAddr,
    only: Option<u8>,
    peer: Option<SocketAddr>,
    /// What a router or the peer's host said about a datagram; told once.
    error: Option<Error>,
    arrived: VecDeque<Datagram>,
    /// Bytes that those take.
    held: usize,
    readers: WaitQueue,
    /// Groups that were joined, with their links.
    groups: Vec<(IpAddr, usize)>,
}

impl Entry {
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
        let family = self.local.is_ipv6() || to.is_ipv4();
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
    fn bind_udp(
        &mut self,
        address: SocketAddr,
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
                same_link && overlap(entry.local.ip(), local.ip())
            })
        };
        if local.port() == 0 {
            local.set_port(self.free_port(taken)?);
        } else if taken(self, local.port()) {
            return Err(Error::AddressInUse);
        }
        let id = self.id();
        self.udp.sockets += 1;
        let entry = Entry {
            id,
            local,
            only,
            peer: None,
            error: None,
            arrived: VecDeque::new(),
            held: 0,
            readers: WaitQueue::default(),
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
        let entries = self.udp.by_port.at_mut(destination).iter_mut();
        let mut entries: Vec<&mut Entry> = entries.collect();
        if many {
            // A copy for each who wants it.
            entries.retain(|entry| {
                let joined = entry.groups.iter().any(|(group, _)| *group == to.ip());
                (joined || !to.ip().is_multicast()) && entry.fit(to, from, port) > 0
            });
        } else {
            let best = entries.iter().map(|entry| entry.fit(to, from, port)).max();
            entries.retain(|entry| Some(entry.fit(to, from, port)) == best && best != Some(0));
            entries.truncate(1);
            if entries.is_empty() {
                self.stats.datagrams_unwanted += 1;
                let now = self.now;
                let (interface, mut context) = self.port(port);
                interface.port_unreachable(header, payload, now, &mut context);
                return;
            }
        }
        for entry in entries {
            if entry.held + data.len() + OVERHEAD > limit {
                self.stats.dropped_udp_full += 1;
                continue;
            }
            entry.held += data.len() + OVERHEAD;
            self.udp.held += data.len() + OVERHEAD;
            self.stats.datagrams_in += 1;
            entry.arrived.push_back(Datagram {
                source: from,
                data: data.into(),
            });
            entry.readers.wake();
        }
    }

    /// An ICMP error about a datagram: told to a socket that has a peer, once.
    pub(crate) fn datagram_trouble(&mut self, trouble: &Trouble) {
        let TroubleKind::Hard(error) = trouble.kind else {
            return;
        };
        for entry in self.udp.by_port.at_mut(trouble.local.port()) {
            if entry.peer == Some(trouble.remote) {
                entry.error = Some(error);
                entry.readers.wake();
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
        let to = SocketAddr::new(peer(to.ip()), to.port());
        if to.port() == 0 {
            return Poll::Ready(Err(Error::InvalidInput));
        }
        let entry = self.udp.get(local.port(), id)?;
        if let Some(error) = entry.error.take() {
            return Poll::Ready(Err(error));
        }
        let only = entry.only;
        let (port, way) = self.route(to.ip(), only)?;
        let bound = local.ip();
        let source = if bound.is_unspecified() || bound.is_multicast() {
            way.source
        } else {
            bound
        };
        // RFC 1122 section 3.3.4.2: a link carries its own addresses only.
        let is_links = port == LOOPBACK || self.ports[port].interface.has(source);
        if source.is_ipv4() != to.is_ipv4() || !is_links {
            return Poll::Ready(Err(Error::AddressNotAvailable));
        }
        let longest = if to.is_ipv4() { LONGEST4 } else { LONGEST6 };
        if data.len() > longest {
            return Poll::Ready(Err(Error::MessageTooLong));
        }
        let outbound = Outbound {
            source,
            destination: to.ip(),
            protocol: ip::UDP,
            // RFC 1112 section 6.1: groups are local unless asked otherwise.
            hop_limit: if to.ip().is_multicast() { 1 } else { HOP_LIMIT },
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
                Poll::Ready(Ok(data.len()))
            }
            Err(Error::Exhausted) if !self.ports[port].queue.is_empty() => {
                self.ports[port].writers.register(waker);
                self.pending |= port == LOOPBACK;
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
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
        let entry = self.udp.get(port, id)?;
        if let Some(datagram) = entry.arrived.pop_front() {
            entry.held -= datagram.data.len() + OVERHEAD;
            if entry.arrived.is_empty() && entry.arrived.capacity() > 64 {
                entry.arrived = VecDeque::new();
            }
            self.udp.held -= datagram.data.len() + OVERHEAD;
            let count = datagram.data.len().min(buffer.len());
            buffer[..count].copy_from_slice(&datagram.data[..count]);
            return Poll::Ready(Ok((count, datagram.source)));
        }
        if let Some(error) = entry.error.take() {
            return Poll::Ready(Err(error));
        }
        entry.readers.register(waker);
        Poll::Pending
    }

    fn join(&mut self, port: u16, id: u32, group: IpAddr) -> Result<(), Error> {
        if !group.is_multicast() {
            return Err(Error::InvalidInput);
        }
        let only = self.udp.get(port, id)?.only;
        let (link, _) = self.route(group, only)?;
        let now = self.now;
        let (interface, mut context) = self.port(link);
        interface.join(group, now, &mut context)?;
        self.pending = true;
        self.udp.get(port, id)?.groups.push((group, link));
        Ok(())
    }

    fn leave(&mut self, port: u16, id: u32, group: IpAddr) -> Result<(), Error> {
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

    /// The program has dropped a socket.
    pub(crate) fn release_udp(&mut self, id: u32) {
        let Some(entry) = self.udp.by_port.take(|entry| entry.id == id) else {
            return;
        };
        self.udp.held -= entry.held;
        self.udp.sockets -= 1;
        for (group, link) in entry.groups {
            self.leave_group(group, link);
        }
    }
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

/// A socket for datagrams.
pub struct UdpSocket {
    stack: Stack,
    id: u32,
    local: SocketAddr,
}

impl UdpSocket {
    /// Binds to `address`: one of the stack's own or a loopback address, a group, `0.0.0.0` for all of IPv4, or `[::]` for
    /// all of both families. Port 0 stands for a random free port.
    ///
    /// # Errors
    /// [`Error::AddressInUse`], [`Error::AddressNotAvailable`], or [`Error::Exhausted`] if no port is free.
    pub fn bind(stack: &Stack, address: SocketAddr) -> Result<Self, Error> {
        let (id, local) = stack.with(|core| core.bind_udp(address, stack.only))?;
        Ok(Self {
            stack: stack.clone(),
            id,
            local,
        })
    }

    /// Sends a datagram; waits while the link's queue is full. Returns its length. It leaves with the next
    /// [`Stack::poll`], in fragments if it is longer than the path's MTU.
    ///
    /// # Errors
    /// [`Error::MessageTooLong`] above 65507 bytes over IPv4, 65527 over IPv6; [`Error::Unreachable`] without a route;
    /// [`Error::AddressNotAvailable`] without an address of the family; [`Error::InvalidInput`] for port 0; what an ICMP
    /// message said about an earlier datagram to the peer.
    pub async fn send_to(&self, data: &[u8], to: SocketAddr) -> Result<usize, Error> {
        poll_fn(|context| {
            let send =
                |core: &mut Core| core.poll_send(self.local, self.id, data, to, context.waker());
            self.stack.with(send)
        })
        .await
    }

    /// Waits for a datagram. Returns its length and who sent it; what does not fit into the buffer is lost.
    ///
    /// # Errors
    /// What an ICMP message said about a datagram to the peer, such as [`Error::ConnectionRefused`].
    pub async fn recv_from(&self, buffer: &mut [u8]) -> Result<(usize, SocketAddr), Error> {
        poll_fn(|context| self.poll_recv_from(context.waker(), buffer)).await
    }

    pub(crate) fn poll_recv_from(
        &self,
        waker: &Waker,
        buffer: &mut [u8],
    ) -> Poll<Result<(usize, SocketAddr), Error>> {
        self.stack
            .with(|core| core.poll_receive(self.local.port(), self.id, buffer, waker))
    }

    /// Sets the peer for [`send`](Self::send). From then on datagrams of others are dropped.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for port 0.
    pub fn connect(&self, address: SocketAddr) -> Result<(), Error> {
        let address = SocketAddr::new(peer(address.ip()), address.port());
        if address.port() == 0 {
            return Err(Error::InvalidInput);
        }
        self.stack.with(|core| {
            let entry = core.udp.get(self.local.port(), self.id)?;
            entry.peer = Some(address);
            entry.arrived.retain(|datagram| datagram.source == address);
            let held = |datagram: &Datagram| datagram.data.len() + OVERHEAD;
            let kept = entry.arrived.iter().map(held).sum();
            let dropped = core::mem::replace(&mut entry.held, kept) - kept;
            core.udp.held -= dropped;
            Ok(())
        })
    }

    /// As [`send_to`](Self::send_to), to the peer.
    ///
    /// # Errors
    /// [`Error::NotConnected`] without a peer, and as [`send_to`](Self::send_to).
    pub async fn send(&self, data: &[u8]) -> Result<usize, Error> {
        let peer = self.peer_addr()?;
        self.send_to(data, peer).await
    }

    /// As [`recv_from`](Self::recv_from), from the peer.
    ///
    /// # Errors
    /// [`Error::NotConnected`] without a peer, and as [`recv_from`](Self::recv_from).
    pub async fn recv(&self, buffer: &mut [u8]) -> Result<usize, Error> {
        self.peer_addr()?;
        self.recv_from(buffer).await.map(|(count, _)| count)
    }

    /// Joins a group on the link by which it is reached (RFC 1112, 2710). Dropping the socket leaves it.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it is no group, [`Error::Exhausted`] if too many are joined, and those of a missing
    /// route.
    pub fn join_multicast(&self, group: IpAddr) -> Result<(), Error> {
        self.stack
            .with(|core| core.join(self.local.port(), self.id, group))
    }

    /// Leaves a group.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it was not joined.
    pub fn leave_multicast(&self, group: IpAddr) -> Result<(), Error> {
        self.stack
            .with(|core| core.leave(self.local.port(), self.id, group))
    }

    /// Where it is bound, with the port that was chosen.
    ///
    /// # Errors
    /// None.
    pub fn local_addr(&self) -> Result<SocketAddr, Error> {
        Ok(self.local)
    }

    /// The peer.
    ///
    /// # Errors
    /// [`Error::NotConnected`] without one.
    pub fn peer_addr(&self) -> Result<SocketAddr, Error> {
        self.stack.with(|core| {
            let entry = core.udp.get(self.local.port(), self.id)?;
            entry.peer.ok_or(Error::NotConnected)
        })
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.stack.release(Orphan::Udp(self.id));
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UdpSocket").field(&self.local).finish()
    }
}
