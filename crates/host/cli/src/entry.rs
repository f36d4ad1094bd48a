//! The entry point, without the standard library's own preparations.
//!
//! Before `main`, Rust's runtime looks up the main thread's stack in `/proc/self/maps` and installs handlers that tell
//! a stack overflow from other faults. That takes 80 of the 200 microseconds that starting a guest may take here, so the
//! C library calls us directly, and of those preparations we do what matters to us: the three standard descriptors are
//! open, so that no file of ours takes their place, and writing to a closed pipe is an error instead of the end.
#![allow(unsafe_code)]

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, fcntl_getfd};
use rustix::stdio::{stderr, stdin, stdout};

/// Called by the C library's start code. The arguments are not used: the standard library has its own way to them.
// SAFETY: this is the only `main` of the program, with the signature that C gives it.
#[unsafe(no_mangle)]
extern "C" fn main(_count: libc::c_int, _args: *const *const libc::c_char) -> libc::c_int {
    open_standard_descriptors();
    // SAFETY: neither runs code of ours, and there are no other threads.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        // So is writing more than the user's limit for files allows.
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        // Whoever started us may ignore it, and then nobody could learn how a child has ended.
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        // Buffers of connections from here on are mappings of their own and go back to the host when they are freed;
        // by itself the C library would keep more and more of them.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024);
    }
    // Not by returning: this also writes out what is buffered for the standard output.
    std::process::exit(i32::from(crate::run()))
}

/// Opens `/dev/null` for each of the three that is closed, in ascending order, so that it gets that number.
fn open_standard_descriptors() {
    for descriptor in [stdin(), stdout(), stderr()] {
        if fcntl_getfd(descriptor) == Err(Errno::BADF) {
            match rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
                Ok(opened) => std::mem::forget(opened),
                // Without it this program is not safe to run, and there is nowhere to say so.
                Err(_) => std::process::abort(),
            }
        }
    }
}
