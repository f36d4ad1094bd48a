//! Whoever is killed, nothing is left behind: no process, no socket, no port; and `ps` tells what happened.

use std::fs;
use std::net::TcpStream;

use kiln_system_tests::host::{eventually, free_port, is_alive};
use kiln_system_tests::{Running, Session};
use rustix::process::{Pid, Signal, kill_process};

fn kill(pid: u32) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process id");
    kill_process(pid, Signal::KILL).expect("a process of ours");
}

#[test]
fn the_guest_dies_with_its_supervisor() {
    let session = Session::new();
    for case in ["wait", "spin", "flood", "stubborn"] {
        let id = session.detach("--name it", "probe", case);
        let (guest, supervisor) = session.pids(&id);
        kill(supervisor);
        eventually("the guest dies too", || {
            !is_alive(guest) && !is_alive(supervisor)
        });
        assert_eq!(session.kiln(["ps", "-q"]).text(), "");
        let rows = session.rows(&["ps", "-a"]);
        assert_eq!(rows[0]["State"], "dead", "{rows:?}");
        let shown = session.inspect("it");
        assert_eq!(shown["State"]["ExitCode"], 137);
        assert!(
            shown["State"]["Reason"]
                .as_str()
                .is_some_and(|r| r.contains("supervisor")),
            "{shown:#}"
        );
        session.kiln(["wait", "it"]).ends_with(0).prints("137\n");
        session.kiln(["logs", "it"]).ends_with(0);
        session.kiln(["rm", "it"]).ends_with(0);
        assert_eq!(session.leftovers(), [""; 0], "left behind");
    }
}

#[test]
fn the_guest_dies_with_a_foreground_command() {
    let session = Session::new();
    let mut running = session.start_guest("--name it", "probe", "spin");
    running.wait_for("ready");
    let (guest, supervisor) = session.pids("it");
    assert_eq!(supervisor, running.id());
    running.signal(Signal::KILL);
    running.finish().ends_with(137);
    eventually("the guest dies too", || !is_alive(guest));
    assert_eq!(session.inspect("it")["State"]["Status"], "dead");
}

#[test]
fn an_instance_to_be_removed_is_removed_even_so() {
    let session = Session::new();
    let id = session.detach("--rm --name it", "probe", "wait");
    let (guest, supervisor) = session.pids(&id);
    kill(supervisor);
    eventually("the guest dies too", || !is_alive(guest));
    assert_eq!(session.kiln(["ps", "-aq"]).text(), "");
    assert_eq!(session.leftovers(), [""; 0], "left behind");
}

#[test]
fn waiting_for_an_instance_whose_supervisor_is_killed_ends() {
    let session = Session::new();
    let id = session.detach("", "probe", "wait");
    let (_, supervisor) = session.pids(&id);
    let waiting = session.start(["wait", &id]);
    std::thread::sleep(std::time::Duration::from_millis(200));
    kill(supervisor);
    waiting.finish().ends_with(0).prints("137\n");
}

#[test]
fn a_killed_guest_ends_with_137() {
    let session = Session::new();
    let running = session.start_guest("--name it", "probe", "wait");
    session.only_instance();
    let (guest, _) = session.pids("it");
    kill(guest);
    let outcome = running.finish();
    outcome.ends_with(137).tells("it killed");
    let shown = session.inspect("it");
    assert_eq!(shown["State"]["ExitCode"], 137);
    assert_eq!(shown["State"]["Status"], "exited");
    session.kiln(["logs", "it"]).prints("killed");
}

#[test]
fn ports_are_free_again_whoever_dies() {
    let session = Session::new();
    let port = free_port();
    for who in ["guest", "supervisor", "stop"] {
        let id = session.detach(&format!("-p 127.0.0.1:{port}:7"), "netprobe", "serve");
        eventually("the port answers", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        let (guest, supervisor) = session.pids(&id);
        match who {
            "guest" => kill(guest),
            "supervisor" => kill(supervisor),
            _ => {
                session.kiln(["stop", &id]).ends_with(0);
            }
        }
        eventually("both end", || !is_alive(guest) && !is_alive(supervisor));
        assert!(
            TcpStream::connect(("127.0.0.1", port)).is_err(),
            "{who}: the port is still open"
        );
    }
}

#[test]
fn disks_are_free_again_whoever_dies() {
    let session = Session::new();
    let disk = session.disk("disk", 4096);
    let option = format!("--block data={}", disk.display());
    for victim in 0..2 {
        let id = session.detach(&option, "blockdev", "hold");
        let (guest, supervisor) = session.pids(&id);
        kill([guest, supervisor][victim]);
        eventually("both end", || !is_alive(guest) && !is_alive(supervisor));
        session
            .run(&format!("--rm {option}"), "blockdev", "geometry")
            .succeeds();
    }
}

#[test]
fn state_that_somebody_damaged_does_not_stop_the_rest() {
    let session = Session::new();
    let bad = session.detach("--name bad", "probe", "wait");
    session.detach("--name good", "probe", "wait");
    let (_, supervisor) = session.pids(&bad);
    kill(supervisor);
    let folder = session.state().join(&bad);
    for entry in fs::read_dir(&folder)
        .expect("its folder")
        .filter_map(Result::ok)
    {
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            fs::write(entry.path(), b"\xff\xfenot what you expect\n").expect("our file");
        }
    }
    session.kiln(["ps", "-a"]).ends_with(0).prints("good");
    session.kiln(["stop", "good"]).ends_with(0);
    fs::create_dir(session.state().join("0123456789ab")).expect("a folder");
    fs::write(session.state().join("strange"), b"").expect("a file");
    session.kiln(["ps", "-a"]).ends_with(0).prints("good");
    session.run("", "probe", "hello").succeeds();
}

#[test]
fn many_instances_at_once() {
    const COUNT: usize = 40;
    let session = Session::new();
    let starting: Vec<Running> = (0..COUNT)
        .map(|n| session.start_guest(&format!("-d --name n{n} -m 1M"), "probe", "wait"))
        .collect();
    for start in starting {
        start.finish().ends_with(0);
    }
    assert_eq!(session.rows(&["ps"]).len(), COUNT);
    let names: Vec<String> = (0..COUNT).map(|n| format!("n{n}")).collect();
    let args: Vec<&str> = ["rm", "-f"]
        .into_iter()
        .chain(names.iter().map(String::as_str))
        .collect();
    session.kiln(&args).ends_with(0);
    assert_eq!(session.leftovers(), [""; 0], "left behind");
}

/// Ended guests leave no zombies, and starting leaks nothing in the state folder.
#[test]
fn nothing_piles_up() {
    let session = Session::new();
    for _ in 0..50 {
        session.run("--rm", "probe", "hello").succeeds();
    }
    assert_eq!(session.leftovers(), [""; 0], "left behind");
}
