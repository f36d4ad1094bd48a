//! What every part of the network needs: configuration, the way to the guest, the poller, counters and the time.

use std::time::{Duration, Instant};

use crate::link::Outbound;
use crate::poller::Poller;
use crate::{Config, Stats};

/// Handed to each part with each call.
pub(crate) struct Context {
    pub config: Config,
    pub out: Outbound,
    pub poller: Poller,
    pub stats: Stats,
    /// Room for one datagram of any size, and the last one that was received. What never comes is never touched.
    pub scratch: Vec<u8>,
    /// When the present slice of work began. One reading serves all of it.
    pub now: Instant,
    /// When the router is advertised next, once the guest has asked for one.
    pub next_advertisement: Option<Instant>,
    started: Instant,
}

impl Context {
    pub fn new(config: Config, out: Outbound, poller: Poller) -> Self {
        let now = Instant::now();
        Self {
            config,
            out,
            poller,
            stats: Stats::default(),
            scratch: Vec::with_capacity(65_536),
            now,
            next_advertisement: None,
            started: now,
        }
    }

    /// The present on the clock of the TCP core.
    pub fn core_now(&self) -> kiln_abi::Instant {
        let since = self.now.saturating_duration_since(self.started);
        kiln_abi::Instant::ZERO + CLOCK_START + since
    }

    /// A time of the TCP core; `None` if it never comes.
    pub fn core_time(&self, time: kiln_abi::Instant) -> Option<Instant> {
        if time == kiln_abi::Instant::FOREVER {
            return None;
        }
        let since = time.since(kiln_abi::Instant::ZERO);
        self.started.checked_add(since.saturating_sub(CLOCK_START))
    }
}

/// What the TCP core's clock shows at the start: nothing may be due before it.
const CLOCK_START: Duration = Duration::from_hours(1);
