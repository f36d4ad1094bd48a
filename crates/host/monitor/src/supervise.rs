//! The event loop beside a running guest.
//!
//! One thread waits for everything at once: the guest's console, its end, its rootless network, requests on the control
//! socket, signals, and a slow terminal. Each turn of the loop does a bounded amount of work for each of them, so that a
//! guest that floods its console or its network does not keep the others waiting.
//!
//! The loop knows nothing of files with state: it ends with how the guest ended, and [`run`](crate::run) records that.

mod figures;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use kiln_abi::call::{RESIZED, resized};
use kiln_usernet::Usernet;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::Error;
use crate::backend::{Ended, Guest, How};
use crate::capture::hub::{Hub, Wish};
use crate::clock::WallTime;
use crate::console::log::Log;
use crate::console::output::Output;
use crate::control::server::{ClientId, Server};
use crate::control::{Request, Response};
use crate::registry::CONTROL_SOCKET;
use crate::registry::record::Protection;
use crate::signals::Signals;

/// How long a guest must have run before its control socket is made: longer than a small program takes, for which
/// that would be a good part of the whole cost. A request that comes earlier waits as long.
const SETTLED: Duration = Duration::from_millis(5);

/// Bytes of console output that one turn of the loop passes on.
const CONSOLE_PER_TURN: usize = 256 << 10;

/// Bytes that one read of the console asks for: what a pipe holds.
const CONSOLE_PIECE: usize = 64 << 10;

/// How often to look at how much memory a guest has in use, when it has nearly all or next to none.
const HEAVIEST: Duration = Duration::from_millis(10);
const LIGHTEST: Duration = Duration::from_millis(200);

/// Within what time Ctrl-C has to be pressed three times to end a Linux program.
const INSISTING: Duration = Duration::from_secs(1);

/// Clients that wait for the guest's end; more are refused.
const MAX_WAITING: usize = 256;

const SIGINT: u32 = 2;
const SIGTERM: u32 = 15;
const SIGPIPE: u32 = 13;
const SIGKILL: u32 = 9;

/// Everything that a supervisor looks after while its guest runs.
pub struct Supervisor<'a> {
    /// The guest.
    pub guest: &'a mut dyn Guest,
    /// Its console.
    pub console: Channel,
    /// Its console's stream for errors, if that is another one for the user.
    pub errors: Option<Channel>,
    /// The host's side of its rootless network.
    pub usernet: Option<Box<Usernet>>,
    /// Who looks at the frames on its links.
    pub captures: Hub,
    /// The log.
    pub log: Log,
    /// The instance's open folder.
    pub dir: BorrowedFd<'a>,
    /// The instance's folder.
    pub path: &'a std::path::Path,
    /// The control socket; it is made when the guest has run for a moment.
    pub control: Option<Server>,
    /// What asks the supervisor to end.
    pub signals: Signals,
    /// How long the guest may take to end when asked to.
    pub stop_timeout: Duration,
    /// The guest runs a Linux program.
    pub is_program: bool,
    /// The size of the terminal that is the program's, in columns and rows, if it has one.
    pub terminal: Option<fn() -> (u16, u16)>,
    /// Memory of the guest in bytes.
    pub memory: u64,
    /// Tells the user something.
    pub tell: fn(&str),
    /// What goes on; [`Progress::default`] at the start.
    pub progress: Progress,
}

/// One stream of a guest's console.
#[derive(Debug)]
pub struct Channel {
    /// Read end, non-blocking. None when the guest's end is closed and everything was read, or nobody wants to read.
    from: Option<OwnedFd>,
    /// The user's end.
    output: Output,
}

impl Channel {
    /// From the guest's stream to the user's.
    pub fn new(from: OwnedFd, output: Output) -> Self {
        Self {
            from: Some(from),
            output,
        }
    }

    /// What to wait for until there is something to pass on, if it can be passed on.
    fn source(&self) -> Option<BorrowedFd<'_>> {
        let from = self.from.as_ref().filter(|_| self.output.has_room());
        from.map(AsFd::as_fd)
    }
}

/// What a supervisor remembers from turn to turn.
#[derive(Debug, Default)]
pub struct Progress {
    /// When to end the guest by force.
    kill_at: Option<Instant>,
    /// When Ctrl-C was pressed, the last two times.
    interrupts: [Option<Instant>; 2],
    /// When to make the control socket.
    settle_at: Option<Instant>,
    /// Clients that wait for the guest's end.
    waiting: Vec<ClientId>,
    /// When to look again at how much memory the guest has in use.
    weigh_at: Option<Instant>,
    /// It had more than it may, and was ended for that: how much.
    too_much: Option<u64>,
    /// The guest was asked to end because nobody reads what it writes.
    unread: bool,
    /// The user was told that the log is incomplete.
    log_failed: bool,
}

/// Which stream of the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Console,
    Errors,
}

/// What one turn found ready.
#[allow(
    clippy::struct_excessive_bools,
    reason = "one for each thing waited for"
)]
struct Ready {
    ended: bool,
    signals: bool,
    console: bool,
    errors: bool,
    usernet: bool,
    output: bool,
    captures: Vec<PollFlags>,
    control: Vec<PollFlags>,
}

impl Supervisor<'_> {
    /// Looks after the guest until it has ended and all of its output has been passed on.
    ///
    /// # Errors
    /// [`Error::Host`] if the host does not let us wait. The guest is to be ended then.
    pub fn run(&mut self) -> Result<(Ended, Vec<ClientId>), Error> {
        // Not zeroed: touching pages that a short line never reaches would be a part of every start.
        let mut buffer = Vec::with_capacity(CONSOLE_PIECE);
        if self.control.is_none() {
            self.progress.settle_at = Some(Instant::now() + SETTLED);
        }
        if self.guest.memory_in_use().is_some() {
            self.progress.weigh_at = Some(Instant::now() + LIGHTEST);
        }
        loop {
            let ready = self
                .wait()
                .map_err(|error| Error::host("wait for the guest", error))?;
            let now = Instant::now();
            if ready.signals {
                self.take_signals(now);
            }
            if ready.console {
                self.pass_on(Which::Console, &mut buffer);
            }
            if ready.errors {
                self.pass_on(Which::Errors, &mut buffer);
            }
            if ready.output {
                self.console.output.flush();
                if let Some(errors) = &mut self.errors {
                    errors.output.flush();
                }
            }
            if let Some(usernet) = &mut self.usernet
                && (ready.usernet || usernet.deadline().is_some_and(|at| at <= now))
            {
                usernet.run(now);
            }
            self.notice_readers(now);
            self.pass_frames(&ready.captures, now);
            self.serve(&ready.control, now);
            self.keep_time(now);
            if ready.ended {
                break;
            }
        }
        // The guest cannot write any more, so this ends.
        for which in [Which::Console, Which::Errors] {
            while self.pass_on(which, &mut buffer) > 0 {}
        }
        self.captures.collect(self.guest, Instant::now());
        buffer.clear();
        self.guest.screen(&mut buffer, true);
        self.deliver(Which::Console, &buffer);
        let mut ended = self
            .guest
            .wait()
            .map_err(|error| Error::host("learn how the guest ended", error))?;
        if !matches!(ended.how, How::Killed(_)) {
            self.deliver_the_rest();
        }
        if let Some(used) = self.progress.too_much
            && ended.how == How::Killed(SIGKILL)
        {
            ended.how = How::OutOfMemory;
            ended.message = format!(
                "{} in use, of {}: raise it with --memory",
                crate::size::format(used),
                crate::size::format(self.memory)
            );
        }
        Ok((ended, std::mem::take(&mut self.progress.waiting)))
    }

    /// What is still of use when the guest has ended.
    pub fn into_parts(self) -> (Option<Server>, Hub, Vec<Output>, Signals) {
        let channels = std::iter::once(self.console).chain(self.errors);
        let outputs = channels.map(|channel| channel.output).collect();
        (self.control, self.captures, outputs, self.signals)
    }

    /// Appends text of Kiln's own to the log.
    pub fn note(&mut self, text: &str) {
        self.write_log(text.as_bytes());
    }

    fn wait(&self) -> rustix::io::Result<Ready> {
        let now = Instant::now();
        let mut fds = Vec::with_capacity(8);
        fds.push(PollFd::from_borrowed_fd(self.guest.ended(), PollFlags::IN));
        fds.push(PollFd::new(&self.signals, PollFlags::IN));
        let console = optional(&mut fds, self.console.source(), PollFlags::IN);
        let errors = self.errors.as_ref();
        let of_errors = errors.and_then(Channel::source);
        let of_errors = optional(&mut fds, of_errors, PollFlags::IN);
        let usernet = self.usernet.as_ref().map(AsFd::as_fd);
        let usernet = optional(&mut fds, usernet, PollFlags::IN);
        let output = fds.len();
        let channels = std::iter::once(&self.console).chain(errors);
        let slow = channels.filter_map(|channel| channel.output.waits_for());
        fds.extend(slow.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT)));
        let captures = fds.len();
        let interests = self.captures.interests().into_iter();
        fds.extend(interests.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        let control = fds.len();
        if let Some(server) = &self.control {
            let interests = server.interests();
            fds.extend(interests.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        }
        let timeout = self
            .deadline()
            .map(|at| timespec(at.saturating_duration_since(now)));
        match poll(&mut fds, timeout.as_ref()) {
            // What is ready is looked at again in the next turn.
            Err(Errno::INTR) => fds.iter_mut().for_each(PollFd::clear_revents),
            result => drop(result?),
        }
        let is_ready = |index: usize| !fds[index].revents().is_empty();
        Ok(Ready {
            ended: is_ready(0),
            signals: is_ready(1),
            console: console.is_some_and(is_ready),
            errors: of_errors.is_some_and(is_ready),
            usernet: usernet.is_some_and(is_ready),
            output: (output..captures).any(is_ready),
            captures: fds[captures..control].iter().map(PollFd::revents).collect(),
            control: fds[control..].iter().map(PollFd::revents).collect(),
        })
    }

    /// When to wake up even if nothing is ready.
    fn deadline(&self) -> Option<Instant> {
        [
            self.progress.kill_at,
            self.progress.settle_at,
            self.progress.weigh_at,
            self.usernet.as_deref().and_then(Usernet::deadline),
            self.control.as_ref().and_then(Server::deadline),
            self.captures.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn channel(&mut self, which: Which) -> Option<&mut Channel> {
        match which {
            Which::Console => Some(&mut self.console),
            Which::Errors => self.errors.as_mut(),
        }
    }

    /// Passes on what the guest wrote, about [`CONSOLE_PER_TURN`] bytes at the most. Returns how many.
    fn pass_on(&mut self, which: Which, buffer: &mut Vec<u8>) -> usize {
        let mut passed = 0;
        while passed < CONSOLE_PER_TURN {
            let channel = self.channel(which);
            let Some(from) = channel.and_then(|channel| channel.from.as_ref()) else {
                break;
            };
            buffer.clear();
            match rustix::io::read(from, spare_capacity(buffer)) {
                Ok(0) => {
                    self.close(which);
                    break;
                }
                Ok(count) => {
                    let is_full = count == buffer.capacity();
                    if which == Which::Console {
                        self.guest.screen(buffer, false);
                    }
                    let has_room = self.deliver(which, buffer);
                    passed += count;
                    if !is_full || !has_room {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        passed
    }

    /// To the user and the log. Returns whether the user's end takes more.
    fn deliver(&mut self, which: Which, text: &[u8]) -> bool {
        let Some(channel) = self.channel(which) else {
            return true;
        };
        if !text.is_empty() {
            channel.output.write(text);
        }
        let has_room = channel.output.has_room();
        if !text.is_empty() {
            self.write_log(text);
        }
        has_room
    }

    fn close(&mut self, which: Which) {
        if let Some(channel) = self.channel(which) {
            channel.from = None;
        }
    }

    /// Lets a Linux program know that who read its output has gone, as in a pipeline: where it would find that out by itself, its output
    /// is closed, so that it fails with `EPIPE`; elsewhere it is asked to end.
    fn notice_readers(&mut self, now: Instant) {
        for which in [Which::Console, Which::Errors] {
            let gone = |channel: &Channel| channel.from.is_some() && channel.output.is_unread();
            if !self.is_program || !self.channel(which).is_some_and(|channel| gone(channel)) {
                continue;
            }
            if self.guest.hears(SIGPIPE) {
                self.close(which);
            } else if !self.progress.unread {
                self.progress.unread = true;
                self.guest.send(SIGTERM);
                self.kill_after(self.stop_timeout, now);
            }
        }
    }

    fn write_log(&mut self, text: &[u8]) {
        let Err(error) = self.log.write(self.dir, WallTime::now(), text) else {
            return;
        };
        if !self.progress.log_failed {
            self.progress.log_failed = true;
            let error = Error::file("write", self.path.join(crate::console::log::FILE), error);
            (self.tell)(&format!("{error}: the log is incomplete"));
        }
    }

    /// What a Linux program gets it may handle as it likes: a shell or an interpreter goes on after SIGINT. Only SIGTERM asks for
    /// the end, and Ctrl-C pressed three times within a second. Anything asks a native guest for the end, and the
    /// second Ctrl-C is its last.
    fn take_signals(&mut self, now: Instant) {
        while let Some(signal) = self.signals.next() {
            if signal == RESIZED {
                let size = self.terminal.map(|size| size());
                if self.is_program {
                    let event = size.map_or(RESIZED, |(columns, rows)| resized(columns, rows));
                    self.guest.send(event);
                }
                continue;
            }
            if signal == SIGINT && self.insists(now) {
                self.guest.kill();
                continue;
            }
            let own = self.is_program && signal != SIGTERM && self.guest.hears(signal);
            let forwarded = if own || signal == SIGINT {
                signal
            } else {
                SIGTERM
            };
            self.guest.send(forwarded);
            if !own {
                self.kill_after(self.stop_timeout, now);
            }
        }
    }

    /// Whether Ctrl-C, pressed now, is to end the guest by force.
    fn insists(&mut self, now: Instant) -> bool {
        let [first, second] = self.progress.interrupts;
        self.progress.interrupts = [second, Some(now)];
        if self.is_program {
            first.is_some_and(|first| now.saturating_duration_since(first) <= INSISTING)
        } else {
            second.is_some()
        }
    }

    /// Sets the time at which patience with the guest ends, unless it ends earlier already.
    fn kill_after(&mut self, timeout: Duration, now: Instant) {
        let at = now.checked_add(timeout);
        self.progress.kill_at = match (self.progress.kill_at, at) {
            (Some(earlier), Some(at)) => Some(earlier.min(at)),
            (earlier, at) => earlier.or(at),
        };
    }

    fn keep_time(&mut self, now: Instant) {
        if self.progress.kill_at.is_some_and(|at| at <= now) {
            self.progress.kill_at = None;
            self.guest.kill();
        }
        if self.progress.weigh_at.is_some_and(|at| at <= now) {
            self.weigh(now);
        }
        if self.progress.settle_at.is_some_and(|at| at <= now) {
            self.progress.settle_at = None;
            match Server::bind(self.dir, self.path) {
                Ok(server) => self.control = Some(server),
                Err(error) => {
                    let error = Error::file("create", self.path.join(CONTROL_SOCKET), error);
                    (self.tell)(&format!(
                        "{error}: `kiln stop` will not reach this instance"
                    ));
                }
            }
        }
    }

    /// Looks at how much memory the guest has in use, and ends one that has too much. The more it has, the sooner it looks
    /// again: as if memory could be filled with 4 GiB in a second from now on.
    fn weigh(&mut self, now: Instant) {
        const BYTES_PER_NANO: u64 = 4;
        self.progress.weigh_at = None;
        let Some(used) = self.guest.memory_in_use() else {
            return;
        };
        if used > self.memory {
            self.progress.too_much = Some(used);
            self.guest.kill();
            return;
        }
        let left = Duration::from_nanos((self.memory - used) / BYTES_PER_NANO);
        self.progress.weigh_at = Some(now + left.clamp(HEAVIEST, LIGHTEST));
    }

    /// Gives clients of the rootless network what an ended guest has left for them, for as long as it might have taken to stop, or until a
    /// signal comes. Who gets less sees a reset.
    fn deliver_the_rest(&mut self) {
        let patience = Instant::now().checked_add(self.stop_timeout);
        loop {
            let now = Instant::now();
            let limit = self.progress.kill_at.or(patience);
            let Some(usernet) = &mut self.usernet else {
                return;
            };
            let over = limit.is_some_and(|limit| limit <= now);
            if !usernet.drain(now) || over || self.signals.ask_for_the_end() {
                return;
            }
            let server = self.control.as_ref();
            let deadlines = [usernet.deadline(), limit, server.and_then(Server::deadline)];
            let until = deadlines.into_iter().flatten().min();
            let timeout = until.map(|at| timespec(at.saturating_duration_since(now)));
            let mut fds = vec![
                PollFd::new(usernet.as_ref(), PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
            ];
            let interests = server.into_iter().flat_map(Server::interests);
            fds.extend(interests.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(_) => return,
            }
            let ready: Vec<PollFlags> = fds[2..].iter().map(PollFd::revents).collect();
            self.serve(&ready, Instant::now());
        }
    }

    /// To those who capture.
    fn pass_frames(&mut self, ready: &[PollFlags], now: Instant) {
        self.captures.collect(self.guest, now);
        self.captures.handle(ready);
        self.captures
            .instruct(self.guest, self.usernet.as_deref_mut());
    }

    fn serve(&mut self, ready: &[PollFlags], now: Instant) {
        let Some(server) = &mut self.control else {
            return;
        };
        // A socket made in this turn was not waited for yet; a client's own deadline may have come all the same.
        for (client, request) in server.handle(ready, now) {
            if let Some(response) = self.perform(client, &request, now)
                && let Some(server) = &mut self.control
            {
                server.answer(client, &response, now);
            }
        }
    }

    /// Does what a client asks for. `None` if it is answered when the guest has ended.
    fn perform(&mut self, client: ClientId, request: &Request, now: Instant) -> Option<Response> {
        Some(match *request {
            Request::Ping => Response::Done,
            Request::Signal { signal: SIGKILL } => {
                self.guest.kill();
                Response::Done
            }
            Request::Signal { signal } if !self.is_program && !asks_for_the_end(signal) => {
                Response::Refused {
                    problem:
                        "it is no Linux program: use TERM or INT, which ask it to end, or KILL"
                            .to_owned(),
                }
            }
            Request::Signal { signal } => {
                self.guest.send(signal & 0xff);
                Response::Done
            }
            Request::Stats => Response::Stats(self.stats()),
            Request::Metrics => Response::Metrics(self.metrics()),
            Request::Capture { ref links, snaplen } => {
                return self.begin_capture(client, &Wish { links, snaplen });
            }
            Request::Protections => Response::Protections {
                protections: protections(self.guest),
            },
            Request::Stop { signal, timeout_ms } => {
                let timeout = timeout_ms.map_or(self.stop_timeout, Duration::from_millis);
                if timeout.is_zero() || signal == SIGKILL {
                    self.guest.kill();
                    self.kill_after(Duration::ZERO, now);
                } else {
                    self.guest.send(signal);
                    self.kill_after(timeout, now);
                }
                if self.is_crowded() {
                    return Some(Response::Done);
                }
                self.progress.waiting.push(client);
                return None;
            }
            Request::Wait if self.is_crowded() => Response::Refused {
                problem: "too many wait for it already".to_owned(),
            },
            Request::Wait => {
                self.progress.waiting.push(client);
                return None;
            }
        })
    }

    /// Whether as many clients wait for the guest's end as may.
    fn is_crowded(&mut self) -> bool {
        if let Some(server) = &self.control {
            self.progress.waiting.retain(|client| server.has(*client));
        }
        self.progress.waiting.len() >= MAX_WAITING
    }

    /// `None` if the connection has become a stream.
    fn begin_capture(&mut self, client: ClientId, wish: &Wish<'_>) -> Option<Response> {
        let links = match self.captures.choose(wish, self.guest) {
            Ok(links) => links,
            Err(problem) => return Some(Response::Refused { problem }),
        };
        let response = Response::Capturing {
            links: links.clone(),
        };
        let mut first = serde_json::to_vec(&response).ok()?;
        first.push(b'\n');
        let socket = self.control.as_mut()?.take(client)?;
        self.captures.add(socket, &links, wish.snaplen, first);
        // The response only then: whatever happens after it is captured.
        self.captures
            .instruct(self.guest, self.usernet.as_deref_mut());
        self.captures.handle(&[]);
        None
    }
}

/// Whether a guest without signals of its own takes this for a request to end: HUP, INT, QUIT, KILL, USR1, USR2, TERM.
fn asks_for_the_end(signal: u32) -> bool {
    matches!(signal, 1 | SIGINT | 3 | SIGKILL | 10 | 12 | SIGTERM)
}

/// The protections around a guest, in the form that is recorded.
pub fn protections(guest: &dyn Guest) -> Vec<Protection> {
    let owned = |protection: crate::backend::Protection| Protection {
        name: protection.name.to_owned(),
        missing: protection.missing,
    };
    guest.protections().into_iter().map(owned).collect()
}

/// Adds a descriptor to wait for, if there is one, and returns its place.
fn optional<'a>(
    fds: &mut Vec<PollFd<'a>>,
    fd: Option<BorrowedFd<'a>>,
    flags: PollFlags,
) -> Option<usize> {
    let index = fds.len();
    fds.push(PollFd::from_borrowed_fd(fd?, flags));
    Some(index)
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests;
