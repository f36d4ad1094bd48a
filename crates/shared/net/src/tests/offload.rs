//! What offloads look like in the frames, and what is believed of received ones.

use std::cell::RefCell;
use std::rc::Rc;
use std::vec::Vec;

use kiln_abi::NetHeader;
use smoltcp::wire::checksum;

use super::hostile::udp4;
use super::{A4, B4, B6, Frame, World, config_a, config_b, socket};
use crate::ip::pseudo_sum;
use crate::{Offloads, TcpListener, TcpStream, UdpSocket};

const ALL: Offloads = Offloads {
    checksum: true,
    tso4: true,
    tso6: true,
};

/// A connection that sends 200 KB; the frames of it.
fn frames_of_a_stream(v6: bool) -> Vec<Frame> {
    let mut world = World::new();
    let a = world.stack(config_a().offloads(ALL).memory_budget(64 << 20));
    let b = world.stack(config_b().offloads(ALL).memory_budget(64 << 20));
    let record = Rc::new(RefCell::new(Vec::new()));
    world.record = Some(record.clone());
    let target = if v6 { socket(B6, 80) } else { socket(B4, 80) };
    let listener = TcpListener::bind(&b, target).expect("binds");
    world.spawn("server", async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        let mut buffer = std::vec![0; 100_000];
        while stream.read(&mut buffer).await.expect("reads") > 0 {}
    });
    world.spawn("client", async move {
        let mut stream = TcpStream::connect(&a, target).await.expect("connects");
        stream
            .write_all(&super::pattern(200_000))
            .await
            .expect("writes");
    });
    world.run();
    record.take()
}

#[test]
fn long_frames_carry_all_the_link_needs_to_cut_them() {
    for (v6, ip_header, gso_type) in [
        (false, 20, NetHeader::GSO_TCPV4),
        (true, 40, NetHeader::GSO_TCPV6),
    ] {
        let frames = frames_of_a_stream(v6);
        let mut long = 0;
        for (header, frame) in &frames {
            let tcp = 14 + ip_header;
            let is_tcp = frame[if v6 { 20 } else { 23 }] == 6 && frame.len() >= tcp + 20;
            if !is_tcp {
                assert_eq!(*header, NetHeader::PLAIN);
                continue;
            }
            assert_eq!(header.flags, NetHeader::NEEDS_CSUM);
            assert_eq!(usize::from(header.csum_start), tcp);
            assert_eq!(header.csum_offset, 16);
            let (source, destination) = if v6 {
                (
                    <[u8; 16]>::try_from(&frame[22..38]).expect("16").into(),
                    <[u8; 16]>::try_from(&frame[38..54]).expect("16").into(),
                )
            } else {
                (
                    <[u8; 4]>::try_from(&frame[26..30]).expect("4").into(),
                    <[u8; 4]>::try_from(&frame[30..34]).expect("4").into(),
                )
            };
            let sum = pseudo_sum(source, destination, 6, frame.len() - tcp);
            assert_eq!(frame[tcp + 16..tcp + 18], sum.to_be_bytes());
            let length = u16::from_be_bytes(if v6 {
                [frame[18], frame[19]]
            } else {
                [frame[16], frame[17]]
            });
            let counted = if v6 {
                frame.len() - 54
            } else {
                frame.len() - 14
            };
            assert_eq!(usize::from(length), counted);
            let headers = tcp + usize::from(frame[tcp + 12] >> 4) * 4;
            if frame.len() > 1514 {
                long += 1;
                assert_eq!(header.gso_type, gso_type);
                assert_eq!(usize::from(header.hdr_len), headers);
                assert_eq!(usize::from(header.gso_size), 1500 - ip_header - 20 - 12);
            } else if frame.len() > headers + usize::from(header.gso_size) {
                assert_eq!(header.gso_size, 0);
            }
        }
        assert!(long >= 4, "{long} long frames of {}", frames.len());
    }
}

#[test]
fn without_offloads_frames_are_complete_and_short() {
    let (mut world, a, b) = World::pair();
    let record = Rc::new(RefCell::new(Vec::<Frame>::new()));
    world.record = Some(record.clone());
    let listener = TcpListener::bind(&b, socket(B4, 80)).expect("binds");
    world.spawn("server", async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        while stream.read(&mut [0; 999]).await.expect("reads") > 0 {}
    });
    world.spawn("client", async move {
        let mut stream = TcpStream::connect(&a, socket(B4, 80))
            .await
            .expect("connects");
        stream
            .write_all(&super::pattern(50_000))
            .await
            .expect("writes");
    });
    world.run();
    for (header, frame) in record.borrow().iter() {
        assert_eq!(*header, NetHeader::PLAIN);
        assert!(frame.len() <= 1514);
        if frame[12..14] == [8, 0] && frame[23] == 6 {
            let ends = [26, 30].map(|at| <[u8; 4]>::try_from(&frame[at..at + 4]).expect("4"));
            let sum = pseudo_sum(ends[0].into(), ends[1].into(), 6, frame.len() - 34);
            let sum = checksum::combine(&[sum, checksum::data(&frame[34..])]);
            assert_eq!(sum, 0xffff);
        }
    }
}

#[test]
fn a_wrong_checksum_counts_unless_the_host_vouches_for_the_frame() {
    let mut world = World::new();
    let b = world.stack(config_b());
    let server = UdpSocket::bind(&b, socket(B4, 9)).expect("binds");
    let mut damaged = udp4(A4, B4, 1000, 9, b"hello");
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    b.receive(NetHeader::PLAIN, &damaged, world.now);
    assert_eq!(b.stats().dropped_checksum, 1);
    let vouched = NetHeader {
        flags: NetHeader::DATA_VALID,
        ..NetHeader::PLAIN
    };
    b.receive(vouched, &damaged, world.now);
    assert_eq!(b.stats().dropped_checksum, 1);
    world.spawn("server", async move {
        let mut buffer = [0; 10];
        let (count, from) = server.recv_from(&mut buffer).await.expect("receives");
        assert_eq!(buffer[..count], *b"helln");
        assert_eq!(from, socket(A4, 1000));
    });
    world.run();
}

#[test]
fn a_link_that_takes_only_some_frames_gets_the_others_later() {
    let (_, a, _) = World::pair();
    let now = kiln_abi::Instant::from_nanos(5_000_000_000);
    a.poll(now);
    let mut seen = Vec::new();
    loop {
        let taken = a.link.transmit(|frames| {
            seen.extend(
                frames
                    .iter()
                    .next()
                    .map(|(_, frame)| super::bytes_of(&frame)),
            );
            frames.len().min(1)
        });
        if taken == 0 {
            break;
        }
    }
    assert!(!seen.is_empty());
    assert_eq!(a.stats().frames_out, seen.len() as u64);
}
