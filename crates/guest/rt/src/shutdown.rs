//! Being asked to stop.
//!
//! The instance's owner may ask a guest to end (`kiln stop`, Ctrl-C, a signal to `kiln run`). A program that waits for
//! [`requested_signal`] is told and ends when it is ready; any other program ends at once, with exit code 128 plus the
//! signal's number, as a process would.

use core::future::poll_fn;
use core::task::{Poll, Waker};

use crate::sync::Lock;

struct State {
    signal: Option<u32>,
    waiting: Option<Waker>,
    handled: bool,
}

static STATE: Lock<State> = Lock::new(State {
    signal: None,
    waiting: None,
    handled: false,
});

/// Waits until the guest is asked to stop; gives the signal's number (2 interrupt, 15 terminate).
///
/// From the first use on the program is expected to end by itself. One task at a time can wait.
pub async fn requested_signal() -> u32 {
    poll_fn(|cx| {
        STATE.with(|state| {
            state.handled = true;
            if let Some(signal) = state.signal.take() {
                return Poll::Ready(signal);
            }
            state.waiting = Some(cx.waker().clone());
            Poll::Pending
        })
    })
    .await
}

pub(crate) fn requested(signal: u32) {
    let (handled, waker) = STATE.with(|state| {
        state.signal = Some(signal);
        (state.handled, state.waiting.take())
    });
    if !handled {
        crate::start::exit((128 + signal) as u8);
    }
    if let Some(waker) = waker {
        waker.wake();
    }
}
