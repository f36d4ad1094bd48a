//! What a guest's process gives up: limits, rights, and ties to the supervisor's C library.

use std::io;

use super::os::call;

/// Lowers the limits that matter to a guest's process.
pub fn limit() -> io::Result<()> {
    // 1 is below the least core file, and also keeps the kernel from piping the guest's memory to a program (core(5)).
    if lower(libc::RLIMIT_CORE, 1)? == 0 {
        // Not allowed to raise it to 1, where 0 would not hold for pipes.
        let undumpable = [libc::PR_SET_DUMPABLE as usize, 0, 0, 0, 0];
        call(libc::SYS_prctl, undumpable)?;
    }
    // One more than the devices, the console, a virtual CPU or what a program needs: Landlock's ruleset is a descriptor for a
    // moment.
    lower(libc::RLIMIT_NOFILE, kiln_abi::MAX_DEVICES as u64 + 7)?;
    Ok(())
}

/// When the host is out of memory, its kernel is to end this process before others (proc(5)). A program's memory is ordinary
/// memory of this process. Where it may not be said, the kernel chooses by size.
pub fn first_to_go() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
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

/// Root's guests run as nobody. This can fail where root is not the real one.
pub fn become_nobody() -> io::Result<()> {
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
pub fn landlock() -> io::Result<()> {
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

/// No capability in any set (capabilities(7)).
pub fn drop_capabilities() -> io::Result<()> {
    let header = [0x2008_0522u32, 0];
    let none = [0u32; 6];
    call(
        libc::SYS_capset,
        [header.as_ptr() as usize, none.as_ptr() as usize, 0, 0, 0],
    )?;
    Ok(())
}

std::arch::global_asm!(
    // Both are zero where the C library does not have them (glibc before 2.35).
    ".weak __rseq_offset",
    ".weak __rseq_size",
);

/// The C library has told the kernel of a record in thread-local storage, to which the kernel writes whenever the
/// thread moves to another processor. That memory is about to be unmapped.
pub fn unregister_rseq() -> io::Result<()> {
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
