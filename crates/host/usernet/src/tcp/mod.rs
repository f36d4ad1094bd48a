//! TCP in both directions: the table of connections, and when each is served.
//!
//! Towards the guest, connections end in smoltcp sockets. Each has its own socket set, found by a hash of both ends, so
//! that a packet costs the same with four thousand connections as with one. Work is batched: packets of the guest and
//! events of host sockets only mark connections, and each marked connection is then served once, see
//! [`serve`](Tcp::serve).

mod connection;
mod device;
pub(crate) mod inbound;
mod outbound;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config as InterfaceConfig, Interface, PollResult, SocketSet};
use smoltcp::socket::tcp::State;
use smoltcp::wire::{HardwareAddress, IpCidr, TcpPacket};

use self::connection::{Connection, Flow, GuestSide, Phase, Verdict};
use self::device::Port;
use self::inbound::Listener;
use crate::context::Context;
use crate::packet::Packet;
use crate::poller::Flags;
use crate::table::{Key, Table};
use crate::{Config, Error};

/// What is watched on the host's side of a connection.
const EVENTS: Flags = Flags::IN
    .union(Flags::OUT)
    .union(Flags::RDHUP)
    .union(Flags::ET);

/// How long the guest may take for the last step of opening or closing.
const CLOSING: Duration = Duration::from_mins(5);

/// Buffer sizes of one direction: while a quarter of all is used, while half is used, and then.
const SIZES: [usize; 3] = [256 << 10, 64 << 10, 16 << 10];

/// Closed sockets of the greatest size that are kept for the next connections.
const SPARES: usize = 16;

/// Connections served in one slice.
const SLICE: usize = 128;

pub(crate) struct Tcp {
    interface: Interface,
    /// For segments that belong to no connection: smoltcp resets them.
    no_sockets: SocketSet<'static>,
    listeners: Vec<Listener>,
    connections: Table<Connection>,
    by_flow: HashMap<Flow, Key>,
    /// To be served.
    queue: Vec<Key>,
    /// To be served once the guest reads its link.
    blocked: Vec<Key>,
    timers: BTreeSet<(Instant, Key)>,
    spares: Vec<GuestSide>,
    buffer_bytes: usize,
    last_port: u16,
}

impl Tcp {
    pub fn new(config: &Config, out: &mut crate::link::Outbound) -> Result<Self, Error> {
        let mut seed = [0; 8];
        rustix::rand::getrandom(&mut seed[..], rustix::rand::GetRandomFlags::empty())
            .map_err(Error::host("get random numbers"))?;
        let mut interface_config = InterfaceConfig::new(HardwareAddress::Ip);
        // Initial sequence numbers come from it. An attacker would have to be on the link, where only the guest is.
        interface_config.random_seed = u64::from_le_bytes(seed);
        let mut port = Port {
            packet: None,
            out,
            mtu: config.mtu,
        };
        let now = smoltcp::time::Instant::from_secs(3600);
        let mut interface = Interface::new(interface_config, &mut port, now);
        interface.update_ip_addrs(|addresses| {
            // Room for two is part of smoltcp's smallest configuration.
            let _ = addresses.push(IpCidr::new(config.gateway4.into(), config.prefix4));
            let _ = addresses.push(IpCidr::new(config.gateway6.into(), 64));
        });
        // We speak for every address that the guest may talk to.
        interface.set_any_ip(true);
        Ok(Self {
            interface,
            no_sockets: SocketSet::new(Vec::new()),
            listeners: Vec::new(),
            connections: Table::new(),
            by_flow: HashMap::new(),
            queue: Vec::new(),
            blocked: Vec::new(),
            timers: BTreeSet::new(),
            spares: Vec::new(),
            buffer_bytes: 0,
            last_port: u16::from_le_bytes([seed[0], seed[1]]).max(1024),
        })
    }

    /// Takes one TCP packet of the guest. False if it is malformed.
    pub fn receive(
        &mut self,
        cx: &mut Context,
        packet: &Packet<'_>,
        resolver: Option<SocketAddr>,
    ) -> bool {
        let Ok(segment) = TcpPacket::new_checked(packet.payload) else {
            return false;
        };
        if segment.src_port() == 0 || segment.dst_port() == 0 {
            return false;
        }
        let flow = Flow {
            guest: SocketAddr::new(packet.source, segment.src_port()),
            peer: SocketAddr::new(packet.target, segment.dst_port()),
        };
        let opens = segment.syn() && !segment.ack() && !segment.rst() && !segment.fin();
        let Some(&key) = self.by_flow.get(&flow) else {
            if opens {
                self.open(cx, flow, packet, resolver);
            } else {
                self.refuse(cx, packet);
            }
            return true;
        };
        let Some(connection) = self.connections.get_mut(key) else {
            return true;
        };
        if let Phase::Connecting { syn } = &mut connection.phase {
            if segment.rst() {
                self.remove(key);
            } else if opens {
                // Usually the same again; with another sequence number it is the one that counts.
                *syn = packet.bytes.into();
            }
            return true;
        }
        self.feed(cx, key, packet.bytes, segment.payload().len());
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
    pub fn unblocked(&mut self) {
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
            Phase::Open => connection.splice(&mut cx.stats),
        };
        self.send(cx, key);
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if matches!(connection.phase, Phase::Open) {
            let verdict = match (verdict, connection.verdict()) {
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
        let Some(guest) = &mut connection.guest else {
            return false;
        };
        match guest.socket().state() {
            State::SynSent | State::SynReceived => cx.now < give_up,
            State::Closed => self.redial(cx, key),
            _ => {
                connection.phase = Phase::Open;
                if let Some(index) = connection.forward
                    && let Some(listener) = self.listeners.get_mut(index as usize)
                {
                    listener.served = true;
                }
                connection.splice(&mut cx.stats);
                true
            }
        }
    }

    /// Lets smoltcp send what it has for one connection.
    fn send(&mut self, cx: &mut Context, key: Key) {
        let now = cx.smoltcp_now();
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.is_parked() {
            return;
        }
        let Some(guest) = &mut connection.guest else {
            return;
        };
        let mut port = Port {
            packet: None,
            out: &mut cx.out,
            mtu: cx.config.mtu,
        };
        while self.interface.poll_egress(now, &mut port, &mut guest.set) != PollResult::None {}
        if !cx.out.blocked() {
            connection.sent_all();
        } else if !connection.queued {
            connection.queued = true;
            self.blocked.push(key);
        }
    }

    fn set_timer(&mut self, cx: &Context, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let now = cx.smoltcp_now();
        let mut due = connection.close_by;
        let mut sooner = |time: Instant| due = Some(due.map_or(time, |due: Instant| due.min(time)));
        if let Phase::Dialing { give_up, retry, .. } = connection.phase {
            sooner(retry.unwrap_or(give_up));
        }
        if !connection.is_parked()
            && let Some(guest) = &connection.guest
            && let Some(time) = self.interface.poll_at(now, &guest.set)
        {
            // Something that is due already was refused by the link, or by smoltcp for reasons of its own, which must
            // not make us spin.
            sooner(cx.smoltcp_time(time).max(cx.now + Duration::from_millis(1)));
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

    /// Gives a packet to a connection's socket and marks the connection.
    fn feed(&mut self, cx: &mut Context, key: Key, packet: &[u8], payload: usize) {
        let now = cx.smoltcp_now();
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.expect(payload);
        if let Some(guest) = &mut connection.guest {
            let mut port = Port {
                packet: Some(packet),
                out: &mut cx.out,
                mtu: cx.config.mtu,
            };
            self.interface
                .poll_ingress_single(now, &mut port, &mut guest.set);
        }
        self.enqueue(key);
    }

    /// Answers a packet that belongs to no connection with a reset, RFC 9293 section 3.5.2.
    fn refuse(&mut self, cx: &mut Context, packet: &Packet<'_>) {
        let now = cx.smoltcp_now();
        let mut port = Port {
            packet: Some(packet.bytes),
            out: &mut cx.out,
            mtu: cx.config.mtu,
        };
        self.interface
            .poll_ingress_single(now, &mut port, &mut self.no_sockets);
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
        if let Some(guest) = &mut connection.guest {
            guest.socket().abort();
        }
        self.send(cx, key);
        self.remove(key);
    }

    /// Forgets a connection and closes the host's side.
    fn remove(&mut self, key: Key) {
        let Some(connection) = self.connections.remove(key) else {
            return;
        };
        self.by_flow.remove(&connection.flow);
        if let Some(timer) = connection.timer {
            self.timers.remove(&(timer, key));
        }
        if let Some(guest) = connection.guest {
            self.give_back(guest);
        }
    }

    /// A socket with buffers whose size depends on how much is in use; `None` when all is.
    fn take_buffers(&mut self, cx: &Context) -> Option<GuestSide> {
        let total = cx.config.limits.buffer_bytes;
        let size = match self.buffer_bytes {
            used if used < total / 4 => SIZES[0],
            used if used < total / 2 => SIZES[1],
            _ => SIZES[2],
        };
        let guest = match self.spares.pop() {
            Some(spare) if size == SIZES[0] => spare,
            Some(spare) => {
                self.spares.push(spare);
                GuestSide::new(size)
            }
            None => GuestSide::new(size),
        };
        if self.buffer_bytes + guest.buffer_bytes > total {
            return None;
        }
        self.buffer_bytes += guest.buffer_bytes;
        Some(guest)
    }

    fn give_back(&mut self, mut side: GuestSide) {
        self.buffer_bytes -= side.buffer_bytes;
        if side.buffer_bytes == 2 * SIZES[0] && self.spares.len() < SPARES {
            // A socket in TIME-WAIT or with a reset still to send would go on speaking.
            side.socket().abort();
            self.spares.push(side);
        }
    }
}
