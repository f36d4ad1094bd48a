//! How the machine ends: the last words, then the power.
#![allow(unsafe_code)]

use core::fmt::{self, Write};

use kiln_abi::ExitReason;
use kiln_abi::boot::MemoryKind;
use kiln_abi::exit::{MAX_FRAMES, MAX_MESSAGE};
use kiln_abi::op::Segment;
use kiln_abi::perform::{Exit, Memory};
use kiln_abi::trap::TrapFrame;

use crate::cpu::Shared;
use crate::memory::GuestMemory;
use crate::report::{self, Ending};
use crate::state::State;

/// What the guest leaves behind, copied before anything is told of it.
static LAST: Shared<Last> = Shared::new(Last {
    frames: [0; MAX_FRAMES * 8],
    message: [0; MAX_MESSAGE],
});

struct Last {
    frames: [u8; MAX_FRAMES * 8],
    message: [u8; MAX_MESSAGE],
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// How often an end has begun: a fault while ending begins another.
    begun: u32,
    /// The first one's reason.
    reason: u32,
    /// The first one's exit code.
    code: u32,
}

impl Progress {
    fn begin(&mut self, reason: u32, code: u32) {
        self.begun += 1;
        // As with a process, eight bits of it are told.
        (self.reason, self.code) = (reason, code & 0xff);
    }
}

/// Ends the guest as it wishes.
pub fn as_wished(state: &mut State, exit: &Exit) -> ! {
    // First what is certain: a buffer that cannot be read ends this in `with_fault`.
    state.end.begin(exit.reason, exit.code);
    // SAFETY: the machine ends here, and only once: the guest does not get to ask again.
    let last = unsafe { &mut *LAST.get() };
    let frames = copy(state, exit.frames, &mut last.frames) & !7;
    let message = copy(state, exit.message, &mut last.message);
    let registers = state.registers;
    let fault = exit.reason == ExitReason::Fault as u32 && registers.rip != 0;
    tell(
        state,
        last.frames.get(..frames),
        fault.then_some(&registers),
        last.message.get(..message),
    );
    state.power.off(exit.code & 0xff)
}

/// Copies as much as there is room for; nothing, if it is not the guest's memory.
fn copy(state: &State, from: Segment, to: &mut [u8]) -> usize {
    let len = from.len.min(to.len() as u64) as usize;
    let memory = GuestMemory(&state.layout);
    let read = to.get_mut(..len).map(|to| memory.read(from.addr, to));
    if read == Some(Ok(())) { len } else { 0 }
}

/// Ends a guest that faulted where no trap can be delivered. `frame` is its state, if it is known; `what` is told else.
pub fn with_fault(state: &mut State, frame: Option<&TrapFrame>, what: &[u8]) -> ! {
    // A fault while ending: what the guest wished holds.
    match state.end.begun {
        0 => {}
        1 => {
            state.end.begun += 1;
            state.power.off(state.end.code)
        }
        _ => crate::cpu::triple_fault(),
    }
    let code = 128 + frame.map_or(11, |frame| frame.signal);
    state.end.begin(ExitReason::Fault as u32, code);
    let rip = frame.map_or([0; 8], |frame| frame.rip.to_le_bytes());
    let frames = frame.map(|_| rip.as_slice());
    tell(state, frames, frame, Some(what));
    state.power.off(code)
}

/// Ends a guest whose program needs a page when there is none.
#[cfg(feature = "program")]
pub fn out_of_memory(state: &mut State) -> ! {
    const SIGKILL: u32 = 9;
    state
        .end
        .begin(ExitReason::OutOfMemory as u32, 128 + SIGKILL);
    let message = b"the program has used up its part of the memory; raise it with --memory";
    tell(state, None, None, Some(message));
    state.power.off(128 + SIGKILL)
}

/// Ends a machine that has no guest yet. `name` belongs behind the message, without its NUL bytes.
pub fn before_start(state: &mut State, message: &str, name: &[u8]) -> ! {
    const CANNOT_START: u32 = 125;
    state.end.begin(ExitReason::Boot as u32, CANNOT_START);
    // SAFETY: the machine ends here.
    let last = unsafe { &mut *LAST.get() };
    let text = message
        .bytes()
        .chain(name.iter().copied().filter(|&b| b != 0));
    let mut len = 0;
    for (to, from) in last.message.iter_mut().zip(text) {
        *to = from;
        len += 1;
    }
    tell(state, None, None, last.message.get(..len));
    state.power.off(CANNOT_START)
}

fn tell(
    state: &mut State,
    frames: Option<&[u8]>,
    registers: Option<&TrapFrame>,
    message: Option<&[u8]>,
) {
    let ending = Ending {
        reason: state.end.reason,
        code: state.end.code,
        image_start: state.layout.of(MemoryKind::Image).start,
        frames: frames.unwrap_or_default(),
        registers,
        message: message.unwrap_or_default(),
    };
    let token = state.token;
    let token = token.bytes.get(..token.len).filter(|t| !t.is_empty());
    let mut text = Text {
        state,
        bytes: [0; 128],
        used: 0,
    };
    // The console does not fail.
    let _ = report::write(&mut text, &ending, token);
    text.flush();
}

/// The supervisor's token.
#[derive(Clone, Copy, Debug)]
pub struct Token {
    bytes: [u8; 64],
    len: usize,
}

impl Token {
    /// Takes over a token, or nothing of one that is too long.
    pub fn set(&mut self, token: &[u8]) {
        if let Some(to) = self.bytes.get_mut(..token.len()) {
            for (to, from) in to.iter_mut().zip(token) {
                *to = *from;
            }
            self.len = token.len();
        }
    }
}

/// Text on its way to the console, in pieces that are worth their while.
struct Text<'a> {
    state: &'a mut State,
    bytes: [u8; 128],
    used: usize,
}

impl Text<'_> {
    fn byte(&mut self, byte: u8) {
        if self.used >= self.bytes.len() {
            self.flush();
        }
        if let Some(to) = self.bytes.get_mut(self.used) {
            *to = byte;
            self.used += 1;
        }
    }

    fn flush(&mut self) {
        self.state
            .print(self.bytes.get(..self.used).unwrap_or_default());
        self.used = 0;
    }
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.byte(byte));
        Ok(())
    }

    /// All of a report is ASCII.
    fn write_char(&mut self, c: char) -> fmt::Result {
        self.byte(c as u8);
        Ok(())
    }
}
