//! The loader's cache, `/etc/ld.so.cache`: which library names are in which files.
//!
//! Format: `glibc-ld.so.cache1.1` (`dl-cache.h` of glibc): a header of 48 bytes, entries of 24, and strings at offsets from
//! the header. An older part may stand before it.

use std::collections::HashMap;
use std::path::PathBuf;

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
/// `FLAG_ELF_LIBC6 | FLAG_X8664_LIB64`.
const FLAGS: u32 = 0x0303;

/// Files for each library name, in the loader's order.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoaderCache(HashMap<String, Vec<PathBuf>>);

impl LoaderCache {
    /// Reads a cache; one that is not understood is empty.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut files: HashMap<String, Vec<PathBuf>> = HashMap::new();
        let start = bytes.windows(MAGIC.len()).position(|part| part == MAGIC);
        let table = start.and_then(|start| bytes.get(start..)).unwrap_or(&[]);
        let count = word(table, MAGIC.len()).unwrap_or(0) as usize;
        let entries = table.get(HEADER..).unwrap_or(&[]).chunks_exact(ENTRY);
        for entry in entries.take(count) {
            let (Some(flags), Some(key), Some(value)) =
                (word(entry, 0), word(entry, 4), word(entry, 8))
            else {
                continue;
            };
            if flags != FLAGS {
                continue;
            }
            if let (Some(name), Some(file)) = (text(table, key), text(table, value)) {
                files.entry(name.to_owned()).or_default().push(file.into());
            }
        }
        Self(files)
    }

    /// Files for `name`.
    pub fn find(&self, name: &str) -> &[PathBuf] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u32::from_le_bytes)
}

fn text(table: &[u8], at: u32) -> Option<&str> {
    let rest = table.get(at as usize..)?;
    let len = rest.iter().position(|&b| b == 0)?;
    std::str::from_utf8(rest.get(..len)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_name() {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(2u32.to_le_bytes());
        bytes.resize(HEADER, 0);
        let strings = (HEADER + 2 * ENTRY) as u32;
        for (flags, key, value) in [(FLAGS, 0, 5), (0x0803, 0, 5)] {
            bytes.extend(u32::to_le_bytes(flags));
            bytes.extend(u32::to_le_bytes(strings + key));
            bytes.extend(u32::to_le_bytes(strings + value));
            bytes.extend([0; 12]);
        }
        bytes.extend(b"a.so\0/lib/a.so\0");
        let cache = LoaderCache::parse(&bytes);
        assert_eq!(cache.find("a.so"), [PathBuf::from("/lib/a.so")]);
        assert!(cache.find("b.so").is_empty());
        for len in 0..bytes.len() {
            LoaderCache::parse(&bytes[..len]);
        }
    }

    #[test]
    fn this_hosts_cache_knows_the_c_library() {
        if let Ok(bytes) = std::fs::read("/etc/ld.so.cache") {
            assert!(!LoaderCache::parse(&bytes).find("libc.so.6").is_empty());
        }
    }
}
