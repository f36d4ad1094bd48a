//! Panics: the message and the stack go to the monitor, which prints them with names and lines.

use core::fmt;

use kiln_abi::exit::MAX_MESSAGE;

/// A message on the stack: no heap, whatever happened to it. What does not fit is cut.
#[derive(Debug)]
pub struct Text {
    bytes: [u8; MAX_MESSAGE],
    len: usize,
}

impl Text {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self {
            bytes: [0; MAX_MESSAGE],
            len: 0,
        }
    }

    /// The text so far.
    pub fn as_str(&self) -> &str {
        match core::str::from_utf8(&self.bytes[..self.len]) {
            Ok(text) => text,
            // Cut in the middle of a character.
            Err(error) => {
                let valid = &self.bytes[..error.valid_up_to()];
                core::str::from_utf8(valid).unwrap_or_default()
            }
        }
    }
}

impl Default for Text {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MAX_MESSAGE - self.len;
        let part = &text.as_bytes()[..room.min(text.len())];
        self.bytes[self.len..self.len + part.len()].copy_from_slice(part);
        self.len += part.len();
        Ok(())
    }
}

#[cfg(kiln_guest)]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    use core::fmt::Write;
    use core::sync::atomic::{AtomicBool, Ordering};

    static PANICKING: AtomicBool = AtomicBool::new(false);
    let mut text = Text::new();
    if PANICKING.swap(true, Ordering::Relaxed) {
        let _ = text.write_str("panicked while panicking");
    } else {
        let _ = write!(text, "{info}");
        crate::memory::end_if_exhausted(text.as_str());
    }
    let frames = crate::backtrace::here();
    crate::start::end(
        kiln_abi::ExitReason::Panic,
        101,
        frames.as_slice(),
        text.as_str(),
    )
}

/// The unwinder's hooks, which precompiled parts of the standard library mention although nothing unwinds here: the first
/// in tables that are thrown away, the second behind calls that would have unwound.
#[cfg(kiln_guest)]
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[cfg(kiln_guest)]
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    panic!("unwinding");
}
