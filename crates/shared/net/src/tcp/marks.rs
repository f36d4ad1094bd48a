//! The yes-or-no part of a connection's state, in one word.

/// A set of marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks(u32);

impl Marks {
    /// The program has closed: a FIN follows the last data.
    pub const CLOSING: Self = Self(1);
    /// The FIN has left at least once.
    pub const FIN_SENT: Self = Self(1 << 1);
    /// It is known where the peer's data end.
    pub const PEER_FIN_SEEN: Self = Self(1 << 2);
    /// Everything up to the peer's FIN has arrived.
    pub const PEER_FIN: Self = Self(1 << 3);
    /// An acknowledgement is to leave at once.
    pub const ACK_NOW: Self = Self(1 << 4);
    /// A tail-loss probe is to leave.
    pub const TAIL_PROBE: Self = Self(1 << 5);
    /// A zero-window or keep-alive probe is to leave.
    pub const PROBE: Self = Self(1 << 6);
    /// The next segment may be a small one, or one beyond a window that has shrunk: a timer has expired (RFC 9293
    /// section 3.8.6.2.1).
    pub const OVERRIDE: Self = Self(1 << 7);
    /// The SYN (or SYN and ACK) is to leave.
    pub const SYN: Self = Self(1 << 8);
    /// Window scaling is offered, later: in use.
    pub const SCALING: Self = Self(1 << 9);
    /// Timestamps are offered, later: in use.
    pub const TIMESTAMPS: Self = Self(1 << 10);
    /// SACK is offered, later: in use.
    pub const SACK: Self = Self(1 << 11);
    /// ECN is offered, later: in use.
    pub const ECN: Self = Self(1 << 12);
    /// A mark was received: ECE is said until CWR is heard, RFC 3168 section 6.1.3.
    pub const ECE: Self = Self(1 << 13);
    /// The window was reduced: CWR is said once, RFC 3168 section 6.1.2.
    pub const CWR: Self = Self(1 << 14);
    /// The Nagle algorithm is off.
    pub const NODELAY: Self = Self(1 << 15);
    /// No program will read or write any more.
    pub const ORPHAN: Self = Self(1 << 16);
    /// The connection was opened by the peer.
    pub const PASSIVE: Self = Self(1 << 17);
    /// The last attempt to send was held back by congestion control alone.
    pub const HELD_BACK: Self = Self(1 << 18);
    /// Packets of full size may be lost for their size: RFC 8899 is in use.
    pub const PROBE_MTU: Self = Self(1 << 19);
    /// A probe of a larger segment size is due.
    pub const MTU_PROBE: Self = Self(1 << 20);
    /// The reset that is to leave carries an acknowledgement.
    pub const RESET_ACKS: Self = Self(1 << 21);
    /// The next acknowledgement carries the most recent duplicate, RFC 2883.
    pub const DUPLICATE: Self = Self(1 << 22);

    /// Small segments wait until the program says otherwise (`TCP_CORK`).
    pub const CORK: Self = Self(1 << 23);

    /// Both sets.
    #[inline]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True if any of `marks` is set.
    #[inline]
    pub const fn has(self, marks: Self) -> bool {
        self.0 & marks.0 != 0
    }

    /// Sets `marks`.
    #[inline]
    pub fn set(&mut self, marks: Self) {
        self.0 |= marks.0;
    }

    /// Clears `marks`.
    #[inline]
    pub fn clear(&mut self, marks: Self) {
        self.0 &= !marks.0;
    }

    /// Sets or clears `marks`.
    #[inline]
    pub fn put(&mut self, marks: Self, value: bool) {
        if value {
            self.set(marks);
        } else {
            self.clear(marks);
        }
    }
}
