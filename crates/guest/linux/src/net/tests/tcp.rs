use alloc::vec;
use core::net::Ipv6Addr;

use super::*;
use crate::wait::Events;

const STREAM: u64 = 1;
const LOCAL: [u8; 4] = [127, 0, 0, 1];

/// A listener at a port of its own, and the port.
fn listener(program: &Program) -> (u64, u16) {
    let fd = program.socket(2, STREAM);
    program.with_address(BIND, fd, &address4(LOCAL, 0)).unwrap();
    program.call(LISTEN, &[fd, 16]).unwrap();
    let port = port_of(&program.name(GETSOCKNAME, fd).unwrap());
    (fd, port)
}

/// Two ends of a connection.
fn pair(program: &Program) -> (u64, u64) {
    let (listener, port) = listener(program);
    let client = program.socket(2, STREAM);
    program
        .with_address(CONNECT, client, &address4(LOCAL, port))
        .unwrap();
    let server = program.call(ACCEPT4, &[listener, 0, 0, NONBLOCK]).unwrap();
    program.close(listener);
    (client, server)
}

#[test]
fn a_server_answers_its_client_over_the_loopback_interface() {
    let program = Program::new();
    let (listener, port) = listener(&program);
    assert_eq!(program.number(listener, 1, 30), 1);
    assert_eq!(
        program.call(ACCEPT4, &[listener, 0, 0, 0o7]),
        Err(Errno::EINVAL)
    );
    let client = program.socket(2, STREAM);
    program
        .with_address(CONNECT, client, &address4(LOCAL, port))
        .unwrap();
    assert_eq!(program.ready(listener), Events::READABLE);
    let server = program.call(ACCEPT4, &[listener, 0, 0, NONBLOCK]).unwrap();
    assert_eq!(program.ready(listener), Events::empty());
    assert_eq!(
        program.name(GETPEERNAME, server),
        program.name(GETSOCKNAME, client)
    );
    assert_eq!(
        program.name(GETPEERNAME, client).unwrap(),
        address4(LOCAL, port)
    );
    assert_eq!(program.ready(server), Events::WRITABLE);
    assert_eq!(program.receive(server, 10, 0), Err(Errno::EAGAIN));
    assert_eq!(program.send(client, b"GET key", 0), Ok(7));
    assert_eq!(program.ready(server), Events::WRITABLE | Events::READABLE);
    assert_eq!(program.receive(server, 4, 2).unwrap(), b"GET ");
    assert_eq!(program.receive(server, 4, 0).unwrap(), b"GET ");
    assert_eq!(program.receive(server, 100, 0).unwrap(), b"key");
    assert_eq!(program.send(server, b"value", 0), Ok(5));
    assert_eq!(program.receive(client, 100, 0).unwrap(), b"value");
    program.close(client);
    let end = Events::READABLE | Events::RDHUP;
    assert_eq!(program.ready(server), end | Events::WRITABLE);
    assert_eq!(program.receive(server, 100, 0).unwrap(), b"");
    assert_eq!(program.receive(server, 100, 0).unwrap(), b"");
}

#[test]
fn half_of_a_connection_is_closed_by_shutdown() {
    let program = Program::new();
    let (client, server) = pair(&program);
    program.send(client, b"last", 0).unwrap();
    program.call(SHUTDOWN, &[client, 1]).unwrap();
    assert_eq!(program.send(client, b"more", 0x4000), Err(Errno::EPIPE));
    assert_eq!(program.receive(server, 10, 0).unwrap(), b"last");
    assert_eq!(program.receive(server, 10, 0).unwrap(), b"");
    program.send(server, b"answer", 0).unwrap();
    assert_eq!(program.receive(client, 10, 0).unwrap(), b"answer");
    program.call(SHUTDOWN, &[server, 1]).unwrap();
    assert!(program.ready(client).contains(Events::HUP | Events::RDHUP));
    assert_eq!(
        program.call(SHUTDOWN, &[program.socket(2, STREAM), 1]),
        Err(Errno::ENOTCONN)
    );
}

#[test]
fn urgent_data_go_in_line() {
    let program = Program::new();
    let (a, b) = pair(&program);
    assert_eq!(program.send(a, b"ab!", 1), Ok(3));
    assert_eq!(program.receive(b, 9, 0), Ok(b"ab!".to_vec()));
    assert_eq!(program.receive(b, 9, 1), Err(Errno::EINVAL));
}

#[test]
fn a_peer_that_closed_and_then_resets_is_a_broken_pipe() {
    let program = Program::new();
    let (a, b) = pair(&program);
    program.close(a);
    assert_eq!(program.send(b, b"x", 0x4000), Ok(1));
    assert_eq!(program.send(b, b"x", 0x4000), Err(Errno::EPIPE));
    assert_eq!(program.number(b, 1, 4), 0, "it was told");
    assert_eq!(program.receive(b, 9, 0), Ok(vec![]));
}

#[test]
fn a_reset_is_told_once() {
    let program = Program::new();
    let (client, server) = pair(&program);
    UserAddr(DATA).write([1_u32, 0]).unwrap();
    program.call(SETSOCKOPT, &[client, 1, 13, DATA, 8]).unwrap();
    program.close(client);
    let ready = program.ready(server);
    assert!(ready.contains(Events::ERR | Events::HUP | Events::READABLE));
    assert_eq!(program.receive(server, 10, 0), Err(Errno::ECONNRESET));
    assert_eq!(program.receive(server, 10, 0).unwrap(), b"");
    assert_eq!(program.send(server, b"x", 0x4000), Err(Errno::EPIPE));
    assert!(!program.ready(server).contains(Events::ERR));
    assert_eq!(program.number(server, 1, 4), 0);
}

#[test]
fn nobody_listening_refuses() {
    let program = Program::new();
    let (listener, port) = listener(&program);
    program.close(listener);
    let client = program.socket(2, STREAM);
    let to = address4(LOCAL, port);
    assert_eq!(
        program.with_address(CONNECT, client, &to),
        Err(Errno::ECONNREFUSED)
    );
    let client = program.socket(2, STREAM | NONBLOCK);
    let started = program.with_address(CONNECT, client, &to);
    assert_eq!(started, Err(Errno::EINPROGRESS));
    assert!(
        program
            .ready(client)
            .contains(Events::ERR | Events::WRITABLE)
    );
    assert_eq!(program.number(client, 1, 4), Errno::ECONNREFUSED.0 as u32);
    assert_eq!(program.number(client, 1, 4), 0);
}

#[test]
fn connecting_without_waiting_succeeds_later() {
    let program = Program::new();
    let (listener, port) = listener(&program);
    let client = program.socket(2, STREAM | NONBLOCK);
    let to = address4([0, 0, 0, 0], port);
    let started = program.with_address(CONNECT, client, &to);
    assert_eq!(started, Err(Errno::EINPROGRESS));
    assert_eq!(program.ready(client), Events::WRITABLE);
    assert_eq!(program.number(client, 1, 4), 0);
    assert_eq!(program.with_address(CONNECT, client, &to), Ok(0));
    let again = program.with_address(CONNECT, client, &to);
    assert_eq!(again, Err(Errno::EISCONN));
    assert!(program.call(ACCEPT4, &[listener, 0, 0, 0]).is_ok());
}

#[test]
fn a_full_buffer_makes_writers_wait_until_a_third_is_free() {
    let program = Program::new();
    let (client, server) = pair(&program);
    let block = vec![7; 60_000];
    let mut written = 0;
    while let Ok(count) = program.send(client, &block, 0x40) {
        written += count;
        assert!(written < 100 << 20);
    }
    assert!(!program.ready(client).contains(Events::WRITABLE));
    let mut read = 0;
    while let Ok(bytes) = program.receive(server, 60_000, 0x40) {
        assert!(bytes.iter().all(|byte| *byte == 7));
        read += bytes.len() as u64;
    }
    assert_eq!(read, written);
    assert!(program.ready(client).contains(Events::WRITABLE));
}

#[test]
fn addresses_are_shared_as_linux_does() {
    let program = Program::new();
    let (listener, port) = listener(&program);
    let taken = |ip, reuse| {
        let fd = program.socket(2, STREAM);
        program.set(fd, 1, 2, reuse).unwrap();
        program
            .with_address(BIND, fd, &address4(ip, port))
            .map(|_| fd)
    };
    assert_eq!(taken(LOCAL, 0), Err(Errno::EADDRINUSE));
    assert_eq!(taken([0; 4], 1), Err(Errno::EADDRINUSE));
    assert!(taken([127, 0, 0, 2], 0).is_ok());
    program.close(listener);
    let first = taken([127, 0, 0, 3], 1).unwrap();
    let second = taken([127, 0, 0, 3], 1).unwrap();
    assert!(program.call(LISTEN, &[first, 1]).is_ok());
    let other = program.call(LISTEN, &[second, 1]);
    assert_eq!(other, Err(Errno::EADDRINUSE));
}

#[test]
fn ipv6_sockets_take_ipv4_too_unless_told_otherwise() {
    let program = Program::new();
    let both = program.socket(10, STREAM);
    let any = address6(Ipv6Addr::UNSPECIFIED, 0);
    program.with_address(BIND, both, &any).unwrap();
    program.call(LISTEN, &[both, 1]).unwrap();
    let port = port_of(&program.name(GETSOCKNAME, both).unwrap());
    let client = program.socket(2, STREAM);
    let to = address4(LOCAL, port);
    program.with_address(CONNECT, client, &to).unwrap();
    let server = program.call(ACCEPT4, &[both, 0, 0, 0]).unwrap();
    let peer = program.name(GETPEERNAME, server).unwrap();
    let mapped = core::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped();
    assert_eq!(peer[8..24], mapped.octets());

    let only = program.socket(10, STREAM);
    program.set(only, 41, 26, 1).unwrap();
    let bound = program.with_address(BIND, only, &address6(Ipv6Addr::LOCALHOST, 0));
    assert!(bound.is_ok());
    let four = program.socket(2, STREAM);
    let six = program.socket(10, STREAM);
    program.set(six, 41, 26, 1).unwrap();
    let port = port + 1;
    let bound = program.with_address(BIND, four, &address4([0; 4], port));
    assert!(bound.is_ok());
    let bound = program.with_address(BIND, six, &address6(Ipv6Addr::UNSPECIFIED, port));
    assert!(bound.is_ok());
}

#[test]
fn options_are_told_as_they_were_set() {
    let program = Program::new();
    let fd = program.socket(2, STREAM);
    for (level, name) in [(1, 2), (1, 9), (1, 15), (6, 1), (6, 3)] {
        assert_eq!(program.number(fd, level, name), 0);
        program.set(fd, level, name, 1).unwrap();
        assert_eq!(program.number(fd, level, name), 1);
    }
    program.set(fd, 1, 8, 100_000).unwrap();
    assert_eq!(program.number(fd, 1, 8), 200_000);
    assert_eq!(program.number(fd, 1, 3), 1);
    assert_eq!(program.number(fd, 1, 38), 6);
    assert_eq!(program.set(fd, 1, 999, 1), Err(Errno::ENOPROTOOPT));
    assert_eq!(program.set(fd, 6, 999, 1), Err(Errno::ENOPROTOOPT));
    assert_eq!(program.set(fd, 6, 4, 0), Err(Errno::EINVAL));
    assert_eq!(program.get(fd, 6, 13, 16).unwrap()[..6], *b"cubic\0");
    let (client, _) = pair(&program);
    let info = program.get(client, 6, 11, 256).unwrap();
    assert_eq!((info.len(), info[0]), (232, 1));
}

const PEEK: u64 = 0x2;
const TRUNC: u64 = 0x20;
const WAITALL: u64 = 0x100;

#[test]
fn looking_at_all_and_dropping_all_wait_for_all() {
    for (flags, left) in [(PEEK | WAITALL, &b"hello!"[..]), (TRUNC | WAITALL, b"!")] {
        let program = Program::new();
        let (client, server) = pair(&program);
        let open = program.thread.process.files.get(server as i32).unwrap();
        let thread = program.thread.clone();
        program.set(server, 6, 1, 1).unwrap();
        program.send(server, b"he", 0).unwrap();
        pretend::while_asleep(move || {
            let mut from = crate::io::Source::kernel(b"llo!");
            open.file.write(&thread, &open, &mut from).unwrap();
        });
        assert_eq!(program.call(RECVFROM, &[client, DATA, 5, flags]), Ok(5));
        let rest = program.receive(client, 10, 0x40).unwrap_or_default();
        assert_eq!(rest, left);
    }
}

#[test]
fn looking_at_all_ends_with_the_connection() {
    let program = Program::new();
    let (client, server) = pair(&program);
    program.send(server, b"he", 0).unwrap();
    program.close(server);
    let seen = program.receive(client, 5, PEEK | WAITALL);
    assert_eq!(seen.unwrap(), b"he");
}
