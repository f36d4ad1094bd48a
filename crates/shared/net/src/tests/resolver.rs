//! UDP programs, and looking up names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::string::String;
use std::time::Duration;
use std::vec::Vec;

use super::{A4, A6, B4, B6, Setup, World, config_a, config_b, socket};
use crate::{Error, Stack, UdpSocket};

#[test]
fn datagrams_over_both_families_and_to_itself() {
    for (server, target) in [
        (socket(Ipv4Addr::UNSPECIFIED, 5000), socket(B4, 5000)),
        (socket(Ipv6Addr::UNSPECIFIED, 5000), socket(B6, 5000)),
        (socket(Ipv6Addr::UNSPECIFIED, 5000), socket(B4, 5000)),
    ] {
        let (mut world, a, b) = World::pair();
        let own = b.clone();
        let socket_b = UdpSocket::bind(&b, server).expect("binds");
        world.spawn("server", async move {
            let mut buffer = [0; 9000];
            for _ in 0..3 {
                let (count, from) = socket_b.recv_from(&mut buffer).await.expect("receives");
                socket_b
                    .send_to(&buffer[..count], from)
                    .await
                    .expect("sends");
            }
        });
        let local = socket(
            if target.is_ipv4() {
                IpAddr::from(Ipv4Addr::LOCALHOST)
            } else {
                IpAddr::from(Ipv6Addr::LOCALHOST)
            },
            5000,
        );
        for (name, stack, target, length) in [
            ("neighbour", a, target, 1200),
            ("itself by address", own.clone(), target, 1200),
            ("itself", own, local, 1200),
        ] {
            world.spawn(name, async move {
                let any = if target.is_ipv4() {
                    socket(Ipv4Addr::UNSPECIFIED, 0)
                } else {
                    socket(Ipv6Addr::UNSPECIFIED, 0)
                };
                let client = UdpSocket::bind(&stack, any).expect("binds");
                client.connect(target).expect("connects");
                let data = super::pattern(length);
                assert_eq!(client.send(&data).await, Ok(length));
                let mut buffer = [0; 9000];
                let count = client.recv(&mut buffer).await.expect("receives");
                assert_eq!(buffer[..count], data);
            });
        }
        world.run();
        assert_eq!(b.stats().udp_sockets, 0);
        assert_eq!(b.stats().buffer_bytes, 0);
    }
}

#[test]
fn long_datagrams_are_fragmented() {
    let (mut world, a, b) = World::pair();
    let server = UdpSocket::bind(&b, socket(Ipv6Addr::UNSPECIFIED, 5000)).expect("binds");
    world.spawn("server", async move {
        let mut buffer = std::vec![0; 9000];
        for _ in 0..2 {
            let (count, _) = server.recv_from(&mut buffer).await.expect("receives");
            assert_eq!(buffer[..count], super::pattern(8000));
        }
    });
    world.spawn("client", async move {
        let client = UdpSocket::bind(&a, socket(Ipv6Addr::UNSPECIFIED, 0)).expect("binds");
        for target in [socket(B4, 5000), socket(B6, 5000)] {
            client
                .send_to(&super::pattern(8000), target)
                .await
                .expect("sends");
        }
        let data = std::vec![0; 65_508];
        let long = client.send_to(&data, socket(B4, 5000)).await;
        assert_eq!(long, Err(Error::MessageTooLong));
        let unbound = UdpSocket::bind(&a, socket(A4, 0)).expect("binds");
        let wrong_family = unbound.send_to(b"x", socket(B6, 1)).await;
        assert_eq!(wrong_family, Err(Error::AddressNotAvailable));
        assert_eq!(unbound.send(b"x").await, Err(Error::NotConnected));
        let taken = UdpSocket::bind(&a, unbound.local_addr().expect("bound"));
        assert_eq!(taken.err(), Some(Error::AddressInUse));
    });
    world.run();
}

/// A name server on a stack, with some names in it. Answers as RFC 1035 asks.
async fn name_server(stack: Stack, address: Ipv4Addr) {
    let server = UdpSocket::bind(&stack, socket(address, 53)).expect("binds");
    let mut buffer = [0; 512];
    loop {
        let (count, from) = server.recv_from(&mut buffer).await.expect("receives");
        let query = &buffer[..count];
        let kind = query[count - 3];
        let mut name = String::new();
        let mut at = 12;
        while query[at] != 0 {
            let end = at + 1 + usize::from(query[at]);
            name.push_str(core::str::from_utf8(&query[at + 1..end]).expect("text"));
            name.push('.');
            at = end;
        }
        let (code, data): (u8, Vec<u8>) = match (name.as_str(), kind) {
            ("both.test.", 1) => (0, Vec::from([192, 0, 2, 1])),
            ("both.test.", 28) => (0, Vec::from(A6.octets())),
            ("four.test.", 1) => (0, Vec::from([192, 0, 2, 4])),
            ("four.test.", _) => (0, Vec::new()),
            ("broken.test.", _) => (2, Vec::new()),
            ("silent.test.", _) => continue,
            _ => (3, Vec::new()),
        };
        let mut reply = query.to_vec();
        reply[2..4].copy_from_slice(&[0x81, 0x80 | code]);
        if !data.is_empty() {
            reply[7] = 1;
            reply.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
            reply.extend(data);
        }
        server.send_to(&reply, from).await.expect("sends");
    }
}

fn with_server(mut setup: Setup) -> Setup {
    setup.link.dns = Vec::from([B4.into()]);
    setup
}

#[test]
fn names_are_looked_up_and_failures_told_apart() {
    let mut world = World::new();
    let a = world.stack(with_server(config_a()));
    let b = world.stack(config_b());
    world.spawn("server", name_server((*b).clone(), B4));
    let (done, result) = (std::rc::Rc::new(std::cell::Cell::new(false)), a.clone());
    let flag = done.clone();
    world.spawn("client", async move {
        let v4 = |last| IpAddr::from([192, 0, 2, last]);
        assert_eq!(
            a.lookup("Both.Test.").await,
            Ok(Vec::from([v4(1), A6.into()]))
        );
        assert_eq!(a.lookup("four.test").await, Ok(Vec::from([v4(4)])));
        assert_eq!(a.lookup("nobody.test").await, Err(Error::NameNotFound));
        assert_eq!(a.lookup("broken.test").await, Err(Error::NameServerFailed));
        assert_eq!(a.lookup("silent.test").await, Err(Error::TimedOut));
        assert_eq!(a.lookup("a b..c").await, Err(Error::InvalidInput));
        assert_eq!(
            a.lookup("10.1.2.3").await,
            Ok(Vec::from([[10, 1, 2, 3].into()]))
        );
        assert_eq!(a.lookup("localhost").await.map(|found| found.len()), Ok(2));
        flag.set(true);
    });
    world.pass(std::time::Duration::from_secs(200));
    assert!(done.get());
    assert_eq!(result.stats().udp_sockets, 0);
}

#[test]
fn lost_questions_are_asked_again() {
    let mut world = World::new();
    let a = world.stack(with_server(config_a()));
    let b = world.stack(config_b());
    world.faults.loss = 300;
    world.spawn("server", name_server((*b).clone(), B4));
    let found = std::rc::Rc::new(std::cell::Cell::new(0));
    let count = found.clone();
    world.spawn("client", async move {
        for _ in 0..10 {
            let answer = a.lookup("four.test").await;
            if answer.is_ok() {
                count.set(count.get() + 1);
            }
        }
    });
    world.pass(std::time::Duration::from_secs(200));
    assert!(found.get() >= 8, "{}", found.get());
}

#[test]
fn without_a_server_there_is_no_waiting() {
    let (mut world, a, _) = World::pair();
    world.spawn("client", async move {
        assert_eq!(a.lookup("x.test").await, Err(Error::NoNameServer));
    });
    world.run();
}

#[test]
fn a_ping_is_answered() {
    let (mut world, a, _b) = World::pair();
    let record = std::rc::Rc::default();
    world.record = Some(std::rc::Rc::clone(&record));
    // Learn the neighbour first, so that the answer has somewhere to go.
    world.spawn("hello", async move {
        let client = UdpSocket::bind(&a, socket(A4, 0)).expect("binds");
        client.send_to(b"x", socket(B4, 9)).await.expect("sends");
    });
    world.pass(std::time::Duration::from_secs(1));
    let ping = super::hostile::icmp4(A4, B4, &[8, 0, 0, 0, 1, 2, 3, 4, b'p', b'i', b'n', b'g']);
    world.inject(ping);
    world.pass(std::time::Duration::from_secs(1));
    let frames: std::cell::Ref<'_, Vec<super::Frame>> = record.borrow();
    let answered = frames
        .iter()
        .any(|(_, frame)| frame.get(34) == Some(&0) && frame.ends_with(b"ping"));
    assert!(answered);
}

#[test]
fn a_sender_that_fills_the_loopback_link_goes_on() {
    let mut world = World::new();
    let a = world.stack(config_a());
    let server = UdpSocket::bind(&a, socket(Ipv4Addr::LOCALHOST, 5000)).expect("binds");
    world.spawn("client", async move {
        let client = UdpSocket::bind(&a, socket(Ipv4Addr::LOCALHOST, 0)).expect("binds");
        let to = server.local_addr().expect("bound");
        // Many times what may wait.
        for _ in 0..10_000 {
            client.send_to(&[7; 100], to).await.expect("sends");
        }
    });
    world.run();
}

#[test]
fn a_link_carries_no_address_but_its_own() {
    let (mut world, a, _b) = World::pair();
    let record = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    world.record = Some(record.clone());
    world.spawn("client", async move {
        let client = UdpSocket::bind(&a, socket(Ipv4Addr::LOCALHOST, 0)).expect("binds");
        let sent = client.send_to(b"x", socket(B4, 5000)).await;
        assert_eq!(sent, Err(Error::AddressNotAvailable));
    });
    world.run();
    let from_itself =
        |frame: &super::Frame| frame.1[12..14] == [8, 0] && frame.1[26..30] == [127, 0, 0, 1];
    assert!(!record.borrow().iter().any(from_itself));
}

#[test]
fn what_a_socket_drops_when_it_gets_a_peer_is_not_counted_any_more() {
    let (mut world, a, b) = World::pair();
    let server = UdpSocket::bind(&b, socket(B4, 5000)).expect("binds");
    world.spawn("client", async move {
        let client = UdpSocket::bind(&a, socket(A4, 0)).expect("binds");
        client
            .send_to(b"stranger", socket(B4, 5000))
            .await
            .expect("sends");
    });
    world.run();
    world.pass(Duration::from_secs(1));
    assert!(b.stats().buffer_bytes > 0);
    server.connect(socket(A4, 9)).expect("connects");
    assert_eq!(b.stats().buffer_bytes, 0);
}
