//! Small heaps, full heaps, zeroed pages, and what goes back to the host.

mod support;

use std::alloc::GlobalAlloc;
use std::collections::HashSet;
use std::ptr;
use std::sync::atomic::Ordering;

use kiln_heap::{Heap, MAX_REGIONS, RegionError};
use support::{Arena, RELEASES, layout};

#[test]
fn a_tiny_heap_is_well_used() {
    let arena = Arena::new(300 << 10);
    for (size, share) in [
        (8, 45),
        (40, 75),
        (100, 75),
        (1000, 85),
        (3000, 65),
        (10_000, 75),
    ] {
        let mut objects = Vec::new();
        loop {
            let object = arena.alloc(size, 8);
            if object.is_null() {
                break;
            }
            objects.push(object);
        }
        let used = objects.len() * size * 100 / (300 << 10);
        assert!(used >= share, "{size} bytes: {used} % used");
        for object in objects {
            arena.free(object, size, 8);
        }
    }
    assert!(!arena.alloc(280 << 10, 8).is_null());
}

#[test]
fn one_object_of_each_size_fits_a_tiny_heap() {
    let arena = Arena::new(300 << 10);
    let mut size = 1;
    let mut failures = 0;
    while size < 20_000 {
        failures += u32::from(arena.alloc(size, 8).is_null());
        size = size * 5 / 4 + 1;
    }
    assert_eq!(failures, 0);
}

#[test]
fn exhaustion_is_counted_and_passes() {
    let arena = Arena::new(1 << 20);
    let mut objects = Vec::new();
    for size in [100_000, 9000, 500, 8].repeat(2) {
        loop {
            let object = arena.alloc(size, 8);
            if object.is_null() {
                break;
            }
            objects.push((object, size));
        }
    }
    assert_eq!(arena.heap.statistics().failures, 8);
    let (object, size) = objects[0];
    // SAFETY: live; a refused resize leaves it so.
    assert!(unsafe { arena.heap.realloc(object, layout(size, 8), size * 9) }.is_null());
    for (object, size) in objects {
        arena.free(object, size, 8);
    }
    assert_eq!(arena.heap.statistics().in_use, 0);
    assert!(!arena.alloc(1 << 19, 8).is_null());
}

#[test]
fn without_memory_everything_fails() {
    let heap = Heap::new();
    // SAFETY: null is the expected answer.
    assert!(unsafe { heap.alloc(layout(1, 1)) }.is_null());
    // SAFETY: the region is refused.
    let refused = unsafe { heap.add_region(ptr::dangling_mut(), 4096) };
    assert_eq!(refused, Err(RegionError::TooSmall));
    assert_eq!(heap.statistics().failures, 1);
}

#[test]
fn regions_are_limited() {
    let mut arena = Arena::new(64 << 10);
    (1..MAX_REGIONS).for_each(|_| arena.add(64 << 10));
    // SAFETY: the region is refused.
    let refused = unsafe { arena.heap.add_region(ptr::dangling_mut(), 1 << 20) };
    assert_eq!(refused, Err(RegionError::TooMany));
}

#[test]
fn impossible_requests_fail_cleanly() {
    let arena = Arena::new(1 << 20);
    assert!(arena.alloc(isize::MAX as usize, 1).is_null());
    assert!(arena.alloc(1, 1 << 40).is_null());
    let object = arena.alloc(10, 64 << 10);
    assert!(object.addr().is_multiple_of(64 << 10) && !object.is_null());
}

#[test]
fn large_objects_grow_in_place() {
    let arena = Arena::new(8 << 20);
    let object = arena.alloc(100_000, 8);
    // SAFETY: live, with this layout each time.
    unsafe {
        let grown = arena.heap.realloc(object, layout(100_000, 8), 2_000_000);
        assert_eq!(grown, object);
        let shrunk = arena.heap.realloc(object, layout(2_000_000, 8), 50_000);
        assert_eq!(shrunk, object);
        arena.free(object, 50_000, 8);
    }
    assert_eq!(arena.heap.statistics().peak, 2_000_000);
}

#[test]
fn slots_come_in_no_order() {
    let arena = Arena::new(1 << 20);
    let objects: Vec<usize> = (0..60).map(|_| arena.alloc(24, 8).addr()).collect();
    let steps: HashSet<isize> = objects
        .windows(2)
        .map(|pair| pair[1].wrapping_sub(pair[0]).cast_signed())
        .collect();
    assert!(steps.len() > 20, "{} different steps", steps.len());
}

/// Ping-pong calls the host a few times at most, one large free at once. One test, since the
/// counter is shared.
#[test]
fn pages_go_back_without_ping_pong() {
    const BIG: usize = 24 << 20;
    let arena = Arena::new(64 << 20);
    let before = RELEASES.load(Ordering::Relaxed);
    let object = arena.alloc(BIG, 8);
    assert!(arena.heap.statistics().committed >= BIG);
    arena.free(object, BIG, 8);
    assert!(arena.heap.statistics().committed < 1 << 20);
    assert!(arena.heap.statistics().released >= BIG as u64);
    assert_eq!(RELEASES.load(Ordering::Relaxed), before + 1);
    for _ in 0..1000 {
        let object = arena.alloc(BIG, 8);
        // SAFETY: the object is this large.
        unsafe { object.write_bytes(7, BIG.min(9000)) };
        arena.free(object, BIG, 8);
    }
    assert!(RELEASES.load(Ordering::Relaxed) < before + 10);
    arena.heap.release_free();
    // SAFETY: not an empty layout; the object is this large.
    unsafe {
        let object = arena.heap.alloc_zeroed(layout(BIG, 8));
        assert!(
            std::slice::from_raw_parts(object, BIG)
                .iter()
                .all(|byte| *byte == 0)
        );
    }
}
