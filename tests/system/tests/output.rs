//! The guest's output on the command's standard output, when that does not take it.

use std::path::Path;

use kiln_system_tests::{Outcome, Running, Session};

/// Runs `kiln run` with these words in a shell's redirection, and prints its exit code to standard error.
fn redirected(session: &Session, words: &[String], redirection: &str) -> Outcome {
    let kiln = kiln_system_tests::kiln();
    let script = format!(
        "{{ {} {}; echo \"code $?\" >&2; }} {redirection}",
        kiln.display(),
        words.join(" ")
    );
    Running::start(&mut session.wrapped(Path::new("/bin/sh"), ["-c", &script])).finish()
}

#[test]
fn a_full_disk_is_told_and_fails_the_command() {
    let session = Session::new();
    let words = Session::words("--name it", "probe", "hello");
    let outcome = redirected(&session, &words, "> /dev/full");
    outcome.tells("code 125");
    let told = "kiln: cannot write the guest's output: No space left on device";
    assert_eq!(outcome.stderr.matches("kiln: ").count(), 1, "{outcome}");
    assert!(outcome.stderr.starts_with(told), "{outcome}");
    // The guest went on to its end, and the log has all of it.
    session.kiln(["logs", "it"]).succeeds();
    assert_eq!(session.inspect("it")["State"]["ExitCode"], 0);
}

#[test]
fn a_guest_that_fails_keeps_its_code_on_a_full_disk() {
    let session = Session::new();
    let words = Session::words("--rm", "probe", "no-such-case");
    redirected(&session, &words, "> /dev/full")
        .tells("cannot write the guest's output")
        .tells("code 99");
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let session = Session::new();
    let words = Session::words("--rm", "probe", "hello");
    let outcome = redirected(&session, &words, "| exec 0<&-");
    outcome.tells("code 0");
    assert!(!outcome.stderr.contains("cannot write"), "{outcome}");
}
