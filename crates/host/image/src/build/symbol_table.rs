//! The symbol table that stays in an image.
//!
//! Enough to name the functions of a stack and the variables of a program without its debug file: functions, hand-written
//! code labels and writable variables. Constants, file names and the linker's own marks go. Names are written as people
//! read them and without generic arguments, which would be most of the table; the debug file has them in full.

use std::collections::HashMap;

use object::elf::{self, FileHeader64, Sym64, SymbolInfo, SymbolOther, SymbolSection};
use object::endian::{LittleEndian, U16, U32, U64};
use object::read::elf::{FileHeader, SectionHeader, Sym};

type Endian = LittleEndian;
const E: Endian = LittleEndian;

/// A finished symbol table and its names.
pub(super) struct SymbolTable {
    pub symbols: Vec<Sym64<Endian>>,
    pub strings: Vec<u8>,
    /// How many symbols come before the first global one.
    pub locals: u32,
}

/// The symbols of a linked file that matter, with sections numbered by `kept`.
pub(super) fn essential(
    header: &FileHeader64<Endian>,
    bytes: &[u8],
    kept: &[Option<u16>],
) -> Result<SymbolTable, object::Error> {
    let sections = header.sections(E, bytes)?;
    let table = sections.symbols(E, bytes, elf::SHT_SYMTAB)?;
    let mut chosen = Vec::new();
    for (index, symbol) in table.enumerate() {
        let Some(section) = table.symbol_section(E, symbol, index)? else {
            continue;
        };
        let Some(number) = kept.get(section.0).copied().flatten() else {
            continue;
        };
        let section = sections.section(section)?;
        let flags = section.sh_flags(E);
        // The linker script's marks between sections belong to none.
        let inside = symbol
            .st_value(E)
            .checked_sub(section.sh_addr(E))
            .is_some_and(|offset| offset < section.sh_size(E));
        let code = flags.contains(elf::SHF_EXECINSTR);
        let writable = flags.contains(elf::SHF_WRITE);
        let name = symbol.name(E, table.strings())?;
        let matters = match symbol.st_type() {
            elf::STT_FUNC => true,
            elf::STT_NOTYPE => code && !name.starts_with(b"."),
            elf::STT_OBJECT => writable,
            _ => false,
        };
        if matters && inside && !name.is_empty() {
            chosen.push((symbol, number, name));
        }
    }
    // ELF wants local symbols first; the rest of the order is only there to be the same each time.
    chosen.sort_by_key(|(symbol, _, name)| (!symbol.is_local(), symbol.st_value(E), *name));

    let mut strings = vec![0];
    let mut known = HashMap::new();
    let mut symbols = vec![Sym64 {
        st_name: U32::new(E, 0),
        st_info: SymbolInfo(0),
        st_other: SymbolOther(0),
        st_shndx: U16::new(E, elf::SHN_UNDEF),
        st_value: U64::new(E, 0),
        st_size: U64::new(E, 0),
    }];
    let locals = 1 + chosen
        .iter()
        .filter(|(symbol, ..)| symbol.is_local())
        .count() as u32;
    for (symbol, section, name) in chosen {
        let name = readable(name);
        let at = if let Some(&at) = known.get(&name) {
            at
        } else {
            let at = strings.len() as u32;
            strings.extend_from_slice(name.as_bytes());
            strings.push(0);
            known.insert(name, at);
            at
        };
        symbols.push(Sym64 {
            st_name: U32::new(E, at),
            st_shndx: U16::new(E, SymbolSection(section)),
            ..*symbol
        });
    }
    Ok(SymbolTable {
        symbols,
        strings,
        locals,
    })
}

/// The demangled name without hashes and generic arguments.
fn readable(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let full = format!("{:#}", rustc_demangle::demangle(&name));
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
        } else if skipped == 0 {
            short.push(letter);
        }
        before = letter;
    }
    short
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn names_lose_their_generic_arguments() {
        let short = |name: &str| readable(name.as_bytes());
        assert_eq!(short("memcpy"), "memcpy");
        assert_eq!(short("a::b::<u8, fn(c::<d>) -> e>::f"), "a::b::f");
        assert_eq!(
            short("<a::B<c::D<E>> as core::fmt::Display>::fmt"),
            "<a::B as core::fmt::Display>::fmt"
        );
        assert_eq!(
            short("_RNvMs_NtCskXd7xfyR3Rh_7kiln_rt7reactorNtB4_7Reactor4turn"),
            "<kiln_rt::reactor::Reactor>::turn"
        );
    }
}
