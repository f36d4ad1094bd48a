//! Time: when to look for losses, probe the tail, or send everything again.

use kiln_abi::Instant;

use super::scoreboard::State;
use super::{ACK_DELAY, Expired, Phase, REORDERING_SLACK, Recovery, SHORTEST_PROBE, Timer};
use crate::tcp::Seq;

impl Recovery {
    /// When a timer of this module is due (reordering, probe, retransmission), [`Instant::FOREVER`] with nothing on its way.
    #[inline]
    pub fn deadline(&self) -> Instant {
        self.due
    }

    /// Sets the timer after an acknowledgement.
    pub(super) fn set_timer(&mut self, reordering: Option<Instant>, now: Instant) {
        self.arm(now);
        if let Some(due) = reordering
            && due + REORDERING_SLACK < self.due
        {
            self.timer = Timer::Reordering;
            self.due = due + REORDERING_SLACK;
        }
    }

    /// Sets the timer for a probe or the retransmission timeout.
    pub(super) fn arm(&mut self, now: Instant) {
        if self.board.is_empty() {
            self.timer = Timer::Off;
            self.due = Instant::FOREVER;
            return;
        }
        self.timer = Timer::Retransmission;
        self.due = self.silent_since + self.rtt.timeout();
        if self.sack
            && self.phase == Phase::Open
            && !self.probed
            && self.board.sacked == 0
            && self.board.lost == 0
            && let Some(smoothed) = self.rtt.smoothed()
        {
            // RFC 8985 section 7.2.
            let mut wait = smoothed * 2;
            if self.board.outstanding() <= self.mss() {
                wait += ACK_DELAY;
            }
            self.timer = Timer::Probe;
            self.due = self.due.min(now + wait.max(SHORTEST_PROBE));
        }
    }

    /// Looks at the timers. `probe_allowed`: false while the peer's window is closed or the handshake is not done.
    pub fn expire(&mut self, _snd_nxt: Seq, probe_allowed: bool, now: Instant) -> Expired {
        if now < self.due || self.board.is_empty() {
            return Expired::Nothing;
        }
        match self.timer {
            Timer::Off => return Expired::Nothing,
            Timer::Reordering => {
                let before = self.board.lost;
                let outstanding = self.board.outstanding() - self.board.sacked;
                let more = self.detect(false, now);
                let found = self.board.lost > before;
                if found && self.phase == Phase::Open {
                    self.enter(outstanding, now);
                    let in_flight = self.in_flight();
                    self.prr.on_acked(0, in_flight, false, self.mss());
                }
                if found {
                    // The repetition has its own time, even if this timer was looked at late.
                    self.silent_since = now;
                }
                self.set_timer(more, now);
                if found {
                    return Expired::Reordering;
                }
                if now < self.due {
                    return Expired::Nothing;
                }
            }
            Timer::Probe if probe_allowed => {
                self.counters.probes += 1;
                self.probed = true;
                self.probe_end = self.board.nxt;
                self.probe_repeats = false;
                self.silent_since = now;
                self.arm(now);
                return Expired::Probe;
            }
            Timer::Probe => {
                self.timer = Timer::Retransmission;
                self.due = self.silent_since + self.rtt.timeout();
                if now < self.due {
                    return Expired::Nothing;
                }
            }
            Timer::Retransmission => {}
        }
        self.time_out(now);
        Expired::Timeout
    }

    /// RFC 6298 section 5 (5.4) to (5.6).
    fn time_out(&mut self, now: Instant) {
        let first = match self.phase {
            Phase::Open => true,
            // The window was reduced for the same data.
            Phase::Recovery => false,
            Phase::Loss => self.timeouts == 0,
        };
        self.counters.timeouts += 1;
        self.timeouts = self.timeouts.saturating_add(1);
        self.rtt.back_off();
        if first {
            self.remember();
        }
        self.congestion
            .on_timeout(self.board.outstanding(), first, now);
        // RFC 2018 section 8: the peer may have dropped what it has reported. It surely has if that comes first.
        let reneged = self.board.first().is_some_and(|r| r.state == State::Sacked);
        let forget = reneged || self.timeouts > 1;
        if forget {
            self.board.forget_sacked();
        }
        self.doubtful = self.sack && !forget;
        self.board.lose_all();
        self.phase = Phase::Loss;
        self.point = self.board.nxt;
        self.duplicates = 0;
        self.left = 0;
        self.probed = false;
        self.marked = false;
        self.silent_since = now;
        self.arm(now);
    }
}
