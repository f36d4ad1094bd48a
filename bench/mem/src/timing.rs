//! Medians of alternating runs.

use std::time::{Duration, Instant};

/// How long one run of one contender lasts.
const RUN: Duration = Duration::from_micros(200);
/// Runs per contender; odd, so that the median is one of them.
const RUNS: usize = 31;

/// Nanoseconds per call of `first` and of `second`: medians of alternating runs.
pub fn duel(mut first: impl FnMut(), mut second: impl FnMut()) -> (f64, f64) {
    alternate(|rounds, is_first| {
        if is_first {
            repeat(rounds, (), &mut |()| first())
        } else {
            repeat(rounds, (), &mut |()| second())
        }
    })
}

/// The same for two routines of one type that `operation` calls.
///
/// Both run in the very same loop: where the compiler places two loops can cost one of them a cycle a
/// round, which is a fifth of the fastest operations here.
pub fn duel_with<R: Copy>(first: R, second: R, mut operation: impl FnMut(R)) -> (f64, f64) {
    alternate(|rounds, is_first| {
        let routine = if is_first { first } else { second };
        repeat(rounds, routine, &mut operation)
    })
}

/// One line of a table.
pub fn row(label: &str, (kiln, c): (f64, f64)) {
    println!("{label:>24} {kiln:>12.2} {c:>12.2} {:>8.2}", kiln / c);
}

/// The head of a table.
pub fn head(title: &str) {
    println!(
        "\n{title:>24} {:>12} {:>12} {:>8}",
        "kiln ns", "glibc ns", "ratio"
    );
}

/// Medians of the times that `run` takes for a number of rounds of either contender, per round.
fn alternate(mut run: impl FnMut(u32, bool) -> Duration) -> (f64, f64) {
    let mut rounds = 1;
    while run(rounds, true).min(run(rounds, false)) < RUN {
        rounds *= 2;
    }
    let mut sample = |is_first| run(rounds, is_first).as_secs_f64() * 1e9 / f64::from(rounds);
    let samples: (Vec<f64>, Vec<f64>) = (0..RUNS).map(|_| (sample(true), sample(false))).unzip();
    (median(samples.0), median(samples.1))
}

/// The time of some rounds. Never inlined, so that there is one loop for each `operation`.
#[inline(never)]
fn repeat<R: Copy>(rounds: u32, routine: R, operation: &mut impl FnMut(R)) -> Duration {
    let start = Instant::now();
    for _ in 0..rounds {
        operation(routine);
    }
    start.elapsed()
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
