//! The command line: exit codes, one-line errors, docker's verbs and flags, and what scripts read.

use std::process::{Command, Stdio};
use std::time::Instant;

use kiln_system_tests::host::{eventually, free_port};
use kiln_system_tests::{Running, Session, artifacts, guest};

const KILN_ERROR: i32 = 125;

#[test]
fn mistakes_end_with_125_and_one_line() {
    let session = Session::new();
    let image = guest("probe");
    let image = image.to_str().expect("a path in UTF-8");
    for (args, text) in [
        (&["explode"][..], "explode"),
        (&["run"], "TARGET"),
        (&["run", "--what", image], "--what"),
        (&["run", "-m", "lots", image], "--memory"),
        (&["run", "-m", "-1", image], ""),
        (&["run", "-m", "1.5G", image], "--memory"),
        (&["run", "-m", "", image], "--memory"),
        (&["run", "-m", "99999999T", image], "--memory"),
        (&["run", "-m", "2T", image], "--memory"),
        (&["run", "-e", "=x", image], "--env"),
        (&["run", "-e", "", image], "--env"),
        (&["run", "--name", "", image], "--name"),
        (&["run", "--name", "a/b", image], "--name"),
        (&["run", "--name", "../x", image], "--name"),
        (&["run", "--name", "-x", image], "--name"),
        (&["run", "--net", "wifi", image], "--net"),
        (&["run", "--net", "tap:", image], "--net"),
        (&["run", "--backend", "vmware", image], "backend"),
        (
            &["run", "--env-file", "/does/not/exist", image],
            "/does/not/exist",
        ),
        (&["run", "-p", "x", image], ""),
        (&["run", "-p", "70000:80", image], ""),
        (&["run", "-p", "80:0", image], ""),
        (&["run", "-v", "/a:/b", image], "volumes"),
        (&["run", "-v", "a:/b", image], "--volume"),
        (&["stop"], "INSTANCE"),
        (&["stop", "-s", "NONSENSE", "x"], "unknown signal"),
        (&["ps", "--format", "xml"], "xml"),
    ] {
        let outcome = session.kiln(args);
        outcome
            .ends_with(KILN_ERROR)
            .is_one_line_error()
            .tells(text);
    }
    assert_eq!(session.leftovers(), [""; 0], "left behind");
}

#[test]
fn options_that_mean_nothing_are_refused() {
    let session = Session::new();
    let image = guest("probe");
    let image = image.to_str().expect("a path in UTF-8");
    for (args, text) in [
        (&["run", "--include", "/etc", image][..], "--include"),
        (&["run", "--exclude", "x", image], "--exclude"),
        (&["run", "--bin", "x", image], "--bin"),
        (&["run", "--bin", "x", "true"], "--bin"),
        (
            &["run", "--include", "/kiln-nothing", "true"],
            "/kiln-nothing",
        ),
        (
            &["build", "--include", "/kiln-nothing", "true"],
            "/kiln-nothing",
        ),
        (&["build", "--bin", "x", "true"], "--bin"),
        (&["images", "/kiln-nothing"], "/kiln-nothing"),
    ] {
        let outcome = session.kiln(args);
        outcome
            .ends_with(KILN_ERROR)
            .is_one_line_error()
            .tells(text);
    }
    let mut command = session.command(["run", "true"]);
    Running::start(command.env("KILN_CACHE_SIZE", "lots"))
        .finish()
        .ends_with(KILN_ERROR)
        .is_one_line_error()
        .tells("KILN_CACHE_SIZE");
}

#[test]
fn values_may_be_attached_to_short_options() {
    let session = Session::new();
    session
        .run("-dm8M -e=A=1 -eB=2 --name it", "probe", "wait -m1")
        .ends_with(0);
    let shown = session.inspect("it");
    assert_eq!(shown["Config"]["Memory"], 8 << 20);
    assert_eq!(shown["Config"]["Env"][0], "A=1");
    assert_eq!(shown["Args"][1], "-m1");
    session.kiln(["rm", "-f", "it"]).ends_with(0);
    let image = guest("probe").display().to_string();
    let output = session.file("machine").display().to_string();
    session
        .kiln(["export", "-fqemu", "-m16M", "-o", &output, &image])
        .ends_with(0);
    assert!(session.file("machine").is_dir());
}

#[test]
fn instances_are_stopped_at_the_same_time() {
    let session = Session::new();
    let names = ["a", "b", "c", "d"];
    let start = || {
        for name in names {
            session.detach(
                &format!("--name {name} --stop-timeout 2"),
                "probe",
                "stubborn",
            );
        }
        eventually("they are ready", || {
            let ready = |name| session.kiln(["logs", name]).text().contains("ready");
            names.into_iter().all(ready)
        });
    };
    start();
    let started = Instant::now();
    let outcome = session.kiln(["stop", "d", "nobody", "a", "c", "b"]);
    assert!(started.elapsed().as_secs() < 6, "{:?}", started.elapsed());
    outcome.ends_with(1).tells("nobody");
    assert_eq!(outcome.text(), "d\na\nc\nb\n");
    let waited = session.kiln(["wait", "a", "b", "c", "d"]);
    assert_eq!(waited.ends_with(0).text(), "137\n".repeat(4));
    session.kiln(["rm", "a", "b", "c", "d"]).ends_with(0);
    start();
    let removed = session.kiln(["rm", "-f", "d", "c", "b", "a"]);
    assert_eq!(removed.ends_with(0).text(), "d\nc\nb\na\n");
    assert_eq!(session.leftovers(), [""; 0], "left behind");
}

#[test]
fn too_little_memory_is_refused_with_what_is_needed() {
    let session = Session::new();
    for memory in ["0", "1", "4K", "100K"] {
        let outcome = session.run(&format!("-m {memory}"), "probe", "hello");
        outcome
            .ends_with(KILN_ERROR)
            .is_one_line_error()
            .tells("--memory");
    }
    // What the message says is enough.
    let refused = session.run("-m 4K", "probe", "hello").stderr;
    let needed = refused
        .split_whitespace()
        .find(|word| word.ends_with('K') && *word != "4K")
        .expect("a size");
    session
        .run(&format!("-m {needed}"), "probe", "hello")
        .succeeds();
    assert_eq!(session.kiln(["ps", "-aq"]).text().lines().count(), 1);
}

#[test]
fn help_and_version_go_to_the_standard_output() {
    let session = Session::new();
    for verb in [
        "new", "build", "run", "images", "ps", "logs", "stop", "kill", "rm", "inspect", "stats",
        "wait", "version",
    ] {
        session.kiln(["--help"]).ends_with(0).prints(verb);
        let help = session.kiln([verb, "--help"]);
        help.ends_with(0).prints("Usage: kiln");
        assert!(help.stderr.is_empty(), "{help}");
    }
    session.kiln(["--version"]).ends_with(0).prints("kiln ");
    let version = session.rows(&["version"]);
    assert!(
        version[0]["Abi"].is_u64() && version[0]["Version"].is_string(),
        "{version:?}"
    );
}

#[test]
fn completions_are_shell_code() {
    let session = Session::new();
    let script = session.kiln(["completions", "bash"]);
    script.ends_with(0).prints("complete");
    let mut bash = Command::new("bash");
    bash.args(["-n", "-c", &script.text()]);
    Running::start(&mut bash).finish().ends_with(0);
    for shell in ["zsh", "fish"] {
        session
            .kiln(["completions", shell])
            .ends_with(0)
            .prints("kiln");
    }
}

#[test]
fn unknown_instances_are_told_by_every_verb() {
    let session = Session::new();
    for verb in ["stop", "kill", "rm", "wait", "inspect", "logs", "stats"] {
        let outcome = session.kiln([verb, "nobody"]);
        assert!(
            outcome.code == 1 || outcome.code == KILN_ERROR,
            "{verb}\n{outcome}"
        );
        outcome.tells("no instance \"nobody\"");
        assert_eq!(outcome.stderr.lines().count(), 1, "{verb}\n{outcome}");
    }
}

#[test]
fn several_instances_in_one_command() {
    let session = Session::new();
    session.detach("--name a", "probe", "wait");
    session.detach("--name b", "probe", "wait");
    // One bad name does not keep the others from being served.
    let outcome = session.kiln(["stop", "a", "nobody", "b"]);
    outcome
        .ends_with(1)
        .prints("a\n")
        .prints("b\n")
        .tells("nobody");
    assert_eq!(session.kiln(["ps", "-q"]).text(), "");
    session.kiln(["rm", "a", "b"]).ends_with(0);
}

#[test]
fn the_life_of_an_instance() {
    let session = Session::new();
    let id = session.detach("--name life -e A=1 -m 4M", "probe", "graceful 5");
    eventually("it is ready", || {
        session.kiln(["logs", "life"]).text().contains("ready")
    });

    let rows = session.rows(&["ps"]);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["ID"], id.as_str());
    assert_eq!(rows[0]["Names"], "life");
    assert_eq!(rows[0]["State"], "running");
    assert!(
        rows[0]["Status"]
            .as_str()
            .is_some_and(|s| s.starts_with("Up ")),
        "{rows:?}"
    );
    let table = session.kiln(["ps"]);
    table
        .ends_with(0)
        .prints("NAMES")
        .prints(&id)
        .prints("life")
        .prints("guest-probe graceful");

    let shown = session.inspect(&id[..6]);
    assert_eq!(shown["Name"], "life", "found by the start of its id");
    assert_eq!(shown["State"]["Running"], true);
    assert_eq!(shown["Config"]["Env"][0], "A=1");
    assert_eq!(shown["Config"]["Memory"], 4 << 20);
    assert_eq!(shown["Args"][1], "5");

    let stats = session.rows(&["stats", "--no-stream", "life"]);
    assert_eq!(stats[0]["Name"], "life");
    assert!(
        stats[0]["CpuPercent"].as_f64().is_some_and(|p| p < 50.0),
        "{stats:?}"
    );
    session
        .kiln(["stats", "--no-stream"])
        .ends_with(0)
        .prints("life");

    let waiting = session.start(["wait", "life"]);
    session
        .kiln(["rm", "life"])
        .ends_with(1)
        .tells("is running");
    session.kiln(["stop", "life"]).ends_with(0).prints("life");
    waiting.finish().ends_with(0).prints("5\n");
    session.kiln(["wait", "life"]).ends_with(0).prints("5\n");

    assert_eq!(session.kiln(["ps", "-q"]).text(), "");
    let rows = session.rows(&["ps", "-a"]);
    assert_eq!(rows[0]["State"], "exited");
    assert!(
        rows[0]["Status"]
            .as_str()
            .is_some_and(|s| s.starts_with("Exited (5)")),
        "{rows:?}"
    );
    session
        .kiln(["logs", "life"])
        .ends_with(0)
        .prints("ready\nsignal 15\ncleaned up\n");
    let shown = session.inspect("life");
    assert_eq!(shown["State"]["ExitCode"], 5);
    assert!(shown["State"]["FinishedAt"].is_string());

    session.kiln(["rm", "life"]).ends_with(0).prints("life");
    session.kiln(["inspect", "life"]).ends_with(1);
    assert_eq!(session.leftovers(), [""; 0], "left behind");
}

#[test]
fn names_are_unique_until_removed() {
    let session = Session::new();
    session.detach("--name web", "probe", "wait");
    let outcome = session.run("--name web", "probe", "hello");
    outcome
        .ends_with(KILN_ERROR)
        .is_one_line_error()
        .tells("in use by instance");
    session.kiln(["stop", "web"]).ends_with(0);
    session
        .run("--name web", "probe", "hello")
        .ends_with(KILN_ERROR)
        .tells("kiln rm web");
    session.kiln(["rm", "web"]).ends_with(0);
    session.run("--name web", "probe", "hello").succeeds();
    // Names of all are different when Kiln makes them up.
    for _ in 0..5 {
        session.run("", "probe", "hello").succeeds();
    }
    let rows = session.rows(&["ps", "-a"]);
    let names: std::collections::BTreeSet<_> =
        rows.iter().map(|row| row["Names"].to_string()).collect();
    assert_eq!(names.len(), 6);
}

#[test]
fn of_many_that_want_a_name_one_gets_it() {
    let session = Session::new();
    let starting: Vec<Running> = (0..8)
        .map(|_| session.start_guest("-d --name one", "probe", "wait"))
        .collect();
    let codes: Vec<i32> = starting.into_iter().map(|s| s.finish().code).collect();
    assert_eq!(
        codes.iter().filter(|&&code| code == 0).count(),
        1,
        "{codes:?}"
    );
    assert_eq!(
        codes.iter().filter(|&&code| code == KILN_ERROR).count(),
        7,
        "{codes:?}"
    );
    assert_eq!(session.rows(&["ps"]).len(), 1);
}

#[test]
fn rm_forgets_and_so_does_the_option() {
    let session = Session::new();
    session.run("--rm", "probe", "exit 3").ends_with(3);
    session.run("--rm", "probe", "touch write 0").ends_with(139);
    session.detach("--rm --name bye", "probe", "wait");
    assert_eq!(session.rows(&["ps"]).len(), 1);
    session.kiln(["stop", "bye"]).ends_with(0);
    eventually("it is forgotten", || session.leftovers().is_empty());
    session.detach("--name busy", "probe", "spin");
    session.kiln(["rm", "-f", "busy"]).ends_with(0);
    assert_eq!(session.leftovers(), [""; 0], "left behind");
}

#[test]
fn a_failed_start_in_the_background_is_told() {
    let session = Session::new();
    let outcome = session.kiln(["run", "-d", "/dev/null"]);
    outcome.ends_with(126).is_one_line_error();
    session
        .kiln(["run", "-d", "/does/not/exist"])
        .ends_with(127)
        .is_one_line_error();
    session
        .run("-d -m 4K", "probe", "hello")
        .ends_with(KILN_ERROR)
        .is_one_line_error();
    session
        .run("-d", "blockdev", "geometry")
        .ends_with(KILN_ERROR)
        .is_one_line_error();
    assert_eq!(session.leftovers(), [""; 0], "left behind");
}

#[test]
fn a_detached_guest_outlives_its_command_and_terminal() {
    let session = Session::new();
    let id = session.detach("", "probe", "ticking 20");
    let (_, supervisor) = session.pids(&id);
    let stat = std::fs::read_to_string(format!("/proc/{supervisor}/stat")).expect("a supervisor");
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .expect("a name")
        .1
        .split_whitespace()
        .collect();
    // Process group and session are its own, and there is no terminal (proc(5)).
    assert_eq!(fields[3], supervisor.to_string(), "session");
    assert_eq!(fields[4], "0", "terminal");
    let before = session.kiln(["logs", &id]).text().lines().count();
    eventually("it goes on", || {
        session.kiln(["logs", &id]).text().lines().count() > before + 5
    });
}

#[test]
fn logs_can_be_followed_cut_and_stamped() {
    let session = Session::new();
    session.run("--name done", "probe", "lines 50").succeeds();
    assert_eq!(session.kiln(["logs", "done"]).text().lines().count(), 51);
    let tail = session.kiln(["logs", "-n", "2", "done"]).text();
    assert!(
        tail.starts_with("line 49 ") && tail.ends_with("SUCCESS\n") && tail.lines().count() == 2,
        "{tail}"
    );
    assert_eq!(session.kiln(["logs", "--tail", "0", "done"]).text(), "");
    let stamped = session.kiln(["logs", "-t", "-n", "1", "done"]).text();
    assert!(
        stamped.starts_with("20") && stamped.contains('T') && stamped.ends_with(" SUCCESS\n"),
        "{stamped}"
    );
    session
        .kiln(["logs", "-f", "done"])
        .ends_with(0)
        .prints("SUCCESS");

    session.detach("--name live", "probe", "ticking 20");
    let mut following = session.start(["logs", "-f", "live"]);
    following.wait_for("tick 5\n");
    assert!(following.is_running());
    session.kiln(["stop", "live"]).ends_with(0);
    following.finish().ends_with(0).prints("tick 0\n");
}

#[test]
fn output_appears_in_the_foreground_and_in_the_log() {
    let session = Session::new();
    let outcome = session.run("--name both", "probe", "lines 5000");
    assert_eq!(session.kiln(["logs", "both"]).text(), outcome.text());
}

#[test]
fn a_closed_output_is_no_failure() {
    let session = Session::new();
    for _ in 0..30 {
        session.run("", "probe", "hello").succeeds();
    }
    let kiln = artifacts::kiln().display();
    for verb in ["ps -a", "--help", "version"] {
        let mut shell = session.wrapped(
            "bash".as_ref(),
            ["-c", &format!("set -o pipefail; {kiln} {verb} | true")],
        );
        let outcome = Running::start(&mut shell).finish();
        outcome.ends_with(0);
        assert!(outcome.stderr.is_empty(), "{verb}\n{outcome}");
    }
    let image = guest("probe");
    let mut shell = session.wrapped(
        "bash".as_ref(),
        [
            "-c",
            &format!("{kiln} run --rm {} lines 100 | head -n 1", image.display()),
        ],
    );
    Running::start(&mut shell)
        .finish()
        .ends_with(0)
        .prints("line 0 ");
    // Descriptors that were closed from the start.
    let mut shell = session.wrapped(
        "bash".as_ref(),
        [
            "-c",
            &format!("{kiln} run --rm {} exit 4 <&- >&- 2>&-", image.display()),
        ],
    );
    Running::start(&mut shell).finish().ends_with(4);
}

#[test]
fn a_port_in_use_is_told() {
    let session = Session::new();
    let port = free_port();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).expect("a port");
    for detach in ["", "-d"] {
        let outcome = session.run(
            &format!("{detach} -p 127.0.0.1:{port}:7"),
            "netprobe",
            "serve",
        );
        outcome
            .ends_with(KILN_ERROR)
            .is_one_line_error()
            .tells(&port.to_string())
            .tells("in use");
    }
    assert_eq!(session.leftovers(), [""; 0], "left behind");
}

#[test]
fn crates_are_built_and_run() {
    let session = Session::new();
    let folder = artifacts::workspace().join("examples/hello");
    let outcome = session.kiln([
        "run".as_ref(),
        "--rm".as_ref(),
        "-q".as_ref(),
        folder.as_os_str(),
        "you".as_ref(),
    ]);
    outcome.ends_with(0).prints("Hello, you!\n");
    assert!(outcome.stderr.is_empty(), "{outcome}");
    let output = session.file("out.kiln");
    let built = session.kiln([
        "build".as_ref(),
        "-q".as_ref(),
        folder.as_os_str(),
        "-o".as_ref(),
        output.as_os_str(),
    ]);
    assert_eq!(
        built.ends_with(0).text().trim(),
        output.display().to_string()
    );
    let images = session.rows(&["images", session.dir().to_str().expect("UTF-8")]);
    assert_eq!(images[0]["Name"], "out");
    session
        .kiln(["run".as_ref(), output.as_os_str()])
        .ends_with(0)
        .prints("Hello");
}

#[test]
fn new_makes_a_crate_that_is_told_apart_from_what_is_there() {
    let session = Session::new();
    let folder = session.file("fresh");
    session
        .kiln(["new".as_ref(), folder.as_os_str()])
        .ends_with(0);
    assert!(folder.join("Cargo.toml").is_file() && folder.join("src/main.rs").is_file());
    session
        .kiln(["new".as_ref(), folder.as_os_str()])
        .ends_with(KILN_ERROR)
        .is_one_line_error();
}

#[test]
fn state_folders_that_cannot_be_used_are_told() {
    let session = Session::new();
    let file = session.file("file");
    std::fs::write(&file, b"").expect("a file");
    let mut command = session.command(Session::words("", "probe", "hello"));
    command.env("XDG_RUNTIME_DIR", &file).stdin(Stdio::null());
    Running::start(&mut command)
        .finish()
        .ends_with(KILN_ERROR)
        .is_one_line_error()
        .tells("state");
}

#[test]
fn the_environment_names_a_default_backend() {
    let session = Session::new();
    let with = |value: &str, options: &str| {
        let mut command = session.command(Session::words(options, "probe", "hello"));
        command.env("KILN_BACKEND", value);
        Running::start(&mut command).finish()
    };
    with("vmware", "--rm")
        .ends_with(KILN_ERROR)
        .is_one_line_error()
        .tells("vmware");
    with("vmware", "--rm --backend process").succeeds();
    with("", "--rm").succeeds();
}
