//! TIME-WAIT: RFC 9293 section 3.10.7.4, RFC 1337, RFC 6191.

use std::time::Duration;

use kiln_abi::Instant;

use crate::tcp::time_wait::{TimeWait, Verdict};
use crate::tcp::*;

const NOW: Instant = Instant::from_nanos(1_000_000_000_000);

fn remembered(timestamps: bool) -> TimeWait {
    TimeWait {
        snd_nxt: Seq(u32::MAX),
        rcv_nxt: Seq(5),
        window: 700,
        timestamps: timestamps.then_some((100, 0)),
        until: NOW + Duration::from_secs(7),
        period: Duration::from_mins(1).into(),
        ..TimeWait::default()
    }
}

fn segment(flags: Flags, seq: u32, timestamp: Option<u32>) -> Segment<'static> {
    Segment {
        seq: Seq(seq),
        ack: Seq(u32::MAX),
        flags,
        options: Options {
            timestamps: timestamp.map(|value| Timestamps { value, echo: 0 }),
            ..Options::default()
        },
        joined: 1,
        ..Segment::default()
    }
}

#[track_caller]
fn answered(verdict: Verdict) {
    let Verdict::Answer(answer) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!((answer.seq, answer.ack), (Seq(u32::MAX), Seq(5)));
    assert_eq!((answer.flags, answer.window), (Flags::ACK, 700));
}

#[test]
fn resets_do_not_end_it() {
    let mut rest = remembered(false);
    for flags in [Flags::RST, Flags::RST | Flags::ACK, Flags::RST | Flags::SYN] {
        assert_eq!(rest.receive(&segment(flags, 5, None), NOW), Verdict::Ignore);
    }
}

#[test]
fn a_repeated_fin_starts_the_time_again() {
    let mut rest = remembered(false);
    answered(rest.receive(&segment(Flags::FIN | Flags::ACK, 4, None), NOW));
    assert_eq!(rest.until, NOW + Duration::from_mins(1));
    // With data that had arrived before.
    let mut rest = remembered(false);
    let fin = Segment {
        payload: b"abcd",
        ..segment(Flags::FIN | Flags::ACK, 0, None)
    };
    answered(rest.receive(&fin, NOW));
    assert_eq!(rest.until, NOW + Duration::from_mins(1));
    // A FIN somewhere else does not.
    let mut rest = remembered(false);
    answered(rest.receive(&segment(Flags::FIN | Flags::ACK, 99, None), NOW));
    assert_eq!(rest.until, NOW + Duration::from_secs(7));
}

#[test]
fn acknowledgements_are_not_answered() {
    let mut rest = remembered(true);
    let ack = segment(Flags::ACK, 5, Some(100));
    assert_eq!(rest.receive(&ack, NOW), Verdict::Ignore);
    answered(rest.receive(&segment(Flags::ACK, 4, Some(100)), NOW));
    answered(rest.receive(&segment(Flags::ACK, 5, Some(99)), NOW));
}

#[test]
fn a_newer_syn_opens_again() {
    // RFC 6191 section 2.
    let reopened = Verdict::Reopen(Seq(u32::MAX) + 0x1_0001);
    for (had, seq, timestamp, opens) in [
        (true, 5, Some(101), true),
        (true, 5, Some(99), false),
        (true, 1000, Some(99), false),
        (true, 6, Some(100), true),
        (true, 5, Some(100), false),
        (true, 6, None, true),
        (true, 5, None, false),
        (false, 0, Some(7), true),
        (false, 6, None, true),
        (false, 5, None, false),
        (false, 0x8000_0006, None, false),
    ] {
        let verdict = remembered(had).receive(&segment(Flags::SYN, seq, timestamp), NOW);
        if opens {
            assert_eq!(verdict, reopened, "{had} {seq} {timestamp:?}");
        } else {
            answered(verdict);
        }
    }
    // Who acknowledges does not open.
    answered(remembered(false).receive(&segment(Flags::SYN | Flags::ACK, 6, None), NOW));
}

#[test]
fn strays_are_answered_a_few_times_and_repeated_fins_always() {
    // RFC 5961 section 7: the limit is no reason to forget the peer, who may have lost the last acknowledgement.
    let mut rest = remembered(false);
    let stray = segment(Flags::ACK, 1000, None);
    let syn = segment(Flags::SYN, 5, None);
    let fin = segment(Flags::FIN | Flags::ACK, 4, None);
    for one in [&stray, &syn].into_iter().cycle().take(10) {
        answered(rest.receive(one, NOW));
    }
    for _ in 0..10 {
        assert_eq!(rest.receive(&stray, NOW), Verdict::Ignore);
        assert_eq!(rest.receive(&syn, NOW), Verdict::Ignore);
        answered(rest.receive(&fin, NOW));
    }
    let later = NOW + Duration::from_secs(5);
    answered(rest.receive(&stray, later));
    // And a newer SYN opens, whatever was there before.
    let opened = rest.receive(&segment(Flags::SYN, 6, None), NOW);
    assert!(matches!(opened, Verdict::Reopen(_)));
}
