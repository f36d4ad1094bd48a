//! Who chooses addresses and ports cannot choose which connections collide.
//!
//! How long a look-up is shows in how many entries it compares with: one, and now and then another.

use std::cell::Cell;
use std::rc::Rc;

use super::*;

const FIRST: Secret = Secret(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
const OTHERS: [Secret; 3] = [
    Secret(1, 2),
    Secret(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0909),
    Secret(u64::MAX, 0),
];

/// An entry that counts how often it is compared.
struct Counting {
    pair: Pair,
    compared: Rc<Cell<usize>>,
}

impl Ends for Counting {
    fn pair(&self) -> &Pair {
        self.compared.set(self.compared.get() + 1);
        &self.pair
    }
}

/// What somebody can choose: each of these numbers is another peer, of the four families of choices in turn.
fn peers4() -> impl Iterator<Item = Pair> {
    (0u64..).map(|number| Pair {
        local: ([10, 0, 0, 1], 80).into(),
        remote: (
            IpAddr::V4(((number >> 16) as u32 | 0x0b00_0000).into()),
            number as u16,
        )
            .into(),
    })
}

/// A table of all of these, and how many comparisons finding one of them takes: on average, and at most.
fn look_up(secret: Secret, pairs: &[Pair]) -> (f64, usize) {
    let compared = Rc::new(Cell::new(0));
    let mut table = Table::new(secret);
    for &pair in pairs {
        let compared = compared.clone();
        table.insert(Counting { pair, compared });
    }
    assert_eq!(table.len(), pairs.len());
    let (mut all, mut most) = (0u32, 0);
    for pair in pairs {
        compared.set(0);
        assert!(table.find(pair).is_some());
        all += compared.get() as u32;
        most = most.max(compared.get());
    }
    (f64::from(all) / f64::from(pairs.len() as u32), most)
}

/// Peers whose hashes under [`FIRST`] agree in the bits of `mask`.
fn chosen(mask: u64, count: usize) -> Vec<Pair> {
    let collides = |pair: &Pair| FIRST.hash(pair) & mask == 0;
    peers4().filter(collides).take(count).collect()
}

#[test]
fn peers_chosen_for_one_key_collide_under_no_other() {
    // What a table of this size looks at: where to begin, and a tag of seven bits.
    const SEEN: u64 = 0xfe00_0000_0000_007f;
    let pairs = chosen(SEEN, 128);
    let (average, most) = look_up(FIRST, &pairs);
    assert!(average > 30.0 && most > 60, "{average}, {most}");
    for other in OTHERS {
        let (average, most) = look_up(other, &pairs);
        assert!(average < 1.25 && most <= 4, "{average}, {most}");
    }
}

#[test]
fn tens_of_thousands_that_collide_under_another_key_are_found_at_once() {
    let pairs = chosen(0x3f, 30_000);
    for other in OTHERS {
        let (average, most) = look_up(other, &pairs);
        assert!(average < 1.25 && most <= 8, "{average}, {most}");
    }
}

#[test]
fn regular_choices_make_no_long_look_ups() {
    const COUNT: u32 = 30_000;
    let local4 = SocketAddr::from(([10, 0, 0, 1], 80));
    let local6 = SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, 1], 80));
    let pair = |local, ip: IpAddr, port: u32| Pair {
        local,
        remote: (ip, port as u16).into(),
    };
    let one_address = |n: u32| pair(local4, IpAddr::V4(0x0a00_0002.into()), n);
    let one_port = |n: u32| pair(local4, IpAddr::V4((0x0b00_0000 + n).into()), 443);
    let high_bits = |n: u32| pair(local4, IpAddr::V4((n << 16).into()), n << 12);
    // Sums and exclusive ors of the parts are all the same.
    let same_sum = |n: u32| pair(local4, IpAddr::V4((0x0b00_0000 + n).into()), 65_535 - n);
    let same_xor = |n: u32| pair(local4, IpAddr::V4((0x0b00_0000 ^ n).into()), n);
    let prefix = |n: u32| {
        pair(
            local6,
            IpAddr::V6((u128::from(n) << 64 | 0xfe80 << 112).into()),
            443,
        )
    };
    let suffix = |n: u32| {
        pair(
            local6,
            IpAddr::V6((u128::from(n) | 0xfd << 120).into()),
            443,
        )
    };
    let families: [&dyn Fn(u32) -> Pair; 7] = [
        &one_address,
        &one_port,
        &high_bits,
        &same_sum,
        &same_xor,
        &prefix,
        &suffix,
    ];
    for (number, family) in families.iter().enumerate() {
        let pairs: Vec<Pair> = (1..=COUNT).map(family).collect();
        let (average, most) = look_up(FIRST, &pairs);
        assert!(average < 1.25 && most <= 8, "{number}: {average}, {most}");
    }
}

#[test]
fn every_part_of_both_ends_counts() {
    let base = Pair {
        local: ([10, 0, 0, 1], 80).into(),
        remote: ([10, 0, 0, 2], 50_000).into(),
    };
    let swapped = Pair {
        local: base.remote,
        remote: base.local,
    };
    let mut others = Vec::from([swapped]);
    for bit in 0..96 {
        let mut pair = base;
        let flip4 = |end: &mut SocketAddr, bit: u32| {
            if let IpAddr::V4(address) = end.ip() {
                end.set_ip(IpAddr::V4((address.to_bits() ^ 1 << bit).into()));
            }
        };
        match bit {
            0..32 => flip4(&mut pair.local, bit),
            32..64 => flip4(&mut pair.remote, bit - 32),
            64..80 => pair.local.set_port(base.local.port() ^ 1 << (bit - 64)),
            _ => pair.remote.set_port(base.remote.port() ^ 1 << (bit - 80)),
        }
        others.push(pair);
    }
    for pair in others {
        let differs = (FIRST.hash(&pair) ^ FIRST.hash(&base)).count_ones();
        assert!((12..=52).contains(&differs), "{pair:?}: {differs} bits");
    }
}
