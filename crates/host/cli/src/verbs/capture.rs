//! `kiln capture`: write the frames on a running instance's links to a file, as pcapng.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiln_monitor::Error;
use kiln_monitor::capture::pcapng::{self, Interface, Statistics};
use kiln_monitor::capture::stream::{self, Count, Record};
use kiln_monitor::capture::{Frame, Link};
use kiln_monitor::clock::WallTime;
use kiln_monitor::control::client::{self, Capture};
use kiln_monitor::registry::Registry;
use kiln_monitor::signals::{self, Signals};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::exit::Failure;
use crate::tell::tell;

/// The longest frame there is.
const LONGEST: u32 = kiln_monitor::MAX_FRAME as u32;

/// How long the supervisor may take for what is left when the capture is asked to end.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Bytes of one read.
const PIECE: usize = 256 << 10;

/// Arguments of `kiln capture`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Capture on this link of the instance, or on all
    #[arg(long, value_name = "NAME", default_value = "all")]
    link: Vec<String>,
    /// Write to a file, or with - to the standard output [default: - if that is no terminal]
    #[arg(short = 'w', long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Take at most this many bytes of each frame, 0 for all
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    snaplen: u32,
    /// End after this many frames
    #[arg(short = 'c', long, value_name = "FRAMES", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Name or id of an instance
    instance: String,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let path = match &arguments.write {
        Some(path) => path.as_path(),
        None if io::stdout().is_terminal() => {
            return Err(Failure::new(
                "a capture is not for a terminal: add -w FILE, or pipe it into `tcpdump -r -`",
            ));
        }
        None => Path::new("-"),
    };
    let snaplen = match arguments.snaplen {
        0 => LONGEST,
        bytes => bytes.min(LONGEST),
    };
    let links = if arguments.link.iter().any(|name| name == "all") {
        Vec::new()
    } else {
        arguments.link.clone()
    };
    let instance = Registry::open()?.find(&arguments.instance)?;
    // From here on a signal ends the capture, not this program.
    let signals = signals::block()?;
    let capture = client::capture(&instance, links, snaplen)?;
    let output = Output::open(path)?;
    let name = &instance.record.name;
    let on: Vec<String> = capture
        .links
        .iter()
        .map(|link| format!("{} ({})", link.name, link.kind))
        .collect();
    let writer = Writer::new(output, name, &capture.links, snaplen)?;
    tell(format_args!("capturing {name}: {}", on.join(", ")));
    Session {
        writer,
        signals,
        until: arguments
            .seconds
            .and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds))),
        left: arguments.count,
        asked: false,
    }
    .run(capture, name)
}

/// A capture that runs.
struct Session {
    writer: Writer,
    signals: Signals,
    /// When to end.
    until: Option<Instant>,
    /// Frames until the end.
    left: Option<u64>,
    /// The supervisor was asked to end it.
    asked: bool,
}

/// Why a capture ended.
enum End {
    /// In good order.
    Orderly,
    /// The supervisor has gone away.
    Lost,
}

impl Session {
    fn run(mut self, mut capture: Capture, name: &str) -> Result<u8, Failure> {
        let failed = |problem: String| {
            Failure::from(Error::Control {
                name: name.to_owned(),
                problem,
            })
        };
        let mut bytes = std::mem::take(&mut capture.first);
        let mut piece = vec![0; PIECE];
        let end = loop {
            let taken = self.take(&bytes, failed)?;
            bytes.drain(..taken.len);
            if taken.ended {
                break End::Orderly;
            }
            self.writer.flush()?;
            if self.left == Some(0) {
                self.ask(&capture);
            }
            let ready = self.wait(&capture)?;
            if ready.broken {
                // Nobody reads it any more.
                return Ok(0);
            }
            if self.until.is_some_and(|at| at <= Instant::now()) {
                if self.asked {
                    break End::Lost;
                }
                self.ask(&capture);
            }
            // More than one may come: `timeout` sends its signal twice.
            if ready.signal {
                self.ask(&capture);
            }
            if ready.data {
                match capture.socket.read(&mut piece) {
                    Ok(0) => break End::Lost,
                    Ok(got) => bytes.extend(&piece[..got]),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => break End::Lost,
                    Err(error) => return Err(failed(error.to_string())),
                }
            }
        };
        let ended = matches!(end, End::Orderly) && !self.asked;
        self.writer.end()?;
        let mut summary = self.writer.summary(name);
        if ended {
            summary.push_str("; the instance has ended");
        }
        match end {
            End::Orderly => {
                tell(summary);
                Ok(0)
            }
            End::Lost => Err(Failure::Message {
                text: format!("{summary}; the supervisor went away and said no counts"),
                code: 1,
            }),
        }
    }

    /// Takes all whole records.
    fn take(&mut self, bytes: &[u8], failed: impl Fn(String) -> Failure) -> Result<Taken, Failure> {
        let mut len = 0;
        while let Some((record, record_len)) =
            stream::parse(&bytes[len..]).map_err(|unknown| failed(unknown.to_string()))?
        {
            len += record_len;
            match record {
                // Those that were on their way when the last one came are no part of it.
                Record::Frame(_) if self.left == Some(0) => {}
                Record::Frame(frame) => {
                    self.writer.frame(&frame)?;
                    self.left = self.left.map(|left| left - 1);
                }
                Record::Count(count) => self.writer.count(count),
                Record::End => return Ok(Taken { len, ended: true }),
            }
        }
        Ok(Taken { len, ended: false })
    }

    /// Asks the supervisor to end the capture. It answers with the counts.
    fn ask(&mut self, capture: &Capture) {
        if !self.asked {
            self.asked = true;
            self.until = Some(Instant::now() + LAST_WORDS);
            // If it has gone away, reading tells.
            let _ = capture.socket.shutdown(Shutdown::Write);
        }
    }

    fn wait(&self, capture: &Capture) -> Result<Ready, Failure> {
        let timeout = self.until.map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        let mut fds = [
            PollFd::new(&capture.socket, PollFlags::IN),
            PollFd::new(&self.signals, PollFlags::IN),
            // A pipe whose reader has gone away reports itself without being asked.
            PollFd::new(self.writer.output.file.get_ref(), PollFlags::empty()),
        ];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::host("wait for frames", error).into()),
        }
        let signal = !fds[1].revents().is_empty();
        let (data, broken) = (!fds[0].revents().is_empty(), fds[2].revents());
        Ok(Ready {
            data,
            signal: signal && self.signals.next().is_some(),
            broken: broken.contains(PollFlags::ERR),
        })
    }
}

/// What was taken of some bytes.
struct Taken {
    len: usize,
    /// The supervisor has said all.
    ended: bool,
}

/// What is ready.
struct Ready {
    data: bool,
    signal: bool,
    /// Nobody reads the output any more.
    broken: bool,
}

/// Where the capture goes.
struct Output {
    file: BufWriter<File>,
    /// `None` for the standard output.
    path: Option<PathBuf>,
}

impl Output {
    fn open(path: &Path) -> Result<Self, Failure> {
        let (file, path) = if path == Path::new("-") {
            (File::from(io::stdout().as_fd().try_clone_to_owned()?), None)
        } else {
            let file = File::create(path).map_err(|error| Error::file("create", path, error))?;
            (file, Some(path.to_owned()))
        };
        Ok(Self {
            file: BufWriter::with_capacity(PIECE, file),
            path,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| self.failure(error))
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let flushed = self.file.flush();
        flushed.map_err(|error| self.failure(error))
    }

    fn failure(&self, error: io::Error) -> Failure {
        match &self.path {
            Some(path) => Error::file("write", path, error).into(),
            None => error.into(),
        }
    }
}

/// A pcapng file in the making.
struct Writer {
    output: Output,
    started: u64,
    /// By the link's number: the interface's, frames written, and what the supervisor counts.
    interfaces: HashMap<u32, (u32, u64, Count)>,
}

impl Writer {
    fn new(output: Output, instance: &str, links: &[Link], snaplen: u32) -> Result<Self, Failure> {
        let mut writer = Self {
            output,
            started: WallTime::now().0,
            interfaces: HashMap::new(),
        };
        let application = concat!("kiln ", env!("CARGO_PKG_VERSION"));
        let section = pcapng::section(application, &format!("instance {instance}"));
        writer.output.write(&section)?;
        for (number, link) in (0..).zip(links) {
            let interface = Interface {
                name: &link.name,
                description: &link.kind,
                mac: link.mac,
                snaplen,
            };
            writer.output.write(&pcapng::interface(&interface))?;
            let state = (number, 0, Count::default());
            writer.interfaces.insert(link.device, state);
        }
        writer.flush()?;
        Ok(writer)
    }

    fn frame(&mut self, frame: &Frame<'_>) -> Result<(), Failure> {
        let Some((interface, written, _)) = self.interfaces.get_mut(&frame.device) else {
            return Ok(());
        };
        *written += 1;
        self.output.write(&pcapng::packet(*interface, frame))
    }

    fn count(&mut self, count: Count) {
        if let Some((_, _, known)) = self.interfaces.get_mut(&count.device) {
            *known = count;
        }
    }

    /// What was written so far can be read by others.
    fn flush(&mut self) -> Result<(), Failure> {
        self.output.flush()
    }

    /// Writes the statistics.
    fn end(&mut self) -> Result<(), Failure> {
        let ended = WallTime::now().0;
        let mut all: Vec<_> = self.interfaces.values().copied().collect();
        all.sort_unstable_by_key(|(interface, ..)| *interface);
        for (interface, written, count) in all {
            let statistics = Statistics {
                started: self.started,
                ended,
                received: (count.frames + count.dropped).max(written),
                dropped: count.dropped,
                written,
            };
            let block = pcapng::statistics(interface, &statistics);
            self.output.write(&block)?;
        }
        self.flush()
    }

    fn summary(&self, name: &str) -> String {
        let all = || self.interfaces.values();
        let written: u64 = all().map(|(_, written, _)| written).sum();
        let dropped: u64 = all().map(|(.., count)| count.dropped).sum();
        let s = if written == 1 { "" } else { "s" };
        format!("captured {written} frame{s} of {name}, {dropped} dropped")
    }
}
