//! Operations through their encoding and back.

use super::*;

const BUFFER: Segment = Segment {
    addr: 0x1000,
    len: 0x2000,
};
const LIST: SegmentList = SegmentList {
    addr: 0x1008,
    count: 3,
};

#[test]
fn every_operation_survives_encoding() {
    let header = NetHeader {
        gso_size: 1448,
        ..NetHeader::PLAIN
    };
    let ops = [
        Op::ConsoleWrite {
            stream: Stream::Out,
            buffer: BUFFER,
        },
        Op::ConsoleWrite {
            stream: Stream::Error,
            buffer: BUFFER,
        },
        Op::NetReceive {
            device: 2,
            buffers: LIST,
        },
        Op::BlockRead {
            device: 1,
            buffers: LIST,
            offset: 4096,
        },
        Op::BlockWrite {
            device: 1,
            buffers: LIST,
            offset: 8192,
        },
        Op::BlockFlush { device: 1 },
        Op::BlockDiscard {
            device: 1,
            offset: 4096,
            len: 512,
        },
        Op::Random {
            buffer: Segment { addr: 9, len: 32 },
        },
        Op::MemoryRelease { range: BUFFER },
        Op::MemoryProtect {
            range: BUFFER,
            protection: Protection::None,
        },
        Op::Tick { period: 1_000_000 },
        Op::SetTrap {
            entry: 77,
            stack: BUFFER,
        },
        Op::Metrics { blocks: LIST },
        Op::Exit {
            reason: 1,
            code: 101,
            frames: BUFFER,
            message: Segment { addr: 5, len: 6 },
        },
    ];
    for op in ops {
        assert_eq!(op.encode().decode(), Ok(op));
    }
    assert_eq!(
        RawOp::net_send(4, LIST, header).decode(),
        Ok(Op::NetSend {
            device: 4,
            frame: LIST,
            header
        })
    );
}

#[test]
fn what_does_not_fit_is_refused() {
    let bad = |code, args| RawOp {
        code,
        args,
        ..RawOp::default()
    };
    for op in [
        bad(0, [0; 6]),
        bad(99, [0; 6]),
        bad(code::NET_SEND, [8, 0, 0, 0, 0, 0]),
        bad(code::NET_SEND, [8, MAX_SEGMENTS + 1, 0, 0, 0, 0]),
        bad(code::NET_RECEIVE, [4, 1, 0, 0, 0, 0]),
        bad(code::RANDOM, [0, MAX_RANDOM + 1, 0, 0, 0, 0]),
        bad(code::MEMORY_PROTECT, [0x1000, 0x1000, 5, 0, 0, 0]),
        bad(code::MEMORY_PROTECT, [0x1000, 0x1000, 7, 0, 0, 0]),
        bad(code::MEMORY_RELEASE, [0x1001, 0x1000, 0, 0, 0, 0]),
        bad(code::MEMORY_RELEASE, [u64::MAX - 4095, 0x1000, 0, 0, 0, 0]),
    ] {
        assert_eq!(op.decode(), Err(OpError::Invalid), "{op:?}");
    }
    assert_eq!(bad(code::TRACE, [0; 6]).decode(), Err(OpError::Unsupported));
}

#[test]
fn ticks_have_a_shortest_period() {
    let tick = |period| Op::Tick { period }.encode().decode();
    assert_eq!(tick(1), Ok(Op::Tick { period: MIN_TICK }));
    assert_eq!(tick(0), Ok(Op::Tick { period: 0 }));
}
