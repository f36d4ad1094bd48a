//! Pings without futures.

use alloc::rc::Rc;
use core::fmt;
use core::net::IpAddr;

use super::{Ready, Received, SendOptions, Watch};
use crate::error::Error;
use crate::stack::{LOOPBACK, Orphan, Stack};

/// A socket that sends echo requests and receives the answers to them.
pub struct Pings {
    stack: Stack,
    id: u32,
    identifier: u16,
}

impl Pings {
    /// A socket of IPv4 or IPv6. Its requests carry the `wanted` identifier, or a free one.
    ///
    /// # Errors
    /// [`Error::AddressInUse`], [`Error::Exhausted`].
    pub fn new(
        stack: &Stack,
        v6: bool,
        wanted: Option<u16>,
        watch: Rc<dyn Watch>,
    ) -> Result<Self, Error> {
        Self::open(stack, v6, wanted, false, watch)
    }

    /// A socket that takes the answers to everybody's requests, and leaves identifiers alone.
    ///
    /// # Errors
    /// [`Error::Exhausted`].
    pub fn all(stack: &Stack, v6: bool, watch: Rc<dyn Watch>) -> Result<Self, Error> {
        Self::open(stack, v6, None, true, watch)
    }

    fn open(
        stack: &Stack,
        v6: bool,
        wanted: Option<u16>,
        all: bool,
        watch: Rc<dyn Watch>,
    ) -> Result<Self, Error> {
        let (id, identifier) = stack.with(|core| core.open_ping(v6, wanted, all, watch))?;
        Ok(Self {
            stack: stack.clone(),
            id,
            identifier,
        })
    }

    /// Its identifier.
    pub fn identifier(&self) -> u16 {
        self.identifier
    }

    /// Sends a request: the message from its type on; identifier and checksum are put in. `false`: the link has no room now.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for anything but a request, [`Error::MessageTooLong`], [`Error::Unreachable`],
    /// [`Error::AddressNotAvailable`].
    pub fn send(&self, message: &[u8], to: IpAddr, options: SendOptions) -> Result<bool, Error> {
        self.stack
            .with(|core| core.send_echo(self.id, message, to, options, self.stack.only))
    }

    /// True if `to` is on this machine.
    pub fn is_local(&self, to: IpAddr) -> bool {
        let to = crate::addresses::peer(to);
        self.stack.with(|core| {
            core.route(to, self.stack.only)
                .is_ok_and(|(link, _)| link == LOOPBACK)
        })
    }

    /// Shows the next answer to `copy`, and forgets it if `take` says so. `None`: there is none now.
    pub fn receive_with<R>(
        &self,
        take: bool,
        copy: impl FnOnce(&[u8]) -> R,
    ) -> Option<(Received, R)> {
        self.stack
            .with(|core| core.pings.get(self.id)?.receive_with(take, copy))
    }

    /// What it is ready for now.
    pub fn ready(&self) -> Ready {
        let arrived = self.next_len() > 0;
        Ready::WRITE | if arrived { Ready::READ } else { Ready::NONE }
    }

    /// The length of the next answer, 0 if there is none.
    pub fn next_len(&self) -> usize {
        self.stack.with(|core| {
            let ping = core.pings.get(self.id);
            let next = ping.and_then(|ping| ping.arrived.front());
            next.map_or(0, |(received, _)| received.len)
        })
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        self.stack.release(Orphan::Ping(self.id));
    }
}

impl fmt::Debug for Pings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pings").field(&self.identifier).finish()
    }
}
