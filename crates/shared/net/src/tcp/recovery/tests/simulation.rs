//! A sender, a receiver and a link between them that has a rate, a length, a queue, and loses some of what it carries.

use super::super::*;
use crate::tcp::receive::ReceiveBuffer;
use alloc::collections::VecDeque;
use std::println;
use std::vec;

const MSS: u32 = 1448;
const MS: u64 = 1_000_000;
/// Bytes of headers with each segment.
const HEADERS: u64 = 52;

#[derive(Clone, Copy, Debug)]
struct Link {
    /// Bytes per second.
    rate: u64,
    /// Both ways together.
    rtt: u64,
    /// Bytes that wait at most.
    queue: u64,
    /// Per hundred thousand.
    loss: u64,
    /// Of the acknowledgements.
    ack_loss: u64,
    /// Per hundred thousand, delayed by a quarter of the round-trip time.
    reordered: u64,
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    algorithm: Algorithm,
    sack: bool,
    timestamps: bool,
    /// Segments that leave together at most.
    together: u32,
}

#[derive(Clone, Copy)]
struct Packet {
    arrives: u64,
    block: Block,
    clock: u32,
}

struct Answer {
    arrives: u64,
    ack: Seq,
    sack: SackBlocks,
    echo: u32,
}

struct Simulation {
    link: Link,
    peer: Peer,
    now: u64,
    random: u64,
    recovery: Recovery,
    una: Seq,
    nxt: Seq,
    /// When the link has sent what waits.
    free: u64,
    data: VecDeque<Packet>,
    answers: VecDeque<Answer>,
    buffer: ReceiveBuffer,
    recent: u32,
    last_ack: Seq,
    unanswered: u32,
    answer_due: u64,
    dropped: u64,
    limited: bool,
    /// Data there are to send.
    end: Option<Seq>,
}

impl Simulation {
    fn new(link: Link, peer: Peer) -> Self {
        let start = Seq(u32::MAX - 100_000);
        Self {
            link,
            peer,
            now: 1000 * MS,
            random: 0x9e37_79b9_7f4a_7c15,
            recovery: Recovery::new(peer.algorithm, MSS, peer.sack),
            una: start,
            nxt: start,
            free: 0,
            data: VecDeque::new(),
            answers: VecDeque::new(),
            buffer: ReceiveBuffer::new(start, 8 << 20),
            recent: 0,
            last_ack: start,
            unanswered: 0,
            answer_due: u64::MAX,
            dropped: 0,
            limited: false,
            end: None,
        }
    }

    fn chance(&mut self, of: u64) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % 100_000 < of
    }

    fn at(&self) -> Instant {
        Instant::from_nanos(self.now)
    }

    fn clock(&self) -> u32 {
        (self.now / MS) as u32
    }

    fn send(&mut self, block: Block, how: Sending) {
        let clock = if self.peer.timestamps {
            self.clock()
        } else {
            0
        };
        self.recovery.sent(block, how, clock, self.at());
        self.nxt = self.nxt.max(block.end);
        let mut start = block.start;
        while start < block.end {
            let end = (start + MSS).min(block.end);
            let bytes = u64::from(end.since(start)) + HEADERS;
            let waiting = self.free.saturating_sub(self.now) * self.link.rate / 1_000_000_000;
            if waiting + bytes > self.link.queue {
                self.dropped += 1;
            } else {
                self.free = self.free.max(self.now) + bytes * 1_000_000_000 / self.link.rate;
                if self.chance(self.link.loss) {
                    self.dropped += 1;
                } else {
                    let mut arrives = self.free + self.link.rtt / 2;
                    if self.chance(self.link.reordered) {
                        arrives += self.link.rtt / 4;
                    }
                    let packet = Packet {
                        arrives,
                        block: Block { start, end },
                        clock,
                    };
                    let place = self.data.partition_point(|p| p.arrives <= arrives);
                    self.data.insert(place, packet);
                }
            }
            start = end;
        }
    }

    fn fill(&mut self) {
        loop {
            let allowance = self.recovery.allowance();
            let forced = self.recovery.in_flight() == 0;
            self.limited = true;
            if allowance < MSS && !forced {
                return;
            }
            let most = (allowance / MSS).clamp(1, self.peer.together) * MSS;
            if let Some(lost) = self.recovery.next_lost() {
                let end = lost.end.min(lost.start + most);
                self.send(Block { end, ..lost }, Sending::Again);
                continue;
            }
            let mut end = self.nxt + most;
            if let Some(limit) = self.end {
                end = end.min(limit);
            }
            if end <= self.nxt || end.since(self.una) > 4 << 20 {
                self.limited = false;
                return;
            }
            self.send(
                Block {
                    start: self.nxt,
                    end,
                },
                Sending::New,
            );
        }
    }

    fn take_data(&mut self, packet: Packet) {
        if packet.block.start <= self.last_ack {
            self.recent = packet.clock;
        }
        let zeros = vec![0; packet.block.len() as usize];
        let inserted = self.buffer.insert(packet.block.start, &zeros);
        self.buffer.consume(usize::MAX);
        self.unanswered += 1;
        let at_once = inserted.out_of_order || inserted.filled_gap || inserted.duplicate.is_some();
        if at_once || self.unanswered >= 2 {
            self.answer(inserted.duplicate);
        } else if self.answer_due == u64::MAX {
            self.answer_due = self.now + 40 * MS;
        }
    }

    fn answer(&mut self, duplicate: Option<Block>) {
        self.unanswered = 0;
        self.answer_due = u64::MAX;
        self.last_ack = self.buffer.next();
        let mut sack = SackBlocks::default();
        if self.peer.sack {
            if let Some(block) = duplicate {
                sack.push(block);
            }
            for &block in self.buffer.sack().as_slice() {
                sack.push(block);
            }
            if self.peer.timestamps {
                sack.truncate(SackBlocks::WITH_TIMESTAMPS);
            }
        }
        if !self.chance(self.link.ack_loss) {
            self.answers.push_back(Answer {
                arrives: self.now + self.link.rtt / 2,
                ack: self.last_ack,
                sack,
                echo: self.recent,
            });
        }
    }

    fn take_answer(&mut self, answer: &Answer) {
        if answer.ack < self.una {
            return;
        }
        let echo_rtt = Duration::from_millis(u64::from(self.clock().wrapping_sub(answer.echo)));
        let ack = Ack {
            ack: answer.ack,
            sack: &answer.sack,
            snd_nxt: self.nxt,
            echo_rtt: self.peer.timestamps.then_some(echo_rtt),
            echoed: self.peer.timestamps.then_some(answer.echo),
            duplicate: answer.ack == self.una && self.nxt != self.una,
            window_limited: self.limited,
        };
        self.una = answer.ack;
        self.recovery.acked(&ack, self.at());
        assert_eq!(self.recovery.board.una, self.una);
    }

    /// Until the time, or until everything has arrived.
    fn run(&mut self, until: u64) {
        let mut steps = 0u32;
        loop {
            self.fill();
            if steps.is_multiple_of(64) {
                self.recovery.check();
            }
            steps += 1;
            let data = self.data.front().map_or(u64::MAX, |p| p.arrives);
            let answer = self.answers.front().map_or(u64::MAX, |a| a.arrives);
            let timer = self.recovery.deadline().as_nanos();
            let next = data.min(answer).min(timer).min(self.answer_due);
            if next > until || self.end == Some(self.una) {
                self.now = self.now.max(next.min(until));
                self.recovery.check();
                return;
            }
            self.now = self.now.max(next);
            if data == next {
                let packet = self.data.pop_front().expect("there is one");
                self.take_data(packet);
            } else if answer == next {
                let answer = self.answers.pop_front().expect("there is one");
                self.take_answer(&answer);
            } else if timer == next {
                let expired = self.recovery.expire(self.nxt, true, self.at());
                assert!(self.recovery.deadline() > self.at());
                if expired == Expired::Probe {
                    let block = match self.end {
                        Some(end) if end <= self.nxt => self.recovery.tail().expect("a tail"),
                        _ => Block {
                            start: self.nxt,
                            end: self.end.map_or(self.nxt + MSS, |e| e.min(self.nxt + MSS)),
                        },
                    };
                    self.send(block, Sending::Probe);
                }
            } else {
                self.answer(None);
            }
        }
    }

    /// Bytes per second over some seconds.
    fn goodput(&mut self, seconds: u64) -> f64 {
        let mut total = 0.0;
        for _ in 0..seconds {
            let before = self.una;
            self.run(self.now + 1000 * MS);
            total += f64::from(self.una.since(before));
        }
        println!(
            "{:?} {:?}: {:.3} MB/s, {} dropped, {:?}, window {} rtt {:?}",
            self.link,
            self.peer,
            total / seconds as f64 / 1e6,
            self.dropped,
            self.recovery.counters(),
            self.recovery.congestion().window(),
            self.recovery.rtt().smoothed(),
        );
        total / seconds as f64
    }
}

const LINK: Link = Link {
    rate: 12_500_000,
    rtt: 20 * MS,
    queue: 250_000,
    loss: 0,
    ack_loss: 0,
    reordered: 0,
};

const PEER: Peer = Peer {
    sack: true,
    timestamps: true,
    together: 44,
    algorithm: Algorithm::Cubic,
};

/// What a sender of one window of `sqrt(3/2 / p)` segments gets (Mathis et al., 1997).
fn formula(link: &Link) -> f64 {
    let window = (1.5 / (link.loss as f64 / 100_000.0)).sqrt();
    (window * f64::from(MSS) / (link.rtt as f64 / 1e9)).min(link.rate as f64)
}

#[test]
fn the_link_is_filled_without_loss() {
    for algorithm in [Algorithm::Cubic, Algorithm::Reno] {
        for together in [1, 10, 44] {
            let peer = Peer {
                algorithm,
                together,
                ..PEER
            };
            let goodput = Simulation::new(LINK, peer).goodput(20);
            assert!(goodput > 0.9 * LINK.rate as f64);
        }
    }
}

#[test]
fn random_loss_costs_what_the_formula_says() {
    for loss in [100, 1000, 5000] {
        for algorithm in [Algorithm::Cubic, Algorithm::Reno] {
            for (sack, timestamps) in [(true, true), (true, false), (false, true), (false, false)] {
                let link = Link { loss, ..LINK };
                let peer = Peer {
                    algorithm,
                    sack,
                    timestamps,
                    ..PEER
                };
                let goodput = Simulation::new(link, peer).goodput(60);
                let share = goodput / formula(&link);
                println!("  {share:.2} of the formula");
                let least = match (sack, loss) {
                    (true, 5000) => 0.7,
                    (true, _) => 0.85,
                    (false, 5000) => 0.2,
                    (false, _) => 0.5,
                };
                assert!(share > least, "{share}");
            }
        }
    }
}

/// Windows of a few segments, as one loss in twenty leaves them, both ways: every part of a segment counts.
#[test]
fn small_windows_get_what_the_formula_says() {
    let link = Link {
        loss: 5000,
        ack_loss: 5000,
        ..LINK
    };
    let mut goodput = 0.0;
    for seed in 1..=5 {
        let mut simulation = Simulation::new(link, PEER);
        simulation.random ^= seed * 0x1234_5678_9abc;
        goodput += simulation.goodput(60) / 5.0;
    }
    let share = goodput / formula(&link);
    assert!(share > 0.8, "{share:.2} of the formula");
}

#[test]
fn reordering_is_no_loss() {
    let link = Link {
        reordered: 1000,
        ..LINK
    };
    let goodput = Simulation::new(link, PEER).goodput(20);
    assert!(goodput > 0.8 * LINK.rate as f64);
}

#[test]
fn lost_acknowledgements_do_not_matter() {
    let link = Link {
        ack_loss: 20_000,
        ..LINK
    };
    let goodput = Simulation::new(link, PEER).goodput(20);
    assert!(goodput > 0.9 * LINK.rate as f64);
}

#[test]
fn everything_arrives_at_last() {
    for seed in 1..60 {
        let link = Link {
            loss: 20_000,
            ack_loss: 10_000,
            reordered: 5_000,
            ..LINK
        };
        let peer = Peer {
            sack: seed % 3 != 0,
            timestamps: seed % 2 == 0,
            ..PEER
        };
        let mut simulation = Simulation::new(link, peer);
        simulation.random ^= seed * 0x1234_5678_9abc;
        let end = simulation.nxt + (seed as u32) * 4000;
        simulation.end = Some(end);
        let until = simulation.now + 600_000 * MS;
        simulation.run(until);
        assert_eq!(simulation.una, end, "seed {seed} {:?}", simulation.recovery);
    }
}
