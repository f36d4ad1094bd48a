//! Segments: what is read from a received one, and what is to be written into one that leaves.
//!
//! [`Segment`] borrows its payload from the frame. [`Outgoing`] has none: it names a range of the send buffer, which the
//! owner of the connection looks up ([`Tcb::payload`](super::Tcb::payload)) when the bytes are needed, so data are not
//! copied on their way to the link. One `Outgoing` may stand for many segments that the link cuts apart.

use core::fmt;
use core::ops::{BitOr, BitOrAssign};

use super::Seq;

/// Bytes of a header without options.
pub const HEADER: usize = 20;
/// Bytes of the longest header.
pub const MAX_HEADER: usize = 60;
/// Bytes that the timestamps option takes with its padding, RFC 7323 appendix A.
pub const TIMESTAMPS: usize = 12;

/// Control bits, RFC 9293 section 3.1.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(1);
    /// Synchronize sequence numbers.
    pub const SYN: Self = Self(2);
    /// Reset the connection.
    pub const RST: Self = Self(4);
    /// Push function.
    pub const PSH: Self = Self(8);
    /// The acknowledgement number is significant.
    pub const ACK: Self = Self(16);
    /// The urgent pointer is significant.
    pub const URG: Self = Self(32);
    /// Congestion experienced was echoed, RFC 3168.
    pub const ECE: Self = Self(64);
    /// Congestion window reduced, RFC 3168.
    pub const CWR: Self = Self(128);

    /// True if all bits of `flags` are set.
    #[inline]
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// True if any bit of `flags` is set.
    #[inline]
    pub const fn any(self, flags: Self) -> bool {
        self.0 & flags.0 != 0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for Flags {
    /// As packetdrill and tcpdump write them: `S.`, `P.`, `F.`, `R`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [
            (Self::FIN, 'F'),
            (Self::SYN, 'S'),
            (Self::RST, 'R'),
            (Self::PSH, 'P'),
            (Self::ACK, '.'),
            (Self::URG, 'U'),
            (Self::ECE, 'E'),
            (Self::CWR, 'W'),
        ];
        for (flag, letter) in letters {
            if self.has(flag) {
                fmt::Write::write_char(f, letter)?;
            }
        }
        Ok(())
    }
}

/// The two ECN bits of the IP header, RFC 3168 section 5.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ecn {
    /// Not capable of ECN.
    #[default]
    NotEct = 0,
    /// Capable, codepoint 1.
    Ect1 = 1,
    /// Capable, codepoint 0: what senders use.
    Ect0 = 2,
    /// A router would have dropped the packet.
    Ce = 3,
}

impl Ecn {
    /// From the lower two bits of the traffic class.
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }
}

/// A range of sequence numbers, from the first to the one behind the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The first.
    pub start: Seq,
    /// The one behind the last.
    pub end: Seq,
}

impl Block {
    /// How many.
    pub const fn len(self) -> u32 {
        self.end.since(self.start)
    }

    /// True if there is none, or if the end is before the start.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// The blocks of a SACK option, RFC 2018, in their order on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBlocks {
    blocks: [Block; 4],
    count: u8,
}

impl SackBlocks {
    /// The most that fit into a segment with timestamps.
    pub const WITH_TIMESTAMPS: usize = 3;
    /// The most that fit into any segment.
    pub const MAX: usize = 4;

    /// Appends a block unless four are there.
    pub fn push(&mut self, block: Block) {
        if let Some(place) = self.blocks.get_mut(usize::from(self.count)) {
            *place = block;
            self.count += 1;
        }
    }

    /// The blocks.
    pub fn as_slice(&self) -> &[Block] {
        &self.blocks[..usize::from(self.count)]
    }

    /// True if there is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Keeps the first `count`.
    pub fn truncate(&mut self, count: usize) {
        self.count = self.count.min(count as u8);
    }
}

/// The timestamps option, RFC 7323 section 3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamps {
    /// The sender's clock, `TSval`.
    pub value: u32,
    /// The receiver's clock as the sender has last seen it, `TSecr`.
    pub echo: u32,
}

/// The options that are understood. Others are skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum segment size, RFC 9293 section 3.7.1. Only in SYNs.
    pub mss: Option<u16>,
    /// Window scale, RFC 7323 section 2; larger shifts than 14 are read as 14. Only in SYNs.
    pub window_scale: Option<u8>,
    /// SACK permitted, RFC 2018 section 2. Only in SYNs.
    pub sack_permitted: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
    /// Selective acknowledgements.
    pub sack: SackBlocks,
}

impl Options {
    /// Reads options. An option that cannot be, and what stands behind it, is as if it were not there.
    pub fn parse(mut bytes: &[u8]) -> Self {
        let mut options = Self::default();
        // What nearly all segments have, as RFC 7323 appendix A recommends it.
        if let [1, 1, 8, 10, words @ ..] = bytes
            && let Ok(words) = <[u8; 8]>::try_from(words)
        {
            let [value, echo] = two_words(words);
            options.timestamps = Some(Timestamps { value, echo });
            return options;
        }
        while let [kind, rest @ ..] = bytes {
            match kind {
                0 => break,
                1 => {
                    bytes = rest;
                    continue;
                }
                _ => {}
            }
            let Some((&length, _)) = rest.split_first() else {
                break;
            };
            let Some((option, behind)) = bytes.split_at_checked(usize::from(length)) else {
                break;
            };
            bytes = behind;
            match option {
                [] | [_] => break,
                &[2, 4, a, b] => options.mss = Some(u16::from_be_bytes([a, b])),
                &[3, 3, shift] => options.window_scale = Some(shift.min(14)),
                [4, 2] => options.sack_permitted = true,
                [5, _, blocks @ ..] => {
                    for block in blocks.as_chunks::<8>().0 {
                        let [start, end] = two_words(*block);
                        options.sack.push(Block {
                            start: Seq(start),
                            end: Seq(end),
                        });
                    }
                }
                [8, 10, words @ ..] => {
                    if let Some(words) = words.first_chunk() {
                        let [value, echo] = two_words(*words);
                        options.timestamps = Some(Timestamps { value, echo });
                    }
                }
                _ => {}
            }
        }
        options
    }

    /// Bytes that [`emit`](Self::emit) writes: a multiple of four, at most 40. SYNs come in the order that others use,
    /// which packs best.
    pub fn len(&self) -> usize {
        let mut length = 0;
        if self.mss.is_some() {
            length += 4;
        }
        if self.timestamps.is_some() {
            // With "SACK permitted" in the place of the padding.
            length += TIMESTAMPS;
        } else if self.sack_permitted {
            length += 4;
        }
        if self.window_scale.is_some() {
            length += 4;
        }
        if !self.sack.is_empty() {
            length += 4 + 8 * self.sack.as_slice().len();
        }
        length
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the options into exactly [`len`](Self::len) bytes.
    pub fn emit(&self, bytes: &mut [u8]) {
        if let Some(timestamps) = self.timestamps
            && let Ok(bytes) = <&mut [u8; TIMESTAMPS]>::try_from(&mut *bytes)
            && !self.sack_permitted
        {
            // No other option has room.
            let [v0, v1, v2, v3] = timestamps.value.to_be_bytes();
            let [e0, e1, e2, e3] = timestamps.echo.to_be_bytes();
            *bytes = [1, 1, 8, 10, v0, v1, v2, v3, e0, e1, e2, e3];
            return;
        }
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            put(&[2, 4, a, b]);
        }
        match (self.sack_permitted, self.timestamps.is_some()) {
            (true, true) => put(&[4, 2]),
            (true, false) => put(&[1, 1, 4, 2]),
            (false, true) => put(&[1, 1]),
            (false, false) => {}
        }
        if let Some(timestamps) = self.timestamps {
            put(&[8, 10]);
            put(&timestamps.value.to_be_bytes());
            put(&timestamps.echo.to_be_bytes());
        }
        if let Some(shift) = self.window_scale {
            put(&[1, 3, 3, shift]);
        }
        if !self.sack.is_empty() {
            let blocks = self.sack.as_slice();
            put(&[1, 1, 5, 2 + 8 * blocks.len() as u8]);
            for block in blocks {
                put(&block.start.0.to_be_bytes());
                put(&block.end.0.to_be_bytes());
            }
        }
    }
}

/// A received segment, or several that the link has joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment<'a> {
    /// SEG.SEQ.
    pub seq: Seq,
    /// SEG.ACK; means something only with [`Flags::ACK`].
    pub ack: Seq,
    /// SEG.WND as it stands in the header, not scaled.
    pub window: u16,
    /// Control bits.
    pub flags: Flags,
    /// SEG.UP.
    pub urgent: u16,
    /// Options.
    pub options: Options,
    /// Data.
    pub payload: &'a [u8],
    /// What the IP header says about congestion.
    pub ecn: Ecn,
    /// How many segments of the wire this is, at least 1.
    pub joined: u16,
}

impl<'a> Segment<'a> {
    /// Reads a TCP header with its payload. The checksum has been verified. `ecn` and `joined` are for the caller to set.
    ///
    /// Returns source port, destination port and segment; nothing if the lengths contradict each other.
    pub fn parse(bytes: &'a [u8]) -> Option<(u16, u16, Self)> {
        let header: &[u8; HEADER] = bytes.first_chunk()?;
        let &[
            s0,
            s1,
            d0,
            d1,
            seq @ ..,
            offset,
            flags,
            w0,
            w1,
            _,
            _,
            u0,
            u1,
        ] = header;
        let len = usize::from(offset >> 4) * 4;
        let options = bytes.get(HEADER..len)?;
        let [seq, ack] = two_words(seq);
        let segment = Self {
            seq: Seq(seq),
            ack: Seq(ack),
            window: u16::from_be_bytes([w0, w1]),
            flags: Flags(flags),
            urgent: u16::from_be_bytes([u0, u1]),
            options: Options::parse(options),
            payload: bytes.get(len..)?,
            ecn: Ecn::NotEct,
            joined: 1,
        };
        let ports = [[s0, s1], [d0, d1]].map(u16::from_be_bytes);
        Some((ports[0], ports[1], segment))
    }

    /// The same without its data and what stands behind them: there is no room for these, but what it says of the other
    /// direction counts (RFC 9293 section 3.10.7.4: acknowledgements are taken even if the window is closed).
    #[must_use]
    pub fn without_text(&self) -> Self {
        Self {
            flags: Flags(self.flags.0 & !(Flags::FIN.0 | Flags::PSH.0)),
            payload: &[],
            joined: 1,
            ..*self
        }
    }

    /// SEG.LEN: data, SYN and FIN.
    pub fn len(&self) -> u32 {
        self.payload.len() as u32
            + u32::from(self.flags.has(Flags::SYN))
            + u32::from(self.flags.has(Flags::FIN))
    }

    /// True if the segment takes no sequence number.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number behind the last that the segment takes.
    pub fn end(&self) -> Seq {
        self.seq + self.len()
    }
}

/// A segment that is to leave, or several that the link cuts apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// SEG.SEQ.
    pub seq: Seq,
    /// SEG.ACK.
    pub ack: Seq,
    /// The window as it stands in the header, scaled.
    pub window: u16,
    /// Control bits. With more than one segment, FIN and PSH are the last one's.
    pub flags: Flags,
    /// SEG.UP.
    pub urgent: u16,
    /// Options; the same in each segment.
    pub options: Options,
    /// Bytes of data, from `seq` (from behind the SYN if there is one).
    pub len: u32,
    /// Data of each segment but the last. At least `len` if this is one segment.
    pub segment_size: u16,
    /// What the IP header shall say.
    pub ecn: Ecn,
}

impl Outgoing {
    /// Bytes of the header with options.
    pub fn header_len(&self) -> usize {
        HEADER + self.options.len()
    }

    /// How many segments the link makes of it.
    pub fn segments(&self) -> u32 {
        self.len
            .div_ceil(u32::from(self.segment_size.max(1)))
            .max(1)
    }

    /// Writes the header, with a checksum of 0, into exactly [`header_len`](Self::header_len) bytes.
    pub fn emit(&self, source_port: u16, destination_port: u16, bytes: &mut [u8]) {
        let Some((header, options)) = bytes.split_first_chunk_mut::<HEADER>() else {
            return;
        };
        let [s0, s1] = source_port.to_be_bytes();
        let [d0, d1] = destination_port.to_be_bytes();
        let [q0, q1, q2, q3] = self.seq.0.to_be_bytes();
        let [a0, a1, a2, a3] = self.ack.0.to_be_bytes();
        let offset = ((HEADER + options.len()) as u8 / 4) << 4;
        let [w0, w1] = self.window.to_be_bytes();
        let [u0, u1] = self.urgent.to_be_bytes();
        *header = [
            s0,
            s1,
            d0,
            d1,
            q0,
            q1,
            q2,
            q3,
            a0,
            a1,
            a2,
            a3,
            offset,
            self.flags.0,
            w0,
            w1,
            0,
            0,
            u0,
            u1,
        ];
        self.options.emit(options);
    }
}

/// Two numbers in network order.
fn two_words(bytes: [u8; 8]) -> [u32; 2] {
    let both = u64::from_be_bytes(bytes);
    [(both >> 32) as u32, both as u32]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    fn block((start, length): (u32, u32)) -> Block {
        Block {
            start: Seq(start),
            end: Seq(start) + length,
        }
    }

    prop_compose! {
        fn options()(
            mss: Option<u16>,
            window_scale in proptest::option::of(0u8..15),
            sack_permitted: bool,
            timestamps: Option<(u32, u32)>,
            blocks: Vec<(u32, u32)>,
        ) -> Options {
            let mut options = Options {
                mss,
                window_scale,
                sack_permitted,
                timestamps: timestamps.map(|(value, echo)| Timestamps { value, echo }),
                sack: SackBlocks::default(),
            };
            let room = (40 - options.len()).saturating_sub(4) / 8;
            blocks.into_iter().take(room).for_each(|b| options.sack.push(block(b)));
            options
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(options in options(), seq: u32, ack: u32, flags: u8, window: u16, data: Vec<u8>) {
            let outgoing = Outgoing {
                seq: Seq(seq),
                ack: Seq(ack),
                window,
                flags: Flags(flags),
                urgent: 7,
                options,
                ..Outgoing::default()
            };
            let mut bytes = vec![0xee; outgoing.header_len()];
            outgoing.emit(80, 40_000, &mut bytes);
            bytes.extend(&data);
            let (source, destination, segment) = Segment::parse(&bytes).expect("a segment");
            prop_assert_eq!((source, destination), (80, 40_000));
            prop_assert_eq!(segment.options, options);
            prop_assert_eq!((segment.seq, segment.ack), (Seq(seq), Seq(ack)));
            prop_assert_eq!((segment.window, segment.flags, segment.urgent), (window, Flags(flags), 7));
            prop_assert_eq!(segment.payload, &data[..]);
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = Segment::parse(&bytes);
            let _ = Options::parse(&bytes);
        }
    }

    #[test]
    fn a_syn_takes_no_more_room_than_others_give_it() {
        let options = Options {
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: Some(Timestamps::default()),
            sack: SackBlocks::default(),
        };
        assert_eq!(options.len(), 20);
    }

    #[test]
    fn an_option_that_cannot_be_ends_the_list() {
        assert_eq!(Options::parse(&[2, 4, 5, 180, 3, 0, 7]).mss, Some(1460));
        assert_eq!(Options::parse(&[3, 0, 7, 2, 4, 5, 180]), Options::default());
        assert_eq!(Options::parse(&[8, 10, 1]), Options::default());
    }
}
