//! Links whose devices break the rules.

use std::rc::Rc;
use std::vec::Vec;

use kiln_abi::op::Segment;
use kiln_abi::{NetHeader, OpError};
use proptest::prelude::*;

use super::device::{EVENT_INDEX, INDIRECT};
use super::fronts::{Kind, Shared, open};
use super::memory::{Memory, buffers};
use super::models::{Puppet, device};
use super::net::{ALL, CONFIG, RECEIVE, SEND, Setup, frame};
use crate::Net;

/// A link whose device does only what the test makes it do.
fn puppet(features: u64) -> (Memory, Shared, Net) {
    let memory = Memory::new();
    let (device, _) = device(&memory, (1, features), &CONFIG, &[256, 256], Puppet);
    let (receive, send) = (memory.region(RECEIVE), memory.region(SEND));
    let net = Net::new(open(Kind::Mmio, &device), receive, send).unwrap();
    (memory, device, net)
}

fn into(memory: &Memory) -> [Segment; 1] {
    memory.reset_guest();
    [memory.buffer(0, &[0; 2000])]
}

#[test]
fn runts_are_dropped() {
    let (memory, device, mut net) = puppet(ALL);
    let mut chains: Vec<_> = {
        let core = &mut device.borrow_mut().core;
        core::iter::from_fn(|| core.take(0)).collect()
    };
    for (len, chain) in [0, 1, 11, 12, 25].into_iter().zip(chains.drain(..)) {
        device.borrow_mut().core.give(0, chain.head, len);
    }
    assert_eq!(net.receive(buffers(&into(&memory))), Err(OpError::Again));
    assert!(!net.can_receive());
    let core = &mut device.borrow_mut().core;
    let offered = core::iter::from_fn(|| core.take(0)).count();
    assert_eq!(offered, 5, "they are offered again");
}

#[test]
fn a_frame_of_more_buffers_than_have_come_waits_for_the_others() {
    let (memory, device, mut net) = puppet(ALL);
    let chains: Vec<_> = {
        let core = &mut device.borrow_mut().core;
        core::iter::from_fn(|| core.take(0)).take(3).collect()
    };
    let mut header = [0; 12];
    header[10] = 3;
    chains[0].fill(&memory, &header);
    for (n, chain) in chains.iter().enumerate() {
        assert_eq!(net.receive(buffers(&into(&memory))), Err(OpError::Again));
        let len = if n == 0 { 2048 } else { 10 };
        device.borrow_mut().core.give(0, chain.head, len);
    }
    memory.reset_guest();
    let room = [memory.buffer(0, &[0; 4000])];
    let (len, _) = net.receive(buffers(&room)).expect("all are there");
    assert_eq!(len, 2048 - 12 + 20);
}

#[test]
fn more_buffers_than_there_are_break_the_link() {
    let (memory, device, mut net) = puppet(ALL);
    let chain = device.borrow_mut().core.take(0).unwrap();
    chain.fill(&memory, &[0xff; 60]);
    device.borrow_mut().core.give(0, chain.head, 60);
    assert_eq!(net.receive(buffers(&into(&memory))), Err(OpError::Io));
    assert!(net.can_receive(), "so that the error is heard of");
    assert_eq!(net.receive(buffers(&into(&memory))), Err(OpError::Io));
    // The other direction still works.
    let segment = [memory.buffer(0, &[1; 60])];
    assert_eq!(net.send(NetHeader::PLAIN, buffers(&segment)), Ok(()));
}

#[test]
fn lengths_beyond_the_buffer_are_cut() {
    let (memory, device, mut net) = puppet(ALL);
    let chain = device.borrow_mut().core.take(0).unwrap();
    device.borrow_mut().core.give(0, chain.head, u32::MAX);
    memory.reset_guest();
    let room = [memory.buffer(0, &[0; 9000])];
    let (len, _) = net.receive(buffers(&room)).unwrap();
    assert_eq!(len, 2048 - 12);
}

#[test]
fn answers_for_what_was_never_sent_break_the_link() {
    for (id, count) in [(5, 1), (0, 2), (256, 1), (u32::MAX, 1), (0x1_0000, 1)] {
        let (memory, device, mut net) = puppet(ALL);
        let segment = [memory.buffer(0, &[1; 60])];
        let send = |net: &mut Net| net.send(NetHeader::PLAIN, buffers(&segment));
        for _ in 0..3 {
            send(&mut net).unwrap();
        }
        let first = device.borrow_mut().core.take(1).unwrap();
        assert_eq!(first.head, 0);
        for _ in 0..count {
            device.borrow_mut().core.give_anything(1, id, 0);
        }
        assert_eq!(send(&mut net), Err(OpError::Io), "{id} {count}");
        assert!(net.can_send() && net.listen(false, true));
    }
}

#[test]
fn an_index_that_jumps_breaks_the_link() {
    for jump in [4, 100, 0x8000, 0xffff] {
        let (memory, device, mut net) = puppet(ALL);
        let segment = [memory.buffer(0, &[1; 60])];
        for _ in 0..3 {
            net.send(NetHeader::PLAIN, buffers(&segment)).unwrap();
        }
        let used = device.borrow().core.queues[1].used;
        memory.store16(used + 2, jump);
        let sent = net.send(NetHeader::PLAIN, buffers(&segment));
        assert_eq!(sent, Err(OpError::Io), "{jump}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a device does to rings and buffers, the driver neither panics nor writes outside of the guest's buffers
    /// (which `Setup::receive` checks), nor does it go on for ever.
    #[test]
    fn a_malicious_device_is_survived(
        features in any::<u64>(),
        steps in prop::collection::vec((any::<u8>(), any::<u32>(), any::<u32>(), any::<[u8; 12]>()), 1..200),
    ) {
        let (memory, device, net) = puppet(features & ALL | features & (EVENT_INDEX | INDIRECT));
        let mut setup = Setup { memory: memory.clone(), device: device.clone(), link: Rc::default(), net };
        for (what, a, b, header) in steps {
            let queue = u16::from(what >> 7);
            match what & 7 {
                0 => {
                    let used = device.borrow().core.queues[usize::from(queue)].used;
                    memory.store16(used + 2, a as u16);
                }
                1 => device.borrow_mut().core.give_anything(queue, a, b),
                2 => device.borrow_mut().core.give_anything(queue, a % 80, b % 4096),
                3 => {
                    let mut core = device.borrow_mut();
                    let core = &mut core.core;
                    if let Some(chain) = core.take(queue) {
                        if queue == 0 {
                            chain.fill(&memory, &header);
                        }
                        core.give(queue, chain.head, b % 3000);
                    }
                }
                4 => match setup.receive(&[(a % 5000) as usize, 100]) {
                    Ok((bytes, header)) => {
                        prop_assert!(bytes.len() <= 5100 && header.num_buffers == 1);
                    }
                    Err(error) => prop_assert!(matches!(error, OpError::Again | OpError::Io)),
                },
                5 => {
                    let _ = setup.send(NetHeader::PLAIN, &frame(14 + (a % 9000) as usize, 1));
                }
                6 => setup.net.notify(),
                _ => {
                    setup.net.listen(a & 1 != 0, a & 2 != 0);
                }
            }
            // Devices that break a queue are not served: the model would find rings that the driver left.
            if setup.net.can_receive() && setup.receive(&[0]) == Err(OpError::Io) {
                break;
            }
        }
    }
}
