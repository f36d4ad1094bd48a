//! What is around a guest: no system call of its own, no descriptor of the host's, no privilege; and calls to the monitor
//! of which no byte is trusted.

use std::fs;

use kiln_system_tests::{Session, backend, probe};

const FORBIDDEN: i32 = 159;

#[test]
fn system_calls_of_the_program_trap_and_are_reported_with_their_number() {
    // read, write, open, mmap, mprotect, fork, execve, getpid, socket, ptrace, exit_group, and none that exists.
    for number in [0, 1, 2, 9, 10, 57, 59, 39, 41, 101, 231, 5000] {
        let outcome = probe(&format!("syscall {number}"));
        outcome
            .ends_with(FORBIDDEN)
            .tells(&format!("system call {number}"));
        outcome.tells("guest_probe::host_calls::syscall");
        assert!(!outcome.text().contains("SURVIVED"), "{outcome}");
    }
}

#[test]
fn calls_of_32_bit_programs_end_the_guest() {
    probe("int80")
        .ends_with(FORBIDDEN)
        .tells("host system call");
    let outcome = probe("sysenter");
    // In a virtual machine also a protection fault: it was never set up.
    assert!([132, 139, FORBIDDEN].contains(&outcome.code), "{outcome}");
}

#[test]
fn the_gates_own_instruction_makes_no_other_call() {
    if !backend::only_on(&["process"], "the gate is not in the guest's memory") {
        return;
    }
    for call in [
        // openat, socket, clone, execve, ptrace, process_vm_writev, io_uring_setup, userfaultfd, prctl, kill.
        "257",
        "41",
        "56",
        "59",
        "101",
        "311",
        "425",
        "323",
        "157",
        "62",
        // mmap of a page for writing and executing.
        "9 0 4096 7 34",
        // mprotect: to executable, of the program, of the gate, and with a flag that the kernel may not know.
        "10 heap 4096 4",
        "10 heap 4096 5",
        "10 heap 4096 7",
        "10 text 4096 3",
        "10 text 4096 7",
        "10 boot 4096 3",
        "10 gate 4096 3",
        "10 gate 4096 7",
        "10 heap 4096 0x01000003",
        "10 heap 4096 0x100000003",
        "10 heap 0x100001000 3",
        // write to other descriptors than the console's two, read from others than the control pipe.
        "1 0 text 1",
        "1 3 text 1",
        "0 1 heap 1",
        "0 0 heap 4096",
        // madvise: of the program, and with other advice.
        "28 text 4096 9",
        "28 heap 4096 4",
        "28 heap 4096 10",
        // clock_gettime of a process's clock, getrandom with flags.
        "228 2 heap",
        "318 heap 32 2",
        // pread64 and pwrite64 without a disk, readv and writev without a link.
        "17 3 heap 512",
        "18 3 heap 512",
        "19 3 heap 1",
        "20 3 heap 1",
    ] {
        let outcome = probe(&format!("gate-syscall {call}"));
        outcome
            .ends_with(FORBIDDEN)
            .prints("gate instruction found")
            .tells("host system call");
        assert!(!outcome.text().contains("SURVIVED"), "{call}\n{outcome}");
    }
}

#[test]
fn a_forbidden_call_is_in_the_log_and_in_inspect() {
    let session = Session::new();
    session
        .run("--name bad", "probe", "syscall 59")
        .ends_with(FORBIDDEN);
    session.kiln(["logs", "bad"]).prints("system call 59");
    let shown = session.inspect("bad");
    assert!(
        shown["State"]["Reason"]
            .as_str()
            .is_some_and(|r| r.contains("system call 59")),
        "{shown:#}"
    );
}

/// Every case asserts in the guest what the monitor answers.
#[test]
fn hostile_operations_are_refused_and_harm_nobody() {
    for case in [
        "bad-ops",
        "bad-buffers",
        "bad-batches",
        "bad-protect",
        "bad-release",
        "bad-traps",
        "no-devices",
        "big-batch",
        "time-result",
    ] {
        probe(case).succeeds();
    }
}

#[test]
fn memory_can_be_protected_and_released() {
    probe("protect").succeeds();
    probe("release").succeeds();
    let outcome = probe("protected-write");
    outcome
        .ends_with(139)
        .prints("read 0")
        .tells("page fault: write");
    assert!(!outcome.text().contains("SURVIVED"), "{outcome}");
}

#[test]
fn call_records_outside_of_memory_end_the_guest() {
    for place in ["null", "boot", "text", "gate", "kernel", "end"] {
        let outcome = probe(&format!("call-record-{place}"));
        outcome
            .ends_with(139)
            .prints("about to call")
            .tells("faulted");
        assert!(!outcome.text().contains("SURVIVED"), "{outcome}");
    }
}

#[test]
fn exits_with_bad_arguments_still_end_the_guest() {
    probe("exit-bad-message").ends_with(101).tells("panicked");
    probe("exit-no-reason").ends_with(3);
}

#[test]
fn a_running_guest_has_little_of_the_host() {
    let session = Session::new();
    session.detach("--name idle", "probe", "wait");
    let (guest, supervisor) = session.pids("idle");
    assert_ne!(guest, supervisor);
    let status = fs::read_to_string(format!("/proc/{guest}/status")).expect("a running guest");
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("a known field");
        line.trim_start_matches(':')
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(field("Seccomp"), ["2"], "no filter");
    assert_eq!(field("NoNewPrivs"), ["1"]);
    // With a virtual machine the kernel makes a thread of its own in its process (recovery of large pages).
    let kernel_threads = u32::from(backend::is_machine());
    let threads: u32 = field("Threads")[0].parse().expect("a number");
    assert!(
        (1..=1 + kernel_threads).contains(&threads),
        "{threads} threads"
    );
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    let image = kiln_system_tests::guest("probe").display().to_string();
    let maps = fs::read_to_string(format!("/proc/{guest}/maps")).expect("a running guest");
    for line in maps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let access = words.get(1).copied().unwrap_or_default();
        assert!(
            !(access.contains('w') && access.contains('x')),
            "writable code: {line}"
        );
        let file = words.get(5).copied().unwrap_or_default();
        let ours = file.is_empty()
            || file == image
            || file.contains("memfd")
            || file.starts_with("/dev/zero")
            || file == "anon_inode:kvm-vcpu:0";
        assert!(
            ours || file == "[vsyscall]",
            "something of the monitor's or the host's is mapped: {line}"
        );
    }
    let descriptors = fs::read_dir(format!("/proc/{guest}/fd")).expect("a running guest");
    for entry in descriptors.filter_map(Result::ok) {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let target = target.to_string_lossy();
        let ours = target.starts_with("pipe:")
            || (backend::kind() == "kvm" && target.starts_with("anon_inode:kvm-vcpu"));
        assert!(ours, "{target}");
    }
}

#[test]
fn inspect_lists_the_protections() {
    let session = Session::new();
    session.detach("--name idle", "probe", "wait");
    for ended in [false, true] {
        let shown = session.inspect("idle");
        let protections = shown["Protections"].as_array().cloned().unwrap_or_default();
        for name in [
            "seccomp filter",
            "W^X",
            "guard pages",
            "random addresses",
            "user namespace",
        ] {
            let found = protections.iter().find(|p| p["Name"] == name);
            let found = found.unwrap_or_else(|| panic!("{name} (ended: {ended})\n{shown:#}"));
            assert!(
                found["InForce"] == true || found["Missing"].is_string(),
                "{found:#}"
            );
        }
        session.kiln(["stop", "idle"]).ends_with(0);
    }
}
