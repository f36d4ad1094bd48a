//! What a connection tells about itself: its state, what an event has changed, statistics.

use core::ops::BitOrAssign;
use core::time::Duration;

use kiln_abi::Instant;

use super::Tcb;
use super::marks::Marks;

/// The states of RFC 9293 section 3.3.2. LISTEN is the owner's business; CLOSED is a connection that is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the RFC's names")]
pub enum State {
    #[default]
    Closed,
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
}

/// What an event has changed for the connection's owner. A set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed(pub u8);

impl Changed {
    /// There is more to read, or the end of it.
    pub const READABLE: Self = Self(1);
    /// There is room to write.
    pub const WRITABLE: Self = Self(2);
    /// The handshake is complete.
    pub const CONNECTED: Self = Self(4);
    /// The connection is over ([`State::Closed`]); see [`Tcb::error`]. What must leave is still to be asked for with
    /// [`Tcb::transmit`].
    pub const CLOSED: Self = Self(8);
    /// The connection has reached TIME-WAIT; see [`Tcb::time_wait`].
    pub const TIME_WAIT: Self = Self(16);
    /// [`Tcb::transmit`] may have something now.
    pub const OUTPUT: Self = Self(32);

    /// True if any bit of `other` is set.
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOrAssign for Changed {
    #[inline]
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// How often something out of the ordinary has happened to a connection. The numbers wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub retransmits: u32,
    pub timeouts: u32,
    pub recoveries: u32,
    pub undone: u32,
    pub probes: u32,
    pub out_of_order: u32,
    pub duplicates: u32,
}

/// What there is to know of a connection, like Linux's `TCP_INFO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// The state.
    pub state: State,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Its mean deviation.
    pub rtt_variation: Duration,
    /// The smallest of the last minutes.
    pub rtt_minimum: Duration,
    /// The retransmission timeout.
    pub retransmission_timeout: Duration,
    /// Congestion window in bytes.
    pub congestion_window: u32,
    /// Slow-start threshold in bytes.
    pub slow_start_threshold: u32,
    /// The peer's window in bytes.
    pub send_window: u32,
    /// The window last offered to the peer in bytes.
    pub receive_window: u32,
    /// The largest segment sent.
    pub mss: u32,
    /// Bytes sent and neither acknowledged nor lost.
    pub in_flight: u32,
    /// Bytes sent for the first time and acknowledged.
    pub bytes_acked: u64,
    /// Bytes received in order.
    pub bytes_received: u64,
    /// Segments sent, as they are on the wire.
    pub segments_out: u64,
    /// Segments received, as they were on the wire.
    pub segments_in: u64,
    /// Segments sent again.
    pub retransmits: u32,
    /// Retransmission timeouts.
    pub timeouts: u32,
    /// Recoveries entered.
    pub recoveries: u32,
    /// Reductions that were taken back.
    pub undone: u32,
    /// Segments received that lay behind a gap.
    pub out_of_order: u32,
    /// Duplicate segments received.
    pub duplicates: u32,
    /// Options in use.
    pub timestamps: bool,
    /// SACK in use.
    pub sack: bool,
    /// ECN in use.
    pub ecn: bool,
    /// Shifts of the peer's and of the own window.
    pub window_scale: (u8, u8),
}

impl Tcb {
    /// A part of [`info`](Self::info), to be compared before and after an event.
    #[inline]
    pub(crate) fn counters(&self) -> Counters {
        let sender = self.recovery.counters();
        Counters {
            retransmits: sender.retransmits,
            timeouts: sender.timeouts,
            recoveries: sender.recoveries,
            undone: sender.undone,
            probes: sender.probes,
            out_of_order: self.out_of_order,
            duplicates: self.duplicates,
        }
    }

    /// Statistics.
    pub fn info(&self, _now: Instant) -> Info {
        let rtt = self.recovery.rtt();
        let congestion = self.recovery.congestion();
        let counters = self.recovery.counters();
        Info {
            state: self.state,
            rtt: rtt.smoothed().unwrap_or_default(),
            rtt_variation: rtt.variation(),
            rtt_minimum: rtt.minimum().unwrap_or_default(),
            retransmission_timeout: rtt.timeout(),
            congestion_window: congestion.window(),
            slow_start_threshold: congestion.threshold(),
            send_window: self.snd_wnd,
            receive_window: self.rcv_adv.since(self.rcv_nxt),
            mss: self.data_mss(),
            in_flight: self.recovery.in_flight(),
            bytes_acked: self.bytes_acked,
            bytes_received: self.bytes_received,
            segments_out: self.segments_out,
            segments_in: self.segments_in,
            retransmits: counters.retransmits,
            timeouts: counters.timeouts,
            recoveries: counters.recoveries,
            undone: counters.undone,
            out_of_order: self.out_of_order,
            duplicates: self.duplicates,
            timestamps: self.marks.has(Marks::TIMESTAMPS),
            sack: self.marks.has(Marks::SACK),
            ecn: self.marks.has(Marks::ECN),
            window_scale: (self.snd_scale, self.rcv_scale),
        }
    }
}
