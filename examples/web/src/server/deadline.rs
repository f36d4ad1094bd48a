//! A time limit that is moved often and reached seldom.
//!
//! Every request moves its connection's limit. A timer per move would cost more than the rest of a small reply, so the
//! timer stays where it is while nobody has to wait, and when the limit has moved away from it; when it goes off too
//! early it is set again.

use core::future::Future;
use core::pin::{Pin, pin};
use core::task::{Context, Poll};
use core::time::Duration;

use kiln::time::{self, Instant, Sleep, cached};

/// The limit has been reached.
pub struct Expired;

/// A time limit.
pub struct Deadline {
    at: Instant,
    /// The timer, and when it goes off: at the limit, or earlier, once somebody waits.
    timer: Option<(Instant, Sleep)>,
}

impl Deadline {
    /// A limit so far from now.
    pub fn after(duration: Duration) -> Self {
        Self {
            at: cached() + duration,
            timer: None,
        }
    }

    /// Moves the limit to so far from now.
    pub fn set(&mut self, duration: Duration) {
        self.at = cached() + duration;
    }

    /// Waits for `future`, at most until the limit. Costs nothing if the future is ready.
    pub async fn limit<F: Future>(&mut self, future: F) -> Result<F::Output, Expired> {
        let mut future = pin!(future);
        core::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll_expired(cx).map(Err),
        })
        .await
    }

    /// Ready when the limit is reached. A timer that is set wakes the task that set it, which is the only one to ask.
    pub fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        let now = cached();
        if self.at <= now {
            self.timer = None;
            return Poll::Ready(Expired);
        }
        let set = self.timer.as_ref().map(|(at, _)| *at);
        if set.is_some_and(|at| now < at && at <= self.at) {
            return Poll::Pending;
        }
        let mut sleep = time::sleep_until(self.at);
        let poll = Pin::new(&mut sleep).poll(cx);
        self.timer = Some((self.at, sleep));
        poll.map(|()| Expired)
    }
}
