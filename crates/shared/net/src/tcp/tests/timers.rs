//! Timers: user timeout, keep-alive, what ends what. RFC 9293 section 3.8.

use super::dialogue::{Dialogue, run};
use crate::error::Error;
use crate::tcp::{Seq, State};

#[test]
fn data_that_nobody_acknowledges_end_the_connection() {
    let mut dialogue = closed_window("set user_timeout 10", "");
    dialogue.play(
        "1 write 100
         1 > P. 1:101(100) ack 1",
    );
    dialogue.pass(9900);
    assert!(dialogue.take_output().len() >= 4);
    assert_eq!(dialogue.tcb().state(), State::Established);
    dialogue.play(
        "11~11.2 > R. 101:101(0) ack 1
         11.3 state CLOSED
         11.3 error TimedOut",
    );
}

#[test]
fn what_icmp_said_is_the_reason() {
    run("
        set user_timeout .15
        0 < S 0:0(0) win 65535 <mss 1000>
        0 > S. 0:0(0) ack 1
        .1 < . 1:1(0) ack 1 win 65535
        .2 write 100
        .2 > P. 1:101(100) ack 1
        .25 icmp Unreachable 1
        .25 state ESTABLISHED
        .35 > R. 101:101(0) ack 1
        .35 error Unreachable
    ");
}

#[test]
fn keep_alive() {
    // RFC 9293 section 3.8.4.
    run("
        set keepalive 10 2 3
        0 < S 0:0(0) win 65535 <mss 1000>
        0 > S. 0:0(0) ack 1
        0 < . 1:1(0) ack 1 win 65535
        10 > . 0:0(0) ack 1
        10.1 < . 1:1(0) ack 1 win 65535
        20.1 > . 0:0(0) ack 1
        22.1 > . 0:0(0) ack 1
        22.2 < . 1:1(0) ack 1 win 65535
        32.2 > . 0:0(0) ack 1
        34.2 > . 0:0(0) ack 1
        36.2 > . 0:0(0) ack 1
        38.2 > R. 1:1(0) ack 1
        38.2 state CLOSED
        38.2 error TimedOut
    ");
}

#[test]
fn a_peers_keep_alive_is_answered() {
    established!(
        "
        7200 < . 0:0(0) ack 1 win 65535
        7200 > . 1:1(0) ack 1
        7300 < . 0:1(1) ack 1 win 65535
        7300 > . 1:1(0) ack 1
        7300 state ESTABLISHED
    "
    );
}

/// Established; then what the peer says at last, with a window of 100 at first.
fn closed_window(set: &str, rest: &str) -> Dialogue {
    let mut dialogue = Dialogue::new(Seq(9), Seq(8));
    dialogue.play(set);
    dialogue.play(
        "0 < S 0:0(0) win 100 <mss 1000>
         0 > S. 0:0(0) ack 1
         .1 < . 1:1(0) ack 1 win 100",
    );
    dialogue.play(rest);
    dialogue
}

const CLOSE_THE_WINDOW: &str = "
    .1 write 200
    .1 > . 1:101(100) ack 1
    .2 < . 1:1(0) ack 101 win 0";

#[test]
fn probes_that_are_not_answered_end_the_connection() {
    let mut dialogue = closed_window("set user_timeout 30", CLOSE_THE_WINDOW);
    dialogue.pass(29_000);
    assert_eq!(dialogue.tcb().state(), State::Established);
    assert!(dialogue.take_output().len() >= 5);
    dialogue.pass(5000);
    assert_eq!(dialogue.tcb().error(), Some(Error::TimedOut));
}

#[test]
fn a_window_may_stay_closed_as_long_as_probes_are_answered() {
    // RFC 9293 section 3.8.6.1: MUST-37.
    let mut dialogue = closed_window("set user_timeout 30", CLOSE_THE_WINDOW);
    for _ in 0..1800 {
        dialogue.pass(1000);
        if !dialogue.take_output().is_empty() {
            dialogue.arrives(". 1:1(0) ack 101 win 0");
        }
        assert_eq!(dialogue.tcb().state(), State::Established);
    }
}

/// When an orphan with a closed window ends, in seconds.
fn end_of_orphan(answered: bool) -> u32 {
    let mut dialogue = closed_window("", CLOSE_THE_WINDOW);
    let now = dialogue.now;
    dialogue.tcb().orphan(now);
    for second in 1..400 {
        dialogue.pass(1000);
        let left = !dialogue.take_output().is_empty();
        if dialogue.tcb().state() == State::Closed {
            assert!(left, "the peer is told");
            return second;
        }
        if left && answered {
            dialogue.arrives(". 1:1(0) ack 101 win 0");
        }
    }
    panic!("it holds memory for ever");
}

#[test]
fn an_orphan_with_a_closed_window_is_given_up() {
    assert!((100..150).contains(&end_of_orphan(false)));
    // Later if the peer is there.
    assert!((200..300).contains(&end_of_orphan(true)));
}

#[test]
fn a_refused_segment_leaves_again() {
    established!(
        "
        .1 write 100
        .1 > P. 1:101(100) ack 1
        .1 refuse
        .1 > P. 1:101(100) ack 1
        .2 < . 1:1(0) ack 101 win 65535
        .3 < . 1:1001(1000) ack 101 win 65535
        .3 > . 101:101(0) ack 1001
        .3 refuse
        .3 > . 101:101(0) ack 1001
    "
    );
}

#[test]
fn a_window_that_shrinks_is_respected() {
    // RFC 9293 section 3.8.6: what was sent is repeated, at least its first segment; nothing new leaves.
    established!(
        "
        .1 write 3000
        .1 > . 1:1001(1000) ack 1
        .1 > . 1001:2001(1000) ack 1
        .1 > P. 2001:3001(1000) ack 1
        .2 < . 1:1(0) ack 1 win 0
        .2 write 1000
        .3~1.6 > . 1:1001(1000) ack 1
        +.01 < . 1:1(0) ack 1001 win 0
        +.2~+5 > . 1001:2001(1000) ack 1
        +.01 < . 1:1(0) ack 3001 win 2000
        +0 > P. 3001:4001(1000) ack 1
    "
    );
}
