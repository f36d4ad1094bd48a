//! Panics: what the monitor says of them.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::hint::black_box;

use kiln::{println, spawn};

pub async fn run(case: &str) -> Option<u8> {
    match case {
        "panic" => outermost(7),
        "panic-deep" => println!("{}", deep(200)),
        "panic-long" => panic!("{}THE END", "0123456789".repeat(500)),
        "panic-unicode" => panic!("{}", "äöü€".repeat(400)),
        "panic-lines" => panic!("first line\nsecond line\n\x1b[31mthird line"),
        "panic-in-panic" => panic!("{}", PanicsInDisplay),
        "panic-in-drop" => {
            let _guard = PanicsInDrop;
            panic!("the first");
        }
        "panic-task" => {
            let handle = spawn(in_a_task());
            println!("spawned");
            handle.await;
        }
        "panic-index" => {
            let list: Vec<u8> = black_box(Vec::new());
            println!("{}", list[black_box(3)]);
        }
        "panic-unwrap" => {
            let nothing: Result<u8, String> = black_box(Err("no luck".into()));
            println!("{}", nothing.unwrap());
        }
        "panic-alloc" => {
            let list: Vec<u8> = Vec::with_capacity(black_box(1 << 46));
            println!("{}", list.capacity());
        }
        "fault-deep" => fault_outer(),
        _ => return None,
    }
    println!("SURVIVED");
    Some(1)
}

#[inline(never)]
fn outermost(number: u32) {
    middle(number * 6);
    black_box(());
}

#[inline(never)]
fn middle(number: u32) {
    innermost(number);
    black_box(());
}

#[inline(never)]
fn innermost(number: u32) {
    assert!(black_box(number) != 42, "the answer is {number}");
}

#[inline(never)]
fn deep(depth: u32) -> u32 {
    assert!(depth != 0, "deep down");
    deep(black_box(depth) - 1) + 1
}

#[inline(never)]
async fn in_a_task() {
    kiln::yield_now().await;
    inside_the_task();
}

#[inline(never)]
fn inside_the_task() {
    panic!("in a task");
}

#[inline(never)]
fn fault_outer() {
    fault_inner(black_box(core::ptr::without_provenance_mut(0xdead_0000)));
    black_box(());
}

#[inline(never)]
fn fault_inner(address: *mut u64) {
    // SAFETY: none: faults.
    unsafe { address.write_volatile(1) };
}

struct PanicsInDisplay;

impl fmt::Display for PanicsInDisplay {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("while telling about a panic")
    }
}

struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic!("the second");
    }
}
