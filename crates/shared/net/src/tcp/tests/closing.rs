//! Closing: RFC 9293 section 3.6 and 3.10.4 to 3.10.6, half-closed connections, orphans, aborts.

use super::dialogue::run;

#[test]
fn closing_first() {
    // RFC 9293 section 3.6, figure 12.
    established!(
        "
        .1 close
        .1 > F. 1:1(0) ack 1
        .1 write_fails BrokenPipe
        .2 < . 1:1(0) ack 2 win 65535
        .2 state FIN-WAIT-2
        .3 < F. 1:1(0) ack 2 win 65535
        .3 > . 2:2(0) ack 2
        .3 state TIME-WAIT
        .3 end
        # A repeated FIN: the acknowledgement was lost.
        .5 < F. 1:1(0) ack 2 win 65535
        .5 > . 2:2(0) ack 2
        60.4 state TIME-WAIT
        60.6 state CLOSED
        60.6 error none
    "
    );
}

#[test]
fn closing_second() {
    established!(
        "
        .1 < F. 1:1(0) ack 1 win 65535
        .1 > . 1:1(0) ack 2
        .1 state CLOSE-WAIT
        .1 end
        .2 write 100
        .2 > P. 1:101(100) ack 2
        .2 close
        .2 > F. 101:101(0) ack 2
        .2 state LAST-ACK
        .3 < . 2:2(0) ack 102 win 65535
        .3 state CLOSED
        .3 error none
    "
    );
}

#[test]
fn closing_at_once() {
    // RFC 9293 section 3.6, figure 13.
    established!(
        "
        .1 close
        .1 > F. 1:1(0) ack 1
        .1 < F. 1:1(0) ack 1 win 65535
        .1 > . 2:2(0) ack 2
        .1 state CLOSING
        .2 < . 2:2(0) ack 2 win 65535
        .2 state TIME-WAIT
    "
    );
}

#[test]
fn the_fin_goes_with_the_last_data() {
    established!(
        "
        .1 write 2500 &
        .1 close
        .1 > . 1:1001(1000) ack 1
        .1 > . 1001:2001(1000) ack 1
        .1 > FP. 2001:2501(500) ack 1
        .2 < . 1:1(0) ack 2502 win 65535
        .2 state FIN-WAIT-2
    "
    );
    established!(
        "
        set gso 60000
        .1 write 2500 &
        .1 close
        .1 > FP. 1:2501(2500) ack 1
    "
    );
}

#[test]
fn the_fin_and_data_are_acknowledged_at_once() {
    established!(
        "
        .1 write 100
        .1 > P. 1:101(100) ack 1
        .1 close
        .1 > F. 101:101(0) ack 1
        # Data and FIN that acknowledge everything.
        .2 < FP. 1:301(300) ack 102 win 65535
        .2 > . 102:102(0) ack 302
        .2 state TIME-WAIT
        .2 read 300
        .2 end
    "
    );
}

#[test]
fn a_half_closed_connection_receives() {
    established!(
        "
        .1 close
        .1 > F. 1:1(0) ack 1
        .2 < . 1:1(0) ack 2 win 65535
        100 < P. 1:501(500) ack 2 win 65535
        100.04 > . 2:2(0) ack 501
        100.1 read 500
        200 < FP. 501:601(100) ack 2 win 65535
        200 > . 2:2(0) ack 602
        200 state TIME-WAIT
        200 read 100
        200 end
    "
    );
}

#[test]
fn a_fin_is_repeated() {
    established!(
        "
        .1 close
        .1 > F. 1:1(0) ack 1
        .2~1.5 > F. 1:1(0) ack 1
        +.010 < . 1:1(0) ack 2 win 65535
        +0 state FIN-WAIT-2
    "
    );
}

#[test]
fn a_fin_behind_a_gap_waits() {
    established!(
        "
        .1 < FP. 501:601(100) ack 1 win 65535
        .1 > . 1:1(0) ack 1
        .1 state ESTABLISHED
        .2 < . 1:501(500) ack 1 win 65535
        .2 > . 1:1(0) ack 602
        .2 state CLOSE-WAIT
        .2 read 600
        .2 end
    "
    );
}

#[test]
fn text_past_a_fin_is_ignored() {
    established!(
        "
        .1 < F. 101:101(0) ack 1 win 65535
        .1 > . 1:1(0) ack 1
        .2 < P. 1:301(300) ack 1 win 65535
        .2 > . 1:1(0) ack 102
        .2 read 100
        .2 end
        .3 < P. 102:202(100) ack 1 win 65535
        .3 > . 1:1(0) ack 102
        .3 end
    "
    );
}

#[test]
fn an_orphan_leaves_fin_wait_2() {
    established!(
        "
        set linger 5
        .1 orphan
        .1 > F. 1:1(0) ack 1
        .2 < . 1:1(0) ack 2 win 65535
        .2 state FIN-WAIT-2
        30.1 state FIN-WAIT-2
        30.3 state CLOSED
    "
    );
    run("
        set linger 5
        0 < S 0:0(0) win 65535 <mss 1000>
        0 > S. 0:0(0) ack 1
        0 < . 1:1(0) ack 1 win 65535
        .1 close
        .1 > F. 1:1(0) ack 1
        .2 < . 1:1(0) ack 2 win 65535
        10 orphan
        14.9 state FIN-WAIT-2
        15.1 state CLOSED
    ");
}

#[test]
fn data_for_an_orphan_are_reset() {
    // RFC 1122 section 4.2.2.13.
    established!(
        "
        .1 orphan
        .1 > F. 1:1(0) ack 1
        .2 < P. 1:101(100) ack 2 win 65535
        .2 > R. 2:2(0) ack 1
        .2 state CLOSED
    "
    );
    established!(
        "
        .1 < P. 1:101(100) ack 1 win 65535 &
        .1 orphan
        .1 > R. 1:1(0) ack 101
        .1 state CLOSED
    "
    );
}

#[test]
fn an_orphan_that_has_read_everything_ends_well() {
    established!(
        "
        .1 < P. 1:101(100) ack 1 win 65535 &
        .1 read 100 &
        .1 write 50 &
        .1 orphan
        .1 > FP. 1:51(50) ack 101
        .2 < F. 101:101(0) ack 52 win 65535
        .2 > . 52:52(0) ack 102
        .2 state TIME-WAIT
    "
    );
}

#[test]
fn aborting() {
    established!(
        "
        .1 write 100
        .1 > P. 1:101(100) ack 1
        .1 < P. 1:11(10) ack 1 win 65535 &
        .1 abort
        .1 > R. 101:101(0) ack 11
        .1 state CLOSED
        .1 error ConnectionAborted
        .1 read_fails ConnectionAborted
        .2 < . 11:11(0) ack 101 win 65535
    "
    );
    // Nobody knows of it yet.
    run("
        0 connect
        0 > S 0:0(0) <...>
        0 abort
        0 state CLOSED
    ");
    run("
        0 < S 0:0(0) win 65535 <mss 1000>
        0 > S. 0:0(0) ack 1
        0 abort
        0 > R. 1:1(0) ack 1
    ");
}

#[test]
fn a_peer_that_has_closed_is_told_that_it_does_not_get_everything() {
    // RFC 9293 section 3.10.5 takes it for granted that the FIN has left.
    established!(
        "
        .1 < F. 1:1(0) ack 1 win 0
        .1 > . 1:1(0) ack 2
        .2 write 100 &
        .2 orphan &
        .2 state LAST-ACK
        .2 abort
        .2 > R. 1:1(0) ack 2
    "
    );
    established!(
        "
        .1 < . 1:1(0) ack 1 win 0
        .2 write 100 &
        .2 close
        .25 < F. 1:1(0) ack 1 win 0
        .25 > . 1:1(0) ack 2
        .25 state CLOSING
        .25 abort
        .25 > R. 1:1(0) ack 2
    "
    );
    // It has everything but the acknowledgement of its FIN.
    established!(
        "
        .1 < F. 1:1(0) ack 1 win 65535
        .1 > . 1:1(0) ack 2
        .2 write 100 &
        .2 orphan
        .2 > FP. 1:101(100) ack 2
        .3 abort
        .3 state CLOSED
    "
    );
}

#[test]
fn what_arrived_before_a_reset_can_be_read() {
    established!(
        "
        .1 < P. 1:101(100) ack 1 win 65535 &
        .1 < R. 101:101(0) ack 1
        .1 state CLOSED
        .1 error ConnectionReset
        .1 read 100
        .1 read_fails ConnectionReset
        .1 write_fails ConnectionReset
    "
    );
}

#[test]
fn a_reset_after_the_peer_closed_is_a_broken_pipe() {
    established!(
        "
        .1 < F. 1:1(0) ack 1 win 65535
        .1 > . 1:1(0) ack 2
        .1 < R. 2:2(0) ack 1
        .1 state CLOSED
        .1 error BrokenPipe
        .1 write_fails BrokenPipe
    "
    );
}

#[test]
fn a_refused_reset_leaves_again() {
    established!(
        "
        .1 abort
        .1 > R. 1:1(0) ack 1
        .1 refuse
        .1 > R. 1:1(0) ack 1
    "
    );
}
