//! What guests ask of their monitor that run Linux programs (guest `program`), on the backends that have it.

use std::path::Path;
use std::time::Duration;

use kiln_system_tests::{Outcome, Running, Session, backend};

/// Runs a case of the guest, with its standard streams as a shell's redirection says.
fn redirected(session: &Session, options: &str, case: &str, redirection: &str) -> Outcome {
    let kiln = kiln_system_tests::kiln();
    let words = Session::words(&format!("--rm {options}"), "program", case).join(" ");
    let script = format!("{} {words} {redirection}", kiln.display());
    Running::start(&mut session.wrapped(Path::new("/bin/sh"), ["-c", &script])).finish()
}

fn case(name: &str) {
    redirected(&Session::new(), "", name, "")
        .succeeds()
        .prints("SUCCESS");
}

#[test]
fn the_user_range_is_the_guests() {
    case("memory");
}

#[test]
fn system_calls_of_the_program_come_to_the_guest() {
    case("calls");
}

#[test]
fn calls_and_ticks_do_not_disturb_each_other() {
    case("storm");
}

#[test]
fn ticks_wait_while_the_library_os_works() {
    case("ticks");
}

#[test]
fn input_is_read_until_its_end() {
    let session = Session::new();
    let outcome = redirected(&session, "", "cat", "< /proc/self/cmdline");
    outcome.succeeds().prints("SUCCESS");
    assert!(outcome.text().contains("cat"), "{outcome}");
    // What comes late, and in pieces.
    let kiln = kiln_system_tests::kiln();
    let words = Session::words("--rm", "program", "cat").join(" ");
    let script = format!(
        "(echo one; sleep 0.2; echo two) | {} {words}",
        kiln.display()
    );
    let mut shell = session.wrapped(Path::new("/bin/sh"), ["-c", &script]);
    let outcome = Running::start(&mut shell).finish();
    outcome.succeeds().prints("one\ntwo\nSUCCESS");
}

#[test]
fn input_that_never_comes_does_not_keep_a_guest_from_stopping() {
    let session = Session::new();
    let kiln = kiln_system_tests::kiln();
    let words = Session::words("--name it", "program", "cat").join(" ");
    let script = format!("sleep 100 | {} {words}", kiln.display());
    let mut shell = session.wrapped(Path::new("/bin/sh"), ["-c", &script]);
    let mut running = Running::start(&mut shell);
    while session.rows(&["ps"]).is_empty() {
        assert!(running.is_running());
        std::thread::sleep(Duration::from_millis(10));
    }
    session.kiln(["stop", "it"]).ends_with(0);
    assert_eq!(session.inspect("it")["State"]["ExitCode"], 0);
    drop(running);
}

#[test]
fn a_detached_guest_finds_its_input_at_its_end() {
    let session = Session::new();
    let words = Session::words("-d --name it", "program", "cat");
    session.kiln(words).ends_with(0);
    session.kiln(["wait", "it"]).ends_with(0).prints("0");
}

#[test]
fn errors_go_their_own_way_and_into_the_log() {
    if !backend::only_on(&["process", "kvm"], "other monitors have one console") {
        return;
    }
    let session = Session::new();
    let words = Session::words("--name it", "program", "streams");
    let outcome = session.kiln(words);
    outcome.succeeds().prints("to out").tells("to errors");
    assert!(!outcome.text().contains("to errors"), "{outcome}");
    session
        .kiln(["logs", "it"])
        .succeeds()
        .prints("to out")
        .prints("to errors");
}

#[test]
fn a_guest_that_fills_memory_is_ended() {
    redirected(&Session::new(), "--memory 64M", "fill", "")
        .ends_with(137)
        .tells("out of memory")
        .tells("raise it with --memory");
}
