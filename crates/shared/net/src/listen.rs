//! Listeners: who is let in.
//!
//! A SYN for a listener makes a connection that is half open. What an attacker can make the stack hold is limited: when a
//! listener has its fill of half-open connections, or memory is short, SYNs are answered with cookies (RFC 4987) and
//! nothing is kept. When it has its fill of complete connections that nobody accepts, SYNs are ignored: a peer whose SYN
//! is ignored tries again a second later, one that is refused gives up or, worse, tries again at once.
//!
//! Several listeners may share an address if all of them say so ([`ListenOptions::reuse_port`]); peers are spread over
//! them by a keyed hash, as with Linux's `SO_REUSEPORT`.
//!
//! An entry of the table is first *bound*: it keeps its address from others but takes no connection. It becomes a listener
//! when it is told to listen; for asynchronous programs that is the same moment.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::task::Waker;
use core::time::Duration;

use kiln_abi::Instant;

use crate::connections::Phase;
use crate::direct::{BindOptions, Ready, Watch};
use crate::error::Error;
use crate::ports::Ports;
use crate::random::Random;
use crate::stack::Core;
use crate::stats::Stats;
use crate::table::{Key, Pair, Secret};
use crate::tcp::cookie::Cookies;
use crate::tcp::{Flags, Segment, Seq, Tcb, synack_for_cookie};
use crate::wait::WaitQueue;

/// Half-open connections of a listener before cookies are used, at least.
const MIN_HALF_OPEN: usize = 128;
/// How long after the last cookie one may come back.
const COOKIE_LIFE: Duration = Duration::from_mins(2);
/// How long a peer may take to complete the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);

/// How a listener listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Complete connections that wait to be accepted; further SYNs are ignored.
    pub backlog: usize,
    /// Share the address with others that say so too.
    pub reuse_port: bool,
}

impl Default for ListenOptions {
    /// A backlog of 128, alone.
    fn default() -> Self {
        Self {
            backlog: 128,
            reuse_port: false,
        }
    }
}

pub(crate) struct Listener {
    id: u32,
    local: SocketAddr,
    /// The link it is bound to, if not all.
    only: Option<u8>,
    options: BindOptions,
    /// It listens; else it is only bound.
    listening: bool,
    backlog: usize,
    pub half_open: usize,
    pub complete: VecDeque<Key>,
    waiting: WaitQueue,
    watch: Option<Rc<dyn Watch>>,
}

impl Listener {
    /// True if no more complete connections may wait.
    pub(crate) fn is_full(&self) -> bool {
        self.complete.len() >= self.backlog
    }

    /// How exactly the listener's address is `destination`: 0 if it is not.
    fn fit(&self, destination: SocketAddr, port: usize) -> u8 {
        if !self.listening || self.only.is_some_and(|only| usize::from(only) != port) {
            return 0;
        }
        let v6only = self.options.v6only;
        let fit = match self.local.ip() {
            IpAddr::V6(address) if address.is_unspecified() => {
                if v6only && destination.is_ipv4() {
                    return 0;
                }
                1
            }
            IpAddr::V4(address) if address.is_unspecified() && destination.is_ipv4() => 2,
            address if address == destination.ip() => 3,
            _ => return 0,
        };
        fit + if self.only.is_some() { 3 } else { 0 }
    }
}

/// All listeners.
pub(crate) struct Listeners {
    by_port: Ports<Listener>,
    cookies: Cookies,
    last_cookie: Option<Instant>,
    secret: Secret,
}

impl Listeners {
    pub(crate) fn new(random: &mut Random) -> Self {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&random.next_u64().to_le_bytes());
        key[8..].copy_from_slice(&random.next_u64().to_le_bytes());
        Self {
            by_port: Ports::default(),
            cookies: Cookies::new(key),
            last_cookie: None,
            secret: Secret(random.next_u64(), random.next_u64()),
        }
    }

    pub(crate) fn count(&self, stats: &mut Stats) {
        for listener in self.by_port.iter() {
            stats.half_open += listener.half_open;
            stats.queued += listener.complete.len();
        }
    }

    pub(crate) fn get(&mut self, port: u16, id: u32) -> Option<&mut Listener> {
        let listeners = self.by_port.at_mut(port);
        listeners.iter_mut().find(|listener| listener.id == id)
    }

    /// True if an entry of this port, listening or not, has the address or part of it.
    pub(crate) fn is_bound(&self, local: SocketAddr, port: usize) -> bool {
        let entries = self.by_port.at(local.port());
        entries.iter().any(|known| {
            known.only.is_none_or(|only| usize::from(only) == port)
                && overlap(known.local.ip(), local.ip())
        })
    }

    /// The listener that is meant by `destination`, over the link `port`: the one that fits best, of several that fit
    /// equally the one that `pair` is spread to.
    pub(crate) fn find(
        &self,
        destination: SocketAddr,
        port: usize,
        pair: Option<&Pair>,
    ) -> Option<&Listener> {
        let listeners = self.by_port.at(destination.port());
        let fit = |listener: &&Listener| listener.fit(destination, port);
        let best = listeners.iter().map(|listener| fit(&listener)).max()?;
        if best == 0 {
            return None;
        }
        let mut equal = listeners.iter().filter(|listener| fit(listener) == best);
        let number = match pair {
            Some(pair) if listeners.len() > 1 => {
                let count = equal.clone().count() as u64;
                ((u128::from(self.secret.hash(pair)) * u128::from(count)) >> 64) as usize
            }
            _ => 0,
        };
        equal.nth(number)
    }
}

/// True if two sockets cannot both be bound to these addresses of one port: they overlap. `[::]` takes both families.
pub(crate) fn overlap(a: IpAddr, b: IpAddr) -> bool {
    let wildcard =
        |one: IpAddr, other: IpAddr| one.is_unspecified() && (one.is_ipv6() || other.is_ipv4());
    a == b || wildcard(a, b) || wildcard(b, a)
}

/// As [`overlap`] of two sockets of which `[::]` may be meant for IPv6 alone.
pub(crate) fn overlap_of(a: (IpAddr, bool), b: (IpAddr, bool)) -> bool {
    let apart = |one: (IpAddr, bool), other: IpAddr| {
        one.1 && one.0.is_unspecified() && one.0.is_ipv6() && other.is_ipv4()
    };
    overlap(a.0, b.0) && !apart(a, b.0) && !apart(b, a.0)
}

/// True if a connection has an address that a socket of these options would have.
fn overlaps(pair: &Pair, local: SocketAddr, options: BindOptions) -> bool {
    overlap_of((local.ip(), options.v6only), (pair.local.ip(), false))
}

/// What is to be done about a SYN.
enum Admission {
    Refuse,
    Ignore,
    Cookie,
    Enter { listener: u32 },
}

impl Core {
    /// Starts to listen.
    pub(crate) fn listen(
        &mut self,
        address: SocketAddr,
        options: ListenOptions,
        only: Option<u8>,
    ) -> Result<(u32, SocketAddr), Error> {
        let bind = BindOptions {
            // Connections that are ending keep nobody from listening again.
            reuse_address: true,
            reuse_port: options.reuse_port,
            v6only: false,
        };
        let (id, local) = self.bind_tcp(address, bind, only)?;
        if let Err(error) = self.start_listening(local.port(), id, options.backlog) {
            self.release_listener(local.port(), id);
            return Err(error);
        }
        Ok((id, local))
    }

    /// Keeps an address for a socket that will listen or connect.
    pub(crate) fn bind_tcp(
        &mut self,
        address: SocketAddr,
        options: BindOptions,
        only: Option<u8>,
    ) -> Result<(u32, SocketAddr), Error> {
        let mut local = SocketAddr::new(address.ip(), address.port());
        if !local.ip().is_unspecified() && !self.is_own(local.ip()) {
            return Err(Error::AddressNotAvailable);
        }
        if local.port() == 0 {
            // A port that was not asked for is shared with nobody.
            let alone = BindOptions {
                v6only: options.v6only,
                ..BindOptions::default()
            };
            let used = self.used_ports(local, alone);
            let port = self.free_port(|core, port| {
                let candidate = SocketAddr::new(local.ip(), port);
                core.is_taken(candidate, alone, only, None) || used.binary_search(&port).is_ok()
            });
            local.set_port(port.ok_or(Error::AddressInUse)?);
        } else if self.is_taken(local, options, only, None)
            || !options.reuse_address && self.has_connections(local, options)
        {
            return Err(Error::AddressInUse);
        }
        let id = self.id();
        let listener = Listener {
            id,
            local,
            only,
            options,
            listening: false,
            backlog: 1,
            half_open: 0,
            complete: VecDeque::new(),
            waiting: WaitQueue::default(),
            watch: None,
        };
        self.listeners.by_port.push(local.port(), listener);
        Ok((id, local))
    }

    /// Makes a listener of what was bound, or changes its backlog.
    pub(crate) fn start_listening(
        &mut self,
        port: u16,
        id: u32,
        backlog: usize,
    ) -> Result<(), Error> {
        let known = self.listeners.get(port, id).ok_or(Error::NotConnected)?;
        let (local, options, only) = (known.local, known.options, known.only);
        if !known.listening && self.is_taken(local, options, only, Some(id)) {
            return Err(Error::AddressInUse);
        }
        if let Some(known) = self.listeners.get(port, id) {
            known.listening = true;
            known.backlog = backlog.clamp(1, 65_536);
        }
        Ok(())
    }

    /// True if another entry is in the way. The rules are Linux's: an address may be taken again from one that does not listen
    /// if both allow it, or if both share it on purpose.
    fn is_taken(
        &self,
        local: SocketAddr,
        options: BindOptions,
        only: Option<u8>,
        own: Option<u32>,
    ) -> bool {
        let listeners = self.listeners.by_port.at(local.port());
        listeners.iter().any(|known| {
            let ports = known.options.reuse_port && options.reuse_port;
            let addresses = known.options.reuse_address && options.reuse_address;
            let same_link = match (known.only, only) {
                (Some(known), Some(only)) => known == only,
                (None, None) => true,
                // One that is bound to a link goes before one that is not.
                _ => false,
            };
            let (a, b) = (known.local.ip(), local.ip());
            Some(known.id) != own
                && same_link
                && !ports
                && (!addresses || known.listening)
                && overlap_of((a, known.options.v6only), (b, options.v6only))
        })
    }

    /// True if a connection, even one that has ended a moment ago, has this port.
    fn has_connections(&self, local: SocketAddr, options: BindOptions) -> bool {
        let same =
            |pair: &Pair| pair.local.port() == local.port() && overlaps(pair, local, options);
        let mut connections = self.connections.table.iter();
        connections.any(|(_, connection)| same(&connection.pair)) || self.ended.pairs().any(same)
    }

    /// The ports of all connections, in order, even of those that have ended a moment ago.
    fn used_ports(&self, local: SocketAddr, options: BindOptions) -> Vec<u16> {
        let connections = self.connections.table.iter();
        let pairs = connections.map(|(_, connection)| &connection.pair);
        let mut ports: Vec<u16> = pairs
            .chain(self.ended.pairs())
            .filter(|pair| overlaps(pair, local, options))
            .map(|pair| pair.local.port())
            .collect();
        ports.sort_unstable();
        ports
    }

    /// Whether an address may be shared is asked when it is bound; a socket may still change its mind before it listens.
    pub(crate) fn set_bind_options(&mut self, port: u16, id: u32, options: BindOptions) {
        if let Some(known) = self.listeners.get(port, id) {
            known.options = options;
        }
    }

    /// Who is told when a connection can be accepted.
    pub(crate) fn watch_listener(&mut self, port: u16, id: u32, watch: Option<Rc<dyn Watch>>) {
        if let Some(known) = self.listeners.get(port, id) {
            known.watch = watch;
        }
    }

    /// Takes a complete connection from a listener.
    pub(crate) fn try_accept(&mut self, port: u16, listener: u32) -> Option<(Key, SocketAddr)> {
        let known = self.listeners.get(port, listener)?;
        let key = known.complete.pop_front()?;
        let connection = self.connections.get(key)?;
        connection.phase = Phase::Open;
        Some((key, connection.pair.remote))
    }

    /// Takes a complete connection from a listener, or remembers the waker.
    pub(crate) fn accept(
        &mut self,
        port: u16,
        listener: u32,
        waker: &Waker,
    ) -> Option<(Key, SocketAddr)> {
        let accepted = self.try_accept(port, listener);
        if accepted.is_none() {
            self.listeners.get(port, listener)?.waiting.register(waker);
        }
        accepted
    }

    /// A segment of no connection: a SYN for a listener, an answer to a cookie, or nothing of ours. True if it has been
    /// dealt with, else it is to be answered with a reset. `iss` is given for a new incarnation (RFC 6191).
    pub(crate) fn admit(
        &mut self,
        port: usize,
        pair: &Pair,
        segment: &Segment<'_>,
        iss: Option<Seq>,
    ) -> bool {
        let opens = segment.flags.has(Flags::SYN)
            && !segment.flags.any(Flags::ACK | Flags::RST | Flags::FIN);
        let peer = pair.remote.ip();
        if peer.is_multicast() || peer.is_unspecified() || pair.remote.port() == 0 {
            return true;
        }
        if !opens {
            return segment.flags.has(Flags::ACK)
                && !segment.flags.any(Flags::SYN | Flags::RST)
                && self.admit_cookie(port, pair, segment);
        }
        match self.decide(port, pair) {
            Admission::Refuse => false,
            Admission::Ignore => {
                self.stats.backlog_overflows += 1;
                true
            }
            Admission::Cookie => {
                self.send_cookie(port, pair, segment);
                true
            }
            Admission::Enter { listener } => {
                let Some(next_hop) = self.way_back(port, peer) else {
                    return true;
                };
                let mut settings = self.settings(port, peer);
                settings.handshake_timeout = HANDSHAKE_TIMEOUT;
                let (first, clock) = self.iss_and_clock_offset(pair);
                let iss = iss.unwrap_or(first);
                let tcb = Tcb::accept(&settings, segment, iss, clock, self.now);
                let phase = Phase::HalfOpen {
                    port: pair.local.port(),
                    listener,
                };
                if let Some(known) = self.listeners.get(pair.local.port(), listener) {
                    known.half_open += 1;
                }
                let key = self.enter(tcb, *pair, port, next_hop, phase);
                self.make_ready(key);
                true
            }
        }
    }

    fn decide(&mut self, port: usize, pair: &Pair) -> Admission {
        let Some(listener) = self.listeners.find(pair.local, port, Some(pair)) else {
            return Admission::Refuse;
        };
        let (id, half_open) = (listener.id, listener.half_open);
        let backlog = listener.backlog;
        if listener.is_full() {
            return Admission::Ignore;
        }
        if half_open >= backlog.max(MIN_HALF_OPEN) || !self.has_room() {
            return Admission::Cookie;
        }
        Admission::Enter { listener: id }
    }

    fn send_cookie(&mut self, port: usize, pair: &Pair, syn: &Segment<'_>) {
        self.stats.cookies_sent += 1;
        self.listeners.last_cookie = Some(self.now);
        let settings = self.settings(port, pair.remote.ip());
        let offset = self.clock_offset(pair);
        let (cookies, now) = (&self.listeners.cookies, self.now);
        let answer = synack_for_cookie(
            cookies,
            &settings,
            pair.local,
            pair.remote,
            syn,
            offset,
            now,
        );
        self.send_segment(port, pair, &answer);
    }

    /// The third segment of a handshake of which nothing was kept.
    fn admit_cookie(&mut self, port: usize, pair: &Pair, segment: &Segment<'_>) -> bool {
        let now = self.now;
        let recent = |last: Instant| now.since(last) < COOKIE_LIFE;
        if !self.listeners.last_cookie.is_some_and(recent) {
            return false;
        }
        let Some(listener) = self.listeners.find(pair.local, port, Some(pair)) else {
            return false;
        };
        let (id, full) = (listener.id, listener.is_full());
        let offset = self.clock_offset(pair);
        let echo = segment.options.timestamps.map(|timestamps| timestamps.echo);
        let (irs, iss) = (segment.seq - 1, segment.ack - 1);
        let checked = self
            .listeners
            .cookies
            .check(pair.local, pair.remote, irs, iss, echo, now);
        let Some(remembered) = checked else {
            return false;
        };
        let Some(next_hop) = self.way_back(port, pair.remote.ip()) else {
            return true;
        };
        // The peer sends its data again, and with them the same acknowledgement.
        if full || !self.make_room() {
            self.stats.backlog_overflows += 1;
            return true;
        }
        self.stats.cookies_accepted += 1;
        let settings = self.settings(port, pair.remote.ip());
        let tcb = Tcb::from_cookie(&settings, &remembered, segment, offset, now);
        let phase = Phase::HalfOpen {
            port: pair.local.port(),
            listener: id,
        };
        if let Some(known) = self.listeners.get(pair.local.port(), id) {
            known.half_open += 1;
        }
        let key = self.enter(tcb, *pair, port, next_hop, phase);
        self.complete(key, pair.local.port(), id);
        self.segment_for(key, segment);
        true
    }

    /// The handshake of a listener's connection is complete.
    pub(crate) fn complete(&mut self, key: Key, port: u16, listener: u32) {
        let Some(known) = self.listeners.get(port, listener) else {
            return;
        };
        known.half_open = known.half_open.saturating_sub(1);
        known.complete.push_back(key);
        known.waiting.wake();
        if let Some(watch) = &known.watch {
            watch.changed(Ready::READ);
        }
        self.stats.accepted += 1;
        if let Some(connection) = self.connections.get(key) {
            connection.phase = Phase::Queued { port, listener };
        }
    }

    /// The program has dropped a listener: connections that it has not accepted are reset.
    pub(crate) fn release_listener(&mut self, port: u16, id: u32) {
        let known = self.listeners.by_port.take(port, |known| known.id == id);
        if known.is_none_or(|known| !known.listening) {
            return;
        }
        let of_listener = |phase: Phase| match phase {
            Phase::HalfOpen { listener, .. } | Phase::Queued { listener, .. } => listener == id,
            _ => false,
        };
        let mut orphans = Vec::new();
        for (key, connection) in self.connections.table.iter() {
            if of_listener(connection.phase) {
                orphans.push(key);
            }
        }
        let until = self.now + self.config.linger;
        for key in orphans {
            if let Some(connection) = self.connections.get(key) {
                connection.linger(until);
                self.connections.lingering += 1;
            }
            self.abort(key, Error::ConnectionAborted);
        }
    }
}
