//! The vDSO (`vdso(7)`): a small shared library that the library OS maps into every program. The C library finds it by the auxiliary vector and
//! asks it for the time, so that reading a clock is a function call.
//!
//! In front of it lies a page that the library OS writes and the program reads ([`data`]): the time-stamp counter's value at a moment, the time
//! at that moment, and how fast the one makes the other. Where the counter cannot be relied on the functions make system calls.
//!
//! | file | its part |
//! | --- | --- |
//! | [`code`] | the functions, in assembly |
//! | [`image`] | the ELF file around them |
//! | [`data`] | the page with the time |

mod code;
pub mod data;
pub mod image;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::rc::Rc;

use crate::platform::{self, Access};
use crate::process::Thread;
use crate::user::PAGE;
use crate::{Errno, Result};
use data::{Clock, Data};

/// Pages of the library, the headers and the code.
pub const IMAGE_LEN: usize = 2 * PAGE as usize;

/// The library's bytes, on pages of their own.
#[repr(C, align(4096))]
struct Image([u8; IMAGE_LEN]);

/// The one vDSO of the machine, whose pages all programs share.
pub struct Vdso {
    image: Box<Image>,
    data: Box<Data>,
}

impl core::fmt::Debug for Vdso {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Vdso")
    }
}

impl Default for Vdso {
    fn default() -> Self {
        let mut image = Box::new(Image([0; IMAGE_LEN]));
        image::build(&mut image.0, &code::functions());
        Self {
            image,
            data: Box::default(),
        }
    }
}

impl Vdso {
    /// The library's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.image.0
    }

    /// Maps it into a thread's address space, at `at` if there is room, and notes where it is.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn map(&self, thread: &Rc<Thread>, at: u64) -> Result {
        let memory = &thread.process.memory;
        let data = &raw const *self.data as u64;
        let image = &raw const *self.image as u64;
        self.update();
        let vvar = memory.map_own(at, PAGE, Access::READ, data, false, "[vvar]")?;
        let text = Access::READ | Access::EXEC;
        let len = IMAGE_LEN as u64;
        // Private, because sites of system calls in it are patched as elsewhere.
        let vdso = memory.map_own(vvar + PAGE, len, text, image, true, "[vdso]")?;
        if vdso != vvar + PAGE {
            memory.unmap(vdso, len)?;
            memory.unmap(vvar, PAGE)?;
            return Err(Errno::ENOMEM);
        }
        memory.set_layout(|layout| layout.vdso = vdso);
        Ok(())
    }

    /// As [`update`](Self::update), unless that was done within the last millisecond. The platform does it whenever it has waited.
    pub fn refresh(&self) {
        let counter = platform::counter();
        let age = counter.value.saturating_sub(self.data.counter());
        if counter.frequency != 0 && age > counter.frequency / 1024 {
            self.update();
        }
    }

    /// Brings the page with the time in line with the platform's clocks, which follow the host's.
    pub fn update(&self) {
        let counter = platform::counter();
        if counter.frequency == 0 {
            return;
        }
        // The counter is read before the clock: what the program reads is then never behind what the host has told.
        let (monotonic, wall_offset) = platform::host_clocks();
        self.data.update(&Clock {
            counter: counter.value,
            frequency: counter.frequency,
            monotonic,
            wall_offset,
        });
    }

    /// The monotonic and the wall clock exactly as a program reads them now; `None` if it has to ask.
    pub fn clocks(&self) -> Option<(u64, u64)> {
        self.refresh();
        let counter = platform::counter();
        if counter.frequency == 0 {
            return None;
        }
        let monotonic = self.data.monotonic_at(counter.value);
        Some((monotonic, monotonic.wrapping_add(self.data.wall_offset())))
    }
}
