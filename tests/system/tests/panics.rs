//! Panics: exit code 101, the message, and a backtrace with names, made by the monitor from the image's symbols.

use kiln_system_tests::{Outcome, Session, probe};

/// The backtrace names these functions, in this order.
#[track_caller]
fn names_in_order(outcome: &Outcome, names: &[&str]) {
    let mut rest = outcome.stderr.as_str();
    for name in names {
        let Some(at) = rest.find(name) else {
            panic!("{name} is missing or out of order\n{outcome}");
        };
        rest = &rest[at + name.len()..];
    }
}

#[test]
fn a_panic_is_told_with_message_place_and_backtrace() {
    let outcome = probe("panic");
    outcome
        .ends_with(101)
        .tells("panicked")
        .tells("the answer is 42")
        .tells("src/panics.rs:");
    names_in_order(
        &outcome,
        &[
            "guest_probe::panics::innermost at /src/tests/guests/probe/src/panics.rs:",
            "guest_probe::panics::middle at ",
            "guest_probe::panics::outermost at ",
            "guest_probe::panics::run",
            "guest_probe::main::{closure#0}",
        ],
    );
}

#[test]
fn a_deep_recursion_is_told_in_few_lines() {
    let outcome = probe("panic-deep");
    outcome
        .ends_with(101)
        .tells("deep down")
        .tells("guest_probe::panics::deep")
        .tells("times more");
    assert!(outcome.stderr.lines().count() < 30, "{outcome}");
}

#[test]
fn long_messages_are_cut() {
    for case in ["panic-long", "panic-unicode"] {
        let outcome = probe(case);
        outcome.ends_with(101).tells("panicked");
        assert!(!outcome.stderr.contains("THE END"), "{outcome}");
        assert!(
            !outcome.stderr.contains('\u{fffd}'),
            "cut inside a character\n{outcome}"
        );
    }
}

#[test]
fn all_lines_of_a_message_are_shown() {
    let outcome = probe("panic-lines");
    outcome
        .ends_with(101)
        .tells("first line")
        .tells("second line")
        .tells("third line");
}

#[test]
fn a_panic_while_panicking_ends_the_guest_too() {
    probe("panic-in-panic")
        .ends_with(101)
        .tells("panicked while panicking");
    // No unwinding: the guard is not dropped, so its panic does not happen.
    probe("panic-in-drop").ends_with(101).tells("the first");
}

#[test]
fn a_panic_in_a_task_ends_the_guest() {
    let outcome = probe("panic-task");
    outcome.ends_with(101).prints("spawned").tells("in a task");
    names_in_order(&outcome, &["inside_the_task", "in_a_task"]);
    assert!(!outcome.text().contains("SURVIVED"), "{outcome}");
}

#[test]
fn the_languages_own_panics_are_told() {
    probe("panic-index")
        .ends_with(101)
        .tells("index out of bounds: the len is 0 but the index is 3");
    probe("panic-unwrap")
        .ends_with(101)
        .tells("no luck")
        .tells("src/panics.rs:");
    probe("panic-alloc")
        .ends_with(101)
        .tells("memory allocation of 70368744177664 bytes failed");
}

#[test]
fn logs_and_inspect_tell_of_a_panic() {
    let session = Session::new();
    session.run("--name sad", "probe", "panic").ends_with(101);
    session
        .kiln(["logs", "sad"])
        .prints("the answer is 42")
        .prints("guest_probe::panics::innermost");
    let shown = session.inspect("sad");
    assert_eq!(shown["State"]["ExitCode"], 101);
    assert!(
        shown["State"]["Reason"]
            .as_str()
            .is_some_and(|r| r.contains("panicked")),
        "{shown:#}"
    );
}
