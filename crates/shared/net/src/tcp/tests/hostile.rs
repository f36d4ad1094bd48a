//! Two connections over a link that loses, repeats, delays and reorders: they always deliver the same bytes or say that
//! they could not, come to an end, and never send beyond each other's window.

use std::time::Duration;
use std::vec::Vec;

use kiln_abi::Instant;
use proptest::prelude::*;

use super::dialogue::settings;
use crate::tcp::congestion::Algorithm;
use crate::tcp::*;

/// A segment on its way, with its own data.
#[derive(Clone)]
struct Wire {
    at: Instant,
    outgoing: Outgoing,
    data: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Program {
    /// Bytes to write in all.
    total: u32,
    /// At most so many at once.
    chunk: u32,
    /// Time between its turns.
    pause: Duration,
    /// At most so many bytes are read in a turn.
    appetite: u32,
    /// Closes when it has read everything, not when it has written everything.
    closes_last: bool,
    gso: u32,
}

struct End {
    settings: Settings,
    program: Program,
    iss: Seq,
    /// What the own and the peer's data are made of.
    salts: (u32, u32),
    tcb: Option<Tcb>,
    inbox: Vec<Wire>,
    written: u32,
    read: u32,
    closed: bool,
    ended: bool,
    failed: bool,
    turn: Instant,
    /// The right edge of the peer's window as this end was told.
    edge: Option<Seq>,
    /// The shift of the peer's windows.
    scale: u8,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    /// Of 1000.
    loss: u32,
    duplication: u32,
    reordering: u32,
    delay: Duration,
    jitter: Duration,
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 32) % u64::from(bound.max(1))) as u32
    }
}

fn byte(salt: u32, at: u32) -> u8 {
    (at.wrapping_mul(2_654_435_761).wrapping_add(salt) >> 24) as u8
}

impl End {
    fn new(settings: Settings, program: Program, iss: u32, salts: (u32, u32)) -> Self {
        Self {
            settings,
            program,
            iss: Seq(iss),
            salts,
            tcb: None,
            inbox: Vec::new(),
            written: 0,
            read: 0,
            closed: false,
            ended: false,
            failed: false,
            turn: START,
            edge: None,
            scale: 0,
        }
    }

    /// The program's turn.
    fn act(&mut self, now: Instant) {
        let (salt, peers_salt) = self.salts;
        self.turn = now + self.program.pause;
        let Some(tcb) = &mut self.tcb else {
            return;
        };
        if matches!(tcb.state(), State::SynSent | State::SynReceived) || self.failed {
            self.failed |= tcb.error().is_some();
            return;
        }
        let count = (self.program.total - self.written).min(self.program.chunk);
        if count > 0 && !self.closed {
            let data: Vec<u8> = (self.written..self.written + count)
                .map(|at| byte(salt, at))
                .collect();
            match tcb.write(&data, now) {
                Ok(count) => self.written += count as u32,
                Err(_) => self.failed = true,
            }
        }
        let mut buffer = std::vec![0; self.program.appetite as usize];
        match tcb.read(&mut buffer, now) {
            Ok(count) => {
                for &found in &buffer[..count] {
                    assert_eq!(found, byte(peers_salt, self.read), "byte {}", self.read);
                    self.read += 1;
                }
            }
            Err(_) => self.failed = true,
        }
        self.ended |= tcb.at_end() && tcb.error().is_none();
        let done = self.written == self.program.total && (self.ended || !self.program.closes_last);
        if done && !self.closed {
            self.closed = true;
            tcb.close(now);
        }
    }

    /// True if its program has something to do.
    fn is_busy(&self) -> bool {
        self.tcb.as_ref().is_some_and(|tcb| {
            let writes = self.written < self.program.total && tcb.writable() > 0;
            let done =
                self.written == self.program.total && (self.ended || !self.program.closes_last);
            let fails = tcb.error().is_some() && !self.failed;
            tcb.readable() > 0
                || writes
                || done && !self.closed
                || tcb.at_end() && !self.ended
                || fails
        })
    }

    fn take_in(&mut self, wire: &Wire, dice: &mut Dice, now: Instant) -> Option<Outgoing> {
        let outgoing = &wire.outgoing;
        let segment = Segment {
            seq: outgoing.seq,
            ack: outgoing.ack,
            window: outgoing.window,
            flags: outgoing.flags,
            urgent: 0,
            options: outgoing.options,
            payload: &wire.data,
            ecn: if outgoing.ecn == Ecn::Ect0 && dice.roll(50) == 0 {
                Ecn::Ce
            } else {
                outgoing.ecn
            },
            joined: 1,
        };
        if segment.flags.has(Flags::SYN) {
            self.scale = segment.options.window_scale.unwrap_or(0);
        }
        if segment.flags.has(Flags::ACK) && !segment.flags.has(Flags::RST) {
            let scale = if segment.flags.has(Flags::SYN) {
                0
            } else {
                self.scale
            };
            let edge = segment.ack + (u32::from(segment.window) << scale);
            self.edge = Some(self.edge.map_or(edge, |known| known.max(edge)));
        }
        match &mut self.tcb {
            None if segment.flags == Flags::SYN || segment.flags.has(Flags::SYN | Flags::CWR) => {
                self.edge = Some(self.iss + 1 + u32::from(segment.window));
                self.tcb = Some(Tcb::accept(&self.settings, &segment, self.iss, 7, now));
                None
            }
            Some(tcb) if tcb.state() != State::Closed => {
                let _ = tcb.receive(&segment, now);
                None
            }
            _ => reset_for(&segment),
        }
    }

    /// What leaves now, cut into segments.
    fn leave(&mut self, now: Instant) -> Vec<Wire> {
        let mut wires = Vec::new();
        let Some(tcb) = &mut self.tcb else {
            return wires;
        };
        for turn in 0.. {
            assert!(turn < 10_000, "segments without end");
            let wanted = tcb.wants_to_transmit(now);
            let Some(outgoing) = tcb.transmit(self.program.gso, now) else {
                assert!(!wanted);
                break;
            };
            let data: Vec<u8> = tcb
                .payload(&outgoing)
                .expect("data")
                .flatten()
                .copied()
                .collect();
            assert_eq!(data.len(), outgoing.len as usize);
            let end = outgoing.seq + outgoing.len + u32::from(outgoing.flags.has(Flags::FIN));
            if let Some(edge) = self.edge
                && !outgoing.flags.any(Flags::RST | Flags::SYN)
            {
                assert!(end <= edge, "{outgoing:?} is beyond {edge:?}");
            }
            let size = usize::from(outgoing.segment_size);
            let mss = usize::from(self.settings.mss);
            assert!(data.len() <= size || self.program.gso as usize >= data.len());
            assert!(size.min(data.len()) + outgoing.options.len() <= mss);
            let last = data.len().div_ceil(size).max(1) - 1;
            for (index, data) in data
                .chunks(size)
                .chain(data.is_empty().then_some(&[][..]))
                .enumerate()
            {
                let mut part = outgoing;
                part.seq = outgoing.seq + (index * size) as u32;
                part.len = data.len() as u32;
                if index < last {
                    part.flags.0 &= !(Flags::FIN.0 | Flags::PSH.0);
                }
                wires.push(Wire {
                    at: now,
                    outgoing: part,
                    data: data.to_vec(),
                });
            }
        }
        wires
    }

    fn over(&self) -> bool {
        self.tcb
            .as_ref()
            .is_some_and(|tcb| matches!(tcb.state(), State::Closed | State::TimeWait))
    }
}

const START: Instant = Instant::from_nanos(1_000_000_000);

fn deliver(link: &Link, dice: &mut Dice, wires: Vec<Wire>, inbox: &mut Vec<Wire>) {
    for wire in wires {
        let copies = 1 + u32::from(dice.roll(1000) < link.duplication);
        for _ in 0..copies {
            if dice.roll(1000) < link.loss {
                continue;
            }
            let mut wire = wire.clone();
            let mut delay = link.delay;
            if dice.roll(1000) < link.reordering {
                delay += link.jitter * dice.roll(1000) / 1000;
            }
            wire.at = wire.at + delay;
            inbox.push(wire);
        }
    }
}

/// Runs until both ends are done. Returns whether both ended well.
fn run(mut a: End, mut b: End, link: Link, seed: u64) -> bool {
    let mut dice = Dice(seed | 1);
    let mut now = START;
    let limit = START + Duration::from_hours(4);
    a.tcb = Some(Tcb::connect(&a.settings, a.iss, 99, now));
    for step in 0.. {
        assert!(step < 1_000_000, "no end in sight");
        assert!(now < limit, "no end in hours");
        for is_a in [true, false] {
            let (end, other) = if is_a {
                (&mut a, &mut b)
            } else {
                (&mut b, &mut a)
            };
            let mut due: Vec<Wire> = Vec::new();
            end.inbox.retain(|wire| {
                let is_due = wire.at <= now;
                if is_due {
                    due.push(wire.clone());
                }
                !is_due
            });
            due.sort_by_key(|wire| wire.at);
            let mut answers = Vec::new();
            for wire in due {
                if let Some(outgoing) = end.take_in(&wire, &mut dice, now) {
                    answers.push(Wire {
                        at: now,
                        outgoing,
                        data: Vec::new(),
                    });
                }
            }
            if let Some(tcb) = &mut end.tcb
                && tcb.deadline() <= now
            {
                let _ = tcb.advance(now);
                assert!(
                    tcb.deadline() > now || tcb.wants_to_transmit(now),
                    "a deadline that stays"
                );
            }
            if end.turn <= now {
                end.act(now);
            }
            answers.extend(end.leave(now));
            deliver(&link, &mut dice, answers, &mut other.inbox);
        }
        if a.over() && b.over() {
            break;
        }
        if a.failed && a.over() && b.tcb.is_none() {
            return false;
        }
        let next = [&a, &b]
            .into_iter()
            .flat_map(|end| {
                let deadline = end.tcb.as_ref().map_or(Instant::FOREVER, Tcb::deadline);
                let turn = if end.is_busy() {
                    end.turn
                } else {
                    Instant::FOREVER
                };
                end.inbox.iter().map(|wire| wire.at).chain([deadline, turn])
            })
            .min()
            .unwrap_or(Instant::FOREVER);
        now = now.max(next);
    }
    // What is left can be read.
    for end in [&mut a, &mut b] {
        for _ in 0..100_000 {
            let before = end.read;
            end.act(now);
            if end.read == before {
                break;
            }
        }
    }
    let well = !a.failed && !b.failed;
    let errors = [&a, &b].map(|end| end.tcb.as_ref().and_then(Tcb::error));
    if errors == [None, None] {
        assert_eq!((a.read, b.read), (b.program.total, a.program.total));
        assert!(a.ended && b.ended);
    }
    for end in [&a, &b] {
        if let Some(tcb) = &end.tcb {
            assert_eq!(tcb.held(), 0, "memory held at the end");
        }
    }
    well
}

prop_compose! {
    fn programs()(
        total in prop_oneof![
            2 => Just(0u32),
            4 => 1..3000u32,
            6 => 3000..60_000u32,
            1 => 60_000..1_000_000u32,
        ],
        chunk in 1..20_000u32,
        pause in prop_oneof![1..20u64, 20..400u64],
        appetite in prop_oneof![500..5000u32, 5000..100_000u32],
        closes_last: bool,
        gso in prop_oneof![Just(0u32), Just(65_535u32)],
    ) -> Program {
        Program {
            total,
            // Hours are no use: at most so many turns.
            chunk: chunk.max(total / 200),
            pause: Duration::from_millis(pause),
            appetite: appetite.max(total / 200),
            closes_last,
            gso,
        }
    }
}

prop_compose! {
    fn all_settings()(
        mss in prop_oneof![Just(1460u16), 200..1460u16],
        receive_limit in prop_oneof![2000..10_000u32, 10_000..70_000u32, Just(1_000_000u32)],
        send_limit in 2000..200_000u32,
        reno: bool,
        timestamps: bool,
        sack: bool,
        ecn: bool,
        nodelay: bool,
        probe_mtu: bool,
    ) -> Settings {
        Settings {
            mss,
            receive_limit,
            send_limit,
            algorithm: if reno { Algorithm::Reno } else { Algorithm::Cubic },
            timestamps,
            sack,
            ecn,
            nodelay,
            probe_mtu,
            // One end may have given up before the other knew of it.
            keepalive: Some(KeepAlive {
                idle: Duration::from_secs(100),
                interval: Duration::from_secs(10),
                probes: 20,
            }),
            ..settings()
        }
    }
}

prop_compose! {
    fn links()(
        loss in prop_oneof![Just(0u32), 1..50u32, 50..300u32],
        duplication in prop_oneof![Just(0u32), 0..200u32],
        reordering in prop_oneof![Just(0u32), 0..500u32],
        delay in prop_oneof![0..2000u64, 2000..200_000u64],
        jitter in prop_oneof![1000..50_000u64, 50_000..1_000_000u64],
    ) -> Link {
        Link {
            loss,
            duplication,
            reordering,
            delay: Duration::from_micros(delay),
            jitter: Duration::from_micros(jitter),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        max_shrink_iters: 500,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_same_bytes_or_an_error(
        (settings_a, settings_b) in (all_settings(), all_settings()),
        (mut program_a, mut program_b) in (programs(), programs()),
        link in links(),
        (iss_a, iss_b) in any::<(u32, u32)>(),
        seed in any::<u64>(),
    ) {
        // Somebody has to close first.
        program_b.closes_last &= !program_a.closes_last;
        // Hours are no use either.
        if link.loss > 50 {
            program_a.total = program_a.total.min(40_000);
            program_b.total = program_b.total.min(40_000);
        }
        let a = End::new(settings_a, program_a, iss_a, (1, 2));
        let b = End::new(settings_b, program_b, iss_b, (2, 1));
        let well = run(a, b, link, seed);
        // On a link that is not too bad there is no excuse.
        prop_assert!(well || link.loss > 50);
    }
}
