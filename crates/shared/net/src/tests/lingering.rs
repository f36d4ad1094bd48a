//! Connections that a program has dropped: what was written still arrives, however slow the peer is.

use std::time::Duration;
use std::vec::Vec;

use kiln_abi::NetHeader;

use super::guessing::{introduce, server};
use super::hostile::tcp4;
use super::{B4, Host, World, bytes_of};
use crate::tcp::{Flags, Segment, Seq};

const PEER: [u8; 4] = [10, 0, 0, 9];
const LENGTH: usize = 100_000;
/// Two segments.
const WINDOW: u16 = 1072;

/// What a host has sent.
struct Sent {
    second: u64,
    seq: Seq,
    len: usize,
    flags: Flags,
}

/// A client made by hand, and the server that it talks to.
struct Client {
    world: World,
    server: Host,
    sent: Vec<Sent>,
    begun: kiln_abi::Instant,
}

impl Client {
    /// The server writes 100 KB and drops the connection; before that it reads until the end, if it is to.
    fn new(reads: bool) -> Self {
        let mut world = World::new();
        let (server, listener) = server(&mut world, 1);
        introduce(&world, &server, PEER);
        world.spawn("server", async move {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            if reads {
                assert_eq!(stream.read(&mut [0]).await, Ok(0));
            }
            stream
                .write_all(&std::vec![7; LENGTH])
                .await
                .expect("writes");
        });
        let begun = world.now;
        Self {
            world,
            server,
            sent: Vec::new(),
            begun,
        }
    }

    fn say(&mut self, number: u32, acknowledged: Seq, flags: Flags) {
        let mut frame = tcp4(PEER, B4, 5000, 80, number, acknowledged.0, flags.0, &[]);
        frame[48..50].copy_from_slice(&WINDOW.to_be_bytes());
        let vouched = NetHeader {
            flags: NetHeader::DATA_VALID,
            ..NetHeader::PLAIN
        };
        self.server.receive(vouched, &frame, self.world.now);
        self.collect();
    }

    fn collect(&mut self) {
        let (world, server) = (&mut self.world, &self.server);
        for _ in 0..3 {
            server.poll(world.now);
            world.run_programs();
        }
        let second = world.now.since(self.begun).as_secs();
        server.poll(world.now);
        server.link.transmit(|frames| {
            for (_, frame) in frames.iter() {
                let bytes = bytes_of(&frame);
                if bytes[12..14] == [8, 0] && bytes[23] == 6 {
                    let (_, _, segment) = Segment::parse(&bytes[34..]).expect("a segment");
                    self.sent.push(Sent {
                        second,
                        seq: segment.seq,
                        len: segment.payload.len(),
                        flags: segment.flags,
                    });
                }
            }
            frames.len()
        });
    }

    /// A second goes by.
    fn wait(&mut self) {
        let end = self.world.now + Duration::from_secs(1);
        while self.world.now < end {
            let next = self.server.deadline(self.world.now);
            self.world.now = next.clamp(self.world.now, end);
            self.collect();
        }
    }

    fn when(&self, flags: Flags) -> Option<u64> {
        let sent = self.sent.iter().find(|sent| sent.flags.has(flags));
        sent.map(|sent| sent.second)
    }
}

/// The client takes a window in a second, for as long as `patience`, and closes at once if it is to.
fn talk(closes: bool, patience: u64) -> Client {
    let mut client = Client::new(closes);
    client.say(1000, Seq(0), Flags::SYN);
    let mut next = client.sent.pop().expect("an answer").seq + 1;
    client.say(1001, next, Flags::ACK);
    if closes {
        client.say(1001, next, Flags::FIN | Flags::ACK);
    }
    let number = 1001 + u32::from(closes);
    for second in 0..300 {
        client.wait();
        // What comes next, as far as it is there.
        for sent in &client.sent {
            let fin = sent.flags.has(Flags::FIN) && !sent.flags.has(Flags::RST);
            let end = sent.seq + sent.len as u32 + u32::from(fin);
            if sent.seq <= next && end > next {
                next = end;
            }
        }
        if client.when(Flags::RST).is_some() {
            return client;
        }
        if second < patience {
            client.say(number, next, Flags::ACK);
        }
        if client.when(Flags::FIN).is_some() {
            break;
        }
    }
    client.wait();
    client
}

#[test]
fn a_slow_peer_gets_everything_after_the_program_has_dropped_it() {
    for closes in [false, true] {
        let client = talk(closes, 1000);
        let fin = client.when(Flags::FIN);
        assert_eq!(client.when(Flags::RST), None);
        assert!(
            fin.is_some_and(|second| (90..120).contains(&second)),
            "{fin:?}"
        );
        let bytes: usize = client.sent.iter().map(|sent| sent.len).sum();
        assert!((LENGTH..LENGTH + LENGTH / 10).contains(&bytes), "{bytes}");
    }
}

#[test]
fn a_peer_that_falls_silent_is_given_up() {
    for closes in [false, true] {
        let client = talk(closes, 40);
        // Looked at each 30 seconds: data have moved before the second look, not before the third.
        let reset = client.when(Flags::RST);
        assert!(
            reset.is_some_and(|second| (70..=95).contains(&second)),
            "{reset:?}"
        );
        assert_eq!(client.server.stats().lingering, 0);
    }
}
