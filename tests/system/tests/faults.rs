//! Faults of the guest: each ends it, with the exit code of a process that dies of the same, and is told in words.
//!
//! W^X in all directions, the unmapped low addresses, guard pages, relocated constants, and the processor's exceptions.

use kiln_system_tests::{Outcome, Session, backend, probe};

const SEGV: i32 = 139;

#[track_caller]
fn faults(access: &str, place: &str) -> Outcome {
    let outcome = probe(&format!("touch {access} {place}"));
    outcome
        .ends_with(SEGV)
        .prints(&format!("about to {access} {place}"));
    assert!(!outcome.text().contains("SURVIVED"), "{outcome}");
    let expected = match access {
        "exec" => "execution",
        access => access,
    };
    if !outcome.stderr.contains("stack overflow") {
        outcome.tells(&format!("page fault: {expected} at address"));
    }
    outcome.tells("guest_probe::");
    outcome
}

#[test]
fn the_function_that_did_it_is_named() {
    for access in ["read", "write"] {
        faults(access, "0").tells("guest_probe::faults::");
    }
}

/// The instruction pointer itself has gone astray; where it came from lies on top of the stack.
#[test]
fn the_caller_of_a_wild_call_is_named() {
    faults("exec", "0").tells("guest_probe::faults::");
}

#[test]
fn low_addresses_are_unmapped() {
    for address in ["0", "0x8", "0xfff", "0x1000", "0xffff", "0x10000"] {
        for access in ["read", "write", "exec"] {
            faults(access, address).tells(&format!("at address {:#x}", parse(address)));
        }
    }
}

fn parse(address: &str) -> u64 {
    match address.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).expect("hexadecimal"),
        None => address.parse().expect("decimal"),
    }
}

#[test]
fn wild_addresses_fault() {
    for address in ["0x400000", "0x600000000000", "0x7fffffffe000"] {
        faults("read", address);
        faults("write", address);
    }
}

#[test]
fn code_and_constants_cannot_be_written() {
    for place in ["text", "rodata", "boot", "gate"] {
        faults("write", place);
    }
}

#[test]
fn relocated_constants_cannot_be_written_after_start() {
    faults("write", "relro");
}

#[test]
fn data_cannot_be_executed() {
    for place in [
        "rodata",
        "relro",
        "data",
        "bss",
        "heap",
        "stack",
        "trap-stack",
        "boot",
    ] {
        faults("exec", place);
    }
}

#[test]
fn data_can_be_read() {
    for place in [
        "rodata",
        "relro",
        "data",
        "bss",
        "heap",
        "stack",
        "trap-stack",
        "boot",
        "text",
    ] {
        probe(&format!("touch read {place}"))
            .ends_with(1)
            .prints("SURVIVED");
    }
}

#[test]
fn around_every_range_lies_an_unmapped_page() {
    for place in [
        "below-trap-stack",
        "above-trap-stack",
        "above-stack",
        "below-heap",
        "above-heap",
        "below-image",
        "above-image",
    ] {
        faults("read", place);
        faults("write", place);
    }
    faults("write", "below-stack").tells("stack overflow");
}

#[test]
fn a_stack_overflow_is_reported_as_such() {
    probe("stack-overflow")
        .ends_with(SEGV)
        .tells("stack overflow")
        .tells("guest_probe::faults::recurse");
}

#[test]
fn addresses_that_no_processor_has_fault() {
    for address in ["0x800000000000", "0xffff7fffffffffff"] {
        for access in ["read", "write"] {
            probe(&format!("touch {access} {address}"))
                .ends_with(SEGV)
                .tells("general protection fault")
                .tells("guest_probe::faults::touch");
        }
    }
    probe("touch read 0xffff800000000000").ends_with(SEGV);
    probe("touch write 0xffffffffff600000").ends_with(SEGV);
}

#[test]
fn exceptions_end_with_128_plus_the_signal() {
    for (case, code, text) in [
        ("divide", 136, "division error"),
        ("undefined", 132, "illegal instruction"),
        ("breakpoint", 133, "breakpoint"),
        ("halt", SEGV, "general protection fault"),
        ("port", SEGV, "general protection fault"),
        ("unmasked-float", 136, "floating-point exception"),
    ] {
        // QEMU's own translator does not raise floating-point exceptions; and where drivers run in ring 3, so do ports.
        let translated = backend::kind() == "qemu";
        let drivers_inside = !["process", "kvm"].contains(&backend::kind());
        if translated && case == "unmasked-float" || drivers_inside && case == "port" {
            continue;
        }
        let outcome = probe(case);
        outcome
            .ends_with(code)
            .tells(text)
            .tells("guest_probe::faults::run");
        assert!(!outcome.text().contains("SURVIVED"), "{outcome}");
    }
}

#[test]
fn traps_do_not_need_the_guests_stack() {
    probe("bad-stack")
        .ends_with(SEGV)
        .tells("page fault: write at address 0xff8");
}

#[test]
fn backtraces_do_not_follow_wild_frame_pointers() {
    for case in ["bad-frame", "frame-loop"] {
        probe(case)
            .ends_with(132)
            .tells("illegal instruction")
            .tells("guest_probe::faults::run");
    }
}

#[test]
fn a_fault_is_told_with_registers_and_place() {
    let outcome = probe("fault-deep");
    outcome
        .ends_with(SEGV)
        .tells("page fault: write at address 0xdead0000");
    outcome
        .tells("panics.rs:")
        .tells("guest_probe::panics::fault_inner")
        .tells("guest_probe::panics::fault_outer");
}

#[test]
fn logs_and_inspect_tell_of_a_fault() {
    let session = Session::new();
    session
        .run("--name crashed", "probe", "touch write 0x10")
        .ends_with(SEGV);
    session
        .kiln(["logs", "crashed"])
        .ends_with(0)
        .prints("about to write")
        .prints("at address 0x10");
    let shown = session.inspect("crashed");
    assert_eq!(shown["State"]["ExitCode"], SEGV, "{shown:#}");
    assert_eq!(shown["State"]["Status"], "exited", "{shown:#}");
    let reason = shown["State"]["Reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("page fault") && reason.contains("0x10"),
        "{shown:#}"
    );
}
