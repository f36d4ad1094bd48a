//! Text that is taken from the segment it came in: as if it had been read at once.

use std::vec::Vec;

use kiln_abi::Instant;
use proptest::prelude::*;

use super::dialogue::settings;
use crate::tcp::*;

const NOW: Instant = Instant::from_nanos(1 << 40);

fn established() -> Tcb {
    let syn = Segment {
        window: 3000,
        flags: Flags::SYN,
        ..Segment::default()
    };
    let mut tcb = Tcb::accept(&settings(), &syn, Seq(7), 5, NOW);
    let _ = tcb.transmit(0, NOW);
    let _ = tcb.receive(&text(0, &[]), NOW);
    assert_eq!(tcb.state(), State::Established);
    tcb
}

/// A segment of the stream, `at` bytes behind its start.
fn text(at: u32, payload: &[u8]) -> Segment<'_> {
    Segment {
        seq: Seq(1) + at,
        ack: Seq(8),
        window: 3000,
        flags: Flags::ACK,
        payload,
        ..Segment::default()
    }
}

fn stream(at: u32, length: u32) -> Vec<u8> {
    (at..at + length).map(|i| (i ^ i >> 8) as u8).collect()
}

fn answers(tcb: &mut Tcb) -> Vec<Outgoing> {
    core::iter::from_fn(|| tcb.transmit(0, NOW)).collect()
}

#[test]
fn nothing_is_held() {
    let mut tcb = established();
    let changed = tcb.receive_with(&text(0, &[1; 1000]), NOW, &mut <[u8]>::len);
    assert!(changed.any(Changed::READABLE));
    assert_eq!((tcb.readable(), tcb.held()), (0, 0));
    assert_eq!(tcb.info(NOW).bytes_received, 1000);
    assert_eq!(answers(&mut tcb)[0].ack, Seq(1001));
}

#[test]
fn it_is_shown_only_if_it_is_next() {
    let mut never = |_: &[u8]| -> usize { panic!("shown") };
    let mut tcb = established();
    tcb.receive_with(&text(500, &[1; 100]), NOW, &mut never);
    tcb.receive_with(&text(0, &[1; 100]), NOW, &mut never);
    let mut tcb = established();
    tcb.receive_with(&text(0, &[1; 100]), NOW, &mut |_| 99);
    assert_eq!(tcb.readable(), 1);
    tcb.receive_with(&text(100, &[1; 100]), NOW, &mut never);
    tcb.receive_with(&text(0, &[1; 100]), NOW, &mut never);
    assert_eq!(tcb.readable(), 101);
}

proptest! {
    #[test]
    fn it_is_as_read_at_once(steps in proptest::collection::vec(
        (prop_oneof![3 => Just(None), 1 => (0..6000u32).prop_map(Some)], 0..2000u32, 0..2000usize, 0..2000usize),
        1..60,
    )) {
        let (mut taking, mut reading) = (established(), established());
        let (mut taken, mut read) = (Vec::new(), Vec::new());
        for (at, length, take, read_later) in steps {
            let next = taking.rcv_nxt.since(Seq(1));
            let at = at.map_or(next, |at| (next + at).saturating_sub(3000));
            let bytes = stream(at, length);
            let segment = text(at, &bytes);
            let mut shown = 0;
            taking.receive_with(&segment, NOW, &mut |text| {
                shown = text.len().min(take);
                taken.extend_from_slice(&text[..shown]);
                take
            });
            reading.receive(&segment, NOW);
            let mut buffer = std::vec![0; shown];
            prop_assert_eq!(reading.read(&mut buffer, NOW), Ok(shown));
            read.extend(buffer);
            prop_assert_eq!(answers(&mut taking), answers(&mut reading));
            for (tcb, bytes) in [(&mut taking, &mut taken), (&mut reading, &mut read)] {
                let mut buffer = std::vec![0; read_later];
                let count = tcb.read(&mut buffer, NOW).unwrap();
                bytes.extend_from_slice(&buffer[..count]);
            }
            prop_assert_eq!(taking.readable(), reading.readable());
            prop_assert_eq!(taking.info(NOW), reading.info(NOW));
        }
        prop_assert!(taken == stream(0, taken.len() as u32));
        prop_assert!(taken == read);
    }
}
