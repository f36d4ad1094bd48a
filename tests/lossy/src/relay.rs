//! The loop between two devices.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::impair::{Counters, Direction, Impairment};
use crate::pcapng::Capture;
use crate::{Error, tap};

/// Larger than any frame of a device without offloads.
const BUFFER: usize = 1 << 17;

/// How many frames are read before what is due is delivered.
const BATCH: usize = 64;

/// One end of the link.
#[derive(Clone, Debug, Default)]
pub struct End {
    /// The tap device.
    pub interface: String,
    /// The file of the network namespace it is in; none for the present one.
    pub namespace: Option<PathBuf>,
    /// Where to capture what the host at this end sends and receives.
    pub capture: Option<PathBuf>,
    /// What happens to frames from here to the other end.
    pub impairment: Impairment,
}

/// A link that is ready to run.
pub struct Relay {
    taps: [OwnedFd; 2],
    captures: [Option<Capture>; 2],
    /// The direction from each end.
    from: [Direction; 2],
}

impl Relay {
    /// Opens both devices and captures.
    ///
    /// # Errors
    /// [`Error`], naming what cannot be opened.
    pub fn open(a: &End, b: &End, seed: u64) -> Result<Self, Error> {
        let capture = |end: &End| {
            let made = end.capture.as_deref().map(|path| {
                Capture::create(path).map_err(|reason| Error::Capture {
                    path: path.display().to_string(),
                    reason,
                })
            });
            made.transpose()
        };
        Ok(Self {
            taps: [
                tap::open(&a.interface, a.namespace.as_deref())?,
                tap::open(&b.interface, b.namespace.as_deref())?,
            ],
            captures: [capture(a)?, capture(b)?],
            from: [
                Direction::new(a.impairment.clone(), seed),
                Direction::new(b.impairment.clone(), !seed),
            ],
        })
    }

    /// Relays until `stop` can be read or has hung up, or until a time has passed.
    ///
    /// # Errors
    /// If a device or a capture fails.
    pub fn run(
        mut self,
        stop: &[BorrowedFd],
        at_most: Option<Duration>,
    ) -> Result<[Counters; 2], Error> {
        let began = Instant::now();
        let mut buffer = vec![0; BUFFER];
        loop {
            let mut busy = false;
            for end in 0..2 {
                busy |= self.read(end, began, &mut buffer)?;
            }
            for end in 0..2 {
                self.deliver(end, began)?;
            }
            let now = began.elapsed();
            let ends = at_most.map(|limit| limit.saturating_sub(now));
            if ends == Some(Duration::ZERO) {
                break;
            }
            let due = self.from.iter().filter_map(Direction::due).min();
            let wait = [
                due.map(|due| due.saturating_sub(now)),
                ends,
                busy.then_some(Duration::ZERO),
            ];
            if wait_for(&self.taps, stop, wait.into_iter().flatten().min())? {
                break;
            }
        }
        for capture in self.captures.iter_mut().flatten() {
            capture.flush()?;
        }
        Ok(self.from.map(|direction| direction.counters))
    }

    /// Runs on a thread of its own until told to stop.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(self) -> Result<Running, Error> {
        // Closed on exec: a child of the caller must not keep the link running.
        let (stop, told) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(io::Error::from)?;
        let thread = std::thread::Builder::new()
            .name("lossy".into())
            .spawn(move || self.run(&[stop.as_fd()], None))?;
        Ok(Running {
            thread: Some(thread),
            told: Some(told),
        })
    }

    /// Takes frames of the host at an end; whether there may be more.
    fn read(&mut self, end: usize, began: Instant, buffer: &mut [u8]) -> Result<bool, Error> {
        for _ in 0..BATCH {
            match rustix::io::read(&self.taps[end], &mut *buffer) {
                Ok(length) => {
                    let (now, frame) = (began.elapsed(), &buffer[..length]);
                    if let Some(capture) = &mut self.captures[end] {
                        capture.frame(now, frame)?;
                    }
                    self.from[end].offer(frame, now);
                }
                Err(Errno::INTR) => {}
                // Nothing for now, or the device is down.
                Err(Errno::AGAIN | Errno::IO | Errno::BADFD) => return Ok(false),
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(true)
    }

    /// Gives the host at the other end what has arrived from this one.
    fn deliver(&mut self, end: usize, began: Instant) -> Result<(), Error> {
        let other = 1 - end;
        while let Some(frame) = self.from[end].take(began.elapsed()) {
            if let Some(capture) = &mut self.captures[other] {
                // Before the device has it: the answer may come at once.
                capture.frame(began.elapsed(), &frame)?;
            }
            if rustix::io::write(&self.taps[other], &frame).is_err() {
                // The device is down, or a damaged frame is none to it.
                self.from[end].counters.refused += 1;
            }
        }
        Ok(())
    }
}

/// Waits for frames, the end, or until a time has passed; whether it is the end.
fn wait_for(
    taps: &[OwnedFd; 2],
    stop: &[BorrowedFd],
    wait: Option<Duration>,
) -> Result<bool, Error> {
    let mut fds: Vec<PollFd> = taps
        .iter()
        .map(|tap| PollFd::new(tap, PollFlags::IN))
        .collect();
    fds.extend(stop.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
    let wait = wait.map(|wait| Timespec {
        tv_sec: wait.as_secs().cast_signed(),
        tv_nsec: wait.subsec_nanos().into(),
    });
    match poll(&mut fds, wait.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(fds[2..].iter().any(|fd| !fd.revents().is_empty())),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

/// A link that runs.
pub struct Running {
    thread: Option<std::thread::JoinHandle<Result<[Counters; 2], Error>>>,
    told: Option<OwnedFd>,
}

impl Running {
    /// Ends it. What it has done with frames from each end.
    ///
    /// # Errors
    /// If it has failed meanwhile.
    pub fn stop(mut self) -> Result<[Counters; 2], Error> {
        self.told = None;
        match self.thread.take().map(std::thread::JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok([Counters::default(); 2]),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.told = None;
        if let Some(thread) = self.thread.take() {
            // Whoever drops it does not ask for its result.
            let _ = thread.join();
        }
    }
}
