//! What must be said although there is no room for it.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{A4, B4, Host, World, bytes_of, config_a, config_b, socket};
use crate::{Buffers, Error, ListenOptions, TcpListener, TcpStream, UdpSocket};

/// Datagrams until the link's queue takes no more of TCP.
fn fill(host: &Host, to: SocketAddr) {
    let noise = UdpSocket::bind(host, socket(std::net::Ipv4Addr::UNSPECIFIED, 0)).expect("binds");
    let mut context = Context::from_waker(Waker::noop());
    let mut sent = 0;
    while let Poll::Ready(result) = pin!(noise.send_to(&[0; 1400], to)).poll(&mut context) {
        result.expect("sends");
        sent += 1;
        assert!(sent < 1000, "the queue is never full");
    }
}

/// A connection from `a` to `b`: both ends, in this order.
fn connection(world: &mut World, a: &Host, b: &Host) -> (TcpStream, TcpStream) {
    let ends = Rc::new((Cell::new(None), Cell::new(None)));
    let (client, server) = (ends.clone(), ends.clone());
    let listener = TcpListener::bind(b, socket(B4, 80)).expect("binds");
    let stack = a.clone();
    world.spawn("server", async move {
        server
            .1
            .set(Some(listener.accept().await.expect("accepts").0));
    });
    world.spawn("client", async move {
        let stream = TcpStream::connect(&stack, socket(B4, 80)).await;
        client.0.set(Some(stream.expect("connects")));
    });
    world.run();
    (
        ends.0.take().expect("a stream"),
        ends.1.take().expect("a stream"),
    )
}

#[test]
fn a_reset_waits_for_room() {
    let (mut world, a, b) = World::pair();
    let (client, mut server) = connection(&mut world, &a, &b);
    fill(&a, socket(B4, 9));
    client.abort();
    a.poll(world.now);
    world.spawn("server", async move {
        assert_eq!(server.read(&mut [0]).await, Err(Error::ConnectionReset));
    });
    world.pass(Duration::from_millis(10));
    assert_eq!(b.stats().established, 0, "the peer was not told");
    assert_eq!(a.stats().connections, 0, "and then it is forgotten");
    world.run();
}

#[test]
fn the_last_acknowledgement_waits_for_room() {
    let (mut world, a, b) = World::pair();
    let (client, server) = connection(&mut world, &a, &b);
    drop(client);
    world.pass(Duration::from_millis(100));
    drop(server);
    b.poll(world.now);
    let mut frames = std::vec::Vec::new();
    b.link.transmit(|ready| {
        frames.extend(
            ready
                .iter()
                .map(|(_, frame)| (frame.header, bytes_of(&frame))),
        );
        ready.len()
    });
    assert_eq!(frames.len(), 1, "its FIN");
    fill(&a, socket(B4, 9));
    a.receive(frames[0].0, &frames[0].1, world.now);
    a.poll(world.now);
    // Less than a retransmission of the FIN takes.
    world.pass(Duration::from_millis(20));
    assert_eq!((a.stats().connections, a.stats().time_wait), (0, 1));
    assert_eq!(b.stats().connections, 0, "its FIN is not acknowledged");
}

#[test]
fn an_acknowledgement_counts_even_if_there_is_no_room_for_the_data_with_it() {
    let mut world = World::new();
    let limits = Buffers {
        receive: 1 << 20,
        send: 1 << 20,
    };
    let mut setup = config_a().memory_budget(256 << 10);
    setup.stack = setup.stack.buffers(limits);
    let a = world.stack(setup);
    let b = world.stack(config_b().memory_budget(16 << 20));
    let listener = TcpListener::bind(&a, socket(A4, 80)).expect("binds");
    let (asked, go) = (Rc::new(Cell::new(None)), Rc::new(Cell::new(false)));
    let (keep, went) = (asked.clone(), go.clone());
    world.spawn("reads nothing", async move {
        let (first, _) = listener.accept().await.expect("accepts");
        keep.set(Some(first));
        let mut others = std::vec::Vec::new();
        loop {
            others.push(listener.accept().await.expect("accepts"));
        }
    });
    let peer = b.clone();
    world.spawn("answers", async move {
        let mut first = TcpStream::connect(&b, socket(A4, 80))
            .await
            .expect("connects");
        first.write_all(&[1; 5000]).await.expect("writes");
        let mut question = [0; 8];
        first.read(&mut question).await.expect("reads");
        first.write_all(b"answer").await.expect("writes");
        went.set(true);
        poll_fn(|_| Poll::<()>::Pending).await;
    });
    world.pass(Duration::from_secs(1));
    // Each fills the window that it is offered at first.
    for _ in 0..5 {
        let stack = peer.clone();
        world.spawn("writes much", async move {
            let stream = TcpStream::connect(&stack, socket(A4, 80)).await;
            let data = std::vec![2; 1 << 20];
            let _ = stream.expect("connects").write_all(&data).await;
        });
    }
    world.pass(Duration::from_secs(2));
    assert!(a.stats().dropped_memory > 0, "{:?}", a.stats());
    let before = a.stats().retransmits;
    let mut stream = asked.take().expect("a stream");
    let held = Rc::new(Cell::new(None));
    let kept = held.clone();
    world.spawn("asks", async move {
        stream.write_all(b"question").await.expect("writes");
        kept.set(Some(stream));
    });
    world.pass(Duration::from_secs(2));
    assert!(go.get() && held.take().is_some());
    assert_eq!(
        a.stats().retransmits,
        before,
        "the acknowledgement was not taken"
    );
}

#[test]
fn who_lingers_gives_way_before_anybody_who_is_held() {
    const EACH: usize = 90;
    let mut world = World::new();
    let a = world.stack(config_a().memory_budget(256 << 10));
    let b = world.stack(config_b().memory_budget(16 << 20));
    let options = ListenOptions {
        backlog: 1000,
        ..ListenOptions::default()
    };
    let listener = TcpListener::bind_with(&a, socket(A4, 80), options).expect("binds");
    let accepted = Rc::new(Cell::new(0));
    let count = accepted.clone();
    world.spawn("server", async move {
        let mut held = std::vec::Vec::new();
        loop {
            let (stream, _) = listener.accept().await.expect("accepts");
            count.set(count.get() + 1);
            // Those in the middle are closed here, and their peers never close.
            if (EACH..2 * EACH).contains(&held.len()) {
                drop(stream);
                held.push(None);
            } else {
                held.push(Some(stream));
            }
        }
    });
    for round in 1..=3 {
        for _ in 0..EACH {
            let client = b.clone();
            world.spawn("client", async move {
                let stream = TcpStream::connect(&client, socket(A4, 80)).await;
                poll_fn(|_| Poll::<()>::Pending).await;
                drop(stream);
            });
        }
        world.pass(Duration::from_secs(8));
        let stats = a.stats();
        assert_eq!(accepted.get(), round * EACH, "{stats:?}");
        assert_eq!(stats.lingering_dropped > 0, round == 3, "{stats:?}");
        assert_eq!(stats.established_resets, 0, "{stats:?}");
    }
    assert_eq!(a.stats().established, 2 * EACH, "{:?}", a.stats());
}

#[test]
fn listeners_that_share_an_address_share_its_peers() {
    let (mut world, a, b) = World::pair();
    let options = ListenOptions {
        reuse_port: true,
        ..ListenOptions::default()
    };
    let taken = Rc::new([const { Cell::new(0) }; 3]);
    for index in 0..3 {
        let listener = TcpListener::bind_with(&b, socket(B4, 80), options).expect("binds");
        let taken = taken.clone();
        world.spawn("server", async move {
            let mut held = std::vec::Vec::new();
            loop {
                held.push(listener.accept().await.expect("accepts").0);
                taken[index].set(held.len());
            }
        });
    }
    let alone = TcpListener::bind(&b, socket(B4, 80));
    assert_eq!(alone.err(), Some(Error::AddressInUse));
    for _ in 0..90 {
        let client = a.clone();
        world.spawn("client", async move {
            let stream = TcpStream::connect(&client, socket(B4, 80)).await;
            let stream = stream.expect("connects");
            poll_fn(|_| Poll::<()>::Pending).await;
            drop(stream);
        });
    }
    world.pass(Duration::from_secs(1));
    let taken = [0, 1, 2].map(|index| taken[index].get());
    assert_eq!(taken.iter().sum::<usize>(), 90);
    assert!(taken.iter().all(|&count| count >= 15), "{taken:?}");
}

#[test]
fn writers_keep_to_the_budget() {
    let mut world = World::new();
    let a = world.stack(config_a().memory_budget(4 << 20));
    let b = world.stack(config_b());
    let count = 100;
    let streams = Rc::new(std::cell::RefCell::new(std::vec::Vec::new()));
    let listener = TcpListener::bind(&a, socket(A4, 80)).expect("binds");
    let held = streams.clone();
    world.spawn("server", async move {
        for _ in 0..count {
            let (stream, _) = listener.accept().await.expect("accepts");
            held.borrow_mut().push(stream);
        }
    });
    let clients = Rc::new(std::cell::RefCell::new(std::vec::Vec::new()));
    for _ in 0..count {
        let (stack, clients) = (b.clone(), clients.clone());
        world.spawn("client", async move {
            let stream = TcpStream::connect(&stack, socket(A4, 80))
                .await
                .expect("connects");
            clients.borrow_mut().push(stream);
        });
    }
    world.run();
    let data = std::vec![7; 1 << 20];
    let mut context = Context::from_waker(Waker::noop());
    let mut taken = 0;
    for stream in streams.borrow_mut().iter_mut() {
        if let Poll::Ready(Ok(count)) = pin!(stream.write(&data)).poll(&mut context) {
            taken += count;
        }
    }
    // One write may pass it, and each may have a few bytes.
    assert!((1 << 20..6 << 20).contains(&taken), "{taken}");
}
