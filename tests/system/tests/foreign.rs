//! The same images as virtual machines of other monitors: QEMU (translated, on both kinds of machine), Firecracker and
//! Cloud Hypervisor where they are installed.
//!
//! Each case runs on each of them. What is tested is what a user sees: output, exit codes, panics with names, disks, ports,
//! stopping, and that nothing is left behind whoever is killed.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use kiln_system_tests::backend::is_here;
use kiln_system_tests::host::{eventually, find_program, free_port, is_alive};
use kiln_system_tests::http::Client;
use kiln_system_tests::netns::Netns;
use kiln_system_tests::service::Service;
use kiln_system_tests::{Outcome, Session, skip};
use rustix::process::Signal;

const KILN_ERROR: i32 = 125;

#[track_caller]
fn run(session: &Session, backend: &str, options: &str, guest: &str, args: &str) -> Outcome {
    session.run(&format!("--backend {backend} {options}"), guest, args)
}

/// Tests for every backend. Each is a function of the backend's name.
macro_rules! on_every_backend {
    ($($case:ident)*) => {
        on_every_backend!(qemu_microvm "qemu,accel=tcg,machine=microvm" $($case)*);
        on_every_backend!(qemu_q35 "qemu,accel=tcg,machine=q35" $($case)*);
        on_every_backend!(firecracker "firecracker" $($case)*);
        on_every_backend!(cloud_hypervisor "cloud-hypervisor" $($case)*);
    };
    ($name:ident $backend:literal $($case:ident)*) => {
        mod $name {
            $(
                #[test]
                fn $case() {
                    if super::is_here($backend) {
                        super::$case($backend);
                    }
                }
            )*
        }
    };
}

on_every_backend! {
    hello_and_exit_codes
    arguments_and_environment_arrive
    output_arrives_whole
    a_panic_is_told_with_a_backtrace
    a_fault_is_told_with_registers
    logs_and_inspect_tell_the_same
    a_disk_is_read_and_written
    a_site_is_served_through_a_port
    a_tap_device_reaches_the_guest
    devices_are_told_apart
    stopping_asks_first
    a_guest_that_does_not_stop_is_ended
    nothing_outlives_the_supervisor
    a_killed_monitor_is_a_killed_guest
    ports_are_free_again
    a_command_line_that_would_be_cut_off_is_refused
    protections_that_are_missing_are_listed
}

fn hello_and_exit_codes(backend: &str) {
    let session = Session::new();
    run(&session, backend, "", "probe", "hello").succeeds();
    for code in [0, 1, 42, 125, 255] {
        let outcome = run(&session, backend, "--rm", "probe", &format!("exit {code}"));
        outcome.ends_with(code);
        assert_eq!(outcome.stderr, "", "nothing to tell");
    }
}

fn arguments_and_environment_arrive(backend: &str) {
    let session = Session::new();
    let options = "--name dorothy -e COLOUR=red -e EMPTY= -e URL=a=b%20c";
    let env = run(&session, backend, options, "probe", "env-all");
    assert_eq!(
        env.ends_with(0).text(),
        "COLOUR=red\nEMPTY=\nURL=a=b%20c\nSUCCESS\n"
    );
    run(&session, backend, "--name toto", "probe", "name").prints("name=toto\n");
}

fn output_arrives_whole(backend: &str) {
    let session = Session::new();
    let printed = run(&session, backend, "--rm", "probe", "lines 2000");
    let text = printed.succeeds().text();
    for (n, line) in text.lines().take(2000).enumerate() {
        assert_eq!(line, format!("line {n} {:x<60}", ""));
    }
    let bytes = run(&session, backend, "--rm", "probe", "bytes");
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(bytes.ends_with(0).stdout[..256], all);
}

fn a_panic_is_told_with_a_backtrace(backend: &str) {
    let session = Session::new();
    run(&session, backend, "", "probe", "panic")
        .ends_with(101)
        .tells("the answer is 42")
        .tells("guest_probe::panics::innermost at /src/tests/guests/probe/src/panics.rs:")
        .tells("guest_probe::panics::outermost at ");
    run(&session, backend, "", "probe", "panic-lines")
        .ends_with(101)
        .tells("third line");
}

fn a_fault_is_told_with_registers(backend: &str) {
    let session = Session::new();
    let process = run(&session, "process", "", "probe", "touch read 0");
    let here = run(&session, backend, "", "probe", "touch read 0");
    here.ends_with(process.code).tells("rip ").tells("rsp ");
    let backtrace = |outcome: &Outcome| -> Vec<String> {
        let lines = outcome.stderr.lines().map(str::trim);
        let frames = lines.filter(|line| line.contains("guest_probe::"));
        frames.map(str::to_owned).collect()
    };
    assert_eq!(backtrace(&here), backtrace(&process), "{here}");
}

fn logs_and_inspect_tell_the_same(backend: &str) {
    let session = Session::new();
    run(&session, backend, "--name sad", "probe", "panic").ends_with(101);
    session
        .kiln(["logs", "sad"])
        .prints("the answer is 42")
        .prints("guest_probe::panics::innermost");
    let shown = session.inspect("sad");
    assert_eq!(shown["State"]["ExitCode"], 101);
    assert_eq!(shown["Config"]["Backend"], backend);
    let protections = shown["Protections"].as_array().expect("a list");
    assert!(
        protections.iter().any(|one| one["Name"]
            .as_str()
            .is_some_and(|name| name.starts_with("seccomp"))),
        "{shown:#}"
    );
}

fn a_disk_is_read_and_written(backend: &str) {
    let session = Session::new();
    let disk = session.disk("disk", 8 << 20);
    let option = format!("--rm --block data={}", disk.display());
    run(&session, backend, &option, "blockdev", "geometry")
        .succeeds()
        .prints("capacity=8388608\nsector=512\nread_only=false\n");
    run(&session, backend, &option, "blockdev", "verify").succeeds();
    let written = fs::read(&disk).expect("the disk");
    assert!(written.iter().any(|&byte| byte != 0), "nothing was written");
    run(
        &session,
        backend,
        &format!("{option}:ro"),
        "blockdev",
        "geometry",
    )
    .succeeds()
    .prints("read_only=true\n");
}

fn a_site_is_served_through_a_port(backend: &str) {
    let service = Service::start(&format!("--backend {backend} -p 127.0.0.1:0:80"), "web");
    let mut client = Client::connect(service.address("80/tcp"));
    let page = client.get("/", "");
    assert_eq!(page.status, 200);
    let large = client.get("/bench/1m", "");
    assert_eq!(large.body.len(), 1 << 20);
    drop(client);
    let (_, outcome) = service.stop(Signal::TERM);
    outcome.ends_with(0);
}

fn a_tap_device_reaches_the_guest(backend: &str) {
    let netns = match Netns::new() {
        Ok(netns) => netns,
        Err(reason) => return skip(reason),
    };
    let session = Session::new();
    netns.tap("tap0", "10.9.0.1/24");
    let options = format!("--backend {backend} --net tap:tap0,ip=10.9.0.2/24,gw=10.9.0.1");
    let mut running = netns.start_guest(&session, &options, "netprobe", "serve");
    running.wait_for("serving");
    let mut stream = netns.within(|| TcpStream::connect("10.9.0.2:7").expect("a connection"));
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    let sent: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let mut writer = stream.try_clone().expect("a second handle");
    let copy = sent.clone();
    let writing = std::thread::spawn(move || writer.write_all(&copy).expect("written"));
    let mut back = vec![0; sent.len()];
    stream.read_exact(&mut back).expect("an echo");
    writing.join().expect("no panic");
    assert!(back == sent, "other bytes came back");
}

fn devices_are_told_apart(backend: &str) {
    let netns = match Netns::new() {
        Ok(netns) => netns,
        Err(reason) => return skip(reason),
    };
    let session = Session::new();
    let disk = session.disk("disk", 4096);
    netns.tap("tapl", "10.8.0.1/24");
    netns.tap("tapr", "10.9.0.1/24");
    let options = format!(
        "--backend {backend} --net left=tap:tapl,ip=10.8.0.2/24 --net right=tap:tapr,ip=10.9.0.2/24 --block spare={}",
        disk.display()
    );
    let mut running = netns.start_guest(&session, &options, "links", "");
    running.wait_for("right ");
    let socket = netns.within(|| UdpSocket::bind("0.0.0.0:0").expect("a socket"));
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a timeout");
    for (address, answer) in [("10.8.0.2:7", "left-x"), ("10.9.0.2:7", "right-x")] {
        let mut buffer = [0; 100];
        // The first datagram may come before the guest listens.
        let length = (0..3)
            .find_map(|_| {
                socket.send_to(b"-x", address).expect("sent");
                socket.recv(&mut buffer).ok()
            })
            .unwrap_or_else(|| panic!("no answer from {address}"));
        assert_eq!(buffer[..length], *answer.as_bytes());
    }
    assert!(running.output().contains("spare=true"));
}

fn stopping_asks_first(backend: &str) {
    let session = Session::new();
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2)] {
        let options = format!("--rm --backend {backend}");
        let mut running = session.start_guest(&options, "probe", "graceful 7");
        running.wait_for("ready");
        running.signal(signal);
        let outcome = running.finish();
        outcome
            .ends_with(7)
            .prints(&format!("signal {number}\ncleaned up\n"));
    }
}

fn a_guest_that_does_not_stop_is_ended(backend: &str) {
    let session = Session::new();
    session.detach(
        &format!("--name it --backend {backend}"),
        "probe",
        "stubborn",
    );
    eventually("it is ready", || {
        session.kiln(["logs", "it"]).text().contains("ready")
    });
    let asked = Instant::now();
    session.kiln(["stop", "-t", "1", "it"]).ends_with(0);
    assert!(asked.elapsed() < Duration::from_secs(4));
    assert_eq!(session.inspect("it")["State"]["ExitCode"], 137);
}

fn nothing_outlives_the_supervisor(backend: &str) {
    let session = Session::new();
    let files = temporary_files();
    for case in ["wait", "spin", "flood"] {
        let id = session.detach(&format!("--name it --backend {backend}"), "probe", case);
        let (guest, supervisor) = session.pids(&id);
        kiln_system_tests::host::signal(supervisor, Signal::KILL);
        eventually("the guest dies too", || {
            !is_alive(guest) && !is_alive(supervisor)
        });
        assert_eq!(session.rows(&["ps", "-a"])[0]["State"], "dead");
        session.kiln(["rm", "it"]).ends_with(0);
        assert_eq!(session.leftovers(), [""; 0], "left behind");
    }
    assert_eq!(temporary_files(), files, "left behind");
}

/// What monitors might forget.
fn temporary_files() -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["/tmp", "/var/tmp", "/dev/shm", "/run"] {
        let entries = Path::new(folder).read_dir().into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.path().display().to_string());
        found.extend(names.filter(|name| {
            ["qemu", "firecracker", "cloud-hypervisor", "ch.sock"]
                .iter()
                .any(|word| name.contains(word))
        }));
    }
    found.sort();
    found
}

fn a_killed_monitor_is_a_killed_guest(backend: &str) {
    let session = Session::new();
    let options = format!("--name it --backend {backend}");
    let mut running = session.start_guest(&options, "probe", "wait");
    running.wait_for("ready");
    let (guest, _) = session.pids("it");
    kiln_system_tests::host::signal(guest, Signal::KILL);
    running.finish().ends_with(137).tells("it killed");
    // And one that breaks: Kiln's own error.
    let options = format!("--name other --backend {backend}");
    let mut running = session.start_guest(&options, "probe", "wait");
    running.wait_for("ready");
    let (guest, _) = session.pids("other");
    kiln_system_tests::host::signal(guest, Signal::ABORT);
    let outcome = running.finish();
    outcome.ends_with(KILN_ERROR).tells("lost its monitor");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
}

fn ports_are_free_again(backend: &str) {
    // An address that no other test listens on: one that takes the freed port must not answer here.
    const ADDRESS: &str = "127.0.77.1";
    let session = Session::new();
    let port = free_port();
    for who in [0, 1] {
        let options = format!("--backend {backend} -p {ADDRESS}:{port}:7");
        let id = session.detach(&options, "netprobe", "serve");
        eventually("the port answers", || {
            TcpStream::connect((ADDRESS, port)).is_ok()
        });
        let (guest, supervisor) = session.pids(&id);
        kiln_system_tests::host::signal([guest, supervisor][who], Signal::KILL);
        eventually("both end", || !is_alive(guest) && !is_alive(supervisor));
        assert!(TcpStream::connect((ADDRESS, port)).is_err());
    }
}

fn a_command_line_that_would_be_cut_off_is_refused(backend: &str) {
    let session = Session::new();
    for long in ["x".repeat(4096), "x".repeat(100_000)] {
        run(&session, backend, "", "probe", &format!("args {long}"))
            .ends_with(KILN_ERROR)
            .is_one_line_error()
            .tells("arguments and environment come to a command line of ")
            .tells("the backends process and kvm have no such limit");
    }
    // And together, none of them long.
    let many = "0123456789 ".repeat(1000);
    let outcome = run(&session, backend, "", "probe", &format!("args {many}"));
    outcome.ends_with(KILN_ERROR).is_one_line_error();
    let fits = "x".repeat(1700);
    let outcome = run(&session, backend, "", "probe", &format!("args {fits}"));
    assert!(outcome.succeeds().text().contains(&fits));
}

fn protections_that_are_missing_are_listed(backend: &str) {
    let session = Session::new();
    let options = format!("--name it --backend {backend} -e SECRET=ca75e1");
    let mut running = session.start_guest(&options, "probe", "wait");
    running.wait_for("ready");
    let (guest, _) = session.pids("it");
    let words = fs::read(format!("/proc/{guest}/cmdline")).expect("a command line");
    let hidden = !words.windows(6).any(|part| part == b"ca75e1");
    let shown = session.inspect("it");
    let in_force = |name: &str| {
        let protections = shown["Protections"].as_array().expect("a list");
        let one = protections.iter().find(|one| one["Name"] == name);
        one.expect("it is listed")["InForce"] == true
    };
    assert_eq!(in_force("arguments hidden from other users"), hidden);
    assert_eq!(hidden, backend != "cloud-hypervisor");
    assert!(!in_force("no file system access (Landlock)"));
    run(&session, backend, "--strict", "probe", "hello")
        .ends_with(KILN_ERROR)
        .tells("--strict: no ")
        .is_one_line_error();
}

#[test]
fn a_program_that_is_missing_is_named_with_what_to_do() {
    let session = Session::new();
    for (backend, hint) in [
        ("qemu", "install the package qemu-system-x86"),
        ("firecracker", "firecracker/releases"),
        ("cloud-hypervisor", "cloud-hypervisor/releases"),
    ] {
        let words = Session::words(&format!("--backend {backend}"), "probe", "hello");
        let mut command = session.command(words);
        command.env("PATH", session.dir());
        let outcome = kiln_system_tests::Running::start(&mut command).finish();
        outcome
            .ends_with(KILN_ERROR)
            .tells(hint)
            .is_one_line_error();
    }
    assert_eq!(session.leftovers(), [""; 0], "left behind");
}

#[test]
fn a_monitor_that_cannot_start_the_guest_is_quoted() {
    let session = Session::new();
    let fake = session.file("qemu-system-x86_64");
    fs::write(
        &fake,
        "#!/bin/sh\necho warning >&2\necho 'no such machine' >&2\nexit 1\n",
    )
    .expect("a script");
    fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("our file");
    for options in ["", "-d"] {
        let words = Session::words(
            &format!("{options} --backend qemu,accel=tcg"),
            "probe",
            "hello",
        );
        let mut command = session.command(words);
        command.env("PATH", session.dir());
        let outcome = kiln_system_tests::Running::start(&mut command).finish();
        outcome
            .ends_with(KILN_ERROR)
            .tells("QEMU could not start the guest: no such machine")
            .is_one_line_error();
    }
    assert_eq!(session.leftovers(), [""; 0], "left behind");
}

#[test]
fn strict_refuses_what_a_translated_machine_lacks() {
    let backend = "qemu,accel=tcg";
    if is_here(backend) {
        run(&Session::new(), backend, "--strict", "probe", "hello")
            .ends_with(KILN_ERROR)
            .tells("--strict: no virtual machine (KVM)")
            .is_one_line_error();
    }
}

/// Root's monitors become nobody where the devices are for everybody, and enter their network all the same.
#[test]
fn root_connects_guests_whoever_may_open_the_devices() {
    let tools = find_program(&["unshare"]).filter(|_| kiln_system_tests::host::is_root());
    let Some(unshare) = tools else {
        return skip("needs root and `unshare` to put other devices there");
    };
    for backend in ["firecracker", "cloud-hypervisor"] {
        if !is_here(backend) {
            continue;
        }
        for mode in ["600", "666"] {
            let session = Session::new();
            let script = "for node in kvm:10:232 net/tun:10:200; do
                    set -- \"$1\" \"$2\" \"$3\" \"$4\" $(echo $node | tr : ' ')
                    file=$1/$(basename $5); mknod $file c $6 $7; chmod $4 $file
                    mount --bind $file /dev/$5
                done
                exec $2 run --name it --backend $3 --net user $KILN_TEST_IMAGE serve";
            let words = ["-m", "--propagation", "private", "sh", "-ec", script, "sh"];
            let mut command = session.wrapped(&unshare, words);
            command
                .env("KILN_TEST_IMAGE", kiln_system_tests::guest("netprobe"))
                .arg(session.dir())
                .arg(kiln_system_tests::kiln())
                .args([backend, mode]);
            let mut running = kiln_system_tests::Running::start(&mut command);
            running.wait_for("serving");
            let shown = session.inspect("it");
            let protections = shown["Protections"].as_array().expect("a list");
            let nobody = protections
                .iter()
                .find(|one| one["Name"] == "not run as root")
                .expect("it is listed");
            assert_eq!(nobody["InForce"], mode == "666", "{backend}: {shown:#}");
            running.signal(Signal::TERM);
            running.finish();
        }
    }
}

#[test]
fn the_links_of_firecracker_are_of_one_network() {
    let backend = "firecracker";
    if !is_here(backend) {
        return;
    }
    let netns = match Netns::new() {
        Ok(netns) => netns,
        Err(reason) => return skip(reason),
    };
    let session = Session::new();
    netns.tap("tap0", "10.9.0.1/24");
    let options = format!("--backend {backend} --net left=user --net right=tap:tap0");
    let outcome = netns.start_guest(&session, &options, "links", "").finish();
    outcome.ends_with(KILN_ERROR).tells("use tap devices only");
}
