//! Console, random numbers, balloon.

use std::vec;
use std::vec::Vec;

use kiln_abi::OpError;

use super::device::{EVENT_INDEX, INDIRECT};
use super::fronts::{KINDS, Kind, open};
use super::memory::{Host, Memory, PAGE};
use super::models::{Counter, Puppet, Reports, Terminal, device};
use crate::memory::Platform;
use crate::{Balloon, Console, Entropy, Error};

const FEATURES: [u64; 3] = [0, EVENT_INDEX, EVENT_INDEX | INDIRECT];

fn never(_: usize) {
    panic!("waits though the device has answered");
}

#[test]
fn console_text_comes_out_in_order() {
    for kind in KINDS {
        for features in FEATURES {
            let memory = Memory::new();
            let (device, terminal) =
                device(&memory, (3, features), &[], &[16, 16], Terminal::default());
            let mut console =
                Console::new(open(kind, &device), memory.region(Console::MEMORY)).unwrap();
            let mut never = never;
            let mut host = Host::new(&memory, &mut never);
            let text: Vec<u8> = (0..40_000u32).map(|n| (n % 251) as u8).collect();
            console.write(&text, &mut host).unwrap();
            console.write(b"", &mut host).unwrap();
            console.write(b"end\n", &mut host).unwrap();
            let shown = &terminal.borrow().text;
            assert_eq!(shown[..40_000], text);
            assert_eq!(&shown[40_000..], b"end\n");
            assert_eq!(device.borrow().core.interrupts, 0);
        }
    }
}

#[test]
fn typed_bytes_come_one_by_one() {
    for kind in KINDS {
        for features in FEATURES {
            let memory = Memory::new();
            let (device, terminal) =
                device(&memory, (3, features), &[], &[16, 16], Terminal::default());
            let mut console =
                Console::new(open(kind, &device), memory.region(Console::MEMORY)).unwrap();
            assert_eq!(console.read(), None);
            assert!(!console.listen(true));
            let typed: Vec<u8> = (0..200).collect();
            terminal.borrow_mut().typed.extend(&typed);
            terminal.borrow_mut().type_in(&mut device.borrow_mut().core);
            assert_eq!(device.borrow().core.interrupts, 1);
            console.acknowledge();
            assert!(console.listen(true), "there is something");
            let read: Vec<u8> = core::iter::from_fn(|| console.read()).collect();
            assert_eq!(read, typed);
            assert!(!console.listen(false));
        }
    }
}

#[test]
fn a_console_that_breaks_its_queues_is_quiet() {
    let memory = Memory::new();
    let (device, _) = device(&memory, (3, 0), &[], &[2, 2], Puppet);
    let mut console =
        Console::new(open(Kind::Mmio, &device), memory.region(Console::MEMORY)).unwrap();
    device.borrow_mut().core.give_anything(0, 7, 1);
    device.borrow_mut().core.give_anything(1, 0xffff_ffff, 1);
    assert_eq!(console.read(), None);
    assert!(!console.listen(true), "a dead queue is nothing to wake for");
    let mut never = never;
    let mut host = Host::new(&memory, &mut never);
    assert_eq!(console.write(b"x", &mut host), Err(OpError::Io));
}

#[test]
fn more_typed_than_fits_is_cut() {
    let memory = Memory::new();
    let (device, _) = device(&memory, (3, 0), &[], &[2, 2], Puppet);
    let mut console =
        Console::new(open(Kind::Mmio, &device), memory.region(Console::MEMORY)).unwrap();
    device.borrow_mut().core.give_anything(0, 0, 0xffff_ffff);
    let read = core::iter::from_fn(|| console.read()).count();
    assert_eq!(read, 64);
    // None at all is no byte either, and the buffer is given to the device again.
    device.borrow_mut().core.give_anything(0, 0, 0);
    assert_eq!(console.read(), None);
    device.borrow_mut().core.give_anything(0, 0, 2);
    assert_eq!(core::iter::from_fn(|| console.read()).count(), 2);
}

#[test]
fn random_numbers_fill_the_buffer() {
    for kind in KINDS {
        for most in [1, 7, 1000] {
            let memory = Memory::new();
            let model = Counter { next: 0, most };
            let (device, _) = device(&memory, (4, EVENT_INDEX), &[], &[64], model);
            let mut entropy =
                Entropy::new(open(kind, &device), memory.region(Entropy::MEMORY)).unwrap();
            let mut never = never;
            let mut host = Host::new(&memory, &mut never);
            let mut bytes = [0; 600];
            entropy.fill(&mut bytes, &mut host).unwrap();
            assert!(bytes.iter().enumerate().all(|(n, byte)| *byte == n as u8));
        }
    }
}

#[test]
fn a_source_that_gives_nothing_fails() {
    let memory = Memory::new();
    let model = Counter { next: 0, most: 0 };
    let (device, _) = device(&memory, (4, 0), &[], &[64], model);
    let mut entropy =
        Entropy::new(open(Kind::Mmio, &device), memory.region(Entropy::MEMORY)).unwrap();
    let mut never = never;
    let mut host = Host::new(&memory, &mut never);
    assert_eq!(entropy.fill(&mut [0; 4], &mut host), Err(OpError::Io));
    assert_eq!(entropy.fill(&mut [], &mut host), Ok(()));
}

#[test]
fn a_late_answer_is_waited_for_with_interrupts_on() {
    for features in FEATURES {
        let memory = Memory::new();
        let (device, _) = device(&memory, (4, features), &[], &[64], Puppet);
        let mut entropy =
            Entropy::new(open(Kind::Mmio, &device), memory.region(Entropy::MEMORY)).unwrap();
        for round in 1..=3 {
            let mut meanwhile = |wait| {
                if wait == 3 {
                    let core = &mut device.borrow_mut().core;
                    let chain = core.take(0).expect("the request");
                    core.give(0, chain.head, 8);
                }
            };
            let mut host = Host::new(&memory, &mut meanwhile);
            entropy.fill(&mut [0; 8], &mut host).unwrap();
            assert_eq!(host.waits, 3);
            assert_eq!(device.borrow().core.interrupts, round);
            assert_eq!(device.borrow().core.interrupt, 0, "taken back");
        }
    }
}

#[test]
fn free_pages_are_reported_by_physical_address() {
    for kind in KINDS {
        // Which of statistics and hints are offered decides the queue.
        for (offered, queue) in [(0, 2), (2, 3), (8, 3), (10, 4)] {
            let memory = Memory::new();
            let (device, reports) = device(
                &memory,
                (5, 1 << 5 | offered),
                &[],
                &[128; 5],
                Reports::default(),
            );
            let mut balloon =
                Balloon::new(open(kind, &device), memory.region(Balloon::MEMORY)).unwrap();
            let pages = memory.buffer(0, &vec![1; 4 * PAGE]);
            let mut never = never;
            let mut host = Host::new(&memory, &mut never);
            balloon.release(pages.addr, pages.len, &mut host).unwrap();
            let expected: Vec<_> = (0..4)
                .map(|page| {
                    let (phys, _) = host.translate(pages.addr + page * 4096).unwrap();
                    (queue, phys, 4096)
                })
                .collect();
            assert_eq!(reports.borrow().ranges, expected);
            let nowhere = balloon.release(0x1000, 4096, &mut host);
            assert_eq!(nowhere, Err(OpError::BadAddress));
        }
    }
}

#[test]
fn a_balloon_without_reports_is_refused() {
    let memory = Memory::new();
    let (device, _) = device(&memory, (5, 2), &[], &[128; 5], Reports::default());
    let balloon = Balloon::new(open(Kind::Mmio, &device), memory.region(Balloon::MEMORY));
    assert_eq!(balloon.err(), Some(Error::Features));
}
