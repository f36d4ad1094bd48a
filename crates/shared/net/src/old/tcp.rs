//! TCP for programs: listeners and streams.
//!
//! Names and behaviour follow `std` and tokio. A stream that is dropped closes gracefully in the background, within
//! the time and number that the [`Config`](crate::Config) allows; a connection that shall end at once is
//! [aborted](TcpStream::abort).
//!
//! One task at a time may read a stream and one may write it; [`TcpStream::into_split`] gives each its half.

use alloc::rc::Rc;
use core::fmt;
use core::future::poll_fn;
use core::net::SocketAddr;
use core::task::{Context, Poll};
use core::time::Duration;

use smoltcp::socket::tcp::{RecvError, State};

use crate::error::Error;
use crate::stack::{Orphan, Stack};

/// Connections waiting to be accepted, unless said otherwise.
const DEFAULT_BACKLOG: usize = 128;

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
    /// At most 128 connections wait to be accepted, fewer if memory is short.
    ///
    /// # Errors
    /// [`Error::AddressInUse`], [`Error::AddressNotAvailable`], or [`Error::Exhausted`] if no port is free.
    pub fn bind(stack: &Stack, address: SocketAddr) -> Result<Self, Error> {
        Self::bind_with_backlog(stack, address, DEFAULT_BACKLOG)
    }

    /// As [`bind`](Self::bind), with a limit for connections that wait to be accepted. The same limit applies to
    /// connections whose handshake is not complete.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_with_backlog(
        stack: &Stack,
        address: SocketAddr,
        backlog: usize,
    ) -> Result<Self, Error> {
        let (id, local) = stack.with(|core| core.listen(address, backlog))?;
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
        let (id, peer) = poll_fn(|context| {
            let accepted = self
                .stack
                .with(|core| core.accept(self.id, context.waker()));
            accepted.map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        Ok((TcpStream::new(&self.stack, id), peer))
    }

    /// Where it listens, with the port that was chosen.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for TcpListener {
    /// Connections that have not been accepted are reset.
    fn drop(&mut self) {
        self.stack.release(Orphan::Listener(self.id));
    }
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TcpListener").field(&self.local).finish()
    }
}

/// Owns the connection; dropping it starts the graceful close.
struct Handle {
    stack: Stack,
    id: u32,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stack.release(Orphan::Connection(self.id));
    }
}

impl Handle {
    fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize, Error>> {
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.stack.with(|core| {
            let (socket, error) = core.tcp(self.id).ok_or(Error::NotConnected)?;
            match socket.recv_slice(buffer) {
                Ok(0) => {
                    socket.register_recv_waker(context.waker());
                    Poll::Pending
                }
                Ok(count) => {
                    // The window may have to be announced.
                    core.pending = true;
                    Poll::Ready(Ok(count))
                }
                Err(RecvError::Finished) => Poll::Ready(Ok(0)),
                Err(RecvError::InvalidState) => match socket.state() {
                    State::SynSent | State::SynReceived => {
                        socket.register_recv_waker(context.waker());
                        Poll::Pending
                    }
                    _ => Poll::Ready(Err(error.unwrap_or(Error::TimedOut))),
                },
            }
        })
    }

    fn poll_write(&self, context: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, Error>> {
        self.stack.with(|core| {
            let (socket, error) = core.tcp(self.id).ok_or(Error::NotConnected)?;
            if !socket.may_send() {
                return Poll::Ready(Err(match socket.state() {
                    State::Closed => error.unwrap_or(Error::TimedOut),
                    _ => Error::BrokenPipe,
                }));
            }
            if data.is_empty() {
                return Poll::Ready(Ok(0));
            }
            match socket.send_slice(data) {
                Ok(0) => {
                    socket.register_send_waker(context.waker());
                    Poll::Pending
                }
                Ok(count) => {
                    core.pending = true;
                    Poll::Ready(Ok(count))
                }
                Err(_) => Poll::Ready(Err(Error::BrokenPipe)),
            }
        })
    }

    fn poll_connected(&self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.stack.with(|core| {
            let (socket, error) = core.tcp(self.id).ok_or(Error::NotConnected)?;
            match socket.state() {
                State::SynSent | State::SynReceived => {
                    socket.register_send_waker(context.waker());
                    Poll::Pending
                }
                State::Closed => Poll::Ready(Err(error.unwrap_or(Error::TimedOut))),
                _ => {
                    core.pending = true;
                    Poll::Ready(Ok(()))
                }
            }
        })
    }

    fn read_ready(&self) -> bool {
        self.stack.with(|core| {
            core.tcp(self.id)
                .is_none_or(|(socket, _)| socket.can_recv() || !socket.may_recv())
        })
    }

    fn write_ready(&self) -> bool {
        self.stack.with(|core| {
            core.tcp(self.id)
                .is_none_or(|(socket, _)| socket.can_send() || !socket.may_send())
        })
    }

    fn ends(&self) -> Result<(SocketAddr, SocketAddr), Error> {
        self.stack
            .with(|core| core.ends(self.id))
            .ok_or(Error::NotConnected)
    }
}

/// A connection.
pub struct TcpStream {
    handle: Rc<Handle>,
}

impl TcpStream {
    fn new(stack: &Stack, id: u32) -> Self {
        Self {
            handle: Rc::new(Handle {
                stack: stack.clone(),
                id,
            }),
        }
    }

    /// Opens a connection to `address`; waits until the peer has agreed. An unspecified address stands for this host.
    ///
    /// # Errors
    /// [`Error::ConnectionRefused`]; [`Error::TimedOut`] after
    /// [`connect_timeout`](crate::Config::connect_timeout); [`Error::Unreachable`] without a route or when a router
    /// says so; [`Error::AddressNotAvailable`] if the stack has no address of the family;
    /// [`Error::Exhausted`] if no memory or port is left; [`Error::InvalidInput`] for port 0 and multicast.
    pub async fn connect(stack: &Stack, address: SocketAddr) -> Result<Self, Error> {
        let id = stack.with(|core| core.connect(address))?;
        // Should the future be dropped while it waits, the connection goes with the stream.
        let stream = Self::new(stack, id);
        poll_fn(|context| stream.handle.poll_connected(context)).await?;
        stream.set_timeout(None);
        Ok(stream)
    }

    /// Reads what has arrived, at least one byte; waits if nothing has. 0 means that the peer has shut down its
    /// sending direction, or that the buffer is empty.
    ///
    /// # Errors
    /// [`Error::ConnectionReset`], [`Error::ConnectionAborted`], [`Error::TimedOut`].
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        poll_fn(|context| self.handle.poll_read(context, buffer)).await
    }

    /// Takes as many of the bytes as fit into the send buffer, at least one; waits if it is full. They leave with the
    /// next [`Stack::poll`].
    ///
    /// # Errors
    /// [`Error::BrokenPipe`] after [`shutdown`](Self::shutdown); otherwise as [`read`](Self::read).
    pub async fn write(&mut self, data: &[u8]) -> Result<usize, Error> {
        poll_fn(|context| self.handle.poll_write(context, data)).await
    }

    /// Takes all of the bytes; waits as often as the send buffer is full.
    ///
    /// # Errors
    /// As [`write`](Self::write). Some of the bytes may have been taken then.
    pub async fn write_all(&mut self, mut data: &[u8]) -> Result<(), Error> {
        while !data.is_empty() {
            let count = self.write(data).await?;
            data = &data[count..];
        }
        Ok(())
    }

    /// Returns at once: what was written leaves without being asked.
    ///
    /// # Errors
    /// None.
    #[allow(clippy::unused_async, reason = "the signature is that of the trait")]
    pub async fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Shuts down the sending direction: the peer reads what was written, then the end. Reading goes on. Does not
    /// wait.
    ///
    /// # Errors
    /// None.
    #[allow(clippy::unused_async, reason = "as in tokio")]
    pub async fn shutdown(&mut self) -> Result<(), Error> {
        self.handle.stack.with(|core| core.close(self.handle.id));
        Ok(())
    }

    /// Ends the connection with a reset (RFC 9293 section 3.10.5). What was written and not yet acknowledged is lost.
    pub fn abort(self) {
        let abort =
            |core: &mut crate::stack::Core| core.abort(self.handle.id, Error::ConnectionAborted);
        self.handle.stack.with(abort);
    }

    /// This end.
    ///
    /// # Errors
    /// None for a stream that `connect` or `accept` returned.
    pub fn local_addr(&self) -> Result<SocketAddr, Error> {
        self.handle.ends().map(|(local, _)| local)
    }

    /// The other end.
    ///
    /// # Errors
    /// None for a stream that `connect` or `accept` returned.
    pub fn peer_addr(&self) -> Result<SocketAddr, Error> {
        self.handle.ends().map(|(_, peer)| peer)
    }

    /// With `true`, small writes are not held back until earlier data have been acknowledged (RFC 9293 section
    /// 3.7.4, the Nagle algorithm, is off). The default is `false`.
    pub fn set_nodelay(&self, nodelay: bool) {
        self.handle.stack.with(|core| {
            core.pending = true;
            if let Some((socket, _)) = core.tcp(self.handle.id) {
                socket.set_nagle_enabled(!nodelay);
            }
        });
    }

    /// Probes the peer each time the connection has been idle for so long (RFC 9293 section 3.8.4). Together with
    /// [`set_timeout`](Self::set_timeout) a peer that has vanished is found out. The default is not to probe.
    pub fn set_keepalive(&self, interval: Option<Duration>) {
        let id = self.handle.id;
        self.handle
            .stack
            .with(|core| core.set_keepalive(id, interval));
    }

    /// Gives up, with [`Error::TimedOut`], when written data or a probe has not been acknowledged for so long (RFC
    /// 9293 section 3.8.3, R2). The default is to try without end.
    pub fn set_timeout(&self, timeout: Option<Duration>) {
        let id = self.handle.id;
        self.handle
            .stack
            .with(|core| core.set_user_timeout(id, timeout));
    }

    /// Two halves, for two tasks. The connection closes when both are dropped.
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        let writer = OwnedWriteHalf {
            handle: self.handle.clone(),
        };
        let reader = OwnedReadHalf {
            handle: self.handle,
        };
        (reader, writer)
    }
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("TcpStream");
        if let Ok((local, peer)) = self.handle.ends() {
            debug.field("local", &local).field("peer", &peer);
        }
        debug.finish()
    }
}

/// The reading half of a stream.
pub struct OwnedReadHalf {
    handle: Rc<Handle>,
}

impl OwnedReadHalf {
    /// As [`TcpStream::read`].
    ///
    /// # Errors
    /// As [`TcpStream::read`].
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        poll_fn(|context| self.handle.poll_read(context, buffer)).await
    }
}

/// The writing half of a stream. Dropping it shuts down the sending direction.
pub struct OwnedWriteHalf {
    handle: Rc<Handle>,
}

impl OwnedWriteHalf {
    /// As [`TcpStream::write`].
    ///
    /// # Errors
    /// As [`TcpStream::write`].
    pub async fn write(&mut self, data: &[u8]) -> Result<usize, Error> {
        poll_fn(|context| self.handle.poll_write(context, data)).await
    }
}

impl Drop for OwnedWriteHalf {
    fn drop(&mut self) {
        self.handle.stack.release(Orphan::Writer(self.handle.id));
    }
}

macro_rules! readers {
    ($($reader:ty)*) => {$(
        impl embedded_io_async::Read for $reader {
            async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
                poll_fn(|context| self.handle.poll_read(context, buffer)).await
            }
        }

        impl embedded_io::ReadReady for $reader {
            fn read_ready(&mut self) -> Result<bool, Error> {
                Ok(self.handle.read_ready())
            }
        }
    )*};
}

macro_rules! writers {
    ($($writer:ty)*) => {$(
        impl embedded_io_async::Write for $writer {
            async fn write(&mut self, data: &[u8]) -> Result<usize, Error> {
                poll_fn(|context| self.handle.poll_write(context, data)).await
            }

            async fn flush(&mut self) -> Result<(), Error> {
                Ok(())
            }
        }

        impl embedded_io::WriteReady for $writer {
            fn write_ready(&mut self) -> Result<bool, Error> {
                Ok(self.handle.write_ready())
            }
        }
    )*};
}

macro_rules! fallible {
    ($($half:ty)*) => {$(
        impl embedded_io::ErrorType for $half {
            type Error = Error;
        }
    )*};
}

readers! { TcpStream OwnedReadHalf }
writers! { TcpStream OwnedWriteHalf }
fallible! { TcpStream OwnedReadHalf OwnedWriteHalf }
