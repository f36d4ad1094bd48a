//! Frames waiting to leave.
//!
//! All frames lie one behind the other in one buffer, so that a driver can hand them over in one call and nothing is
//! allocated per frame. The buffer grows up to a limit; it is empty again, and starts from its beginning, each time
//! the driver has taken everything, which is the rule.
//!
//! This is also where offloads are written into the frame's header: the incomplete checksum, and the segmentation of
//! TCP. For IPv4 the protocol hands over long segments itself. For IPv6 it cannot, so here segments that follow each other
//! are joined to what the protocol should have said at once (the reverse of what the link will do).

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::Range;

use kiln_abi::NetHeader;

use crate::config::Offloads;
use crate::frame::{ETHERNET_HEADER, Segment, pseudo_sum};

const TCP: u8 = 6;
const TCP_CHECKSUM: usize = 16;
/// Ethernet, IPv6 and TCP headers without options.
const PLAIN6: usize = ETHERNET_HEADER + 40 + 20;

/// Frames waiting to leave, oldest first.
pub(crate) struct Queue {
    bytes: Vec<u8>,
    frames: Vec<(NetHeader, Range<usize>)>,
    end: usize,
    limit: usize,
    longest: usize,
    offloads: Offloads,
}

impl Queue {
    /// A queue of at most `limit` bytes (but room for at least one frame) and frames of at most `longest` bytes.
    pub(crate) fn new(limit: usize, longest: usize, offloads: Offloads) -> Self {
        Self {
            bytes: Vec::new(),
            frames: Vec::new(),
            end: 0,
            limit: limit.max(longest),
            longest,
            offloads,
        }
    }

    /// True if a frame of any length fits.
    pub(crate) fn has_room(&self) -> bool {
        self.limit - self.end >= self.longest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How many bytes wait.
    pub(crate) fn len(&self) -> usize {
        self.end
    }

    /// Appends a frame of `len` bytes that `fill` writes. `segment` is the payload of each segment if the link shall
    /// cut it. The caller has asked whether there is room.
    pub(crate) fn push<R>(
        &mut self,
        len: usize,
        segment: Option<u16>,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        let range = self.end..self.end + len;
        if self.bytes.len() < range.end {
            self.bytes.resize(range.end, 0);
        }
        let result = fill(&mut self.bytes[range.clone()]);
        let header = if self.offloads.checksum {
            offload(&mut self.bytes[range.clone()], segment)
        } else {
            NetHeader::PLAIN
        };
        let joined = self.offloads.tso6 && segment.is_none() && self.join(&header, range.clone());
        if !joined {
            self.end = range.end;
            self.frames.push((header, range));
        }
        result
    }

    /// Appends the payload of the TCP segment in `range` to the last frame if it continues that.
    fn join(&mut self, header: &NetHeader, range: Range<usize>) -> bool {
        let Some((last_header, last)) = self.frames.last_mut() else {
            return false;
        };
        let (before, after) = self.bytes.split_at_mut(range.start);
        let old = &mut before[last.clone()];
        let new = &after[..range.len()];
        let Some(payload) = continues(last_header, old, header, new) else {
            return false;
        };
        let flags = new[PLAIN6 - 7];
        let segment = match last_header.gso_type {
            NetHeader::GSO_NONE => old.len() - PLAIN6,
            _ => usize::from(last_header.gso_size),
        };
        last_header.gso_type = NetHeader::GSO_TCPV6;
        last_header.gso_size = segment as u16;
        last_header.hdr_len = PLAIN6 as u16;
        self.bytes
            .copy_within(range.end - payload..range.end, last.end);
        last.end += payload;
        self.end = last.end;
        let frame = &mut self.bytes[last.clone()];
        let tcp_length = frame.len() - ETHERNET_HEADER - 40;
        frame[PLAIN6 - 7] |= flags;
        frame[ETHERNET_HEADER + 4..][..2].copy_from_slice(&(tcp_length as u16).to_be_bytes());
        write_pseudo_sum(frame, ETHERNET_HEADER + 40);
        true
    }

    /// Shows all frames to `send`, which returns how many of them, from the first, need not be kept.
    pub(crate) fn drain(&mut self, send: impl FnOnce(&Frames<'_>) -> usize) -> Drained {
        let taken = send(&Frames { queue: self }).min(self.frames.len());
        let bytes = self.frames.drain(..taken).map(|(_, range)| range.len());
        let drained = Drained {
            frames: taken,
            bytes: bytes.sum(),
        };
        match self.frames.first() {
            None => self.end = 0,
            Some((_, first)) => {
                let start = first.start;
                self.bytes.copy_within(start..self.end, 0);
                self.end -= start;
                for (_, range) in &mut self.frames {
                    *range = range.start - start..range.end - start;
                }
            }
        }
        drained
    }
}

/// What was taken out of a queue.
pub(crate) struct Drained {
    pub frames: usize,
    pub bytes: usize,
}

/// The frames that are ready to leave, oldest first, as [`Stack::transmit`](crate::Stack::transmit) shows them.
pub struct Frames<'a> {
    queue: &'a Queue,
}

impl Frames<'_> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.queue.frames.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.queue.frames.is_empty()
    }

    /// One of them, with its offload metadata; `None` beyond the last. The bytes stay where they are until
    /// `transmit` returns.
    pub fn get(&self, index: usize) -> Option<(NetHeader, &[u8])> {
        let (header, range) = self.queue.frames.get(index)?;
        Some((*header, &self.queue.bytes[range.clone()]))
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (NetHeader, &[u8])> {
        self.queue
            .frames
            .iter()
            .map(|(header, range)| (*header, &self.queue.bytes[range.clone()]))
    }
}

/// Where a frame's TCP header starts, if it has one. Only frames made here are asked: no options in IPv4 headers,
/// no extension headers, no fragments of TCP.
fn tcp_header(frame: &[u8]) -> Option<usize> {
    let protocol = |at: usize| frame.get(ETHERNET_HEADER + at) == Some(&TCP);
    match frame.get(12..14)? {
        [0x08, 0x00] if protocol(9) => Some(ETHERNET_HEADER + 20),
        [0x86, 0xdd] if protocol(6) => Some(ETHERNET_HEADER + 40),
        _ => None,
    }
}

/// Makes the frame's checksum the link's business, and its segmentation if `segment` is given.
fn offload(frame: &mut [u8], segment: Option<u16>) -> NetHeader {
    let Some(tcp) = tcp_header(frame).filter(|tcp| frame.len() >= tcp + 20) else {
        return NetHeader::PLAIN;
    };
    write_pseudo_sum(frame, tcp);
    let header = NetHeader {
        flags: NetHeader::NEEDS_CSUM,
        csum_start: tcp as u16,
        csum_offset: TCP_CHECKSUM as u16,
        ..NetHeader::PLAIN
    };
    match segment {
        None => header,
        Some(gso_size) => NetHeader {
            gso_type: if tcp == ETHERNET_HEADER + 20 {
                NetHeader::GSO_TCPV4
            } else {
                NetHeader::GSO_TCPV6
            },
            hdr_len: (tcp + usize::from(frame[tcp + 12] >> 4) * 4) as u16,
            gso_size,
            ..header
        },
    }
}

fn write_pseudo_sum(frame: &mut [u8], tcp: usize) {
    let length = frame.len() - tcp;
    let address4 = |at: usize| {
        let bytes = [frame[at], frame[at + 1], frame[at + 2], frame[at + 3]];
        IpAddr::from(Ipv4Addr::from(bytes))
    };
    let address6 = |at: usize| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&frame[at..at + 16]);
        IpAddr::from(Ipv6Addr::from(bytes))
    };
    let sum = if tcp == ETHERNET_HEADER + 20 {
        pseudo_sum(address4(tcp - 8), address4(tcp - 4), TCP, length)
    } else {
        pseudo_sum(address6(tcp - 32), address6(tcp - 16), TCP, length)
    };
    frame[tcp + TCP_CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
}

/// The bytes of payload with which the segment `new` continues the frame `old`, if the link's segmentation of the two
/// together would give back the two: same connection, same acknowledgement and window, no options, no flag in the
/// middle, all segments but the last equally long.
fn continues(
    old_header: &NetHeader,
    old: &[u8],
    new_header: &NetHeader,
    new: &[u8],
) -> Option<usize> {
    let tcp = ETHERNET_HEADER + 40;
    let both_plain = |frame: &[u8]| frame.len() > PLAIN6 && frame[tcp + 12] == 5 << 4;
    let at = |csum_start: u16| usize::from(csum_start) == tcp;
    if !at(old_header.csum_start) || !at(new_header.csum_start) {
        return None;
    }
    if !both_plain(old) || !both_plain(new) {
        return None;
    }
    let payload = new.len() - PLAIN6;
    let old_payload = old.len() - PLAIN6;
    let segment = match old_header.gso_type {
        NetHeader::GSO_NONE => old_payload,
        _ => usize::from(old_header.gso_size),
    };
    let number = |frame: &[u8]| {
        u32::from_be_bytes([
            frame[tcp + 4],
            frame[tcp + 5],
            frame[tcp + 6],
            frame[tcp + 7],
        ])
    };
    // Ethernet header and IPv6 up to the length; next header to the ports; acknowledgement and data offset; window.
    let same = |range: Range<usize>| old[range.clone()] == new[range];
    let fits = old_payload.is_multiple_of(segment)
        && payload <= segment
        && u16::try_from(old.len() + payload - ETHERNET_HEADER).is_ok()
        && same(0..ETHERNET_HEADER + 4)
        && same(ETHERNET_HEADER + 6..tcp + 4)
        && same(tcp + 8..tcp + 13)
        && same(tcp + 14..tcp + 16)
        && number(new) == number(old).wrapping_add(old_payload as u32)
        && old[tcp + 13] == Segment::ACK
        && new[tcp + 13] & (Segment::SYN | Segment::RST) == 0;
    fits.then_some(payload)
}
