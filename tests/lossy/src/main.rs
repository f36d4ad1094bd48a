//! `lossy`: a lossy link between two tap devices.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use kiln_lossy::{End, Impairment, Relay};

const USAGE: &str = "\
Usage: lossy --a TAP --b TAP [OPTIONS]

Relays frames between two tap devices, which it makes unless they exist. Options of one direction end in -a (from a to
b) or -b; without the ending they are for both.

  --netns-a PATH, --netns-b PATH  file of the network namespace a device is in
  --capture-a FILE, --capture-b FILE  pcapng of what the host at this end sends and receives
  --delay MS          how long a frame travels
  --jitter MS         how much longer or shorter; frames overtake each other
  --loss PERCENT      frames lost
  --duplicate PERCENT frames sent twice
  --corrupt PERCENT   frames with flipped bits
  --reorder PERCENT   frames held back by --reorder-by MS (3)
  --rate MBIT         megabits per second
  --queue BYTES       how much may wait for the line (256000)
  --mark BYTES        mark ECN-capable packets while more waits
  --everything        impair ARP and neighbour discovery as well
  --seed N            all chances come from it (1)
  --seconds N         end after this time, whatever standard input is

Ends on SIGTERM, SIGINT or anything on standard input, its end included, and prints what it has done with frames from a and from b.";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("lossy: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut ends = [End::default(), End::default()];
    for end in &mut ends {
        end.impairment.queue = 256_000;
        end.impairment.reorder_by = Duration::from_millis(3);
    }
    let (mut seed, mut seconds) = (1, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(());
            }
            "--everything" => ends
                .iter_mut()
                .for_each(|end| end.impairment.everything = true),
            _ => {
                let value = words
                    .next()
                    .ok_or_else(|| format!("{word} needs a value; see --help"))?;
                match word.as_str() {
                    "--seed" => seed = number(&word, &value)?,
                    "--seconds" => seconds = Some(Duration::from_secs_f64(number(&word, &value)?)),
                    _ => option(&mut ends, &word, &value)?,
                }
            }
        }
    }
    let [a, b] = &ends;
    if a.interface.is_empty() || b.interface.is_empty() {
        return Err("both --a and --b are needed; see --help".into());
    }
    let (told, tells) = UnixStream::pair().map_err(|error| error.to_string())?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        let tells = tells.try_clone().map_err(|error| error.to_string())?;
        signal_hook::low_level::pipe::register(signal, tells).map_err(|error| error.to_string())?;
    }
    let relay = Relay::open(a, b, seed).map_err(|error| error.to_string())?;
    println!("relaying");
    let input = std::io::stdin();
    let mut stop: Vec<BorrowedFd> = vec![told.as_fd()];
    if seconds.is_none() {
        stop.push(input.as_fd());
    }
    let [from_a, from_b] = relay
        .run(&stop, seconds)
        .map_err(|error| error.to_string())?;
    println!("a: {from_a}\nb: {from_b}");
    Ok(())
}

fn number<T: std::str::FromStr>(word: &str, value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|_| format!("{word}: {value:?} is no number that fits"))
}

/// Takes an option of one end, or of both.
fn option(ends: &mut [End; 2], word: &str, value: &str) -> Result<(), String> {
    let [a, b] = ends;
    let (name, of): (&str, Vec<&mut End>) = match word.rsplit_once('-') {
        Some(("-", "a")) => ("--tap", vec![a]),
        Some(("-", "b")) => ("--tap", vec![b]),
        Some((name, "a")) => (name, vec![a]),
        Some((name, "b")) => (name, vec![b]),
        _ => (word, vec![a, b]),
    };
    for end in of {
        let how: &mut Impairment = &mut end.impairment;
        let milliseconds =
            || number(word, value).map(|value: f64| Duration::from_secs_f64(value / 1e3));
        let chance = || number(word, value).map(|value: f64| value / 100.0);
        match name {
            "--tap" => value.clone_into(&mut end.interface),
            "--netns" => end.namespace = Some(value.into()),
            "--capture" => end.capture = Some(value.into()),
            "--delay" => how.delay = milliseconds()?,
            "--jitter" => how.jitter = milliseconds()?,
            "--loss" => how.loss = chance()?,
            "--duplicate" => how.duplicate = chance()?,
            "--corrupt" => how.corrupt = chance()?,
            "--reorder" => how.reorder = chance()?,
            "--reorder-by" => how.reorder_by = milliseconds()?,
            "--rate" => how.rate = Some(number::<u64>(word, value)? * 1_000_000),
            "--queue" => how.queue = number(word, value)?,
            "--mark" => how.mark_above = Some(number(word, value)?),
            _ => return Err(format!("no option {word}; see --help")),
        }
    }
    Ok(())
}
