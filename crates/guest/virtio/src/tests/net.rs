//! Links.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use kiln_abi::net::MAX_FRAME;
use kiln_abi::op::Segment;
use kiln_abi::{DeviceInfo, NetHeader, OpError};
use proptest::prelude::*;

use super::device::{EVENT_INDEX, INDIRECT};
use super::fronts::{KINDS, Kind, Shared, open};
use super::memory::{Memory, buffers};
use super::models::{Link, device};
use crate::{Error, Net};

const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const MTU: u64 = 1 << 3;
const MAC: u64 = 1 << 5;
const GUEST_TSO: u64 = 3 << 7;
const HOST_TSO: u64 = 3 << 11;
const MRG_RXBUF: u64 = 1 << 15;
pub(super) const ALL: u64 = CSUM | GUEST_CSUM | MTU | MAC | GUEST_TSO | HOST_TSO | MRG_RXBUF;

pub(super) const CONFIG: [u8; 12] = [2, 3, 5, 7, 11, 13, 1, 0, 1, 0, 0xdc, 5];
pub(super) const RECEIVE: usize = 160 * 1024;
pub(super) const SEND: usize = 96 * 1024;

pub(super) struct Setup {
    pub(super) memory: Memory,
    pub(super) device: Shared,
    pub(super) link: Rc<RefCell<Link>>,
    pub(super) net: Net,
}

fn start(kind: Kind, features: u64, (receive, send): (usize, usize)) -> Setup {
    let memory = Memory::new();
    let (device, link) = device(
        &memory,
        (1, features),
        &CONFIG,
        &[256, 256],
        Link::default(),
    );
    let (receive, send) = (memory.region(receive), memory.region(send));
    let net = Net::new(open(kind, &device), receive, send).expect("the link starts");
    Setup {
        memory,
        device,
        link,
        net,
    }
}

pub(super) fn frame(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 3 + n * seed + seed) as u8).collect()
}

fn segmented(kind: u8) -> NetHeader {
    NetHeader {
        flags: NetHeader::NEEDS_CSUM,
        gso_type: kind,
        hdr_len: 54,
        gso_size: 1460,
        csum_start: 34,
        csum_offset: 16,
        num_buffers: 1,
    }
}

impl Setup {
    pub(super) fn send(&mut self, header: NetHeader, bytes: &[u8]) -> Result<(), OpError> {
        self.memory.reset_guest();
        // In three segments, the first of which ends inside of a header.
        let (first, rest) = bytes.split_at(bytes.len().min(9));
        let (second, third) = rest.split_at(rest.len() / 2);
        let segments = [first, second, third].map(|part| self.memory.buffer(77, part));
        self.net.send(header, buffers(&segments))
    }

    pub(super) fn receive(&mut self, lengths: &[usize]) -> Result<(Vec<u8>, NetHeader), OpError> {
        self.memory.reset_guest();
        let segments: Vec<Segment> = lengths
            .iter()
            .map(|len| self.memory.buffer(33, &vec![0xaa; *len]))
            .collect();
        let (len, header) = self.net.receive(buffers(&segments))?;
        let mut bytes: Vec<u8> = segments
            .iter()
            .flat_map(|segment| self.memory.content(*segment))
            .collect();
        let behind = bytes.split_off(len as usize);
        assert!(behind.iter().all(|byte| *byte == 0xaa), "written too far");
        Ok((bytes, header))
    }

    fn arrive(&mut self, header: NetHeader, bytes: &[u8]) {
        let mut link = self.link.borrow_mut();
        link.incoming.push_back((header, bytes.to_vec()));
        link.deliver(&mut self.device.borrow_mut().core);
    }

    fn described(&self) -> DeviceInfo {
        let mut info = DeviceInfo::default();
        self.net.describe(&mut info);
        info
    }
}

#[test]
fn a_link_is_described_as_agreed_on() {
    let bits = |features, memory| start(Kind::Pci, features, memory).described().net_features;
    let (csum, tso4, tso6, gro) = (
        DeviceInfo::NET_CSUM,
        DeviceInfo::NET_TSO4,
        DeviceInfo::NET_TSO6,
        DeviceInfo::NET_GRO,
    );
    let enough = (Net::RECEIVE_MEMORY, Net::SEND_MEMORY);
    assert_eq!(bits(0, enough), 0);
    assert_eq!(bits(ALL, enough), csum | tso4 | tso6 | gro);
    assert_eq!(bits(ALL & !(1 << 12), enough), csum | tso4 | gro);
    assert_eq!(bits(ALL & !CSUM, enough), gro, "cutting needs checksums");
    assert_eq!(bits(ALL & !GUEST_CSUM, enough), csum | tso4 | tso6);
    assert_eq!(bits(ALL & !GUEST_TSO, enough), csum | tso4 | tso6);
    assert_eq!(bits(ALL & !MRG_RXBUF, enough), csum | tso4 | tso6);
    let least = (Net::LEAST_MEMORY, Net::LEAST_MEMORY);
    assert_eq!(bits(ALL, least), csum);

    let info = start(Kind::Mmio, ALL, enough).described();
    assert_eq!((info.kind, info.mtu), (1, 1500));
    assert_eq!(info.mac, [2, 3, 5, 7, 11, 13]);
    let info = start(Kind::Mmio, 0, enough).described();
    assert_eq!((info.mac, info.mtu), ([0; 6], 1500));
}

#[test]
fn the_mtu_is_what_device_and_buffers_carry() {
    let mtu = |features, mtu: u16, receive| {
        let memory = Memory::new();
        let mut config = CONFIG;
        config[10..].copy_from_slice(&mtu.to_le_bytes());
        let (device, _) = device(&memory, (1, features), &config, &[256; 2], Link::default());
        let (receive, send) = (memory.region(receive), memory.region(SEND));
        let net = Net::new(open(Kind::Mmio, &device), receive, send).unwrap();
        let mut info = DeviceInfo::default();
        net.describe(&mut info);
        info.mtu
    };
    assert_eq!(mtu(ALL, 9000, RECEIVE), 9000);
    assert_eq!(mtu(ALL, 65_535, RECEIVE), 65_535);
    assert_eq!(mtu(ALL & !MRG_RXBUF, 9000, RECEIVE), 2048 - 30);
    assert_eq!(mtu(ALL & !MRG_RXBUF, 9000, 512 * 1024), 4096 - 30);
    assert_eq!(mtu(ALL, 9000, Net::LEAST_MEMORY), 9000);
    assert_eq!(mtu(ALL, 0, RECEIVE), 576);
    assert_eq!(mtu(ALL & !MTU, 9000, RECEIVE), 1500);
}

#[test]
fn without_a_queue_or_memory_there_is_no_link() {
    let fails = |limits: &[u16], receive, send| {
        let memory = Memory::new();
        let (device, _) = device(&memory, (1, ALL), &CONFIG, limits, Link::default());
        let (receive, send) = (memory.region(receive), memory.region(send));
        Net::new(open(Kind::Mmio, &device), receive, send).err()
    };
    assert_eq!(fails(&[256, 256], RECEIVE, SEND), None);
    assert_eq!(fails(&[256, 0], RECEIVE, SEND), Some(Error::NoQueue));
    assert_eq!(fails(&[256], RECEIVE, SEND), Some(Error::NoQueue));
    assert_eq!(fails(&[2, 256], RECEIVE, SEND), Some(Error::NoQueue));
    assert_eq!(fails(&[256, 256], 0, SEND), Some(Error::Memory));
    assert_eq!(fails(&[256, 256], RECEIVE, 8192), Some(Error::Memory));
    assert_eq!(
        fails(&[1000, 0xffff], RECEIVE, SEND),
        None,
        "no powers of two"
    );
}

#[test]
fn frames_of_every_size_are_sent_as_they_are() {
    for kind in KINDS {
        for features in [0, EVENT_INDEX, EVENT_INDEX | INDIRECT] {
            let mut setup = start(kind, ALL | features, (RECEIVE, SEND));
            let sizes = [
                14, 60, 1514, 2035, 2036, 2037, 4084, 9000, 65_000, MAX_FRAME,
            ];
            for (n, size) in sizes.into_iter().enumerate() {
                let header = if size > 1514 {
                    segmented(NetHeader::GSO_TCPV4)
                } else {
                    NetHeader::PLAIN
                };
                setup.send(header, &frame(size, n)).unwrap();
                setup.net.notify();
                let (sent, bytes) = setup.link.borrow_mut().sent.pop().expect("it was sent");
                assert!(bytes == frame(size, n), "{size}");
                let expected = NetHeader {
                    num_buffers: 0,
                    ..header
                };
                assert_eq!(sent, expected);
            }
        }
    }
}

#[test]
fn a_batch_is_one_notification() {
    for features in [0, EVENT_INDEX] {
        let mut setup = start(Kind::Mmio, ALL | features, (RECEIVE, SEND));
        let before = setup.device.borrow().core.notifications;
        for n in 0..10 {
            setup.send(NetHeader::PLAIN, &frame(1514, n)).unwrap();
        }
        assert!(setup.link.borrow().sent.is_empty());
        setup.net.notify();
        setup.net.notify();
        assert_eq!(setup.device.borrow().core.notifications, before + 1);
        assert_eq!(setup.link.borrow().sent.len(), 10);
        // A device that polls is left alone.
        setup.device.borrow_mut().core.want(1, false);
        setup.send(NetHeader::PLAIN, &frame(60, 0)).unwrap();
        setup.net.notify();
        assert_eq!(setup.device.borrow().core.notifications, before + 1);
    }
}

#[test]
fn what_was_not_promised_is_refused() {
    let mut setup = start(Kind::Mmio, 0, (RECEIVE, SEND));
    let refused = Err(OpError::Invalid);
    for header in [
        segmented(NetHeader::GSO_NONE),
        segmented(NetHeader::GSO_TCPV4),
        segmented(NetHeader::GSO_TCPV6),
    ] {
        assert_eq!(setup.send(header, &frame(1000, 1)), refused);
    }
    let mut setup = start(Kind::Mmio, ALL & !(1 << 12), (RECEIVE, SEND));
    let frame = frame(1000, 1);
    assert_eq!(setup.send(segmented(NetHeader::GSO_NONE), &frame), Ok(()));
    assert_eq!(setup.send(segmented(NetHeader::GSO_TCPV4), &frame), Ok(()));
    assert_eq!(setup.send(segmented(NetHeader::GSO_TCPV6), &frame), refused);
    assert_eq!(setup.send(segmented(3), &frame), refused, "UDP");
    // What the guest says of checksums it has seen is none of the device's business.
    let mut trusted = NetHeader::PLAIN;
    trusted.flags = NetHeader::DATA_VALID;
    setup.send(trusted, &frame).unwrap();
    setup.net.notify();
    assert_eq!(setup.link.borrow().sent.last().unwrap().0.flags, 0);
}

#[test]
fn a_frame_longer_than_the_memory_is_refused_for_good() {
    let mut setup = start(Kind::Mmio, ALL, (RECEIVE, Net::LEAST_MEMORY));
    let plain = NetHeader::PLAIN;
    assert_eq!(setup.send(plain, &frame(7 * 2048 - 12, 1)), Ok(()));
    assert_eq!(
        setup.send(plain, &frame(7 * 2048 - 11, 1)),
        Err(OpError::Invalid)
    );
    let mut setup = start(Kind::Mmio, ALL, (RECEIVE, 512 * 1024));
    assert_eq!(
        setup.send(plain, &frame(MAX_FRAME + 1, 1)),
        Err(OpError::Invalid)
    );
}

#[test]
fn a_full_link_says_so_until_there_is_room_for_the_frame_refused() {
    for features in [0, EVENT_INDEX] {
        let mut setup = start(Kind::Mmio, ALL | features, (RECEIVE, Net::SEND_MEMORY));
        setup.link.borrow_mut().holds = true;
        let mut sent = 0;
        while setup.net.can_send() {
            setup.send(NetHeader::PLAIN, &frame(1514, sent)).unwrap();
            sent += 1;
        }
        assert!(sent >= 33, "{sent}");
        assert_eq!(
            setup.send(NetHeader::PLAIN, &frame(60, 0)),
            Err(OpError::Again)
        );
        setup.net.notify();
        assert!(!setup.net.listen(true, true));
        assert_eq!(setup.device.borrow().core.interrupts, 0);
        let finish = |setup: &Setup, count| {
            let mut link = setup.link.borrow_mut();
            link.finish(&mut setup.device.borrow_mut().core, count);
        };
        finish(&setup, 1);
        assert_eq!(setup.device.borrow().core.interrupts, 1);
        assert!(setup.net.listen(false, true));
        // A long frame wants more room than one buffer.
        let header = segmented(NetHeader::GSO_TCPV4);
        let long = frame(60_000, 1);
        assert_eq!(setup.send(header, &long), Err(OpError::Again));
        let mut rounds = 0;
        while !setup.net.listen(false, true) {
            assert!(!setup.net.can_send());
            finish(&setup, 1);
            rounds += 1;
        }
        assert_eq!(rounds, 29, "30 buffers of 2 KiB");
        assert_eq!(setup.device.borrow().core.interrupts, 1 + rounds);
        setup.send(header, &long).unwrap();
        setup.net.notify();
        let link = setup.link.borrow();
        assert!(link.sent.last().unwrap().1 == long, "buffers in any order");
        for (n, (_, bytes)) in link.sent[..sent].iter().enumerate() {
            assert!(*bytes == frame(1514, n));
        }
    }
}

#[test]
fn frames_arrive_whole_over_merged_buffers() {
    for kind in KINDS {
        for features in [0, EVENT_INDEX, EVENT_INDEX | INDIRECT] {
            let mut setup = start(kind, ALL | features, (RECEIVE, SEND));
            assert!(!setup.net.can_receive());
            let sizes = [14, 1514, 2036, 2037, 4084, 4085, 30_000, MAX_FRAME];
            for (n, size) in sizes.into_iter().enumerate() {
                let mut header = segmented(NetHeader::GSO_TCPV6);
                if size < 60 {
                    header = NetHeader::PLAIN;
                }
                setup.arrive(header, &frame(size, n));
                assert!(setup.net.can_receive());
                let (bytes, received) = setup.receive(&[100, 5000, 62_000]).unwrap();
                assert!(bytes == frame(size, n), "{size}");
                assert_eq!(received, header);
                setup.net.notify();
            }
            assert_eq!(setup.receive(&[100]), Err(OpError::Again));
        }
    }
}

#[test]
fn small_buffers_cut_a_frame() {
    let mut setup = start(Kind::Mmio, ALL, (RECEIVE, SEND));
    let bytes = frame(5000, 1);
    setup.arrive(NetHeader::PLAIN, &bytes);
    setup.arrive(NetHeader::PLAIN, &frame(60, 2));
    let (received, _) = setup.receive(&[1000, 2000]).unwrap();
    assert!(received == bytes[..3000]);
    assert_eq!(
        setup.receive(&[100]).unwrap().0,
        frame(60, 2),
        "the rest is gone"
    );
    // A checksum behind the cut cannot be completed.
    setup.arrive(segmented(NetHeader::GSO_NONE), &bytes);
    let (received, header) = setup.receive(&[40]).unwrap();
    assert_eq!((received.len(), header), (40, NetHeader::PLAIN));
}

#[test]
fn thousands_of_frames_go_round_the_rings() {
    for features in [0, EVENT_INDEX] {
        for mergeable in [0, MRG_RXBUF] {
            let features = features | mergeable | CSUM | GUEST_CSUM | GUEST_TSO;
            let mut setup = start(Kind::Mmio, features, (Net::RECEIVE_MEMORY, 16 * 1024));
            for n in 0..70_000 {
                let size = 60 + n % 1400;
                if n % 500 == 0 {
                    setup.arrive(NetHeader::PLAIN, &frame(size, n));
                    setup.send(NetHeader::PLAIN, &frame(size, n)).unwrap();
                    let (bytes, _) = setup.receive(&[1514]).unwrap();
                    assert!(bytes == frame(size, n));
                    setup.net.notify();
                    assert!(setup.link.borrow().sent.last().unwrap().1 == bytes);
                } else {
                    let bytes = [n as u8; 64];
                    setup.arrive(NetHeader::PLAIN, &bytes);
                    assert_eq!(setup.receive(&[64]).unwrap().0, bytes);
                    setup.send(NetHeader::PLAIN, &bytes).unwrap();
                    setup.net.notify();
                }
            }
            assert_eq!(setup.link.borrow().sent.len(), 70_000);
        }
    }
}

#[test]
fn a_device_that_ran_out_of_buffers_goes_on() {
    for features in [0, EVENT_INDEX] {
        let mut setup = start(Kind::Mmio, ALL | features, (RECEIVE, SEND));
        for n in 0..300 {
            let header = NetHeader::PLAIN;
            let bytes = frame(4000, n);
            setup.link.borrow_mut().incoming.push_back((header, bytes));
        }
        {
            let mut link = setup.link.borrow_mut();
            link.deliver(&mut setup.device.borrow_mut().core);
            assert!(link.incoming.len() > 250, "not all fit at once");
        }
        for n in 0..300 {
            let (bytes, _) = setup.receive(&[4000]).expect("the next frame");
            assert!(bytes == frame(4000, n));
            setup.net.notify();
        }
    }
}

#[test]
fn interrupts_come_only_when_asked_for() {
    for kind in KINDS {
        for features in [0, EVENT_INDEX] {
            let mut setup = start(kind, ALL | features, (RECEIVE, SEND));
            let interrupts = |setup: &Setup| setup.device.borrow().core.interrupts;
            for n in 0..5 {
                setup.arrive(NetHeader::PLAIN, &frame(60, n));
                setup.send(NetHeader::PLAIN, &frame(60, n)).unwrap();
                setup.net.notify();
            }
            assert_eq!(interrupts(&setup), 0);
            assert!(setup.net.listen(true, false), "there are frames already");
            for _ in 0..5 {
                setup.receive(&[60]).unwrap();
            }
            assert!(!setup.net.listen(true, false));
            setup.send(NetHeader::PLAIN, &frame(60, 0)).unwrap();
            setup.net.notify();
            assert_eq!(interrupts(&setup), 0, "sending was not asked for");
            setup.arrive(NetHeader::PLAIN, &frame(60, 0));
            assert_eq!(interrupts(&setup), 1);
            setup.net.acknowledge();
            assert!(!setup.net.listen(false, false));
            setup.arrive(NetHeader::PLAIN, &frame(60, 1));
            assert_eq!(interrupts(&setup), 1);
            assert!(setup.net.listen(false, true), "there is room");
        }
    }
}

#[test]
fn headers_say_only_what_was_agreed_on() {
    let bytes = frame(100, 1);
    let all = NetHeader {
        flags: 0xff,
        gso_type: NetHeader::GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1460,
        csum_start: 34,
        csum_offset: 16,
        num_buffers: 1,
    };
    let received = |features, header| {
        let mut setup = start(Kind::Mmio, features, (RECEIVE, SEND));
        setup.arrive(header, &bytes);
        let (content, header) = setup.receive(&[200]).unwrap();
        assert_eq!(content, bytes);
        header
    };
    assert_eq!(received(0, all), NetHeader::PLAIN);
    assert_eq!(received(ALL & !GUEST_CSUM, all), NetHeader::PLAIN);
    assert_eq!(received(ALL, all), NetHeader { flags: 3, ..all });
    // Kinds of segmentation that nobody agreed on.
    for gso_type in [3, 5, 0x81, 0xff] {
        let header = received(ALL, NetHeader { gso_type, ..all });
        assert_eq!(
            (header.gso_type, header.gso_size, header.hdr_len),
            (0, 0, 0)
        );
    }
    // A sum outside of the frame.
    for (csum_start, csum_offset) in [(83, 16), (0xffff, 0xffff), (99, 0)] {
        let header = received(
            ALL,
            NetHeader {
                csum_start,
                csum_offset,
                ..all
            },
        );
        assert_eq!(header.flags, NetHeader::DATA_VALID);
        assert_eq!((header.csum_start, header.csum_offset), (0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Frames of any sizes, in any order of sending, receiving and finishing, arrive as they are.
    #[test]
    fn traffic_is_carried_faithfully(
        event in any::<bool>(),
        memory in 16usize..200,
        steps in prop::collection::vec((0u8..4, 14usize..6000), 1..200),
    ) {
        let features = ALL | if event { EVENT_INDEX } else { 0 };
        let mut setup = start(Kind::Mmio, features, (memory * 1024, memory * 1024));
        setup.link.borrow_mut().holds = true;
        let mut expected = VecDeque::new();
        let mut sent = Vec::new();
        for (n, (what, size)) in steps.into_iter().enumerate() {
            match what {
                0 => {
                    setup.arrive(NetHeader::PLAIN, &frame(size, n));
                    expected.push_back(frame(size, n));
                }
                1 => match setup.receive(&[6000]) {
                    Ok((bytes, _)) => prop_assert_eq!(Some(bytes), expected.pop_front()),
                    Err(error) => prop_assert_eq!((error, expected.len()), (OpError::Again, 0)),
                },
                2 => match setup.send(NetHeader::PLAIN, &frame(size, n)) {
                    Ok(()) => sent.push(frame(size, n)),
                    Err(error) => prop_assert_eq!(error, OpError::Again),
                },
                _ => {
                    let mut link = setup.link.borrow_mut();
                    link.finish(&mut setup.device.borrow_mut().core, size % 4);
                }
            }
            setup.net.notify();
        }
        while let Some(bytes) = expected.pop_front() {
            prop_assert_eq!(setup.receive(&[6000]).map(|(bytes, _)| bytes), Ok(bytes));
            setup.net.notify();
        }
        let link = setup.link.borrow();
        prop_assert_eq!(link.sent.iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(), sent.iter().collect::<Vec<_>>());
    }
}
