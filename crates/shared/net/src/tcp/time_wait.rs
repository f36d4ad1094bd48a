//! TIME-WAIT, RFC 9293 section 3.6.1: what must be remembered of a connection that has ended.
//!
//! A [`TimeWait`] is what is left of a [`Tcb`](super::Tcb) then: a few numbers. Resets do not end it (RFC 1337).

use kiln_abi::Instant;

use super::{Outgoing, Segment, Seq};

/// An ended connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeWait {
    /// SND.NXT, behind the FIN.
    pub snd_nxt: Seq,
    /// RCV.NXT, behind the peer's FIN.
    pub rcv_nxt: Seq,
    /// The window to be said, scaled.
    pub window: u16,
    /// TS.Recent and the offset of the own timestamp clock, if timestamps are in use.
    pub timestamps: Option<(u32, u32)>,
    /// When it may be forgotten.
    pub until: Instant,
}

/// What is to be done about a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Ignore,
    /// The answer leaves; the time starts again if `restart` was set by a retransmitted FIN.
    Answer(Outgoing),
    /// A new incarnation: forget this one and treat the segment as a SYN for a listener, with an initial sequence number
    /// above this one (RFC 9293 section 3.10.7.4, RFC 6191).
    Reopen(Seq),
}

impl TimeWait {
    /// Takes a segment in.
    pub fn receive(&mut self, _segment: &Segment<'_>, _now: Instant) -> Verdict {
        todo!()
    }
}
