//! The entries of folders.

use std::mem::MaybeUninit;

use kiln_ninep::directory::{Entry, size};
use kiln_ninep::wire::{Field, Writer};
use kiln_ninep::{Qid, Text};
use rustix::fs::{FileType, RawDir, SeekFrom};
use rustix::io::Errno;

use crate::session::Session;

/// Bytes of entries that are asked of the host at a time.
const PIECE: usize = 16 << 10;

impl Session<'_> {
    /// Entries from `offset` on, an earlier entry's [`Entry::next`] or 0, as many as there is room for. Returns how many bytes they take.
    pub(crate) fn entries(
        &self,
        number: u32,
        offset: u64,
        into: &mut [u8],
    ) -> Result<usize, Errno> {
        let folder = self.fids.get(number)?.opened()?;
        rustix::fs::seek(folder, SeekFrom::Start(offset))?;
        let mut buffer = [MaybeUninit::<u8>::uninit(); PIECE];
        let mut from = RawDir::new(folder, &mut buffer);
        let room = into.len();
        let mut to = Writer::new(into);
        let mut last = None;
        loop {
            let Some(entry) = from.next() else {
                // An empty answer says the same.
                if let Some(last) = last
                    && to.len() + size(0) <= room
                {
                    Entry::end(last).put(&mut to).ok_or(Errno::INVAL)?;
                }
                break;
            };
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            if to.len() + size(name.len()) > room {
                // Room for none must not look like the end.
                if last.is_none() {
                    return Err(Errno::INVAL);
                }
                break;
            }
            let (kind, number) = numbers(entry.file_type());
            let entry = Entry {
                qid: Qid {
                    kind,
                    version: 0,
                    path: entry.ino(),
                },
                next: entry.next_entry_cookie(),
                kind: number,
                name: Text(name),
            };
            last = Some(entry.next);
            entry.put(&mut to).ok_or(Errno::INVAL)?;
        }
        Ok(to.len())
    }
}

/// The kind of a [`Qid`], and that of `readdir(3)`.
fn numbers(kind: FileType) -> (u8, u8) {
    match kind {
        FileType::Fifo => (0, 1),
        FileType::CharacterDevice => (0, 2),
        FileType::Directory => (Qid::DIRECTORY, 4),
        FileType::BlockDevice => (0, 6),
        FileType::RegularFile => (0, 8),
        FileType::Symlink => (Qid::LINK, 10),
        FileType::Socket => (0, 12),
        FileType::Unknown => (0, 0),
    }
}
