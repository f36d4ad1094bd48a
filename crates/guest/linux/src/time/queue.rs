//! Timers that wait, by their time.
//!
//! A binary heap in which each timer knows its place, so that most timers, which are taken back before their time, leave without a search.

use alloc::boxed::Box;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use crate::process::{Thread, sched};

/// What a timer does when its time has come. It must not sleep.
pub type Action = Box<dyn FnOnce()>;

enum Due {
    Wake(Rc<Thread>),
    Call(Action),
}

struct Entry {
    at: u64,
    /// Among timers of one time the older one is first.
    order: u64,
    place: Cell<usize>,
    due: RefCell<Option<Due>>,
}

impl Entry {
    fn before(&self, other: &Self) -> bool {
        (self.at, self.order) < (other.at, other.order)
    }
}

#[derive(Default)]
struct Heap {
    entries: RefCell<Vec<Rc<Entry>>>,
}

/// All timers that wait.
#[derive(Default)]
pub struct Timers {
    heap: Rc<Heap>,
    last: Cell<u64>,
    /// One was added that is due before all others.
    first_changed: Cell<bool>,
}

impl core::fmt::Debug for Timers {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Timers({})", self.heap.entries.borrow().len())
    }
}

/// A timer that waits; dropping it takes it back.
#[must_use]
pub struct Timer {
    entry: Rc<Entry>,
    heap: Weak<Heap>,
}

impl core::fmt::Debug for Timer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Timer({})", self.entry.at)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(heap) = self.heap.upgrade() {
            heap.remove(&self.entry);
        }
        // What it would have done may hold much: it goes after the heap is free again.
        let due = self.entry.due.take();
        drop(due);
    }
}

/// The place of an entry that is not in the heap.
const NOWHERE: usize = usize::MAX;

impl Heap {
    fn insert(&self, entry: &Rc<Entry>) {
        let mut entries = self.entries.borrow_mut();
        let place = entries.len();
        entry.place.set(place);
        entries.push(entry.clone());
        up(&mut entries, place);
    }

    fn remove(&self, entry: &Rc<Entry>) {
        let place = entry.place.replace(NOWHERE);
        let mut entries = self.entries.borrow_mut();
        if place >= entries.len() {
            return;
        }
        let gone = entries.swap_remove(place);
        if let Some(moved) = entries.get(place) {
            moved.place.set(place);
            up(&mut entries, place);
            down(&mut entries, place);
        }
        drop(entries);
        drop(gone);
    }
}

fn swap(entries: &mut [Rc<Entry>], a: usize, b: usize) {
    entries.swap(a, b);
    entries[a].place.set(a);
    entries[b].place.set(b);
}

fn up(entries: &mut [Rc<Entry>], mut place: usize) {
    while place > 0 {
        let parent = (place - 1) / 2;
        if !entries[place].before(&entries[parent]) {
            break;
        }
        swap(entries, place, parent);
        place = parent;
    }
}

fn down(entries: &mut [Rc<Entry>], mut place: usize) {
    loop {
        let children = [2 * place + 1, 2 * place + 2];
        let there = children.into_iter().filter(|&c| c < entries.len());
        let least = there.reduce(|a, b| if entries[b].before(&entries[a]) { b } else { a });
        match least {
            Some(child) if entries[child].before(&entries[place]) => {
                swap(entries, child, place);
                place = child;
            }
            _ => break,
        }
    }
}

impl Timers {
    /// Does `action` at `at`.
    pub fn at(&self, at: u64, action: Action) -> Timer {
        self.add(at, Due::Call(action))
    }

    /// Wakes a thread at `at`.
    pub fn wake_at(&self, at: u64, thread: &Rc<Thread>) -> Timer {
        self.add(at, Due::Wake(thread.clone()))
    }

    fn add(&self, at: u64, due: Due) -> Timer {
        let order = self.last.get();
        self.last.set(order.wrapping_add(1));
        let entry = Rc::new(Entry {
            at,
            order,
            place: Cell::new(NOWHERE),
            due: RefCell::new(Some(due)),
        });
        self.heap.insert(&entry);
        if entry.place.get() == 0 {
            self.first_changed.set(true);
        }
        Timer {
            entry,
            heap: Rc::downgrade(&self.heap),
        }
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<u64> {
        self.heap.entries.borrow().first().map(|entry| entry.at)
    }

    /// True if one was added since this was asked last that is due before all that were there.
    pub fn take_first_changed(&self) -> bool {
        self.first_changed.replace(false)
    }

    /// Does what is due at `now`.
    pub fn fire(&self, now: u64) {
        loop {
            let first = self.heap.entries.borrow().first().cloned();
            let Some(first) = first.filter(|first| first.at <= now) else {
                break;
            };
            self.heap.remove(&first);
            let due = first.due.take();
            match due {
                Some(Due::Wake(thread)) => sched::wake(&thread),
                Some(Due::Call(action)) => action(),
                None => {}
            }
        }
    }
}
