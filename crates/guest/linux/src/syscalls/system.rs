//! Calls about the machine: its names, its memory, its entropy; and those that a container's programs may not make.

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::{Args, Call};
use crate::process::{Thread, sched};
use crate::time::SECOND;
use crate::user::{Plain, UserAddr};
use crate::{Errno, Result, platform};

/// The calls.
pub const CALLS: &[Call] = &[
    Call::full(63, "uname", 1, uname),
    Call::full(99, "sysinfo", 1, sysinfo),
    Call::full(103, "syslog", 3, syslog),
    Call::full(170, "sethostname", 2, sethostname),
    Call::full(171, "setdomainname", 2, setdomainname),
    Call::full(318, "getrandom", 3, getrandom),
    Call::answered(163, "acct", 1, not_permitted, "not in a container"),
    Call::answered(169, "reboot", 4, not_permitted, "not in a container"),
    Call::answered(172, "iopl", 1, not_permitted, "not in a container"),
    Call::answered(173, "ioperm", 3, not_permitted, "not in a container"),
    Call::answered(167, "swapon", 2, not_permitted, "not in a container"),
    Call::answered(168, "swapoff", 1, not_permitted, "not in a container"),
    Call::answered(175, "init_module", 3, not_permitted, "not in a container"),
    Call::answered(176, "delete_module", 2, not_permitted, "not in a container"),
    Call::answered(246, "kexec_load", 4, not_permitted, "not in a container"),
    Call::answered(248, "add_key", 5, not_permitted, "not in a container"),
    Call::answered(249, "request_key", 4, not_permitted, "not in a container"),
    Call::answered(250, "keyctl", 5, not_permitted, "not in a container"),
    Call::answered(272, "unshare", 1, unshare, "not in a container"),
    Call::answered(
        298,
        "perf_event_open",
        5,
        not_permitted,
        "not in a container",
    ),
    Call::answered(300, "fanotify_init", 2, not_permitted, "not in a container"),
    Call::answered(308, "setns", 2, not_permitted, "not in a container"),
    Call::answered(313, "finit_module", 3, not_permitted, "not in a container"),
    Call::answered(321, "bpf", 3, not_permitted, "not in a container"),
    Call::answered(323, "userfaultfd", 1, not_permitted, "not in a container"),
];

fn not_permitted(_thread: &Rc<Thread>, _args: Args) -> Result<u64> {
    Err(Errno::EPERM)
}

/// What `uname(2)` says that the machine runs. Programs choose by it what they may use: everything of this version is there or answers
/// `ENOSYS`.
pub const RELEASE: &str = "6.1.0-kiln";
/// `uname -v`.
pub const VERSION: &str = concat!("#1 SMP Kiln ", env!("CARGO_PKG_VERSION"));

fn uname(_thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const FIELD: usize = 65;
    let kernel = crate::kernel();
    let host = kernel.hostname.borrow().clone();
    let domain = kernel.domain_name.borrow().clone();
    let fields: [&[u8]; 6] = [
        b"Linux",
        &host,
        RELEASE.as_bytes(),
        VERSION.as_bytes(),
        b"x86_64",
        &domain,
    ];
    let mut told = Vec::with_capacity(fields.len() * FIELD);
    for (index, field) in fields.into_iter().enumerate() {
        told.extend(field.iter().take(FIELD - 1));
        told.resize((index + 1) * FIELD, 0);
    }
    args.addr(0).write_bytes(&told)?;
    Ok(0)
}

/// `struct sysinfo`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct SystemInfo {
    uptime: u64,
    loads: [u64; 3],
    total_ram: u64,
    free_ram: u64,
    shared_ram: u64,
    buffer_ram: u64,
    total_swap: u64,
    free_swap: u64,
    processes: u16,
    padding: [u16; 3],
    total_high: u64,
    free_high: u64,
    unit: u32,
    end: u32,
}

// SAFETY: `repr(C)`, integers, the padding is in fields.
unsafe impl Plain for SystemInfo {}

fn sysinfo(_thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let kernel = crate::kernel();
    let (total_ram, free_ram) = platform::memory();
    let told = SystemInfo {
        uptime: platform::now().saturating_sub(kernel.booted) / SECOND,
        total_ram,
        free_ram,
        processes: u16::try_from(kernel.processes.thread_count()).unwrap_or(u16::MAX),
        unit: 1,
        ..SystemInfo::default()
    };
    args.addr(0).write(told)?;
    Ok(0)
}

/// `klogctl(3)`: there is an empty log that only sizes are asked of.
fn syslog(_thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const READ_ALL: i32 = 3;
    const SIZE_UNREAD: i32 = 9;
    const SIZE_BUFFER: i32 = 10;
    match args.int(0) {
        READ_ALL | SIZE_UNREAD => Ok(0),
        SIZE_BUFFER => Ok(1 << 17),
        _ => Err(Errno::EPERM),
    }
}

/// `__NEW_UTS_LEN`.
const MOST_NAME: i32 = 64;

fn name(at: UserAddr, len: i32) -> Result<Vec<u8>> {
    if !(0..=MOST_NAME).contains(&len) {
        return Err(Errno::EINVAL);
    }
    at.read_array(len as usize)
}

/// A container's root may not, but here the name is nobody else's.
fn check_root(thread: &Thread) -> Result {
    if thread.process.credentials.borrow().euid != 0 {
        return Err(Errno::EPERM);
    }
    Ok(())
}

fn sethostname(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    check_root(thread)?;
    let name = name(args.addr(0), args.int(1))?;
    *crate::kernel().hostname.borrow_mut() = name;
    Ok(0)
}

fn setdomainname(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    check_root(thread)?;
    let name = name(args.addr(0), args.int(1))?;
    *crate::kernel().domain_name.borrow_mut() = name;
    Ok(0)
}

fn getrandom(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const BREATH: u64 = 256 << 10;
    // `GRND_NONBLOCK | GRND_RANDOM | GRND_INSECURE`
    const FLAGS: u32 = 7;
    const RANDOM_AND_INSECURE: u32 = 6;
    let flags = args.uint(2);
    if flags & !FLAGS != 0 || flags & RANDOM_AND_INSECURE == RANDOM_AND_INSECURE {
        return Err(Errno::EINVAL);
    }
    let wanted = args.word(1).min(crate::io::MAX_TRANSFER);
    let mut done = 0;
    let mut piece = [0; 256];
    while done < wanted {
        let len = (wanted - done).min(piece.len() as u64);
        let piece = piece.get_mut(..len as usize).unwrap_or_default();
        platform::random(piece);
        match args.addr(0).add(done).write_bytes(piece) {
            Ok(()) => done += len,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
        // Any signal ends it by then (getrandom(2), "Interruption by a signal handler").
        if done.is_multiple_of(BREATH)
            && (sched::breathe(thread).is_err() || thread.has_signal_to_handle())
        {
            break;
        }
    }
    Ok(done)
}

/// What a process with one space of everything shares with nobody it need not leave.
fn unshare(_thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const FS: u64 = 0x200;
    const FILES: u64 = 0x400;
    const SEMAPHORES: u64 = 0x4_0000;
    match args.word(0) & !(FS | FILES | SEMAPHORES) {
        0 => Ok(0),
        _ => Err(Errno::EPERM),
    }
}
