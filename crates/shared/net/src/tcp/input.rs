//! SEGMENT ARRIVES in the synchronized states, RFC 9293 section 3.10.7.4, one function for each of its steps.
//!
//! | step | function | besides |
//! | --- | --- | --- |
//! | first, sequence number | `check_sequence` | PAWS, RFC 7323 section 5 |
//! | second, RST | `take_reset` | RFC 5961 section 3 |
//! | fourth, SYN | `take_late_syn` | RFC 5961 section 4 |
//! | fifth, ACK | `check_ack`, `acknowledge` | RFC 5961 section 5, RFC 3168 |
//! | sixth, URG | | the pointer is not looked at: urgent data stay in line, RFC 6093 section 3.1 |
//! | seventh, text | `take_text` | delayed acknowledgements, RFC 5681 section 4.2 |
//! | eighth, FIN | `take_fin` | |

use core::time::Duration;

use kiln_abi::Instant;

use super::info::State;
use super::marks::Marks;
use super::recovery::Ack;
use super::segment::SackBlocks;
use super::time_wait::Verdict;
use super::{Block, Changed, Ecn, Flags, Segment, Seq, Tcb};
use crate::error::Error;

/// Text of which a segment counts as two: it comes from a link with large packets.
const LARGE: usize = 4096;
/// RFC 7323 section 5.5: after 24 days a timestamp says nothing. In the units of [`days`].
const TS_RECENT_LIFE: u32 = ((24 * 86_400 * 1_000_000_000_u64) >> 30) as u32;

/// A clock for what lasts for days: about seconds.
#[inline]
fn days(now: Instant) -> u32 {
    (now.as_nanos() >> 30) as u32
}

/// Where text may go without being buffered, see [`Tcb::receive_with`].
pub(super) type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> usize;

/// What a step says about the rest of a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Step,
    Drop,
}

impl Tcb {
    /// SEGMENT ARRIVES.
    pub(super) fn segment_arrives(
        &mut self,
        segment: &Segment<'_>,
        now: Instant,
        sink: Sink<'_>,
        changed: &mut Changed,
    ) {
        if !self.is_expected(segment) {
            let repeats_syn = self.is_simultaneous_synack(segment);
            if !repeats_syn && self.check(segment, now, changed) == Next::Drop {
                return;
            }
        }
        if let Some(timestamps) = segment.options.timestamps
            && self.marks.has(Marks::TIMESTAMPS)
            && segment.seq <= self.last_ack_sent
        {
            self.set_ts_recent(timestamps.value, now);
        }
        self.last_heard = now;
        self.keepalive_probes = 0;
        self.unanswered_probes = 0;
        self.hear_congestion(segment);
        if segment.ack >= self.snd_una {
            self.acknowledge(segment, now, changed);
        }
        if self.state == State::SynReceived {
            self.establish(changed);
        }
        self.after_ack(now, changed);
        if !segment.payload.is_empty() || segment.flags.has(Flags::FIN) {
            self.take_text(segment, now, sink, changed);
            self.receive.free_unused();
        }
    }

    /// True for what nearly all segments are: in order, nothing but ACK and PSH, within the window, nothing to doubt. The
    /// steps from the first to the check of the ACK would find nothing.
    #[inline]
    fn is_expected(&self, segment: &Segment<'_>) -> bool {
        const REMARKABLE: Flags = Flags(
            Flags::FIN.0 | Flags::SYN.0 | Flags::RST.0 | Flags::URG.0 | Flags::ECE.0 | Flags::CWR.0,
        );
        let timely = match segment.options.timestamps {
            Some(timestamps) => later(timestamps.value, self.ts_recent),
            None => !self.marks.has(Marks::TIMESTAMPS),
        };
        self.state == State::Established
            && timely
            && segment.seq == self.rcv_nxt
            && segment.flags.has(Flags::ACK)
            && !segment.flags.any(REMARKABLE)
            && segment.ack >= self.snd_una
            && segment.ack <= self.snd_nxt
            && segment.ecn != Ecn::Ce
            && segment.payload.len() < self.rcv_adv.since(self.rcv_nxt) as usize
    }

    /// The last segment of a simultaneous opening: a SYN and ACK with the number of the SYN that is already here. RFC 9293
    /// section 3.5, figure 8 wants it to be taken though the first step would not.
    fn is_simultaneous_synack(&self, segment: &Segment<'_>) -> bool {
        self.state == State::SynReceived
            && !self.marks.has(Marks::PASSIVE)
            && segment.flags.has(Flags::SYN | Flags::ACK)
            && !segment.flags.has(Flags::RST)
            && segment.seq == self.irs
            && segment.ack == self.iss + 1
            && self.snd_nxt == segment.ack
    }

    /// The first to the fifth step, as far as they may refuse the segment.
    fn check(&mut self, segment: &Segment<'_>, now: Instant, changed: &mut Changed) -> Next {
        if segment.flags.has(Flags::RST) {
            self.take_reset(segment, now, changed);
            return Next::Drop;
        }
        if self.check_sequence(segment, now) == Next::Drop {
            return Next::Drop;
        }
        if segment.flags.has(Flags::SYN) {
            self.take_late_syn(now, changed);
            return Next::Drop;
        }
        self.check_ack(segment, now)
    }

    /// First, check the sequence number; and RFC 7323 section 5.3, R1.
    fn check_sequence(&mut self, segment: &Segment<'_>, now: Instant) -> Next {
        if self.marks.has(Marks::TIMESTAMPS) {
            let Some(timestamps) = segment.options.timestamps else {
                // RFC 7323 section 3.2.
                return Next::Drop;
            };
            let fresh = days(now).wrapping_sub(self.ts_recent_at) < TS_RECENT_LIFE;
            if fresh && !later(timestamps.value, self.ts_recent) {
                self.refuse(segment, now);
                return Next::Drop;
            }
        }
        let length = segment.len();
        let window = self.rcv_adv.since(self.rcv_nxt);
        let inside = |number: Seq| number >= self.rcv_nxt && number < self.rcv_nxt + window;
        let acceptable = if length == 0 || window == 0 {
            // Nothing fits into a closed window, but what the segment says besides is heard. A peer that has used the whole
            // window, part of which is lost, numbers its acknowledgements by the right edge.
            let at_edge = length == 0 && segment.seq == self.rcv_nxt + window;
            segment.seq == self.rcv_nxt || inside(segment.seq) || at_edge
        } else {
            inside(segment.seq) || inside(segment.seq + (length - 1))
        };
        if acceptable {
            return Next::Step;
        }
        self.refuse(segment, now);
        Next::Drop
    }

    /// The answer to a segment that is not acceptable: an acknowledgement, which says what would be. To a repeated SYN in
    /// SYN-RECEIVED, whose answer must have been lost, that answer.
    fn refuse(&mut self, segment: &Segment<'_>, now: Instant) {
        if self.state == State::SynReceived
            && segment.flags.has(Flags::SYN)
            && segment.seq == self.irs
        {
            if self.challenges.may_answer(now) {
                self.marks.set(Marks::SYN);
            }
            return;
        }
        if segment.payload.is_empty() {
            // Two ends that refuse each other's acknowledgements would go on for ever.
            self.challenge(now);
            return;
        }
        self.duplicates = self.duplicates.wrapping_add(1);
        let end = segment.seq + segment.payload.len() as u32;
        if end <= self.rcv_nxt {
            self.report_duplicate(Block {
                start: segment.seq,
                end,
            });
        }
        self.marks.set(Marks::ACK_NOW);
    }

    /// Second, check the RST bit; with RFC 5961 section 3.2.
    fn take_reset(&mut self, segment: &Segment<'_>, now: Instant, changed: &mut Changed) {
        if segment.seq != self.rcv_nxt {
            if segment.seq > self.rcv_nxt && segment.seq < self.rcv_adv {
                self.challenge(now);
            }
            return;
        }
        let error = match self.state {
            State::SynReceived if !self.marks.has(Marks::PASSIVE) => Some(Error::ConnectionRefused),
            State::Closing | State::LastAck => None,
            // The peer had closed: what is written to it goes nowhere, as to a pipe that nobody reads.
            State::CloseWait => Some(Error::BrokenPipe),
            _ => Some(Error::ConnectionReset),
        };
        self.over(error, changed);
    }

    /// Fourth, check the SYN bit; with RFC 5961 section 4.2.
    fn take_late_syn(&mut self, now: Instant, changed: &mut Changed) {
        if self.state == State::SynReceived && self.marks.has(Marks::PASSIVE) {
            // "Return this connection to the LISTEN state": the peer's next SYN finds the listener.
            self.over(Some(Error::ConnectionReset), changed);
            return;
        }
        self.challenge(now);
    }

    /// Fifth, check the ACK field: what is not to be believed. With RFC 5961 section 5.2.
    fn check_ack(&mut self, segment: &Segment<'_>, now: Instant) -> Next {
        if !segment.flags.has(Flags::ACK) {
            return Next::Drop;
        }
        let ack = segment.ack;
        if self.state == State::SynReceived {
            if ack <= self.iss || ack > self.snd_nxt {
                self.reset = Some(ack);
                return Next::Drop;
            }
            return Next::Step;
        }
        if ack > self.snd_nxt || ack < self.snd_una - self.max_snd_wnd {
            if segment.payload.is_empty() {
                self.challenge(now);
            } else {
                // It was much delayed, and its data may be what is waited for: the peer must send them again.
                self.marks.set(Marks::ACK_NOW);
            }
            return Next::Drop;
        }
        Next::Step
    }

    /// What ECN bits say, RFC 3168 sections 6.1.2 and 6.1.3.
    #[inline]
    fn hear_congestion(&mut self, segment: &Segment<'_>) {
        if !self.marks.has(Marks::ECN) {
            return;
        }
        if segment.flags.has(Flags::CWR) {
            self.marks.clear(Marks::ECE);
        }
        if segment.ecn == Ecn::Ce && !self.marks.has(Marks::ECE) {
            self.marks.set(Marks::ECE.and(Marks::ACK_NOW));
        }
    }

    /// Fifth, check the ACK field: an acknowledgement between SND.UNA and SND.NXT.
    pub(super) fn acknowledge(
        &mut self,
        segment: &Segment<'_>,
        now: Instant,
        changed: &mut Changed,
    ) {
        let ack = segment.ack;
        let in_flight = self.snd_nxt.since(self.snd_una);
        let newly = ack.since(self.snd_una);
        let syn = segment.flags.has(Flags::SYN);
        if segment.flags.has(Flags::ECE)
            && !syn
            && self.marks.has(Marks::ECN)
            && !self.marks.has(Marks::CWR)
            && self.recovery.marked(self.snd_nxt, now)
        {
            self.reduced();
        }
        let window = u32::from(segment.window) << if syn { 0 } else { self.snd_scale };
        let duplicate = newly == 0
            && in_flight > 0
            && segment.payload.is_empty()
            && !segment.flags.any(Flags::FIN | Flags::SYN)
            && window == self.snd_wnd;
        let nothing;
        let sack = if self.marks.has(Marks::SACK) {
            &segment.options.sack
        } else {
            nothing = SackBlocks::default();
            &nothing
        };
        if newly > 0 || duplicate || !sack.is_empty() {
            let echoed = segment
                .options
                .timestamps
                .filter(|_| self.marks.has(Marks::TIMESTAMPS))
                .map(|timestamps| timestamps.echo);
            let echo_rtt = echoed
                .filter(|&echo| newly > 0 && echo != 0)
                .and_then(|echo| self.echo_age(echo, now));
            let was_recovering = self.recovery.is_recovering();
            let congestion = self.recovery.congestion();
            let window_limited = self.marks.has(Marks::HELD_BACK)
                || congestion.in_slow_start()
                    && congestion.window() / 2 <= self.recovery.in_flight();
            self.take_acked(ack, newly, segment.payload.len(), changed);
            self.recovery.acked(
                &Ack {
                    ack,
                    sack,
                    snd_nxt: self.snd_nxt,
                    echo_rtt,
                    echoed,
                    duplicate,
                    window_limited,
                },
                now,
            );
            if !was_recovering && self.recovery.is_recovering() {
                self.reduced();
            }
            self.path_acked(now);
        }
        // SND.WND, by the newest segment. SND.WL2 is not kept: no segment comes here whose SEG.ACK is before it. What
        // acknowledges more than any before is new even if it repeats old data: were SND.UNA to move and SND.WND to stay,
        // the right edge would move with it.
        if self.snd_wl1 <= segment.seq || newly > 0 {
            if window > 0 {
                self.persist_backoff = 0;
            }
            self.set_send_window(window, segment.seq);
            // The right edge may have moved: what waits for the probe timer asks again.
            self.persist_at = Instant::FOREVER;
        }
    }

    /// SND.UNA moves to `ack`: the buffer forgets what is before it. A request that acknowledges the answer before it takes
    /// over its memory for `text` bytes.
    fn take_acked(&mut self, ack: Seq, newly: u32, text: usize, changed: &mut Changed) {
        if newly == 0 {
            return;
        }
        let start = self.data_start();
        let data = (ack.since(start) as usize).min(self.send.len());
        self.snd_una = ack;
        if data > 0 {
            if let Some(chunk) = self.send.consume_all(data)
                && text > 0
                && text <= chunk.capacity()
            {
                self.receive.lend(chunk);
            }
            self.bytes_acked += data as u64;
            *changed |= Changed::WRITABLE;
        }
        // Numbers are compared within half of their space: those that fall behind are taken along.
        self.small_end = self.small_end.max(ack);
    }

    /// Fifth, what an acknowledgement of the FIN means.
    #[inline]
    fn after_ack(&mut self, now: Instant, changed: &mut Changed) {
        if !self.marks.has(Marks::FIN_SENT) || self.snd_una != self.snd_nxt {
            return;
        }
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                if self.marks.has(Marks::ORPHAN) {
                    self.state_until = now + self.linger.get();
                }
            }
            State::Closing => self.enter_time_wait(now, changed),
            State::LastAck => self.over(None, changed),
            _ => {}
        }
    }

    /// Seventh, process the segment text; finds out where the FIN is for the eighth step.
    pub(super) fn take_text(
        &mut self,
        segment: &Segment<'_>,
        now: Instant,
        sink: Sink<'_>,
        changed: &mut Changed,
    ) {
        if !matches!(
            self.state,
            State::Established | State::FinWait1 | State::FinWait2
        ) {
            // "This should not occur, since a FIN has been received." It is acknowledged again.
            if self.state != State::Closed {
                self.marks.set(Marks::ACK_NOW);
            }
            return;
        }
        let seq = segment.seq + u32::from(segment.flags.has(Flags::SYN));
        let mut text = segment.payload;
        let mut fin = segment.flags.has(Flags::FIN);
        let mut end = seq + text.len() as u32;
        if end > self.rcv_adv {
            text = text
                .get(..self.rcv_adv.since(seq) as usize)
                .unwrap_or_default();
            end = seq + text.len() as u32;
            fin = false;
            self.marks.set(Marks::ACK_NOW);
        }
        if fin && !self.marks.has(Marks::PEER_FIN_SEEN) && end >= self.rcv_nxt {
            self.marks.set(Marks::PEER_FIN_SEEN);
            self.peer_fin = end;
        }
        if self.marks.has(Marks::PEER_FIN_SEEN) && end > self.peer_fin {
            text = text
                .get(..self.peer_fin.since(seq) as usize)
                .unwrap_or_default();
            end = seq + text.len() as u32;
        }
        if !text.is_empty() {
            if self.marks.has(Marks::ORPHAN) && end > self.rcv_nxt {
                // RFC 1122 section 4.2.2.13.
                self.abort(Error::ConnectionAborted);
                *changed |= Changed::CLOSED;
                return;
            }
            let given = self.give_text(seq, text, sink, now);
            let rest = text.get(given as usize..).unwrap_or_default();
            let advanced = !rest.is_empty() && self.insert_text(seq + given, rest);
            if advanced || given > 0 {
                *changed |= Changed::READABLE;
                self.schedule_ack(segment, now);
            }
        }
        if fin && self.rcv_nxt != self.peer_fin {
            self.marks.set(Marks::ACK_NOW);
        }
        if self.marks.has(Marks::PEER_FIN_SEEN) && self.rcv_nxt == self.peer_fin {
            self.take_fin(now, changed);
        }
    }

    /// Offers text to the reader itself, if it is what comes next. Returns how many bytes it has taken.
    fn give_text(&mut self, seq: Seq, text: &[u8], sink: Sink<'_>, now: Instant) -> u32 {
        if seq != self.rcv_nxt || !self.receive.is_empty() || self.receive.has_gap() {
            return 0;
        }
        let given = sink(text).min(text.len());
        if given > 0 {
            self.receive.pass(given as u32);
            self.rcv_nxt += given as u32;
            self.bytes_received += given as u64;
            self.has_read(given, now);
        }
        given as u32
    }

    /// Puts text into the buffer. True if RCV.NXT has moved.
    pub(super) fn insert_text(&mut self, seq: Seq, text: &[u8]) -> bool {
        let inserted = self.receive.insert(seq, text);
        if let Some(duplicate) = inserted.duplicate {
            self.duplicates = self.duplicates.wrapping_add(1);
            self.report_duplicate(duplicate);
            self.marks.set(Marks::ACK_NOW);
        }
        if inserted.out_of_order {
            self.out_of_order = self.out_of_order.wrapping_add(1);
        }
        if inserted.out_of_order || inserted.filled_gap || inserted.dropped > 0 {
            self.marks.set(Marks::ACK_NOW);
        }
        self.rcv_nxt += inserted.advanced;
        self.bytes_received += u64::from(inserted.advanced);
        inserted.advanced > 0
    }

    /// RFC 5681 section 4.2: at least every second segment is acknowledged, and none waits for long. While the connection
    /// is young, what does not end a message is acknowledged at once.
    fn schedule_ack(&mut self, segment: &Segment<'_>, now: Instant) {
        let mut segments = segment.joined.clamp(1, 255) as u8;
        if segment.payload.len() >= LARGE {
            // A sender whose buffer holds no second one would wait.
            segments = segments.max(2);
        }
        self.unacked_segments = self.unacked_segments.saturating_add(segments);
        if self.unacked_segments >= 2 {
            self.marks.set(Marks::ACK_NOW);
        } else if self.ack_at == Instant::FOREVER {
            self.ack_at = now + self.ack_delay.get();
        }
        if self.quick_acks > 0 {
            self.quick_acks = self.quick_acks.saturating_sub(segments);
            if !segment.flags.has(Flags::PSH) {
                self.marks.set(Marks::ACK_NOW);
            }
        }
    }

    /// Eighth, check the FIN bit: everything before it has arrived.
    fn take_fin(&mut self, now: Instant, changed: &mut Changed) {
        self.marks.set(Marks::PEER_FIN.and(Marks::ACK_NOW));
        self.rcv_nxt += 1;
        *changed |= Changed::READABLE;
        match self.state {
            State::Established => self.state = State::CloseWait,
            // Had the own FIN been acknowledged, the state would be another by now.
            State::FinWait1 => self.state = State::Closing,
            State::FinWait2 => self.enter_time_wait(now, changed),
            _ => {}
        }
    }

    fn enter_time_wait(&mut self, now: Instant, changed: &mut Changed) {
        self.state = State::TimeWait;
        self.state_until = now + self.time_wait.get();
        self.persist_at = Instant::FOREVER;
        *changed |= Changed::TIME_WAIT;
    }

    /// TIME-WAIT, while the program still has something to read: as [`TimeWait`](super::TimeWait) says. A new incarnation
    /// is for the owner to make.
    pub(super) fn in_time_wait(&mut self, segment: &Segment<'_>, now: Instant) {
        let Some(mut rest) = self.time_wait() else {
            return;
        };
        let verdict = rest.receive(segment, now);
        self.state_until = rest.until;
        self.challenges = rest.challenges;
        match verdict {
            Verdict::Ignore => {}
            Verdict::Answer(_) => self.marks.set(Marks::ACK_NOW),
            // While the last acknowledgement has not left nobody else can have these ends.
            Verdict::Reopen(_) => self.challenge(now),
        }
    }

    /// CLOSED, and the program is to know.
    pub(super) fn over(&mut self, error: Option<Error>, changed: &mut Changed) {
        self.end(error);
        *changed |= Changed::CLOSED;
    }

    /// An acknowledgement that somebody else than the peer may have asked for, RFC 5961 section 7.
    fn challenge(&mut self, now: Instant) {
        if self.challenges.may_answer(now) {
            self.marks.set(Marks::ACK_NOW);
        }
    }

    /// The next acknowledgement says that this came twice, RFC 2883.
    fn report_duplicate(&mut self, block: Block) {
        if self.marks.has(Marks::SACK) {
            self.duplicate = block;
            self.marks.set(Marks::DUPLICATE);
        }
    }

    /// The congestion window was reduced.
    pub(super) fn reduced(&mut self) {
        if self.marks.has(Marks::ECN) {
            self.marks.set(Marks::CWR);
        }
    }

    /// How long ago this end's clock showed `echo`, if that is not in the future.
    pub(super) fn echo_age(&self, echo: u32, now: Instant) -> Option<Duration> {
        let age = self.clock(now).wrapping_sub(echo);
        (age >> 31 == 0).then(|| Duration::from_millis(u64::from(age)))
    }

    /// TS.Recent, RFC 7323 section 4.3.
    #[inline]
    pub(super) fn set_ts_recent(&mut self, value: u32, now: Instant) {
        self.ts_recent = value;
        self.ts_recent_at = days(now);
    }
}

/// True if timestamp `a` is `b` or later, RFC 7323 section 5.2.
#[inline]
pub(super) fn later(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) >> 31 == 0
}
