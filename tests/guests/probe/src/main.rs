//! The guest of the whole-system tests: one program, many cases, the first argument names one.
//!
//! A case prints what the host's side cannot see for itself and ends with exit code 0 if it went as it should; what
//! the guest can judge alone it asserts, and a failed assertion is a panic with a backtrace. The cases lie in one module
//! per subject; the host's side (`tests/system`) has a file of the same name for most of them.
//!
//! Many cases do what a program must not do. That is why there is `unsafe` here, and why half of the cases never return.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "a program, not a library")]

extern crate alloc;

mod basics;
mod calls;
mod clock;
mod faults;
mod heap;
mod host_calls;
mod panics;
mod places;
mod rng;
mod stopping;
mod tasks;
mod ticks;

use alloc::vec::Vec;

/// What the tests look for behind a case that returned.
const SUCCESS: &str = "SUCCESS";

#[kiln::main]
async fn main() -> u8 {
    let args: Vec<&'static str> = kiln::args().collect();
    let (case, rest) = match args.get(1..) {
        Some([case, rest @ ..]) => (*case, rest),
        _ => ("hello", &[][..]),
    };
    match run(case, rest).await {
        Some(0) => {
            kiln::println!("{SUCCESS}");
            0
        }
        Some(code) => code,
        None => {
            kiln::println!("no case {case:?}");
            99
        }
    }
}

/// Runs a case and gives its exit code; `None` if nobody knows it.
async fn run(case: &str, args: &[&'static str]) -> Option<u8> {
    if let Some(code) = basics::run(case, args) {
        return Some(code);
    }
    if let Some(code) = faults::run(case, args) {
        return Some(code);
    }
    if let Some(code) = host_calls::run(case, args) {
        return Some(code);
    }
    if let Some(code) = calls::run(case) {
        return Some(code);
    }
    if let Some(code) = heap::run(case) {
        return Some(code);
    }
    if let Some(code) = ticks::run(case) {
        return Some(code);
    }
    if let Some(code) = rng::run(case) {
        return Some(code);
    }
    if let Some(code) = heap::release(case).await {
        return Some(code);
    }
    if let Some(code) = clock::run(case, args).await {
        return Some(code);
    }
    if let Some(code) = tasks::run(case).await {
        return Some(code);
    }
    if let Some(code) = panics::run(case).await {
        return Some(code);
    }
    stopping::run(case, args).await
}

/// A number among the arguments, decimal or `0x` hexadecimal.
fn number(args: &[&str], index: usize) -> u64 {
    let text = args.get(index).copied().unwrap_or_default();
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("argument {index} is {text:?}, not a number"))
}
