//! What peers do that crash, start again, lose what they wait for, or take their time: nothing here is an attack.

use super::dialogue::run;

#[test]
fn data_are_repeated_although_the_peer_has_closed() {
    established!(
        "
        .1 write 2500
        .1 > . 1:1001(1000) ack 1
        .1 > . 1001:2001(1000) ack 1
        .1 > P. 2001:2501(500) ack 1
        .12 < F. 1:1(0) ack 1001 win 65535
        .12 > . 2501:2501(0) ack 2
        .12 state CLOSE-WAIT
        .12 end
        # The rest was lost.
        .2~.6 > . 1001:2001(1000) ack 2
        +.02 < . 2:2(0) ack 2001 win 65535
        +0 > P. 2001:2501(500) ack 2
        +.02 < . 2:2(0) ack 2501 win 65535
        # A long answer to what was asked before the end.
        10 write 1500
        10 > . 2501:3501(1000) ack 2
        10 > P. 3501:4001(500) ack 2
        10.02 < . 2:2(0) ack 4001 win 65535
        60 write 100 &
        60 close
        60 > FP. 4001:4101(100) ack 2
        # It was lost, too.
        60.2~60.8 > FP. 4001:4101(100) ack 2
        +.02 < . 2:2(0) ack 4102 win 65535
        +0 state CLOSED
    "
    );
}

#[test]
fn ends_cross_while_data_are_lost() {
    // Both close with data on their way; what this end has sent is lost.
    established!(
        "
        .1 write 500 &
        .1 close
        .1 > FP. 1:501(500) ack 1
        .11 < FP. 1:301(300) ack 1 win 65535
        .11 > . 502:502(0) ack 302
        .11 state CLOSING
        .11 read 300
        .11 end
        .2~.6 > FP. 1:501(500) ack 302
        +.02 < . 302:302(0) ack 502 win 65535
        +0 state TIME-WAIT
    "
    );
}

#[test]
fn a_peers_end_comes_with_data_that_came_before() {
    // It has joined what it repeats with what it had still to say.
    established!(
        "
        .1 < . 1:501(500) ack 1 win 65535
        .1 > . 1:1(0) ack 501
        .3 < FP. 1:601(600) ack 1 win 65535
        .3 > . 1:1(0) ack 602
        .3 state CLOSE-WAIT
        .3 read 600
        .3 end
        # Again, since the acknowledgement was lost.
        .6 < FP. 1:601(600) ack 1 win 65535
        .6 > . 1:1(0) ack 602
        .6 state CLOSE-WAIT
        .6 end
    "
    );
}

#[test]
fn the_window_opens_for_who_has_only_closed_its_own_direction() {
    run("
        set receive 4000
        0 < S 0:0(0) win 65535 <mss 1000>
        0 > S. 0:0(0) ack 1
        0 < . 1:1(0) ack 1 win 65535
        .1 close
        .1 > F. 1:1(0) ack 1
        .12 < . 1:1(0) ack 2 win 65535
        .12 state FIN-WAIT-2
        .2 < . 1:1001(1000) ack 2 win 65535 &
        .2 < . 1001:2001(1000) ack 2 win 65535 &
        .2 < . 2001:3001(1000) ack 2 win 65535 &
        .2 < P. 3001:4001(1000) ack 2 win 65535
        .2 > . 2:2(0) ack 4001 win 0
        # What it asks with, and what other systems ask with.
        .5 < . 4001:4002(1) ack 2 win 65535
        .5 > . 2:2(0) ack 4001 win 0
        .9 < . 4000:4000(0) ack 2 win 65535
        .9 > . 2:2(0) ack 4001 win 0
        100 read 4000
        100 > . 2:2(0) ack 4001 win 4000
        100.1 < FP. 4001:5001(1000) ack 2 win 65535
        100.1 > . 2:2(0) ack 5002
        100.1 state TIME-WAIT
        100.1 read 1000
        100.1 end
    ");
}

#[test]
fn ends_are_heard_while_the_own_window_is_closed() {
    const FULL: &str = "
        set receive 2000
        0 < S 0:0(0) win 65535 <mss 1000>
        0 > S. 0:0(0) ack 1
        0 < . 1:1(0) ack 1 win 65535
        .1 < . 1:1001(1000) ack 1 win 65535 &
        .1 < P. 1001:2001(1000) ack 1 win 65535
        .1 > . 1:1(0) ack 2001 win 0";
    // RFC 9293 section 3.10.7.4: with a window of zero, a reset has the next number.
    run(&std::format!(
        "{FULL}
        .2 < R. 2001:2001(0) ack 1
        .2 state CLOSED
        .2 read 2000
        .2 read_fails ConnectionReset"
    ));
    // An end takes a number, but no room.
    run(&std::format!(
        "{FULL}
        .2 < F. 2001:2001(0) ack 1 win 65535
        .2 > . 1:1(0) ack 2002 win 0
        .2 state CLOSE-WAIT
        .3 read 2000
        .3 end"
    ));
}

#[test]
fn a_peer_that_has_started_again_finds_out() {
    // RFC 9293 section 3.5.1, figure 9, with RFC 5961.
    established!(
        "
        100 < S 70000:70000(0) win 65535 <mss 1000>
        100 > . 1:1(0) ack 1
        # It knows of no connection.
        100.1 < R 1:1(0)
        100.1 state CLOSED
        100.1 error ConnectionReset
    "
    );
    // Its new number happens to lie in the window.
    established!(
        "
        100 < S 500:500(0) win 65535 <mss 1000>
        100 > . 1:1(0) ack 1
        100.1 < R 1:1(0)
        100.1 state CLOSED
    "
    );
}

#[test]
fn a_peer_that_is_gone_is_noticed_by_whatever_asks_for_it() {
    // By data.
    established!(
        "
        10 write 100
        10 > P. 1:101(100) ack 1
        10.1 < R 1:1(0)
        10.1 error ConnectionReset
    "
    );
    // By keep-alive, in each state in which a connection may idle.
    for script in [
        "",
        "
        1 close
        1 > F. 1:1(0) ack 1
        1 < . 1:1(0) ack 2 win 65535
        1 state FIN-WAIT-2",
        "
        1 < F. 1:1(0) ack 1 win 65535
        1 > . 1:1(0) ack 2
        1 state CLOSE-WAIT",
    ] {
        let (own, peer) = match script {
            "" => (1, 1),
            other if other.contains("close\n") => (2, 1),
            _ => (1, 2),
        };
        let start = i32::from(!script.is_empty());
        let error = match peer {
            2 => "BrokenPipe",
            _ => "ConnectionReset",
        };
        run(&std::format!(
            "set keepalive 10 2 3
            0 < S 0:0(0) win 65535 <mss 1000>
            0 > S. 0:0(0) ack 1
            0 < . 1:1(0) ack 1 win 65535
            {script}
            {first} > . {before}:{before}(0) ack {peer}
            {first} < R {peer}:{peer}(0)
            {first} state CLOSED
            {first} error {error}",
            first = start + 10,
            before = own - 1,
        ));
    }
    // By a probe of its closed window.
    run("
        0 < S 0:0(0) win 100 <mss 1000>
        0 > S. 0:0(0) ack 1
        .1 < . 1:1(0) ack 1 win 100
        .1 write 200
        .1 > . 1:101(100) ack 1
        .2 < . 1:1(0) ack 101 win 0
        .3~.6 > . 100:100(0) ack 1
        +.01 < R 1:1(0)
        +0 error ConnectionReset
    ");
}

#[test]
fn keep_alive_leaves_it_to_the_retransmission_timer() {
    // While something is on its way, that asks often enough.
    run("
        set keepalive 1 1 3
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
        +1 > . 100:100(0) ack 1
        +.02 < . 1:1(0) ack 101 win 65535
    ");
}

#[test]
fn the_last_of_the_handshake_may_be_lost() {
    // The server repeats what the client has heard.
    run("
        0 connect
        0 > S 0:0(0) <...>
        .1 < S. 0:0(0) ack 1 win 65535 <mss 1000>
        .1 > . 1:1(0) ack 1
        1.1 < S. 0:0(0) ack 1 win 65535 <mss 1000>
        1.1 > . 1:1(0) ack 1
        1.1 state ESTABLISHED
        2 write 100
        2 > P. 1:101(100) ack 1
        2.1 < . 1:1(0) ack 101 win 65535
    ");
    // The client's data stand for it, and its end.
    run("
        0 < S 0:0(0) win 65535 <mss 1000>
        0 > S. 0:0(0) ack 1
        .2 < P. 1:101(100) ack 1 win 65535
        .2 state ESTABLISHED
        .24 > . 1:1(0) ack 101
        .3 read 100
    ");
    run("
        0 < S 0:0(0) win 65535 <mss 1000>
        0 > S. 0:0(0) ack 1
        .2 < FP. 1:101(100) ack 1 win 65535
        .2 > . 1:1(0) ack 102
        .2 state CLOSE-WAIT
        .2 read 100
        .2 end
    ");
}

#[test]
fn both_open_and_an_answer_is_lost() {
    run("
        0 connect
        0 > S 0:0(0) <...>
        .1 < S 0:0(0) win 65535 <mss 1000>
        .1 > S. 0:0(0) ack 1
        # Its SYN and ACK was lost, and it has not heard ours.
        .9 < S 0:0(0) win 65535 <mss 1000>
        .9 > S. 0:0(0) ack 1
        .95 < . 1:1(0) ack 1 win 65535
        .95 state ESTABLISHED
        1 write 100
        1 > P. 1:101(100) ack 1
        1.1 < . 1:1(0) ack 101 win 65535
    ");
}

#[test]
fn an_acknowledgement_may_end_within_a_segment() {
    established!(
        "
        .1 write 2000
        .1 > . 1:1001(1000) ack 1
        .1 > P. 1001:2001(1000) ack 1
        .12 < . 1:1(0) ack 501 win 65535
        .2~.6 > . 501:1501(1000) ack 1
        +.02 < . 1:1(0) ack 701 win 65535
        +.2~+2 > . 701:1701(1000) ack 1
        +.02 < . 1:1(0) ack 1701 win 65535
        +0 > P. 1701:2001(300) ack 1
        +.02 < . 1:1(0) ack 2001 win 65535
    "
    );
}

#[test]
fn the_peer_forgets_before_the_last_acknowledgement() {
    // LAST-ACK: its acknowledgement was lost, and it keeps no TIME-WAIT.
    established!(
        "
        .1 < F. 1:1(0) ack 1 win 65535
        .1 > . 1:1(0) ack 2
        .2 close
        .2 > F. 1:1(0) ack 2
        .4~1.5 > F. 1:1(0) ack 2
        +.01 < R 2:2(0)
        +0 state CLOSED
    "
    );
}
