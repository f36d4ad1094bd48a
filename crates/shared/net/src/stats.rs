//! Counters of a stack.
//!
//! They only grow, except those that say "now". Nothing in the stack depends on them.

/// What a stack has seen and done. A snapshot, taken by [`Stack::stats`](crate::Stack::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Frames handed in by the driver.
    pub frames_in: u64,
    /// Bytes of those frames.
    pub bytes_in: u64,
    /// Frames taken by the driver. A frame with segmentation offload counts once.
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
    /// Replies (to pings, to segments of no connection) dropped because the outgoing queue was full.
    pub dropped_queue_full: u64,
    /// Received segments dropped: memory was short, and the connection had unread data.
    pub dropped_memory: u64,
    /// Received datagrams dropped: the socket's buffer was full.
    pub dropped_udp_full: u64,
    /// TCP segments sent, as they are on the wire.
    pub segments_out: u64,
    /// Resets sent in answer to segments of no connection.
    pub resets_sent: u64,
    /// Connections accepted by listeners: handshake complete.
    pub accepted: u64,
    /// Connections opened from here: handshake complete or not.
    pub connected: u64,
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
    /// Of those: handshake not complete.
    pub half_open: usize,
    /// Of those: dropped by the program, still finishing the closing handshake.
    pub lingering: usize,
    /// Ended connections that are remembered now (TIME-WAIT). They hold no buffers.
    pub time_wait: usize,
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
    /// ICMP errors received.
    pub icmp_errors_in: u64,
    /// ICMP errors sent.
    pub icmp_errors_out: u64,
    /// ICMP errors not sent because there were too many.
    pub icmp_errors_limited: u64,
    /// Datagrams sent in fragments.
    pub fragmented: u64,
    /// Datagrams put together from received fragments.
    pub reassembled: u64,
    /// Received datagrams given up: fragments missing, overlapping, or too many.
    pub reassembly_failed: u64,
}
