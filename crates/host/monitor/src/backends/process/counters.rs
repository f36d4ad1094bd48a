//! The counters in the guest's memory, as [`kiln_abi::metrics`] describes them.
//!
//! The supervisor keeps the descriptor of the guest's memory for this, and only reads from it: no page of it is mapped here.
//! What the guest said of its blocks and what lies there is hostile, so addresses are translated by the layout's own
//! ranges, counts are bounded, and a block that does not look like one is left out.

use std::os::fd::OwnedFd;

use kiln_abi::layout::Record;
use kiln_abi::metrics::{Header, MAGIC, MAX_VALUES, VERSION};
use kiln_abi::op::{MAX_SEGMENTS, Segment};
use kiln_gate::state::Range;

use super::layout::Layout;
use crate::backend::MetricBlock;

/// The guest's memory, and where its parts lie.
#[derive(Debug)]
pub struct Counters {
    memory: OwnedFd,
    /// Writable ranges of guest addresses, each with its offset in the memory.
    parts: [(Range, u64); 4],
}

impl Counters {
    /// For a guest of this layout.
    pub fn new(memory: OwnedFd, layout: &Layout) -> Self {
        let mut offset = 0;
        // In the order in which the child maps them; the boot record, which is read-only, is among them there.
        let [data, _, stack, trap_stack, free] = [
            layout.image_data,
            layout.boot,
            layout.stack,
            layout.trap_stack,
            layout.free,
        ]
        .map(|range| {
            let part = (range, offset);
            offset += range.end - range.start;
            part
        });
        Self {
            memory,
            parts: [data, stack, trap_stack, free],
        }
    }

    /// Bytes of the guest's memory that exist on the host.
    pub fn in_use(&self) -> u64 {
        rustix::fs::fstat(&self.memory).map_or(0, |stat| stat.st_blocks.cast_unsigned() * 512)
    }

    /// The blocks of a list with `count` entries at `list`.
    pub fn read(&self, list: u64, count: u64) -> Vec<MetricBlock> {
        let mut blocks = Vec::new();
        for index in 0..count.min(MAX_SEGMENTS) {
            let at = list.wrapping_add(index * Segment::SIZE as u64);
            let mut segment = Segment::default();
            if self.copy(at, segment.as_bytes_mut()).is_some() {
                blocks.extend(self.block(segment));
            }
        }
        blocks
    }

    fn block(&self, place: Segment) -> Option<MetricBlock> {
        let mut header = Header::default();
        self.copy(place.addr, header.as_bytes_mut())?;
        let count = header.count as usize;
        let fits = (Header::SIZE + count.checked_mul(8)?) as u64 <= place.len;
        if header.magic != MAGIC || header.version != VERSION || count > MAX_VALUES || !fits {
            return None;
        }
        let mut bytes = vec![0; count * 8];
        self.copy(place.addr.checked_add(Header::SIZE as u64)?, &mut bytes)?;
        let words = bytes.chunks_exact(8);
        let values = words.map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
        Some(MetricBlock {
            kind: header.kind,
            device: header.device,
            values: values.collect(),
        })
    }

    /// Copies from guest memory; `None` if not all of it lies in one writable range.
    fn copy(&self, address: u64, into: &mut [u8]) -> Option<()> {
        let len = into.len() as u64;
        let (range, offset) = self
            .parts
            .iter()
            .find(|(range, _)| range.contains(address, len))?;
        let mut at = offset + (address - range.start);
        let mut left = into;
        while !left.is_empty() {
            let got = rustix::io::retry_on_intr(|| rustix::io::pread(&self.memory, &mut *left, at));
            match got {
                Ok(got @ 1..) => {
                    at += got as u64;
                    left = &mut left[got..];
                }
                _ => return None,
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::process::os;

    const DATA: u64 = 0x1000_0000;
    const FREE: u64 = 0x2000_0000;

    fn guest(write: &[(u64, &[u8])]) -> Counters {
        let memory = os::memory_file(0x4000).unwrap();
        for (offset, bytes) in write {
            assert_eq!(rustix::io::pwrite(&memory, bytes, *offset), Ok(bytes.len()));
        }
        let range = |start: u64, len: u64| Range {
            start,
            end: start + len,
        };
        Counters {
            memory,
            parts: [
                (range(DATA, 0x1000), 0),
                (Range::default(), 0),
                (Range::default(), 0),
                (range(FREE, 0x2000), 0x2000),
            ],
        }
    }

    fn header(count: u32) -> Header {
        Header {
            magic: MAGIC,
            kind: 1,
            version: VERSION,
            device: 2,
            count,
        }
    }

    #[test]
    fn a_block_is_found_in_either_part() {
        let segment = Segment {
            addr: FREE + 8,
            len: 32,
        };
        let guest = guest(&[
            (0x10, segment.as_bytes()),
            (0x2008, header(2).as_bytes()),
            (0x2018, &[5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 1]),
        ]);
        let block = MetricBlock {
            kind: 1,
            device: 2,
            values: vec![5, 6 | 1 << 56],
        };
        assert_eq!(guest.read(DATA + 0x10, 1), [block]);
        assert_eq!(guest.read(DATA + 0x10, 0), []);
    }

    #[test]
    fn what_is_no_block_is_left_out() {
        let at = |addr: u64, len: u64| Segment { addr, len };
        let list = [
            at(FREE, 15),
            at(FREE + 0x1ff8, 4096),
            at(FREE + 0x100, 4096),
            at(FREE + 0x200, 24),
            at(u64::MAX - 4, 4096),
            at(0, 0),
        ];
        let list: Vec<u8> = list.iter().flat_map(|s| s.as_bytes().to_vec()).collect();
        let guest = guest(&[
            (0, &list),
            (0x2000, header(0).as_bytes()),
            (0x2100, header(u32::MAX).as_bytes()),
            (0x2200, header(2).as_bytes()),
        ]);
        assert_eq!(guest.read(DATA, u64::MAX), []);
        assert_eq!(guest.read(u64::MAX - 3, 2), []);
        assert_eq!(guest.read(0, 2), []);
    }
}
