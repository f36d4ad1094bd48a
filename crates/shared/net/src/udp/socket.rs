//! The socket that programs hold.

use core::fmt;
use core::future::poll_fn;
use core::net::{IpAddr, SocketAddr};
use core::task::{Poll, Waker};

use crate::addresses::peer;
use crate::direct::BindOptions;
use crate::error::Error;
use crate::stack::{Core, Orphan, Stack};

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
    /// [`Error::AddressInUse`], also if no port is left to choose, or [`Error::AddressNotAvailable`].
    pub fn bind(stack: &Stack, address: SocketAddr) -> Result<Self, Error> {
        let (id, local) =
            stack.with(|core| core.bind_udp(address, BindOptions::default(), stack.only))?;
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
        let (port, id) = (self.local.port(), self.id);
        self.stack
            .with(|core| core.connect_udp(port, id, Some(address)))
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
            .with(|core| core.join(self.local.port(), self.id, group, None))
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
        self.stack.release(Orphan::Udp(self.local.port(), self.id));
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UdpSocket").field(&self.local).finish()
    }
}
