//! The window offered to the peer: how large, how it grows, and when it is worth a segment of its own.
//!
//! Its right edge never moves back (RFC 9293 section 3.8.6). It moves forward in steps of at least a segment or half
//! the buffer (section 3.8.6.2.2). The buffer starts small and grows as long as the program keeps up with the peer, so a
//! connection promises no more memory than its speed asks for.

use core::time::Duration;

use kiln_abi::Instant;

use super::info::State;
use super::marks::Marks;
use super::{Seq, Tcb};

/// The first window, the largest that can be said in a SYN.
const INITIAL: u32 = 0xffff;

/// How large the receive buffer may be, learned from how fast the program reads ("dynamic right-sizing").
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuning {
    since: Instant,
    read: u32,
    window: u32,
    pub(super) limit: u32,
}

impl Tuning {
    /// A window that may grow to `limit`.
    pub fn new(limit: u32, now: Instant) -> Self {
        Self {
            since: now,
            read: 0,
            window: limit.min(INITIAL),
            limit,
        }
    }

    /// Bytes that may be received and not read now.
    pub const fn window(&self) -> u32 {
        self.window
    }

    /// Nothing above `most` can be said to the peer.
    pub fn cap(&mut self, most: u32) {
        self.limit = self.limit.min(most);
        self.window = self.window.min(most);
    }

    /// The program has read. If it has read half a window in a round trip, the window may be what holds the peer back:
    /// it doubles. True if it has.
    fn on_read(&mut self, count: u32, rtt: Duration, now: Instant) -> bool {
        if self.window >= self.limit {
            return false;
        }
        self.read = self.read.saturating_add(count);
        if now.since(self.since) < rtt {
            return false;
        }
        let grows = self.read >= self.window / 2;
        self.read = 0;
        self.since = now;
        if grows {
            self.window = self.window.saturating_mul(2).min(self.limit);
        }
        grows
    }

    /// What the buffer takes beyond the window, so that windows can be rounded up to what the header can say instead of
    /// being taken back.
    const fn slack(&self, scale: u8) -> u32 {
        self.window / 8 + (1 << scale)
    }
}

impl Tcb {
    /// The window for the header of a segment, and the right edge that it means. `scale` is 0 in SYNs.
    pub(super) fn window_to_offer(&self, scale: u8) -> (u16, Seq) {
        let unit = 1u32 << scale;
        let most = 0xffff << scale;
        let offered = self.rcv_adv.since(self.rcv_nxt);
        let space = self.receive.room();
        let free = space
            .saturating_sub(self.tuning.slack(self.rcv_scale))
            .min(most);
        let step = (self.tuning.window / 2).min(self.path.mss());
        let mut window = offered;
        if free >= offered.saturating_add(step) {
            window = offered.max(free & !(unit - 1));
        }
        // RFC 7323 section 2.4: rounding down would take back up to a unit that was offered.
        let up = window.saturating_add(unit - 1) & !(unit - 1);
        window = if up <= space {
            up
        } else {
            window & !(unit - 1)
        }
        .min(most);
        (
            (window >> scale) as u16,
            self.rcv_adv.max(self.rcv_nxt + window),
        )
    }

    /// What follows from a read: the buffer may grow, the peer may be told of the room.
    pub(super) fn has_read(&mut self, count: usize, now: Instant) {
        let rtt = self.recovery.rtt().smoothed().unwrap_or_default();
        if self.tuning.on_read(count as u32, rtt, now) {
            self.set_buffer_limit();
        }
        let receiving = matches!(
            self.state,
            State::Established | State::FinWait1 | State::FinWait2
        );
        if receiving && self.window_update_due() {
            self.marks.set(Marks::ACK_NOW);
        }
    }

    /// True if the window should be said without other reason: the peer has used more than half of it, and it can grow by
    /// two segments (or half the buffer) and to twice of what is left.
    fn window_update_due(&self) -> bool {
        let offered = self.rcv_adv.since(self.rcv_nxt);
        if offered >= self.tuning.window / 2 {
            return false;
        }
        let free = self
            .receive
            .room()
            .saturating_sub(self.tuning.slack(self.rcv_scale))
            .min(0xffff << self.rcv_scale);
        let step = (self.tuning.window / 2).min(2 * self.path.mss());
        free >= (offered + step).max(2 * offered)
    }

    /// The program wants another limit. The scale is settled, so it bounds what can be offered.
    pub(super) fn set_receive_limit(&mut self, limit: u32) {
        let tuning = &mut self.tuning;
        tuning.limit = limit.min(0xffff << self.rcv_scale);
        tuning.window = tuning.window.max(INITIAL).min(tuning.limit);
        self.set_buffer_limit();
    }

    /// Makes the buffer as large as the window and its slack.
    pub(super) fn set_buffer_limit(&mut self) {
        let slack = self.tuning.slack(self.rcv_scale);
        self.receive
            .set_limit(self.tuning.window.saturating_add(slack));
    }

    /// SND.WND from an acceptable segment with the number `seq`.
    #[inline]
    pub(super) fn set_send_window(&mut self, window: u32, seq: Seq) {
        self.snd_wnd = window;
        self.snd_wl1 = seq;
        self.max_snd_wnd = self.max_snd_wnd.max(window);
    }
}
