//! The user range.

use alloc::alloc::{Layout, alloc_zeroed};

use kiln_abi::op::{OpError, Segment};
use kiln_abi::user::{LONG, USER_END, USER_START, UserAdvice, UserBacking, UserOp};
use kiln_rt::boot;

use crate::start::{access, map, pages, peek, poke, user};

const LOW: u64 = 0x40_0000;
const HIGH: u64 = 0x2aaa_0000_0000;

pub fn all() {
    zeroes();
    shared_and_private();
    moves();
    root();
    refusals();
}

fn zeroes() {
    for at in [USER_START, LOW, HIGH, USER_END - 3 * 4096] {
        assert_eq!(map(pages(at, 3), 3, UserBacking::Zero), Ok(0), "{at:#x}");
        assert_eq!(peek(at + 4096), 0);
        poke(at + 4096, 7);
        poke(at + 8192, 8);
        // A hole in the middle leaves the others.
        let range = pages(at + 4096, 1);
        assert_eq!(user(UserOp::Unmap { range }), Ok(0));
        assert_eq!(peek(at + 8192), 8);
        let whole = UserOp::Protect {
            range: pages(at, 3),
            access: access(1),
        };
        assert_eq!(user(whole), Err(OpError::NoSpace), "a hole");
        assert_eq!(map(range, 3, UserBacking::Zero), Ok(0));
        assert_eq!(peek(at + 4096), 0, "new");
        // The refusal may have come to the first page.
        let whole = UserOp::Protect {
            range: pages(at, 3),
            access: access(3),
        };
        assert_eq!(user(whole), Ok(0));
        let range = pages(at, 3);
        assert_eq!(user(UserOp::Discard { range }), Ok(0));
        assert_eq!(peek(at + 8192), 0, "forgotten");
        for advice in [
            UserAdvice::PopulateRead,
            UserAdvice::PopulateWrite,
            UserAdvice::HugePages,
            UserAdvice::SmallPages,
        ] {
            assert_eq!(user(UserOp::Advise { range, advice }), Ok(0), "{advice:?}");
        }
        assert_eq!(user(UserOp::Unmap { range }), Ok(0));
        assert_eq!(user(UserOp::Unmap { range }), Ok(0), "nothing there");
    }
    // Far more than there is memory: nothing of it exists.
    let len = 1 << 44;
    let range = Segment { addr: 1 << 40, len };
    assert_eq!(map(range, 3, UserBacking::Zero), Ok(0));
    for at in [range.addr, range.addr + len / 2, range.addr + len - 4096] {
        reach(pages(at, 1));
        poke(at, 1);
    }
    // What was in reach is there at once when all of it is changed.
    let whole = UserOp::Protect {
        range,
        access: access(1),
    };
    assert_eq!(user(whole), Ok(0));
    assert_eq!(peek(range.addr), 1);
    assert_eq!(map(range, 3, UserBacking::Zero), Ok(0));
    assert_eq!(peek(range.addr), 0);
    poke(range.addr, 2);
    assert_eq!(user(UserOp::Unmap { range }), Ok(0));
}

/// Brings pages of a long mapping into reach.
fn reach(range: Segment) {
    let as_it_is = UserOp::Protect {
        range,
        access: access(3),
    };
    assert_eq!(user(as_it_is), Ok(0));
}

fn shared_and_private() {
    let layout = Layout::from_size_align(8192, 4096).expect("two pages");
    // SAFETY: not empty.
    let memory = unsafe { alloc_zeroed(layout) } as u64;
    assert!(memory != 0);
    poke(memory, 1);
    assert_eq!(map(pages(LOW, 2), 3, UserBacking::Shared(memory)), Ok(0));
    assert_eq!(map(pages(HIGH, 2), 3, UserBacking::Private(memory)), Ok(0));
    assert_eq!((peek(LOW), peek(HIGH)), (1, 1));
    poke(LOW, 2);
    assert_eq!((peek(memory), peek(HIGH)), (2, 2));
    poke(HIGH, 3);
    assert_eq!((peek(memory), peek(LOW)), (2, 2));
    let range = pages(HIGH, 2);
    assert_eq!(user(UserOp::Discard { range }), Ok(0));
    assert_eq!(peek(HIGH), 2);
    assert_eq!(user(UserOp::Unmap { range }), Ok(0));
    let range = pages(LOW, 2);
    assert_eq!(user(UserOp::Unmap { range }), Ok(0));
    assert_eq!(peek(memory), 2);
    let outside = boot::info().stack_top - 4096;
    assert_eq!(
        map(pages(LOW, 1), 3, UserBacking::Shared(outside)),
        Err(OpError::Invalid),
        "not free memory"
    );
}

fn moves() {
    // Three mappings to the host, in the eyes of a library OS perhaps one.
    assert_eq!(map(pages(LOW, 7), 3, UserBacking::Zero), Ok(0));
    let middle = UserOp::Protect {
        range: pages(LOW + 2 * 4096, 3),
        access: access(1),
    };
    for page in 0..7 {
        poke(LOW + page * 4096, page + 1);
    }
    assert_eq!(user(middle), Ok(0));
    let range = pages(LOW, 7);
    let to = HIGH;
    assert_eq!(user(UserOp::Move { range, to }), Ok(0));
    for page in 0..7 {
        assert_eq!(peek(HIGH + page * 4096), page + 1);
    }
    // Back over something.
    assert_eq!(map(pages(LOW, 9), 3, UserBacking::Zero), Ok(0));
    let (range, to) = (pages(HIGH, 7), LOW);
    assert_eq!(user(UserOp::Move { range, to }), Ok(0));
    assert_eq!((peek(LOW), peek(LOW + 8 * 4096)), (1, 0));
    assert_eq!(
        user(UserOp::Move {
            range: pages(HIGH, 1),
            to: LOW,
        }),
        Err(OpError::BadAddress),
        "nothing there"
    );
    let range = pages(LOW, 9);
    assert_eq!(user(UserOp::Unmap { range }), Ok(0));
}

fn root() {
    let info = boot::info();
    let beyond = info.root_size.next_multiple_of(4096);
    let outside = map(pages(LOW, 1), 1, UserBacking::Root(beyond));
    assert!(outside.is_err(), "behind the root image");
    if info.root_size == 0 {
        return;
    }
    assert_eq!(map(pages(LOW, 1), 3, UserBacking::Root(0)), Ok(0));
    assert_eq!(peek(LOW), peek(info.root));
    let before = peek(info.root);
    poke(LOW, !before);
    assert_eq!(peek(info.root), before);
    let range = pages(LOW, 1);
    assert_eq!(user(UserOp::Discard { range }), Ok(0));
    assert_eq!(peek(LOW), before);
    assert_eq!(user(UserOp::Unmap { range }), Ok(0));
}

fn refusals() {
    let info = boot::info();
    for range in [
        pages(0, 1),
        pages(USER_END, 1),
        pages(info.image_start & !4095, 1),
        pages(info.stack_top - 4096, 1),
        Segment { addr: LOW, len: 1 },
    ] {
        assert_eq!(map(range, 3, UserBacking::Zero), Err(OpError::Invalid));
        assert_eq!(user(UserOp::Unmap { range }), Err(OpError::Invalid));
    }
}

/// Uses more memory than there is.
pub fn fill() {
    let range = Segment {
        addr: LOW,
        len: 16 << 30,
    };
    assert_eq!(map(range, 3, UserBacking::Zero), Ok(0));
    for page in 0..range.len / 4096 {
        if page % (LONG / 4096) == 0 {
            let addr = range.addr + page * 4096;
            reach(Segment { addr, len: LONG });
        }
        poke(range.addr + page * 4096, 1);
    }
}
