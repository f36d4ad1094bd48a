//! Reads capture files (pcapng and pcap; Ethernet or raw IP) and takes frames apart.

use std::collections::HashMap;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError};

use crate::segment::{Codepoint, Event, Flags, Options, Segment, TooBig};

/// Larger than any frame.
const BUFFER: usize = 1 << 20;

/// Why a capture cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is no capture, or damaged.
    #[error("not a pcapng or pcap file, or damaged after frame {frames}: {reason}")]
    Malformed {
        /// Frames read until then.
        frames: usize,
        /// What the parser says.
        reason: String,
    },
    /// A link type that is not known here.
    #[error("link type {0}: only Ethernet (1) and raw IP (101, 228, 229) can be read")]
    LinkType(i32),
}

/// How frames begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// With an Ethernet header.
    Ethernet,
    /// With an IP header.
    Ip,
}

/// Reads a whole capture. Frames which hold nothing of TCP are left out.
///
/// `hosts` are the addresses of the tested host: by them its Ethernet address is learned, and what is sent to another
/// one counts as damaged, since the host must not look at it.
///
/// # Errors
/// If the file cannot be read as a capture.
pub fn read(file: impl Read + Send, hosts: &[IpAddr]) -> Result<Vec<Event>, Error> {
    let malformed = |frames: usize, reason: &dyn std::fmt::Debug| Error::Malformed {
        frames,
        reason: format!("{reason:?}"),
    };
    let mut reader =
        pcap_parser::create_reader(BUFFER, file).map_err(|error| malformed(0, &error))?;
    let mut frames = Frames::new(hosts);
    let mut events = Vec::new();
    let mut interfaces = Vec::new();
    let mut legacy = (Link::Ethernet, 1000);
    loop {
        match reader.next() {
            Ok((used, block)) => {
                match block {
                    PcapBlockOwned::LegacyHeader(header) => {
                        let unit = if header.is_nanosecond_precision() {
                            1
                        } else {
                            1000
                        };
                        legacy = (link(header.network)?, unit);
                    }
                    PcapBlockOwned::Legacy(frame) => {
                        let time = Duration::from_secs(frame.ts_sec.into())
                            + Duration::from_nanos(u64::from(frame.ts_usec) * legacy.1);
                        events.extend(frames.take(legacy.0, time, frame.data));
                    }
                    PcapBlockOwned::NG(Block::SectionHeader(_)) => interfaces.clear(),
                    PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                        let per_second = interface.ts_resolution().unwrap_or(1_000_000);
                        interfaces.push((link(interface.linktype)?, per_second));
                    }
                    PcapBlockOwned::NG(Block::EnhancedPacket(frame)) => {
                        let Some((link, per_second)) = interfaces.get(frame.if_id as usize) else {
                            return Err(malformed(
                                frames.count,
                                &"a frame of an unknown interface",
                            ));
                        };
                        let ticks = u64::from(frame.ts_high) << 32 | u64::from(frame.ts_low);
                        let nanoseconds =
                            u128::from(ticks) * 1_000_000_000 / u128::from(*per_second);
                        let time = Duration::from_nanos(nanoseconds as u64);
                        let data = &frame.data[..frame.data.len().min(frame.caplen as usize)];
                        events.extend(frames.take(*link, time, data));
                    }
                    PcapBlockOwned::NG(_) => {}
                }
                reader.consume(used);
            }
            Err(PcapError::Eof) => return Ok(events),
            Err(PcapError::Incomplete(_)) => {
                reader
                    .refill()
                    .map_err(|error| malformed(frames.count, &error))?;
            }
            Err(error) => return Err(malformed(frames.count, &error)),
        }
    }
}

fn link(kind: Linktype) -> Result<Link, Error> {
    match kind.0 {
        1 => Ok(Link::Ethernet),
        12 | 14 | 101 | 228 | 229 => Ok(Link::Ip),
        other => Err(Error::LinkType(other)),
    }
}

/// Takes frames apart, one after the other.
pub struct Frames<'a> {
    hosts: &'a [IpAddr],
    /// Frames seen.
    pub count: usize,
    started: Option<Duration>,
    /// Ethernet addresses by IP address of the tested host.
    learned: HashMap<IpAddr, [u8; 6]>,
}

impl<'a> Frames<'a> {
    /// The beginning of a capture.
    pub fn new(hosts: &'a [IpAddr]) -> Self {
        Self {
            hosts,
            count: 0,
            started: None,
            learned: HashMap::new(),
        }
    }

    /// Takes the next frame; what TCP has to do with it, if anything.
    pub fn take(&mut self, link: Link, at: Duration, frame: &[u8]) -> Option<Event> {
        self.count += 1;
        let time = at.saturating_sub(*self.started.get_or_insert(at));
        let packet = match link {
            Link::Ethernet => SlicedPacket::from_ethernet(frame),
            Link::Ip => SlicedPacket::from_ip(frame),
        };
        // What cannot be taken apart is damaged, and nobody's.
        let packet = packet.ok()?;
        let network = Network::of(packet.net.as_ref()?)?;
        match packet.transport? {
            TransportSlice::Tcp(tcp) => {
                let mut segment = segment(&network, tcp.slice())?;
                segment.frame = self.count;
                segment.time = time;
                if link == Link::Ethernet && frame.len() >= 12 {
                    segment.checksum_ok &= self.addressed(&network, frame);
                }
                Some(Event::Segment(segment))
            }
            TransportSlice::Icmpv4(icmp) => {
                let bytes = icmp.slice();
                let too_big = bytes.len() > 8 && bytes[0] == 3 && bytes[1] == 4;
                let mtu = u32::from(u16::from_be_bytes([*bytes.get(6)?, *bytes.get(7)?]));
                self.too_big(&network, time, mtu, too_big.then(|| &bytes[8..])?)
            }
            TransportSlice::Icmpv6(icmp) => {
                let bytes = icmp.slice();
                let too_big = bytes.len() > 8 && bytes[0] == 2;
                let mtu = bytes.get(4..8)?.try_into().ok()?;
                self.too_big(
                    &network,
                    time,
                    u32::from_be_bytes(mtu),
                    too_big.then(|| &bytes[8..])?,
                )
            }
            TransportSlice::Udp(_) | TransportSlice::Igmp(_) => None,
        }
    }

    /// Learns the tested host's Ethernet address from what it sends; whether a frame is for or from it.
    fn addressed(&mut self, network: &Network, frame: &[u8]) -> bool {
        let mac = |at: usize| <[u8; 6]>::try_from(&frame[at..at + 6]).expect("six bytes");
        if self.hosts.contains(&network.from) {
            self.learned.insert(network.from, mac(6));
        }
        self.learned
            .get(&network.to)
            .is_none_or(|known| *known == mac(0))
    }

    fn too_big(&self, network: &Network, time: Duration, mtu: u32, quoted: &[u8]) -> Option<Event> {
        // The quoted packet is cut short, so its lengths do not hold.
        let (from, to, tcp): (IpAddr, IpAddr, &[u8]) = match quoted.first()? >> 4 {
            4 => {
                let header = usize::from(quoted[0] & 15) * 4;
                let address = |at: usize| -> Option<IpAddr> {
                    Some(<[u8; 4]>::try_from(quoted.get(at..at + 4)?).ok()?.into())
                };
                (*quoted.get(9)? == 6).then_some(())?;
                (address(12)?, address(16)?, quoted.get(header..)?)
            }
            6 => {
                let address = |at: usize| -> Option<IpAddr> {
                    Some(<[u8; 16]>::try_from(quoted.get(at..at + 16)?).ok()?.into())
                };
                (*quoted.get(6)? == 6).then_some(())?;
                (address(8)?, address(24)?, quoted.get(40..)?)
            }
            _ => return None,
        };
        let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
        Some(Event::TooBig(TooBig {
            frame: self.count,
            time,
            to: network.to,
            mtu,
            quoted_from: SocketAddr::new(from, port(0)?),
            quoted_to: SocketAddr::new(to, port(2)?),
            quoted_seq: u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?),
        }))
    }
}

/// What matters of an IP header.
struct Network {
    from: IpAddr,
    to: IpAddr,
    ecn: Codepoint,
    length: usize,
    checksum_ok: bool,
}

impl Network {
    fn of(net: &NetSlice) -> Option<Self> {
        match net {
            NetSlice::Ipv4(ip) => {
                let header = ip.header();
                Some(Self {
                    from: header.source_addr().into(),
                    to: header.destination_addr().into(),
                    ecn: codepoint(header.slice()[1]),
                    length: header.total_len().into(),
                    checksum_ok: sum(0, header.slice()) == 0xffff,
                })
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header();
                Some(Self {
                    from: Ipv6Addr::from(header.source()).into(),
                    to: Ipv6Addr::from(header.destination()).into(),
                    ecn: codepoint(header.slice()[1] >> 4),
                    length: usize::from(header.payload_length()) + 40,
                    checksum_ok: true,
                })
            }
            NetSlice::Arp(_) => None,
        }
    }

    /// The sum over the pseudo-header (RFC 9293 section 3.1).
    fn pseudo(&self, length: usize) -> u32 {
        let addresses = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => pair(&Ipv4Addr::octets(&from), &to.octets()),
            (IpAddr::V6(from), IpAddr::V6(to)) => pair(&Ipv6Addr::octets(&from), &to.octets()),
            _ => 0,
        };
        addresses + 6 + length as u32
    }
}

fn pair(from: &[u8], to: &[u8]) -> u32 {
    sum(sum(0, from), to)
}

/// The one's complement sum of words, folded to 16 bits.
pub(crate) fn sum(start: u32, bytes: &[u8]) -> u32 {
    let mut total = u64::from(start);
    for pair in bytes.chunks(2) {
        total += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u32
}

fn codepoint(traffic_class: u8) -> Codepoint {
    match traffic_class & 3 {
        0 => Codepoint::NotEct,
        1 => Codepoint::Ect1,
        2 => Codepoint::Ect0,
        _ => Codepoint::Ce,
    }
}

fn segment(network: &Network, tcp: &[u8]) -> Option<Segment> {
    let header = usize::from(*tcp.get(12)? >> 4) * 4;
    let (head, payload) = tcp.split_at_checked(header)?;
    let short = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let word = |at: usize| u32::from(short(at)) << 16 | u32::from(short(at + 2));
    (header >= 20).then_some(())?;
    Some(Segment {
        frame: 0,
        time: Duration::ZERO,
        from: SocketAddr::new(network.from, short(0)),
        to: SocketAddr::new(network.to, short(2)),
        seq: word(4),
        ack: word(8),
        flags: Flags(short(12) & 0xfff),
        window: short(14),
        urgent: short(18),
        options: Options::parse(&head[20..]),
        payload: payload.to_vec(),
        ecn: network.ecn,
        checksum_ok: network.checksum_ok && sum(network.pseudo(tcp.len()), tcp) == 0xffff,
        packet_len: network.length,
    })
}
