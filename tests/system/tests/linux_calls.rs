//! System calls of Linux programs down to the registers: by a trap, and from the stubs that take the place of traps.

use std::process::Command;
use std::time::Duration;

use kiln_system_tests::program::compiled;
use kiln_system_tests::{Session, backend};

/// Compiles a program and runs it with these arguments; it says itself whether all is well.
fn succeeds(name: &str, args: &[&str]) {
    let source = format!("c/{name}.c");
    let Some(program) = compiled(&source, "gcc", "{source} -O2 -pthread -o {out}") else {
        return;
    };
    let session = Session::new();
    let mut words = vec!["run".to_owned(), program.display().to_string()];
    words.extend(args.iter().map(|&word| word.to_owned()));
    session
        .start(words)
        .finish_within(Duration::from_mins(2))
        .ends_with(0)
        .prints("SUCCESS");
}

#[test]
fn calls_change_no_register_but_their_own() {
    succeeds("registers", &[]);
}

#[test]
fn nor_do_calls_with_signals_in_between() {
    succeeds("registers", &["signals"]);
}

#[test]
fn places_are_changed_under_threads_that_use_them() {
    succeeds("sites", &[]);
}

#[test]
fn calls_answer_as_on_linux_where_they_once_did_not() {
    succeeds("differences", &[]);
}

#[test]
fn instructions_that_fail_bring_the_signals_that_linux_sends() {
    let Some(program) = compiled("c/odd.c", "gcc", "{source} -O1 -o {out}") else {
        return;
    };
    // In a virtual machine the processor itself tells less of some.
    let told = (!backend::is_machine()).then(|| "told".to_owned());
    let host = Command::new(&program)
        .args(&told)
        .output()
        .expect("it runs here");
    let expected = String::from_utf8(host.stdout).expect("text");
    assert!(expected.ends_with("SUCCESS\n"), "{expected}");
    let session = Session::new();
    let outcome = session
        .start(
            ["run".to_owned(), program.display().to_string()]
                .into_iter()
                .chain(told),
        )
        .finish_within(Duration::from_mins(1));
    outcome.ends_with(0);
    // In a machine of its own the program reaches the ports of that machine, and QEMU's translator knows no exceptions of SSE.
    let elsewhere: &[&str] = match backend::kind() {
        "qemu" => &["in: ", "simd exception: "],
        "firecracker" | "cloud-hypervisor" => &["in: "],
        _ => &[],
    };
    let alike = |line: &&str| !elsewhere.iter().any(|start| line.starts_with(start));
    for line in expected.lines().filter(alike) {
        outcome.prints(&format!("{line}\n"));
    }
}
