//! From frames in a file to findings: what the rules see is what was on the wire.

use std::net::IpAddr;
use std::time::Duration;

use etherparse::PacketBuilder;
use kiln_lossy::pcapng::Capture;
use kiln_tcp_spec::segment::{Event, Flags, Segment};
use kiln_tcp_spec::{Config, Specification, capture};

const HOST: [u8; 4] = [10, 0, 0, 1];
const PEER: [u8; 4] = [10, 0, 0, 2];

/// An Ethernet frame of the host with options, IPv4 or IPv6.
fn frame(six: bool, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip = if six {
        ethernet.ipv6([1; 16], [2; 16], 64)
    } else {
        ethernet.ipv4(HOST, PEER, 64)
    };
    // NOP, NOP, timestamps.
    let options = [1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6];
    let tcp = ip
        .tcp(80, 4000, 1_000_000, 512)
        .ack(77)
        .psh()
        .options_raw(&options)
        .expect("options");
    let mut bytes = Vec::new();
    tcp.write(&mut bytes, payload).expect("a frame");
    bytes
}

fn file(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut capture =
        Capture::new(&mut bytes, Duration::from_secs(1_700_000_000)).expect("a capture");
    for (number, frame) in (0..).zip(frames) {
        capture
            .frame(Duration::from_micros(1500 * number), frame)
            .expect("written");
    }
    bytes
}

fn segments(file: &[u8], hosts: &[IpAddr]) -> Vec<Segment> {
    let events = capture::read(std::io::Cursor::new(file.to_vec()), hosts).expect("a capture");
    let segment = |event| match event {
        Event::Segment(segment) => Some(segment),
        Event::TooBig(_) => None,
    };
    events.into_iter().filter_map(segment).collect()
}

#[test]
fn a_segment_is_read_as_it_was_written() {
    for six in [false, true] {
        let host: IpAddr = if six { [1; 16].into() } else { HOST.into() };
        let found = segments(&file(&[frame(six, b"hello"), frame(six, b"")]), &[host]);
        let [data, empty] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(
            (data.from.ip(), data.from.port(), data.to.port()),
            (host, 80, 4000)
        );
        assert_eq!((data.seq, data.ack, data.window), (1_000_000, 77, 512));
        assert_eq!(data.flags, Flags::PSH | Flags::ACK);
        assert_eq!(data.payload, b"hello");
        assert_eq!(data.options.timestamps, Some((5, 6)));
        assert!(data.checksum_ok && empty.checksum_ok);
        assert_eq!(empty.time, Duration::from_micros(1500));
        assert!(empty.payload.is_empty(), "Ethernet padding is no data");
    }
}

#[test]
fn every_flipped_bit_of_a_segment_shows() {
    let whole = frame(false, b"hello");
    // From the IP header to the end of the data.
    for bit in 14 * 8..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let found = segments(&file(&[damaged]), &[HOST.into()]);
        assert!(
            found.iter().all(|segment| !segment.checksum_ok),
            "bit {bit}"
        );
    }
}

#[test]
fn what_is_addressed_to_another_station_counts_as_damaged() {
    let ours = frame(false, b"");
    let mut answer = frame(false, b"x");
    // Addresses of both layers change places; the sums stay the same.
    for (one, other, length) in [(0, 6, 6), (26, 30, 4)] {
        for at in 0..length {
            answer.swap(one + at, other + at);
        }
    }
    let mut elsewhere = answer.clone();
    elsewhere[5] ^= 0x40;
    let found = segments(&file(&[ours, answer, elsewhere]), &[HOST.into()]);
    let ok: Vec<_> = found.iter().map(|segment| segment.checksum_ok).collect();
    assert_eq!(ok, [true, true, false]);
}

#[test]
fn a_capture_is_judged() {
    let mut damaged = frame(false, b"hello");
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let hosts = [HOST.into()];
    let events = capture::read(std::io::Cursor::new(file(&[damaged])), &hosts).expect("a capture");
    let report = Specification::judge(Config::new(hosts), &events);
    assert_eq!(report.not_followed, 1, "{report}");
}

#[test]
fn what_is_no_capture_is_refused() {
    let refused = capture::read(
        std::io::Cursor::new(b"not a capture at all, by any means".to_vec()),
        &[],
    );
    assert!(matches!(refused, Err(capture::Error::Malformed { .. })));
}
