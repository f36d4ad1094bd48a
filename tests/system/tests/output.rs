//! The guest's output on the command's standard output, when that does not take it.

use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;

use kiln_system_tests::host::eventually;
use kiln_system_tests::{Outcome, Running, Session, backend};
use rustix::process::Signal;

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

/// Runs `kiln` with these words in a shell, in the session's folder.
fn in_shell(session: &Session, words: &str) -> Outcome {
    let kiln = kiln_system_tests::kiln();
    let script = format!("{} {words}", kiln.display());
    let mut shell = session.wrapped(Path::new("/bin/sh"), ["-c", &script]);
    shell.current_dir(session.dir());
    Running::start(&mut shell).finish()
}

#[test]
fn messages_that_cannot_be_written_change_nothing() {
    let session = Session::new();
    session.run("--name it", "probe", "hello").succeeds();
    for (words, code) in [
        ("run surely-nothing", 127),
        ("run -m lots x", 125),
        ("stop nobody", 1),
        ("kill it", 1),
        ("wait nobody", 1),
        ("rm nobody it", 1),
        ("build -o t.kiln true", 0),
        ("new it", 0),
        ("explode", 125),
    ] {
        in_shell(&session, &format!("{words} 2> /dev/full")).ends_with(code);
    }
    assert!(session.file("t.kiln").is_file() && session.file("it/src").is_dir());
    assert_eq!(session.leftovers(), [""; 0], "not removed");
}

#[test]
fn a_full_disk_for_what_was_asked_for_is_an_error() {
    let session = Session::new();
    session.run("--name it", "probe", "hello").succeeds();
    for words in [
        "ps",
        "inspect it",
        "logs it",
        "images",
        "version",
        "completions bash",
        "--help",
        "run --help",
        "--version",
        "wait it",
        "build -q -o t.kiln true",
    ] {
        in_shell(&session, &format!("{words} > /dev/full"))
            .ends_with(125)
            .is_one_line_error()
            .tells("No space left on device");
    }
}

#[test]
fn a_traced_build_goes_on_without_its_reader() {
    if !backend::only_on(&["process", "kvm"], "programs are traced there") {
        return;
    }
    let session = Session::new();
    in_shell(
        &session,
        "build --trace -o t.kiln -- cat /etc/hostname 2>&1 | head -n 1",
    )
    .ends_with(0);
    assert!(session.file("t.kiln").is_file());
    assert_eq!(hidden(session.dir()), [""; 0], "left behind");
}

#[test]
fn a_traced_build_is_ended_by_a_signal() {
    if !backend::only_on(&["process", "kvm"], "programs are traced there") {
        return;
    }
    let session = Session::new();
    for signal in [Signal::INT, Signal::TERM] {
        let image = session.file("t.kiln");
        let image = image.to_str().expect("text");
        let words = ["build", "--trace", "-o", image, "--", "sleep", "1000"];
        let mut building = session.start(words);
        building.wait_for_told("running the program");
        eventually("it runs", || session.rows(&["ps"]).len() == 1);
        building.signal(signal);
        let outcome = building.finish();
        assert!(outcome.stderr.contains("files were used"), "{outcome}");
        assert_eq!(hidden(session.dir()), [""; 0], "left behind");
        assert_eq!(session.leftovers(), [""; 0], "left behind");
    }
}

/// Names in a folder that begin with a dot.
fn hidden(folder: &Path) -> Vec<String> {
    let names = folder.read_dir().expect("a folder").map(|entry| {
        let name = entry.expect("an entry").file_name();
        name.into_string().expect("text")
    });
    names.filter(|name| name.starts_with('.')).collect()
}

#[test]
fn images_replace_files_only() {
    let session = Session::new();
    let path = |name: &str| session.file(name).display().to_string();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        session.file("pipe"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .expect("a named pipe");
    symlink("pipe", session.file("to-pipe")).expect("a link");
    std::fs::create_dir(session.file("folder")).expect("a folder");
    for (output, problem) in [
        (path("pipe"), "a named pipe"),
        (path("to-pipe"), "a named pipe"),
        (path("folder"), "a folder"),
        ("-".to_owned(), "name one"),
    ] {
        for options in [&["build"][..], &["build", "--trace"]] {
            let words = [options, &["-o", &output, "--", "true"]].concat();
            let mut command = session.command(words);
            let outcome = Running::start(command.current_dir(session.dir())).finish();
            outcome.ends_with(125).is_one_line_error().tells(problem);
        }
    }
    let kind = |name: &str| {
        let metadata = session.file(name).symlink_metadata();
        metadata.expect("it is there").file_type()
    };
    assert!(kind("pipe").is_fifo() && kind("to-pipe").is_symlink());
    assert_eq!(hidden(session.dir()), [""; 0], "left behind");
    assert!(!session.file("-").exists());

    symlink("real.kiln", session.file("link.kiln")).expect("a link");
    for _ in 0..2 {
        let built = session.kiln(["build", "-q", "true", "-o", &path("link.kiln")]);
        built.ends_with(0).prints("link.kiln");
        assert!(kind("link.kiln").is_symlink() && kind("real.kiln").is_file());
    }
    // The name that is taken if none is given.
    symlink("pipe", session.file("true.kiln")).expect("a link");
    let mut command = session.command(["build", "true"]);
    let outcome = Running::start(command.current_dir(session.dir())).finish();
    outcome.ends_with(125).tells("a named pipe");
}

#[test]
fn a_limit_for_files_is_told() {
    let session = Session::new();
    let kiln = kiln_system_tests::kiln();
    let script = format!(
        "ulimit -f 100; exec {} build -q -o {} true",
        kiln.display(),
        session.file("t.kiln").display()
    );
    let mut shell = session.wrapped(Path::new("/bin/bash"), ["-c", &script]);
    Running::start(&mut shell)
        .finish()
        .ends_with(125)
        .is_one_line_error()
        .tells("File too large");
    assert_eq!(hidden(session.dir()), [""; 0], "left behind");
}
