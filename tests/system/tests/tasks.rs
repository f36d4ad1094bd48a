//! The executor. The cases assert in the guest; see `tests/guests/probe/src/tasks.rs`.

use std::time::Duration;

use kiln_system_tests::{probe, probe_with};

#[test]
fn tasks_are_joined_aborted_selected_and_take_turns() {
    probe("tasks").succeeds();
}

#[test]
fn ten_thousand_tasks_run() {
    probe_with("--memory 16M", "ten-thousand").succeeds();
}

#[test]
fn forgotten_timers_do_not_stay() {
    probe("timers").succeeds();
}

#[test]
fn timers_fire_in_order() {
    probe("order").succeeds();
}

#[test]
fn floating_point_state_survives_switches() {
    probe("float-tasks").succeeds();
}

#[test]
fn the_program_ends_with_main() {
    let outcome = probe("abandoned");
    outcome.succeeds();
    assert!(outcome.took < Duration::from_secs(2), "{outcome}");
}
