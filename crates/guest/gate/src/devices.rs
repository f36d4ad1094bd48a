//! The operations, as host system calls.

use core::sync::atomic::Ordering;

use kiln_abi::layout::Record;
use kiln_abi::op::{MAX_SEGMENTS, OpError, Protection, Segment, SegmentList, Stream};
use kiln_abi::perform::Devices;
use kiln_abi::user::{UserAccess, UserAdvice, UserBacking};
use kiln_abi::{DeviceInfo, DeviceKind, NetHeader};

use crate::memory::inside;
use crate::state::{CONSOLE_FD, DeviceState, FIRST_DEVICE_FD, Range, State};
use crate::sys::{self, errno};
use crate::traffic::{self, Direction, Traffic};
use crate::vcpu;

/// The most bytes of one console write; longer ones are cut, which the guest sees in the result.
const MAX_CONSOLE: u64 = 64 * 1024;

/// The lengths of host writes to a disk, longest first. The seccomp filter knows the same list: a write of up to
/// this length may start at most this far before the disk's end, so that no write can make the file longer.
///
/// 512 is there so that no sector is ever written in pieces.
pub const WRITE_CLASSES: [u64; 5] = [1 << 20, 1 << 16, 1 << 12, 512, 1];

/// The most bytes of memory that one host call is about. The filter wants lengths below 4 GiB.
const MEMORY_PIECE: u64 = 1 << 30;

/// The devices of this instance. Counts the host calls it makes.
#[derive(Debug)]
pub struct HostDevices<'a> {
    state: &'a State,
    /// Host calls made so far.
    pub host_calls: u64,
}

impl<'a> HostDevices<'a> {
    /// The devices in `state`.
    pub fn new(state: &'a State) -> Self {
        Self {
            state,
            host_calls: 0,
        }
    }

    pub(crate) fn state(&self) -> &'a State {
        self.state
    }

    pub(crate) fn device(&self, device: u32, kind: DeviceKind) -> Result<&DeviceState, OpError> {
        let known = device < self.state.device_count;
        let state = self.state.devices.get(device as usize).filter(|_| known);
        state
            .filter(|d| d.kind == kind as u32)
            .ok_or(OpError::NoDevice)
    }

    fn traffic(&self) -> &'static Traffic {
        // SAFETY: mapped for the process's life; all its fields are atomic.
        unsafe { &*self.state.traffic }
    }

    /// Copies a frame for those who capture, if there are any.
    fn copy(
        &self,
        device: u32,
        direction: Direction,
        parts: &[Segment],
        len: u64,
    ) -> Option<traffic::Copy> {
        let traffic = self.traffic();
        if !traffic.wants(device) || self.state.ring.is_null() {
            return None;
        }
        let time = sys::clock(sys::CLOCK_REALTIME);
        // SAFETY: the monitor has mapped the ring, and nobody else writes to it. The parts have been checked to be guest memory;
        // should the guest have taken its own access away, the fault ends it.
        unsafe { traffic.copy(self.state.ring, (device, direction), time, parts, len) }
    }

    fn in_pieces(
        &mut self,
        range: Segment,
        call: impl Fn(u64, u64) -> isize,
    ) -> Result<(), OpError> {
        let mut done = 0;
        while done < range.len {
            let len = (range.len - done).min(MEMORY_PIECE);
            self.host_calls += 1;
            check(call(range.addr + done, len))?;
            done += len;
        }
        Ok(())
    }

    fn disk_to_write(&self, device: u32) -> Result<u64, OpError> {
        let disk = self.device(device, DeviceKind::Block)?;
        if disk.flags & DeviceInfo::READ_ONLY != 0 {
            return Err(OpError::ReadOnly);
        }
        Ok(disk.capacity)
    }
}

pub(crate) fn fd(device: u32) -> i32 {
    FIRST_DEVICE_FD + device.cast_signed()
}

#[cold]
#[inline(never)]
fn error(result: isize) -> OpError {
    match result {
        errno::EAGAIN | errno::EINTR | errno::ENOBUFS => OpError::Again,
        errno::EMSGSIZE | errno::EINVAL => OpError::Invalid,
        errno::ENOSPC | errno::EDQUOT | errno::EFBIG => OpError::NoSpace,
        errno::EROFS | errno::EPERM | errno::EBADF => OpError::ReadOnly,
        errno::EOPNOTSUPP => OpError::Unsupported,
        _ => OpError::Io,
    }
}

pub(crate) fn check(result: isize) -> Result<u64, OpError> {
    u64::try_from(result).map_err(|_| error(result))
}

/// `header` and the segments behind it, as one list for the host.
fn with_header(
    header: u64,
    segments: &[Segment],
    list: &mut [Segment; MAX_SEGMENTS as usize + 1],
) -> usize {
    let mut count = 0;
    let first = Segment {
        addr: header,
        len: NetHeader::SIZE as u64,
    };
    let all = core::iter::once(&first).chain(segments);
    for (slot, segment) in list.iter_mut().zip(all) {
        *slot = *segment;
        count += 1;
    }
    count
}

impl Devices for HostDevices<'_> {
    const METRICS: bool = true;
    const PROGRAMS: bool = true;

    fn console_write(&mut self, stream: Stream, text: Segment) -> Result<u64, OpError> {
        self.host_calls += 1;
        loop {
            let result = sys::write(
                CONSOLE_FD + stream as i32,
                text.addr,
                text.len.min(MAX_CONSOLE),
            );
            if result != errno::EINTR {
                return check(result);
            }
        }
    }

    fn net_send(
        &mut self,
        device: u32,
        header: NetHeader,
        frame: &[Segment],
    ) -> Result<(), OpError> {
        self.device(device, DeviceKind::Net)?;
        let mut list = [Segment::default(); MAX_SEGMENTS as usize + 1];
        let count = with_header(&raw const header as u64, frame, &mut list);
        let list = list.get(..count).ok_or(OpError::Invalid)?;
        let len = frame
            .iter()
            .fold(0, |sum: u64, part| sum.saturating_add(part.len));
        // Before it goes: whoever sees it arrive and then ends a capture finds it there.
        let copy = self.copy(device, Direction::Out, frame, len);
        self.host_calls += 1;
        if let Err(error) = check(sys::writev(fd(device), list)) {
            if let Some(copy) = copy {
                // SAFETY: just copied there.
                unsafe { self.traffic().withdraw(self.state.ring, &copy) };
            }
            return Err(error);
        }
        self.traffic().count(device, Direction::Out, len);
        Ok(())
    }

    fn net_receive(&mut self, device: u32, into: &[Segment]) -> Result<(u64, NetHeader), OpError> {
        self.device(device, DeviceKind::Net)?;
        let mut header = NetHeader::default();
        let mut list = [Segment::default(); MAX_SEGMENTS as usize + 1];
        let count = with_header(&raw mut header as u64, into, &mut list);
        self.host_calls += 1;
        // SAFETY: the header is ours; the others have been checked to be writable guest memory.
        let result = unsafe { sys::readv(fd(device), list.get(..count).ok_or(OpError::Invalid)?) };
        if result == errno::ENETDOWN {
            // Said once by a packet socket whose interface was taken down (packet(7)): it may come up again.
            return Err(OpError::Again);
        }
        // Less than a header is no frame: the other end has closed.
        let len = check(result)?
            .checked_sub(NetHeader::SIZE as u64)
            .ok_or(OpError::Io)?;
        self.copy(device, Direction::In, into, len);
        self.traffic().count(device, Direction::In, len);
        Ok((len, header))
    }

    fn block_geometry(&self, device: u32) -> Result<(u64, u32), OpError> {
        let disk = self.device(device, DeviceKind::Block)?;
        Ok((disk.capacity, disk.sector_size))
    }

    fn block_read(
        &mut self,
        device: u32,
        mut offset: u64,
        into: &[Segment],
    ) -> Result<(), OpError> {
        for segment in into {
            let (mut addr, mut left) = (segment.addr, segment.len);
            while left > 0 {
                self.host_calls += 1;
                // SAFETY: the segment has been checked to be writable guest memory.
                let done = match unsafe { sys::pread(fd(device), addr, left, offset) } {
                    errno::EINTR => continue,
                    // The file has become shorter than it was at start.
                    0 => return Err(OpError::Io),
                    result => check(result)?.min(left),
                };
                addr += done;
                left -= done;
                offset += done;
            }
        }
        Ok(())
    }

    fn block_write(
        &mut self,
        device: u32,
        mut offset: u64,
        from: &[Segment],
    ) -> Result<(), OpError> {
        let capacity = self.disk_to_write(device)?;
        for segment in from {
            let (mut addr, mut left) = (segment.addr, segment.len);
            while left > 0 {
                let class = WRITE_CLASSES
                    .into_iter()
                    .find(|&class| offset.saturating_add(class) <= capacity)
                    .ok_or(OpError::Invalid)?;
                self.host_calls += 1;
                let done = match sys::pwrite(fd(device), addr, left.min(class), offset) {
                    errno::EINTR => continue,
                    0 => return Err(OpError::Io),
                    result => check(result)?.min(left),
                };
                addr += done;
                left -= done;
                offset += done;
            }
        }
        Ok(())
    }

    fn block_flush(&mut self, device: u32) -> Result<(), OpError> {
        self.device(device, DeviceKind::Block)?;
        loop {
            self.host_calls += 1;
            match sys::fdatasync(fd(device)) {
                errno::EINTR => {}
                result => return check(result).map(|_| ()),
            }
        }
    }

    fn block_discard(&mut self, device: u32, offset: u64, len: u64) -> Result<(), OpError> {
        self.disk_to_write(device)?;
        self.host_calls += 1;
        check(sys::punch_hole(fd(device), offset, len)).map(|_| ())
    }

    fn random(&mut self, buffer: Segment) -> Result<(), OpError> {
        self.host_calls += 1;
        // SAFETY: the buffer has been checked to be writable guest memory.
        let got = check(unsafe { sys::getrandom(buffer.addr, buffer.len) })?;
        if got == buffer.len {
            Ok(())
        } else {
            Err(OpError::Io)
        }
    }

    fn memory_release(&mut self, range: Segment) -> Result<(), OpError> {
        if !self.state.free.contains(range.addr, range.len) {
            return Err(OpError::Invalid);
        }
        self.in_pieces(range, |addr, len| {
            // SAFETY: free guest memory, which the guest says it does not need.
            unsafe { sys::madvise(addr, len, sys::MADV_REMOVE) }
        })
    }

    fn memory_protect(&mut self, range: Segment, protection: Protection) -> Result<(), OpError> {
        let image = self.state.image_data.contains(range.addr, range.len);
        if !inside(&self.state.writable, range) || (image && protection == Protection::ReadWrite) {
            return Err(OpError::Invalid);
        }
        self.in_pieces(range, |addr, len| {
            // SAFETY: the guest's own writable memory, whose protection it chooses.
            unsafe { sys::mprotect(addr, len, protection as u64) }
        })?;
        if self.state.machine.run.is_null() {
            return Ok(());
        }
        vcpu::protect(self.state, range, protection)
    }

    fn tick(&mut self, period: u64) -> Result<(), OpError> {
        if self.state.timer < 0 {
            return Err(OpError::Unsupported);
        }
        self.host_calls += 1;
        let set = check(sys::timer_settime(self.state.timer, period)).map(|_| ());
        if period == 0 && !self.state.machine.run.is_null() {
            vcpu::forget_tick(self.state);
        }
        set
    }

    fn set_trap(&mut self, entry: u64, stack: Segment) -> Result<(), OpError> {
        if !self.state.text.contains(entry, 1) {
            return Err(OpError::Invalid);
        }
        self.state.trap_entry.set(entry);
        self.state.trap_stack.set(Range {
            start: stack.addr,
            end: stack.addr.saturating_add(stack.len),
        });
        Ok(())
    }

    fn metrics(&mut self, blocks: SegmentList) -> Result<(), OpError> {
        let traffic = self.traffic();
        traffic.blocks.store(blocks.addr, Ordering::Relaxed);
        let count = u64::from(blocks.count);
        traffic.block_count.store(count, Ordering::Release);
        Ok(())
    }

    fn user_map(
        &mut self,
        range: Segment,
        access: UserAccess,
        backing: UserBacking,
        populate: bool,
    ) -> Result<(), OpError> {
        self.map(range, access, backing, populate)
    }

    fn user_unmap(&mut self, range: Segment) -> Result<(), OpError> {
        self.unmap(range)
    }

    fn user_protect(&mut self, range: Segment, access: UserAccess) -> Result<(), OpError> {
        self.protect(range, access)
    }

    fn user_discard(&mut self, range: Segment) -> Result<(), OpError> {
        self.discard(range)
    }

    fn user_move(&mut self, range: Segment, to: u64) -> Result<(), OpError> {
        self.relocate(range, to)
    }

    fn user_advise(&mut self, range: Segment, advice: UserAdvice) -> Result<(), OpError> {
        self.advise(range, advice)
    }

    fn system_calls(&mut self, entry: u64, deferred: u64) -> Result<(), OpError> {
        self.take_calls(entry, deferred)
    }

    fn console_read(&mut self, buffer: Segment) -> Result<u64, OpError> {
        self.read_input(buffer)
    }

    fn ninep(&mut self, device: u32, request: Segment, reply: Segment) -> Result<u64, OpError> {
        self.ask(device, request, reply)
    }
}
