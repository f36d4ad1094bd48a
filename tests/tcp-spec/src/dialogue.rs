//! Writes conversations, for tests of the specification itself.
//!
//! Each call is one segment as the host's interface sees it, right in every respect; it comes back for a test to
//! change. A segment of the host that gets lost is one that the peer does not acknowledge, a segment of the peer that
//! gets lost is one that is only [skipped](Dialogue::peer_loses).
//!
//! ```text
//! use kiln_tcp_spec::dialogue::Dialogue;
//!
//! let mut talk = Dialogue::new();
//! talk.handshake();
//! talk.host(1000);
//! talk.wait(20);
//! talk.peer_acks();
//! assert!(talk.report().findings.is_empty());
//!
//! talk.wait(1);
//! talk.peer_acks().ack += 1;
//! talk.host_acks().ack += 5;
//! assert!(talk.report().counts().contains_key("ack-unreceived"));
//! ```

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::segment::{Codepoint, Event, Flags, Options, Segment, Time, TooBig};
use crate::{Config, Report, Specification};

/// What each side of a conversation keeps.
#[derive(Clone, Debug)]
pub struct Side {
    /// Its address.
    pub address: SocketAddr,
    /// Sequence number of its SYN.
    pub isn: u32,
    /// Its next sequence number.
    pub next: u32,
    /// What it has received without a hole.
    pub received: u32,
    /// Its window, unscaled as it stands in the header.
    pub window: u16,
    /// The window of its SYN, which is never scaled.
    pub syn_window: u16,
    /// The options of its SYN.
    pub syn: Options,
    /// Its clock for timestamps at the beginning.
    pub clock: u32,
    /// TS.Recent.
    pub recent: u32,
    /// ECN is in use.
    pub ecn: bool,
}

/// A conversation between the tested host and its peer.
pub struct Dialogue {
    /// The time of the next segment.
    pub now: Time,
    /// What is written until now.
    pub events: Vec<Event>,
    /// The tested host.
    pub host: Side,
    /// Its peer.
    pub peer: Side,
    /// What the specification is told.
    pub config: Config,
}

impl Default for Dialogue {
    fn default() -> Self {
        Self::new()
    }
}

/// The byte at a place of any stream.
fn byte(seq: u32) -> u8 {
    (seq.wrapping_mul(31) >> 3) as u8
}

impl Dialogue {
    /// Nothing is said yet. Sequence numbers wrap early in both directions.
    pub fn new() -> Self {
        let side = |address: &str, isn: u32, clock| Side {
            address: address.parse().expect("an address"),
            isn,
            next: isn,
            received: 0,
            window: 512,
            syn_window: 65535,
            syn: Options {
                mss: Some(1460),
                window_scale: Some(7),
                sack_permitted: true,
                timestamps: Some((clock, 0)),
                ..Options::default()
            },
            clock,
            recent: 0,
            ecn: false,
        };
        let host = side("10.0.0.1:80", 0xffff_fc00, 70_000);
        let mut config = Config::new([host.address.ip()]);
        config.lag = Duration::from_millis(10);
        Self {
            now: Duration::from_secs(1),
            events: Vec::new(),
            host,
            peer: side("10.0.0.2:4000", 0xffff_f000, 900_000),
            config,
        }
    }

    /// Lets milliseconds pass.
    pub fn wait(&mut self, milliseconds: u64) -> &mut Self {
        self.now += Duration::from_millis(milliseconds);
        self
    }

    /// A segment of either side as it should be.
    pub fn segment(
        &mut self,
        by_host: bool,
        flags: Flags,
        seq: u32,
        length: usize,
    ) -> &mut Segment {
        self.now += Duration::from_micros(10);
        let (side, other) = if by_host {
            (&mut self.host, &self.peer)
        } else {
            (&mut self.peer, &self.host)
        };
        let value = side.clock + self.now.as_millis() as u32;
        let syn = flags.has(Flags::SYN);
        let mut options = if syn {
            side.syn.clone()
        } else {
            Options::default()
        };
        options.timestamps = side
            .syn
            .timestamps
            .filter(|_| syn || other.syn.timestamps.is_some())
            .map(|_| {
                (
                    value,
                    if flags.has(Flags::ACK) {
                        side.recent
                    } else {
                        0
                    },
                )
            });
        options.length = if options.timestamps.is_some() { 12 } else { 0 };
        let segment = Segment {
            frame: self.events.len() + 1,
            time: self.now,
            from: side.address,
            to: other.address,
            seq,
            ack: if flags.has(Flags::ACK) {
                side.received
            } else {
                0
            },
            flags,
            window: if syn { side.syn_window } else { side.window },
            urgent: 0,
            options,
            payload: (0..length as u32)
                .map(|at| byte(seq.wrapping_add(at)))
                .collect(),
            ecn: if side.ecn && length > 0 {
                Codepoint::Ect0
            } else {
                Codepoint::NotEct
            },
            checksum_ok: true,
            packet_len: length + 52,
        };
        let end = seq.wrapping_add(segment.len());
        if end.wrapping_sub(side.next).cast_signed() > 0 {
            side.next = end;
        }
        self.events.push(Event::Segment(segment));
        match self.events.last_mut() {
            Some(Event::Segment(segment)) => segment,
            _ => unreachable!("just pushed"),
        }
    }

    /// The other side takes the segment said last.
    fn take(&mut self, by_host: bool) {
        let (side, other) = if by_host {
            (&self.host, &mut self.peer)
        } else {
            (&self.peer, &mut self.host)
        };
        other.received = side.next;
        if side.syn.timestamps.is_some() {
            other.recent = side.clock + self.now.as_millis() as u32;
        }
    }

    /// The peer opens, 20 ms away; the host listens.
    pub fn handshake(&mut self) -> &mut Self {
        self.peer_syn();
        self.host_syn_ack();
        self.wait(20).take(true);
        self.peer_acks();
        self.take(false);
        self
    }

    /// The host opens, the peer is 20 ms away.
    pub fn host_opens(&mut self) -> &mut Self {
        self.host_syn();
        self.wait(20).take(true);
        let isn = self.peer.isn;
        self.segment(false, Flags::SYN | Flags::ACK, isn, 0);
        self.take(false);
        self.host_acks();
        self.take(true);
        self
    }

    /// A SYN of the peer, received.
    pub fn peer_syn(&mut self) -> &mut Segment {
        let isn = self.peer.isn;
        let flags = if self.peer.ecn {
            Flags::SYN | Flags::ECE | Flags::CWR
        } else {
            Flags::SYN
        };
        self.segment(false, flags, isn, 0);
        self.take(false);
        self.last()
    }

    /// A SYN of the host.
    pub fn host_syn(&mut self) -> &mut Segment {
        let isn = self.host.isn;
        self.segment(true, Flags::SYN, isn, 0)
    }

    /// The host answers a SYN.
    pub fn host_syn_ack(&mut self) -> &mut Segment {
        let isn = self.host.isn;
        let ecn = if self.host.ecn { Flags::ECE } else { Flags(0) };
        self.segment(true, Flags::SYN | Flags::ACK | ecn, isn, 0)
    }

    /// New data of the host.
    pub fn host(&mut self, length: usize) -> &mut Segment {
        let seq = self.host.next;
        self.segment(true, Flags::ACK | Flags::PSH, seq, length)
    }

    /// Data of the host again, from so many bytes before its next.
    pub fn host_again(&mut self, before: u32, length: usize) -> &mut Segment {
        let seq = self.host.next.wrapping_sub(before);
        let segment = self.segment(true, Flags::ACK | Flags::PSH, seq, length);
        segment.ecn = Codepoint::NotEct;
        segment
    }

    /// New data of the peer, received.
    pub fn peer(&mut self, length: usize) -> &mut Segment {
        let in_order = self.peer.next == self.host.received;
        let seq = self.peer.next;
        self.segment(false, Flags::ACK | Flags::PSH, seq, length);
        if in_order {
            self.take(false);
        }
        self.last()
    }

    /// Data of the peer again; all that is missing is then there.
    pub fn peer_again(&mut self, before: u32, length: usize) -> &mut Segment {
        let seq = self.peer.next.wrapping_sub(before);
        self.segment(false, Flags::ACK | Flags::PSH, seq, length);
        self.take(false);
        self.last()
    }

    /// Data of the peer that never arrive.
    pub fn peer_loses(&mut self, length: u32) -> &mut Self {
        self.peer.next = self.peer.next.wrapping_add(length);
        self
    }

    /// The host acknowledges what it has without a hole.
    pub fn host_acks(&mut self) -> &mut Segment {
        let seq = self.host.next;
        self.segment(true, Flags::ACK, seq, 0)
    }

    /// The same with SACK blocks, as numbers of bytes before the peer's next.
    pub fn host_sacks(&mut self, blocks: &[(u32, u32)]) -> &mut Segment {
        let next = self.peer.next;
        let segment = self.host_acks();
        segment.options.sack = blocks
            .iter()
            .map(|(start, end)| (next.wrapping_sub(*start), next.wrapping_sub(*end)))
            .collect();
        segment
    }

    /// The peer acknowledges all that the host has sent.
    pub fn peer_acks(&mut self) -> &mut Segment {
        self.peer.received = self.host.next;
        self.peer.recent = self.host.clock + self.now.as_millis() as u32;
        let seq = self.peer.next;
        self.segment(false, Flags::ACK, seq, 0)
    }

    /// The peer acknowledges all but the last so many bytes.
    pub fn peer_acks_but(&mut self, missing: u32) -> &mut Segment {
        self.peer.received = self.host.next.wrapping_sub(missing);
        let seq = self.peer.next;
        self.segment(false, Flags::ACK, seq, 0)
    }

    /// The same with SACK blocks, as numbers of bytes before the host's next.
    pub fn peer_sacks(&mut self, missing: u32, blocks: &[(u32, u32)]) -> &mut Segment {
        let next = self.host.next;
        let segment = self.peer_acks_but(missing);
        segment.options.sack = blocks
            .iter()
            .map(|(start, end)| (next.wrapping_sub(*start), next.wrapping_sub(*end)))
            .collect();
        segment
    }

    /// The host closes.
    pub fn host_fin(&mut self) -> &mut Segment {
        let seq = self.host.next;
        self.segment(true, Flags::FIN | Flags::ACK, seq, 0)
    }

    /// The peer closes.
    pub fn peer_fin(&mut self) -> &mut Segment {
        let seq = self.peer.next;
        self.segment(false, Flags::FIN | Flags::ACK, seq, 0);
        self.take(false);
        self.last()
    }

    /// A RST of the host.
    pub fn host_rst(&mut self) -> &mut Segment {
        let seq = self.host.next;
        self.segment(true, Flags::RST | Flags::ACK, seq, 0)
    }

    /// A RST of the peer.
    pub fn peer_rst(&mut self) -> &mut Segment {
        let seq = self.peer.next;
        self.segment(false, Flags::RST | Flags::ACK, seq, 0)
    }

    /// A router tells the host that the data it has outstanding were too big.
    pub fn too_big(&mut self, mtu: u32) -> &mut Self {
        self.events.push(Event::TooBig(TooBig {
            frame: self.events.len() + 1,
            time: self.now,
            to: self.host.address.ip(),
            mtu,
            quoted_from: self.host.address,
            quoted_to: self.peer.address,
            quoted_seq: self.peer.received,
        }));
        self
    }

    /// The host and the peer end the connection, the host first.
    pub fn close(&mut self) -> &mut Self {
        self.host_fin();
        self.wait(20);
        self.peer_acks();
        self.peer_fin();
        self.host_acks();
        self
    }

    /// The next connection with the same addresses and ports.
    pub fn next_incarnation(&mut self, host_isn: u32) -> &mut Self {
        self.host.isn = host_isn;
        self.host.next = host_isn;
        self.peer.isn = self.peer.next.wrapping_add(100_000);
        self.peer.next = self.peer.isn;
        self
    }

    /// The segment said last.
    pub fn last(&mut self) -> &mut Segment {
        match self.events.last_mut() {
            Some(Event::Segment(segment)) => segment,
            _ => panic!("no segment was said last"),
        }
    }

    /// What the specification says of it all, some seconds later.
    pub fn report(&self) -> Report {
        let mut specification = Specification::new(self.config.clone());
        for event in &self.events {
            specification.observe(event);
        }
        specification.pass(self.now + Duration::from_secs(5));
        specification.finish()
    }

    /// Nothing is wrong with it.
    ///
    /// # Panics
    /// If something is.
    #[track_caller]
    pub fn is_right(&self) {
        let report = self.report();
        assert!(report.findings.is_empty(), "{report}");
    }

    /// A rule is broken, and no other.
    ///
    /// # Panics
    /// If it is otherwise.
    #[track_caller]
    pub fn breaks(&self, rule: &str) {
        let report = self.report();
        let names: Vec<_> = report.counts().into_keys().collect();
        assert_eq!(names, [rule], "{report}");
    }

    /// The tested host's address.
    pub fn address(&self) -> IpAddr {
        self.host.address.ip()
    }
}
