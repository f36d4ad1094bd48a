//! The header that stands before every network frame.
//!
//! It is byte for byte `struct virtio_net_hdr_v1` (virtio 1.2, section 5.1.6), which is also what Linux's tap
//! devices and packet sockets speak. So a monitor hands it to the host kernel, or a virtio device takes it, as it is.
//!
//! With it one "frame" may be up to 64 KiB of TCP payload behind one set of headers: the receiver, or the host's
//! network card, cuts it into segments of [`gso_size`](NetHeader::gso_size) bytes.

use crate::layout::Record;

/// The greatest length of a frame in bytes, headers of the link included: 64 KiB of IP packet behind an Ethernet
/// header with one VLAN tag.
pub const MAX_FRAME: usize = 65_535 + 18;

/// Checksum and segmentation offload of one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NetHeader {
    /// A set of [`NEEDS_CSUM`](Self::NEEDS_CSUM) and [`DATA_VALID`](Self::DATA_VALID).
    pub flags: u8,
    /// One of the `GSO_*` values.
    pub gso_type: u8,
    /// With segmentation: length in bytes of all headers (Ethernet, IP, TCP) that are repeated before each segment.
    pub hdr_len: u16,
    /// With segmentation: payload bytes of each segment but the last.
    pub gso_size: u16,
    /// With [`NEEDS_CSUM`](Self::NEEDS_CSUM): offset in bytes in the frame where checksumming starts.
    pub csum_start: u16,
    /// With [`NEEDS_CSUM`](Self::NEEDS_CSUM): offset in bytes after `csum_start` where the 16-bit sum is stored. The
    /// field holds the sum of the pseudo-header when the frame is handed over.
    pub csum_offset: u16,
    /// Always 1 (receive buffers are not merged at this interface).
    pub num_buffers: u16,
}

impl NetHeader {
    /// The checksum at `csum_start + csum_offset` is still to be completed.
    pub const NEEDS_CSUM: u8 = 1;
    /// The host has checked the frame's transport checksum.
    pub const DATA_VALID: u8 = 2;

    /// One ordinary frame.
    pub const GSO_NONE: u8 = 0;
    /// TCP over IPv4, to be cut into segments.
    pub const GSO_TCPV4: u8 = 1;
    /// TCP over IPv6, to be cut into segments.
    pub const GSO_TCPV6: u8 = 4;

    /// An ordinary frame with complete checksums.
    pub const PLAIN: Self = Self {
        flags: 0,
        gso_type: Self::GSO_NONE,
        hdr_len: 0,
        gso_size: 0,
        csum_start: 0,
        csum_offset: 0,
        num_buffers: 1,
    };

    /// True if the receiver need not verify the transport checksum: the host has, or the frame never left it.
    pub const fn checksum_trusted(&self) -> bool {
        self.flags & (Self::NEEDS_CSUM | Self::DATA_VALID) != 0
    }

    /// The two words in which an operation carries the header.
    pub fn to_words(self) -> [u64; 2] {
        let mut bytes = [0; 16];
        bytes[..Self::SIZE].copy_from_slice(self.as_bytes());
        let (low, high) = bytes.split_at(8);
        [
            u64::from_le_bytes(low.try_into().expect("half of 16 bytes")),
            u64::from_le_bytes(high.try_into().expect("half of 16 bytes")),
        ]
    }

    /// The reverse of [`to_words`](Self::to_words); the upper four bytes of the second word are ignored.
    pub fn from_words(words: [u64; 2]) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&words[0].to_le_bytes());
        bytes[8..].copy_from_slice(&words[1].to_le_bytes());
        Self::from_prefix(&bytes).expect("16 bytes hold a 12-byte header")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_carry_every_field() {
        let header = NetHeader {
            flags: NetHeader::NEEDS_CSUM,
            gso_type: NetHeader::GSO_TCPV6,
            hdr_len: 0x1234,
            gso_size: 0x5678,
            csum_start: 0x9abc,
            csum_offset: 0xdef0,
            num_buffers: 1,
        };
        assert_eq!(NetHeader::from_words(header.to_words()), header);
        assert!(header.checksum_trusted());
        assert!(!NetHeader::PLAIN.checksum_trusted());
    }
}
