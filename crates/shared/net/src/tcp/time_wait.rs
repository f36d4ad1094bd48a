//! TIME-WAIT, RFC 9293 section 3.6.1: what must be remembered of a connection that has ended.
//!
//! A [`TimeWait`] is what is left of a [`Tcb`](super::Tcb) then: a few numbers. Resets do not end it (RFC 1337).

use kiln_abi::Instant;

use super::input::later;
use super::tcb::{Milliseconds, timestamp_clock};
use super::{Flags, Options, Outgoing, Segment, Seq, Timestamps};

/// Between the numbers of two incarnations: more than a window without scaling.
const DISTANCE: u32 = 0x1_0001;

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
    /// 2 MSL: from the peer's last FIN to `until`.
    pub period: Milliseconds,
    /// Answers of the last period that somebody else than the peer may have asked for, RFC 5961 section 7.
    pub challenges: Challenges,
}

/// Counts challenges within a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Challenges {
    /// By [`timestamp_clock`].
    since: u32,
    count: u8,
}

/// RFC 5961 section 7 leaves the numbers open and suggests these.
const CHALLENGES: u8 = 10;
const CHALLENGE_PERIOD: u32 = 5000;

impl Challenges {
    /// Counts one more, if there may be one.
    #[inline(never)]
    pub(super) fn may_answer(&mut self, now: Instant) -> bool {
        let now = timestamp_clock(now);
        if now.wrapping_sub(self.since) >= CHALLENGE_PERIOD {
            *self = Self {
                since: now,
                count: 0,
            };
        }
        let may = self.count < CHALLENGES;
        self.count += u8::from(may);
        may
    }
}

/// What is to be done about a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing; also if too much has been answered lately.
    Ignore,
    /// The answer leaves. If the segment repeated the peer's FIN, the time has started again.
    Answer(Outgoing),
    /// A new incarnation: forget this one and treat the segment as a SYN for a listener, with an initial sequence number
    /// above this one (RFC 9293 section 3.10.7.4, RFC 6191).
    Reopen(Seq),
}

impl TimeWait {
    /// Takes a segment in.
    pub fn receive(&mut self, segment: &Segment<'_>, now: Instant) -> Verdict {
        let flags = segment.flags;
        // RFC 1337, and RFC 9293 section 3.10.7.4 allows it: an old reset must not let old duplicates in.
        if flags.has(Flags::RST) {
            return Verdict::Ignore;
        }
        if flags.has(Flags::SYN) {
            let opens = !flags.has(Flags::ACK) && self.is_newer(segment);
            return if opens {
                Verdict::Reopen(self.snd_nxt + DISTANCE)
            } else {
                self.challenge(now)
            };
        }
        if let (Some((recent, _)), Some(timestamps)) = (self.timestamps, segment.options.timestamps)
            && !later(timestamps.value, recent)
        {
            return self.challenge(now);
        }
        if flags.has(Flags::FIN) && segment.end() == self.rcv_nxt {
            self.until = now + self.period.get();
            return Verdict::Answer(self.answer(now));
        }
        // An acknowledgement of this end's FIN, or of its acknowledgement: there is nothing to say.
        if segment.seq == self.rcv_nxt && segment.payload.is_empty() {
            return Verdict::Ignore;
        }
        self.challenge(now)
    }

    /// The answer to what the peer has no reason to send. The last FIN once more is none of these: the peer sends it until it hears.
    fn challenge(&mut self, now: Instant) -> Verdict {
        if self.challenges.may_answer(now) {
            Verdict::Answer(self.answer(now))
        } else {
            Verdict::Ignore
        }
    }

    /// True if a SYN cannot be an old duplicate of this connection: RFC 6191 section 2.
    fn is_newer(&self, syn: &Segment<'_>) -> bool {
        match (self.timestamps, syn.options.timestamps) {
            (Some((recent, _)), Some(timestamps)) => {
                timestamps.value != recent && later(timestamps.value, recent)
                    || timestamps.value == recent && syn.seq > self.rcv_nxt
            }
            (None, Some(_)) => true,
            (_, None) => syn.seq > self.rcv_nxt,
        }
    }

    fn answer(&self, now: Instant) -> Outgoing {
        Outgoing {
            seq: self.snd_nxt,
            ack: self.rcv_nxt,
            window: self.window,
            flags: Flags::ACK,
            options: Options {
                timestamps: self.timestamps.map(|(recent, offset)| Timestamps {
                    value: timestamp_clock(now).wrapping_add(offset),
                    echo: recent,
                }),
                ..Options::default()
            },
            ..Outgoing::default()
        }
    }
}
