//! The host's side of a call: walking a batch of which no byte is trusted.
//!
//! Every backend's monitor performs batches with [`batch`]. It reads each operation once, decodes it, checks every
//! buffer against the guest's [`Memory`], hands the rest to the backend's [`Devices`] and writes the result back. It
//! does not allocate, and its work is bounded by [`MAX_OPS`] times
//! [`MAX_SEGMENTS`].

use crate::call::{Call, MAX_OPS};
use crate::layout::Record;
use crate::net::{MAX_FRAME, NetHeader};
use crate::op::{
    MAX_BLOCK_TRANSFER, MAX_SEGMENTS, Op, OpError, OpHead, Protection, RawOp, Segment, SegmentList,
    Stream, code,
};
use crate::user::{UserAccess, UserAdvice, UserBacking, UserOp};

/// How the host reaches guest memory.
pub trait Memory {
    /// Copies from guest memory.
    ///
    /// # Errors
    /// [`OpError::BadAddress`] if any byte lies outside memory that the guest may read; nothing is copied then.
    fn read(&self, addr: u64, into: &mut [u8]) -> Result<(), OpError>;

    /// Copies to guest memory.
    ///
    /// # Errors
    /// [`OpError::BadAddress`] if any byte lies outside memory that the guest may write; nothing is copied then.
    fn write(&self, addr: u64, from: &[u8]) -> Result<(), OpError>;

    /// Checks that a buffer lies in memory that the guest may read or, with `writable`, may write.
    ///
    /// # Errors
    /// [`OpError::BadAddress`].
    fn check(&self, buffer: Segment, writable: bool) -> Result<(), OpError>;
}

/// What a backend does for the operations, behind the checks made here.
///
/// Buffers handed to these methods have passed [`Memory::check`]. Device numbers are the guest's: the backend
/// answers [`OpError::NoDevice`] for those it does not have.
#[allow(
    clippy::missing_errors_doc,
    reason = "the errors are those documented at `Op`"
)]
pub trait Devices {
    /// There can be links. If not, operations on them are refused without asking, and their methods are never called.
    const LINKS: bool = true;
    /// There can be disks; likewise.
    const DISKS: bool = true;
    /// Somebody can ask for the guest's counters. If not, [`metrics`](Self::metrics) is never called.
    const METRICS: bool = false;
    /// There can be guests that run programs. If not, [`UserOp`]s are refused, and their methods are never called.
    const PROGRAMS: bool = false;

    /// [`Op::ConsoleWrite`].
    fn console_write(&mut self, stream: Stream, text: Segment) -> Result<u64, OpError>;
    /// [`Op::NetSend`]; the frame is at least 14 bytes and the header's offsets lie inside it.
    fn net_send(
        &mut self,
        device: u32,
        header: NetHeader,
        frame: &[Segment],
    ) -> Result<(), OpError>;
    /// [`Op::NetReceive`].
    fn net_receive(&mut self, device: u32, into: &[Segment]) -> Result<(u64, NetHeader), OpError>;
    /// Capacity in bytes and sector size in bytes of a disk.
    fn block_geometry(&self, device: u32) -> Result<(u64, u32), OpError>;
    /// [`Op::BlockRead`]; range and alignment have been checked against the geometry.
    fn block_read(&mut self, device: u32, offset: u64, into: &[Segment]) -> Result<(), OpError>;
    /// [`Op::BlockWrite`]; likewise.
    fn block_write(&mut self, device: u32, offset: u64, from: &[Segment]) -> Result<(), OpError>;
    /// [`Op::BlockFlush`].
    fn block_flush(&mut self, device: u32) -> Result<(), OpError>;
    /// [`Op::BlockDiscard`]; range and alignment have been checked.
    fn block_discard(&mut self, device: u32, offset: u64, len: u64) -> Result<(), OpError>;
    /// [`Op::Random`].
    fn random(&mut self, buffer: Segment) -> Result<(), OpError>;
    /// [`Op::MemoryRelease`]; the backend checks the range's kind.
    fn memory_release(&mut self, range: Segment) -> Result<(), OpError>;
    /// [`Op::MemoryProtect`]; the backend checks the range's kind.
    fn memory_protect(&mut self, range: Segment, protection: Protection) -> Result<(), OpError>;
    /// [`Op::Tick`].
    fn tick(&mut self, period: u64) -> Result<(), OpError>;
    /// [`Op::SetTrap`].
    fn set_trap(&mut self, entry: u64, stack: Segment) -> Result<(), OpError>;
    /// [`Op::Metrics`]. What the list says has been checked, but the guest may change it later.
    fn metrics(&mut self, _blocks: SegmentList) -> Result<(), OpError> {
        Err(OpError::Unsupported)
    }

    /// [`UserOp::Map`]; ranges have been checked here and below.
    fn user_map(
        &mut self,
        _range: Segment,
        _access: UserAccess,
        _backing: UserBacking,
        _populate: bool,
    ) -> Result<(), OpError> {
        Err(OpError::Unsupported)
    }
    /// [`UserOp::Unmap`].
    fn user_unmap(&mut self, _range: Segment) -> Result<(), OpError> {
        Err(OpError::Unsupported)
    }
    /// [`UserOp::Protect`].
    fn user_protect(&mut self, _range: Segment, _access: UserAccess) -> Result<(), OpError> {
        Err(OpError::Unsupported)
    }
    /// [`UserOp::Discard`].
    fn user_discard(&mut self, _range: Segment) -> Result<(), OpError> {
        Err(OpError::Unsupported)
    }
    /// [`UserOp::Move`].
    fn user_move(&mut self, _range: Segment, _to: u64) -> Result<(), OpError> {
        Err(OpError::Unsupported)
    }
    /// [`UserOp::Advise`].
    fn user_advise(&mut self, _range: Segment, _advice: UserAdvice) -> Result<(), OpError> {
        Err(OpError::Unsupported)
    }
    /// [`UserOp::SystemCalls`]; the word has been checked to be writable and aligned.
    fn system_calls(&mut self, _entry: u64, _deferred: u64) -> Result<(), OpError> {
        Err(OpError::Unsupported)
    }
    /// [`UserOp::ConsoleRead`].
    fn console_read(&mut self, _buffer: Segment) -> Result<u64, OpError> {
        Err(OpError::Unsupported)
    }
    /// [`UserOp::NineP`].
    fn ninep(&mut self, _device: u32, _request: Segment, _reply: Segment) -> Result<u64, OpError> {
        Err(OpError::Unsupported)
    }
}

/// The last wish of a guest: an [`Op::Exit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// As in [`Op::Exit`].
    pub reason: u32,
    /// As in [`Op::Exit`].
    pub code: u32,
    /// As in [`Op::Exit`]; not checked.
    pub frames: Segment,
    /// As in [`Op::Exit`]; not checked.
    pub message: Segment,
}

/// Which operations of the batch to perform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// All of them.
    First,
    /// Receive operations whose result is [`OpError::Again`].
    Retry,
}

/// How far a batch came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Operations performed.
    pub done: u32,
    /// Frames received by them.
    pub received: u32,
    /// The guest asked to end; operations behind that one were not looked at.
    pub exit: Option<Exit>,
}

const OP_SIZE: u64 = RawOp::SIZE as u64;

/// Performs the operations of `call` in order.
pub fn batch<D: Devices>(
    call: &Call,
    pass: Pass,
    memory: &impl Memory,
    devices: &mut D,
) -> Progress {
    let mut progress = Progress {
        done: 0,
        received: 0,
        exit: None,
    };
    if call.count > MAX_OPS || !call.ops.is_multiple_of(8) {
        return progress;
    }
    // Bit n: in this pass receiving on device n found nothing, so asking again would only cost time; or sending found no
    // room, and a later frame must not overtake.
    let (mut drained, mut full) = (0u64, 0u64);
    let mut segments = [Segment::default(); MAX_SEGMENTS as usize];
    for index in 0..u64::from(call.count) {
        let Some(addr) = call.ops.checked_add(index * OP_SIZE) else {
            break;
        };
        // Guests keep many operations ready that ask for frames. Once there are no more, the heads say enough.
        let mut head = OpHead::default();
        if memory.read(addr, head.as_bytes_mut()).is_err() {
            break;
        }
        let receives = head.code == code::NET_RECEIVE;
        if pass == Pass::Retry && !(receives && head.result == OpError::Again as i64) {
            continue;
        }
        let closed = if receives { &mut drained } else { &mut full };
        let moves_frames =
            D::LINKS && (receives || head.code == code::NET_SEND) && head.device < 64;
        let bit = if moves_frames { 1 << head.device } else { 0 };
        if *closed & bit != 0 {
            head.result = OpError::Again as i64;
            if memory.write(addr, head.as_bytes()).is_err() {
                break;
            }
            progress.done += 1;
            continue;
        }
        let mut op = RawOp::default();
        if memory.read(addr, op.as_bytes_mut()).is_err() {
            break;
        }
        let result = match op.decode_for(D::LINKS, D::DISKS, D::PROGRAMS) {
            Ok(Op::Exit {
                reason,
                code,
                frames,
                message,
            }) => {
                progress.exit = Some(Exit {
                    reason,
                    code,
                    frames,
                    message,
                });
                return progress;
            }
            Ok(typed) => one(typed, &mut op, memory, devices, &mut segments),
            Err(error) => Err(error),
        };
        if result == Err(OpError::Again) {
            *closed |= bit;
        }
        op.result = match result {
            Ok(value) => {
                progress.received += u32::from(op.code == code::NET_RECEIVE);
                value.cast_signed()
            }
            Err(error) => error as i64,
        };
        if memory.write(addr, op.as_bytes()).is_err() {
            break;
        }
        progress.done += 1;
    }
    progress
}

fn one<D: Devices>(
    op: Op,
    raw: &mut RawOp,
    memory: &impl Memory,
    devices: &mut D,
    segments: &mut [Segment; MAX_SEGMENTS as usize],
) -> Result<u64, OpError> {
    match op {
        Op::ConsoleWrite { stream, buffer } => {
            memory.check(buffer, false)?;
            if buffer.len == 0 {
                return Ok(0);
            }
            devices.console_write(stream, buffer)
        }
        Op::NetSend {
            device,
            frame,
            header,
        } => {
            let (frame, len) = gather(frame, false, memory, segments)?;
            check_frame(&header, len)?;
            devices.net_send(device, header, frame)?;
            Ok(0)
        }
        Op::NetReceive { device, buffers } => {
            let (buffers, _) = gather(buffers, true, memory, segments)?;
            let (len, header) = devices.net_receive(device, buffers)?;
            raw.set_header(header);
            Ok(len)
        }
        Op::BlockRead {
            device,
            buffers,
            offset,
        } => {
            let (buffers, len) = gather(buffers, true, memory, segments)?;
            check_block(
                devices.block_geometry(device)?,
                offset,
                len,
                MAX_BLOCK_TRANSFER,
            )?;
            devices.block_read(device, offset, buffers)?;
            Ok(len)
        }
        Op::BlockWrite {
            device,
            buffers,
            offset,
        } => {
            let (buffers, len) = gather(buffers, false, memory, segments)?;
            check_block(
                devices.block_geometry(device)?,
                offset,
                len,
                MAX_BLOCK_TRANSFER,
            )?;
            devices.block_write(device, offset, buffers)?;
            Ok(len)
        }
        Op::BlockFlush { device } => devices.block_flush(device).map(|()| 0),
        Op::BlockDiscard {
            device,
            offset,
            len,
        } => {
            check_block(devices.block_geometry(device)?, offset, len, u64::MAX)?;
            devices.block_discard(device, offset, len).map(|()| 0)
        }
        Op::Random { buffer } => {
            memory.check(buffer, true)?;
            devices.random(buffer)?;
            Ok(buffer.len)
        }
        Op::MemoryRelease { range } => devices.memory_release(range).map(|()| 0),
        Op::MemoryProtect { range, protection } => {
            devices.memory_protect(range, protection).map(|()| 0)
        }
        Op::Tick { period } => devices.tick(period).map(|()| 0),
        Op::SetTrap { entry, stack } => {
            memory.check(stack, true)?;
            if stack.len < 2048 {
                return Err(OpError::Invalid);
            }
            devices.set_trap(entry, stack).map(|()| 0)
        }
        Op::Metrics { .. } if !D::METRICS => Err(OpError::Unsupported),
        Op::Metrics { blocks } => {
            gather(blocks, true, memory, segments)?;
            devices.metrics(blocks).map(|()| 0)
        }
        Op::User(_) if !D::PROGRAMS => Err(OpError::Unsupported),
        Op::User(op) => user(op, memory, devices),
        Op::Exit { .. } => Err(OpError::Invalid),
    }
}

fn user<D: Devices>(op: UserOp, memory: &impl Memory, devices: &mut D) -> Result<u64, OpError> {
    match op {
        UserOp::Map {
            range,
            access,
            backing,
            populate,
        } => {
            if let UserBacking::Shared(addr) | UserBacking::Private(addr) = backing {
                let len = range.len;
                memory.check(Segment { addr, len }, true)?;
            }
            devices.user_map(range, access, backing, populate)?;
        }
        UserOp::Unmap { range } => devices.user_unmap(range)?,
        UserOp::Protect { range, access } => devices.user_protect(range, access)?,
        UserOp::Discard { range } => devices.user_discard(range)?,
        UserOp::Move { range, to } => {
            if range.addr.abs_diff(to) < range.len {
                return Err(OpError::Invalid);
            }
            devices.user_move(range, to)?;
        }
        UserOp::Advise { range, advice } => devices.user_advise(range, advice)?,
        UserOp::SystemCalls { entry, deferred } => {
            let word = Segment {
                addr: deferred,
                len: 8,
            };
            memory.check(word, true)?;
            if !deferred.is_multiple_of(8) {
                return Err(OpError::BadAddress);
            }
            devices.system_calls(entry, deferred)?;
        }
        UserOp::ConsoleRead { buffer } => {
            memory.check(buffer, true)?;
            return devices.console_read(buffer);
        }
        UserOp::NineP {
            device,
            request,
            reply,
        } => {
            for (part, writable) in [(request, false), (reply, true)] {
                if part.len > 0 {
                    memory.check(part, writable)?;
                }
            }
            return devices.ninep(device, request, reply);
        }
    }
    Ok(0)
}

/// Reads a segment list once and checks every segment. Returns the segments and their total length.
fn gather<'a>(
    list: SegmentList,
    writable: bool,
    memory: &impl Memory,
    into: &'a mut [Segment; MAX_SEGMENTS as usize],
) -> Result<(&'a [Segment], u64), OpError> {
    let segments = into
        .get_mut(..list.count as usize)
        .ok_or(OpError::Invalid)?;
    let mut total = 0u64;
    for (index, segment) in segments.iter_mut().enumerate() {
        let addr = list
            .addr
            .checked_add((index * Segment::SIZE) as u64)
            .ok_or(OpError::BadAddress)?;
        memory.read(addr, segment.as_bytes_mut())?;
        memory.check(*segment, writable)?;
        total = total.checked_add(segment.len).ok_or(OpError::Invalid)?;
    }
    Ok((segments, total))
}

/// The offsets in a header are used by the host's kernel and by other guests: they must lie inside the frame.
fn check_frame(header: &NetHeader, len: u64) -> Result<(), OpError> {
    let inside = |offset: u64| offset <= len;
    let known_type = matches!(
        header.gso_type,
        NetHeader::GSO_NONE | NetHeader::GSO_TCPV4 | NetHeader::GSO_TCPV6
    );
    let checksum = header.flags & NetHeader::NEEDS_CSUM == 0
        || inside(u64::from(header.csum_start) + u64::from(header.csum_offset) + 2);
    let segmentation = header.gso_type == NetHeader::GSO_NONE
        || (header.gso_size != 0
            && header.flags & NetHeader::NEEDS_CSUM != 0
            && inside(u64::from(header.hdr_len)));
    if (14..=MAX_FRAME as u64).contains(&len) && known_type && checksum && segmentation {
        Ok(())
    } else {
        Err(OpError::Invalid)
    }
}

fn check_block(
    (capacity, sector): (u64, u32),
    offset: u64,
    len: u64,
    most: u64,
) -> Result<(), OpError> {
    let sector = u64::from(sector);
    let end = offset.checked_add(len).ok_or(OpError::Invalid)?;
    let aligned = sector != 0 && offset.is_multiple_of(sector) && len.is_multiple_of(sector);
    if !aligned || len == 0 || len > most || end > capacity {
        return Err(OpError::Invalid);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
