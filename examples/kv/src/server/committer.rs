//! The one task that writes the disk.
//!
//! It takes every change that is waiting, from whichever client, and commits them together: one write and one flush,
//! however many they are. While the disk is busy the next ones gather.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Poll, Waker};

use kiln::log;
use kv::format::Op;
use kv::storage::Storage;
use kv::writer::{Outcome, Refusal, Writer};

use super::Server;

/// Changes that wait to be committed.
#[derive(Default)]
pub struct Queue {
    waiting: RefCell<VecDeque<Request>>,
    committer: RefCell<Option<Waker>>,
}

struct Request {
    ops: Vec<Op>,
    ticket: Rc<RefCell<State>>,
}

#[derive(Default)]
struct State {
    outcomes: Option<Vec<Outcome>>,
    client: Option<Waker>,
}

/// Stands for a change until its outcome is known.
pub struct Ticket(Rc<RefCell<State>>);

impl Ticket {
    /// Waits for the outcome.
    pub async fn outcomes(self) -> Vec<Outcome> {
        poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            if let Some(outcomes) = state.outcomes.take() {
                Poll::Ready(outcomes)
            } else {
                state.client = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

impl Queue {
    /// Adds a change. It is committed as a unit, behind those that were added before.
    pub fn add(&self, ops: Vec<Op>) -> Ticket {
        let ticket = Rc::<RefCell<State>>::default();
        self.waiting.borrow_mut().push_back(Request {
            ops,
            ticket: ticket.clone(),
        });
        if let Some(waker) = self.committer.take() {
            waker.wake();
        }
        Ticket(ticket)
    }

    /// Waits for changes; takes as many as go into one commit, but at least one.
    async fn take(&self, limit: usize) -> Vec<Request> {
        poll_fn(|cx| {
            let mut waiting = self.waiting.borrow_mut();
            if waiting.is_empty() {
                self.committer.replace(Some(cx.waker().clone()));
                return Poll::Pending;
            }
            let mut len = 0;
            let fits = waiting.iter().take_while(|request| {
                len += request.ops.iter().map(Op::encoded_len).sum::<usize>();
                len <= limit
            });
            let count = fits.count().max(1);
            Poll::Ready(waiting.drain(..count).collect())
        })
        .await
    }
}

/// Commits changes for as long as the guest runs.
pub async fn run<S: Storage>(mut writer: Writer<S>, server: Rc<Server>) {
    let mut reported = None;
    loop {
        // Whoever is about to add something does so first.
        kiln::yield_now().await;
        let requests = server.queue.take(writer.batch_limit()).await;
        let mut ops = Vec::new();
        let mut tickets = Vec::with_capacity(requests.len());
        for mut request in requests {
            tickets.push((request.ops.len(), request.ticket));
            ops.append(&mut request.ops);
        }
        let mut outcomes = writer.commit(ops).await.into_iter();
        for (count, ticket) in tickets {
            let part: Vec<Outcome> = outcomes.by_ref().take(count).collect();
            let failure = part.iter().find_map(|outcome| match outcome {
                Outcome::Refused(refusal @ (Refusal::Storage(_) | Refusal::Unknown)) => {
                    Some(*refusal)
                }
                _ => None,
            });
            if failure.is_some() && failure != reported {
                log::error!("writing failed: {failure:?}");
            }
            reported = failure;
            let mut state = ticket.borrow_mut();
            state.outcomes = Some(part);
            if let Some(waker) = state.client.take() {
                waker.wake();
            }
        }
    }
}
