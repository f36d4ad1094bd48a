//! The console: lines of text to the instance's owner and to its log.

use core::fmt::{self, Write};

use kiln_abi::op::{Op, Segment, Stream};

use crate::sync::Lock;
use crate::{boot, monitor, time};

/// Bytes that are gathered before they are written; a line's end writes them at once.
const BUFFER: usize = 1024;

struct Console {
    buffer: [u8; BUFFER],
    len: usize,
}

static CONSOLE: Lock<Console> = Lock::new(Console {
    buffer: [0; BUFFER],
    len: 0,
});

/// Prints. Text appears at the latest when its line ends; a reader that is behind blocks the guest.
pub fn print(text: fmt::Arguments<'_>) {
    // The lock is taken for each piece, so that what is being formatted may print too.
    struct Pieces;
    impl Write for Pieces {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            CONSOLE.with(|console| console.gather(text));
            Ok(())
        }
    }
    // Writing to the console never fails.
    let _ = Pieces.write_fmt(text);
}

/// Writes bytes to the console as they are, at once.
pub fn write(bytes: &[u8]) {
    CONSOLE.with(|console| {
        console.flush();
        write_out(bytes);
    });
}

/// Writes what is still gathered.
pub fn flush() {
    CONSOLE.with(Console::flush);
}

/// Writes what is still gathered, unless that is what is being done: for the last steps of a guest, whatever happened.
pub(crate) fn flush_at_end() {
    CONSOLE.try_with(Console::flush);
}

impl Console {
    fn flush(&mut self) {
        let len = core::mem::take(&mut self.len);
        write_out(&self.buffer[..len]);
    }

    fn gather(&mut self, text: &str) {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let room = BUFFER - self.len;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.buffer[self.len..self.len + now.len()].copy_from_slice(now);
            self.len += now.len();
            rest = later;
            if self.len == BUFFER {
                self.flush();
            }
        }
        if text.ends_with('\n') {
            self.flush();
        }
    }
}

fn write_out(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let buffer = Segment {
            addr: bytes.as_ptr() as u64,
            len: bytes.len() as u64,
        };
        let stream = Stream::Out;
        let mut op = [Op::ConsoleWrite { stream, buffer }.encode()];
        monitor::perform(&mut op);
        match op[0].outcome() {
            Ok(written) if written > 0 => {
                bytes = &bytes[(written as usize).min(bytes.len())..];
            }
            // Nobody reads the console any more.
            _ => return,
        }
    }
}

struct Logger;

static LOGGER: Logger = Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let now = time::cached().as_nanos().saturating_sub(boot::info().now);
            let (seconds, micros) = (now / 1_000_000_000, now / 1000 % 1_000_000);
            print(format_args!(
                "[{seconds:5}.{micros:06}] {:5} {}: {}\n",
                record.level(),
                record.target(),
                record.args()
            ));
        }
    }

    fn flush(&self) {
        flush();
    }
}

/// Sends the `log` crate's records to the console. The environment variable `KILN_LOG` (off, error, warn, info, debug
/// or trace) chooses the level; without it `default` holds.
pub fn init_log(default: log::LevelFilter) {
    let level = boot::var("KILN_LOG").and_then(|level| level.parse().ok());
    // A second call only changes the level.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(level.unwrap_or(default));
}
