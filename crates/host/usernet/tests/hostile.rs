//! Guests that send anything, or read nothing.

mod common;

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use common::{Guest, link, loopback_config, with_forwards};
use kiln_usernet::{Config, Limits, Usernet};
use proptest::prelude::*;
use rustix::net::{AddressFamily, SocketType};

#[test]
fn a_deaf_guest_blocks_nothing() {
    let config = Config {
        limits: Limits {
            link_bytes: 200_000,
            ..Limits::for_this_process()
        },
        ..with_forwards(&["127.0.0.1:0:53/udp", "127.0.0.1:0:80"])
    };
    let (ours, _theirs) = link();
    let mut network = Usernet::new(config, ours).unwrap();
    let address = network.forwards()[0].host;
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let large = vec![0; 60_000];
    let _clients: Vec<_> = (0..20)
        .map(|_| std::net::TcpStream::connect(network.forwards()[1].host).unwrap())
        .collect();
    for _ in 0..400 {
        sender.send_to(&large, address).unwrap();
        let start = Instant::now();
        network.run(Instant::now());
        assert!(start.elapsed() < Duration::from_millis(500));
    }
    let stats = network.stats();
    assert!(stats.frames_dropped > 100, "{stats}");
    // Nothing is ready, so that the owner may sleep.
    while network.run(Instant::now()) {}
    assert!(
        network
            .deadline()
            .is_none_or(|deadline| deadline > Instant::now())
    );
}

#[test]
fn a_guest_that_is_refused_and_never_reads_takes_no_memory() {
    const SENT: u64 = 20_000;
    let config = Config {
        limits: Limits {
            link_bytes: 100_000,
            ..Limits::for_this_process()
        },
        ..Config::default()
    };
    let (ours, theirs) = link();
    let guest = Guest::new(theirs, &config, true);
    let mut network = Usernet::new(config.clone(), ours).unwrap();
    // Segments of no connection, to a port of the gateway that nobody has.
    let mut frame = config.gateway_mac.to_vec();
    frame.extend(config.guest_mac);
    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
    frame.extend(config.guest4.octets());
    frame.extend(config.gateway4.octets());
    frame.extend([
        0x9c, 0x40, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0,
    ]);
    for _ in 0..SENT {
        guest.wire.send_raw(&frame);
        network.run(Instant::now());
    }
    let stats = network.stats();
    assert_eq!(stats.frames_in, SENT, "{stats}");
    // What neither the socket nor the queue holds was dropped.
    let waiting = SENT - stats.frames_out - stats.frames_dropped;
    assert!(waiting <= 100_000 / 60, "{waiting} frames wait: {stats}");
}

/// Memory of this process that is in use, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let words: Vec<_> = line.unwrap().split_whitespace().collect();
    words[1].parse::<u64>().unwrap() << 10
}

#[test]
fn connections_that_wait_for_the_host_keep_no_data_of_the_guest() {
    const FLOWS: u64 = 400;
    const DATA: u64 = 60_000;
    // A listener that has no room: connections to it wait.
    let listener = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let name = rustix::net::getsockname(&listener).unwrap();
    let address = SocketAddr::try_from(name).unwrap();
    let _only = TcpStream::connect(address).unwrap();
    let config = loopback_config();
    let (ours, theirs) = link();
    let guest = Guest::new(theirs, &config, true);
    let mut network = Usernet::new(config.clone(), ours).unwrap();
    // A SYN with data.
    let mut frame = config.gateway_mac.to_vec();
    frame.extend(config.guest_mac);
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((40 + DATA as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 6, 0, 0]);
    frame.extend(config.guest4.octets());
    frame.extend(config.gateway4.octets());
    let port = frame.len();
    frame.extend([0; 2]);
    frame.extend(address.port().to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0]);
    frame.resize(frame.len() + DATA as usize, 1);
    let mut send_all = || {
        for from in 0..FLOWS as u16 {
            frame[port..port + 2].copy_from_slice(&(2000 + from).to_be_bytes());
            guest.wire.send_raw(&frame);
            network.run(Instant::now());
        }
    };
    let before = resident();
    // What comes again takes the place of what came first.
    send_all();
    send_all();
    let taken = resident().saturating_sub(before);
    let stats = network.stats();
    assert_eq!((stats.tcp_opened, stats.tcp_now), (FLOWS, FLOWS), "{stats}");
    assert!(taken < FLOWS * DATA / 2, "{taken} bytes");
}

fn local_only(frame: &mut [u8]) {
    // Random destinations would leave this machine: send them to the link's own addresses instead.
    match frame.get(14).map(|b| b >> 4) {
        Some(4) if frame.len() >= 34 => frame[30..33].copy_from_slice(&[10, 0, 2]),
        Some(6) if frame.len() >= 54 => {
            let prefix = [0xfd, 0, 0x6b, 0x69, 0x6c, 0x6e, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            frame[38..53].copy_from_slice(&prefix);
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_frames_do_no_harm(
        frames in prop::collection::vec((0..8_u8, prop::collection::vec(any::<u8>(), 0..200)), 1..40)
    ) {
        let (ours, theirs) = link();
        let config = Config {
            resolvers: vec!["127.0.0.1:9".parse::<SocketAddr>().unwrap()],
            ..Config::default()
        };
        let mut guest = Guest::new(theirs, &config, true);
        let mut network = Usernet::new(config.clone(), ours).unwrap();
        for (kind, mut frame) in frames {
            // Most frames get headers that lead them deeper.
            let mut head = config.gateway_mac.to_vec();
            head.extend(config.guest_mac);
            match kind {
                0 => head.clear(),
                1 => head.extend([8, 6]),
                2..=4 => {
                    let protocol = [1, 6, 17][usize::from(kind) - 2];
                    let length = (20 + frame.len() as u16).to_be_bytes();
                    head.extend([8, 0, 0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0]);
                    head.extend(config.guest4.octets());
                    head.extend([10, 0, 2, frame.first().map_or(2, |b| b % 5)]);
                }
                5..=7 => {
                    let protocol = [58, 6, 17][usize::from(kind) - 5];
                    let length = (frame.len() as u16).to_be_bytes();
                    head.extend([0x86, 0xdd, 0x60, 0, 0, 0, length[0], length[1], protocol, 255]);
                    head.extend(config.guest6.octets());
                    let mut target = config.gateway6.octets();
                    target[15] = frame.first().map_or(2, |b| b % 5);
                    head.extend(target);
                }
                _ => unreachable!(),
            }
            head.append(&mut frame);
            local_only(&mut head);
            guest.wire.send_raw(&head);
            network.run(Instant::now());
            while guest.wire.receive_raw().is_some() {}
        }
    }

    #[test]
    fn hostile_segments_on_a_live_connection_do_no_harm(
        segments in prop::collection::vec(
            (any::<u8>(), any::<u16>(), 0..3_i32, -70_000..70_000_i32, -70_000..70_000_i32, 0..600_usize),
            1..30
        )
    ) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (ours, theirs) = link();
        let config = loopback_config();
        let mut guest = Guest::new(theirs, &config, true);
        let mut network = Usernet::new(config.clone(), ours).unwrap();
        let segment = |flags: u8, seq: u32, ack: u32, window: u16, length: usize| {
            let total = (40 + length) as u16;
            let mut frame = config.gateway_mac.to_vec();
            frame.extend(config.guest_mac);
            frame.extend([8, 0, 0x45, 0]);
            frame.extend(total.to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, 6, 0, 0]);
            frame.extend(config.guest4.octets());
            frame.extend(config.gateway4.octets());
            frame.extend(40_000_u16.to_be_bytes());
            frame.extend(port.to_be_bytes());
            frame.extend(seq.to_be_bytes());
            frame.extend(ack.to_be_bytes());
            frame.extend([0x50, flags]);
            frame.extend(window.to_be_bytes());
            frame.extend([0; 4]);
            frame.extend(vec![1; length]);
            frame
        };
        guest.wire.send_raw(&segment(2, 1000, 0, 60_000, 0));
        let mut ours_seq = None;
        for _ in 0..50 {
            network.run(Instant::now());
            if let Some(frame) = guest.wire.receive_raw() {
                ours_seq = Some(u32::from_be_bytes(frame[38..42].try_into().unwrap()));
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        let acked = ours_seq.expect("the connection is answered").wrapping_add(1);
        guest.wire.send_raw(&segment(0x10, 1001, acked, 60_000, 0));
        network.run(Instant::now());
        let (mut peer, _) = listener.accept().unwrap();
        peer.set_nonblocking(true).unwrap();
        let mut now = Instant::now();
        for (flags, window, kind, seq, ack, length) in segments {
            // Time-outs take part, too.
            now += Duration::from_millis(u64::from(seq.unsigned_abs()) / 20);
            let _ = std::io::Write::write(&mut peer, &[3; 3000]);
            let flags = match kind { 0 => flags & 0x3f, 1 => 0x10, _ => 0x18 };
            let seq = 1001_u32.wrapping_add_signed(seq % 2000);
            let ack = acked.wrapping_add_signed(ack);
            guest.wire.send_raw(&segment(flags, seq, ack, window, length));
            network.run(now);
            let _ = std::io::Read::read(&mut peer, &mut [0; 4000]);
            while guest.wire.receive_raw().is_some() {}
        }
    }
}
