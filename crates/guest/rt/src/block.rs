//! Disks.
//!
//! The methods are `async` because on other backends a disk answers later; on the `process` backend they complete at
//! once, and the whole guest waits for as long as the host's disk takes.
#![allow(clippy::unused_async, reason = "see above")]

use core::fmt;

use kiln_abi::op::{MAX_BLOCK_TRANSFER, Op, OpError, Segment, SegmentList};
use kiln_abi::{DeviceInfo, DeviceKind};

use crate::{boot, monitor};

/// Why a disk operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The instance has no disk of this name.
    NotFound,
    /// Offset or length are not multiples of the sector size, or reach past the end.
    OutOfRange,
    /// The disk is read-only.
    ReadOnly,
    /// The host's file system is full.
    NoSpace,
    /// The host's disk cannot do it.
    Unsupported,
    /// The host could not read or write. After a failed flush nothing is known about earlier writes.
    Io,
}

impl From<OpError> for Error {
    fn from(error: OpError) -> Self {
        match error {
            OpError::Invalid | OpError::BadAddress => Self::OutOfRange,
            OpError::NoDevice => Self::NotFound,
            OpError::ReadOnly => Self::ReadOnly,
            OpError::NoSpace => Self::NoSpace,
            OpError::Unsupported => Self::Unsupported,
            OpError::Again | OpError::Io => Self::Io,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => {
                "no such disk: declare it in #[kiln::main] and attach it with --block NAME=FILE"
            }
            Self::OutOfRange => "offset and length must be whole sectors inside the disk",
            Self::ReadOnly => "the disk is read-only",
            Self::NoSpace => "no space left on the host",
            Self::Unsupported => "not supported by the host's disk",
            Self::Io => "input/output error",
        })
    }
}

impl core::error::Error for Error {}

/// A disk. Copies of the handle are the same disk.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    device: u32,
    info: &'static DeviceInfo,
}

impl Disk {
    /// The disk that the program declared under this name.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn open(name: &str) -> Result<Self, Error> {
        let (device, info) = boot::device(DeviceKind::Block, name).ok_or(Error::NotFound)?;
        Ok(Self { device, info })
    }

    /// Size in bytes.
    pub fn capacity(&self) -> u64 {
        self.info.capacity
    }

    /// Offsets and lengths are multiples of this many bytes.
    pub fn sector_size(&self) -> usize {
        self.info.sector_size as usize
    }

    /// True if writing fails.
    pub fn is_read_only(&self) -> bool {
        self.info.flags & DeviceInfo::READ_ONLY != 0
    }

    /// Fills `buffer` from `offset` (bytes) on.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::Io`].
    pub async fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let address = buffer.as_mut_ptr() as u64;
        Self::transfer(offset, address, buffer.len(), |buffers, offset| {
            Op::BlockRead {
                device: self.device,
                buffers,
                offset,
            }
        })
    }

    /// Writes `data` from `offset` (bytes) on. It is durable after the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::ReadOnly`], [`Error::NoSpace`], [`Error::Io`].
    pub async fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let address = data.as_ptr() as u64;
        Self::transfer(offset, address, data.len(), |buffers, offset| {
            Op::BlockWrite {
                device: self.device,
                buffers,
                offset,
            }
        })
    }

    /// Returns when everything written before is on stable storage.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn flush(&self) -> Result<(), Error> {
        single(Op::BlockFlush {
            device: self.device,
        })
    }

    /// Tells the host that a range's content is not needed any more.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::ReadOnly`], [`Error::Unsupported`], [`Error::Io`].
    pub async fn discard(&self, offset: u64, len: u64) -> Result<(), Error> {
        single(Op::BlockDiscard {
            device: self.device,
            offset,
            len,
        })
    }

    fn transfer(
        offset: u64,
        address: u64,
        len: usize,
        op: impl Fn(SegmentList, u64) -> Op,
    ) -> Result<(), Error> {
        let mut done = 0;
        while done < len as u64 {
            let part = (len as u64 - done).min(MAX_BLOCK_TRANSFER);
            let segment = Segment {
                addr: address + done,
                len: part,
            };
            let list = SegmentList {
                addr: &raw const segment as u64,
                count: 1,
            };
            single(op(list, offset.saturating_add(done)))?;
            done += part;
        }
        Ok(())
    }
}

fn single(op: Op) -> Result<(), Error> {
    let mut op = [op.encode()];
    monitor::perform(&mut op);
    op[0].outcome()?;
    Ok(())
}
