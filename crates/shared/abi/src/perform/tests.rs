//! A batch in a vector of bytes, devices that write down what they are asked.

extern crate std;

use std::cell::RefCell;
use std::string::{String, ToString};
use std::vec::Vec;
use std::{format, vec};

use super::*;

const BASE: u64 = 0x10_0000;

struct Ram(RefCell<Vec<u8>>);

impl Ram {
    fn new(len: usize) -> Self {
        Self(RefCell::new(vec![0; len]))
    }

    fn range(&self, addr: u64, len: u64) -> Result<core::ops::Range<usize>, OpError> {
        let start = addr.checked_sub(BASE).ok_or(OpError::BadAddress)?;
        let end = start.checked_add(len).ok_or(OpError::BadAddress)?;
        if end > self.0.borrow().len() as u64 {
            return Err(OpError::BadAddress);
        }
        Ok(start as usize..end as usize)
    }

    fn put(&self, offset: u64, record: &impl Record) {
        self.write(BASE + offset, record.as_bytes()).unwrap();
    }

    fn result(&self, index: u64) -> i64 {
        let mut op = RawOp::default();
        self.read(BASE + index * OP_SIZE, op.as_bytes_mut())
            .unwrap();
        op.result
    }
}

impl Memory for Ram {
    fn read(&self, addr: u64, into: &mut [u8]) -> Result<(), OpError> {
        let range = self.range(addr, into.len() as u64)?;
        into.copy_from_slice(&self.0.borrow()[range]);
        Ok(())
    }

    fn write(&self, addr: u64, from: &[u8]) -> Result<(), OpError> {
        let range = self.range(addr, from.len() as u64)?;
        self.0.borrow_mut()[range].copy_from_slice(from);
        Ok(())
    }

    fn check(&self, buffer: Segment, _: bool) -> Result<(), OpError> {
        self.range(buffer.addr, buffer.len).map(|_| ())
    }
}

#[derive(Default)]
struct Log {
    seen: Vec<String>,
    frames: u32,
    /// The next frame is refused, those behind it would be taken.
    full: bool,
}

impl Devices for Log {
    const PROGRAMS: bool = true;

    fn console_write(&mut self, stream: Stream, text: Segment) -> Result<u64, OpError> {
        let stream = if stream == Stream::Error { " 2" } else { "" };
        self.seen.push(format!("console{stream} {}", text.len));
        Ok(text.len)
    }
    fn net_send(&mut self, device: u32, _: NetHeader, frame: &[Segment]) -> Result<(), OpError> {
        if self.full {
            self.full = false;
            return Err(OpError::Again);
        }
        self.seen.push(format!("send {device} {}", frame.len()));
        Ok(())
    }
    fn net_receive(&mut self, device: u32, _: &[Segment]) -> Result<(u64, NetHeader), OpError> {
        self.seen.push(format!("receive {device}"));
        self.frames = self.frames.checked_sub(1).ok_or(OpError::Again)?;
        Ok((60, NetHeader::PLAIN))
    }
    fn block_geometry(&self, device: u32) -> Result<(u64, u32), OpError> {
        (device == 1)
            .then_some((1 << 16, 512))
            .ok_or(OpError::NoDevice)
    }
    fn block_read(&mut self, _: u32, offset: u64, _: &[Segment]) -> Result<(), OpError> {
        self.seen.push(format!("read {offset}"));
        Ok(())
    }
    fn block_write(&mut self, _: u32, offset: u64, _: &[Segment]) -> Result<(), OpError> {
        self.seen.push(format!("write {offset}"));
        Ok(())
    }
    fn block_flush(&mut self, _: u32) -> Result<(), OpError> {
        Ok(())
    }
    fn block_discard(&mut self, _: u32, _: u64, _: u64) -> Result<(), OpError> {
        Ok(())
    }
    fn random(&mut self, _: Segment) -> Result<(), OpError> {
        Ok(())
    }
    fn memory_release(&mut self, _: Segment) -> Result<(), OpError> {
        Ok(())
    }
    fn memory_protect(&mut self, _: Segment, _: Protection) -> Result<(), OpError> {
        Ok(())
    }
    fn tick(&mut self, _: u64) -> Result<(), OpError> {
        Ok(())
    }
    fn set_trap(&mut self, _: u64, _: Segment) -> Result<(), OpError> {
        Ok(())
    }
    fn user_map(
        &mut self,
        range: Segment,
        _: UserAccess,
        backing: UserBacking,
        _: bool,
    ) -> Result<(), OpError> {
        self.seen.push(format!("map {:#x} {backing:?}", range.addr));
        Ok(())
    }
    fn user_move(&mut self, range: Segment, to: u64) -> Result<(), OpError> {
        self.seen.push(format!("move {:#x} {to:#x}", range.addr));
        Ok(())
    }
    fn system_calls(&mut self, entry: u64, _: u64) -> Result<(), OpError> {
        self.seen.push(format!("calls {entry:#x}"));
        Ok(())
    }
    fn ninep(&mut self, _: u32, request: Segment, reply: Segment) -> Result<u64, OpError> {
        self.seen
            .push(format!("ninep {} {}", request.len, reply.len));
        Ok(reply.len)
    }
    fn console_read(&mut self, buffer: Segment) -> Result<u64, OpError> {
        Ok(buffer.len)
    }
}

fn run(ops: &[RawOp], devices: &mut Log) -> (Ram, Progress) {
    let ram = Ram::new(1 << 16);
    for (index, op) in ops.iter().enumerate() {
        ram.put(index as u64 * OP_SIZE, op);
    }
    // One segment of 1024 bytes, for all operations that take a list.
    ram.put(
        0x8000,
        &Segment {
            addr: BASE + 0x9000,
            len: 1024,
        },
    );
    let call = Call {
        ops: BASE,
        count: ops.len() as u32,
        ..Call::default()
    };
    let progress = batch(&call, Pass::First, &ram, devices);
    (ram, progress)
}

const LIST: SegmentList = SegmentList {
    addr: BASE + 0x8000,
    count: 1,
};

#[test]
fn a_failing_operation_does_not_stop_the_next() {
    let text = |addr, len| {
        Op::ConsoleWrite {
            stream: Stream::Out,
            buffer: Segment { addr, len },
        }
        .encode()
    };
    let mut log = Log::default();
    let (ram, progress) = run(
        &[
            text(BASE, 5),
            text(0, 5),
            text(BASE, u64::MAX),
            text(BASE, 7),
        ],
        &mut log,
    );
    assert_eq!(progress.done, 4);
    assert_eq!(log.seen, ["console 5", "console 7"]);
    assert_eq!(ram.result(1), OpError::BadAddress as i64);
    assert_eq!(ram.result(2), OpError::BadAddress as i64);
    assert_eq!(ram.result(3), 7);
}

#[test]
fn an_empty_link_is_asked_once_per_pass() {
    let receive = Op::NetReceive {
        device: 0,
        buffers: LIST,
    }
    .encode();
    let mut log = Log {
        frames: 1,
        ..Log::default()
    };
    let (ram, _) = run(&[receive; 4], &mut log);
    assert_eq!(log.seen, ["receive 0"; 2]);
    assert_eq!([ram.result(0), ram.result(1), ram.result(3)], [60, -1, -1]);

    log.frames = 2;
    let call = Call {
        ops: BASE,
        count: 4,
        ..Call::default()
    };
    batch(&call, Pass::Retry, &ram, &mut log);
    assert_eq!([ram.result(1), ram.result(2), ram.result(3)], [60, 60, -1]);
}

#[test]
fn no_frame_overtakes_one_that_was_refused() {
    let send = RawOp::net_send(0, LIST, NetHeader::PLAIN);
    let mut log = Log {
        full: true,
        ..Log::default()
    };
    let (ram, _) = run(&[send; 3], &mut log);
    assert_eq!(log.seen, [""; 0]);
    assert_eq!([ram.result(0), ram.result(1), ram.result(2)], [-1; 3]);
}

#[test]
fn block_ranges_are_held_to_the_disk() {
    let read = |device, offset| {
        Op::BlockRead {
            device,
            buffers: LIST,
            offset,
        }
        .encode()
    };
    let mut log = Log::default();
    let (ram, _) = run(
        &[
            read(1, 0),
            read(1, (1 << 16) - 1024),
            read(1, (1 << 16) - 512),
            read(1, 100),
            read(1, u64::MAX - 511),
            read(2, 0),
        ],
        &mut log,
    );
    assert_eq!(
        log.seen,
        ["read 0".to_string(), format!("read {}", (1 << 16) - 1024)]
    );
    for index in 2..5 {
        assert_eq!(ram.result(index), OpError::Invalid as i64);
    }
    assert_eq!(ram.result(5), OpError::NoDevice as i64);
}

#[test]
fn headers_point_inside_their_frame() {
    let send = |header| RawOp::net_send(0, LIST, header);
    let needs = NetHeader {
        flags: NetHeader::NEEDS_CSUM,
        csum_start: 1000,
        csum_offset: 22,
        ..NetHeader::PLAIN
    };
    let outside = NetHeader {
        csum_offset: 23,
        ..needs
    };
    let unknown = NetHeader {
        gso_type: 3,
        ..NetHeader::PLAIN
    };
    let no_size = NetHeader {
        gso_type: NetHeader::GSO_TCPV4,
        ..needs
    };
    let mut log = Log::default();
    let (ram, _) = run(
        &[send(needs), send(outside), send(unknown), send(no_size)],
        &mut log,
    );
    assert_eq!(log.seen, ["send 0 1"]);
    assert_eq!([ram.result(1), ram.result(2), ram.result(3)], [-2; 3]);
}

#[test]
fn messages_of_folders_go_one_way_or_both() {
    let nowhere = Segment::default();
    let request = Segment {
        addr: BASE + 512,
        len: 19,
    };
    let reply = Segment {
        addr: BASE + 1024,
        len: 100,
    };
    let outside = Segment { addr: 1, len: 1 };
    let ops = [
        (request, reply),
        (request, nowhere),
        (nowhere, reply),
        (outside, nowhere),
        (nowhere, outside),
        (nowhere, nowhere),
    ]
    .map(|(request, reply)| {
        let device = 1;
        let op = UserOp::NineP {
            device,
            request,
            reply,
        };
        op.encode()
    });
    let mut devices = Log::default();
    let (ram, _) = run(&ops, &mut devices);
    assert_eq!(devices.seen, ["ninep 19 100", "ninep 19 0", "ninep 0 100"]);
    assert_eq!([0, 1, 2].map(|index| ram.result(index)), [100, 0, 100]);
    let (address, invalid) = (OpError::BadAddress as i64, OpError::Invalid as i64);
    let refused = [3, 4, 5].map(|index| ram.result(index));
    assert_eq!(refused, [address, address, invalid]);
}

#[test]
fn nothing_behind_an_exit_is_performed() {
    let exit = Op::Exit {
        reason: 0,
        code: 3,
        frames: Segment::default(),
        message: Segment::default(),
    };
    let flush = Op::BlockFlush { device: 1 };
    let mut log = Log::default();
    let (_, progress) = run(&[flush.encode(), exit.encode(), flush.encode()], &mut log);
    assert_eq!(progress.done, 1);
    assert_eq!(progress.exit.map(|e| e.code), Some(3));
}

#[test]
fn batches_outside_of_memory_do_nothing() {
    let ram = Ram::new(4096);
    for (ops, count) in [
        (0, 1),
        (BASE + 4090, 1),
        (u64::MAX - 7, 2),
        (BASE + 1, 1),
        (BASE, 1025),
    ] {
        let call = Call {
            ops,
            count,
            ..Call::default()
        };
        let progress = batch(&call, Pass::First, &ram, &mut Log::default());
        assert_eq!(progress.done, 0, "{ops:#x} {count}");
    }
}

#[test]
fn what_programs_need_is_checked_like_everything_else() {
    let ram = Ram::new(8192);
    let range = Segment {
        addr: 0x40_0000,
        len: 4096,
    };
    let map = |backing| UserOp::Map {
        range,
        access: UserAccess::READ,
        backing,
        populate: false,
    };
    let ops = [
        map(UserBacking::Zero),
        map(UserBacking::Shared(BASE)),
        map(UserBacking::Private(BASE + 8192)),
        UserOp::Move {
            range,
            to: range.addr + 4096,
        },
        UserOp::Move {
            range: Segment { len: 8192, ..range },
            to: range.addr + 4096,
        },
        UserOp::SystemCalls {
            entry: 7,
            deferred: BASE + 16,
        },
        UserOp::SystemCalls {
            entry: 7,
            deferred: BASE + 4,
        },
        UserOp::SystemCalls {
            entry: 7,
            deferred: BASE + 8192,
        },
        UserOp::ConsoleRead {
            buffer: Segment { addr: BASE, len: 9 },
        },
        UserOp::ConsoleRead { buffer: range },
    ];
    for (index, op) in ops.into_iter().enumerate() {
        ram.put(index as u64 * OP_SIZE, &op.encode());
    }
    let call = Call {
        ops: BASE,
        count: ops.len() as u32,
        ..Call::default()
    };
    let mut log = Log::default();
    let progress = batch(&call, Pass::First, &ram, &mut log);
    assert_eq!(progress.done, ops.len() as u32);
    let results: Vec<i64> = (0..ops.len() as u64).map(|n| ram.result(n)).collect();
    assert_eq!(results, [0, 0, -3, 0, -2, 0, -3, -3, 9, -3]);
    assert_eq!(
        log.seen,
        [
            "map 0x400000 Zero",
            "map 0x400000 Shared(1048576)",
            "move 0x400000 0x401000",
            "calls 0x7"
        ]
    );
}
