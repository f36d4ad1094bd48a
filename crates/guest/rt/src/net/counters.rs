//! What the network stack counts, for the host to read.
//!
//! The stack counts for itself; here its numbers are copied to where the monitor looks, when the guest is about to sleep,
//! and now and then while it is busy. So they are exact when nothing happens, never much older than [`INTERVAL`], and cost
//! nothing per frame.

use alloc::boxed::Box;
use core::time::Duration;

use kiln_abi::Instant;
use kiln_abi::metrics::{Net, NetBlock};
use kiln_net::Link;

use crate::{metrics, task};

/// How old the numbers of a busy guest may be.
const INTERVAL: Duration = Duration::from_millis(100);

/// The block of one link.
pub(super) struct Counters {
    block: &'static NetBlock,
    /// The stack's own numbers are in it too.
    is_first: bool,
    published: Instant,
}

impl Counters {
    /// For the link with this device number. Nothing if nobody can read counters.
    pub(super) fn new(device: u32, is_first: bool) -> Option<Self> {
        let block = Box::leak(Box::new(if is_first {
            NetBlock::new(device)
        } else {
            NetBlock::of_link(device)
        }));
        metrics::register(block).ok()?;
        Some(Self {
            block,
            is_first,
            published: Instant::ZERO,
        })
    }

    /// Shows how much was counted until now.
    pub(super) fn publish(&mut self, link: &Link, now: Instant) {
        if !task::all_asleep() && now.since(self.published) < INTERVAL {
            return;
        }
        self.published = now;
        self.publish_link(link);
        if self.is_first {
            self.publish_stack(link);
        }
    }

    fn publish_link(&self, link: &Link) {
        let stats = link.stats();
        for (metric, value) in [
            (Net::FramesReceived, stats.frames_in),
            (Net::BytesReceived, stats.bytes_in),
            (Net::FramesSent, stats.frames_out),
            (Net::BytesSent, stats.bytes_out),
            (Net::ReceivedMalformed, stats.dropped_malformed),
            (Net::ReceivedBadChecksum, stats.dropped_checksum),
            (Net::ReceivedMartian, stats.dropped_martian),
            (Net::ReceivedUnsupported, stats.dropped_unsupported),
            (Net::SentDropped, stats.dropped_queue_full),
            (Net::FragmentsReceived, stats.fragments_in),
            (Net::Reassembled, stats.reassembled),
            (Net::ReassemblyFailed, stats.reassembly_failed),
            (Net::NeighborFailed, stats.neighbors_failed),
            (Net::IcmpReceived, stats.icmp_in),
            (Net::IcmpSent, stats.icmp_out),
        ] {
            self.block.set(metric, value);
        }
    }

    fn publish_stack(&self, link: &Link) {
        let stats = link.stack().stats();
        let first_time = stats.segments_out.saturating_sub(stats.retransmits);
        for (metric, value) in [
            (Net::UdpReceived, stats.datagrams_in),
            (Net::UdpNoPort, stats.datagrams_unwanted),
            (Net::UdpDropped, stats.dropped_udp_full),
            (Net::UdpSent, stats.datagrams_out),
            (Net::UdpSockets, stats.udp_sockets as u64),
            (Net::TcpActiveOpens, stats.connected),
            (Net::TcpPassiveOpens, stats.accepted),
            (Net::TcpAttemptFails, stats.attempts_failed),
            (Net::TcpResets, stats.established_resets),
            (Net::TcpSegmentsReceived, stats.segments_in),
            (Net::TcpSegmentsSent, first_time),
            (Net::TcpRetransmitted, stats.retransmits),
            (Net::TcpResetsSent, stats.resets_sent),
            (Net::TcpTimeouts, stats.timeouts),
            (Net::TcpRecoveries, stats.recoveries),
            (Net::TcpLossProbes, stats.probes),
            (Net::TcpSpurious, stats.undone),
            (Net::TcpOutOfOrder, stats.out_of_order),
            (Net::TcpSynsDropped, stats.backlog_overflows + stats.refused),
            (Net::TcpCookiesSent, stats.cookies_sent),
            (Net::TcpCookiesReceived, stats.cookies_accepted),
            (Net::TcpConnections, stats.connections as u64),
            (Net::TcpEstablished, stats.established as u64),
            (Net::TcpTimeWait, stats.time_wait as u64),
            (Net::BufferBytes, stats.buffer_bytes as u64),
            (Net::TcpHalfOpen, stats.half_open as u64),
            (Net::TcpResetsReceived, stats.resets_received),
            (Net::TcpDuplicates, stats.duplicates),
            (Net::TcpMemoryDropped, stats.dropped_memory),
            (Net::AddressConflicts, stats.address_conflicts),
        ] {
            self.block.set(metric, value);
        }
    }
}
