//! Whole-system benchmarks of Kiln beside peers, measured in the same run.
//!
//! `bench-suite [--quick] [boot|machines|size|memory|web|many|net|linux]...` prints a table or two for each part, all parts if none is
//! named. bench/README.md says what the columns mean. Whatever the machine lacks is skipped with a reason. The command
//! and the images come from this workspace; nothing is installed, and nothing talks to anything but loopback and
//! namespaces made here.
//!
//! A part is one file with a function `run`. The other files are what parts share: [`setting`] is the place where they
//! work, [`janitor`] cleans it up however the benchmark ends, [`process`] runs programs, [`instance`] runs guests,
//! [`figures`] makes numbers into tables.
#![forbid(unsafe_code)]

mod boot;
mod counted;
mod figures;
mod http;
mod instance;
mod janitor;
mod linux;
mod machines;
mod many;
mod memory;
mod net;
mod place;
mod process;
mod setting;
mod size;
mod web;

use std::process::ExitCode;
use std::time::Instant;

use setting::Setting;

/// What goes wrong, in words: these are read by whoever started the benchmark and by nobody else.
type Result<T> = std::result::Result<T, String>;

/// A part of the suite.
type Part = fn(&Setting) -> Result<()>;

const PARTS: [(&str, Part); 8] = [
    ("boot", boot::run),
    ("machines", machines::run),
    ("size", size::run),
    ("memory", memory::run),
    ("web", web::run),
    ("many", many::run),
    ("net", net::run),
    ("linux", linux::run),
];

const USAGE: &str =
    "usage: bench-suite [--quick] [boot|machines|size|memory|web|many|net|linux]...";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        // The suite starts itself under these names; they are not for people.
        ["janitor", rest @ ..] => janitor::main(rest),
        ["fetch", rest @ ..] => http::fetch_main(rest),
        ["load", rest @ ..] => web::generator_main(rest),
        ["ask", rest @ ..] => http::ask_main(rest),
        ["crowd", rest @ ..] => net::crowd_main(rest),
        ["hold", rest @ ..] => net::hold_main(rest),
        ["stream", rest @ ..] => net::stream_main(rest),
        words => suite(words),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("bench-suite: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the parts that are named, or all. A part that fails does not keep the others from running.
fn suite(words: &[&str]) -> Result<()> {
    let mut quick = false;
    let mut chosen = Vec::new();
    for &word in words {
        match PARTS.iter().find(|(name, _)| *name == word) {
            Some((name, _)) => chosen.push(*name),
            None if word == "--quick" => quick = true,
            None => return Err(USAGE.to_owned()),
        }
    }
    let setting = Setting::new(quick)?;
    let start = Instant::now();
    let mut failed = Vec::new();
    for (name, part) in PARTS {
        if !chosen.is_empty() && !chosen.contains(&name) {
            continue;
        }
        println!("\n== {name} ==  (load average {})", figures::load_average());
        if let Err(message) = part(&setting) {
            println!("failed: {message}");
            failed.push(name);
        }
    }
    println!("\n{:.0} s in all", start.elapsed().as_secs_f64());
    setting.finish();
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!("failed: {}", failed.join(", ")))
}
