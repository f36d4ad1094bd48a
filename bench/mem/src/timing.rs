//! Medians of alternating runs.

use std::time::{Duration, Instant};

/// How long one run of one contender lasts.
const RUN: Duration = Duration::from_micros(200);
/// Runs per contender; odd, so that the median is one of them.
const RUNS: usize = 31;

/// Nanoseconds per call of `first` and of `second`: medians of alternating runs.
pub fn duel(mut first: impl FnMut(), mut second: impl FnMut()) -> (f64, f64) {
    let rounds = calibrate(&mut first).max(calibrate(&mut second));
    let mut samples = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        samples.0.push(sample(rounds, &mut first));
        samples.1.push(sample(rounds, &mut second));
    }
    (median(samples.0), median(samples.1))
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

fn calibrate(operation: &mut impl FnMut()) -> u32 {
    let mut rounds = 1;
    loop {
        let start = Instant::now();
        for _ in 0..rounds {
            operation();
        }
        if start.elapsed() >= RUN {
            return rounds;
        }
        rounds *= 2;
    }
}

fn sample(rounds: u32, operation: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..rounds {
        operation();
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(rounds)
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
