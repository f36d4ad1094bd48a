//! The function names that stay in an image, in few bytes.
//!
//! An ELF symbol table would be a fifth of a small image. This one holds what a backtrace needs and nothing else:
//! functions in the order of their addresses, under the names people read, without generic arguments (the debug file has
//! them in full). It is the content of the section [`SECTION`], a raw deflate stream (RFC 1951) of
//!
//! 1. the number of functions, then for each its address less the one before, and its length in bytes, all as LEB128;
//! 2. their names in the same order, each behind the one before with a line feed between them.

use super::table::{Function, Table};
use crate::image::MAX_SPAN;

/// Name of the section.
pub const SECTION: &str = ".kiln.symbols";

/// The most bytes that are unpacked.
const MAX_UNPACKED: usize = 64 << 20;

/// The section's content for these functions.
pub fn encode(table: &Table) -> Vec<u8> {
    let functions = table.functions();
    let mut bytes = Vec::new();
    put(&mut bytes, functions.len() as u64);
    let mut before = 0;
    for function in functions {
        put(&mut bytes, function.start - before);
        put(&mut bytes, function.end - function.start);
        before = function.start;
    }
    let names: Vec<String> = functions.iter().map(|f| readable(&f.name)).collect();
    bytes.extend(names.join("\n").bytes());
    miniz_oxide::deflate::compress_to_vec(&bytes, 10)
}

/// The functions in a section's content, as many as can be understood.
pub fn decode(section: &[u8]) -> Table {
    let unpacked = miniz_oxide::inflate::decompress_to_vec_with_limit(section, MAX_UNPACKED);
    Table::new(functions(&unpacked.unwrap_or_default()).unwrap_or_default())
}

fn functions(mut bytes: &[u8]) -> Option<Vec<Function>> {
    let rest = &mut bytes;
    let count = take(rest)?;
    let mut places = Vec::new();
    let mut start = 0u64;
    for _ in 0..count {
        start = start.checked_add(take(rest)?)?;
        let end = start.checked_add(take(rest)?)?;
        if end > MAX_SPAN {
            return None;
        }
        places.push((start, end));
    }
    let names = String::from_utf8_lossy(bytes);
    let function = |((start, end), name): ((u64, u64), &str)| Function {
        start,
        end,
        label: false,
        name: name.to_owned(),
    };
    Some(
        places
            .into_iter()
            .zip(names.split('\n'))
            .map(function)
            .collect(),
    )
}

fn put(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn take(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The demangled name without hashes and generic arguments, in one line.
fn readable(name: &str) -> String {
    let full = format!("{:#}", rustc_demangle::demangle(name));
    let mut short = String::with_capacity(full.len());
    let mut skipped = 0u32;
    let mut before = ' ';
    for letter in full.chars() {
        // An angle bracket behind a name opens its arguments; elsewhere one opens `<Type as Trait>`.
        let opens = letter == '<' && (before == ':' || before == '_' || before.is_alphanumeric());
        let arrow = letter == '>' && before == '-';
        if opens || (skipped > 0 && letter == '<') {
            if skipped == 0 && short.ends_with("::") {
                short.truncate(short.len() - 2);
            }
            skipped += 1;
        } else if skipped > 0 && letter == '>' && !arrow {
            skipped -= 1;
        } else if skipped == 0 && !letter.is_control() {
            short.push(letter);
        }
        before = letter;
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(start: u64, end: u64, name: &str) -> Function {
        Function {
            start,
            end,
            label: false,
            name: name.to_owned(),
        }
    }

    #[test]
    fn functions_are_read_back() {
        let table = Table::new(vec![
            function(0x1000, 0x1010, "_kiln_start"),
            function(0x1010, 0x12_3456, "a::b::<u8>::c"),
            function(0x20_0000, 0x20_0001, "memcpy"),
        ]);
        let read = decode(&encode(&table));
        assert_eq!(read.len(), 3);
        assert_eq!(read.name(0xfff), None);
        assert_eq!(read.name(0x1000), Some("_kiln_start"));
        assert_eq!(read.name(0x12_3455), Some("a::b::c"));
        assert_eq!(read.name(0x12_3456), None);
        assert_eq!(read.name(0x20_0000), Some("memcpy"));
        assert_eq!(decode(&encode(&Table::default())).len(), 0);
    }

    #[test]
    fn nothing_in_the_section_is_trusted() {
        let packed = |bytes: &[u8]| miniz_oxide::deflate::compress_to_vec(bytes, 10);
        assert_eq!(decode(b"").len(), 0);
        assert_eq!(decode(b"no deflate stream").len(), 0);
        for bad in [
            &[][..],
            &[0xff; 20],
            // A million functions, of which none is there.
            &[0xc0, 0x84, 0x3d],
            // Behind all addresses.
            &[1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, b'x'],
            &[1, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, b'x'],
        ] {
            assert_eq!(decode(&packed(bad)).len(), 0, "{bad:x?}");
        }
        let strange = decode(&packed(&[2, 1, 1, 1, 1, 0xff, b'\n', b'y', b'\n', b'z']));
        assert_eq!(strange.name(1), Some("\u{fffd}"));
        assert_eq!(strange.name(2), Some("y"));
        // A bomb.
        assert_eq!(decode(&packed(&vec![0; MAX_UNPACKED + 1])).len(), 0);
    }

    #[test]
    fn names_lose_their_generic_arguments() {
        assert_eq!(readable("memcpy"), "memcpy");
        assert_eq!(readable("a::b::<u8, fn(c::<d>) -> e>::f"), "a::b::f");
        assert_eq!(
            readable("<a::B<c::D<E>> as core::fmt::Display>::fmt"),
            "<a::B as core::fmt::Display>::fmt"
        );
        assert_eq!(
            readable("_RNvMs_NtCskXd7xfyR3Rh_7kiln_rt7reactorNtB4_7Reactor4turn"),
            "<kiln_rt::reactor::Reactor>::turn"
        );
    }
}
