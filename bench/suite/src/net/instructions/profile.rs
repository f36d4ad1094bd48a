//! What the plugin counted, by the part of the guest that it belongs to.
//!
//! Symbols tell the parts of an image apart. The image lies where the guest's start put it, at another place each time:
//! of all places the one is right at which most functions that were executed begin. What lies outside is the machine
//! part, the code between image and virtual hardware.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::counted::Counts;
use crate::process::{self, PATIENCE};

/// Images are put at multiples of a page.
const PAGE: u64 = 4096;

/// The parts, in the order of the table.
pub const PARTS: [&str; 5] = [
    "application",
    "network stack",
    "runtime",
    "memory, core",
    "machine part",
];
const MACHINE: usize = 4;

/// Counts of the [`PARTS`].
pub type Split = [u64; PARTS.len()];

/// The functions of an image: where each begins, and the part that it belongs to.
pub struct Image {
    functions: BTreeMap<u64, usize>,
    end: u64,
}

impl Image {
    /// Reads the symbols of the file beside an image.
    pub fn read(debug: &Path) -> Result<Self> {
        let nm = process::need("nm", "binutils")?;
        let text = process::output(Command::new(nm).args(["-C", "-S"]).arg(debug), PATIENCE)?;
        let image = Self::parse(&text);
        if image.functions.is_empty() {
            return Err(format!("{} names no functions", debug.display()));
        }
        Ok(image)
    }

    /// Reads lines of `address size kind name`.
    fn parse(text: &str) -> Self {
        let mut image = Self {
            functions: BTreeMap::new(),
            end: 0,
        };
        for line in text.lines() {
            let mut words = line.splitn(4, ' ');
            let (Some(address), Some(size), Some("t" | "T" | "w" | "W"), Some(name)) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                continue;
            };
            let number = |text| u64::from_str_radix(text, 16);
            if let (Ok(address), Ok(size)) = (number(address), number(size)) {
                image.functions.insert(address, part_of(name));
                image.end = image.end.max(address + size);
            }
        }
        image
    }

    /// Where the image lies in the guest, if it has been executed.
    pub fn place(&self, counts: &Counts) -> Option<u64> {
        // The first function of each page of the guest could be any function with the same place in its page.
        let mut votes: HashMap<u64, usize> = HashMap::new();
        for &address in counts.keys() {
            for &function in self.functions.keys() {
                let base = address.wrapping_sub(function);
                if base % PAGE == 0 {
                    *votes.entry(base).or_default() += 1;
                }
            }
        }
        votes
            .into_iter()
            .max_by_key(|&(_, votes)| votes)
            .map(|(base, _)| base)
    }

    /// Adds up counts by part.
    pub fn split(&self, counts: &Counts, place: u64) -> Split {
        let mut split = Split::default();
        for (address, count) in counts {
            let inside = address.checked_sub(place).filter(|&at| at < self.end);
            let function = inside.and_then(|at| self.functions.range(..=at).next_back());
            split[function.map_or(MACHINE, |(_, &part)| part)] += count;
        }
        split
    }
}

/// The part that a function belongs to, by the crates in its name. What was inlined counts where it ended up.
fn part_of(name: &str) -> usize {
    let has = |crates: &[&str]| crates.iter().any(|one| name.contains(one));
    if has(&["web::", "httparse::"]) {
        0
    } else if has(&["kiln_net::", "smoltcp::", "kiln_wire::", "kiln_tcp::"]) {
        1
    } else if has(&["kiln_mem::", "kiln_heap::"]) {
        3
    } else if has(&["kiln_", "kiln::", "async_task::", "embassy_"]) {
        2
    } else {
        3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYMBOLS: &str = "\
0000000000001010 0000000000000010 t web::main::{closure#0}
0000000000001020 0000000000000010 t <kiln_net::stack::Core>::poll
0000000000002030 0000000000000008 T memcpy
0000000000003000 0000000000000008 R SOMETHING
                 U undefined
";

    #[test]
    fn counts_are_added_up_by_part_wherever_the_image_lies() {
        let image = Image::parse(SYMBOLS);
        let base = 0x7f00_0000_0000;
        let counts = Counts::from([
            (base + 0x1010, 1),
            (base + 0x1014, 1),
            (base + 0x1020, 10),
            (base + 0x2030, 100),
            (base + 0x2034, 100),
            (base + 0x9000, 1000),
        ]);
        assert_eq!(image.place(&counts), Some(base));
        assert_eq!(image.split(&counts, base), [2, 10, 0, 200, 1000]);
    }
}
