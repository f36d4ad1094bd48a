//! Random numbers and random addresses, over many boots.

use std::collections::{BTreeMap, BTreeSet};

use kiln_system_tests::{Session, backend, probe};

const BOOTS: usize = 20;

#[test]
fn entropy_differs_at_every_boot() {
    let session = Session::new();
    let mut seen = BTreeSet::new();
    for _ in 0..BOOTS {
        let boot = session.run("--rm", "probe", "random");
        for prefix in ["random=", "entropy="] {
            let value = boot.succeeds().value(prefix);
            assert!(value.bytes().collect::<BTreeSet<_>>().len() > 8, "{value}");
            assert!(seen.insert(value), "the same numbers in two boots");
        }
    }
}

#[test]
fn the_generator_goes_on_over_several_seeds() {
    probe("random-long").succeeds();
}

/// Addresses are page aligned and lie in a region: what varies are the bits between. Twenty boots cannot measure thirty
/// bits, but they show which bits vary: with 20 samples a fair bit is constant once in 2^19.
#[test]
fn addresses_differ_at_every_boot() {
    const NEEDED_BITS: u32 = 28;
    let session = Session::new();
    let mut all: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let mut distances = BTreeSet::new();
    for _ in 0..BOOTS {
        let boot = session.run("--rm", "probe", "addresses");
        // The machine part of an image, which other monitors start, stays where it was loaded.
        let places = if backend::kind() == "qemu" { 5 } else { 6 };
        for name in ["text", "data", "stack", "heap", "boot", "gate"]
            .into_iter()
            .take(places)
        {
            let value = boot.succeeds().value(&format!("{name}=0x"));
            let address = u64::from_str_radix(&value, 16).expect("an address");
            all.entry(name).or_default().push(address);
        }
        let last = |name: &str| *all[name].last().expect("just pushed");
        // Knowing one place must not tell the others: the image, the window of stack and heap, the gate.
        distances.insert(last("text").wrapping_sub(last("stack")));
        if all.contains_key("gate") {
            distances.insert(last("gate").wrapping_sub(last("stack")));
            distances.insert(last("gate").wrapping_sub(last("text")));
        }
    }
    for (name, addresses) in &all {
        let different: BTreeSet<u64> = addresses.iter().map(|a| a >> 12).collect();
        assert_eq!(different.len(), BOOTS, "{name}: {addresses:x?}");
        let ones = addresses.iter().fold(0, |bits, a| bits | a);
        let zeroes = addresses.iter().fold(0, |bits, a| bits | !a);
        let varying = (ones & zeroes) >> 12;
        println!("{name}: {} bits vary", varying.count_ones());
        // There the heap is placed so that it can be mapped by large pages.
        let needed = if *name == "heap" && backend::kind() == "qemu" {
            NEEDED_BITS - 4
        } else {
            NEEDED_BITS
        };
        assert!(
            varying.count_ones() >= needed,
            "{name}: only {} bits vary",
            varying.count_ones()
        );
    }
    assert_eq!(
        distances.len(),
        if all.contains_key("gate") { 3 } else { 1 } * BOOTS,
        "two regions keep their distance"
    );
}
