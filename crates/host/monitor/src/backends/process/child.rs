//! From the fork to the jump into the gate.
//!
//! The child is a copy of the supervisor with one thread. It does the steps of [`Step`] in order; the first that fails
//! is left in the shared [`Setup`] and ends the child. What may be missing on a host without harm to the rest
//! (Landlock) is noted there instead.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use kiln_abi::BootInfo;
use kiln_abi::op::Segment;
use kiln_gate::report::REPORT_SIZE;
use kiln_gate::state;
use kiln_gate::state::{DeviceState, FIRST_DEVICE_FD, Range, STATE_SIZE, State, TICK_SIGNAL};
use kiln_image::Access;

use super::Error;
use super::blob::Blob;
use super::layout::Layout;
use super::os::{call, checked};
use super::privileges::{
    become_nobody, drop_capabilities, first_to_go, landlock, limit, unregister_rseq,
};
use super::ring::Ring;
use super::setup::{Common, SEALED, Setup, Step};
use crate::backend::Launch;
use crate::backends::kvm::machine::{self, Made, RUN_SPACE};
use kvm_ioctls::Kvm;

/// Everything the child needs.
#[derive(Debug)]
pub struct Plan<'a> {
    /// What to run.
    pub launch: &'a Launch<'a>,
    /// Where.
    pub layout: &'a Layout,
    /// The gate.
    pub blob: &'a Blob,
    /// The boot record.
    pub boot: &'a [u8],
    /// The guest's memory.
    pub memory: &'a OwnedFd,
    /// Read end of the control pipe.
    pub control: OwnedFd,
    /// Shared with the supervisor.
    pub common: *mut Common,
    /// The ring of copied frames; null if there is none.
    pub ring: *mut Ring,
    /// The seccomp filter.
    pub filter: &'a [u64],
    /// What the gate is told of the devices.
    pub devices: &'a [DeviceState],
    /// The supervisor's process id.
    pub parent: u32,
    /// What to make a virtual machine with, if the guest gets one.
    pub kvm: Option<&'a Kvm>,
}

/// The number of the tick timer: the kernel counts a process's timers from 0, and the child makes one.
pub const TIMER: i32 = 0;

/// The child as the supervisor sees it.
#[derive(Debug)]
pub struct Forked {
    /// Process id.
    pub pid: u32,
    /// A descriptor for it.
    pub pidfd: OwnedFd,
    /// Whether the supervisor is root.
    pub root: bool,
    /// Why there are no namespaces, if there are none.
    pub no_namespaces: Option<String>,
}

/// Forks; the child becomes the guest.
///
/// It gets a process namespace and a user namespace. Not a network namespace, whose making takes longer than all else
/// together; a guest has no call that could open a socket. Root's child makes its user namespace later, as nobody: in
/// one made by root it would still be root to everybody else.
///
/// # Errors
/// [`Error::Host`]; with `--strict` and no namespaces [`Error::Missing`].
pub fn fork(plan: &Plan) -> Result<Forked, Error> {
    // SAFETY: no arguments.
    let root = unsafe { libc::geteuid() } == 0;
    let namespaces = if root {
        libc::CLONE_NEWPID
    } else {
        libc::CLONE_NEWUSER | libc::CLONE_NEWPID
    };
    let (pid, pidfd, no_namespaces) = match clone(namespaces) {
        Ok((pid, pidfd)) => (pid, pidfd, None),
        Err(refused) if plan.launch.strict => {
            return Err(Error::Missing {
                name: if root {
                    "process namespace"
                } else {
                    "user namespace"
                },
                reason: refused.to_string(),
            });
        }
        Err(refused) => {
            let (pid, pidfd) = clone(0).map_err(Error::host("start a process"))?;
            (pid, pidfd, Some(refused.to_string()))
        }
    };
    if pid == 0 {
        // SAFETY: this is the child, and it does nothing else.
        unsafe { become_guest(plan, root, no_namespaces.is_none()) }
    }
    // SAFETY: the kernel has made the descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked {
        pid: pid as u32,
        pidfd,
        root,
        no_namespaces,
    })
}

fn clone(namespaces: i32) -> io::Result<(i64, RawFd)> {
    let mut pidfd: RawFd = -1;
    let flags = namespaces | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: like fork(2), without shared memory; the child runs on a copy of this stack.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags as usize,
            0usize,
            &raw mut pidfd,
            0usize,
            0usize,
        )
    };
    Ok((checked(pid)?, pidfd))
}

/// # Safety
/// Only in the child.
unsafe fn become_guest(plan: &Plan, root: bool, namespaces: bool) -> ! {
    // SAFETY: the supervisor mapped it.
    let setup = unsafe { &mut (*plan.common).setup };
    let (step, error) = match prepare(plan, root, namespaces, setup) {
        Ok(start) => {
            setup.stage = SEALED;
            // SAFETY: `prepare` has placed the gate and filled in its state.
            unsafe { start() }
        }
        Err(failed) => failed,
    };
    setup.errno = number_of(&error);
    setup.stage = step as u32;
    // SAFETY: ends the child without running the supervisor's exit handlers.
    unsafe { libc::_exit(125) }
}

fn number_of(error: &io::Error) -> u32 {
    error.raw_os_error().unwrap_or(libc::EIO).cast_unsigned()
}

type Failed = (Step, io::Error);
type Start = unsafe extern "C" fn() -> !;

fn prepare(plan: &Plan, root: bool, namespaces: bool, setup: &mut Setup) -> Result<Start, Failed> {
    let at = |step: Step| move |error: io::Error| (step, error);
    let layout = plan.layout;
    tie(plan.parent, namespaces).map_err(at(Step::Tie))?;
    // The image's descriptor is gone after the next step but one: map it first.
    map_image(plan).map_err(at(Step::Image))?;
    map_memory(plan).map_err(at(Step::Memory))?;
    map_root(plan).map_err(at(Step::Image))?;
    let machine = make_machine(plan).map_err(at(Step::Machine))?;
    protect_boot_record(plan.layout).map_err(at(Step::Memory))?;
    setup.hardware = u32::from(machine.as_ref().is_some_and(|made| made.machine.walks));
    arrange_descriptors(plan, machine.as_ref()).map_err(at(Step::Descriptors))?;
    has_supervisor().map_err(at(Step::Tie))?;
    limit().map_err(at(Step::Limits))?;
    if layout.program {
        first_to_go();
    }
    let timer = place_handlers(plan).map_err(at(Step::Signals))?;
    place_gate(plan, timer, machine).map_err(at(Step::Gate))?;
    // What the host does not grant is noted, or with `--strict` the end.
    let missing = |step: Step, result: io::Result<()>, note: &mut u32| match result {
        Ok(()) => Ok(()),
        Err(error) if plan.launch.strict => Err((step, error)),
        Err(error) => {
            *note = number_of(&error);
            Ok(())
        }
    };
    if root {
        missing(Step::User, become_nobody(), &mut setup.user_errno)?;
        let unshared = call(
            libc::SYS_unshare,
            [libc::CLONE_NEWUSER as usize, 0, 0, 0, 0],
        );
        missing(
            Step::Namespace,
            unshared.map(|_| ()),
            &mut setup.namespace_errno,
        )?;
    }
    let no_new = [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0];
    call(libc::SYS_prctl, no_new).map_err(at(Step::Privileges))?;
    missing(Step::Landlock, landlock(), &mut setup.landlock_errno)?;
    drop_capabilities().map_err(at(Step::Privileges))?;
    unregister_rseq().map_err(at(Step::Rseq))?;
    // SAFETY: the gate lies there, executable, and this is the address of its start code.
    Ok(unsafe { std::mem::transmute::<u64, Start>(layout.gate.start + plan.blob.start) })
}

fn tie(parent: u32, namespaces: bool) -> io::Result<()> {
    call(
        libc::SYS_prctl,
        [
            libc::PR_SET_PDEATHSIG as usize,
            libc::SIGKILL as usize,
            0,
            0,
            0,
        ],
    )?;
    // SAFETY: no arguments.
    let now = unsafe { libc::getppid() };
    // Seen from a process namespace of its own, the parent is 0.
    if now.cast_unsigned() != parent && !namespaces {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // The folder that the supervisor was started in must not be kept from being unmounted.
    call(libc::SYS_chdir, [c"/".as_ptr() as usize, 0, 0, 0, 0])?;
    // Away from the terminal: its Ctrl-C goes to the supervisor, who asks the guest to stop.
    // SAFETY: no arguments.
    checked(unsafe { libc::setsid() }.into())?;
    Ok(())
}

fn map(range: Range, protection: i32, flags: i32, fd: RawFd, offset: u64) -> io::Result<()> {
    if range.end == range.start {
        return Ok(());
    }
    // SAFETY: the layout keeps clear of everything that is mapped, and MAP_FIXED_NOREPLACE makes sure of it.
    let at = unsafe {
        libc::mmap(
            range.start as *mut libc::c_void,
            (range.end - range.start) as usize,
            protection,
            flags | libc::MAP_FIXED_NOREPLACE,
            fd,
            offset.cast_signed(),
        )
    };
    if at == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

const READ: i32 = libc::PROT_READ;
const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn map_image(plan: &Plan) -> io::Result<()> {
    let image = plan.launch.image;
    let file = image.file().as_raw_fd();
    // A virtual CPU's first access to a page costs several microseconds, less for neighbours that are there already.
    let populate = if plan.kvm.is_some() {
        libc::MAP_POPULATE
    } else {
        0
    };
    // Writable segments lie on the guest's memory, which starts with them.
    let data = plan.layout.image_data;
    map(
        data,
        READ_WRITE,
        libc::MAP_SHARED | populate,
        plan.memory.as_raw_fd(),
        0,
    )?;
    let mut filled: Option<(u64, u64, u64)> = None;
    for segment in image.segments() {
        let start = segment.address + plan.layout.bias;
        if segment.access == Access::ReadWrite {
            // Segments side by side in the file as in memory are read at once.
            filled = Some(match filled {
                Some((at, len, offset))
                    if at + len == start && offset + len == segment.file_offset =>
                {
                    (at, len + segment.file_size, offset)
                }
                Some((at, len, offset)) => {
                    fill(file, at, len, offset)?;
                    (start, segment.file_size, segment.file_offset)
                }
                None => (start, segment.file_size, segment.file_offset),
            });
        } else {
            // In a virtual machine nothing of the guest is executed in this process.
            let execute = if segment.access == Access::ReadExecute && plan.kvm.is_none() {
                libc::PROT_EXEC
            } else {
                0
            };
            let range = Range {
                start,
                end: segment.page_end() + plan.layout.bias,
            };
            map(
                range,
                READ | execute,
                libc::MAP_PRIVATE | populate,
                file,
                segment.file_offset,
            )?;
        }
    }
    match filled {
        Some((at, len, offset)) => fill(file, at, len, offset),
        None => Ok(()),
    }
}

/// Reads a part of the image into writable memory at `at`.
fn fill(file: RawFd, mut at: u64, mut left: u64, mut offset: u64) -> io::Result<()> {
    while left > 0 {
        // SAFETY: inside the mapping of the image's writable segments, of which nobody else knows yet.
        let read = unsafe {
            libc::pread(
                file,
                at as *mut libc::c_void,
                left as usize,
                offset.cast_signed(),
            )
        };
        let got = checked(read as i64)?.cast_unsigned();
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at += got;
        left -= got;
        offset += got;
    }
    Ok(())
}

fn map_memory(plan: &Plan) -> io::Result<()> {
    let layout = plan.layout;
    let fd = plan.memory.as_raw_fd();
    let mut offset = layout.image_data.end - layout.image_data.start;
    for part in [layout.boot, layout.stack, layout.trap_stack, layout.free] {
        map(part, READ_WRITE, libc::MAP_SHARED, fd, offset)?;
        offset += part.end - part.start;
    }
    // SAFETY: the layout made room for the record, and the memory was just mapped.
    unsafe {
        std::ptr::copy_nonoverlapping(
            plan.boot.as_ptr(),
            layout.boot.start as *mut u8,
            plan.boot.len(),
        );
    }
    Ok(())
}

/// The root image, for the library OS to read. What is behind the end of the file faults.
fn map_root(plan: &Plan) -> io::Result<()> {
    let Some(root) = plan.launch.image.root() else {
        return Ok(());
    };
    let file = plan.launch.image.file().as_raw_fd();
    map(plan.layout.root, READ, libc::MAP_PRIVATE, file, root.offset)
}

/// Once everything is in it.
fn protect_boot_record(layout: &Layout) -> io::Result<()> {
    let len = (layout.boot.end - layout.boot.start) as usize;
    call(
        libc::SYS_mprotect,
        [layout.boot.start as usize, len, READ as usize, 0, 0],
    )?;
    Ok(())
}

/// Makes the virtual machine around the memory that is mapped.
fn make_machine(plan: &Plan) -> io::Result<Option<Made>> {
    let Some(kvm) = plan.kvm else {
        return Ok(None);
    };
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let own = Range {
        start: plan.layout.machine.start + RUN_SPACE,
        end: plan.layout.machine.end,
    };
    map(own, READ_WRITE, anonymous, -1, 0)?;
    let made = machine::make(kvm, plan.launch, plan.layout)?;
    if made.tsc_hz != 0 {
        let frequency = plan.layout.boot.start + std::mem::offset_of!(BootInfo, tsc_hz) as u64;
        // SAFETY: the boot record was written there, and the guest does not run yet.
        unsafe { (frequency as *mut u64).write(made.tsc_hz) };
    }
    Ok(Some(made))
}

/// Puts descriptors where the gate expects them and closes all others.
fn arrange_descriptors(plan: &Plan, machine: Option<&Made>) -> io::Result<()> {
    let mut wanted = vec![plan.control.as_raw_fd(), plan.launch.console.as_raw_fd()];
    // With most guests descriptor 2 is a second name of the console.
    let errors = plan.launch.errors.as_ref().unwrap_or(&plan.launch.console);
    wanted.push(errors.as_raw_fd());
    wanted.extend(plan.launch.devices.iter().map(|d| d.host.as_raw_fd()));
    if plan.layout.program {
        let input = match &plan.launch.input {
            Some(input) => input.as_raw_fd(),
            // Closed below like all that have been put into place.
            None => File::open("/dev/null")?.into_raw_fd(),
        };
        // In the order that `program_fds` tells of.
        wanted.push(plan.memory.as_raw_fd());
        wanted.push(plan.launch.image.file().as_raw_fd());
        wanted.push(input);
    }
    // As `vcpu_fd` tells.
    if let Some(made) = machine {
        wanted.push(made.vcpu.as_raw_fd());
        if plan.layout.program {
            wanted.push(made.vm.as_raw_fd());
        }
    }
    debug_assert_eq!(FIRST_DEVICE_FD, 3);
    let count = wanted.len() as RawFd;
    // First out of each other's way, then into place.
    for fd in &mut wanted {
        if *fd < count {
            *fd = call(
                libc::SYS_fcntl,
                [*fd as usize, libc::F_DUPFD as usize, count as usize, 0, 0],
            )? as RawFd;
        }
    }
    for (place, fd) in (0..count).zip(&wanted) {
        call(libc::SYS_dup3, [*fd as usize, place as usize, 0, 0, 0])?;
    }
    call(
        libc::SYS_close_range,
        [count as usize, u32::MAX as usize, 0, 0, 0],
    )?;
    Ok(())
}

/// `struct kernel_sigaction` (x86-64).
#[repr(C)]
struct SigAction {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

/// Installs the gate's handler and makes the tick timer. Returns the timer's number.
fn place_handlers(plan: &Plan) -> io::Result<i32> {
    const SA_RESTORER: u64 = 0x0400_0000;
    let gate = plan.layout.gate.start;
    let handle = SigAction {
        handler: gate + plan.blob.signal,
        flags: (libc::SA_SIGINFO | libc::SA_ONSTACK) as u64 | SA_RESTORER,
        restorer: gate + plan.blob.restorer,
        mask: u64::MAX,
    };
    let ignore = SigAction {
        handler: libc::SIG_IGN as u64,
        flags: 0,
        restorer: 0,
        mask: 0,
    };
    let set = |signal: i32, action: &SigAction| {
        let action = std::ptr::from_ref(action) as usize;
        call(libc::SYS_rt_sigaction, [signal as usize, action, 0, 8, 0])
    };
    for signal in [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGTRAP,
        TICK_SIGNAL,
    ] {
        set(signal, &handle)?;
    }
    // The handler of a program's calls does not return (`kiln_gate::calls`): nothing may be left blocked.
    let calls = SigAction {
        flags: handle.flags | libc::SA_NODEFER as u64,
        mask: 0,
        ..handle
    };
    set(libc::SIGSYS, &calls)?;
    set(libc::SIGPIPE, &ignore)?;
    let none = 0u64;
    let mask = [
        libc::SIG_SETMASK as usize,
        &raw const none as usize,
        0,
        8,
        0,
    ];
    call(libc::SYS_rt_sigprocmask, mask)?;

    // SAFETY: all fields are integers.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_signo = TICK_SIGNAL;
    event.sigev_notify = libc::SIGEV_SIGNAL;
    let mut timer = -1i32;
    let made = call(
        libc::SYS_timer_create,
        [
            libc::CLOCK_MONOTONIC as usize,
            &raw const event as usize,
            &raw mut timer as usize,
            0,
            0,
        ],
    );
    // A host without timers has no ticks; a guest finds out when it asks for one.
    Ok(if made.is_ok() && timer == TIMER {
        timer
    } else {
        -1
    })
}

fn place_gate(plan: &Plan, timer: i32, machine: Option<Made>) -> io::Result<()> {
    let layout = plan.layout;
    let gate = layout.gate;
    let code_len = plan.blob.state;
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let code = Range {
        start: gate.start,
        end: gate.start + code_len,
    };
    let state = Range {
        start: code.end,
        end: gate.end,
    };
    // Every page of the code is about to be written: one call is cheaper than a fault for each.
    map(code, READ_WRITE, anonymous | libc::MAP_POPULATE, -1, 0)?;
    map(state, READ_WRITE, anonymous, -1, 0)?;
    // SAFETY: just mapped, and nobody else knows of it.
    let code = unsafe { std::slice::from_raw_parts_mut(gate.start as *mut u8, code_len as usize) };
    plan.blob.place(code, gate.start);
    debug_assert!(gate.end - gate.start >= code_len + STATE_SIZE as u64);
    // SAFETY: likewise; zeroed memory is a valid state but for the pointer, which is written first.
    let state = unsafe { &mut *((gate.start + code_len) as *mut State) };
    // SAFETY: only an address is taken. The report's page is one of those that are kept.
    state.report = unsafe { &raw mut (*plan.common).report };
    // SAFETY: likewise.
    state.traffic = unsafe { &raw const (*plan.common).traffic };
    state.ring = plan.ring.cast();
    state.code = Range {
        start: gate.start,
        end: gate.start + code_len,
    };
    let window = Range {
        start: layout.boot.start,
        end: layout.free.end,
    };
    let report = Range {
        start: layout.report,
        end: layout.report + REPORT_SIZE as u64,
    };
    let ring = if plan.ring.is_null() {
        Range::default()
    } else {
        layout.ring()
    };
    let mut keep = [
        layout.image,
        window,
        report,
        ring,
        gate,
        layout.machine,
        layout.root,
    ];
    // What lies between is unmapped.
    keep.sort_by_key(|range| range.start);
    state.keep[..keep.len()].copy_from_slice(&keep);
    state.readable[..5].copy_from_slice(&[
        layout.image,
        layout.boot,
        layout.stack,
        layout.trap_stack,
        layout.free,
    ]);
    state.writable[..4].copy_from_slice(&[
        layout.image_data,
        layout.stack,
        layout.trap_stack,
        layout.free,
    ]);
    state.image_data = layout.image_data;
    state.free = layout.free;
    state.text = layout.text;
    state.entry = plan.launch.image.entry() + layout.bias;
    state.stack_top = layout.stack.end;
    state.boot = layout.boot.start;
    state.timer = timer;
    if layout.program {
        let fds = state::program_fds(plan.devices.len() as u32);
        state.program.runs = true;
        state.program.memory_fd = fds;
        state.program.root_fd = fds + 1;
        state.program.input_fd = fds + 2;
        state.program.free_offset = layout.free_offset();
        state.program.root_offset = plan.launch.image.root().map_or(0, |root| root.offset);
        state.program.root_size = layout.root.end - layout.root.start;
    }
    if let Some(made) = machine {
        // Their descriptors have been put into place; those named here are closed already.
        std::mem::forget(made.vcpu);
        std::mem::forget(made.vm);
        state.machine = made.machine;
    }
    state.device_count = plan.devices.len() as u32;
    state.devices[..plan.devices.len()].copy_from_slice(plan.devices);
    state.filter[..plan.filter.len()].copy_from_slice(plan.filter);
    state.filter_len = plan.filter.len() as u16;
    let executable = (READ | libc::PROT_EXEC) as usize;
    call(
        libc::SYS_mprotect,
        [gate.start as usize, code_len as usize, executable, 0, 0],
    )?;
    Ok(())
}

/// A supervisor that was killed before this process was tied to it has left the control pipe without a writer.
fn has_supervisor() -> io::Result<()> {
    let mut fd = libc::pollfd {
        fd: state::CONTROL_FD,
        events: 0,
        revents: 0,
    };
    // SAFETY: one descriptor, and the count says so.
    checked(unsafe { libc::poll(&raw mut fd, 1, 0) }.into())?;
    if fd.revents & libc::POLLHUP != 0 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(())
}

const _: () = assert!(size_of::<Segment>() == size_of::<libc::iovec>());
const _: () = assert!(state::SIGNAL_STACK >= 4 * 4096);
