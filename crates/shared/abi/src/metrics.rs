//! Counters that a guest keeps for its monitor to read.
//!
//! A guest may have *blocks* of counters in its memory: a [`Header`], then that many 64-bit values. It says once where they
//! lie ([`Op::Metrics`](crate::Op::Metrics)) and from then on only counts. The monitor reads them when somebody asks
//! (`kiln stats --format prometheus`), at any time and without the guest's knowledge: it is the one thing that a monitor
//! reads of a guest which does not wait in a call. It never writes there, so a run does not depend on who looks.
//!
//! What the values of a block mean is fixed here, by its [kind](Header::kind): value *n* of a block of kind [`NET`] is
//! metric *n* of [`Net::ALL`]. Metrics are added behind the last one only; a reader takes as many as both sides know. A change
//! of what a value means is another [version](Header::version).
//!
//! A network stack has one block for each link. The first holds all of [`Net::ALL`]; the others end behind the values that
//! are about a link alone ([`Net::OF_LINK`]), so that sums over links are right.
//!
//! To a monitor every byte of a block is hostile; it can at worst show numbers that are not true.

use core::sync::atomic::{AtomicU64, Ordering};

/// First bytes of a [`Header`]: "KMET".
pub const MAGIC: u32 = u32::from_le_bytes(*b"KMET");

/// [`Header::version`] of the blocks described here.
pub const VERSION: u16 = 1;

/// [`Header::kind`]: the network stack, on one link.
pub const NET: u16 = 1;

/// [`Header::kind`]: system calls that a Linux program has made and that are not implemented, in [records](CallsBlock).
pub const CALLS: u16 = 2;

/// The most values of one block.
pub const MAX_VALUES: usize = 128;

/// What a block begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u32,
    /// What is counted, for example [`NET`].
    pub kind: u16,
    /// [`VERSION`].
    pub version: u16,
    /// The device that it is about.
    pub device: u32,
    /// How many values follow, at most [`MAX_VALUES`].
    pub count: u32,
}

/// Whether a value only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// It only grows.
    Counter,
    /// It is how much there is now.
    Gauge,
}

/// What one value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name, in the manner of Prometheus: units in it, and `_total` at the end of counters.
    pub name: &'static str,
    /// One sentence about it.
    pub help: &'static str,
    /// Whether it only grows.
    pub shape: Shape,
}

macro_rules! metrics {
    ($(#[$doc:meta])* $type:ident { $($variant:ident: $shape:ident $name:literal $help:literal,)* }) => {
        $(#[$doc])*
        #[allow(clippy::doc_markdown, reason = "the sentences are shown as they are")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum $type {
            $(#[doc = $help] $variant,)*
        }

        impl $type {
            /// What the values mean, in their order.
            pub const ALL: &'static [Metric] = &[$(Metric {
                name: $name,
                help: $help,
                shape: Shape::$shape,
            },)*];
        }
    };
}

metrics! {
    /// Values of a block of kind [`NET`]. Where the RFCs on management have a name for a number (4022 for TCP, 4113 for
    /// UDP, 4293 for IP), it is the same number. The first [`Net::OF_LINK`] are about one link, the others about the stack.
    Net {
        FramesReceived: Counter "received_frames_total" "Frames that the stack took from its link.",
        BytesReceived: Counter "received_bytes_total" "Bytes of those frames, link headers included.",
        FramesSent: Counter "sent_frames_total" "Frames that the stack made ready for its link; one with segmentation offload counts once.",
        BytesSent: Counter "sent_bytes_total" "Bytes of those frames, link headers included.",
        ReceivedMalformed: Counter "received_malformed_total" "Received packets dropped: headers cut short or contradicting each other.",
        ReceivedBadChecksum: Counter "received_bad_checksum_total" "Received packets dropped: wrong checksum.",
        ReceivedMartian: Counter "received_martian_total" "Received packets dropped: a source address that cannot come from outside.",
        ReceivedUnsupported: Counter "received_unsupported_total" "Received packets dropped: a protocol or fragments that the stack does not take.",
        SentDropped: Counter "sent_dropped_total" "Packets dropped on their way out: no room. Data of TCP wait instead.",
        FragmentsReceived: Counter "ip_fragments_received_total" "Fragments received.",
        Reassembled: Counter "ip_reassembled_total" "Packets put together from fragments.",
        ReassemblyFailed: Counter "ip_reassembly_failed_total" "Packets of which not all fragments came in time, or for which there was no room.",
        NeighborFailed: Counter "neighbor_failed_total" "Stations on the link that did not answer ARP or neighbor discovery.",
        IcmpReceived: Counter "icmp_received_messages_total" "ICMP and ICMPv6 messages received.",
        IcmpSent: Counter "icmp_sent_messages_total" "ICMP and ICMPv6 messages sent.",
        UdpReceived: Counter "udp_received_datagrams_total" "Datagrams given to sockets.",
        UdpNoPort: Counter "udp_no_port_total" "Datagrams to ports that nobody has bound.",
        UdpDropped: Counter "udp_dropped_datagrams_total" "Datagrams dropped because the socket had no room for them.",
        UdpSent: Counter "udp_sent_datagrams_total" "Datagrams sent.",
        UdpSockets: Gauge "udp_sockets" "UDP sockets now.",
        TcpActiveOpens: Counter "tcp_active_opens_total" "Connections opened from here.",
        TcpPassiveOpens: Counter "tcp_passive_opens_total" "Connections accepted from others: handshake complete.",
        TcpAttemptFails: Counter "tcp_attempt_fails_total" "Connections that ended before their handshake was complete.",
        TcpResets: Counter "tcp_established_resets_total" "Established connections that ended at once: a reset from either side, or no answer.",
        TcpSegmentsReceived: Counter "tcp_received_segments_total" "Segments received.",
        TcpSegmentsSent: Counter "tcp_sent_segments_total" "Segments sent, retransmitted ones not counted.",
        TcpRetransmitted: Counter "tcp_retransmitted_segments_total" "Segments sent again.",
        TcpResetsSent: Counter "tcp_sent_resets_total" "Segments sent with RST.",
        TcpTimeouts: Counter "tcp_retransmission_timeouts_total" "Times that a retransmission timer fired.",
        TcpRecoveries: Counter "tcp_fast_recoveries_total" "Times that a loss was found and repaired without a timeout.",
        TcpLossProbes: Counter "tcp_tail_loss_probes_total" "Tail loss probes sent.",
        TcpSpurious: Counter "tcp_spurious_recoveries_total" "Recoveries and timeouts that turned out not to have been needed.",
        TcpOutOfOrder: Counter "tcp_out_of_order_segments_total" "Segments received out of order.",
        TcpSynsDropped: Counter "tcp_dropped_syns_total" "Connection requests dropped: backlog or memory full.",
        TcpCookiesSent: Counter "tcp_syn_cookies_sent_total" "SYN cookies sent.",
        TcpCookiesReceived: Counter "tcp_syn_cookies_received_total" "Valid SYN cookies that came back.",
        TcpConnections: Gauge "tcp_connections" "Connections that hold state now, whatever state it is.",
        TcpEstablished: Gauge "tcp_established_connections" "Connections that are established now, or waiting for the program to close its side.",
        TcpTimeWait: Gauge "tcp_time_wait_connections" "Ended connections that are remembered now.",
        BufferBytes: Gauge "buffer_bytes" "Bytes of buffers that sockets hold now.",
        TcpHalfOpen: Gauge "tcp_half_open_connections" "Connections of listeners whose handshake is not complete now.",
        TcpResetsReceived: Counter "tcp_received_resets_total" "Segments received with RST.",
        TcpDuplicates: Counter "tcp_duplicate_segments_total" "Segments received a second time.",
        TcpMemoryDropped: Counter "tcp_memory_dropped_segments_total" "Segments dropped because memory was short.",
        AddressConflicts: Counter "address_conflicts_total" "Received frames that showed another owner of an address of this guest.",
    }
}

/// A block in a guest's memory. One thread counts in it, whoever likes reads.
#[derive(Debug)]
#[repr(C)]
pub struct Block<const COUNT: usize> {
    header: Header,
    values: [AtomicU64; COUNT],
}

impl Net {
    /// How many of the values, from the first, are about one link.
    pub const OF_LINK: usize = Self::UdpReceived as usize;
}

/// A block of kind [`NET`].
pub type NetBlock = Block<{ Net::ALL.len() }>;

impl NetBlock {
    /// A block of zeroes for the link with this number, and for the stack.
    pub const fn new(device: u32) -> Self {
        Self::with(device, Net::ALL.len())
    }

    /// A block of zeroes for the link with this number alone: its reader sees only the values [of a link](Net::OF_LINK).
    pub const fn of_link(device: u32) -> Self {
        Self::with(device, Net::OF_LINK)
    }

    const fn with(device: u32, count: usize) -> Self {
        Self {
            header: Header {
                magic: MAGIC,
                kind: NET,
                version: VERSION,
                device,
                count: count as u32,
            },
            values: [const { AtomicU64::new(0) }; Net::ALL.len()],
        }
    }

    /// Counts `more`.
    pub fn add(&self, metric: Net, more: u64) {
        let value = &self.values[metric as usize];
        // Nobody else writes: no need for the processor to see to that.
        let sum = value.load(Ordering::Relaxed).wrapping_add(more);
        value.store(sum, Ordering::Relaxed);
    }

    /// Says how much there is, for gauges and for numbers that are counted elsewhere.
    pub fn set(&self, metric: Net, value: u64) {
        self.values[metric as usize].store(value, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self, metric: Net) -> u64 {
        self.values[metric as usize].load(Ordering::Relaxed)
    }
}

const _: () = assert!(Net::ALL.len() <= MAX_VALUES);

/// Words of a record that hold a name: bytes in memory order, padded with zeroes.
const NAME_WORDS: usize = 4;
/// Words of a record: the name, then how often.
const RECORD_WORDS: usize = NAME_WORDS + 1;
/// Records of a block.
pub const CALL_RECORDS: usize = 24;

/// A block of kind [`CALLS`]: for each call a record of its name and how often it was made. A record without a name is not in use.
pub type CallsBlock = Block<{ CALL_RECORDS * RECORD_WORDS }>;

const _: () = assert!(CALL_RECORDS * RECORD_WORDS <= MAX_VALUES);

impl CallsBlock {
    /// A block without records in use.
    pub const fn of_calls() -> Self {
        Self {
            header: Header {
                magic: MAGIC,
                kind: CALLS,
                version: VERSION,
                device: 0,
                count: (CALL_RECORDS * RECORD_WORDS) as u32,
            },
            values: [const { AtomicU64::new(0) }; CALL_RECORDS * RECORD_WORDS],
        }
    }

    /// Fills a record in; a name is cut after 32 bytes, and records behind the last one are none.
    pub fn set_call(&self, record: usize, name: &str, count: u64) {
        let Some(values) = self.values.chunks_exact(RECORD_WORDS).nth(record) else {
            return;
        };
        for (at, value) in values.iter().take(NAME_WORDS).enumerate() {
            let mut word = [0; 8];
            let rest = name.as_bytes().get(at * 8..).unwrap_or_default();
            for (to, from) in word.iter_mut().zip(rest) {
                *to = *from;
            }
            value.store(u64::from_ne_bytes(word), Ordering::Relaxed);
        }
        if let Some(value) = values.last() {
            value.store(count, Ordering::Relaxed);
        }
    }
}

/// The records in the values of a block of kind [`CALLS`] that are in use: the bytes of the name, padded with zeroes, and how often. What is not a name of
/// lower-case letters, digits and underscores is left out.
pub fn calls(values: &[u64]) -> impl Iterator<Item = ([u8; NAME_WORDS * 8], u64)> {
    values.chunks_exact(RECORD_WORDS).filter_map(|record| {
        let mut name = [0; NAME_WORDS * 8];
        for (to, word) in name.chunks_exact_mut(8).zip(record) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        let len = name
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(name.len());
        let (text, rest) = name.split_at(len);
        let is_name = |&byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        let good = len > 0 && text.iter().all(is_name) && rest.iter().all(|&byte| byte == 0);
        good.then(|| (name, record.last().copied().unwrap_or(0)))
    })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn names_are_in_the_manner_of_prometheus() {
        for (index, metric) in Net::ALL.iter().enumerate() {
            let is_counter = metric.shape == Shape::Counter;
            assert_eq!(metric.name.ends_with("_total"), is_counter, "{metric:?}");
            let fits = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            assert!(metric.name.bytes().all(fits), "{metric:?}");
            assert!(metric.help.ends_with('.'), "{metric:?}");
            let first = Net::ALL.iter().position(|other| other.name == metric.name);
            assert_eq!(first, Some(index), "{metric:?}");
        }
    }

    #[test]
    fn records_of_calls_are_read_as_they_were_written() {
        let block = CallsBlock::of_calls();
        block.set_call(0, "fork", 3);
        block.set_call(2, "a_name_that_is_far_longer_than_names_are", 1);
        block.set_call(3, "With Capitals", 9);
        block.set_call(CALL_RECORDS, "behind", 1);
        let values: Vec<u64> = block
            .values
            .iter()
            .map(|value| value.load(Ordering::Relaxed))
            .collect();
        let read: Vec<_> = calls(&values).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((&read[0].0[..5], read[0].1), (&b"fork\0"[..], 3));
        assert_eq!(&read[1].0, b"a_name_that_is_far_longer_than_n");
        assert_eq!(calls(&[1, 2, 3]).count(), 0);
    }

    #[test]
    fn values_lie_where_their_number_says() {
        let block = NetBlock::new(3);
        block.add(Net::FramesSent, 2);
        block.add(Net::FramesSent, 3);
        block.set(Net::BufferBytes, 7);
        assert_eq!(block.get(Net::FramesSent), 5);
        assert_eq!(block.get(Net::BufferBytes), 7);
        assert_eq!(core::mem::offset_of!(NetBlock, values), 16);
        assert_eq!(Net::AddressConflicts as usize + 1, Net::ALL.len());
        assert_eq!(block.header.count as usize, Net::ALL.len());
        assert_eq!(NetBlock::of_link(3).header.count, Net::IcmpSent as u32 + 1);
    }
}
