//! Packing code that unpacks itself: a small format for a decoder of some hundred bytes.
//!
//! A stream of bits, the lowest of each byte first; so are numbers of known width. Other numbers, from 1 on, come with their
//! highest bits first and without the leading 1: before each further bit stands a 1, and a 0 behind the last.
//!
//! | bits | meaning |
//! | --- | --- |
//! | 0, byte | that byte |
//! | 1 0, four bits n, n bits, number | copy number + 1 bytes from so far back as the n bits behind a leading 1 say |
//! | 1 1, number | copy number bytes from as far back as the last time |
//!
//! Before that, the operands of calls become absolute ([`absolute_calls`]), which makes those of one function alike.

use std::collections::HashMap;

/// The most bytes to go back, and the least to copy from a new place.
const MOST_BACK: usize = (1 << 16) - 1;
const LEAST: usize = 2;
/// The most bytes copied in one step, and how many are enough not to look for more: both bound the time this takes.
const MOST: usize = 512;
const ENOUGH: usize = 64;

/// Packs the code for `address`.
#[must_use]
pub fn pack(code: &[u8], address: u32) -> Vec<u8> {
    let mut code = code.to_vec();
    absolute_calls(&mut code, |operand, at| {
        operand.wrapping_add(address.wrapping_add(at as u32))
    });
    let mut bits = Bits::default();
    let mut at = 0;
    for step in steps(&code) {
        match step {
            Step::Byte => {
                bits.fixed(0, 1);
                bits.fixed(code[at].into(), 8);
                at += 1;
            }
            Step::New { len, back } => {
                let width = back.ilog2();
                bits.fixed(0b01, 2);
                bits.fixed(width as usize, 4);
                bits.fixed(back, width);
                bits.number(len - 1);
                at += len;
            }
            Step::Again { len } => {
                bits.fixed(0b11, 2);
                bits.number(len);
                at += len;
            }
        }
    }
    bits.bytes
}

/// Changes each operand behind a byte 0xe8, which mostly is a call's, by its place.
fn absolute_calls(code: &mut [u8], change: impl Fn(u32, usize) -> u32) {
    let mut at = 0;
    while let Some(instruction) = code.get_mut(at..at + 5) {
        if let [0xe8, a, b, c, d] = instruction {
            let operand = u32::from_le_bytes([*a, *b, *c, *d]);
            [*a, *b, *c, *d] = change(operand, at).to_le_bytes();
            at += 5;
        } else {
            at += 1;
        }
    }
}

/// What the decoder does next.
#[derive(Clone, Copy)]
enum Step {
    Byte,
    New { len: usize, back: usize },
    Again { len: usize },
}

/// The best way known to the bytes before some place.
#[derive(Clone, Copy)]
struct Way {
    bits: u32,
    last: Step,
    /// How far back the last copy went.
    back: usize,
}

/// The steps that take the fewest bits, if each way is continued from the best one so far only.
fn steps(code: &[u8]) -> Vec<Step> {
    let none = Way {
        bits: u32::MAX,
        last: Step::Byte,
        back: 0,
    };
    let mut ways = vec![none; code.len() + 1];
    ways[0].bits = 0;
    let mut pairs: HashMap<[u8; 2], Vec<usize>> = HashMap::new();
    for at in 0..code.len() {
        let way = ways[at];
        let mut try_step = |len: usize, bits: u32, last: Step, back: usize| {
            let bits = way.bits + bits;
            let to = &mut ways[at + len];
            if bits < to.bits {
                *to = Way { bits, last, back };
            }
        };
        try_step(1, 9, Step::Byte, way.back);
        if way.back != 0 {
            for len in 1..=alike(code, at, way.back) {
                try_step(len, 2 + number_width(len), Step::Again { len }, way.back);
            }
        }
        let Some(&[first, second]) = code[at..].first_chunk() else {
            continue;
        };
        let places = pairs.entry([first, second]).or_default();
        let mut longest = LEAST - 1;
        // The nearest place is the cheapest for its length.
        for back in places.iter().rev().map(|place| at - place) {
            if back > MOST_BACK || longest >= ENOUGH {
                break;
            }
            let len = alike(code, at, back);
            for len in longest + 1..=len {
                let bits = 6 + back.ilog2() + number_width(len - 1);
                try_step(len, bits, Step::New { len, back }, back);
            }
            longest = longest.max(len);
        }
        places.push(at);
    }
    let mut steps = Vec::new();
    let mut at = code.len();
    while at > 0 {
        let step = ways[at].last;
        steps.push(step);
        at -= match step {
            Step::Byte => 1,
            Step::New { len, .. } | Step::Again { len } => len,
        };
    }
    steps.reverse();
    steps
}

/// How many bytes from `at` on are those from `back` before.
fn alike(code: &[u8], at: usize, back: usize) -> usize {
    let pairs = code[at..].iter().zip(&code[at - back..]);
    pairs.take(MOST).take_while(|(a, b)| a == b).count()
}

/// Bits of a number of unknown width.
fn number_width(number: usize) -> u32 {
    2 * number.ilog2() + 1
}

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    count: usize,
}

impl Bits {
    fn bit(&mut self, bit: bool) {
        if self.count.is_multiple_of(8) {
            self.bytes.push(0);
        }
        if let Some(last) = self.bytes.last_mut() {
            *last |= u8::from(bit) << (self.count % 8);
        }
        self.count += 1;
    }

    fn fixed(&mut self, value: usize, width: u32) {
        for index in 0..width {
            self.bit(value >> index & 1 != 0);
        }
    }

    fn number(&mut self, number: usize) {
        for index in (0..number.ilog2()).rev() {
            self.bit(true);
            self.bit(number >> index & 1 != 0);
        }
        self.bit(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number of this width, behind a leading 1.
    fn fixed(bit: &mut impl FnMut() -> usize, width: usize) -> usize {
        (0..width).fold(1 << width, |value, index| value | bit() << index)
    }

    fn number(bit: &mut impl FnMut() -> usize) -> usize {
        let mut value = 1;
        while bit() == 1 {
            value = value << 1 | bit();
        }
        value
    }

    /// What the decoder in `kiln-machine`'s entry does.
    fn unpack(packed: &[u8], len: usize, address: u32) -> Vec<u8> {
        let mut at = 0;
        let mut bit = || {
            at += 1;
            usize::from(packed[(at - 1) / 8] >> ((at - 1) % 8) & 1)
        };
        let mut code = Vec::new();
        let mut back = 0;
        while code.len() < len {
            if bit() == 0 {
                code.push(fixed(&mut bit, 8) as u8);
                continue;
            }
            let mut len = 0;
            if bit() == 0 {
                let width = fixed(&mut bit, 4) - 16;
                back = fixed(&mut bit, width);
                len = 1;
            }
            len += number(&mut bit);
            for _ in 0..len {
                code.push(code[code.len() - back]);
            }
        }
        assert_eq!(at.div_ceil(8), packed.len());
        absolute_calls(&mut code, |operand, at| {
            operand.wrapping_sub(address.wrapping_add(at as u32))
        });
        code
    }

    #[test]
    fn what_is_unpacked_is_what_was_packed() {
        let mut samples = vec![
            Vec::new(),
            vec![0],
            vec![0xe8; 23],
            vec![0; 5_000],
            b"abcabcabcabcdefabcdefXabcdefYabcdefZ".to_vec(),
        ];
        // Calls of one function from all over.
        let mut calls = Vec::new();
        for round in 0..200u32 {
            calls.extend([0x90, round as u8, 0xe8]);
            calls.extend(1_000u32.wrapping_sub(calls.len() as u32 + 4).to_le_bytes());
            calls.extend(round.wrapping_mul(0x9e37_79b9).to_le_bytes());
        }
        samples.push(calls);
        samples.push((0..=255u8).cycle().step_by(7).take(5_000).collect());
        for code in samples {
            for address in [0, 0x10_c000, u32::MAX] {
                let packed = pack(&code, address);
                assert!(packed.len() <= code.len() + code.len() / 8 + 1);
                assert!(unpack(&packed, code.len(), address) == code);
            }
        }
    }

    #[test]
    fn repetitions_take_little() {
        assert!(pack(&[0x5a; 2_000], 0).len() < 16);
        let text = b"the machine part is packed, ".repeat(100);
        assert!(pack(&text, 0).len() < 60);
    }
}
