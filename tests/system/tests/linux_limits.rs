//! Linux programs that ask for more than there is, and that keep the processor for long: errors as Linux gives them, and others go on.

use std::time::{Duration, Instant};

use kiln_system_tests::program::compiled;
use kiln_system_tests::{Session, backend};

/// What `kiln run OPTIONS PROGRAM ARGS` prints; it ends with 0.
fn run(source: &str, options: &[&str], args: &[&str]) -> Option<String> {
    let name = format!("c/{source}.c");
    let program = compiled(&name, "gcc", "{source} -O1 -pthread -o {out}")?;
    let session = Session::new();
    let mut words = vec!["run".to_owned()];
    words.extend(options.iter().map(|&word| word.to_owned()));
    words.push(program.display().to_string());
    words.extend(args.iter().map(|&word| word.to_owned()));
    let outcome = session.start(words).finish_within(Duration::from_mins(3));
    outcome.ends_with(0).prints("SUCCESS");
    Some(outcome.text())
}

/// Takes all that it can get of something: at last one of `errors`, never the end of the guest.
fn exhausts(what: &str, errors: &[&str]) {
    let Some(text) = run("exhaust", &["--memory=64M"], &[what]) else {
        return;
    };
    let told = errors
        .iter()
        .any(|error| text.contains(&format!(", then {error}\n")));
    assert!(told, "{text}");
}

#[test]
fn descriptors_of_all_kinds_run_out() {
    for what in [
        "eventfd", "timerfd", "epoll", "inotify", "memfd", "pipe", "tcp", "udp", "pair", "open",
        "item",
    ] {
        exhausts(what, &["ENFILE", "EMFILE", "ENOMEM"]);
    }
}

#[test]
fn files_in_memory_run_out() {
    for what in ["files", "folders", "content"] {
        exhausts(what, &["ENOSPC"]);
    }
}

#[test]
fn what_is_sent_and_not_received_runs_out() {
    exhausts("full-pipe", &["ENOMEM", "ENFILE"]);
    exhausts("full-pair", &["ENOBUFS", "ENFILE"]);
    exhausts("full-record", &["ENOBUFS", "ENFILE"]);
}

#[test]
fn threads_timers_signals_and_mappings_run_out() {
    exhausts("thread", &["EAGAIN"]);
    exhausts("timer", &["EAGAIN"]);
    exhausts("signals", &["EAGAIN"]);
    exhausts("areas", &["ENOMEM"]);
}

#[test]
fn page_tables_are_memory_too() {
    let Some(program) = compiled("c/exhaust.c", "gcc", "{source} -O1 -pthread -o {out}") else {
        return;
    };
    let session = Session::new();
    let program = program.display().to_string();
    let words = [
        "run",
        "--rm",
        "--memory=64M",
        &program,
        "tables",
        "1000000000",
    ];
    let outcome = session.start(words).finish_within(Duration::from_mins(1));
    outcome
        .ends_with(137)
        .tells("out of memory")
        .tells("raise it with --memory");
}

/// As Linux does, whose collector finds them: without it they would fill the memory.
#[test]
fn sockets_that_only_messages_hold_are_given_back() {
    if let Some(text) = run("exhaust", &["--memory=64M"], &["rights", "100000"]) {
        assert!(text.contains("rights: 100000, then nothing"), "{text}");
    }
}

#[test]
fn other_ways_to_call_the_kernel_are_answered() {
    if !backend::only_on(&["process"], "there the processor answers") {
        return;
    }
    run("narrow", &[], &[]);
}

/// The number before `unit` in the line that begins with `what`.
fn number(text: &str, what: &str, unit: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(what));
    let line = line.unwrap_or_else(|| panic!("{what}: {text}"));
    let before = line.split(unit).next().unwrap_or_default();
    let word = before.split_whitespace().next_back().unwrap_or_default();
    word.parse().unwrap_or_else(|_| panic!("{line}"))
}

/// Without yielding these calls keep the processor for as long as they last: a second and more.
#[test]
fn long_calls_do_not_hold_up_other_threads() {
    let Some(text) = run("latency", &["--memory=3G"], &["calls", "512"]) else {
        return;
    };
    for what in [
        "read of /dev/zero",
        "getrandom",
        "write to a file in memory",
        "read of it",
        "mprotect",
        "madvise",
        "munmap",
        "mmap with MAP_POPULATE",
    ] {
        let line = text.lines().find(|line| line.starts_with(what));
        let waited = line.and_then(|line| line.rsplit(' ').nth(1)?.parse::<f64>().ok());
        let waited = waited.unwrap_or_else(|| panic!("{what}: {text}"));
        let took = number(&text, what, " ms,");
        assert!(waited < 100.0 || waited < took / 4.0, "{what}: {text}");
    }
}

/// A tick of 4 ms would make the median later than 2 ms.
#[test]
fn timers_are_on_time_while_others_compute() {
    let Some(text) = run("latency", &[], &["timers"]) else {
        return;
    };
    for what in ["nanosleep", "epoll_wait", "timerfd"] {
        let late = number(&text, what, " us late");
        assert!(late < 1500.0, "{what}: {text}");
    }
}

#[test]
fn calls_that_are_not_implemented_are_seen_from_outside() {
    if !backend::only_on(&["process"], "others show no counters") {
        return;
    }
    let Some(program) = compiled("c/missing.c", "gcc", "{source} -O1 -o {out}") else {
        return;
    };
    let session = Session::new();
    let words = ["run", "--name=missing"].map(str::to_owned);
    let program = program.display().to_string();
    let mut running = session.start(words.into_iter().chain([program]));
    let expected = [
        "kiln_guest_unimplemented_calls_total{instance=\"missing\",call=\"uselib\"} 3",
        "kiln_guest_unimplemented_calls_total{instance=\"missing\",call=\"unknown\"} 1",
    ];
    let until = Instant::now() + Duration::from_secs(30);
    let mut page = String::new();
    while !expected.iter().all(|line| page.contains(line)) {
        assert!(
            Instant::now() < until && !running.has_ended(),
            "{page}\n{}",
            running.finish()
        );
        std::thread::sleep(Duration::from_millis(50));
        page = session.kiln(["stats", "--format", "prometheus"]).text();
    }
    let shown = session.kiln(["inspect", "missing"]).text();
    assert!(shown.contains("\"UnimplementedCalls\": {"), "{shown}");
    assert!(shown.contains("\"uselib\": 3"), "{shown}");
    session.kiln(["kill", "missing"]).ends_with(0);
    running.finish();
}
