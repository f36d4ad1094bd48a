//! Linux programs as virtual machines of other monitors, where the image's own machine part keeps their memory.

use std::process::Command;
use std::time::Duration;

use kiln_system_tests::process::Outcome;
use kiln_system_tests::program::{Program, compiled, installed};
use kiln_system_tests::{Running, Session, backend};

fn skipped() -> bool {
    !backend::only_on(
        &["qemu", "firecracker", "cloud-hypervisor"],
        "the host keeps the program's memory",
    )
}

fn run(options: &[&str], source: &str, args: &[&str]) -> Option<Outcome> {
    let program = compiled(source, "gcc", "{source} -O1 -o {out}")?;
    let mut words = vec!["run".to_owned(), "--rm".to_owned()];
    words.extend(options.iter().map(|&word| word.to_owned()));
    words.push(program.display().to_string());
    words.extend(args.iter().map(|&word| word.to_owned()));
    Some(
        Session::new()
            .start(words)
            .finish_within(Duration::from_mins(1)),
    )
}

#[test]
fn exceptions_and_ticks_do_not_disturb_each_other() {
    if skipped() {
        return;
    }
    if let Some(outcome) = run(&[], "c/traps.c", &[]) {
        outcome.succeeds().prints("SUCCESS");
    }
}

#[test]
fn a_wait_that_is_all_but_over_does_not_become_the_period_of_ticks() {
    if skipped() {
        return;
    }
    if let Some(outcome) = run(&[], "c/naps.c", &[]) {
        outcome.succeeds().prints("SUCCESS");
    }
}

#[test]
fn pages_that_were_given_back_can_be_had_again() {
    if skipped() {
        return;
    }
    if let Some(outcome) = run(&["-m", "128M"], "c/pages.c", &["60"]) {
        outcome.succeeds().prints("SUCCESS");
    }
}

#[test]
fn a_program_that_wants_more_than_there_is_is_ended() {
    if skipped() {
        return;
    }
    if let Some(outcome) = run(&["-m", "128M"], "c/pages.c", &["10", "fill"]) {
        outcome
            .ends_with(137)
            .tells("out of memory")
            .tells("raise it with --memory");
    }
}

#[test]
fn redis_answers_its_own_benchmark() {
    if skipped() {
        return;
    }
    let (Some(redis), Some(client)) = (installed("redis-server"), installed("redis-benchmark"))
    else {
        return;
    };
    let server = Program::serve("", 6379, &redis, &["--protected-mode", "no", "--save", ""]);
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
}

#[test]
fn volumes_are_refused_in_one_line() {
    if skipped() {
        return;
    }
    let Some(program) = installed("true") else {
        return;
    };
    let program = program.display().to_string();
    Session::new()
        .kiln(["run", "-v", "/tmp:/mnt", &program])
        .is_one_line_error()
        .tells("volumes")
        .tells("--backend process");
}
