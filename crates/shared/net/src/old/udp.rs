//! UDP for programs.
//!
//! A socket has a buffer for each direction (see [`Config`](crate::Config)); datagrams that arrive while it is full
//! are lost, as they may be anywhere on their way. Several tasks may use one socket. A datagram that was sent leaves even
//! if the socket is dropped at once.
//!
//! Traffic of the guest with itself runs over a second socket of the protocol, which is made when the first such
//! datagram comes along.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::future::poll_fn;
use core::net::{IpAddr, SocketAddr};
use core::task::{Poll, Waker};
use core::time::Duration;

use kiln_abi::Instant;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, SendError, Socket, UdpMetadata};
use smoltcp::wire::{IpAddress, IpEndpoint, IpListenEndpoint};

use crate::address;
use crate::connections::conflict;
use crate::error::Error;
use crate::link::{Link, Which};
use crate::stack::{Core, Orphan, Stack};
use crate::stats::Stats;
use crate::wait::WaitQueue;

/// Bytes of a buffer for each datagram that it can hold: how many fit when they are short.
const SHORT_DATAGRAM: usize = 64;
/// What the protocol can fragment: its buffer, less an IPv4 and a UDP header.
const LONGEST_FRAGMENTED: usize = 4096 - 20 - 8;
const PORT_ATTEMPTS: usize = 256;
/// How long a dropped socket waits for what was sent to leave.
const CLOSING: Duration = Duration::from_secs(3);

struct Entry {
    id: u32,
    local: SocketAddr,
    peer: Option<SocketAddr>,
    wire: SocketHandle,
    loopback: Option<SocketHandle>,
    /// Dropped by the program, and until when it may wait for what was sent to leave.
    closing: Option<Instant>,
    readers: WaitQueue,
    writers: WaitQueue,
}

impl Entry {
    fn handle(&self, which: Which) -> Option<SocketHandle> {
        match which {
            Which::Wire => Some(self.wire),
            Which::Loopback => self.loopback,
        }
    }

    /// Whether a datagram is for the program: of the right family, and from the right peer if there is one.
    fn wants(&self, source: SocketAddr) -> bool {
        let family_ok = self.local.ip().is_ipv4() == source.is_ipv4()
            || (self.local.ip().is_ipv6() && self.local.ip().is_unspecified());
        family_ok && self.peer.is_none_or(|peer| peer == source)
    }
}

/// All UDP sockets.
#[derive(Default)]
pub(crate) struct UdpTable(Vec<Entry>);

impl UdpTable {
    fn get(&mut self, id: u32) -> Result<&mut Entry, Error> {
        let found = self.0.iter_mut().find(|entry| entry.id == id);
        found.ok_or(Error::NotConnected)
    }

    /// Wakes the tasks for which something has changed.
    pub(crate) fn wake(&mut self, wire: &mut Link, loopback: &mut Link) {
        for entry in &mut self.0 {
            for (link, handle) in [(&*wire, Some(entry.wire)), (&*loopback, entry.loopback)] {
                let Some(handle) = handle else { continue };
                let socket = link.sockets.get::<Socket>(handle);
                if socket.can_recv() {
                    entry.readers.wake();
                }
                if socket.can_send() {
                    entry.writers.wake();
                }
            }
        }
    }

    pub(crate) fn count(&self, stats: &mut Stats, buffers: usize) {
        stats.udp_sockets = self.0.len();
        let twins = self.0.iter().filter(|entry| entry.loopback.is_some());
        stats.buffer_bytes += (self.0.len() + twins.count()) * buffers;
    }
}

impl Core {
    fn bind_udp(&mut self, address: SocketAddr) -> Result<u32, Error> {
        let mut local = SocketAddr::new(address.ip(), address.port());
        if !local.ip().is_unspecified() && !self.is_own(local.ip()) {
            return Err(Error::AddressNotAvailable);
        }
        let taken = |core: &Self, local| core.udp.0.iter().any(|e| conflict(e.local, local));
        if local.port() == 0 {
            let mut attempts = 0;
            loop {
                local.set_port(self.ephemeral_port());
                if !taken(self, local) {
                    break;
                }
                attempts += 1;
                if attempts == PORT_ATTEMPTS {
                    return Err(Error::Exhausted);
                }
            }
        } else if taken(self, local) {
            return Err(Error::AddressInUse);
        }
        let wire = self.wire.sockets.add(self.udp_socket(local)?);
        let id = self.id();
        self.udp.0.push(Entry {
            id,
            local,
            peer: None,
            wire,
            loopback: None,
            closing: None,
            readers: WaitQueue::default(),
            writers: WaitQueue::default(),
        });
        Ok(id)
    }

    fn udp_socket(&self, local: SocketAddr) -> Result<Socket<'static>, Error> {
        let buffer = || {
            PacketBuffer::new(
                vec![PacketMetadata::EMPTY; self.config.udp_buffer() / SHORT_DATAGRAM],
                vec![0; self.config.udp_buffer()],
            )
        };
        let mut socket = Socket::new(buffer(), buffer());
        let endpoint = IpListenEndpoint {
            addr: (!local.ip().is_unspecified()).then(|| local.ip().into()),
            port: local.port(),
        };
        socket.bind(endpoint).map_err(|_| Error::InvalidInput)?;
        Ok(socket)
    }

    /// A datagram of the guest to itself is about to arrive: makes sure that there is a socket to take it.
    pub(crate) fn prepare_local_udp(&mut self, destination: SocketAddr) {
        let takes = |entry: &&Entry| conflict(entry.local, destination);
        if let Some(id) = self.udp.0.iter().find(takes).map(|entry| entry.id) {
            // If it cannot be made the datagram is lost.
            let _ = self.local_udp(id);
        }
    }

    fn local_udp(&mut self, id: u32) -> Result<SocketHandle, Error> {
        let (local, known) = {
            let entry = self.udp.get(id)?;
            (entry.local, entry.loopback)
        };
        if let Some(handle) = known {
            return Ok(handle);
        }
        let socket = self.udp_socket(local)?;
        let handle = self.loopback.sockets.add(socket);
        self.udp.get(id)?.loopback = Some(handle);
        Ok(handle)
    }

    fn poll_send(
        &mut self,
        id: u32,
        data: &[u8],
        to: SocketAddr,
        waker: &Waker,
    ) -> Poll<Result<usize, Error>> {
        let to = SocketAddr::new(address::peer(to.ip()), to.port());
        if to.port() == 0 {
            return Poll::Ready(Err(Error::InvalidInput));
        }
        let (which, source) = self.route(to.ip())?;
        let local = self.udp.get(id)?.local.ip();
        let source = if local.is_unspecified() {
            source
        } else {
            local
        };
        if source.is_ipv4() != to.is_ipv4() {
            return Poll::Ready(Err(Error::AddressNotAvailable));
        }
        if data.len() > self.longest_datagram(which, to.ip()) {
            return Poll::Ready(Err(Error::MessageTooLong));
        }
        let handle = match which {
            Which::Wire => self.udp.get(id)?.wire,
            Which::Loopback => self.local_udp(id)?,
        };
        let mut metadata = UdpMetadata::from(IpEndpoint::from(to));
        metadata.local_address = Some(IpAddress::from(source));
        let socket = self.link(which).sockets.get_mut::<Socket>(handle);
        match socket.send_slice(data, metadata) {
            Ok(()) => {
                self.pending = true;
                Poll::Ready(Ok(data.len()))
            }
            Err(SendError::BufferFull) => {
                self.udp.get(id)?.writers.register(waker);
                Poll::Pending
            }
            Err(SendError::Unaddressable) => Poll::Ready(Err(Error::InvalidInput)),
        }
    }

    fn longest_datagram(&self, which: Which, to: IpAddr) -> usize {
        let mtu = match which {
            Which::Wire => usize::from(self.config.mtu),
            Which::Loopback => 8 * 1024,
        };
        let longest = match to {
            IpAddr::V4(_) => LONGEST_FRAGMENTED.max(mtu - 28),
            IpAddr::V6(_) => mtu - 48,
        };
        longest.min(self.config.udp_buffer())
    }

    /// The next datagram for the program. One that is longer than the buffer is cut.
    fn poll_receive(
        &mut self,
        id: u32,
        buffer: &mut [u8],
        waker: &Waker,
    ) -> Poll<Result<(usize, SocketAddr), Error>> {
        for which in [Which::Wire, Which::Loopback] {
            let Some(handle) = self.udp.get(id)?.handle(which) else {
                continue;
            };
            loop {
                let socket = self.link(which).sockets.get_mut::<Socket>(handle);
                let Ok((datagram, metadata)) = socket.recv() else {
                    break;
                };
                let source = SocketAddr::from(metadata.endpoint);
                let count = datagram.len().min(buffer.len());
                buffer[..count].copy_from_slice(&datagram[..count]);
                if self.udp.get(id)?.wants(source) {
                    return Poll::Ready(Ok((count, source)));
                }
            }
        }
        self.udp.get(id)?.readers.register(waker);
        Poll::Pending
    }

    /// The program has dropped a socket. What it has sent may still wait for the neighbour's address.
    pub(crate) fn release_udp(&mut self, id: u32) {
        let until = self.now + CLOSING;
        if let Ok(entry) = self.udp.get(id) {
            entry.closing = Some(until);
        }
        self.reap_udp();
    }

    /// Frees the sockets that were dropped and have nothing more to say. Returns when to look again.
    pub(crate) fn reap_udp(&mut self) -> Instant {
        let mut next = Instant::FOREVER;
        let mut index = 0;
        while let Some(entry) = self.udp.0.get(index) {
            let (wire, loopback, closing) = (entry.wire, entry.loopback, entry.closing);
            let Some(until) = closing else {
                index += 1;
                continue;
            };
            let waits = |link: &Link, handle| link.sockets.get::<Socket>(handle).send_queue() > 0;
            let waiting = waits(&self.wire, wire)
                || loopback.is_some_and(|handle| waits(&self.loopback, handle));
            if waiting && self.now < until {
                next = next.min(until);
                index += 1;
                continue;
            }
            self.udp.0.swap_remove(index);
            self.wire.sockets.remove(wire);
            if let Some(handle) = loopback {
                self.loopback.sockets.remove(handle);
            }
        }
        next
    }
}

/// A socket for datagrams.
pub struct UdpSocket {
    stack: Stack,
    id: u32,
}

impl UdpSocket {
    /// Binds to `address`: one of the stack's own or a loopback address, `0.0.0.0` for all of IPv4, or `[::]` for all
    /// of both families. Port 0 stands for a random free port.
    ///
    /// # Errors
    /// [`Error::AddressInUse`], [`Error::AddressNotAvailable`], or [`Error::Exhausted`] if no port is free.
    pub fn bind(stack: &Stack, address: SocketAddr) -> Result<Self, Error> {
        let id = stack.with(|core| core.bind_udp(address))?;
        Ok(Self {
            stack: stack.clone(),
            id,
        })
    }

    /// Sends a datagram; waits while the send buffer is full. Returns its length. It leaves with the next
    /// [`Stack::poll`].
    ///
    /// # Errors
    /// [`Error::MessageTooLong`] above about 4 KiB over IPv4, and above what fits into one packet over IPv6;
    /// [`Error::Unreachable`] without a route; [`Error::AddressNotAvailable`] without an address of the family;
    /// [`Error::InvalidInput`] for port 0.
    pub async fn send_to(&self, data: &[u8], to: SocketAddr) -> Result<usize, Error> {
        poll_fn(|context| {
            let send = |core: &mut Core| core.poll_send(self.id, data, to, context.waker());
            self.stack.with(send)
        })
        .await
    }

    /// Waits for a datagram. Returns its length and who sent it; what does not fit into the buffer is lost.
    ///
    /// # Errors
    /// None now; the signature is that of `std`.
    pub async fn recv_from(&self, buffer: &mut [u8]) -> Result<(usize, SocketAddr), Error> {
        poll_fn(|context| self.poll_recv_from(context.waker(), buffer)).await
    }

    pub(crate) fn poll_recv_from(
        &self,
        waker: &Waker,
        buffer: &mut [u8],
    ) -> Poll<Result<(usize, SocketAddr), Error>> {
        self.stack
            .with(|core| core.poll_receive(self.id, buffer, waker))
    }

    /// Sets the peer for [`send`](Self::send). From then on datagrams of others are dropped.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for port 0.
    pub fn connect(&self, peer: SocketAddr) -> Result<(), Error> {
        let peer = SocketAddr::new(address::peer(peer.ip()), peer.port());
        if peer.port() == 0 {
            return Err(Error::InvalidInput);
        }
        self.stack.with(|core| {
            core.udp.get(self.id)?.peer = Some(peer);
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
    /// [`Error::NotConnected`] without a peer.
    pub async fn recv(&self, buffer: &mut [u8]) -> Result<usize, Error> {
        self.peer_addr()?;
        self.recv_from(buffer).await.map(|(count, _)| count)
    }

    /// Where it is bound, with the port that was chosen.
    ///
    /// # Errors
    /// None.
    pub fn local_addr(&self) -> Result<SocketAddr, Error> {
        self.stack
            .with(|core| core.udp.get(self.id).map(|entry| entry.local))
    }

    /// The peer.
    ///
    /// # Errors
    /// [`Error::NotConnected`] without one.
    pub fn peer_addr(&self) -> Result<SocketAddr, Error> {
        self.stack
            .with(|core| core.udp.get(self.id)?.peer.ok_or(Error::NotConnected))
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.stack.release(Orphan::Udp(self.id));
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UdpSocket")
            .field(&self.local_addr().ok())
            .finish()
    }
}
