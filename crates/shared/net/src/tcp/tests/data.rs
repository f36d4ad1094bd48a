//! Data both ways: segments, acknowledgements, windows. RFC 9293 section 3.7.4, 3.8.6.

use std::vec::Vec;

use super::dialogue::{Dialogue, run};
use crate::tcp::*;

#[test]
fn acknowledgements_wait_for_a_second_segment_or_40_ms() {
    established!(
        "
        .1 < P. 1:101(100) ack 1 win 65535
        .14 > . 1:1(0) ack 101
        .2 < P. 101:201(100) ack 1 win 65535
        .21 < P. 201:301(100) ack 1 win 65535
        .21 > . 1:1(0) ack 301
    "
    );
}

#[test]
fn an_answer_carries_the_acknowledgement() {
    established!(
        "
        .1 < P. 1:101(100) ack 1 win 65535
        .11 read 100 &
        .11 write 200
        .11 > P. 1:201(200) ack 101
        .3 < P. 101:201(100) ack 201 win 65535
        .34 > . 201:201(0) ack 201
    "
    );
}

#[test]
fn a_young_connection_acknowledges_at_once() {
    established!(
        "
        .1 < . 1:1001(1000) ack 1 win 65535
        .1 > . 1:1(0) ack 1001
        .1 < . 1001:2001(1000) ack 1 win 65535
        .1 > . 1:1(0) ack 2001
    "
    );
}

#[test]
fn a_batch_is_acknowledged_once() {
    established!(
        "
        .1 < . 1:1001(1000) ack 1 win 65535 &
        .1 < . 1001:2001(1000) ack 1 win 65535 &
        .1 < . 2001:3001(1000) ack 1 win 65535 &
        .1 < P. 3001:4001(1000) ack 1 win 65535
        .1 > . 1:1(0) ack 4001
    "
    );
}

#[test]
fn what_is_out_of_order_is_acknowledged_at_once() {
    // RFC 5681 section 4.2.
    established!(
        "
        .1 < P. 101:201(100) ack 1 win 65535
        .1 > . 1:1(0) ack 1
        .1 < P. 201:301(100) ack 1 win 65535
        .1 > . 1:1(0) ack 1
        .1 < P. 1:101(100) ack 1 win 65535
        .1 > . 1:1(0) ack 301
        .1 read 300
    "
    );
}

#[test]
fn overlapping_segments_make_one_stream() {
    established!(
        "
        .1 < P. 51:151(100) ack 1 win 65535
        .1 > . 1:1(0) ack 1
        .1 < P. 101:301(200) ack 1 win 65535
        .1 > . 1:1(0) ack 1
        .1 < P. 1:81(80) ack 1 win 65535
        .1 > . 1:1(0) ack 301
        # Wholly and partly old.
        .1 < P. 1:81(80) ack 1 win 65535
        .1 > . 1:1(0) ack 301
        .1 < P. 201:401(200) ack 1 win 65535
        .1 > . 1:1(0) ack 401
        .1 read 400
    "
    );
}

#[test]
fn small_writes_wait_for_an_acknowledgement() {
    // RFC 9293 section 3.7.4, in Minshall's variant: only one small segment is on its way.
    established!(
        "
        .1 write 100
        .1 > P. 1:101(100) ack 1
        .1 write 100
        .1 write 100
        .11 < . 1:1(0) ack 101 win 65535
        .11 > P. 101:301(200) ack 1
        # A full segment need not wait, and what is left over does.
        .11 write 1500
        .11 > . 301:1301(1000) ack 1
        .12 < . 1:1(0) ack 301 win 65535
        .12 > P. 1301:1801(500) ack 1
    "
    );
}

#[test]
fn small_writes_do_not_wait_with_nodelay() {
    established!(
        "
        .1 nodelay
        .1 write 100
        .1 > P. 1:101(100) ack 1
        .1 write 100
        .1 > P. 101:201(100) ack 1
        .1 write 1100
        .1 > . 201:1201(1000) ack 1
        .1 > P. 1201:1301(100) ack 1
    "
    );
}

#[test]
fn a_close_lets_small_writes_go() {
    established!(
        "
        .1 write 100
        .1 > P. 1:101(100) ack 1
        .1 write 100
        .1 close
        .1 > FP. 101:201(100) ack 1
    "
    );
}

#[test]
fn segments_leave_together_if_the_link_cuts_them() {
    run("
        set gso 65536
        0 < S 0:0(0) win 65535 <mss 1000>
        0 > S. 0:0(0) ack 1
        0 < . 1:1(0) ack 1 win 65535
        .1 write 5500
        .1 > P. 1:5501(5500) ack 1
        .1 write 2000
        .1 > P. 5501:7501(2000) ack 1
    ");
    // Limited by the link: whole segments.
    run("
        set gso 2500
        0 < S 0:0(0) win 65535 <mss 1000>
        0 > S. 0:0(0) ack 1
        0 < . 1:1(0) ack 1 win 65535
        .1 write 5500
        .1 > . 1:2001(2000) ack 1
        .1 > . 2001:4001(2000) ack 1
        .1 > P. 4001:5501(1500) ack 1
    ");
    // Limited by the window: whole segments, the rest when there is room.
    run("
        set gso 65536
        0 < S 0:0(0) win 3500 <mss 1000>
        0 > S. 0:0(0) ack 1
        0 < . 1:1(0) ack 1 win 3500
        .1 write 5500
        .1 > . 1:3001(3000) ack 1
        .2 < . 1:1(0) ack 3001 win 3500
        .2 > P. 3001:5501(2500) ack 1
    ");
}

#[test]
fn the_initial_window_is_ten_segments() {
    // RFC 6928.
    established!(
        "
        set gso 65536
        .1 write 20000
        .1 > . 1:10001(10000) ack 1
        .2 < . 1:1(0) ack 2001 win 65535
        .2 > . 10001:14001(4000) ack 1
    "
    );
}

#[test]
fn a_window_that_is_nearly_closed_is_not_filled_with_small_segments() {
    // RFC 9293 section 3.8.6.2.1.
    run("
        0 < S 0:0(0) win 2000 <mss 1000>
        0 > S. 0:0(0) ack 1
        0 < . 1:1(0) ack 1 win 2000
        .1 write 5000
        .1 > . 1:1001(1000) ack 1
        .1 > . 1001:2001(1000) ack 1
        # Room for half a segment: not yet.
        .2 < . 1:1(0) ack 1001 win 1500
        .3 < . 1:1(0) ack 2001 win 500
        # The override timeout.
        .4~1.4 > . 2001:2501(500) ack 1
        +.1 < . 1:1(0) ack 2501 win 2000
        +0 > . 2501:3501(1000) ack 1
        +0 > . 3501:4501(1000) ack 1
    ");
}

#[test]
fn a_window_smaller_than_a_segment_is_used() {
    run("
        0 < S 0:0(0) win 600 <mss 1000>
        0 > S. 0:0(0) ack 1
        0 < . 1:1(0) ack 1 win 600
        .1 write 1000
        .1 > . 1:601(600) ack 1
        .2 < . 1:1(0) ack 601 win 600
        .2 > P. 601:1001(400) ack 1
    ");
}

#[test]
fn a_closed_window_is_probed_with_growing_pauses() {
    // RFC 9293 section 3.8.6.1.
    run("
        0 < S 0:0(0) win 1000 <mss 1000>
        0 > S. 0:0(0) ack 1
        .1 < . 1:1(0) ack 1 win 1000
        .1 write 3000
        .1 > . 1:1001(1000) ack 1
        .2 < . 1:1(0) ack 1001 win 0
        .4~.6 > . 1000:1000(0) ack 1
        +.05 < . 1:1(0) ack 1001 win 0
        .8~1.6 > . 1000:1000(0) ack 1
        +.05 < . 1:1(0) ack 1001 win 0
        1.6~3.2 > . 1000:1000(0) ack 1
        # It opens.
        +.05 < . 1:1(0) ack 1001 win 5000
        +0 > . 1001:2001(1000) ack 1
        +0 > P. 2001:3001(1000) ack 1
        +.1 < . 1:1(0) ack 3001 win 0
        +0 write 10
        # The pauses start anew.
        +.2~+.6 > . 3000:3000(0) ack 1
    ");
}

#[test]
fn a_window_update_that_was_lost_is_asked_for() {
    run("
        0 < S 0:0(0) win 1000 <mss 1000>
        0 > S. 0:0(0) ack 1
        .1 < . 1:1(0) ack 1 win 1000
        .1 write 1500
        .1 > . 1:1001(1000) ack 1
        .2 < . 1:1(0) ack 1001 win 0
        .2~.7 > . 1000:1000(0) ack 1
        +.1 < . 1:1(0) ack 1001 win 65535
        +0 > P. 1001:1501(500) ack 1
    ");
}

#[test]
fn a_fin_waits_for_the_window() {
    run("
        0 < S 0:0(0) win 1000 <mss 1000>
        0 > S. 0:0(0) ack 1
        .1 < . 1:1(0) ack 1 win 1000
        .1 write 1000 &
        .1 close
        .1 > P. 1:1001(1000) ack 1
        .2 < . 1:1(0) ack 1001 win 0
        .2~.7 > . 1000:1000(0) ack 1
        +.1 < . 1:1(0) ack 1001 win 1
        +0 > F. 1001:1001(0) ack 1
    ");
}

#[test]
fn the_offered_window_closes_and_opens_in_large_steps() {
    // RFC 9293 section 3.8.6.2.2.
    run("
        set receive 4000
        0 < S 0:0(0) win 65535 <mss 1000>
        0 > S. 0:0(0) ack 1 win 4000
        0 < . 1:1(0) ack 1 win 65535
        .1 < . 1:3001(3000) ack 1 win 65535
        .1 > . 1:1(0) ack 3001 win 1000
        .1 < . 3001:4001(1000) ack 1 win 65535
        .1 > . 1:1(0) ack 4001 win 0
        # Nothing fits; what comes is dropped and answered.
        .2 < . 4001:5001(1000) ack 1 win 65535
        .2 > . 1:1(0) ack 4001 win 0
        .3 < . 4000:4000(0) ack 1 win 65535
        .3 > . 1:1(0) ack 4001 win 0
        .4 read 1000
        .5 read 900
        .6 read 100
        .6 > . 1:1(0) ack 4001 win 2000
        .7 read 1000
        .8 < . 4001:5001(1000) ack 1 win 65535
        .8 > . 1:1(0) ack 5001 win 2000
    ");
}

#[test]
fn what_is_beyond_the_window_is_cut_off() {
    run("
        set receive 4000
        0 < S 0:0(0) win 65535 <mss 1000>
        0 > S. 0:0(0) ack 1 win 4000
        0 < . 1:1(0) ack 1 win 65535
        .1 < FP. 1:5001(5000) ack 1 win 65535
        .1 > . 1:1(0) ack 4001 win 0
        .1 state ESTABLISHED
        .1 read 4000
        .1 > . 1:1(0) ack 4001 win 4000
    ");
}

#[test]
fn acknowledgements_are_heard_while_the_own_window_is_closed() {
    run("
        set receive 2000
        0 < S 0:0(0) win 65535 <mss 1000>
        0 > S. 0:0(0) ack 1 win 2000
        0 < . 1:1(0) ack 1 win 65535
        .1 write 100
        .1 > P. 1:101(100) ack 1
        .1 < . 1:2001(2000) ack 1 win 65535
        .1 > . 101:101(0) ack 2001 win 0
        .2 < . 2001:3001(1000) ack 101 win 65535
        .2 > . 101:101(0) ack 2001 win 0
        .2 write 100
        .2 > P. 101:201(100) ack 2001 win 0
    ");
}

#[test]
fn a_scaled_window_is_never_taken_back() {
    // RFC 7323 section 2.4: one byte makes a window that cannot be said exactly.
    run("
        set receive 1000000
        set no_sack
        0 < S 0:0(0) win 65535 <mss 1000,nop,wscale 7>
        0 > S. 0:0(0) ack 1 win 65535 <mss 1460,wscale 4>
        0 < . 1:1(0) ack 1 win 500
        .1 < . 1:2(1) ack 1 win 500
        .1 > . 1:1(0) ack 2 win 4096
        .1 < . 2:1502(1500) ack 1 win 500
        .1 > . 1:1(0) ack 1502 win 4003
    ");
}

#[test]
fn the_window_grows_while_the_program_keeps_up() {
    run("
        set receive 1000000
        0 < S 0:0(0) win 65535 <mss 1000,nop,wscale 7>
        0 > S. 0:0(0) ack 1 win 65535
        .05 < . 1:1(0) ack 1 win 500
        .1 < . 1:40001(40000) ack 1 win 500 &
        .1 read 40000
        .1 > . 1:1(0) ack 40001 win 8191
        .2 < . 40001:110001(70000) ack 1 win 500 &
        .2 read 70000
        .2 > . 1:1(0) ack 110001 win 16383
    ");
    // Little traffic: it stays.
    run("
        set receive 1000000
        0 < S 0:0(0) win 65535 <mss 1000,nop,wscale 7>
        0 > S. 0:0(0) ack 1 win 65535
        .05 < . 1:1(0) ack 1 win 500
        .1 < . 1:20001(20000) ack 1 win 500 &
        .1 read 20000
        .1 > . 1:1(0) ack 20001 win 4095
    ");
}

#[test]
fn urgent_data_stay_in_line() {
    // RFC 6093.
    established!(
        "
        .1 < PU. 1:101(100) ack 1 win 65535
        .14 > . 1:1(0) ack 101
        .14 read 100
    "
    );
}

#[test]
fn old_segments_do_not_change_the_window() {
    run("
        0 < S 0:0(0) win 2000 <mss 1000>
        0 > S. 0:0(0) ack 1
        0 < . 1:1(0) ack 1 win 2000
        .1 write 4000
        .1 > . 1:1001(1000) ack 1
        .1 > . 1001:2001(1000) ack 1
        .2 < P. 1:101(100) ack 2001 win 1000 &
        # Older by SEG.ACK.
        .2 < . 101:101(0) ack 1001 win 9000
        .2 > . 2001:3001(1000) ack 101
    ");
}

#[test]
fn a_reader_who_is_ready_gets_text_without_a_copy() {
    let mut dialogue = Dialogue::new(Seq(u32::MAX), Seq(u32::MAX - 50));
    dialogue.play(
        "0 < S 0:0(0) win 65535 <mss 1000>
         0 > S. 0:0(0) ack 1
         0 < . 1:1(0) ack 1 win 65535",
    );
    let now = dialogue.now;
    let segment = |seq: u32, payload| Segment {
        seq: Seq(u32::MAX - 50) + seq,
        ack: Seq(0),
        window: 65_535,
        flags: Flags::ACK | Flags::PSH,
        payload,
        joined: 1,
        ..Segment::default()
    };
    let mut taken = Vec::new();
    let mut sink = |text: &[u8]| {
        let part = &text[..text.len().min(4)];
        taken.extend_from_slice(part);
        part.len()
    };
    let tcb = dialogue.tcb();
    let changed = tcb.receive_with(&segment(1, b"abc"), now, &mut sink);
    assert!(changed.any(Changed::READABLE) && tcb.readable() == 0);
    // What is behind a gap, and what follows when it is filled, goes through the buffer.
    let _ = tcb.receive_with(&segment(8, b"hij"), now, &mut sink);
    let changed = tcb.receive_with(&segment(4, b"defg"), now, &mut sink);
    assert!(changed.any(Changed::READABLE));
    assert_eq!(tcb.readable(), 7);
    tcb.consume(7, now);
    let changed = tcb.receive_with(&segment(11, b"klmnopq"), now, &mut sink);
    assert!(changed.any(Changed::READABLE));
    assert_eq!(tcb.peek(), b"opq");
    assert_eq!(taken, b"abcklmn");
    dialogue.play("0 > . 1:1(0) ack 18");
}

#[test]
fn a_large_segment_is_acknowledged_at_once() {
    run("
        set mss 65000
        0 < S 0:0(0) win 65535 <mss 65000>
        0 > S. 0:0(0) ack 1
        0 < . 1:1(0) ack 1 win 65535
        .1 < P. 1:30001(30000) ack 1 win 65535
        .1 > . 1:1(0) ack 30001
    ");
}

#[test]
fn an_acknowledgement_behind_a_window_that_is_full_is_heard() {
    // The peer has sent all that fits, the first segment is lost, and what says that it has our data is numbered by what
    // would come next.
    established!(
        "
        .1 write 1000
        .1 > P. 1:1001(1000) ack 1
        .15 < . 1001:65536(64535) ack 1 win 65535
        .15 > . 1001:1001(0) ack 1
        .2 < . 65536:65536(0) ack 1001 win 65535
        10 wait
    "
    );
    // A reset there is not, nor is what lies further on.
    established!(
        "
        .1 write 1000
        .1 > P. 1:1001(1000) ack 1
        .2 < R. 65536:65536(0) ack 1001 win 65535
        .2 state ESTABLISHED
        .2 < . 65537:65537(0) ack 1001 win 65535
        .2 > . 1001:1001(0) ack 1
        .3 < . 1:1(0) ack 1001 win 65535
    "
    );
}
