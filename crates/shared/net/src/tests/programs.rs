//! Programs with TCP: connecting, echoing, being refused, reset, left alone.

use std::boxed::Box;
use std::cell::Cell;
use std::future::poll_fn;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use std::vec::Vec;

use embedded_io_async::{Read, Write};
use kiln_abi::NetHeader;

use super::{A4, A6, B4, B6, Setup, World, config_a, socket};
use crate::{Error, ListenOptions, Stack, TcpListener, TcpStream};

fn backlog(backlog: usize) -> ListenOptions {
    ListenOptions {
        backlog,
        ..ListenOptions::default()
    }
}

/// Accepts one connection and returns every byte.
async fn echo_one(listener: TcpListener) {
    let (mut stream, _) = listener.accept().await.expect("accepts");
    let mut buffer = [0; 1000];
    loop {
        match Read::read(&mut stream, &mut buffer).await.expect("reads") {
            0 => break,
            count => Write::write_all(&mut stream, &buffer[..count])
                .await
                .expect("writes"),
        }
    }
}

async fn read_to_end(stream: &mut TcpStream) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(all),
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
}

#[test]
fn an_echo_over_each_family() {
    for (bind, target) in [
        (socket(Ipv4Addr::UNSPECIFIED, 7), socket(B4, 7)),
        (socket(Ipv6Addr::UNSPECIFIED, 7), socket(B6, 7)),
        (socket(Ipv6Addr::UNSPECIFIED, 7), socket(B4, 7)),
        (socket(B6, 7), socket(B6, 7)),
    ] {
        let (mut world, a, b) = World::pair();
        let listener = TcpListener::bind(&b, bind).expect("binds");
        world.spawn("server", echo_one(listener));
        world.spawn("client", async move {
            let mut stream = TcpStream::connect(&a, target).await.expect("connects");
            assert_eq!(stream.peer_addr(), Ok(target));
            stream.write_all(b"over and out").await.expect("writes");
            stream.shutdown().await.expect("shuts down");
            assert_eq!(stream.write(b"x").await, Err(Error::BrokenPipe));
            assert_eq!(
                read_to_end(&mut stream).await.expect("reads"),
                b"over and out"
            );
        });
        world.run();
        assert_eq!(b.stats().accepted, 1);
    }
}

#[test]
fn a_v4_listener_does_not_take_v6() {
    let (mut world, a, b) = World::pair();
    let listener = TcpListener::bind(&b, socket(Ipv4Addr::UNSPECIFIED, 7)).expect("binds");
    world.spawn("client", async move {
        let refused = TcpStream::connect(&a, socket(B6, 7)).await;
        assert_eq!(refused.err(), Some(Error::ConnectionRefused));
        drop(listener);
    });
    world.run();
}

#[test]
fn the_guest_reaches_itself() {
    for target in [
        socket(Ipv4Addr::LOCALHOST, 80),
        socket(Ipv6Addr::LOCALHOST, 80),
        socket(Ipv4Addr::UNSPECIFIED, 80),
        socket(A4, 80),
        socket(A6, 80),
    ] {
        let mut world = World::new();
        let a = world.stack(config_a());
        let listener = TcpListener::bind(&a, socket(Ipv6Addr::UNSPECIFIED, 80)).expect("binds");
        world.spawn("server", echo_one(listener));
        let stack = a.clone();
        world.spawn("client", async move {
            let mut stream = TcpStream::connect(&stack, target).await.expect("connects");
            let data = super::pattern(100_000);
            for chunk in data.chunks(1000) {
                stream.write_all(chunk).await.expect("writes");
                let mut back = [0; 1000];
                Read::read_exact(&mut stream, &mut back)
                    .await
                    .expect("reads");
                assert_eq!(back, *chunk);
            }
        });
        world.run();
        assert_eq!(a.stats().frames_out, world_announcements(&a));
    }
}

/// Frames that a stack sends without being asked: multicast reports only, so nothing of a connection.
fn world_announcements(stack: &Stack) -> u64 {
    let out = stack.stats().frames_out;
    assert!(out < 8, "local traffic on the wire: {out} frames");
    out
}

#[test]
fn nobody_listens() {
    let (mut world, a, _b) = World::pair();
    world.spawn("client", async move {
        let refused = TcpStream::connect(&a, socket(B4, 9)).await;
        assert_eq!(refused.err(), Some(Error::ConnectionRefused));
        let nobody = TcpStream::connect(&a, socket(Ipv4Addr::LOCALHOST, 9)).await;
        assert_eq!(nobody.err(), Some(Error::ConnectionRefused));
        assert_eq!(a.stats().open, 0);
    });
    world.run();
}

#[test]
fn nobody_answers_and_nowhere_to_go() {
    let mut world = World::new();
    let a = world.stack(config_a());
    world.spawn("client", async move {
        let silent = TcpStream::connect(&a, socket([10, 0, 0, 77], 80)).await;
        assert_eq!(silent.err(), Some(Error::Unreachable));
        let far = TcpStream::connect(&a, socket([8, 8, 8, 8], 80)).await;
        assert_eq!(far.err(), Some(Error::Unreachable));
        let zero = TcpStream::connect(&a, socket(B4, 0)).await;
        assert_eq!(zero.err(), Some(Error::InvalidInput));
    });
    let bare = world.stack(Setup::new([2, 0, 0, 0, 0, 9], [3; 32]));
    world.spawn("bare", async move {
        let homeless = TcpStream::connect(&bare, socket(B4, 80)).await;
        assert_eq!(homeless.err(), Some(Error::AddressNotAvailable));
    });
    world.run();
}

#[test]
fn an_abort_is_a_reset_at_the_other_end() {
    let (mut world, a, b) = World::pair();
    let listener = TcpListener::bind(&b, socket(B4, 80)).expect("binds");
    world.spawn("server", async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        let mut byte = [0];
        stream.read(&mut byte).await.expect("reads");
        stream.abort();
    });
    world.spawn("client", async move {
        let mut stream = TcpStream::connect(&a, socket(B4, 80))
            .await
            .expect("connects");
        stream.write_all(b"x").await.expect("writes");
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).await, Err(Error::ConnectionReset));
        assert_eq!(stream.write(b"x").await, Err(Error::ConnectionReset));
    });
    world.run();
}

#[test]
fn a_peer_that_vanishes_is_found_out() {
    let (mut world, a, b) = World::pair();
    let listener = TcpListener::bind(&b, socket(B4, 80)).expect("binds");
    let gone = Rc::new(Cell::new(false));
    let flag = gone.clone();
    world.spawn("server", async move {
        let (stream, _) = listener.accept().await.expect("accepts");
        flag.set(true);
        poll_fn(|_| Poll::<()>::Pending).await;
        drop(stream);
    });
    let outcome = Rc::new(Cell::new(None));
    let result = outcome.clone();
    world.spawn("client", async move {
        let mut stream = TcpStream::connect(&a, socket(B4, 80))
            .await
            .expect("connects");
        stream.set_keepalive(Some(Duration::from_secs(10)));
        stream.set_timeout(Some(Duration::from_secs(35)));
        result.set(Some(stream.read(&mut [0]).await));
    });
    world.pass(Duration::from_secs(100));
    assert!(gone.get());
    assert_eq!(outcome.get(), None, "keep-alives were answered");
    world.faults.loss = 1000;
    world.pass(Duration::from_secs(100));
    assert_eq!(outcome.get(), Some(Err(Error::TimedOut)));
}

#[test]
fn an_idle_connection_is_left_alone() {
    let (mut world, a, b) = World::pair();
    let listener = TcpListener::bind(&b, socket(B4, 80)).expect("binds");
    world.spawn("server", echo_one(listener));
    let streams = Rc::new(Cell::new(None));
    let keep = streams.clone();
    world.spawn("client", async move {
        let stream = TcpStream::connect(&a, socket(B4, 80))
            .await
            .expect("connects");
        stream.set_timeout(Some(Duration::from_secs(5)));
        keep.set(Some(stream));
    });
    world.pass(Duration::from_secs(1000));
    let mut stream = streams.take().expect("connected");
    world.spawn("later", async move {
        stream.write_all(b"still there").await.expect("writes");
        let mut back = [0; 11];
        Read::read_exact(&mut stream, &mut back)
            .await
            .expect("reads");
    });
    world.run();
}

#[test]
fn ports_are_exclusive_where_addresses_overlap() {
    let (_, a, _) = World::pair();
    let v4 = TcpListener::bind(&a, socket(Ipv4Addr::UNSPECIFIED, 80)).expect("binds");
    let used = |address: std::net::IpAddr| TcpListener::bind(&a, socket(address, 80)).err();
    assert_eq!(used(A4.into()), Some(Error::AddressInUse));
    assert_eq!(
        used(Ipv6Addr::UNSPECIFIED.into()),
        Some(Error::AddressInUse)
    );
    assert_eq!(used(A6.into()), None);
    drop(v4);
    assert_eq!(used(A4.into()), None);
    let foreign = TcpListener::bind(&a, socket(B4, 80));
    assert_eq!(foreign.err(), Some(Error::AddressNotAvailable));
    let one = TcpListener::bind(&a, socket(A4, 0)).expect("binds");
    let two = TcpListener::bind(&a, socket(A4, 0)).expect("binds");
    assert!(one.local_addr().port() >= 32_768);
    assert_ne!(one.local_addr(), two.local_addr());
}

#[test]
fn dropped_connections_finish_and_leave_nothing_behind() {
    let (mut world, a, b) = World::pair();
    let listener = TcpListener::bind(&b, socket(B4, 80)).expect("binds");
    world.spawn("server", async move {
        for _ in 0..20 {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            stream.write_all(&[7; 3000]).await.expect("writes");
            // Dropped with everything still to be sent.
        }
    });
    let client = a.clone();
    world.spawn("client", async move {
        for _ in 0..20 {
            let mut stream = TcpStream::connect(&client, socket(B4, 80))
                .await
                .expect("connects");
            assert_eq!(read_to_end(&mut stream).await.expect("reads"), [7; 3000]);
        }
    });
    world.run();
    world.pass(Duration::from_secs(1));
    for stack in [&a, &b] {
        let stats = stack.stats();
        assert_eq!((stats.connections, stats.buffer_bytes), (0, 0), "{stats:?}");
    }
    assert_eq!(
        b.stats().time_wait,
        20,
        "the side that closed first remembers"
    );
    world.pass(Duration::from_secs(31));
    b.poll(world.now);
    assert_eq!(b.stats().time_wait, 0);
}

#[test]
fn a_dropped_connection_whose_peer_is_gone_is_freed_in_bounded_time() {
    let (mut world, a, b) = World::pair();
    let listener = TcpListener::bind(&b, socket(B4, 80)).expect("binds");
    world.spawn("server", async move {
        let _stream = listener.accept().await.expect("accepts");
    });
    let client = a.clone();
    world.spawn("client", async move {
        let mut stream = TcpStream::connect(&client, socket(B4, 80))
            .await
            .expect("connects");
        stream.write_all(b"lost").await.expect("writes");
    });
    world.run();
    world.faults.loss = 1000;
    world.pass(Duration::from_secs(31));
    assert_eq!(a.stats().connections, 0);
    assert_eq!(b.stats().connections, 0);
}

/// A SYN from a made-up host.
pub(super) fn syn(host: u8, port: u16, to_port: u16) -> Vec<u8> {
    super::hostile::tcp4([10, 0, 0, host], B4, port, to_port, 1000, 0, 2, &[])
}

#[test]
fn a_flood_of_syns_is_bounded_and_does_not_lock_others_out() {
    let (mut world, a, b) = World::pair();
    let listener = TcpListener::bind_with(&b, socket(B4, 80), backlog(8)).expect("binds");
    for port in 0..1000 {
        b.receive(NetHeader::PLAIN, &syn(50, 1000 + port, 80), world.now);
        assert!(b.stats().half_open <= 128);
    }
    assert_eq!(b.stats().cookies_sent, 872);
    world.spawn("server", echo_one(listener));
    world.spawn("client", async move {
        let mut stream = TcpStream::connect(&a, socket(B4, 80))
            .await
            .expect("connects");
        stream.write_all(b"me").await.expect("writes");
        Read::read_exact(&mut stream, &mut [0; 2])
            .await
            .expect("reads");
    });
    world.run();
    assert_eq!(b.stats().cookies_accepted, 1);
    world.pass(Duration::from_mins(1));
    assert_eq!(b.stats().connections, 0);
}

#[test]
fn a_full_backlog_makes_peers_wait_and_not_fail() {
    let (mut world, a, b) = World::pair();
    let listener = TcpListener::bind_with(&b, socket(B4, 80), backlog(2)).expect("binds");
    let done = Rc::new(Cell::new(0));
    for _ in 0..5 {
        let (client, done) = (a.clone(), done.clone());
        world.spawn("client", async move {
            let mut stream = TcpStream::connect(&client, socket(B4, 80))
                .await
                .expect("connects");
            stream.write_all(b"x").await.expect("writes");
            Read::read_exact(&mut stream, &mut [0])
                .await
                .expect("reads");
            done.set(done.get() + 1);
        });
    }
    world.pass(Duration::from_secs(3));
    assert!(b.stats().backlog_overflows > 0);
    assert_eq!(done.get(), 0);
    world.spawn("server", async move {
        for _ in 0..5 {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            let mut byte = [0];
            stream.read(&mut byte).await.expect("reads");
            stream.write_all(&byte).await.expect("writes");
        }
    });
    world.run();
    assert_eq!(done.get(), 5);
}

#[test]
fn connections_stop_at_the_memory_budget() {
    let mut world = World::new();
    let a = world.stack(config_a().memory_budget(16 << 20));
    let b = world.stack(super::config_b().memory_budget(256 << 10));
    let listener = TcpListener::bind_with(&b, socket(B4, 80), backlog(1000)).expect("binds");
    let held = Rc::new(Cell::new(0));
    let keep = held.clone();
    world.spawn("server", async move {
        let mut streams = Vec::new();
        loop {
            streams.push(listener.accept().await.expect("accepts").0);
            keep.set(streams.len());
        }
    });
    for _ in 0..300 {
        let client = a.clone();
        world.spawn("client", async move {
            let connected = TcpStream::connect(&client, socket(B4, 80)).await;
            poll_fn(|_| Poll::<()>::Pending).await;
            drop(connected);
        });
    }
    world.pass(Duration::from_secs(5));
    let stats = b.stats();
    assert!(stats.buffer_bytes <= (256 << 10), "{stats:?}");
    assert_eq!(stats.accepted, held.get() as u64);
    assert!((200..=256).contains(&held.get()), "{stats:?}");
    assert!(stats.refused > 0 && stats.cookies_sent > 0, "{stats:?}");
}

#[test]
fn halves_work_apart_and_the_last_one_closes() {
    let (mut world, a, b) = World::pair();
    let listener = TcpListener::bind(&b, socket(B4, 80)).expect("binds");
    world.spawn("server", echo_one(listener));
    let stack = a.clone();
    world.spawn("client", async move {
        let stream = TcpStream::connect(&stack, socket(B4, 80))
            .await
            .expect("connects");
        let (mut reader, mut writer) = stream.into_split();
        Write::write_all(&mut writer, b"half")
            .await
            .expect("writes");
        drop(writer);
        let mut back = [0; 8];
        Read::read_exact(&mut reader, &mut back[..4])
            .await
            .expect("reads");
        assert_eq!(reader.read(&mut back).await, Ok(0));
    });
    world.run();
    world.pass(Duration::from_mins(1));
    assert_eq!(a.stats().connections, 0);
}

#[test]
fn a_cancelled_connect_leaves_nothing_behind() {
    let (mut world, a, _b) = World::pair();
    let stack = a.clone();
    world.spawn("client", async move {
        let mut connect = Box::pin(TcpStream::connect(&stack, socket([10, 0, 0, 99], 80)));
        poll_fn(|context| {
            assert!(connect.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
    });
    world.run();
    world.pass(Duration::from_secs(1));
    assert_eq!(a.stats().connections, 0);
}

#[test]
fn a_far_timer_is_set_once_however_often_near_ones_fire() {
    let (mut world, a, b) = World::pair();
    let listener = TcpListener::bind(&b, socket(B4, 80)).expect("binds");
    world.spawn("server", echo_one(listener));
    let stack = a.clone();
    world.spawn("client", async move {
        let mut stream = TcpStream::connect(&stack, socket(B4, 80))
            .await
            .expect("connects");
        stream.set_keepalive(Some(Duration::from_hours(2)));
        loop {
            stream.write_all(b"now and then").await.expect("writes");
            Read::read_exact(&mut stream, &mut [0; 12])
                .await
                .expect("reads");
            super::sleep(&stack, Duration::from_millis(250)).await;
        }
    });
    world.pass(Duration::from_mins(5));
    for stack in [&a, &b] {
        let timers = stack.with(|core| core.connections.wheel.len());
        assert!(timers <= 8, "{timers} timers for one connection");
    }
}
