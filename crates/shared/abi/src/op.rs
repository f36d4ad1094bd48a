//! The operations of a batch.
//!
//! In memory an operation is a [`RawOp`], 64 bytes. [`Op`] is the same as a typed value: [`Op::encode`] writes it,
//! [`RawOp::decode`] reads it back and refuses what does not fit. Results are written to [`RawOp::result`]: a
//! count of bytes (or 0) on success, a negative [`OpError`] otherwise.
//!
//! Buffers are lists of [`Segment`]s, at most [`MAX_SEGMENTS`]. They must lie in the guest's memory; what is written
//! to must lie in memory the guest may write.
//!
//! No operation but [`Op::BlockRead`], [`Op::BlockWrite`], [`Op::BlockFlush`], [`Op::BlockDiscard`],
//! [`UserOp::NineP`] with room for a reply (for as long as the host's disk takes) and [`Op::ConsoleWrite`] (while the reader of the console is
//! behind) blocks.

use crate::net::NetHeader;
use crate::user::UserOp;

/// The most segments of one operation.
pub const MAX_SEGMENTS: u64 = 32;

/// The most bytes of one block operation.
pub const MAX_BLOCK_TRANSFER: u64 = 1 << 20;

/// The most bytes of one [`Op::Random`].
pub const MAX_RANDOM: u64 = 256;

/// The shortest time between two ticks in nanoseconds; shorter periods are lengthened.
pub const MIN_TICK: u64 = 100_000;

/// A buffer in guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Address of its first byte.
    pub addr: u64,
    /// Length in bytes.
    pub len: u64,
}

/// An array of [`Segment`]s in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentList {
    /// Address of the first, 8-byte aligned.
    pub addr: u64,
    /// Their number, 1 to [`MAX_SEGMENTS`].
    pub count: u32,
}

/// An operation as it lies in guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RawOp {
    /// Which operation: a `code` constant.
    pub code: u16,
    /// Reserved: the guest writes 0, the monitor ignores it.
    pub flags: u16,
    /// Device number for operations on devices.
    pub device: u32,
    /// Result, written by the monitor.
    pub result: i64,
    /// Arguments by operation.
    pub args: [u64; 6],
}

/// The first fields of a [`RawOp`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct OpHead {
    pub code: u16,
    pub flags: u16,
    pub device: u32,
    pub result: i64,
}

/// Numbers of the operations.
#[allow(missing_docs, reason = "each is documented at the variant of `Op`")]
pub mod code {
    pub const CONSOLE_WRITE: u16 = 1;
    pub const NET_SEND: u16 = 2;
    pub const NET_RECEIVE: u16 = 3;
    pub const BLOCK_READ: u16 = 4;
    pub const BLOCK_WRITE: u16 = 5;
    pub const BLOCK_FLUSH: u16 = 6;
    pub const BLOCK_DISCARD: u16 = 7;
    pub const RANDOM: u16 = 8;
    pub const MEMORY_RELEASE: u16 = 9;
    pub const MEMORY_PROTECT: u16 = 10;
    pub const TICK: u16 = 11;
    pub const SET_TRAP: u16 = 12;
    pub const EXIT: u16 = 13;
    pub const NINEP: u16 = 14;
    /// Reserved for trace records.
    pub const TRACE: u16 = 15;
    pub const METRICS: u16 = 16;
    pub const USER_MAP: u16 = 17;
    pub const USER_UNMAP: u16 = 18;
    pub const USER_PROTECT: u16 = 19;
    pub const USER_DISCARD: u16 = 20;
    pub const USER_MOVE: u16 = 21;
    pub const SYSTEM_CALLS: u16 = 22;
    pub const CONSOLE_READ: u16 = 23;
    pub const USER_ADVISE: u16 = 24;
}

/// Which of the console's two streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// Standard output.
    #[default]
    Out = 0,
    /// Standard error output. Backends that have one stream only take it for the other.
    Error = 1,
}

/// What a page of guest memory may be used for. Executable memory cannot be made at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Protection {
    /// Every access faults.
    None = 0,
    /// Writing faults.
    Read = 1,
    /// Reading and writing.
    ReadWrite = 3,
}

/// An operation as a typed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes text to the console. Result: bytes written, at least 1 unless the buffer is empty.
    ConsoleWrite {
        /// To which stream; the device number in a [`RawOp`].
        stream: Stream,
        /// The text.
        buffer: Segment,
    },
    /// Sends one frame, at most [`MAX_FRAME`](crate::net::MAX_FRAME) bytes. Result: 0.
    ///
    /// Errors: [`OpError::Again`] while the link cannot take more; [`OpError::Invalid`] for a frame shorter than an
    /// Ethernet header or longer than allowed, or a header whose offsets lie outside the frame.
    NetSend {
        /// Which link.
        device: u32,
        /// The frame, Ethernet header first.
        frame: SegmentList,
        /// Offload metadata.
        header: NetHeader,
    },
    /// Receives one frame. Result: its length in bytes. The header comes back in the operation
    /// ([`RawOp::received_header`]). A frame longer than the buffers is cut.
    ///
    /// Errors: [`OpError::Again`] when there is none.
    NetReceive {
        /// Which link.
        device: u32,
        /// Where to put the frame.
        buffers: SegmentList,
    },
    /// Reads from a disk. Result: bytes read, always the whole length.
    ///
    /// Errors: [`OpError::Invalid`] if offset or length are not multiples of the sector size or exceed
    /// [`MAX_BLOCK_TRANSFER`] or the capacity; [`OpError::Io`].
    BlockRead {
        /// Which disk.
        device: u32,
        /// Where to put the data.
        buffers: SegmentList,
        /// Offset on the disk in bytes.
        offset: u64,
    },
    /// Writes to a disk; the data are durable only after [`Op::BlockFlush`]. Result: bytes written, always the
    /// whole length. Errors as for reading, [`OpError::ReadOnly`] and [`OpError::NoSpace`].
    BlockWrite {
        /// Which disk.
        device: u32,
        /// The data.
        buffers: SegmentList,
        /// Offset on the disk in bytes.
        offset: u64,
    },
    /// Returns once everything written before is on stable storage. Result: 0. Errors: [`OpError::Io`], after which
    /// nothing is known about earlier writes.
    BlockFlush {
        /// Which disk.
        device: u32,
    },
    /// Tells the host that the content of a range is no longer needed; it reads as zero or as before. Result: 0.
    /// Errors: as for writing; [`OpError::Unsupported`] if the host's file cannot.
    BlockDiscard {
        /// Which disk.
        device: u32,
        /// Offset on the disk in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Fills a buffer of at most [`MAX_RANDOM`] bytes with the host's random numbers. Result: the length.
    Random {
        /// What to fill.
        buffer: Segment,
    },
    /// Gives pages back to the host; they read as zero afterwards and cost nothing until they are touched.
    /// Range: whole pages of [`MemoryKind::Free`](crate::boot::MemoryKind::Free) memory. Result: 0.
    MemoryRelease {
        /// Which pages.
        range: Segment,
    },
    /// Changes what pages may be used for. Range: whole pages of writable image, stack or free memory. Result: 0.
    /// Errors: [`OpError::Invalid`] for other ranges, for anything executable, and for making pages of the image
    /// writable: what was sealed stays sealed.
    MemoryProtect {
        /// Which pages.
        range: Segment,
        /// Their new protection.
        protection: Protection,
    },
    /// Starts a trap of kind [`TICK`](crate::trap::TrapFrame::TICK) every `period` nanoseconds, or stops it with 0.
    /// Result: 0. Errors: [`OpError::Unsupported`] without [`BootInfo::FEATURE_TICK`](crate::BootInfo::FEATURE_TICK),
    /// or when the host has no timer left.
    /// Ticks do not interrupt a call, and one that becomes due meanwhile is dropped.
    Tick {
        /// Time between two ticks in nanoseconds, at least [`MIN_TICK`].
        period: u64,
    },
    /// Says where traps go, see [`trap`](crate::trap). Result: 0. Errors: [`OpError::Invalid`] if the entry does not
    /// lie in the image or the stack is not inside writable memory of at least 2 KiB.
    SetTrap {
        /// Address of the first instruction.
        entry: u64,
        /// The stack, from its lowest address.
        stack: Segment,
    },
    /// Says where the guest's counters lie, see [`metrics`](crate::metrics): each segment is one block. It replaces what was
    /// said before. Result: 0. The list and the blocks must lie in writable memory and stay there: the monitor reads them
    /// later, whenever somebody asks. Errors: [`OpError::Unsupported`] where nobody can ask.
    Metrics {
        /// The blocks.
        blocks: SegmentList,
    },
    /// What only guests ask that run a Linux program.
    User(UserOp),
    /// Ends the guest. Does not return, whatever the arguments: what cannot be read of them is left out of the report.
    Exit {
        /// An [`ExitReason`](crate::ExitReason).
        reason: u32,
        /// The exit code; the low 8 bits are what a shell sees.
        code: u32,
        /// Array of return addresses, innermost first, at most [`MAX_FRAMES`](crate::exit::MAX_FRAMES).
        frames: Segment,
        /// Text, at most [`MAX_MESSAGE`](crate::exit::MAX_MESSAGE) bytes.
        message: Segment,
    },
}

/// Why an operation failed. In [`RawOp::result`] as a negative number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum OpError {
    /// Nothing there now, or no room now: wait and try again.
    Again = -1,
    /// The operation's number or arguments make no sense.
    Invalid = -2,
    /// A buffer lies outside the memory the guest may use this way.
    BadAddress = -3,
    /// There is no such device, or it is of another kind.
    NoDevice = -4,
    /// The host could not do it.
    Io = -5,
    /// The device is read-only.
    ReadOnly = -6,
    /// The host has no room left.
    NoSpace = -7,
    /// This backend or device does not have the operation.
    Unsupported = -8,
}

impl OpError {
    /// The error with this number. Numbers not known count as [`OpError::Io`].
    pub const fn from_raw(raw: i64) -> Self {
        match raw {
            -1 => Self::Again,
            -2 => Self::Invalid,
            -3 => Self::BadAddress,
            -4 => Self::NoDevice,
            -6 => Self::ReadOnly,
            -7 => Self::NoSpace,
            -8 => Self::Unsupported,
            _ => Self::Io,
        }
    }
}

impl core::fmt::Display for OpError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Again => "not ready",
            Self::Invalid => "invalid arguments",
            Self::BadAddress => "buffer outside of memory",
            Self::NoDevice => "no such device",
            Self::Io => "input/output error",
            Self::ReadOnly => "read-only device",
            Self::NoSpace => "no space left",
            Self::Unsupported => "not supported here",
        })
    }
}

impl core::error::Error for OpError {}

impl Op {
    /// The operation as it lies in memory, its result not yet written.
    pub const fn encode(self) -> RawOp {
        match self {
            Self::ConsoleWrite { stream, buffer } => on(
                code::CONSOLE_WRITE,
                stream as u32,
                [buffer.addr, buffer.len, 0, 0, 0, 0],
            ),
            // The header's words are filled in by the caller that has them: see `RawOp::set_header`.
            Self::NetSend { device, frame, .. } => list(code::NET_SEND, device, frame, 0),
            Self::NetReceive { device, buffers } => list(code::NET_RECEIVE, device, buffers, 0),
            Self::BlockRead {
                device,
                buffers,
                offset,
            } => list(code::BLOCK_READ, device, buffers, offset),
            Self::BlockWrite {
                device,
                buffers,
                offset,
            } => list(code::BLOCK_WRITE, device, buffers, offset),
            Self::BlockFlush { device } => on(code::BLOCK_FLUSH, device, [0; 6]),
            Self::BlockDiscard {
                device,
                offset,
                len,
            } => on(code::BLOCK_DISCARD, device, [0, 0, offset, len, 0, 0]),
            Self::Random { buffer } => on(code::RANDOM, 0, [buffer.addr, buffer.len, 0, 0, 0, 0]),
            Self::MemoryRelease { range } => {
                on(code::MEMORY_RELEASE, 0, [range.addr, range.len, 0, 0, 0, 0])
            }
            Self::MemoryProtect { range, protection } => on(
                code::MEMORY_PROTECT,
                0,
                [range.addr, range.len, protection as u64, 0, 0, 0],
            ),
            Self::Tick { period } => on(code::TICK, 0, [period, 0, 0, 0, 0, 0]),
            Self::SetTrap { entry, stack } => {
                on(code::SET_TRAP, 0, [stack.addr, stack.len, entry, 0, 0, 0])
            }
            Self::Metrics { blocks } => list(code::METRICS, 0, blocks, 0),
            Self::User(op) => op.encode(),
            Self::Exit {
                reason,
                code: exit_code,
                frames,
                message,
            } => on(
                code::EXIT,
                0,
                [
                    frames.addr,
                    frames.len,
                    message.addr,
                    message.len,
                    reason as u64,
                    exit_code as u64,
                ],
            ),
        }
    }
}

const fn on(code: u16, device: u32, args: [u64; 6]) -> RawOp {
    RawOp {
        code,
        flags: 0,
        device,
        result: 0,
        args,
    }
}

const fn list(code: u16, device: u32, list: SegmentList, third: u64) -> RawOp {
    on(code, device, [list.addr, list.count as u64, third, 0, 0, 0])
}

impl RawOp {
    /// [`Op::NetSend`], header included.
    pub fn net_send(device: u32, frame: SegmentList, header: NetHeader) -> Self {
        let mut op = list(code::NET_SEND, device, frame, 0);
        op.set_header(header);
        op
    }

    /// Writes a network header into the operation: the guest's before sending, the monitor's after receiving.
    pub fn set_header(&mut self, header: NetHeader) {
        [self.args[2], self.args[3]] = header.to_words();
    }

    /// After a receive operation: the header of the frame.
    pub fn received_header(&self) -> NetHeader {
        NetHeader::from_words([self.args[2], self.args[3]])
    }

    /// After the call: how the operation went.
    ///
    /// # Errors
    /// What the monitor reported.
    pub fn outcome(&self) -> Result<u64, OpError> {
        u64::try_from(self.result).map_err(|_| OpError::from_raw(self.result))
    }

    /// The typed operation.
    ///
    /// # Errors
    /// [`OpError::Invalid`] for an unknown number or arguments out of their documented ranges;
    /// [`OpError::Unsupported`] for the reserved number. Whether addresses and devices exist is not looked at here.
    pub fn decode(&self) -> Result<Op, OpError> {
        self.decode_for(true, true, true)
    }

    /// The typed operation, for a host that may have no links or no disks at all: operations on those are
    /// [`OpError::NoDevice`], whatever their arguments. Likewise [`UserOp`]s are [`OpError::Unsupported`] where there can be no
    /// programs. Where that is known at compile time, nothing else is left of them.
    ///
    /// # Errors
    /// As for [`decode`](Self::decode).
    #[inline]
    #[allow(clippy::many_single_char_names, reason = "six arguments by position")]
    pub fn decode_for(&self, links: bool, disks: bool, programs: bool) -> Result<Op, OpError> {
        let [a, b, c, d, e, f] = self.args;
        let device = self.device;
        let segment = Segment { addr: a, len: b };
        let segments = || {
            if b == 0 || b > MAX_SEGMENTS || !a.is_multiple_of(8) {
                return Err(OpError::Invalid);
            }
            Ok(SegmentList {
                addr: a,
                count: b as u32,
            })
        };
        Ok(match self.code {
            code::NET_SEND | code::NET_RECEIVE if !links => return Err(OpError::NoDevice),
            code::BLOCK_READ..=code::BLOCK_DISCARD if !disks => return Err(OpError::NoDevice),
            code::NINEP | code::USER_MAP..=code::USER_ADVISE if !programs => {
                return Err(OpError::Unsupported);
            }
            code::CONSOLE_WRITE => Op::ConsoleWrite {
                stream: match device {
                    1 => Stream::Error,
                    _ => Stream::Out,
                },
                buffer: segment,
            },
            code::NET_SEND => Op::NetSend {
                device,
                frame: segments()?,
                header: NetHeader::from_words([c, d]),
            },
            code::NET_RECEIVE => Op::NetReceive {
                device,
                buffers: segments()?,
            },
            code::BLOCK_READ => Op::BlockRead {
                device,
                buffers: segments()?,
                offset: c,
            },
            code::BLOCK_WRITE => Op::BlockWrite {
                device,
                buffers: segments()?,
                offset: c,
            },
            code::BLOCK_FLUSH => Op::BlockFlush { device },
            code::BLOCK_DISCARD => Op::BlockDiscard {
                device,
                offset: c,
                len: d,
            },
            code::RANDOM if b <= MAX_RANDOM => Op::Random { buffer: segment },
            code::MEMORY_RELEASE => Op::MemoryRelease {
                range: page_range(segment)?,
            },
            code::MEMORY_PROTECT => Op::MemoryProtect {
                range: page_range(segment)?,
                protection: match c {
                    0 => Protection::None,
                    1 => Protection::Read,
                    3 => Protection::ReadWrite,
                    _ => return Err(OpError::Invalid),
                },
            },
            code::TICK => Op::Tick {
                period: if a == 0 { 0 } else { a.max(MIN_TICK) },
            },
            code::SET_TRAP => Op::SetTrap {
                entry: c,
                stack: segment,
            },
            code::EXIT => Op::Exit {
                frames: segment,
                message: Segment { addr: c, len: d },
                reason: e as u32,
                code: f as u32,
            },
            code::METRICS => Op::Metrics {
                blocks: segments()?,
            },
            code::NINEP | code::USER_MAP..=code::USER_ADVISE => Op::User(UserOp::decode(self)?),
            code::TRACE => return Err(OpError::Unsupported),
            _ => return Err(OpError::Invalid),
        })
    }
}

pub(crate) fn page_range(range: Segment) -> Result<Segment, OpError> {
    let aligned =
        range.addr.is_multiple_of(crate::PAGE_SIZE) && range.len.is_multiple_of(crate::PAGE_SIZE);
    if !aligned || range.len == 0 || range.addr.checked_add(range.len).is_none() {
        return Err(OpError::Invalid);
    }
    Ok(range)
}

#[cfg(test)]
mod tests;
