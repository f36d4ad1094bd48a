//! The rootless network: what a guest puts on its link, and the texts that say what is forwarded.
//!
//! The input is frames, most with headers that lead to one of the parsers (ARP, neighbour discovery, DHCP, names, ICMP, UDP,
//! TCP) and, for TCP, numbers near those that the translation has said last. No frame leaves the machine: destinations
//! are the link's own addresses, the gateway stands for this process's loopback sockets, and the resolver is one of them.
#![no_main]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use kiln_abi::NetHeader;
use kiln_abi::layout::Record;
use kiln_usernet::{Config, Limits, PortForward, Usernet};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

#[derive(Arbitrary, Debug)]
struct Input {
    forward: String,
    offload: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Raw(Vec<u8>),
    Arp(Vec<u8>),
    Ip {
        v6: bool,
        to: u8,
        protocol: u8,
        hops: u8,
        body: Vec<u8>,
    },
    Icmp {
        v6: bool,
        to: u8,
        body: Vec<u8>,
    },
    Datagram {
        v6: bool,
        to: u8,
        port: Port,
        data: Vec<u8>,
    },
    Segment {
        v6: bool,
        port: u8,
        flags: u8,
        seq: i16,
        ack: i16,
        window: u16,
        options: Vec<u8>,
        data: u16,
    },
    /// The host's side writes, reads or ends.
    Write(u16),
    Read,
    Close,
    Pass(u16),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Port {
    Dhcp,
    Names,
    Ours,
}

/// The sockets on this machine that the translation may reach.
struct Host {
    listener: TcpListener,
    names: UdpSocket,
    port: u16,
}

impl Host {
    /// One port for both protocols.
    fn new() -> Self {
        loop {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = listener.local_addr().expect("bound").port();
            let Ok(names) = UdpSocket::bind(("127.0.0.1", port)) else {
                continue;
            };
            listener.set_nonblocking(true).expect("a socket");
            names.set_nonblocking(true).expect("a socket");
            return Self {
                listener,
                names,
                port,
            };
        }
    }
}

struct World<'h> {
    host: &'h Host,
    config: Config,
    network: Usernet,
    guest: OwnedFd,
    now: Instant,
    streams: Vec<TcpStream>,
    /// The next number that the translation expects, and what it has sent.
    said: (u32, u32),
}

impl World<'_> {
    fn send(&mut self, frame: &[u8]) {
        let mut message = NetHeader::PLAIN.as_bytes().to_vec();
        message.extend(frame);
        let _ = rustix::net::send(
            &self.guest,
            &message,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        );
        self.turn();
    }

    fn turn(&mut self) {
        self.network.run(self.now);
        if let Ok((stream, _)) = self.host.listener.accept()
            && self.streams.len() < 16
        {
            let _ = stream.set_nonblocking(true);
            // Ended by a reset, so that no port has to wait.
            let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
            self.streams.push(stream);
        }
        let mut question = [0; 2048];
        if let Ok((length, from)) = self.host.names.recv_from(&mut question) {
            if let Some(byte) = question[..length].get_mut(2) {
                *byte |= 0x80;
            }
            let _ = self.host.names.send_to(&question[..length], from);
        }
        self.network.run(self.now);
        let mut message = vec![0; 70_000];
        while let Ok((_, length)) =
            rustix::net::recv(&self.guest, &mut message[..], RecvFlags::DONTWAIT)
        {
            if length <= NetHeader::SIZE {
                break;
            }
            self.listen_to(&message[NetHeader::SIZE..length]);
        }
    }

    /// Every frame is one: its lengths are those of its content.
    fn listen_to(&mut self, frame: &[u8]) {
        assert!(frame.len() >= 14, "{frame:?}");
        let (header, length, protocol) = match frame[12..14] {
            [8, 6] => return,
            [8, 0] => (
                34,
                14 + usize::from(u16::from_be_bytes([frame[16], frame[17]])),
                frame[23],
            ),
            [0x86, 0xdd] => (
                54,
                54 + usize::from(u16::from_be_bytes([frame[18], frame[19]])),
                frame[20],
            ),
            _ => panic!("a frame of another kind: {frame:?}"),
        };
        assert_eq!(frame.len(), length, "{frame:?}");
        if protocol == 6 {
            let word =
                |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().expect("4 bytes"));
            let data = frame.len() - header - usize::from(frame[header + 12] >> 4) * 4;
            let controls =
                u32::from(frame[header + 13] & 1) + u32::from(frame[header + 13] >> 1 & 1);
            self.said = (
                word(header + 8),
                word(header + 4).wrapping_add(data as u32 + controls),
            );
        }
    }

    fn ip(&mut self, v6: bool, to: u8, protocol: u8, hops: u8, body: &[u8]) {
        let mut frame = self.config.gateway_mac.to_vec();
        frame.extend(self.config.guest_mac);
        let last = if to < 128 { 2 + to % 2 } else { to };
        if v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((body.len() as u16).to_be_bytes());
            frame.extend([protocol, hops]);
            frame.extend(self.config.guest6.octets());
            let mut target = self.config.gateway6.octets();
            target[15] = last;
            frame.extend(target);
        } else {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((20 + body.len() as u16).to_be_bytes());
            frame.extend([0, 0, 0, 0, hops, protocol, 0, 0]);
            frame.extend(self.config.guest4.octets());
            frame.extend([10, 0, 2, last]);
        }
        frame.extend(body);
        self.send(&frame);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Raw(mut frame) => {
                keep_here(&mut frame);
                self.send(&frame);
            }
            Step::Arp(bytes) => {
                let mut frame = self.config.gateway_mac.to_vec();
                frame.extend(self.config.guest_mac);
                frame.extend([8, 6]);
                frame.extend(bytes);
                self.send(&frame);
            }
            Step::Ip {
                v6,
                to,
                protocol,
                hops,
                mut body,
            } => {
                if matches!(protocol, 6 | 17) && body.len() >= 4 {
                    body[2..4].copy_from_slice(&self.host.port.to_be_bytes());
                }
                self.ip(v6, to, protocol, hops, &body);
            }
            Step::Icmp { v6, to, body } => self.ip(v6, to, if v6 { 58 } else { 1 }, 255, &body),
            Step::Datagram { v6, to, port, data } => {
                let (to, port) = match port {
                    Port::Dhcp => (2, 67),
                    Port::Names => (3, 53),
                    Port::Ours => (to, self.host.port),
                };
                let mut body = vec![0x9c, 0x40];
                body.extend(port.to_be_bytes());
                body.extend((8 + data.len() as u16).to_be_bytes());
                body.extend([0, 0]);
                body.extend(data);
                self.ip(v6, to, 17, 64, &body);
            }
            Step::Segment {
                v6,
                port,
                flags,
                seq,
                ack,
                window,
                mut options,
                data,
            } => {
                options.truncate(40);
                options.resize(options.len().next_multiple_of(4), 0);
                let mut body = (40_000 + u16::from(port % 4)).to_be_bytes().to_vec();
                body.extend(self.host.port.to_be_bytes());
                body.extend(self.said.0.wrapping_add_signed(seq.into()).to_be_bytes());
                body.extend(self.said.1.wrapping_add_signed(ack.into()).to_be_bytes());
                body.extend([((20 + options.len()) << 2) as u8, flags]);
                body.extend(window.to_be_bytes());
                body.extend([0; 4]);
                body.extend(options);
                body.resize(body.len() + usize::from(data % 3000), 3);
                self.ip(v6, 2, 6, 64, &body);
            }
            Step::Write(length) => {
                for stream in &mut self.streams {
                    let _ = stream.write(&vec![5; length.into()]);
                }
                self.turn();
            }
            Step::Read => {
                for stream in &mut self.streams {
                    let _ = stream.read(&mut [0; 65_536]);
                }
                self.turn();
            }
            Step::Close => {
                self.streams.pop();
                self.turn();
            }
            Step::Pass(milliseconds) => {
                self.now += Duration::from_millis(u64::from(milliseconds) * 4);
                self.turn();
            }
        }
    }
}

/// Wherever a packet wants to go, it goes to an address of the link's own.
fn keep_here(frame: &mut [u8]) {
    match frame.get(14).map(|byte| byte >> 4) {
        // Without options: the ports stand where they are put.
        Some(4) if frame.len() >= 38 => {
            frame[14] = 0x45;
            frame[30..34].copy_from_slice(&[10, 0, 2, 3]);
            frame[36..38].copy_from_slice(&[0, 9]);
        }
        Some(6) if frame.len() >= 58 => {
            frame[38..54].copy_from_slice(&[
                0xfd, 0, 0x6b, 0x69, 0x6c, 0x6e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3,
            ]);
            frame[56..58].copy_from_slice(&[0, 9]);
        }
        _ => {}
    }
}

/// A text is refused with a reason, or is as many forwards as it says, each of which is read again as it is written.
fn check_forward(text: &str) {
    let Ok(forwards) = PortForward::parse_list(text) else {
        return;
    };
    assert!(!forwards.is_empty() && forwards.len() <= 65_536);
    for forward in forwards.iter().take(4) {
        assert_ne!(forward.guest_port, 0);
        assert_eq!(
            forward.to_string().parse::<PortForward>().ok(),
            Some(*forward)
        );
    }
}

fuzz_target!(init: { let _ = host(); }, |input: Input| {
    check_forward(&input.forward);
    let host = host();
    let (ours, guest) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .expect("a pair");
    let config = Config {
        resolvers: vec![host.listener.local_addr().expect("bound")],
        host_loopback: true,
        checksum_offload: input.offload,
        limits: Limits { buffer_bytes: 1 << 20, link_bytes: 1 << 17, ..Limits::for_files(256) },
        ..Config::default()
    };
    let network = Usernet::new(config.clone(), ours).expect("a network");
    let mut world = World {
        host,
        config,
        network,
        guest,
        now: Instant::now(),
        streams: Vec::new(),
        said: (1000, 0),
    };
    for step in input.steps.into_iter().take(48) {
        world.step(step);
        let _ = world.network.inspect();
    }
    // The connections that nobody has taken yet.
    while let Ok((stream, _)) = world.host.listener.accept() {
        let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
    }
});

/// Made once: ports are not.
fn host() -> &'static Host {
    static HOST: std::sync::OnceLock<Host> = std::sync::OnceLock::new();
    HOST.get_or_init(Host::new)
}
