//! Linux programs as virtual machines of other monitors, where the image's own machine part keeps their memory.
//!
//! Each case runs on the backend of this run, if it is one of those, and else on Firecracker and on Cloud Hypervisor, where they are
//! installed. What holds everywhere runs on every backend.

use std::process::Command;
use std::time::Duration;

use kiln_system_tests::host::{eventually, is_alive, signal};
use kiln_system_tests::process::Outcome;
use kiln_system_tests::program::{Program, compiled, installed};
use kiln_system_tests::{Running, Session, backend};
use rustix::process::Signal;

/// Tests for every backend of other monitors. Each is a function of the backend's name.
macro_rules! on_every_monitor {
    ($($case:ident)*) => {
        mod chosen {
            $(
                #[test]
                fn $case() {
                    const MONITORS: &[&str] = &["qemu", "firecracker", "cloud-hypervisor"];
                    if super::backend::only_on(MONITORS, "the host keeps the program's memory")
                        && super::backend::is_here(super::backend::name())
                    {
                        super::$case(super::backend::name());
                    }
                }
            )*
        }
        on_every_monitor!(firecracker "firecracker" $($case)*);
        on_every_monitor!(cloud_hypervisor "cloud-hypervisor" $($case)*);
    };
    ($name:ident $backend:literal $($case:ident)*) => {
        mod $name {
            $(
                #[test]
                fn $case() {
                    if super::backend::only_on(&["process"], "this run is about another backend")
                        && super::backend::is_here($backend)
                    {
                        super::$case($backend);
                    }
                }
            )*
        }
    };
}

on_every_monitor! {
    a_program_has_its_output_and_exit_code
    exceptions_and_ticks_do_not_disturb_each_other
    a_wait_that_is_all_but_over_does_not_become_the_period_of_ticks
    pages_that_were_given_back_can_be_had_again
    a_program_that_wants_more_than_there_is_is_ended
    redis_answers_its_own_benchmark
    nginx_serves_its_page
    nothing_outlives_a_supervisor_that_is_killed_at_any_moment
    volumes_are_there_or_refused_in_one_line
}

fn run(backend: &str, options: &[&str], source: &str, args: &[&str]) -> Option<Outcome> {
    let program = compiled(source, "gcc", "{source} -O1 -o {out}")?;
    let mut words = words(backend);
    words.extend(options.iter().map(|&word| word.to_owned()));
    words.push(program.display().to_string());
    words.extend(args.iter().map(|&word| word.to_owned()));
    Some(
        Session::new()
            .start(words)
            .finish_within(Duration::from_mins(1)),
    )
}

fn words(backend: &str) -> Vec<String> {
    ["run", "--rm", "--backend", backend]
        .map(str::to_owned)
        .to_vec()
}

fn a_program_has_its_output_and_exit_code(backend: &str) {
    for how in [
        "{source} -O1 -static -o {out}",
        "{source} -O1 -static-pie -o {out}",
        "{source} -O1 -o {out}",
    ] {
        let Some(program) = compiled("c/hello.c", "gcc", how) else {
            return;
        };
        let mut words = words(backend);
        words.extend([program.display().to_string(), "there".to_owned()]);
        let outcome = Session::new().kiln(words);
        outcome.ends_with(1);
        assert_eq!(outcome.text(), "hello there\n");
    }
}

fn exceptions_and_ticks_do_not_disturb_each_other(backend: &str) {
    if let Some(outcome) = run(backend, &[], "c/traps.c", &[]) {
        outcome.succeeds().prints("SUCCESS");
    }
}

#[test]
fn exceptions_and_ticks_do_not_disturb_each_other_on_this_backend() {
    exceptions_and_ticks_do_not_disturb_each_other(backend::name());
}

fn a_wait_that_is_all_but_over_does_not_become_the_period_of_ticks(backend: &str) {
    if let Some(outcome) = run(backend, &[], "c/naps.c", &[]) {
        outcome.succeeds().prints("SUCCESS");
    }
}

fn pages_that_were_given_back_can_be_had_again(backend: &str) {
    if let Some(outcome) = run(backend, &["-m", "128M"], "c/pages.c", &["60"]) {
        outcome.succeeds().prints("SUCCESS");
    }
}

fn a_program_that_wants_more_than_there_is_is_ended(backend: &str) {
    if let Some(outcome) = run(backend, &["-m", "128M"], "c/pages.c", &["10", "fill"]) {
        outcome
            .ends_with(137)
            .tells("out of memory")
            .tells("raise it with --memory");
    }
}

fn redis_answers_its_own_benchmark(backend: &str) {
    let (Some(redis), Some(client)) = (installed("redis-server"), installed("redis-benchmark"))
    else {
        return;
    };
    let options = format!("--backend {backend}");
    let arguments = ["--protected-mode", "no", "--save", ""];
    let server = Program::serve(&options, 6379, &redis, &arguments);
    let port = server.port.to_string();
    let mut command = Command::new(client);
    command.args([
        "-p", &port, "-t", "get,set", "-n", "2000", "-c", "20", "--csv",
    ]);
    Running::start(&mut command)
        .finish_within(Duration::from_mins(1))
        .ends_with(0)
        .prints("\"SET\"")
        .prints("\"GET\"");
    server.running.signal(Signal::TERM);
    server.running.finish().ends_with(0);
}

fn nginx_serves_its_page(backend: &str) {
    let Some(nginx) = installed("nginx") else {
        return;
    };
    let options = format!("--backend {backend}");
    let arguments = ["-g", "daemon off; master_process off;"];
    let server = Program::serve(&options, 80, &nginx, &arguments);
    for _ in 0..3 {
        assert!(server.get("/").contains("Welcome to nginx!"));
    }
    server.running.signal(Signal::TERM);
    server.running.finish().ends_with(0);
}

/// From before the monitor is started until the program serves.
fn nothing_outlives_a_supervisor_that_is_killed_at_any_moment(backend: &str) {
    let Some(redis) = installed("redis-server") else {
        return;
    };
    let session = Session::new();
    // Packed once, so that what is killed is a start.
    let image = session.file("redis.kiln").display().to_string();
    let redis = redis.display().to_string();
    session.kiln(["build", &redis, "-o", &image]).ends_with(0);
    for delay in [0, 1, 2, 3, 5, 8, 12, 18, 27, 40, 60, 90, 140, 250, 500] {
        let mut words = words(backend);
        words.extend(["-p", "127.0.0.1:0:6379", &image].map(str::to_owned));
        let running = session.start(words);
        std::thread::sleep(Duration::from_millis(delay));
        // Stopped first, so that what it has started does not change while it is looked at.
        let supervisor = running.id();
        signal(supervisor, Signal::STOP);
        let children = children_of(supervisor);
        signal(supervisor, Signal::KILL);
        running.finish();
        eventually("all that it has started ends", || {
            !children.iter().any(|&child| is_alive(child))
        });
        let listed = session.rows(&["ps", "-a"]);
        for row in &listed {
            assert_eq!(row["State"], "dead", "after {delay} ms");
            session
                .kiln(["rm", row["Id"].as_str().expect("an id")])
                .ends_with(0);
        }
    }
    // A place that was taken by somebody who did not live to say what for is cleared away by the next who looks, after seconds.
    eventually("nothing is left behind", || {
        session.rows(&["ps", "-a"]).is_empty() && session.leftovers().is_empty()
    });
}

#[test]
fn nothing_outlives_a_supervisor_that_is_killed_at_any_moment_on_this_backend() {
    nothing_outlives_a_supervisor_that_is_killed_at_any_moment(backend::name());
}

/// A process's children, and theirs.
fn children_of(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("processes");
    let processes = entries.flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // Behind the name, which may contain anything: the state, the parent.
        let parent: u32 = line
            .rsplit_once(')')?
            .1
            .split_whitespace()
            .nth(1)?
            .parse()
            .ok()?;
        Some((pid, parent))
    });
    let processes: Vec<(u32, u32)> = processes.collect();
    let mut found = vec![parent];
    let mut next = 0;
    while let Some(&one) = found.get(next) {
        found.extend(
            processes
                .iter()
                .filter(|(_, of)| *of == one)
                .map(|(pid, _)| pid),
        );
        next += 1;
    }
    found.split_off(1)
}

/// What they hold, `linux_volumes` tells.
fn volumes_are_there_or_refused_in_one_line(backend: &str) {
    let Some(program) = installed("cat") else {
        return;
    };
    let session = Session::new();
    std::fs::write(session.file("said"), "in a folder of the host").expect("a file");
    let folder = session.file("said");
    let folder = folder.parent().expect("it lies in a folder").display();
    let volume = format!("{folder}:/mnt");
    let mut words = words(backend);
    let program = program.display().to_string();
    words.extend(["-v", &volume, &program, "/mnt/said"].map(str::to_owned));
    let outcome = session.start(words).finish_within(Duration::from_mins(1));
    if backend.starts_with("qemu") {
        outcome.ends_with(0).prints("in a folder of the host");
    } else {
        outcome
            .is_one_line_error()
            .tells("volumes")
            .tells("--backend process");
    }
}
