//! What every program relies on: arguments, environment, exit codes, variables, the console, floating point.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};

use kiln::{Termination, print, println};

static WORDS: [AtomicU64; 3] = [
    AtomicU64::new(0x1122_3344_5566_7788),
    AtomicU64::new(42),
    AtomicU64::new(u64::MAX),
];
static ZEROES: [AtomicU64; 4096] = [const { AtomicU64::new(0) }; 4096];
/// A table of pointers: every one of them is relocated at start.
static TEXTS: [&str; 4] = ["zero", "one", "two", "three"];
static FUNCTIONS: [fn(u64) -> u64; 3] = [|x| x + 1, |x| x * 2, |x| x ^ 0xff];

pub fn run(case: &str, args: &[&'static str]) -> Option<u8> {
    match case {
        "hello" => println!("Hello, {}!", args.join(" ")),
        "args" => {
            for (index, arg) in kiln::args().enumerate() {
                println!("{index}: {arg:?}");
            }
        }
        "env" => {
            for name in args {
                println!("{name}={:?}", kiln::var(name));
            }
        }
        "env-all" => {
            for (name, value) in kiln::vars() {
                println!("{name}={value}");
            }
        }
        "name" => println!("name={}", kiln::name()),
        "exit" => kiln::exit(crate::number(args, 0) as u8),
        "return" => return Some(crate::number(args, 0) as u8),
        "error" => {
            let result: Result<(), &str> = Err("it did not work");
            return Some(result.report());
        }
        "lines" => lines(crate::number(args, 0)),
        "one-write" => one_write(crate::number(args, 0) as usize),
        "no-newline" => print!("no newline at the end"),
        "bytes" => kiln_rt::console::write(&(0..=255).collect::<Vec<u8>>()),
        "globals" => globals(),
        "float" => float(),
        "log" => log(),
        "memory" => println!("capacity={}", kiln::memory::statistics().capacity),
        _ => return None,
    }
    Some(0)
}

fn lines(count: u64) {
    for n in 0..count {
        println!("line {n} {:x<60}", "");
    }
}

/// One string, printed at once: longer than every buffer on its way.
fn one_write(len: usize) {
    let mut text = String::with_capacity(len + 16);
    while text.len() < len {
        let at = text.len();
        let _ = writeln!(text, "{at:015}");
    }
    kiln_rt::console::write(text.as_bytes());
}

fn globals() {
    let words = black_box(&WORDS);
    assert_eq!(words[0].load(Ordering::Relaxed), 0x1122_3344_5566_7788);
    assert_eq!(words[1].load(Ordering::Relaxed), 42);
    assert_eq!(words[2].load(Ordering::Relaxed), u64::MAX);
    assert!(
        black_box(&ZEROES)
            .iter()
            .all(|w| w.load(Ordering::Relaxed) == 0)
    );
    for (word, value) in ZEROES.iter().zip(1..) {
        word.store(value, Ordering::Relaxed);
    }
    for (word, value) in ZEROES.iter().zip(1..) {
        assert_eq!(word.load(Ordering::Relaxed), value);
    }
    words[1].fetch_add(1, Ordering::Relaxed);
    assert_eq!(words[1].load(Ordering::Relaxed), 43);
    assert_eq!(black_box(&TEXTS).concat(), "zeroonetwothree");
    let folded = black_box(&FUNCTIONS).iter().fold(20, |x, f| f(x));
    assert_eq!(folded, 0x2a ^ 0xff);
}

fn float() {
    let mut sum = 0.0f64;
    for n in 1..=black_box(1000u32) {
        sum += 1.0 / f64::from(n);
    }
    // The thousandth harmonic number.
    assert!((sum - 7.485_470_860_550_345).abs() < 1e-12, "{sum}");
    let a: [f32; 8] = black_box([1.5, -2.25, 3.0, 0.5, 10.0, -1.0, 8.0, 0.125]);
    let b: [f32; 8] = black_box([2.0, 4.0, -1.0, 8.0, 0.1, -1.0, 0.5, 8.0]);
    let mut products = [0.0f32; 8];
    for ((product, a), b) in products.iter_mut().zip(a).zip(b) {
        *product = a * b;
    }
    // All of them are exact.
    let exact = [3.0f32, -9.0, -3.0, 4.0, 1.0, 1.0, 4.0, 1.0];
    assert_eq!(products.map(f32::to_bits), exact.map(f32::to_bits));
    // No traps are unmasked: dividing by zero gives infinity.
    let quotient = black_box(1.0f64) / black_box(0.0);
    assert!(quotient.is_infinite() && quotient.is_sign_positive());
}

fn log() {
    kiln::init_log(log::LevelFilter::Info);
    log::error!("an error");
    log::warn!("a warning");
    log::info!("information");
    log::debug!("for debugging");
    log::trace!("every step");
}
