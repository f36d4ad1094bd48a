//! What time brings: RFC 9293 section 3.8.

use core::time::Duration;

use kiln_abi::Instant;

use super::info::State;
use super::marks::Marks;
use super::recovery::Expired;
use super::tcb::Milliseconds;
use super::{Changed, Tcb};
use crate::error::Error;

/// How long the peer may be silent while something is on its way to it, if the program does not say: what Linux's fifteen
/// retransmissions come to. RFC 9293 section 3.8.3 wants R2 to be at least 100 seconds.
pub(super) const USER_TIMEOUT: Milliseconds = Milliseconds(924_600);
/// The longest pause between zero-window probes.
const PERSIST_MAX: Duration = Duration::from_mins(1);
/// An orphan whose peer keeps its window closed is given up after this many probes without an answer: nobody would miss
/// it, and memory is held. As Linux.
const ORPHAN_PROBES: u8 = 8;
/// The same if they are answered: after more than three minutes, whatever the round-trip time. A stack resets it earlier, when nothing was
/// acknowledged for its `linger`.
const ORPHAN_ANSWERED_PROBES: u8 = 10;
/// The same for data that are not acknowledged.
const ORPHAN_TIMEOUTS: u8 = 8;

impl Tcb {
    /// When [`advance`](Self::advance) has something to do, [`Instant::FOREVER`] if nothing is due.
    pub fn deadline(&self) -> Instant {
        if self.state == State::Closed {
            return Instant::FOREVER;
        }
        self.state_until
            .min(self.ack_at)
            .min(self.persist_at)
            .min(self.recovery.deadline())
            .min(self.user_timeout_at())
            .min(self.keepalive_at())
            .min(self.path.deadline())
    }

    /// Does what is due. Call when [`deadline`](Self::deadline) has passed; does no harm at other times.
    pub fn advance(&mut self, now: Instant) -> Changed {
        let mut changed = Changed::default();
        if self.state == State::Closed {
            return changed;
        }
        if now >= self.state_until {
            self.state_ends(&mut changed);
            return changed;
        }
        if now >= self.user_timeout_at() {
            self.give_up(&mut changed);
            return changed;
        }
        if now >= self.ack_at {
            self.ack_at = Instant::FOREVER;
            self.marks.set(Marks::ACK_NOW);
        }
        if now >= self.persist_at {
            self.probe_window(now, &mut changed);
        }
        if now >= self.keepalive_at() {
            self.probe_peer(&mut changed);
        }
        if now >= self.path.deadline() {
            self.search_path(now);
        }
        if now >= self.recovery.deadline() {
            self.recover(now, &mut changed);
        }
        self.settle(now);
        if self.may_have_output() {
            changed |= Changed::OUTPUT;
        }
        changed
    }

    /// Keeps the persist timer: it runs while something waits for the peer's window and nothing is on its way whose
    /// acknowledgement would bring news.
    #[inline]
    pub(super) fn settle(&mut self, now: Instant) {
        if self.snd_una == self.snd_nxt
            && self.persist_at == Instant::FOREVER
            && (self.unsent() > 0 || self.fin_unsent())
            && !matches!(
                self.state,
                State::Closed | State::SynSent | State::SynReceived
            )
        {
            self.persist_at = now + self.persist_interval();
        }
    }

    fn persist_interval(&self) -> Duration {
        let timeout = self.recovery.rtt().timeout();
        timeout
            .saturating_mul(1 << self.persist_backoff.min(16))
            .min(PERSIST_MAX)
    }

    /// The handshake, FIN-WAIT-2 or TIME-WAIT has lasted long enough.
    fn state_ends(&mut self, changed: &mut Changed) {
        let error = match self.state {
            State::SynSent | State::SynReceived => Some(self.soft_error.unwrap_or(Error::TimedOut)),
            _ => None,
        };
        self.over(error, changed);
    }

    /// RFC 9293 section 3.8.3 (R2) and 3.10.8: the user timeout. The peer is told, should it live.
    fn give_up(&mut self, changed: &mut Changed) {
        let error = self.soft_error.unwrap_or(Error::TimedOut);
        self.abort(error);
        *changed |= Changed::CLOSED;
        if self.reset.is_some() {
            *changed |= Changed::OUTPUT;
        }
    }

    /// When the oldest data have been unacknowledged for too long; or, while the peer's window is closed and probes are
    /// not answered, when it has been silent for too long.
    fn user_timeout_at(&self) -> Instant {
        if matches!(
            self.state,
            State::SynSent | State::SynReceived | State::TimeWait
        ) {
            return Instant::FOREVER;
        }
        let since = match self.recovery.oldest() {
            Some(oldest) if self.snd_wnd == 0 => oldest.max(self.last_heard),
            Some(oldest) => oldest,
            None if self.unanswered_probes > 0 => self.last_sent,
            None => return Instant::FOREVER,
        };
        since + self.user_timeout.get()
    }

    /// The persist timer, RFC 9293 section 3.8.6.1. With a window that is open but small it is the override timeout of
    /// section 3.8.6.2.1.
    fn probe_window(&mut self, now: Instant, changed: &mut Changed) {
        self.persist_at = Instant::FOREVER;
        if self.usable_window() > 0 {
            self.marks.set(Marks::OVERRIDE);
            return;
        }
        if self.marks.has(Marks::ORPHAN)
            && (self.unanswered_probes >= ORPHAN_PROBES
                || self.persist_backoff >= ORPHAN_ANSWERED_PROBES)
        {
            self.give_up(changed);
            return;
        }
        self.marks.set(Marks::PROBE);
        if self.unanswered_probes == 0 {
            self.last_sent = now;
        }
        self.persist_backoff = self.persist_backoff.saturating_add(1);
        self.unanswered_probes = self.unanswered_probes.saturating_add(1);
        self.settle(now);
    }

    /// When the next keep-alive probe is due.
    fn keepalive_at(&self) -> Instant {
        let quiet = self.snd_una == self.snd_nxt
            && self.persist_at == Instant::FOREVER
            && matches!(
                self.state,
                State::Established | State::CloseWait | State::FinWait2
            );
        if self.keepalive_idle.0 == 0 || !quiet {
            return Instant::FOREVER;
        }
        let probes = u64::from(self.keepalive_interval.0) * u64::from(self.keepalive_probes);
        self.last_heard + Duration::from_millis(u64::from(self.keepalive_idle.0) + probes)
    }

    /// RFC 9293 section 3.8.4.
    fn probe_peer(&mut self, changed: &mut Changed) {
        if self.keepalive_probes >= self.keepalive_limit {
            self.give_up(changed);
            return;
        }
        self.keepalive_probes += 1;
        self.marks.set(Marks::PROBE);
    }

    /// The timers of what is on its way.
    fn recover(&mut self, now: Instant, changed: &mut Changed) {
        let opening = matches!(self.state, State::SynSent | State::SynReceived);
        let probe_allowed = !opening && self.snd_wnd > 0;
        match self.recovery.expire(self.snd_nxt, probe_allowed, now) {
            Expired::Nothing => {}
            Expired::Reordering => self.reduced(),
            Expired::Probe => self.marks.set(Marks::TAIL_PROBE),
            Expired::Timeout => {
                let row = self.recovery.timeouts_in_a_row();
                if self.marks.has(Marks::ORPHAN) && row > ORPHAN_TIMEOUTS {
                    self.give_up(changed);
                    return;
                }
                self.marks.clear(Marks::TAIL_PROBE);
                self.marks.set(Marks::OVERRIDE);
                if !opening {
                    self.reduced();
                    self.path_timed_out(row, now);
                }
            }
        }
    }
}
