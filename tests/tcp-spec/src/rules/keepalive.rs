//! Keep-alives.

use std::time::Duration;

use super::{Area, View, rules};
use crate::connection::Placed;
use crate::report::Findings;
use crate::segment::{Flags, Time};

rules! {
    FORM Error "keepalive-form", "RFC 9293 3.8.4", "a keep-alive is at SND.NXT-1, with one byte at most";
    BUSY Error "keepalive-busy", "RFC 9293 3.8.4", "keep-alives are sent only where nothing is outstanding";
    UNANSWERED Warning "keepalive-unanswered", "RFC 9293 3.8.4", "a keep-alive is answered by an acknowledgment";
}

/// See [`RULES`].
#[derive(Default)]
pub struct Keepalive {
    /// When a keep-alive of the peer came.
    asked: Option<Time>,
    /// When the host last sent an acknowledgment.
    acknowledged: Option<Time>,
}

impl Area for Keepalive {
    fn sent(&mut self, view: &View, placed: &Placed, findings: &mut Findings) {
        if placed.segment.flags.has(Flags::ACK) {
            self.asked = None;
            self.acknowledged = Some(view.now);
        }
        let output = &view.connection.output;
        let shape = placed.segment.payload.len() <= 1
            && !placed
                .segment
                .flags
                .any(Flags::FIN | Flags::SYN | Flags::RST);
        let known = output.una_known(view.now, view.config);
        if !view.connection.established() || placed.start >= known {
            return;
        }
        let one_below = placed.start + 1 == output.una() && known == output.una();
        if one_below && output.una() == output.max && placed.segment.payload.len() > 1 {
            findings.add(&FORM, format!("it has {}", placed.segment.payload.len()));
        }
        // Below a closed window it is a window probe.
        let open = output.edge.since(view.settled()).min() > Some(output.una());
        let idle = output.max == output.una();
        if shape && open && !idle && one_below {
            findings.add(&BUSY, format!("{} bytes are", output.max - output.una()));
        }
    }

    fn received(&mut self, view: &View, placed: &Placed, _: &mut Findings) {
        let input = &view.connection.input;
        let keepalive = view.connection.established()
            && placed.start + 1 == input.next()
            && placed.segment.payload.len() <= 1
            && input.acked() == input.next()
            && input.fin.is_none()
            && !placed
                .segment
                .flags
                .any(Flags::RST | Flags::SYN | Flags::FIN);
        // Hosts limit how often they answer such segments.
        let answered = self
            .acknowledged
            .is_some_and(|then| then + Duration::from_millis(550) > view.now);
        if keepalive && !answered {
            self.asked = Some(view.now);
        }
    }

    fn passed(&mut self, view: &View, findings: &mut Findings) {
        if view.connection.reset.is_some() {
            self.asked = None;
        }
        if let Some(asked) = self.asked
            && view.now > asked + Duration::from_millis(500) + view.config.lag
        {
            findings.add(&UNANSWERED, format!("the one of {asked:?} was not"));
            self.asked = None;
        }
    }
}
