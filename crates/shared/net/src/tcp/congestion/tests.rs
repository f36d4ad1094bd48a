use super::*;
use proptest::prelude::*;
use std::vec::Vec;

const MSS: u32 = 1000;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

fn acked(bytes: u32) -> Acked {
    Acked {
        bytes,
        in_flight: bytes,
        rtt: None,
        window_limited: true,
        round_ended: false,
    }
}

#[test]
fn the_initial_window_is_ten_segments() {
    assert_eq!(Congestion::new(Algorithm::Cubic, 1460).window(), 14_600);
    assert_eq!(Congestion::new(Algorithm::Cubic, 536).window(), 5360);
    assert_eq!(Congestion::new(Algorithm::Cubic, 8960).window(), 17_920);
}

#[test]
fn slow_start_doubles_and_reno_adds_a_segment_per_window() {
    let mut congestion = Congestion::new(Algorithm::Reno, MSS);
    for _ in 0..10 {
        congestion.on_acked(&acked(MSS), ms(10), at(1));
    }
    assert_eq!(congestion.window(), 20 * MSS);
    congestion.on_congestion(Cause::Loss, 20 * MSS, at(2));
    assert_eq!(
        (congestion.window(), congestion.threshold()),
        (10 * MSS, 10 * MSS)
    );
    for _ in 0..10 {
        congestion.on_acked(&acked(MSS), ms(10), at(3));
    }
    assert_eq!(congestion.window(), 11 * MSS);
}

#[test]
fn a_program_that_sends_little_earns_no_window() {
    let mut congestion = Congestion::new(Algorithm::Cubic, MSS);
    let little = Acked {
        window_limited: false,
        ..acked(MSS)
    };
    for i in 0..1000 {
        congestion.on_acked(&little, ms(10), at(i));
    }
    assert_eq!(congestion.window(), 10 * MSS);
}

#[test]
fn a_timeout_leaves_one_segment_and_the_threshold() {
    let mut congestion = Congestion::new(Algorithm::Cubic, MSS);
    congestion.on_timeout(10 * MSS, true, at(1));
    assert_eq!(
        (congestion.window(), congestion.threshold()),
        (MSS, 7 * MSS)
    );
    congestion.on_timeout(MSS, false, at(2));
    assert_eq!(congestion.threshold(), 7 * MSS);
    congestion.undo();
    assert_eq!(
        (congestion.window(), congestion.threshold()),
        (10 * MSS, u32::MAX)
    );
    congestion.undo();
    assert_eq!(congestion.window(), 10 * MSS);
}

#[test]
fn silence_restarts_from_the_initial_window() {
    let mut congestion = Congestion::new(Algorithm::Cubic, MSS);
    for _ in 0..100 {
        congestion.on_acked(&acked(MSS), ms(10), at(1));
    }
    congestion.on_congestion(Cause::Mark, 100 * MSS, at(2));
    let window = congestion.window();
    congestion.on_idle();
    assert_eq!(congestion.window(), 10 * MSS);
    assert!(congestion.threshold() >= window - window / 4);
}

/// One round trip of acknowledgements.
fn round(congestion: &mut Congestion, rtt: Duration, now: Instant) {
    let count = congestion.window() / MSS;
    for i in 0..count {
        let acked = Acked {
            rtt: Some(rtt),
            round_ended: i == 0,
            ..acked(MSS)
        };
        congestion.on_acked(&acked, rtt, now);
    }
}

#[test]
fn growing_round_trips_end_slow_start() {
    let mut congestion = Congestion::new(Algorithm::Cubic, MSS);
    round(&mut congestion, ms(20), at(0));
    round(&mut congestion, ms(20), at(20));
    assert_eq!(congestion.window(), 40 * MSS);
    // Below the threshold of 4 ms: nothing.
    round(&mut congestion, ms(23), at(40));
    assert_eq!(congestion.window(), 80 * MSS);
    round(&mut congestion, ms(30), at(60));
    let conservative = congestion.window();
    assert!(conservative < 110 * MSS && congestion.in_slow_start());
    for i in 0..5 {
        round(&mut congestion, ms(30), at(80 + 30 * i));
    }
    assert!(!congestion.in_slow_start());
    assert!(congestion.window() < conservative * 5 / 4 * 5 / 4 * 5 / 4 * 5 / 4 * 5 / 4);
}

#[test]
fn shrinking_round_trips_resume_slow_start() {
    let mut congestion = Congestion::new(Algorithm::Cubic, MSS);
    for rtt in [20, 20, 30] {
        round(&mut congestion, ms(rtt), at(0));
    }
    for i in 0..10 {
        round(&mut congestion, ms(21), at(30 + i));
    }
    assert!(congestion.in_slow_start() && congestion.window() > 10_000 * MSS);
}

#[test]
fn rate_reduction_sends_in_proportion() {
    // Ten segments, one lost, threshold seven: seven are sent for the ten that arrive.
    let mut prr = Prr::new(10 * MSS, 7 * MSS);
    let mut sent = 0;
    let mut in_flight = 6 * MSS;
    prr.on_acked(3 * MSS, in_flight, false, MSS);
    for _ in 0..7 {
        let now = prr.allowance() / MSS * MSS;
        prr.on_sent(now);
        sent += now;
        in_flight += now;
        in_flight -= MSS;
        prr.on_acked(MSS, in_flight, true, MSS);
    }
    assert!(
        (6 * MSS..=8 * MSS).contains(&(in_flight + prr.allowance())),
        "{in_flight} {sent}"
    );
}

#[test]
fn the_first_retransmission_never_waits() {
    let mut prr = Prr::new(100 * MSS, 50 * MSS);
    prr.on_acked(0, 90 * MSS, false, MSS);
    assert_eq!(prr.allowance(), MSS);
    prr.on_sent(MSS);
    prr.on_acked(MSS, 90 * MSS, false, MSS);
    assert_eq!(prr.allowance(), 0);
}

#[derive(Clone, Debug)]
enum Event {
    Acked(u32, bool, bool, Option<u64>),
    Congestion(u32),
    Timeout(u32, bool),
    Undo,
    Recovered,
    Idle,
    Mss(u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => any::<(u32, bool, bool, Option<u64>)>().prop_map(|(a, b, c, d)| Event::Acked(a, b, c, d)),
        6 => (0u32..100_000, any::<bool>()).prop_map(|(a, b)| Event::Acked(a, true, b, Some(1_000_000))),
        1 => any::<u32>().prop_map(Event::Congestion),
        1 => any::<(u32, bool)>().prop_map(|(a, b)| Event::Timeout(a, b)),
        1 => Just(Event::Undo),
        1 => Just(Event::Recovered),
        1 => Just(Event::Idle),
        1 => any::<u32>().prop_map(Event::Mss),
    ]
}

proptest! {
    #[test]
    fn any_events_leave_a_sane_window(reno: bool, mss: u32, events: Vec<(u64, u64)>, list in proptest::collection::vec(event(), 0..100)) {
        let algorithm = if reno { Algorithm::Reno } else { Algorithm::Cubic };
        let mut congestion = Congestion::new(algorithm, mss);
        let times = events.iter().cycle().chain(core::iter::repeat(&(0, 0)));
        for (event, &(now, rtt)) in list.into_iter().zip(times) {
            let now = Instant::from_nanos(now);
            match event {
                Event::Acked(bytes, window_limited, round_ended, sample) => congestion.on_acked(
                    &Acked { bytes, in_flight: bytes, rtt: sample.map(Duration::from_nanos), window_limited, round_ended },
                    Duration::from_nanos(rtt),
                    now,
                ),
                Event::Congestion(flight) => congestion.on_congestion(Cause::Loss, flight, now),
                Event::Timeout(flight, first) => congestion.on_timeout(flight, first, now),
                Event::Undo => congestion.undo(),
                Event::Recovered => congestion.on_recovered(),
                Event::Idle => congestion.on_idle(),
                Event::Mss(mss) => congestion.set_mss(mss),
            }
            prop_assert!(congestion.window() >= congestion.mss && congestion.window() <= LARGEST);
            prop_assert!(congestion.threshold() >= congestion.mss.min(2));
        }
    }

    #[test]
    fn rate_reduction_survives_anything(flight: u32, threshold: u32, acks: Vec<(u32, u32, bool, u32)>) {
        let mut prr = Prr::new(flight, threshold);
        for (delivered, in_flight, safe, mss) in acks {
            prr.on_acked(delivered, in_flight, safe, mss);
            prr.on_sent(mss);
        }
    }
}
