//! The rootless network: forwarded ports in, connections out, names, and what a guest must not reach.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use kiln_system_tests::host::{eventually, find_program, free_port, free_udp_port};
use kiln_system_tests::netns::Netns;
use kiln_system_tests::{Running, Session, skip};

/// The byte that the guest's sink and source expect at a position.
fn pattern(position: usize) -> u8 {
    (position ^ position >> 8 ^ position >> 16).to_le_bytes()[0]
}

/// A guest that serves, and the host's ports that lead to it.
struct Server {
    session: Session,
    _running: Running,
    echo: u16,
    sink: u16,
    source: u16,
    reset: u16,
    udp: u16,
}

impl Server {
    #[track_caller]
    fn start(options: &str) -> Self {
        let session = Session::new();
        let [echo, sink, source, reset] = [(); 4].map(|()| free_port());
        let udp = free_udp_port();
        let options = format!(
            "--name server {options} -p 127.0.0.1:{echo}:7 -p 127.0.0.1:{sink}:9 -p 127.0.0.1:{source}:19 \
             -p 127.0.0.1:{reset}:11 -p 127.0.0.1:{udp}:7/udp"
        );
        let mut running = session.start_guest(&options, "netprobe", "serve");
        running.wait_for("serving");
        Self {
            session,
            _running: running,
            echo,
            sink,
            source,
            reset,
            udp,
        }
    }
}

#[track_caller]
fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    stream
        .set_write_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    stream
}

#[test]
fn sixty_four_connections_at_once() {
    let server = Server::start("-m 16M");
    thread::scope(|scope| {
        for n in 0..64usize {
            let port = server.echo;
            scope.spawn(move || {
                let mut stream = connect(port);
                for round in 0..20usize {
                    let sent: Vec<u8> = (0..=(n * 131 + round * 977) % 4000)
                        .map(|i| pattern(i * n + round))
                        .collect();
                    stream.write_all(&sent).expect("written");
                    let mut back = vec![0; sent.len()];
                    stream.read_exact(&mut back).expect("an echo");
                    assert!(back == sent, "connection {n}, round {round}");
                }
            });
        }
    });
}

#[test]
fn sixty_four_mebibytes_in() {
    const LEN: usize = 64 << 20;
    let server = Server::start("");
    let mut stream = connect(server.sink);
    let mut at = 0;
    let mut block = vec![0; 1 << 16];
    while at < LEN {
        for (index, byte) in block.iter_mut().enumerate() {
            *byte = pattern(at + index);
        }
        stream.write_all(&block).expect("written");
        at += block.len();
    }
    // Half closed: the answer comes after it.
    stream.shutdown(Shutdown::Write).expect("half closed");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert_eq!(answer, format!("{LEN} 0\n"));
}

#[test]
fn sixty_four_mebibytes_out() {
    const LEN: usize = 64 << 20;
    let server = Server::start("");
    let mut stream = connect(server.source);
    writeln!(stream, "{LEN}").expect("written");
    let mut at = 0;
    let mut block = vec![0; 1 << 16];
    loop {
        let len = stream.read(&mut block).expect("data");
        if len == 0 {
            break;
        }
        let wrong = block[..len]
            .iter()
            .enumerate()
            .find(|(index, byte)| **byte != pattern(at + index));
        assert_eq!(wrong, None, "at {at}");
        at += len;
    }
    assert_eq!(at, LEN);
}

#[test]
fn both_directions_at_once() {
    const LEN: usize = 16 << 20;
    let server = Server::start("");
    let mut stream = connect(server.echo);
    let mut writer = stream.try_clone().expect("a second handle");
    let writing = thread::spawn(move || {
        let data: Vec<u8> = (0..LEN).map(pattern).collect();
        writer.write_all(&data).expect("written");
        writer.shutdown(Shutdown::Write).expect("half closed");
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("the echo to its end");
    writing.join().expect("the writer");
    assert_eq!(back.len(), LEN);
    assert!(
        back.iter()
            .enumerate()
            .all(|(at, &byte)| byte == pattern(at))
    );
}

#[test]
fn a_reader_that_is_slow_loses_nothing() {
    let server = Server::start("-m 4M");
    let mut stream = connect(server.source);
    writeln!(stream, "{}", 8 << 20).expect("written");
    thread::sleep(Duration::from_millis(500));
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("data");
    assert_eq!(all.len(), 8 << 20);
    assert!(
        all.iter()
            .enumerate()
            .all(|(at, &byte)| byte == pattern(at))
    );
}

#[test]
fn resets_arrive_as_resets() {
    let server = Server::start("");
    let mut stream = connect(server.reset);
    let error = stream
        .read(&mut [0; 10])
        .expect_err("data from a reset connection");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // And the other way round: the guest goes on when clients vanish.
    for _ in 0..20 {
        let stream = connect(server.echo);
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("an option");
        (&stream).write_all(&[1; 10_000]).expect("written");
        drop(stream);
    }
    let mut stream = connect(server.echo);
    stream.write_all(b"still there").expect("written");
    stream.read_exact(&mut [0; 11]).expect("an echo");
}

#[test]
fn a_thousand_short_connections() {
    let server = Server::start("-m 8M");
    for n in 0..1000usize {
        let mut stream = connect(server.echo);
        stream.write_all(&[pattern(n)]).expect("written");
        let mut back = [0];
        stream.read_exact(&mut back).expect("an echo");
        assert_eq!(back[0], pattern(n));
    }
}

#[test]
fn datagrams_of_all_sizes() {
    let server = Server::start("");
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(3)))
        .expect("a timeout");
    socket
        .connect((Ipv4Addr::LOCALHOST, server.udp))
        .expect("a peer");
    let mut back = vec![0; 70_000];
    // The link carries packets of 65,520 bytes; headers take 28.
    for len in [
        0, 1, 2, 63, 511, 512, 1471, 1472, 1473, 4096, 9000, 32_768, 65_000, 65_492,
    ] {
        let sent: Vec<u8> = (0..len).map(|i| pattern(i + len)).collect();
        socket.send(&sent).expect("sent");
        let got = socket
            .recv(&mut back)
            .unwrap_or_else(|error| panic!("{len} bytes: {error}"));
        assert!(back[..got] == sent, "{len} bytes came back as {got}");
    }
    // Longer than the link carries: lost, and nothing else.
    socket.send(&vec![1; 65_507]).expect("sent");
    socket
        .set_read_timeout(Some(Duration::from_millis(300)))
        .expect("a timeout");
    let _ = socket.recv(&mut back);
    socket.send(b"after").expect("sent");
    let got = socket.recv(&mut back).expect("an echo");
    assert_eq!(&back[..got], b"after");
}

/// Sends a datagram from each of many sockets, all before the first answer is read.
#[track_caller]
fn burst(server: &Server, peers: usize) {
    let sockets: Vec<UdpSocket> = (0..peers)
        .map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket"))
        .collect();
    for (n, socket) in sockets.iter().enumerate() {
        socket
            .send_to(&[pattern(n); 100], (Ipv4Addr::LOCALHOST, server.udp))
            .expect("sent");
    }
    for (n, socket) in sockets.iter().enumerate() {
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .expect("a timeout");
        let mut back = [0; 200];
        let received = socket.recv_from(&mut back);
        let (got, from) = received.unwrap_or_else(|error| panic!("peer {n} of {peers}: {error}"));
        assert_eq!((got, from.port()), (100, server.udp));
        assert!(
            back[..100].iter().all(|&b| b == pattern(n)),
            "somebody else's echo"
        );
    }
}

#[test]
fn many_datagram_peers() {
    let server = Server::start("");
    for _ in 0..10 {
        burst(&server, 20);
    }
}

/// What a Linux socket's buffer holds with ease.
#[test]
fn a_burst_of_datagrams_is_not_lost() {
    burst(&Server::start(""), 100);
}

#[test]
fn ipv6() {
    let session = Session::new();
    let Ok(probe) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        return skip("this host has no IPv6 loopback address");
    };
    let port = probe.local_addr().expect("an address").port();
    drop(probe);
    let options = format!("-p [::1]:{port}:7 -p [::1]:{port}:7/udp");
    let mut running = session.start_guest(&options, "netprobe", "serve");
    running.wait_for("serving");
    assert!(
        running.output().contains("fd00:6b69:6c6e::15"),
        "{}",
        running.output()
    );
    let mut stream = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).expect("a connection");
    stream.write_all(b"six").expect("written");
    let mut back = [0; 3];
    stream.read_exact(&mut back).expect("an echo");
    assert_eq!(&back, b"six");
    let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(3)))
        .expect("a timeout");
    socket
        .send_to(b"datagram", (Ipv6Addr::LOCALHOST, port))
        .expect("sent");
    let mut back = [0; 100];
    assert_eq!(socket.recv(&mut back).expect("an echo"), 8);
}

#[test]
fn ranges_of_ports_and_all_addresses() {
    let session = Session::new();
    let port = free_port();
    let mut running = session.start_guest(&format!("-p {port}:7"), "netprobe", "serve");
    running.wait_for("serving");
    let mut stream = connect(port);
    stream.write_all(b"x").expect("written");
    stream.read_exact(&mut [0]).expect("an echo");
    let id = session.only_instance();
    let rows = session.rows(&["ps"]);
    assert!(
        rows[0]["Ports"]
            .as_str()
            .is_some_and(|p| p.contains(&format!("{port}"))),
        "{rows:?}"
    );
    session.kiln(["kill", &id]).ends_with(0);
}

#[test]
fn sockets_are_bound_once() {
    Session::new().run("", "netprobe", "binds").succeeds();
}

/// The gateway stands for the host, but not by default: what listens on loopback trusts whoever reaches it.
#[test]
fn the_hosts_loopback_cannot_be_reached() {
    let session = Session::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).expect("the same port");
    listener.set_nonblocking(true).expect("an option");
    udp.set_nonblocking(true).expect("an option");
    for address in [
        "10.0.2.2",
        "10.0.2.3",
        "127.0.0.1",
        "0.0.0.0",
        "169.254.169.254",
        "[fd00:6b69:6c6e::2]",
        "[::1]",
        "[::ffff:127.0.0.1]",
    ] {
        let outcome = session.run("--rm", "netprobe", &format!("connect {address}:{port}"));
        outcome.succeeds().prints("tcp ");
        assert!(
            !outcome.text().contains("connected"),
            "{address}\n{outcome}"
        );
        assert!(
            listener.accept().is_err(),
            "{address} leads to the host's loopback address"
        );
        assert!(
            udp.recv(&mut [0; 100]).is_err(),
            "{address} leads to the host's loopback address"
        );
    }
}

/// Names are looked up by the host's resolver: here one of the test's own, in a namespace of its own.
#[test]
fn names_are_looked_up() {
    let netns = match Netns::new() {
        Ok(netns) => netns,
        Err(reason) => return skip(reason),
    };
    let (Some(unshare), Some(_)) = (find_program(&["unshare"]), find_program(&["mount"])) else {
        return skip("`unshare` is not installed");
    };
    let session = Session::new();
    let resolv = session.file("resolv.conf");
    std::fs::write(&resolv, "nameserver 127.0.0.1\n").expect("a file");
    let resolver = netns.within(|| {
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).expect("the DNS port of the namespace")
    });
    thread::spawn(move || answer(&resolver));
    for (name, expected) in [
        ("host.example", "found [192.0.2.7]"),
        ("absent.example", "not found: NameNotFound"),
        ("localhost", "found ["),
        ("198.51.100.9", "found [198.51.100.9]"),
    ] {
        let words = Session::words("--rm", "netprobe", &format!("lookup {name}"));
        let script = format!(
            "mount --bind {} /etc/resolv.conf && exec {} {}",
            resolv.display(),
            kiln_system_tests::kiln().display(),
            words.join(" ")
        );
        let args = ["-m", "sh", "-c", &script].map(str::to_owned);
        let outcome = Running::start(&mut netns.command(&session, &unshare, &args)).finish();
        outcome.succeeds().prints(expected);
    }
}

/// A resolver (RFC 1035) that knows the address of one name, no other address of it, and no other name.
fn answer(socket: &UdpSocket) {
    let mut query = [0; 1500];
    while let Ok((len, peer)) = socket.recv_from(&mut query) {
        let Some(name_len) = query[12..len].iter().position(|&b| b == 0) else {
            continue;
        };
        let question = &query[12..12 + name_len + 5];
        let known = question.starts_with(b"\x04host\x07example\0");
        let is_address = question[question.len() - 4..] == [0, 1, 0, 1];
        let mut reply = query[..2].to_vec();
        let answers = u8::from(known && is_address);
        // A response, recursion available; "no such name" for all others.
        reply.extend([
            0x81,
            if known { 0x80 } else { 0x83 },
            0,
            1,
            0,
            answers,
            0,
            0,
            0,
            0,
        ]);
        reply.extend(question);
        if answers == 1 {
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
        }
        let _ = socket.send_to(&reply, peer);
    }
}

/// Two guests on the same host: one reaches the other through a port of an address that is not loopback.
#[test]
fn a_guest_reaches_out() {
    let netns = match Netns::new() {
        Ok(netns) => netns,
        Err(reason) => return skip(reason),
    };
    netns.ip("addr add 192.0.2.1/32 dev lo");
    netns.ip("addr add 2001:db8::1/128 dev lo nodad");
    netns.ip("route add default dev lo");
    let session = Session::new();
    let listener = netns
        .within(|| TcpListener::bind((Ipv4Addr::new(192, 0, 2, 1), 4000)).expect("a listener"));
    let six: SocketAddr = "[2001:db8::1]:4000".parse().expect("an address");
    let listener6 = netns.within(|| TcpListener::bind(six).expect("a listener"));
    for listener in [listener, listener6] {
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.write_all(b"welcome");
            }
        });
    }
    let udp =
        netns.within(|| UdpSocket::bind((Ipv4Addr::new(192, 0, 2, 1), 4000)).expect("a socket"));
    thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(b"hi!", peer);
        }
    });
    let run = |address: &str| {
        netns
            .start_guest(&session, "--rm", "netprobe", &format!("connect {address}"))
            .finish()
    };
    run("192.0.2.1:4000")
        .succeeds()
        .prints("tcp connected, Ok(Ok(7))")
        .prints("udp Ok(3)");
    run("[2001:db8::1]:4000")
        .succeeds()
        .prints("tcp connected, Ok(Ok(7))");
    run("192.0.2.1:4001")
        .succeeds()
        .prints("tcp ConnectionRefused");
}

#[test]
fn an_idle_server_uses_no_processor_time() {
    let server = Server::start("");
    let mut stream = connect(server.echo);
    stream.write_all(b"x").expect("written");
    stream.read_exact(&mut [0]).expect("an echo");
    let (guest, supervisor) = server.session.pids("server");
    let used =
        || kiln_system_tests::host::cpu_time(guest) + kiln_system_tests::host::cpu_time(supervisor);
    thread::sleep(Duration::from_millis(500));
    let before = used();
    thread::sleep(Duration::from_secs(2));
    let used = used().saturating_sub(before);
    assert!(
        used <= Duration::from_millis(20),
        "{used:?} of processor time in two idle seconds"
    );
    drop(stream);
    eventually("it still answers", || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, server.echo)).is_ok()
    });
}
