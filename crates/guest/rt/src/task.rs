//! The executor: tasks in the order in which they were woken, on one virtual CPU.

use alloc::collections::VecDeque;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll};

use async_task::Runnable;

use crate::reactor;
use crate::start::Termination;
use crate::sync::Lock;

static READY: Lock<VecDeque<Runnable>> = Lock::new(VecDeque::new());

/// Tasks that run before the devices are looked at again.
const ROUND: usize = 64;

fn schedule(runnable: Runnable) {
    READY.with(|ready| ready.push_back(runnable));
}

/// True if no task can go on.
pub(crate) fn all_asleep() -> bool {
    READY.with(|ready| ready.is_empty())
}

/// A task that was spawned. Awaiting it gives the task's result; dropping it leaves the task running.
#[derive(Debug)]
pub struct JoinHandle<T> {
    task: Option<async_task::Task<T>>,
}

impl<T> JoinHandle<T> {
    /// Drops the task's future as soon as it is not running. Does nothing to a finished task.
    pub fn abort(mut self) {
        drop(self.task.take());
    }

    /// True if the task has run to its end.
    pub fn is_finished(&self) -> bool {
        self.task.as_ref().is_none_or(async_task::Task::is_finished)
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let task = self
            .task
            .as_mut()
            .expect("only `abort` takes the task, and the handle with it");
        Pin::new(task).poll(cx)
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.detach();
        }
    }
}

/// Starts a task that runs beside the others.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    // SAFETY: the future need not be `Send`, since there is one thread; it is 'static, and so is `schedule`, which
    // is `Send` and `Sync`.
    let (runnable, task) = unsafe { async_task::spawn_unchecked(future, schedule) };
    runnable.schedule();
    JoinHandle { task: Some(task) }
}

/// Lets every other task that is ready run first.
pub async fn yield_now() {
    let mut yielded = false;
    core::future::poll_fn(|cx| {
        if core::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Runs the program: `main` as the first task, until it ends. Other tasks end with it.
pub fn run<F>(main: F) -> u8
where
    F: Future + 'static,
    F::Output: Termination,
{
    static DONE: AtomicBool = AtomicBool::new(false);
    static CODE: Lock<u8> = Lock::new(0);
    drop(spawn(async {
        let code = main.await.report();
        CODE.with(|slot| *slot = code);
        DONE.store(true, Ordering::Relaxed);
    }));
    loop {
        for _ in 0..ROUND {
            let Some(runnable) = READY.with(VecDeque::pop_front) else {
                break;
            };
            runnable.run();
            if DONE.load(Ordering::Relaxed) {
                reactor::finish();
                return CODE.with(|slot| *slot);
            }
        }
        reactor::turn();
    }
}
