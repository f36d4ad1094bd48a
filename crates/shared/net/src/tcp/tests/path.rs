//! Path MTU: RFC 1191, RFC 8201, RFC 5927, RFC 8899.

use std::format;
use std::vec::Vec;

use super::dialogue::{Dialogue, run};
use crate::tcp::Seq;

#[test]
fn a_router_may_say_that_packets_are_too_big() {
    run("
        set gso 65536
        0 < S 0:0(0) win 65535 <mss 1460>
        0 > S. 0:0(0) ack 1
        .1 < . 1:1(0) ack 1 win 65535
        .1 write 2920
        .1 > P. 1:2921(2920) ack 1
        .2 too_big 1220 1
        .2 mss 1200
        # Again and at once, in smaller segments; congestion control sees nothing of it.
        .2 > P. 1:2921(2920) ack 1
        .3 < . 1:1(0) ack 2921 win 65535
        .3 write 12000
        .3 > P. 2921:14921(12000) ack 1
    ");
}

#[test]
fn lies_about_the_path_are_not_believed() {
    run("
        0 < S 0:0(0) win 65535 <mss 1460>
        0 > S. 0:0(0) ack 1
        .1 < . 1:1(0) ack 1 win 65535
        # Nothing is on its way.
        .1 too_big 1220 1
        .1 mss 1460
        .1 write 100
        .1 > P. 1:101(100) ack 1
        .2 too_big 1220 500
        .2 too_big 1220 -1
        .2 mss 1460
        # Larger than before.
        .2 too_big 1600 1
        .2 mss 1460
        # Absurdly small.
        .2 too_big 10 1
        .2 mss 536
        .2 > P. 1:101(100) ack 1
    ");
}

/// Writes, and acknowledges everything until all has left but what is lost for being longer than `path`. Returns the
/// lengths of what left.
fn exchange(dialogue: &mut Dialogue, bytes: u32, path: u32) -> Vec<u32> {
    let now = dialogue.now;
    let data = std::vec![0; bytes as usize];
    assert_eq!(dialogue.tcb().write(&data, now), Ok(data.len()));
    let mut lengths = Vec::new();
    while dialogue.tcb().unacknowledged() > 0 {
        dialogue.pass(10);
        for outgoing in dialogue.take_output() {
            lengths.push(outgoing.len);
            if outgoing.len <= path && outgoing.seq <= dialogue.acknowledged {
                dialogue.acknowledged = dialogue.acknowledged.max(outgoing.seq + outgoing.len);
            }
        }
        let ack = dialogue.acknowledged.0.wrapping_sub(OWN);
        dialogue.arrives(&format!(". 1:1(0) ack {ack} win 65535"));
    }
    lengths
}

const OWN: u32 = 0xffff_fff0;

fn behind_a_black_hole() -> Dialogue {
    let mut dialogue = Dialogue::new(Seq(OWN), Seq(5));
    dialogue.play(
        "set probe_mtu
         0 < S 0:0(0) win 65535 <mss 1460>
         0 > S. 0:0(0) ack 1
         .1 < . 1:1(0) ack 1 win 65535",
    );
    dialogue.checked = false;
    dialogue.acknowledged = Seq(OWN) + 1;
    let lengths = exchange(&mut dialogue, 60_000, 1200);
    assert_eq!(lengths[..2], [1460, 1460]);
    assert_eq!(dialogue.info().mss, 1024);
    dialogue
}

#[test]
fn a_black_hole_is_found_and_left() {
    // RFC 8899 section 4.3. Soon larger ones are tried; the path has come back.
    let mut dialogue = behind_a_black_hole();
    let lengths = exchange(&mut dialogue, 60_000, 1500);
    assert!(lengths.iter().all(|&len| len <= 1024), "{lengths:?}");
    dialogue.pass(6_000);
    let before = dialogue.info().retransmits;
    let lengths = exchange(&mut dialogue, 60_000, 1500);
    assert_eq!(lengths[0], 1460);
    assert!(lengths.iter().filter(|&&len| len == 1024).count() < 20);
    assert_eq!(dialogue.info().mss, 1460);
    assert_eq!(dialogue.info().retransmits, before);
}

#[test]
fn the_largest_size_is_searched() {
    let mut dialogue = behind_a_black_hole();
    dialogue.pass(6_000);
    let _ = exchange(&mut dialogue, 400_000, 1200);
    let mss = dialogue.info().mss;
    assert!((1168..=1200).contains(&mss), "{mss}");
    // Nothing more is tried for ten minutes.
    let lengths = exchange(&mut dialogue, 100_000, 1200);
    assert!(lengths.iter().all(|&len| len <= mss));
}
