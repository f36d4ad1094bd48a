//! The ring of copied frames with anything in it, as the guest of the `process` backend may leave it.
//!
//! The input is where the ring's head is said to be (8 bytes), how many frames were dropped (4 bytes), and the ring's first
//! words. Whatever they are, the supervisor gets frames within their bounds, at most a ring's worth, and frames that are
//! written properly afterwards.
#![no_main]

use std::sync::atomic::Ordering;

use kiln_abi::net::MAX_FRAME;
use kiln_gate::traffic::{RING_SIZE, Traffic};
use kiln_monitor::backends::process::ring::{Reader, Ring};
use kiln_monitor::capture::Copied;
use libfuzzer_sys::fuzz_target;

const NOW: u64 = 1 << 60;

fuzz_target!(|input: &[u8]| {
    let Some((head, input)) = input.split_first_chunk::<8>() else {
        return;
    };
    let Some((dropped, input)) = input.split_first_chunk::<4>() else {
        return;
    };
    let words: Vec<u64> = input
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
        .collect();
    let (traffic, ring) = (Traffic::default(), Ring::with(&words));
    let mut reader = Reader::default();
    reader.want(&traffic, 0b101, 2000);
    let head = u64::from_le_bytes(*head);
    traffic.head.store(head, Ordering::Relaxed);
    traffic.dropped[2].store(u32::from_le_bytes(*dropped), Ordering::Relaxed);
    let mut bytes = 0;
    reader.read(&traffic, &ring, NOW, &mut |copied| match copied {
        Copied::Frame(frame) => {
            assert!(frame.device == 0 || frame.device == 2);
            assert!(frame.bytes.len() <= frame.len as usize && frame.len as usize <= MAX_FRAME);
            assert!(frame.time <= NOW);
            bytes += frame.bytes.len();
        }
        Copied::Lost { device, .. } => assert!(device == 0 || device == 2),
    });
    assert!(bytes <= RING_SIZE);
    // All of it is read: nothing comes twice.
    reader.read(&traffic, &ring, NOW, &mut |copied| {
        assert!(
            head % 32 != 0 || matches!(copied, Copied::Lost { .. }),
            "{copied:?}"
        );
    });
});
