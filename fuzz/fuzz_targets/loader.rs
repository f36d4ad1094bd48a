//! The bytes of a file, started as a Linux program.
//!
//! The first byte says what else there is: an interpreter of its own, cut off the end of the bytes. Any bytes get an answer, and whatever
//! was mapped lies within the program's address range, in order and without overlaps; ending the program takes all of it away.
#![no_main]

use std::rc::Rc;

use kiln_linux::fs::{self, OpenFlags};
use kiln_linux::io::Source;
use kiln_linux::platform::pretend;
use kiln_linux::process::Thread;
use kiln_linux::user::{USER_END, USER_START};
use kiln_linux::{kernel, loader};
use libfuzzer_sys::{Corpus, fuzz_target};

/// The first thread of the one machine that all inputs run on, one after the other: its file systems outlive what is forgotten between tests.
fn machine() -> Rc<Thread> {
    kernel().processes.thread(1).unwrap_or_else(|| {
        let thread = kernel().processes.first();
        fs::start().expect("file systems without a root image");
        thread
    })
}

fn write(thread: &Rc<Thread>, path: &[u8], bytes: &[u8]) {
    let flags = OpenFlags::CREAT | OpenFlags::RDWR | OpenFlags::TRUNC;
    let open = fs::open(thread, fs::AT_FDCWD, path, flags, 0o755).expect("a name in /tmp");
    let mut from = Source::kernel(bytes);
    while from.remaining() > 0 {
        let at = (bytes.len() - from.remaining()) as u64;
        let written = open.file.write_at(thread, at, &mut from);
        assert!(written.expect("room for a small file") > 0);
    }
}

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Some((&split, bytes)) = bytes.split_first() else {
        return Corpus::Reject;
    };
    if bytes.len() > 1 << 16 {
        return Corpus::Reject;
    }
    let thread = machine();
    let interpreter = bytes.len() * usize::from(split) / 256;
    let (interpreter, program) = bytes.split_at(interpreter);
    write(&thread, b"/tmp/p", program);
    write(&thread, b"/tmp/i", interpreter);

    let arguments = [b"p".to_vec(), b"-v".to_vec()];
    let environment = [b"HOME=/".to_vec()];
    let result = loader::execute(&thread, b"/tmp/p", &arguments, &environment);
    let memory = &thread.process.memory;
    if let Err(error) = &result {
        assert!(!loader::explain(error).contains('\n'));
    }
    let mut end = USER_START;
    for region in memory.regions() {
        assert!(region.start >= end && region.start < region.end);
        end = region.end;
    }
    assert!(end <= USER_END);
    if result.is_ok() {
        let registers = thread.registers.get();
        assert!(registers.rsp.is_multiple_of(16));
        let stack = memory.region(registers.rsp).expect("a stack");
        assert_eq!(&*stack.name, b"[stack]");
    }
    memory.clear();
    assert!(memory.regions().is_empty());
    assert!(pretend::mappings().is_empty());
    Corpus::Keep
});
