//! Queues by themselves.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::device::{EVENT_INDEX, INDIRECT};
use super::fronts::{Kind, Shared, open};
use super::memory::Memory;
use super::models::{Puppet, device};
use crate::Error;
use crate::queue::{Piece, Queue, TABLE_LENGTH, power_below};
use crate::transport::Transport;

/// A queue of `size` entries, `entries` of which are used, of a device that does what the test makes it do.
fn start(features: u64, size: u16, entries: u16, tables: u16) -> (Memory, Shared, Queue) {
    let memory = Memory::new();
    let (device, mut transport, features) = prepare(&memory, features, size);
    let region = memory.region(Queue::memory_needed(size, tables));
    let queue = Queue::new(&mut transport, 0, (size, entries), tables, features, region)
        .expect("the queue starts");
    transport.start();
    (memory, device, queue)
}

fn prepare(memory: &Memory, features: u64, limit: u16) -> (Shared, Transport, u64) {
    let (device, _) = device(memory, (4, features), &[], &[limit], Puppet);
    let mut transport = open(Kind::Mmio, &device);
    let features = transport
        .negotiate(crate::DeviceType::ENTROPY, 0)
        .expect("features are agreed on");
    (device, transport, features)
}

fn piece(phys: u64, len: u32, writable: bool) -> Piece {
    Piece {
        phys,
        len,
        writable,
    }
}

#[test]
fn sizes_are_powers_of_two_and_fit() {
    let memory = Memory::new();
    let try_new = |size, entries, limit, bytes| {
        let (_, mut transport, features) = prepare(&memory, 0, limit);
        let region = memory.region(bytes);
        Queue::new(&mut transport, 0, (size, entries), 0, features, region).err()
    };
    let needed = Queue::memory_needed(16, 0);
    assert_eq!(try_new(16, 16, 16, needed), None);
    assert_eq!(try_new(16, 16, 16, needed - 1), Some(Error::Memory));
    assert_eq!(try_new(16, 17, 16, needed), Some(Error::NoQueue));
    assert_eq!(try_new(16, 16, 8, needed), Some(Error::NoQueue));
    assert_eq!(try_new(12, 12, 16, needed), Some(Error::NoQueue));
    assert_eq!(try_new(0, 0, 16, needed), Some(Error::NoQueue));
    assert_eq!(
        [0, 1, 2, 3, 255, 256, 0xffff].map(power_below),
        [0, 1, 2, 2, 128, 256, 0x8000]
    );
}

#[test]
fn memory_is_split_only_where_it_stays_aligned() {
    let memory = Memory::new();
    for (len, splits) in [
        (0, true),
        (16, true),
        (8, false),
        (4096, true),
        (4112, false),
    ] {
        let parts = memory.region(4096).split(len);
        assert_eq!(parts.is_some(), splits, "{len}");
        if let Some((first, second)) = parts {
            assert_eq!((first.size(), second.size()), (len, 4096 - len));
            assert_eq!(second.phys(), first.phys() + len as u64);
        }
    }
}

#[test]
fn a_chain_longer_than_a_table_goes_into_the_ring() {
    let (memory, device, mut queue) = start(INDIRECT, 64, 64, 1);
    let region = memory.region(4096);
    let pieces = |count: usize| vec![piece(region.phys(), 8, false); count];
    for (count, indirect) in [
        (1, false),
        (2, true),
        (TABLE_LENGTH, true),
        (TABLE_LENGTH + 1, false),
    ] {
        queue.add(&pieces(count)).expect("room");
        let chain = device.borrow_mut().core.take(0).unwrap();
        assert_eq!((chain.readable.len(), chain.indirect), (count, indirect));
        device.borrow_mut().core.give(0, chain.head, 0);
        assert!(queue.pop().is_some());
        assert_eq!(queue.free_count(), 64);
    }
    assert_eq!(queue.add(&pieces(65)), None);
    assert_eq!(queue.add(&[]), None);
}

#[test]
fn without_agreement_there_are_no_tables() {
    let (memory, device, mut queue) = start(0, 8, 8, 1);
    let region = memory.region(4096);
    queue.add(&[piece(region.phys(), 8, false); 3]).unwrap();
    assert_eq!(queue.free_count(), 5);
    assert!(!device.borrow_mut().core.take(0).unwrap().indirect);
    assert_eq!(queue.longest_chain(), 8);
}

#[test]
fn an_index_ahead_of_what_was_given_breaks_the_queue_at_once() {
    for (ahead, pops) in [(1, true), (2, false), (16, false), (0xffff, false)] {
        let (memory, device, mut queue) = start(0, 16, 16, 0);
        let data = memory.region(4096);
        queue.add(&[piece(data.phys(), 8, true)]).unwrap();
        let used = device.borrow().core.queues[0].used;
        memory.store16(used + 2, ahead);
        assert_eq!((queue.pop().is_some(), queue.is_broken()), (pops, !pops));
    }
}

/// What the driver gave and has not got back.
#[derive(Clone, Debug)]
struct Flight {
    pieces: Vec<Piece>,
    taken: bool,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Chains of any form, given back in any order: the device sees exactly what was added, the driver gets exactly what
    /// was given back, and no descriptor is lost or used twice.
    #[test]
    fn a_queue_keeps_its_accounts(
        indirect in any::<bool>(),
        event in any::<bool>(),
        log in 0u32..7,
        unused in 0u16..3,
        tables in 0u16..4,
        steps in prop::collection::vec((0u8..3, any::<usize>(), 0usize..8, 0usize..8), 1..400),
    ) {
        let size = 1u16 << log;
        let entries = size - unused.min(size - 1);
        let features = if indirect { INDIRECT } else { 0 } | if event { EVENT_INDEX } else { 0 };
        let (memory, device, mut queue) = start(features, size, entries, tables);
        let data = memory.region(4096);
        let mut flights: BTreeMap<u16, Flight> = BTreeMap::new();
        let mut given: Vec<(u16, u32)> = Vec::new();
        for (what, pick, reads, writes) in steps {
            match what {
                0 => {
                    let pieces: Vec<Piece> = (0..reads + writes)
                        .map(|n| piece(data.phys() + (pick % 2000) as u64, n as u32 + 1, n >= reads))
                        .collect();
                    let before = queue.free_count();
                    let first = queue.first_free();
                    let in_table = indirect && pieces.len() > 1 && first < tables && before > 0;
                    let fits = (in_table || pieces.len() <= usize::from(before))
                        && (1..=usize::from(size)).contains(&pieces.len());
                    let added = queue.add(&pieces);
                    prop_assert_eq!(added, fits.then_some(first));
                    if let Some(head) = added {
                        prop_assert!(head < entries);
                        let flight = Flight { pieces, taken: false };
                        prop_assert!(flights.insert(head, flight).is_none());
                    }
                }
                1 => {
                    let core = &mut device.borrow_mut().core;
                    while let Some(chain) = core.take(0) {
                        let flight = flights.get_mut(&chain.head).expect("it was added");
                        flight.taken = true;
                        let seen = chain.readable.iter().map(|(phys, len)| piece(*phys, *len, false));
                        let seen = seen.chain(chain.writable.iter().map(|(phys, len)| piece(*phys, *len, true)));
                        prop_assert!(seen.eq(flight.pieces.iter().copied()));
                    }
                    let mut open: Vec<u16> = flights.iter().filter(|(_, flight)| flight.taken).map(|(head, _)| *head).collect();
                    open.retain(|head| given.iter().all(|(other, _)| other != head));
                    for n in 0..reads.min(open.len()) {
                        let head = open.remove(pick % open.len());
                        core.give(0, head, n as u32);
                        given.push((head, n as u32));
                    }
                }
                _ => {
                    prop_assert_eq!(usize::from(queue.pending()), given.len());
                    for (head, len) in given.drain(..given.len().min(reads)) {
                        let flight = flights.remove(&head).expect("it was added");
                        let most = flight.pieces.iter().filter(|piece| piece.writable).map(|piece| piece.len).sum();
                        let used = queue.pop().expect("it was given back");
                        prop_assert_eq!((used.head, used.len), (head, len.min(most)));
                        prop_assert_eq!(queue.first_free(), head);
                    }
                }
            }
            prop_assert!(!queue.is_broken());
        }
        let core = &mut device.borrow_mut().core;
        while let Some(chain) = core.take(0) {
            core.give(0, chain.head, 0);
        }
        for (head, flight) in &flights {
            if flight.taken && given.iter().all(|(other, _)| other != head) {
                core.give(0, *head, 0);
            }
        }
        while queue.pop().is_some() {}
        prop_assert_eq!(queue.free_count(), entries);
    }

    /// Whatever stands in the used ring, only chains in flight come back, each once.
    #[test]
    fn a_used_ring_of_nonsense_gives_back_nothing_twice(
        chains in 1u16..8,
        index in 0u16..20,
        entries in prop::collection::vec((0u32..20, any::<u32>()), 16),
    ) {
        let (memory, device, mut queue) = start(0, 16, 16, 0);
        let data = memory.region(4096);
        let mut open: Vec<u16> = (0..chains)
            .map(|_| queue.add(&[piece(data.phys(), 100, true); 2]).expect("room"))
            .collect();
        let used = device.borrow().core.queues[0].used;
        for (n, (id, len)) in entries.iter().enumerate() {
            memory.write(used + 4 + n as u64 * 8, &id.to_le_bytes());
            memory.write(used + 8 + n as u64 * 8, &len.to_le_bytes());
        }
        memory.store16(used + 2, index);
        let mut count = 0;
        while let Some(back) = queue.pop() {
            let place = open.iter().position(|head| *head == back.head).expect("not in flight");
            open.remove(place);
            prop_assert!(back.len <= 200);
            count += 1;
        }
        prop_assert_eq!(queue.free_count(), 16 - 2 * open.len() as u16);
        prop_assert_eq!(queue.is_broken(), count != index);
        if queue.is_broken() {
            prop_assert_eq!(queue.add(&[piece(data.phys(), 1, true)]), None);
            prop_assert!(queue.listen(true), "so that the error is heard of");
        }
    }
}

/// A bell that one side rings and the other waits for. A ring that nobody hears within ten seconds is a lost one.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn wait(&self, whose: &str, over: &AtomicBool) {
        let rung = self.rung.lock().unwrap();
        let (mut rung, timeout) = self
            .changed
            .wait_timeout_while(rung, Duration::from_secs(10), |rung| {
                !*rung && !over.load(Ordering::SeqCst)
            })
            .unwrap();
        assert!(
            !timeout.timed_out(),
            "{whose} waits for a call that was lost"
        );
        *rung = false;
    }
}

/// The device's side, on its way to another thread, memory included.
struct Other(Memory, super::device::Queue);

// SAFETY: the memory is shared as between driver and device; its counters stay as they are meanwhile.
unsafe impl Send for Other {}

/// Driver and device on threads of their own, sleeping whenever there is nothing to do: a wake-up lost by either would
/// stop both.
#[test]
fn no_wakeup_is_lost_between_threads() {
    const ROUNDS: usize = 100_000;
    for features in [0, EVENT_INDEX] {
        let (memory, shared, mut queue) = start(features, 8, 8, 0);
        let data = memory.region(4096);
        let (to_device, to_driver) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
        let over = Arc::new(AtomicBool::new(false));
        let interrupts = AtomicUsize::new(0);
        let ring = core::mem::take(&mut shared.borrow_mut().core.queues[0]);
        let other = Other(memory.clone(), ring);
        std::thread::scope(|scope| {
            let (bell, call, end, count) = (&to_device, &to_driver, &over, &interrupts);
            scope.spawn(move || {
                let other = other;
                let Other(memory, mut ring) = other;
                let features = features | super::device::VERSION_1;
                while !end.load(Ordering::SeqCst) {
                    let mut worked = false;
                    while let Some(chain) = ring.take(&memory, features) {
                        worked = true;
                        if ring.give(&memory, features, chain.head, 1) {
                            count.fetch_add(1, Ordering::SeqCst);
                            call.ring();
                        }
                    }
                    ring.want(&memory, features, true);
                    let missed = memory.load16(ring.available + 2) != ring.taken;
                    if !worked && !missed {
                        bell.wait("the device", end);
                    }
                    ring.want(&memory, features, false);
                }
                std::mem::forget(memory);
            });
            let mut back = 0;
            let mut added = 0;
            while back < ROUNDS {
                // Now one, now as many as fit.
                for _ in 0..=(added % 9) {
                    if added < ROUNDS && queue.add(&[piece(data.phys(), 4, true)]).is_some() {
                        added += 1;
                    }
                }
                if queue.wants_notification() {
                    to_device.ring();
                }
                while let Some(used) = queue.pop() {
                    assert_eq!(used.len, 1);
                    back += 1;
                }
                assert!(!queue.is_broken());
                if queue.free_count() < 8 && !queue.listen(true) {
                    to_driver.wait("the driver", &over);
                }
                queue.listen(false);
            }
            over.store(true, Ordering::SeqCst);
            to_device.ring();
        });
        assert!(interrupts.load(Ordering::SeqCst) > 0);
    }
}
