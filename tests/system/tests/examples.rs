//! The first things that a reader tries out: the examples `hello` and `echo`, and the command with which the README
//! begins.
//!
//! `hello` is judged by what it prints and by its size, `echo` by what plain TCP and UDP sockets get back, over IPv4 and
//! IPv6, one client or many. The README's command is read from the README and run as it stands there, with another port,
//! so that it cannot rot.
//!
//! The larger examples have files of their own: `web` in `example_web.rs`, `kv` in `example_kv.rs`.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::thread;
use std::time::{Duration, Instant};

use kiln_system_tests::artifacts::workspace;
use kiln_system_tests::elf::{Elf, Field, LOAD};
use kiln_system_tests::host::{find_program, free_port, has_ipv6};
use kiln_system_tests::http::Client;
use kiln_system_tests::random::Random;
use kiln_system_tests::service::{ANSWER, Service, connect};
use kiln_system_tests::{Running, Session, guest, kiln, skip};
use rustix::process::{Pid, Signal, kill_process_group};

#[test]
fn hello_says_hello() {
    let session = Session::new();
    let plain = session.run("--rm --memory 512K", "hello", "");
    plain.ends_with(0);
    assert_eq!(plain.text(), "Hello from a unikernel!\n", "{plain}");
    assert_eq!(plain.stderr, "", "{plain}");
    let named = session.run("--rm --memory 512K", "hello", "World");
    named.ends_with(0);
    assert_eq!(named.text(), "Hello, World!\n", "{named}");
    assert_eq!(session.leftovers(), [""; 0], "left behind");
}

#[test]
fn hello_is_small() {
    let complete = fs::metadata(guest("hello")).expect("an image").len();
    let image = Elf::read(&guest("hello"));
    let machine = image.get(image.nth(LOAD, 4), Field::Filesz);
    let own = complete - machine;
    assert!(own <= 48 * 1024, "{own} bytes beside the machine part");
    // Start code and drivers for other monitors come on top; see docs/decisions/0011-sizes.md.
    assert!(machine <= 20 * 1024, "{machine} bytes of machine part");
}

/// Checks that a TCP and a UDP port give back what they are sent.
#[track_caller]
fn echoes(tcp: SocketAddr, udp: SocketAddr) {
    let mut random = Random::new(7);
    let mut stream = connect(tcp);
    for len in [1, 5, 2048, 2049, 60_000] {
        let sent = random.bytes(len);
        stream.write_all(&sent).expect("sent");
        let mut back = vec![0; len];
        stream.read_exact(&mut back).expect("an echo");
        assert!(back == sent, "{len} bytes over TCP");
    }
    stream.write_all(b"the last").expect("sent");
    stream.shutdown(Shutdown::Write).expect("half closed");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("an orderly end");
    assert_eq!(rest, b"the last");

    let any: SocketAddr = if udp.is_ipv6() {
        (Ipv6Addr::LOCALHOST, 0).into()
    } else {
        ([127, 0, 0, 1], 0).into()
    };
    let socket = UdpSocket::bind(any).expect("a socket");
    socket.set_read_timeout(Some(ANSWER)).expect("a timeout");
    socket.connect(udp).expect("a peer");
    for len in [0, 1, 512, 1472, 2048] {
        let sent = random.bytes(len);
        socket.send(&sent).expect("sent");
        let mut back = [0; 4096];
        let got = socket.recv(&mut back).expect("an echo");
        assert!(back[..got] == sent, "{len} bytes over UDP");
    }
}

#[test]
fn echo_gives_back_what_it_is_sent() {
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2)] {
        let service = Service::start("-p 127.0.0.1:0:7 -p 127.0.0.1:0:7/udp", "echo");
        let tcp = service.address("7/tcp");
        echoes(tcp, service.address("7/udp"));
        // A client that is still there does not keep it from stopping.
        let _client = connect(tcp);
        let asked = Instant::now();
        let (_session, outcome) = service.stop(signal);
        outcome
            .ends_with(0)
            .prints(&format!("echo: stopping on signal {number}\n"));
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(2), "stopped after {took:?}");
        assert!(TcpStream::connect(tcp).is_err(), "the port is still open");
    }
}

#[test]
fn echo_speaks_ipv6() {
    if !has_ipv6() {
        return skip("this host has no IPv6 loopback address");
    }
    let service = Service::start("-p [::1]:0:7 -p [::1]:0:7/udp", "echo");
    echoes(service.address("7/tcp"), service.address("7/udp"));
    service.stop(Signal::TERM).1.ends_with(0);
}

#[test]
fn echo_serves_many_at_once() {
    let service = Service::start("-p 127.0.0.1:0:7", "echo");
    let to = service.address("7/tcp");
    thread::scope(|scope| {
        for client in 0..32 {
            scope.spawn(move || {
                let mut random = Random::new(client);
                let mut stream = connect(to);
                for _ in 0..20 {
                    let len = 1 + random.below(5000);
                    let sent = random.bytes(len);
                    stream.write_all(&sent).expect("sent");
                    let mut back = vec![0; sent.len()];
                    stream.read_exact(&mut back).expect("an echo");
                    assert!(back == sent, "client {client}: somebody else's echo");
                }
            });
        }
    });
}

/// The command in the README that starts the web server, word by word but for the port.
#[test]
fn the_first_command_of_the_readme() {
    const BUILD: Duration = Duration::from_mins(5);
    let readme = fs::read_to_string(workspace().join("README.md")).expect("the README");
    let line = readme
        .lines()
        .find(|line| line.starts_with("cargo run "))
        .expect("the README runs an example");
    let port = free_port();
    let (before, after) = line.split_once("8080:80 ").expect("a forwarded port");
    let line = format!("{before}{port}:80 {after}");
    let mut words = line.split_whitespace().skip(1);

    // A session ends what runs in it with the command, which no other call here asks for.
    kiln();
    let session = Session::new();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = session.wrapped(cargo.as_ref(), &mut words);
    // A group of its own, as in a shell, where Ctrl-C reaches all of it.
    command.current_dir(workspace()).process_group(0);
    let mut running = Running::start(&mut command);
    let until = Instant::now() + BUILD;
    while !running.output().contains("listening on port 80") {
        assert!(running.is_running(), "{line}: {}", running.finish());
        assert!(Instant::now() < until, "{line}: not within {BUILD:?}");
        thread::sleep(Duration::from_millis(20));
    }
    let host = SocketAddr::from(([127, 0, 0, 1], port));
    let page = workspace().join("examples/web/site/index.html");
    let page = fs::read(page).expect("a page of the site");
    assert_eq!(Client::connect(host).get("/", "").body, page);
    if let Some(curl) = find_program(&["curl"]) {
        let url = format!("http://localhost:{port}");
        let args = ["-q", "-sS", "--noproxy", "*", "--max-time", "20", &url];
        let outcome = Running::start(&mut session.wrapped(&curl, args)).finish();
        assert_eq!(outcome.ends_with(0).stdout, page);
    } else {
        skip("curl is not installed");
    }
    let group = i32::try_from(running.id()).ok().and_then(Pid::from_raw);
    kill_process_group(group.expect("a process id"), Signal::INT).expect("our children");
    let outcome = running.finish();
    outcome.ends_with(0).prints("web: stopped\n");
}
