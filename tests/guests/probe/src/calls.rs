//! Calls to the monitor that a well-meaning guest would not make. The host treats every byte of them as hostile.
//!
//! A call whose record lies outside of the guest's memory ends the guest; everything else comes back with an error, and
//! the guest goes on.

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::vec;
use alloc::vec::Vec;

use kiln::println;
use kiln_abi::boot::MemoryKind;
use kiln_abi::call::{Call, MAX_OPS};
use kiln_abi::op::{MAX_RANDOM, Op, OpError, Protection, Segment, SegmentList, Stream, code};
use kiln_abi::{PAGE_SIZE, RawOp};
use kiln_rt::{boot, monitor};

use crate::places;

/// The first address that is not canonical.
const NON_CANONICAL: u64 = 1 << 47;

pub fn run(case: &str) -> Option<u8> {
    match case {
        "bad-ops" => bad_ops(),
        "bad-buffers" => bad_buffers(),
        "bad-batches" => bad_batches(),
        "bad-protect" => bad_protect(),
        "bad-release" => bad_release(),
        "bad-traps" => bad_traps(),
        "no-devices" => no_devices(),
        "protect" => protect(),
        "protected-write" => protected_write(),
        "release" => release(),
        "big-batch" => big_batch(),
        "time-result" => time_result(),
        "call-record-null" => record_at(0),
        "call-record-boot" => record_at(places::address("boot")),
        "call-record-text" => record_at(places::address("text") & !7),
        "call-record-gate" => record_at(boot::info().enter & !7),
        "call-record-kernel" => record_at(u64::MAX - 127),
        "call-record-end" => record_at(places::address("above-heap") - 8),
        "exit-bad-message" => exit_with(
            Segment {
                addr: NON_CANONICAL,
                len: 100,
            },
            Segment { addr: 8, len: 8000 },
        ),
        "exit-no-reason" => {
            let op = Op::Exit {
                reason: 77,
                code: 0x1_0003,
                frames: Segment::default(),
                message: Segment::default(),
            };
            perform(&mut [op.encode()]);
        }
        _ => return None,
    }
    Some(0)
}

/// One call without waiting. `count` and `ops` go to the monitor as they are.
fn call(ops: u64, count: u32, deadline: u64) -> Call {
    let mut call = Call {
        ops,
        count,
        deadline,
        ..Call::default()
    };
    // SAFETY: whatever the arguments are, the monitor writes only where it has checked; what it may write to here are
    // this module's own buffers.
    unsafe { monitor::enter(&mut call) };
    call
}

fn perform(ops: &mut [RawOp]) -> Call {
    call(ops.as_mut_ptr() as u64, ops.len() as u32, 0)
}

fn outcome(op: RawOp) -> Result<u64, OpError> {
    let mut ops = [op];
    assert_eq!(perform(&mut ops).done, 1);
    ops[0].outcome()
}

fn refused(op: RawOp, with: OpError) {
    assert_eq!(outcome(op), Err(with), "{op:x?}");
}

fn raw(code: u16, args: [u64; 6]) -> RawOp {
    RawOp {
        code,
        args,
        ..RawOp::default()
    }
}

fn bad_ops() {
    for code in [0, 16, 99, 0x7fff, u16::MAX] {
        refused(raw(code, [0; 6]), OpError::Invalid);
    }
    refused(raw(code::TRACE, [0; 6]), OpError::Unsupported);
    let mut bytes = [0u8; 512];
    let message = [bytes.as_ptr() as u64, 16, 0, 0, 0, 0];
    refused(raw(code::NINEP, message), OpError::Unsupported);
    let buffer = Segment {
        addr: bytes.as_mut_ptr() as u64,
        len: MAX_RANDOM + 1,
    };
    refused(Op::Random { buffer }.encode(), OpError::Invalid);
    assert!(bytes.iter().all(|&b| b == 0), "a refused operation wrote");
    let buffer = Segment { len: 0, ..buffer };
    assert_eq!(outcome(Op::Random { buffer }.encode()), Ok(0));
    // A bad operation does not stop those behind it.
    let buffer = Segment { len: 16, ..buffer };
    let mut ops = [
        raw(99, [1; 6]),
        Op::Random { buffer }.encode(),
        raw(0, [0; 6]),
    ];
    assert_eq!(perform(&mut ops).done, 3);
    assert_eq!(ops.map(|op| op.result), [-2, 16, -2]);
}

/// Places that the monitor must not touch for the guest. `writable` leaves out those that may be read.
fn forbidden(writable: bool) -> Vec<Segment> {
    let at = |addr, len| Segment { addr, len };
    let stack = places::range(MemoryKind::Stack);
    let free = places::range(MemoryKind::Free);
    let mut places = vec![
        at(0, 16),
        at(0x1000, 16),
        at(0x7fff_ffff_f000, 16),
        at(NON_CANONICAL, 16),
        at(0xffff_8000_0000_0000, 16),
        at(0xffff_ffff_ff60_0000, 16),
        at(u64::MAX - 15, 16),
        at(u64::MAX - 7, 16),
        at(u64::MAX, 1),
        at(1, u64::MAX),
        at(boot::info().enter, 16),
        at(stack.start - 8, 16),
        at(places::end(stack) - 8, 16),
        at(stack.start, u64::MAX),
        at(places::end(free) - 15, 16),
        at(free.start, free.len + 1),
    ];
    if writable {
        places.push(at(places::address("text"), 16));
        places.push(at(places::address("rodata"), 16));
        places.push(at(places::address("boot"), 16));
    }
    places
}

fn bad_buffers() {
    let stream = Stream::Out;
    for buffer in forbidden(false) {
        refused(
            Op::ConsoleWrite { stream, buffer }.encode(),
            OpError::BadAddress,
        );
    }
    for buffer in forbidden(true).into_iter().filter(|b| b.len <= MAX_RANDOM) {
        refused(Op::Random { buffer }.encode(), OpError::BadAddress);
    }
    // What may be read may be written to the console: rodata, text, the boot record.
    for place in ["rodata", "text", "boot"] {
        let buffer = Segment {
            addr: places::address(place),
            len: 0,
        };
        assert_eq!(
            outcome(Op::ConsoleWrite { stream, buffer }.encode()),
            Ok(0),
            "{place}"
        );
    }
}

fn bad_batches() {
    let many: Vec<RawOp> = vec![raw(99, [0; 6]); MAX_OPS as usize + 1];
    let start = many.as_ptr() as u64;
    assert_eq!(call(start, MAX_OPS + 1, 0).done, 0);
    assert_eq!(call(start, u32::MAX, 0).done, 0);
    assert!(
        many.iter().all(|op| op.result == 0),
        "operations of a refused batch were performed"
    );
    assert_eq!(call(start + 4, 1, 0).done, 0, "misaligned");
    for place in forbidden(true).into_iter().filter(|place| place.len <= 16) {
        assert_eq!(call(place.addr & !7, 4, 0).done, 0, "{place:x?}");
    }
    assert_eq!(call(u64::MAX - 63, 8, 0).done, 0);
    assert_eq!(call(!7, 8, 0).done, 0);
    // A batch whose end hangs out of memory: what lies inside is performed, the rest is not.
    let end = places::end(places::range(MemoryKind::Free));
    assert!(call(end - 64, 2, 0).done <= 1);
    assert_eq!(call(0, 0, 0).done, 0);
}

fn bad_protect() {
    let page = places::address("heap") & !(PAGE_SIZE - 1);
    for protection in [2, 4, 5, 6, 7, 8, 0x100_0001, u64::MAX] {
        refused(
            raw(code::MEMORY_PROTECT, [page, PAGE_SIZE, protection, 0, 0, 0]),
            OpError::Invalid,
        );
    }
    let pages = |name: &str| Segment {
        addr: places::address(name) & !(PAGE_SIZE - 1),
        len: PAGE_SIZE,
    };
    let image = places::range(MemoryKind::Image);
    let stack = places::range(MemoryKind::Stack);
    let free = places::range(MemoryKind::Free);
    let ranges = [
        pages("text"),
        pages("rodata"),
        pages("boot"),
        pages("gate"),
        pages("below-stack"),
        pages("above-stack"),
        pages("below-heap"),
        pages("above-heap"),
        Segment {
            addr: image.start,
            len: image.len,
        },
        Segment {
            addr: stack.start - PAGE_SIZE,
            len: stack.len + PAGE_SIZE,
        },
        Segment {
            addr: free.start,
            len: free.len + PAGE_SIZE,
        },
        Segment {
            addr: 0,
            len: PAGE_SIZE,
        },
        Segment {
            addr: 0x7fff_ffff_e000,
            len: PAGE_SIZE,
        },
        Segment {
            addr: 0xffff_8000_0000_0000,
            len: PAGE_SIZE,
        },
        Segment {
            addr: free.start,
            len: 0,
        },
        Segment {
            addr: free.start + 8,
            len: PAGE_SIZE,
        },
        Segment {
            addr: free.start,
            len: PAGE_SIZE - 8,
        },
        Segment {
            addr: free.start,
            len: (1 << 63) | PAGE_SIZE,
        },
        Segment {
            addr: free.start,
            len: 0u64.wrapping_sub(PAGE_SIZE),
        },
    ];
    for range in ranges {
        for protection in [Protection::None, Protection::Read, Protection::ReadWrite] {
            refused(
                Op::MemoryProtect { range, protection }.encode(),
                OpError::Invalid,
            );
        }
    }
}

fn bad_release() {
    for name in [
        "text",
        "rodata",
        "data",
        "relro",
        "stack",
        "trap-stack",
        "boot",
        "gate",
        "below-heap",
        "above-heap",
    ] {
        let range = Segment {
            addr: places::address(name) & !(PAGE_SIZE - 1),
            len: PAGE_SIZE,
        };
        refused(Op::MemoryRelease { range }.encode(), OpError::Invalid);
    }
    let free = places::range(MemoryKind::Free);
    for (addr, len) in [
        (free.start, 0),
        (free.start + 1, PAGE_SIZE),
        (free.start, 100),
        (free.start, free.len + PAGE_SIZE),
        (free.start, !(PAGE_SIZE - 1)),
        (0, PAGE_SIZE),
    ] {
        refused(
            Op::MemoryRelease {
                range: Segment { addr, len },
            }
            .encode(),
            OpError::Invalid,
        );
    }
}

fn bad_traps() {
    let trap_stack = places::range(MemoryKind::TrapStack);
    let stack = Segment {
        addr: trap_stack.start,
        len: trap_stack.len,
    };
    for entry in [
        0,
        places::address("heap"),
        places::address("rodata"),
        places::address("data"),
        boot::info().enter,
    ] {
        refused(Op::SetTrap { entry, stack }.encode(), OpError::Invalid);
    }
    let entry = places::address("text");
    refused(
        Op::SetTrap {
            entry,
            stack: Segment { len: 2047, ..stack },
        }
        .encode(),
        OpError::Invalid,
    );
    for place in forbidden(true) {
        let stack = Segment {
            len: place.len.max(2048),
            ..place
        };
        refused(Op::SetTrap { entry, stack }.encode(), OpError::BadAddress);
    }
}

fn no_devices() {
    let mut bytes = [0u8; 1024];
    let segment = Segment {
        addr: bytes.as_mut_ptr() as u64,
        len: 512,
    };
    let list = SegmentList {
        addr: &raw const segment as u64,
        count: 1,
    };
    for device in [0, 1, 62, 63, 64, u32::MAX] {
        for op in [
            Op::NetReceive {
                device,
                buffers: list,
            },
            Op::BlockRead {
                device,
                buffers: list,
                offset: 0,
            },
            Op::BlockWrite {
                device,
                buffers: list,
                offset: 0,
            },
            Op::BlockFlush { device },
            Op::BlockDiscard {
                device,
                offset: 0,
                len: 512,
            },
        ] {
            refused(op.encode(), OpError::NoDevice);
        }
    }
    for (addr, count) in [
        (list.addr, 0),
        (list.addr, 33),
        (list.addr + 4, 1),
        (list.addr, u64::from(u32::MAX) + 2),
    ] {
        refused(
            raw(code::NET_SEND, [addr, count, 0, 0, 0, 0]),
            OpError::Invalid,
        );
        refused(
            raw(code::BLOCK_READ, [addr, count, 0, 0, 0, 0]),
            OpError::Invalid,
        );
    }
    // Waiting for devices that are not there is waiting for nothing: the deadline ends it.
    let mut call = Call {
        deadline: 1,
        wait_receive: u64::MAX,
        wait_send: u64::MAX,
        ..Call::default()
    };
    // SAFETY: no operations.
    unsafe { monitor::enter(&mut call) };
    assert_eq!((call.ready, call.ready_send), (0, 0));
}

/// Two whole pages of the heap.
struct Pages(*mut u8);

impl Pages {
    const LAYOUT: Layout = match Layout::from_size_align(2 * PAGE_SIZE as usize, PAGE_SIZE as usize)
    {
        Ok(layout) => layout,
        Err(_) => panic!("a good layout"),
    };

    fn new() -> Self {
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(Self::LAYOUT) };
        assert!(!start.is_null(), "no memory for two pages");
        Self(start)
    }

    fn range(&self) -> Segment {
        Segment {
            addr: self.0 as u64,
            len: Self::LAYOUT.size() as u64,
        }
    }

    fn protect(&self, protection: Protection) {
        assert_eq!(
            outcome(
                Op::MemoryProtect {
                    range: self.range(),
                    protection
                }
                .encode()
            ),
            Ok(0)
        );
    }

    fn first(&self) -> u8 {
        // SAFETY: inside the allocation.
        unsafe { self.0.read_volatile() }
    }

    fn set_first(&self, value: u8) {
        // SAFETY: inside the allocation.
        unsafe { self.0.write_volatile(value) };
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.0, Self::LAYOUT) };
    }
}

fn protect() {
    let pages = Pages::new();
    pages.set_first(7);
    pages.protect(Protection::Read);
    assert_eq!(pages.first(), 7);
    pages.protect(Protection::None);
    pages.protect(Protection::ReadWrite);
    assert_eq!(pages.first(), 7);
    pages.set_first(8);
    assert_eq!(pages.first(), 8);
}

fn protected_write() {
    let pages = Pages::new();
    pages.protect(Protection::Read);
    println!("read {}", pages.first());
    pages.set_first(1);
    println!("SURVIVED");
}

fn release() {
    let pages = Pages::new();
    pages.set_first(7);
    assert_eq!(
        outcome(
            Op::MemoryRelease {
                range: pages.range()
            }
            .encode()
        ),
        Ok(0)
    );
    assert_eq!(pages.first(), 0, "released memory keeps its content");
    pages.set_first(9);
    assert_eq!(pages.first(), 9);
}

fn big_batch() {
    let mut bytes = vec![0u8; MAX_OPS as usize * 8];
    let mut ops: Vec<RawOp> = bytes
        .chunks_exact_mut(8)
        .map(|chunk| {
            Op::Random {
                buffer: Segment {
                    addr: chunk.as_mut_ptr() as u64,
                    len: 8,
                },
            }
            .encode()
        })
        .collect();
    assert_eq!(perform(&mut ops).done, MAX_OPS);
    assert!(ops.iter().all(|op| op.result == 8));
    let zeroes = bytes
        .chunks_exact(8)
        .filter(|chunk| *chunk == [0; 8])
        .count();
    assert_eq!(zeroes, 0, "operations were reported as done but were not");
}

/// A deadline ends the wait, not before and not long after; results are filled in.
fn time_result() {
    let before = call(0, 0, 0).now;
    let after = call(0, 0, before + 50_000_000).now;
    let waited = after - before;
    assert!(
        (50_000_000..500_000_000).contains(&waited),
        "waited {waited} ns for 50 ms"
    );
    let past = call(0, 0, 1);
    assert!(past.now - after < 50_000_000, "a past deadline waited");
    assert_eq!(past.event, 0);
}

fn record_at(address: u64) {
    println!("about to call");
    let enter = boot::info().enter as usize;
    // SAFETY: the gate checks the address; that is what is tested.
    let enter: extern "C" fn(u64) =
        unsafe { core::mem::transmute::<usize, extern "C" fn(u64)>(enter) };
    enter(address);
    println!("SURVIVED");
}

fn exit_with(frames: Segment, message: Segment) {
    let op = Op::Exit {
        reason: kiln_abi::ExitReason::Panic as u32,
        code: 101,
        frames,
        message,
    };
    perform(&mut [op.encode()]);
    println!("SURVIVED");
}
