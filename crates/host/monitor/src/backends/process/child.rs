//! From the fork to the jump into the gate.
//!
//! The child is a copy of the supervisor with one thread. It does the steps of [`Step`] in order; the first that fails
//! is left in the shared [`Setup`] and ends the child. What may be missing on a host without harm to the rest
//! (Landlock) is noted there instead.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use kiln_abi::op::Segment;
use kiln_gate::report::REPORT_SIZE;
use kiln_gate::state::{DeviceState, FIRST_DEVICE_FD, Range, STATE_SIZE, State, TICK_SIGNAL};
use kiln_gate::{Report, state};
use kiln_image::Access;

use super::Error;
use super::blob::Blob;
use super::layout::Layout;
use super::os::checked;
use crate::backend::Launch;

/// How far the child came, and what it had to do without. The gate unmaps this before the guest runs, so the guest cannot
/// change it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Setup {
    /// A [`Stage`], as [`Stage::from_raw`] reads it.
    pub stage: u32,
    /// The error number of the failed step.
    pub errno: u32,
    /// The error number if Landlock could not be used.
    pub landlock_errno: u32,
    /// The error number if root could not become somebody else.
    pub user_errno: u32,
    /// The error number if root's guest could not get a user namespace.
    pub namespace_errno: u32,
}

/// The memory that child and supervisor share: a page that stays for the gate's report, then one that does not.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Common {
    /// Written by the gate and, as far as anybody can tell, by the guest.
    pub report: Report,
    fill: [u8; REPORT_SIZE - size_of::<Report>()],
    /// Written by the child.
    pub setup: Setup,
}

/// How far the child came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not yet at its end.
    Preparing,
    /// About to jump into the gate.
    Sealed,
    /// A step failed.
    Failed(Step),
}

const SEALED: u32 = 100;

impl Stage {
    /// The stage with this number; unknown numbers count as [`Stage::Sealed`], since only a guest writes such.
    pub fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Preparing,
            number => Step::ALL
                .into_iter()
                .find(|&step| step as u32 == number)
                .map_or(Self::Sealed, Self::Failed),
        }
    }
}

/// The steps of the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Die when the supervisor does; a session of its own.
    Tie = 1,
    /// Descriptors to their places, all others closed.
    Descriptors = 2,
    /// Limits.
    Limits = 3,
    /// The image.
    Image = 4,
    /// The guest's memory.
    Memory = 5,
    /// The gate.
    Gate = 6,
    /// Signal handlers and the tick timer.
    Signals = 7,
    /// Privileges.
    Privileges = 8,
    /// Restartable sequences of the C library, whose memory is about to go.
    Rseq = 9,
    /// Landlock, which `--strict` does not do without.
    Landlock = 10,
    /// Not being root, likewise.
    User = 11,
    /// A user namespace for root's guest, likewise.
    Namespace = 12,
}

impl Step {
    const ALL: [Self; 12] = [
        Self::Tie,
        Self::Descriptors,
        Self::Limits,
        Self::Image,
        Self::Memory,
        Self::Gate,
        Self::Signals,
        Self::Privileges,
        Self::Rseq,
        Self::Landlock,
        Self::User,
        Self::Namespace,
    ];

    /// The step's failure as the supervisor tells it.
    pub fn error(self, errno: u32) -> Error {
        let error = io::Error::from_raw_os_error(errno.cast_signed());
        let step = match self {
            Self::Tie => "tie the guest's process to its supervisor",
            Self::Descriptors => "arrange the guest's descriptors",
            Self::Limits => "set limits",
            Self::Image => "map the image",
            Self::Memory => "map the guest's memory",
            Self::Gate => "place the gate",
            Self::Signals => "install signal handlers",
            Self::Privileges => "give up privileges",
            Self::Rseq => "unregister restartable sequences",
            Self::Landlock | Self::User | Self::Namespace => {
                let name = match self {
                    Self::User => "unprivileged user",
                    Self::Namespace => "user namespace",
                    _ => "Landlock",
                };
                return Error::Missing {
                    name,
                    reason: error.to_string(),
                };
            }
        };
        Error::Host { step, error }
    }
}

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
    pub memory: OwnedFd,
    /// Read end of the control pipe.
    pub control: OwnedFd,
    /// Shared with the supervisor.
    pub common: *mut Common,
    /// The seccomp filter.
    pub filter: &'a [u64],
    /// What the gate is told of the devices.
    pub devices: &'a [DeviceState],
    /// The supervisor's process id.
    pub parent: u32,
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
    arrange_descriptors(plan).map_err(at(Step::Descriptors))?;
    has_supervisor().map_err(at(Step::Tie))?;
    limit().map_err(at(Step::Limits))?;
    let timer = place_handlers(plan).map_err(at(Step::Signals))?;
    place_gate(plan, timer).map_err(at(Step::Gate))?;
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

fn call(number: i64, args: [usize; 5]) -> io::Result<i64> {
    // SAFETY: each use below passes valid pointers or none.
    checked(unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4]) })
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
    // Writable segments lie on the guest's memory, which starts with them.
    let data = plan.layout.image_data;
    map(
        data,
        READ_WRITE,
        libc::MAP_SHARED,
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
            let execute = if segment.access == Access::ReadExecute {
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
                libc::MAP_PRIVATE,
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
    let len = (layout.boot.end - layout.boot.start) as usize;
    call(
        libc::SYS_mprotect,
        [layout.boot.start as usize, len, READ as usize, 0, 0],
    )?;
    Ok(())
}

/// Puts descriptors where the gate expects them and closes all others.
fn arrange_descriptors(plan: &Plan) -> io::Result<()> {
    let mut wanted = vec![plan.control.as_raw_fd(), plan.launch.console.as_raw_fd()];
    // Descriptor 2 would only be one more thing to think about: it is a second name of the console.
    wanted.push(plan.launch.console.as_raw_fd());
    wanted.extend(plan.launch.devices.iter().map(|d| d.host.as_raw_fd()));
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

fn limit() -> io::Result<()> {
    // 1 is below the least core file, and also keeps the kernel from piping the guest's memory to a program (core(5)).
    if lower(libc::RLIMIT_CORE, 1)? == 0 {
        // Not allowed to raise it to 1, where 0 would not hold for pipes.
        let undumpable = [libc::PR_SET_DUMPABLE as usize, 0, 0, 0, 0];
        call(libc::SYS_prctl, undumpable)?;
    }
    // One more than the devices and the console need: Landlock's ruleset is a descriptor for a moment.
    lower(libc::RLIMIT_NOFILE, kiln_abi::MAX_DEVICES as u64 + 4)?;
    Ok(())
}

/// Lowers a limit to `most`, and gives what it is then. Only ever lower: raising a limit is a privilege.
fn lower(resource: u32, most: u64) -> io::Result<u64> {
    let mut old = [u64::MAX; 2];
    let read = [0, resource as usize, 0, &raw mut old as usize, 0];
    call(libc::SYS_prlimit64, read)?;
    let limit = [most.min(old[1]); 2];
    let write = [0, resource as usize, limit.as_ptr() as usize, 0, 0];
    call(libc::SYS_prlimit64, write)?;
    Ok(limit[1])
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
        libc::SIGSYS,
        TICK_SIGNAL,
    ] {
        set(signal, &handle)?;
    }
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

fn place_gate(plan: &Plan, timer: i32) -> io::Result<()> {
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
    state.keep[..4].copy_from_slice(&[layout.image, window, report, gate]);
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

fn drop_capabilities() -> io::Result<()> {
    let header = [0x2008_0522u32, 0];
    let none = [0u32; 6];
    call(
        libc::SYS_capset,
        [header.as_ptr() as usize, none.as_ptr() as usize, 0, 0, 0],
    )?;
    Ok(())
}

/// Root's guests run as nobody. This can fail where root is not the real one.
fn become_nobody() -> io::Result<()> {
    const NOBODY: usize = 65534;
    call(libc::SYS_setgroups, [0; 5])?;
    call(libc::SYS_setresgid, [NOBODY, NOBODY, NOBODY, 0, 0])?;
    call(libc::SYS_setresuid, [NOBODY, NOBODY, NOBODY, 0, 0])?;
    // Changing the user clears the parent-death signal (prctl(2)).
    let die = [
        libc::PR_SET_PDEATHSIG as usize,
        libc::SIGKILL as usize,
        0,
        0,
        0,
    ];
    call(libc::SYS_prctl, die)?;
    Ok(())
}

/// No access to any file by path: a Landlock ruleset without rules.
fn landlock() -> io::Result<()> {
    /// Every file access right of the first Landlock version.
    const FILE_RIGHTS: u64 = 0x1fff;
    let attributes = [FILE_RIGHTS];
    let ruleset = call(
        libc::SYS_landlock_create_ruleset,
        [attributes.as_ptr() as usize, 8, 0, 0, 0],
    )?;
    let restricted = call(
        libc::SYS_landlock_restrict_self,
        [ruleset as usize, 0, 0, 0, 0],
    );
    call(libc::SYS_close, [ruleset as usize, 0, 0, 0, 0])?;
    restricted.map(|_| ())
}

std::arch::global_asm!(
    // Both are zero where the C library does not have them (glibc before 2.35).
    ".weak __rseq_offset",
    ".weak __rseq_size",
);

/// The C library has told the kernel of a record in thread-local storage, to which the kernel writes whenever the
/// thread moves to another processor. That memory is about to be unmapped.
fn unregister_rseq() -> io::Result<()> {
    const UNREGISTER: usize = 1;
    const SIGNATURE: usize = 0x5305_3053;
    let (offset, size): (*const isize, *const u32);
    let thread: usize;
    // SAFETY: reads the two addresses from the global offset table and the thread pointer from its own first word
    // (System V ABI, TLS variant II).
    unsafe {
        std::arch::asm!(
            "mov {offset}, qword ptr [rip + __rseq_offset@GOTPCREL]",
            "mov {size}, qword ptr [rip + __rseq_size@GOTPCREL]",
            "mov {thread}, fs:[0]",
            offset = out(reg) offset, size = out(reg) size, thread = out(reg) thread,
            options(nostack, readonly, preserves_flags),
        );
    }
    if offset.is_null() || size.is_null() {
        return Ok(());
    }
    // SAFETY: both are variables of the C library.
    let (offset, size) = unsafe { (*offset, *size as usize) };
    if size == 0 {
        return Ok(());
    }
    let area = thread.wrapping_add_signed(offset);
    // Older C libraries register 32 bytes whatever they report, newer ones what the kernel asks for.
    let lengths = [32, size, size.next_multiple_of(32)];
    let tried = lengths.map(|len| call(libc::SYS_rseq, [area, len, UNREGISTER, SIGNATURE, 0]));
    if tried.iter().any(Result::is_ok) {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(libc::EINVAL))
}

const _: () = assert!(size_of::<Segment>() == size_of::<libc::iovec>());
const _: () = assert!(state::SIGNAL_STACK >= 4 * 4096);
