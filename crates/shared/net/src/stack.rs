//! The handle of a stack and the state behind it; how time passes.
//!
//! A driver repeats, for each of its links:
//!
//! ```text
//! run the program's tasks until all wait
//! stack.poll(now)
//! link.transmit(|frames| put all frames into a batch of send operations, followed by receive operations;
//!                        enter the monitor, to wait until stack.deadline(now) if nothing is left to do;
//!                        return how many frames were taken)
//! link.receive(header, frame, now) for each received frame
//! ```
//!
//! A whole batch of received frames is answered by the one `poll` behind it, for instance with one acknowledgement
//! per connection.
//!
//! The handle is cheap to clone and belongs to one thread. Wakers may be called while the stack is at work; should
//! waking drop a task that owns a socket, the socket is put aside and given back at the end of the call.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use kiln_abi::Instant;

use crate::config::{Config, LinkConfig};
use crate::connections::{Connections, Phase};
use crate::ended::Ended;
use crate::link::{Link, Port};
use crate::listen::Listeners;
use crate::ping::Pings;
use crate::random::Random;
use crate::stats::Stats;
use crate::table::Key;
use crate::udp::UdpTable;
use crate::wait::{Timers, WaitQueue};

/// How often local traffic goes round within one `poll`.
const LOOPBACK_ROUNDS: usize = 64;

/// The loopback link's place among the links.
pub(crate) const LOOPBACK: usize = 0;

/// A TCP/IP stack. Clones are handles to the same stack.
#[derive(Clone)]
pub struct Stack {
    shared: Rc<Shared>,
    /// The link that sockets made with this handle are bound to.
    pub(crate) only: Option<u8>,
}

struct Shared {
    core: RefCell<Core>,
    orphans: RefCell<Vec<Orphan>>,
    /// There is one: asked with every call.
    any_orphan: Cell<bool>,
}

/// A socket whose owner has dropped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Orphan {
    Connection(Key),
    /// Only the writing half.
    Writer(Key),
    /// With its port, by which it is found.
    Listener(u16, u32),
    Udp(u16, u32),
    Ping(u32),
}

/// The state behind the handle.
pub(crate) struct Core {
    pub config: Config,
    pub now: Instant,
    pub random: Random,
    pub ports: Vec<Port>,
    pub connections: Connections,
    pub listeners: Listeners,
    pub ended: Ended,
    pub udp: UdpTable,
    pub pings: Pings,
    pub timers: Timers,
    pub configured: WaitQueue,
    pub stats: Stats,
    /// Something has changed since the last `poll`.
    pub pending: bool,
    next: Instant,
    next_id: u32,
    /// Where frames of the loopback link lie while they are received.
    spare: Vec<u8>,
}

impl Stack {
    /// A stack without links; see [`attach`](Self::attach).
    pub fn new(config: Config, now: Instant) -> Self {
        let config = config.checked();
        let mut random = Random::new(config.seed);
        let core = Core {
            connections: Connections::new(&config, &mut random, now),
            listeners: Listeners::new(&mut random),
            ended: Ended::new(&config, &mut random),
            udp: UdpTable::default(),
            pings: Pings::default(),
            ports: Vec::from([Port::loopback(&config)]),
            config,
            now,
            random,
            timers: Timers::default(),
            configured: WaitQueue::default(),
            stats: Stats::default(),
            pending: true,
            next: now,
            next_id: 0,
            spare: Vec::new(),
        };
        Self {
            shared: Rc::new(Shared {
                core: RefCell::new(core),
                orphans: RefCell::default(),
                any_orphan: Cell::new(false),
            }),
            only: None,
        }
    }

    /// Adds a link, which comes up now. At most 250.
    pub fn attach(&self, config: LinkConfig, now: Instant) -> Link {
        let index = self.with(|core| {
            core.advance(now);
            core.pending = true;
            core.attach(&config.checked())
        });
        Link::new(self.clone(), index)
    }

    /// A handle whose sockets are bound to one link: they receive from it alone and send over nothing else.
    #[must_use]
    pub fn on(&self, link: &Link) -> Self {
        Self {
            shared: self.shared.clone(),
            only: Some(link.index() as u8),
        }
    }

    /// Lets the protocols act: answers what was received, sends what was written, retransmits, wakes tasks.
    ///
    /// Costs next to nothing if nothing has happened since the last call and no timer is due.
    pub fn poll(&self, now: Instant) {
        self.with(|core| {
            core.advance(now);
            if core.pending || core.next <= core.now {
                core.run();
            }
            core.timers.fire(core.now);
        });
    }

    /// Until when nothing is to be done unless a frame arrives or a socket is used: `now` or earlier if
    /// [`poll`](Self::poll) has something to do at once, [`Instant::FOREVER`] if there is no timer.
    ///
    /// While frames wait that a link does not take, wait for the link too.
    pub fn deadline(&self, now: Instant) -> Instant {
        self.with(|core| {
            if core.pending {
                now
            } else {
                core.next.min(core.timers.next())
            }
        })
    }

    /// How much peers have not acknowledged of what dropped connections have to say: bytes, and one for each end.
    pub fn unheard(&self) -> usize {
        self.with(|core| {
            let all = core.connections.table.iter();
            all.map(|(_, connection)| connection.unheard()).sum()
        })
    }

    /// Drops the connections that the program has left open, as a kernel does for a process that ends: peers see their end, or
    /// a reset if data were not read.
    pub fn close_all(&self) {
        self.with(|core| {
            let all = core.connections.table.iter();
            let open = all.filter(|(_, connection)| connection.phase == Phase::Open);
            for key in open.map(|(key, _)| key).collect::<Vec<_>>() {
                core.release_connection(key);
            }
        });
    }

    /// A snapshot of the counters.
    pub fn stats(&self) -> Stats {
        self.with(|core| core.snapshot())
    }

    /// Runs `f` on the state, then gives back the sockets that were dropped meanwhile.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Core) -> R) -> R {
        let mut core = self.shared.core.borrow_mut();
        let result = f(&mut core);
        if self.shared.any_orphan.get() {
            self.release_orphans(&mut core);
        }
        result
    }

    #[cold]
    fn release_orphans(&self, core: &mut Core) {
        loop {
            // Giving one back may drop another: the list must not be borrowed then.
            let next = self.shared.orphans.borrow_mut().pop();
            let Some(orphan) = next else { break };
            core.release(orphan);
        }
        self.shared.any_orphan.set(false);
    }

    /// Gives back a socket. Called from destructors, which may run at any time.
    pub(crate) fn release(&self, orphan: Orphan) {
        if let Ok(mut core) = self.shared.core.try_borrow_mut() {
            core.release(orphan);
        } else {
            self.shared.orphans.borrow_mut().push(orphan);
            self.shared.any_orphan.set(true);
        }
        // Dropping sockets wakes nobody who owns one of this stack while `core` is borrowed, but for wakers of tasks
        // that end by it: those end up among the orphans and are given back by the next call.
    }
}

impl Core {
    /// The time never runs backwards.
    pub(crate) fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.ended.expire(self.now);
    }

    pub(crate) fn id(&mut self) -> u32 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    fn run(&mut self) {
        self.pending = false;
        for index in 0..self.ports.len() {
            self.advance_port(index);
        }
        self.expire_connections();
        let mut settled = false;
        for _ in 0..LOOPBACK_ROUNDS {
            self.send_ready();
            if self.ports[LOOPBACK].queue.is_empty() {
                settled = true;
                break;
            }
            self.circulate();
        }
        // What was made ready within this call has had its turn.
        self.pending = !settled;
        let ports = self.ports.iter().map(|port| port.interface.deadline());
        let ports = ports.min().unwrap_or(Instant::FOREVER);
        self.next = ports.min(self.connections.wheel.next());
    }

    /// Receives what the loopback link has sent.
    fn circulate(&mut self) {
        let count = self.ports[LOOPBACK].queue.len();
        for _ in 0..count {
            let mut frame = core::mem::take(&mut self.spare);
            frame.clear();
            let port = &mut self.ports[LOOPBACK];
            let header = port.first_frame(&self.connections.table, &mut frame);
            port.queue.take(1);
            if let Some(header) = header {
                self.receive(LOOPBACK, header, &frame);
            }
            self.spare = frame;
        }
        self.ports[LOOPBACK].writers.wake();
        // Most stacks never talk to themselves, or rarely.
        if self.spare.capacity() > 4096 {
            self.spare = Vec::new();
        }
    }

    fn release(&mut self, orphan: Orphan) {
        self.pending = true;
        match orphan {
            Orphan::Connection(key) => self.release_connection(key),
            Orphan::Writer(key) => self.close(key),
            Orphan::Listener(port, id) => self.release_listener(port, id),
            Orphan::Udp(port, id) => self.release_udp(port, id),
            Orphan::Ping(id) => self.release_ping(id),
        }
    }

    fn snapshot(&self) -> Stats {
        let mut stats = Stats {
            time_wait: self.ended.len(),
            ..self.stats
        };
        for port in &self.ports[LOOPBACK + 1..] {
            stats.add_link(&port.snapshot());
        }
        // No driver sees the loopback's frames.
        stats.add_link(&self.ports[LOOPBACK].stats);
        self.connections.count(&mut stats);
        self.listeners.count(&mut stats);
        self.udp.count(&mut stats);
        stats.open = stats.connections - stats.lingering - stats.half_open - stats.queued;
        stats
    }
}
