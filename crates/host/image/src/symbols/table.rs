//! Functions by address.

use object::read::elf::{ElfFile64, ElfSymbol64};
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};

/// The functions of a file in the order of their addresses.
#[derive(Default)]
pub struct Table(Vec<Function>);

/// A function, or a label of hand-written code.
pub struct Function {
    pub start: u64,
    pub end: u64,
    /// A hand-written label has no size: it reaches to the next function.
    pub label: bool,
    pub name: String,
}

impl Table {
    /// A table of functions that are in the order of their addresses.
    pub fn new(functions: Vec<Function>) -> Self {
        Self(functions)
    }

    /// The functions in a symbol table.
    pub fn read(file: &ElfFile64<'_, LittleEndian>) -> Self {
        let mut functions: Vec<Function> = file
            .symbols()
            .filter_map(|symbol| function(file, &symbol))
            .collect();
        // Of several names for one address the longest function's, then the first by name: the file's order is chance.
        functions.sort_by(|a, b| {
            (a.start, a.label, b.end, &a.name).cmp(&(b.start, b.label, a.end, &b.name))
        });
        functions.dedup_by_key(|function| function.start);
        // A label inside a function does not end it.
        let mut end = 0;
        functions.retain(|function| {
            let keep = !function.label || function.start >= end;
            if !function.label {
                end = end.max(function.end);
            }
            keep
        });
        Self(functions)
    }

    pub fn functions(&self) -> &[Function] {
        &self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The function that `address` lies in.
    pub fn name(&self, address: u64) -> Option<&str> {
        let behind = self.0.partition_point(|function| function.start <= address);
        let function = self.0.get(behind.checked_sub(1)?)?;
        (address < function.end).then_some(function.name.as_str())
    }
}

fn function(
    file: &ElfFile64<'_, LittleEndian>,
    symbol: &ElfSymbol64<'_, '_, LittleEndian>,
) -> Option<Function> {
    if matches!(
        symbol.kind(),
        SymbolKind::Data | SymbolKind::Section | SymbolKind::File
    ) {
        return None;
    }
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    let start = symbol.address();
    let section_end = section.address().checked_add(section.size())?;
    if section.kind() != SectionKind::Text || !(section.address()..section_end).contains(&start) {
        return None;
    }
    let name = symbol.name().ok().filter(|name| !name.is_empty())?;
    let label = symbol.size() == 0;
    let end = if label {
        section_end
    } else {
        start.saturating_add(symbol.size()).min(section_end)
    };
    Some(Function {
        start,
        end,
        label,
        name: name.to_owned(),
    })
}
