//! Frames made by hand, well-formed and not. Whatever arrives, the stack neither panics nor believes it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use std::vec::Vec;

use kiln_abi::NetHeader;
use proptest::prelude::*;
use smoltcp::wire::checksum;

use super::{A_MAC, A4, A6, B_MAC, B4, B6, Host, Setup, World, config_b, socket};
use crate::ip::pseudo_sum;
use crate::{Error, Ipv4Setup, Ipv6Setup, TcpListener, TcpStream, UdpSocket};

fn ethernet(kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::from([0xff; 6]);
    frame.extend(A_MAC);
    frame.extend(kind);
    frame.extend(payload);
    frame
}

fn ipv4(source: [u8; 4], destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = std::vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0];
    header[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    header.extend(source);
    header.extend(destination.octets());
    let sum = !checksum::data(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(payload);
    let mut frame = ethernet([8, 0], &header);
    // To one of the two hosts, by its address.
    let mac = if destination == B4 { B_MAC } else { A_MAC };
    frame[..6].copy_from_slice(&mac);
    frame
}

fn fill(source: IpAddr, destination: IpAddr, protocol: u8, payload: &mut [u8], at: usize) {
    let pseudo = pseudo_sum(source, destination, protocol, payload.len());
    let sum = !checksum::combine(&[pseudo, checksum::data(payload)]);
    payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

#[allow(clippy::too_many_arguments, reason = "the fields of a header")]
pub(super) fn tcp4(
    source: [u8; 4],
    destination: Ipv4Addr,
    source_port: u16,
    port: u16,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    data: &[u8],
) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(source_port.to_be_bytes());
    tcp.extend(port.to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    tcp.extend(acknowledgement.to_be_bytes());
    tcp.extend([0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    tcp.extend(data);
    fill(source.into(), destination.into(), 6, &mut tcp, 16);
    ipv4(source, destination, 6, &tcp)
}

pub(super) fn udp4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    source_port: u16,
    port: u16,
    data: &[u8],
) -> Vec<u8> {
    let mut udp = Vec::new();
    udp.extend(source_port.to_be_bytes());
    udp.extend(port.to_be_bytes());
    udp.extend((8 + data.len() as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(data);
    fill(source.into(), destination.into(), 17, &mut udp, 6);
    ipv4(source.octets(), destination, 17, &udp)
}

pub(super) fn icmp4(source: Ipv4Addr, destination: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    let sum = !checksum::data(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv4(source.octets(), destination, 1, &message)
}

pub(super) fn icmp6(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[2..4].fill(0);
    fill(source.into(), destination.into(), 58, &mut message, 2);
    let mut packet = std::vec![0x60, 0, 0, 0, 0, 0, 58, 255];
    packet[4..6].copy_from_slice(&(message.len() as u16).to_be_bytes());
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(message);
    let mut frame = ethernet([0x86, 0xdd], &packet);
    frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    frame
}

fn arp(sender_mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut packet = std::vec![0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend(sender_mac);
    packet.extend(sender.octets());
    packet.extend([0; 6]);
    packet.extend(target.octets());
    ethernet([8, 6], &packet)
}

/// Makes the checksums right that the host does not vouch for, where there is room for them.
fn repair(frame: &mut [u8]) {
    let packet = &mut frame[14..];
    let icmp = match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= 20 => {
            let header = (usize::from(packet[0] & 15) * 4).min(packet.len());
            if header < 12 {
                return;
            }
            packet[10..12].fill(0);
            let sum = !checksum::data(&packet[..header]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            (packet[9] == 1).then_some((header, None))
        }
        Some(6) if packet.len() >= 40 => {
            let source: [u8; 16] = packet[8..24].try_into().expect("16 bytes");
            let destination: [u8; 16] = packet[24..40].try_into().expect("16 bytes");
            (packet[6] == 58).then_some((40, Some((source.into(), destination.into()))))
        }
        _ => None,
    };
    let Some((start, addresses)) = icmp else {
        return;
    };
    let message = &mut packet[start..];
    if message.len() >= 4 {
        message[2..4].fill(0);
        let pseudo = addresses.map_or(0, |(source, destination)| {
            pseudo_sum(source, destination, 58, message.len())
        });
        let sum = !checksum::combine(&[pseudo, checksum::data(message)]);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
}

#[test]
fn nobody_outside_speaks_as_this_host() {
    let mut world = World::new();
    let b = world.stack(config_b());
    let _listener = TcpListener::bind(&b, socket(Ipv4Addr::UNSPECIFIED, 80)).expect("binds");
    for source in [[127, 0, 0, 1], B4.octets()] {
        world.inject(tcp4(source, B4, 80, 80, 1, 0, 2, &[]));
    }
    world.inject(tcp4(
        [10, 0, 0, 9],
        Ipv4Addr::LOCALHOST,
        80,
        80,
        1,
        0,
        2,
        &[],
    ));
    world.inject(arp(A_MAC, B4, B4));
    world.pass(Duration::from_millis(1));
    assert_eq!(b.stats().half_open, 0);
    // The loopback destination comes to another MAC in this helper and is not even looked at.
    assert_eq!(b.stats().dropped_martian, 2);
    assert_eq!(b.stats().address_conflicts, 1);
}

#[test]
fn a_router_that_says_no_ends_an_attempt_to_connect() {
    let (mut world, a, _b) = World::pair();
    world.faults.loss = 1000;
    world.spawn("client", async move {
        let failed = TcpStream::connect(&a, socket([10, 0, 0, 99], 80)).await;
        assert_eq!(failed.err(), Some(Error::Unreachable));
    });
    world.step();
    // Which port was chosen only the stack knows, so the router complains about all of them.
    for port in 32_768..=65_535u16 {
        let mut quoted = Vec::from([3, 1, 0, 0, 0, 0, 0, 0]);
        quoted.extend(&ipv4(A4.octets(), [10, 0, 0, 99].into(), 6, &[0; 8])[14..]);
        let ports = quoted.len() - 8;
        quoted[ports..ports + 2].copy_from_slice(&port.to_be_bytes());
        quoted[ports + 2..ports + 4].copy_from_slice(&80u16.to_be_bytes());
        world.inject(icmp4([10, 0, 0, 3].into(), A4, &quoted));
    }
    world.run();
}

/// A stack with something of everything on it.
fn busy() -> (World, Host, Vec<TcpListener>, UdpSocket) {
    let mut world = World::new();
    let mut setup = Setup::new(A_MAC, [1; 32]);
    setup.link.ipv4 = Ipv4Setup::Dhcp;
    setup.link.ipv6 = Ipv6Setup::Auto;
    world.stack(setup);
    let b = world.stack(config_b());
    let listeners = Vec::from([
        TcpListener::bind(&b, socket(Ipv6Addr::UNSPECIFIED, 80)).expect("binds"),
        TcpListener::bind(&b, socket(B4, 81)).expect("binds"),
    ]);
    let udp = UdpSocket::bind(&b, socket(Ipv6Addr::UNSPECIFIED, 53)).expect("binds");
    (world, b, listeners, udp)
}

fn templates() -> Vec<Vec<u8>> {
    let everybody = "ff02::1".parse().expect("an address");
    let query = [
        130, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let mut solicit = Vec::from([135, 0, 0, 0, 0, 0, 0, 0]);
    solicit.extend(B6.octets());
    solicit.extend([1, 1]);
    solicit.extend(A_MAC);
    Vec::from([
        tcp4(A4.octets(), B4, 1000, 80, 5, 0, 2, &[]),
        tcp4(A4.octets(), B4, 1000, 80, 6, 9, 16, b"data"),
        tcp4(A4.octets(), B4, 1000, 80, 6, 9, 17, &[]),
        udp4(A4, B4, 1000, 53, b"datagram"),
        udp4(A4, Ipv4Addr::BROADCAST, 67, 68, &[2; 300]),
        icmp4(A4, B4, &[8, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]),
        icmp6(A6, B6, &[128, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]),
        icmp6(
            "fe80::1".parse().expect("an address"),
            everybody,
            &super::addresses::advert(9, 9),
        ),
        icmp6("fe80::1".parse().expect("an address"), everybody, &query),
        icmp6(A6, B6, &solicit),
        arp(A_MAC, A4, B4),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_bytes_are_survived(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20),
        flags in any::<u8>(),
    ) {
        let (mut world, b, _listeners, _udp) = busy();
        for frame in frames {
            let header = NetHeader { flags, ..NetHeader::PLAIN };
            b.receive(header, &frame, world.now);
            world.inject(frame);
        }
        world.pass(Duration::from_secs(2));
    }

    #[test]
    fn damaged_frames_are_survived(
        damages in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>(), 0usize..400),
            1..40,
        ),
    ) {
        let (mut world, b, _listeners, _udp) = busy();
        let templates = templates();
        for (which, place, value, cut) in damages {
            let mut frame = which.get(&templates).clone();
            // Behind the Ethernet header, so that it is looked at.
            let at = 14 + place.index(frame.len() - 14);
            frame[at] = value;
            frame.truncate(cut.max(14));
            repair(&mut frame);
            // The host vouches for it: otherwise checksums would keep most of it out.
            let header = NetHeader { flags: NetHeader::DATA_VALID, ..NetHeader::PLAIN };
            b.receive(header, &frame, world.now);
            if let super::Node::Stack(a) = &world.nodes[0] {
                a.receive(header, &frame, world.now);
            }
            world.pass(Duration::from_millis(100));
        }
        world.pass(Duration::from_secs(100));
    }
}
