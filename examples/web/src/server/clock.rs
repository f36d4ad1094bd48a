//! The `Date` field, made once a second.

use core::cell::Cell;
use core::time::Duration;

use kiln::time::{self, Instant};
use web::date::{HttpDate, http_date};

/// The date, and until when it holds. Asking for the time of day is a call to the monitor, asking for [`time::cached`]
/// is not.
pub struct Clock {
    date: Cell<HttpDate>,
    until: Cell<Instant>,
}

impl Clock {
    pub fn new() -> Self {
        Self {
            date: Cell::new(http_date(0)),
            until: Cell::new(Instant::ZERO),
        }
    }

    /// The date now.
    pub fn date(&self) -> HttpDate {
        if self.until.get() <= time::cached() {
            let now = time::since_epoch();
            let next_second = Duration::from_nanos(1_000_000_000 - u64::from(now.subsec_nanos()));
            self.date.set(http_date(now.as_secs()));
            self.until.set(time::cached() + next_second);
        }
        self.date.get()
    }
}
