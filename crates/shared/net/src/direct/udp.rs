//! UDP without futures.

use alloc::rc::Rc;
use core::fmt;
use core::net::{IpAddr, SocketAddr};

use super::{BindOptions, Ready, Watch};
use crate::error::Error;
use crate::stack::{LOOPBACK, Orphan, Stack};
use crate::udp::{Entry, Sent};

/// What there is to know of a datagram that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Who sent it.
    pub source: SocketAddr,
    /// To which address of this host, or which group.
    pub destination: IpAddr,
    /// Over which link it came.
    pub link: usize,
    /// Its hop limit (TTL) as it arrived.
    pub hop_limit: u8,
    /// Its length in bytes.
    pub len: usize,
}

/// How a datagram is sent; what is `None` is as usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendOptions {
    /// From which address of this host.
    pub source: Option<IpAddr>,
    /// Its hop limit (TTL).
    pub hop_limit: Option<u8>,
    /// Over which link.
    pub link: Option<u8>,
}

/// A socket for datagrams. Dropping it unbinds it.
pub struct Datagrams {
    stack: Stack,
    id: u32,
    local: SocketAddr,
}

impl Datagrams {
    /// Binds to `address`: one of the stack's own or a loopback address, a group, `0.0.0.0` for all of IPv4, or `[::]` for
    /// all of both families. Port 0 stands for a random free port.
    ///
    /// # Errors
    /// [`Error::AddressInUse`], also if no port is left to choose, or [`Error::AddressNotAvailable`].
    pub fn bind(
        stack: &Stack,
        address: SocketAddr,
        options: BindOptions,
        watch: Rc<dyn Watch>,
    ) -> Result<Self, Error> {
        let (id, local) = stack.with(|core| core.bind_udp(address, options, stack.only))?;
        let socket = Self {
            stack: stack.clone(),
            id,
            local,
        };
        socket.entry(|entry| entry.watch = Some(watch));
        Ok(socket)
    }

    /// Where it is bound, with the port that was chosen.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Sets the only peer whose datagrams are taken; `None` takes those of all again.
    ///
    /// # Errors
    /// [`Error::NotConnected`] never happens to a bound socket.
    pub fn connect(&self, peer: Option<SocketAddr>) -> Result<(), Error> {
        let peer = peer.map(|to| SocketAddr::new(crate::addresses::peer(to.ip()), to.port()));
        let (port, id) = (self.local.port(), self.id);
        self.stack.with(|core| core.connect_udp(port, id, peer))
    }

    /// From which address a datagram to `to` would be sent.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::AddressNotAvailable`].
    pub fn source_for(stack: &Stack, to: IpAddr) -> Result<IpAddr, Error> {
        let to = crate::addresses::peer(to);
        stack.with(|core| core.route(to, stack.only).map(|(_, way)| way.source))
    }

    /// Sends a datagram. `false`: the link has no room now, and the [`Watch`] is told when it has.
    ///
    /// # Errors
    /// [`Error::MessageTooLong`], [`Error::Unreachable`], [`Error::AddressNotAvailable`], [`Error::InvalidInput`] for port 0;
    /// what an ICMP message said about an earlier datagram to the peer.
    pub fn send(&self, data: &[u8], to: SocketAddr, options: SendOptions) -> Result<bool, Error> {
        self.stack.with(|core| {
            match core.send_datagram(self.local, self.id, data, to, options)? {
                Sent::Gone => Ok(true),
                Sent::NoRoom(link) => {
                    let (port, id) = (self.local.port(), self.id);
                    let blocked = |entry: &mut Entry| {
                        entry.blocked = Some(link as u8);
                        entry.watch.clone()
                    };
                    if let Some(watch) = core.with_udp(port, id, blocked).flatten() {
                        core.ports[link].writers.watch(&watch);
                    }
                    Ok(false)
                }
            }
        })
    }

    /// True if `to` is on this machine.
    pub fn is_local(&self, to: IpAddr) -> bool {
        let to = crate::addresses::peer(to);
        self.stack.with(|core| {
            core.route(to, self.stack.only)
                .is_ok_and(|(link, _)| link == LOOPBACK)
        })
    }

    /// Shows the next datagram to `copy`, and forgets it if `take` says so. `None`: there is none now.
    ///
    /// # Errors
    /// What an ICMP message said about a datagram to the peer.
    pub fn receive_with<R>(
        &self,
        take: bool,
        copy: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<(Received, R)>, Error> {
        let (port, id) = (self.local.port(), self.id);
        self.stack
            .with(|core| core.receive_datagram_with(port, id, take, copy))
    }

    /// What it is ready for now.
    pub fn ready(&self) -> Ready {
        let (port, id) = (self.local.port(), self.id);
        self.stack.with(|core| {
            let looked = core.with_udp(port, id, |entry| {
                let mut ready = Ready::NONE;
                if !entry.arrived.is_empty() {
                    ready = ready | Ready::READ;
                }
                if entry.error.is_some() {
                    ready = ready | Ready::READ | Ready::ERROR;
                }
                (ready, entry.blocked.take())
            });
            let Some((ready, blocked)) = looked else {
                return Ready::NONE;
            };
            match blocked {
                Some(link) if !core.ports[usize::from(link)].queue.has_room() => {
                    core.with_udp(port, id, |entry| entry.blocked = Some(link));
                    ready
                }
                _ => ready | Ready::WRITE,
            }
        })
    }

    /// The length of the next datagram, 0 if there is none.
    pub fn next_len(&self) -> usize {
        self.entry(|entry| {
            entry
                .arrived
                .front()
                .map_or(0, |datagram| datagram.data.len())
        })
        .unwrap_or(0)
    }

    /// Takes an error that waits to be told.
    pub fn take_error(&self) -> Option<Error> {
        self.entry(|entry| entry.error.take()).flatten()
    }

    /// Bytes that waiting datagrams may take.
    pub fn set_limit(&self, bytes: usize) {
        self.entry(|entry| entry.limit = Some(bytes));
    }

    /// Datagrams that found no room.
    pub fn dropped(&self) -> u32 {
        self.entry(|entry| entry.dropped).unwrap_or(0)
    }

    /// With whom the address may be shared from now on.
    pub fn set_options(&self, options: BindOptions) {
        self.entry(|entry| entry.options = options);
    }

    /// Joins a group, over one link or the one by which it is reached.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it is no group, [`Error::Exhausted`] if too many are joined, and those of a missing route.
    pub fn join(&self, group: IpAddr, link: Option<u8>) -> Result<(), Error> {
        let (port, id) = (self.local.port(), self.id);
        self.stack.with(|core| core.join(port, id, group, link))
    }

    /// Leaves a group.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it was not joined.
    pub fn leave(&self, group: IpAddr) -> Result<(), Error> {
        let (port, id) = (self.local.port(), self.id);
        self.stack.with(|core| core.leave(port, id, group))
    }

    fn entry<R>(&self, f: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        let (port, id) = (self.local.port(), self.id);
        self.stack.with(|core| core.with_udp(port, id, f))
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.stack.release(Orphan::Udp(self.local.port(), self.id));
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Datagrams").field(&self.local).finish()
    }
}
