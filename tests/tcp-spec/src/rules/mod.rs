//! What the RFCs say, one area a file.
//!
//! Every rule is a constant with its source. An area looks at each segment before the connection takes it in, keeps what
//! only its rules need, and once more at every moment at which something happens, for what should have happened by then.

pub mod acknowledge;
pub mod closing;
pub mod congestion;
pub mod ecn;
pub mod format;
pub mod handshake;
pub mod keepalive;
pub mod pmtu;
pub mod reset;
pub mod sack;
pub mod sequence;
pub mod timers;
pub mod timestamps;
pub mod urgent;
pub mod window;

use crate::Config;
use crate::connection::{Connection, Placed};
use crate::report::{Findings, Severity};
use crate::segment::{Time, TooBig};

/// One rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name here.
    pub name: &'static str,
    /// Document and section.
    pub source: &'static str,
    /// How bad it is to break it.
    pub severity: Severity,
    /// What it demands.
    pub demand: &'static str,
}

/// Declares the rules of an area and their list.
macro_rules! rules {
    ($($(#[$doc:meta])* $constant:ident $severity:ident $name:literal, $source:literal, $demand:literal;)*) => {
        $($(#[$doc])*
        #[doc = concat!($source, ": ", $demand, ".")]
        pub const $constant: $crate::rules::Rule = $crate::rules::Rule {
            name: $name,
            source: $source,
            severity: $crate::report::Severity::$severity,
            demand: $demand,
        };)*

        /// The rules of this area.
        pub const RULES: &[&$crate::rules::Rule] = &[$(&$constant),*];
    };
}
pub(crate) use rules;

/// What is known and what is asked for.
pub struct View<'a> {
    /// The connection before the segment.
    pub connection: &'a Connection,
    /// The configuration.
    pub config: &'a Config,
    /// The moment.
    pub now: Time,
}

impl View<'_> {
    /// Longer ago than the host can have overlooked.
    pub fn settled(&self) -> Time {
        self.now.saturating_sub(self.config.lag)
    }
}

/// The rules of one area for one connection.
pub trait Area {
    /// The host sends a segment.
    fn sent(&mut self, _view: &View, _placed: &Placed, _findings: &mut Findings) {}
    /// The host receives a segment, undamaged.
    fn received(&mut self, _view: &View, _placed: &Placed, _findings: &mut Findings) {}
    /// The host is told of a smaller path MTU.
    fn too_big(&mut self, _view: &View, _message: &TooBig) {}
    /// Time has passed; called before each segment of any connection, and at the end.
    fn passed(&mut self, _view: &View, _findings: &mut Findings) {}
}

/// All areas, for one connection.
pub fn areas() -> Vec<Box<dyn Area>> {
    vec![
        Box::new(format::Format),
        Box::new(handshake::Handshake),
        Box::new(sequence::Sequence),
        Box::<window::Window>::default(),
        Box::<acknowledge::Acknowledge>::default(),
        Box::new(sack::Sack),
        Box::<timestamps::Timestamps>::default(),
        Box::<timers::Timers>::default(),
        Box::<congestion::Congestion>::default(),
        Box::<reset::Resets>::default(),
        Box::<closing::Closing>::default(),
        Box::<keepalive::Keepalive>::default(),
        Box::<urgent::Urgent>::default(),
        Box::<ecn::Ecn>::default(),
        Box::<pmtu::Pmtu>::default(),
    ]
}

/// Every rule there is.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    let areas = [
        format::RULES,
        handshake::RULES,
        sequence::RULES,
        window::RULES,
        acknowledge::RULES,
        sack::RULES,
        timestamps::RULES,
        timers::RULES,
        congestion::RULES,
        reset::RULES,
        closing::RULES,
        keepalive::RULES,
        urgent::RULES,
        ecn::RULES,
        pmtu::RULES,
    ];
    areas.into_iter().flatten().copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_in_the_readme() {
        let readme = include_str!("../../README.md");
        let mut names = BTreeSet::new();
        for rule in super::all() {
            assert!(names.insert(rule.name), "{} twice", rule.name);
            let row = format!("| `{}` | {} |", rule.name, rule.source);
            assert!(readme.contains(&row), "no row in README.md: {row}");
        }
    }
}
