//! What lies on the disk. All numbers are little-endian.
//!
//! ```text
//! 0       superblock, even sequence numbers
//! 4096    superblock, odd sequence numbers
//! 8192    half 0: frames, each at the start of a sector
//! 8192+L  half 1
//! ```

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::crc::crc32c;

/// Bytes before the first half.
pub const SUPERBLOCK_AREA: u64 = 8192;
/// Bytes between the superblocks: they lie in different sectors of every kind of disk.
pub const SUPERBLOCK_STRIDE: u64 = 4096;
/// Length of the part of a superblock that is not zero.
pub const SUPERBLOCK_LEN: usize = 64;
/// Length of a frame's header.
pub const HEADER_LEN: usize = 28;
/// Length of an operation without its key and value.
pub const OP_LEN: usize = 8;
/// The longest key, in bytes.
pub const MAX_KEY: usize = 1024;
/// The longest value, in bytes.
pub const MAX_VALUE: usize = 64 * 1024;

const MAGIC: &[u8; 8] = b"KILN-KV\n";
const VERSION: u32 = 1;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Which half is active, and what never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Frames begin at multiples of this many bytes.
    pub sector: u32,
    /// A random number, chosen when the disk was formatted.
    pub store: u64,
    /// The valid superblock with the greater number counts.
    pub sequence: u64,
    /// The generation of the active half's frames.
    pub generation: u64,
    /// Length of a half in bytes.
    pub half_len: u64,
    /// The active half, 0 or 1.
    pub active: u32,
}

/// What a sector holds that should be a superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A superblock.
    Valid(Superblock),
    /// One of a version that this program does not know.
    Newer,
    /// Something else, or a torn one.
    Nothing,
}

impl Superblock {
    /// Where it belongs.
    pub const fn offset(&self) -> u64 {
        self.sequence % 2 * SUPERBLOCK_STRIDE
    }

    /// Start of a half.
    pub const fn half(&self, half: u32) -> u64 {
        SUPERBLOCK_AREA + self.half_len * half as u64
    }

    /// The bytes on the disk.
    pub fn encode(&self) -> [u8; SUPERBLOCK_LEN] {
        let mut bytes = [0; SUPERBLOCK_LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.sector.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.store.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.generation.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.half_len.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.active.to_le_bytes());
        let crc = crc32c(&[&bytes[..60]]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: &[u8; SUPERBLOCK_LEN]) -> Found {
        if &bytes[..8] != MAGIC || u32_at(bytes, 60) != crc32c(&[&bytes[..60]]) {
            return Found::Nothing;
        }
        if u32_at(bytes, 8) != VERSION {
            return Found::Newer;
        }
        Found::Valid(Self {
            sector: u32_at(bytes, 12),
            store: u64_at(bytes, 16),
            sequence: u64_at(bytes, 24),
            generation: u64_at(bytes, 32),
            half_len: u64_at(bytes, 40),
            active: u32_at(bytes, 48) & 1,
        })
    }
}

/// The head of a frame; its operations follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Checksum over the store's number, the rest of the header, and the operations.
    pub crc: u32,
    /// The generation it belongs to.
    pub generation: u64,
    /// Its number within the generation; the first has 0.
    pub number: u64,
    /// Length of the operations in bytes.
    pub len: u64,
}

impl Header {
    /// The bytes on the disk.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&self.crc.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.generation.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.number.to_le_bytes());
        bytes[20..].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote. Whether it is a header, only the checksum tells.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Self {
        Self {
            crc: u32_at(bytes, 0),
            generation: u64_at(bytes, 4),
            number: u64_at(bytes, 12),
            len: u64_at(bytes, 20),
        }
    }

    /// The part that the checksum covers.
    pub fn covered(&self) -> [u8; HEADER_LEN - 4] {
        let mut bytes = [0; HEADER_LEN - 4];
        bytes.copy_from_slice(&self.encode()[4..]);
        bytes
    }
}

/// A change of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Gives a key a value.
    Set {
        /// The key.
        key: Box<[u8]>,
        /// The value.
        value: Box<[u8]>,
    },
    /// Forgets a key.
    Delete {
        /// The key.
        key: Box<[u8]>,
    },
    /// Forgets all keys.
    Clear,
}

impl Op {
    /// Bytes that it takes in a frame.
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::Set { key, value } => OP_LEN + key.len() + value.len(),
            Self::Delete { key } => OP_LEN + key.len(),
            Self::Clear => OP_LEN,
        }
    }

    /// Appends it to a frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Set { key, value } => encode_set(key, value, out),
            Self::Delete { key } => encode(2, key, &[], out),
            Self::Clear => encode(3, &[], &[], out),
        }
    }
}

/// Appends a [`Op::Set`] to a frame.
pub fn encode_set(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    encode(1, key, value, out);
}

fn encode(kind: u8, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let key_len = key.len() as u16;
    let value_len = value.len() as u32;
    out.extend_from_slice(&[kind, 0]);
    out.extend_from_slice(&key_len.to_le_bytes());
    out.extend_from_slice(&value_len.to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

/// The head of an operation in a frame.
#[derive(Clone, Copy, Debug)]
pub struct OpHead {
    kind: u8,
    key_len: usize,
    value_len: usize,
}

impl OpHead {
    /// Reads it. `None` if this is no operation.
    pub fn decode(bytes: &[u8; OP_LEN]) -> Option<Self> {
        let head = Self {
            kind: bytes[0],
            key_len: u16::from_le_bytes([bytes[2], bytes[3]]).into(),
            value_len: u32_at(bytes, 4) as usize,
        };
        let possible = match head.kind {
            1 => true,
            2 => head.value_len == 0,
            3 => head.value_len == 0 && head.key_len == 0,
            _ => false,
        };
        (possible && head.key_len <= MAX_KEY && head.value_len <= MAX_VALUE).then_some(head)
    }

    /// Bytes that follow the head.
    pub fn rest_len(&self) -> usize {
        self.key_len + self.value_len
    }

    /// The operation, from the bytes that follow the head.
    pub fn operation(&self, rest: &[u8]) -> Op {
        let (key, value) = rest.split_at(self.key_len);
        match self.kind {
            1 => Op::Set {
                key: key.into(),
                value: value.into(),
            },
            2 => Op::Delete { key: key.into() },
            _ => Op::Clear,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks_survive_the_disk_and_damage_shows() {
        let superblock = Superblock {
            sector: 512,
            store: 0x0123_4567_89ab_cdef,
            sequence: 7,
            generation: 9,
            half_len: 1 << 40,
            active: 1,
        };
        let bytes = superblock.encode();
        assert_eq!(Superblock::decode(&bytes), Found::Valid(superblock));
        assert_eq!(superblock.offset(), 4096);
        for at in 0..SUPERBLOCK_LEN {
            let mut damaged = bytes;
            damaged[at] ^= 1;
            assert_eq!(Superblock::decode(&damaged), Found::Nothing);
        }
    }

    #[test]
    fn operations_survive_the_disk() {
        for op in [
            Op::Set {
                key: b"key"[..].into(),
                value: b"value"[..].into(),
            },
            Op::Set {
                key: [][..].into(),
                value: [][..].into(),
            },
            Op::Delete {
                key: [1; MAX_KEY][..].into(),
            },
            Op::Clear,
        ] {
            let mut bytes = Vec::new();
            op.encode(&mut bytes);
            assert_eq!(bytes.len(), op.encoded_len());
            let head = OpHead::decode(bytes[..OP_LEN].try_into().unwrap()).unwrap();
            assert_eq!(OP_LEN + head.rest_len(), bytes.len());
            assert_eq!(head.operation(&bytes[OP_LEN..]), op);
        }
    }
}
