//! How connections are set up.

use core::time::Duration;

use super::congestion::Algorithm;

/// Keep-alive probes, RFC 9293 section 3.8.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Between probes that are not answered.
    pub interval: Duration,
    /// Probes that are not answered before the connection is given up.
    pub probes: u8,
}

/// How connections are set up. Shared by many, given when one is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "switches that a program may set one by one"
)]
pub struct Settings {
    /// The largest segment that the link can bring: its MTU without IP and TCP headers.
    pub mss: u16,
    /// The most that may be received and not read, in bytes. Decides the window scale.
    pub receive_limit: u32,
    /// The most that may be written and not acknowledged, in bytes.
    pub send_limit: u32,
    /// Congestion control.
    pub algorithm: Algorithm,
    /// Offer and accept window scaling and timestamps (RFC 7323).
    pub timestamps: bool,
    /// Offer and accept SACK (RFC 2018).
    pub sack: bool,
    /// Offer and accept ECN (RFC 3168).
    pub ecn: bool,
    /// Small writes leave at once (RFC 9293 section 3.7.4, the Nagle algorithm, is off).
    pub nodelay: bool,
    /// How long an acknowledgement may wait for company, 500 ms at most (RFC 9293 section 3.8.6.3). A peer's smallest
    /// retransmission timeout is 200 ms; 40 ms are usual.
    pub ack_delay: Duration,
    /// Keep-alive probes.
    pub keepalive: Option<KeepAlive>,
    /// RFC 9293 section 3.8.3: how long sent data may stay unacknowledged.
    pub user_timeout: Option<Duration>,
    /// How long the handshake may take.
    pub handshake_timeout: Duration,
    /// How long the peer may take to close its direction after this end has closed both (FIN-WAIT-2 of an orphan).
    pub linger: Duration,
    /// 2 MSL.
    pub time_wait: Duration,
    /// Search for the path MTU with probes (RFC 8899).
    pub probe_mtu: bool,
}
