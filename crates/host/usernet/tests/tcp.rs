//! TCP between programs of the host and a stand-in guest, all on the loopback interface.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use common::{DNS, GATEWAY, Guest, Host, PATIENCE, echo, loopback_config, with_forwards};
use kiln_usernet::{Config, Error, Framing, Limits, PortForward, Usernet};
use rustix::net::{AddressFamily, SocketType};
use smoltcp::iface::{PollResult, SocketHandle};
use smoltcp::socket::tcp::State;
use smoltcp::wire::IpAddress;

fn client(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Runs the guest as an echo server until the client's thread is done.
fn serve<T>(guest: &mut Guest, handles: &[SocketHandle], client: thread::JoinHandle<T>) -> T {
    guest.run(|guest| {
        for &handle in handles {
            echo(guest.socket(handle));
        }
        client.is_finished()
    });
    client.join().expect("the client succeeds")
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32)
        .map(|i| (i ^ i >> 8 ^ i >> 16) as u8)
        .collect()
}

#[test]
fn a_forward_carries_both_directions_and_both_ends() {
    let (host, mut guest) = Host::start(with_forwards(&["127.0.0.1:0:80"]));
    let address = host.forward(0);
    let server = guest.listen(80, 1 << 16);
    let client = thread::spawn(move || {
        let mut stream = client(address);
        stream.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
        // The guest sees the end of our data and still answers.
        stream.write_all(b"last").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        rest
    });
    assert_eq!(serve(&mut guest, &[server], client), b"last");
    guest.run(|guest| guest.state(server) == State::Closed);
    thread::sleep(Duration::from_millis(50));
    let stats = host.finish().stats();
    assert_eq!((stats.tcp_accepted, stats.tcp_now), (1, 0));
    assert_eq!((stats.tcp_bytes_in, stats.tcp_bytes_out), (9, 9));
}

#[test]
fn the_guest_may_end_its_direction_first() {
    let (host, mut guest) = Host::start(with_forwards(&["127.0.0.1:0:80"]));
    let address = host.forward(0);
    let server = guest.listen(80, 1 << 16);
    let client = thread::spawn(move || {
        let mut stream = client(address);
        let mut greeting = Vec::new();
        stream.read_to_end(&mut greeting).unwrap();
        assert_eq!(greeting, b"bye");
        stream.write_all(&pattern(200_000)).unwrap();
    });
    let mut greeted = false;
    let mut received = Vec::new();
    guest.run(|guest| {
        let socket = guest.socket(server);
        if socket.may_send() && !greeted {
            socket.send_slice(b"bye").unwrap();
            socket.close();
            greeted = true;
        }
        let _ = socket.recv(|data| {
            received.extend_from_slice(data);
            (data.len(), ())
        });
        received.len() == 200_000
    });
    client.join().unwrap();
    assert!(received == pattern(200_000));
}

#[test]
fn bulk_survives_in_both_directions() {
    const LENGTH: usize = 8 << 20;
    let (host, mut guest) = Host::start(with_forwards(&["127.0.0.1:0:80"]));
    let address = host.forward(0);
    let server = guest.listen(80, 1 << 18);
    let client = thread::spawn(move || {
        let mut stream = client(address);
        let mut writer = stream.try_clone().unwrap();
        let writing = thread::spawn(move || {
            writer.write_all(&pattern(LENGTH)).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut answer = Vec::with_capacity(LENGTH);
        stream.read_to_end(&mut answer).unwrap();
        writing.join().unwrap();
        answer
    });
    assert!(serve(&mut guest, &[server], client) == pattern(LENGTH));
    let stats = host.finish().stats();
    assert_eq!(stats.tcp_bytes_in, LENGTH as u64);
    assert_eq!(stats.tcp_bytes_out, LENGTH as u64);
}

#[test]
fn links_without_a_whole_header_carry_the_same() {
    for framing in [Framing::Plain, Framing::ShortHeader] {
        let (host, mut guest) = Host::start(Config {
            framing,
            mtu: 1500,
            ..with_forwards(&["127.0.0.1:0:80"])
        });
        let address = host.forward(0);
        let server = guest.listen(80, 1 << 16);
        let client = thread::spawn(move || {
            let sent = pattern(300_000);
            let mut stream = client(address);
            let mut writer = stream.try_clone().unwrap();
            let copy = sent.clone();
            let writing = thread::spawn(move || {
                writer.write_all(&copy).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            writing.join().unwrap();
            assert!(received == sent, "{framing:?}");
        });
        serve(&mut guest, &[server], client);
        assert_eq!(host.finish().stats().frames_ignored, 0, "{framing:?}");
    }
}

#[test]
fn a_slow_reader_slows_the_guest_and_loses_nothing() {
    const LENGTH: usize = 4 << 20;
    let (host, mut guest) = Host::start(with_forwards(&["127.0.0.1:0:80"]));
    let address = host.forward(0);
    let server = guest.listen(80, 1 << 18);
    let client = thread::spawn(move || {
        let mut stream = client(address);
        stream.shutdown(Shutdown::Write).unwrap();
        thread::sleep(Duration::from_millis(300));
        let mut data = Vec::new();
        stream.read_to_end(&mut data).unwrap();
        data
    });
    let data = pattern(LENGTH);
    let mut sent = 0;
    guest.run(|guest| {
        let socket = guest.socket(server);
        if sent < LENGTH && socket.can_send() {
            sent += socket.send_slice(&data[sent..]).unwrap();
        } else if sent == LENGTH && socket.may_send() {
            socket.close();
        }
        client.is_finished()
    });
    assert!(client.join().unwrap() == data);
    drop(host);
}

/// A connection over a forward whose network is run by the test itself, so that it can end at any moment.
struct Ending {
    network: Usernet,
    guest: Guest,
    server: SocketHandle,
    client: TcpStream,
    /// What the guest's program has written.
    written: Vec<u8>,
}

impl Ending {
    fn new() -> Self {
        let config = with_forwards(&["127.0.0.1:0:80"]);
        let (ours, theirs) = common::link();
        let network = Usernet::new(config.clone(), ours).unwrap();
        let mut guest = Guest::new(theirs, &config, true);
        let server = guest.listen(80, 1 << 18);
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
        rustix::net::connect(&socket, &network.forwards()[0].host).unwrap();
        let client = TcpStream::from(socket);
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut ending = Self {
            network,
            guest,
            server,
            client,
            written: Vec::new(),
        };
        ending.run(|ending| ending.guest.state(server) == State::Established);
        ending
    }

    fn run(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        loop {
            self.guest.poll();
            self.network.run(Instant::now());
            if done(self) {
                return;
            }
            assert!(start.elapsed() < PATIENCE);
        }
    }

    /// The guest writes a piece, and we acknowledge all of it.
    fn write(&mut self, length: usize) {
        let piece = pattern(length);
        let server = self.server;
        assert_eq!(self.guest.socket(server).send_slice(&piece), Ok(length));
        self.written.extend(piece);
        self.run(|ending| ending.guest.socket(server).send_queue() == 0);
    }

    /// The guest writes until so many bytes that we acknowledged wait for the client, who does not read.
    fn write_until_waiting(&mut self, bytes: u64) {
        loop {
            self.write(16 << 10);
            let delivered = self.network.stats().tcp_bytes_out;
            if self.written.len() as u64 - delivered >= bytes {
                return;
            }
            assert!(self.written.len() < 64 << 20, "the host takes all of it");
        }
    }

    /// The guest's FIN, acknowledged.
    fn close(&mut self) {
        let server = self.server;
        self.guest.socket(server).close();
        self.run(|ending| ending.guest.state(server) == State::FinWait2);
    }

    /// The guest ends. What the client then reads to the end, and what was written.
    fn end(self, drained: bool) -> (std::io::Result<Vec<u8>>, Vec<u8>) {
        let Self {
            mut network,
            guest,
            client: mut stream,
            written,
            ..
        } = self;
        drop(guest);
        let mut read = || {
            let mut data = Vec::new();
            stream.read_to_end(&mut data).map(|_| data)
        };
        if !drained {
            // It may notice the end; nobody waits for the client.
            while network.run(Instant::now()) {}
            drop(network);
            return (read(), written);
        }
        let address = network.forwards()[0].host;
        let client = thread::scope(|scope| {
            let client = scope.spawn(&mut read);
            let limit = Instant::now() + PATIENCE;
            while network.drain(Instant::now()) {
                assert!(Instant::now() < limit, "it never ends");
                let deadline = network.deadline().unwrap_or(limit);
                common::wait_readable(&network, deadline.saturating_duration_since(Instant::now()));
            }
            assert_eq!(network.stats().tcp_now, 0);
            // Nobody can be served any more.
            let refused = TcpStream::connect(address).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            drop(network);
            client.join().unwrap()
        });
        (client, written)
    }
}

#[test]
fn what_waits_for_a_slow_client_outlives_the_guest() {
    let mut ending = Ending::new();
    ending.write_until_waiting(24 << 10);
    ending.close();
    let (read, written) = ending.end(true);
    assert!(read.unwrap() == written);
}

#[test]
fn a_client_that_is_not_waited_for_sees_a_reset() {
    let mut ending = Ending::new();
    ending.write_until_waiting(24 << 10);
    ending.close();
    let (read, _) = ending.end(false);
    assert_eq!(
        read.map(|data| data.len()).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[test]
fn a_guest_that_never_ended_its_stream_is_never_an_orderly_end() {
    for (waiting, drained) in [(24 << 10, true), (24 << 10, false), (0, true), (0, false)] {
        let mut ending = Ending::new();
        ending.write_until_waiting(waiting);
        let (read, _) = ending.end(drained);
        let error = read.map(|data| data.len()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_stream_that_was_delivered_ends_in_good_order() {
    for drained in [true, false] {
        let mut ending = Ending::new();
        ending.write(2000);
        ending.close();
        let (read, written) = ending.end(drained);
        assert!(read.unwrap() == written);
    }
}

#[test]
fn frames_that_the_guest_leaves_in_the_link_are_delivered() {
    let mut ending = Ending::new();
    // A frame that the guest does not read: Linux tells of that with an error before the frames that came from it.
    ending.client.write_all(b"are you there?").unwrap();
    let before = ending.network.stats().frames_out;
    while ending.network.stats().frames_out == before {
        ending.network.run(Instant::now());
    }
    ending.written = pattern(30_000);
    let server = ending.server;
    let socket = ending.guest.socket(server);
    assert_eq!(socket.send_slice(&ending.written), Ok(30_000));
    socket.close();
    let now = ending.guest.now();
    let Guest {
        interface,
        wire,
        sockets,
        ..
    } = &mut ending.guest;
    while interface.poll_egress(now, wire, sockets) == PollResult::SocketStateChanged {}
    assert_eq!(ending.guest.state(server), State::FinWait1);
    assert_eq!(ending.network.stats().tcp_bytes_out, 0);
    let (read, written) = ending.end(true);
    assert!(read.unwrap() == written);
}

#[test]
fn a_guest_that_can_send_but_one_segment_at_a_time_does_not_wait() {
    const LENGTH: usize = 4 << 20;
    let (host, mut guest) = Host::start(with_forwards(&["127.0.0.1:0:80"]));
    let address = host.forward(0);
    let server = guest.listen(80, 65_480);
    let client = thread::spawn(move || {
        let start = Instant::now();
        let mut data = Vec::new();
        client(address).read_to_end(&mut data).unwrap();
        (data, start.elapsed())
    });
    let data = pattern(LENGTH);
    let mut sent = 0;
    guest.run(|guest| {
        let socket = guest.socket(server);
        if sent < LENGTH && socket.can_send() {
            sent += socket.send_slice(&data[sent..]).unwrap();
        } else if sent == LENGTH && socket.may_send() {
            socket.close();
        }
        client.is_finished()
    });
    let (received, time) = client.join().unwrap();
    assert!(received == data);
    // 64 delayed acknowledgements, or 64 time-outs, would take longer.
    assert!(time < Duration::from_secs(2), "{time:?}");
    drop(host);
}

#[test]
fn two_hundred_clients_at_once() {
    const CLIENTS: usize = 200;
    let (host, mut guest) = Host::start(with_forwards(&["127.0.0.1:0:80"]));
    let address = host.forward(0);
    let servers: Vec<_> = (0..CLIENTS).map(|_| guest.listen(80, 4096)).collect();
    let clients = thread::spawn(move || {
        let mut streams: Vec<_> = (0..CLIENTS).map(|_| client(address)).collect();
        for round in 0..3_u8 {
            for (i, stream) in streams.iter_mut().enumerate() {
                stream.write_all(&[round, i as u8, 7]).unwrap();
            }
            for (i, stream) in streams.iter_mut().enumerate() {
                let mut answer = [0; 3];
                stream.read_exact(&mut answer).unwrap();
                assert_eq!(answer, [round, i as u8, 7]);
            }
        }
    });
    serve(&mut guest, &servers, clients);
    assert_eq!(host.finish().stats().tcp_accepted, CLIENTS as u64);
}

#[test]
fn clients_wait_for_a_program_that_is_starting() {
    let (host, mut guest) = Host::start(with_forwards(&["127.0.0.1:0:80"]));
    let address = host.forward(0);
    let client = thread::spawn(move || {
        let mut stream = client(address);
        stream.write_all(b"early").unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        answer
    });
    guest.run_for(Duration::from_millis(300));
    let server = guest.listen(80, 4096);
    assert_eq!(&serve(&mut guest, &[server], client), b"early");

    // Once the port has answered, a refusal is a refusal.
    let start = Instant::now();
    let client = thread::spawn(move || TcpStream::connect(address)?.read(&mut [0; 1]));
    let outcome = serve(&mut guest, &[], client);
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(host.finish().stats().tcp_unanswered, 1);
}

#[test]
fn a_port_that_never_answers_is_reset_in_the_end() {
    let (host, mut guest) = Host::start(with_forwards(&["127.0.0.1:0:80"]));
    let address = host.forward(0);
    let start = Instant::now();
    let client = thread::spawn(move || TcpStream::connect(address)?.read(&mut [0; 1]));
    let outcome = serve(&mut guest, &[], client);
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let waited = start.elapsed();
    assert!(waited > Duration::from_secs(2) && waited < Duration::from_secs(6));
    assert_eq!(host.finish().stats().tcp_now, 0);
}

#[test]
fn a_reset_by_the_guest_reaches_the_client() {
    let (host, mut guest) = Host::start(with_forwards(&["127.0.0.1:0:80"]));
    let address = host.forward(0);
    let server = guest.listen(80, 4096);
    let client = thread::spawn(move || client(address).read(&mut [0; 1]));
    guest.run(|guest| guest.state(server) == State::Established);
    guest.socket(server).abort();
    let outcome = serve(&mut guest, &[], client);
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionReset);
    drop(host);
}

#[test]
fn a_client_that_goes_away_resets_the_guest() {
    let (host, mut guest) = Host::start(with_forwards(&["127.0.0.1:0:80"]));
    let address = host.forward(0);
    let server = guest.listen(80, 4096);
    let stream = thread::spawn(move || client(address));
    guest.run(|guest| guest.state(server) == State::Established);
    drop(stream.join().unwrap());
    // It looks like a half-close until the guest sends more.
    guest.run(|guest| guest.state(server) == State::CloseWait);
    guest.socket(server).send_slice(b"anybody there?").unwrap();
    guest.run_for(Duration::from_millis(50));
    let _ = guest.socket(server).send_slice(b"hello?");
    guest.run(|guest| guest.state(server) == State::Closed);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(host.finish().stats().tcp_now, 0);
}

#[test]
fn the_guest_reaches_the_hosts_loopback_if_allowed() {
    for (listen, gateway) in [
        ("127.0.0.1:0", GATEWAY),
        (
            "[::1]:0",
            IpAddress::v6(0xfd00, 0x6b69, 0x6c6e, 0, 0, 0, 0, 2),
        ),
    ] {
        let Ok(listener) = TcpListener::bind(listen) else {
            continue;
        };
        let port = listener.local_addr().unwrap().port();
        let (host, mut guest) = Host::start(loopback_config());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut data = Vec::new();
            stream.read_to_end(&mut data).unwrap();
            stream.write_all(&data).unwrap();
        });
        let handle = guest.connect((gateway, port), 40_000);
        guest.run(|guest| guest.state(handle) == State::Established);
        let data = pattern(100_000);
        guest.socket(handle).send_slice(&data).unwrap();
        guest.socket(handle).close();
        let mut answer = Vec::new();
        guest.run(|guest| {
            let _ = guest.socket(handle).recv(|data| {
                answer.extend_from_slice(data);
                (data.len(), ())
            });
            answer.len() == data.len()
        });
        assert!(answer == data);
        server.join().unwrap();
        assert_eq!(host.finish().stats().tcp_opened, 1);
    }
}

#[test]
fn the_guest_sees_refusals() {
    // A port on which nobody listens: bound and released.
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let (host, mut guest) = Host::start(loopback_config());
    let handle = guest.connect((GATEWAY, port), 40_000);
    guest.run(|guest| guest.state(handle) == State::Closed);
    let stats = host.finish().stats();
    assert_eq!((stats.tcp_failed, stats.tcp_now), (1, 0));
}

#[test]
fn the_hosts_loopback_is_out_of_bounds_otherwise() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (host, mut guest) = Host::start(Config::default());
    let by_gateway = guest.connect((GATEWAY, port), 40_000);
    guest.run(|guest| guest.state(by_gateway) == State::Closed);
    // smoltcp does not act on ICMP errors of TCP connections; that nothing arrives is what counts.
    for (i, target) in [
        IpAddress::v4(127, 0, 0, 1),
        IpAddress::v4(169, 254, 169, 254),
        IpAddress::v4(10, 0, 2, 99),
        IpAddress::v6(0, 0, 0, 0, 0, 0xffff, 0x7f00, 1),
    ]
    .into_iter()
    .enumerate()
    {
        guest.connect((target, port), 40_001 + i as u16);
    }
    guest.run_for(Duration::from_millis(100));
    assert!(listener.accept().is_err());
    let stats = host.finish().stats();
    assert_eq!(stats.tcp_opened, 0);
    assert!(stats.refused >= 2, "{stats}");
}

#[test]
fn dns_over_tcp_goes_to_the_resolver() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config {
        resolvers: vec![listener.local_addr().unwrap()],
        ..Config::default()
    };
    let (host, mut guest) = Host::start(config);
    let handle = guest.connect((DNS, 53), 40_000);
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"\x00\x01x").unwrap();
    });
    guest.run(|guest| guest.socket(handle).can_recv());
    server.join().unwrap();
    let other = guest.connect((DNS, 54), 40_001);
    guest.run(|guest| guest.state(other) == State::Closed);
    drop(host);
}

#[test]
fn a_port_in_use_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = Config {
        forwards: vec![PortForward::tcp(address, 80)],
        ..Config::default()
    };
    let error = Usernet::new(config, common::link().0).unwrap_err();
    assert!(matches!(error, Error::PortInUse { .. }));
    assert_eq!(
        error.to_string(),
        format!(
            "port {} on 127.0.0.1 is in use: choose another with -p",
            address.port()
        )
    );
}

#[test]
fn a_forward_without_address_listens_on_both_families() {
    let (host, mut guest) = Host::start(with_forwards(&["0:80"]));
    assert_eq!(host.forward(0).ip(), Ipv4Addr::UNSPECIFIED);
    for forward in host.forwards.clone() {
        assert_eq!(forward.host.port(), host.forward(0).port());
        let mut address = forward.host;
        address.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
        let server = guest.listen(80, 4096);
        let client = thread::spawn(move || {
            let mut stream = client(address);
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
        });
        serve(&mut guest, &[server], client);
    }
}

#[test]
fn limits_hold() {
    let mut config = with_forwards(&["127.0.0.1:0:80"]);
    config.limits = Limits {
        connections: 4,
        buffer_bytes: 4 << 20,
        ..config.limits
    };
    let (host, mut guest) = Host::start(config);
    let address = host.forward(0);
    let servers: Vec<_> = (0..8).map(|_| guest.listen(80, 4096)).collect();
    // The host's backlog takes them all; four reach the guest, and two more once two have gone.
    let mut clients: Vec<_> = (0..6).map(|_| client(address)).collect();
    let established = |guest: &mut Guest| {
        let states = servers.iter().map(|&s| guest.state(s));
        states.filter(|&s| s == State::Established).count()
    };
    guest.run(|guest| established(guest) == 4);
    guest.run_for(Duration::from_millis(150));
    assert_eq!(established(&mut guest), 4);
    clients.drain(..2);
    guest.run(|guest| {
        for &server in &servers {
            echo(guest.socket(server));
        }
        established(guest) == 4 && {
            let closed = servers.iter().filter(|&&s| {
                !guest
                    .sockets
                    .get::<smoltcp::socket::tcp::Socket>(s)
                    .is_open()
            });
            closed.count() == 2
        }
    });
    drop(host);
}
