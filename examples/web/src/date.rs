//! The `Date` field (RFC 9110 section 5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.

/// A date as it stands in the field.
pub type HttpDate = [u8; 29];

const DAYS: &[u8; 21] = b"ThuFriSatSunMonTueWed";
const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";

/// The date so many seconds after the beginning of 1970, UTC. Years beyond 9999 are cut to four digits.
pub fn http_date(seconds: u64) -> HttpDate {
    let days = seconds / 86_400;
    let (year, month, day) = civil(days);
    let second = seconds % 86_400;
    let weekday = (days % 7) as usize * 3;
    let name = (month - 1) as usize * 3;

    let mut date = *b"Day, DD Mon YYYY hh:mm:ss GMT";
    date[..3].copy_from_slice(&DAYS[weekday..weekday + 3]);
    date[5..7].copy_from_slice(&two_digits(day));
    date[8..11].copy_from_slice(&MONTHS[name..name + 3]);
    date[12..14].copy_from_slice(&two_digits(year / 100));
    date[14..16].copy_from_slice(&two_digits(year));
    date[17..19].copy_from_slice(&two_digits(second / 3600));
    date[20..22].copy_from_slice(&two_digits(second / 60 % 60));
    date[23..25].copy_from_slice(&two_digits(second % 60));
    date
}

/// Year, month and day of a day counted from 1970-01-01, by the Gregorian calendar.
///
/// Years are counted from March, so that the leap day is a year's last; an era is the 400 years after which the
/// calendar repeats.
fn civil(days: u64) -> (u64, u64, u64) {
    // From 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = year + era * 400;
    if month < 10 {
        (year, month + 3, day)
    } else {
        (year + 1, month - 9, day)
    }
}

fn two_digits(number: u64) -> [u8; 2] {
    let digit = |n: u64| b'0' + (n % 10) as u8;
    [digit(number / 10), digit(number)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification() {
        assert_eq!(&http_date(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn leap_days_and_turns_of_centuries() {
        assert_eq!(&http_date(0), b"Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(&http_date(951_782_400), b"Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(&http_date(951_868_799), b"Tue, 29 Feb 2000 23:59:59 GMT");
        assert_eq!(&http_date(951_868_800), b"Wed, 01 Mar 2000 00:00:00 GMT");
        assert_eq!(&http_date(1_709_164_800), b"Thu, 29 Feb 2024 00:00:00 GMT");
        assert_eq!(&http_date(4_107_542_400), b"Mon, 01 Mar 2100 00:00:00 GMT");
    }

    #[test]
    fn no_number_of_seconds_is_too_great() {
        assert_eq!(http_date(u64::MAX).len(), 29);
    }
}
