//! The whole way in of the network stack: arbitrary frames, and segments that know the connection.
//!
//! The input is a list of steps. Some put raw bytes on the wire; some make a segment, a datagram or an ICMP message whose
//! addresses and checksums are right and whose numbers are near those that the stack has last sent, so that deep states
//! are reached; some let time pass or let the program act. The stack must not panic, must not hold more than its
//! budget, and must come to rest.
#![no_main]

use std::cell::RefCell;
use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kiln_abi::{Instant, NetHeader};
use kiln_net::{
    Config, Ipv4Setup, Ipv6Setup, Link, LinkConfig, Offloads, Stack, TcpListener, TcpStream,
    UdpSocket,
};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const HOST4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const BUDGET: usize = 1 << 20;
const PORT: u16 = 80;

#[derive(Arbitrary, Debug)]
struct Input {
    automatic: bool,
    offloads: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// Bytes behind an Ethernet header for this host.
    Frame {
        kind: Kind,
        vouched: bool,
        gso_size: u16,
        bytes: Vec<u8>,
    },
    Segment {
        v6: bool,
        flags: u8,
        seq: i16,
        ack: i16,
        window: u16,
        port: u8,
        ecn: u8,
        options: Vec<u8>,
        data: u16,
    },
    Datagram {
        v6: bool,
        from: u16,
        to: u16,
        data: Vec<u8>,
    },
    Icmp {
        v6: bool,
        message: Vec<u8>,
    },
    Pass {
        milliseconds: u16,
    },
    Connect {
        v6: bool,
    },
    Write {
        which: u8,
        len: u16,
    },
    Read {
        which: u8,
        len: u16,
    },
    Close {
        which: u8,
        abort: bool,
    },
    Send {
        v6: bool,
        len: u16,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Kind {
    Arp,
    V4,
    V6,
    Other(u16),
}

/// What the stack has last said on a connection, and where to.
#[derive(Clone, Copy, Default)]
struct Said {
    port: u16,
    host_port: u16,
    next: u32,
    ack: u32,
}

type Connecting = Pin<Box<dyn Future<Output = Result<TcpStream, kiln_net::Error>>>>;

struct World {
    now: Instant,
    stack: Stack,
    link: Link,
    said: RefCell<Said>,
    streams: Vec<TcpStream>,
    connecting: Vec<Connecting>,
    listener: TcpListener,
    udp: UdpSocket,
}

fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An IP packet from the peer in a frame for the host; the transport's checksum goes to `at`.
fn packet(v6: bool, protocol: u8, mut payload: Vec<u8>, at: usize, ecn: u8) -> Vec<u8> {
    let len = payload.len() as u16;
    let mut frame = [MAC, PEER_MAC].concat();
    let pseudo = if v6 {
        [
            &PEER6.octets()[..],
            &HOST6.octets(),
            &u32::from(len).to_be_bytes(),
            &[0, 0, 0, protocol],
        ]
        .concat()
    } else if protocol == 1 {
        Vec::new()
    } else {
        let [high, low] = len.to_be_bytes();
        [
            &PEER4.octets()[..],
            &HOST4.octets(),
            &[0, protocol, high, low],
        ]
        .concat()
    };
    if payload.len() >= at + 2 {
        payload[at..at + 2].fill(0);
        let sum = checksum(&[&pseudo, &payload]);
        payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, (ecn & 3) << 4, 0, 0]);
        frame.extend(len.to_be_bytes());
        frame.extend([protocol, 255]);
        frame.extend(PEER6.octets());
        frame.extend(HOST6.octets());
    } else {
        let mut header = vec![0x45, ecn & 3, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0];
        header[2..4].copy_from_slice(&(20 + len).to_be_bytes());
        header.extend(PEER4.octets());
        header.extend(HOST4.octets());
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend([8, 0]);
        frame.extend(header);
    }
    frame.extend(payload);
    frame
}

impl World {
    fn new(automatic: bool, offloads: bool) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let stack = Stack::new(Config::new([7; 32]).memory_budget(BUDGET), now);
        let mut config = LinkConfig::new(MAC)
            .ipv4(HOST4, 24, None)
            .ipv6(HOST6, 64, None)
            .offloads(Offloads {
                checksum: offloads,
                tso4: offloads,
                tso6: offloads,
            });
        if automatic {
            config.ipv4 = Ipv4Setup::Dhcp;
            config.ipv6 = Ipv6Setup::Auto;
        }
        let link = stack.attach(config, now);
        let any = SocketAddr::from(([0u16; 8], PORT));
        let listener = TcpListener::bind(&stack, any).expect("a listener");
        let udp = UdpSocket::bind(&stack, SocketAddr::from(([0u16; 8], 53))).expect("a socket");
        Self {
            now,
            stack,
            link,
            said: RefCell::default(),
            streams: Vec::new(),
            connecting: Vec::new(),
            listener,
            udp,
        }
    }

    fn receive(&mut self, header: NetHeader, frame: &[u8]) {
        self.link.receive(header, frame, self.now);
        self.turn();
    }

    /// Lets the stack act, reads what it says, answers ARP and neighbour solicitations, accepts.
    fn turn(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..20 {
            self.stack.poll(self.now);
            let mut questions = Vec::new();
            self.link.transmit(|frames| {
                for (_, frame) in frames.iter() {
                    let bytes: Vec<u8> = frame.pieces().flatten().copied().collect();
                    self.listen_to(&bytes, &mut questions);
                }
                frames.len()
            });
            if let Poll::Ready(Ok((stream, _))) = pin!(self.listener.accept()).poll(&mut context)
                && self.streams.len() < 16
            {
                self.streams.push(stream);
            }
            let streams = &mut self.streams;
            self.connecting
                .retain_mut(|connecting| match connecting.as_mut().poll(&mut context) {
                    Poll::Pending => true,
                    Poll::Ready(result) => {
                        streams.extend(result.ok());
                        false
                    }
                });
            if questions.is_empty() {
                break;
            }
            for answer in questions {
                self.link.receive(NetHeader::PLAIN, &answer, self.now);
            }
        }
    }

    fn listen_to(&self, frame: &[u8], questions: &mut Vec<Vec<u8>>) {
        let tcp = match frame.get(12..14) {
            Some([8, 6]) if frame.get(20..22) == Some(&[0, 1]) => {
                let mut reply = [MAC, PEER_MAC].concat();
                reply.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
                reply.extend(PEER_MAC);
                reply.extend(&frame[38..42]);
                reply.extend(MAC);
                reply.extend(HOST4.octets());
                questions.push(reply);
                return;
            }
            Some([8, 0]) if frame.get(23) == Some(&6) => 34,
            Some([0x86, 0xdd]) if frame.get(20) == Some(&6) => 54,
            Some([0x86, 0xdd]) if frame.get(20) == Some(&58) && frame.get(54) == Some(&135) => {
                let mut advert = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
                advert.extend(&frame[62..78]);
                advert.extend([2, 1]);
                advert.extend(PEER_MAC);
                questions.push(packet(true, 58, advert, 2, 0));
                return;
            }
            _ => return,
        };
        let Some(header) = frame.get(tcp..tcp + 20) else {
            return;
        };
        let number =
            |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let start = tcp + usize::from(header[12] >> 4) * 4;
        let controls = u32::from(header[13] & 1) + u32::from(header[13] >> 1 & 1);
        *self.said.borrow_mut() = Said {
            port: u16::from_be_bytes([header[2], header[3]]),
            host_port: u16::from_be_bytes([header[0], header[1]]),
            next: number(4).wrapping_add((frame.len() - start) as u32 + controls),
            ack: number(8),
        };
    }

    fn step(&mut self, step: Step) {
        let mut context = Context::from_waker(Waker::noop());
        match step {
            Step::Frame {
                kind,
                vouched,
                gso_size,
                bytes,
            } => {
                let kind = match kind {
                    Kind::Arp => 0x0806,
                    Kind::V4 => 0x0800,
                    Kind::V6 => 0x86dd,
                    Kind::Other(kind) => kind,
                };
                let mut frame = [MAC, PEER_MAC].concat();
                frame.extend(kind.to_be_bytes());
                frame.extend(bytes);
                let header = NetHeader {
                    flags: if vouched { NetHeader::DATA_VALID } else { 0 },
                    gso_size,
                    ..NetHeader::PLAIN
                };
                self.receive(header, &frame);
            }
            Step::Segment {
                v6,
                flags,
                seq,
                ack,
                window,
                port,
                ecn,
                mut options,
                data,
            } => {
                let said = *self.said.borrow();
                options.truncate(40);
                options.resize(options.len().next_multiple_of(4), 0);
                // Port 0 is the connection that spoke last.
                let (from, to) = match port {
                    0 => (said.port, said.host_port),
                    port => (u16::from(port), PORT),
                };
                let mut segment = Vec::new();
                segment.extend(from.to_be_bytes());
                segment.extend(to.to_be_bytes());
                segment.extend(said.ack.wrapping_add_signed(seq.into()).to_be_bytes());
                segment.extend(said.next.wrapping_add_signed(ack.into()).to_be_bytes());
                segment.push(((20 + options.len()) << 2) as u8);
                segment.push(flags);
                segment.extend(window.to_be_bytes());
                segment.extend([0; 4]);
                segment.extend(options);
                segment.resize(segment.len() + usize::from(data % 3000), 0x55);
                let frame = packet(v6, 6, segment, 16, ecn);
                self.receive(NetHeader::PLAIN, &frame);
            }
            Step::Datagram { v6, from, to, data } => {
                let to = if to % 2 == 0 { 53 } else { to };
                let mut datagram = Vec::new();
                datagram.extend(from.to_be_bytes());
                datagram.extend(to.to_be_bytes());
                datagram.extend((8 + data.len() as u16).to_be_bytes());
                datagram.extend([0, 0]);
                datagram.extend(data);
                let frame = packet(v6, 17, datagram, 6, 0);
                self.receive(NetHeader::PLAIN, &frame);
            }
            Step::Icmp { v6, message } => {
                let frame = packet(v6, if v6 { 58 } else { 1 }, message, 2, 0);
                self.receive(NetHeader::PLAIN, &frame);
            }
            Step::Pass { milliseconds } => {
                let end = self.now + Duration::from_millis(u64::from(milliseconds) * 4);
                let mut turns = 0;
                while self.now < end {
                    self.now = self.stack.deadline(self.now).clamp(self.now, end);
                    self.turn();
                    turns += 1;
                    // A timer that is due again and again without anything to do would spin for ever.
                    assert!(turns < 200_000, "no rest");
                }
            }
            Step::Connect { v6 } => {
                if self.connecting.len() < 8 {
                    let peer = if v6 { PEER6.into() } else { PEER4.into() };
                    let (stack, peer) = (self.stack.clone(), SocketAddr::new(peer, 99));
                    self.connecting.push(Box::pin(async move {
                        TcpStream::connect(&stack, peer).await
                    }));
                }
                self.turn();
            }
            Step::Write { which, len } => {
                let count = self.streams.len().max(1);
                if let Some(stream) = self.streams.get_mut(usize::from(which) % count) {
                    let data = vec![0xaa; usize::from(len)];
                    let _ = pin!(stream.write(&data)).poll(&mut context);
                }
                self.turn();
            }
            Step::Read { which, len } => {
                let count = self.streams.len().max(1);
                if let Some(stream) = self.streams.get_mut(usize::from(which) % count) {
                    let mut buffer = vec![0; usize::from(len)];
                    let _ = pin!(stream.read(&mut buffer)).poll(&mut context);
                }
                self.turn();
            }
            Step::Close { which, abort } => {
                if !self.streams.is_empty() {
                    let stream = self
                        .streams
                        .swap_remove(usize::from(which) % self.streams.len());
                    if abort {
                        stream.abort();
                    }
                }
                self.turn();
            }
            Step::Send { v6, len } => {
                let peer = if v6 { PEER6.into() } else { PEER4.into() };
                let data = vec![1; usize::from(len)];
                let to = SocketAddr::new(peer, 53);
                let _ = pin!(self.udp.send_to(&data, to)).poll(&mut context);
                self.turn();
            }
        }
    }
}

fuzz_target!(|input: Input| {
    let mut world = World::new(input.automatic, input.offloads);
    world.turn();
    for step in input.steps.into_iter().take(64) {
        world.step(step);
        let stats = world.stack.stats();
        // A connection may hold a little even when the budget is used up.
        let most = BUDGET + stats.connections * 16 * 1024;
        assert!(stats.buffer_bytes <= most, "holds {}", stats.buffer_bytes);
    }
    // Everything that was dropped comes to its end.
    world.streams.clear();
    world.connecting.clear();
    world.step(Step::Pass {
        milliseconds: 15_000,
    });
    assert_eq!(world.stack.stats().lingering, 0);
});
