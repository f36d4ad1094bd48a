//! The DNS forwarder: queries to the link's DNS address go to the host's resolvers.
//!
//! Nothing is interpreted beyond the header. Each query over UDP has a socket of its own, connected to one resolver:
//! its random port and the kernel's source check are what protects against forged answers. When a resolver stays
//! silent the next one is asked; when none answers, the guest gets SERVFAIL (RFC 1035 section 4.1.1). Queries over TCP
//! are ordinary connections to the first resolver, see the TCP half.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};

use crate::context::Context;
use crate::packet::{Datagram, send_udp};
use crate::poller::{Flags, Token};
use crate::resolvers::Resolvers;
use crate::table::{Key, Table};

/// Where DNS servers listen.
pub(crate) const PORT: u16 = 53;

/// How long one resolver may take.
const PATIENCE: Duration = Duration::from_millis(2500);

/// Resolvers asked for one query, the first of them again if there are fewer.
const ATTEMPTS: usize = 3;

/// The longest query taken, in bytes. Queries hold one name.
const LONGEST: usize = 2048;

struct Query {
    guest: SocketAddr,
    server: SocketAddr,
    question: Box<[u8]>,
    fd: OwnedFd,
    attempt: usize,
    deadline: Instant,
}

pub(crate) struct Dns {
    resolvers: Resolvers,
    queries: Table<Query>,
}

impl Dns {
    pub fn new(configured: &[SocketAddr]) -> Self {
        Self {
            resolvers: Resolvers::new(configured),
            queries: Table::new(),
        }
    }

    /// Where a query over TCP goes.
    pub fn first_resolver(&mut self, now: Instant) -> Option<SocketAddr> {
        self.resolvers.current(now).first().copied()
    }

    /// A query of the guest over UDP.
    pub fn receive(&mut self, cx: &mut Context, query: Datagram<'_>) {
        let question = query.payload;
        // Header, and a query rather than a response.
        if question.len() < 12 || question.len() > LONGEST || question[2] & 0x80 != 0 {
            cx.stats.udp_dropped += 1;
            return;
        }
        cx.stats.dns_queries += 1;
        // Impatient clients repeat a query from the same port with the same identifier; it is under way already.
        let repeated = self.queries.iter().any(|(_, known)| {
            known.guest == query.source && known.question.get(..2) == question.get(..2)
        });
        if repeated {
            return;
        }
        if self.queries.len() < cx.config.limits.dns_queries {
            self.ask(cx, query.source, query.target, question, 0);
        } else {
            fail(cx, query.source, query.target, question);
        }
    }

    /// An answer has come, or an ICMP error.
    pub fn event(&mut self, cx: &mut Context, key: Key) {
        let Some(query) = self.queries.get_mut(key) else {
            return;
        };
        cx.scratch.clear();
        let room = spare_capacity(&mut cx.scratch);
        match rustix::net::recv(&query.fd, room, RecvFlags::DONTWAIT) {
            Ok((length, _)) => {
                let answer = &cx.scratch[..length];
                let fits = length >= 12
                    && answer[2] & 0x80 != 0
                    && answer.get(..2) == query.question.get(..2);
                if !fits {
                    return;
                }
                let datagram = Datagram {
                    source: query.server,
                    target: query.guest,
                    payload: answer,
                };
                send_udp(&mut cx.out, cx.config.mtu, datagram);
                self.queries.remove(key);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Nobody listens there.
            Err(_) => self.next(cx, key),
        }
    }

    /// When the next resolver has been silent for too long.
    pub fn deadline(&self) -> Option<Instant> {
        self.queries.iter().map(|(_, query)| query.deadline).min()
    }

    /// Goes on with queries whose resolver is silent.
    pub fn expire(&mut self, cx: &mut Context) {
        let late: Vec<_> = self
            .queries
            .iter()
            .filter(|(_, query)| query.deadline <= cx.now)
            .map(|(key, _)| key)
            .collect();
        for key in late {
            self.next(cx, key);
        }
    }

    fn next(&mut self, cx: &mut Context, key: Key) {
        if let Some(query) = self.queries.remove(key) {
            let Query {
                guest,
                server,
                question,
                attempt,
                ..
            } = query;
            self.ask(cx, guest, server, &question, attempt + 1);
        }
    }

    /// Asks the resolver whose turn it is, skipping those that the host cannot reach at all.
    fn ask(
        &mut self,
        cx: &mut Context,
        guest: SocketAddr,
        server: SocketAddr,
        question: &[u8],
        first: usize,
    ) {
        for attempt in first..ATTEMPTS {
            let resolvers = self.resolvers.current(cx.now);
            if resolvers.is_empty() {
                break;
            }
            let Ok(fd) = send(resolvers[attempt % resolvers.len()], question) else {
                continue;
            };
            let key = self.queries.insert(Query {
                guest,
                server,
                question: question.into(),
                fd,
                attempt,
                deadline: cx.now + PATIENCE,
            });
            let Some(query) = self.queries.get_mut(key) else {
                return;
            };
            if cx.poller.add(&query.fd, Token::Dns(key), Flags::IN).is_ok() {
                return;
            }
            self.queries.remove(key);
        }
        fail(cx, guest, server, question);
    }
}

fn send(resolver: SocketAddr, question: &[u8]) -> Result<OwnedFd, Errno> {
    let family = match resolver {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP))?;
    rustix::net::connect(&fd, &resolver)?;
    rustix::net::send(&fd, question, SendFlags::DONTWAIT)?;
    Ok(fd)
}

/// Answers SERVFAIL: the question comes back with the response bit and the code set.
fn fail(cx: &mut Context, guest: SocketAddr, server: SocketAddr, question: &[u8]) {
    cx.stats.dns_failed += 1;
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer[3] = 0x80 | 2; // recursion available, SERVFAIL
    let datagram = Datagram {
        source: server,
        target: guest,
        payload: &answer,
    };
    send_udp(&mut cx.out, cx.config.mtu, datagram);
}
