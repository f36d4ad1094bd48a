//! What a monitor writes to its standard error: the last of it is kept, for the case that it fails.
//!
//! It is taken while the monitor runs, by a thread of its own: a monitor that has said a lot before, or that waits for
//! somebody to read it, shall still have its last words told.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// The most bytes that are kept.
const KEPT: usize = 4096;

/// Stack of the thread, which needs little.
const STACK: usize = 64 << 10;

/// The last words so far.
#[derive(Debug)]
pub struct Errors(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Read end of the pipe, non-blocking.
    pipe: OwnedFd,
    last: Mutex<VecDeque<u8>>,
}

impl Errors {
    /// Takes what comes out of a pipe that does not block, until its other end is closed.
    pub fn of(pipe: OwnedFd) -> Self {
        let shared = Arc::new(Shared {
            pipe,
            last: Mutex::default(),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().stack_size(STACK);
        let _blocked = Blocked::all();
        // Without the thread there is still what fits the pipe.
        let _ = thread.spawn(move || theirs.follow());
        Self(shared)
    }

    /// The last of what was written until now.
    pub fn text(&self) -> String {
        self.0.drain();
        let last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = last.iter().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Shared {
    fn follow(&self) {
        loop {
            let mut fds = [PollFd::new(&self.pipe, PollFlags::IN)];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => {}
                Ok(_) if self.drain() => {}
                _ => return,
            }
        }
    }

    /// Takes all that is there. False if nothing more can come.
    fn drain(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut piece = [0; KEPT];
        loop {
            match rustix::io::read(&self.pipe, &mut piece) {
                Ok(0) => return false,
                Ok(count) => {
                    last.extend(&piece[..count]);
                    let surplus = last.len().saturating_sub(KEPT);
                    last.drain(..surplus);
                }
                Err(Errno::INTR) => {}
                Err(error) => return error == Errno::AGAIN,
            }
        }
    }
}

/// All signals are blocked for this thread, and for threads it makes, until this is dropped: they are the main
/// thread's business.
struct Blocked(libc::sigset_t);

impl Blocked {
    fn all() -> Self {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigfillset` initialises the one set, `pthread_sigmask` the other; it cannot fail with these arguments.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            Self(before.assume_init())
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: reads the set, which is initialised.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    #[test]
    fn last_words_are_kept_however_much_came_before() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::fs::fcntl_setfl(&read, rustix::fs::OFlags::NONBLOCK).unwrap();
        let errors = Errors::of(read);
        // More than a pipe holds: these writes block until somebody reads.
        for _ in 0..300 {
            rustix::io::write(&write, &[b'x'; 1000]).unwrap();
        }
        rustix::io::write(&write, b"\nlast words\n").unwrap();
        let text = errors.text();
        assert_eq!(text.len(), KEPT);
        assert!(text.ends_with("\nlast words\n"));
        drop(write);
        assert_eq!(errors.text(), text);
    }
}
