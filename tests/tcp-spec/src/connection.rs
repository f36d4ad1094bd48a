//! What is known of one connection from the segments seen until now.
//!
//! [`Output`] is the direction from the tested host, [`Input`] the one to it. Rules look at a connection as it was before
//! a segment, then [`Connection::apply`] takes that segment in.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use crate::Config;
use crate::ranges::{ORIGIN, Place, Ranges, place};
use crate::rules::Rule;
use crate::segment::{Flags, Options, Segment, Time};

/// How long a past value may matter: longer than any lag.
const MEMORY: Duration = Duration::from_secs(5);

/// A segment with its places in the two streams.
#[derive(Clone, Copy)]
pub struct Placed<'a> {
    /// The segment itself.
    pub segment: &'a Segment,
    /// The tested host sent it.
    pub sent: bool,
    /// The place of its sequence number.
    pub start: Place,
    /// One past its last place, SYN and FIN included.
    pub end: Place,
    /// The place of its acknowledgment number.
    pub ack: Option<Place>,
}

impl Placed<'_> {
    /// The place of its first byte of data.
    pub fn data(&self) -> Place {
        self.start + u64::from(self.segment.flags.has(Flags::SYN))
    }

    /// One past the place of its last byte of data.
    pub fn data_end(&self) -> Place {
        self.data() + self.segment.payload.len() as u64
    }

    /// The place of its FIN.
    pub fn fin(&self) -> Option<Place> {
        self.segment.flags.has(Flags::FIN).then(|| self.data_end())
    }
}

/// A value with the time from which it holds.
#[derive(Clone, Debug, Default)]
pub struct History<T>(VecDeque<(Time, T)>);

impl<T: Copy> History<T> {
    /// A new value.
    pub fn push(&mut self, now: Time, value: T) {
        self.0.push_back((now, value));
        // One value older than all that matters stays: it held at the beginning of that time.
        while self.0.len() > 1 && self.0[1].0 + MEMORY < now {
            self.0.pop_front();
        }
    }

    /// The value that held at a time.
    pub fn at(&self, time: Time) -> Option<T> {
        let after = self.0.partition_point(|(since, _)| *since <= time);
        after.checked_sub(1).map(|last| self.0[last].1)
    }

    /// The value that holds.
    pub fn last(&self) -> Option<T> {
        self.0.back().map(|(_, value)| *value)
    }

    /// The values that held at some time since.
    pub fn since(&self, time: Time) -> impl Iterator<Item = T> {
        let first = self
            .0
            .partition_point(|(since, _)| *since <= time)
            .saturating_sub(1);
        self.0.iter().skip(first).map(|(_, value)| *value)
    }

    /// Values with the time from which they hold.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &(Time, T)> {
        self.0.iter()
    }
}

/// When a range was last sent.
#[derive(Clone, Copy, Debug)]
pub struct Transmission {
    /// One past its last place.
    pub end: Place,
    /// When, the last time.
    pub time: Time,
    /// How often.
    pub count: u32,
}

/// The direction from the tested host.
#[derive(Default)]
pub struct Output {
    /// The sequence number of the SYN.
    pub isn: Option<u32>,
    /// The options of the SYN, and its window.
    pub syn: Options,
    /// The SYN was ECN-setup.
    pub syn_flags: Flags,
    /// How often the SYN was sent.
    pub syn_count: u32,
    /// One past the highest place sent (SND.NXT at its highest).
    pub max: Place,
    /// One past the highest place acknowledged to the host (SND.UNA), with its past.
    pub una: History<Place>,
    /// The right edge of the window the peer offers, with its past.
    pub edge: History<Place>,
    /// The largest window the peer has offered.
    pub largest_window: u64,
    /// What the peer has told it holds, above SND.UNA.
    pub sacked: Ranges,
    /// The place of the FIN.
    pub fin: Option<Place>,
    /// What is not acknowledged, by where it starts.
    pub transmissions: BTreeMap<Place, Transmission>,
    /// When the host was last given a reason to retransmit other than a timer: a duplicate acknowledgment, a SACK
    /// block, a partial acknowledgment in a recovery, a smaller path MTU.
    pub evidence: Option<Time>,
    /// The shortest round trip measured.
    pub least_rtt: Option<Duration>,
    /// The longest round trip measured.
    pub longest_rtt: Option<Duration>,
    /// When anything that takes sequence numbers was last sent.
    pub last_sent: Time,
    /// Bytes acknowledged or reported by SACK since the beginning.
    pub delivered: u64,
    /// A SACK block told of data that came twice.
    pub duplicate_reported: Option<Time>,
}

impl Output {
    /// SND.UNA as the capture shows it.
    pub fn una(&self) -> Place {
        self.una.last().unwrap_or(ORIGIN)
    }

    /// SND.UNA as the host must know it.
    pub fn una_known(&self, now: Time, config: &Config) -> Place {
        self.una
            .at(now.saturating_sub(config.lag))
            .unwrap_or(ORIGIN)
    }

    /// The furthest right edge that the host may go by.
    pub fn furthest_edge(&self, now: Time, config: &Config) -> Option<Place> {
        self.edge.since(now.saturating_sub(config.lag)).max()
    }

    /// When and how often a place was sent last.
    pub fn transmission(&self, place: Place) -> Option<Transmission> {
        let (_, found) = self.transmissions.range(..=place).next_back()?;
        (place < found.end).then_some(*found)
    }

    fn transmitted(&mut self, start: Place, end: Place, now: Time) {
        if start >= end {
            return;
        }
        for edge in [start, end] {
            if let Some((_, found)) = self.transmissions.range_mut(..edge).next_back()
                && edge < found.end
            {
                let rest = *found;
                found.end = edge;
                self.transmissions.insert(edge, rest);
            }
        }
        let mut covered = start;
        let mut gaps = Vec::new();
        for (at, found) in self.transmissions.range_mut(start..end) {
            if covered < *at {
                gaps.push((covered, *at));
            }
            found.time = now;
            found.count += 1;
            covered = found.end;
        }
        if covered < end {
            gaps.push((covered, end));
        }
        for (at, end) in gaps {
            self.transmissions.insert(
                at,
                Transmission {
                    end,
                    time: now,
                    count: 1,
                },
            );
        }
    }

    /// What may be on its way: all that is sent and neither acknowledged, nor reported by SACK, nor to be taken for lost.
    /// That is what lies below something that is reported and was sent only once (RFC 6675 section 4, RFC 8985 section
    /// 6.2): the host may wait for more signs, and then has less in flight.
    pub fn pipe(&self) -> u64 {
        let highest = self.sacked.iter().last().map_or(ORIGIN, |range| range.1);
        let lost: u64 = self
            .transmissions
            .range(..highest)
            .filter(|(start, sent)| {
                sent.count == 1 && sent.end <= highest && !self.sacked.touches(**start, sent.end)
            })
            .map(|(start, sent)| sent.end - start)
            .sum();
        self.max
            .saturating_sub(self.una())
            .saturating_sub(self.sacked.total())
            .saturating_sub(lost)
    }

    fn acknowledged(&mut self, ack: Place, now: Time) {
        let una = self.una();
        let mut newest = None;
        while let Some(entry) = self.transmissions.first_entry()
            && *entry.key() < ack
        {
            let found = entry.remove();
            if found.end > ack {
                self.transmissions.insert(ack, found);
            }
            // Karn: what was sent twice measures nothing.
            newest = (found.count == 1).then_some(found.time);
        }
        if let Some(sent) = newest {
            let sample = now.saturating_sub(sent);
            self.least_rtt = Some(self.least_rtt.map_or(sample, |least| least.min(sample)));
            self.longest_rtt = Some(
                self.longest_rtt
                    .map_or(sample, |longest| longest.max(sample)),
            );
        }
        let told: u64 = self
            .sacked
            .iter()
            .map(|(start, end)| end.min(ack).saturating_sub(start))
            .sum();
        self.delivered += (ack - una).saturating_sub(told);
        self.sacked.remove_below(ack);
        self.una.push(now, ack);
    }
}

/// Data that the host was not allowed to take, and why.
#[derive(Clone, Copy)]
pub struct Rejected {
    /// First place.
    pub start: Place,
    /// One past the last.
    pub end: Place,
    /// The rule.
    pub rule: &'static Rule,
}

/// The direction to the tested host.
#[derive(Default)]
pub struct Input {
    /// The sequence number of the SYN.
    pub irs: Option<u32>,
    /// The options of the SYN.
    pub syn: Options,
    /// Its flags.
    pub syn_flags: Flags,
    /// What was received, SYN and FIN included.
    pub received: Ranges,
    /// One past what was received without a hole, with its past.
    pub next: History<Place>,
    /// The place of the FIN.
    pub fin: Option<Place>,
    /// One past the highest place the host has acknowledged, with its past.
    pub acked: History<Place>,
    /// The right edge the host offers, at its furthest.
    pub edge: Place,
    /// The right edge the host offered last.
    pub last_edge: Place,
    /// The largest window the host has offered.
    pub largest_window: u64,
    /// The largest data segment received.
    pub largest_segment: u64,
    /// Data that must not be taken.
    pub rejected: Vec<Rejected>,
    /// Everything received lately: time, first place, one past the last byte. A FIN out of order need not be kept.
    pub recent: VecDeque<(Time, Place, Place)>,
    /// Data received a second time.
    pub twice: Ranges,
    /// The newest `TSval` that the host must have taken as TS.Recent (RFC 7323 section 4.3), with its past.
    pub ts_recent: History<u32>,
    /// Each `TSval` the host may have taken as TS.Recent.
    pub ts_possible: VecDeque<(Time, u32)>,
}

impl Input {
    /// RCV.NXT if everything received is processed.
    pub fn next(&self) -> Place {
        self.next.last().unwrap_or(ORIGIN)
    }

    /// What the host has acknowledged.
    pub fn acked(&self) -> Place {
        self.acked.last().unwrap_or(ORIGIN)
    }
}

/// The end by a RST.
#[derive(Clone, Copy, Debug)]
pub struct Reset {
    /// When.
    pub time: Time,
    /// The tested host sent it.
    pub by_host: bool,
}

/// A connection.
pub struct Connection {
    /// The tested host's side.
    pub host: SocketAddr,
    /// The peer's side.
    pub peer: SocketAddr,
    /// The host sent the first SYN.
    pub host_opens: bool,
    /// From the host.
    pub output: Output,
    /// To the host.
    pub input: Input,
    /// It was reset.
    pub reset: Option<Reset>,
    /// When the last segment was seen.
    pub last_seen: Time,
}

impl Input {
    /// Remembers what of a range was received before.
    fn note_repeated(&mut self, from: Place, to: Place) {
        let known: Vec<_> = self.received.iter().collect();
        for (start, end) in known {
            self.twice.insert(start.max(from), end.min(to));
        }
    }
}

impl Connection {
    /// A connection whose first SYN is about to be seen.
    pub fn new(host: SocketAddr, peer: SocketAddr, host_opens: bool) -> Self {
        Self {
            host,
            peer,
            host_opens,
            output: Output {
                max: ORIGIN,
                ..Output::default()
            },
            input: Input::default(),
            reset: None,
            last_seen: Time::ZERO,
        }
    }

    /// Both have sent a SYN.
    pub fn synchronized(&self) -> bool {
        self.output.isn.is_some() && self.input.irs.is_some()
    }

    /// The host's SYN is acknowledged, and it has acknowledged the peer's.
    pub fn established(&self) -> bool {
        self.synchronized() && self.output.una() > ORIGIN && self.input.acked() > ORIGIN
    }

    /// Both directions have ended and the host has acknowledged the peer's FIN.
    pub fn closed(&self) -> bool {
        self.reset.is_some()
            || self.output.fin.is_some_and(|fin| self.output.una() > fin)
                && self.input.fin.is_some_and(|fin| self.input.acked() > fin)
    }

    /// Both SYNs had the option (RFC 7323 section 2.2).
    pub fn window_scaling(&self) -> bool {
        self.output.syn.window_scale.is_some() && self.input.syn.window_scale.is_some()
    }

    /// Both SYNs had the option (RFC 7323 section 3.2).
    pub fn timestamps(&self) -> bool {
        self.output.syn.timestamps.is_some() && self.input.syn.timestamps.is_some()
    }

    /// ECN was agreed on (RFC 3168 section 6.1.1).
    pub fn ecn(&self) -> bool {
        let (first, answer) = if self.host_opens {
            (self.output.syn_flags, self.input.syn_flags)
        } else {
            (self.input.syn_flags, self.output.syn_flags)
        };
        first.has(Flags::ECE | Flags::CWR) && answer.has(Flags::ECE) && !answer.any(Flags::CWR)
    }

    /// The largest data and options that fit the peer's MSS (RFC 9293 section 3.7.1).
    pub fn peer_mss(&self) -> u64 {
        let default = if self.peer.is_ipv4() { 536 } else { 1220 };
        self.input.syn.mss.map_or(default, u64::from)
    }

    /// The host's segment size as far as it shows: no larger than the peer's MSS without the timestamps.
    pub fn segment_size(&self) -> u64 {
        let options = if self.timestamps() { 12 } else { 0 };
        self.peer_mss().saturating_sub(options).max(1)
    }

    /// The window of a segment in bytes.
    pub fn window(&self, placed: &Placed) -> u64 {
        let side = if placed.sent {
            &self.output.syn
        } else {
            &self.input.syn
        };
        let syn = placed.segment.flags.has(Flags::SYN);
        let scaled = self.window_scaling() && !syn;
        let shift = if scaled {
            side.window_scale.unwrap_or(0).min(14)
        } else {
            0
        };
        u64::from(placed.segment.window) << shift
    }

    /// Finds a segment's places.
    pub fn place<'a>(&self, segment: &'a Segment, sent: bool) -> Placed<'a> {
        let (own_isn, own_near, other_isn, other_near) = if sent {
            (
                self.output.isn,
                self.output.max,
                self.input.irs,
                self.input.next(),
            )
        } else {
            (
                self.input.irs,
                self.input.next(),
                self.output.isn,
                self.output.max,
            )
        };
        // A first SYN defines where the stream starts.
        let start = place(
            own_near.max(ORIGIN),
            own_isn.unwrap_or(segment.seq),
            segment.seq,
        );
        let ack = segment.flags.has(Flags::ACK).then_some(segment.ack);
        Placed {
            segment,
            sent,
            start,
            end: start + u64::from(segment.len()),
            ack: ack
                .zip(other_isn)
                .map(|(ack, isn)| place(other_near.max(ORIGIN), isn, ack)),
        }
    }

    /// Takes a segment in.
    pub fn apply(&mut self, placed: &Placed, config: &Config) {
        if placed.sent {
            self.apply_sent(placed);
        } else {
            self.apply_received(placed, config);
        }
        self.last_seen = placed.segment.time;
    }

    fn apply_sent(&mut self, placed: &Placed) {
        let (segment, now) = (placed.segment, placed.segment.time);
        if segment.flags.has(Flags::RST) {
            self.reset.get_or_insert(Reset {
                time: now,
                by_host: true,
            });
            return;
        }
        let output = &mut self.output;
        if segment.flags.has(Flags::SYN) {
            if output.isn.is_none() {
                output.isn = Some(segment.seq);
                output.una.push(now, ORIGIN);
            }
            output.syn = segment.options.clone();
            output.syn_flags = segment.flags;
            output.syn_count += 1;
        }
        if placed.end > placed.start {
            output.transmitted(placed.start, placed.end, now);
            output.last_sent = now;
        }
        if let Some(fin) = placed.fin() {
            output.fin.get_or_insert(fin);
        }
        output.max = output.max.max(placed.end);
        if let Some(ack) = placed.ack {
            let window = self.window(placed);
            let input = &mut self.input;
            if ack > input.acked() || input.acked.last().is_none() {
                input.acked.push(now, ack);
            }
            input.last_edge = ack + window;
            input.edge = input.edge.max(ack + window);
            input.largest_window = input.largest_window.max(window);
            input.twice.remove_below(ack.saturating_sub(1 << 26));
        }
    }

    fn apply_received(&mut self, placed: &Placed, config: &Config) {
        let (segment, now) = (placed.segment, placed.segment.time);
        if segment.flags.has(Flags::RST) {
            // RFC 5961 section 3.2, and in SYN-SENT RFC 9293 section 3.10.7.3.
            let exact = if self.input.irs.is_some() {
                let possible = self.input.next.since(now.saturating_sub(config.lag));
                let lowest = possible.min().unwrap_or(ORIGIN).min(self.input.acked());
                (lowest..=self.input.next()).contains(&placed.start)
            } else {
                placed
                    .ack
                    .is_some_and(|ack| ack > ORIGIN && ack <= self.output.max)
            };
            if exact {
                self.reset.get_or_insert(Reset {
                    time: now,
                    by_host: false,
                });
            }
            return;
        }
        if segment.flags.has(Flags::SYN) && self.input.irs.is_none() {
            self.input.irs = Some(segment.seq);
            self.input.syn = segment.options.clone();
            self.input.syn_flags = segment.flags;
        }
        if self.input.irs.is_none() || segment.flags.has(Flags::SYN) && placed.start != ORIGIN {
            return;
        }
        match self.rejects(placed) {
            Some(rule) if !segment.flags.has(Flags::SYN) => {
                if placed.end > placed.start {
                    let (start, end) = (placed.start, placed.end);
                    // What is not taken has arrived all the same, and may be reported as a duplicate.
                    self.input.note_repeated(start, end);
                    self.input.rejected.push(Rejected { start, end, rule });
                }
                return;
            }
            _ => {}
        }
        self.take_timestamp(placed);
        self.take_acknowledgment(placed);
        let input = &mut self.input;
        if placed.end > placed.start {
            input.note_repeated(placed.start, placed.end);
            input.received.insert(placed.start, placed.end);
            let next = input
                .received
                .containing(ORIGIN)
                .map_or(ORIGIN, |range| range.1);
            if next > input.next() || input.next.last().is_none() {
                input.next.push(now, next);
            }
            input.largest_segment = input.largest_segment.max(segment.payload.len() as u64);
        }
        if let Some(fin) = placed.fin() {
            input.fin.get_or_insert(fin);
        }
        input
            .recent
            .push_back((now, placed.start, placed.data_end()));
        while input
            .recent
            .front()
            .is_some_and(|(then, ..)| *then + MEMORY < now)
        {
            input.recent.pop_front();
        }
    }

    /// Why the host must not take what a segment brings.
    fn rejects(&self, placed: &Placed) -> Option<&'static Rule> {
        self.input.acked.last()?;
        if self.timestamps()
            && let Some((value, _)) = placed.segment.options.timestamps
            && let Some(recent) = self.input.ts_recent.last()
            // Hosts may allow for one tick of a coarse clock.
            && recent.wrapping_sub(value).cast_signed() > 1
        {
            return Some(&crate::rules::timestamps::PAWS);
        }
        let ack = placed.ack?;
        let lowest = self
            .output
            .una()
            .saturating_sub(self.output.largest_window.max(65535));
        (ack > self.output.max || ack < lowest).then_some(&crate::rules::reset::BLIND_DATA)
    }

    fn take_timestamp(&mut self, placed: &Placed) {
        let Some((value, _)) = placed.segment.options.timestamps else {
            return;
        };
        let now = placed.segment.time;
        let syn = placed.segment.flags.has(Flags::SYN);
        let input = &mut self.input;
        if !syn && placed.start > input.next() {
            return;
        }
        input.ts_possible.push_back((now, value));
        while input.ts_possible.len() > 4096 {
            input.ts_possible.pop_front();
        }
        // Certain only where the segment is acceptable and begins no later than Last.ACK.sent. A repeated SYN is not.
        let acked = input.acked.last();
        let brings_new = placed.end > input.next() && placed.start < input.edge;
        let first = syn && input.ts_recent.last().is_none();
        let certain = first || acked.is_some_and(|acked| placed.start <= acked && brings_new);
        let newer = input
            .ts_recent
            .last()
            .is_none_or(|recent| value.wrapping_sub(recent).cast_signed() > 0);
        if certain && newer {
            input.ts_recent.push(now, value);
        }
    }

    fn take_acknowledgment(&mut self, placed: &Placed) {
        let (Some(ack), now) = (placed.ack, placed.segment.time) else {
            return;
        };
        let window = self.window(placed);
        let output = &mut self.output;
        let una = output.una();
        if ack > output.max {
            return;
        }
        let outstanding = output.max > una;
        if ack > una {
            // Part of what was outstanding when a retransmission was made: the next hole shows.
            let partial = output.transmissions.range(ack..).next().is_some();
            output.acknowledged(ack, now);
            if partial && output.transmission(ack).is_some() {
                output.evidence_if_recovering(now);
            }
        } else if ack == una && outstanding && placed.segment.is_empty() {
            output.evidence = Some(now);
        }
        let isn = output.isn.unwrap_or(0);
        for (start, end) in &placed.segment.options.sack {
            let (start, end) = (place(output.max, isn, *start), place(output.max, isn, *end));
            if end <= output.una() || output.sacked.covers(start, end) && ack > start {
                output.duplicate_reported = Some(now);
            } else if start >= output.una() && end <= output.max {
                let before = output.sacked.total();
                output.sacked.insert(start, end);
                output.delivered += output.sacked.total() - before;
            }
            output.evidence = Some(now);
        }
        if ack >= una {
            output.edge.push(now, ack + window);
            output.largest_window = output.largest_window.max(window);
        } else {
            // Older than another that came before it: its window may only be taken by a host that saw it first.
            let furthest = output.edge.last().unwrap_or(0).max(ack + window);
            output.edge.push(now, furthest);
        }
    }
}

impl Output {
    /// A partial acknowledgment is a reason to retransmit what follows it, but only in a recovery: something
    /// outstanding was sent twice, or was until this acknowledgment.
    fn evidence_if_recovering(&mut self, now: Time) {
        let recently = self.evidence.is_some_and(|then| then + MEMORY > now);
        if recently || self.transmissions.values().any(|sent| sent.count > 1) {
            self.evidence = Some(now);
        }
    }
}
