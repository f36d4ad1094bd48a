//! A guest that uses what `alloc` has: collections, formatting, sorting, shared pointers.
//!
//! The library comes precompiled, with code for unwinding in it. What of that ends up in an image must link, although a
//! guest never unwinds.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "a program, not a library")]

extern crate alloc;

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, BinaryHeap, LinkedList, VecDeque};
use alloc::format;
use alloc::rc::{Rc, Weak};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::black_box;

#[kiln::main]
#[allow(clippy::unused_async, reason = "the entry point is one")]
#[allow(
    clippy::stable_sort_primitive,
    reason = "every kind of sorting is to be linked"
)]
async fn main() {
    let numbers: Vec<u32> = (0..1000).map(|n| n * 7919 % 1000).collect();
    let mut sorted = black_box(numbers.clone());
    sorted.sort();
    assert!(sorted.iter().copied().eq(0..1000));
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    sorted.sort_by_cached_key(ToString::to_string);
    assert_eq!(sorted[..3], [0, 1, 10]);

    let map: BTreeMap<String, u32> = numbers.iter().map(|&n| (format!("key {n}"), n)).collect();
    assert_eq!(map.len(), 1000);
    assert_eq!(map["key 77"], 77);
    let set: BTreeSet<u32> = numbers.iter().copied().collect();
    assert_eq!(set.range(10..20).count(), 10);
    let mut heap: BinaryHeap<u32> = numbers.iter().copied().collect();
    assert_eq!(heap.pop(), Some(999));
    let mut queue: VecDeque<u32> = numbers.iter().copied().collect();
    queue.rotate_left(500);
    queue.make_contiguous().sort_unstable();
    let list: LinkedList<u32> = queue.drain(..).collect();
    assert_eq!(list.iter().sum::<u32>(), 499_500);

    let text = format!(
        "{:>8.3}|{:#010x}|{:?}|{}",
        1.5f64,
        255,
        "a\n\u{e9}",
        i128::MIN
    );
    assert_eq!(
        text,
        "   1.500|0x000000ff|\"a\\n\u{e9}\"|-170141183460469231731687303715884105728"
    );
    assert_eq!(
        text.to_uppercase()
            .to_lowercase()
            .replace('|', ", ")
            .split(", ")
            .count(),
        4
    );
    assert_eq!(
        String::from_utf8_lossy(b"ok \xff"),
        Cow::<str>::Owned("ok \u{fffd}".into())
    );
    assert_eq!(["a", "b"].concat().repeat(3), "ababab");
    assert_eq!("0.1".parse::<f64>(), Ok(0.1));

    let shared = Rc::new(5);
    let weak: Weak<i32> = Rc::downgrade(&shared);
    drop(shared);
    assert!(weak.upgrade().is_none());
    let bytes: Arc<[u8]> = Arc::from(&b"shared"[..]);
    let functions: Vec<Box<dyn Fn(usize) -> usize>> =
        alloc::vec![Box::new(|n| n + bytes.len()), Box::new(|n| n * 2)];
    assert_eq!(functions.iter().fold(1, |n, f| f(n)), 14);
    kiln::println!("SUCCESS");
}
