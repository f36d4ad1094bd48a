//! A TCP segment as a plain value, with what matters of the layers below.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Time since the capture began.
pub type Time = Duration;

/// The control bits of RFC 9293 section 3.1, and the four reserved ones.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(1);
    /// Synchronize sequence numbers.
    pub const SYN: Self = Self(2);
    /// Reset the connection.
    pub const RST: Self = Self(4);
    /// Push.
    pub const PSH: Self = Self(8);
    /// The acknowledgment field counts.
    pub const ACK: Self = Self(16);
    /// The urgent pointer counts.
    pub const URG: Self = Self(32);
    /// Congestion was experienced (RFC 3168).
    pub const ECE: Self = Self(64);
    /// The congestion window is reduced (RFC 3168).
    pub const CWR: Self = Self(128);
    /// The bits without a meaning.
    pub const RESERVED: Self = Self(0xf00);

    /// All of `other` are set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Any of `other` is set.
    pub fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::ops::BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
        let set = |bit: &usize| self.0 >> bit & 1 == 1;
        let set: Vec<&str> = (0..8).filter(set).map(|bit| names[bit]).collect();
        f.write_str(&set.join(","))
    }
}

/// TCP options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum segment size (RFC 9293 section 3.7.1).
    pub mss: Option<u16>,
    /// Window scale (RFC 7323 section 2).
    pub window_scale: Option<u8>,
    /// SACK-permitted (RFC 2018 section 2).
    pub sack_permitted: bool,
    /// SACK blocks (RFC 2018 section 3): first sequence number, and the one after the last.
    pub sack: Vec<(u32, u32)>,
    /// `TSval` and `TSecr` (RFC 7323 section 3).
    pub timestamps: Option<(u32, u32)>,
    /// They could not be taken apart.
    pub malformed: bool,
    /// Their length in bytes, padding included.
    pub length: usize,
}

impl Options {
    /// Takes the options of a header apart.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut options = Self {
            length: bytes.len(),
            ..Self::default()
        };
        let mut rest = bytes;
        while let Some((&kind, after)) = rest.split_first() {
            match kind {
                0 => break,
                1 => rest = after,
                _ => {
                    let Some((body, next)) = after
                        .first()
                        .and_then(|length| usize::from(*length).checked_sub(2))
                        .and_then(|length| after[1..].split_at_checked(length))
                    else {
                        options.malformed = true;
                        break;
                    };
                    options.malformed |= !options.take(kind, body);
                    rest = next;
                }
            }
        }
        options
    }

    /// Takes one option; whether its form is right.
    fn take(&mut self, kind: u8, body: &[u8]) -> bool {
        let word = |at: usize| {
            body[at..at + 4]
                .iter()
                .fold(0u32, |word, byte| word << 8 | u32::from(*byte))
        };
        match (kind, body.len()) {
            (2, 2) => self.mss = Some(u16::from_be_bytes([body[0], body[1]])),
            (3, 1) => self.window_scale = Some(body[0]),
            (4, 0) => self.sack_permitted = true,
            (5, 8 | 16 | 24 | 32) => {
                self.sack = (0..body.len() / 8)
                    .map(|block| (word(block * 8), word(block * 8 + 4)))
                    .collect();
            }
            (8, 8) => self.timestamps = Some((word(0), word(4))),
            (2..=5 | 8, _) => return false,
            _ => {}
        }
        true
    }
}

/// The ECN field of the IP header (RFC 3168 section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codepoint {
    /// Not ECN-capable.
    #[default]
    NotEct,
    /// ECN-capable, ECT(1).
    Ect1,
    /// ECN-capable, ECT(0).
    Ect0,
    /// Congestion experienced.
    Ce,
}

/// A TCP segment in an IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Number of its frame in the capture, from one.
    pub frame: usize,
    /// When it was captured.
    pub time: Time,
    /// Source address and port.
    pub from: SocketAddr,
    /// Destination address and port.
    pub to: SocketAddr,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Control bits.
    pub flags: Flags,
    /// The window field as it stands, without scaling.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options.
    pub options: Options,
    /// Data.
    pub payload: Vec<u8>,
    /// ECN field of the IP header.
    pub ecn: Codepoint,
    /// The checksums of TCP and IP are right.
    pub checksum_ok: bool,
    /// Length of the IP packet in bytes.
    pub packet_len: usize,
}

impl Segment {
    /// SEG.LEN: data, SYN and FIN.
    pub fn len(&self) -> u32 {
        self.payload.len() as u32
            + u32::from(self.flags.has(Flags::SYN))
            + u32::from(self.flags.has(Flags::FIN))
    }

    /// It takes no sequence number.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// It does nothing but acknowledge.
    pub fn is_pure_ack(&self) -> bool {
        self.is_empty() && self.flags.has(Flags::ACK) && !self.flags.has(Flags::RST)
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "[{:?}] seq={} ack={} win={} len={}",
            self.flags,
            self.seq,
            self.ack,
            self.window,
            self.payload.len()
        )?;
        if let Some((value, echo)) = self.options.timestamps {
            write!(f, " ts={value}/{echo}")?;
        }
        for (start, end) in &self.options.sack {
            write!(f, " sack={start}-{end}")?;
        }
        Ok(())
    }
}

/// "Packet too big" of ICMP (RFC 1191) or `ICMPv6` (RFC 8201) about a TCP segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooBig {
    /// Number of its frame in the capture, from one.
    pub frame: usize,
    /// When it was captured.
    pub time: Time,
    /// Who is told.
    pub to: IpAddr,
    /// The largest packet that would pass.
    pub mtu: u32,
    /// Source of the packet it is about.
    pub quoted_from: SocketAddr,
    /// Destination of the packet it is about.
    pub quoted_to: SocketAddr,
    /// Sequence number of the packet it is about.
    pub quoted_seq: u32,
}

/// What a capture shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A TCP segment.
    Segment(Segment),
    /// An ICMP message.
    TooBig(TooBig),
}

impl Event {
    /// When it was captured.
    pub fn time(&self) -> Time {
        match self {
            Self::Segment(segment) => segment.time,
            Self::TooBig(message) => message.time,
        }
    }
}
