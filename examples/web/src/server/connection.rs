//! One connection, from its first byte to its last.
//!
//! A request that has arrived whole and a reply that fits into the send buffer pass through here without waiting, without
//! a timer and without an allocation. Replies to requests that arrived together leave together.

use alloc::vec::Vec;
use core::future::poll_fn;
use core::net::SocketAddr;
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

use kiln::io::{Read, Write};
use kiln::log;
use kiln::net::{Error, TcpStream};
use web::answer::Reply;
use web::session::{Expecting, Next, Session};

use super::Server;
use super::deadline::{Deadline, Expired};
use super::seats::Seat;

/// How long a request's head may take, from its first byte; on a new connection from the connection's begin.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long a connection may be idle between two requests.
const IDLE_TIME: Duration = Duration::from_mins(1);
/// How long a client may take to make room for more of a reply.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// How long the connection is kept for a client that has been told of its end.
const LINGER_TIME: Duration = Duration::from_secs(2);
/// Replies gathered beyond this many bytes are written, whether or not more requests have arrived.
const GATHER: usize = 1536;

/// Why a connection ended before its time.
enum End {
    Net,
    Expired,
    Dismissed,
    Closed,
}

impl From<Error> for End {
    fn from(_: Error) -> Self {
        Self::Net
    }
}

impl From<Expired> for End {
    fn from(_: Expired) -> Self {
        Self::Expired
    }
}

struct Connection<'s> {
    stream: TcpStream,
    peer: SocketAddr,
    server: &'s Server,
    seat: &'s Seat,
    deadline: Deadline,
    session: Session,
    out: Vec<u8>,
    /// A reply was sent, and nothing received since.
    replied: bool,
}

/// Serves a connection until it ends, whichever way.
pub async fn serve(stream: TcpStream, peer: SocketAddr, server: &Server, seat: &Seat) {
    // Every write is a whole reply; to hold its end back until the client has acknowledged the beginning gains nothing.
    stream.set_nodelay(true);
    let mut connection = Connection {
        stream,
        peer,
        server,
        seat,
        deadline: Deadline::after(HEAD_TIME),
        session: Session::new(),
        out: Vec::new(),
        replied: false,
    };
    match connection.run().await {
        // The client hears no reason: it knows, or it is not there.
        Ok(()) | Err(End::Closed) => connection.linger().await,
        Err(End::Dismissed | End::Net) => {}
        Err(End::Expired) => connection.stream.abort(),
    }
}

impl Connection<'_> {
    /// Requests and replies, up to the last reply.
    async fn run(&mut self) -> Result<(), End> {
        loop {
            let date = self.server.clock.date();
            match self
                .session
                .next(self.seat.is_closing(), &date, &mut self.out)
            {
                Next::Reply(reply) => {
                    let close = reply.close;
                    self.send(reply).await?;
                    if close {
                        return Ok(());
                    }
                }
                Next::Read => {
                    self.flush().await?;
                    match self.receive().await {
                        Err(End::Expired) => return self.time_out().await,
                        other => other?,
                    }
                }
            }
        }
    }

    /// Waits for more of a request.
    async fn receive(&mut self) -> Result<(), End> {
        let idle = self.session.expecting() == Expecting::Request;
        if core::mem::take(&mut self.replied) {
            self.deadline.set(if idle { IDLE_TIME } else { HEAD_TIME });
        }
        if idle {
            self.seat.set_idle(true);
        }
        let count = {
            let mut read = pin!(self.stream.read(self.session.room()));
            let (seat, deadline) = (self.seat, &mut self.deadline);
            poll_fn(|cx| {
                if let Poll::Ready(result) = read.as_mut().poll(cx) {
                    return Poll::Ready(result.map_err(End::from));
                }
                if idle && seat.poll_dismissed(cx).is_ready() {
                    return Poll::Ready(Err(End::Dismissed));
                }
                deadline.poll_expired(cx).map(|expired| Err(expired.into()))
            })
            .await?
        };
        if count == 0 {
            return Err(End::Closed);
        }
        self.session.received(count);
        if idle {
            self.seat.set_idle(false);
            self.deadline.set(HEAD_TIME);
        }
        Ok(())
    }

    /// Sends a reply, or gathers it if it is short.
    async fn send(&mut self, reply: Reply) -> Result<(), End> {
        if log::log_enabled!(log::Level::Info) {
            let (code, len) = (reply.status.code(), reply.content_len);
            log::info!(
                "{} \"{}\" {code} {len}",
                self.peer.ip(),
                self.session.request_line()
            );
        }
        if reply.close || !reply.body.is_empty() || self.out.len() > GATHER {
            self.flush().await?;
        }
        for piece in reply.body {
            self.deadline.set(WRITE_TIME);
            write_static(&mut self.stream, &mut self.deadline, piece).await?;
        }
        self.replied = true;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.deadline.set(WRITE_TIME);
        write(&mut self.stream, &mut self.deadline, &self.out).await?;
        self.out.clear();
        Ok(())
    }

    /// The client was too slow: tells it, if it has begun a request.
    async fn time_out(&mut self) -> Result<(), End> {
        let date = self.server.clock.date();
        match self.session.time_out(&date, &mut self.out) {
            Some(reply) => self.send(reply).await,
            None => Err(End::Dismissed),
        }
    }

    /// Lets the client read the last reply. A connection that is closed while the client still sends is reset, and
    /// the reset may overtake the reply (RFC 9112 section 9.6).
    async fn linger(&mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        self.deadline.set(LINGER_TIME);
        let mut rest = [0; 512];
        while let Ok(Ok(1..)) = self.deadline.limit(self.stream.read(&mut rest)).await {}
    }
}

/// Writes everything; the limit is moved with each part that the client has made room for.
async fn write(
    stream: &mut TcpStream,
    deadline: &mut Deadline,
    mut data: &[u8],
) -> Result<(), End> {
    while !data.is_empty() {
        let count = deadline.limit(stream.write(data)).await??;
        data = &data[count..];
        if !data.is_empty() {
            deadline.set(WRITE_TIME);
        }
    }
    Ok(())
}

/// The same for what never changes: the network takes it from where it lies.
async fn write_static(
    stream: &mut TcpStream,
    deadline: &mut Deadline,
    mut data: &'static [u8],
) -> Result<(), End> {
    while !data.is_empty() {
        let count = deadline.limit(stream.write_static(data)).await??;
        data = &data[count..];
        if !data.is_empty() {
            deadline.set(WRITE_TIME);
        }
    }
    Ok(())
}
