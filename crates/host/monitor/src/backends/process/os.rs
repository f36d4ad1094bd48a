//! The few raw system calls of this backend, with the unsafe code they need.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The result of a system call, or the error it left.
pub fn checked(result: i64) -> io::Result<i64> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A raw system call.
pub fn call(number: i64, args: [usize; 5]) -> io::Result<i64> {
    // SAFETY: each use below passes valid pointers or none.
    checked(unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4]) })
}

/// Fills `into` with the kernel's random numbers.
pub fn random(into: &mut [u8]) -> io::Result<()> {
    // SAFETY: the kernel writes at most the slice's length.
    let got = checked(unsafe { libc::getrandom(into.as_mut_ptr().cast(), into.len(), 0) } as i64)?;
    if got as usize == into.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec; these clocks always exist.
    unsafe { libc::clock_gettime(id, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub fn monotonic() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// `CLOCK_REALTIME` in nanoseconds.
pub fn wall() -> u64 {
    clock(libc::CLOCK_REALTIME)
}

/// Whether programs may use `wrfsbase` and its like (`AT_HWCAP2`, asm/hwcap2.h).
pub fn has_fsgsbase() -> bool {
    const HWCAP2_FSGSBASE: u64 = 1 << 1;
    // SAFETY: reads what the kernel told this process at its start.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & HWCAP2_FSGSBASE != 0 }
}

/// A file in memory of `size` bytes that nobody else can open.
pub fn memory_file(size: u64) -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string.
    let fd =
        checked(unsafe { libc::memfd_create(c"kiln-guest".as_ptr(), libc::MFD_CLOEXEC) }.into())?;
    // SAFETY: just made, and ours.
    let file = unsafe { File::from_raw_fd(fd as i32) };
    file.set_len(size)?;
    Ok(file.into())
}

/// A pipe: read end, write end. The write end never blocks.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: the kernel writes two descriptors.
    checked(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) }.into())?;
    // SAFETY: just made, and ours.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Kills a process by its pidfd. One that has ended already is left alone.
pub fn kill(pidfd: &OwnedFd) {
    // SAFETY: no memory is passed.
    unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            0usize,
            0,
        )
    };
}

/// Waits for a child's end: its wait status and processor time in nanoseconds.
pub fn reap(pid: u32) -> io::Result<(i32, u64)> {
    let mut status = 0;
    // SAFETY: all fields of rusage are integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: the kernel writes one status and one rusage.
        let result = unsafe { libc::wait4(pid.cast_signed(), &raw mut status, 0, &raw mut usage) };
        match checked(result.into()) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let nanos = |t: libc::timeval| {
        t.tv_sec.cast_unsigned() * 1_000_000_000 + t.tv_usec.cast_unsigned() * 1000
    };
    Ok((status, nanos(usage.ru_utime) + nanos(usage.ru_stime)))
}

/// A value in memory that the supervisor and the guest's process share. Zeroes are a valid `T`.
#[derive(Debug)]
pub struct Shared<T> {
    at: *mut T,
}

impl<T> Shared<T> {
    /// Maps zeroed memory for a `T` at `address`. Pages that nobody touches cost nothing.
    pub fn new(address: u64) -> io::Result<Self> {
        // SAFETY: a fresh mapping at a place that is free, or an error.
        let at = unsafe {
            libc::mmap(
                address as *mut libc::c_void,
                size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED
                    | libc::MAP_ANONYMOUS
                    | libc::MAP_NORESERVE
                    | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { at: at.cast() })
    }

    /// Where it lies.
    pub fn as_ptr(&self) -> *mut T {
        self.at
    }

    /// A copy of a part, as of now. The other side may be writing: `P` must take every bit pattern, and nothing in the
    /// copy can be trusted.
    pub fn read<P: Copy>(&self, part: fn(*const T) -> *const P) -> P {
        // SAFETY: mapped as long as `self` lives, aligned to a page; such parts are plain data.
        unsafe { part(self.at).read_volatile() }
    }

    /// A part that both sides may change at any time.
    ///
    /// # Safety
    /// All fields of `P` are atomic.
    pub unsafe fn atomics<P>(&self, part: fn(*const T) -> *const P) -> &P {
        // SAFETY: mapped as long as `self` lives, aligned to a page, zero at first; atomic fields take every bit pattern,
        // and the caller promises that there are no others.
        unsafe { &*part(self.at) }
    }

    /// Gives the memory back to the host: it reads as zero from then on.
    pub fn forget(&self) {
        // SAFETY: shared memory of our own. What is lost if the host refuses is memory, no more.
        unsafe { libc::madvise(self.at.cast(), size_of::<T>(), libc::MADV_REMOVE) };
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and no reference into it was given out.
        unsafe { libc::munmap(self.at.cast(), size_of::<T>()) };
    }
}
