//! What leaves: which segment is next, and how it is written.
//!
//! [`Tcb::plan`] looks and decides, without changing anything; [`Tcb::carry_out`] writes the segment and keeps the books.
//! In order: resets and SYNs, probes, what is lost, new data, a bare acknowledgement.

use kiln_abi::Instant;

use super::info::State;
use super::marks::Marks;
use super::recovery::Sending;
use super::segment::SackBlocks;
use super::{Block, Ecn, Flags, Options, Outgoing, Seq, Tcb, Timestamps};

/// The next thing to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// A reset with this number.
    Reset(Seq),
    /// The own SYN, for the first time or again.
    Syn,
    /// Data, a FIN, or both.
    Data(Data),
    /// A segment before the window, which the peer must answer: a zero-window or keep-alive probe.
    Probe,
    /// An acknowledgement and nothing else.
    Ack,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Data {
    seq: Seq,
    len: u32,
    fin: bool,
    how: Sending,
    /// Data of each segment.
    size: u32,
}

impl Tcb {
    /// The next segment to leave, if any. It counts as sent. Data beyond one segment are given together, up to
    /// `longest` bytes, if the link can cut them apart; else `longest` is 0.
    pub fn transmit(&mut self, longest: u32, now: Instant) -> Option<Outgoing> {
        let Some(plan) = self.plan(longest) else {
            // What could not be sent now is not due any more.
            self.marks.clear(Marks::TAIL_PROBE.and(Marks::OVERRIDE));
            if self.unsent() > 0 {
                let size = self.segment_size();
                let held_back = self.recovery.allowance() < size && self.usable_window() >= size;
                self.marks.put(Marks::HELD_BACK, held_back);
            }
            self.settle(now);
            return None;
        };
        Some(self.carry_out(plan, now))
    }

    /// True if [`transmit`](Self::transmit) may have something to say now.
    pub fn wants_to_transmit(&self, _now: Instant) -> bool {
        self.may_have_output() && self.plan(0).is_some()
    }

    /// A quick look: false if there is surely nothing.
    #[inline]
    pub(crate) fn may_have_output(&self) -> bool {
        const DUE: Marks = Marks::ACK_NOW
            .and(Marks::SYN)
            .and(Marks::PROBE)
            .and(Marks::TAIL_PROBE);
        self.marks.has(DUE)
            || self.unsent() > 0
            || self.fin_unsent()
            || self.reset.is_some()
            || self.recovery.next_lost().is_some()
    }

    /// The link refused a segment that [`transmit`](Self::transmit) gave: it counts as lost.
    pub fn not_sent(&mut self, outgoing: &Outgoing, now: Instant) {
        self.segments_out = self
            .segments_out
            .saturating_sub(u64::from(outgoing.segments()));
        if outgoing.flags.has(Flags::RST) {
            self.reset = Some(outgoing.seq);
            return;
        }
        if self.state == State::Closed {
            return;
        }
        let taken = outgoing.len
            + u32::from(outgoing.flags.has(Flags::SYN))
            + u32::from(outgoing.flags.has(Flags::FIN));
        if taken > 0 {
            let block = Block {
                start: outgoing.seq,
                end: outgoing.seq + taken,
            };
            self.recovery.not_sent(block, now);
        } else {
            self.marks.set(Marks::ACK_NOW);
        }
    }

    /// What is next.
    fn plan(&self, longest: u32) -> Option<Plan> {
        if let Some(seq) = self.reset {
            return Some(Plan::Reset(seq));
        }
        let data = match self.state {
            State::Closed => return None,
            State::SynSent | State::SynReceived => {
                let syn = self.marks.has(Marks::SYN) || self.recovery.next_lost().is_some();
                if syn {
                    return Some(Plan::Syn);
                }
                None
            }
            State::FinWait2 | State::TimeWait => None,
            _ => self.plan_data(longest),
        };
        match data {
            Some(data) => Some(Plan::Data(data)),
            None if self.marks.has(Marks::PROBE) => Some(Plan::Probe),
            None if self.marks.has(Marks::ACK_NOW) && self.state != State::SynSent => {
                Some(Plan::Ack)
            }
            None => None,
        }
    }

    fn plan_data(&self, longest: u32) -> Option<Data> {
        if self.snd_una == self.snd_nxt && self.unsent() == 0 && !self.fin_unsent() {
            return None;
        }
        let size = self.segment_size();
        if self.marks.has(Marks::TAIL_PROBE)
            && let Some(data) = self.plan_tail_probe(size)
        {
            return Some(data);
        }
        let mut allowance = self.recovery.allowance();
        if self.recovery.in_flight() == 0 {
            // Whatever congestion control says, one segment may be on its way.
            allowance = allowance.max(size);
        }
        match self.recovery.next_lost() {
            Some(lost) => self.plan_again(lost, size, allowance, longest),
            None => self.plan_new(size, allowance, longest),
        }
    }

    /// RFC 8985 section 7.3: new data if there are any and the peer's window has room, else the last segment again.
    fn plan_tail_probe(&self, size: u32) -> Option<Data> {
        let unsent = self.unsent();
        let len = unsent.min(size).min(self.usable_window());
        if len > 0 {
            return Some(Data {
                seq: self.snd_nxt,
                len,
                fin: len == unsent && self.fin_fits(len),
                how: Sending::Probe,
                size,
            });
        }
        let tail = self.recovery.tail()?;
        let fin = self.marks.has(Marks::FIN_SENT) && tail.end == self.snd_nxt;
        let end = tail.end - u32::from(fin);
        let start = self.data_start().max(tail.start).max(end - size).min(end);
        let len = end.since(start);
        (len > 0 || fin).then_some(Data {
            seq: start,
            len,
            fin,
            how: Sending::Probe,
            size,
        })
    }

    /// The first of what is lost. If the peer's window has shrunk, what is beyond it waits (RFC 9293 section 3.8.6), but
    /// for a segment that each timeout repeats.
    fn plan_again(&self, lost: Block, size: u32, allowance: u32, longest: u32) -> Option<Data> {
        let data_end = self.data_end();
        let start = lost.start.max(self.data_start());
        let mut len = lost.end.min(data_end).since(start);
        let fin = self.marks.has(Marks::FIN_SENT) && lost.end > data_end;
        let wanted = len;
        let window = (self.snd_una + self.snd_wnd).since(start);
        let window = if start == self.snd_una && self.marks.has(Marks::OVERRIDE) {
            window.max(size)
        } else {
            window
        };
        if len > allowance {
            // The first segment of all may always leave again: fast retransmit, partial acknowledgement (RFC 6582 section 3.2).
            let least = if start == self.snd_una { size } else { 0 };
            len = len.min(whole(allowance, size).max(least));
        }
        len = len.min(window).min(longest_of(longest, size));
        let fin = fin && len == wanted && window > len;
        (len > 0 || fin).then_some(Data {
            seq: start,
            len,
            fin,
            how: Sending::Again,
            size,
        })
    }

    /// New data: as much as the peer's window and congestion control allow, in full segments. RFC 9293 section 3.8.6.2.1
    /// says when one that is not full may leave, section 3.7.4 when it must wait.
    fn plan_new(&self, size: u32, allowance: u32, longest: u32) -> Option<Data> {
        let unsent = self.unsent();
        if unsent == 0 && !self.fin_unsent() {
            return None;
        }
        let usable = self.usable_window();
        let open = usable.min(allowance);
        if self.marks.has(Marks::MTU_PROBE)
            && !self.has_sack()
            && let Some(probe) = self.plan_mtu_probe(unsent, open)
        {
            return Some(Data {
                seq: self.snd_nxt,
                len: probe,
                fin: false,
                how: Sending::New,
                size: probe,
            });
        }
        let mut len = if unsent <= open {
            // Everything may leave; what is left over by full segments, only if it need not wait for more.
            let may_be_small = self.marks.has(Marks::CLOSING)
                || !self.marks.has(Marks::CORK)
                    && (self.marks.has(Marks::NODELAY) || self.small_end <= self.snd_una);
            if unsent < size {
                if may_be_small { unsent } else { 0 }
            } else if may_be_small {
                unsent
            } else {
                whole(unsent, size)
            }
        } else {
            let full = whole(open, size);
            // A peer whose window is never as large as a segment still gets data.
            let half = usable >= self.max_snd_wnd.div_ceil(2) && self.snd_una == self.snd_nxt;
            if full == 0 && usable > 0 && usable <= allowance && half {
                usable
            } else {
                full
            }
        };
        if len == 0 && self.marks.has(Marks::OVERRIDE) {
            len = unsent.min(open).min(size);
        }
        let most = if self.marks.has(Marks::CWR) {
            // Said once: a link that cuts a segment apart would repeat it.
            size
        } else {
            longest_of(longest, size)
        };
        len = len.min(most);
        let fin = len == unsent && self.fin_fits(len);
        (len > 0 || fin).then_some(Data {
            seq: self.snd_nxt,
            len,
            fin,
            how: Sending::New,
            size,
        })
    }

    /// Bytes between SND.NXT and the right edge of the peer's window.
    #[inline]
    pub(super) fn usable_window(&self) -> u32 {
        (self.snd_una + self.snd_wnd).since(self.snd_nxt)
    }

    /// True if a FIN follows the last byte, and fits into the peer's window behind `len` bytes.
    #[inline]
    fn fin_fits(&self, len: u32) -> bool {
        self.fin_unsent() && self.usable_window() > len
    }

    /// Writes the segment, and what it means for the connection.
    fn carry_out(&mut self, plan: Plan, now: Instant) -> Outgoing {
        let mut outgoing = Outgoing {
            seq: self.snd_nxt,
            segment_size: self.path.mss() as u16,
            ..Outgoing::default()
        };
        match plan {
            Plan::Reset(seq) => {
                self.reset = None;
                outgoing.seq = seq;
                outgoing.flags = Flags::RST;
                if self.state == State::Closed && self.marks.has(Marks::RESET_ACKS) {
                    outgoing.flags |= Flags::ACK;
                    outgoing.ack = self.rcv_nxt;
                    if self.marks.has(Marks::TIMESTAMPS) {
                        outgoing.options.timestamps = Some(self.timestamps(now));
                    }
                }
                self.segments_out += 1;
                return outgoing;
            }
            Plan::Syn => self.write_syn(&mut outgoing, now),
            Plan::Data(data) => self.write_data(&mut outgoing, data, now),
            Plan::Probe => {
                // Zero-length and before the window, as Linux sends it: every receiver must answer it by the first step of
                // RFC 9293 section 3.10.7.4, and no byte is sent that the window has no room for.
                outgoing.seq = self.snd_nxt - 1;
                outgoing.flags = Flags::ACK;
                self.marks.clear(Marks::PROBE);
            }
            Plan::Ack => outgoing.flags = Flags::ACK,
        }
        if plan != Plan::Syn {
            outgoing.options = self.options(now);
            if self.marks.has(Marks::ECE) {
                outgoing.flags |= Flags::ECE;
            }
        }
        if outgoing.flags.has(Flags::ACK) {
            self.write_ack(&mut outgoing);
        } else {
            outgoing.window = self.tuning.window().min(0xffff) as u16;
        }
        self.segments_out += u64::from(outgoing.segments());
        outgoing
    }

    /// The SYN of the active opener, or SYN and ACK. RFC 9293 section 3.5.
    fn write_syn(&mut self, outgoing: &mut Outgoing, now: Instant) {
        let again = self.snd_nxt != self.iss;
        let passive = self.state == State::SynReceived;
        outgoing.seq = self.iss;
        outgoing.flags = if passive {
            Flags::SYN | Flags::ACK
        } else {
            Flags::SYN
        };
        if !passive && self.recovery.timeouts_in_a_row() >= 2 {
            // Something on the way may drop what asks for ECN, RFC 3168 section 6.1.1.1.
            self.marks.clear(Marks::ECN);
        }
        if self.marks.has(Marks::ECN) {
            outgoing.flags |= if passive {
                Flags::ECE
            } else {
                Flags::ECE | Flags::CWR
            };
        }
        outgoing.options = Options {
            mss: Some(self.path.announced()),
            window_scale: self.marks.has(Marks::SCALING).then_some(self.rcv_scale),
            sack_permitted: self.marks.has(Marks::SACK),
            timestamps: self
                .marks
                .has(Marks::TIMESTAMPS)
                .then(|| self.timestamps(now)),
            sack: SackBlocks::default(),
        };
        self.marks.clear(Marks::SYN);
        let block = Block {
            start: self.iss,
            end: self.iss + 1,
        };
        self.has_sent(
            block,
            if again { Sending::Again } else { Sending::New },
            outgoing,
            now,
        );
    }

    fn write_data(&mut self, outgoing: &mut Outgoing, data: Data, now: Instant) {
        let end = data.seq + data.len;
        outgoing.seq = data.seq;
        outgoing.len = data.len;
        outgoing.segment_size = data.size as u16;
        outgoing.flags = Flags::ACK;
        if data.len > 0 && end == self.data_end() {
            outgoing.flags |= Flags::PSH;
        }
        if data.fin {
            outgoing.flags |= Flags::FIN;
            self.marks.set(Marks::FIN_SENT);
        }
        let is_new = data.seq == self.snd_nxt;
        if is_new && data.len > 0 {
            if self.marks.has(Marks::ECN) {
                outgoing.ecn = Ecn::Ect0;
                if self.marks.has(Marks::CWR) {
                    self.marks.clear(Marks::CWR);
                    outgoing.flags |= Flags::CWR;
                }
            }
            if !data.len.is_multiple_of(data.size) {
                self.small_end = end;
            }
            let held_back = self.unsent() > data.len
                && self.recovery.allowance() < data.len.saturating_add(data.size);
            self.marks.put(Marks::HELD_BACK, held_back);
        }
        if data.how == Sending::Probe {
            self.marks.clear(Marks::TAIL_PROBE);
        }
        self.marks.clear(Marks::OVERRIDE);
        if data.size > self.segment_size() {
            self.mtu_probe_sent(data.seq, data.size);
        } else if !is_new {
            self.mtu_probe_repeated(data.seq, end, now);
        }
        self.persist_at = Instant::FOREVER;
        let block = Block {
            start: data.seq,
            end: end + u32::from(data.fin),
        };
        self.has_sent(block, data.how, outgoing, now);
    }

    /// A range of sequence numbers leaves.
    fn has_sent(&mut self, block: Block, how: Sending, outgoing: &Outgoing, now: Instant) {
        let clock = outgoing.options.timestamps.map_or_else(
            || {
                if self.marks.has(Marks::TIMESTAMPS) {
                    self.clock(now)
                } else {
                    0
                }
            },
            |timestamps| timestamps.value,
        );
        self.recovery.sent(block, how, clock, now);
        self.snd_nxt = self.snd_nxt.max(block.end);
        self.last_sent = now;
    }

    /// What every acknowledgement says, and that it has been said.
    #[inline]
    fn write_ack(&mut self, outgoing: &mut Outgoing) {
        let scale = if outgoing.flags.has(Flags::SYN) {
            0
        } else {
            self.rcv_scale
        };
        let (window, edge) = self.window_to_offer(scale);
        outgoing.ack = self.rcv_nxt;
        outgoing.window = window;
        self.rcv_adv = edge;
        self.last_ack_sent = self.rcv_nxt;
        self.unacked_segments = 0;
        self.ack_at = Instant::FOREVER;
        self.marks.clear(Marks::ACK_NOW.and(Marks::DUPLICATE));
    }

    fn timestamps(&self, now: Instant) -> Timestamps {
        Timestamps {
            value: self.clock(now),
            echo: self.ts_recent,
        }
    }

    /// The options of every segment but SYNs.
    #[inline]
    fn options(&self, now: Instant) -> Options {
        let mut options = Options::default();
        if self.marks.has(Marks::TIMESTAMPS) {
            options.timestamps = Some(self.timestamps(now));
        }
        if self.has_sack() {
            options.sack = self.sack();
        }
        options
    }

    #[inline]
    fn has_sack(&self) -> bool {
        self.marks.has(Marks::DUPLICATE) || self.marks.has(Marks::SACK) && self.receive.has_gap()
    }

    /// The blocks to report: the most recent duplicate (RFC 2883 section 4), then what waits behind gaps. A duplicate of
    /// what waits is known by the block that holds it, which must be the second.
    fn sack(&self) -> SackBlocks {
        let mut blocks = SackBlocks::default();
        let waiting = self.receive.sack();
        let duplicate = self.duplicate;
        let holds = |block: &&Block| block.start <= duplicate.start && duplicate.end <= block.end;
        let reported = self.marks.has(Marks::DUPLICATE);
        let holder = waiting
            .as_slice()
            .iter()
            .find(holds)
            .copied()
            .filter(|_| reported);
        if reported && (holder.is_some() || duplicate.end <= self.rcv_nxt) {
            blocks.push(duplicate);
            if let Some(holder) = holder {
                blocks.push(holder);
            }
        }
        for &block in waiting.as_slice() {
            if blocks.is_empty() || Some(block) != holder {
                blocks.push(block);
            }
        }
        if self.marks.has(Marks::TIMESTAMPS) {
            blocks.truncate(SackBlocks::WITH_TIMESTAMPS);
        }
        blocks
    }

    /// Data of a full segment now: what the path carries less the options that are due (RFC 6691).
    #[inline]
    fn segment_size(&self) -> u32 {
        let mut size = self.data_mss();
        if self.has_sack() {
            let blocks = self.sack().as_slice().len() as u32;
            size = size.saturating_sub(4 + 8 * blocks);
        }
        size.max(1)
    }
}

/// The largest multiple of `size` up to `bytes`.
#[inline]
fn whole(bytes: u32, size: u32) -> u32 {
    if bytes < size {
        0
    } else {
        bytes - bytes % size
    }
}

/// What may leave at once: a whole number of segments, at least one.
#[inline]
fn longest_of(longest: u32, size: u32) -> u32 {
    whole(longest, size).max(size)
}
