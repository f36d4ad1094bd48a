//! Urgent data.

use super::{Area, View, rules};
use crate::connection::Placed;
use crate::ranges::Place;
use crate::report::Findings;
use crate::segment::Flags;

rules! {
    BACKWARDS Error "urgent-backwards", "RFC 9293 3.8.5", "the urgent pointer does not go back";
    STRAY Warning "urgent-stray", "RFC 9293 3.1", "the urgent pointer is zero where URG is not set";
    NOWHERE Error "urgent-nowhere", "RFC 9293 3.8.5", "the urgent pointer points beyond what the peer has acknowledged";
}

/// See [`RULES`].
#[derive(Default)]
pub struct Urgent {
    furthest: Option<Place>,
}

impl Area for Urgent {
    fn sent(&mut self, view: &View, placed: &Placed, findings: &mut Findings) {
        let segment = placed.segment;
        if !segment.flags.has(Flags::URG) {
            if segment.urgent != 0 {
                findings.add(&STRAY, "it is not");
            }
            return;
        }
        let place = placed.start + u64::from(segment.urgent);
        if segment.urgent == 0 || place < view.connection.output.una_known(view.now, view.config) {
            findings.add(&NOWHERE, "it does not");
        }
        // A retransmission may repeat the pointer of its time.
        let new = placed.end > view.connection.output.max;
        if new && self.furthest.is_some_and(|before| place < before) {
            findings.add(&BACKWARDS, "it pointed further");
        }
        self.furthest = self.furthest.max(Some(place));
    }
}
