//! What calls answer while memory is short, and that long ones let others run.

use alloc::rc::Rc;
use core::cell::Cell;

use crate::Errno;
use crate::fs::testing::{call, failed, program};
use crate::platform::pretend;
use crate::user::UserAddr;

/// Of the 64 MiB of the pretended machine 32 are free at first, and 8 are kept free of content.
const ALL_BUT: u64 = 32 << 20;

#[test]
fn content_is_refused_before_objects_and_these_before_mappings() {
    let program = program();
    let p = &program;
    let ends = p.room(8);
    assert_eq!(call!(p, "pipe", ends), 0);
    let write = i64::from(UserAddr(ends).read::<[i32; 2]>().unwrap()[1]);
    let file = call!(p, "open", "/tmp/file", 0o102, 0o600);

    pretend::take_memory(ALL_BUT - (7 << 20));
    assert_eq!(call!(p, "write", file, "x", 1), failed(Errno::ENOSPC));
    assert_eq!(call!(p, "mkdir", "/tmp/d", 0o700), failed(Errno::ENOSPC));
    assert_eq!(call!(p, "write", write, "x", 1), failed(Errno::ENOMEM));
    let other = call!(p, "open", "/etc/passwd", 0);
    assert!(other > 0);

    pretend::take_memory(ALL_BUT - (3 << 20));
    assert_eq!(call!(p, "open", "/etc/passwd", 0), failed(Errno::ENFILE));
    assert_eq!(call!(p, "eventfd2", 0, 0), failed(Errno::ENFILE));
    assert_eq!(call!(p, "dup", other), failed(Errno::ENFILE));
    assert!(call!(p, "mmap", 0, 4096, 3, 0x22, -1, 0) > 0);

    pretend::take_memory(ALL_BUT - (1 << 20));
    let refused = call!(p, "mmap", 0, 4096, 3, 0x22, -1, 0);
    assert_eq!(refused, failed(Errno::ENOMEM));

    pretend::take_memory(0);
    assert_eq!(call!(p, "write", file, "x", 1), 1);
    assert_eq!(call!(p, "write", write, "x", 1), 1);
}

#[test]
fn a_number_far_up_does_not_take_all_memory() {
    let program = program();
    let p = &program;
    let file = call!(p, "open", "/etc/passwd", 0);
    pretend::take_memory(ALL_BUT - (10 << 20));
    let far = call!(p, "dup2", file, 1_000_000);
    assert_eq!(far, failed(Errno::ENOMEM));
    assert_eq!(call!(p, "dup2", file, 100), 100);
}

/// Counts how often others are let in while a call is made.
fn breaths(call: impl FnOnce()) -> u32 {
    let before = pretend::breaths();
    call();
    pretend::breaths() - before
}

#[test]
fn long_calls_let_others_run() {
    const LEN: i64 = 8 << 20;
    let program = program();
    let p = &program;
    let at = call!(p, "mmap", 0, LEN, 3, 0x22, -1, 0);
    let file = call!(p, "open", "/tmp/long", 0o102, 0o600);
    let copy = call!(p, "open", "/tmp/copy", 0o102, 0o600);
    let written = breaths(|| assert_eq!(call!(p, "write", file, at, LEN), LEN));
    let read = breaths(|| assert_eq!(call!(p, "pread64", file, at, LEN, 0), LEN));
    let random = breaths(|| assert_eq!(call!(p, "getrandom", at, LEN, 0), LEN));
    let sent = breaths(|| {
        call!(p, "lseek", file, 0, 0);
        assert_eq!(call!(p, "sendfile", copy, file, 0, LEN), LEN);
    });
    for times in [written, read, random, sent] {
        assert!(times >= 7, "{times}");
    }
    // A short one does not.
    assert_eq!(
        breaths(|| assert_eq!(call!(p, "pread64", file, at, 4096, 0), 4096)),
        0
    );
}

#[test]
fn a_signal_that_ends_the_process_ends_a_long_call() {
    const LEN: i64 = 8 << 20;
    let program = program();
    let p = &program;
    let at = call!(p, "mmap", 0, LEN, 3, 0x22, -1, 0);
    let zero = call!(p, "open", "/dev/zero", 0);
    let process = p.thread.process.clone();
    pretend::while_busy(move || {
        let kill = crate::signal::Info::kernel(9);
        crate::signal::send_to_process(&process, kill).unwrap();
    });
    let read = call!(p, "read", zero, at, LEN);
    assert!(read > 0 && read < LEN, "{read}");
}

#[test]
fn others_do_not_move_the_position_in_the_middle_of_a_long_call() {
    const LEN: i64 = 4 << 20;
    let program = program();
    let p = &program;
    let at = call!(p, "mmap", 0, LEN, 3, 0x22, -1, 0);
    let file = call!(p, "open", "/tmp/long", 0o102, 0o600);
    let open = p.thread.process.files.get(file as i32).unwrap();
    let seen = Rc::new(Cell::new(false));
    let told = seen.clone();
    let of = open.clone();
    pretend::while_busy(move || told.set(of.in_pieces.get()));
    assert_eq!(call!(p, "write", file, at, LEN), LEN);
    assert!(seen.get() && !open.in_pieces.get());
}
