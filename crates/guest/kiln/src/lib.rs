//! The library that Kiln programs are written against.
//!
//! A Kiln program is a Rust crate that is compiled together with the operating-system parts it uses into one image,
//! and that image is all there is on its (virtual) machine. `kiln new NAME` makes such a crate; it looks like this:
//!
//! ```no_run
//! use kiln::net::TcpListener;
//! use kiln::io::{Read, Write};
//!
//! #[kiln::main(net)]
//! async fn main() -> Result<(), kiln::net::Error> {
//!     let listener = TcpListener::bind(([0, 0, 0, 0], 7))?;
//!     loop {
//!         let (mut stream, peer) = listener.accept().await?;
//!         kiln::println!("{peer} is here");
//!         kiln::spawn(async move {
//!             let mut buffer = [0; 2048];
//!             while let Ok(n @ 1..) = stream.read(&mut buffer).await {
//!                 if stream.write_all(&buffer[..n]).await.is_err() {
//!                     break;
//!                 }
//!             }
//!         });
//!     }
//! }
//! ```
//!
//! and runs with `kiln run -p 7007:7 .`
//!
//! # What is here
//!
//! | | |
//! | --- | --- |
//! | [`main`](macro@main) | the entry point, and what the program declares it needs |
//! | [`spawn`], [`yield_now`], [`select`], [`join`] | tasks |
//! | [`time`] | sleeping, time-outs, clocks |
//! | [`net`] | TCP, UDP, name look-ups |
//! | [`block`] | disks |
//! | [`random`] | random numbers fit for keys |
//! | [`args`], [`vars`], [`var`] | what `kiln run` was given |
//! | [`print!`], [`println!`], [`log`] | the console |
//! | [`shutdown`] | being asked to stop |
//! | [`memory`] | what the heap holds |
//!
//! Everything runs on one virtual CPU: futures need not be `Send`, `Rc` and `RefCell` are fine, and a task that
//! computes for long holds up all others (see [`yield_now`]).
//!
//! Programs are `no_std` with `alloc`. TCP streams implement the `embedded-io-async` traits ([`io`]), so crates of that
//! ecosystem work on them.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub use kiln_macros::main;
pub use log;

pub use kiln_rt::block;
pub use kiln_rt::boot::{args, name, var, vars};
pub use kiln_rt::console::{flush, init_log};
pub use kiln_rt::memory;
pub use kiln_rt::random;
pub use kiln_rt::start::{Termination, exit};
pub use kiln_rt::task::{JoinHandle, spawn, yield_now};

#[cfg(feature = "net")]
pub mod net;

/// Clocks, sleeping and time-outs.
pub mod time {
    pub use core::time::Duration;
    pub use kiln_abi::Instant;
    pub use kiln_rt::time::{
        Elapsed, Sleep, cached, now, since_epoch, sleep, sleep_until, timeout,
    };
}

/// Being asked to stop.
pub mod shutdown {
    pub use kiln_rt::shutdown::requested_signal;
}

/// The `embedded-io-async` traits.
pub mod io {
    pub use embedded_io_async::{
        BufRead, Error, ErrorKind, ErrorType, Read, ReadExactError, Write,
    };
}

pub use embassy_futures::join;
pub use embassy_futures::select;

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::__private::print(::core::format_args!($($argument)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($argument:tt)*) => { $crate::print!("{}\n", ::core::format_args!($($argument)*)) };
}

/// On a host the program has a `main` that does nothing, so that it can be checked there.
#[cfg(not(kiln_guest))]
#[doc(hidden)]
#[macro_export]
macro_rules! __host_main {
    () => {
        #[allow(dead_code)]
        fn main() {}
    };
}

/// In a guest the start code is in charge.
#[cfg(kiln_guest)]
#[doc(hidden)]
#[macro_export]
macro_rules! __host_main {
    () => {};
}

/// For the macros of this crate.
#[doc(hidden)]
pub mod __private {
    pub use kiln_abi::DeviceKind;
    pub use kiln_abi::note::ElfNote;
    use kiln_abi::note::{AbiNote, DeviceNote};
    pub use kiln_rt::console::print;
    pub use kiln_rt::task::run;

    pub const fn abi_note(stack_size: u64, min_memory: u64) -> ElfNote<32> {
        ElfNote::abi(AbiNote {
            version: kiln_abi::VERSION,
            flags: 0,
            stack_size,
            min_memory,
            entry: 0,
        })
    }

    pub const fn device_note(kind: DeviceKind, name: &str, optional: bool) -> ElfNote<32> {
        let flags = if optional { DeviceNote::OPTIONAL } else { 0 };
        ElfNote::device(DeviceNote::new(kind, name, flags))
    }

    #[cfg(feature = "net")]
    pub fn start_net() {
        kiln_rt::net::start();
    }

    #[cfg(not(feature = "net"))]
    pub fn start_net() {
        compile_error_net::needs_the_feature_net();
    }

    #[cfg(not(feature = "net"))]
    mod compile_error_net {
        pub fn needs_the_feature_net() {
            panic!("this program declares a network link: build `kiln` with its feature \"net\"");
        }
    }
}
