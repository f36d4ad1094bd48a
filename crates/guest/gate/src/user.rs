//! What guests ask for that run a program: its memory, its system calls, the console's input, folders of the host.
//!
//! The program's memory is the host's: each operation is one call of `mmap`, `munmap`, `mprotect`, `madvise` or `mremap` on
//! addresses of the user range, where nothing else lies. The seccomp filter holds them to that range, and to the two
//! descriptors that may be mapped. In a virtual machine [`Pages`] lets the guest have what lies there.

use kiln_abi::DeviceKind;
use kiln_abi::op::{OpError, Segment};
use kiln_abi::user::{UserAccess, UserAdvice, UserBacking};

use crate::devices::{HostDevices, check, fd};
use crate::pages::Pages;
use crate::state::{Program, Range, State};
use crate::sys::{self, PollFd, Timespec, errno};

/// The most bytes of one read of the console's input.
const MAX_INPUT: u64 = 64 * 1024;

impl HostDevices<'_> {
    fn program(&mut self) -> Result<&Program, OpError> {
        self.host_calls += 1;
        let program = &self.state().program;
        program.runs.then_some(program).ok_or(OpError::Unsupported)
    }

    pub(crate) fn map(
        &mut self,
        range: Segment,
        access: UserAccess,
        backing: UserBacking,
        populate: bool,
    ) -> Result<(), OpError> {
        self.program()?;
        let (flags, fd, offset) = source(self.state(), range.len, backing)?;
        let pages = Pages::of(self.state());
        if let Some(pages) = pages {
            pages.prepare(range, access)?;
        }
        let populate = if populate { sys::MAP_POPULATE } else { 0 };
        let (addr, len) = (range.addr, range.len);
        let access_here = host_access(pages, access);
        // SAFETY: the user range holds nothing of this code's or of the library OS's own.
        memory(unsafe { sys::mmap(addr, len, access_here, flags | populate, fd, offset) })?;
        let Some(pages) = pages else {
            return Ok(());
        };
        pages.allow(range, access).inspect_err(|_| {
            // Whatever was there is gone.
            let _ = self.unmap(range);
        })
    }

    pub(crate) fn unmap(&mut self, range: Segment) -> Result<(), OpError> {
        self.program()?;
        if let Some(pages) = Pages::of(self.state()) {
            pages.close(range)?;
        }
        // SAFETY: as above.
        memory(unsafe { sys::munmap(range.addr, range.addr + range.len) })
    }

    pub(crate) fn protect(&mut self, range: Segment, access: UserAccess) -> Result<(), OpError> {
        self.program()?;
        let pages = Pages::of(self.state());
        if let Some(pages) = pages {
            pages.prepare(range, access)?;
        }
        let protect = |access| {
            // SAFETY: as above.
            memory(unsafe { sys::mprotect(range.addr, range.len, access) })
        };
        let Some(pages) = pages else {
            return protect(access.bits());
        };
        // A KVM that works by page tables hears of what this process does to its own pages only. To it code that becomes data
        // would be no change.
        if !self.state().machine.walks && access.bits() & UserAccess::EXEC.bits() == 0 {
            self.host_calls += 1;
            // What fails here fails again.
            let _ = protect(UserAccess::NONE.bits());
        }
        match protect(host_access(Some(pages), access)) {
            Ok(()) => pages.allow(range, access),
            Err(error) => pages.restrict(range, access).and(Err(error)),
        }
    }

    pub(crate) fn discard(&mut self, range: Segment) -> Result<(), OpError> {
        self.program()?;
        // SAFETY: as above.
        memory(unsafe { sys::madvise(range.addr, range.len, sys::MADV_DONTNEED) })
    }

    /// The kernel moves what is one mapping to it, and pages that the guest takes for one need not be: what fails as a whole is
    /// moved in halves.
    pub(crate) fn relocate(&mut self, range: Segment, to: u64) -> Result<(), OpError> {
        self.program()?;
        let pages = Pages::of(self.state());
        if let Some(pages) = pages {
            pages.prepare_move(range, to)?;
        }
        let mut done = 0;
        let mut piece = range.len;
        let moved = loop {
            if done >= range.len {
                break Ok(());
            }
            piece = piece.min(range.len - done);
            // SAFETY: as above.
            match unsafe { sys::mremap(range.addr + done, piece, to + done) } {
                errno::EFAULT if piece > kiln_abi::PAGE_SIZE => {
                    piece = (piece / 2).next_multiple_of(kiln_abi::PAGE_SIZE);
                    self.host_calls += 1;
                    continue;
                }
                result => {
                    if let Err(error) = memory(result) {
                        break Err(error);
                    }
                }
            }
            done += piece;
            // The rest may be one mapping again.
            piece = range.len;
            self.host_calls += u64::from(done < range.len);
        };
        if let Some(pages) = pages
            && done > 0
        {
            pages.relocate(Segment { len: done, ..range }, to)?;
        }
        moved
    }

    pub(crate) fn advise(&mut self, range: Segment, advice: UserAdvice) -> Result<(), OpError> {
        self.program()?;
        let advice = match advice {
            UserAdvice::PopulateRead => sys::MADV_POPULATE_READ,
            UserAdvice::PopulateWrite => sys::MADV_POPULATE_WRITE,
            UserAdvice::HugePages => sys::MADV_HUGEPAGE,
            UserAdvice::SmallPages => sys::MADV_NOHUGEPAGE,
        };
        loop {
            // SAFETY: as above.
            match unsafe { sys::madvise(range.addr, range.len, advice) } {
                // A tick came. What was populated stays so.
                errno::EINTR => self.host_calls += 1,
                // A host that does not know the advice.
                errno::EINVAL => return Ok(()),
                result => return memory(result),
            }
        }
    }

    pub(crate) fn take_calls(&mut self, entry: u64, deferred: u64) -> Result<(), OpError> {
        self.program()?;
        if !self.state().text.contains(entry, 1) {
            return Err(OpError::Invalid);
        }
        let program = &self.state().program;
        program.deferred.set(deferred);
        program.calls.set(entry);
        for place in self.state().machine.calls {
            if !place.is_null() {
                // SAFETY: the machine's own words, which its code reads.
                unsafe { place.write_volatile(entry) };
            }
        }
        Ok(())
    }

    /// Never waits: the descriptor is shared with others, who may have set it to block.
    pub(crate) fn read_input(&mut self, buffer: Segment) -> Result<u64, OpError> {
        let fd = self.program()?.input_fd;
        let mut fds = [PollFd {
            fd,
            events: sys::POLLIN,
            revents: 0,
        }];
        if sys::ppoll(&mut fds, Some(&mut Timespec::default())) <= 0 {
            return Err(OpError::Again);
        }
        self.host_calls += 1;
        let len = buffer.len.min(MAX_INPUT) as usize;
        // SAFETY: the buffer has been checked to be writable guest memory.
        match unsafe { sys::read(fd, buffer.addr as *mut u8, len) } {
            errno::EINTR => Err(OpError::Again),
            result => check(result),
        }
    }

    /// A request, a reply, or both.
    pub(crate) fn ask(
        &mut self,
        device: u32,
        request: Segment,
        reply: Segment,
    ) -> Result<u64, OpError> {
        self.program()?;
        self.device(device, DeviceKind::Files)?;
        let waits = request.len > 0 && reply.len > 0;
        if request.len > 0 {
            if !waits {
                self.ready_for(device, sys::POLLOUT)?;
            }
            self.send_request(device, request)?;
        }
        if reply.len == 0 {
            return Ok(0);
        }
        if !waits {
            self.ready_for(device, sys::POLLIN)?;
        }
        self.take_reply(device, reply)
    }

    /// Errors and hang-ups count as ready: the call behind this one tells of them.
    fn ready_for(&mut self, device: u32, events: i16) -> Result<(), OpError> {
        self.host_calls += 1;
        let mut fds = [PollFd {
            fd: fd(device),
            events,
            revents: 0,
        }];
        let ready = sys::ppoll(&mut fds, Some(&mut Timespec::default())) > 0;
        ready.then_some(()).ok_or(OpError::Again)
    }

    fn send_request(&mut self, device: u32, request: Segment) -> Result<(), OpError> {
        let written = loop {
            match sys::write(fd(device), request.addr, request.len) {
                errno::EINTR => self.host_calls += 1,
                result => break check(result).map_err(|_| OpError::Io)?,
            }
        };
        (written == request.len).then_some(()).ok_or(OpError::Io)
    }

    fn take_reply(&mut self, device: u32, reply: Segment) -> Result<u64, OpError> {
        loop {
            self.host_calls += 1;
            let len = reply.len as usize;
            // SAFETY: the buffer has been checked to be writable guest memory.
            match unsafe { sys::read(fd(device), reply.addr as *mut u8, len) } {
                errno::EINTR => {}
                0 => return Err(OpError::Io),
                result => return check(result).map_err(|_| OpError::Io),
            }
        }
    }
}

/// What this process itself may do with pages of the program. Those of a guest in a virtual machine are never executed here, and
/// whatever the guest may do with them KVM must be able to read.
fn host_access(pages: Option<Pages<'_>>, access: UserAccess) -> u64 {
    let bits = access.bits();
    let read = UserAccess::READ.bits();
    match pages {
        None => bits,
        Some(_) if bits == 0 => 0,
        Some(_) => bits & UserAccess::WRITE.bits() | read,
    }
}

/// How `len` bytes of `backing` are mapped: flags, descriptor, offset.
fn source(state: &State, len: u64, backing: UserBacking) -> Result<(u32, i32, u64), OpError> {
    let program = &state.program;
    let in_memory = |addr: u64| {
        let inside = state.free.contains(addr, len);
        let offset = program.free_offset + addr.wrapping_sub(state.free.start);
        inside.then_some(offset).ok_or(OpError::Invalid)
    };
    Ok(match backing {
        UserBacking::Zero => (sys::MAP_ZERO, -1, 0),
        UserBacking::Root(offset) => {
            let root = Range {
                start: 0,
                end: program.root_size,
            };
            if !root.contains(offset, len) {
                return Err(OpError::Invalid);
            }
            (sys::MAP_COPY, program.root_fd, program.root_offset + offset)
        }
        UserBacking::Shared(addr) => (sys::MAP_SAME, program.memory_fd, in_memory(addr)?),
        UserBacking::Private(addr) => (sys::MAP_COPY, program.memory_fd, in_memory(addr)?),
    })
}

/// The kernel's answer to a call about memory.
fn memory(result: isize) -> Result<(), OpError> {
    // An address is a success too, and never in the upper half here.
    if result >= 0 {
        return Ok(());
    }
    Err(match result {
        errno::ENOMEM | errno::EAGAIN => OpError::NoSpace,
        errno::EFAULT => OpError::BadAddress,
        errno::EINVAL => OpError::Invalid,
        _ => OpError::Io,
    })
}
