//! Random numbers and random addresses.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec;
use core::fmt::Write;

use kiln::{println, random};

use crate::places;

pub fn run(case: &str) -> Option<u8> {
    match case {
        "random" => {
            let mut bytes = [0; 32];
            random::fill(&mut bytes);
            println!("random={}", hex(&bytes));
            println!("entropy={}", hex(&kiln_rt::boot::info().entropy));
        }
        "random-long" => long(),
        "addresses" => {
            for name in ["text", "data", "stack", "heap", "boot", "gate"] {
                println!("{name}={:#x}", places::address(name));
            }
        }
        _ => return None,
    }
    Some(0)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Four mebibytes: over several seeds of the host.
fn long() {
    let mut seen = BTreeSet::new();
    let mut ones = 0u64;
    let mut block = vec![0u8; 4096];
    let blocks = 1024u64;
    for _ in 0..blocks {
        random::fill(&mut block);
        ones += block.iter().map(|b| u64::from(b.count_ones())).sum::<u64>();
        assert!(
            seen.insert(block[..16].to_vec()),
            "the stream repeats itself"
        );
    }
    let bits = blocks * 4096 * 8;
    // Ten standard deviations of a fair coin: sqrt(bits) / 2 each.
    let off = ones.abs_diff(bits / 2);
    assert!(off < 5 * bits.isqrt(), "{ones} of {bits} bits are ones");
    assert_ne!(random::u64(), random::u64());
}
