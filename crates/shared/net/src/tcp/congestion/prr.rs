//! Proportional rate reduction, RFC 9937.

/// Proportional rate reduction during recovery, RFC 9937.
#[derive(Clone, Debug, Default)]
pub struct Prr {
    /// `RecoverFS`.
    flight: u32,
    /// `ssthresh`.
    threshold: u32,
    /// `prr_delivered`.
    delivered: u32,
    /// `prr_out`.
    out: u32,
    /// What is left of `sndcnt`.
    allowance: u32,
}

impl Prr {
    /// When recovery starts: `in_flight` is RFC 9937's `RecoverFS`.
    pub fn new(in_flight: u32, threshold: u32) -> Self {
        Self {
            flight: in_flight.max(1),
            threshold,
            ..Self::default()
        }
    }

    /// An acknowledgement has arrived that reports `delivered` bytes as newly arrived (and whether it moved SND.UNA
    /// without reporting more loss, which allows the slow-start bound). `in_flight` is what is on its way now.
    pub fn on_acked(&mut self, delivered: u32, in_flight: u32, safe: bool, mss: u32) {
        self.delivered = self.delivered.saturating_add(delivered);
        let mut count = if in_flight > self.threshold {
            let share = (u64::from(self.delivered) * u64::from(self.threshold))
                .div_ceil(u64::from(self.flight));
            (share as u32).saturating_sub(self.out)
        } else {
            let mut bound = self.delivered.saturating_sub(self.out).max(delivered);
            if safe {
                bound = bound.saturating_add(mss);
            }
            bound.min(self.threshold - in_flight)
        };
        if self.out == 0 {
            // The fast retransmit that recovery starts with.
            count = count.max(mss);
        }
        self.allowance = count;
    }

    /// Bytes were sent.
    pub fn on_sent(&mut self, bytes: u32) {
        self.out = self.out.saturating_add(bytes);
        self.allowance = self.allowance.saturating_sub(bytes);
    }

    /// How many bytes may be sent now.
    pub fn allowance(&self) -> u32 {
        self.allowance
    }
}
