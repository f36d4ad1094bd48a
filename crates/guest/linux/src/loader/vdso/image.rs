//! The ELF file of the vDSO: a shared library as small as the C libraries' and Go's readers of it allow.
//!
//! Each function is there by two names, `__vdso_time` and, weakly, `time`, with the version `LINUX_2.6`. There are symbol tables by
//! both hashes; there are no sections, which only tools that work on files want.

use alloc::vec::Vec;

use super::code::Functions;

/// Offset of the code in the file, and its distance from the file's start in memory.
pub const CODE: usize = 4096;

/// The name by which programs know the library.
const SONAME: &str = "linux-vdso.so.1";
/// The version of its symbols.
const VERSION: &str = "LINUX_2.6";

/// A function of the library.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    /// Its name in the C library.
    pub name: &'static str,
    /// Where in the code it starts.
    pub offset: usize,
    /// Its length in bytes.
    pub len: usize,
}

/// Names, each with its NUL, one behind the other.
struct Strings(Vec<u8>);

impl Strings {
    fn add(&mut self, prefix: &str, name: &str) -> u32 {
        let at = self.0.len() as u32;
        self.0.extend_from_slice(prefix.as_bytes());
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(0);
        at
    }
}

/// `elf_hash` of the System V ABI.
fn sysv_hash(name: &[u8]) -> u32 {
    name.iter().fold(0_u32, |hash, &byte| {
        let hash = (hash << 4).wrapping_add(byte.into());
        let high = hash & 0xf000_0000;
        (hash ^ (high >> 24)) & !high
    })
}

/// The hash of `DT_GNU_HASH`.
fn gnu_hash(name: &[u8]) -> u32 {
    name.iter().fold(5381_u32, |hash, &byte| {
        hash.wrapping_mul(33).wrapping_add(byte.into())
    })
}

/// Bytes that grow, with each table at a multiple of eight.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn start(&mut self) -> u64 {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self.0.len() as u64
    }
    fn halves(&mut self, values: &[u16]) {
        for value in values {
            self.0.extend(value.to_le_bytes());
        }
    }
    fn words(&mut self, values: &[u32]) {
        for value in values {
            self.0.extend(value.to_le_bytes());
        }
    }
    fn longs(&mut self, values: &[u64]) {
        for value in values {
            self.0.extend(value.to_le_bytes());
        }
    }
}

/// A symbol before it is written.
struct Symbol {
    name: u32,
    hash: (u32, u32),
    weak: bool,
    value: u64,
    len: u64,
}

/// Writes the file to `to`, which is long enough for the code behind [`CODE`].
pub fn build(to: &mut [u8], code: &Functions) {
    let mut strings = Strings(alloc::vec![0]);
    let mut symbols = Vec::new();
    for function in &code.all {
        for prefix in ["__vdso_", ""] {
            let name = strings.add(prefix, function.name);
            let text = strings.0.get(name as usize..strings.0.len() - 1);
            let text = text.unwrap_or_default();
            symbols.push(Symbol {
                name,
                hash: (sysv_hash(text), gnu_hash(text)),
                weak: prefix.is_empty(),
                value: (CODE + function.offset) as u64,
                len: function.len as u64,
            });
        }
    }
    let (soname, version) = (strings.add("", SONAME), strings.add("", VERSION));

    let mut file = Writer::default();
    file.0.resize(64 + 3 * 56, 0);
    let tables = write_tables(&mut file, &symbols, &strings, soname, version);
    let dynamic = file.start();
    for (tag, value) in tables {
        file.longs(&[tag, value]);
    }
    let dynamic_len = file.0.len() as u64 - dynamic;
    let headers = headers((CODE + code.bytes.len()) as u64, dynamic, dynamic_len);
    for (to, from) in file.0.iter_mut().zip(headers.0) {
        *to = from;
    }
    debug_assert!(file.0.len() <= CODE && CODE + code.bytes.len() <= to.len());
    for (to, from) in to.iter_mut().zip(&file.0) {
        *to = *from;
    }
    for (to, from) in to.iter_mut().skip(CODE).zip(code.bytes) {
        *to = *from;
    }
}

/// Writes all tables, and returns what the dynamic section says of them.
fn write_tables(
    file: &mut Writer,
    symbols: &[Symbol],
    strings: &Strings,
    soname: u32,
    version: u32,
) -> [(u64, u64); 12] {
    const FUNCTION: u32 = 2;
    const GLOBAL: u32 = 1 << 4;
    const WEAK: u32 = 2 << 4;
    /// The sections are not there, but a symbol is only defined if it says which it is in.
    const SECTION: u32 = 1;
    let count = symbols.len() as u32;

    let string_table = file.start();
    file.0.extend_from_slice(&strings.0);

    let symbol_table = file.start();
    file.longs(&[0; 3]);
    for symbol in symbols {
        let info = FUNCTION | if symbol.weak { WEAK } else { GLOBAL };
        file.words(&[symbol.name, info | SECTION << 16]);
        file.longs(&[symbol.value, symbol.len]);
    }

    // One bucket: the symbols are few. The chain goes through them by number.
    let hash = file.start();
    file.words(&[1, count + 1, 1, 0]);
    for number in 1..=count {
        file.words(&[if number < count { number + 1 } else { 0 }]);
    }

    let gnu_hash = file.start();
    file.words(&[1, 1, 1, 6]);
    file.longs(&[u64::MAX]);
    file.words(&[1]);
    for (index, symbol) in symbols.iter().enumerate() {
        let last = index + 1 == symbols.len();
        file.words(&[symbol.hash.1 & !1 | u32::from(last)]);
    }

    let versions = file.start();
    file.halves(&[0]);
    for _ in symbols {
        file.halves(&[2]);
    }

    // The library itself, and the version.
    let definitions = file.start();
    for (flags, number, name, text, next) in
        [(1, 1, soname, SONAME, 28), (0, 2, version, VERSION, 0)]
    {
        file.halves(&[1, flags, number, 1]);
        file.words(&[sysv_hash(text.as_bytes()), 20, next]);
        file.words(&[name, 0]);
    }
    [
        (14, soname.into()),
        (4, hash),
        (0x6fff_fef5, gnu_hash),
        (5, string_table),
        (6, symbol_table),
        (10, strings.0.len() as u64),
        (11, 24),
        (0x6fff_fff0, versions),
        (0x6fff_fffc, definitions),
        (0x6fff_fffd, 2),
        (0, 0),
        (0, 0),
    ]
}

/// The file header and the program headers: everything is one readable and executable segment.
fn headers(len: u64, dynamic: u64, dynamic_len: u64) -> Writer {
    let mut head = Writer::default();
    head.0
        .extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    head.halves(&[3, 62]);
    head.words(&[1]);
    head.longs(&[0, 64, 0]);
    head.words(&[0]);
    head.halves(&[64, 56, 3, 64, 0, 0]);
    head.words(&[1, 5]);
    head.longs(&[0, 0, 0, len, len, 4096]);
    head.words(&[2, 4]);
    head.longs(&[dynamic, dynamic, dynamic, dynamic_len, dynamic_len, 8]);
    // It does not want an executable stack.
    head.words(&[0x6474_e551, 6]);
    head.longs(&[0, 0, 0, 0, 0, 16]);
    head
}

#[cfg(test)]
mod tests {
    #[test]
    fn hashes_are_those_of_the_specifications() {
        assert_eq!(super::sysv_hash(b"LINUX_2.6"), 0x03ae_75f6);
        assert_eq!(super::gnu_hash(b"printf"), 0x156b_2bb8);
    }
}
