//! Which connection a segment is of: one after the other with the same addresses and ports.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use crate::Config;
use crate::connection::Connection;
use crate::ranges::ORIGIN;
use crate::report::{Findings, Report};
use crate::rules::{self, Area, View, handshake, reset, sequence};
use crate::segment::{Event, Flags, Segment, Time};
use crate::stream::Stream;

/// How long the numbers of an ended connection matter: RFC 9293 says two maximum segment lifetimes of two minutes.
const REMEMBERED: Duration = Duration::from_mins(4);

/// How many received segments may be the cause of a RST.
const CAUSES: usize = 64;

/// A connection with its rules.
struct Followed {
    connection: Connection,
    areas: Vec<Box<dyn Area>>,
    stream: Stream,
}

/// All that ever had the same addresses and ports.
#[derive(Default)]
struct Flow {
    current: Option<Followed>,
    /// The last connection's end: one past its highest sequence number, and when.
    before: Option<(u32, Time)>,
    /// Received lately.
    causes: VecDeque<Segment>,
    /// The host has sent something in a connection that is not followed.
    unknown: bool,
}

/// The specification at work: takes events in the order of the capture.
pub struct Specification {
    config: Config,
    flows: HashMap<(SocketAddr, SocketAddr), Flow>,
    isns: HashSet<u32>,
    report: Report,
    now: Time,
    frame: usize,
}

impl Specification {
    /// Nothing has happened yet.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            flows: HashMap::new(),
            isns: HashSet::new(),
            report: Report::default(),
            now: Time::ZERO,
            frame: 0,
        }
    }

    /// Judges a whole capture.
    pub fn judge<'a>(config: Config, events: impl IntoIterator<Item = &'a Event>) -> Report {
        let mut specification = Self::new(config);
        for event in events {
            specification.observe(event);
        }
        specification.finish()
    }

    /// Takes the next event.
    pub fn observe(&mut self, event: &Event) {
        self.pass(event.time());
        match event {
            Event::Segment(segment) => self.segment(segment),
            Event::TooBig(message) => {
                self.frame = message.frame;
                let flow = self
                    .flows
                    .get_mut(&(message.quoted_from, message.quoted_to));
                if let Some(followed) = flow.and_then(|flow| flow.current.as_mut()) {
                    let view = View {
                        connection: &followed.connection,
                        config: &self.config,
                        now: self.now,
                    };
                    for area in &mut followed.areas {
                        area.too_big(&view, message);
                    }
                }
            }
        }
    }

    /// The capture ends: what was due until then is due.
    pub fn finish(mut self) -> Report {
        self.pass(self.now);
        self.report
    }

    /// Nothing happened until `now`.
    pub fn pass(&mut self, now: Time) {
        self.now = now.max(self.now);
        for (key, flow) in &mut self.flows {
            let Some(followed) = &mut flow.current else {
                continue;
            };
            let view = View {
                connection: &followed.connection,
                config: &self.config,
                now: self.now,
            };
            let mut findings = Findings {
                report: &mut self.report,
                connection: *key,
                time: self.now,
                frame: self.frame,
                segment: None,
            };
            for area in &mut followed.areas {
                area.passed(&view, &mut findings);
            }
        }
    }

    fn segment(&mut self, segment: &Segment) {
        self.frame = segment.frame;
        let sent = self.config.hosts.contains(&segment.from.ip());
        if !sent && !self.config.hosts.contains(&segment.to.ip()) {
            return;
        }
        let damaged = !segment.checksum_ok && !self.config.offload;
        if damaged && !sent {
            self.report.damaged += 1;
            return;
        }
        let key = if sent {
            (segment.from, segment.to)
        } else {
            (segment.to, segment.from)
        };
        let flow = self.flows.entry(key).or_default();
        let mut findings = Findings {
            report: &mut self.report,
            connection: key,
            time: self.now,
            frame: segment.frame,
            segment: Some(segment),
        };
        if !sent {
            flow.causes.push_back(segment.clone());
            if flow.causes.len() > CAUSES {
                flow.causes.pop_front();
            }
        }
        if flow.begins(segment, sent) {
            findings.report.connections += 1;
            flow.begin(key, sent);
            if sent {
                flow.judge_isn(segment, &mut self.isns, &mut findings);
            }
        } else if sent && segment.flags.has(Flags::SYN) && flow.answers_first(segment) {
            flow.judge_isn(segment, &mut self.isns, &mut findings);
        }
        let Some(followed) = &mut flow.current else {
            if sent && segment.flags.has(Flags::RST) && !flow.unknown && !flow.causes.is_empty() {
                reset::stray(segment, flow.causes.iter(), &mut findings);
            } else {
                flow.unknown |= sent;
                findings.report.not_followed += 1;
            }
            return;
        };
        findings.report.segments += 1;
        let placed = followed.connection.place(segment, sent);
        let view = View {
            connection: &followed.connection,
            config: &self.config,
            now: self.now,
        };
        if sent && segment.flags.has(Flags::RST) && followed.connection.output.isn.is_none() {
            // A refused SYN.
            reset::stray(segment, flow.causes.iter(), &mut findings);
        }
        if sent
            && segment.flags.has(Flags::RST)
            && followed
                .connection
                .reset
                .is_some_and(|reset| reset.time < view.settled())
        {
            let since = followed
                .connection
                .reset
                .map_or(Time::ZERO, |reset| reset.time);
            reset::stray(
                segment,
                flow.causes
                    .iter()
                    .filter(|cause| cause.time + view.config.lag >= since),
                &mut findings,
            );
        }
        for area in &mut followed.areas {
            if sent {
                area.sent(&view, &placed, &mut findings);
            } else {
                area.received(&view, &placed, &mut findings);
            }
        }
        if sent {
            sequence::content(&view, &placed, &mut followed.stream, &mut findings);
        }
        followed.connection.apply(&placed, &self.config);
        if sent {
            followed
                .stream
                .acknowledged(followed.connection.output.una());
        }
    }
}

impl Flow {
    /// A SYN begins a connection where there is none, or one that has ended, or none but a SYN that differs.
    fn begins(&self, segment: &Segment, sent: bool) -> bool {
        if !segment.flags.has(Flags::SYN) || segment.flags.has(Flags::RST) {
            return false;
        }
        let Some(followed) = &self.current else {
            return !segment.flags.has(Flags::ACK) || sent;
        };
        let connection = &followed.connection;
        let known = if sent {
            connection.output.isn
        } else {
            connection.input.irs
        };
        if segment.flags.has(Flags::ACK) {
            return false;
        }
        match known {
            Some(isn) if isn == segment.seq => false,
            Some(_) => {
                let unanswered = !sent && connection.output.isn.is_none();
                connection.closed() || unanswered
            }
            None => connection.closed(),
        }
    }

    fn begin(&mut self, key: (SocketAddr, SocketAddr), sent: bool) {
        if let Some(ended) = self.current.take()
            && let Some(isn) = ended.connection.output.isn
        {
            let length = ended.connection.output.max - ORIGIN;
            self.before = Some((isn.wrapping_add(length as u32), ended.connection.last_seen));
        }
        self.current = Some(Followed {
            connection: Connection::new(key.0, key.1, sent),
            areas: rules::areas(),
            stream: Stream::default(),
        });
    }

    /// The host answers the SYN of a new connection for the first time.
    fn answers_first(&self, segment: &Segment) -> bool {
        let current = self.current.as_ref();
        current.is_some_and(|followed| followed.connection.output.isn.is_none())
            && segment.flags.has(Flags::ACK)
    }

    fn judge_isn(&self, segment: &Segment, isns: &mut HashSet<u32>, findings: &mut Findings) {
        if let Some((highest, then)) = self.before
            && segment.time < then + REMEMBERED
            && segment.seq.wrapping_sub(highest).cast_signed() < 0
        {
            findings.add(
                &handshake::ISN_REUSE,
                format!("the one before reached {highest}"),
            );
        }
        if !isns.insert(segment.seq) {
            findings.add(&handshake::ISN_SAME, "another connection had the same");
        }
    }
}
