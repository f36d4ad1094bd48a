//! Loss and its repair, as a connection does it with what `recovery` finds out: RFC 6298, RFC 6675, RFC 8985, RFC 5681.

use super::dialogue::run;

/// A dialogue that goes on from an established connection with SACK, a round trip of 20 ms, and segments cut by the link.
macro_rules! with_sack {
    ($($script:literal)*) => {
        run(concat!(
            "set gso 65536\n",
            "0 < S 0:0(0) win 65535 <mss 1000,sackOK>\n",
            "0 > S. 0:0(0) ack 1 <mss 1460,sackOK>\n",
            ".02 < . 1:1(0) ack 1 win 65535\n",
            $($script)*
        ))
    };
}

#[test]
fn a_gap_in_what_arrived_is_filled() {
    with_sack!(
        "
        .1 write 10000
        .1 > P. 1:10001(10000) ack 1
        .12 < . 1:1(0) ack 1 win 65535 <sack 2001:3001>
        .12 < . 1:1(0) ack 1 win 65535 <sack 2001:4001>
        .12 < . 1:1(0) ack 1 win 65535 <sack 2001:5001>
        # Both segments of the gap, as the reduced window allows.
        .12 > . 1:1001(1000) ack 1
        .12 < . 1:1(0) ack 1 win 65535 <sack 2001:10001>
        .12 > . 1001:2001(1000) ack 1
        .14 < . 1:1(0) ack 10001 win 65535
        .14 state ESTABLISHED
    "
    );
}

#[test]
fn three_duplicates_stand_for_a_loss_without_sack() {
    run("
        set gso 65536
        0 < S 0:0(0) win 65535 <mss 1000>
        0 > S. 0:0(0) ack 1
        .02 < . 1:1(0) ack 1 win 65535
        .1 write 10000
        .1 > P. 1:10001(10000) ack 1
        .12 < . 1:1(0) ack 1 win 65535
        .12 < . 1:1(0) ack 1 win 65535
        .12 < . 1:1(0) ack 1 win 65535
        .12 > . 1:1001(1000) ack 1
        # A partial acknowledgement: the next is lost too (RFC 6582).
        .14 < . 1:1(0) ack 3001 win 65535
        .14 > . 3001:4001(1000) ack 1
        .16 < . 1:1(0) ack 10001 win 65535
    ");
}

#[test]
fn the_tail_is_probed_with_new_data_or_the_last_segment() {
    // RFC 8985 section 7.
    with_sack!(
        "
        .1 write 3000
        .1 > P. 1:3001(3000) ack 1
        .13~.16 > P. 2001:3001(1000) ack 1
        +.02 < . 1:1(0) ack 3001 win 65535 <sack 2001:3001>
        +1 state ESTABLISHED
    "
    );
    with_sack!(
        "
        .1 write 2500
        .1 > P. 1:2501(2500) ack 1
        .11 write 200
        .13~.16 > P. 2501:2701(200) ack 1
        +.02 < . 1:1(0) ack 2701 win 65535
    "
    );
}

#[test]
fn what_times_out_is_repeated_with_growing_pauses() {
    // RFC 6298 section 5.
    run("
        0 < S 0:0(0) win 65535 <mss 1000>
        0 > S. 0:0(0) ack 1
        .02 < . 1:1(0) ack 1 win 65535
        .1 write 100
        .1 > P. 1:101(100) ack 1
        .3~.35 > P. 1:101(100) ack 1
        .7~.8 > P. 1:101(100) ack 1
        1.5~1.7 > P. 1:101(100) ack 1
        3.1~3.4 > P. 1:101(100) ack 1
        +.02 < . 1:1(0) ack 101 win 65535
    ");
}

#[test]
fn after_a_timeout_slow_start_repeats_everything() {
    run("
        set gso 65536
        0 < S 0:0(0) win 65535 <mss 1000>
        0 > S. 0:0(0) ack 1
        .02 < . 1:1(0) ack 1 win 65535
        .1 write 6000
        .1 > P. 1:6001(6000) ack 1
        .3~.35 > . 1:1001(1000) ack 1
        +.02 < . 1:1(0) ack 1001 win 65535
        +0 > . 1001:3001(2000) ack 1
        +.02 < . 1:1(0) ack 3001 win 65535
        +0 > P. 3001:6001(3000) ack 1
        +.02 < . 1:1(0) ack 6001 win 65535
    ");
}

#[test]
fn a_fin_that_was_lost_is_repeated_with_its_data() {
    with_sack!(
        "
        .1 write 1500 &
        .1 close
        .1 > FP. 1:1501(1500) ack 1
        .12 < . 1:1(0) ack 1001 win 65535
        .13~.5 > FP. 1001:1501(500) ack 1
        +.02 < . 1:1(0) ack 1502 win 65535
        +0 state FIN-WAIT-2
    "
    );
}

#[test]
fn a_silence_makes_the_window_small_again() {
    // RFC 5681 section 4.1, RFC 6928 section 2.
    with_sack!(
        "
        .1 write 10000
        .1 > P. 1:10001(10000) ack 1
        .12 < . 1:1(0) ack 10001 win 65535
        .12 write 20000
        .12 > P. 10001:30001(20000) ack 1
        .14 < . 1:1(0) ack 30001 win 65535
        100 write 30000
        100 > . 30001:40001(10000) ack 1
        100.02 < . 1:1(0) ack 40001 win 65535
        100.02 > P. 40001:60001(20000) ack 1
    "
    );
}

#[test]
fn a_round_trip_is_measured() {
    let mut dialogue = super::dialogue::Dialogue::new(crate::tcp::Seq(0), crate::tcp::Seq(0));
    dialogue.play(
        "0 connect
         0 > S 0:0(0) <...>
         .05 < S. 0:0(0) ack 1 win 65535 <mss 1000>
         .05 > . 1:1(0) ack 1",
    );
    assert_eq!(dialogue.info().rtt.as_millis(), 50);
}
