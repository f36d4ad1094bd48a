//! Ending guests: politely, by force, and those that flood or spin.

use std::time::{Duration, Instant};

use kiln_system_tests::host::{eventually, find_program, is_alive};
use kiln_system_tests::{Session, probe, skip};
use rustix::process::Signal;

#[test]
fn a_guest_that_does_not_care_ends_at_once() {
    let session = Session::new();
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let mut running = session.start_guest("--rm", "probe", "wait");
        running.wait_for("ready");
        let asked = Instant::now();
        running.signal(signal);
        running.finish().ends_with(code);
        assert!(
            asked.elapsed() < Duration::from_secs(2),
            "{:?}",
            asked.elapsed()
        );
    }
}

#[test]
fn a_guest_that_handles_it_ends_as_it_likes() {
    let session = Session::new();
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2)] {
        let mut running = session.start_guest("--rm", "probe", "graceful 7");
        running.wait_for("ready");
        running.signal(signal);
        let outcome = running.finish();
        outcome
            .ends_with(7)
            .prints(&format!("signal {number}\ncleaned up\n"));
    }
}

#[test]
fn stop_asks_and_then_insists() {
    let session = Session::new();
    for (case, code) in [
        ("wait", 143),
        ("graceful 9", 9),
        ("stubborn", 137),
        ("spin", 137),
    ] {
        session.detach("--name it", "probe", case);
        eventually("it is ready", || {
            session.kiln(["logs", "it"]).text().contains("ready")
        });
        let asked = Instant::now();
        session
            .kiln(["stop", "-t", "1", "it"])
            .ends_with(0)
            .prints("it");
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(3), "{case}: {took:?}");
        assert!(
            code != 137 || took >= Duration::from_secs(1),
            "{case}: killed after {took:?}"
        );
        let shown = session.inspect("it");
        assert_eq!(shown["State"]["ExitCode"], code, "{case}: {shown:#}");
        assert_eq!(shown["State"]["Running"], false);
        session.kiln(["rm", "it"]).ends_with(0);
    }
}

#[test]
fn the_time_to_stop_can_be_given_at_the_start() {
    let session = Session::new();
    session.detach("--name it --stop-timeout 1", "probe", "spin");
    eventually("it is ready", || {
        session.kiln(["logs", "it"]).text().contains("ready")
    });
    let asked = Instant::now();
    session.kiln(["stop", "it"]).ends_with(0);
    assert!(
        (900..4000).contains(&asked.elapsed().as_millis()),
        "{:?}",
        asked.elapsed()
    );
}

#[test]
fn a_second_signal_in_the_foreground_ends_by_force() {
    let session = Session::new();
    let mut running = session.start_guest("--rm", "probe", "spin");
    running.wait_for("ready");
    running.signal(Signal::INT);
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        running.is_running(),
        "a spinning guest cannot have heard of it"
    );
    running.signal(Signal::INT);
    running.finish().ends_with(137);
}

#[test]
fn kill_ends_at_once_or_sends_a_signal() {
    let session = Session::new();
    session.detach("--name it", "probe", "stubborn");
    eventually("it is ready", || {
        session.kiln(["logs", "it"]).text().contains("ready")
    });
    session.kiln(["kill", "-s", "TERM", "it"]).ends_with(0);
    eventually("it hears of it", || {
        session.kiln(["logs", "it"]).text().contains("ignoring 15")
    });
    session
        .kiln(["kill", "--signal", "SIGINT", "it"])
        .ends_with(0);
    eventually("it hears of it", || {
        session.kiln(["logs", "it"]).text().contains("ignoring 2")
    });
    let (guest, supervisor) = session.pids("it");
    session.kiln(["kill", "it"]).ends_with(0);
    assert!(!is_alive(guest));
    eventually("the supervisor ends", || !is_alive(supervisor));
    assert_eq!(session.inspect("it")["State"]["ExitCode"], 137);
    session
        .kiln(["kill", "it"])
        .ends_with(1)
        .tells("not running");
}

#[test]
fn a_flooding_guest_harms_only_itself() {
    let session = Session::new();
    session.detach("--name flood", "probe", "flood");
    session.detach("--name beside", "probe", "ticking 10");
    let (_, supervisor) = session.pids("flood");
    std::thread::sleep(Duration::from_millis(1500));
    // Its log is bounded, and so is its supervisor.
    let log = session.inspect("flood")["LogPath"]
        .as_str()
        .map(std::path::PathBuf::from)
        .expect("a log");
    let folder = log.parent().expect("a log lies in a folder");
    let size: u64 = folder
        .read_dir()
        .expect("a folder")
        .filter_map(Result::ok)
        .map(|e| e.metadata().map_or(0, |m| m.len()))
        .sum();
    assert!(size < 64 << 20, "{size} bytes of log");
    let resident = kiln_system_tests::host::status_bytes(supervisor, "VmRSS");
    assert!(resident < 32 << 20, "{resident} bytes in the supervisor");
    let ticks = session.kiln(["logs", "beside"]).text().lines().count();
    assert!(ticks > 30, "the other guest ticked {ticks} times in 1.5 s");
    let asked = Instant::now();
    session.kiln(["stop", "-t", "5", "flood"]).ends_with(0);
    assert!(
        asked.elapsed() < Duration::from_secs(8),
        "{:?}",
        asked.elapsed()
    );
    let tail = session.kiln(["logs", "-n", "5", "flood"]);
    assert!(tail.ends_with(0).text().contains("flood "), "{tail}");
}

#[test]
fn a_flood_into_a_closed_pipe_ends() {
    let session = Session::new();
    let mut command = session.command(Session::words("--rm", "probe", "lines 200000"));
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("kiln starts");
    let mut stdout = child.stdout.take().expect("a pipe was asked for");
    let mut start = [0; 100];
    std::io::Read::read_exact(&mut stdout, &mut start).expect("output");
    assert!(start.starts_with(b"line 0 "));
    drop(stdout);
    let until = Instant::now() + Duration::from_secs(20);
    while child.try_wait().expect("our child").is_none() {
        if Instant::now() > until {
            let _ = child.kill();
            panic!("kiln run goes on for ever with nobody reading");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_slow_reader_gets_everything() {
    let session = Session::new();
    let mut command = session.command(Session::words("--rm", "probe", "lines 20000"));
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("kiln starts");
    std::thread::sleep(Duration::from_millis(700));
    let mut text = String::new();
    let mut stdout = child.stdout.take().expect("a pipe was asked for");
    std::io::Read::read_to_string(&mut stdout, &mut text).expect("text");
    assert!(child.wait().expect("our child").success());
    assert_eq!(text.lines().count(), 20_001);
}

#[test]
fn stopping_what_has_ended_is_no_error() {
    let session = Session::new();
    session.run("--name done", "probe", "hello").ends_with(0);
    session.kiln(["stop", "done"]).ends_with(0);
    probe("hello").ends_with(0);
}

/// Ctrl-C on a terminal: the guest is asked to end, and only once, although the terminal signals a whole process group.
#[test]
fn control_c_on_a_terminal_ends_the_guest() {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    let Some(setsid) = find_program(&["setsid"]) else {
        return skip("`setsid` (util-linux) is not installed");
    };
    let session = Session::new();
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let terminal = openpt(flags | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&terminal).expect("a terminal");
    unlockpt(&terminal).expect("a terminal");
    let peer = ioctl_tiocgptpeer(&terminal, flags).expect("its other end");
    let image = kiln_system_tests::guest("probe");
    let mut command = session.wrapped(&setsid, ["--ctty", "--wait"]);
    command
        .arg(kiln_system_tests::kiln())
        .args(["run", "--rm"])
        .arg(image)
        .args(["graceful", "6"]);
    let end = || std::process::Stdio::from(peer.try_clone().expect("a descriptor"));
    let mut child = command
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .expect("kiln starts");
    drop(command);
    let mut shown = String::new();
    let mut terminal = std::fs::File::from(terminal);
    let mut read_until = |text: &str, terminal: &mut std::fs::File| {
        let mut buffer = [0; 1000];
        while !shown.contains(text) {
            let len = std::io::Read::read(terminal, &mut buffer).expect("output");
            shown.push_str(&String::from_utf8_lossy(&buffer[..len]));
        }
    };
    read_until("ready", &mut terminal);
    std::io::Write::write_all(&mut terminal, b"\x03").expect("Ctrl-C");
    read_until("cleaned up", &mut terminal);
    assert_eq!(child.wait().expect("our child").code(), Some(6), "{shown}");
    assert!(shown.contains("signal 2"), "{shown}");
}

#[test]
fn signals_that_mean_nothing_to_a_guest_of_ones_own_are_refused() {
    let session = Session::new();
    session.detach("--name it", "probe", "wait");
    eventually("it is ready", || {
        session.kiln(["logs", "it"]).text().contains("ready")
    });
    session
        .kiln(["kill", "-s", "CONT", "it"])
        .ends_with(1)
        .tells("it is no Linux program");
    session.kiln(["kill", "-s", "TERM", "it"]).ends_with(0);
}

/// A window that gets another size, or a signal that a program might have wanted, is no wish for the end.
#[test]
fn other_signals_cut_nothing_short() {
    let session = Session::new();
    let mut command = session.command(Session::words("--rm", "probe", "lines 20000"));
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("kiln starts");
    let process = rustix::process::Pid::from_child(&child);
    // The guest has ended by then, or waits for room.
    for signal in [Signal::WINCH, Signal::USR1, Signal::USR2] {
        std::thread::sleep(Duration::from_millis(300));
        rustix::process::kill_process(process, signal).expect("a process of ours");
    }
    let mut text = String::new();
    let mut stdout = child.stdout.take().expect("a pipe was asked for");
    std::io::Read::read_to_string(&mut stdout, &mut text).expect("text");
    assert!(child.wait().expect("our child").success());
    assert_eq!(text.lines().count(), 20_001);
}
