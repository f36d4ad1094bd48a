//! Closing a connection.

use std::time::Duration;

use super::{Area, View, rules};
use crate::connection::Placed;
use crate::report::Findings;
use crate::segment::{Flags, Time};

rules! {
    FIN_UNANSWERED Error "fin-unanswered", "RFC 9293 3.10.7.4", "a FIN that comes again is acknowledged again, in TIME-WAIT too";
    TIME_WAIT Error "time-wait-short", "RFC 9293 3.6.1", "who closes first remembers the connection for TIME-WAIT";
}

/// The least that is accepted as TIME-WAIT. The RFC wants four minutes; Linux has one.
const LEAST: Duration = Duration::from_secs(20);

/// See [`RULES`].
#[derive(Default)]
pub struct Closing {
    /// A FIN came again, and no acknowledgment has followed.
    again: Option<Time>,
    acknowledged: Option<Time>,
    /// The host sent its FIN before it received one.
    first: bool,
    /// Since when both directions have ended.
    since: Option<Time>,
}

impl Area for Closing {
    fn received(&mut self, view: &View, placed: &Placed, _: &mut Findings) {
        let connection = view.connection;
        if connection.reset.is_some() || !connection.established() {
            return;
        }
        let known = connection
            .input
            .fin
            .is_some_and(|fin| connection.input.acked() > fin);
        let lately = self
            .acknowledged
            .is_some_and(|then| then + Duration::from_millis(550) > view.now);
        let remembered = self.first || !connection.closed();
        if placed.segment.flags.has(Flags::FIN) && known && !lately && remembered {
            self.again.get_or_insert(view.now);
        }
    }

    fn sent(&mut self, view: &View, placed: &Placed, findings: &mut Findings) {
        let (connection, flags) = (view.connection, placed.segment.flags);
        if flags.has(Flags::FIN) && connection.output.fin.is_none() {
            self.first = connection
                .input
                .fin
                .is_none_or(|fin| connection.input.acked() <= fin);
        }
        if flags.has(Flags::RST) {
            if let (true, Some(since), Some(_)) = (self.first, self.since, self.again)
                && view.now < since + LEAST
            {
                findings.add(
                    &TIME_WAIT,
                    format!("{:?} after the end", view.now.saturating_sub(since)),
                );
            }
            self.again = None;
        } else if flags.has(Flags::ACK) {
            self.again = None;
            self.acknowledged = Some(view.now);
        }
    }

    fn passed(&mut self, view: &View, findings: &mut Findings) {
        if view.connection.closed() && view.connection.reset.is_none() {
            self.since.get_or_insert(view.now);
        }
        if let Some(again) = self.again
            && view.now > again + Duration::from_secs(1) + view.config.lag
        {
            let forgotten = self.since.is_some_and(|since| since + LEAST < again);
            if !forgotten {
                findings.add(&FIN_UNANSWERED, format!("the one of {again:?} was not"));
            }
            self.again = None;
        }
    }
}
