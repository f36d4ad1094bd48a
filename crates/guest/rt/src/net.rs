//! The network stack on the guest's links.
//!
//! One [`Stack`] and one driver for each attached link. Frames that are ready to leave stay in the stack's
//! queue while the call that sends them is made; received frames land in buffers of the driver and are copied once, into
//! the connection they belong to.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use kiln_abi::call::MAX_OPS;
use kiln_abi::net::MAX_FRAME;
use kiln_abi::op::{OpError, Segment, SegmentList};
use kiln_abi::{DeviceInfo, DeviceKind, Instant, Op, RawOp};
pub use kiln_net::{
    Assigned, Error, OwnedReadHalf, OwnedWriteHalf, Stack, Stats, TcpListener, TcpStream, UdpSocket,
};

use crate::reactor::{self, Driver, Wait};
use crate::sync::Lock;
use crate::{boot, memory, random, time};

/// Ethernet header and one VLAN tag, in bytes.
const LINK_HEADER: usize = 18;
/// Receive buffers of a link: as many as fit into this part of the heap, within the bounds.
const BUFFER_SHARE: usize = 8;
const MIN_BUFFERS: usize = 3;
const MAX_BUFFERS: usize = 32;
/// The part of the heap that connections may take.
const CONNECTION_SHARE: usize = 2;
/// Frames sent by one call.
const MAX_SENDS: usize = 256;

static STACKS: Lock<Vec<(&'static DeviceInfo, Stack)>> = Lock::new(Vec::new());

/// Brings up all attached links. Called before the program's `main`.
pub fn start() {
    let is_link = |device: &DeviceInfo| device.kind == DeviceKind::Net as u32;
    let links = boot::devices().iter().filter(|d| is_link(d)).count();
    for (number, device) in (0..).zip(boot::devices()).filter(|(_, d)| is_link(d)) {
        let mut seed = [0; 32];
        random::fill(&mut seed);
        let budget = memory::statistics().capacity / CONNECTION_SHARE / links;
        let config = kiln_net::Config::from_device(device, seed)
            .hostname(boot::name())
            .memory_budget(budget);
        let stack = Stack::new(config, time::cached());
        STACKS.with(|stacks| stacks.push((device, stack.clone())));
        reactor::register(Box::new(LinkDriver::new(number, device, stack, links)));
    }
}

/// The stack of the first link.
///
/// # Errors
/// [`Error::AddressNotAvailable`] if the instance has no link.
pub fn default_stack() -> Result<Stack, Error> {
    let first = STACKS.with(|stacks| stacks.first().map(|(_, stack)| stack.clone()));
    first.ok_or(Error::AddressNotAvailable)
}

/// The stack of the link with this name.
pub fn stack(name: &str) -> Option<Stack> {
    STACKS.with(|stacks| {
        let found = stacks
            .iter()
            .find(|(device, _)| device.name() == Some(name));
        found.map(|(_, stack)| stack.clone())
    })
}

/// Between one link and its stack.
struct LinkDriver {
    device: u32,
    stack: Stack,
    buffers: Vec<u8>,
    buffer_len: usize,
    /// Segments of the operations under way: frames to send, then buffers to receive into.
    segments: Vec<Segment>,
    /// Frames to send with one call at the most.
    max_sends: usize,
    /// Frames under way.
    sends: usize,
    /// The host's end has gone: there is nothing to wait for any more.
    is_down: bool,
}

impl LinkDriver {
    /// The driver of one of `links` links, which share the heap and the batch.
    fn new(device: u32, info: &DeviceInfo, stack: Stack, links: usize) -> Self {
        let joined = info.net_features & DeviceInfo::NET_GRO != 0;
        let buffer_len = if joined {
            MAX_FRAME
        } else {
            usize::from(info.mtu) + LINK_HEADER
        };
        let share = memory::statistics().capacity / BUFFER_SHARE / links;
        let operations = MAX_OPS as usize / links;
        let count = (share / buffer_len).clamp(MIN_BUFFERS, MAX_BUFFERS.min(operations / 2));
        Self {
            device,
            stack,
            buffers: vec![0; count * buffer_len],
            buffer_len,
            segments: Vec::new(),
            max_sends: MAX_SENDS.min(operations - count),
            sends: 0,
            is_down: false,
        }
    }

    fn list(&self, index: usize) -> SegmentList {
        SegmentList {
            addr: &raw const self.segments[index] as u64,
            count: 1,
        }
    }
}

impl Driver for LinkDriver {
    fn submit(&mut self, now: Instant, ops: &mut Vec<RawOp>) -> Wait {
        self.stack.poll(now);
        self.segments.clear();
        self.sends = 0;
        if self.is_down {
            return Wait {
                receive: 0,
                send: 0,
                deadline: self.stack.deadline(now),
            };
        }
        let first = ops.len();
        // Nothing is reported as sent yet, so the frames stay where they are; nobody touches the stack before
        // `complete`.
        let mut waiting = 0;
        self.stack.transmit(|frames| {
            waiting = frames.len();
            for (header, frame) in frames.iter().take(self.max_sends) {
                self.segments.push(Segment {
                    addr: frame.as_ptr() as u64,
                    len: frame.len() as u64,
                });
                let unplaced = SegmentList { addr: 0, count: 1 };
                ops.push(RawOp::net_send(self.device, unplaced, header));
            }
            0
        });
        self.sends = self.segments.len();
        for buffer in self.buffers.chunks_exact_mut(self.buffer_len) {
            self.segments.push(Segment {
                addr: buffer.as_mut_ptr() as u64,
                len: buffer.len() as u64,
            });
            let unplaced = SegmentList { addr: 0, count: 1 };
            let receive = Op::NetReceive {
                device: self.device,
                buffers: unplaced,
            };
            ops.push(receive.encode());
        }
        // The segments have their final place only now.
        for (index, op) in ops[first..].iter_mut().enumerate() {
            op.args[0] = self.list(index).addr;
        }
        let bit = 1 << self.device;
        Wait {
            receive: bit,
            send: if waiting > 0 { bit } else { 0 },
            // What does not fit into one call goes with the next.
            deadline: if waiting > self.max_sends {
                now
            } else {
                self.stack.deadline(now)
            },
        }
    }

    fn is_closing(&self) -> bool {
        self.stack.stats().lingering > 0
    }

    fn complete(&mut self, now: Instant, ops: &[RawOp]) {
        let (sends, receives) = ops.split_at(self.sends.min(ops.len()));
        // A link that is full takes no later frame before an earlier one; what it refuses for another reason is lost.
        let sent = sends
            .iter()
            .position(|op| op.outcome() == Err(OpError::Again))
            .unwrap_or(sends.len());
        if sent > 0 {
            self.stack.transmit(|_| sent);
        }
        for (op, buffer) in receives
            .iter()
            .zip(self.buffers.chunks_exact(self.buffer_len))
        {
            let len = match op.outcome() {
                Ok(len) => len,
                Err(OpError::Io) => {
                    self.is_down = true;
                    crate::console::write(b"kiln: a network link has gone\n");
                    break;
                }
                Err(_) => continue,
            };
            if let Some(frame) = buffer.get(..len as usize) {
                self.stack.receive(op.received_header(), frame, now);
            }
        }
    }
}
