use alloc::vec;

use proptest::prelude::*;

use super::*;
use crate::wait::Events;

const STREAM: u64 = 1;
const DGRAM: u64 = 2;
const SEQPACKET: u64 = 5;

fn pair(program: &Program, kind: u64) -> (u64, u64) {
    program
        .call(SOCKETPAIR, &[1, kind | NONBLOCK, 0, DATA])
        .unwrap();
    let [a, b]: [i32; 2] = UserAddr(DATA).read().unwrap();
    (a as u64, b as u64)
}

/// `struct sockaddr_un` with an abstract name.
fn named(name: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, 0, 0];
    bytes.extend(name);
    bytes
}

/// Control data that pass descriptors.
fn rights(fds: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::from((16 + 4 * fds.len() as u64).to_ne_bytes());
    bytes.extend([1, 0, 0, 0, 1, 0, 0, 0]);
    for fd in fds {
        bytes.extend((*fd as u32).to_ne_bytes());
    }
    bytes
}

#[test]
fn a_pair_of_streams_talks_until_one_end_is_closed() {
    let program = Program::new();
    let (a, b) = pair(&program, STREAM);
    assert_eq!(program.ready(a), Events::WRITABLE);
    program.send(a, b"hello ", 0).unwrap();
    program.send(a, b"world", 0).unwrap();
    assert_eq!(program.receive(b, 4, 2).unwrap(), b"hell");
    assert_eq!(program.receive(b, 100, 0).unwrap(), b"hello world");
    assert_eq!(program.receive(b, 100, 0), Err(Errno::EAGAIN));
    program.send(a, b"last", 0).unwrap();
    program.close(a);
    let ready = program.ready(b);
    assert!(ready.contains(Events::READABLE | Events::RDHUP | Events::HUP));
    assert_eq!(program.receive(b, 100, 0).unwrap(), b"last");
    assert_eq!(program.receive(b, 100, 0).unwrap(), b"");
    assert_eq!(program.send(b, b"x", 0x4000), Err(Errno::EPIPE));
}

/// A short record would have room, but the one that is to be sent has none: the sender sleeps rather than try again at once.
#[test]
fn a_long_record_waits_for_its_own_room() {
    for kind in [DGRAM, SEQPACKET] {
        let program = Program::new();
        program
            .call(SOCKETPAIR, &[1, kind, 0, DATA])
            .expect("a pair");
        let [a, b]: [i32; 2] = UserAddr(DATA).read().expect("two numbers");
        let (a, b) = (a as u64, b as u64);
        assert_eq!(program.send(a, &[1; 100], 0), Ok(100));
        let long = 212_992 - 10;
        assert_eq!(
            program.call(SENDTO, &[a, DATA, long, 0, 0, 0]),
            Err(Errno::ERESTARTSYS)
        );
        assert_eq!(program.ready(a), Events::empty());
        assert_eq!(program.receive(b, 100, 0).map(|data| data.len()), Ok(100));
        assert_eq!(program.ready(a), Events::WRITABLE);
        assert_eq!(program.call(SENDTO, &[a, DATA, long, 0, 0, 0]), Ok(long));
    }
}

#[test]
fn a_long_chain_of_sockets_that_carry_each_other_is_closed() {
    let program = Program::new();
    let (first, mut last) = pair(&program, STREAM);
    for _ in 0..20_000 {
        let (next, other) = pair(&program, STREAM);
        program.send_message(last, b"x", &rights(&[next])).unwrap();
        program.close(last);
        program.close(next);
        last = other;
    }
    program.close(first);
    assert!(program.ready(last).contains(Events::HUP));
}

#[test]
fn a_connection_whose_acceptance_fails_is_closed() {
    let program = Program::new();
    let listener = program.socket(1, STREAM);
    let name = named(b"failing");
    program.with_address(BIND, listener, &name).unwrap();
    program.call(LISTEN, &[listener, 1]).unwrap();
    let client = program.socket(1, STREAM);
    program.with_address(CONNECT, client, &name).unwrap();
    let failed = program.call(ACCEPT4, &[listener, 8, 8, NONBLOCK]);
    assert_eq!(failed, Err(Errno::EFAULT));
    assert!(program.ready(client).contains(Events::HUP));
}

#[test]
fn closing_with_unread_data_is_a_reset() {
    let program = Program::new();
    let (a, b) = pair(&program, STREAM);
    program.send(a, b"unread", 0).unwrap();
    program.close(b);
    assert!(program.ready(a).contains(Events::ERR | Events::HUP));
    assert_eq!(program.receive(a, 10, 0), Err(Errno::ECONNRESET));
    assert_eq!(program.receive(a, 10, 0).unwrap(), b"");
}

#[test]
fn records_and_datagrams_keep_their_borders() {
    for kind in [DGRAM, SEQPACKET] {
        let program = Program::new();
        let (a, b) = pair(&program, kind);
        program.send(a, b"one", 0).unwrap();
        program.send(a, b"second", 0).unwrap();
        assert_eq!(program.receive(b, 100, 0).unwrap(), b"one");
        let (bytes, _, flags) = program.receive_message(b, 3, 0).unwrap();
        assert_eq!((&bytes[..], flags), (&b"sec"[..], 0x20));
        assert_eq!(program.receive(b, 100, 0), Err(Errno::EAGAIN));
        program.call(SHUTDOWN, &[a, 1]).unwrap();
        assert_eq!(program.send(a, b"x", 0x4000), Err(Errno::EPIPE));
        program.close(a);
        let end = if kind == DGRAM {
            Err(Errno::EAGAIN)
        } else {
            Ok(Vec::new())
        };
        assert_eq!(program.receive(b, 100, 0), end);
    }
}

#[test]
fn a_listener_has_a_name_a_backlog_and_knows_its_peers() {
    let program = Program::new();
    let listener = program.socket(1, STREAM | NONBLOCK);
    assert_eq!(program.call(LISTEN, &[listener, 0]), Err(Errno::EINVAL));
    let name = named(b"service");
    program.with_address(BIND, listener, &name).unwrap();
    let client = program.socket(1, STREAM | NONBLOCK);
    let refused = program.with_address(CONNECT, client, &name);
    assert_eq!(refused, Err(Errno::ECONNREFUSED));
    program.call(LISTEN, &[listener, 0]).unwrap();
    program.with_address(CONNECT, client, &name).unwrap();
    let second = program.socket(1, STREAM | NONBLOCK);
    let full = program.with_address(CONNECT, second, &name);
    assert_eq!(full, Err(Errno::EAGAIN));
    assert!(!program.ready(second).contains(Events::WRITABLE));
    assert_eq!(program.ready(listener), Events::READABLE);
    // What was written before it was accepted is there.
    program.send(client, b"early", 0).unwrap();
    let server = program.call(ACCEPT4, &[listener, 0, 0, NONBLOCK]).unwrap();
    assert_eq!(program.receive(server, 10, 0).unwrap(), b"early");
    assert_eq!(program.name(GETSOCKNAME, server).unwrap(), name);
    assert_eq!(program.name(GETPEERNAME, client).unwrap(), name);
    assert_eq!(program.name(GETPEERNAME, server).unwrap(), [1, 0]);
    assert_eq!(program.get(server, 1, 17, 12).unwrap()[..4], [1, 0, 0, 0]);
    program.with_address(CONNECT, second, &name).unwrap();
    program.close(listener);
    assert_eq!(program.receive(second, 1, 0), Err(Errno::ECONNRESET));
    let gone = program.with_address(CONNECT, program.socket(1, STREAM), &name);
    assert_eq!(gone, Err(Errno::ECONNREFUSED));
}

#[test]
fn descriptors_are_passed_with_the_first_byte() {
    for kind in [STREAM, DGRAM] {
        let program = Program::new();
        let (a, b) = pair(&program, kind);
        let (c, d) = pair(&program, STREAM);
        program.send(a, b"before", 0).unwrap();
        program.send_message(a, b"with", &rights(&[c, c])).unwrap();
        program.send(a, b"after", 0).unwrap();
        program.close(c);
        let (bytes, control, _) = program.receive_message(b, 100, 64).unwrap();
        assert_eq!((&bytes[..], control.len()), (&b"before"[..], 0));
        let (bytes, control, flags) = program.receive_message(b, 100, 64).unwrap();
        assert_eq!((&bytes[..], control.len(), flags), (&b"with"[..], 24, 0));
        let passed = u64::from(control[16]);
        assert_eq!(program.receive(b, 100, 0).unwrap(), b"after");
        program.send(passed, b"through", 0).unwrap();
        assert_eq!(program.receive(d, 100, 0).unwrap(), b"through");
        // Without room the descriptors are closed, and that is told.
        program.send_message(a, b"x", &rights(&[a])).unwrap();
        let (_, control, flags) = program.receive_message(b, 100, 0).unwrap();
        assert_eq!((control.len(), flags), (0, 8));
        let unknown = program.send_message(a, b"x", &rights(&[99]));
        assert_eq!(unknown, Err(Errno::EBADF));
    }
}

#[test]
fn credentials_are_those_of_a_process() {
    let program = Program::new();
    let (a, _) = pair(&program, DGRAM);
    let with = |pid: u32| {
        let mut control = Vec::from(28_u64.to_ne_bytes());
        for word in [1, 2, pid, 0, 0] {
            control.extend(u32::to_ne_bytes(word));
        }
        program.send_message(a, b"x", &control)
    };
    assert_eq!(with(1), Ok(1));
    assert_eq!(with(99_999), Err(Errno::ESRCH));
    assert_eq!(with(0), Err(Errno::ESRCH));
    // SO_PEEK_OFF
    assert_eq!(program.set(a, 1, 42, 0), Err(Errno::EOPNOTSUPP));
    assert_eq!(program.get(a, 1, 42, 4), Err(Errno::EOPNOTSUPP));
}

#[test]
fn datagrams_go_to_names() {
    let program = Program::new();
    let server = program.socket(1, DGRAM | NONBLOCK);
    program.with_address(BIND, server, &named(b"log")).unwrap();
    let client = program.socket(1, DGRAM | NONBLOCK);
    program.send_to(client, b"a", &named(b"log")).unwrap();
    assert_eq!(
        program.receive_from(server, 10),
        Ok((b"a".to_vec(), Vec::new()))
    );
    // Five digits are chosen for whoever binds without a name.
    program.with_address(BIND, client, &[1, 0]).unwrap();
    assert_eq!(program.name(GETSOCKNAME, client).unwrap().len(), 8);
    program
        .with_address(CONNECT, client, &named(b"log"))
        .unwrap();
    let mut count = 0;
    while program.send(client, &[0; 100], 0).is_ok() {
        count += 1;
        assert!(count < 10_000);
    }
    assert!(!program.ready(client).contains(Events::WRITABLE));
    program.receive(server, 100, 0).unwrap();
    assert!(program.ready(client).contains(Events::WRITABLE));
    program.close(server);
    assert_eq!(program.send(client, b"x", 0), Err(Errno::ECONNREFUSED));
    let taken = program.socket(1, DGRAM);
    assert!(program.with_address(BIND, taken, &named(b"log")).is_ok());
}

#[test]
fn who_asks_is_told_who_sent() {
    let program = Program::new();
    let (a, b) = pair(&program, STREAM);
    program.set(b, 1, 16, 1).unwrap();
    program.send(a, b"x", 0).unwrap();
    let (_, control, _) = program.receive_message(b, 10, 64).unwrap();
    assert_eq!(control[12..20], [2, 0, 0, 0, 1, 0, 0, 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is written and read in whatever pieces, with descriptors here and there: every byte arrives once and in order.
    #[test]
    fn a_stream_brings_every_byte_once(
        steps in prop::collection::vec((any::<bool>(), 1_usize..30_000, any::<bool>()), 1..60),
    ) {
        let program = Program::new();
        let (a, b) = pair(&program, STREAM);
        let (mut written, mut read, mut passed, mut got) = (0_u32, 0_u32, 0, 0);
        let byte = |at: u32| (at.wrapping_mul(31) >> 3) as u8;
        for (writes, len, with) in steps {
            if writes {
                let bytes: Vec<u8> = (written..).take(len).map(byte).collect();
                let control = if with { rights(&[a]) } else { Vec::new() };
                if let Ok(count) = program.send_message(a, &bytes, &control) {
                    written += count as u32;
                    passed += u32::from(with);
                }
            } else if let Ok((bytes, control, _)) = program.receive_message(b, len as u64, 64) {
                for found in bytes {
                    prop_assert_eq!(found, byte(read));
                    read += 1;
                }
                if !control.is_empty() {
                    got += 1;
                    program.close(u64::from(u32::from_ne_bytes([control[16], control[17], control[18], control[19]])));
                }
            }
        }
        while let Ok((bytes, control, _)) = program.receive_message(b, 9000, 64) {
            for found in bytes {
                prop_assert_eq!(found, byte(read));
                read += 1;
            }
            got += u32::from(!control.is_empty());
        }
        prop_assert_eq!(read, written);
        prop_assert_eq!(got, passed);
    }
}

fn on_their_way() -> usize {
    crate::kernel().network.in_flight.total()
}

#[test]
fn sockets_that_only_messages_hold_are_closed() {
    let program = Program::new();
    for kind in [STREAM, DGRAM, SEQPACKET] {
        // Over itself.
        let (a, b) = pair(&program, kind);
        program.send_message(b, b"x", &rights(&[a])).unwrap();
        program.close(a);
        program.close(b);
        assert_eq!(on_their_way(), 0);
        // Each over the other one's connection.
        let ((a, b), (c, d)) = (pair(&program, kind), pair(&program, kind));
        program.send_message(b, b"x", &rights(&[c])).unwrap();
        program.send_message(d, b"x", &rights(&[a])).unwrap();
        let (watched, other) = pair(&program, STREAM);
        program.send_message(b, b"y", &rights(&[other])).unwrap();
        for fd in [a, b, c, d, other] {
            program.close(fd);
        }
        assert_eq!(on_their_way(), 0);
        assert!(program.ready(watched).contains(Events::HUP));
        program.close(watched);
    }
}

#[test]
fn sockets_that_can_still_be_received_stay() {
    let program = Program::new();
    let (keeper, to_keeper) = pair(&program, STREAM);
    let ((a, b), (c, d)) = (pair(&program, STREAM), pair(&program, STREAM));
    // A cycle, and a way into it.
    program.send_message(b, b"x", &rights(&[c])).unwrap();
    program.send_message(d, b"x", &rights(&[a])).unwrap();
    program
        .send_message(to_keeper, b"x", &rights(&[a]))
        .unwrap();
    for fd in [a, b, c, d] {
        program.close(fd);
    }
    assert_eq!(on_their_way(), 3);
    program.close(keeper);
    program.close(to_keeper);
    assert_eq!(on_their_way(), 0);
}

#[test]
fn a_connection_that_waits_with_its_own_listener_is_closed() {
    let program = Program::new();
    let listener = program.socket(1, STREAM);
    let name = named(b"own");
    program.with_address(BIND, listener, &name).unwrap();
    program.call(LISTEN, &[listener, 1]).unwrap();
    let client = program.socket(1, STREAM);
    program.with_address(CONNECT, client, &name).unwrap();
    program
        .send_message(client, b"x", &rights(&[listener]))
        .unwrap();
    program.close(listener);
    program.close(client);
    assert_eq!(on_their_way(), 0);
}

#[test]
fn so_many_files_may_be_on_their_way() {
    const SETRLIMIT: u64 = 160;
    const SETUID: u64 = 105;
    const NOFILE: u64 = 7;
    let program = Program::new();
    let (a, b) = pair(&program, STREAM);
    UserAddr(DATA).write([20_u64, 20]).unwrap();
    program.call(SETRLIMIT, &[NOFILE, DATA]).unwrap();
    program.call(SETUID, &[1000]).unwrap();
    let many = [a; 8];
    let mut sent = 0;
    let refused = loop {
        match program.send_message(a, b"x", &rights(&many)) {
            Ok(_) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((sent, refused), (3, Errno::ETOOMANYREFS));
    assert_eq!(on_their_way(), 24);
    program.close(b);
    assert_eq!(on_their_way(), 0);
}

/// Nobody closes such a socket: its descriptor goes, and the message that holds it stays.
#[test]
fn sockets_sent_over_themselves_do_not_pile_up() {
    let program = Program::new();
    for _ in 0..3000 {
        let (a, b) = pair(&program, STREAM);
        program.send_message(a, b"x", &rights(&[a, b])).unwrap();
        program.close(a);
        program.close(b);
    }
    assert!(on_their_way() <= 1024, "{}", on_their_way());
    // One that somebody closes finds the others.
    let (a, b) = pair(&program, STREAM);
    for _ in 0..200 {
        let (c, d) = pair(&program, STREAM);
        program.close(c);
        program.close(d);
    }
    assert_eq!(on_their_way(), 0);
    program.close(a);
    program.close(b);
}

#[test]
fn only_streams_without_a_reader_raise_a_signal() {
    use crate::signal::{bit, number, set_blocked, waiting_for};
    for (kind, raised) in [(STREAM, bit(number::PIPE)), (SEQPACKET, 0)] {
        let program = Program::new();
        set_blocked(&program.thread, bit(number::PIPE));
        let (a, b) = pair(&program, kind);
        program.close(b);
        assert_eq!(program.send(a, b"x", 0), Err(Errno::EPIPE));
        assert_eq!(waiting_for(&program.thread), raised, "kind {kind}");
    }
}

#[test]
fn a_writer_learns_of_a_reset_by_a_broken_pipe_and_a_reader_afterwards() {
    let program = Program::new();
    let (a, b) = pair(&program, STREAM);
    program.send(a, b"unread", 0).unwrap();
    program.close(b);
    assert_eq!(program.send(a, b"x", 0x4000), Err(Errno::EPIPE));
    assert_eq!(program.receive(a, 10, 0), Err(Errno::ECONNRESET));
    assert_eq!(program.receive(a, 10, 0).unwrap(), b"");
}

#[test]
fn each_type_of_socket_has_abstract_names_of_its_own() {
    let program = Program::new();
    let name = named(b"both");
    let bind = |kind| {
        let fd = program.socket(1, kind);
        program.with_address(BIND, fd, &name).map(|_| fd)
    };
    let all = [STREAM, DGRAM, SEQPACKET].map(|kind| bind(kind).unwrap());
    assert_eq!(bind(DGRAM), Err(Errno::EADDRINUSE));
    let client = program.socket(1, DGRAM);
    assert_eq!(program.send_to(client, b"x", &name), Ok(1));
    program.close(all[1]);
    let to_stream = program.send_to(client, b"x", &name);
    assert_eq!(to_stream, Err(Errno::ECONNREFUSED));
    assert!(bind(DGRAM).is_ok());
}

#[test]
fn a_listener_that_is_shut_down_has_ended() {
    let program = Program::new();
    let listener = program.socket(1, STREAM);
    program.with_address(BIND, listener, &named(b"x")).unwrap();
    program.call(LISTEN, &[listener, 1]).unwrap();
    assert_eq!(program.ready(listener), Events::empty());
    program.call(SHUTDOWN, &[listener, 0]).unwrap();
    let read = Events::READABLE | Events::RDHUP;
    assert_eq!(program.ready(listener), read);
    program.call(SHUTDOWN, &[listener, 1]).unwrap();
    assert_eq!(program.ready(listener), read | Events::HUP);
}

#[test]
fn connecting_to_a_busy_listener_ends_with_the_timeout() {
    let program = Program::new();
    let listener = program.socket(1, STREAM);
    let name = named(b"busy");
    program.with_address(BIND, listener, &name).unwrap();
    program.call(LISTEN, &[listener, 0]).unwrap();
    let [first, second] = [0, 1].map(|_| program.socket(1, STREAM));
    program.with_address(CONNECT, first, &name).unwrap();
    // SO_SNDTIMEO: a millisecond.
    UserAddr(DATA).write([0_u64, 1000]).unwrap();
    program
        .call(SETSOCKOPT, &[second, 1, 21, DATA, 16])
        .unwrap();
    let late = program.with_address(CONNECT, second, &name);
    assert_eq!(late, Err(Errno::EAGAIN));
}
