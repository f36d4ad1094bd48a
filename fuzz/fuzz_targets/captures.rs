//! Captures: what writes them and what reads them.
//!
//! One way the input is a file, which the specification of TCP reads and judges: any bytes get a report or an error. The other
//! way it is frames. Both writers of pcapng put them into a file, the reader must find in both what it finds in the
//! frames themselves, and the records between supervisor and `kiln capture` must survive being cut into pieces. The
//! frames have headers around them that lead into connections, so that every rule of the specification is reached.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use kiln_lossy::pcapng::Capture;
use kiln_monitor::capture::{Direction, Frame, pcapng, stream};
use kiln_tcp_spec::capture::{Frames, Link, read};
use kiln_tcp_spec::{Config, Event, Specification};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

#[derive(Arbitrary, Debug)]
enum Input {
    File(Vec<u8>),
    /// A packet block, and what stands before it, in files that begin well.
    Blocks(Vec<(u8, Vec<u8>)>),
    Records(Vec<u8>),
    Frames {
        offload: bool,
        frames: Vec<Piece>,
    },
}

#[derive(Arbitrary, Debug)]
enum Piece {
    Raw(Vec<u8>),
    Segment {
        to_host: bool,
        flags: u8,
        seq: i16,
        ack: i16,
        window: u16,
        options: Vec<u8>,
        data: u16,
        later: u16,
    },
    TooBig {
        mtu: u16,
    },
}

fn hosts() -> [IpAddr; 1] {
    [HOST.into()]
}

fn judge(events: &[Event], offload: bool) {
    let mut config = Config::new(hosts());
    config.offload = offload;
    let report = Specification::judge(config, events);
    // What it says can be said.
    let _ = report.to_string();
}

/// A section and an interface, as both writers begin.
fn beginning() -> Vec<u8> {
    let mut file = pcapng::section("fuzz", "a comment");
    file.extend(pcapng::interface(&pcapng::Interface {
        name: "net",
        description: "fuzz",
        mac: [2, 0, 0, 0, 0, 1],
        snaplen: 0,
    }));
    file
}

fn sum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0u64;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn packet(to_host: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let (from, to) = if to_host { (PEER, HOST) } else { (HOST, PEER) };
    let (mac, other) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let mut frame = if to_host { [mac, other] } else { [other, mac] }.concat();
    frame.extend([8, 0]);
    let mut header = vec![0x45, 0];
    header.extend((20 + payload.len() as u16).to_be_bytes());
    header.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    let total = sum(&[&header]);
    header[10..12].copy_from_slice(&total);
    frame.extend(header);
    frame.extend(payload);
    frame
}

/// The frames, with their times. Numbers are near those that were used last.
fn frames(pieces: Vec<Piece>) -> Vec<(Duration, Vec<u8>)> {
    let mut time = Duration::from_secs(1);
    // What each side sends next.
    let mut next = [1000u32, 900_000];
    let mut made = Vec::new();
    for piece in pieces.into_iter().take(64) {
        let frame = match piece {
            Piece::Raw(bytes) => bytes,
            Piece::Segment {
                to_host,
                flags,
                seq,
                ack,
                window,
                mut options,
                data,
                later,
            } => {
                time += Duration::from_micros(u64::from(later) * 20);
                options.truncate(40);
                options.resize(options.len().next_multiple_of(4), 0);
                let own = usize::from(to_host);
                let seq = next[own].wrapping_add_signed(seq.into());
                let ack = next[1 - own].wrapping_add_signed(ack.into());
                let data = usize::from(data % 3000);
                let mut segment = if to_host {
                    [0, 99, 0, 80]
                } else {
                    [0, 80, 0, 99]
                }
                .to_vec();
                segment.extend(seq.to_be_bytes());
                segment.extend(ack.to_be_bytes());
                segment.extend([((20 + options.len()) << 2) as u8, flags]);
                segment.extend(window.to_be_bytes());
                segment.extend([0; 4]);
                segment.extend(options);
                segment.resize(segment.len() + data, 7);
                let length = (segment.len() as u16).to_be_bytes();
                let total = sum(&[&HOST.octets(), &PEER.octets(), &[0, 6], &length, &segment]);
                segment[16..18].copy_from_slice(&total);
                let controls = u32::from(flags & 1) + u32::from(flags >> 1 & 1);
                next[own] = seq.wrapping_add(data as u32 + controls);
                packet(to_host, 6, &segment)
            }
            Piece::TooBig { mtu } => {
                let [high, low] = mtu.to_be_bytes();
                let mut message = vec![3, 4, 0, 0, 0, 0, high, low];
                message.extend(&packet(false, 6, &[0, 80, 0, 99, 0, 0, 3, 232])[14..]);
                packet(true, 1, &message)
            }
        };
        made.push((time, frame));
    }
    made
}

fn both_writers_and_the_reader_agree(frames: &[(Duration, Vec<u8>)], offload: bool) {
    let hosts = hosts();
    let mut directly = Frames::new(&hosts);
    let expected: Vec<Event> = frames
        .iter()
        .filter_map(|(time, frame)| directly.take(Link::Ethernet, *time, frame))
        .collect();

    let mut relay = Vec::new();
    let mut capture = Capture::new(&mut relay, Duration::ZERO).expect("memory takes it");
    let mut monitor = beginning();
    let mut records = Vec::new();
    for (time, frame) in frames {
        capture.frame(*time, frame).expect("memory takes it");
        let frame = Frame {
            device: 0,
            direction: Direction::In,
            time: time.as_nanos() as u64,
            len: frame.len() as u32,
            bytes: frame,
        };
        monitor.extend(pcapng::packet(0, &frame));
        stream::Record::Frame(frame).append_to(&mut records);
    }
    capture.flush().expect("memory takes it");
    monitor.extend(pcapng::statistics(0, &pcapng::Statistics::default()));
    for file in [&relay, &monitor] {
        let events = read(&file[..], &hosts).expect("a file of ours");
        assert_eq!(events, expected);
    }

    let mut rest = &records[..];
    for (_, frame) in frames {
        let Ok(Some((stream::Record::Frame(found), length))) = stream::parse(rest) else {
            panic!("a record of ours");
        };
        assert_eq!(found.bytes, &frame[..]);
        assert_eq!(stream::parse(&rest[..length - 1]), Ok(None));
        rest = &rest[length..];
    }
    judge(&expected, offload);
}

fuzz_target!(|input: Input| {
    match input {
        Input::File(bytes) => {
            if let Ok(events) = read(&bytes[..], &hosts()) {
                judge(&events, false);
            }
        }
        Input::Blocks(blocks) => {
            let mut file = beginning();
            for (kind, content) in blocks {
                let length = 12 + content.len().next_multiple_of(4) as u32;
                file.extend(u32::from(kind).to_le_bytes());
                file.extend(length.to_le_bytes());
                file.extend(&content);
                file.resize(file.len().next_multiple_of(4), 0);
                file.extend(length.to_le_bytes());
            }
            if let Ok(events) = read(&file[..], &hosts()) {
                judge(&events, false);
            }
        }
        Input::Records(bytes) => {
            let mut rest = &bytes[..];
            while let Ok(Some((_, length))) = stream::parse(rest) {
                assert!(length >= stream::HEAD);
                rest = &rest[length..];
            }
        }
        Input::Frames {
            offload,
            frames: pieces,
        } => {
            both_writers_and_the_reader_agree(&frames(pieces), offload);
        }
    }
});
