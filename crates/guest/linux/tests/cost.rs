//! What calls on the way of every request cost: `epoll_wait(2)`, reads and writes of pipes take no memory, however many descriptors are watched.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::rc::Rc;

use kiln_linux::platform::{self, Access, Backing, pretend};
use kiln_linux::process::Thread;
use kiln_linux::syscalls::{Args, perform};
use kiln_linux::user::UserAddr;

/// Counts allocations of each thread.
struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no counter any more, and needs none.
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MEMORY: u64 = 0x10_0000;
const EVENTS: u64 = MEMORY + 4096;

const READ: u64 = 0;
const WRITE: u64 = 1;
const EPOLL_WAIT: u64 = 232;
const EPOLL_CTL: u64 = 233;
const EPOLL_CREATE: u64 = 291;
const PIPE: u64 = 293;

fn call(thread: &Rc<Thread>, number: u64, args: [u64; 6]) -> u64 {
    perform(thread, number, Args(args))
}

/// A program that watches `count` pipes; gives the descriptors of the writing ends.
fn watcher(count: usize) -> (Rc<Thread>, u64, Vec<u64>) {
    pretend::reset();
    let thread = kiln_linux::kernel().processes.first();
    let access = Access::READ | Access::WRITE;
    platform::map(MEMORY, 16 * 4096, access, Backing::Zero).expect("memory");
    let epoll = call(&thread, EPOLL_CREATE, [0; 6]);
    let mut writers = Vec::new();
    for _ in 0..count {
        assert_eq!(call(&thread, PIPE, [MEMORY, 0o4000, 0, 0, 0, 0]), 0);
        let [reader, writer]: [u32; 2] = UserAddr(MEMORY).read().expect("memory");
        UserAddr(MEMORY).write([1, reader, 0]).expect("memory");
        let added = call(&thread, EPOLL_CTL, [epoll, 1, reader.into(), MEMORY, 0, 0]);
        assert_eq!(added, 0);
        writers.push(writer.into());
    }
    (thread, epoll, writers)
}

/// One round: a byte into some pipes, one wait, and the bytes out again. Returns how many were ready.
fn round(thread: &Rc<Thread>, epoll: u64, writers: &[u64]) -> u64 {
    for &writer in writers {
        assert_eq!(call(thread, WRITE, [writer, MEMORY, 1, 0, 0, 0]), 1);
    }
    let ready = call(thread, EPOLL_WAIT, [epoll, EVENTS, 64, 0, 0, 0]);
    for &writer in writers {
        assert_eq!(call(thread, READ, [writer - 1, MEMORY, 8, 0, 0, 0]), 1);
    }
    ready
}

#[test]
fn a_round_of_events_takes_no_memory() {
    let (thread, epoll, writers) = watcher(200);
    let busy = &writers[..50];
    assert_eq!(round(&thread, epoll, busy), 50);
    let before = COUNT.get();
    for _ in 0..10 {
        assert_eq!(round(&thread, epoll, busy), 50);
    }
    assert_eq!(COUNT.get() - before, 0);
}

#[test]
fn waiting_costs_as_much_as_is_ready_and_not_as_is_watched() {
    let time = |watched: usize| {
        let (thread, epoll, writers) = watcher(watched);
        round(&thread, epoll, &writers[..1]);
        let rounds = (0..5).map(|_| {
            let start = std::time::Instant::now();
            for _ in 0..200 {
                round(&thread, epoll, &writers[..1]);
            }
            start.elapsed()
        });
        rounds.min().expect("some rounds")
    };
    let (few, many) = (time(2), time(2000));
    // Far from the thousandfold, with room for a busy machine.
    assert!(
        many < few * 20,
        "{few:?} with 2 watched, {many:?} with 2000"
    );
}
