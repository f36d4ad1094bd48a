//! How many may be connected, and who has to leave.
//!
//! A browser keeps connections open in case it needs them again. When all seats are taken the one that has been idle for
//! longest is dismissed for a newcomer, unless it was busy a moment ago: clients that really use their connections would
//! only take turns in opening new ones. Everybody idle is dismissed when the guest stops.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};

use kiln::time::{self, Duration, Instant, cached};

/// Who was busy this short a time ago keeps the seat.
const GRACE: Duration = Duration::from_secs(1);
/// How often somebody who waits for a seat looks again who could leave.
const RETRY: Duration = Duration::from_millis(250);

/// All seats.
pub struct Seats(Rc<Room>);

struct Room {
    limit: usize,
    taken: RefCell<Vec<Rc<Occupant>>>,
    closed: Cell<bool>,
    /// Who waits for a seat, or for the end: `main` and nobody else.
    waiting: RefCell<Option<Waker>>,
}

#[derive(Default)]
struct Occupant {
    idle_since: Cell<Option<Instant>>,
    dismissed: Cell<bool>,
    /// Wakes the connection's task. Tasks keep their waker for life, so it is put here once.
    waker: RefCell<Option<Waker>>,
}

/// A seat; free again when it is dropped.
pub struct Seat {
    room: Rc<Room>,
    occupant: Rc<Occupant>,
}

impl Seats {
    pub fn new(limit: usize) -> Self {
        Self(Rc::new(Room {
            limit,
            taken: RefCell::default(),
            closed: Cell::new(false),
            waiting: RefCell::default(),
        }))
    }

    /// Takes a seat. If there is none, dismisses whoever has been idle for longest, and waits.
    pub async fn take(&self) -> Seat {
        while self.is_full() {
            self.0.dismiss_longest_idle();
            let freed = poll_fn(|cx| {
                if self.is_full() {
                    self.0.wait(cx)
                } else {
                    Poll::Ready(())
                }
            });
            // When the time is over, the loop looks again.
            let _ = time::timeout(RETRY, freed).await;
        }
        let occupant = Rc::new(Occupant::default());
        self.0.taken.borrow_mut().push(occupant.clone());
        Seat {
            room: self.0.clone(),
            occupant,
        }
    }

    fn is_full(&self) -> bool {
        self.0.taken.borrow().len() >= self.0.limit
    }

    /// Dismisses everybody, the busy ones as soon as they are idle.
    pub fn close(&self) {
        self.0.closed.set(true);
        for occupant in self.0.taken.borrow().iter() {
            occupant.dismiss();
        }
    }

    /// Waits until nobody is left.
    pub async fn all_free(&self) {
        poll_fn(|cx| {
            if self.0.taken.borrow().is_empty() {
                return Poll::Ready(());
            }
            self.0.wait(cx)
        })
        .await;
    }
}

impl Room {
    fn dismiss_longest_idle(&self) {
        let taken = self.taken.borrow();
        // Who has been asked to leave already is about to.
        if taken.iter().any(|occupant| occupant.dismissed.get()) {
            return;
        }
        let idle = taken
            .iter()
            .filter_map(|occupant| Some((occupant.idle_since.get()?, occupant)));
        let longest = idle.min_by_key(|(since, _)| *since);
        if let Some((since, occupant)) = longest
            && cached() - since >= GRACE
        {
            occupant.dismiss();
        }
    }

    fn wait<T>(&self, cx: &mut Context<'_>) -> Poll<T> {
        self.waiting.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    fn wake(&self) {
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }
}

impl Occupant {
    fn dismiss(&self) {
        self.dismissed.set(true);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl Seat {
    /// Notes that its occupant waits for a request, or does not any more.
    pub fn set_idle(&self, idle: bool) {
        self.occupant.idle_since.set(idle.then(cached));
    }

    /// True if the next reply shall be the last.
    pub fn is_closing(&self) -> bool {
        self.room.closed.get() || self.occupant.dismissed.get()
    }

    /// Ready when an idle occupant shall leave.
    pub fn poll_dismissed(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_closing() {
            return Poll::Ready(());
        }
        let mut waker = self.occupant.waker.borrow_mut();
        waker.get_or_insert_with(|| cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.room.taken.borrow_mut();
        if let Some(at) = taken
            .iter()
            .position(|other| Rc::ptr_eq(other, &self.occupant))
        {
            taken.swap_remove(at);
        }
        drop(taken);
        self.room.wake();
    }
}
