//! What a supervisor tells of its guest in numbers: for `kiln stats` and what collects metrics.

use kiln_usernet::Usernet;

use super::Supervisor;
use crate::backend::MetricBlock;
use crate::capture::Link;
use crate::control::{GuestMetrics, LinkMetrics, Metrics, Stats};

impl Supervisor<'_> {
    pub(super) fn stats(&self) -> Stats {
        let usage = self.guest.usage();
        let links = self.links();
        let bytes = |of: fn(&LinkMetrics) -> u64| {
            (!links.is_empty()).then(|| links.iter().map(of).fold(0, u64::saturating_add))
        };
        Stats {
            cpu_ns: usage.cpu_ns,
            resident: usage.resident,
            supervisor_resident: own_resident().unwrap_or(0),
            memory: self.memory,
            calls: usage.calls,
            operations: usage.operations,
            host_calls: usage.host_calls,
            net_received: bytes(|link| link.received_bytes),
            net_sent: bytes(|link| link.sent_bytes),
        }
    }

    /// What went over the links, as far as somebody counts it. For the rootless one that is the network itself.
    fn links(&self) -> Vec<LinkMetrics> {
        let usernet = self.usernet.as_deref().map(Usernet::stats);
        let counted = |link: &Link| {
            let name = link.name.clone();
            if let Some(stats) = usernet.filter(|_| self.captures.user_link() == Some(link.device))
            {
                return Some(LinkMetrics {
                    name,
                    received_frames: stats.frames_out,
                    received_bytes: stats.bytes_out,
                    sent_frames: stats.frames_in,
                    sent_bytes: stats.bytes_in,
                    dropped_frames: Some(stats.frames_dropped),
                });
            }
            let counts = self.guest.link_counts(link.device)?;
            Some(LinkMetrics {
                name,
                received_frames: counts.received_frames,
                received_bytes: counts.received_bytes,
                sent_frames: counts.sent_frames,
                sent_bytes: counts.sent_bytes,
                dropped_frames: None,
            })
        };
        let links = self.captures.links().iter();
        links.filter_map(counted).collect()
    }

    pub(super) fn metrics(&self) -> Metrics {
        let usernet = self.usernet.as_deref().map(Usernet::stats);
        let usernet = usernet.iter().flat_map(kiln_usernet::Stats::each);
        // Who says something of a link that is not there says nothing.
        let known = |block: MetricBlock| {
            if block.kind == kiln_abi::metrics::CALLS {
                return Some(GuestMetrics {
                    kind: block.kind,
                    link: String::new(),
                    values: block.values,
                });
            }
            let links = self.captures.links();
            let link = links.iter().find(|link| link.device == block.device)?;
            Some(GuestMetrics {
                kind: block.kind,
                link: link.name.clone(),
                values: block.values,
            })
        };
        let mut guest: Vec<GuestMetrics> = Vec::new();
        for told in self.guest.metrics().into_iter().filter_map(known) {
            // Nor does who says something of a link twice.
            if !guest
                .iter()
                .any(|other| (other.kind, &other.link) == (told.kind, &told.link))
            {
                guest.push(told);
            }
        }
        Metrics {
            stats: self.stats(),
            links: self.links(),
            usernet: usernet
                .map(|(name, _, value)| (name.to_owned(), value))
                .collect(),
            guest,
        }
    }
}

/// Resident memory of this process in bytes, see `proc_pid_statm(5)`.
fn own_resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * kiln_abi::PAGE_SIZE)
}
