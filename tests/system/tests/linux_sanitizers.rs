//! Programs that were compiled with sanitizers: what they find, and the code that they end with, as outside.

use std::process::Command;
use std::time::Duration;

use kiln_system_tests::program::compiled;
use kiln_system_tests::{Outcome, Session};

/// Checks that a text is among what it has said, wherever that went: other monitors have one console.
#[track_caller]
fn says(outcome: &Outcome, text: &str) {
    let said = outcome.stderr.contains(text) || outcome.text().contains(text);
    assert!(said, "{text:?} was not said\n{outcome}");
}

/// The program with this sanitizer ends with `code` here and as a guest.
fn ends(sanitizer: &str, what: &str, code: i32) -> Option<Outcome> {
    let how = format!("{{source}} -g -O1 -pthread -fsanitize={sanitizer} -o {{out}}");
    let program = compiled("c/sanitize.c", "gcc", &how)?;
    let here = Command::new(&program).arg(what).output();
    let here = here.expect("it runs here").status.code();
    assert_eq!(here, Some(code), "{sanitizer}: {what}, outside");
    let session = Session::new();
    let words = ["run".to_owned(), program.display().to_string()];
    let outcome = session
        .start(words.into_iter().chain([what.to_owned()]))
        .finish_within(Duration::from_mins(2));
    outcome.ends_with(code);
    Some(outcome)
}

#[test]
fn address_sanitizer_finds_writes_behind_an_allocation() {
    if let Some(outcome) = ends("address", "clean", 0) {
        outcome.prints("sums are alike: 1").prints("SUCCESS");
    }
    if let Some(outcome) = ends("address", "overflow", 1) {
        says(
            &outcome,
            "AddressSanitizer: heap-buffer-overflow on address 0x6",
        );
        says(&outcome, "WRITE of size 1");
        says(&outcome, "sanitize.c:38");
        says(&outcome, "0 bytes to the right of 10-byte region");
    }
    if let Some(outcome) = ends("address", "freed", 1) {
        says(&outcome, "AddressSanitizer: heap-use-after-free");
        says(&outcome, "previously allocated by thread T0 here");
    }
}

/// Its child stops all threads, which takes clone(2) without threads' flags, ptrace(2) and wait4(2).
#[test]
fn leak_sanitizer_finds_lost_memory() {
    for (sanitizer, code) in [("leak", 23), ("address", 1)] {
        if let Some(outcome) = ends(sanitizer, "clean", 0) {
            outcome.prints("SUCCESS");
        }
        if let Some(outcome) = ends(sanitizer, "leak", code) {
            says(&outcome, "LeakSanitizer: detected memory leaks");
            says(&outcome, "Direct leak of 123 byte(s) in 1 object(s)");
            says(&outcome, "in lose");
        }
    }
}

#[test]
fn the_race_detector_of_go_finds_races() {
    let Some(program) = compiled("go/race.go", "go", "build -race -o {out} {source}") else {
        return;
    };
    let words = ["run".to_owned(), program.display().to_string()];
    let outcome = Session::new()
        .start(words)
        .finish_within(Duration::from_mins(2));
    outcome.ends_with(66);
    says(&outcome, "WARNING: DATA RACE");
    says(&outcome, "Found 1 data race(s)");
}
