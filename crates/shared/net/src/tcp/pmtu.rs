//! How large a segment may be: what the peer takes, and what the path carries.
//!
//! Routers may say so (RFC 1191, RFC 8201; what they say is believed only about what is on its way, RFC 5927 section
//! 7). Where they are silent, repeated timeouts of full segments are taken for a black hole and the size falls to one that
//! nearly every path carries; later it is raised by probes (RFC 8899, RFC 4821): single segments of data that are larger
//! than the others. A probe that is lost counts as a loss for congestion control like any segment: probes are rare, and to
//! tell the two apart would cost every connection memory.

use core::time::Duration;

use kiln_abi::Instant;

use super::info::State;
use super::marks::Marks;
use super::segment::TIMESTAMPS;
use super::{Block, Changed, Seq, Tcb};
use crate::error::Error;

/// RFC 8899's `BASE_PLPMTU` as a segment: as Linux's `tcp_base_mss`.
const BASE: u16 = 1024;
/// No router is believed below this: IPv4's default segment, RFC 9293 section 3.7.1.
const LEAST: u16 = 536;
/// The search ends when it would gain less than this.
const CLOSE_ENOUGH: u16 = 32;
/// Timeouts in a row that look like a black hole.
const BLACK_HOLE: u8 = 2;
/// RFC 8899's `PMTU_RAISE_TIMER`, RFC 1191 section 6.3.
const RAISE: Duration = Duration::from_mins(10);
/// How long after a black hole larger segments are tried.
const SEARCH: Duration = Duration::from_secs(5);
/// Segments behind a probe, so that its loss is found without a timeout.
const FOLLOWERS: u32 = 3;

/// The sizes, all without options.
#[derive(Clone, Copy, Debug)]
pub(super) struct PathMtu {
    /// When the search goes on.
    search_at: Instant,
    /// The first byte of the probe on its way.
    probe_seq: Seq,
    /// Its size, 0 if there is none.
    probe: u16,
    announced: u16,
    /// What the peer and the own link take.
    most: u16,
    /// What is used.
    mss: u16,
    /// The smallest size that is known, or taken, not to get through, less one.
    ceiling: u16,
}

impl PathMtu {
    /// Segments of a link.
    pub fn new(mss: u16) -> Self {
        Self {
            search_at: Instant::FOREVER,
            probe_seq: Seq(0),
            probe: 0,
            announced: mss,
            most: mss,
            mss,
            ceiling: mss,
        }
    }

    /// What the own SYN says.
    pub const fn announced(&self) -> u16 {
        self.announced
    }

    /// The largest segment now.
    #[inline]
    pub fn mss(&self) -> u32 {
        u32::from(self.mss)
    }

    /// The peer takes no more than `mss`.
    pub fn limit(&mut self, mss: u16) {
        self.most = self.most.min(mss);
        self.mss = self.mss.min(mss);
        self.ceiling = self.ceiling.min(mss);
    }

    /// When the search goes on.
    #[inline]
    pub const fn deadline(&self) -> Instant {
        self.search_at
    }

    /// The size to try next, if it is worth it.
    fn candidate(&self) -> Option<u16> {
        let gain = self.ceiling.saturating_sub(self.mss);
        if gain < CLOSE_ENOUGH {
            return None;
        }
        // The link's own size first: most often the path has come back whole.
        if self.ceiling == self.most {
            return Some(self.most);
        }
        Some(self.mss + gain.div_ceil(2))
    }
}

impl Tcb {
    /// Data of a segment with no other options than timestamps.
    #[inline]
    pub(super) fn data_mss(&self) -> u32 {
        let options = if self.marks.has(Marks::TIMESTAMPS) {
            TIMESTAMPS as u32
        } else {
            0
        };
        self.path.mss() - options
    }

    /// True for a number between SND.UNA and SND.NXT: only about these are routers believed, RFC 5927 section 4.
    pub fn is_on_its_way(&self, seq: Seq) -> bool {
        self.state != State::Closed && seq >= self.snd_una && seq < self.snd_nxt
    }

    /// A router said that packets of more than `tcp_bytes` bytes of TCP (header and data) do not get through (RFC 1191,
    /// 8201). `seq` is the number that it quoted.
    pub fn packet_too_big(&mut self, tcp_bytes: u32, seq: Seq, now: Instant) -> Changed {
        let mut changed = Changed::default();
        let mss = tcp_bytes.saturating_sub(super::segment::HEADER as u32);
        if !self.is_on_its_way(seq)
            || mss >= self.path.mss()
            || matches!(self.state, State::SynSent | State::SynReceived)
        {
            return changed;
        }
        let mss = (mss as u16).max(LEAST.min(self.path.mss));
        self.path.ceiling = mss;
        self.path.probe = 0;
        if self.marks.has(Marks::PROBE_MTU) {
            self.path.search_at = now + RAISE;
        }
        self.set_mss(mss);
        // The router has dropped what is on its way: that says nothing about congestion (RFC 1191 section 6.5).
        self.recovery.not_sent(
            Block {
                start: self.snd_una,
                end: self.snd_nxt,
            },
            now,
        );
        changed |= Changed::OUTPUT;
        changed
    }

    /// An ICMP error about a segment of this connection with sequence number `seq`. Soft errors are remembered, hard ones
    /// end a connection that is opening (RFC 9293 section 3.9.2.2, RFC 5927).
    pub fn icmp_error(&mut self, error: Error, seq: Seq, _now: Instant) -> Changed {
        let mut changed = Changed::default();
        if !self.is_on_its_way(seq) {
            return changed;
        }
        let opening = matches!(self.state, State::SynSent | State::SynReceived);
        if opening && error == Error::ConnectionRefused {
            self.over(Some(error), &mut changed);
        } else {
            self.soft_error = Some(error);
        }
        changed
    }

    fn set_mss(&mut self, mss: u16) {
        self.path.mss = mss;
        self.recovery.set_mss(self.data_mss());
    }

    /// The retransmission timer has expired for the `row`-th time: are full segments swallowed?
    pub(super) fn path_timed_out(&mut self, row: u8, now: Instant) {
        let full = self.snd_nxt.since(self.snd_una) > u32::from(BASE);
        if !self.marks.has(Marks::PROBE_MTU) || row < BLACK_HOLE || self.path.mss <= BASE || !full {
            return;
        }
        self.path.ceiling = self.path.mss - 1;
        self.path.probe = 0;
        // The network may only have been away: if small segments get through, larger ones are tried soon (RFC 8899 section 5.2).
        self.path.search_at = now + SEARCH;
        self.set_mss(BASE);
    }

    /// The raise timer: a larger size is tried with the next data that are long enough.
    pub(super) fn search_path(&mut self, _now: Instant) {
        self.path.search_at = Instant::FOREVER;
        self.path.ceiling = self.path.most;
        if self.path.candidate().is_some() {
            self.marks.set(Marks::MTU_PROBE);
        }
    }

    /// Data of the probe to send in place of a segment, if enough is waiting and may leave.
    pub(super) fn plan_mtu_probe(&self, unsent: u32, open: u32) -> Option<u32> {
        let options = self.path.mss() - self.data_mss();
        let size = u32::from(self.path.candidate()?) - options;
        let needed = size + FOLLOWERS * self.data_mss();
        (self.path.probe == 0 && unsent >= needed && open >= needed).then_some(size)
    }

    /// The probe has left.
    pub(super) fn mtu_probe_sent(&mut self, seq: Seq, data: u32) {
        let options = self.path.mss() - self.data_mss();
        self.path.probe_seq = seq;
        self.path.probe = (data + options) as u16;
        self.marks.clear(Marks::MTU_PROBE);
    }

    /// Data leave again. If the probe is among them it did not get through.
    pub(super) fn mtu_probe_repeated(&mut self, start: Seq, end: Seq, now: Instant) {
        let probe = self.path.probe;
        if probe != 0 && start <= self.path.probe_seq && self.path.probe_seq < end {
            self.path.ceiling = probe - 1;
            self.probe_is_done(now);
        }
    }

    /// An acknowledgement has arrived. If it covers the probe, which was not repeated, the path carries its size.
    #[inline]
    pub(super) fn path_acked(&mut self, now: Instant) {
        let probe = self.path.probe;
        if probe != 0 && self.snd_una > self.path.probe_seq {
            self.set_mss(probe);
            self.probe_is_done(now);
        }
    }

    fn probe_is_done(&mut self, now: Instant) {
        self.path.probe = 0;
        if self.path.candidate().is_some() {
            self.marks.set(Marks::MTU_PROBE);
        } else if self.path.mss < self.path.most {
            self.path.search_at = now + RAISE;
        }
    }
}
