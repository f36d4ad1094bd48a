//! The supervisor's side: who captures what, and what waits for them.
//!
//! A [`Hub`] belongs to one supervisor. Who captures has a connection, the links it wants, and a queue of at most
//! [`QUEUE`] bytes; frames for which there is no room there are dropped and counted, so that one who does not read holds up
//! nobody. A capture ends when its connection's other end closes its direction, upon which it gets the counts; when the
//! connection is gone; or with the guest ([`Hub::finish`]).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kiln_usernet::Usernet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::stream::{Count, HEAD, Record};
use super::{Copied, Direction, Frame, Link};
use crate::backend::Guest;
use crate::clock::WallTime;

/// The most captures at a time.
const MAX_CAPTURES: usize = 4;

/// The most bytes that wait for one of them.
const QUEUE: usize = 4 << 20;

/// With so many bytes waiting, they are sent without waiting for the turn's end.
const PIECE: usize = 128 << 10;

/// How often the backend's copies are collected, unless more than [`MUCH`] came the last time: then at once again.
const COLLECT: Duration = Duration::from_millis(5);

/// Bytes of frames.
const MUCH: usize = 256 << 10;

/// How long a capture may take for what it has not read when the guest has ended.
const LAST_READ: Duration = Duration::from_secs(1);

/// All captures of one instance.
#[derive(Debug)]
pub struct Hub {
    links: Vec<Link>,
    /// The link of the rootless network, which this process sees itself.
    user: Option<u32>,
    shared: Arc<Mutex<Captures>>,
    /// Their connections, in the same order.
    sockets: Vec<Arc<OwnedFd>>,
    /// What those who see the frames were told last: links by bit, and bytes.
    told: (u64, u32),
    /// When to look for the backend's copies.
    collect_at: Option<Instant>,
}

/// What is shared with the observer of the rootless network. It runs on the same thread.
#[derive(Debug, Default)]
struct Captures {
    all: Vec<Capture>,
}

#[derive(Debug)]
struct Capture {
    socket: Arc<OwnedFd>,
    /// Links by bit.
    links: u64,
    snaplen: u32,
    /// What is to be sent, from `sent` on.
    queue: Vec<u8>,
    sent: usize,
    counts: Vec<Count>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Frames go there.
    Open,
    /// What waits is still sent.
    Ending,
    /// To be forgotten.
    Done,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish<'a> {
    /// Names of links; all if there are none.
    pub links: &'a [String],
    /// The most bytes of each frame.
    pub snaplen: u32,
}

impl Hub {
    /// For an instance with these links, of which `user` is on the rootless network.
    pub fn new(links: Vec<Link>, user: Option<u32>) -> Self {
        Self {
            links,
            user,
            shared: Arc::default(),
            sockets: Vec::new(),
            told: (0, 0),
            collect_at: None,
        }
    }

    /// The instance's links.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The number of the one on the rootless network.
    pub fn user_link(&self) -> Option<u32> {
        self.user
    }

    /// The links that a wish is for.
    ///
    /// # Errors
    /// Why it cannot be met, in one line.
    pub fn choose(&self, wish: &Wish<'_>, guest: &dyn Guest) -> Result<Vec<Link>, String> {
        if self.links.is_empty() {
            return Err("it has no network link".to_owned());
        }
        if self.lock().all.len() >= MAX_CAPTURES {
            return Err(format!(
                "it is being captured {MAX_CAPTURES} times already, which is the most"
            ));
        }
        let known = |name: &String| self.links.iter().any(|link| link.name == *name);
        if let Some(unknown) = wish.links.iter().find(|name| !known(name)) {
            let names: Vec<&str> = self.links.iter().map(|link| &*link.name).collect();
            return Err(format!(
                "it has no link {unknown:?}: use {} or all",
                names.join(", ")
            ));
        }
        let wanted = |link: &&Link| wish.links.is_empty() || wish.links.contains(&link.name);
        let chosen: Vec<Link> = self.links.iter().filter(wanted).cloned().collect();
        let can = guest.copies() | self.user.map_or(0, |device| 1 << device);
        match chosen.iter().find(|link| can >> link.device & 1 == 0) {
            Some(link) => Err(format!(
                "its backend does not see the frames on {} ({}): use tcpdump on the host's interface",
                link.name, link.kind
            )),
            None => Ok(chosen),
        }
    }

    /// Begins a capture of chosen links. `first` is sent before anything else, with the next [`handle`](Self::handle).
    pub fn add(&mut self, socket: OwnedFd, links: &[Link], snaplen: u32, first: Vec<u8>) {
        let counts = links.iter().map(|link| Count {
            device: link.device,
            ..Count::default()
        });
        let socket = Arc::new(socket);
        self.sockets.push(Arc::clone(&socket));
        self.lock().all.push(Capture {
            socket,
            links: links.iter().fold(0, |bits, link| bits | 1 << link.device),
            snaplen,
            queue: first,
            sent: 0,
            counts: counts.collect(),
            state: State::Open,
        });
    }

    /// Tells those who see the frames whose are wanted, if that has changed. To be called in each turn.
    pub fn instruct(&mut self, guest: &mut dyn Guest, usernet: Option<&mut Usernet>) {
        let wanted = self.lock().wanted();
        if wanted == self.told {
            return;
        }
        self.told = wanted;
        let (links, snaplen) = wanted;
        if let (Some(device), Some(usernet)) = (self.user, usernet) {
            let observer = (links >> device & 1 != 0).then(|| {
                let shared = Arc::clone(&self.shared);
                Box::new(Observer { shared, device }) as Box<dyn kiln_usernet::Observer>
            });
            usernet.observe(observer);
        }
        let copies = links & guest.copies();
        guest.copy(copies, snaplen);
        self.collect_at = (copies != 0).then(|| Instant::now() + COLLECT);
    }

    /// When to call [`collect`](Self::collect) at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.collect_at
    }

    /// Collects the backend's copies.
    pub fn collect(&mut self, guest: &mut dyn Guest, now: Instant) {
        if self.collect_at.is_none() {
            return;
        }
        let mut bytes = 0;
        let mut captures = lock(&self.shared);
        guest.copied(&mut |copied| match copied {
            Copied::Frame(frame) => {
                bytes += frame.bytes.len();
                captures.take(&frame);
            }
            Copied::Lost { device, frames } => captures.lose(device, frames.into()),
        });
        self.collect_at = Some(if bytes > MUCH { now } else { now + COLLECT });
    }

    /// Connections to wait for and for what, in the order that [`handle`](Self::handle) expects.
    pub fn interests(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let captures = self.lock();
        let both = self.sockets.iter().zip(&captures.all);
        both.map(|(socket, capture)| (socket.as_fd(), capture.interest()))
            .collect()
    }

    /// Sends what can be sent without waiting, and ends what is to be ended. `ready` holds what is ready, in the order of
    /// [`interests`](Self::interests).
    pub fn handle(&mut self, ready: &[PollFlags]) {
        let mut captures = lock(&self.shared);
        for (index, capture) in captures.all.iter_mut().enumerate() {
            capture.advance(ready.get(index).copied().unwrap_or(PollFlags::empty()));
        }
        let mut kept = captures.all.iter().map(|c| c.state != State::Done);
        self.sockets.retain(|_| kept.next().unwrap_or(true));
        captures.all.retain(|c| c.state != State::Done);
    }

    /// The guest has ended: everybody gets what waits for them and the counts, for at most [`LAST_READ`] in all.
    pub fn finish(self) {
        let mut captures = self.lock();
        let until = Instant::now() + LAST_READ;
        for capture in &mut captures.all {
            capture.end();
            while capture.state == State::Ending {
                let left = until.saturating_duration_since(Instant::now());
                let mut fds = [PollFd::new(&capture.socket, PollFlags::OUT)];
                let timeout = Timespec {
                    tv_sec: 0,
                    tv_nsec: left.as_nanos().min(999_999_999) as i64,
                };
                match poll(&mut fds, Some(&timeout)) {
                    Ok(1..) | Err(Errno::INTR) => capture.send(),
                    _ => break,
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Captures> {
        lock(&self.shared)
    }
}

/// A panic while it was locked would have ended this process.
fn lock(shared: &Mutex<Captures>) -> MutexGuard<'_, Captures> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Captures {
    /// Links by bit that somebody wants, and the most bytes of a frame that somebody wants.
    fn wanted(&self) -> (u64, u32) {
        let open = || self.all.iter().filter(|capture| capture.is_open());
        let links = open().fold(0, |links, capture| links | capture.links);
        (links, open().map(|c| c.snaplen).max().unwrap_or(0))
    }

    fn take(&mut self, frame: &Frame<'_>) {
        for capture in &mut self.all {
            capture.take(frame);
        }
    }

    fn lose(&mut self, device: u32, frames: u64) {
        for capture in self.all.iter_mut().filter(|capture| capture.is_open()) {
            if let Some(count) = capture.counts.iter_mut().find(|c| c.device == device) {
                count.dropped += frames;
            }
        }
    }
}

impl Capture {
    fn is_open(&self) -> bool {
        self.state == State::Open
    }

    fn interest(&self) -> PollFlags {
        let send = if self.sent < self.queue.len() {
            PollFlags::OUT
        } else {
            PollFlags::empty()
        };
        match self.state {
            State::Open => send | PollFlags::IN,
            // A client that goes away reports itself without being asked (POLLHUP).
            State::Ending | State::Done => send,
        }
    }

    fn advance(&mut self, ready: PollFlags) {
        if ready.intersects(PollFlags::HUP | PollFlags::ERR) {
            self.state = State::Done;
            return;
        }
        if self.is_open() && ready.contains(PollFlags::IN) {
            let mut byte = [0];
            match rustix::net::recv(&self.socket, &mut byte, RecvFlags::DONTWAIT) {
                Ok((0, _)) => self.end(),
                Err(Errno::AGAIN | Errno::INTR) => {}
                // It has nothing more to say.
                Ok(_) | Err(_) => self.state = State::Done,
            }
        }
        self.send();
    }

    fn take(&mut self, frame: &Frame<'_>) {
        if !self.is_open() || self.links >> frame.device & 1 == 0 {
            return;
        }
        let Some(count) = self.counts.iter_mut().find(|c| c.device == frame.device) else {
            return;
        };
        let bytes = &frame.bytes[..frame.bytes.len().min(self.snaplen as usize)];
        if self.queue.len() - self.sent + HEAD + bytes.len() > QUEUE {
            count.dropped += 1;
            return;
        }
        count.frames += 1;
        // Sent bytes make room before the queue grows beyond its bound.
        if self.sent > QUEUE / 2 {
            self.queue.drain(..self.sent);
            self.sent = 0;
        }
        Record::Frame(Frame { bytes, ..*frame }).append_to(&mut self.queue);
        if self.queue.len() - self.sent >= PIECE {
            self.send();
        }
    }

    /// Sends the counts after what waits. Frames that come later are nobody's.
    fn end(&mut self) {
        if !self.is_open() {
            return;
        }
        for count in &self.counts {
            Record::Count(*count).append_to(&mut self.queue);
        }
        Record::End.append_to(&mut self.queue);
        self.state = State::Ending;
        self.send();
    }

    /// Sends what the connection takes now.
    fn send(&mut self) {
        while let Some(bytes @ [_, ..]) = self.queue.get(self.sent..) {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.socket, bytes, flags) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.state = State::Done;
                    return;
                }
            }
        }
        // Not kept for the next burst: most captures have few.
        if self.queue.capacity() > 2 * PIECE {
            self.queue = Vec::new();
        }
        self.queue.clear();
        self.sent = 0;
        if self.state == State::Ending {
            self.state = State::Done;
        }
    }
}

/// Sees the frames of the rootless network.
struct Observer {
    shared: Arc<Mutex<Captures>>,
    device: u32,
}

impl kiln_usernet::Observer for Observer {
    fn frame(&mut self, way: kiln_usernet::Way, frame: &[u8]) {
        lock(&self.shared).take(&Frame {
            device: self.device,
            direction: match way {
                kiln_usernet::Way::ToGuest => Direction::In,
                kiln_usernet::Way::FromGuest => Direction::Out,
            },
            time: WallTime::now().0,
            len: frame.len() as u32,
            bytes: frame,
        });
    }
}

#[cfg(test)]
mod tests;
