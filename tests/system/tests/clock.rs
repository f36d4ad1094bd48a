//! Time as the guest has it, and that a guest which waits costs nothing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_system_tests::host::cpu_time;
use kiln_system_tests::{Session, backend, probe};

#[test]
fn the_monotonic_clock_advances_and_agrees_with_the_wall_clock() {
    probe("monotonic").succeeds();
}

#[test]
fn sleeps_last_as_long_as_asked_for() {
    let outcome = probe("sleeps");
    outcome.succeeds();
    assert!(outcome.took >= Duration::from_secs(1), "{outcome}");
    assert!(outcome.took < Duration::from_secs(2), "{outcome}");
}

#[test]
fn past_deadlines_return_at_once() {
    probe("past").succeeds();
}

#[test]
fn the_wall_clock_is_the_hosts() {
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_nanos()
    };
    let before = now();
    let guest: u128 = probe("wall").value("wall=").parse().expect("a number");
    assert!(
        (before..=now()).contains(&guest),
        "{before} <= {guest} <= {}",
        now()
    );
}

#[test]
fn a_waiting_guest_uses_no_processor_time() {
    let session = Session::new();
    session.detach("--name idle", "probe", "idle 60000");
    let (guest, supervisor) = session.pids("idle");
    std::thread::sleep(Duration::from_millis(200));
    let before = cpu_time(guest) + cpu_time(supervisor);
    std::thread::sleep(Duration::from_secs(2));
    let used = (cpu_time(guest) + cpu_time(supervisor)).saturating_sub(before);
    assert!(
        used <= Duration::from_millis(10),
        "{used:?} of processor time in two idle seconds"
    );
}

#[test]
fn waking_often_costs_little() {
    if !backend::only_on(&["process", "kvm"], "other monitors do not count calls") {
        return;
    }
    let session = Session::new();
    session
        .run("--name waker", "probe", "many-sleeps 1000")
        .succeeds();
    let usage = session.inspect("waker")["Usage"].clone();
    let calls = usage["Calls"].as_u64().unwrap_or(0);
    assert!(
        (1000..4000).contains(&calls),
        "{calls} calls for 1000 sleeps"
    );
    let nanoseconds = usage["CpuNanoseconds"].as_u64().unwrap_or(u64::MAX);
    assert!(
        nanoseconds < 500_000_000,
        "{nanoseconds} ns of processor time for 1000 sleeps"
    );
}

/// Every millisecond for 300 ms; a busy host may lose some.
#[test]
fn ticks_interrupt_and_disturb_nothing() {
    let outcome = probe("ticks");
    let counted = outcome.succeeds().value("ticks=");
    let ticks: u64 = counted
        .split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a number");
    assert!((100..=330).contains(&ticks), "{ticks} ticks in 300 ms");
}
