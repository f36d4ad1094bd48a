//! Whatever arrives and whatever the program does: nothing panics, and what is promised of the interface holds.

use std::time::Duration;
use std::vec;
use std::vec::Vec;

use kiln_abi::Instant;
use proptest::prelude::*;

use super::dialogue::settings;
use crate::error::Error;
use crate::tcp::congestion::Algorithm;
use crate::tcp::*;

/// Numbers near those that matter, and far from them.
#[derive(Clone, Copy, Debug)]
enum Near {
    Una(i32),
    Nxt(i32),
    Expected(i32),
    Edge(i32),
    Any(u32),
}

#[derive(Clone, Debug)]
enum Step {
    Arrives {
        seq: Near,
        ack: Near,
        flags: u8,
        window: u16,
        length: u16,
        timestamp: Option<(i32, i32)>,
        sack: Vec<(Near, Near)>,
        ecn: u8,
        joined: u16,
        mss: Option<u16>,
        take: u16,
    },
    Pass(u64),
    Transmit(u32),
    Refuse,
    Write(u16),
    Read(u16),
    Close,
    Orphan,
    Abort,
    Icmp(Near, bool),
    TooBig(u16, Near),
    Limits(u32, u32),
    Shed,
}

fn near() -> impl Strategy<Value = Near> {
    prop_oneof![
        1 => (-3..3000i32).prop_map(Near::Una),
        1 => (-1500..3i32).prop_map(Near::Nxt),
        4 => Just(Near::Expected(0)),
        1 => (-2000..3000i32).prop_map(Near::Expected),
        1 => (-2000..5i32).prop_map(Near::Edge),
        1 => any::<u32>().prop_map(Near::Any),
    ]
}

fn acks() -> impl Strategy<Value = Near> {
    prop_oneof![
        4 => Just(Near::Nxt(0)),
        2 => Just(Near::Una(0)),
        1 => near(),
    ]
}

prop_compose! {
    fn arrives()(
        seq in near(),
        ack in acks(),
        flags in prop_oneof![6 => Just(16u8), 2 => Just(24u8), 1 => Just(17u8), 1 => Just(18u8), 2 => any::<u8>()],
        window in prop_oneof![Just(0u16), Just(65_535u16), any::<u16>()],
        length in prop_oneof![Just(0u16), 0..3000u16],
        timestamp in prop_oneof![Just(Some((0, 0))), proptest::option::of((-5..500i32, -5..5i32))],
        sack in proptest::collection::vec((near(), near()), 0..4),
        ecn in 0..4u8,
        joined in 0..20u16,
        mss in proptest::option::of(any::<u16>()),
        take in prop_oneof![Just(0u16), 0..3000u16],
    ) -> Step {
        Step::Arrives { seq, ack, flags, window, length, timestamp, sack, ecn, joined, mss, take }
    }
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => arrives(),
        6 => prop_oneof![0..50u64, 0..100_000u64].prop_map(Step::Pass),
        12 => prop_oneof![Just(0u32), 0..70_000u32].prop_map(Step::Transmit),
        2 => Just(Step::Refuse),
        6 => any::<u16>().prop_map(Step::Write),
        6 => any::<u16>().prop_map(Step::Read),
        1 => Just(Step::Close),
        1 => (0..8u8).prop_map(|n| if n == 0 { Step::Orphan } else { Step::Shed }),
        1 => (0..8u8).prop_map(|n| if n == 0 { Step::Abort } else { Step::Shed }),
        1 => (near(), any::<bool>()).prop_map(|(seq, hard)| Step::Icmp(seq, hard)),
        1 => (any::<u16>(), near()).prop_map(|(bytes, seq)| Step::TooBig(bytes, seq)),
        1 => (0..2_000_000u32, 0..200_000u32).prop_map(|(receive, send)| Step::Limits(receive, send)),
    ]
}

fn resolve(tcb: &Tcb, near: Near, of_peer: bool) -> Seq {
    let plus = |seq: Seq, by: i32| Seq(seq.0.wrapping_add(by.cast_unsigned()));
    match near {
        Near::Una(by) => plus(tcb.snd_una, by),
        Near::Nxt(by) if !of_peer => plus(tcb.snd_nxt, by),
        Near::Nxt(by) | Near::Expected(by) => plus(tcb.rcv_nxt, by),
        Near::Edge(by) => plus(tcb.rcv_adv, by),
        Near::Any(number) => Seq(number),
    }
}

fn arrive(tcb: &mut Tcb, step: &Step, now: Instant) {
    let Step::Arrives {
        seq,
        ack,
        flags,
        window,
        length,
        timestamp,
        sack,
        ecn,
        joined,
        mss,
        take,
    } = step
    else {
        return;
    };
    let payload = vec![7; usize::from(*length)];
    let mut options = Options {
        mss: *mss,
        window_scale: mss.map(|mss| (mss % 20) as u8),
        sack_permitted: mss.is_some_and(|mss| mss % 3 > 0),
        timestamps: timestamp.map(|(value, echo)| Timestamps {
            value: tcb.ts_recent.wrapping_add(value.cast_unsigned()),
            echo: tcb.clock(now).wrapping_add(echo.cast_unsigned()),
        }),
        sack: SackBlocks::default(),
    };
    for &(start, end) in sack {
        options.sack.push(Block {
            start: resolve(tcb, start, false),
            end: resolve(tcb, end, false),
        });
    }
    let segment = Segment {
        seq: resolve(tcb, *seq, true),
        ack: resolve(tcb, *ack, false),
        window: *window,
        flags: Flags(*flags),
        urgent: 3,
        options,
        payload: &payload,
        ecn: Ecn::from_bits(*ecn),
        joined: *joined,
    };
    let changed = tcb.receive_with(&segment, now, |_| usize::from(*take));
    let _ = reset_for(&segment);
    if let Some(mut rest) = tcb.time_wait() {
        let _ = rest.receive(&segment, now);
    }
    if tcb.wants_to_transmit(now) {
        assert!(changed.any(Changed::OUTPUT) || tcb.state() == State::Closed);
    }
}

fn step(tcb: &mut Tcb, step: &Step, last: &mut Option<Outgoing>, now: &mut Instant) {
    match step {
        Step::Arrives { .. } => arrive(tcb, step, *now),
        Step::Pass(milliseconds) => {
            *now = *now + Duration::from_millis(*milliseconds);
            if tcb.deadline() <= *now {
                let _ = tcb.advance(*now);
            }
        }
        Step::Transmit(longest) => {
            for turn in 0.. {
                assert!(turn < 5000, "segments without end");
                let wanted = tcb.wants_to_transmit(*now);
                let Some(outgoing) = tcb.transmit(*longest, *now) else {
                    assert!(!wanted);
                    break;
                };
                assert!(wanted);
                let bytes: usize = tcb.payload(&outgoing).expect("data").map(<[u8]>::len).sum();
                assert_eq!(bytes, outgoing.len as usize);
                assert!(outgoing.header_len() <= 60);
                assert!(bytes <= usize::from(outgoing.segment_size).max(*longest as usize));
                *last = Some(outgoing);
            }
            // Nothing that is due stays due.
            if tcb.deadline() <= *now {
                let _ = tcb.advance(*now);
                let stays = tcb.deadline() <= *now && !tcb.wants_to_transmit(*now);
                assert!(!stays, "{tcb:?}");
            }
        }
        Step::Refuse => {
            if let Some(outgoing) = last.take() {
                tcb.not_sent(&outgoing, *now);
                let _ = tcb.payload(&outgoing);
            }
        }
        Step::Write(count) => {
            let room = tcb.writable();
            let result = tcb.write(&vec![1; usize::from(*count)], *now);
            assert_eq!(result.unwrap_or(0), room.min(usize::from(*count)));
        }
        Step::Read(count) => {
            let there = tcb.readable();
            let mut buffer = vec![0; usize::from(*count)];
            let result = tcb.read(&mut buffer, *now);
            assert_eq!(result.unwrap_or(0), there.min(usize::from(*count)));
        }
        Step::Close => tcb.close(*now),
        Step::Orphan => tcb.orphan(*now),
        Step::Abort => tcb.abort(Error::ConnectionAborted),
        Step::Icmp(seq, hard) => {
            let error = if *hard {
                Error::ConnectionRefused
            } else {
                Error::Unreachable
            };
            let seq = resolve(tcb, *seq, false);
            let _ = tcb.icmp_error(error, seq, *now);
        }
        Step::TooBig(bytes, seq) => {
            let seq = resolve(tcb, *seq, false);
            let _ = tcb.packet_too_big(u32::from(*bytes), seq, *now);
        }
        Step::Limits(receive, send) => tcb.set_limits(*receive, *send),
        Step::Shed => {
            let _ = tcb.shed();
        }
    }
    let info = tcb.info(*now);
    assert!(info.receive_window <= 1 << 30);
    assert!(tcb.held() <= 4_000_000);
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics(
        active in any::<bool>(),
        established in proptest::bool::weighted(0.8),
        (iss, irs) in any::<(u32, u32)>(),
        (timestamps, sack, ecn, probe_mtu) in any::<(bool, bool, bool, bool)>(),
        receive_limit in prop_oneof![0..3000u32, Just(65_535u32), Just(1 << 29)],
        send_limit in 0..300_000u32,
        mss in any::<u16>(),
        cubic in any::<bool>(),
        steps in proptest::collection::vec(steps(), 1..120),
    ) {
        let settings = Settings {
            timestamps, sack, ecn, probe_mtu, receive_limit, send_limit, mss,
            algorithm: if cubic { Algorithm::Cubic } else { Algorithm::Reno },
            keepalive: Some(KeepAlive { idle: Duration::from_secs(30), interval: Duration::from_secs(1), probes: 3 }),
            user_timeout: Some(Duration::from_secs(100)),
            ..settings()
        };
        let mut now = Instant::from_nanos(1 << 40);
        let syn = Segment {
            seq: Seq(irs),
            ack: Seq(iss) + 1,
            window: 3000,
            flags: if active { Flags::SYN | Flags::ACK } else { Flags::SYN },
            options: Options {
                mss: Some(1000),
                window_scale: Some(3),
                sack_permitted: true,
                timestamps: Some(Timestamps::default()),
                ..Options::default()
            },
            ..Segment::default()
        };
        let mut tcb = if active {
            Tcb::connect(&settings, Seq(iss), 5, now)
        } else {
            Tcb::accept(&settings, &syn, Seq(iss), 5, now)
        };
        if established {
            let _ = tcb.transmit(0, now);
            let ack = Segment { seq: Seq(irs) + 1, flags: Flags::ACK, ..syn };
            let _ = tcb.receive(if active { &syn } else { &ack }, now);
            prop_assert_eq!(tcb.state(), State::Established);
        }
        let mut last = None;
        for one in &steps {
            step(&mut tcb, one, &mut last, &mut now);
        }
    }
}
