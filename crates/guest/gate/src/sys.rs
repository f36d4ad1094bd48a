//! The system calls of a sealed guest. There are no others; `docs/security.md` says why each is here.
//!
//! Each wrapper is one `syscall` instruction inside the gate. Results are the kernel's: negative error numbers.

#![allow(
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "descriptors and timers are never negative here"
)]

use core::arch::{asm, global_asm};

use kiln_abi::op::Segment;

/// Error numbers the gate tells apart (`errno(3)`).
#[allow(missing_docs, reason = "the names are Linux's")]
pub mod errno {
    pub const EINTR: isize = -4;
    pub const EAGAIN: isize = -11;
    pub const ENOMEM: isize = -12;
    pub const EFAULT: isize = -14;
    pub const ENOSPC: isize = -28;
    pub const EFBIG: isize = -27;
    pub const EMSGSIZE: isize = -90;
    pub const EINVAL: isize = -22;
    pub const EOPNOTSUPP: isize = -95;
    pub const ENETDOWN: isize = -100;
    pub const ENOBUFS: isize = -105;
    pub const EDQUOT: isize = -122;
    pub const EROFS: isize = -30;
    pub const EPERM: isize = -1;
    pub const EBADF: isize = -9;
}

/// Numbers of the system calls, for x86-64.
#[allow(missing_docs, reason = "the names are Linux's")]
pub mod nr {
    pub const READ: u32 = 0;
    pub const WRITE: u32 = 1;
    pub const MMAP: u32 = 9;
    pub const MPROTECT: u32 = 10;
    pub const MUNMAP: u32 = 11;
    pub const RT_SIGRETURN: u32 = 15;
    pub const IOCTL: u32 = 16;
    pub const PREAD64: u32 = 17;
    pub const PWRITE64: u32 = 18;
    pub const READV: u32 = 19;
    pub const WRITEV: u32 = 20;
    pub const MREMAP: u32 = 25;
    pub const MADVISE: u32 = 28;
    pub const FDATASYNC: u32 = 75;
    pub const SIGALTSTACK: u32 = 131;
    pub const TIMER_SETTIME: u32 = 223;
    pub const CLOCK_GETTIME: u32 = 228;
    pub const EXIT_GROUP: u32 = 231;
    pub const PPOLL: u32 = 271;
    pub const FALLOCATE: u32 = 285;
    pub const SECCOMP: u32 = 317;
    pub const GETRANDOM: u32 = 318;
}

/// What a virtual CPU and its machine are asked (`<linux/kvm.h>`).
#[allow(missing_docs, reason = "the names are Linux's")]
pub mod kvm {
    pub const RUN: u32 = 0xae80;
    pub const GET_SREGS: u32 = 0x8138_ae83;
    pub const SET_USER_MEMORY_REGION: u32 = 0x4020_ae46;
}

/// `CLOCK_REALTIME`.
pub const CLOCK_REALTIME: u32 = 0;
/// `CLOCK_MONOTONIC`.
pub const CLOCK_MONOTONIC: u32 = 1;
/// `MADV_REMOVE`.
pub const MADV_REMOVE: u32 = 9;
/// `MADV_DONTNEED`.
pub const MADV_DONTNEED: u32 = 4;
/// `MADV_HUGEPAGE`.
pub const MADV_HUGEPAGE: u32 = 14;
/// `MADV_NOHUGEPAGE`.
pub const MADV_NOHUGEPAGE: u32 = 15;
/// `MADV_POPULATE_READ`.
pub const MADV_POPULATE_READ: u32 = 22;
/// `MADV_POPULATE_WRITE`.
pub const MADV_POPULATE_WRITE: u32 = 23;
/// `MAP_ANONYMOUS | MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED`: zeroes.
pub const MAP_ZERO: u32 = 0x4032;
/// `MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED`: a file's pages, until they are written.
pub const MAP_COPY: u32 = 0x4012;
/// `MAP_SHARED | MAP_FIXED`: a file's pages.
pub const MAP_SAME: u32 = 0x11;
/// `MAP_POPULATE`.
pub const MAP_POPULATE: u32 = 0x8000;
/// `MREMAP_MAYMOVE | MREMAP_FIXED`.
pub const MREMAP_TO: u32 = 3;
/// `FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE`.
pub const PUNCH_HOLE: u32 = 3;
/// `POLLIN`.
pub const POLLIN: i16 = 1;
/// `POLLOUT`.
pub const POLLOUT: i16 = 4;

/// `struct pollfd`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct PollFd {
    /// The descriptor.
    pub fd: i32,
    /// What is waited for.
    pub events: i16,
    /// What was found.
    pub revents: i16,
}

/// `struct timespec`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Timespec {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds, below 10^9.
    pub nsec: i64,
}

impl Timespec {
    /// As nanoseconds.
    pub fn nanos(self) -> u64 {
        (self.sec.cast_unsigned())
            .wrapping_mul(1_000_000_000)
            .wrapping_add(self.nsec.cast_unsigned())
    }

    /// From nanoseconds.
    pub fn from_nanos(nanos: u64) -> Self {
        Self {
            sec: (nanos / 1_000_000_000).cast_signed(),
            nsec: (nanos % 1_000_000_000).cast_signed(),
        }
    }
}

/// With a sixth argument.
unsafe fn syscall6(nr: u32, a: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: as below.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr as isize => result,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4], in("r9") a[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

#[inline]
unsafe fn syscall(nr: u32, a: [usize; 5]) -> isize {
    let result: isize;
    // SAFETY: the caller answers for what the system call does; the registers are those that the kernel's calling
    // convention names, and it changes no others.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr as isize => result,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// `read(2)` of up to `len` bytes.
///
/// # Safety
/// `len` bytes at `buffer` are writable.
pub unsafe fn read(fd: i32, buffer: *mut u8, len: usize) -> isize {
    // SAFETY: the caller's.
    unsafe { syscall(nr::READ, [fd as usize, buffer as usize, len, 0, 0]) }
}

/// `write(2)`. The kernel checks the buffer.
pub fn write(fd: i32, buffer: u64, len: u64) -> isize {
    // SAFETY: writing to a descriptor does not change memory.
    unsafe {
        syscall(
            nr::WRITE,
            [fd as usize, buffer as usize, len as usize, 0, 0],
        )
    }
}

/// `readv(2)`. `Segment` has the layout of `struct iovec`.
///
/// # Safety
/// All segments are writable.
pub unsafe fn readv(fd: i32, segments: &[Segment]) -> isize {
    // SAFETY: the caller's.
    unsafe {
        syscall(
            nr::READV,
            [
                fd as usize,
                segments.as_ptr() as usize,
                segments.len(),
                0,
                0,
            ],
        )
    }
}

/// `writev(2)`.
pub fn writev(fd: i32, segments: &[Segment]) -> isize {
    // SAFETY: writing to a descriptor does not change memory.
    unsafe {
        syscall(
            nr::WRITEV,
            [
                fd as usize,
                segments.as_ptr() as usize,
                segments.len(),
                0,
                0,
            ],
        )
    }
}

/// `pread(2)`.
///
/// # Safety
/// `len` bytes at `buffer` are writable.
pub unsafe fn pread(fd: i32, buffer: u64, len: u64, offset: u64) -> isize {
    // SAFETY: the caller's.
    unsafe {
        syscall(
            nr::PREAD64,
            [
                fd as usize,
                buffer as usize,
                len as usize,
                offset as usize,
                0,
            ],
        )
    }
}

/// `pwrite(2)`.
pub fn pwrite(fd: i32, buffer: u64, len: u64, offset: u64) -> isize {
    // SAFETY: writing to a descriptor does not change memory.
    unsafe {
        syscall(
            nr::PWRITE64,
            [
                fd as usize,
                buffer as usize,
                len as usize,
                offset as usize,
                0,
            ],
        )
    }
}

/// `fdatasync(2)`.
pub fn fdatasync(fd: i32) -> isize {
    // SAFETY: changes no memory.
    unsafe { syscall(nr::FDATASYNC, [fd as usize, 0, 0, 0, 0]) }
}

/// `fallocate(2)` with [`PUNCH_HOLE`].
pub fn punch_hole(fd: i32, offset: u64, len: u64) -> isize {
    // SAFETY: changes no memory.
    unsafe {
        syscall(
            nr::FALLOCATE,
            [
                fd as usize,
                PUNCH_HOLE as usize,
                offset as usize,
                len as usize,
                0,
            ],
        )
    }
}

/// `getrandom(2)`, which for up to 256 bytes is never cut short once the host has booted.
///
/// # Safety
/// `len` bytes at `buffer` are writable.
pub unsafe fn getrandom(buffer: u64, len: u64) -> isize {
    // SAFETY: the caller's.
    unsafe { syscall(nr::GETRANDOM, [buffer as usize, len as usize, 0, 0, 0]) }
}

/// `madvise(2)`.
///
/// # Safety
/// Nobody needs the content of these pages.
pub unsafe fn madvise(addr: u64, len: u64, advice: u32) -> isize {
    // SAFETY: the caller's.
    unsafe {
        syscall(
            nr::MADVISE,
            [addr as usize, len as usize, advice as usize, 0, 0],
        )
    }
}

/// `mprotect(2)`.
///
/// # Safety
/// Nobody accesses these pages in a way that `protection` forbids.
pub unsafe fn mprotect(addr: u64, len: u64, protection: u64) -> isize {
    // SAFETY: the caller's.
    unsafe {
        syscall(
            nr::MPROTECT,
            [addr as usize, len as usize, protection as usize, 0, 0],
        )
    }
}

/// `munmap(2)`.
///
/// # Safety
/// Nobody needs these pages.
pub unsafe fn munmap(start: u64, end: u64) -> isize {
    // SAFETY: the caller's.
    unsafe {
        syscall(
            nr::MUNMAP,
            [start as usize, (end - start) as usize, 0, 0, 0],
        )
    }
}

/// `mmap(2)` at a fixed address.
///
/// # Safety
/// Nobody needs what is there.
pub unsafe fn mmap(
    addr: u64,
    len: u64,
    protection: u64,
    flags: u32,
    fd: i32,
    offset: u64,
) -> isize {
    // SAFETY: the caller's.
    unsafe {
        syscall6(
            nr::MMAP,
            [
                addr as usize,
                len as usize,
                protection as usize,
                flags as usize,
                fd as usize,
                offset as usize,
            ],
        )
    }
}

/// `mremap(2)` to a fixed address.
///
/// # Safety
/// Nobody needs what is there, nor these pages at their old place.
pub unsafe fn mremap(from: u64, len: u64, to: u64) -> isize {
    // SAFETY: the caller's.
    unsafe {
        syscall(
            nr::MREMAP,
            [
                from as usize,
                len as usize,
                len as usize,
                MREMAP_TO as usize,
                to as usize,
            ],
        )
    }
}

/// `ppoll(2)` without a signal mask. `timeout` is cut to what is left by the kernel.
pub fn ppoll(fds: &mut [PollFd], timeout: Option<&mut Timespec>) -> isize {
    let timeout = timeout.map_or(0, |t| core::ptr::from_mut(t) as usize);
    // SAFETY: both pointers come from exclusive borrows.
    unsafe {
        syscall(
            nr::PPOLL,
            [fds.as_mut_ptr() as usize, fds.len(), timeout, 0, 0],
        )
    }
}

/// `clock_gettime(2)` in nanoseconds.
pub fn clock(id: u32) -> u64 {
    let mut now = Timespec::default();
    // SAFETY: the kernel writes one timespec.
    unsafe {
        syscall(
            nr::CLOCK_GETTIME,
            [id as usize, &raw mut now as usize, 0, 0, 0],
        )
    };
    now.nanos()
}

/// `timer_settime(2)` with a period in nanoseconds, 0 to stop.
pub fn timer_settime(timer: i32, period: u64) -> isize {
    let setting = [Timespec::from_nanos(period); 2];
    // SAFETY: the kernel only reads the setting.
    unsafe {
        syscall(
            nr::TIMER_SETTIME,
            [timer as usize, 0, setting.as_ptr() as usize, 0, 0],
        )
    }
}

/// `sigaltstack(2)`.
///
/// # Safety
/// The stack stays valid and is used for nothing else.
pub unsafe fn sigaltstack(base: u64, len: u64) -> isize {
    let stack = [base, 0, len];
    // SAFETY: the kernel only reads the record; the rest is the caller's.
    unsafe { syscall(nr::SIGALTSTACK, [stack.as_ptr() as usize, 0, 0, 0, 0]) }
}

/// `seccomp(SECCOMP_SET_MODE_FILTER)`.
pub fn set_filter(instructions: &[u64]) -> isize {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const u64,
    }
    let program = Program {
        len: instructions.len() as u16,
        filter: instructions.as_ptr(),
    };
    // SAFETY: the kernel only reads the program.
    unsafe { syscall(nr::SECCOMP, [1, 0, &raw const program as usize, 0, 0]) }
}

/// `KVM_RUN`: lets the guest run until it needs something.
pub fn kvm_run(vcpu: i32) -> isize {
    // SAFETY: a guest's memory is not this code's.
    unsafe { syscall(nr::IOCTL, [vcpu as usize, kvm::RUN as usize, 0, 0, 0]) }
}

/// The guest's `cr2`, from `KVM_GET_SREGS`; 0 if the kernel does not say.
pub fn kvm_fault_address(vcpu: i32) -> u64 {
    /// Index in words of `cr2` in `struct kvm_sregs`: behind eight segments of 24 bytes, two tables of 16, and `cr0`.
    const CR2: usize = (8 * 24 + 2 * 16 + 8) / 8;
    let mut sregs = [0u64; 312 / 8];
    let buffer = sregs.as_mut_ptr() as usize;
    // SAFETY: the kernel writes one `struct kvm_sregs`.
    let done = unsafe {
        syscall(
            nr::IOCTL,
            [vcpu as usize, kvm::GET_SREGS as usize, buffer, 0, 0],
        )
    };
    if done < 0 { 0 } else { sregs[CR2] }
}

/// Gives the guest `len` bytes of this process's addresses as physical memory (`KVM_SET_USER_MEMORY_REGION`), in a slot that
/// was not used before.
pub fn kvm_add_memory(machine: i32, slot: u32, physical: u64, len: u64, addr: u64) -> isize {
    let region = [u64::from(slot), physical, len, addr];
    let record = region.as_ptr() as usize;
    // SAFETY: the kernel only reads the record.
    unsafe {
        syscall(
            nr::IOCTL,
            [
                machine as usize,
                kvm::SET_USER_MEMORY_REGION as usize,
                record,
                0,
                0,
            ],
        )
    }
}

/// `exit_group(2)`.
pub fn exit(code: u32) -> ! {
    loop {
        // SAFETY: ends the process.
        unsafe { syscall(nr::EXIT_GROUP, [code as usize, 0, 0, 0, 0]) };
    }
}

// Where the kernel returns to from a signal handler (`SA_RESTORER`).
global_asm!(
    ".pushsection .text.kiln_gate_restorer,\"ax\",@progbits",
    ".globl kiln_gate_restorer",
    "kiln_gate_restorer:",
    "mov eax, 15",
    "syscall",
    "ud2",
    ".popsection",
);
