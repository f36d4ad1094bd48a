//! Counters of a stack.
//!
//! They only grow, except those that say "now". Nothing in the stack depends on them.
//!
//! Each link counts its frames and what the internet protocols do on it; the stack counts what TCP and UDP do. A snapshot
//! costs the same however many connections there are.

use crate::tcp::Counters;

/// What a stack has seen and done. A snapshot, taken by [`Stack::stats`](crate::Stack::stats) of everything, by
/// [`Link::stats`](crate::Link::stats) of one link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Frames handed in by the driver.
    pub frames_in: u64,
    /// Bytes of those frames.
    pub bytes_in: u64,
    /// Frames made ready for the driver. A frame with segmentation offload counts once.
    pub frames_out: u64,
    /// Bytes of those frames.
    pub bytes_out: u64,
    /// Received frames dropped: headers cut short or contradicting each other.
    pub dropped_malformed: u64,
    /// Received frames dropped: wrong transport checksum.
    pub dropped_checksum: u64,
    /// Received frames dropped: a source address that cannot come from outside (RFC 1122 section 3.2.1.3), or a
    /// loopback destination.
    pub dropped_martian: u64,
    /// Received frames dropped: fragments of TCP segments, fragments beyond the reassembly limit, transport protocols
    /// behind IPv6 extension headers.
    pub dropped_unsupported: u64,
    /// Frames dropped because the outgoing queue was full: TCP's wait instead.
    pub dropped_queue_full: u64,
    /// Received segments dropped: memory was short, and the connection had unread data.
    pub dropped_memory: u64,
    /// Received datagrams dropped: the socket's buffer was full.
    pub dropped_udp_full: u64,
    /// TCP segments received, as they were on the wire.
    pub segments_in: u64,
    /// TCP segments sent, as they are on the wire.
    pub segments_out: u64,
    /// Of those: sent again.
    pub retransmits: u64,
    /// Retransmission timeouts.
    pub timeouts: u64,
    /// Losses found and repaired without a timeout.
    pub recoveries: u64,
    /// Recoveries and timeouts that turned out not to have been needed.
    pub undone: u64,
    /// Tail-loss probes sent.
    pub probes: u64,
    /// Segments received that lay behind a gap.
    pub out_of_order: u64,
    /// Duplicate segments received.
    pub duplicates: u64,
    /// Segments received with RST.
    pub resets_received: u64,
    /// Segments sent with RST.
    pub resets_sent: u64,
    /// Connections accepted by listeners: handshake complete.
    pub accepted: u64,
    /// Connections opened from here: handshake complete or not.
    pub connected: u64,
    /// Connections that ended before their handshake was complete.
    pub attempts_failed: u64,
    /// Established connections that ended at once: reset by either side, or given up.
    pub established_resets: u64,
    /// Connections not let in, or not opened, because the memory for them was used up.
    pub refused: u64,
    /// SYNs ignored because too many complete connections waited to be accepted.
    pub backlog_overflows: u64,
    /// SYNs answered with a cookie (RFC 4987).
    pub cookies_sent: u64,
    /// Connections made of a cookie that came back.
    pub cookies_accepted: u64,
    /// How often memory was short and load was shed.
    pub memory_shortages: u64,
    /// Connections that no program held any more, dropped because memory was short.
    pub lingering_dropped: u64,
    /// TCP connections now, in whatever state but TIME-WAIT.
    pub connections: usize,
    /// Of those: opened or accepted by the program, and not yet dropped by it.
    pub open: usize,
    /// Of those: established, or closed by the peer alone.
    pub established: usize,
    /// Of those: in the hands of a listener, handshake not complete.
    pub half_open: usize,
    /// Of those: complete, not accepted by the program yet.
    pub queued: usize,
    /// Of those: dropped by the program, still finishing the closing handshake.
    pub lingering: usize,
    /// Ended connections that are remembered now (TIME-WAIT). They hold no buffers.
    pub time_wait: usize,
    /// Datagrams given to sockets.
    pub datagrams_in: u64,
    /// Datagrams sent by sockets.
    pub datagrams_out: u64,
    /// Received datagrams for ports that nobody has bound.
    pub datagrams_unwanted: u64,
    /// UDP sockets now.
    pub udp_sockets: usize,
    /// Bytes of buffers held by TCP and UDP sockets now.
    pub buffer_bytes: usize,
    /// Received frames that showed another owner of an address of ours.
    pub address_conflicts: u64,
    /// Neighbours that did not answer when they were looked for, or no longer.
    pub neighbors_failed: u64,
    /// Neighbours that were not looked for because the table of neighbours was full.
    pub neighbors_refused: u64,
    /// ICMP and `ICMPv6` messages received.
    pub icmp_in: u64,
    /// ICMP and `ICMPv6` messages sent.
    pub icmp_out: u64,
    /// ICMP errors received.
    pub icmp_errors_in: u64,
    /// ICMP errors sent.
    pub icmp_errors_out: u64,
    /// ICMP errors not sent because there were too many.
    pub icmp_errors_limited: u64,
    /// Fragments received.
    pub fragments_in: u64,
    /// Datagrams sent in fragments.
    pub fragmented: u64,
    /// Datagrams put together from received fragments.
    pub reassembled: u64,
    /// Received datagrams given up: fragments missing, overlapping, or too many.
    pub reassembly_failed: u64,
}

impl Stats {
    /// Adds what a link has counted.
    pub(crate) fn add_link(&mut self, link: &Self) {
        self.frames_in += link.frames_in;
        self.bytes_in += link.bytes_in;
        self.frames_out += link.frames_out;
        self.bytes_out += link.bytes_out;
        self.dropped_malformed += link.dropped_malformed;
        self.dropped_checksum += link.dropped_checksum;
        self.dropped_martian += link.dropped_martian;
        self.dropped_unsupported += link.dropped_unsupported;
        self.dropped_queue_full += link.dropped_queue_full;
        self.address_conflicts += link.address_conflicts;
        self.neighbors_failed += link.neighbors_failed;
        self.neighbors_refused += link.neighbors_refused;
        self.icmp_in += link.icmp_in;
        self.icmp_out += link.icmp_out;
        self.icmp_errors_in += link.icmp_errors_in;
        self.icmp_errors_out += link.icmp_errors_out;
        self.icmp_errors_limited += link.icmp_errors_limited;
        self.fragments_in += link.fragments_in;
        self.fragmented += link.fragmented;
        self.reassembled += link.reassembled;
        self.reassembly_failed += link.reassembly_failed;
    }

    /// Adds what has happened to a connection between two looks at its counters.
    #[inline]
    pub(crate) fn add_tcp(&mut self, before: &Counters, after: &Counters) {
        if before != after {
            self.add_events(before, after);
        }
    }

    #[cold]
    fn add_events(&mut self, before: &Counters, after: &Counters) {
        let more = |before: u32, after: u32| u64::from(after.wrapping_sub(before));
        self.retransmits += more(before.retransmits, after.retransmits);
        self.timeouts += more(before.timeouts, after.timeouts);
        self.recoveries += more(before.recoveries, after.recoveries);
        self.undone += more(before.undone, after.undone);
        self.probes += more(before.probes, after.probes);
        self.out_of_order += more(before.out_of_order, after.out_of_order);
        self.duplicates += more(before.duplicates, after.duplicates);
    }
}
