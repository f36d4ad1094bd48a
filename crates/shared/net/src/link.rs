//! Links: the driver's side of the stack.
//!
//! A [`Link`] is what a driver holds: frames go in and come out. Behind it is a [`Port`]: the link as the internet
//! protocols see it, and the frames that wait for it. The first port is the loopback; it shares nothing with the others,
//! so a frame from outside can never be taken for local traffic, whatever addresses it claims.

use alloc::vec::Vec;
use core::fmt;

use kiln_abi::{Instant, NetHeader};

use crate::config::{Config, LinkConfig, Offloads};
use crate::connections::Connection;
use crate::ip::{Context, Interface};
use crate::queue::{Queue, Waiting};
use crate::stack::{Core, Stack};
use crate::stats::Stats;
use crate::table::{Key, Table};
use crate::tcp::Payload;
use crate::wait::WaitQueue;

/// One link, for the driver.
pub struct Link {
    stack: Stack,
    index: usize,
}

impl Link {
    pub(crate) fn new(stack: Stack, index: usize) -> Self {
        Self { stack, index }
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The stack it belongs to.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Takes in one received frame. The bytes are not needed after the call.
    ///
    /// The frame may be longer than the MTU (the host has joined segments) and may have an incomplete checksum, as
    /// the header says. Its content is not trusted. Answers become ready with the next [`Stack::poll`].
    pub fn receive(&self, header: NetHeader, frame: &[u8], now: Instant) {
        self.stack.with(|core| {
            core.advance(now);
            let stats = &mut core.ports[self.index].stats;
            stats.frames_in += 1;
            stats.bytes_in += frame.len() as u64;
            core.receive(self.index, header, frame);
            core.pending = true;
        });
    }

    /// Shows all frames that are ready to leave to `send`, in order. It returns how many of them, from the first,
    /// have been dealt with; the others are kept for the next call. Returns the same number.
    ///
    /// The frames stay in place until `send` returns, so it can point the operations of one call to the monitor at
    /// them. It must not use the stack. It is called even if there are no frames.
    ///
    /// If the link took a frame but not one before it, report both as dealt with: TCP repairs the loss.
    pub fn transmit(&self, send: impl FnOnce(&Frames<'_>) -> usize) -> usize {
        self.stack.with(|core| core.transmit(self.index, send))
    }

    /// A snapshot of what is counted of this link alone: its frames and what the internet protocols do on it. What TCP
    /// and UDP count is 0.
    pub fn stats(&self) -> Stats {
        self.stack.with(|core| core.ports[self.index].snapshot())
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Link").field(&self.index).finish()
    }
}

/// A link as the stack sees it.
pub(crate) struct Port {
    pub interface: Interface,
    pub queue: Queue,
    /// What the internet protocols count.
    pub stats: Stats,
    pub offloads: Offloads,
    /// The identification of the next IPv4 packet of TCP (RFC 6864: any will do).
    pub packet_id: u16,
    /// TCP had more to say than the queue could take.
    pub blocked: bool,
    /// Connections that wait for a neighbour's address.
    pub unresolved: Vec<Key>,
    /// Tasks that wait for room in the queue.
    pub writers: WaitQueue,
}

/// The MTU of the loopback link: IPv4's longest packet.
const LOOPBACK_MTU: u16 = u16::MAX;

impl Port {
    fn new(interface: Interface, config: &Config, offloads: Offloads) -> Self {
        Self {
            interface,
            queue: Queue::new(config.queue_limit()),
            stats: Stats::default(),
            offloads,
            packet_id: 0,
            blocked: false,
            unresolved: Vec::new(),
            writers: WaitQueue::default(),
        }
    }

    /// Nothing is ever damaged on the loopback link, so there are no checksums.
    pub(crate) fn loopback(config: &Config) -> Self {
        let offloads = Offloads {
            checksum: true,
            ..Offloads::default()
        };
        Self::new(Interface::loopback(LOOPBACK_MTU), config, offloads)
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let (frames_out, bytes_out) = self.queue.added();
        Stats {
            frames_out,
            bytes_out,
            ..self.stats
        }
    }

    /// The first frame as a whole, appended to `bytes`; nothing if it need not leave any more.
    pub(crate) fn first_frame(
        &self,
        connections: &Table<Connection>,
        bytes: &mut Vec<u8>,
    ) -> Option<NetHeader> {
        let waiting = self.queue.frames().next()?;
        let frame = Frame::look_up(&self.queue, connections, waiting)?;
        frame
            .pieces()
            .for_each(|piece| bytes.extend_from_slice(piece));
        Some(frame.header)
    }
}

impl Core {
    pub(crate) fn attach(&mut self, config: &LinkConfig) -> usize {
        let mut queue = Queue::new(self.config.queue_limit());
        let mut stats = Stats::default();
        let mut context = Context {
            queue: &mut queue,
            random: &mut self.random,
            stats: &mut stats,
            hostname: &self.config.hostname,
        };
        let interface = Interface::new(config, self.now, &mut context);
        let mut port = Port::new(interface, &self.config, config.offloads);
        (port.queue, port.stats) = (queue, stats);
        self.ports.push(port);
        self.addresses_changed();
        self.ports.len() - 1
    }

    /// A port, and what its interface needs.
    pub(crate) fn port(&mut self, index: usize) -> (&mut Interface, Context<'_>) {
        let port = &mut self.ports[index];
        let context = Context {
            queue: &mut port.queue,
            random: &mut self.random,
            stats: &mut port.stats,
            hostname: &self.config.hostname,
        };
        (&mut port.interface, context)
    }

    /// Lets a link's protocols act, and looks at what they have found out.
    pub(crate) fn advance_port(&mut self, index: usize) {
        let now = self.now;
        let (interface, mut context) = self.port(index);
        if interface.deadline() <= now {
            interface.advance(now, &mut context);
        }
        let changes = interface.changes();
        if changes.addresses {
            self.addresses_changed();
        }
        if changes.neighbors {
            for key in core::mem::take(&mut self.ports[index].unresolved) {
                self.make_ready(key);
            }
        }
    }

    fn transmit(&mut self, index: usize, send: impl FnOnce(&Frames<'_>) -> usize) -> usize {
        let port = &mut self.ports[index];
        let taken = send(&Frames {
            queue: &port.queue,
            connections: &self.connections.table,
        });
        let taken = taken.min(port.queue.len());
        if taken > 0 {
            port.queue.take(taken);
            port.writers.wake();
            if port.blocked && port.queue.has_room() {
                port.blocked = false;
                self.pending = true;
            }
        }
        taken
    }
}

/// The frames that are ready to leave, oldest first, as [`Link::transmit`] shows them.
pub struct Frames<'a> {
    queue: &'a Queue,
    connections: &'a Table<Connection>,
}

impl<'a> Frames<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// All of them, with their places from 0. Some places may be left out: frames that need not leave any more.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Frame<'a>)> + use<'a> {
        let (queue, connections) = (self.queue, self.connections);
        queue
            .frames()
            .enumerate()
            .filter_map(move |(place, waiting)| {
                Frame::look_up(queue, connections, waiting).map(|frame| (place, frame))
            })
    }
}

/// A frame that is ready to leave, in pieces.
#[derive(Clone, Debug)]
pub struct Frame<'a> {
    /// How the link is to treat it.
    pub header: NetHeader,
    head: &'a [u8],
    payload: Option<Payload<'a>>,
}

impl<'a> Frame<'a> {
    fn look_up(
        queue: &'a Queue,
        connections: &'a Table<Connection>,
        waiting: &Waiting,
    ) -> Option<Self> {
        let payload = match &waiting.tail {
            None => None,
            Some(tail) => {
                let connection = connections.get(Key::from_bits(tail.connection))?;
                Some(connection.tcb.payload(&tail.outgoing)?)
            }
        };
        Some(Self {
            header: waiting.header,
            head: queue.head(waiting),
            payload,
        })
    }

    /// The frame's bytes: at most [`MAX_PIECES`] pieces that belong one behind the other.
    pub fn pieces(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        core::iter::once(self.head).chain(self.payload.clone().into_iter().flatten())
    }
}

/// The most pieces of a frame.
pub const MAX_PIECES: usize = kiln_abi::op::MAX_SEGMENTS as usize;
