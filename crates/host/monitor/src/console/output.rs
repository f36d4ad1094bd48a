//! The user's end of the console: a terminal, a pipe or a file, which may be slow or go away.
//!
//! Writing never blocks. A reader that is slow slows the guest's output down, as it does with any program in a
//! pipeline: what waits here is bounded by [`MAX_WAITING`], and while it is full the supervisor does not read the
//! console. A reader that takes nothing at all for [`PATIENCE`] must not hang the guest for ever: from then on output
//! goes to the log only, until it takes something again. A reader that is gone is forgotten. A file or device that
//! cannot take what it should keep is given up as well, but that is a failure ([`stdout_failure`]).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SendFlags;

/// The most bytes that wait to be taken.
const MAX_WAITING: usize = 256 << 10;

/// How long a reader may take nothing before output goes to the log only.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the file or device behind this process's standard output did not take everything. There is one standard output.
static STDOUT_FAILURE: OnceLock<Errno> = OnceLock::new();

/// The error that ended a guest's output to this process's standard output, if one did: a full disk, for example. Pipes,
/// terminals and sockets whose other end is gone do not count, since nobody is left to miss anything.
pub fn stdout_failure() -> Option<Errno> {
    STDOUT_FAILURE.get().copied()
}

/// Where a guest's output goes besides the log.
#[derive(Debug)]
pub struct Output {
    /// This process's stream for it.
    stream: Stream,
    target: Target,
    waiting: Vec<u8>,
    /// Since when nothing was taken although something waits.
    stalled: Option<Instant>,
    /// Bytes that went to the log only.
    skipped: u64,
}

/// A stream of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Out,
    Error,
}

impl Stream {
    fn fd(self) -> BorrowedFd<'static> {
        match self {
            Self::Out => rustix::stdio::stdout(),
            Self::Error => rustix::stdio::stderr(),
        }
    }

    /// The descriptor's name, to open it once more.
    fn path(self) -> &'static str {
        match self {
            Self::Out => "/proc/self/fd/1",
            Self::Error => "/proc/self/fd/2",
        }
    }
}

/// How to write without blocking.
#[derive(Debug)]
enum Target {
    /// Nobody wants it.
    None,
    /// The descriptor is not looked at before there is something to write.
    Unknown,
    /// A file or device that takes everything at once.
    Plain,
    /// A pipe or terminal, opened once more for non-blocking use. Setting that on the descriptor we were given would
    /// set it for everybody who shares it, the user's shell among them.
    Own(OwnedFd),
    /// A socket.
    Socket,
    /// A pipe that cannot be opened again: one piece at a time when it says that there is room.
    Careful,
}

impl Output {
    /// Output to this process's standard output.
    pub fn stdout() -> Self {
        Self::to(Stream::Out, Target::Unknown)
    }

    /// Output to this process's standard error output.
    pub fn stderr() -> Self {
        Self::to(Stream::Error, Target::Unknown)
    }

    /// No output but the log.
    pub fn none() -> Self {
        Self::to(Stream::Out, Target::None)
    }

    fn to(stream: Stream, target: Target) -> Self {
        Self {
            stream,
            target,
            waiting: Vec::new(),
            stalled: None,
            skipped: 0,
        }
    }

    /// Whether more may be handed over. If not, leave the guest's console unread.
    pub fn has_room(&self, now: Instant) -> bool {
        self.waiting.len() < MAX_WAITING || self.given_up(now)
    }

    /// Writes as much as is taken now and keeps the rest.
    pub fn write(&mut self, text: &[u8], now: Instant) {
        if matches!(self.target, Target::None) {
            return;
        }
        if self.given_up(now) {
            self.skipped += text.len() as u64;
            return;
        }
        if self.waiting.is_empty() {
            let taken = self.offer(text);
            if taken < text.len() && !matches!(self.target, Target::None) {
                self.stalled = Some(now);
                self.waiting.extend_from_slice(&text[taken..]);
            }
        } else {
            self.waiting.extend_from_slice(text);
        }
    }

    /// Writes what waits, as much as is taken now.
    pub fn flush(&mut self, now: Instant) {
        if self.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        let taken = self.offer(&waiting);
        if matches!(self.target, Target::None) {
            self.stalled = None;
            return;
        }
        self.waiting = waiting;
        self.waiting.drain(..taken);
        if taken > 0 {
            self.stalled = (!self.waiting.is_empty()).then_some(now);
            if self.skipped > 0 && self.waiting.is_empty() {
                let note = format!(
                    "\nkiln: {} bytes of output are in the log only: see `kiln logs`\n",
                    self.skipped
                );
                self.skipped = 0;
                self.write(note.as_bytes(), now);
            }
        }
    }

    /// Writes what waits, for as long as it is taken now and then and `signals` has nothing to read: a user who presses
    /// Ctrl-C when the guest has ended does not want to see the rest. Blocks.
    pub fn finish(&mut self, signals: BorrowedFd<'_>) {
        loop {
            let now = Instant::now();
            self.flush(now);
            let (Some(fd), Some(until)) = (self.waits_for(), self.deadline()) else {
                return;
            };
            let Some(left) = until
                .checked_duration_since(now)
                .filter(|left| !left.is_zero())
            else {
                return;
            };
            let mut fds = [
                PollFd::from_borrowed_fd(fd, PollFlags::OUT),
                PollFd::from_borrowed_fd(signals, PollFlags::IN),
            ];
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let result = poll(&mut fds, Some(&timeout));
            if !fds[1].revents().is_empty() || result.is_err_and(|error| error != Errno::INTR) {
                return;
            }
        }
    }

    /// What to wait for until more is taken; `None` if nothing waits.
    pub fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        if self.waiting.is_empty() {
            return None;
        }
        Some(match &self.target {
            Target::Own(own) => own.as_fd(),
            _ => self.stream.fd(),
        })
    }

    /// When to look again although nothing was taken; `None` if that changes nothing.
    pub fn deadline(&self) -> Option<Instant> {
        self.stalled.map(|since| since + PATIENCE)
    }

    /// Whether the reader has taken nothing for too long.
    pub fn given_up(&self, now: Instant) -> bool {
        self.stalled
            .is_some_and(|since| now.saturating_duration_since(since) >= PATIENCE)
    }

    /// Writes at once and returns how many bytes were taken.
    fn offer(&mut self, text: &[u8]) -> usize {
        if matches!(self.target, Target::Unknown) {
            self.target = find_out(self.stream);
        }
        let mut taken = 0;
        while taken < text.len() {
            match write_once(self.stream.fd(), &self.target, &text[taken..]) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(count) => taken += count,
                Err(Errno::INTR) => {}
                // The reader is gone, or the disk that output goes to is full. The log has it all.
                Err(error) => {
                    if matches!(self.target, Target::Plain) && self.stream == Stream::Out {
                        let _ = STDOUT_FAILURE.set(error);
                    }
                    self.target = Target::None;
                    break;
                }
            }
        }
        taken
    }
}

fn find_out(stream: Stream) -> Target {
    let fd = stream.fd();
    let Ok(stat) = rustix::fs::fstat(fd) else {
        return Target::None;
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Socket => Target::Socket,
        FileType::CharacterDevice if !rustix::termios::isatty(fd) => Target::Plain,
        FileType::Fifo | FileType::CharacterDevice => {
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            match rustix::fs::open(stream.path(), flags, Mode::empty()) {
                Ok(own) => Target::Own(own),
                Err(_) => Target::Careful,
            }
        }
        _ => Target::Plain,
    }
}

fn write_once(fd: BorrowedFd<'_>, target: &Target, text: &[u8]) -> rustix::io::Result<usize> {
    /// `PIPE_BUF`: a pipe that is ready to be written takes this much without blocking (pipe(7)).
    const PIPE_BUF: usize = 4096;
    match target {
        Target::None | Target::Unknown => Ok(text.len()),
        Target::Plain => rustix::io::write(fd, text),
        Target::Own(own) => rustix::io::write(own, text),
        Target::Socket => rustix::net::send(fd, text, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
        Target::Careful => {
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            if poll(&mut fds, Some(&now))? == 0 {
                return Err(Errno::AGAIN);
            }
            rustix::io::write(fd, &text[..text.len().min(PIPE_BUF)])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn pipe() -> (OwnedFd, Output) {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        (read, Output::to(Stream::Out, Target::Own(write)))
    }

    fn drain(read: &OwnedFd) -> usize {
        let mut buffer = vec![0; 1 << 20];
        let mut total = 0;
        while let Ok(count @ 1..) = rustix::io::read(read, &mut buffer) {
            total += count;
        }
        total
    }

    #[test]
    fn a_slow_reader_gets_everything_and_holds_the_guest_back() {
        let (read, mut output) = pipe();
        let now = Instant::now();
        let mut written = 0;
        while output.has_room(now) {
            output.write(&[b'x'; 4096], now);
            written += 4096;
        }
        assert!(output.waits_for().is_some());
        let mut got = 0;
        while output.waits_for().is_some() {
            got += drain(&read);
            output.flush(now);
        }
        assert_eq!(got + drain(&read), written);
        assert_eq!(output.deadline(), None);
    }

    #[test]
    fn a_reader_that_takes_nothing_is_given_up_until_it_does() {
        let (read, mut output) = pipe();
        let start = Instant::now();
        while output.has_room(start) {
            output.write(&[b'x'; 4096], start);
        }
        let later = output.deadline().unwrap();
        assert!(output.has_room(later), "the guest goes on");
        output.write(b"lost", later);
        while output.waits_for().is_some() {
            drain(&read);
            output.flush(later);
        }
        let mut buffer = [0; 200];
        let count = rustix::io::read(&read, &mut buffer).unwrap();
        let note = String::from_utf8_lossy(&buffer[..count]).into_owned();
        assert!(
            note.contains("4 bytes of output are in the log only"),
            "{note}"
        );
    }

    #[test]
    fn a_reader_that_is_gone_is_forgotten() {
        let (read, mut output) = pipe();
        drop(read);
        let now = Instant::now();
        output.write(b"x", now);
        assert!(matches!(output.target, Target::None));
        assert!(output.waits_for().is_none() && output.has_room(now));
    }
}
