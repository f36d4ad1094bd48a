use super::scoreboard::State;
use super::*;

mod dialogue;
mod hostile;
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_lossless,
    reason = "figures are compared with a formula"
)]
mod simulation;

#[test]
fn a_connection_needs_little() {
    assert!(size_of::<Recovery>() <= 320, "{}", size_of::<Recovery>());
}

impl Recovery {
    /// What is counted on the way is what is there.
    fn check(&self) {
        let (records, memory) = self.board.records();
        let mut at = self.board.una;
        let (mut sacked, mut lost) = (0, 0);
        let mut first_lost = None;
        for record in &records {
            assert_eq!(record.start, at, "records follow each other");
            assert!(record.start < record.end, "records are not empty");
            at = record.end;
            let len = record.end.since(record.start);
            match record.state {
                State::Sacked => sacked += len,
                State::Lost => {
                    lost += len;
                    first_lost = first_lost.or(Some(record.start));
                }
                State::Flying => {}
            }
        }
        assert_eq!(at, self.board.nxt);
        assert_eq!((sacked, lost), (self.board.sacked, self.board.lost));
        let next_lost = self.next_lost();
        assert_eq!(next_lost.map(|block| block.start), first_lost);
        assert!(next_lost.is_none_or(|block| !block.is_empty() && block.end <= self.board.nxt));
        assert!(self.left <= self.board.outstanding() - self.board.lost);
        if records.is_empty() {
            assert!(!memory && self.due == Instant::FOREVER && self.in_flight() == 0);
        } else {
            assert!(self.due < Instant::FOREVER);
        }
    }
}
