//! TCP in both directions: the table of connections, and when each is served.
//!
//! Towards the guest, connections end in control blocks of the TCP core that guests use, too (`kiln-net`). They are found
//! by a hash of both ends, so that a packet costs the same with four thousand connections as with one. Work is batched:
//! packets of the guest and events of host sockets only mark connections, and each marked connection is then served
//! once, see [`serve`](Tcp::serve).

mod chunks;
mod connection;
pub(crate) mod inbound;
mod opening;
mod outbound;
mod segment;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kiln_net::tcp::{State, reset_for};

use self::chunks::Chunks;
use self::connection::{Connection, Flow, Phase, Verdict};
use self::inbound::Listener;
use self::opening::Opening;
use crate::Error;
use crate::context::Context;
use crate::packet::Packet;
use crate::poller::Flags;
use crate::table::{Key, Table};

/// What is watched on the host's side of a connection.
const EVENTS: Flags = Flags::IN
    .union(Flags::OUT)
    .union(Flags::RDHUP)
    .union(Flags::ET);

/// How long the guest may take for the last step of opening or closing.
const CLOSING: Duration = Duration::from_mins(5);

/// Buffer sizes of one direction, and of how much memory all connections together may have reserved with it: one part in so
/// many. With the first, both ends are at work at the same time instead of waiting for each other.
const SIZES: [(u32, usize); 4] = [(1 << 20, 8), (256 << 10, 4), (64 << 10, 2), (16 << 10, 1)];

/// A guest that did not read its link is not held to time-outs for so long afterwards: its answers are on their way.
const RECOVERY: Duration = Duration::from_millis(10);

/// Connections served in one slice.
const SLICE: usize = 128;

pub(crate) struct Tcp {
    opening: Opening,
    chunks: Chunks,
    listeners: Vec<Listener>,
    connections: Table<Connection>,
    by_flow: HashMap<Flow, Key>,
    /// To be served.
    queue: Vec<Key>,
    /// To be served once the guest reads its link.
    blocked: Vec<Key>,
    timers: BTreeSet<(Instant, Key)>,
    /// No time-out of the protocol comes before.
    patient_until: Instant,
    /// Bytes that the buffers of all connections may come to hold.
    reserved: usize,
    last_port: u16,
}

impl Tcp {
    pub fn new() -> Result<Self, Error> {
        let mut port = [0; 2];
        rustix::rand::getrandom(&mut port[..], rustix::rand::GetRandomFlags::empty())
            .map_err(Error::host("get random numbers"))?;
        Ok(Self {
            opening: Opening::new()?,
            chunks: Chunks::new(),
            listeners: Vec::new(),
            connections: Table::new(),
            by_flow: HashMap::new(),
            queue: Vec::new(),
            blocked: Vec::new(),
            timers: BTreeSet::new(),
            patient_until: Instant::now(),
            reserved: 0,
            last_port: u16::from_le_bytes(port).max(1024),
        })
    }

    /// Takes one TCP packet of the guest. False if it is malformed.
    pub fn receive(
        &mut self,
        cx: &mut Context,
        packet: &Packet<'_>,
        resolver: Option<SocketAddr>,
    ) -> bool {
        use kiln_net::tcp::Flags;
        let Some((flow, segment)) = segment::parse(packet) else {
            return false;
        };
        let opens = segment.flags.has(Flags::SYN)
            && !segment.flags.any(Flags::ACK | Flags::RST | Flags::FIN);
        let Some(&key) = self.by_flow.get(&flow) else {
            if opens {
                self.open(cx, flow, (packet, &segment), resolver);
            } else {
                refuse(cx, packet);
            }
            return true;
        };
        let Some(connection) = self.connections.get_mut(key) else {
            return true;
        };
        if let Phase::Connecting { syn } = &mut connection.phase {
            if segment.flags.has(Flags::RST) {
                self.remove(key);
            } else if opens {
                // Usually the same again; with another sequence number it is the one that counts.
                *syn = segment::headers(packet, &segment);
            }
            return true;
        }
        let now = cx.core_now();
        let changed = connection.receive(&segment, &mut cx.stats, now);
        if connection.has_work(changed) {
            self.enqueue(key);
        }
        true
    }

    /// The host's side of a connection is ready for something.
    pub fn event(&mut self, cx: &mut Context, key: Key, flags: Flags) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.ready(flags);
        if matches!(connection.phase, Phase::Connecting { .. }) {
            self.connected(cx, key);
        }
        self.enqueue(key);
    }

    /// The guest has read frames: what waited for that goes on.
    pub fn unblocked(&mut self, cx: &Context) {
        if self.blocked.is_empty() {
            return;
        }
        self.patient_until = cx.now + RECOVERY;
        for key in std::mem::take(&mut self.blocked) {
            if let Some(connection) = self.connections.get_mut(key) {
                connection.queued = false;
            }
            self.enqueue(key);
        }
    }

    /// Marks the connections whose time has come.
    pub fn expire(&mut self, cx: &Context) {
        while let Some(&(time, key)) = self.timers.first() {
            if time > cx.now {
                break;
            }
            self.timers.pop_first();
            if let Some(connection) = self.connections.get_mut(key) {
                connection.timer = None;
            }
            self.enqueue(key);
        }
    }

    /// Serves marked connections, at most a slice of them.
    pub fn serve(&mut self, cx: &mut Context) {
        let mut queue = std::mem::take(&mut self.queue);
        let rest = queue.split_off(queue.len().min(SLICE));
        for &key in &queue {
            self.serve_one(cx, key);
        }
        // What was left over goes before what was marked meanwhile; the vector's memory is kept.
        queue.clear();
        queue.extend(rest);
        queue.append(&mut self.queue);
        self.queue = queue;
    }

    /// The guest has ended, and all that it has sent has been taken: ends every connection whose data the host has taken,
    /// too. True if one is left.
    pub fn settle(&mut self) -> bool {
        let done = self.connections.iter().filter(|(_, c)| !c.owes_host());
        let done: Vec<_> = done.map(|(key, _)| key).collect();
        for key in done {
            self.remove(key);
        }
        self.len() != 0
    }

    /// Marked connections are left.
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// When something is due even if nothing arrives.
    pub fn deadline(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|&(time, _)| time);
        [timer, self.next_listener()].into_iter().flatten().min()
    }

    pub fn len(&self) -> usize {
        self.connections.len()
    }

    fn serve_one(&mut self, cx: &mut Context, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.queued = false;
        if let Some(tcb) = &mut connection.tcb
            && cx.now >= self.patient_until
            && !cx.out.blocked()
        {
            let now = cx.core_now();
            if tcb.deadline() <= now {
                tcb.advance(now);
            }
        }
        let verdict = match connection.phase {
            Phase::Connecting { .. } => return,
            Phase::Dialing { .. } => {
                if !self.serve_dialing(cx, key) {
                    cx.stats.tcp_unanswered += 1;
                    self.break_off(cx, key);
                    return;
                }
                Verdict::Alive
            }
            Phase::Open => {
                let now = cx.core_now();
                connection.splice(&mut cx.stats, &mut self.chunks, now)
            }
        };
        self.send(cx, key);
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if matches!(connection.phase, Phase::Open) {
            let verdict = match (verdict, connection.verdict(cx.core_now())) {
                (_, Verdict::Finished) => Verdict::Finished,
                // The guest is told by a reset, which has to go out before the connection is forgotten.
                (Verdict::Broken, Verdict::Alive) if cx.out.blocked() => Verdict::Alive,
                (Verdict::Broken, _) | (_, Verdict::Broken) => Verdict::Broken,
                (Verdict::Alive | Verdict::Finished, Verdict::Alive) => Verdict::Alive,
            };
            match verdict {
                Verdict::Alive => {}
                Verdict::Finished => return self.remove(key),
                Verdict::Broken => return self.break_off(cx, key),
            }
            if !connection.is_owed_a_step() {
                connection.close_by = None;
            } else if *connection.close_by.get_or_insert(cx.now + CLOSING) <= cx.now {
                return self.break_off(cx, key);
            }
        }
        self.set_timer(cx, key);
    }

    /// Serves an incoming connection that the guest has not answered yet. False if it will not.
    fn serve_dialing(&mut self, cx: &mut Context, key: Key) -> bool {
        let Some(connection) = self.connections.get_mut(key) else {
            return false;
        };
        let Phase::Dialing { give_up, .. } = connection.phase else {
            return true;
        };
        if connection.client_left() {
            return false;
        }
        let Some(tcb) = &connection.tcb else {
            return false;
        };
        match tcb.state() {
            State::SynSent | State::SynReceived => cx.now < give_up,
            State::Closed => self.redial(cx, key),
            _ => {
                connection.phase = Phase::Open;
                let now = cx.core_now();
                connection.splice(&mut cx.stats, &mut self.chunks, now);
                if let Some(index) = connection.forward
                    && let Some(listener) = self.listeners.get_mut(index as usize)
                {
                    listener.served = true;
                }
                true
            }
        }
    }

    /// Sends what one connection has to say, as far as the link takes it.
    fn send(&mut self, cx: &mut Context, key: Key) {
        let now = cx.core_now();
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Some(tcb) = &mut connection.tcb else {
            return;
        };
        let flow = connection.flow;
        let longest = segment::longest(flow, &cx.out);
        while !cx.out.blocked() {
            let Some(outgoing) = tcb.transmit(longest, now) else {
                return;
            };
            if let Some(data) = tcb.payload(&outgoing) {
                segment::send(&mut cx.out, flow, &outgoing, data);
            }
        }
        if !connection.queued {
            connection.queued = true;
            self.blocked.push(key);
        }
    }

    fn set_timer(&mut self, cx: &Context, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let mut due = connection.close_by;
        let mut sooner = |time: Instant| due = Some(due.map_or(time, |due: Instant| due.min(time)));
        if let Phase::Dialing { give_up, retry, .. } = connection.phase {
            sooner(retry.unwrap_or(give_up));
        }
        if let Some(tcb) = &connection.tcb
            && let Some(time) = cx.core_time(tcb.deadline())
        {
            sooner(time.max(self.patient_until));
        }
        // A timer that fires too early just looks again; so a later one need not replace it.
        if let Some(due) = due
            && connection.timer.is_none_or(|timer| timer > due)
        {
            if let Some(timer) = connection.timer {
                self.timers.remove(&(timer, key));
            }
            connection.timer = Some(due);
            self.timers.insert((due, key));
        }
    }

    fn enqueue(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key)
            && !connection.queued
        {
            connection.queued = true;
            self.queue.push(key);
        }
    }

    fn insert(&mut self, connection: Connection) -> Option<Key> {
        let flow = connection.flow;
        if self.by_flow.contains_key(&flow) {
            return None;
        }
        let key = self.connections.insert(connection);
        self.by_flow.insert(flow, key);
        Some(key)
    }

    /// Ends a connection that did not end properly: the guest has been told, the host's peer sees a reset.
    fn break_off(&mut self, cx: &mut Context, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.reset_host();
        let now = cx.core_now();
        if let Some(tcb) = &mut connection.tcb {
            tcb.abort(kiln_net::Error::ConnectionAborted);
            // Even on a full link: the connection is forgotten, nobody could say it later. One small frame for each.
            if let Some(reset) = tcb.transmit(0, now) {
                segment::send(&mut cx.out, connection.flow, &reset, std::iter::empty());
            }
        }
        self.remove(key);
    }

    /// Forgets a connection and closes the host's side, with a reset unless the guest has ended the stream.
    fn remove(&mut self, key: Key) {
        let Some(connection) = self.connections.remove(key) else {
            return;
        };
        self.by_flow.remove(&connection.flow);
        if let Some(timer) = connection.timer {
            self.timers.remove(&(timer, key));
        }
        self.reserved -= connection.reserved();
    }

    /// Bytes for each buffer of a new connection, depending on how much is reserved; `None` when all is.
    fn buffer_size(&self, cx: &Context) -> Option<u32> {
        let total = cx.config.limits.buffer_bytes;
        let fits = |&&(size, part): &&(u32, usize)| {
            self.reserved + Connection::memory(size) <= total / part
        };
        SIZES.iter().find(fits).map(|&(size, _)| size)
    }
}

/// Answers a packet that belongs to no connection with a reset, RFC 9293 section 3.5.2.
fn refuse(cx: &mut Context, packet: &Packet<'_>) {
    if let Some((flow, segment)) = segment::parse(packet)
        && let Some(reset) = reset_for(&segment)
        // A guest that sends and never reads must not fill the host's memory with answers.
        && cx.out.admits()
    {
        segment::send(&mut cx.out, flow, &reset, std::iter::empty());
    }
}
