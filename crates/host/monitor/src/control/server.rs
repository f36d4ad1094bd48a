//! The supervisor's end of the control socket.
//!
//! [`Server`] owns the listening socket and the connections, all non-blocking. It does not know what requests mean: the
//! supervisor's loop asks it what to wait for ([`Server::interests`]), tells it what became ready
//! ([`Server::handle`]), gets whole requests, and answers them at once or later ([`Server::answer`]).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};

use super::{MAX_REQUEST, Request, Response};
use crate::registry::CONTROL_SOCKET;

/// The most connections at a time, those apart that wait for the guest's end; others wait in the socket's queue.
const MAX_CLIENTS: usize = 64;

/// How long a client may take to send its request, and to take the response.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to take no connections when the host has no descriptor or memory for one.
const REST: Duration = Duration::from_millis(100);

/// Names a connection as long as it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientId(u64);

/// The control socket of one instance.
#[derive(Debug)]
pub struct Server {
    listener: OwnedFd,
    clients: Vec<Client>,
    next: u64,
    /// Until when no connections are taken, because there could be none.
    rests_until: Option<Instant>,
    uid: rustix::process::Uid,
}

#[derive(Debug)]
struct Client {
    id: ClientId,
    socket: OwnedFd,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The request comes in.
    Reading { bytes: Vec<u8>, until: Instant },
    /// The supervisor has the request.
    Waiting,
    /// The response goes out.
    Writing { bytes: Vec<u8>, until: Instant },
    /// To be forgotten.
    Done,
}

impl Server {
    /// Makes the socket in an instance's folder, which is open as `dir` and lies at `path`.
    ///
    /// # Errors
    /// The host's.
    pub fn bind(dir: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<Self> {
        let listener = socket()?;
        let address = address(dir, path)?;
        rustix::net::bind(&listener, &address)?;
        rustix::net::listen(&listener, 64)?;
        Ok(Self {
            listener,
            clients: Vec::new(),
            next: 0,
            rests_until: None,
            uid: rustix::process::geteuid(),
        })
    }

    /// Descriptors to wait for and for what. The order is what [`handle`](Self::handle) expects.
    pub fn interests(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let listening = if self.has_room() && self.rests_until.is_none() {
            PollFlags::IN
        } else {
            PollFlags::empty()
        };
        std::iter::once((self.listener.as_fd(), listening)).chain(self.clients.iter().map(
            |client| {
                let flags = match client.state {
                    State::Reading { .. } => PollFlags::IN,
                    State::Writing { .. } => PollFlags::OUT,
                    // A client that goes away reports itself without being asked (POLLHUP).
                    State::Waiting | State::Done => PollFlags::empty(),
                };
                (client.socket.as_fd(), flags)
            },
        ))
    }

    /// Whether a client is still connected.
    pub fn has(&self, id: ClientId) -> bool {
        self.clients.iter().any(|client| client.id == id)
    }

    fn has_room(&self) -> bool {
        let active = |client: &&Client| !matches!(client.state, State::Waiting);
        self.clients.iter().filter(active).count() < MAX_CLIENTS
    }

    /// When to call [`handle`](Self::handle) even if nothing is ready.
    pub fn deadline(&self) -> Option<Instant> {
        let until = |client: &Client| match client.state {
            State::Reading { until, .. } | State::Writing { until, .. } => Some(until),
            State::Waiting | State::Done => None,
        };
        let clients = self.clients.iter().filter_map(until);
        clients.chain(self.rests_until).min()
    }

    /// Does what can be done without blocking. `ready` holds what is ready, in the order of
    /// [`interests`](Self::interests). Returns the requests that are complete.
    pub fn handle(&mut self, ready: &[PollFlags], now: Instant) -> Vec<(ClientId, Request)> {
        self.rests_until = self.rests_until.filter(|until| now < *until);
        let mut requests = Vec::new();
        for (client, flags) in self.clients.iter_mut().zip(ready.iter().skip(1)) {
            client.advance(*flags, now, &mut requests);
        }
        self.forget_done();
        if ready.first().is_some_and(|flags| !flags.is_empty()) {
            self.accept(now);
        }
        requests
    }

    /// Answers a request. A client that has gone away meanwhile is not missed.
    pub fn answer(&mut self, id: ClientId, response: &Response, now: Instant) {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else {
            return;
        };
        client.respond(response, now);
        self.forget_done();
    }

    /// Gives away the connection of a client that waits for a response. `None` if it has gone away meanwhile.
    pub fn take(&mut self, id: ClientId) -> Option<OwnedFd> {
        let index = self.clients.iter().position(|client| client.id == id)?;
        Some(self.clients.remove(index).socket)
    }

    /// Hangs up on clients that are done, which is how they know that the response is complete.
    fn forget_done(&mut self) {
        self.clients
            .retain(|client| !matches!(client.state, State::Done));
    }

    fn accept(&mut self, now: Instant) {
        while self.has_room() {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = match rustix::net::accept_with(&self.listener, flags) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                // No descriptor or no memory is left: the listener stays ready, so it is not looked at for a while.
                Err(_) => {
                    self.rests_until = Some(now + REST);
                    return;
                }
            };
            // The folder keeps others out already; this holds when somebody has made it accessible.
            let trusted = sockopt::socket_peercred(&socket)
                .is_ok_and(|peer| peer.uid == self.uid || peer.uid.is_root());
            if !trusted {
                continue;
            }
            self.clients.push(Client {
                id: ClientId(self.next),
                socket,
                state: State::Reading {
                    bytes: Vec::new(),
                    until: now + PATIENCE,
                },
            });
            self.next += 1;
        }
    }
}

impl Client {
    fn advance(&mut self, ready: PollFlags, now: Instant, requests: &mut Vec<(ClientId, Request)>) {
        let gone = ready.intersects(PollFlags::HUP | PollFlags::ERR);
        match &mut self.state {
            State::Reading { until, .. } | State::Writing { until, .. } if now >= *until => {
                self.state = State::Done;
            }
            State::Waiting if gone => self.state = State::Done,
            State::Reading { .. } if !ready.is_empty() => {
                if let Some(request) = self.read(now) {
                    requests.push((self.id, request));
                }
            }
            State::Writing { .. } if !ready.is_empty() => self.write(),
            _ => {}
        }
    }

    fn read(&mut self, now: Instant) -> Option<Request> {
        let State::Reading { bytes, .. } = &mut self.state else {
            return None;
        };
        let mut buffer = [0; MAX_REQUEST];
        match rustix::net::recv(&self.socket, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => {
                self.state = State::Done;
                return None;
            }
            Ok((count, _)) => bytes.extend_from_slice(&buffer[..count]),
            Err(Errno::AGAIN | Errno::INTR) => return None,
            Err(_) => {
                self.state = State::Done;
                return None;
            }
        }
        let problem = match bytes.iter().position(|&byte| byte == b'\n') {
            Some(end) => match serde_json::from_slice(&bytes[..end]) {
                Ok(request) => {
                    self.state = State::Waiting;
                    return Some(request);
                }
                Err(error) => format!("not a request: {error}"),
            },
            None if bytes.len() < MAX_REQUEST => return None,
            None => format!("a request has at most {MAX_REQUEST} bytes"),
        };
        self.respond(&Response::Refused { problem }, now);
        None
    }

    fn respond(&mut self, response: &Response, now: Instant) {
        self.state = match serde_json::to_vec(response) {
            Ok(mut bytes) => {
                bytes.push(b'\n');
                State::Writing {
                    bytes,
                    until: now + PATIENCE,
                }
            }
            Err(_) => State::Done,
        };
        // Nearly always there is room, which saves a turn of the loop, and is the only try at the very end.
        self.write();
    }

    fn write(&mut self) {
        let State::Writing { bytes, .. } = &mut self.state else {
            return;
        };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::send(&self.socket, bytes, flags) {
            Ok(count) if count < bytes.len() => {
                bytes.drain(..count);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            _ => self.state = State::Done,
        }
    }
}

fn socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// The socket's address: through the open folder if its path is too long for an address (unix(7): 108 bytes).
pub(super) fn address(dir: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<SocketAddrUnix> {
    use std::os::fd::AsRawFd;
    SocketAddrUnix::new(path.join(CONTROL_SOCKET)).or_else(|_| {
        SocketAddrUnix::new(format!(
            "/proc/self/fd/{}/{CONTROL_SOCKET}",
            dir.as_raw_fd()
        ))
    })
}

#[cfg(test)]
mod tests;
