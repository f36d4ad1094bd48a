//! Wall-clock instants: kept as nanoseconds since 1970-01-01 UTC, shown as RFC 3339.
//!
//! Calendar arithmetic is the proleptic Gregorian one in whole days (Howard Hinnant, "chrono-compatible low-level date
//! algorithms"); leap seconds do not exist on the host's clock either.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECOND: u64 = 1_000_000_000;

/// Nanoseconds since 1970-01-01 UTC.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct WallTime(pub u64);

impl WallTime {
    /// Now.
    pub fn now() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Time from `earlier` to `self`; zero if `earlier` is the later one.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// As `2025-03-01T12:00:00.123456789Z`.
    pub fn rfc3339(self) -> String {
        let seconds = self.0 / SECOND;
        let (year, month, day) = civil(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let nanos = self.0 % SECOND;
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
    }

    /// Reads what `--since` takes: RFC 3339 in UTC (`2025-03-01`, `2025-03-01T12:00:00`, with or without a fraction
    /// and `Z`), seconds since 1970, or a time span before `now` such as `90s`, `10m`, `1h30m`, `2d`.
    pub fn parse(text: &str, now: Self) -> Option<Self> {
        if let Some(span) = parse_span(text) {
            return Some(Self(now.0.saturating_sub(span)));
        }
        if let Ok(seconds) = text.parse::<u64>() {
            return seconds.checked_mul(SECOND).map(Self);
        }
        parse_rfc3339(text)
    }
}

/// A time span in words, as docker prints ages: `3 minutes`, `About an hour`.
pub fn in_words(span: Duration) -> String {
    let seconds = span.as_secs();
    let plural =
        |count: u64, unit: &str| format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
    match seconds {
        0 => "Less than a second".to_owned(),
        1..60 => plural(seconds, "second"),
        60..120 => "About a minute".to_owned(),
        120..3600 => plural(seconds / 60, "minute"),
        3600..7200 => "About an hour".to_owned(),
        7200..172_800 => plural(seconds / 3600, "hour"),
        _ => plural(seconds / 86_400, "day"),
    }
}

/// Year, month and day of a count of days since 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// The reverse of [`civil`], for years from 1970 on.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let era = year / 400;
    let year_of_era = year % 400;
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn parse_span(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        let after = &rest[digits..];
        let unit_len = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match &after[..unit_len] {
            "ms" => SECOND / 1000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            "d" => 86_400 * SECOND,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &after[unit_len..];
    }
    (!text.is_empty()).then_some(total)
}

fn parse_rfc3339(text: &str) -> Option<WallTime> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00"));
    let mut parts = date.splitn(3, '-').map(str::parse::<u64>);
    let (year, month, day) = (
        parts.next()?.ok()?,
        parts.next()?.ok()?,
        parts.next()?.ok()?,
    );
    let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut parts = whole.splitn(3, ':').map(str::parse::<u64>);
    let (hour, minute) = (parts.next()?.ok()?, parts.next()?.ok()?);
    let second = match parts.next() {
        Some(second) => second.ok()?,
        None => 0,
    };
    let in_range = (1970..2500).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61
        && fraction.len() <= 9
        && fraction.bytes().all(|b| b.is_ascii_digit());
    if !in_range {
        return None;
    }
    let nanos: u64 = format!("{fraction:0<9}").parse().ok()?;
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(WallTime(seconds * SECOND + nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates_in_both_directions() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (1_740_830_400, "2025-03-01T12:00:00.000000000Z"),
            (4_102_444_799, "2099-12-31T23:59:59.000000000Z"),
        ] {
            let time = WallTime(seconds * SECOND);
            assert_eq!(time.rfc3339(), text);
            assert_eq!(WallTime::parse(text, WallTime(0)), Some(time));
        }
    }

    #[test]
    fn spans_count_back_from_now() {
        let now = WallTime(10_000 * SECOND);
        assert_eq!(WallTime::parse("1h30m", now), Some(WallTime(4600 * SECOND)));
        assert_eq!(WallTime::parse("90s", now), Some(WallTime(9910 * SECOND)));
        assert_eq!(WallTime::parse("42", now), Some(WallTime(42 * SECOND)));
        assert_eq!(WallTime::parse("", now), None);
        assert_eq!(WallTime::parse("2025-13-01", now), None);
        assert_eq!(WallTime::parse("yesterday", now), None);
    }

    #[test]
    fn ages_are_said_as_docker_says_them() {
        assert_eq!(in_words(Duration::from_millis(10)), "Less than a second");
        assert_eq!(in_words(Duration::from_secs(61)), "About a minute");
        assert_eq!(in_words(Duration::from_hours(2)), "2 hours");
    }
}
