//! Numbers for people: medians, units and tables.
//!
//! Contenders are measured in turns, A B A B, and compared pair by pair: a change of clock speed or a busy neighbour then
//! hits both, and the median of the pairs' ratios is steadier than the ratio of two medians.

use std::time::Duration;

/// The median; NaN of nothing.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The median of the ratios of samples taken together.
pub fn ratio(samples: &[f64], peers: &[f64]) -> f64 {
    let ratios: Vec<f64> = samples.iter().zip(peers).map(|(a, b)| a / b).collect();
    median(&ratios)
}

/// Microseconds.
pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A number with as many decimals as its size deserves.
pub fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "-".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Bytes in KiB.
#[expect(
    clippy::cast_precision_loss,
    reason = "sizes here are far below 2^52 bytes"
)]
pub fn kib(bytes: u64) -> String {
    number(bytes as f64 / 1024.0)
}

/// A count as a floating-point number, for dividing.
#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
pub fn count(value: u64) -> f64 {
    value as f64
}

/// The machine's load over the last minute.
pub fn load_average() -> String {
    let line = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = line.split(' ').next().unwrap_or_default();
    if first.is_empty() { "?" } else { first }.to_owned()
}

/// A table: the first column is text, the others are numbers.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with such a head.
    pub fn new(head: &[&str]) -> Self {
        let head = head.iter().map(|&cell| cell.to_owned()).collect();
        Self { rows: vec![head] }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// Prints everything; nothing if no row was added.
    pub fn print(&self) {
        if self.rows.len() < 2 {
            return;
        }
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.rows[0].len()).map(width).collect();
        println!();
        for row in &self.rows {
            let mut line = format!("{:<1$}", row[0], widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                line.push_str("  ");
                line.extend(std::iter::repeat_n(
                    ' ',
                    width.saturating_sub(cell.chars().count()),
                ));
                line.push_str(cell);
            }
            println!("{}", line.trim_end());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_numbers_of_samples() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn pairs_are_compared_one_by_one() {
        let (kiln, peer) = ([2.0, 20.0, 3.0], [1.0, 10.0, 1.0]);
        assert!((ratio(&kiln, &peer) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn numbers_keep_about_three_digits() {
        assert_eq!(number(1234.5), "1234");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(0.123), "0.12");
        assert_eq!(number(f64::NAN), "-");
    }
}
