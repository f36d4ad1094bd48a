//! The window the host offers, and how it uses its peer's.

use super::{Area, View, rules};
use crate::connection::Placed;
use crate::ranges::Place;
use crate::report::Findings;
use crate::segment::{Flags, Time};
use std::time::Duration;

rules! {
    SHRUNK Warning "window-shrunk", "RFC 9293 3.8.6", "the right edge of the window does not move back";
    SILLY_RECEIVER Warning "silly-window-receiver", "RFC 9293 3.8.6.2.2", "a closed window opens by a segment or half the buffer at least";
    SILLY_SENDER Warning "silly-window-sender", "RFC 9293 3.8.6.2.1", "small segments are not sent because the window leaves no more room";
    PROBE_INTERVAL Warning "probe-interval", "RFC 9293 3.8.6.1", "a closed window is probed after a time-out, and at growing intervals";
}

/// See [`RULES`].
#[derive(Default)]
pub struct Window {
    /// When a closed window was probed, and the interval before that.
    probed: Option<(Time, Duration)>,
    closed_since: Option<Time>,
    edge_at_small: Option<Place>,
}

impl Area for Window {
    fn sent(&mut self, view: &View, placed: &Placed, findings: &mut Findings) {
        if placed.segment.flags.any(Flags::RST | Flags::SYN) {
            return;
        }
        Self::offers(view, placed, findings);
        self.uses(view, placed, findings);
        self.probes(view, placed, findings);
    }

    fn received(&mut self, view: &View, placed: &Placed, _: &mut Findings) {
        let Some(ack) = placed.ack else { return };
        let closed = view.connection.window(placed) == 0 && ack == view.connection.output.max;
        if !closed || self.closed_since.is_none() {
            self.probed = None;
            self.closed_since = closed.then_some(view.now);
        }
    }
}

impl Window {
    fn offers(view: &View, placed: &Placed, findings: &mut Findings) {
        let (connection, input) = (view.connection, &view.connection.input);
        let Some(ack) = placed.ack.filter(|_| connection.established()) else {
            return;
        };
        let (window, unit) = (
            connection.window(placed),
            1 << connection.output.syn.window_scale.unwrap_or(0).min(14),
        );
        let edge = ack + window;
        if edge + unit <= input.edge && ack >= input.acked() {
            findings.add(&SHRUNK, format!("by {}", input.edge - edge));
        }
        let segment = input.largest_segment.max(536);
        let least = segment.min(input.largest_window / 2);
        let was_closed = input.last_edge <= input.acked();
        if was_closed && window > 0 && window + unit < least {
            findings.add(&SILLY_RECEIVER, format!("it opens to {window}"));
        }
    }

    fn uses(&mut self, view: &View, placed: &Placed, findings: &mut Findings) {
        let (connection, output) = (view.connection, &view.connection.output);
        let data = placed.segment.payload.len() as u64;
        let new = placed.start >= output.max && data > 1;
        let Some(edge) = output
            .edge
            .last()
            .filter(|_| new && connection.established())
        else {
            return;
        };
        let full = connection.segment_size();
        let steady = output.edge.since(view.settled()).all(|other| other == edge);
        let stopped_by_window = placed.data_end() == edge && steady;
        let small = data < full && data < output.largest_window / 2;
        // The last data of a burst may be small and end there by chance; a second one in a row tells.
        if stopped_by_window && small && output.max > output.una() {
            if self
                .edge_at_small
                .is_some_and(|before| before + full > edge && before != edge)
            {
                findings.add(&SILLY_SENDER, format!("{data} bytes up to the edge, again"));
            }
            self.edge_at_small = Some(edge);
        } else {
            self.edge_at_small = None;
        }
    }

    fn probes(&mut self, view: &View, placed: &Placed, findings: &mut Findings) {
        let output = &view.connection.output;
        let (Some(since), Some(edge)) = (self.closed_since, output.edge.last()) else {
            return;
        };
        let below = placed.segment.is_empty() && placed.start < output.una();
        let beyond = placed.end > edge && placed.end - placed.start == 1;
        if !below && !beyond || output.una() < edge {
            return;
        }
        let (last, before) = self.probed.unwrap_or((since, Duration::ZERO));
        let interval = view.now.saturating_sub(last);
        let first_too_early =
            self.probed.is_none() && interval + view.config.lag < view.config.least_rto;
        // Intervals grow up to a minute.
        let not_growing = before > Duration::ZERO
            && before < Duration::from_secs(30)
            && interval < before * 3 / 2;
        if first_too_early || not_growing {
            findings.add(&PROBE_INTERVAL, format!("{interval:?} after {before:?}"));
        }
        let counted = if self.probed.is_some() {
            interval
        } else {
            Duration::ZERO
        };
        self.probed = Some((view.now, counted));
    }
}
