//! The one error type of the stack.
//!
//! It names what a program can act on. Where `std` would give an `io::ErrorKind`, [`kind`](embedded_io::Error::kind)
//! gives the same kind of `embedded-io`.

use core::fmt;

use embedded_io::ErrorKind;

/// Why a network operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Error {
    /// The peer answered that nobody listens there.
    ConnectionRefused,
    /// The peer, or a node in between, reset the connection.
    ConnectionReset,
    /// The connection was ended here, by `abort` or because its local address went away.
    ConnectionAborted,
    /// No answer in time.
    TimedOut,
    /// There is no route to that address, or a router said that it cannot be reached.
    Unreachable,
    /// Another socket of this stack has that address and port.
    AddressInUse,
    /// The address does not belong to this stack, or it has none of that family.
    AddressNotAvailable,
    /// The socket has no peer.
    NotConnected,
    /// This direction of the connection has been shut down.
    BrokenPipe,
    /// An argument makes no sense, such as port 0 of a peer.
    InvalidInput,
    /// The datagram does not fit: into the receiver's buffer, or into a packet of the link.
    MessageTooLong,
    /// The memory set aside for connections is used up, or no port is left.
    Exhausted,
    /// The name has no address: the server said so.
    NameNotFound,
    /// The DNS server could not or would not answer, or sent what makes no sense.
    NameServerFailed,
    /// No DNS server is known.
    NoNameServer,
}

impl Error {
    const fn text(self) -> &'static str {
        match self {
            Self::ConnectionRefused => "connection refused",
            Self::ConnectionReset => "connection reset by peer",
            Self::ConnectionAborted => "connection aborted",
            Self::TimedOut => "timed out",
            Self::Unreachable => "address cannot be reached",
            Self::AddressInUse => "address in use",
            Self::AddressNotAvailable => "address not available",
            Self::NotConnected => "not connected",
            Self::BrokenPipe => "connection was shut down for writing",
            Self::InvalidInput => "invalid argument",
            Self::MessageTooLong => "message too long",
            Self::Exhausted => "no memory or port left for a connection",
            Self::NameNotFound => "name not found",
            Self::NameServerFailed => "name server failed",
            Self::NoNameServer => "no name server known",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl core::error::Error for Error {}

impl embedded_io::Error for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::ConnectionRefused => ErrorKind::ConnectionRefused,
            Self::ConnectionReset => ErrorKind::ConnectionReset,
            Self::ConnectionAborted => ErrorKind::ConnectionAborted,
            Self::TimedOut => ErrorKind::TimedOut,
            Self::AddressInUse => ErrorKind::AddrInUse,
            Self::AddressNotAvailable => ErrorKind::AddrNotAvailable,
            Self::NotConnected => ErrorKind::NotConnected,
            Self::BrokenPipe => ErrorKind::BrokenPipe,
            Self::InvalidInput | Self::MessageTooLong => ErrorKind::InvalidInput,
            Self::Exhausted => ErrorKind::OutOfMemory,
            Self::NameNotFound => ErrorKind::NotFound,
            Self::Unreachable | Self::NameServerFailed | Self::NoNameServer => ErrorKind::Other,
        }
    }
}
