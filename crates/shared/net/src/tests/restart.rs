//! Hosts that crash and start again while the other end goes on.

use std::time::Duration;
use std::vec::Vec;

use kiln_abi::NetHeader;

use super::guessing::{answers, introduce, server};
use super::hostile::tcp4;
use super::{B4, World};
use crate::tcp::{Flags, Seq};

const PEER: [u8; 4] = [10, 0, 0, 9];
const PORT: u16 = 40_000;

#[test]
fn a_peer_that_has_started_again_connects_from_the_same_port() {
    let mut world = World::new();
    let (b, listener) = server(&mut world, 1);
    introduce(&world, &b, PEER);
    let send = |world: &World, number: u32, acknowledged: Seq, flags: Flags| {
        let segment = tcp4(PEER, B4, PORT, 80, number, acknowledged.0, flags.0, &[]);
        b.receive(NetHeader::PLAIN, &segment, world.now);
        answers(world, &b)
    };
    // Numbers in the window of the connection before, behind it and far from it.
    let mut next = 1000;
    let starts = [1000, 1500, 900, 0x9000_0000, 0x1000_0000];
    for (before, start) in starts.into_iter().enumerate() {
        if before > 0 {
            // The first SYN meets the old connection, which asks what this is about; the answer ends it.
            let asked = send(&world, start, Seq(0), Flags::SYN);
            assert_eq!(asked.len(), 1, "{start:#x}");
            assert_eq!(send(&world, next, Seq(0), Flags::RST), []);
            assert_eq!(b.stats().established, 0);
            world.now = world.now + Duration::from_secs(1);
        }
        let greeting: Vec<(Seq, u32)> = send(&world, start, Seq(0), Flags::SYN);
        let [(number, _)] = greeting[..] else {
            panic!("no answer to the SYN {start:#x}");
        };
        assert_eq!(send(&world, start + 1, number + 1, Flags::ACK), []);
        // Those that have ended wait to be accepted all the same.
        assert_eq!(
            (b.stats().established, b.stats().connections),
            (1, before + 1)
        );
        next = start + 1;
    }
    drop(listener);
}

#[test]
fn a_host_that_has_started_again_ends_what_it_does_not_know() {
    let mut world = World::new();
    let (b, _listener) = server(&mut world, 1);
    introduce(&world, &b, PEER);
    // What a connection from before may bring: data, an end, a probe.
    for flags in [Flags::ACK, Flags::ACK | Flags::PSH, Flags::ACK | Flags::FIN] {
        let segment = tcp4(PEER, B4, PORT, 80, 5000, 7000, flags.0, b"x");
        b.receive(NetHeader::PLAIN, &segment, world.now);
        // With the number that the peer waits for, so that it is believed.
        assert_eq!(answers(&world, &b), [(Seq(7000), 0)], "{flags:?}");
    }
    // A reset is not answered.
    let reset = tcp4(PEER, B4, PORT, 80, 5000, 7000, Flags::RST.0, &[]);
    b.receive(NetHeader::PLAIN, &reset, world.now);
    assert_eq!(answers(&world, &b), []);
    assert_eq!(b.stats().connections, 0);
}
