//! Streams of bytes over wires of all kinds: every byte arrives, once, in order.

use std::time::Duration;

use super::{B4, B6, Faults, Setup, World, config_a, config_b, pattern, socket};
use crate::{Offloads, TcpListener, TcpStream};

const LENGTH: usize = 1 << 20;

/// Both sides send a mebibyte at the same time, half close, and compare what they got.
fn both_ways(config: impl Fn(Setup) -> Setup, faults: Faults, v6: bool) -> World {
    let mut world = World::new();
    let a = world.stack(config(config_a()));
    let b = world.stack(config(config_b()));
    world.faults = faults;
    let target = if v6 { socket(B6, 80) } else { socket(B4, 80) };
    let listener = TcpListener::bind(&b, target).expect("binds");
    world.spawn("server", async move {
        let (stream, _) = listener.accept().await.expect("accepts");
        exchange(stream).await;
    });
    world.spawn("client", async move {
        exchange(TcpStream::connect(&a, target).await.expect("connects")).await;
    });
    world.run();
    world
}

async fn exchange(stream: TcpStream) {
    let data = pattern(LENGTH);
    let expected = data.clone();
    let (mut reader, mut writer) = stream.into_split();
    let sending = async move {
        let mut rest = &data[..];
        while !rest.is_empty() {
            let count = writer.write(rest).await.expect("writes");
            rest = &rest[count..];
        }
    };
    let receiving = async move {
        let mut buffer = std::vec![0; 5000];
        let mut at = 0;
        loop {
            let count = reader.read(&mut buffer).await.expect("reads");
            if count == 0 {
                break;
            }
            assert_eq!(buffer[..count], expected[at..at + count], "at {at}");
            at += count;
        }
        assert_eq!(at, LENGTH);
    };
    join(sending, receiving).await;
}

/// Both, whichever ends first.
async fn join(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let mut a = std::boxed::Box::pin(a);
    let mut b = std::boxed::Box::pin(b);
    let (mut a_done, mut b_done) = (false, false);
    std::future::poll_fn(|context| {
        a_done = a_done || a.as_mut().poll(context).is_ready();
        b_done = b_done || b.as_mut().poll(context).is_ready();
        if a_done && b_done {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

fn all_offloads(config: Setup) -> Setup {
    config.memory_budget(64 << 20).offloads(Offloads {
        checksum: true,
        tso4: true,
        tso6: true,
    })
}

#[test]
fn over_a_perfect_wire() {
    both_ways(|config| config, Faults::default(), false);
    both_ways(|config| config, Faults::default(), true);
}

#[test]
fn over_a_wire_that_loses_one_frame_in_twenty() {
    let faults = Faults {
        loss: 50,
        ..Faults::default()
    };
    both_ways(|config| config, faults, false);
    both_ways(|config| config.memory_budget(32 << 20), faults, true);
}

#[test]
fn over_a_wire_that_repeats_and_reorders() {
    let faults = Faults {
        loss: 10,
        duplication: 50,
        reordering: 100,
    };
    both_ways(|config| config, faults, false);
    both_ways(|config| config, faults, true);
}

#[test]
fn with_all_offloads_a_mebibyte_takes_few_frames() {
    for v6 in [false, true] {
        let world = both_ways(all_offloads, Faults::default(), v6);
        for node in &world.nodes {
            if let super::Node::Stack(stack) = node {
                let stats = stack.stats();
                assert!(stats.frames_out < 600, "{stats:?}");
            }
        }
    }
}

#[test]
fn with_all_offloads_over_a_bad_wire() {
    let faults = Faults {
        loss: 30,
        duplication: 20,
        reordering: 50,
    };
    both_ways(all_offloads, faults, false);
    both_ways(all_offloads, faults, true);
}

#[test]
fn a_reader_that_pauses_stops_the_writer_and_then_gets_everything() {
    let (mut world, a, b) = World::pair();
    let listener = TcpListener::bind(&b, socket(B4, 80)).expect("binds");
    let accepted = std::rc::Rc::new(std::cell::Cell::new(None));
    let keep = accepted.clone();
    world.spawn("acceptor", async move {
        keep.set(Some(listener.accept().await.expect("accepts").0));
    });
    world.spawn("writer", async move {
        let mut stream = TcpStream::connect(&a, socket(B4, 80))
            .await
            .expect("connects");
        stream.write_all(&pattern(100_000)).await.expect("writes");
    });
    world.pass(Duration::from_mins(2));
    assert_eq!(world.waiting(), ["writer"]);
    let mut stream = accepted.take().expect("accepted");
    world.spawn("reader", async move {
        let mut all = std::vec::Vec::new();
        let mut buffer = [0; 777];
        loop {
            match stream.read(&mut buffer).await.expect("reads") {
                0 => break,
                count => all.extend_from_slice(&buffer[..count]),
            }
        }
        assert_eq!(all, pattern(100_000));
    });
    world.run();
}

#[test]
fn a_program_that_ends_closes_what_it_has_left_open() {
    let mut world = World::new();
    let a = world.stack(config_a());
    let b = world.stack(config_b());
    let target = socket(B4, 80);
    let listener = TcpListener::bind(&b, target).expect("binds");
    let stack = b.clone();
    world.spawn("server", async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        stream.write_all(b"the last").await.expect("writes");
        assert_eq!(stack.unheard(), 0);
        stack.close_all();
        assert!(stack.unheard() > 0, "nobody has heard of it yet");
        // What the program still holds does no harm.
        drop((stream, listener));
    });
    world.spawn("client", async move {
        let mut stream = TcpStream::connect(&a, target).await.expect("connects");
        let mut buffer = [0; 100];
        let count = stream.read(&mut buffer).await.expect("reads");
        assert_eq!(&buffer[..count], b"the last");
        assert_eq!(stream.read(&mut buffer).await, Ok(0), "an orderly end");
    });
    world.run();
    assert_eq!(b.unheard(), 0, "all was heard");
}
