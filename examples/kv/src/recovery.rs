//! Opening a disk: formatting an empty one, finding on others what was acknowledged.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::crc::Crc;
use crate::format::{
    Found, HEADER_LEN, Header, OP_LEN, OpHead, SUPERBLOCK_AREA, SUPERBLOCK_LEN, SUPERBLOCK_STRIDE,
    Superblock,
};
use crate::map::{Map, View};
use crate::storage::{Fault, Storage};
use crate::writer::{MAX_FRAME, Tail, Writer};

/// A half has at least so many sectors.
const FEWEST_SECTORS: u64 = 32;
/// Halves begin and end at multiples of this.
const HALF_ALIGNMENT: u64 = 4096;
/// A disk counts as empty if so many bytes at its start are zero: file systems and partition tables are found there.
const EMPTY_PROBE: usize = 128 * 1024;
/// Bytes that are read at once.
const WINDOW: usize = 2 * MAX_FRAME;

/// Why a disk cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Too small, or its sectors are of an unusual size.
    Geometry,
    /// It holds something else.
    Foreign,
    /// It was written by a later version of this program.
    Newer,
    /// It became smaller than it was.
    Shrunk,
    /// Acknowledged data have become unreadable; the offset in bytes where they begin.
    Damaged(u64),
    /// More data than memory.
    Memory,
    /// Reading or writing failed.
    Fault(Fault),
}

impl From<Fault> for OpenError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Geometry => f.write_str(
                "the disk must have at least 264 KiB, and sectors of 512 to 4096 bytes",
            ),
            Self::Foreign => f.write_str(
                "the disk holds something else; to give it to this program, fill its first 128 KiB with zeros",
            ),
            Self::Newer => f.write_str("the disk was written by a later version of this program"),
            Self::Shrunk => f.write_str("the disk is smaller than when it was formatted"),
            Self::Damaged(offset) => write!(
                f,
                "the log is damaged at byte {offset} of the disk, and valid records follow; restore a copy of the disk"
            ),
            Self::Memory => f.write_str("the data do not fit into memory: give the guest more"),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for OpenError {}

/// Opens a store, or makes one on an empty disk. `random` is the number of a new store; `memory` bounds what keys and
/// values may take.
///
/// # Errors
/// [`OpenError`]. Nothing has been written then, except by a [`Fault`] while writing.
pub async fn open<S: Storage>(
    storage: S,
    random: u64,
    memory: usize,
) -> Result<(View, Writer<S>), OpenError> {
    let sector = storage.sector_size();
    if !sector.is_power_of_two() || !(512..=4096).contains(&sector) {
        return Err(OpenError::Geometry);
    }
    let superblock = match find_superblock(&storage).await? {
        Some(superblock) => superblock,
        None => format(&storage, random).await?,
    };
    let end = superblock
        .half_len
        .checked_mul(2)
        .and_then(|l| l.checked_add(SUPERBLOCK_AREA));
    if end.is_none_or(|end| end > storage.capacity()) {
        return Err(OpenError::Shrunk);
    }
    if !(superblock.sector as usize).is_multiple_of(sector) || superblock.sector > 4096 {
        return Err(OpenError::Geometry);
    }
    let mut scan = Scan {
        window: Window {
            storage: &storage,
            align: u64::from(superblock.sector),
            base: 0,
            bytes: Vec::new(),
        },
        superblock,
        map: Map::default(),
        memory,
    };
    let tail = scan.run().await?;
    let map = scan.map;
    let view = View::default();
    view.0.replace(map);
    // What was found may be in the host's memory only, if the guest died and the host did not. Once it has been shown to
    // anybody it must not disappear.
    storage.flush().await?;
    let writer = Writer::new(storage, view.clone(), superblock, tail, memory);
    Ok((view, writer))
}

/// The superblock that counts. `None` on an empty disk.
async fn find_superblock<S: Storage>(storage: &S) -> Result<Option<Superblock>, OpenError> {
    let probe = EMPTY_PROBE.min(storage.capacity() as usize / 4096 * 4096);
    if probe < SUPERBLOCK_AREA as usize {
        return Err(OpenError::Geometry);
    }
    let mut start = vec![0; probe];
    storage.read(0, &mut start).await?;
    let mut best: Option<Superblock> = None;
    let mut newer = false;
    for slot in 0..2 {
        let mut bytes = [0; SUPERBLOCK_LEN];
        let at = slot * SUPERBLOCK_STRIDE as usize;
        bytes.copy_from_slice(&start[at..at + SUPERBLOCK_LEN]);
        match Superblock::decode(&bytes) {
            Found::Valid(found) if best.is_none_or(|best| found.sequence > best.sequence) => {
                best = Some(found);
            }
            Found::Newer => newer = true,
            Found::Valid(_) | Found::Nothing => {}
        }
    }
    match best {
        _ if newer => Err(OpenError::Newer),
        None if start.iter().any(|&byte| byte != 0) => Err(OpenError::Foreign),
        best => Ok(best),
    }
}

/// Makes an empty disk a store without keys.
async fn format<S: Storage>(storage: &S, random: u64) -> Result<Superblock, OpenError> {
    let sector = storage.sector_size() as u64;
    let rest = storage.capacity().saturating_sub(SUPERBLOCK_AREA);
    let half_len = rest / 2 / HALF_ALIGNMENT * HALF_ALIGNMENT;
    if half_len < FEWEST_SECTORS * sector {
        return Err(OpenError::Geometry);
    }
    let superblock = Superblock {
        sector: sector as u32,
        store: random,
        sequence: 1,
        generation: 1,
        half_len,
        active: 0,
    };
    let mut bytes = vec![0; sector as usize];
    bytes[..SUPERBLOCK_LEN].copy_from_slice(&superblock.encode());
    storage.write(superblock.offset(), &bytes).await?;
    storage.flush().await?;
    Ok(superblock)
}

/// Reads the active half.
struct Scan<'s, S> {
    window: Window<'s, S>,
    superblock: Superblock,
    map: Map,
    memory: usize,
}

impl<S: Storage> Scan<'_, S> {
    /// Applies all frames. Returns where the log ends.
    async fn run(&mut self) -> Result<Tail, OpenError> {
        let mut tail = Tail {
            offset: 0,
            number: 0,
        };
        while let Some(header) = self.frame(tail.offset).await? {
            if header.number != tail.number {
                break;
            }
            self.apply(tail.offset, &header).await?;
            tail = Tail {
                offset: tail.offset + self.frame_len(&header),
                number: tail.number + 1,
            };
        }
        self.look_behind(&tail).await?;
        Ok(tail)
    }

    /// A frame is only written when the one before is on stable storage. One that is found behind what cannot be
    /// read means that acknowledged data were lost: by the disk, not by a crash.
    async fn look_behind(&mut self, tail: &Tail) -> Result<(), OpenError> {
        let start = self.superblock.half(self.superblock.active);
        // A snapshot was on stable storage before its superblock.
        if tail.number == 0 && self.superblock.generation > 1 {
            return Err(OpenError::Damaged(start));
        }
        let sector = u64::from(self.superblock.sector);
        let end = (tail.offset + MAX_FRAME as u64 + sector).min(self.superblock.half_len);
        let mut offset = tail.offset + sector;
        while offset + sector <= end {
            if let Some(header) = self.frame(offset).await?
                && header.number > tail.number
            {
                return Err(OpenError::Damaged(start + tail.offset));
            }
            offset += sector;
        }
        Ok(())
    }

    /// The header of the frame at an offset in the half, if a whole frame of this store and generation is there.
    async fn frame(&mut self, offset: u64) -> Result<Option<Header>, OpenError> {
        let half_len = self.superblock.half_len;
        if offset + HEADER_LEN as u64 > half_len {
            return Ok(None);
        }
        let start = self.superblock.half(self.superblock.active) + offset;
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(self.window.get(start, HEADER_LEN).await?);
        let header = Header::decode(&bytes);
        let room = half_len - offset - HEADER_LEN as u64;
        if header.generation != self.superblock.generation || header.len > room {
            return Ok(None);
        }
        let mut crc = Crc::new();
        crc.update(&self.superblock.store.to_le_bytes());
        crc.update(&header.covered());
        let mut at = 0;
        while at < header.len {
            let len = (header.len - at).min(MAX_FRAME as u64);
            let part = self
                .window
                .get(start + HEADER_LEN as u64 + at, len as usize)
                .await?;
            crc.update(part);
            at += len;
        }
        Ok((crc.value() == header.crc).then_some(header))
    }

    /// Applies the operations of a frame.
    async fn apply(&mut self, offset: u64, header: &Header) -> Result<(), OpenError> {
        let start = self.superblock.half(self.superblock.active) + offset + HEADER_LEN as u64;
        let damaged = OpenError::Damaged(start);
        let mut at = 0;
        while at < header.len {
            let left = (header.len - at) as usize;
            if left < OP_LEN {
                return Err(damaged);
            }
            let mut head = [0; OP_LEN];
            head.copy_from_slice(self.window.get(start + at, OP_LEN).await?);
            let head = OpHead::decode(&head).ok_or(damaged)?;
            if head.rest_len() > left - OP_LEN {
                return Err(damaged);
            }
            let rest = self
                .window
                .get(start + at + OP_LEN as u64, head.rest_len())
                .await?;
            let op = head.operation(rest);
            at += op.encoded_len() as u64;
            self.map.apply(op);
            if self.map.memory > self.memory {
                return Err(OpenError::Memory);
            }
        }
        Ok(())
    }

    fn frame_len(&self, header: &Header) -> u64 {
        (HEADER_LEN as u64 + header.len).next_multiple_of(self.superblock.sector.into())
    }
}

/// A part of the disk in memory.
struct Window<'s, S> {
    storage: &'s S,
    align: u64,
    base: u64,
    bytes: Vec<u8>,
}

impl<S: Storage> Window<'_, S> {
    /// The bytes at an offset; at most [`MAX_FRAME`] at once.
    async fn get(&mut self, offset: u64, len: usize) -> Result<&[u8], Fault> {
        let end = self.base + self.bytes.len() as u64;
        if offset < self.base || offset + len as u64 > end {
            self.base = offset / self.align * self.align;
            let left = (self.storage.capacity() - self.base) / self.align * self.align;
            self.bytes.resize((WINDOW as u64).min(left) as usize, 0);
            self.storage.read(self.base, &mut self.bytes).await?;
        }
        let at = (offset - self.base) as usize;
        Ok(&self.bytes[at..at + len])
    }
}
