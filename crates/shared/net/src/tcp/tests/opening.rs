//! Opening: RFC 9293 section 3.5 and 3.10.7.1 to 3.10.7.3.

use std::net::SocketAddr;

use kiln_abi::Instant;

use super::dialogue::{Dialogue, run, settings};
use crate::tcp::cookie::Cookies;
use crate::tcp::*;

#[test]
fn passive_opening_with_everything() {
    run("
        set receive 1000000
        0 < S 0:0(0) win 65535 <mss 1460,sackOK,TS val 100 ecr 0,nop,wscale 7>
        0 > S. 0:0(0) ack 1 win 65535 <mss 1460,sackOK,TS val 1000 ecr 100,wscale 4>
        0 state SYN-RECEIVED
        .010 < . 1:1(0) ack 1 win 512 <TS val 110 ecr 1000>
        .010 state ESTABLISHED
        .020 write 1000
        .020 > P. 1:1001(1000) ack 1 win 4096 <TS val 1020 ecr 110>
    ");
}

#[test]
fn active_opening_with_everything() {
    run("
        set receive 200000
        0 connect
        0 state SYN-SENT
        0 > S 0:0(0) win 65535 <mss 1460,sackOK,TS val 1000 ecr 0,wscale 2>
        .010 < S. 0:0(0) ack 1 win 65535 <mss 1000,sackOK,TS val 7 ecr 1000,nop,wscale 7>
        .010 > . 1:1(0) ack 1 win 16384 <TS val 1010 ecr 7>
        .010 state ESTABLISHED
        .010 mss 988
    ");
}

#[test]
fn what_the_peer_does_not_offer_is_not_used() {
    run("
        set receive 1000000
        0 < S 0:0(0) win 1000
        0 > S. 0:0(0) ack 1 win 65535 <mss 1460>
        .010 < . 1:1(0) ack 1 win 1000
        .010 write 600
        # RFC 9293 section 3.7.1: 536 unless it says more.
        .010 > . 1:537(536) ack 1 win 65535 <>
        .010 > P. 537:601(64) ack 1 win 65535 <>
    ");
}

#[test]
fn options_may_be_switched_off() {
    run("
        set no_timestamps
        set no_sack
        0 < S 0:0(0) win 1000 <mss 1460,sackOK,TS val 100 ecr 0,nop,wscale 7>
        0 > S. 0:0(0) ack 1 win 65535 <mss 1460>
    ");
}

#[test]
fn a_syn_is_repeated_after_one_two_and_four_seconds() {
    run("
        0 connect
        0 > S 0:0(0) <...>
        1 > S 0:0(0) <mss 1460,sackOK,TS val 2000 ecr 0,wscale 0>
        3 > S 0:0(0) <...>
        7 > S 0:0(0) <...>
        7.1 < S. 0:0(0) ack 1 win 65535 <mss 1460>
        7.1 > . 1:1(0) ack 1
        7.1 state ESTABLISHED
    ");
}

#[test]
fn a_syn_and_ack_is_repeated() {
    run("
        0 < S 0:0(0) win 65535 <mss 1460>
        0 > S. 0:0(0) ack 1
        1 > S. 0:0(0) ack 1
        3 > S. 0:0(0) ack 1
        # The peer's SYN again: the answer was lost, so it is given again.
        3.5 < S 0:0(0) win 65535 <mss 1460>
        3.5 > S. 0:0(0) ack 1
        3.6 < . 1:1(0) ack 1 win 65535
        3.6 state ESTABLISHED
    ");
}

#[test]
fn a_handshake_does_not_take_for_ever() {
    run("
        set handshake_timeout 5
        0 connect
        0 > S 0:0(0) <...>
        1 > S 0:0(0) <...>
        3 > S 0:0(0) <...>
        5 state CLOSED
        5 error TimedOut
        5 read_fails TimedOut
        5 write_fails TimedOut
    ");
    run("
        set handshake_timeout 2
        0 < S 0:0(0) win 65535 <mss 1460>
        0 > S. 0:0(0) ack 1
        1 > S. 0:0(0) ack 1
        2 state CLOSED
    ");
}

#[test]
fn simultaneous_opening() {
    // RFC 9293 section 3.5, figure 8.
    run("
        0 connect
        0 > S 0:0(0) <...>
        .010 < S 0:0(0) win 65535 <mss 1000,sackOK,TS val 5 ecr 0,nop,wscale 3>
        .010 > S. 0:0(0) ack 1 <mss 1460,sackOK,TS val 1010 ecr 5,wscale 0>
        .010 state SYN-RECEIVED
        .020 < S. 0:0(0) ack 1 win 65535 <mss 1000,sackOK,TS val 15 ecr 1010,nop,wscale 3>
        .020 state ESTABLISHED
        .030 < P. 1:101(100) ack 1 win 65535 <TS val 25 ecr 1010>
        .030 read 100
    ");
    // The peer's SYN and ACK was lost; anything that acknowledges will do.
    run("
        0 connect
        0 > S 0:0(0) <...>
        .010 < S 0:0(0) win 65535 <mss 1000>
        .010 > S. 0:0(0) ack 1
        .020 < . 1:1(0) ack 1 win 65535
        .020 state ESTABLISHED
    ");
}

#[test]
fn data_on_a_syn_wait_for_the_handshake() {
    run("
        0 < S 0:100(100) win 65535 <mss 1460>
        0 > S. 0:0(0) ack 101
        .010 < . 101:101(0) ack 1 win 65535
        .010 read 100
    ");
}

#[test]
fn data_and_fin_on_a_syn_and_ack_are_taken() {
    run("
        0 connect
        0 > S 0:0(0) <...>
        .010 < SFP. 0:100(100) ack 1 win 65535 <mss 1460>
        .010 > . 1:1(0) ack 102
        .010 state CLOSE-WAIT
        .010 read 100
        .010 end
    ");
}

#[test]
fn data_written_early_leave_with_the_handshake() {
    run("
        0 connect
        0 > S 0:0(0) <...>
        0 write 100
        .010 < S. 0:0(0) ack 1 win 65535 <mss 1460>
        .010 > P. 1:101(100) ack 1
    ");
}

#[test]
fn closing_while_opening() {
    run("
        0 connect
        0 > S 0:0(0) <...>
        0 close
        0 state CLOSED
        0 error none
    ");
    run("
        0 < S 0:0(0) win 65535 <mss 1460>
        0 > S. 0:0(0) ack 1
        0 write 10
        0 close
        0 state SYN-RECEIVED
        .010 < . 1:1(0) ack 1 win 65535
        .010 > FP. 1:11(10) ack 1
        .010 state FIN-WAIT-1
    ");
}

#[test]
fn ecn_is_agreed_on_or_not() {
    // RFC 3168 section 6.1.1.
    run("
        set ecn
        0 < SEW 0:0(0) win 65535 <mss 1460>
        0 > SE. 0:0(0) ack 1
        .010 < . 1:1(0) ack 1 win 65535
        .010 write 100
        .010 > [ect0] P. 1:101(100) ack 1
    ");
    run("
        set ecn
        0 < S 0:0(0) win 65535 <mss 1460>
        0 > S. 0:0(0) ack 1
        .010 < . 1:1(0) ack 1 win 65535
        .010 write 100
        .010 > [noecn] P. 1:101(100) ack 1
    ");
    run("
        set ecn
        0 connect
        0 > [noecn] SEW 0:0(0) <...>
        .010 < SE. 0:0(0) ack 1 win 65535 <mss 1460>
        .010 > [noecn] . 1:1(0) ack 1
        .010 write 100
        .010 > [ect0] P. 1:101(100) ack 1
    ");
    // A peer that only reflects the reserved bits.
    run("
        set ecn
        0 connect
        0 > SEW 0:0(0) <...>
        .010 < SEW. 0:0(0) ack 1 win 65535 <mss 1460>
        .010 > . 1:1(0) ack 1
        .010 write 100
        .010 > [noecn] P. 1:101(100) ack 1
    ");
}

#[test]
fn a_mark_is_answered_once() {
    // RFC 3168 section 6.1.2: the peer repeats it until it hears of the reduction, which needs data to be sent.
    let mut dialogue = Dialogue::new(Seq(100), Seq(5));
    dialogue.checked = false;
    dialogue.play(
        "set ecn
         set nodelay
         set gso 65536
         0 < SEW 0:0(0) win 65535 <mss 1000>
         0 > SE. 0:0(0) ack 1
         .02 < . 1:1(0) ack 1 win 65535
         .1 write 10000
         .1 > P. 1:10001(10000) ack 1
         .12 < E. 1:1(0) ack 5001 win 65535
         .121 < E. 1:1(0) ack 10001 win 65535",
    );
    let reduced = dialogue.info().congestion_window;
    for seq in [1, 101, 201] {
        let end = seq + 100;
        dialogue.pass(50);
        let _acknowledgments = dialogue.take_output();
        dialogue.arrives(&std::format!("PE. {seq}:{end}(100) ack 10001 win 65535"));
    }
    assert_eq!(dialogue.info().congestion_window, reduced);
}

#[test]
fn a_path_that_drops_syns_with_ecn_gets_others() {
    // RFC 3168 section 6.1.1.1.
    run("
        set ecn
        0 connect
        0 > SEW 0:0(0) <...>
        1 > SEW 0:0(0) <...>
        3 > S 0:0(0) <...>
        # Even if the answer is to the first: a SYN without ECN was sent.
        3.1 < SE. 0:0(0) ack 1 win 65535 <mss 1460>
        3.1 > . 1:1(0) ack 1
        3.1 write 100
        3.1 > [noecn] P. 1:101(100) ack 1
    ");
}

#[test]
fn icmp_errors_end_what_is_opening_if_they_are_hard() {
    run("
        0 connect
        0 > S 0:0(0) <...>
        .1 icmp ConnectionRefused 77
        .1 state SYN-SENT
        .1 icmp ConnectionRefused 0
        .1 state CLOSED
        .1 error ConnectionRefused
    ");
    run("
        set handshake_timeout 2
        0 connect
        0 > S 0:0(0) <...>
        .1 icmp Unreachable 0
        .1 state SYN-SENT
        1 > S 0:0(0) <...>
        2 state CLOSED
        2 error Unreachable
    ");
}

fn cookie_syn(timestamps: Option<Timestamps>) -> Segment<'static> {
    Segment {
        seq: Seq(77),
        window: 65_535,
        flags: Flags::SYN | Flags::ECE | Flags::CWR,
        options: Options {
            mss: Some(1400),
            window_scale: Some(9),
            sack_permitted: true,
            timestamps,
            ..Options::default()
        },
        joined: 1,
        ..Segment::default()
    }
}

fn with_cookie(timestamps: bool) -> (Tcb, Outgoing) {
    let settings = Settings {
        ecn: true,
        receive_limit: 1 << 20,
        ..settings()
    };
    let now = Instant::from_nanos(77_000_000_000);
    let cookies = Cookies::new([7; 16]);
    let local: SocketAddr = "10.0.0.1:80".parse().expect("address");
    let remote: SocketAddr = "10.0.0.2:4000".parse().expect("address");
    let syn = cookie_syn(timestamps.then_some(Timestamps { value: 5, echo: 0 }));
    let answer = synack_for_cookie(&cookies, &settings, local, remote, &syn, 999, now);
    assert!(answer.flags.has(Flags::SYN | Flags::ACK));
    assert_eq!(answer.ack, Seq(78));
    let ack = Segment {
        seq: Seq(78),
        ack: answer.seq + 1,
        window: 500,
        flags: Flags::ACK,
        options: Options {
            timestamps: answer.options.timestamps.map(|ours| Timestamps {
                value: 6,
                echo: ours.value,
            }),
            ..Options::default()
        },
        joined: 1,
        ..Segment::default()
    };
    let remembered = cookies
        .check(
            local,
            remote,
            Seq(77),
            answer.seq,
            ack.options.timestamps.map(|timestamps| timestamps.echo),
            now,
        )
        .expect("a good cookie");
    let mut tcb = Tcb::from_cookie(&settings, &remembered, &ack, 999, now);
    let changed = tcb.receive(&ack, now);
    assert!(changed.any(Changed::CONNECTED));
    assert_eq!(tcb.state(), State::Established);
    (tcb, answer)
}

#[test]
fn cookies_keep_everything_if_there_are_timestamps() {
    let (tcb, answer) = with_cookie(true);
    assert!(answer.flags.has(Flags::ECE));
    assert_eq!(answer.options.window_scale, Some(5));
    let info = tcb.info(Instant::from_nanos(77_000_000_000));
    assert!(info.timestamps && info.sack && info.ecn);
    assert_eq!(info.window_scale, (9, 5));
    assert_eq!(info.send_window, 500 << 9);
}

#[test]
fn cookies_keep_the_segment_size_otherwise() {
    let (tcb, answer) = with_cookie(false);
    assert_eq!(answer.flags, Flags::SYN | Flags::ACK);
    assert_eq!(
        answer.options,
        Options {
            mss: Some(1460),
            ..Options::default()
        }
    );
    let info = tcb.info(Instant::from_nanos(77_000_000_000));
    assert!(!info.timestamps && !info.sack && !info.ecn);
    assert_eq!(info.window_scale, (0, 0));
    assert!(info.mss > 500 && info.mss <= 1400);
}
