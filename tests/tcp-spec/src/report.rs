//! The findings.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use crate::rules::Rule;
use crate::segment::{Segment, Time};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The RFC says SHOULD, or the bound is one of experience.
    Warning,
    /// The RFC says MUST.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// A rule that was broken, by which segment.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The rule.
    pub rule: &'static Rule,
    /// The connection: the tested host's side and the peer's.
    pub connection: (SocketAddr, SocketAddr),
    /// When.
    pub time: Time,
    /// The frame, as numbered in the capture, in which or before which it was seen.
    pub frame: usize,
    /// The segment; none where one is missing.
    pub segment: Option<String>,
    /// What was expected and what was found.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, peer) = self.connection;
        write!(
            f,
            "{}: {} ({}): {}; {}\n    {host} with {peer}, {:.6} s, frame {}",
            self.rule.severity,
            self.rule.name,
            self.rule.source,
            self.rule.demand,
            self.detail,
            self.time.as_secs_f64(),
            self.frame,
        )?;
        match &self.segment {
            Some(segment) => write!(f, ": {segment}"),
            None => Ok(()),
        }
    }
}

/// Everything found in a capture.
#[derive(Default)]
pub struct Report {
    /// In the order of the capture.
    pub findings: Vec<Finding>,
    /// Segments judged.
    pub segments: usize,
    /// Connections followed from their first SYN.
    pub connections: usize,
    /// Segments of connections whose beginning is not in the capture.
    pub not_followed: usize,
    /// Segments that came to the host damaged and count as not received.
    pub damaged: usize,
}

impl Report {
    /// The errors alone.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        let of = |finding: &&Finding| finding.rule.severity == Severity::Error;
        self.findings.iter().filter(of)
    }

    /// How often each rule was broken.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for finding in &self.findings {
            *counts.entry(finding.rule.name).or_default() += 1;
        }
        counts
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The first few of a kind say what is wrong; a thousand more say no more.
        const SHOWN: usize = 5;
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for finding in &self.findings {
            let count = seen.entry(finding.rule.name).or_default();
            *count += 1;
            if *count <= SHOWN {
                writeln!(f, "{finding}")?;
            }
        }
        for (name, count) in seen.iter().filter(|(_, count)| **count > SHOWN) {
            writeln!(f, "{name}: {count} times in all")?;
        }
        let errors = self.errors().count();
        write!(
            f,
            "{} segments of {} connections: {errors} errors, {} warnings; {} segments not followed, {} came damaged",
            self.segments,
            self.connections,
            self.findings.len() - errors,
            self.not_followed,
            self.damaged,
        )
    }
}

/// Takes findings of one connection at one moment.
pub struct Findings<'a> {
    /// Where they go.
    pub report: &'a mut Report,
    /// The connection.
    pub connection: (SocketAddr, SocketAddr),
    /// The moment.
    pub time: Time,
    /// The frame.
    pub frame: usize,
    /// The segment.
    pub segment: Option<&'a Segment>,
}

impl Findings<'_> {
    /// Adds one.
    pub fn add(&mut self, rule: &'static Rule, detail: impl Into<String>) {
        self.report.findings.push(Finding {
            rule,
            connection: self.connection,
            time: self.time,
            frame: self.frame,
            segment: self.segment.map(ToString::to_string),
            detail: detail.into(),
        });
    }
}
