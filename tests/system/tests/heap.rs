//! Memory of the guest: damage is found, exhaustion is told, what is free goes back to the host.

use std::time::Duration;

use kiln_system_tests::host::{eventually, status_bytes};
use kiln_system_tests::{Session, backend, probe, probe_with};

const CORRUPTED: i32 = 134;

#[test]
fn damage_is_found_and_told() {
    for (case, text) in [
        ("heap-overflow", "wrote past the end of the 24-byte object"),
        (
            "heap-overflow-8",
            "wrote past the end of the 24-byte object",
        ),
        ("double-free", "freed twice"),
        ("double-free-big", "freed"),
        ("free-inside", "points 16 bytes into the object"),
        ("free-wrong-size", "was freed as 2400 bytes"),
        ("free-stack", "is not heap memory"),
    ] {
        let outcome = probe(case);
        outcome
            .ends_with(CORRUPTED)
            .tells(text)
            .tells("guest_probe::heap::");
        assert!(!outcome.text().contains("SURVIVED"), "{outcome}");
        assert_eq!(
            outcome.stderr.matches("heap corruption").count(),
            1,
            "said once\n{outcome}"
        );
    }
}

#[test]
fn a_linear_overflow_ends_at_the_page_behind_the_heap() {
    probe_with("--memory 4M", "heap-overflow-far")
        .ends_with(139)
        .tells("page fault: write");
}

#[test]
fn exhaustion_is_a_panic_that_says_so() {
    for memory in ["512K", "2M", "64M"] {
        let outcome = probe_with(&format!("--memory {memory}"), "exhaust");
        outcome
            .ends_with(101)
            .tells("panicked")
            .tells("memory allocation of 65536 bytes failed");
        outcome.tells("guest_probe::heap::exhaust");
    }
}

#[test]
fn exhaustion_can_be_handled() {
    for memory in ["1M", "16M"] {
        probe_with(&format!("--memory {memory}"), "exhaust-gracefully").succeeds();
    }
}

#[test]
fn objects_of_all_sizes_keep_their_content() {
    probe("churn").succeeds();
    probe_with("--memory 6M", "churn").succeeds();
}

#[test]
fn free_memory_goes_back_to_the_host() {
    if !backend::only_on(
        &["process", "kvm"],
        "what another monitor takes itself comes on top",
    ) {
        return;
    }
    let session = Session::new();
    let mut running = session.start_guest("--name giver --memory 64M", "probe", "give-back");
    running.wait_for("full");
    let (guest, _) = session.pids("giver");
    let full = status_bytes(guest, "VmRSS");
    assert!(full > 24 << 20, "{full} bytes resident with 24 MiB in use");
    running.wait_for("released");
    eventually("memory is given back", || {
        status_bytes(guest, "VmRSS") < 8 << 20
    });
}

#[test]
fn an_idle_guest_costs_little_memory() {
    if !backend::only_on(
        &["process", "kvm"],
        "what another monitor takes itself comes on top",
    ) {
        return;
    }
    let session = Session::new();
    session.detach("--name idle --memory 512K", "probe", "wait");
    let (guest, _) = session.pids("idle");
    std::thread::sleep(Duration::from_millis(100));
    let resident = status_bytes(guest, "VmRSS");
    assert!(
        resident < 1 << 20,
        "{resident} bytes resident with 512 KiB of memory"
    );
}
