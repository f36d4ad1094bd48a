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
    /// Room for one datagram of any size.
    pub scratch: Box<[u8]>,
    /// When the present slice of work began. One reading serves all of it.
    pub now: Instant,
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
            scratch: vec![0; 65_536].into_boxed_slice(),
            now,
            started: now,
        }
    }

    /// The present on smoltcp's clock. It starts at one hour, since smoltcp takes 0 for "at once".
    pub fn smoltcp_now(&self) -> smoltcp::time::Instant {
        self.to_smoltcp(self.now)
    }

    pub fn to_smoltcp(&self, time: Instant) -> smoltcp::time::Instant {
        let since = time.saturating_duration_since(self.started) + CLOCK_START;
        smoltcp::time::Instant::from_micros(since.as_micros() as i64)
    }

    pub fn smoltcp_time(&self, time: smoltcp::time::Instant) -> Instant {
        let micros = u64::try_from(time.total_micros()).unwrap_or(0);
        self.started + Duration::from_micros(micros).saturating_sub(CLOCK_START)
    }
}

const CLOCK_START: Duration = Duration::from_hours(1);
