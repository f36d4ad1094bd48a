//! The entries in the data of a reply to [`Request::Readdir`](crate::Request::Readdir).

use crate::wire::{Field, Qid, Reader, Text, Writer};

/// One entry of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Which file.
    pub qid: Qid,
    /// Where the next entry begins: the offset to ask for next.
    pub next: u64,
    /// Its type, a `DT_` constant of `readdir(3)`.
    pub kind: u8,
    /// Its name.
    pub name: Text<'a>,
}

impl<'a> Field<'a> for Entry<'a> {
    fn get(from: &mut Reader<'a>) -> Option<Self> {
        Some(Self {
            qid: Qid::get(from)?,
            next: u64::get(from)?,
            kind: u8::get(from)?,
            name: Text::get(from)?,
        })
    }

    fn put(&self, to: &mut Writer<'_>) -> Option<()> {
        self.qid.put(to)?;
        self.next.put(to)?;
        self.kind.put(to)?;
        self.name.put(to)
    }
}

impl Entry<'_> {
    /// Stands behind the last entry of a folder, where there is room for it, so that nobody has to ask whether more follow. An addition of ours.
    /// Who asks all the same goes on from `next`, the last entry's.
    pub const fn end(next: u64) -> Self {
        Self {
            qid: Qid {
                kind: 0,
                version: 0,
                path: 0,
            },
            next,
            kind: 0,
            name: Text(b""),
        }
    }

    /// True for [`end`](Self::end): a file's name is never empty.
    pub fn is_end(&self) -> bool {
        self.name.0.is_empty()
    }
}

/// Bytes of an entry with a name of this length.
pub const fn size(name_len: usize) -> usize {
    13 + 8 + 1 + 2 + name_len
}

/// The entries; an entry that is cut ends them.
pub fn entries(data: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    let mut from = Reader::new(data);
    core::iter::from_fn(move || Entry::get(&mut from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_follow_each_other() {
        let entry = |next, name| Entry {
            qid: Qid {
                kind: 0,
                version: 0,
                path: next,
            },
            next,
            kind: 8,
            name: Text(name),
        };
        let all = [entry(1, &b"a"[..]), entry(2, b"longer")];
        let mut bytes = [0; 100];
        let mut to = Writer::new(&mut bytes);
        all.iter().try_for_each(|e| e.put(&mut to)).unwrap();
        let len = to.len();
        assert_eq!(len, size(1) + size(6));
        assert!(entries(&bytes[..len]).eq(all));
        assert_eq!(entries(&bytes[..len - 1]).count(), 1);
    }
}
