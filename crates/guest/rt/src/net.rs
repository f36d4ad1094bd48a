//! The network stack on the guest's links.
//!
//! One [`Stack`], and one driver for each attached link. Frames that are ready to leave stay where they are while the call
//! that sends them is made: headers in the link's queue, data in the connection's buffer. Received frames land in buffers
//! of the driver and are copied once, into the connection they belong to.

mod counters;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use kiln_abi::call::MAX_OPS;
use kiln_abi::net::MAX_FRAME;
use kiln_abi::op::{OpError, Segment, SegmentList};
use kiln_abi::{DeviceInfo, DeviceKind, Instant, Op, RawOp};
pub use kiln_net::{
    Assigned, Error, ListenOptions, OwnedReadHalf, OwnedWriteHalf, Stack, Stats, TcpListener,
    TcpStream, UdpSocket,
};
use kiln_net::{Config, Link, LinkConfig};

use self::counters::Counters;
use crate::reactor::{self, Driver, Wait};
use crate::sync::Lock;
use crate::{boot, memory, random, time};

/// Ethernet header and one VLAN tag, in bytes.
const LINK_HEADER: usize = 18;
/// Receive buffers of a link: as many as fit into this part of the heap, within the bounds.
const BUFFER_SHARE: usize = 8;
const MIN_BUFFERS: usize = 3;
const MAX_BUFFERS: usize = 32;
/// Frames that a call asks for while few arrive.
const FEW_BUFFERS: usize = 4;
/// The part of the heap that connections may take.
const CONNECTION_SHARE: usize = 2;
/// Frames sent by one call.
const MAX_SENDS: usize = 256;

struct Network {
    stack: Stack,
    /// Each link's sockets-bound-to-it handle.
    links: Vec<(&'static DeviceInfo, Stack)>,
}

static NETWORK: Lock<Option<Network>> = Lock::new(None);

/// Brings up all attached links. Called before the program's `main`.
pub fn start() {
    let is_link = |device: &DeviceInfo| device.kind == DeviceKind::Net as u32;
    let count = boot::devices().iter().filter(|d| is_link(d)).count();
    if count == 0 {
        return;
    }
    let now = time::cached();
    let stack = Stack::new(config(), now);
    let mut links = Vec::new();
    for (number, device) in (0..).zip(boot::devices()).filter(|(_, d)| is_link(d)) {
        let link = stack.attach(LinkConfig::from_device(device), now);
        let counters = Counters::new(number, links.is_empty());
        links.push((device, stack.on(&link)));
        let driver = LinkDriver::new(number, device, link, counters, count);
        reactor::register(Box::new(driver));
    }
    NETWORK.with(|network| *network = Some(Network { stack, links }));
}

fn config() -> Config {
    let mut seed = [0; 32];
    random::fill(&mut seed);
    Config::new(seed)
        .hostname(boot::name())
        .memory_budget(memory::statistics().capacity / CONNECTION_SHARE)
}

/// Lets time pass for a stack that has no link to do so.
struct LoopbackDriver(Stack);

impl Driver for LoopbackDriver {
    fn submit(&mut self, now: Instant, _ops: &mut Vec<RawOp>) -> Wait {
        self.0.poll(now);
        Wait {
            receive: 0,
            send: 0,
            deadline: self.0.deadline(now),
        }
    }

    fn unheard(&self) -> usize {
        self.0.unheard()
    }

    fn complete(&mut self, _now: Instant, _ops: &[RawOp]) {}
}

/// The stack, with all links.
///
/// # Errors
/// [`Error::AddressNotAvailable`] if the instance has no link.
pub fn default_stack() -> Result<Stack, Error> {
    let stack = NETWORK.with(|network| network.as_ref().map(|network| network.stack.clone()));
    stack.ok_or(Error::AddressNotAvailable)
}

/// The stack, with all links; if there is none, a stack that has the loopback link alone and is set up with the first call.
pub fn stack_or_loopback() -> Stack {
    if let Ok(stack) = default_stack() {
        return stack;
    }
    let now = time::cached();
    let stack = Stack::new(config(), now);
    let links = Vec::new();
    reactor::register(Box::new(LoopbackDriver(stack.clone())));
    let network = Network {
        stack: stack.clone(),
        links,
    };
    NETWORK.with(|place| *place = Some(network));
    stack
}

/// A handle of the stack whose sockets are bound to the link with this name.
pub fn stack(name: &str) -> Option<Stack> {
    NETWORK.with(|network| {
        let links = network.as_ref().map(|network| &network.links);
        let mut links = links.into_iter().flatten();
        let found = links.find(|(device, _)| device.name() == Some(name));
        found.map(|(_, stack)| stack.clone())
    })
}

/// Between one link and the stack.
struct LinkDriver {
    device: u32,
    link: Link,
    counters: Option<Counters>,
    /// Where frames are received.
    buffers: Vec<u8>,
    buffer_len: usize,
    /// A segment for each of them; these stay where they are.
    buffer_segments: Vec<Segment>,
    /// The operation that receives into a buffer, but for the place of its segment.
    receive: RawOp,
    /// Frames that a call asks for: some more than have arrived lately, as each costs something whether or not it is filled.
    asked: usize,
    /// Pieces of the frames that are being sent.
    segments: Vec<Segment>,
    /// Where each frame's pieces start, and its place in the queue.
    starts: Vec<(usize, usize)>,
    /// Frames to send with one call at the most.
    max_sends: usize,
    /// Frames under way.
    sends: usize,
    /// Frames of the queue that those are, with the ones that need not leave any more.
    looked_at: usize,
    /// The link took not all of the last frames.
    refused: bool,
    /// The host's end has gone: there is nothing to wait for any more.
    is_down: bool,
}

impl LinkDriver {
    /// The driver of one of `links` links, which share the heap and the batch.
    fn new(
        device: u32,
        info: &DeviceInfo,
        link: Link,
        counters: Option<Counters>,
        links: usize,
    ) -> Self {
        let joined = info.net_features & DeviceInfo::NET_GRO != 0;
        let buffer_len = if joined {
            MAX_FRAME
        } else {
            usize::from(info.mtu) + LINK_HEADER
        };
        let share = memory::statistics().capacity / BUFFER_SHARE / links;
        let operations = MAX_OPS as usize / links;
        let count = (share / buffer_len).clamp(MIN_BUFFERS, MAX_BUFFERS.min(operations / 2));
        let mut buffers = vec![0; count * buffer_len];
        let start = buffers.as_mut_ptr() as u64;
        let segment = |number| Segment {
            addr: start + (number * buffer_len) as u64,
            len: buffer_len as u64,
        };
        let buffer_segments = (0..count).map(segment).collect();
        let unplaced = SegmentList { addr: 0, count: 1 };
        let receive = Op::NetReceive {
            device,
            buffers: unplaced,
        };
        Self {
            device,
            link,
            counters,
            buffers,
            buffer_len,
            buffer_segments,
            receive: receive.encode(),
            asked: FEW_BUFFERS,
            segments: Vec::new(),
            starts: Vec::new(),
            max_sends: MAX_SENDS.min(operations - count),
            sends: 0,
            looked_at: 0,
            refused: false,
            is_down: false,
        }
    }
}

impl Driver for LinkDriver {
    fn submit(&mut self, now: Instant, ops: &mut Vec<RawOp>) -> Wait {
        let stack = self.link.stack();
        stack.poll(now);
        if let Some(counters) = &mut self.counters {
            counters.publish(&self.link, now);
        }
        self.segments.clear();
        self.starts.clear();
        self.sends = 0;
        if self.is_down {
            return Wait {
                receive: 0,
                send: 0,
                deadline: stack.deadline(now),
            };
        }
        let first = ops.len();
        // Nothing is reported as sent yet, so the frames stay where they are; nobody touches the stack before
        // `complete`.
        let mut waiting = 0;
        self.link.transmit(|frames| {
            waiting = frames.len();
            self.looked_at = waiting;
            for (place, frame) in frames.iter() {
                if self.starts.len() == self.max_sends {
                    self.looked_at = place;
                    break;
                }
                let start = self.segments.len();
                self.segments.extend(frame.pieces().map(|piece| Segment {
                    addr: piece.as_ptr() as u64,
                    len: piece.len() as u64,
                }));
                let unplaced = SegmentList {
                    addr: 0,
                    count: (self.segments.len() - start) as u32,
                };
                self.starts.push((start, place));
                ops.push(RawOp::net_send(self.device, unplaced, frame.header));
            }
            0
        });
        self.sends = self.starts.len();
        // The segments have their final place only now.
        for (op, (start, _)) in ops[first..].iter_mut().zip(&self.starts) {
            op.args[0] = &raw const self.segments[*start] as u64;
        }
        let (receive, segments) = (self.receive, &self.buffer_segments);
        ops.extend(segments.iter().take(self.asked).map(|segment| {
            let mut op = receive;
            op.args[0] = &raw const *segment as u64;
            op
        }));
        let bit = 1 << self.device;
        Wait {
            receive: bit,
            send: if waiting > 0 { bit } else { 0 },
            // What does not fit into one call goes with the next.
            // Unless the link has just refused frames: then it is waited for.
            deadline: if waiting > self.looked_at && !self.refused {
                now
            } else {
                self.link.stack().deadline(now)
            },
        }
    }

    fn close(&mut self) {
        self.link.stack().close_all();
    }

    fn unheard(&self) -> usize {
        self.link.stack().unheard()
    }

    fn complete(&mut self, now: Instant, ops: &[RawOp]) {
        let (sends, receives) = ops.split_at(self.sends.min(ops.len()));
        // A link that is full takes no later frame before an earlier one; what it refuses for another reason is lost.
        let refused = sends
            .iter()
            .position(|op| op.outcome() == Err(OpError::Again));
        self.refused = refused.is_some();
        let sent = refused
            .and_then(|refused| self.starts.get(refused))
            .map_or(self.looked_at, |(_, place)| *place);
        if !self.is_down && sent > 0 {
            self.link.transmit(|_| sent);
        }
        let mut arrived = 0;
        for (number, op) in receives.iter().enumerate() {
            let len = match op.outcome() {
                Ok(len) => {
                    arrived += 1;
                    len
                }
                Err(OpError::Io) => {
                    self.is_down = true;
                    crate::console::write(b"kiln: a network link has gone\n");
                    break;
                }
                Err(_) => continue,
            };
            let (start, len) = (number * self.buffer_len, len as usize);
            if len <= self.buffer_len
                && let Some(frame) = self.buffers.get(start..start + len)
            {
                self.link.receive(op.received_header(), frame, now);
            }
        }
        if arrived == receives.len() {
            self.asked = (2 * self.asked).min(MAX_BUFFERS);
        } else if 4 * arrived < self.asked {
            self.asked = (self.asked / 2).max(FEW_BUFFERS);
        }
    }
}
