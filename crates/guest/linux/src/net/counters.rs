//! `/proc/net/snmp` and `/proc/net/netstat`: what the stack has counted. What it does not count is 0, as it is on a machine where it never happens.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use kiln_net::Stats;

use super::inet::links;

/// A line of names and one of numbers.
fn write(text: &mut String, group: &str, counters: &[(&str, u64)]) {
    let _ = write!(text, "{group}:");
    for (name, _) in counters {
        let _ = write!(text, " {name}");
    }
    let _ = write!(text, "\n{group}:");
    for (name, value) in counters {
        // The one number that may be negative: no limit.
        let _ = match *name {
            "MaxConn" => write!(text, " -1"),
            _ => write!(text, " {value}"),
        };
    }
    text.push('\n');
}

/// Packets that came and left by devices, and their bytes: a frame holds one, unless it is segmented by its device.
struct Packets {
    received: u64,
    sent: u64,
    bytes_received: u64,
    bytes_sent: u64,
    bad: u64,
    dropped: u64,
}

fn packets() -> Packets {
    let mut sum = Packets {
        received: 0,
        sent: 0,
        bytes_received: 0,
        bytes_sent: 0,
        bad: 0,
        dropped: 0,
    };
    for (_, link) in links::all() {
        let stats = &link.stats;
        let (frames, bytes) = match link.index {
            0 => (stats.frames_out, stats.bytes_out),
            _ => (stats.frames_in, stats.bytes_in),
        };
        sum.received += frames;
        sum.bytes_received += bytes;
        sum.sent += stats.frames_out;
        sum.bytes_sent += stats.bytes_out;
        sum.bad += stats.dropped_malformed;
        sum.dropped += stats.dropped_queue_full;
    }
    sum
}

/// `/proc/net/snmp`
pub fn snmp() -> Vec<u8> {
    let stats = crate::kernel().network.stack().stats();
    let packets = packets();
    let mut text = String::new();
    ip(&mut text, &packets);
    icmp(&mut text);
    tcp(&mut text, &stats);
    let udp = [
        ("InDatagrams", stats.datagrams_in),
        ("NoPorts", stats.datagrams_unwanted),
        ("InErrors", stats.dropped_udp_full),
        ("OutDatagrams", stats.datagrams_out),
        ("RcvbufErrors", stats.dropped_udp_full),
        ("SndbufErrors", 0),
        ("InCsumErrors", 0),
        ("IgnoredMulti", 0),
        ("MemErrors", 0),
    ];
    write(&mut text, "Udp", &udp);
    write(&mut text, "UdpLite", &udp.map(|(name, _)| (name, 0)));
    text.into_bytes()
}

fn ip(text: &mut String, packets: &Packets) {
    let delivered = packets.received.saturating_sub(packets.bad);
    write(
        text,
        "Ip",
        &[
            // 2: it is no router.
            ("Forwarding", 2),
            ("DefaultTTL", 64),
            ("InReceives", packets.received),
            ("InHdrErrors", packets.bad),
            ("InAddrErrors", 0),
            ("ForwDatagrams", 0),
            ("InUnknownProtos", 0),
            ("InDiscards", 0),
            ("InDelivers", delivered),
            ("OutRequests", packets.sent),
            ("OutDiscards", packets.dropped),
            ("OutNoRoutes", 0),
            ("ReasmTimeout", 0),
            ("ReasmReqds", 0),
            ("ReasmOKs", 0),
            ("ReasmFails", 0),
            ("FragOKs", 0),
            ("FragFails", 0),
            ("FragCreates", 0),
            ("OutTransmits", packets.sent),
        ],
    );
}

fn icmp(text: &mut String) {
    let names = [
        "InMsgs",
        "InErrors",
        "InCsumErrors",
        "InDestUnreachs",
        "InTimeExcds",
        "InParmProbs",
        "InSrcQuenchs",
        "InRedirects",
        "InEchos",
        "InEchoReps",
        "InTimestamps",
        "InTimestampReps",
        "InAddrMasks",
        "InAddrMaskReps",
        "OutMsgs",
        "OutErrors",
        "OutRateLimitGlobal",
        "OutRateLimitHost",
        "OutDestUnreachs",
        "OutTimeExcds",
        "OutParmProbs",
        "OutSrcQuenchs",
        "OutRedirects",
        "OutEchos",
        "OutEchoReps",
        "OutTimestamps",
        "OutTimestampReps",
        "OutAddrMasks",
        "OutAddrMaskReps",
    ];
    write(text, "Icmp", &names.map(|name| (name, 0)));
}

fn tcp(text: &mut String, stats: &Stats) {
    write(
        text,
        "Tcp",
        &[
            ("RtoAlgorithm", 1),
            ("RtoMin", 200),
            ("RtoMax", 120_000),
            ("MaxConn", 0),
            ("ActiveOpens", stats.connected),
            ("PassiveOpens", stats.accepted),
            ("AttemptFails", stats.attempts_failed),
            ("EstabResets", stats.established_resets),
            ("CurrEstab", stats.established as u64),
            ("InSegs", stats.segments_in),
            (
                "OutSegs",
                stats.segments_out.saturating_sub(stats.retransmits),
            ),
            ("RetransSegs", stats.retransmits),
            ("InErrs", stats.dropped_checksum),
            ("OutRsts", stats.resets_sent),
            ("InCsumErrors", stats.dropped_checksum),
        ],
    );
}

/// `/proc/net/netstat`
pub fn netstat() -> Vec<u8> {
    let stats = crate::kernel().network.stack().stats();
    let packets = packets();
    let mut text = String::new();
    write(
        &mut text,
        "TcpExt",
        &[
            ("SyncookiesSent", stats.cookies_sent),
            ("SyncookiesRecv", stats.cookies_accepted),
            ("SyncookiesFailed", 0),
            ("EmbryonicRsts", 0),
            ("PruneCalled", stats.memory_shortages),
            ("RcvPruned", stats.dropped_memory),
            ("OfoPruned", 0),
            ("TW", 0),
            ("DelayedACKs", 0),
            ("ListenOverflows", stats.backlog_overflows),
            ("ListenDrops", stats.backlog_overflows),
            ("TCPSackRecovery", stats.recoveries),
            ("TCPFullUndo", stats.undone),
            ("TCPTimeouts", stats.timeouts),
            ("TCPLossProbes", stats.probes),
            ("TCPAbortOnData", 0),
            ("TCPAbortOnClose", 0),
            ("TCPAbortOnMemory", stats.lingering_dropped),
            ("TCPAbortOnTimeout", 0),
            ("TCPBacklogDrop", 0),
            ("TCPReqQFullDoCookies", stats.cookies_sent),
            ("TCPReqQFullDrop", 0),
            ("TCPRetransFail", 0),
            ("TCPOFOQueue", stats.out_of_order),
            ("TCPOFODrop", 0),
            ("TCPSynRetrans", 0),
            ("TCPKeepAlive", 0),
            ("TCPRcvQDrop", stats.dropped_memory),
        ],
    );
    write(
        &mut text,
        "IpExt",
        &[
            ("InNoRoutes", 0),
            ("InTruncatedPkts", 0),
            ("InMcastPkts", 0),
            ("OutMcastPkts", 0),
            ("InBcastPkts", 0),
            ("OutBcastPkts", 0),
            ("InOctets", packets.bytes_received),
            ("OutOctets", packets.bytes_sent),
            ("InMcastOctets", 0),
            ("OutMcastOctets", 0),
            ("InBcastOctets", 0),
            ("OutBcastOctets", 0),
            ("InCsumErrors", 0),
            ("InNoECTPkts", packets.received),
            ("InECT1Pkts", 0),
            ("InECT0Pkts", 0),
            ("InCEPkts", 0),
            ("ReasmOverlaps", 0),
        ],
    );
    text.into_bytes()
}
