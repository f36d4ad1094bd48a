//! The direction from the tested host: what it has sent, and what of that has come back.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{History, MEMORY};
use crate::Config;
use crate::ranges::{ORIGIN, Place, Ranges};
use crate::segment::{Flags, Options, Time};

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

    pub(super) fn transmitted(&mut self, start: Place, end: Place, now: Time) {
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

    pub(super) fn acknowledged(&mut self, ack: Place, now: Time) {
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

    /// A partial acknowledgment is a reason to retransmit what follows it, but only in a recovery: something
    /// outstanding was sent twice, or was until this acknowledgment.
    pub(super) fn evidence_if_recovering(&mut self, now: Time) {
        let recently = self.evidence.is_some_and(|then| then + MEMORY > now);
        if recently || self.transmissions.values().any(|sent| sent.count > 1) {
            self.evidence = Some(now);
        }
    }
}
