//! Time.

use core::hint::black_box;

use kiln::println;
use kiln::time::{Duration, Instant, now, since_epoch, sleep, sleep_until, timeout};

/// How late a sleep may end on a busy host.
const TOLERANCE: Duration = Duration::from_millis(100);

pub async fn run(case: &str, args: &[&'static str]) -> Option<u8> {
    match case {
        "startup" => startup().await,
        "monotonic" => monotonic(),
        "sleeps" => sleeps().await,
        "past" => past().await,
        "wall" => println!("wall={}", since_epoch().as_nanos()),
        "idle" => sleep(Duration::from_millis(crate::number(args, 0))).await,
        "many-sleeps" => many_sleeps(crate::number(args, 0)).await,
        _ => return None,
    }
    Some(0)
}

/// How the start went: nanoseconds from the first instruction to each stage.
async fn startup() {
    use kiln_rt::start::{Stage, reached};
    use kiln_rt::time::ticks;
    let main = ticks();
    // The counter's frequency, by the monitor's clock.
    let (began, before) = (now(), ticks());
    sleep(Duration::from_millis(50)).await;
    let (ended, after) = (now(), ticks());
    let nanos = u128::from(ended.as_nanos() - began.as_nanos());
    let since = |at: u64| {
        let ticks = u128::from(at.saturating_sub(reached(Stage::First)));
        ticks * nanos / u128::from((after - before).max(1))
    };
    println!(
        "relocated={} sealed={} ready={} main={}",
        since(reached(Stage::Relocated)),
        since(reached(Stage::Sealed)),
        since(reached(Stage::Ready)),
        since(main),
    );
}

fn monotonic() {
    let start = now();
    let mut last = start;
    let mut advanced = 0u32;
    for _ in 0..100_000 {
        let at = now();
        assert!(at >= last, "the clock went back from {last:?} to {at:?}");
        advanced += u32::from(at > last);
        last = at;
    }
    assert!(advanced > 1000, "the clock stood still: {advanced} steps");
    // The counter that is read between calls and the monitor's clock agree.
    let wall = since_epoch();
    let from = now();
    while now() - from < Duration::from_millis(200) {
        black_box(());
    }
    let elapsed = since_epoch().saturating_sub(wall);
    let difference = elapsed.abs_diff(Duration::from_millis(200));
    assert!(
        difference < Duration::from_millis(20),
        "200 ms took {elapsed:?} by the wall clock"
    );
}

async fn sleeps() {
    for _ in 0..5 {
        let length = Duration::from_millis(200);
        let start = now();
        sleep(length).await;
        let took = now() - start;
        assert!(took >= length, "woke after {took:?}");
        assert!(took < length + TOLERANCE, "woke after {took:?}");
    }
}

async fn past() {
    let start = now();
    for _ in 0..1000 {
        sleep_until(Instant::ZERO).await;
        sleep_until(start).await;
        sleep(Duration::ZERO).await;
    }
    let took = now() - start;
    assert!(took < TOLERANCE, "3000 sleeps until the past took {took:?}");
    // A time-out of nothing still lets a ready future through.
    assert_eq!(timeout(Duration::ZERO, async { 5 }).await, Ok(5));
    // And one that never ends is a wait like any other.
    assert!(
        timeout(Duration::from_millis(20), sleep(Duration::MAX))
            .await
            .is_err()
    );
}

/// Short sleeps, for looking at how often the guest wakes.
async fn many_sleeps(count: u64) {
    for _ in 0..count {
        sleep(Duration::from_millis(1)).await;
    }
}
