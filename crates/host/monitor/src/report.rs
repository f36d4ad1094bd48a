//! How a guest ended, in words: for the terminal, the log and `kiln inspect`.
//!
//! Pure text making. A guest that returned by itself is not worth a word; all others get a line that says what happened,
//! then registers and a backtrace where there are any. Addresses are given relative to the image, so that reports of
//! two runs can be compared although each run has its own random addresses.

use std::fmt::Write as _;

use kiln_abi::ExitReason;
use kiln_abi::trap::TrapFrame;
use kiln_image::Symbols;

use crate::backend::{Ended, How};

/// Names of the registers in the order of [`TrapFrame::registers`].
const REGISTERS: [&str; 16] = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// Why it ended, in one line without the instance's name.
pub fn reason(ended: &Ended) -> String {
    let message = ended.message.lines().next().unwrap_or_default();
    let with_message = |what: &str| match message {
        "" => what.to_owned(),
        _ => format!("{what}: {message}"),
    };
    match ended.how {
        How::Exited(ExitReason::Exit) => with_message("exited"),
        // The guest's own words are those of Rust programs elsewhere: `panicked at src/main.rs:3:5:`.
        How::Exited(ExitReason::Panic) if message.starts_with("panicked ") => {
            message.trim_end_matches(':').to_owned()
        }
        How::Exited(ExitReason::Panic) => with_message("panicked"),
        How::Exited(ExitReason::Fault) => match &ended.registers {
            // A guest that could still say what happened knows more, such as which stack has overflowed.
            Some(frame) if message.is_empty() => {
                format!("faulted: {}", fault(frame, ended.image_start))
            }
            _ => with_message("faulted"),
        },
        How::Exited(ExitReason::Corrupted) => with_message("stopped, its memory being corrupted"),
        How::Exited(ExitReason::Boot) => with_message("could not start"),
        How::Exited(ExitReason::OutOfMemory) => with_message("out of memory"),
        How::ForbiddenCall(0) => {
            "ended: it tried a host system call that the sandbox does not have".to_owned()
        }
        How::ForbiddenCall(number) => {
            format!("ended: it tried host system call {number}, which the sandbox does not have")
        }
        How::Silent => {
            "went off without a word: it reset its machine, or two faults in a row did".to_owned()
        }
        How::OutOfMemory => format!("out of memory: {message}"),
        How::MonitorFailed => with_message("lost its monitor"),
        How::Killed(9) => "killed".to_owned(),
        How::Killed(signal) => format!("killed by signal {signal}"),
    }
}

/// Whether the end is worth telling: everything but a return of the program's own.
pub fn is_remarkable(ended: &Ended) -> bool {
    ended.how != How::Exited(ExitReason::Exit)
}

/// The whole report, each line ended by a newline. `symbols` is `None` if the image's cannot be read.
pub fn full(name: &str, ended: &Ended, symbols: Option<&Symbols>) -> String {
    let mut text = format!("kiln: {name} {}\n", reason(ended));
    for line in ended.message.lines().skip(1) {
        push(&mut text, format_args!("    {line}\n"));
    }
    if let Some(frame) = &ended.registers {
        registers(&mut text, frame);
    }
    backtrace(&mut text, ended, symbols);
    text
}

/// The stack, innermost first. A long recursion is told once, with how often.
fn backtrace(text: &mut String, ended: &Ended, symbols: Option<&Symbols>) {
    let interrupted = ended.registers.as_ref().map(|frame| frame.rip);
    // The interrupted instruction itself, unless the guest's own unwinding already began with it.
    let first = interrupted.filter(|rip| ended.frames.first() != Some(rip));
    let mut index = 0;
    let mut last: Option<Vec<String>> = None;
    let mut repeated = 0;
    for (nth, address) in first
        .into_iter()
        .chain(ended.frames.iter().copied())
        .enumerate()
    {
        // A return address lies behind its call; the interrupted instruction is exact.
        let exact = nth == 0 && interrupted == Some(address);
        let lines = place(address, u64::from(!exact), ended, symbols);
        if last.as_ref() == Some(&lines) {
            repeated += 1;
            index += lines.len();
            continue;
        }
        tell_repeated(text, &mut repeated);
        for line in &lines {
            push(text, format_args!("{index:>6}: {line}\n"));
            index += 1;
        }
        last = Some(lines);
    }
    tell_repeated(text, &mut repeated);
}

fn tell_repeated(text: &mut String, count: &mut usize) {
    match std::mem::take(count) {
        0 => {}
        1 => text.push_str("        once more\n"),
        more => push(text, format_args!("        {more} times more\n")),
    }
}

/// What a fault was, for example `page fault writing 0x0`.
fn fault(frame: &TrapFrame, image_start: u64) -> String {
    let what = match frame.vector {
        0 => "division by zero",
        1 => "debug trap",
        3 => "breakpoint",
        4 => "overflow",
        6 => "illegal instruction",
        13 => "general protection",
        14 => {
            // SDM volume 3, section 4.7: error code of a page fault.
            let doing = match (frame.error & 1 << 4 != 0, frame.error & 1 << 1 != 0) {
                (true, _) => "executing",
                (_, true) => "writing",
                _ => "reading",
            };
            return format!("page fault {doing} {:#x}", frame.address);
        }
        16 | 19 => "floating-point exception",
        17 => "misaligned access",
        TrapFrame::HOST_CALL => return format!("host system call {}", frame.address),
        _ => "exception",
    };
    format!("{what} at {}", relative(frame.rip, image_start))
}

fn registers(text: &mut String, frame: &TrapFrame) {
    push(
        text,
        format_args!("    rip {:016x}  rflags {:08x}\n", frame.rip, frame.rflags),
    );
    for (names, values) in REGISTERS.chunks(4).zip(frame.registers.chunks(4)) {
        text.push_str("   ");
        for (name, value) in names.iter().zip(values) {
            push(text, format_args!(" {name:>3} {value:016x}"));
        }
        text.push('\n');
    }
}

/// One place of the backtrace: a line for each function that is inlined there. `back` bytes before the address is what
/// is looked up.
fn place(address: u64, back: u64, ended: &Ended, symbols: Option<&Symbols>) -> Vec<String> {
    let at = address.wrapping_sub(ended.image_start);
    let frames = symbols.map_or_else(Vec::new, |symbols| symbols.frames(at.wrapping_sub(back)));
    if frames.is_empty() {
        return vec![relative(address, ended.image_start)];
    }
    frames.iter().map(ToString::to_string).collect()
}

fn relative(address: u64, image_start: u64) -> String {
    match address.checked_sub(image_start) {
        Some(offset) => format!("image+{offset:#x}"),
        None => format!("{address:#x}"),
    }
}

fn push(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(what);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Usage;

    fn ended(how: How) -> Ended {
        Ended {
            how,
            code: 0,
            message: String::new(),
            frames: Vec::new(),
            registers: None,
            image_start: 0x10_0000,
            usage: Usage::default(),
        }
    }

    #[test]
    fn a_normal_end_is_not_remarkable() {
        assert!(!is_remarkable(&ended(How::Exited(ExitReason::Exit))));
        assert!(is_remarkable(&ended(How::Killed(9))));
    }

    #[test]
    fn a_panic_is_told_with_its_message_and_backtrace() {
        let panic = Ended {
            message: "oh no\nsecond line".into(),
            frames: vec![0x10_1234, 0x10_2000],
            ..ended(How::Exited(ExitReason::Panic))
        };
        assert_eq!(
            full("web", &panic, None),
            "kiln: web panicked: oh no\n    second line\n     0: image+0x1234\n     1: image+0x2000\n"
        );
    }

    #[test]
    fn a_fault_is_told_with_registers_and_the_faulting_place_once() {
        let frame = TrapFrame {
            vector: 14,
            error: 1 << 1,
            address: 0x8,
            rip: 0x10_0040,
            ..TrapFrame::default()
        };
        let mut fault = Ended {
            registers: Some(Box::new(frame)),
            frames: vec![0x10_0040, 0x10_0080],
            ..ended(How::Exited(ExitReason::Fault))
        };
        assert_eq!(reason(&fault), "faulted: page fault writing 0x8");
        let text = full("web", &fault, None);
        assert_eq!(text.matches("image+0x40").count(), 1, "{text}");
        assert!(text.contains("rsp 0000000000000000"), "{text}");
        fault.frames.remove(0);
        assert_eq!(full("web", &fault, None), text);
    }

    #[test]
    fn reasons_are_one_line() {
        for (how, text) in [
            (How::Exited(ExitReason::Boot), "could not start"),
            (
                How::ForbiddenCall(41),
                "ended: it tried host system call 41, which the sandbox does not have",
            ),
            (How::Killed(15), "killed by signal 15"),
            (How::MonitorFailed, "lost its monitor"),
        ] {
            assert_eq!(reason(&ended(how)), text);
        }
    }

    #[test]
    fn a_recursion_is_told_once() {
        let mut deep = ended(How::Exited(ExitReason::Panic));
        deep.frames = vec![0x10_0040, 0x10_0080, 0x10_0080, 0x10_0080, 0x10_00c0];
        let text = full("web", &deep, None);
        let lines: Vec<&str> = text.lines().skip(1).map(str::trim).collect();
        assert_eq!(
            lines,
            [
                "0: image+0x40",
                "1: image+0x80",
                "2 times more",
                "4: image+0xc0"
            ]
        );
    }
}
