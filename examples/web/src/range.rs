//! The `Range` field (RFC 9110 section 14): a part of a page.
//!
//! A server may ignore the field. This one does for several ranges at once, for units other than bytes, and for what
//! does not follow the grammar; the reply is the whole page then.

use core::ops::Range;

/// What a `Range` field asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The whole page.
    Whole,
    /// These bytes: not empty, and inside the page.
    Part(Range<u64>),
    /// Nothing that the page has.
    Unsatisfiable,
}

/// Reads the field's value, for a page of `len` bytes.
pub fn select(field: &[u8], len: u64) -> Selection {
    let Some((unit, set)) = split_at(field.trim_ascii(), b'=') else {
        return Selection::Whole;
    };
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return Selection::Whole;
    }
    let Some((first, last)) = split_at(set.trim_ascii(), b'-') else {
        return Selection::Whole;
    };
    let (Some(first), Some(last)) = (position(first), position(last)) else {
        return Selection::Whole;
    };
    match (first, last) {
        (Position::At(first), Position::At(last)) if first > last => Selection::Whole,
        (Position::At(first), _) if first >= len => Selection::Unsatisfiable,
        (Position::At(first), Position::At(last)) => {
            Selection::Part(first..last.saturating_add(1).min(len))
        }
        (Position::At(first), Position::Open) => Selection::Part(first..len),
        // `-500`: the last 500 bytes.
        (Position::Open, Position::At(suffix)) => match suffix.min(len) {
            0 => Selection::Unsatisfiable,
            suffix => Selection::Part(len - suffix..len),
        },
        (Position::Open, Position::Open) => Selection::Whole,
    }
}

fn split_at(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&b| b == separator)?;
    Some((&text[..at], &text[at + 1..]))
}

/// One end of a range.
#[derive(Clone, Copy, Debug)]
enum Position {
    At(u64),
    Open,
}

/// Reads digits, or nothing at all. Numbers beyond 64 bits are as good as the greatest: no page reaches there.
fn position(digits: &[u8]) -> Option<Position> {
    if digits.is_empty() {
        return Some(Position::Open);
    }
    let mut number = 0u64;
    for byte in digits {
        if !byte.is_ascii_digit() {
            return None;
        }
        let digit = u64::from(byte - b'0');
        number = number.saturating_mul(10).saturating_add(digit);
    }
    Some(Position::At(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(field: &str) -> Selection {
        select(field.as_bytes(), 1000)
    }

    #[test]
    fn first_and_last_position_are_inclusive() {
        assert_eq!(part("bytes=0-499"), Selection::Part(0..500));
        assert_eq!(part("bytes=500-999"), Selection::Part(500..1000));
        assert_eq!(part("bytes=0-0"), Selection::Part(0..1));
        assert_eq!(part("BYTES=999-999"), Selection::Part(999..1000));
    }

    #[test]
    fn an_open_end_means_the_rest() {
        assert_eq!(part("bytes=9-"), Selection::Part(9..1000));
        assert_eq!(part("bytes=0-"), Selection::Part(0..1000));
    }

    #[test]
    fn a_suffix_counts_from_the_end() {
        assert_eq!(part("bytes=-1"), Selection::Part(999..1000));
        assert_eq!(part("bytes=-5000"), Selection::Part(0..1000));
        assert_eq!(part("bytes=-0"), Selection::Unsatisfiable);
        assert_eq!(select(b"bytes=-5", 0), Selection::Unsatisfiable);
    }

    #[test]
    fn positions_behind_the_end_are_cut_or_unsatisfiable() {
        assert_eq!(part("bytes=900-4000"), Selection::Part(900..1000));
        assert_eq!(
            part("bytes=0-99999999999999999999999"),
            Selection::Part(0..1000)
        );
        assert_eq!(part("bytes=1000-"), Selection::Unsatisfiable);
        assert_eq!(
            part("bytes=99999999999999999999999-"),
            Selection::Unsatisfiable
        );
    }

    #[test]
    fn what_is_not_one_range_of_bytes_means_the_whole() {
        for field in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-4",
            "bytes=a-b",
            "bytes=1-2,4-5",
            "lines=1-2",
            "bytes=--5",
            "bytes=+1-2",
            "bytes 1-2",
        ] {
            assert_eq!(part(field), Selection::Whole, "{field}");
        }
    }

    proptest! {
        #[test]
        fn a_part_is_never_empty_and_lies_inside(field in "bytes=[0-9]{0,21}-[0-9]{0,21}", len in 0..5000u64) {
            if let Selection::Part(range) = select(field.as_bytes(), len) {
                prop_assert!(range.start < range.end && range.end <= len);
            }
        }
    }
}
