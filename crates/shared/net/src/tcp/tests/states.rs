//! Every state against every kind of segment: RFC 9293 section 3.10.7.3 and 3.10.7.4, with RFC 5961.

use std::string::String;
use std::{format, vec::Vec};

use super::dialogue::Dialogue;
use crate::error::Error;
use crate::tcp::*;

/// How each state is reached. Afterwards SND.UNA is 1 (2 if the FIN was acknowledged), RCV.NXT is 1 (2 behind the
/// peer's FIN), and the window ends at 65536.
const STATES: [(State, &str); 9] = [
    (State::SynSent, "0 connect\n 0 > S 0:0(0) <...>"),
    (
        State::SynReceived,
        "0 < S 0:0(0) win 1000 <mss 1000>\n 0 > S. 0:0(0) ack 1",
    ),
    (State::Established, ""),
    (State::FinWait1, ".1 close\n .1 > F. 1:1(0) ack 1"),
    (
        State::FinWait2,
        ".1 close\n .1 > F. 1:1(0) ack 1\n .1 < . 1:1(0) ack 2 win 1000",
    ),
    (
        State::CloseWait,
        ".1 < F. 1:1(0) ack 1 win 1000\n .1 > . 1:1(0) ack 2",
    ),
    (
        State::Closing,
        ".1 close\n .1 > F. 1:1(0) ack 1\n .1 < F. 1:1(0) ack 1 win 1000\n .1 > . 2:2(0) ack 2",
    ),
    (
        State::LastAck,
        ".1 < F. 1:1(0) ack 1 win 1000\n .1 > . 1:1(0) ack 2\n .1 close\n .1 > F. 1:1(0) ack 2",
    ),
    (
        State::TimeWait,
        ".1 close\n .1 > F. 1:1(0) ack 1\n .1 < F. 1:1(0) ack 2 win 1000\n .1 > . 2:2(0) ack 2",
    ),
];

const ESTABLISH: &str = "
    0 < S 0:0(0) win 1000 <mss 1000>
    0 > S. 0:0(0) ack 1
    0 < . 1:1(0) ack 1 win 1000";

fn reach(state: State) -> Dialogue {
    let script = STATES
        .iter()
        .find(|(reached, _)| *reached == state)
        .map(|(_, script)| *script)
        .expect("a state of the table");
    let mut dialogue = Dialogue::new(Seq(u32::MAX), Seq(u32::MAX - 1));
    if !matches!(state, State::SynSent | State::SynReceived) {
        dialogue.play(ESTABLISH);
    }
    dialogue.play(script);
    assert_eq!(dialogue.tcb().state(), state);
    dialogue
}

/// RCV.NXT, SND.UNA and SND.NXT in a state, relative.
fn numbers(state: State) -> (u32, u32, u32) {
    match state {
        State::SynSent => (0, 0, 1),
        State::SynReceived => (1, 0, 1),
        State::FinWait1 => (1, 1, 2),
        State::FinWait2 => (1, 2, 2),
        State::CloseWait => (2, 1, 1),
        State::Closing | State::LastAck => (2, 1, 2),
        State::TimeWait => (2, 2, 2),
        _ => (1, 1, 1),
    }
}

/// What is expected of a segment.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// Nothing leaves, nothing changes.
    Nothing,
    /// An acknowledgement leaves, nothing changes.
    Ack,
    /// A reset with SEG.ACK as its number leaves, nothing changes.
    Reset,
    /// An acknowledgement leaves, and this is the state.
    AckAnd(State),
    /// Nothing leaves, and this is the state.
    Now(State),
    /// It is over, with or without an error.
    Over(Option<Error>),
    /// The SYN and ACK leaves again.
    SynAck,
}

#[track_caller]
fn check(state: State, segment: &str, then: Then) {
    let mut dialogue = reach(state);
    dialogue.arrives(segment);
    let out = dialogue.take_output();
    let flags: Vec<Flags> = out.iter().map(|outgoing| outgoing.flags).collect();
    let now = dialogue.tcb().state();
    let what = format!("{state:?} and {segment}: {now:?}, {out:?}");
    let (left, expected): (&[Flags], State) = match then {
        Then::Nothing => (&[], state),
        Then::Ack => (&[Flags::ACK], state),
        Then::Reset => (&[Flags::RST], state),
        Then::AckAnd(next) => (&[Flags::ACK], next),
        Then::Now(next) => (&[], next),
        Then::Over(error) => {
            assert_eq!(dialogue.tcb().error(), error, "{what}");
            (&[], State::Closed)
        }
        Then::SynAck => (&[Flags(Flags::SYN.0 | Flags::ACK.0)], state),
    };
    assert_eq!(flags, left, "{what}");
    assert_eq!(now, expected, "{what}");
    let (rcv_nxt, _, snd_nxt) = numbers(state);
    if then == Then::Ack {
        // <SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>
        assert_eq!(out[0].seq, Seq(u32::MAX) + snd_nxt, "{what}");
        assert_eq!(out[0].ack, Seq(u32::MAX - 1) + rcv_nxt, "{what}");
    }
}

fn synchronized() -> impl Iterator<Item = State> {
    STATES.iter().map(|(state, _)| *state).skip(2)
}

/// A segment with the numbers of the state: `seq` and `ack` are added to RCV.NXT and SND.NXT.
fn segment(state: State, flags: &str, seq: i64, len: u32, ack: i64) -> String {
    let (rcv_nxt, _, snd_nxt) = numbers(state);
    let seq = i64::from(rcv_nxt) + seq;
    let ack = i64::from(snd_nxt) + ack;
    format!(
        "{flags} {seq}:{}({len}) ack {ack} win 1000",
        seq + i64::from(len)
    )
}

#[test]
fn resets_end_a_connection_only_with_the_exact_number() {
    // RFC 5961 section 3.2.
    for state in synchronized().chain([State::SynReceived]) {
        let over = match state {
            State::TimeWait => Then::Nothing,
            State::Closing | State::LastAck => Then::Over(None),
            State::CloseWait => Then::Over(Some(Error::BrokenPipe)),
            _ => Then::Over(Some(Error::ConnectionReset)),
        };
        let challenge = if state == State::TimeWait {
            Then::Nothing
        } else {
            Then::Ack
        };
        for flags in ["R", "R.", "RP.", "RF", "RS", "RS."] {
            check(state, &segment(state, flags, 0, 0, 0), over);
            check(state, &segment(state, flags, 0, 0, 12345), over);
            check(state, &segment(state, flags, 1, 0, 0), challenge);
            check(state, &segment(state, flags, 60_000, 0, 0), challenge);
            check(state, &segment(state, flags, -1, 0, 0), Then::Nothing);
            check(state, &segment(state, flags, 70_000, 0, 0), Then::Nothing);
        }
    }
}

#[test]
fn syn_sent() {
    // RFC 9293 section 3.10.7.3.
    let s = State::SynSent;
    check(
        s,
        "S. 0:0(0) ack 1 win 1000 <mss 1000>",
        Then::AckAnd(State::Established),
    );
    check(s, "S. 0:0(0) ack 0 win 1000", Then::Reset);
    check(s, "S. 0:0(0) ack 2 win 1000", Then::Reset);
    check(s, ". 0:0(0) ack 0 win 1000", Then::Reset);
    check(s, ". 0:0(0) ack 2 win 1000", Then::Reset);
    check(s, "F. 0:0(0) ack 2 win 1000", Then::Reset);
    check(
        s,
        "R. 0:0(0) ack 1",
        Then::Over(Some(Error::ConnectionRefused)),
    );
    check(
        s,
        "RS. 0:0(0) ack 1",
        Then::Over(Some(Error::ConnectionRefused)),
    );
    check(s, "R. 0:0(0) ack 0", Then::Nothing);
    check(s, "R. 0:0(0) ack 2", Then::Nothing);
    check(s, "R 0:0(0)", Then::Nothing);
    check(s, ". 0:0(0) ack 1 win 1000", Then::Nothing);
    check(s, "P. 0:10(10) ack 1 win 1000", Then::Nothing);
    check(s, "F. 0:0(0) ack 1 win 1000", Then::Nothing);
    check(s, "F 0:0(0)", Then::Nothing);
    check(s, "- 0:10(10)", Then::Nothing);
    check(s, "U 0:10(10)", Then::Nothing);
}

#[test]
fn syn_received() {
    let s = State::SynReceived;
    check(s, ". 1:1(0) ack 1 win 1000", Then::Now(State::Established));
    check(
        s,
        "P. 1:11(10) ack 1 win 1000",
        Then::Now(State::Established),
    );
    check(
        s,
        "F. 1:1(0) ack 1 win 1000",
        Then::AckAnd(State::CloseWait),
    );
    check(
        s,
        "FP. 1:11(10) ack 1 win 1000",
        Then::AckAnd(State::CloseWait),
    );
    // Fifth: what acknowledges something else.
    check(s, ". 1:1(0) ack 0 win 1000", Then::Reset);
    check(s, ". 1:1(0) ack 2 win 1000", Then::Reset);
    check(s, "P. 1:11(10) ack -5 win 1000", Then::Reset);
    // First.
    check(s, ". 0:0(0) ack 1 win 1000", Then::Ack);
    check(s, ". 70000:70000(0) ack 1 win 1000", Then::Ack);
    check(s, "S 0:0(0) win 1000", Then::SynAck);
    // Fourth: back to LISTEN.
    check(
        s,
        "S 5:5(0) win 1000",
        Then::Over(Some(Error::ConnectionReset)),
    );
    // No ACK.
    check(s, "- 1:11(10)", Then::Nothing);
    check(s, "F 1:1(0)", Then::Nothing);
    check(s, "U 1:11(10)", Then::Nothing);
}

#[test]
fn syns_are_challenged_in_synchronized_states() {
    // RFC 5961 section 4.2; in TIME-WAIT, RFC 6191 may let them in, but that is the owner's decision.
    for state in synchronized() {
        for flags in ["S", "S.", "SF", "SU."] {
            for seq in [-1, 0, 1, 100, 70_000] {
                check(state, &segment(state, flags, seq, 0, 0), Then::Ack);
            }
        }
    }
}

#[test]
fn segments_outside_the_window_are_answered_and_dropped() {
    for state in synchronized() {
        for flags in [".", "P.", "F.", "U.", "-", "F", "P"] {
            for (seq, len) in [
                (-1, 1),
                (-100, 50),
                (66_000, 1),
                (66_000, 1000),
                (-100, 0),
                (66_000, 0),
            ] {
                if !(flags.contains('F') && seq == -1) {
                    check(state, &segment(state, flags, seq, len, 0), Then::Ack);
                }
            }
        }
    }
}

#[test]
fn segments_without_ack_are_dropped() {
    for state in synchronized() {
        if state == State::TimeWait {
            continue;
        }
        for flags in ["-", "P", "U", "F", "FPU"] {
            check(state, &segment(state, flags, 0, 0, 0), Then::Nothing);
            check(state, &segment(state, flags, 0, 10, 0), Then::Nothing);
        }
    }
}

#[test]
fn acknowledgements_of_what_was_never_sent_are_challenged() {
    // RFC 5961 section 5.2; RFC 9293 says the same of those from the future.
    for state in synchronized() {
        if state == State::TimeWait {
            continue;
        }
        for (flags, len) in [(".", 0), ("P.", 10), ("F.", 0)] {
            check(state, &segment(state, flags, 0, len, 1), Then::Ack);
            check(state, &segment(state, flags, 0, len, 100_000), Then::Ack);
            check(state, &segment(state, flags, 0, len, -100_000), Then::Ack);
        }
    }
}

#[test]
fn old_acknowledgements_are_ignored_but_their_text_is_not() {
    // SND.UNA - MAX.SND.WND =< SEG.ACK: the window was 1000.
    for state in [State::Established, State::FinWait2] {
        check(state, &segment(state, ".", 0, 0, -2), Then::Nothing);
        let mut dialogue = reach(state);
        dialogue.arrives(&segment(state, "P.", 0, 10, -500));
        assert_eq!(dialogue.tcb().readable(), 10);
    }
}

#[test]
fn acknowledgements_of_the_fin() {
    let ack = |state| segment(state, ".", 0, 0, 0);
    for (state, then) in [
        (State::Established, Then::Nothing),
        (State::FinWait1, Then::Now(State::FinWait2)),
        (State::FinWait2, Then::Nothing),
        (State::CloseWait, Then::Nothing),
        (State::Closing, Then::Now(State::TimeWait)),
        (State::LastAck, Then::Over(None)),
        (State::TimeWait, Then::Nothing),
    ] {
        check(state, &ack(state), then);
    }
}

#[test]
fn fins() {
    // With and without an acknowledgement of the own FIN.
    for (state, ack, then) in [
        (State::Established, 0, Then::AckAnd(State::CloseWait)),
        (State::FinWait1, -1, Then::AckAnd(State::Closing)),
        (State::FinWait1, 0, Then::AckAnd(State::TimeWait)),
        (State::FinWait2, 0, Then::AckAnd(State::TimeWait)),
    ] {
        for (flags, len) in [("F.", 0), ("FP.", 100), ("FU.", 1)] {
            check(state, &segment(state, flags, 0, len, ack), then);
        }
    }
    // Behind a gap.
    for state in [State::Established, State::FinWait1, State::FinWait2] {
        check(
            state,
            &segment(
                state,
                "F.",
                10,
                0,
                if state == State::FinWait1 { -1 } else { 0 },
            ),
            Then::Ack,
        );
    }
    // Again: "remain in the state".
    for state in [
        State::CloseWait,
        State::Closing,
        State::LastAck,
        State::TimeWait,
    ] {
        let ack = if matches!(state, State::Closing | State::LastAck) {
            -1
        } else {
            0
        };
        check(state, &segment(state, "F.", -1, 0, ack), Then::Ack);
    }
}

#[test]
fn text_after_the_fin_is_ignored() {
    for state in [
        State::CloseWait,
        State::Closing,
        State::LastAck,
        State::TimeWait,
    ] {
        let ack = if matches!(state, State::Closing | State::LastAck) {
            -1
        } else {
            0
        };
        check(state, &segment(state, "P.", 0, 100, ack), Then::Ack);
        let mut dialogue = reach(state);
        dialogue.arrives(&segment(state, "P.", 0, 100, ack));
        assert_eq!(dialogue.tcb().readable(), 0);
    }
}

#[test]
fn text_is_taken_where_it_may_be() {
    for state in [State::Established, State::FinWait1, State::FinWait2] {
        for flags in ["P.", ".", "U.", "PU."] {
            let ack = if state == State::FinWait1 { -1 } else { 0 };
            let mut dialogue = reach(state);
            dialogue.arrives(&segment(state, flags, 0, 100, ack));
            assert_eq!(dialogue.tcb().state(), state);
            assert_eq!(dialogue.tcb().readable(), 100);
            // What overlaps counts once.
            dialogue.arrives(&segment(state, flags, 50, 100, ack));
            assert_eq!(dialogue.tcb().readable(), 150);
        }
    }
}

#[test]
fn nothing_happens_in_closed() {
    let mut dialogue = reach(State::Established);
    dialogue.arrives("R 1:1(0)");
    for flags in ["S", ".", "R", "F.", "P."] {
        dialogue.arrives(&segment(State::Established, flags, 0, 0, 0));
        assert_eq!(dialogue.take_output(), []);
        assert_eq!(dialogue.tcb().state(), State::Closed);
    }
}

#[test]
fn challenges_are_limited() {
    // RFC 5961 section 7.
    let mut dialogue = reach(State::Established);
    let mut answers = 0;
    for _ in 0..50 {
        dialogue.arrives("R 5:5(0)");
        answers += dialogue.take_output().len();
    }
    assert_eq!(answers, 10);
    dialogue.play("6 < R 5:5(0)\n 6 > . 1:1(0) ack 1");
}

#[test]
fn segments_of_no_connection_are_reset() {
    // RFC 9293 section 3.5.2 and 3.10.7.1.
    let segment = |flags, payload| Segment {
        seq: Seq(100),
        ack: Seq(500),
        flags,
        payload,
        ..Segment::default()
    };
    assert_eq!(reset_for(&segment(Flags::RST, b"")), None);
    assert_eq!(reset_for(&segment(Flags::RST | Flags::ACK, b"")), None);
    let answer = reset_for(&segment(Flags::ACK, b"abc")).expect("a reset");
    assert_eq!((answer.seq, answer.flags), (Seq(500), Flags::RST));
    let answer = reset_for(&segment(Flags::SYN, b"abc")).expect("a reset");
    assert_eq!((answer.seq, answer.ack), (Seq(0), Seq(104)));
    assert_eq!(answer.flags, Flags::RST | Flags::ACK);
}
