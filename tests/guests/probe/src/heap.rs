//! The heap: damage is found, exhaustion is told, free memory goes back to the host.

use alloc::alloc::{Layout, alloc, dealloc};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hint::black_box;
use core::time::Duration;

use kiln::{memory, println, random};

const SMALL: Layout = Layout::new::<[u64; 3]>();

pub fn run(case: &str) -> Option<u8> {
    match case {
        "heap-overflow" => overflow(1),
        "heap-overflow-8" => overflow(8),
        "heap-overflow-far" => linear_overflow(),
        "double-free" => double_free(SMALL),
        "double-free-big" => double_free(Layout::new::<[u8; 100_000]>()),
        "free-inside" => free_at(16, SMALL),
        "free-wrong-size" => free_at(0, Layout::new::<[u64; 300]>()),
        "free-stack" => {
            let mut local = [0u64; 3];
            // SAFETY: none: not heap memory, which the heap must find.
            unsafe { dealloc(black_box(local.as_mut_ptr()).cast(), SMALL) };
            println!("SURVIVED");
        }
        "exhaust" => exhaust(),
        "exhaust-gracefully" => exhaust_gracefully(),
        "churn" => churn(),
        _ => return None,
    }
    Some(0)
}

fn small() -> *mut u8 {
    // SAFETY: the layout is not empty.
    let object = unsafe { alloc(SMALL) };
    assert!(!object.is_null(), "no memory for an object");
    black_box(object)
}

fn overflow(bytes: usize) {
    let object = small();
    for n in 0..bytes {
        // Another byte than is there: what the heap keeps there is random.
        // SAFETY: none: behind the object, which the heap must find.
        unsafe {
            let behind = object.add(SMALL.size() + n);
            behind.write_volatile(!behind.read_volatile());
        }
    }
    println!("written");
    // SAFETY: allocated with this layout.
    unsafe { dealloc(object, SMALL) };
    println!("SURVIVED");
}

/// Writes upwards until something stops it: at the latest the unmapped page behind the heap.
fn linear_overflow() {
    let mut at = small();
    loop {
        // SAFETY: none: must fault at the end of the heap.
        unsafe {
            at.write_volatile(0);
            at = at.add(1);
        }
    }
}

fn double_free(layout: Layout) {
    // SAFETY: the layout is not empty.
    let object = black_box(unsafe { alloc(layout) });
    // SAFETY: the first is right; the second must be found.
    unsafe {
        dealloc(object, layout);
        dealloc(black_box(object), layout);
    }
    println!("SURVIVED");
}

fn free_at(offset: usize, layout: Layout) {
    let object = small();
    // SAFETY: none: the wrong address or size must be found.
    unsafe { dealloc(object.add(offset), layout) };
    println!("SURVIVED");
}

fn exhaust() {
    let mut all: Vec<Box<[u8]>> = Vec::new();
    loop {
        all.push(alloc::vec![1; 65536].into_boxed_slice());
        black_box(&all);
    }
}

fn exhaust_gracefully() {
    let capacity = memory::statistics().capacity;
    let mut huge: Vec<u8> = Vec::new();
    assert!(huge.try_reserve_exact(capacity + 1).is_err());
    assert!(huge.try_reserve_exact(usize::MAX / 4).is_err());
    let mut all: Vec<Vec<u8>> = Vec::with_capacity(capacity / 4000 + 1);
    loop {
        let mut block = Vec::new();
        if block.try_reserve_exact(4000).is_err() || all.len() == all.capacity() {
            break;
        }
        block.resize(4000, 7u8);
        all.push(block);
    }
    assert!(
        all.len() * 4000 > capacity / 2,
        "{} blocks of {capacity} bytes",
        all.len()
    );
    assert!(memory::statistics().failures > 0);
    drop(all);
    let mut again: Vec<u8> = Vec::new();
    again
        .try_reserve_exact(capacity / 2)
        .expect("freed memory can be had again");
}

/// Objects of all sizes, allocated, grown, shrunk and freed in random order; each holds a pattern of its own.
fn churn() {
    let mut live: Vec<(u8, Vec<u8>)> = Vec::new();
    let before = memory::statistics().in_use;
    for round in 0..20_000u32 {
        let pick = random::u64();
        let size = 1 << (pick % 14);
        let size = size + (pick >> 20) as usize % size;
        if live.len() > 200 || (pick >> 8).is_multiple_of(3) && !live.is_empty() {
            let (pattern, bytes) = live.swap_remove((pick >> 32) as usize % live.len());
            assert!(
                bytes.iter().all(|&b| b == pattern),
                "round {round}: an object was overwritten"
            );
        } else if (pick >> 8) % 3 == 1 && !live.is_empty() {
            let index = (pick >> 32) as usize % live.len();
            let (pattern, bytes) = &mut live[index];
            let pattern = *pattern;
            bytes.resize(size, pattern);
            bytes.shrink_to_fit();
            assert!(
                bytes.iter().all(|&b| b == pattern),
                "round {round}: resizing lost content"
            );
        } else {
            let pattern = (pick >> 40) as u8;
            live.push((pattern, alloc::vec![pattern; size]));
        }
    }
    drop(live);
    let after = memory::statistics().in_use;
    assert!(
        after <= before,
        "{before} bytes in use before, {after} after"
    );
}

/// Fills 24 MiB, waits to be looked at, frees them, waits again.
pub async fn release(case: &str) -> Option<u8> {
    if case != "give-back" {
        return None;
    }
    let mut block = Vec::new();
    block.resize(24 << 20, 1u8);
    println!("full {}", black_box(&block).len());
    kiln::time::sleep(Duration::from_secs(1)).await;
    drop(block);
    memory::release_free();
    println!("released {}", memory::statistics().released);
    kiln::time::sleep(Duration::from_secs(30)).await;
    Some(0)
}
