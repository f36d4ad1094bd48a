//! Timestamps (RFC 7323), SACK (RFC 2018, RFC 2883), ECN (RFC 3168).

use super::dialogue::run;

/// A dialogue that goes on from an established connection with timestamps and SACK; the peer's clock shows 100.
macro_rules! with_timestamps {
    ($($script:literal)*) => {
        run(concat!(
            "0 < S 0:0(0) win 65535 <mss 1012,sackOK,TS val 100 ecr 0>\n",
            "0 > S. 0:0(0) ack 1 <mss 1460,sackOK,TS val 1000 ecr 100>\n",
            "0 < . 1:1(0) ack 1 win 65535 <TS val 100 ecr 1000>\n",
            $($script)*
        ))
    };
}

/// The same with SACK alone.
macro_rules! with_sack {
    ($($script:literal)*) => {
        run(concat!(
            "0 < S 0:0(0) win 65535 <mss 1000,sackOK>\n",
            "0 > S. 0:0(0) ack 1 <mss 1460,sackOK>\n",
            "0 < . 1:1(0) ack 1 win 65535\n",
            $($script)*
        ))
    };
}

/// The same with ECN alone.
macro_rules! with_ecn {
    ($($script:literal)*) => {
        run(concat!(
            "set ecn\n",
            "0 < SEW 0:0(0) win 65535 <mss 1000>\n",
            "0 > SE. 0:0(0) ack 1\n",
            "0 < . 1:1(0) ack 1 win 65535\n",
            $($script)*
        ))
    };
}

#[test]
fn segments_carry_both_clocks() {
    with_timestamps!(
        "
        .1 write 1500
        .1 > . 1:1001(1000) ack 1 <TS val 1100 ecr 100>
        .1 > P. 1001:1501(500) ack 1 <TS val 1100 ecr 100>
        .105 < . 1:1(0) ack 1501 win 65535 <TS val 205 ecr 1100>
        .3 < P. 1:101(100) ack 1501 win 65535 <TS val 400 ecr 1100>
        .34 > . 1501:1501(0) ack 101 <TS val 1340 ecr 400>
    "
    );
}

#[test]
fn the_earliest_unacknowledged_segment_is_echoed() {
    // RFC 7323 section 4.3: a delayed acknowledgement echoes the first of two segments.
    with_timestamps!(
        "
        .1 < P. 1:101(100) ack 1 win 65535 <TS val 200 ecr 1000>
        .11 < P. 101:201(100) ack 1 win 65535 <TS val 210 ecr 1000>
        .11 > . 1:1(0) ack 201 <TS val 1110 ecr 200>
        # Behind a gap: the last that advanced the window is echoed.
        .2 < P. 301:401(100) ack 1 win 65535 <TS val 220 ecr 1000>
        .2 > . 1:1(0) ack 201 <TS val 1200 ecr 200,sack 301:401>
        # The segment that fills it.
        .3 < P. 201:301(100) ack 1 win 65535 <TS val 230 ecr 1000>
        .3 > . 1:1(0) ack 401 <TS val 1300 ecr 230>
    "
    );
}

#[test]
fn segments_from_the_past_are_refused() {
    // RFC 7323 section 5.3.
    with_timestamps!(
        "
        .1 < P. 1:101(100) ack 1 win 65535 <TS val 99 ecr 1000>
        .1 > . 1:1(0) ack 1 <TS val 1100 ecr 100>
        .2 < P. 1:101(100) ack 1 win 65535 <TS val 2147483748 ecr 1000>
        .2 > . 1:1(0) ack 1 <TS val 1200 ecr 100>
        .3 < P. 1:101(100) ack 1 win 65535 <TS val 2147483747 ecr 1000>
        .34 > . 1:1(0) ack 101 <TS val 1340 ecr 2147483747>
        # A reset is heard whatever its timestamp.
        .4 < R 101:101(0) <TS val 5 ecr 5>
        .4 state CLOSED
    "
    );
}

#[test]
fn segments_without_timestamps_are_dropped() {
    // RFC 7323 section 3.2.
    with_timestamps!(
        "
        .1 < P. 1:101(100) ack 1 win 65535
        .2 < F. 1:1(0) ack 1 win 65535
        .2 state ESTABLISHED
        .3 < R. 1:1(0) ack 1
        .3 state CLOSED
    "
    );
}

#[test]
fn timestamps_that_nobody_agreed_on_are_ignored() {
    established!(
        "
        .1 < P. 1:101(100) ack 1 win 65535 <TS val 99 ecr 1000>
        .14 > . 1:1(0) ack 101 <>
        .2 < P. 101:201(100) ack 1 win 65535 <TS val 9 ecr 1000>
        .24 > . 1:1(0) ack 201 <>
    "
    );
}

#[test]
fn an_old_timestamp_loses_its_meaning_in_24_days() {
    // RFC 7323 section 5.5.
    with_timestamps!(
        "
        2000000 < P. 1:101(100) ack 1 win 65535 <TS val 50 ecr 1000>
        2000000 > . 1:1(0) ack 1 <TS val _ ecr 100>
        2100000 < P. 1:101(100) ack 1 win 65535 <TS val 50 ecr 1000>
        2100000.04 > . 1:1(0) ack 101 <TS val _ ecr 50>
    "
    );
}

#[test]
fn what_waits_behind_gaps_is_reported() {
    // RFC 2018 section 4: the most recent block first.
    with_sack!(
        "
        .1 < P. 101:201(100) ack 1 win 65535
        .1 > . 1:1(0) ack 1 <sack 101:201>
        .1 < P. 301:401(100) ack 1 win 65535
        .1 > . 1:1(0) ack 1 <sack 301:401 101:201>
        .1 < P. 501:601(100) ack 1 win 65535
        .1 > . 1:1(0) ack 1 <sack 501:601 301:401 101:201>
        .1 < P. 701:801(100) ack 1 win 65535
        .1 > . 1:1(0) ack 1 <sack 701:801 501:601 301:401 101:201>
        .1 < P. 901:1001(100) ack 1 win 65535
        .1 > . 1:1(0) ack 1 <sack 901:1001 701:801 501:601 301:401>
        .1 < P. 1:101(100) ack 1 win 65535
        .1 > . 1:1(0) ack 201 <sack 901:1001 701:801 501:601 301:401>
    "
    );
}

#[test]
fn with_timestamps_three_blocks_fit() {
    with_timestamps!(
        "
        .1 < P. 101:201(100) ack 1 win 65535 <TS val 100 ecr 1000>
        .1 > . 1:1(0) ack 1 <TS val _ ecr 100,sack 101:201>
        .1 < P. 301:401(100) ack 1 win 65535 <TS val 100 ecr 1000>
        .1 > . 1:1(0) ack 1 <TS val _ ecr 100,sack 301:401 101:201>
        .1 < P. 501:601(100) ack 1 win 65535 <TS val 100 ecr 1000>
        .1 > . 1:1(0) ack 1 <TS val _ ecr 100,sack 501:601 301:401 101:201>
        .1 < P. 701:801(100) ack 1 win 65535 <TS val 100 ecr 1000>
        .1 > . 1:1(0) ack 1 <TS val _ ecr 100,sack 701:801 501:601 301:401>
        # Data leave room for the blocks, RFC 6691.
        .1 write 1500
        .1 > . 1:973(972) ack 1 <TS val _ ecr 100,sack 701:801 501:601 301:401>
        .1 > P. 973:1501(528) ack 1 <...>
    "
    );
}

#[test]
fn duplicates_are_reported_once() {
    // RFC 2883 section 4.
    with_sack!(
        "
        .1 < P. 1:201(200) ack 1 win 65535
        .14 > . 1:1(0) ack 201 <>
        .2 < P. 1:101(100) ack 1 win 65535
        .2 > . 1:1(0) ack 201 <sack 1:101>
        .3 < P. 151:301(150) ack 1 win 65535
        .3 > . 1:1(0) ack 301 <sack 151:201>
        .4 < P. 401:501(100) ack 1 win 65535
        .4 > . 1:1(0) ack 301 <sack 401:501>
        .5 < P. 401:501(100) ack 1 win 65535
        .5 > . 1:1(0) ack 301 <sack 401:501 401:501>
        .6 < P. 301:401(100) ack 1 win 65535
        .6 > . 1:1(0) ack 501 <>
    "
    );
}

#[test]
fn a_block_that_held_a_duplicate_is_told_of_again() {
    with_sack!(
        "
        .1 < P. 1001:2001(1000) ack 1 win 65535
        .1 > . 1:1(0) ack 1 <sack 1001:2001>
        .11 < P. 1001:2001(1000) ack 1 win 65535
        .11 > . 1:1(0) ack 1 <sack 1001:2001 1001:2001>
        .12 < P. 3001:4001(1000) ack 1 win 65535
        .12 > . 1:1(0) ack 1 <sack 3001:4001 1001:2001>
    "
    );
}

#[test]
fn without_sack_nothing_is_reported() {
    established!(
        "
        .1 < P. 101:201(100) ack 1 win 65535
        .1 > . 1:1(0) ack 1 <>
        .1 < P. 101:201(100) ack 1 win 65535
        .1 > . 1:1(0) ack 1 <>
    "
    );
}

#[test]
fn what_was_shed_is_taken_again() {
    // RFC 2018 section 8.
    with_sack!(
        "
        .1 < P. 101:201(100) ack 1 win 65535
        .1 > . 1:1(0) ack 1 <sack 101:201>
        .1 shed
        .2 < P. 1:101(100) ack 1 win 65535
        .24 > . 1:1(0) ack 101 <>
        .3 < P. 101:201(100) ack 1 win 65535
        .34 > . 1:1(0) ack 201 <>
        .3 read 200
    "
    );
}

#[test]
fn a_mark_is_echoed_until_the_peer_has_heard() {
    // RFC 3168 section 6.1.3.
    with_ecn!(
        "
        .1 < [ce] P. 1:101(100) ack 1 win 65535
        .1 > [noecn] E. 1:1(0) ack 101
        .2 < [ect0] P. 101:201(100) ack 1 win 65535
        .24 > E. 1:1(0) ack 201
        .3 write 100
        .3 > [ect0] EP. 1:101(100) ack 201
        .4 < [ect0] PW. 201:301(100) ack 101 win 65535
        .44 > . 101:101(0) ack 301
        # A mark on the very segment that says CWR starts it again.
        .5 < [ce] P. 301:401(100) ack 101 win 65535
        .5 > E. 101:101(0) ack 401
        .6 < [ce] PW. 401:501(100) ack 101 win 65535
        .6 > E. 101:101(0) ack 501
    "
    );
}

#[test]
fn an_echo_reduces_the_window_once() {
    // RFC 3168 section 6.1.2.
    with_ecn!(
        "
        set gso 65536
        .1 write 30000
        .1 > [ect0] . 1:10001(10000) ack 1
        .2 < E. 1:1(0) ack 5001 win 65535
        .3 < E. 1:1(0) ack 10001 win 65535
        .3 > [ect0] W. 10001:11001(1000) ack 1
        .3 > [ect0] . 11001:16001(5000) ack 1
    "
    );
}

#[test]
fn only_new_data_are_capable_of_ecn() {
    with_ecn!(
        "
        .1 write 100
        .1 > [ect0] P. 1:101(100) ack 1
        .1 < P. 1:101(100) ack 1 win 65535
        .14 > [noecn] . 101:101(0) ack 101
        .2~1 > [noecn] P. 1:101(100) ack 101
        +.01 < . 101:101(0) ack 101 win 65535
        +.01 close
        +0 > [noecn] F. 101:101(0) ack 101
    "
    );
}

#[test]
fn marks_mean_nothing_to_who_has_not_agreed() {
    established!(
        "
        .1 write 100
        .1 > [noecn] P. 1:101(100) ack 1
        .2 < [ce] PE. 1:101(100) ack 101 win 65535
        .24 > [noecn] . 101:101(0) ack 101
        .3 < PW. 101:201(100) ack 101 win 65535
        .34 > [noecn] . 101:101(0) ack 201
    "
    );
}
