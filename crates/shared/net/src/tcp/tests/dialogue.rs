//! Runs packet dialogues, in the notation packetdrill made usual.
//!
//! A line is a time and an event. Times are seconds: `1.5`, `+.010` (after the line before), or `1.0~1.3` (for an
//! expected segment: in between). Events:
//!
//! | event | meaning |
//! | --- | --- |
//! | `< P. 1:1001(1000) ack 1 win 512 <options>` | a segment arrives; the first SYN makes the connection |
//! | `> . 1:1(0) ack 1001 win 500 <options>` | a segment leaves; what is not said (window, options) may be anything |
//! | `connect`, `write 1000`, `read 1000`, `close`, `orphan`, `abort`, `nodelay` | the program calls |
//! | `state ESTABLISHED`, `error TimedOut`, `end` (everything was read), `mss 1000` | what must be |
//! | `icmp ConnectionRefused 0`, `too_big 1400 1` | an ICMP message about the segment with that number |
//! | `refuse` | the link refuses the segment that left last |
//! | `set mss 1460` and others | before the connection is made |
//!
//! Numbers are relative to the initial ones, as are those of SACK blocks; a segment of no flags is written `-`. `[ce]`,
//! `[ect0]` stand before the flags. Options are `mss 1460`, `sackOK`, `wscale 7`, `TS val 1 ecr 2` (this end's clock starts
//! at 1000; `_` is any number), `sack 1:2 3:4`, `nop`; `...` is anything. A `&` at the end of a line: nothing leaves
//! before the next line. Segments that leave and are not expected are an error. Each dialogue is held three times, with
//! numbers that wrap at different places.

use std::collections::VecDeque;
use std::format;
use std::string::{String, ToString};
use std::time::Duration;
use std::vec::Vec;

use kiln_abi::Instant;

use super::script::{ANY, Parsed, number};
use crate::error::Error;
use crate::tcp::congestion::Algorithm;
use crate::tcp::*;

/// The start of the virtual clock: far enough that nothing is before it.
const START: u64 = 5_000_000_000_000;
/// What the timestamp clock shows then.
const CLOCK: u32 = 1000;
/// Times of expected segments may differ by so much.
const TOLERANCE: u64 = 2_000_000;

/// Holds a dialogue; panics where it goes another way than the script says.
#[track_caller]
pub fn run(script: &str) {
    for (own, peer) in [
        (0, 0),
        (u32::MAX - 700, u32::MAX - 1300),
        (0x7fff_ff00, 0x7fff_f800),
    ] {
        let mut dialogue = Dialogue::new(Seq(own), Seq(peer));
        dialogue.play(script);
        dialogue.finish();
    }
}

/// The usual settings of these tests.
pub fn settings() -> Settings {
    Settings {
        mss: 1460,
        receive_limit: 65_535,
        send_limit: 1 << 20,
        algorithm: Algorithm::Reno,
        timestamps: true,
        sack: true,
        ecn: false,
        nodelay: false,
        ack_delay: Duration::from_millis(40),
        keepalive: None,
        user_timeout: None,
        handshake_timeout: Duration::from_mins(1),
        linger: Duration::from_secs(30),
        time_wait: Duration::from_mins(1),
        probe_mtu: false,
    }
}

pub struct Dialogue {
    pub settings: Settings,
    pub tcb: Option<Tcb>,
    pub now: Instant,
    own: Seq,
    peer: Seq,
    longest: u32,
    out: VecDeque<(Instant, Outgoing)>,
    last: Option<Outgoing>,
    written: u32,
    read: u32,
    /// Data that leave are compared with what `write` wrote.
    pub checked: bool,
    /// For tests that acknowledge by themselves.
    pub acknowledged: Seq,
    /// The last line ended with `&`.
    held: bool,
    place: String,
}

impl Dialogue {
    pub fn new(own: Seq, peer: Seq) -> Self {
        Self {
            settings: settings(),
            tcb: None,
            now: Instant::from_nanos(START),
            own,
            peer,
            longest: 0,
            out: VecDeque::new(),
            last: None,
            written: 0,
            read: 0,
            checked: true,
            acknowledged: Seq(0),
            held: false,
            place: String::new(),
        }
    }

    /// Plays lines; what leaves after the last one is left for the next call.
    #[track_caller]
    pub fn play(&mut self, script: &str) {
        for (number, line) in script.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            self.place = format!("line {}: {line}", number + 1);
            self.line(line);
        }
    }

    /// Nothing more leaves.
    #[track_caller]
    pub fn finish(&mut self) {
        self.place = "the end".to_string();
        self.collect();
        self.nothing_more();
    }

    /// What has left and was not expected yet, without times.
    pub fn take_output(&mut self) -> Vec<Outgoing> {
        self.collect();
        self.out.drain(..).map(|(_, outgoing)| outgoing).collect()
    }

    /// Lets milliseconds pass. What leaves is for [`take_output`](Self::take_output).
    pub fn pass(&mut self, milliseconds: u64) {
        let to = self.now + Duration::from_millis(milliseconds);
        self.go_on(to, false);
    }

    pub fn tcb(&mut self) -> &mut Tcb {
        self.tcb.as_mut().expect("a connection")
    }

    pub fn info(&mut self) -> Info {
        let now = self.now;
        self.tcb().info(now)
    }

    #[track_caller]
    fn fail(&self, why: &str) -> ! {
        let info = self.tcb.as_ref().map(|tcb| tcb.info(self.now));
        panic!("{}\n  {why}\n  own {:?}, {info:#?}", self.place, self.own);
    }

    #[track_caller]
    fn line(&mut self, line: &str) {
        let (time, event) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let (event, held) = match event.trim().strip_suffix('&') {
            Some(event) => (event.trim(), true),
            None => (event.trim(), false),
        };
        let (from, to) = if time == "set" {
            return self.set(event);
        } else if let Some((from, to)) = time.split_once('~') {
            (self.time(from), self.time(to))
        } else {
            let time = self.time(time);
            (
                Instant::from_nanos(time.as_nanos() - TOLERANCE),
                time + Duration::from_nanos(TOLERANCE),
            )
        };
        let (verb, rest) = event.split_once(char::is_whitespace).unwrap_or((event, ""));
        if verb == ">" {
            if self.out.is_empty() {
                self.go_on(to, true);
            }
            self.expect(rest, from, to);
            return;
        }
        let at = self.time(time.split('~').next().unwrap_or(time));
        if !self.held {
            self.go_on(at, false);
        }
        self.now = at.max(self.now);
        let silent = self.held || matches!(verb, "state" | "error" | "mss" | "end" | "refuse");
        if !silent {
            self.nothing_more();
        }
        self.event(verb, rest.trim());
        self.held = held;
        if !held {
            self.collect();
        }
    }

    fn time(&self, text: &str) -> Instant {
        let (relative, digits) = match text.strip_prefix('+') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let Ok(seconds) = format!("0{digits}").parse::<f64>() else {
            panic!("{}: no time", self.place);
        };
        let start = if relative { self.now.as_nanos() } else { START };
        Instant::from_nanos(start) + Duration::from_secs_f64(seconds)
    }

    /// Lets time pass, with what is due; until something leaves, if that is wanted.
    #[track_caller]
    fn go_on(&mut self, to: Instant, until_output: bool) {
        self.collect();
        for _ in 0..100_000 {
            if until_output && !self.out.is_empty() {
                return;
            }
            let Some(tcb) = &mut self.tcb else {
                self.now = to;
                return;
            };
            let deadline = tcb.deadline();
            if deadline > to {
                if !until_output {
                    self.now = to;
                }
                return;
            }
            self.now = self.now.max(deadline);
            let _ = tcb.advance(self.now);
            self.collect();
        }
        self.fail("timers that do not move on");
    }

    #[track_caller]
    fn collect(&mut self) {
        let now = self.now;
        let Some(tcb) = &mut self.tcb else {
            return;
        };
        for _ in 0..100_000 {
            let wanted = tcb.wants_to_transmit(now);
            let Some(outgoing) = tcb.transmit(self.longest, now) else {
                assert!(!wanted, "wanted to transmit, but did not");
                return;
            };
            assert!(wanted, "transmitted without wanting to: {outgoing:?}");
            let first = outgoing.seq.since(self.own + 1);
            let payload: Vec<u8> = tcb
                .payload(&outgoing)
                .expect("data that were just sent")
                .flatten()
                .copied()
                .collect();
            assert_eq!(payload.len(), outgoing.len as usize);
            let right = payload
                .iter()
                .zip(first..)
                .all(|(&byte, at)| byte == pattern(at));
            assert!(right || !self.checked, "wrong data at {first}");
            self.out.push_back((now, outgoing));
        }
        self.fail("segments without end");
    }

    #[track_caller]
    fn nothing_more(&self) {
        if let Some((at, outgoing)) = self.out.front() {
            let at = at.since(Instant::from_nanos(START)).as_secs_f64();
            self.fail(&format!("at {at} there left {}", self.show(outgoing)));
        }
    }

    #[track_caller]
    fn event(&mut self, verb: &str, rest: &str) {
        let now = self.now;
        match verb {
            "<" => return self.arrives(rest),
            "connect" => {
                let offset = CLOCK.wrapping_sub((START / 1_000_000) as u32);
                self.tcb = Some(Tcb::connect(&self.settings, self.own, offset, now));
                return;
            }
            "wait" => return,
            _ => {}
        }
        let number = || {
            rest.split(' ')
                .next()
                .and_then(|n| n.parse::<u32>().ok())
                .expect(rest)
        };
        let Some(tcb) = &mut self.tcb else {
            panic!("{}: no connection", self.place);
        };
        match verb {
            "write" => {
                let data: Vec<u8> = (self.written..)
                    .take(number() as usize)
                    .map(pattern)
                    .collect();
                let count = tcb.write(&data, now).expect("write");
                assert_eq!(count, data.len(), "room");
                self.written += count as u32;
            }
            "write_fails" => {
                let error = tcb.write(b"x", now).expect_err("write");
                assert_eq!(format!("{error:?}"), rest, "{}", self.place);
            }
            "read" => {
                let mut data = std::vec![0; number() as usize];
                let count = tcb.read(&mut data, now).expect("read");
                assert_eq!(count, data.len(), "{}", self.place);
                assert!(
                    data.iter()
                        .zip(self.read..)
                        .all(|(&byte, at)| byte == pattern(at))
                );
                self.read += count as u32;
            }
            "read_fails" => {
                let error = tcb.read(&mut [0], now).expect_err("read");
                assert_eq!(format!("{error:?}"), rest, "{}", self.place);
            }
            "close" => tcb.close(now),
            "orphan" => tcb.orphan(now),
            "abort" => tcb.abort(Error::ConnectionAborted),
            "nodelay" => tcb.set_nodelay(true),
            "shed" => assert!(tcb.shed() > 0),
            "state" => {
                let state = format!("{:?}", tcb.state()).to_uppercase();
                if state != rest.replace('-', "") {
                    self.fail(&format!("the state is {state}"));
                }
            }
            "error" => {
                let error = tcb.error();
                if error.map_or("none".into(), |e| format!("{e:?}")) != rest {
                    self.fail(&format!("the error is {error:?}"));
                }
            }
            "end" => assert!(tcb.at_end(), "{}", self.place),
            "mss" => {
                let mss = tcb.info(now).mss;
                if mss != number() {
                    self.fail(&format!("the mss is {mss}"));
                }
            }
            "icmp" => {
                let (error, seq) = rest.split_once(' ').expect("icmp");
                let seq = self.own + self::number(seq);
                let error = match error {
                    "ConnectionRefused" => Error::ConnectionRefused,
                    _ => Error::Unreachable,
                };
                let _ = tcb.icmp_error(error, seq, now);
            }
            "too_big" => {
                let (bytes, seq) = rest.split_once(' ').expect("too_big");
                let seq = self.own + self::number(seq);
                let _ = tcb.packet_too_big(bytes.parse().expect("bytes"), seq, now);
            }
            "refuse" => {
                let last = self.last.take().expect("a segment");
                tcb.not_sent(&last, now);
            }
            _ => panic!("{}: what is {verb}?", self.place),
        }
    }

    fn set(&mut self, text: &str) {
        let words: Vec<&str> = text.split_whitespace().collect();
        let seconds = |at: usize| Duration::from_secs_f64(words[at].parse().expect("seconds"));
        let number = || words[1].parse::<u32>().expect("a number");
        let settings = &mut self.settings;
        match words[0] {
            "mss" => settings.mss = number() as u16,
            "receive" => settings.receive_limit = number(),
            "send" => settings.send_limit = number(),
            "cubic" => settings.algorithm = Algorithm::Cubic,
            "no_timestamps" => settings.timestamps = false,
            "no_sack" => settings.sack = false,
            "ecn" => settings.ecn = true,
            "nodelay" => settings.nodelay = true,
            "user_timeout" => settings.user_timeout = Some(seconds(1)),
            "handshake_timeout" => settings.handshake_timeout = seconds(1),
            "linger" => settings.linger = seconds(1),
            "probe_mtu" => settings.probe_mtu = true,
            "gso" => self.longest = number(),
            "keepalive" => {
                settings.keepalive = Some(KeepAlive {
                    idle: seconds(1),
                    interval: seconds(2),
                    probes: words[3].parse().expect("probes"),
                });
            }
            other => panic!("what is {other}?"),
        }
    }

    /// Hands a segment to the connection; a SYN makes it.
    pub fn arrives(&mut self, text: &str) {
        let parsed = Parsed::new(text);
        let data: Vec<u8> = (parsed.seq.wrapping_sub(1)..=u32::MAX)
            .chain(0..)
            .skip(usize::from(parsed.flags.has(Flags::SYN)))
            .take(parsed.len as usize)
            .map(pattern)
            .collect();
        let mut options = parsed.options.unwrap_or_default();
        let mut sack = SackBlocks::default();
        for block in options.sack.as_slice() {
            sack.push(Block {
                start: self.own + block.start.0,
                end: self.own + block.end.0,
            });
        }
        options.sack = sack;
        let segment = Segment {
            seq: self.peer + parsed.seq,
            ack: parsed.ack.map_or(Seq(0), |ack| self.own + ack),
            window: parsed.window.unwrap_or(65_535),
            flags: parsed.flags,
            urgent: 1,
            options,
            payload: &data,
            ecn: parsed.ecn,
            joined: data.len().div_ceil(usize::from(self.settings.mss)).max(1) as u16,
        };
        let now = self.now;
        if let Some(tcb) = &mut self.tcb {
            let _ = tcb.receive(&segment, now);
        } else {
            let offset = CLOCK.wrapping_sub((START / 1_000_000) as u32);
            self.tcb = Some(Tcb::accept(&self.settings, &segment, self.own, offset, now));
        }
    }

    #[track_caller]
    fn expect(&mut self, text: &str, from: Instant, to: Instant) {
        let Some((at, outgoing)) = self.out.pop_front() else {
            self.fail("nothing left");
        };
        self.last = Some(outgoing);
        let shown = self.show(&outgoing);
        if at < from || at > to {
            let at = at.since(Instant::from_nanos(START)).as_secs_f64();
            self.fail(&format!("left at {at}: {shown}"));
        }
        let parsed = Parsed::new(text);
        let options = parsed.options.is_none_or(|mut wanted| {
            if let (Some(timestamps), Some(wanted)) =
                (outgoing.options.timestamps, &mut wanted.timestamps)
            {
                // `_` was read as this number.
                if wanted.value == ANY {
                    wanted.value = timestamps.value;
                }
                if wanted.echo == ANY {
                    wanted.echo = timestamps.echo;
                }
            }
            let mut found = outgoing.options;
            let mut sack = SackBlocks::default();
            for block in found.sack.as_slice() {
                sack.push(Block {
                    start: Seq(block.start.0.wrapping_sub(self.peer.0)),
                    end: Seq(block.end.0.wrapping_sub(self.peer.0)),
                });
            }
            found.sack = sack;
            found == wanted
        });
        let same = outgoing.flags == parsed.flags
            && outgoing.seq.0.wrapping_sub(self.own.0) == parsed.seq
            && outgoing.len == parsed.len
            && parsed
                .ack
                .is_none_or(|ack| outgoing.ack.0.wrapping_sub(self.peer.0) == ack)
            && parsed.window.is_none_or(|window| outgoing.window == window)
            && (!parsed.ecn_said || outgoing.ecn == parsed.ecn)
            && options;
        if !same {
            self.fail(&format!("left {shown}"));
        }
    }

    fn show(&self, outgoing: &Outgoing) -> String {
        let seq = outgoing.seq.0.wrapping_sub(self.own.0);
        format!(
            "{:?} {:?} {seq}:{}({}) ack {} win {} {:?}",
            outgoing.ecn,
            outgoing.flags,
            seq.wrapping_add(outgoing.len),
            outgoing.len,
            outgoing.ack.0.wrapping_sub(self.peer.0),
            outgoing.window,
            outgoing.options,
        )
    }
}

/// What a byte of the stream is.
fn pattern(at: u32) -> u8 {
    (at % 251) as u8
}
