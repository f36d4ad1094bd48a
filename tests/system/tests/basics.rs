//! What every program relies on: arguments, environment, exit codes, the console, variables, floating point.

use std::fmt::Write as _;

use kiln_system_tests::{Session, backend, guest, probe, probe_with};

#[test]
fn hello() {
    let hello = probe("hello big world");
    hello.succeeds().prints("Hello, big world!\n");
    assert!(hello.stderr.is_empty(), "{hello}");
}

#[test]
fn the_example_runs() {
    let session = Session::new();
    session
        .run("--rm", "hello", "")
        .ends_with(0)
        .prints("Hello from a unikernel!\n");
    session
        .run("--memory 512K", "hello", "you")
        .ends_with(0)
        .prints("Hello, you!\n");
}

#[test]
fn an_image_is_nothing_that_the_host_executes() {
    let error = std::process::Command::new(guest("probe"))
        .status()
        .expect_err("executed");
    assert!(error.raw_os_error().is_some(), "{error}");
}

#[test]
fn arguments_arrive_as_they_are() {
    let session = Session::new();
    let image = guest("probe");
    let image = image.to_str().expect("a path in UTF-8");
    let words = [
        "args", "", "a b", "--rm", "-d", "--", "ä€", "\"'\\", "a\nb", "=", "$HOME",
    ];
    let printed = session.kiln(["run", image].iter().chain(&words));
    let mut expected = String::from("0: \"guest-probe\"\n");
    for (index, word) in words.iter().enumerate() {
        writeln!(expected, "{}: {word:?}", index + 1).expect("text");
    }
    expected.push_str("SUCCESS\n");
    assert_eq!(printed.ends_with(0).text(), expected);
}

#[test]
fn many_long_arguments_arrive() {
    if !backend::only_on(&["process", "kvm"], "a kernel's command line is shorter") {
        return;
    }
    let session = Session::new();
    let image = guest("probe");
    let long = "x".repeat(1000);
    let mut command = session.command(["run", "--rm"]);
    command
        .arg(&image)
        .arg("args")
        .args(std::iter::repeat_n(&long, 300));
    let printed = kiln_system_tests::Running::start(&mut command).finish();
    assert_eq!(
        printed.succeeds().text().matches(long.as_str()).count(),
        300
    );
}

#[test]
fn the_environment_is_what_was_given_and_nothing_else() {
    let session = Session::new();
    let env = session.run("-e COLOUR=red -e EMPTY= -e URL=a=b", "probe", "env-all");
    assert_eq!(
        env.ends_with(0).text(),
        "COLOUR=red\nEMPTY=\nURL=a=b\nSUCCESS\n"
    );
    let env = session.run("-e A=1", "probe", "env A PATH HOME");
    env.succeeds()
        .prints("A=Some(\"1\")")
        .prints("PATH=None")
        .prints("HOME=None");
    let mut command = session.command(Session::words("-e PASSED -e ABSENT", "probe", "env-all"));
    command.env("PASSED", "on").env_remove("ABSENT");
    let env = kiln_system_tests::Running::start(&mut command).finish();
    assert_eq!(env.ends_with(0).text(), "PASSED=on\nSUCCESS\n");
}

#[test]
fn environment_files_are_read() {
    let session = Session::new();
    let file = session.file("env");
    std::fs::write(&file, "# colours\nA=1\n\n  B=two words\n").expect("a file");
    let env = session.run(
        &format!("--env-file {} -e A=3", file.display()),
        "probe",
        "env A B",
    );
    env.succeeds()
        .prints("A=Some(\"3\")")
        .prints("B=Some(\"two words\")");
}

#[test]
fn of_a_variable_given_twice_the_last_one_holds() {
    let env = probe_with("-e A=1 -e B=2 -e A=3", "env-all");
    let mut lines: Vec<String> = env.succeeds().text().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["A=3", "B=2", "SUCCESS"]);
}

#[test]
fn the_instance_knows_its_name() {
    probe_with("--name dorothy", "name")
        .succeeds()
        .prints("name=dorothy\n");
}

#[test]
fn exit_codes_are_the_guests() {
    for code in [0, 1, 2, 42, 101, 124, 125, 126, 127, 128, 200, 255] {
        probe(&format!("exit {code}")).ends_with(code);
    }
    let returned = probe("return 17");
    returned.ends_with(17);
    assert!(
        returned.stderr.is_empty(),
        "a return of the program's own is not worth a word\n{returned}"
    );
}

#[test]
fn an_error_from_main_is_told() {
    probe("error")
        .ends_with(1)
        .prints("Error: \"it did not work\"\n");
}

#[test]
fn output_larger_than_every_buffer_arrives_whole() {
    let printed = probe("lines 20000");
    let text = printed.succeeds().text();
    for (n, line) in text.lines().take(20_000).enumerate() {
        assert_eq!(line, format!("line {n} {:x<60}", ""));
    }
    assert_eq!(text.lines().count(), 20_001);
}

#[test]
fn one_write_of_a_mebibyte_arrives_whole() {
    let printed = probe("one-write 1048576");
    let text = printed.succeeds().text();
    assert_eq!(text.len(), (1 << 20) + "SUCCESS\n".len());
    for (index, line) in text.lines().take(1 << 16).enumerate() {
        assert_eq!(line, format!("{:015}", index * 16));
    }
}

#[test]
fn a_last_line_without_newline_arrives() {
    probe("no-newline")
        .ends_with(0)
        .prints("no newline at the endSUCCESS\n");
    // And where nothing at all follows it.
    let session = Session::new();
    let started = session.run("", "probe", "bytes");
    assert_eq!(
        started.ends_with(0).stdout[..256],
        (0..=255).collect::<Vec<u8>>()
    );
}

#[test]
fn variables_are_initialised_and_pointers_relocated() {
    probe("globals").succeeds();
}

#[test]
fn floating_point_works() {
    probe("float").succeeds();
}

#[test]
fn all_of_alloc_links_and_works() {
    Session::new().run("", "alloc", "").succeeds();
}

#[test]
fn log_levels_come_from_the_environment() {
    let all = [
        "an error",
        "a warning",
        "information",
        "for debugging",
        "every step",
    ];
    for (level, shown) in [
        ("", 3),
        ("-e KILN_LOG=off", 0),
        ("-e KILN_LOG=error", 1),
        ("-e KILN_LOG=warn", 2),
        ("-e KILN_LOG=info", 3),
        ("-e KILN_LOG=DEBUG", 4),
        ("-e KILN_LOG=trace", 5),
        ("-e KILN_LOG=nonsense", 3),
    ] {
        let logged = probe_with(level, "log");
        let text = logged.succeeds().text();
        for (index, line) in all.iter().enumerate() {
            assert_eq!(
                text.contains(line),
                index < shown,
                "{level}: {line}\n{logged}"
            );
        }
    }
    probe("log").prints("INFO  guest_probe::basics: information");
}

#[test]
fn memory_is_what_was_asked_for() {
    for (option, bytes) in [
        ("-m 1M", 1 << 20),
        ("--memory 8m", 8 << 20),
        ("--memory 256M", 256 << 20),
    ] {
        let capacity: u64 = probe_with(option, "memory")
            .value("capacity=")
            .parse()
            .expect("a number");
        assert!(
            capacity <= bytes && capacity > bytes * 6 / 10,
            "{option}: {capacity} of {bytes} bytes"
        );
    }
    // More than the machine has: memory costs nothing until it is touched.
    probe_with("--memory 64G", "memory").succeeds();
}
