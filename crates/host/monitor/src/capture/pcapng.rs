//! The file format pcapng, as far as captures need it.
//!
//! One section: its header, a description of each interface, a packet block for each frame, and at the end statistics
//! of each interface. Numbers are little-endian, times are nanoseconds. Pure: everything here makes bytes.
//!
//! Source: draft-ietf-opsawg-pcapng (PCAP Next Generation Capture File Format), sections 4.1 to 4.3 and 4.6.

use super::Frame;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;

const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// Link type of Ethernet frames.
const ETHERNET: u16 = 1;

/// One interface.
#[derive(Clone, Copy, Debug)]
pub struct Interface<'a> {
    /// `if_name`.
    pub name: &'a str,
    /// `if_description`.
    pub description: &'a str,
    /// `if_MACaddr`.
    pub mac: [u8; 6],
    /// The most bytes of a frame.
    pub snaplen: u32,
}

/// What came of one interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Nanoseconds since 1970 when the capture began.
    pub started: u64,
    /// And when it ended.
    pub ended: u64,
    /// `isb_ifrecv`: frames seen.
    pub received: u64,
    /// `isb_ifdrop`: of those, dropped.
    pub dropped: u64,
    /// `isb_usrdeliv`: of those, written.
    pub written: u64,
}

/// The section's header. `comment` is a line for people.
pub fn section(application: &str, comment: &str) -> Vec<u8> {
    let mut block = Block::new(SECTION);
    block.number32(BYTE_ORDER);
    // Version 1.0.
    block.number16(1);
    block.number16(0);
    // Its length is not known in advance.
    block.number64(u64::MAX);
    block.option(1, comment.as_bytes());
    block.option(4, application.as_bytes());
    block.end()
}

/// The description of the next interface; the first has number 0.
pub fn interface(interface: &Interface<'_>) -> Vec<u8> {
    let mut block = Block::new(INTERFACE);
    block.number16(ETHERNET);
    block.number16(0);
    block.number32(interface.snaplen);
    block.option(2, interface.name.as_bytes());
    block.option(3, interface.description.as_bytes());
    block.option(6, &interface.mac);
    // Times are in units of 10^-9 seconds.
    block.option(9, &[9]);
    block.end()
}

/// A frame that went over an interface.
pub fn packet(interface: u32, frame: &Frame<'_>) -> Vec<u8> {
    let mut block = Block::new(PACKET);
    block.number32(interface);
    block.time(frame.time);
    block.number32(frame.bytes.len() as u32);
    block.number32(frame.len);
    block.padded(frame.bytes);
    // Bits 0 and 1 of the flags: 1 inbound, 2 outbound.
    block.option(2, &u32::from(frame.direction as u8).to_le_bytes());
    block.end()
}

/// The statistics of an interface.
pub fn statistics(interface: u32, statistics: &Statistics) -> Vec<u8> {
    let mut block = Block::new(STATISTICS);
    block.number32(interface);
    block.time(statistics.ended);
    for (code, time) in [(2, statistics.started), (3, statistics.ended)] {
        let mut value = Block(Vec::new());
        value.time(time);
        block.option(code, &value.0);
    }
    block.option(4, &statistics.received.to_le_bytes());
    block.option(5, &statistics.dropped.to_le_bytes());
    block.option(8, &statistics.written.to_le_bytes());
    block.end()
}

/// A block in the making.
struct Block(Vec<u8>);

impl Block {
    fn new(kind: u32) -> Self {
        let mut block = Self(Vec::with_capacity(64));
        block.number32(kind);
        // The length, known at the end.
        block.number32(0);
        block
    }

    fn number16(&mut self, number: u16) {
        self.0.extend(number.to_le_bytes());
    }

    fn number32(&mut self, number: u32) {
        self.0.extend(number.to_le_bytes());
    }

    fn number64(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    /// Times have their upper half first, whatever the byte order.
    fn time(&mut self, time: u64) {
        self.number32((time >> 32) as u32);
        self.number32(time as u32);
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        let value = &value[..value.len().min(u16::MAX.into())];
        self.number16(code);
        self.number16(value.len() as u16);
        self.padded(value);
    }

    /// Ends options and block. All blocks here have options.
    fn end(mut self) -> Vec<u8> {
        self.number32(0);
        let len = self.0.len() as u32 + 4;
        self.number32(len);
        self.0[4..8].copy_from_slice(&len.to_le_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Direction;

    /// Kind and content of a block that is whole.
    fn open(block: &[u8]) -> (u32, &[u8]) {
        let number =
            |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().expect("four bytes"));
        assert_eq!(block.len() % 4, 0);
        assert_eq!(number(4) as usize, block.len());
        assert_eq!(number(block.len() - 4) as usize, block.len());
        (number(0), &block[8..block.len() - 4])
    }

    #[test]
    fn blocks_are_framed_by_their_length() {
        let header = section("kiln 1", "a comment");
        let (kind, content) = open(&header);
        assert_eq!(kind, SECTION);
        assert_eq!(content[..4], [0x4d, 0x3c, 0x2b, 0x1a]);
        let described = interface(&Interface {
            name: "net",
            description: "tap:tap0",
            mac: [2, 0, 0, 0, 0, 1],
            snaplen: 96,
        });
        let (kind, content) = open(&described);
        assert_eq!(kind, INTERFACE);
        assert_eq!(content[..8], [1, 0, 0, 0, 96, 0, 0, 0]);
        // Options: code, length, value padded to four bytes.
        assert_eq!(content[8..16], [2, 0, 3, 0, b'n', b'e', b't', 0]);
        assert_eq!(
            content[content.len() - 12..],
            [9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn a_packet_has_both_lengths_and_its_direction() {
        let block = packet(
            1,
            &Frame {
                device: 5,
                direction: Direction::Out,
                time: 0x1122_3344_5566_7788,
                len: 100,
                bytes: &[7; 5],
            },
        );
        let (kind, content) = open(&block);
        assert_eq!(kind, PACKET);
        assert_eq!(content[..4], [1, 0, 0, 0]);
        assert_eq!(
            content[4..12],
            [0x44, 0x33, 0x22, 0x11, 0x88, 0x77, 0x66, 0x55]
        );
        assert_eq!(content[12..20], [5, 0, 0, 0, 100, 0, 0, 0]);
        assert_eq!(content[20..28], [7, 7, 7, 7, 7, 0, 0, 0]);
        assert_eq!(content[28..], [2, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    }
}
