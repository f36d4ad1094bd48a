//! What is known of one connection from the segments seen until now.
//!
//! [`Output`] is the direction from the tested host, [`Input`] the one to it. Rules look at a connection as it was before
//! a segment, then [`Connection::apply`] takes that segment in.

use std::net::SocketAddr;
use std::time::Duration;

mod history;
mod input;
mod output;

pub use history::History;
pub use input::{Input, Recent, Rejected};
pub use output::{Output, Transmission};

use crate::Config;
use crate::ranges::{ORIGIN, Place, place};
use crate::rules::Rule;
use crate::segment::{Flags, Segment, Time};

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
        let news = !input.received.covers(placed.start, placed.data_end());
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
        input.recent.push_back(Recent {
            time: now,
            start: placed.start,
            end: placed.data_end(),
            news,
        });
        let old = |one: &Recent| one.time + MEMORY < now;
        while input.recent.front().is_some_and(old) {
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
