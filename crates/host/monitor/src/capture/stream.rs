//! What the supervisor sends to `kiln capture`, behind the response that grants it.
//!
//! A sequence of records, each a head of 24 bytes and, for a frame, its bytes:
//!
//! | bytes | frame | count | end |
//! | --- | --- | --- | --- |
//! | 0 | 1 | 2 | 3 |
//! | 1 | direction: 1 in, 2 out | 0 | 0 |
//! | 2, 3 | link | link | 0 |
//! | 4 to 7 | bytes that follow | 0 | 0 |
//! | 8 to 15 | time in nanoseconds since 1970 | frames sent | 0 |
//! | 16 to 23 | length of the frame | frames dropped | 0 |
//!
//! Numbers are little-endian. Counts come once for each link, before the end. Both ends are programs of the same user, but
//! maybe of different versions: a reader refuses what it does not know.

use kiln_abi::net::MAX_FRAME;

use super::{Direction, Frame};

/// Bytes of a head.
pub const HEAD: usize = 24;

const FRAME: u8 = 1;
const COUNT: u8 = 2;
const END: u8 = 3;

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A frame.
    Frame(Frame<'a>),
    /// How it went with a link.
    Count(Count),
    /// Nothing more follows.
    End,
}

/// How many frames of one link there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// The link's number.
    pub device: u32,
    /// Frames sent.
    pub frames: u64,
    /// Frames dropped for want of room.
    pub dropped: u64,
}

/// Something else than a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it sent something that this version of kiln does not know")]
pub struct Unknown;

impl Record<'_> {
    /// Appends the record.
    pub fn append_to(&self, bytes: &mut Vec<u8>) {
        let (kind, direction, device, captured, first, second) = match self {
            Self::Frame(frame) => (
                FRAME,
                frame.direction as u8,
                frame.device,
                frame.bytes.len(),
                frame.time,
                frame.len.into(),
            ),
            Self::Count(count) => (COUNT, 0, count.device, 0, count.frames, count.dropped),
            Self::End => (END, 0, 0, 0, 0, 0),
        };
        bytes.extend([kind, direction]);
        bytes.extend((device as u16).to_le_bytes());
        bytes.extend((captured as u32).to_le_bytes());
        bytes.extend(first.to_le_bytes());
        bytes.extend(second.to_le_bytes());
        if let Self::Frame(frame) = self {
            bytes.extend(frame.bytes);
        }
    }
}

/// The record at the start of `bytes` and its length; `None` if not all of it is there.
///
/// # Errors
/// [`Unknown`] if there is none.
pub fn parse(bytes: &[u8]) -> Result<Option<(Record<'_>, usize)>, Unknown> {
    let Some(head) = bytes.first_chunk::<HEAD>() else {
        return Ok(None);
    };
    let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let device = u32::from(u16::from_le_bytes([head[2], head[3]]));
    let record = match head[0] {
        COUNT => Record::Count(Count {
            device,
            frames: word(8),
            dropped: word(16),
        }),
        END => Record::End,
        FRAME => {
            let captured = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
            let len = u32::try_from(word(16)).map_err(|_| Unknown)?;
            let direction = Direction::from_raw(head[1].into()).ok_or(Unknown)?;
            if captured > MAX_FRAME || captured > len as usize {
                return Err(Unknown);
            }
            let Some(bytes) = bytes.get(HEAD..HEAD + captured) else {
                return Ok(None);
            };
            let frame = Frame {
                device,
                direction,
                time: word(8),
                len,
                bytes,
            };
            return Ok(Some((Record::Frame(frame), HEAD + captured)));
        }
        _ => return Err(Unknown),
    };
    Ok(Some((record, HEAD)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RECORDS: [Record<'_>; 3] = [
        Record::Frame(Frame {
            device: 3,
            direction: Direction::Out,
            time: u64::MAX - 1,
            len: 70_000,
            bytes: b"frame",
        }),
        Record::Count(Count {
            device: 62,
            frames: 1 << 40,
            dropped: 2,
        }),
        Record::End,
    ];

    #[test]
    fn records_survive_in_pieces() {
        let mut bytes = Vec::new();
        for record in RECORDS {
            record.append_to(&mut bytes);
        }
        let mut rest = &bytes[..];
        for record in RECORDS {
            let (parsed, len) = parse(rest).unwrap().unwrap();
            assert_eq!(parsed, record);
            for part in 0..len {
                assert_eq!(parse(&rest[..part]), Ok(None), "{part} of {len}");
            }
            rest = &rest[len..];
        }
        assert!(rest.is_empty());
    }

    proptest! {
        #[test]
        fn anything_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..100), kind in 0u8..5) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let _ = parse(&bytes);
        }
    }
}
