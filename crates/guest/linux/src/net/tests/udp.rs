use super::*;
use crate::wait::Events;

const DGRAM: u64 = 2;
const LOCAL: [u8; 4] = [127, 0, 0, 1];

fn bound(program: &Program) -> (u64, Vec<u8>) {
    let fd = program.socket(2, DGRAM | NONBLOCK);
    program.with_address(BIND, fd, &address4(LOCAL, 0)).unwrap();
    let name = program.name(GETSOCKNAME, fd).unwrap();
    (fd, name)
}

#[test]
fn datagrams_keep_their_borders_and_tell_who_sent_them() {
    let program = Program::new();
    let ((a, at_a), (b, at_b)) = (bound(&program), bound(&program));
    assert_eq!(program.ready(b), Events::WRITABLE);
    assert_eq!(program.receive(b, 10, 0), Err(Errno::EAGAIN));
    assert_eq!(program.send_to(a, b"one", &at_b), Ok(3));
    assert_eq!(program.send_to(a, b"", &at_b), Ok(0));
    assert_eq!(program.send_to(a, b"three", &at_b), Ok(5));
    assert!(program.ready(b).contains(Events::READABLE));
    assert_eq!(program.receive(b, 10, 2).unwrap(), b"one");
    assert_eq!(program.receive_from(b, 10), Ok((b"one".to_vec(), at_a)));
    assert_eq!(program.receive(b, 10, 0).unwrap(), b"");
    assert_eq!(program.call(RECVFROM, &[b, DATA, 2, 0x20]), Ok(5));
    assert_eq!(program.receive(b, 10, 0), Err(Errno::EAGAIN));
}

#[test]
fn a_connected_socket_hears_its_peer_alone() {
    let program = Program::new();
    let ((a, at_a), (b, at_b), (c, _)) = (bound(&program), bound(&program), bound(&program));
    assert_eq!(program.send(a, b"x", 0), Err(Errno::EDESTADDRREQ));
    program.with_address(CONNECT, a, &at_b).unwrap();
    assert_eq!(program.name(GETPEERNAME, a).unwrap(), at_b);
    program.send_to(c, b"from c", &at_a).unwrap();
    program.send_to(b, b"from b", &at_a).unwrap();
    assert_eq!(program.receive(a, 10, 0).unwrap(), b"from b");
    program.send(a, b"hello", 0).unwrap();
    assert_eq!(program.receive(b, 10, 0).unwrap(), b"hello");
    program.close(b);
    program.send(a, b"lost", 0).unwrap();
    assert!(program.ready(a).contains(Events::ERR));
    assert_eq!(program.receive(a, 10, 0), Err(Errno::ECONNREFUSED));
    assert_eq!(program.receive(a, 10, 0), Err(Errno::EAGAIN));
    program.with_address(CONNECT, a, &[0, 0]).unwrap();
    assert_eq!(program.name(GETPEERNAME, a), Err(Errno::ENOTCONN));
}

#[test]
fn connecting_tells_the_source_address() {
    let program = Program::new();
    let fd = program.socket(2, DGRAM);
    program
        .with_address(CONNECT, fd, &address4(LOCAL, 53))
        .unwrap();
    let name = program.name(GETSOCKNAME, fd).unwrap();
    assert_eq!(name[4..8], LOCAL);
    assert!(port_of(&name) >= 32_768);
    let nowhere = program.with_address(CONNECT, fd, &address4([192, 0, 2, 1], 53));
    assert_eq!(nowhere, Err(Errno::ENETUNREACH));
}

#[test]
fn control_data_tell_the_destination() {
    let program = Program::new();
    let fd = program.socket(2, DGRAM);
    program
        .with_address(BIND, fd, &address4([0; 4], 0))
        .unwrap();
    program.set(fd, 0, 8, 1).unwrap();
    let port = port_of(&program.name(GETSOCKNAME, fd).unwrap());
    let to = address4([127, 0, 0, 9], port);
    program.send_to(fd, b"to me", &to).unwrap();
    let (bytes, control, flags) = program.receive_message(fd, 3, 64).unwrap();
    assert_eq!((&bytes[..], flags), (&b"to "[..], 0x20));
    assert_eq!(
        control[..16],
        [28, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0]
    );
    assert_eq!(control[16..28], [1, 0, 0, 0, 127, 0, 0, 9, 127, 0, 0, 9]);
}

#[test]
fn pings_are_answered() {
    for (kind, header) in [(DGRAM, 0), (3, 20)] {
        let program = Program::new();
        let fd = program.call(SOCKET, &[2, kind | NONBLOCK, 1]).unwrap();
        let to = address4(LOCAL, 0);
        let request = [8, 0, 0, 0, 0, 7, 0, 1, 1, 2, 3];
        assert_eq!(program.send_to(fd, &request, &to), Ok(11));
        let (answer, from) = program.receive_from(fd, 100).unwrap();
        assert_eq!(from, to);
        assert_eq!(answer.len(), header + 11);
        assert_eq!((answer[header], &answer[header + 6..]), (0, &request[6..]));
        assert_eq!(program.send_to(fd, &[0; 8], &to), Err(Errno::EINVAL));
    }
}

#[test]
fn ports_may_be_taken_again_if_all_agree() {
    let program = Program::new();
    let (_, name) = bound(&program);
    let other = program.socket(2, DGRAM);
    let taken = program.with_address(BIND, other, &name);
    assert_eq!(taken, Err(Errno::EADDRINUSE));
    let any = address4(LOCAL, port_of(&name) ^ 1);
    for _ in 0..2 {
        let fd = program.socket(2, DGRAM);
        program.set(fd, 1, 2, 1).unwrap();
        program.with_address(BIND, fd, &any).unwrap();
    }
}

#[test]
fn shutdown_without_a_peer_fails_and_ends_what_waits() {
    let program = Program::new();
    let fd = program.socket(2, DGRAM);
    program.with_address(BIND, fd, &address4(LOCAL, 0)).unwrap();
    let open = program.thread.process.files.get(fd as i32).unwrap();
    pretend::while_asleep(move || {
        let socket = open.downcast::<crate::net::Socket>().unwrap();
        let how = crate::net::Shutdown {
            read: true,
            write: false,
        };
        let result = socket.protocol.shutdown(socket, how);
        assert_eq!(result, Err(Errno::ENOTCONN));
    });
    assert_eq!(program.receive(fd, 10, 0), Ok(Vec::new()));
    assert!(program.ready(fd).contains(Events::READABLE));
}
