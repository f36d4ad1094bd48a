//! The user's end of the console: a terminal, a pipe or a file, which may be slow or go away.
//!
//! Writing never blocks. A reader that is slow slows the guest's output down, as it does with any program in a
//! pipeline: what waits here is bounded by [`MAX_WAITING`], and while it is full the supervisor does not read the
//! console. However long that takes, nothing is left out: `kiln stop` and signals reach the guest all the same. A reader
//! that is gone is forgotten, and the supervisor may tell the guest ([`Output::is_unread`]). A file or device that cannot take what it should keep is given up as well, but that is a
//! failure ([`stdout_failure`]).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SendFlags;

/// The most bytes that wait to be taken.
const MAX_WAITING: usize = 256 << 10;

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
    /// The reader is gone.
    Unread,
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
        }
    }

    /// Whether more may be handed over. If not, leave the guest's console unread.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING
    }

    /// Whether there was a reader, who has closed his end: a pipe that a program's output went to is broken.
    pub fn is_unread(&self) -> bool {
        matches!(self.target, Target::Unread)
    }

    fn is_over(&self) -> bool {
        matches!(self.target, Target::None | Target::Unread)
    }

    /// Writes as much as is taken now and keeps the rest.
    pub fn write(&mut self, text: &[u8]) {
        if self.is_over() {
            return;
        }
        let taken = if self.waiting.is_empty() {
            self.offer(text)
        } else {
            0
        };
        if !self.is_over() {
            self.waiting.extend_from_slice(&text[taken..]);
        }
    }

    /// Writes what waits, as much as is taken now.
    pub fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        let taken = self.offer(&waiting);
        if !self.is_over() {
            self.waiting = waiting;
            self.waiting.drain(..taken);
        }
    }

    /// Writes what waits, until everything is taken or `signals` has something to read that asks for the end: a user who presses
    /// Ctrl-C when the guest has ended does not want to see the rest. False if it was like that. Blocks.
    pub fn finish(&mut self, signals: BorrowedFd<'_>, asks: impl Fn() -> bool) -> bool {
        loop {
            self.flush();
            let Some(fd) = self.waits_for() else {
                return true;
            };
            let mut fds = [
                PollFd::from_borrowed_fd(fd, PollFlags::OUT),
                PollFd::from_borrowed_fd(signals, PollFlags::IN),
            ];
            let result = poll(&mut fds, None);
            if result.is_err_and(|error| error != Errno::INTR) {
                return true;
            }
            if !fds[1].revents().is_empty() && asks() {
                return false;
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
                // The reader is gone, or the disk that output goes to is full. The log has it all the same.
                Err(error) => {
                    if matches!(self.target, Target::Plain) && self.stream == Stream::Out {
                        let _ = STDOUT_FAILURE.set(error);
                    }
                    self.target = if error == Errno::PIPE {
                        Target::Unread
                    } else {
                        Target::None
                    };
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
        Target::None | Target::Unread | Target::Unknown => Ok(text.len()),
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
        let mut written = 0;
        while output.has_room() {
            output.write(&[b'x'; 4096]);
            written += 4096;
        }
        assert!(output.waits_for().is_some());
        let mut got = 0;
        while output.waits_for().is_some() {
            got += drain(&read);
            output.flush();
        }
        assert_eq!(got + drain(&read), written);
    }

    #[test]
    fn a_reader_that_is_gone_is_forgotten() {
        let (read, mut output) = pipe();
        drop(read);
        output.write(b"x");
        assert!(output.is_unread());
        assert!(output.waits_for().is_none() && output.has_room());
    }

    #[test]
    fn what_waits_at_the_end_is_written_unless_a_signal_comes() {
        let (read, mut output) = pipe();
        let (signals, ask) = pipe_with(PipeFlags::empty()).unwrap();
        while output.has_room() {
            output.write(&[b'x'; 4096]);
        }
        rustix::io::write(&ask, b"!").unwrap();
        assert!(!output.finish(signals.as_fd(), || true));
        assert!(output.waits_for().is_some(), "the user wants no more");
        let reader = std::thread::spawn(move || {
            let mut total = 0;
            loop {
                match rustix::io::read(&read, &mut [0; 4096]) {
                    Ok(0) => return total,
                    Ok(count) => total += count,
                    Err(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
                }
            }
        });
        // Another signal, say that the window has another size, changes nothing.
        let read = || rustix::io::read(&signals, &mut [0; 8]).unwrap();
        let ignored = || {
            read();
            false
        };
        assert!(output.finish(signals.as_fd(), ignored));
        drop(output);
        assert!(reader.join().unwrap() >= MAX_WAITING);
    }
}
