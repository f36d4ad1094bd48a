//! TCP for programs: streams.
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
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use kiln_abi::Instant;

use crate::connections::Connection;
use crate::error::Error;
use crate::pressure::SPARE_WRITTEN;
use crate::stack::{Orphan, Stack};
use crate::table::Key;
use crate::tcp::{Info, KeepAlive, State, Tcb};

/// Probes of an idle connection before it is given up.
const KEEPALIVE_PROBES: u8 = 9;

/// Remembers the one task that waits.
fn wait(place: &mut Option<Waker>, context: &Context<'_>) {
    match place {
        Some(known) if known.will_wake(context.waker()) => {}
        _ => *place = Some(context.waker().clone()),
    }
}

/// Owns the connection; dropping it starts the graceful close.
pub(crate) struct Handle {
    pub(crate) stack: Stack,
    pub(crate) key: Key,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stack.release(Orphan::Connection(self.key));
    }
}

impl Handle {
    /// Runs `f` on the connection and then lets it act.
    pub(crate) fn with<R>(
        &self,
        f: impl FnOnce(&mut Connection, Instant) -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.stack.with(|core| {
            let now = core.now;
            let connection = core.connections.get(self.key).ok_or(Error::NotConnected)?;
            let result = f(connection, now);
            core.make_ready(self.key);
            result
        })
    }

    fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize, Error>> {
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.stack.with(|core| {
            let now = core.now;
            let connection = core.connections.get(self.key).ok_or(Error::NotConnected)?;
            match connection.tcb.read(buffer, now) {
                Ok(0) if connection.tcb.at_end() => Poll::Ready(Ok(0)),
                Ok(0) => {
                    wait(&mut connection.reader, context);
                    Poll::Pending
                }
                Ok(count) => {
                    // The window may have to be announced.
                    if connection.tcb.wants_to_transmit(now) {
                        core.make_ready(self.key);
                    } else {
                        core.connections.recount(self.key);
                    }
                    Poll::Ready(Ok(count))
                }
                Err(error) => Poll::Ready(Err(error)),
            }
        })
    }

    fn poll_write(
        &self,
        context: &mut Context<'_>,
        write: impl FnOnce(&mut Tcb, Instant, usize) -> Result<usize, Error>,
    ) -> Poll<Result<usize, Error>> {
        self.stack.with(|core| {
            let now = core.now;
            let full = core.is_full();
            let connection = core.connections.get(self.key).ok_or(Error::NotConnected)?;
            if full && connection.tcb.unacknowledged() > SPARE_WRITTEN {
                // What was written wakes the writer when it is acknowledged.
                wait(&mut connection.writer, context);
                return Poll::Pending;
            }
            let most = if full { SPARE_WRITTEN } else { usize::MAX };
            match write(&mut connection.tcb, now, most) {
                Ok(0) => {
                    wait(&mut connection.writer, context);
                    Poll::Pending
                }
                Ok(count) => {
                    core.connections.recount(self.key);
                    core.make_ready(self.key);
                    Poll::Ready(Ok(count))
                }
                Err(error) => Poll::Ready(Err(error)),
            }
        })
    }

    async fn write(&self, data: &[u8]) -> Result<usize, Error> {
        if data.is_empty() {
            return self.with(|connection, now| connection.tcb.write(data, now));
        }
        poll_fn(|context| {
            self.poll_write(context, |tcb, now, most| {
                tcb.write(&data[..data.len().min(most)], now)
            })
        })
        .await
    }

    fn poll_connected(&self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.stack.with(|core| {
            let connection = core.connections.get(self.key).ok_or(Error::NotConnected)?;
            match connection.tcb.state() {
                State::SynSent | State::SynReceived => {
                    wait(&mut connection.writer, context);
                    Poll::Pending
                }
                State::Closed => {
                    Poll::Ready(Err(connection.tcb.error().unwrap_or(Error::TimedOut)))
                }
                _ => Poll::Ready(Ok(())),
            }
        })
    }

    fn read_ready(&self) -> bool {
        self.stack.with(|core| {
            core.connections.get(self.key).is_none_or(|connection| {
                let tcb = &connection.tcb;
                tcb.readable() > 0 || tcb.at_end() || tcb.state() == State::Closed
            })
        })
    }

    fn write_ready(&self) -> bool {
        self.stack.with(|core| {
            core.connections.get(self.key).is_none_or(|connection| {
                let tcb = &connection.tcb;
                let open = matches!(tcb.state(), State::Established | State::CloseWait);
                tcb.writable() > 0 || !open
            })
        })
    }

    pub(crate) fn ends(&self) -> Result<(SocketAddr, SocketAddr), Error> {
        self.stack
            .with(|core| {
                let connection = core.connections.get(self.key)?;
                Some((connection.pair.local, connection.pair.remote))
            })
            .ok_or(Error::NotConnected)
    }
}

/// A connection.
pub struct TcpStream {
    handle: Rc<Handle>,
}

impl TcpStream {
    pub(crate) fn new(stack: &Stack, key: Key) -> Self {
        Self {
            handle: Rc::new(Handle {
                stack: stack.clone(),
                key,
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
        let key = stack.with(|core| core.connect(address, stack.only))?;
        // Should the future be dropped while it waits, the connection goes with the stream.
        let stream = Self::new(stack, key);
        poll_fn(|context| stream.handle.poll_connected(context)).await?;
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
        self.handle.write(data).await
    }

    /// As [`write`](Self::write) without copying: the bytes stay where they are until the peer has acknowledged them.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn write_static(&mut self, data: &'static [u8]) -> Result<usize, Error> {
        if data.is_empty() {
            return self.handle.write(data).await;
        }
        poll_fn(|context| {
            self.handle
                .poll_write(context, |tcb, now, _| tcb.write_static(data, now))
        })
        .await
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
        self.handle.stack.with(|core| core.close(self.handle.key));
        Ok(())
    }

    /// Ends the connection with a reset (RFC 9293 section 3.10.5). What was written and not yet acknowledged is lost.
    pub fn abort(self) {
        let abort =
            |core: &mut crate::stack::Core| core.abort(self.handle.key, Error::ConnectionAborted);
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
        let _ = self.handle.with(|connection, _| {
            connection.tcb.set_nodelay(nodelay);
            Ok(())
        });
    }

    /// What the protocol knows of the connection, like Linux's `TCP_INFO`.
    ///
    /// # Errors
    /// None for a stream that `connect` or `accept` returned.
    pub fn info(&self) -> Result<Info, Error> {
        self.handle
            .with(|connection, now| Ok(connection.tcb.info(now)))
    }

    /// Probes the peer each time the connection has been idle for so long (RFC 9293 section 3.8.4). Together with
    /// [`set_timeout`](Self::set_timeout) a peer that has vanished is found out. The default is not to probe.
    pub fn set_keepalive(&self, interval: Option<Duration>) {
        let keepalive = interval.map(|interval| KeepAlive {
            idle: interval,
            interval,
            probes: KEEPALIVE_PROBES,
        });
        let key = self.handle.key;
        self.handle
            .stack
            .with(|core| core.set_keepalive(key, keepalive));
    }

    /// Gives up, with [`Error::TimedOut`], when written data or a probe has not been acknowledged for so long (RFC
    /// 9293 section 3.8.3, R2). The default is to try without end.
    pub fn set_timeout(&self, timeout: Option<Duration>) {
        let key = self.handle.key;
        self.handle
            .stack
            .with(|core| core.set_user_timeout(key, timeout));
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
        self.handle.write(data).await
    }
}

impl Drop for OwnedWriteHalf {
    fn drop(&mut self) {
        self.handle.stack.release(Orphan::Writer(self.handle.key));
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
                self.handle.write(data).await
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
