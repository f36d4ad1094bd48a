//! Other projects' own tests, run as guests or against guests: what they were written to find in Linux they find here.
//!
//! Their sources are not in this repository. Debian's source packages bring them (`.ci/run` puts them under `target/suites`); where
//! they are missing, the test says so and is skipped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kiln_system_tests::artifacts::workspace;
use kiln_system_tests::process::{Outcome, Running};
use kiln_system_tests::program::{Program, compiled, installed, source};
use kiln_system_tests::{Session, skip};

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Runs a program to its end, with the options of `kiln run` first.
fn run(options: &[&str], program: &Path, args: &[&str]) -> Outcome {
    let session = Session::new();
    let mut words = vec!["run".to_owned()];
    words.extend(options.iter().map(|&word| word.to_owned()));
    words.push(text(program));
    words.extend(args.iter().map(|&arg| arg.to_owned()));
    session.start(words).finish_within(Duration::from_mins(4))
}

/// The folder with a package's sources, whatever its version.
fn sources(package: &str) -> Option<PathBuf> {
    let all = std::fs::read_dir(workspace().join("target/suites"));
    let found = all.into_iter().flatten().flatten().find(|entry| {
        let name = entry.file_name();
        let starts = name.to_string_lossy().starts_with(&format!("{package}-"));
        starts && entry.path().is_dir()
    });
    if found.is_none() {
        skip(format!(
            "no sources of {package} in target/suites (apt-get source {package})"
        ));
    }
    found.map(|entry| entry.path())
}

/// A share of redis's own suite, in the way it has for servers that it did not start: counters, hashes, access lists,
/// publishing, tracking. Left out is what saves in a second process, and by name the tests that do so without saying it.
#[test]
fn redis_passes_its_own_suite() {
    let (Some(server), Some(_), Some(cli)) = (
        installed("redis-server"),
        installed("tclsh"),
        installed("redis-cli"),
    ) else {
        return;
    };
    let Some(folder) = sources("redis") else {
        return;
    };
    let words = [
        "--protected-mode",
        "no",
        "--save",
        "",
        "--enable-debug-command",
        "yes",
    ];
    let redis = Program::serve("-m 2G", 6379, &server, &words);
    // The suite looks for the client where it would have been built.
    let client = folder.join("src/redis-cli");
    if !client.exists() {
        std::os::unix::fs::symlink(cli, client).expect("a link");
    }
    let port = redis.port.to_string();
    let left_out = text(&source("redis/left-out.txt"));
    let mut suite = Command::new(folder.join("runtest"));
    suite
        .current_dir(&folder)
        .args(["--host", "127.0.0.1", "--port", &port])
        .args(["--tags", "-needs:save -needs:repl -slow"])
        .args(["--skipfile", &left_out]);
    for unit in [
        "unit/keyspace",
        "unit/auth",
        "unit/acl",
        "unit/acl-v2",
        "unit/type/incr",
        "unit/type/hash",
        "unit/quit",
        "unit/pubsub",
        "unit/pubsubshard",
        "unit/bitfield",
        "unit/protocol",
        "unit/tracking",
        "unit/info",
    ] {
        suite.args(["--single", unit]);
    }
    let ran = Running::start(&mut suite).finish_within(Duration::from_mins(3));
    ran.ends_with(0).prints("All tests passed without errors!");
    assert!(ran.text().matches("ok").count() > 150, "{ran}");
}

/// Programs of liburing's own tests that pass: which do not, and why, is told in `docs/linux.md`.
#[test]
fn io_uring_passes_the_tests_of_its_library() {
    let (Some(folder), Some(builder)) = (sources("liburing"), installed("make")) else {
        return;
    };
    let list = std::fs::read_to_string(source("liburing/passes.txt")).expect("a list");
    let names: Vec<&str> = list.lines().collect();
    let build = |words: &[String]| {
        let ended = Command::new(&builder)
            .current_dir(&folder)
            .args(words)
            .output()
            .expect("make starts");
        let told = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{words:?}: {told}");
    };
    if !folder.join("config-host.mak").exists() {
        let configured = Command::new(folder.join("configure"))
            .current_dir(&folder)
            .output();
        assert!(configured.is_ok_and(|ended| ended.status.success()));
    }
    build(&["-C", "src", "ENABLE_SHARED=0", "-j2"].map(str::to_owned));
    let mut words = vec!["-C".to_owned(), "test".to_owned(), "-j2".to_owned()];
    words.extend(names.iter().map(|name| format!("{name}.t")));
    build(&words);
    let session = Session::new();
    let mut failed = Vec::new();
    for name in names {
        let program = text(&folder.join(format!("test/{name}.t")));
        let ran = session
            .start(["run", "-m", "2G", "-w", "/root", &program])
            .finish_within(Duration::from_mins(1));
        if ran.code != 0 {
            failed.push(format!("{name}: {ran}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn numpy_passes_its_own_tests_and_computes_as_on_the_host() {
    let python = Path::new("/usr/bin/python3");
    let has = |module: &str| {
        let found = Command::new(python)
            .args(["-c", &format!("import {module}")])
            .output();
        found.is_ok_and(|ran| ran.status.success())
    };
    if !has("numpy") || !has("pytest") {
        return skip("no numpy or pytest (Debian: python3-numpy, python3-pytest)");
    }
    let script = text(&source("python/linear.py"));
    let there = run(&["-m", "2G"], python, &[&script]);
    let here = Command::new(python).arg(&script).output().expect("python");
    assert!(here.status.success());
    there.ends_with(0);
    assert_eq!(there.stdout, here.stdout);
    let words = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow",
        "--pyargs",
        "numpy.linalg",
        "numpy.fft",
        "numpy.core.tests.test_half",
    ];
    run(&["-m", "3G"], python, &words)
        .ends_with(0)
        .prints(" passed");
}

#[test]
fn musl_programs_run_static_dynamic_and_by_their_loader() {
    let args = "{source} -O2 -shared -fPIC -o {out}";
    let Some(library) = compiled("c/library.c", "musl-gcc", args) else {
        return;
    };
    let library = text(&library);
    for how in ["-static", "-static-pie -fPIE"] {
        let args = format!("{{source}} -O2 {how} -o {{out}}");
        let program = compiled("c/musl.c", "musl-gcc", &args).expect("a compiler");
        run(&[], &program, &[]).ends_with(0).prints("SUCCESS");
    }
    let program = compiled("c/musl.c", "musl-gcc", "{source} -O2 -o {out}").expect("a compiler");
    run(&[], &program, &[&library])
        .ends_with(0)
        .prints("SUCCESS");
    let loader = Path::new("/lib/ld-musl-x86_64.so.1");
    run(&[], loader, &[&text(&program), &library])
        .ends_with(0)
        .prints("SUCCESS");
}

#[test]
fn tokio_uring_reads_writes_and_echoes() {
    let session = Session::new();
    let image = session.file("tokio-uring.kiln");
    let words = [
        "build",
        "--quiet",
        &text(&source("tokio-uring")),
        "-o",
        &text(&image),
    ];
    let built = session.start(words).finish_within(Duration::from_mins(5));
    built.ends_with(0);
    let mut program = Program::serve_in(session, "", 8000, &image, &[]);
    program.running.wait_for("files and sockets SUCCESS");
    program.echoes(20);
}
