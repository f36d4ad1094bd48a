//! Disks.

use std::cell::RefCell;
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use kiln_abi::op::Segment;
use kiln_abi::{DeviceInfo, OpError};

use super::device::{EVENT_INDEX, INDIRECT};
use super::fronts::{KINDS, Kind, Shared, open};
use super::memory::{Host, Memory, buffers};
use super::models::{Disk, device};
use crate::{Block, Error};

const SIZE_MAX: u64 = 1 << 1;
const SEG_MAX: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const BLK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const DISCARD: u64 = 1 << 13;

const SECTORS: usize = 600;

/// What a test wants of a disk.
#[derive(Clone, Copy)]
struct Want {
    features: u64,
    seg_max: u32,
    size_max: u32,
    sector: u32,
    most_discarded: u32,
    queue: u16,
}

const PLAIN: Want = Want {
    features: 0,
    seg_max: 0,
    size_max: 0,
    sector: 0,
    most_discarded: 0,
    queue: 128,
};

struct Setup {
    memory: Memory,
    device: Shared,
    disk: Rc<RefCell<Disk>>,
    block: Block,
}

fn config(want: Want) -> Vec<u8> {
    let mut config = vec![0xee; 60];
    config[..8].copy_from_slice(&(SECTORS as u64).to_le_bytes());
    config[8..12].copy_from_slice(&want.size_max.to_le_bytes());
    config[12..16].copy_from_slice(&want.seg_max.to_le_bytes());
    config[20..24].copy_from_slice(&want.sector.to_le_bytes());
    config[36..40].copy_from_slice(&want.most_discarded.to_le_bytes());
    config
}

fn try_start(kind: Kind, want: Want) -> Result<Setup, Error> {
    let memory = Memory::new();
    let mut disk = Disk::new(SECTORS);
    if want.features & SEG_MAX != 0 {
        disk.seg_max = want.seg_max as usize;
    }
    if want.features & SIZE_MAX != 0 {
        disk.size_max = want.size_max;
    }
    disk.most_discarded = want.most_discarded;
    let identity = (2, want.features);
    let (device, disk) = device(&memory, identity, &config(want), &[want.queue], disk);
    let block = Block::new(open(kind, &device), memory.region(Block::MEMORY))?;
    Ok(Setup {
        memory,
        device,
        disk,
        block,
    })
}

fn start(kind: Kind, want: Want) -> Setup {
    try_start(kind, want).expect("the disk starts")
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 7 + n * seed) as u8).collect()
}

impl Setup {
    fn write(&mut self, offset: u64, segments: &[Segment]) -> Result<(), OpError> {
        let mut never = |_| panic!("waits though the device has answered");
        let mut host = Host::new(&self.memory, &mut never);
        self.block.write(offset, buffers(segments), &mut host)
    }

    fn read(&mut self, offset: u64, segments: &[Segment]) -> Result<(), OpError> {
        let mut never = |_| panic!("waits though the device has answered");
        let mut host = Host::new(&self.memory, &mut never);
        self.block.read(offset, buffers(segments), &mut host)
    }

    /// Segments of these lengths, each at an odd place in its page.
    fn segments(&self, lengths: &[usize], fill: &[u8]) -> Vec<Segment> {
        let mut rest = fill;
        lengths
            .iter()
            .enumerate()
            .map(|(n, len)| {
                let (part, behind) = rest.split_at(*len);
                rest = behind;
                self.memory.buffer((n * 1000 + 24) % 4096, part)
            })
            .collect()
    }

    /// Writes and reads back by segments of these lengths.
    fn round_trip(&mut self, offset: u64, lengths: &[usize]) {
        self.memory.reset_guest();
        let len = lengths.iter().sum();
        let data = pattern(len, lengths.len());
        let from = self.segments(lengths, &data);
        self.write(offset, &from).unwrap();
        let start = offset as usize;
        assert!(self.disk.borrow().content[start..start + len] == data);
        let into = self.segments(lengths, &vec![0; len]);
        self.read(offset, &into).unwrap();
        let back: Vec<u8> = into.iter().flat_map(|s| self.memory.content(*s)).collect();
        assert!(back == data, "{lengths:?} at {offset}");
    }
}

#[test]
fn a_disk_is_described() {
    let describe = |features, sector| {
        let want = Want {
            features,
            sector,
            ..PLAIN
        };
        let mut info = DeviceInfo::default();
        start(Kind::Mmio, want).block.describe(&mut info);
        (info.kind, info.flags, info.capacity, info.sector_size)
    };
    let bytes = SECTORS as u64 * 512;
    assert_eq!(describe(0, 4096), (2, 0, bytes, 512), "not agreed on");
    assert_eq!(describe(READ_ONLY, 0), (2, 1, bytes, 512));
    assert_eq!(describe(BLK_SIZE, 1024), (2, 0, bytes, 1024));
    let whole = bytes / 4096 * 4096;
    assert_eq!(describe(BLK_SIZE, 4096), (2, 0, whole, 4096));
    for nonsense in [0, 1, 511, 513, 768, 8192, u32::MAX] {
        assert_eq!(describe(BLK_SIZE, nonsense), (2, 0, bytes, 512));
    }
}

#[test]
fn data_go_to_the_disk_and_back() {
    for kind in KINDS {
        for features in [0, INDIRECT, EVENT_INDEX, INDIRECT | EVENT_INDEX] {
            for queue in [4, 8, 128] {
                for seg_max in [1, 2, 32, 1000] {
                    let want = Want {
                        features: features | SEG_MAX,
                        seg_max,
                        queue,
                        ..PLAIN
                    };
                    let mut setup = start(kind, want);
                    setup.round_trip(0, &[512]);
                    setup.round_trip(5 * 512, &[100, 412]);
                    setup.round_trip(512, &[512, 1024, 40_000, 1, 447]);
                    setup.round_trip(3 * 512, &[100_000, 2400]);
                    setup.round_trip(0, &[16; 32]);
                    let disk = setup.disk.borrow();
                    let uses_tables = features & INDIRECT != 0;
                    assert_eq!(disk.indirect == disk.requests.len(), uses_tables);
                    assert_eq!(disk.indirect == 0, !uses_tables);
                }
            }
        }
    }
}

#[test]
fn the_longest_transfer_takes_few_requests() {
    let want = Want {
        features: SEG_MAX | INDIRECT,
        seg_max: 126,
        ..PLAIN
    };
    let mut setup = start(Kind::Mmio, want);
    let segment = setup.memory.buffer(0, &pattern(262_144, 3));
    setup.write(0, &[segment]).unwrap();
    // 64 pages that do not follow each other, 32 in a request.
    let requests = &setup.disk.borrow().requests;
    assert_eq!(*requests, [(1, 0, 32, 131_072), (1, 256, 32, 131_072)]);
}

#[test]
fn pieces_are_as_short_as_the_device_wants_them() {
    let want = Want {
        features: SIZE_MAX | SEG_MAX,
        size_max: 1024,
        seg_max: 3,
        ..PLAIN
    };
    let mut setup = start(Kind::Mmio, want);
    setup.round_trip(0, &[50_000, 176]);
    let data = pattern(10 * 1024, 3);
    let segment = setup.memory.contiguous(&data);
    setup.disk.borrow_mut().requests.clear();
    setup.write(0, &[segment]).unwrap();
    let disk = setup.disk.borrow();
    assert!(disk.content[..10 * 1024] == data);
    let (full, last) = disk.requests.split_at(3);
    assert!(
        full.iter()
            .all(|(.., pieces, len)| (*pieces, *len) == (3, 3072))
    );
    assert_eq!(last, [(1, 18, 1, 1024)]);
}

#[test]
fn contiguous_memory_is_one_piece() {
    let mut setup = start(Kind::Mmio, PLAIN);
    let segment = setup.memory.contiguous(&pattern(100 * 1024, 3));
    setup.write(0, &[segment]).unwrap();
    assert_eq!(setup.disk.borrow().requests, [(1, 0, 1, 100 * 1024)]);
}

#[test]
fn large_sectors_stay_whole() {
    let want = Want {
        features: BLK_SIZE | SEG_MAX,
        sector: 4096,
        seg_max: 2,
        ..PLAIN
    };
    let mut setup = start(Kind::Mmio, want);
    setup.round_trip(4096, &[1000, 2000, 1096, 8192]);
    let disk = setup.disk.borrow();
    for (_, sector, _, len) in &disk.requests {
        assert!(sector.is_multiple_of(8) && len.is_multiple_of(4096));
    }
}

#[test]
fn thousands_of_requests_go_round_the_ring() {
    for features in [0, EVENT_INDEX, EVENT_INDEX | INDIRECT] {
        let want = Want {
            features,
            queue: 4,
            ..PLAIN
        };
        let mut setup = start(Kind::Mmio, want);
        let segment = setup.memory.buffer(0, &[7; 512]);
        for n in 0..70_000u64 {
            setup.write(n % 600 * 512, &[segment]).unwrap();
        }
        assert!(setup.disk.borrow().content.iter().all(|byte| *byte == 7));
        assert_eq!(setup.disk.borrow().requests.len(), 70_000);
        assert_eq!(setup.device.borrow().core.notifications, 70_000);
    }
}

#[test]
fn a_slow_disk_is_waited_for() {
    for kind in KINDS {
        for features in [0, EVENT_INDEX] {
            let want = Want { features, ..PLAIN };
            let mut setup = start(kind, want);
            setup.disk.borrow_mut().lazy = true;
            let segment = setup.memory.buffer(0, &pattern(512, 5));
            for round in 1..=4 {
                let (disk, device) = (setup.disk.clone(), setup.device.clone());
                let mut meanwhile = |wait| {
                    if wait == 2 {
                        disk.borrow_mut().work(&mut device.borrow_mut().core);
                    }
                };
                let mut host = Host::new(&setup.memory, &mut meanwhile);
                let done = setup.block.write(0, buffers(&[segment]), &mut host);
                assert_eq!((done, host.waits), (Ok(()), 2));
                assert_eq!(setup.device.borrow().core.interrupts, round);
            }
            setup.disk.borrow_mut().lazy = false;
            setup.write(0, &[segment]).unwrap();
            let interrupts = setup.device.borrow().core.interrupts;
            assert_eq!(interrupts, 4, "nobody waited for the last one");
        }
    }
}

#[test]
fn ranges_that_make_no_sense_never_reach_the_device() {
    let mut setup = start(Kind::Mmio, PLAIN);
    let sector = setup.memory.buffer(0, &[0; 512]);
    let short = Segment { len: 511, ..sector };
    let end = SECTORS as u64 * 512;
    for (offset, segment) in [(1, sector), (0, short), (end, sector), (!511, sector)] {
        assert_eq!(setup.read(offset, &[segment]), Err(OpError::Invalid));
    }
    let nowhere = Segment {
        addr: 0x1000,
        len: 512,
    };
    assert_eq!(setup.write(0, &[nowhere]), Err(OpError::BadAddress));
    assert!(setup.disk.borrow().requests.is_empty());
}

#[test]
fn outcomes_become_errors() {
    let want = Want {
        features: FLUSH,
        ..PLAIN
    };
    let mut setup = start(Kind::Mmio, want);
    let sector = setup.memory.buffer(0, &[0; 512]);
    for (outcome, error) in [
        (1, OpError::Io),
        (2, OpError::Unsupported),
        (3, OpError::Io),
        (0xff, OpError::Io),
    ] {
        setup.disk.borrow_mut().outcomes.push_back(outcome);
        assert_eq!(setup.write(0, &[sector]), Err(error));
        assert_eq!(setup.write(0, &[sector]), Ok(()));
    }
    setup.disk.borrow_mut().outcomes.push_back(1);
    let mut never = |_| panic!();
    let mut host = Host::new(&setup.memory, &mut never);
    assert_eq!(setup.block.flush(&mut host), Err(OpError::Io));
    assert_eq!(setup.block.flush(&mut host), Ok(()));
    assert_eq!(setup.disk.borrow().requests.last(), Some(&(4, 0, 0, 0)));
}

#[test]
fn a_disk_without_flushing_is_not_asked_to() {
    let mut setup = start(Kind::Mmio, PLAIN);
    let mut never = |_| panic!();
    let mut host = Host::new(&setup.memory, &mut never);
    assert_eq!(setup.block.flush(&mut host), Ok(()));
    assert!(setup.disk.borrow().requests.is_empty());
}

#[test]
fn a_read_only_disk_is_not_written() {
    let want = Want {
        features: READ_ONLY | DISCARD,
        most_discarded: 8,
        ..PLAIN
    };
    let mut setup = start(Kind::Mmio, want);
    let sector = setup.memory.buffer(0, &[0; 512]);
    assert_eq!(setup.write(0, &[sector]), Err(OpError::ReadOnly));
    let mut never = |_| panic!();
    let mut host = Host::new(&setup.memory, &mut never);
    let discarded = setup.block.discard(0, 512, &mut host);
    assert_eq!(discarded, Err(OpError::ReadOnly));
    assert!(setup.disk.borrow().requests.is_empty());
    assert_eq!(setup.read(0, &[sector]), Ok(()));
}

#[test]
fn discarding_goes_by_the_devices_measure() {
    let want = Want {
        features: DISCARD,
        most_discarded: 100,
        ..PLAIN
    };
    let mut setup = start(Kind::Mmio, want);
    setup.disk.borrow_mut().content.fill(9);
    let mut never = |_| panic!();
    let mut host = Host::new(&setup.memory, &mut never);
    setup.block.discard(512, 250 * 512, &mut host).unwrap();
    let invalid = setup.block.discard(512, 600 * 512, &mut host);
    assert_eq!(invalid, Err(OpError::Invalid));
    let disk = setup.disk.borrow();
    assert_eq!(disk.requests, [(11, 0, 1, 16); 3]);
    let zeros = |range: core::ops::Range<usize>| disk.content[range].iter().all(|b| *b == 0);
    assert!(zeros(512..251 * 512));
    assert_eq!((disk.content[511], disk.content[251 * 512]), (9, 9));
}

#[test]
fn a_disk_that_cannot_discard_says_so() {
    for features in [0, DISCARD] {
        let want = Want { features, ..PLAIN };
        let mut setup = start(Kind::Mmio, want);
        let mut never = |_| panic!();
        let mut host = Host::new(&setup.memory, &mut never);
        let discarded = setup.block.discard(0, 512, &mut host);
        assert_eq!(discarded, Err(OpError::Unsupported));
    }
}

#[test]
fn a_queue_too_short_for_a_request_is_refused() {
    for (queue, features, works) in [
        (2, 0, false),
        (4, 0, true),
        (2, INDIRECT, false),
        (5, INDIRECT, true),
    ] {
        let want = Want {
            features,
            queue,
            ..PLAIN
        };
        match try_start(Kind::Mmio, want) {
            Ok(mut setup) => {
                assert!(works);
                setup.round_trip(0, &[1024]);
            }
            Err(error) => assert_eq!((error, works), (Error::NoQueue, false)),
        }
    }
}

#[test]
fn a_disk_that_breaks_its_queue_fails_from_then_on() {
    for id in [1, 64, 0x1_0000, u32::MAX] {
        let mut setup = start(Kind::Mmio, PLAIN);
        setup.disk.borrow_mut().lazy = true;
        let device = setup.device.clone();
        let mut meanwhile = |wait| {
            assert_eq!(wait, 1);
            device.borrow_mut().core.give_anything(0, id, 1);
        };
        let sector = setup.memory.buffer(0, &[0; 512]);
        let mut host = Host::new(&setup.memory, &mut meanwhile);
        for _ in 0..2 {
            let done = setup.block.read(0, buffers(&[sector]), &mut host);
            assert_eq!(done, Err(OpError::Io), "{id:#x}");
        }
    }
}
