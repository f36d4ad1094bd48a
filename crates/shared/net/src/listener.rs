//! TCP for programs: listeners.

use core::fmt;
use core::future::poll_fn;
use core::net::SocketAddr;
use core::task::Poll;

use crate::error::Error;
use crate::listen::ListenOptions;
use crate::stack::{Orphan, Stack};
use crate::stream::TcpStream;

/// A socket that listens for connections.
pub struct TcpListener {
    stack: Stack,
    id: u32,
    local: SocketAddr,
}

impl TcpListener {
    /// Listens at `address`: one of the stack's own or a loopback address, `0.0.0.0` for all of IPv4, or `[::]` for
    /// all of both families. Port 0 stands for a random free port.
    ///
    /// At most 128 connections wait to be accepted.
    ///
    /// # Errors
    /// [`Error::AddressInUse`], also if no port is left to choose, or [`Error::AddressNotAvailable`].
    pub fn bind(stack: &Stack, address: SocketAddr) -> Result<Self, Error> {
        Self::bind_with(stack, address, ListenOptions::default())
    }

    /// As [`bind`](Self::bind), with options.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_with(
        stack: &Stack,
        address: SocketAddr,
        options: ListenOptions,
    ) -> Result<Self, Error> {
        let (id, local) = stack.with(|core| core.listen(address, options, stack.only))?;
        Ok(Self {
            stack: stack.clone(),
            id,
            local,
        })
    }

    /// Waits for a connection. Returns it and the peer's address.
    ///
    /// # Errors
    /// None now; the signature is that of `std`.
    pub async fn accept(&self) -> Result<(TcpStream, SocketAddr), Error> {
        let (key, peer) = poll_fn(|context| {
            let port = self.local.port();
            let accepted = self
                .stack
                .with(|core| core.accept(port, self.id, context.waker()));
            accepted.map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        Ok((TcpStream::new(&self.stack, key), peer))
    }

    /// Where it listens, with the port that was chosen.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for TcpListener {
    /// Connections that have not been accepted are reset.
    fn drop(&mut self) {
        self.stack
            .release(Orphan::Listener(self.local.port(), self.id));
    }
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TcpListener").field(&self.local).finish()
    }
}
