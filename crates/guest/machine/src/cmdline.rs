//! The command line: words separated by spaces, in which `%XX` stands for any byte. `docs/machine.md` lists the words;
//! those of others are skipped.

#[cfg(feature = "net")]
use kiln_abi::DeviceInfo;

/// One word that means something here. Values are still encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word<'a> {
    /// `kiln.name=`
    Name(&'a [u8]),
    /// `kiln.arg=`
    Argument(&'a [u8]),
    /// `kiln.env=`
    Variable(&'a [u8]),
    /// `kiln.net=DEVICE,...`: the device and its settings.
    Net(&'a [u8], &'a [u8]),
    /// `kiln.memory=`
    Memory(u64),
    /// `kiln.now`: nanoseconds since 1970 shortly before the start.
    Now(u64),
    /// `kiln.report=`
    Report(&'a [u8]),
    /// `kiln.exit=`
    Exit(u16),
    /// `kiln.folder=DEVICE[,ro]`: a folder of the host, and its settings. It is asked over the next network device that no link takes.
    #[cfg(feature = "program")]
    Folder(&'a [u8], &'a [u8]),
    /// `virtio_mmio.device=SIZE@ADDRESS:IRQ`
    Mmio {
        /// Physical address of the registers.
        address: u64,
        /// Length of the window in bytes.
        size: u64,
        /// Global interrupt number.
        interrupt: u32,
    },
}

/// The words of a command line.
pub fn words(line: &[u8]) -> impl Iterator<Item = Word<'_>> {
    line.split(|&b| b == b' ' || b == b'\n').filter_map(word)
}

fn word(word: &[u8]) -> Option<Word<'_>> {
    if let Some(rest) = word.strip_prefix(b"virtio_mmio.device=") {
        let (size, rest) = split(rest, b'@')?;
        let mut parts = rest.split(|&b| b == b':');
        return Some(Word::Mmio {
            size: number(size)?,
            address: number(parts.next()?)?,
            interrupt: u32::try_from(number(parts.next()?)?).ok()?,
        });
    }
    let (key, value) = split(word.strip_prefix(b"kiln.")?, b'=')?;
    Some(match key {
        b"name" => Word::Name(value),
        b"arg" => Word::Argument(value),
        b"env" => Word::Variable(value),
        b"net" => {
            let (device, settings) = split(value, b',').unwrap_or((value, &[]));
            Word::Net(device, settings)
        }
        b"now" => Word::Now(number(value)?),
        b"memory" => Word::Memory(number(value)?),
        b"report" => Word::Report(value),
        b"exit" => Word::Exit(u16::try_from(number(value)?).ok()?),
        #[cfg(feature = "program")]
        b"folder" => {
            let (device, settings) = split(value, b',').unwrap_or((value, &[]));
            Word::Folder(device, settings)
        }
        _ => return None,
    })
}

/// What is before and behind the first `at`.
fn split(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let index = bytes.iter().position(|&b| b == at)?;
    Some((bytes.get(..index)?, bytes.get(index + 1..)?))
}

/// A number, decimal or `0x` hexadecimal, with `K`, `M` or `G` behind it if need be.
fn number(text: &[u8]) -> Option<u64> {
    let (digits, unit) = match text.split_last()? {
        (b'K' | b'k', rest) => (rest, 10),
        (b'M' | b'm', rest) => (rest, 20),
        (b'G' | b'g', rest) => (rest, 30),
        _ => (text, 0),
    };
    let (digits, base) = match digits.strip_prefix(b"0x") {
        Some(digits) => (digits, 16),
        None => (digits, 10),
    };
    if digits.is_empty() {
        return None;
    }
    let mut value = 0u64;
    for &digit in digits {
        let digit = char::from(digit).to_digit(base)?;
        value = value.checked_mul(base.into())?.checked_add(digit.into())?;
    }
    value.checked_mul(1 << unit)
}

/// The bytes that a value stands for.
pub fn decode(value: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = value;
    core::iter::from_fn(move || {
        let (&first, behind) = rest.split_first()?;
        rest = behind;
        if first == b'%'
            && let Some((digits, behind)) = behind.split_first_chunk::<2>()
            && let Some(high) = char::from(digits[0]).to_digit(16)
            && let Some(low) = char::from(digits[1]).to_digit(16)
        {
            rest = behind;
            return Some((high << 4 | low) as u8);
        }
        Some(first)
    })
}

#[cfg(feature = "net")]
/// Applies the settings of one link. `None` if one of them makes no sense.
pub fn configure(settings: &[u8], info: &mut DeviceInfo) -> Option<()> {
    for setting in settings.split(|&b| b == b',').filter(|s| !s.is_empty()) {
        let (key, value) = split(setting, b'=')?;
        match key {
            b"ip4" => (info.address4, info.prefix4) = address4(value)?,
            b"gw4" => info.gateway4 = parse4(value)?,
            b"dns4" => info.dns4 = parse4(value)?,
            b"ip6" => (info.address6, info.prefix6) = address6(value)?,
            b"gw6" => info.gateway6 = parse6(value)?,
            b"dns6" => info.dns6 = parse6(value)?,
            _ => return None,
        }
    }
    Some(())
}

#[cfg(feature = "net")]
fn address4(value: &[u8]) -> Option<([u8; 4], u8)> {
    let (address, prefix) = split(value, b'/')?;
    let prefix = u8::try_from(number(prefix)?).ok()?;
    let address = parse4(address)?;
    (1..=32).contains(&prefix).then_some((address, prefix))
}

#[cfg(feature = "net")]
fn address6(value: &[u8]) -> Option<([u8; 16], u8)> {
    let (address, prefix) = split(value, b'/')?;
    let prefix = u8::try_from(number(prefix)?).ok()?;
    (1..=128)
        .contains(&prefix)
        .then_some((parse6(address)?, prefix))
}

#[cfg(feature = "net")]
fn parse4(text: &[u8]) -> Option<[u8; 4]> {
    let mut parts = text.split(|&b| b == b'.');
    let mut address = [0; 4];
    for byte in &mut address {
        *byte = u8::try_from(number(parts.next()?)?).ok()?;
    }
    parts.next().is_none().then_some(address)
}

#[cfg(feature = "net")]
/// RFC 4291, section 2.2, without embedded IPv4 addresses.
fn parse6(text: &[u8]) -> Option<[u8; 16]> {
    // Groups before and behind "::".
    let mut groups = [[0u16; 8]; 2];
    let mut counts = [0usize; 2];
    let mut side = 0;
    let mut rest = text;
    if let Some(behind) = rest.strip_prefix(b"::") {
        (side, rest) = (1, behind);
    }
    while !rest.is_empty() {
        let len = rest.iter().position(|&b| b == b':').unwrap_or(rest.len());
        let (group, behind) = rest.split_at_checked(len)?;
        if !(1..=4).contains(&group.len()) {
            return None;
        }
        let mut value = 0;
        for &digit in group {
            value = value << 4 | char::from(digit).to_digit(16)? as u16;
        }
        let count = counts.get_mut(side)?;
        *groups.get_mut(side)?.get_mut(*count)? = value;
        *count += 1;
        rest = behind;
        if side == 0
            && let Some(behind) = rest.strip_prefix(b"::")
        {
            (side, rest) = (1, behind);
        } else if let Some(behind) = rest.strip_prefix(b":") {
            if behind.is_empty() {
                return None;
            }
            rest = behind;
        }
    }
    let [first, second] = counts;
    if (side == 0 && first != 8) || first + second > 8 {
        return None;
    }
    let mut address = [0; 16];
    let [head, tail] = groups;
    let head = head.iter().take(first).zip(0..);
    let tail = tail.iter().take(second).zip(8 - second..);
    for (group, index) in head.chain(tail) {
        for (to, byte) in address.iter_mut().skip(index * 2).zip(group.to_be_bytes()) {
            *to = byte;
        }
    }
    Some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;
    use std::vec::Vec;

    #[test]
    fn known_words_are_found_among_others() {
        let line = b"console=ttyS0 kiln.name=web  pci=off kiln.arg=web kiln.arg=%2d%2Dport kiln.env=A=b%20c \
            virtio_mmio.device=4K@0xd0000000:5 kiln.memory=64M kiln.exit=0xf4 kiln.net=lan,ip4=10.0.0.2/24 kiln.net=x \
            kiln.now=1795275471028775538 kiln.report=abc kiln.other=1 kiln. virtio_mmio.device=512@0xfeb00000:12:3";
        let found: Vec<_> = words(line).collect();
        let mmio = |size, address, interrupt| Word::Mmio {
            address,
            size,
            interrupt,
        };
        let expected = [
            Word::Name(b"web"),
            Word::Argument(b"web"),
            Word::Argument(b"%2d%2Dport"),
            Word::Variable(b"A=b%20c"),
            mmio(4096, 0xd000_0000, 5),
            Word::Memory(64 << 20),
            Word::Exit(0xf4),
            Word::Net(b"lan", b"ip4=10.0.0.2/24"),
            Word::Net(b"x", b""),
            Word::Now(1_795_275_471_028_775_538),
            Word::Report(b"abc"),
            mmio(512, 0xfeb0_0000, 12),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        for bad in [
            "",
            "x",
            "0x",
            "-1",
            "18446744073709551616",
            "17179869184G",
            "1Q",
            "0x1g8",
        ] {
            assert_eq!(number(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(number(b"0xFfk"), Some(255 << 10));
    }

    #[test]
    fn percent_stands_for_any_byte() {
        let decoded = |text: &[u8]| decode(text).collect::<Vec<u8>>();
        assert_eq!(decoded(b"a%20b%25%00%ff"), b"a b%\0\xff");
        assert_eq!(decoded(b"%%2%zz%4"), b"%%2%zz%4");
    }

    #[test]
    fn links_are_configured() {
        let mut info = DeviceInfo::default();
        let settings =
            b"ip4=10.1.2.3/24,gw4=10.1.2.1,dns4=1.1.1.1,ip6=fd00::5/64,gw6=fe80::1,dns6=2001:db8::";
        assert_eq!(configure(settings, &mut info), Some(()));
        assert_eq!((info.address4, info.prefix4), ([10, 1, 2, 3], 24));
        assert_eq!((info.gateway4, info.dns4), ([10, 1, 2, 1], [1, 1, 1, 1]));
        assert_eq!(info.prefix6, 64);
        assert_eq!(
            info.address6,
            "fd00::5".parse::<Ipv6Addr>().unwrap().octets()
        );
        for bad in [
            "ip4=1.2.3.4",
            "ip4=1.2.3/8",
            "ip4=1.2.3.4.5/8",
            "ip4=1.2.3.256/8",
            "ip4=1.2.3.4/33",
            "ip4",
            "x=1",
        ] {
            assert_eq!(
                configure(bad.as_bytes(), &mut DeviceInfo::default()),
                None,
                "{bad}"
            );
        }
    }

    #[test]
    fn ipv6_addresses_are_read_as_others_read_them() {
        let texts = [
            "::",
            "::1",
            "1::",
            "fe80::1",
            "1:2:3:4:5:6:7:8",
            "1:2:3:4:5:6:7::",
            "::2:3:4:5:6:7:8",
            "1:2:3:4:5:6:7",
            "1:2:3:4:5:6:7:8:9",
            "1::2::3",
            ":1",
            "1:",
            "12345::",
            "g::",
            "",
            ":",
            ":::",
            "a:b::c:d",
            "1:::2",
        ];
        for text in texts {
            let expected = text.parse::<Ipv6Addr>().ok().map(|a| a.octets());
            assert_eq!(parse6(text.as_bytes()), expected, "{text}");
        }
    }
}
