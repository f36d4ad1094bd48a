//! Traces of system calls (`kiln run --strace`), in the form of `strace(1)`: a line for each call on standard error output, and at the end a
//! table of how often each was made.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::{Cell, RefCell};
use core::fmt::Write;

use super::{Args, signature, table};
use crate::Errno;
use crate::dev::tell_user;
use crate::process::Thread;
use crate::user::UserAddr;

/// How much of a string is shown.
const SHOWN: usize = 64;

/// What is kept of traced calls.
#[derive(Debug, Default)]
pub struct Trace {
    /// The thread whose call has been printed up to its result.
    open: Cell<u32>,
    /// How often each call was made, and how often it failed.
    counts: RefCell<BTreeMap<u64, (u64, u64)>>,
}

/// Writes to a string, which does not fail.
macro_rules! say {
    ($text:expr, $($format:tt)*) => { { let _ = write!($text, $($format)*); } };
}

/// Adds bytes as a quoted string, `...` behind it if some are left out.
fn quote(text: &mut String, bytes: &[u8], cut: bool) {
    text.push('"');
    for &byte in bytes {
        match byte {
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            b'"' | b'\\' => {
                text.push('\\');
                text.push(byte.into());
            }
            0x20..0x7f => text.push(byte.into()),
            _ => say!(text, "\\{byte:o}"),
        }
    }
    text.push('"');
    if cut {
        text.push_str("...");
    }
}

/// Adds up to [`SHOWN`] bytes of the program's memory.
fn show_bytes(text: &mut String, at: u64, len: u64) {
    let mut bytes = [0; SHOWN];
    let shown = usize::try_from(len).map_or(SHOWN, |len| len.min(SHOWN));
    match UserAddr(at).read_bytes(&mut bytes[..shown]) {
        Ok(()) => quote(text, &bytes[..shown], len > shown as u64),
        Err(_) => say!(text, "{at:#x}"),
    }
}

const OPEN_FLAGS: &[(u32, &str)] = &[
    (0o100, "O_CREAT"),
    (0o200, "O_EXCL"),
    (0o400, "O_NOCTTY"),
    (0o1000, "O_TRUNC"),
    (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"),
    (0o10000, "O_DSYNC"),
    (0o40000, "O_DIRECT"),
    (0o200_000, "O_DIRECTORY"),
    (0o400_000, "O_NOFOLLOW"),
    (0o1_000_000, "O_NOATIME"),
    (0o2_000_000, "O_CLOEXEC"),
    (0o10_000_000, "O_PATH"),
];

fn show_open_flags(text: &mut String, flags: u32) {
    text.push_str(match flags & 3 {
        0 => "O_RDONLY",
        1 => "O_WRONLY",
        2 => "O_RDWR",
        _ => "O_ACCMODE",
    });
    for (bit, name) in OPEN_FLAGS {
        if flags & bit != 0 {
            say!(text, "|{name}");
        }
    }
}

/// Adds an argument. `result` is known when bytes are shown that the call gave.
fn show_argument(text: &mut String, kind: u8, args: Args, index: usize, result: Option<u64>) {
    let value = args.word(index);
    match kind {
        b'f' if args.int(index) == crate::fs::AT_FDCWD => text.push_str("AT_FDCWD"),
        b'f' | b'i' => say!(text, "{}", args.int(index)),
        b'u' => say!(text, "{}", args.uint(index)),
        b'd' => say!(text, "{}", args.long(index)),
        b'U' => say!(text, "{value}"),
        b'x' => say!(text, "{value:#x}"),
        b'o' => say!(text, "0{:o}", args.uint(index)),
        b'O' => show_open_flags(text, args.uint(index)),
        b'S' => match args.uint(index) {
            0 => text.push('0'),
            number => say!(text, "SIG{number}"),
        },
        b's' if value != 0 => match UserAddr(value).read_path() {
            Ok(path) => quote(text, &path, false),
            Err(_) => say!(text, "{value:#x}"),
        },
        b'w' if value != 0 => show_bytes(text, value, args.word((index + 1).min(5))),
        b'r' if value != 0 => match result {
            Some(len) => show_bytes(text, value, len),
            None => say!(text, "{value:#x}"),
        },
        _ if value == 0 => text.push_str("NULL"),
        _ => say!(text, "{value:#x}"),
    }
}

/// Adds name and arguments.
fn show_call(text: &mut String, number: u64, args: Args, result: Option<u64>) {
    let (name, kinds) = match signature::find(number) {
        Some((_, name, kinds)) => (*name, *kinds),
        None => {
            say!(text, "syscall_{number:#x}");
            ("", "xxxxxx")
        }
    };
    say!(text, "{name}(");
    for (index, kind) in kinds.bytes().take(6).enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        show_argument(text, kind, args, index, result);
    }
    text.push(')');
}

fn show_result(text: &mut String, number: u64, result: u64) {
    let signed = result.cast_signed();
    if (-4095..0).contains(&signed) {
        let error = Errno(i32::try_from(-signed).unwrap_or(0));
        match error {
            Errno::ERESTARTSYS => text.push_str("? ERESTARTSYS"),
            Errno::ERESTARTNOINTR => text.push_str("? ERESTARTNOINTR"),
            Errno::ERESTARTNOHAND => text.push_str("? ERESTARTNOHAND"),
            Errno::ERESTART_RESTARTBLOCK => text.push_str("? ERESTART_RESTARTBLOCK"),
            _ => say!(text, "-1 {}", error.name()),
        }
        if table::find(number).is_none() {
            text.push_str(" (not implemented)");
        }
        return;
    }
    // Addresses and flags are easier to read in hexadecimal.
    if result > 0x1_0000_0000 || matches!(number, 9 | 12 | 25) {
        say!(text, "{result:#x}");
    } else {
        say!(text, "{result}");
    }
}

fn prefix(text: &mut String, thread: &Thread) {
    if thread.tid != 1 {
        say!(text, "[{}] ", thread.tid);
    }
}

/// Prints a call before it is done. Its line ends when the result is known, or when another thread has something to say.
pub(super) fn enter(thread: &Rc<Thread>, number: u64, args: Args) {
    let kernel = crate::kernel();
    let trace = &kernel.counters.trace;
    let mut text = String::new();
    if trace.open.replace(thread.tid) != 0 {
        text.push_str(" <unfinished ...>\n");
    }
    prefix(&mut text, thread);
    // Bytes that the call gives are not there yet: such a line is printed when it has ended.
    if signature::find(number).is_some_and(|signature| signature.2.contains('r')) {
        trace.open.set(0);
        if text.starts_with(' ') {
            tell_user(" <unfinished ...>\n");
        }
        return;
    }
    show_call(&mut text, number, args, None);
    tell_user(&text);
}

/// Prints the result.
pub(super) fn leave(thread: &Rc<Thread>, number: u64, args: Args, result: u64) {
    let kernel = crate::kernel();
    let trace = &kernel.counters.trace;
    {
        let mut counts = trace.counts.borrow_mut();
        let count = counts.entry(number.min(0xffff)).or_default();
        count.0 += 1;
        count.1 += u64::from((-4095..0).contains(&result.cast_signed()));
    }
    let mut text = String::new();
    let open = trace.open.replace(0);
    if open != thread.tid {
        if open != 0 {
            text.push_str(" <unfinished ...>\n");
        }
        prefix(&mut text, thread);
        let gives = signature::find(number).is_some_and(|signature| signature.2.contains('r'));
        if gives {
            let len = Some(result).filter(|len| len.cast_signed() >= 0);
            show_call(&mut text, number, args, len);
        } else {
            let name = signature::find(number).map_or("?", |signature| signature.1);
            say!(text, "<... {name} resumed>");
        }
    }
    text.push_str(" = ");
    show_result(&mut text, number, result);
    text.push('\n');
    tell_user(&text);
}

/// Prints how often each call was made, if they are traced: at the end of the machine.
pub fn summary() {
    let kernel = crate::kernel();
    if !kernel.trace_calls.get() {
        return;
    }
    let mut text = String::new();
    if kernel.counters.trace.open.replace(0) != 0 {
        text.push_str(" = ?\n");
    }
    let counts = kernel.counters.trace.counts.borrow();
    let mut lines: alloc::vec::Vec<_> = counts.iter().collect();
    lines.sort_by_key(|(_, (calls, _))| core::cmp::Reverse(*calls));
    say!(text, "    calls    errors  system call\n");
    say!(text, "--------- ---------  --------------------\n");
    let (mut calls, mut errors) = (0, 0);
    for (&number, &(made, failed)) in lines {
        let name = signature::find(number).map_or("?", |signature| signature.1);
        let missing = if table::find(number).is_none() {
            " (not implemented)"
        } else {
            ""
        };
        say!(text, "{made:9} {failed:9}  {name}{missing}\n");
        calls += made;
        errors += failed;
    }
    say!(text, "--------- ---------  --------------------\n");
    say!(text, "{calls:9} {errors:9}  in all\n");
    tell_user(&text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::testing::{self, PAGE_AT};
    use crate::platform::pretend;

    fn traced(number: u64, args: [u64; 6]) -> String {
        let thread = crate::kernel().processes.thread(1).expect("the first");
        super::super::perform(&thread, number, Args(args));
        String::from_utf8(pretend::take_output()).expect("text")
    }

    #[test]
    fn calls_are_printed_with_their_arguments_and_results() {
        let _thread = testing::thread();
        crate::kernel().trace_calls.set(true);
        let line = traced(293, [PAGE_AT, 0, 0, 0, 0, 0]);
        assert_eq!(line, "pipe2(0x100000, 0x0) = 0\n");
        let line = traced(233, [9, 1, 0, 0, 0, 0]);
        assert_eq!(line, "epoll_ctl(9, 1, 0, NULL) = -1 EFAULT\n");
        UserAddr(PAGE_AT).write(*b"/no\n\0").expect("memory");
        let line = traced(134, [PAGE_AT, 0, 0, 0, 0, 0]);
        assert_eq!(line, "uselib(\"/no\\n\") = -1 ENOSYS (not implemented)\n");
        let line = traced(9999, [0; 6]);
        assert!(line.starts_with("syscall_0x270f(0x0, "));
        summary();
        let text = String::from_utf8(pretend::take_output()).expect("text");
        assert!(text.contains("        1         1  uselib (not implemented)\n"));
        assert!(text.ends_with("        4         3  in all\n"));
    }

    #[test]
    fn a_call_that_waits_is_printed_in_two_parts() {
        let thread = testing::thread();
        let kernel = crate::kernel();
        kernel.trace_calls.set(true);
        let args = Args([PAGE_AT, 1, 5, 0, 0, 0]);
        enter(&thread, 7, args);
        assert_eq!(pretend::take_output(), b"poll(0x100000, 1, 5)");
        kernel.counters.trace.open.set(2);
        leave(&thread, 7, args, 0);
        let text = " <unfinished ...>\n<... poll resumed> = 0\n";
        assert_eq!(pretend::take_output(), text.as_bytes());
    }

    #[test]
    fn every_implemented_call_has_its_own_name() {
        for call in table::all() {
            let found = signature::find(call.number.into());
            let (_, name, _) = found.expect("a known call");
            assert_eq!(*name, call.name);
        }
    }
}
