//! Every TCP connection from its SYN to its end, and what programs do with them.
//!
//! The protocol of a connection is its [`Tcb`]. Around it is what the stack must know: whose it is ([`Phase`]), over
//! which link and by which neighbour it goes, who waits for it.
//!
//! ```text
//! SYN arrives -> HalfOpen -> Queued -accept()-> Open -drop-> Lingering -> (table of ended connections)
//!                            connect() ------->
//! ```
//!
//! Whatever touches a connection puts it into the list of those that are *ready*. Each is looked at once per poll
//! (`egress`): what it wants to say leaves, its timer is set, its memory counted, and it is removed if it is over. So a
//! batch of segments costs one look, and a connection on which nothing happens costs nothing.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::task::Waker;
use core::time::Duration;

use kiln_abi::Instant;

use crate::addresses::peer;
use crate::config::Config;
use crate::direct::{Ready, Watch, has_room};
use crate::error::Error;
use crate::random::Random;
use crate::stack::Core;
use crate::stats::Stats;
use crate::table::{Ends, Key, Pair, Secret, Table};
use crate::tcp::{Changed, KeepAlive, SMALLEST_CHUNK, Seq, Settings, State, Tcb};
use crate::wheel::Wheel;

/// First of the ephemeral ports, which go up to 65535. RFC 6056 section 3.2 advises a wide range.
const FIRST_EPHEMERAL: u16 = 32_768;
/// Ports tried at random before all are looked at in turn.
const PORT_ATTEMPTS: usize = 64;
/// IPv4 and TCP headers without options.
const HEADERS4: u16 = 40;
/// IPv6 and TCP headers without options.
const HEADERS6: u16 = 60;
/// How long an acknowledgement waits for company, RFC 9293 section 3.8.6.3; what Linux takes.
const ACK_DELAY: Duration = Duration::from_millis(40);
/// A clock of 4 microseconds drives initial sequence numbers, RFC 9293 section 3.4.1.
const ISS_TICK_NANOS: u64 = 4000;
/// So many pieces of memory are kept for what is written next.
const MOST_SPARE: usize = 32;

/// Who cares for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A listener has it, the handshake is not complete.
    HalfOpen { port: u16, listener: u32 },
    /// A listener has it, complete.
    Queued { port: u16, listener: u32 },
    /// The program has it.
    Open,
    /// Nobody but the stack.
    Lingering {
        /// When it is reset, unless by then less is unacknowledged than `left` bytes.
        until: Instant,
        left: u32,
    },
}

/// How far a connection has been seen to come, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The handshake is not complete.
    Opening,
    /// ESTABLISHED or CLOSE-WAIT.
    Established,
    /// Closed from here, or over.
    Ended,
}

/// A connection.
pub(crate) struct Connection {
    pub tcb: Tcb,
    pub pair: Pair,
    pub next_hop: IpAddr,
    /// Over which link.
    pub port: u8,
    /// In the list of those that are ready.
    pub is_ready: bool,
    pub stage: Stage,
    pub phase: Phase,
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
    /// Who is told of every change, and stays so.
    pub watch: Option<Rc<dyn Watch>>,
    /// A writer found no room, and is to be told when there is some.
    pub starved: bool,
    /// When the timer that was set last fires; [`Instant::FOREVER`] without one.
    pub scheduled: Instant,
    /// The latest other timer that is still set, [`Instant::FOREVER`] without one: a far timer is not set again each time a
    /// near one has fired.
    pub later: Instant,
    /// Bytes that were counted for its buffers.
    pub counted: usize,
}

impl Ends for Connection {
    fn pair(&self) -> &Pair {
        &self.pair
    }
}

impl Stage {
    /// True if a connection in this state can still be in this stage.
    fn fits(self, state: State) -> bool {
        match self {
            Self::Opening => matches!(state, State::SynSent | State::SynReceived),
            Self::Established => matches!(state, State::Established | State::CloseWait),
            Self::Ended => true,
        }
    }
}

impl Connection {
    /// Nobody but the stack has it; if no more is acknowledged until then it is reset.
    pub(crate) fn linger(&mut self, until: Instant) {
        let left = self.tcb.unacknowledged() as u32;
        self.phase = Phase::Lingering { until, left };
    }

    /// If nobody but the stack has it: how much the peer has not acknowledged, its end included.
    pub(crate) fn unheard(&self) -> usize {
        match (self.phase, self.tcb.state()) {
            (_, State::FinWait2 | State::TimeWait | State::Closed) => 0,
            (Phase::Lingering { .. }, _) => self.tcb.unacknowledged() + 1,
            _ => 0,
        }
    }

    /// Counts the memory it holds now.
    fn recount(&mut self, held_by_all: &mut usize) {
        let held = self.tcb.held();
        *held_by_all = (*held_by_all + held).saturating_sub(self.counted);
        self.counted = held;
    }

    /// Counts how it has come to leave its stage.
    fn end_stage(&mut self, established: &mut usize, stats: &mut Stats) {
        let over = u64::from(self.tcb.state() == State::Closed);
        match core::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Opening => stats.attempts_failed += over,
            Stage::Established => {
                *established -= 1;
                stats.established_resets += over;
            }
            Stage::Ended => {}
        }
    }
}

/// All connections.
pub(crate) struct Connections {
    pub table: Table<Connection>,
    pub ready: VecDeque<Key>,
    pub wheel: Wheel<Key>,
    /// How many nobody but the stack has.
    pub lingering: usize,
    /// How many are in [`Stage::Established`].
    pub established: usize,
    /// Bytes in all buffers.
    pub held: usize,
    /// When memory was looked for last.
    pub relieved: Instant,
    pub settings: Settings,
    secret: Secret,
    fired: Vec<Key>,
    /// Memory of messages that were read, for those that are written next; each of [`SMALLEST_CHUNK`] bytes.
    pub spare: Vec<Vec<u8>>,
}

impl Connections {
    pub(crate) fn new(config: &Config, random: &mut Random, now: Instant) -> Self {
        let buffers = config.tcp_buffers();
        let mut secret = || Secret(random.next_u64(), random.next_u64());
        Self {
            table: Table::new(secret()),
            secret: secret(),
            ready: VecDeque::new(),
            wheel: Wheel::new(now),
            lingering: 0,
            established: 0,
            held: 0,
            relieved: now,
            fired: Vec::new(),
            spare: Vec::new(),
            settings: Settings {
                mss: 536,
                receive_limit: buffers.receive as u32,
                send_limit: buffers.send as u32,
                algorithm: config.congestion,
                timestamps: true,
                sack: true,
                ecn: true,
                nodelay: false,
                ack_delay: ACK_DELAY,
                keepalive: None,
                user_timeout: None,
                handshake_timeout: config.connect_timeout,
                linger: config.linger,
                time_wait: config.time_wait,
                probe_mtu: true,
            },
        }
    }

    /// The key of the look-up, and that of sequence numbers.
    #[cfg(test)]
    pub(crate) fn secrets(&self) -> [Secret; 2] {
        [self.table.secret(), self.secret]
    }

    pub(crate) fn get(&mut self, key: Key) -> Option<&mut Connection> {
        self.table.get_mut(key)
    }

    /// Keeps memory for what is written next.
    pub(crate) fn keep(&mut self, chunk: Vec<u8>) {
        if chunk.capacity() == SMALLEST_CHUNK && self.spare.len() < MOST_SPARE {
            self.spare.push(chunk);
        }
    }

    /// Counts the memory of a connection that has taken some or given some back.
    pub(crate) fn recount(&mut self, key: Key) {
        if let Some(connection) = self.table.get_mut(key) {
            connection.recount(&mut self.held);
        }
    }

    pub(crate) fn count(&self, stats: &mut Stats) {
        stats.connections = self.table.len();
        stats.lingering = self.lingering;
        stats.established = self.established;
        stats.buffer_bytes += self.held;
    }
}

impl Core {
    /// Starts to connect. `only` is the link to use, if not any.
    pub(crate) fn connect(&mut self, remote: SocketAddr, only: Option<u8>) -> Result<Key, Error> {
        self.connect_from(None, remote, only)
    }

    /// Starts to connect, from an address that was bound before: its unspecified parts are chosen.
    pub(crate) fn connect_from(
        &mut self,
        bound: Option<SocketAddr>,
        remote: SocketAddr,
        only: Option<u8>,
    ) -> Result<Key, Error> {
        let remote = SocketAddr::new(peer(remote.ip()), remote.port());
        if remote.port() == 0 || remote.ip().is_multicast() {
            return Err(Error::InvalidInput);
        }
        let (port, way) = self.route(remote.ip(), only)?;
        let source = match bound.map(|bound| bound.ip()) {
            Some(bound) if !bound.is_unspecified() => bound,
            _ => way.source,
        };
        if source.is_ipv4() != remote.is_ipv4() || !self.is_own(source) {
            return Err(Error::AddressNotAvailable);
        }
        let taken = |core: &Self, pair: &Pair| {
            core.connections.table.find(pair).is_some() || core.ended.contains(pair)
        };
        let local_port = match bound.map_or(0, |bound| bound.port()) {
            0 => self
                .free_port(|core, candidate| {
                    let local = SocketAddr::new(source, candidate);
                    taken(core, &Pair { local, remote }) || core.listeners.is_bound(local, port)
                })
                .ok_or(Error::Exhausted)?,
            chosen => chosen,
        };
        let local = SocketAddr::new(source, local_port);
        let pair = Pair { local, remote };
        if taken(self, &pair) {
            return Err(Error::AddressInUse);
        }
        if !self.make_room() {
            return Err(Error::Exhausted);
        }
        let settings = self.settings(port, remote.ip());
        let (iss, clock) = self.iss_and_clock_offset(&pair);
        let tcb = Tcb::connect(&settings, iss, clock, self.now);
        self.stats.connected += 1;
        let key = self.enter(tcb, pair, port, way.next_hop, Phase::Open);
        self.make_ready(key);
        Ok(key)
    }

    /// How a connection over a link is set up.
    pub(crate) fn settings(&self, port: usize, remote: IpAddr) -> Settings {
        let headers = if remote.is_ipv4() { HEADERS4 } else { HEADERS6 };
        let mtu = self
            .ports
            .get(port)
            .map_or(576, |port| port.interface.path_mtu(remote, self.now));
        Settings {
            mss: mtu.saturating_sub(headers).max(1),
            ..self.connections.settings
        }
    }

    /// RFC 6528: a clock, and for each pair of ends a different place on it.
    pub(crate) fn iss(&self, pair: &Pair) -> Seq {
        self.iss_and_clock_offset(pair).0
    }

    /// RFC 7323 section 5.4: timestamps of different peers have nothing to do with each other.
    pub(crate) fn clock_offset(&self, pair: &Pair) -> u32 {
        self.iss_and_clock_offset(pair).1
    }

    /// [`iss`](Self::iss) and [`clock_offset`](Self::clock_offset): two halves of one hash.
    pub(crate) fn iss_and_clock_offset(&self, pair: &Pair) -> (Seq, u32) {
        let clock = (self.now.as_nanos() / ISS_TICK_NANOS) as u32;
        let hash = self.connections.secret.hash(pair);
        (Seq(clock.wrapping_add(hash as u32)), (hash >> 32) as u32)
    }

    /// Adds a connection.
    pub(crate) fn enter(
        &mut self,
        tcb: Tcb,
        pair: Pair,
        port: usize,
        next_hop: IpAddr,
        phase: Phase,
    ) -> Key {
        self.connections.table.insert(Connection {
            tcb,
            pair,
            next_hop,
            port: port as u8,
            is_ready: false,
            stage: Stage::Opening,
            phase,
            reader: None,
            writer: None,
            watch: None,
            starved: false,
            scheduled: Instant::FOREVER,
            later: Instant::FOREVER,
            counted: 0,
        })
    }

    /// Puts a connection among those that are looked at with the next poll.
    pub(crate) fn make_ready(&mut self, key: Key) {
        self.pending = true;
        if let Some(connection) = self.connections.table.get_mut(key)
            && !connection.is_ready
        {
            connection.is_ready = true;
            self.connections.ready.push_back(key);
        }
    }

    /// Tells those who wait for a connection what has changed.
    pub(crate) fn apply(&mut self, key: Key, changed: Changed) {
        let Some(connection) = self.connections.table.get_mut(key) else {
            return;
        };
        if !connection.is_ready {
            connection.is_ready = true;
            self.connections.ready.push_back(key);
        }
        if changed.any(Changed::CONNECTED) && connection.stage == Stage::Opening {
            connection.stage = Stage::Established;
            self.connections.established += 1;
        }
        self.pending = true;
        let over = Changed(Changed::CLOSED.0 | Changed::TIME_WAIT.0);
        if changed.any(Changed(Changed::READABLE.0 | over.0))
            && let Some(waker) = connection.reader.take()
        {
            waker.wake();
        }
        if changed.any(Changed(Changed::WRITABLE.0 | Changed::CONNECTED.0 | over.0))
            && let Some(waker) = connection.writer.take()
        {
            waker.wake();
        }
        let mut ready = Ready::of_change(changed);
        if connection.starved && changed.any(Changed::WRITABLE) && has_room(connection) {
            connection.starved = false;
            ready = ready | Ready::WRITE;
        }
        if ready != Ready::NONE
            && let Some(watch) = &connection.watch
        {
            watch.changed(ready);
        }
        if changed.any(Changed::CONNECTED)
            && let Phase::HalfOpen { port, listener } = connection.phase
        {
            self.complete(key, port, listener);
        }
    }

    /// Runs the timers of connections.
    pub(crate) fn expire_connections(&mut self) {
        let now = self.now;
        let mut fired = core::mem::take(&mut self.connections.fired);
        self.connections.wheel.expire(now, &mut fired);
        for key in fired.drain(..) {
            let Some(connection) = self.connections.table.get_mut(key) else {
                continue;
            };
            if connection.scheduled <= now {
                let later = core::mem::replace(&mut connection.later, Instant::FOREVER);
                connection.scheduled = if later > now { later } else { Instant::FOREVER };
            }
            let before = connection.tcb.counters();
            let mut changed = connection.tcb.advance(now);
            let after = connection.tcb.counters();
            self.stats.add_tcp(&before, &after);
            if let Phase::Lingering { until, left } = connection.phase
                && until <= now
                && connection.tcb.state() != State::Closed
            {
                if connection.tcb.unacknowledged() < left as usize {
                    // Data flow: what is limited is their standing still.
                    connection.linger(now + self.config.linger);
                } else {
                    connection.tcb.abort(Error::TimedOut);
                    changed = Changed(changed.0 | Changed::CLOSED.0);
                }
            }
            self.apply(key, changed);
        }
        if fired.capacity() <= 1024 {
            self.connections.fired = fired;
        }
    }

    /// Looks at a connection that has nothing to say now: counts its memory, sets its timer, removes it if it is over.
    pub(crate) fn settle(&mut self, key: Key) {
        let Some(connection) = self.connections.table.get_mut(key) else {
            return;
        };
        connection.recount(&mut self.connections.held);
        // One that a listener has is told of to whoever accepts it, with what had arrived.
        let is_held = matches!(connection.phase, Phase::Open | Phase::Queued { .. });
        let state = connection.tcb.state();
        if !connection.stage.fits(state) {
            connection.end_stage(&mut self.connections.established, &mut self.stats);
        }
        let now = self.now;
        // Whoever ends by a reset, or by a last acknowledgement, stays until the link has taken it.
        let owes = |connection: &Connection| connection.tcb.wants_to_transmit(now);
        match state {
            State::Closed if is_held || owes(connection) => {
                self.connections.table.hide(key);
            }
            State::Closed => self.remove(key),
            State::TimeWait if !owes(connection) => {
                let (pair, ended) = (connection.pair, connection.tcb.time_wait());
                if let Some(ended) = ended
                    && self.connections.table.hide(key)
                {
                    self.ended.insert(pair, ended);
                }
                if !is_held {
                    self.remove(key);
                }
            }
            _ => {
                let deadline = match connection.phase {
                    Phase::Lingering { until, .. } => until.min(connection.tcb.deadline()),
                    _ => connection.tcb.deadline(),
                };
                if deadline < connection.scheduled {
                    let known = core::mem::replace(&mut connection.scheduled, deadline);
                    let is_latest =
                        connection.later == Instant::FOREVER || connection.later < known;
                    if known != Instant::FOREVER && is_latest {
                        connection.later = known;
                    }
                    self.connections.wheel.insert(deadline, key);
                }
            }
        }
    }

    /// Forgets a connection.
    pub(crate) fn remove(&mut self, key: Key) {
        let Some(mut connection) = self.connections.table.remove(key) else {
            return;
        };
        connection.end_stage(&mut self.connections.established, &mut self.stats);
        self.connections.held = self.connections.held.saturating_sub(connection.counted);
        match connection.phase {
            Phase::HalfOpen { port, listener } => {
                if let Some(known) = self.listeners.get(port, listener) {
                    known.half_open = known.half_open.saturating_sub(1);
                }
            }
            Phase::Queued { port, listener } => {
                if let Some(known) = self.listeners.get(port, listener) {
                    known.complete.retain(|queued| *queued != key);
                }
            }
            Phase::Lingering { .. } => self.connections.lingering -= 1,
            Phase::Open => {}
        }
    }

    /// Shuts down the sending direction.
    pub(crate) fn close(&mut self, key: Key) {
        let now = self.now;
        if let Some(connection) = self.connections.get(key) {
            connection.tcb.close(now);
            self.make_ready(key);
        }
    }

    /// Ends a connection with a reset.
    pub(crate) fn abort(&mut self, key: Key, error: Error) {
        if let Some(connection) = self.connections.get(key) {
            connection.tcb.abort(error);
            self.apply(key, Changed::CLOSED);
        }
    }

    /// The program has dropped a connection: it closes in its own time.
    pub(crate) fn release_connection(&mut self, key: Key) {
        let now = self.now;
        let until = now + self.config.linger;
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        (connection.reader, connection.writer) = (None, None);
        connection.watch = None;
        connection.tcb.orphan(now);
        let lingers = matches!(connection.phase, Phase::Lingering { .. });
        connection.linger(until);
        self.connections.lingering += usize::from(!lingers);
        self.make_ready(key);
    }

    /// Sets how long written data may stay unacknowledged.
    pub(crate) fn set_user_timeout(&mut self, key: Key, timeout: Option<Duration>) {
        let now = self.now;
        if let Some(connection) = self.connections.get(key) {
            connection.tcb.set_user_timeout(timeout, now);
            self.make_ready(key);
        }
    }

    /// Sets after how long an idle connection is probed.
    pub(crate) fn set_keepalive(&mut self, key: Key, keepalive: Option<KeepAlive>) {
        let now = self.now;
        if let Some(connection) = self.connections.get(key) {
            connection.tcb.set_keepalive(keepalive, now);
            self.make_ready(key);
        }
    }

    /// A random port that is not `taken`, RFC 6056 section 3.3.2, and where most are, section 3.3.1; none if all are.
    pub(crate) fn free_port(&mut self, taken: impl Fn(&Self, u16) -> bool) -> Option<u16> {
        const RANGE: u32 = (u16::MAX - FIRST_EPHEMERAL) as u32 + 1;
        let port = |number: u32| FIRST_EPHEMERAL + (number % RANGE) as u16;
        for _ in 0..PORT_ATTEMPTS {
            let port = port(self.random.below(RANGE));
            if !taken(self, port) {
                return Some(port);
            }
        }
        let start = self.random.below(RANGE);
        let mut ports = (start..start + RANGE).map(port);
        ports.find(|port| !taken(self, *port))
    }
}
