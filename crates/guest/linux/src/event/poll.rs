//! `poll(2)` and `select(2)`: waiting for descriptors that are named anew each time.

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::fs::OpenFile;
use crate::process::Thread;
use crate::wait::{self, Deadline, Events, WaitQueue};
use crate::{Errno, Result};

/// A descriptor and what is asked of it.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// What is open; `None` if the descriptor is closed or negative.
    pub open: Option<Rc<OpenFile>>,
    /// What to wait for. `ERR`, `HUP` and `NVAL` are always told.
    pub wanted: Events,
    /// What is so: an answer at once if it is set from the beginning (`NVAL`).
    pub found: Events,
}

/// Asks every file; the number of those that have something to tell.
fn ask(all: &mut [Asked]) -> usize {
    let mut count = 0;
    for asked in all {
        if let Some(open) = &asked.open {
            asked.found = open.file.poll(open) & (asked.wanted | Events::ERR | Events::HUP);
        }
        count += usize::from(!asked.found.is_empty());
    }
    count
}

/// Waits until one of the descriptors has something to tell, and returns how many have; 0 when the deadline has passed.
///
/// # Errors
/// `ERESTARTNOHAND` when a signal comes.
pub fn wait(thread: &Rc<Thread>, all: &mut [Asked], deadline: Deadline) -> Result<usize> {
    let count = ask(all);
    if count > 0 {
        super::look_outside_if_due();
        return Ok(count);
    }
    if deadline == Some(0) {
        // Who sleeps makes the machine look when nobody else can run; who asks again and again does not.
        super::look_outside();
        let count = ask(all);
        // The call may have a mask of its own that lets in what has waited.
        return if count == 0 && thread.has_signal_to_handle() {
            Err(Errno::ERESTARTNOHAND)
        } else {
            Ok(count)
        };
    }
    let opens: Vec<_> = all.iter().filter_map(|asked| asked.open.clone()).collect();
    let queues: Vec<&WaitQueue> = opens.iter().filter_map(|open| open.file.queue()).collect();
    let slept = wait::sleep_until(thread, &queues, deadline, || {
        let count = ask(all);
        (count > 0).then_some(count)
    });
    match slept {
        Err(Errno::ETIMEDOUT) => Ok(0),
        Err(_) => Err(Errno::ERESTARTNOHAND),
        ready => ready,
    }
}
