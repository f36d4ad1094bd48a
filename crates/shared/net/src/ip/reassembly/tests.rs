//! Reassembly against a model that keeps everything and looks at it only when all is there.

use super::*;
use core::net::Ipv4Addr;
use proptest::prelude::*;
use std::vec;

fn header(id: u32) -> Header {
    Header {
        source: Ipv4Addr::from(id).into(),
        destination: Ipv4Addr::new(10, 0, 0, 7).into(),
        protocol: 17,
        ecn: Ecn::NotEct,
        hop_limit: 64,
    }
}

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

fn fragment(id: u32, offset: usize, more: bool) -> Fragment {
    Fragment { id, offset, more }
}

fn data(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 3) as u8).collect()
}

/// Pieces of a datagram: starts and lengths in units of eight bytes, in order.
fn cuts() -> impl Strategy<Value = Vec<(usize, usize)>> {
    proptest::collection::vec(1usize..20, 1..20).prop_map(|lengths| {
        let mut start = 0;
        lengths
            .into_iter()
            .map(|length| {
                let piece = (start * 8, length * 8);
                start += length;
                piece
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn any_order_with_repetitions_gives_the_datagram(
        cuts in cuts(),
        tail in 0usize..8,
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let (start, length) = *cuts.last().expect("one at least");
        let total = start + length + tail;
        let bytes = data(total);
        let mut reassembly = Reassembly::default();
        let mut seen = vec![false; cuts.len()];
        let mut complete = false;
        let order = order.iter().map(|index| index.index(cuts.len())).chain(0..cuts.len());
        for index in order {
            if complete {
                break;
            }
            let (start, length) = cuts[index];
            let last = index + 1 == cuts.len();
            let length = if last { length + tail } else { length };
            seen[index] = true;
            let piece = &bytes[start..start + length];
            let outcome = reassembly.add(&header(1), fragment(1, start, !last), piece, piece, at(0));
            complete = seen.iter().all(|seen| *seen);
            match outcome {
                Outcome::Complete(_, got) => {
                    prop_assert!(complete);
                    prop_assert_eq!(&got, &bytes);
                }
                Outcome::Waiting => prop_assert!(!complete),
                Outcome::Broken => prop_assert!(false, "broken"),
            }
        }
        prop_assert!(complete);
        prop_assert_eq!(reassembly.bytes, 0);
    }

    /// The model: all bytes of a datagram with who wrote them; any contradiction breaks it.
    #[test]
    fn contradictions_break_it_as_in_the_model(
        pieces in proptest::collection::vec((0usize..12, 1usize..5, any::<bool>(), any::<bool>()), 1..12),
    ) {
        let mut reassembly = Reassembly::default();
        let mut taken: Vec<(usize, usize, bool)> = Vec::new();
        let mut over = false;
        for (start, length, more, odd) in pieces {
            let length = length * 8 - usize::from(odd && !more);
            let (start, end) = (start * 8, start * 8 + length);
            let bytes = data(200);
            let piece = &bytes[start..end];
            let outcome = reassembly.add(&header(1), fragment(1, start, more), piece, piece, at(0));
            if over {
                prop_assert_eq!(outcome, Outcome::Waiting);
                continue;
            }
            let total = taken.iter().find(|piece| !piece.2).map(|piece| piece.1);
            let exact = taken.iter().any(|piece| (piece.0, piece.1) == (start, end));
            let overlaps = taken.iter().any(|piece| piece.0 < end && start < piece.1) && !exact;
            let beyond = total.is_some_and(|total| end > total)
                || (!more && taken.iter().any(|piece| piece.1 > end))
                || (!more && total.is_some_and(|total| total != end));
            if overlaps || beyond {
                prop_assert_eq!(outcome, Outcome::Broken);
                over = true;
                continue;
            }
            if exact {
                // A repetition may add that it is the last.
                taken.retain(|piece| (piece.0, piece.1) != (start, end) || !piece.2);
                if !taken.iter().any(|piece| (piece.0, piece.1) == (start, end)) {
                    taken.push((start, end, more));
                }
            } else {
                taken.push((start, end, more));
            }
            let sum: usize = taken.iter().map(|piece| piece.1 - piece.0).sum();
            let total = taken.iter().find(|piece| !piece.2).map(|piece| piece.1);
            if total == Some(sum) {
                prop_assert!(matches!(outcome, Outcome::Complete(_, got) if got == bytes[..sum]));
                break;
            }
            prop_assert_eq!(outcome, Outcome::Waiting);
        }
    }

    #[test]
    fn memory_is_bounded(
        pieces in proptest::collection::vec((0u32..40, 0usize..8000, 1usize..200, any::<bool>()), 0..600),
    ) {
        let mut reassembly = Reassembly::default();
        for (id, start, length, more) in pieces {
            let bytes = vec![0; length * 8];
            reassembly.add(&header(id), fragment(id, start * 8, more), &bytes, &bytes, at(0));
            let cost: usize = reassembly.list.iter().map(Datagram::cost).sum();
            prop_assert_eq!(cost, reassembly.bytes);
            prop_assert!(cost <= MAX_BYTES);
            prop_assert!(reassembly.list.len() <= MAX_DATAGRAMS);
        }
        let mut failed = 0;
        reassembly.advance(at(60), &mut failed);
        prop_assert_eq!(reassembly.bytes, 0);
    }
}

#[test]
fn time_ends_a_datagram_and_its_first_fragment_is_quoted() {
    let mut reassembly = Reassembly::default();
    let piece = data(64);
    reassembly.add(&header(1), fragment(1, 0, true), &piece, &piece, at(0));
    reassembly.add(&header(2), fragment(2, 64, true), &piece, &piece, at(1));
    assert_eq!(reassembly.deadline(), at(30));
    let mut failed = 0;
    let expired = reassembly.advance(at(30), &mut failed);
    assert_eq!(
        expired,
        [Expired {
            header: header(1),
            quote: piece
        }]
    );
    assert_eq!(reassembly.advance(at(31), &mut failed), []);
    assert_eq!(failed, 2);
    assert_eq!(reassembly.deadline(), Instant::FOREVER);
}

#[test]
fn congestion_marks_survive() {
    for (other, expected) in [
        (Ecn::Ce, Some(Ecn::Ce)),
        (Ecn::Ect0, Some(Ecn::Ect0)),
        (Ecn::NotEct, None),
    ] {
        let mut reassembly = Reassembly::default();
        let piece = data(8);
        let marked = |ecn| Header { ecn, ..header(1) };
        let first = if other == Ecn::NotEct {
            Ecn::Ce
        } else {
            Ecn::Ect0
        };
        reassembly.add(&marked(first), fragment(1, 0, true), &piece, &piece, at(0));
        let outcome = reassembly.add(&marked(other), fragment(1, 8, false), &piece, &piece, at(0));
        match expected {
            Some(expected) => {
                assert!(matches!(outcome, Outcome::Complete(header, _) if header.ecn == expected));
            }
            None => assert_eq!(outcome, Outcome::Broken),
        }
    }
}
