//! Any peer, any order of events.

use super::super::*;
use proptest::prelude::*;
use std::time::Instant as Clock;
use std::vec;
use std::vec::Vec;

const MSS: u32 = 100;

#[derive(Clone, Debug)]
enum Step {
    New(u32),
    Lost(u32),
    Again(u32, u32),
    Probe,
    NotSent(u32, u32),
    /// An acknowledgement of a part of what is out, with blocks at offsets from SND.UNA.
    Ack(u32, Vec<(i32, i32)>, Option<u32>, bool),
    Timer,
    Wait(u64),
    Mark,
    Mss(u32),
    Idle,
}

fn step() -> impl Strategy<Value = Step> {
    let block = (-500i32..5000, 0i32..900).prop_map(|(start, len)| (start, start + len));
    let wild = any::<(i32, i32)>();
    let block = prop_oneof![9 => block, 1 => wild];
    let ack = prop_oneof![3 => Just(0u32), 3 => 0u32..2000];
    prop_oneof![
        6 => (1u32..3000).prop_map(Step::New),
        6 => (1u32..500).prop_map(Step::Lost),
        1 => (0u32..3000, 1u32..500).prop_map(|(at, len)| Step::Again(at, len)),
        1 => Just(Step::Probe),
        1 => (0u32..3000, 1u32..500).prop_map(|(at, len)| Step::NotSent(at, len)),
        9 => (ack, proptest::collection::vec(block, 0..4), proptest::option::of(0u32..50), any::<bool>())
            .prop_map(|(ack, blocks, echo, limited)| Step::Ack(ack, blocks, echo, limited)),
        3 => Just(Step::Timer),
        4 => (0u64..100).prop_map(Step::Wait),
        1 => Just(Step::Mark),
        1 => (1u32..300).prop_map(Step::Mss),
        1 => Just(Step::Idle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn sums_are_right_and_everything_arrives(
        first: u32,
        sack: bool,
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut recovery = Recovery::new(Algorithm::Cubic, MSS, sack);
        let first = Seq(first);
        let (mut una, mut nxt) = (first, first);
        let mut now = Instant::from_nanos(1_000_000_000);
        // What the peer has reported, byte by byte.
        let mut arrived: Vec<bool> = vec![];
        for step in steps {
            let part = |at: u32, len: u32| Block {
                start: (una + at).min(nxt),
                end: (una + at + len).min(nxt),
            };
            match step {
                Step::New(len) => {
                    let block = Block { start: nxt, end: nxt + len };
                    recovery.sent(block, Sending::New, 1, now);
                    nxt = block.end;
                    arrived.resize(nxt.since(first) as usize, false);
                }
                Step::Lost(len) => {
                    if let Some(lost) = recovery.next_lost() {
                        let end = lost.end.min(lost.start + len);
                        let before = recovery.in_flight();
                        recovery.sent(Block { end, ..lost }, Sending::Again, 2, now);
                        prop_assert_eq!(recovery.in_flight() - before, end.since(lost.start));
                    }
                }
                Step::Again(at, len) => recovery.sent(part(at, len), Sending::Again, 2, now),
                Step::Probe => if let Some(tail) = recovery.tail() {
                    prop_assert!(!tail.is_empty() && tail.end <= nxt && tail.start >= una);
                    recovery.sent(tail, Sending::Probe, 3, now);
                },
                Step::NotSent(at, len) => recovery.not_sent(part(at, len), now),
                Step::Ack(count, blocks, echo, window_limited) => {
                    let ack = (una + count).min(nxt);
                    let mut options = SackBlocks::default();
                    let offset = |by: i32| Seq(ack.0.wrapping_add_signed(by));
                    for (start, end) in blocks {
                        options.push(Block { start: offset(start), end: offset(end) });
                    }
                    let was_out = una != nxt;
                    let before = arrived.iter().filter(|&&a| a).count();
                    arrived[..ack.since(first) as usize].fill(true);
                    let list = options.as_slice();
                    for (index, block) in list.iter().enumerate() {
                        let repeats = index == 0 && list.get(1).is_some_and(|second| {
                            second.start <= block.start && block.end <= second.end
                        });
                        if sack && was_out && ack != nxt && !block.is_empty() && !repeats
                            && block.start > ack && block.start < nxt && block.end <= nxt
                        {
                            let (start, end) = (block.start.since(first), block.end.since(first));
                            arrived[start as usize..end as usize].fill(true);
                        }
                    }
                    let outcome = recovery.acked(&Ack {
                        ack,
                        sack: &options,
                        snd_nxt: nxt,
                        echo_rtt: echo.map(|ms| Duration::from_millis(u64::from(ms))),
                        echoed: echo,
                        duplicate: ack == una,
                        window_limited,
                    }, now);
                    una = ack;
                    let after = arrived.iter().filter(|&&a| a).count();
                    prop_assert_eq!(outcome.delivered as usize, after - before);
                }
                Step::Timer => {
                    let due = recovery.deadline();
                    if due < Instant::FOREVER {
                        now = if now < due { due } else { now };
                        if recovery.expire(nxt, true, now) == Expired::Timeout {
                            prop_assert_eq!(recovery.in_flight(), 0);
                            if recovery.board.sacked == 0 {
                                arrived[una.since(first) as usize..].fill(false);
                            }
                        }
                        prop_assert!(recovery.deadline() > now);
                    }
                }
                Step::Wait(ms) => now = now + Duration::from_millis(ms),
                Step::Mark => {
                    recovery.marked(nxt, now);
                }
                Step::Mss(mss) => recovery.set_mss(mss),
                Step::Idle => recovery.restart_after_idle(now),
            }
            recovery.check();
            let out = arrived.iter().filter(|&&a| !a).count() as u32;
            let expected = out.saturating_sub(recovery.board.lost).saturating_sub(recovery.left);
            prop_assert_eq!(recovery.in_flight(), expected);
        }
        // From here on the peer only answers repetitions of what it has not: everything arrives.
        for _ in 0..2000 {
            if una == nxt {
                break;
            }
            let Some(lost) = recovery.next_lost() else {
                now = recovery.deadline().max(now);
                if recovery.expire(nxt, true, now) == Expired::Probe
                    && let Some(tail) = recovery.tail()
                {
                    recovery.sent(tail, Sending::Probe, 4, now);
                }
                continue;
            };
            recovery.sent(lost, Sending::Again, 4, now);
            now = now + Duration::from_millis(10);
            arrived[lost.start.since(first) as usize..lost.end.since(first) as usize].fill(true);
            while una < nxt && arrived[una.since(first) as usize] {
                una += 1;
            }
            recovery.acked(&Ack {
                ack: una,
                sack: &SackBlocks::default(),
                snd_nxt: nxt,
                echo_rtt: None,
                echoed: None,
                duplicate: false,
                window_limited: true,
            }, now);
            recovery.check();
        }
        prop_assert_eq!(una, nxt);
        prop_assert_eq!(recovery.deadline(), Instant::FOREVER);
    }
}

/// Cheap numbers that look random.
fn random(state: &mut u64) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 20) as u32
}

#[test]
fn random_blocks_cost_no_more_than_records_are_allowed() {
    let mut recovery = Recovery::new(Algorithm::Cubic, 1448, true);
    let nxt = Seq(64 << 20);
    let now = Instant::from_nanos(5_000_000_000);
    let all = Block {
        start: Seq(0),
        end: nxt,
    };
    recovery.sent(all, Sending::New, 1, now);
    let mut state = 0x1357_9bdf_0246_8ace;
    let begun = Clock::now();
    let count = 20_000;
    for _ in 0..count {
        let mut sack = SackBlocks::default();
        for _ in 0..4 {
            let start = Seq(random(&mut state) % (64 << 20));
            sack.push(Block {
                start,
                end: start + random(&mut state) % 100,
            });
        }
        let ack = Ack {
            ack: Seq(0),
            sack: &sack,
            snd_nxt: nxt,
            echo_rtt: None,
            echoed: None,
            duplicate: true,
            window_limited: true,
        };
        recovery.acked(&ack, now + Duration::from_millis(10));
    }
    let each = begun.elapsed() / count;
    recovery.check();
    let (records, _) = recovery.board.records();
    std::println!(
        "{each:?} for each acknowledgement, {} records",
        records.len()
    );
    assert!(records.len() <= 4097);
    assert!(each < std::time::Duration::from_millis(1));
}

#[test]
fn repetitions_that_have_arrived_are_not_remembered() {
    const COUNT: u32 = 10_000;
    for sack in [false, true] {
        let mut recovery = Recovery::new(Algorithm::Reno, MSS, sack);
        let mut now = Instant::from_nanos(1_000_000_000);
        recovery.measured(Duration::from_millis(10), now);
        let nxt = Seq(0) + COUNT * MSS;
        let all = Block {
            start: Seq(0),
            end: nxt,
        };
        recovery.sent(all, Sending::New, 1, now);
        let acked = |recovery: &mut Recovery, una: u32, now: Instant| {
            let none = SackBlocks::default();
            recovery.acked(
                &Ack {
                    ack: Seq(una * MSS),
                    sack: &none,
                    snd_nxt: nxt,
                    echo_rtt: None,
                    echoed: None,
                    duplicate: una == 0,
                    window_limited: true,
                },
                now,
            );
        };
        for _ in 0..3 {
            acked(&mut recovery, 0, now);
        }
        let mut most = 0;
        for una in 0..COUNT - 1 {
            now = now + Duration::from_millis(1);
            let first = Block {
                start: Seq(una * MSS),
                end: Seq((una + 1) * MSS),
            };
            if !sack {
                assert_eq!(recovery.next_lost(), Some(first));
            }
            recovery.sent(first, Sending::Again, 1, now);
            acked(&mut recovery, una + 1, now);
            most = most.max(recovery.board.repetitions());
        }
        recovery.check();
        assert!(most <= 1, "{most} repetitions are remembered");
    }
}

/// Prints what a request costs. Run it with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn a_request_costs() {
    let mut recovery = Recovery::new(Algorithm::Cubic, 1448, true);
    let mut buffer = crate::tcp::send::SendBuffer::new(1 << 20);
    let mut receive = crate::tcp::receive::ReceiveBuffer::new(Seq(0), 1 << 20);
    let mut nxt = Seq(0);
    let mut now = Instant::from_nanos(5_000_000_000);
    let count = 5_000_000;
    for part in 0..4 {
        let begun = Clock::now();
        for _ in 0..count {
            let block = Block {
                start: nxt,
                end: nxt + 300,
            };
            if part != 1 {
                recovery.sent(block, Sending::New, 1, now);
                now = now + Duration::from_micros(50);
                let ack = Ack {
                    ack: block.end,
                    sack: &SackBlocks::default(),
                    snd_nxt: block.end,
                    echo_rtt: Some(Duration::ZERO),
                    echoed: Some(1),
                    duplicate: false,
                    window_limited: part == 3,
                };
                core::hint::black_box(recovery.acked(&ack, now));
            }
            if part == 1 || part == 2 {
                buffer.write(&[7; 300]);
                core::hint::black_box(buffer.pieces(0, 300).count());
                buffer.consume(300);
                receive.insert(nxt, &[7; 200]);
                core::hint::black_box(receive.peek());
                receive.consume(200);
            }
            nxt = block.end;
            if part == 1 || part == 2 {
                receive = crate::tcp::receive::ReceiveBuffer::new(nxt, 1 << 20);
            }
        }
        std::println!("part {part}: {:?}", begun.elapsed() / count);
    }
}
