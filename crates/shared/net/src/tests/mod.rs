//! Tests of whole stacks: programs on both ends, frames in between, time made of numbers.
//!
//! A [`World`] has nodes on one Ethernet segment, programs (futures) and a clock. It runs the programs whose wakers
//! were called, carries the frames, and moves the clock on when nobody has anything to do. So a test takes no real
//! time, and a lost wake-up shows as a program that never ends.

mod addresses;
mod direct;
mod full;
mod guessing;
mod hostile;
mod lingering;
mod offload;
mod programs;
mod resolver;
mod restart;
mod streams;

use std::boxed::Box;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use std::vec::Vec;

use kiln_abi::{Instant, NetHeader};

use crate::random::Random;
use crate::{Config, Frame as Leaving, Link, LinkConfig, Offloads, Stack};

pub(super) const A4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(super) const B4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(super) const A6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
pub(super) const B6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
pub(super) const A_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
pub(super) const B_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
const LATENCY: Duration = Duration::from_micros(50);

/// How a host with one link is set up.
#[derive(Clone)]
pub(super) struct Setup {
    pub stack: Config,
    pub link: LinkConfig,
}

impl Setup {
    pub(super) fn new(mac: [u8; 6], seed: [u8; 32]) -> Self {
        Self {
            stack: Config::new(seed),
            link: LinkConfig::new(mac),
        }
    }

    pub(super) fn memory_budget(mut self, bytes: usize) -> Self {
        self.stack = self.stack.memory_budget(bytes);
        self
    }

    pub(super) fn offloads(mut self, offloads: Offloads) -> Self {
        self.link = self.link.offloads(offloads);
        self
    }
}

/// A stack with its one link.
#[derive(Clone)]
pub(super) struct Host {
    stack: Stack,
    pub link: Rc<Link>,
}

impl Host {
    pub(super) fn receive(&self, header: NetHeader, frame: &[u8], now: Instant) {
        self.link.receive(header, frame, now);
    }
}

impl std::ops::Deref for Host {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        &self.stack
    }
}

/// The bytes of a frame that leaves.
pub(super) fn bytes_of(frame: &Leaving<'_>) -> Vec<u8> {
    frame.pieces().flatten().copied().collect()
}

pub(super) fn config_a() -> Setup {
    let mut setup = Setup::new(A_MAC, [1; 32]);
    setup.link = setup.link.ipv4(A4, 24, None).ipv6(A6, 64, None);
    setup
}

pub(super) fn config_b() -> Setup {
    let mut setup = Setup::new(B_MAC, [2; 32]);
    setup.link = setup.link.ipv4(B4, 24, None).ipv6(B6, 64, None);
    setup
}

pub(super) fn socket(address: impl Into<std::net::IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

/// A frame on the wire.
pub(super) type Frame = (NetHeader, Vec<u8>);

/// What a node that is not a stack answers to a frame.
pub(super) type Responder = Box<dyn FnMut(&Frame) -> Vec<Vec<u8>>>;

enum Node {
    Stack(Host),
    Responder(Responder),
}

/// What goes wrong on the wire, in per mille of the frames.
#[derive(Clone, Copy, Default)]
pub(super) struct Faults {
    pub loss: u32,
    pub duplication: u32,
    pub reordering: u32,
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Program {
    name: &'static str,
    future: Pin<Box<dyn Future<Output = ()>>>,
    woken: Arc<Flag>,
}

pub(super) struct World {
    pub now: Instant,
    pub faults: Faults,
    /// Every frame that was sent, if wanted.
    pub record: Option<Rc<RefCell<Vec<Frame>>>>,
    nodes: Vec<Node>,
    programs: Vec<Program>,
    wire: VecDeque<(usize, Frame)>,
    dice: Random,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            now: Instant::from_nanos(1_000_000_000),
            faults: Faults::default(),
            record: None,
            nodes: Vec::new(),
            programs: Vec::new(),
            wire: VecDeque::new(),
            dice: Random::new([9; 32]),
        }
    }

    /// Two stacks with both address families.
    pub(super) fn pair() -> (Self, Host, Host) {
        let mut world = Self::new();
        let a = world.stack(config_a());
        let b = world.stack(config_b());
        (world, a, b)
    }

    pub(super) fn stack(&mut self, setup: Setup) -> Host {
        let stack = Stack::new(setup.stack, self.now);
        let link = Rc::new(stack.attach(setup.link, self.now));
        let host = Host { stack, link };
        self.nodes.push(Node::Stack(host.clone()));
        host
    }

    pub(super) fn responder(&mut self, responder: Responder) {
        self.nodes.push(Node::Responder(responder));
    }

    pub(super) fn spawn(&mut self, name: &'static str, future: impl Future<Output = ()> + 'static) {
        self.programs.push(Program {
            name,
            future: Box::pin(future),
            woken: Arc::new(Flag(AtomicBool::new(true))),
        });
    }

    /// Runs until all programs have ended.
    pub(super) fn run(&mut self) {
        let limit = self.now + Duration::from_hours(1);
        while !self.programs.is_empty() {
            assert!(self.now < limit, "still waiting: {:?}", self.waiting());
            let next = self.step();
            assert!(
                next != Instant::FOREVER || self.programs.is_empty(),
                "nothing will happen any more: {:?}",
                self.waiting()
            );
            self.now = self.now.max(next);
        }
    }

    /// Runs for a while, whether programs end or not.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let next = self.step();
            self.now = next.clamp(self.now, end);
        }
        self.step();
    }

    /// Puts a frame on the wire, sent by nobody.
    pub(super) fn inject(&mut self, frame: Vec<u8>) {
        self.wire.push_back((usize::MAX, (NetHeader::PLAIN, frame)));
    }

    fn waiting(&self) -> Vec<&'static str> {
        self.programs.iter().map(|program| program.name).collect()
    }

    /// Runs what can run now. Returns when there will be more to do.
    fn step(&mut self) -> Instant {
        self.run_programs();
        for index in 0..self.nodes.len() {
            let Node::Stack(stack) = &self.nodes[index] else {
                continue;
            };
            stack.poll(self.now);
            let stack = stack.clone();
            stack.link.transmit(|frames| {
                for (_, frame) in frames.iter() {
                    self.send(index, (frame.header, bytes_of(&frame)));
                }
                frames.len()
            });
        }
        let batch = core::mem::take(&mut self.wire);
        let carried = !batch.is_empty();
        if carried {
            self.now = self.now + LATENCY;
        }
        for (sender, frame) in batch {
            self.deliver(sender, &frame);
        }
        let woken = |program: &Program| program.woken.0.load(Ordering::Relaxed);
        if carried || self.programs.iter().any(woken) {
            return self.now;
        }
        let deadline = |node: &Node| match node {
            Node::Stack(stack) => stack.deadline(self.now),
            Node::Responder(_) => Instant::FOREVER,
        };
        self.nodes
            .iter()
            .map(deadline)
            .min()
            .unwrap_or(Instant::FOREVER)
    }

    fn run_programs(&mut self) {
        let mut again = true;
        while again {
            again = false;
            let mut index = 0;
            while index < self.programs.len() {
                let program = &mut self.programs[index];
                if program.woken.0.swap(false, Ordering::Relaxed) {
                    again = true;
                    let waker = Waker::from(program.woken.clone());
                    let mut context = Context::from_waker(&waker);
                    if let Poll::Ready(()) = program.future.as_mut().poll(&mut context) {
                        self.programs.remove(index);
                        continue;
                    }
                }
                index += 1;
            }
        }
    }

    fn send(&mut self, sender: usize, frame: Frame) {
        if let Some(record) = &self.record {
            record.borrow_mut().push(frame.clone());
        }
        if self.dice.below(1000) < self.faults.loss {
            return;
        }
        if self.dice.below(1000) < self.faults.duplication {
            self.wire.push_back((sender, frame.clone()));
        }
        if self.dice.below(1000) < self.faults.reordering && !self.wire.is_empty() {
            let place = self.dice.below(self.wire.len() as u32) as usize;
            self.wire.insert(place, (sender, frame));
        } else {
            self.wire.push_back((sender, frame));
        }
    }

    fn deliver(&mut self, sender: usize, frame: &Frame) {
        let mut answers = Vec::new();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            match node {
                _ if index == sender => {}
                Node::Stack(stack) => stack.receive(frame.0, &frame.1, self.now),
                Node::Responder(responder) => {
                    for answer in responder(frame) {
                        answers.push((index, (NetHeader::PLAIN, answer)));
                    }
                }
            }
        }
        self.wire.extend(answers);
    }
}

/// Waits for a while of the stack's time.
pub(super) async fn sleep(stack: &Stack, time: Duration) {
    let end = stack.with(|core| core.now) + time;
    std::future::poll_fn(|context| {
        stack.with(|core| {
            if core.now >= end {
                return Poll::Ready(());
            }
            core.timers.register(end, context.waker());
            Poll::Pending
        })
    })
    .await;
}

/// Bytes that show where they came from.
pub(super) fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32)
        .map(|n| (n.wrapping_mul(0x9e37_79b1) >> 24) as u8)
        .collect()
}
