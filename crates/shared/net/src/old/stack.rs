//! The handle of a stack, and the driver's side.
//!
//! A driver repeats:
//!
//! ```text
//! run the program's tasks until all wait
//! stack.poll(now)
//! stack.transmit(|frames| put all frames into a batch of send operations, followed by receive operations;
//!                         enter the monitor, to wait until stack.deadline(now) if nothing is left to do;
//!                         return how many frames were taken)
//! stack.receive(header, frame, now) for each received frame
//! ```
//!
//! A whole batch of received frames is answered by the one `poll` behind it, for instance with one acknowledgement
//! per connection.
//!
//! The handle is cheap to clone and belongs to one thread. Wakers may be called while the stack is at work; should
//! waking drop a task that owns a socket, the socket is put aside and given back at the end of the call.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use kiln_abi::{Instant, NetHeader};

use crate::address::Addresses;
use crate::config::{Buffers, Config};
use crate::connections::Connections;
use crate::link::{Link, Which};
use crate::queue::{Frames, Queue};
use crate::random::Random;
use crate::stats::Stats;
use crate::time_wait::TimeWait;
use crate::udp::UdpTable;
use crate::wait::{Timers, WaitQueue};

/// How often local traffic goes round within one `poll`.
const LOOPBACK_ROUNDS: usize = 64;

/// A TCP/IP stack on one link. Clones are handles to the same stack.
#[derive(Clone)]
pub struct Stack {
    shared: Rc<Shared>,
}

struct Shared {
    core: RefCell<Core>,
    orphans: RefCell<Vec<Orphan>>,
}

/// A socket whose owner has dropped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Orphan {
    Connection(u32),
    /// Only the writing half.
    Writer(u32),
    Listener(u32),
    Udp(u32),
}

/// The state behind the handle.
pub(crate) struct Core {
    pub config: Config,
    pub buffers: Buffers,
    pub now: Instant,
    pub random: Random,
    pub wire: Link,
    pub loopback: Link,
    pub addresses: Addresses,
    pub connections: Connections,
    pub udp: UdpTable,
    pub time_wait: TimeWait,
    pub timers: Timers,
    pub configured: WaitQueue,
    pub stats: Stats,
    /// Something has changed since the last `poll`.
    pub pending: bool,
    /// The protocols had more to say than the queue could take.
    blocked: bool,
    next: Instant,
    next_id: u32,
    spare: Option<Queue>,
}

impl Stack {
    /// A stack whose link comes up now.
    pub fn new(config: Config, now: Instant) -> Self {
        let config = config.checked();
        let mut random = Random::new(config.seed);
        let wire = Link::wire(&config, random.next_u64(), now);
        let loopback = Link::loopback(&config, random.next_u64(), now);
        let spare = Link::loopback(&config, 0, now).queue;
        let addresses = Addresses::new(&config, now);
        let mut core = Core {
            buffers: config.tcp_buffers(),
            connections: Connections::new(config.max_connections()),
            config,
            now,
            random,
            wire,
            loopback,
            addresses,
            udp: UdpTable::default(),
            time_wait: TimeWait::default(),
            timers: Timers::default(),
            configured: WaitQueue::default(),
            stats: Stats::default(),
            pending: true,
            blocked: false,
            next: now,
            next_id: 0,
            spare: Some(spare),
        };
        core.start_addresses();
        Self {
            shared: Rc::new(Shared {
                core: RefCell::new(core),
                orphans: RefCell::default(),
            }),
        }
    }

    /// Takes in one received frame. The bytes are not needed after the call.
    ///
    /// The frame may be longer than the MTU (the host has joined segments) and may have an incomplete checksum, as
    /// the header says. Its content is not trusted. Answers become ready with the next [`poll`](Self::poll).
    pub fn receive(&self, header: NetHeader, frame: &[u8], now: Instant) {
        self.with(|core| {
            core.advance(now);
            core.receive(header, frame);
            core.pending = true;
        });
    }

    /// Lets the protocols act: answers what was received, sends what was written, retransmits, wakes tasks. True if
    /// frames wait for [`transmit`](Self::transmit).
    ///
    /// Costs next to nothing if nothing has happened since the last call and no timer is due.
    pub fn poll(&self, now: Instant) -> bool {
        self.with(|core| {
            core.advance(now);
            if core.pending || core.next <= core.now {
                core.run();
            }
            core.timers.fire(core.now);
            !core.wire.queue.is_empty()
        })
    }

    /// Shows all frames that are ready to leave to `send`, in order. It returns how many of them, from the first,
    /// have been dealt with; the others are kept for the next call. Returns the same number.
    ///
    /// The frames stay in place until `send` returns, so it can point the operations of one call to the monitor at
    /// them. It must not use the stack. It is called even if there are no frames.
    ///
    /// If the link took a frame but not one before it, report both as dealt with: TCP repairs the loss.
    pub fn transmit(&self, send: impl FnOnce(&Frames<'_>) -> usize) -> usize {
        self.with(|core| {
            let drained = core.wire.queue.drain(send);
            core.stats.frames_out += drained.frames as u64;
            core.stats.bytes_out += drained.bytes as u64;
            if core.blocked && core.wire.queue.has_room() {
                core.blocked = false;
                core.pending = true;
            }
            drained.frames
        })
    }

    /// Until when nothing is to be done unless a frame arrives or a socket is used: `now` or earlier if
    /// [`poll`](Self::poll) has something to do at once, [`Instant::FOREVER`] if there is no timer.
    ///
    /// While frames wait that the link does not take, wait for the link too.
    pub fn deadline(&self, now: Instant) -> Instant {
        self.with(|core| {
            if core.pending {
                now
            } else {
                core.next.min(core.timers.next())
            }
        })
    }

    /// A snapshot of the counters.
    pub fn stats(&self) -> Stats {
        self.with(|core| core.snapshot())
    }

    /// Runs `f` on the state, then gives back the sockets that were dropped meanwhile.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Core) -> R) -> R {
        let mut core = self.shared.core.borrow_mut();
        let result = f(&mut core);
        while let Some(orphan) = self.shared.orphans.borrow_mut().pop() {
            core.release(orphan);
        }
        result
    }

    /// Gives back a socket. Called from destructors, which may run at any time.
    pub(crate) fn release(&self, orphan: Orphan) {
        match self.shared.core.try_borrow_mut() {
            Ok(mut core) => core.release(orphan),
            Err(_) => self.shared.orphans.borrow_mut().push(orphan),
        }
        // Dropping sockets wakes nobody who owns one of this stack while `core` is borrowed, but for wakers of tasks
        // that end by it: those end up among the orphans and are given back by the next call.
    }
}

impl Core {
    /// The time never runs backwards.
    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.time_wait.expire(self.now);
    }

    pub(crate) fn id(&mut self) -> u32 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    pub(crate) fn link(&mut self, which: Which) -> &mut Link {
        match which {
            Which::Wire => &mut self.wire,
            Which::Loopback => &mut self.loopback,
        }
    }

    fn run(&mut self) {
        self.pending = false;
        self.poll_addresses();
        self.wire.egress(self.now);
        for round in 0..=LOOPBACK_ROUNDS {
            self.loopback.egress(self.now);
            if self.loopback.queue.is_empty() {
                break;
            }
            if round == LOOPBACK_ROUNDS {
                self.pending = true;
                break;
            }
            self.circulate();
        }
        let reaped = self.reap().min(self.reap_udp());
        self.udp.wake(&mut self.wire, &mut self.loopback);
        let wanted = self
            .wire
            .poll_at(self.now)
            .min(self.loopback.poll_at(self.now));
        self.blocked = !self.wire.queue.has_room();
        // The protocols sometimes want to act at once although they have just had the opportunity: because the queue
        // is full, or for no reason. Then wait for the link, and look again a little later.
        let earliest = self.now + core::time::Duration::from_millis(10);
        let wanted = if wanted <= self.now { earliest } else { wanted };
        self.next = wanted.min(reaped).min(self.addresses.deadline());
    }

    /// Receives what the loopback link has sent.
    fn circulate(&mut self) {
        let Some(mut queue) = self.spare.take() else {
            return;
        };
        core::mem::swap(&mut queue, &mut self.loopback.queue);
        queue.drain(|frames| {
            for (_, packet) in frames.iter() {
                self.receive_local(packet);
            }
            frames.len()
        });
        self.spare = Some(queue);
    }

    fn release(&mut self, orphan: Orphan) {
        self.pending = true;
        match orphan {
            Orphan::Connection(id) => self.release_connection(id),
            Orphan::Writer(id) => self.close(id),
            Orphan::Listener(id) => self.release_listener(id),
            Orphan::Udp(id) => self.release_udp(id),
        }
    }

    fn snapshot(&self) -> Stats {
        let mut stats = Stats {
            dropped_queue_full: self.wire.lost + self.loopback.lost,
            time_wait: self.time_wait.len(),
            ..self.stats
        };
        self.connections.count(&mut stats);
        let each = self.buffers.receive + self.buffers.send;
        stats.buffer_bytes = stats.connections * each;
        self.udp.count(&mut stats, 2 * self.config.udp_buffer());
        stats
    }
}
