//! TCP, UDP and name look-ups, named as in `std` and tokio.
//!
//! A program that uses them declares a link: `#[kiln::main(net)]`. Addresses come from the monitor or by DHCP and
//! router advertisements; a listener may be bound before there is one. [`ready`] waits until there is.
//!
//! With several links there is one stack on all of them, and routes choose. A handle bound to a single one is [`stack`]; the
//! `_on` variants take it.

use core::net::{IpAddr, SocketAddr};
use core::ops::{Deref, DerefMut};

use alloc::vec::Vec;

pub use kiln_rt::net::{
    Assigned, Error, ListenOptions, OwnedReadHalf, OwnedWriteHalf, Stack, Stats, default_stack,
    stack,
};

use crate::io::{ErrorType, Read, Write};

/// Waits until a link has an address other than a link-local one.
///
/// # Errors
/// [`Error::AddressNotAvailable`] if the instance has no link.
pub async fn ready() -> Result<(), Error> {
    default_stack()?.ready().await;
    Ok(())
}

/// The links' addresses. Empty without a link.
pub fn addresses() -> Vec<Assigned> {
    default_stack().map_or(Vec::new(), |stack| stack.addresses())
}

/// The addresses of a name: literals and `localhost` at once, others by DNS.
///
/// # Errors
/// [`Error::NameNotFound`], [`Error::NameServerFailed`], [`Error::NoNameServer`], [`Error::TimedOut`].
pub async fn lookup(name: &str) -> Result<Vec<IpAddr>, Error> {
    default_stack()?.lookup(name).await
}

macro_rules! wraps {
    ($outer:ident) => {
        impl Deref for $outer {
            type Target = kiln_rt::net::$outer;

            fn deref(&self) -> &Self::Target {
                &self.0
            }
        }

        impl DerefMut for $outer {
            fn deref_mut(&mut self) -> &mut Self::Target {
                &mut self.0
            }
        }
    };
}

/// Waits for connections.
#[derive(Debug)]
pub struct TcpListener(kiln_rt::net::TcpListener);

wraps!(TcpListener);

impl TcpListener {
    /// Listens on an address and port. `[::]` stands for every address of both families; port 0
    /// for a free port.
    ///
    /// # Errors
    /// [`Error::AddressInUse`], [`Error::AddressNotAvailable`].
    pub fn bind(address: impl Into<SocketAddr>) -> Result<Self, Error> {
        Self::bind_on(&default_stack()?, address)
    }

    /// The same with a handle of the stack.
    ///
    /// # Errors
    /// As for [`bind`](Self::bind).
    pub fn bind_on(stack: &Stack, address: impl Into<SocketAddr>) -> Result<Self, Error> {
        kiln_rt::net::TcpListener::bind(stack, address.into()).map(Self)
    }

    /// The same with options: how many connections may wait to be accepted, and whether others may share the address.
    ///
    /// # Errors
    /// As for [`bind`](Self::bind).
    pub fn bind_with(
        stack: &Stack,
        address: impl Into<SocketAddr>,
        options: ListenOptions,
    ) -> Result<Self, Error> {
        kiln_rt::net::TcpListener::bind_with(stack, address.into(), options).map(Self)
    }

    /// The next connection and its peer. Waits.
    ///
    /// # Errors
    /// If the link's stack has gone.
    pub async fn accept(&self) -> Result<(TcpStream, SocketAddr), Error> {
        let (stream, peer) = self.0.accept().await?;
        Ok((TcpStream(stream), peer))
    }
}

/// A connection. Dropping it closes it after what was written has been delivered.
#[derive(Debug)]
pub struct TcpStream(kiln_rt::net::TcpStream);

wraps!(TcpStream);

impl TcpStream {
    /// Connects. Waits for the peer's answer.
    ///
    /// # Errors
    /// [`Error::ConnectionRefused`], [`Error::TimedOut`], [`Error::Unreachable`], and others.
    pub async fn connect(address: impl Into<SocketAddr>) -> Result<Self, Error> {
        Self::connect_on(&default_stack()?, address).await
    }

    /// The same with a handle of the stack.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub async fn connect_on(stack: &Stack, address: impl Into<SocketAddr>) -> Result<Self, Error> {
        kiln_rt::net::TcpStream::connect(stack, address.into())
            .await
            .map(Self)
    }

    /// Divides the connection so that two tasks can read and write.
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        self.0.into_split()
    }

    /// Ends the connection at once, with a reset.
    pub fn abort(self) {
        self.0.abort();
    }
}

impl ErrorType for TcpStream {
    type Error = Error;
}

impl Read for TcpStream {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        self.0.read(buffer).await
    }
}

impl Write for TcpStream {
    async fn write(&mut self, data: &[u8]) -> Result<usize, Error> {
        self.0.write(data).await
    }

    async fn flush(&mut self) -> Result<(), Error> {
        self.0.flush().await
    }
}

/// A socket for datagrams.
#[derive(Debug)]
pub struct UdpSocket(kiln_rt::net::UdpSocket);

wraps!(UdpSocket);

impl UdpSocket {
    /// A socket on an address and port.
    ///
    /// # Errors
    /// [`Error::AddressInUse`], [`Error::AddressNotAvailable`].
    pub fn bind(address: impl Into<SocketAddr>) -> Result<Self, Error> {
        Self::bind_on(&default_stack()?, address)
    }

    /// The same with a handle of the stack.
    ///
    /// # Errors
    /// As for [`bind`](Self::bind).
    pub fn bind_on(stack: &Stack, address: impl Into<SocketAddr>) -> Result<Self, Error> {
        kiln_rt::net::UdpSocket::bind(stack, address.into()).map(Self)
    }
}
