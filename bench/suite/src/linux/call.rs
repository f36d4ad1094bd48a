//! The price of a system call that does nothing, in a guest and on the host.

use std::process::Command;

use super::{compile, text};
use crate::Result;
use crate::figures::{Table, median, number, ratio};
use crate::process::{self, PATIENCE};
use crate::setting::Setting;

/// At most this part of the host's own.
const GOAL: f64 = 0.2;

/// Prints nanoseconds for `getppid` by a function of the C library and for reading the clock.
const SOURCE: &str = r#"
#include <stdio.h>
#include <time.h>
#include <unistd.h>
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}
int main(void) {
    enum { COUNT = 2000000 };
    for (int i = 0; i < 1000; i++) getppid();
    double best = 1e18, clock = 1e18;
    for (int round = 0; round < 5; round++) {
        double begin = now();
        for (int i = 0; i < COUNT / 5; i++) getppid();
        double each = (now() - begin) / (COUNT / 5);
        if (each < best) best = each;
        begin = now();
        for (int i = 0; i < COUNT / 5; i++) now();
        each = (now() - begin) / (COUNT / 5);
        if (each < clock) clock = each;
    }
    printf("%f %f\n", best, clock);
    return 0;
}
"#;

/// Measures and prints.
pub fn run(setting: &Setting) -> Result<()> {
    let program = compile("call", SOURCE, &[])?;
    let (mut guest, mut host) = (Vec::new(), Vec::new());
    for _ in 0..setting.pick(5, 2) {
        let mut run = setting.kiln();
        run.args(["run", "--rm", &text(&program)]);
        guest.push(numbers(&process::output(&mut run, PATIENCE)?)?);
        host.push(numbers(&process::output(
            &mut Command::new(&program),
            PATIENCE,
        )?)?);
    }
    let mut table = Table::new(&["ns a call", "guest", "host", "ratio", "goal"]);
    for (index, name) in ["getppid", "clock_gettime"].into_iter().enumerate() {
        let of = |all: &[[f64; 2]]| all.iter().map(|pair| pair[index]).collect::<Vec<_>>();
        let (guest, host) = (of(&guest), of(&host));
        table.row([
            name.to_owned(),
            number(median(&guest)),
            number(median(&host)),
            number(ratio(&guest, &host)),
            number(if index == 0 { GOAL } else { 1.0 }),
        ]);
    }
    table.print();
    Ok(())
}

fn numbers(text: &str) -> Result<[f64; 2]> {
    let words: Vec<f64> = text
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    words
        .try_into()
        .map_err(|_| format!("not two numbers: {text}"))
}
