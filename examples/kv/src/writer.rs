//! Committing operations, and compaction.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::crc::{Crc, crc32c};
use crate::format::{
    HEADER_LEN, Header, MAX_KEY, MAX_VALUE, Op, SUPERBLOCK_LEN, Superblock, encode_set,
};
use crate::map::{self, View};
use crate::storage::{Fault, Storage};

/// The longest frame of a commit, in bytes.
pub const MAX_FRAME: usize = 128 * 1024;
/// Bytes of a snapshot that are written at once.
const CHUNK: usize = 64 * 1024;

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is on stable storage. The key was there before, or not.
    Done {
        /// Whether the key was there before.
        existed: bool,
    },
    /// It was not done.
    Refused(Refusal),
}

/// Why an operation was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The key is longer than [`MAX_KEY`], the value longer than [`MAX_VALUE`], or together they are too long for a
    /// small disk.
    TooLong,
    /// The disk has no room for it.
    DiskFull,
    /// The memory has no room for it.
    MemoryFull,
    /// Writing failed. The next operation tries again.
    Storage(Fault),
    /// An earlier failure left it unknown what is on the disk; only opening it anew finds out.
    Unknown,
}

/// For people, as a reply has it.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(
                f,
                "ERR too long: keys have at most {MAX_KEY} bytes, values {MAX_VALUE}, and a small disk takes less at once"
            ),
            Self::DiskFull => f.write_str("ERR the disk is full: delete keys, or use a larger disk"),
            Self::MemoryFull => f.write_str("OOM the memory for keys and values is used up"),
            Self::Storage(fault) => write!(f, "ERR not stored: {fault}"),
            Self::Unknown => f.write_str(
                "ERR not stored: the disk failed in the middle of a compaction; a restart finds out its state",
            ),
        }
    }
}

/// Where the log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Offset in the active half.
    pub offset: u64,
    /// Number of the next frame.
    pub number: u64,
}

/// The one who writes the disk.
#[derive(Debug)]
pub struct Writer<S> {
    storage: S,
    view: View,
    superblock: Superblock,
    tail: Tail,
    /// Writing a superblock failed: it is not known which half will count.
    is_lost: bool,
    memory: usize,
    /// The frame that is being put together.
    frame: Vec<u8>,
}

impl<S: Storage> Writer<S> {
    pub(crate) fn new(
        storage: S,
        view: View,
        superblock: Superblock,
        tail: Tail,
        memory: usize,
    ) -> Self {
        Self {
            storage,
            view,
            superblock,
            tail,
            is_lost: false,
            memory,
            frame: Vec::new(),
        }
    }

    /// The most bytes of operations ([`Op::encoded_len`]) in one commit.
    pub fn batch_limit(&self) -> usize {
        let quarter = self.superblock.half_len / 4;
        let sector = u64::from(self.superblock.sector);
        let frame = (quarter / sector * sector).min(MAX_FRAME as u64);
        frame as usize - HEADER_LEN
    }

    /// The most bytes a snapshot may have: the quarter of the half behind it holds a longest commit, and makes
    /// snapshots rare enough.
    fn snapshot_limit(&self) -> u64 {
        let half = self.superblock.half_len;
        half - half / 4 - HEADER_LEN as u64 - u64::from(self.superblock.sector)
    }

    /// Makes changes. They are on stable storage, all or none of those that were not refused for themselves, and
    /// visible in the [`View`] when this returns.
    ///
    /// All together take at most [`batch_limit`](Self::batch_limit) bytes.
    pub async fn commit(&mut self, ops: Vec<Op>) -> Vec<Outcome> {
        let refuse = |refusal| vec![Outcome::Refused(refusal); ops.len()];
        if self.is_lost {
            return refuse(Refusal::Unknown);
        }
        if ops.iter().map(Op::encoded_len).sum::<usize>() > self.batch_limit() {
            return refuse(Refusal::TooLong);
        }
        self.frame.clear();
        self.frame.resize(HEADER_LEN, 0);
        let outcomes = self.plan(&ops);
        if self.frame.len() == HEADER_LEN {
            return outcomes;
        }
        if let Err(fault) = self.write_frame().await {
            return refuse(if self.is_lost {
                Refusal::Unknown
            } else {
                Refusal::Storage(fault)
            });
        }
        let mut map = self.view.0.borrow_mut();
        for (op, outcome) in ops.into_iter().zip(&outcomes) {
            if matches!(outcome, Outcome::Done { .. }) {
                map.apply(op);
            }
        }
        drop(map);
        outcomes
    }

    /// Decides about each operation as if those before it were done, and encodes what there is to do.
    fn plan(&mut self, ops: &[Op]) -> Vec<Outcome> {
        let snapshot_limit = self.snapshot_limit();
        let map = self.view.0.borrow();
        let mut cleared = false;
        // Lengths of values that differ from the map's; `None` for keys that are gone.
        let mut changed: BTreeMap<&[u8], Option<usize>> = BTreeMap::new();
        let (mut snapshot_len, mut memory) = (map.snapshot_len, map.memory);
        let mut outcomes = Vec::with_capacity(ops.len());
        for op in ops {
            let (key, new) = match op {
                Op::Set { key, value } => (key, Some(value.len())),
                Op::Delete { key } => (key, None),
                Op::Clear => {
                    op.encode(&mut self.frame);
                    (cleared, snapshot_len, memory) = (true, 0, 0);
                    changed.clear();
                    outcomes.push(Outcome::Done { existed: true });
                    continue;
                }
            };
            let old = changed.get(&**key).copied().unwrap_or_else(|| {
                let value = map.get(key).filter(|_| !cleared);
                value.map(<[u8]>::len)
            });
            let existed = old.is_some();
            if new.is_none() && !existed {
                outcomes.push(Outcome::Done { existed });
                continue;
            }
            let taken = |len: Option<usize>| len.map_or(0, |len| map::snapshot_len(key, len));
            let used = |len: Option<usize>| len.map_or(0, |len| map::memory(key, len));
            let snapshot_after = snapshot_len - taken(old) + taken(new);
            let memory_after = memory - used(old) + used(new);
            let refusal = if key.len() > MAX_KEY || new.is_some_and(|len| len > MAX_VALUE) {
                Some(Refusal::TooLong)
            } else if snapshot_after > snapshot_limit && snapshot_after > snapshot_len {
                Some(Refusal::DiskFull)
            } else if memory_after > self.memory && memory_after > memory {
                Some(Refusal::MemoryFull)
            } else {
                None
            };
            if let Some(refusal) = refusal {
                outcomes.push(Outcome::Refused(refusal));
                continue;
            }
            op.encode(&mut self.frame);
            (snapshot_len, memory) = (snapshot_after, memory_after);
            changed.insert(key, new);
            outcomes.push(Outcome::Done { existed });
        }
        outcomes
    }

    /// Writes the frame, to the other half if there is no room in this one.
    async fn write_frame(&mut self) -> Result<(), Fault> {
        let sector = self.superblock.sector as usize;
        let len = self.frame.len().next_multiple_of(sector) as u64;
        if self.tail.offset + len > self.superblock.half_len {
            self.compact().await?;
        }
        self.append().await
    }

    /// Writes the frame at the tail, up to stable storage. Should that fail, the tail stays, and the next frame takes
    /// this one's place.
    async fn append(&mut self) -> Result<(), Fault> {
        let payload = self.frame.len() - HEADER_LEN;
        let mut header = Header {
            crc: 0,
            generation: self.superblock.generation,
            number: self.tail.number,
            len: payload as u64,
        };
        let store = self.superblock.store.to_le_bytes();
        header.crc = crc32c(&[&store, &header.covered(), &self.frame[HEADER_LEN..]]);
        self.frame[..HEADER_LEN].copy_from_slice(&header.encode());
        let len = self
            .frame
            .len()
            .next_multiple_of(self.superblock.sector as usize);
        self.frame.resize(len, 0);
        let start = self.superblock.half(self.superblock.active);
        self.storage
            .write(start + self.tail.offset, &self.frame)
            .await?;
        self.storage.flush().await?;
        self.tail.offset += len as u64;
        self.tail.number += 1;
        Ok(())
    }

    /// Writes a snapshot to the other half and makes that the active one.
    ///
    /// Until the superblock is written nothing has happened that counts.
    async fn compact(&mut self) -> Result<(), Fault> {
        let next = Superblock {
            sequence: self.superblock.sequence + 1,
            generation: self.superblock.generation + 1,
            active: 1 - self.superblock.active,
            ..self.superblock
        };
        let len = self.write_snapshot(&next).await?;
        self.storage.flush().await?;

        self.is_lost = true;
        let mut sector = vec![0; self.superblock.sector as usize];
        sector[..SUPERBLOCK_LEN].copy_from_slice(&next.encode());
        self.storage.write(next.offset(), &sector).await?;
        self.storage.flush().await?;
        self.is_lost = false;
        self.superblock = next;
        self.tail = Tail {
            offset: len,
            number: 1,
        };
        Ok(())
    }

    /// Writes all entries as one frame at the start of the half that `next` makes active. Returns the frame's length.
    async fn write_snapshot(&self, next: &Superblock) -> Result<u64, Fault> {
        let sector = next.sector as usize;
        let len = self.view.read().snapshot_len;
        let mut header = Header {
            crc: 0,
            generation: next.generation,
            number: 0,
            len,
        };
        header.crc = self.snapshot_crc(&header);
        let start = next.half(next.active);
        let mut written = 0;
        let mut chunk = header.encode().to_vec();
        let mut last: Option<Box<[u8]>> = None;
        loop {
            // Commits wait for this one, so nothing changes between the chunks.
            let more = self.fill(&mut chunk, &mut last);
            if !more {
                chunk.resize(chunk.len().next_multiple_of(sector), 0);
            }
            let whole = chunk.len() / sector * sector;
            self.storage.write(start + written, &chunk[..whole]).await?;
            written += whole as u64;
            chunk.drain(..whole);
            if !more {
                return Ok(written);
            }
        }
    }

    /// Adds entries to a chunk until it is long enough. True if there are more.
    fn fill(&self, chunk: &mut Vec<u8>, last: &mut Option<Box<[u8]>>) -> bool {
        let map = self.view.read();
        let mut full_at: Option<Box<[u8]>> = None;
        for (key, value) in map.entries_behind(last.as_deref()) {
            encode_set(key, value, chunk);
            if chunk.len() >= CHUNK {
                full_at = Some(key.into());
                break;
            }
        }
        *last = full_at;
        last.is_some()
    }

    fn snapshot_crc(&self, header: &Header) -> u32 {
        let mut crc = Crc::new();
        crc.update(&self.superblock.store.to_le_bytes());
        crc.update(&header.covered());
        let mut op = Vec::new();
        for (key, value) in self.view.read().entries_behind(None) {
            op.clear();
            encode_set(key, value, &mut op);
            crc.update(&op);
        }
        crc.value()
    }
}
