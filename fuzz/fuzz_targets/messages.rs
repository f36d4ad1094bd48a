//! Every format that the network stack reads, each in the situation in which it is read, and by itself where it can be.
//!
//! The target `network` finds its way by frames; this one says what is in them. The stack asks (a lease, a router, DHCPv6,
//! a name, a neighbour), and the input is what it is told: an answer that has the right numbers, addresses and checksum
//! around arbitrary content. So are fragments that overlap, extension headers and options, queries of groups, and ICMP errors
//! that quote what the stack has just sent.
#![no_main]

use std::cell::RefCell;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kiln_abi::{Instant, NetHeader};
use kiln_net::tcp::{Options, Segment};
use kiln_net::{
    Config, Error, Ipv4Setup, Ipv6Setup, Link, LinkConfig, Stack, TcpStream, UdpSocket,
};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PEER4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PEER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
const HOST4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const GROUP4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const BUDGET: usize = 1 << 20;
const UDP: u8 = 17;

#[derive(Arbitrary, Debug)]
struct Input {
    /// The stack gets its addresses by asking, or has them.
    automatic: bool,
    messages: Vec<Message>,
}

#[derive(Arbitrary, Debug)]
enum Message {
    /// What a DHCP server answers: its kind, the address it gives, more options.
    Dhcp4 {
        kind: u8,
        address: [u8; 4],
        options: Vec<u8>,
    },
    /// Options behind a reply to an information request.
    Dhcp6 {
        named: bool,
        options: Vec<u8>,
    },
    /// What stands behind the question.
    Dns {
        flags: u16,
        counts: [u8; 3],
        records: Vec<u8>,
    },
    /// A message of neighbour discovery.
    Discovery {
        kind: u8,
        to_all: bool,
        unspecified: bool,
        fixed: [u8; 12],
        target: u8,
        options: Vec<u8>,
    },
    Arp(Vec<u8>),
    /// An error that quotes what left last, with some bytes changed.
    Error {
        kind: u8,
        code: u8,
        word: u32,
        v6: bool,
        change: u8,
        to: u8,
        cut: u8,
    },
    /// A query of groups.
    Groups {
        v6: bool,
        body: Vec<u8>,
    },
    /// An IPv4 packet with options, whole or a part of one.
    Packet4 {
        options: Vec<u8>,
        position: u16,
        id: u8,
        protocol: u8,
        body: Vec<u8>,
    },
    /// An IPv6 packet with extension headers.
    Packet6 {
        next: u8,
        body: Vec<u8>,
    },
    /// An IPv6 fragment.
    Fragment6 {
        next: u8,
        offset: u8,
        more: bool,
        id: u8,
        body: Vec<u8>,
    },
    /// Options of TCP by themselves.
    Options(Vec<u8>),
    /// A segment with options, to a connection of the stack.
    Segment {
        flags: u8,
        options: Vec<u8>,
    },
    Pass {
        milliseconds: u16,
    },
    /// The program asks for a name, sends a datagram, connects.
    Lookup,
    Send {
        v6: bool,
    },
    Connect,
}

/// What the stack has said last, by what it is about.
#[derive(Default)]
struct Said {
    dhcp4: Option<u32>,
    dhcp6: Option<u32>,
    /// Source address, port and the message of questions for a name.
    dns: Vec<(u16, Vec<u8>)>,
    /// The IP packets that left last, without their link headers.
    packet4: Vec<u8>,
    packet6: Vec<u8>,
    tcp: Option<(u16, u32, u32)>,
}

type Lookup = Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, Error>>>>;
type Connecting = Pin<Box<dyn Future<Output = Result<TcpStream, Error>>>>;

struct World {
    now: Instant,
    stack: Stack,
    link: Link,
    said: RefCell<Said>,
    udp: UdpSocket,
    lookups: Vec<Lookup>,
    connecting: Vec<Connecting>,
    streams: Vec<TcpStream>,
}

fn sum(parts: &[&[u8]]) -> u16 {
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

fn ethernet(kind: u16) -> Vec<u8> {
    let mut frame = [MAC, PEER_MAC].concat();
    frame.extend(kind.to_be_bytes());
    frame
}

/// An IPv4 packet in a frame, with options.
fn packet4(
    to: Ipv4Addr,
    protocol: u8,
    (id, position): (u16, u16),
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let options = &options[..options.len().min(40) & !3];
    let length = (20 + options.len() + payload.len()) as u16;
    let mut header = vec![0x45 + (options.len() / 4) as u8, 0];
    header.extend(length.to_be_bytes());
    header.extend(id.to_be_bytes());
    header.extend(position.to_be_bytes());
    let hops = if protocol == 2 { 1 } else { 64 };
    header.extend([hops, protocol, 0, 0]);
    header.extend(PEER4.octets());
    header.extend(to.octets());
    header.extend(options);
    let total = sum(&[&header]);
    header[10..12].copy_from_slice(&total.to_be_bytes());
    let mut frame = ethernet(0x0800);
    if to == GROUP4 {
        frame[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 1]);
    }
    frame.extend(header);
    frame.extend(payload);
    frame
}

fn packet6(from: Ipv6Addr, to: Ipv6Addr, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(0x86dd);
    if to == ALL_NODES {
        frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    }
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([next, hops]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    frame.extend(payload);
    frame
}

/// Completes the checksum of a transport's packet that stands at `at`.
fn complete(from: IpAddr, to: IpAddr, protocol: u8, at: usize, mut payload: Vec<u8>) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let length = (payload.len() as u32).to_be_bytes();
    if payload.len() >= at + 2 {
        payload[at..at + 2].fill(0);
        let total = if protocol == 1 {
            sum(&[&payload])
        } else {
            let pseudo = [
                &octets(from)[..],
                &octets(to),
                &length,
                &[0, 0, 0, protocol],
            ]
            .concat();
            sum(&[&pseudo, &payload])
        };
        payload[at..at + 2].copy_from_slice(&total.to_be_bytes());
    }
    payload
}

fn datagram(from: SocketAddr, to: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut bytes = from.port().to_be_bytes().to_vec();
    bytes.extend(to.port().to_be_bytes());
    bytes.extend((8 + data.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(data);
    complete(from.ip(), to.ip(), UDP, 6, bytes)
}

impl World {
    fn new(automatic: bool) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let stack = Stack::new(Config::new([7; 32]).memory_budget(BUDGET), now);
        let mut config = LinkConfig::new(MAC)
            .ipv4(HOST4, 24, None)
            .ipv6(HOST6, 64, None);
        config.dns = vec![PEER4.into()];
        if automatic {
            config.ipv4 = Ipv4Setup::Dhcp;
            config.ipv6 = Ipv6Setup::Auto;
        }
        let link = stack.attach(config, now);
        let any = SocketAddr::from(([0u16; 8], 5000));
        let udp = UdpSocket::bind(&stack, any).expect("a socket");
        let mut world = Self {
            now,
            stack,
            link,
            said: RefCell::default(),
            udp,
            lookups: Vec::new(),
            connecting: Vec::new(),
            streams: Vec::new(),
        };
        // Until it has asked, and has its own link-local address.
        world.pass(Duration::from_secs(3));
        if automatic {
            world.give_lease();
            let advert = packet6(
                PEER6,
                ALL_NODES,
                58,
                255,
                &complete(
                    PEER6.into(),
                    ALL_NODES.into(),
                    58,
                    2,
                    vec![134, 0, 0, 0, 64, 0x40, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0],
                ),
            );
            world.receive(&advert);
            world.pass(Duration::from_secs(2));
        }
        world
    }

    /// So that there is an address, whatever comes.
    fn give_lease(&mut self) {
        for kind in [2, 5] {
            self.dhcp4(
                kind,
                HOST4.octets(),
                &[1, 4, 255, 255, 255, 0, 51, 4, 0, 0, 14, 16],
            );
        }
        self.pass(Duration::from_secs(1));
    }

    fn dhcp4(&mut self, kind: u8, address: [u8; 4], options: &[u8]) {
        let Some(id) = self.said.borrow().dhcp4 else {
            return;
        };
        let mut data = vec![2, 1, 6, 0];
        data.extend(id.to_be_bytes());
        data.extend([0; 8]);
        data.extend(address);
        data.extend([0; 8]);
        data.extend(MAC);
        data.resize(236, 0);
        data.extend([0x63, 0x82, 0x53, 0x63, 53, 1, kind, 54, 4]);
        data.extend(PEER4.octets());
        data.extend(options);
        let to = Ipv4Addr::from(address);
        let ends = (
            SocketAddr::new(PEER4.into(), 67),
            SocketAddr::new(to.into(), 68),
        );
        let frame = packet4(to, UDP, (1, 0x4000), &[], &datagram(ends.0, ends.1, &data));
        self.receive(&frame);
    }

    fn receive(&mut self, frame: &[u8]) {
        self.link.receive(NetHeader::PLAIN, frame, self.now);
        self.turn();
    }

    /// Lets the stack act, and reads what it says.
    fn turn(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..8 {
            self.stack.poll(self.now);
            self.lookups
                .retain_mut(|lookup| match lookup.as_mut().poll(&mut context) {
                    Poll::Ready(Ok(addresses)) => {
                        assert!(
                            !addresses.is_empty(),
                            "a name without an address is an error"
                        );
                        false
                    }
                    Poll::Ready(Err(_)) => false,
                    Poll::Pending => true,
                });
            let streams = &mut self.streams;
            self.connecting
                .retain_mut(|connecting| match connecting.as_mut().poll(&mut context) {
                    Poll::Ready(stream) => {
                        streams.extend(stream.ok());
                        false
                    }
                    Poll::Pending => true,
                });
            let mut answers = Vec::new();
            let sent = self.link.transmit(|frames| {
                for (_, frame) in frames.iter() {
                    let bytes: Vec<u8> = frame.pieces().flatten().copied().collect();
                    assert!(bytes.len() <= 1514, "a frame of {} bytes", bytes.len());
                    self.listen_to(&bytes, &mut answers);
                }
                frames.len()
            });
            for answer in answers {
                self.link.receive(NetHeader::PLAIN, &answer, self.now);
            }
            if sent == 0 {
                break;
            }
        }
    }

    fn listen_to(&self, frame: &[u8], answers: &mut Vec<Vec<u8>>) {
        let mut said = self.said.borrow_mut();
        let (packet, protocol, header) = match frame.get(12..14) {
            Some([8, 6])
                if frame.get(20..22) == Some(&[0, 1]) && frame[38..42] == PEER4.octets() =>
            {
                let mut reply = ethernet(0x0806);
                reply.extend([0, 1, 8, 0, 6, 4, 0, 2]);
                reply.extend(PEER_MAC);
                reply.extend(PEER4.octets());
                reply.extend(MAC);
                reply.extend(&frame[28..32]);
                answers.push(reply);
                return;
            }
            Some([8, 0]) => (&frame[14..], frame[23], 20),
            Some([0x86, 0xdd]) => (&frame[14..], frame[20], 40),
            _ => return,
        };
        let body = &packet[header..];
        let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
        let word = |at: usize| u32::from_be_bytes(body[at..at + 4].try_into().expect("4 bytes"));
        match protocol {
            UDP if port(2) == 67 => said.dhcp4 = Some(word(12)),
            UDP if port(2) == 547 => said.dhcp6 = Some(word(8)),
            UDP if port(2) == 53 => said.dns.push((port(0), body[8..].to_vec())),
            6 => said.tcp = Some((port(0), word(4).wrapping_add(1), word(8))),
            // A neighbour solicitation for the peer.
            58 if body[0] == 135 && body[8..24] == PEER6.octets() => {
                let mut advert = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
                advert.extend(&body[8..24]);
                advert.extend([2, 1]);
                advert.extend(PEER_MAC);
                let to = Ipv6Addr::from(<[u8; 16]>::try_from(&packet[8..24]).expect("16 bytes"));
                let advert = complete(PEER6.into(), to.into(), 58, 2, advert);
                answers.push(packet6(PEER6, to, 58, 255, &advert));
            }
            _ => {}
        }
        if header == 20 {
            said.packet4 = packet.to_vec();
        } else {
            said.packet6 = packet.to_vec();
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut turns = 0;
        self.turn();
        while self.now < end {
            self.now = self.stack.deadline(self.now).clamp(self.now, end);
            self.turn();
            turns += 1;
            assert!(turns < 100_000, "no rest");
        }
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Dhcp4 {
                kind,
                address,
                options,
            } => {
                // Most servers give what was there before.
                let address = if address[0] < 128 {
                    HOST4.octets()
                } else {
                    address
                };
                self.dhcp4(kind % 9, address, &options);
            }
            Message::Dhcp6 { named, options } => {
                let Some(id) = self.said.borrow().dhcp6 else {
                    return;
                };
                let mut data = (id & 0x00ff_ffff | 7 << 24).to_be_bytes().to_vec();
                if named {
                    data.extend([0, 1, 0, 10, 0, 3, 0, 1]);
                    data.extend(MAC);
                    data.extend([0, 2, 0, 4, 0, 2, 0, 0]);
                }
                data.extend(options);
                let ends = (
                    SocketAddr::new(PEER6.into(), 547),
                    SocketAddr::new(LINK_LOCAL.into(), 546),
                );
                let frame = packet6(PEER6, LINK_LOCAL, UDP, 64, &datagram(ends.0, ends.1, &data));
                self.receive(&frame);
            }
            Message::Dns {
                flags,
                counts,
                records,
            } => {
                let Some((port, question)) = self.said.borrow_mut().dns.pop() else {
                    return;
                };
                let mut data = question;
                if data.len() < 12 {
                    return;
                }
                data[2..4].copy_from_slice(&(flags | 0x8000).to_be_bytes());
                for (place, count) in [6, 8, 10].into_iter().zip(counts) {
                    data[place..place + 2].copy_from_slice(&u16::from(count).to_be_bytes());
                }
                data.extend(records);
                let ends = (
                    SocketAddr::new(PEER4.into(), 53),
                    SocketAddr::new(HOST4.into(), port),
                );
                let frame = packet4(
                    HOST4,
                    UDP,
                    (2, 0x4000),
                    &[],
                    &datagram(ends.0, ends.1, &data),
                );
                self.receive(&frame);
            }
            Message::Discovery {
                kind,
                to_all,
                unspecified,
                fixed,
                target,
                options,
            } => {
                let mut body = vec![133 + kind % 5, 0, 0, 0];
                body.extend(fixed);
                if body[0] != 134 {
                    body.truncate(8);
                    let target = match target % 4 {
                        0 => LINK_LOCAL,
                        1 => PEER6,
                        2 => HOST6,
                        _ => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, target.into()),
                    };
                    body.extend(target.octets());
                }
                body.extend(options);
                let to = if to_all { ALL_NODES } else { LINK_LOCAL };
                let from = if unspecified {
                    Ipv6Addr::UNSPECIFIED
                } else {
                    PEER6
                };
                let body = complete(from.into(), to.into(), 58, 2, body);
                self.receive(&packet6(from, to, 58, 255, &body));
            }
            Message::Arp(bytes) => {
                let mut frame = ethernet(0x0806);
                frame.extend(bytes);
                self.receive(&frame);
            }
            Message::Error {
                kind,
                code,
                word,
                v6,
                change,
                to,
                cut,
            } => {
                let mut quoted = {
                    let said = self.said.borrow();
                    if v6 {
                        said.packet6.clone()
                    } else {
                        said.packet4.clone()
                    }
                };
                if let Some(byte) = quoted.get_mut(usize::from(change)) {
                    *byte = to;
                }
                quoted.truncate(quoted.len().saturating_sub(cut.into()));
                let kinds: [u8; 4] = if v6 { [1, 2, 3, 4] } else { [3, 11, 12, 4] };
                let mut body = vec![kinds[usize::from(kind % 4)], code, 0, 0];
                body.extend(word.to_be_bytes());
                body.extend(quoted);
                let frame = if v6 {
                    let body = complete(PEER6.into(), LINK_LOCAL.into(), 58, 2, body);
                    packet6(PEER6, LINK_LOCAL, 58, 64, &body)
                } else {
                    let body = complete(PEER4.into(), HOST4.into(), 1, 2, body);
                    packet4(HOST4, 1, (3, 0x4000), &[], &body)
                };
                self.receive(&frame);
            }
            Message::Groups { v6, body } => {
                let frame = if v6 {
                    let mut message = vec![130, 0, 0, 0];
                    message.extend(body);
                    let message = complete(PEER6.into(), ALL_NODES.into(), 58, 2, message);
                    // Behind a hop-by-hop header with a router alert.
                    let extended = [&[58, 0, 5, 2, 0, 0, 1, 0], &message[..]].concat();
                    packet6(PEER6, ALL_NODES, 0, 1, &extended)
                } else {
                    let mut message = vec![0x11];
                    message.extend(body);
                    let message = complete(PEER4.into(), GROUP4.into(), 1, 2, message);
                    packet4(GROUP4, 2, (4, 0), &[0x94, 4, 0, 0], &message)
                };
                self.receive(&frame);
            }
            Message::Packet4 {
                options,
                position,
                id,
                protocol,
                body,
            } => {
                let frame = packet4(HOST4, protocol, (id.into(), position), &options, &body);
                self.receive(&frame);
            }
            Message::Packet6 { next, body } => {
                self.receive(&packet6(PEER6, LINK_LOCAL, next, 64, &body));
            }
            Message::Fragment6 {
                next,
                offset,
                more,
                id,
                body,
            } => {
                let mut payload = vec![next, 0];
                payload.extend((u16::from(offset) << 3 | u16::from(more)).to_be_bytes());
                payload.extend(u32::from(id).to_be_bytes());
                payload.extend(body);
                self.receive(&packet6(PEER6, LINK_LOCAL, 44, 64, &payload));
            }
            Message::Options(bytes) => check_options(&bytes),
            Message::Segment { flags, mut options } => {
                let Some((port, ack, seq)) = self.said.borrow().tcp else {
                    return;
                };
                options.truncate(40);
                options.resize(options.len().next_multiple_of(4), 0);
                let mut segment = 99u16.to_be_bytes().to_vec();
                segment.extend(port.to_be_bytes());
                segment.extend(seq.to_be_bytes());
                segment.extend(ack.to_be_bytes());
                segment.extend([
                    ((20 + options.len()) << 2) as u8,
                    flags,
                    255,
                    255,
                    0,
                    0,
                    0,
                    0,
                ]);
                segment.extend(options);
                let segment = complete(PEER4.into(), HOST4.into(), 6, 16, segment);
                self.receive(&packet4(HOST4, 6, (5, 0x4000), &[], &segment));
            }
            Message::Pass { milliseconds } => self.pass(Duration::from_millis(milliseconds.into())),
            Message::Lookup => {
                if self.lookups.len() < 4 {
                    let stack = self.stack.clone();
                    self.lookups
                        .push(Box::pin(async move { stack.lookup("a.test").await }));
                }
                self.turn();
            }
            Message::Send { v6 } => {
                let peer = if v6 { PEER6.into() } else { PEER4.into() };
                let mut context = Context::from_waker(Waker::noop());
                let to = SocketAddr::new(peer, 9);
                let _ = std::pin::pin!(self.udp.send_to(b"hello", to)).poll(&mut context);
                self.turn();
            }
            Message::Connect => {
                if self.connecting.len() + self.streams.len() < 4 {
                    let (stack, peer) = (self.stack.clone(), SocketAddr::new(PEER4.into(), 99));
                    self.connecting.push(Box::pin(async move {
                        TcpStream::connect(&stack, peer).await
                    }));
                }
                self.turn();
            }
        }
    }
}

/// Options say the same when they are written and read again; a header with them is read whole or not at all.
fn check_options(bytes: &[u8]) {
    let options = Options::parse(bytes);
    let mut written = vec![0; options.len()];
    if written.len() <= 40 {
        options.emit(&mut written);
        assert_eq!(Options::parse(&written), options);
    }
    if let Some((_, _, segment)) = Segment::parse(bytes) {
        assert!(segment.payload.len() <= bytes.len() - 20);
    }
}

fuzz_target!(|input: Input| {
    let mut world = World::new(input.automatic);
    for message in input.messages.into_iter().take(32) {
        world.message(message);
        let stats = world.stack.stats();
        let most = BUDGET + stats.connections * 16 * 1024;
        assert!(stats.buffer_bytes <= most, "holds {}", stats.buffer_bytes);
    }
    // Whatever was said, names are answered or given up, and nothing keeps the stack busy.
    world.streams.clear();
    world.pass(Duration::from_secs(60));
    assert!(world.lookups.is_empty(), "a lookup never ends");
});
