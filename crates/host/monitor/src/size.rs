//! Sizes of memory and files as people write them: `512K`, `64M`, `1G`.
//!
//! A [`Size`] is a number of bytes that parses and prints in docker's units: powers of 1024, one letter.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// `bytes` bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Rounded to three digits, for tables: `1.93 MiB`.
    pub fn rounded(self) -> String {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        #[allow(clippy::cast_precision_loss, reason = "three digits are shown of it")]
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        let digits = match value {
            _ if unit == 0 => 0,
            v if v < 10.0 => 2,
            v if v < 100.0 => 1,
            _ => 0,
        };
        format!("{value:.digits$} {}", UNITS[unit])
    }
}

impl fmt::Display for Size {
    /// The shortest exact form that [`Size::from_str`] reads back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = [(30, 'G'), (20, 'M'), (10, 'K')]
            .into_iter()
            .find(|(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match exact {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// `bytes` in the shortest exact form, as [`Size`] prints it.
pub fn format(bytes: u64) -> String {
    Size(bytes).to_string()
}

/// The text is not a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a size: write a whole number with K, M or G, for example 64M")]
pub struct NotASize;

impl FromStr for Size {
    type Err = NotASize;

    /// Reads digits and an optional unit `b`, `k`, `m`, `g` or `t`, in either case, also as `KiB` or `kb`.
    fn from_str(text: &str) -> Result<Self, NotASize> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(NotASize),
        };
        let number: u64 = number.parse().map_err(|_| NotASize)?;
        number.checked_mul(1 << shift).map(Self).ok_or(NotASize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("512K", 512 << 10),
            ("2m", 2 << 20),
            ("1GiB", 1 << 30),
            ("4096b", 4096),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in ["", "M", "-1", "1.5G", "64 M", "64X", "99999999999T", "0x10"] {
            assert_eq!(text.parse::<Size>(), Err(NotASize), "{text:?}");
        }
    }

    #[test]
    fn printing_is_exact_and_reads_back() {
        for bytes in [0, 1, 1000, 1024, 64 << 20, (64 << 20) + 4096, 3 << 30] {
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
        assert_eq!(Size(64 << 20).to_string(), "64M");
        assert_eq!(Size(2_019_328).rounded(), "1.93 MiB");
        assert_eq!(Size(512).rounded(), "512 B");
    }
}
