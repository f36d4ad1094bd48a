//! `kiln logs`: show an instance's output.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::Duration;

use kiln_monitor::clock::WallTime;
use kiln_monitor::console::read::{Line, Reader, tail};
use kiln_monitor::registry::{Registry, Status};

use crate::exit::Failure;

/// How often a followed log is looked at. It costs a system call or two each time.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Arguments of `kiln logs`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Go on until the instance ends
    #[arg(short = 'f', long)]
    follow: bool,
    /// Begin with this many lines from the end, or all
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all")]
    tail: String,
    /// Put the time before each line
    #[arg(short = 't', long)]
    timestamps: bool,
    /// Begin at a time (2025-03-01T12:00:00) or a span ago (10m)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Name or id of an instance
    instance: String,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let count = match arguments.tail.as_str() {
        "all" => None,
        text => Some(text.parse().map_err(|_| {
            Failure::new(format!("--tail {text:?}: give a number of lines, or all"))
        })?),
    };
    let since = match &arguments.since {
        None => WallTime(0),
        Some(text) => WallTime::parse(text, WallTime::now()).ok_or_else(|| {
            Failure::new(format!(
                "--since {text:?}: give a time like 2025-03-01T12:00:00 (UTC) or a span like 10m"
            ))
        })?,
    };
    let registry = Registry::open()?;
    let instance = registry.find(&arguments.instance)?;
    let failed = |error| kiln_monitor::Error::file("read the log in", &instance.path, error);
    let mut reader = Reader::open(&instance.path).map_err(failed)?;
    let mut printer = Printer {
        timestamps: arguments.timestamps,
        since,
        in_line: false,
    };
    if let Some(count) = count {
        let lines = tail(&mut reader, count).map_err(failed)?;
        printer.print(lines.into())?;
    }
    let mut running = arguments.follow && instance.status == Status::Running;
    loop {
        let mut lines = VecDeque::new();
        while lines.len() < 1024
            && let Some(line) = reader.next_line().map_err(failed)?
        {
            lines.push_back(line);
        }
        let nothing_new = lines.is_empty();
        printer.print(lines)?;
        if !nothing_new {
            continue;
        }
        if !running {
            return Ok(0);
        }
        std::thread::sleep(LOOK_EVERY);
        // After its end has been seen, what it wrote last is read once more.
        let present = registry.load(&instance.record.id)?;
        running = present.is_some_and(|instance| instance.status == Status::Running);
    }
}

/// Writes lines as the arguments want them.
struct Printer {
    timestamps: bool,
    since: WallTime,
    /// The last line had no newline: what follows continues it.
    in_line: bool,
}

impl Printer {
    fn print(&mut self, lines: VecDeque<Line>) -> io::Result<()> {
        let mut text = Vec::new();
        for line in lines.into_iter().filter(|line| line.time >= self.since) {
            if self.timestamps && !self.in_line {
                text.extend_from_slice(line.time.rfc3339().as_bytes());
                text.push(b' ');
            }
            self.in_line = line.text.last() != Some(&b'\n');
            text.extend_from_slice(&line.text);
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(&text)?;
        stdout.flush()
    }
}
