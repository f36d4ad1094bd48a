//! Core files (`core(5)`): what is left, for a debugger, of a program that a signal has ended.
//!
//! They go to a folder of the host that the monitor has given for this and that the program does not see. A core file is an ELF file: [notes] with the
//! registers of all threads, and the program's memory. It is sparse: pages of zeroes are holes, and what is as in the file that is mapped there
//! is left out. `RLIMIT_CORE` cuts it, `PR_SET_DUMPABLE` forbids it.

mod notes;

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use super::{Resource, Thread};
use crate::fs::{Inode, Kind, NewInode};
use crate::io::Source;
use crate::mm::dump::Piece;
use crate::platform::{self, Access};
use crate::signal::Info;
use crate::user::PAGE;
use crate::{Errno, Result};

/// The file's name in the folder.
const NAME: &[u8] = b"core";

/// Where core files go.
#[derive(Default)]
pub struct Store(RefCell<Option<Rc<dyn Inode>>>);

impl core::fmt::Debug for Store {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Store({})", self.0.borrow().is_some())
    }
}

impl Store {
    /// Lets them go to this folder.
    pub fn set(&self, folder: Rc<dyn Inode>) {
        *self.0.borrow_mut() = Some(folder);
    }
}

/// Writes the core file of a thread's process, which this signal ends. True if there is one now; says why if there should be and is not.
pub fn dump(thread: &Rc<Thread>, info: &Info) -> bool {
    let folder = crate::kernel().core.0.borrow().clone();
    let Some(folder) = folder else { return false };
    let process = &thread.process;
    if process.pid != 1 {
        // A helper of the program's, which goes on.
        return false;
    }
    let limit = process.limit(Resource::Core).0;
    let problem = if process.attributes.dumpable.get() != 1 {
        "the program does not allow it (PR_SET_DUMPABLE)"
    } else if limit < PAGE {
        "its size is limited to nothing (RLIMIT_CORE)"
    } else {
        match write(thread, info, &folder, limit) {
            Ok(()) => return true,
            Err(error) => {
                // Half of it is of no use. If it cannot be removed there is nothing to be done about it.
                let _ = folder.unlink(NAME, false);
                match error {
                    Errno::ENOSPC | Errno::EDQUOT => "there is no space left",
                    _ => "it cannot be written",
                }
            }
        }
    };
    let text = alloc::format!("kiln: no core file: {problem}\n");
    crate::dev::tell_user(&text);
    false
}

fn write(thread: &Rc<Thread>, info: &Info, folder: &Rc<dyn Inode>, limit: u64) -> Result {
    let new = NewInode {
        kind: Kind::Regular,
        mode: 0o600,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: b"",
    };
    let file = File {
        inode: folder.create(NAME, &new)?,
        limit,
    };
    let (mut pieces, files) = {
        let filter = thread.process.attributes.dump_filter.get();
        thread.process.memory.pieces(filter)
    };
    pieces.truncate(MOST_PIECES);
    let notes = notes::all(thread, info, &files);
    let start = file_start(&pieces, &notes);
    file.put(0, &start)?;
    let mut offset = start.len() as u64;
    let mut buffer = vec![0; WINDOW as usize];
    for piece in pieces.iter().filter(|piece| piece.filled) {
        file.put_memory(piece, offset, &mut buffer)?;
        offset += piece.end - piece.start;
    }
    // The last page may be a hole.
    file.inode.resize(offset.min(limit))
}

/// More than these the header cannot count.
const MOST_PIECES: usize = 0xfff0;
/// Bytes written at once.
const WINDOW: u64 = 64 << 10;

/// The ELF header, the program headers and the notes, up to the first page of memory.
fn file_start(pieces: &[Piece], notes: &[u8]) -> Vec<u8> {
    const HEADER: usize = 64;
    const ENTRY: usize = 56;
    const NOTE: u32 = 4;
    const LOAD: u32 = 1;
    let count = pieces.len() + 1;
    let notes_at = HEADER + ENTRY * count;
    let mut offset = (notes_at + notes.len()).next_multiple_of(PAGE as usize) as u64;
    let end = offset as usize;
    let mut bytes = Vec::with_capacity(end);
    bytes.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let half = |bytes: &mut Vec<u8>, words: &[u16]| {
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    };
    // ET_CORE, EM_X86_64, EV_CURRENT.
    half(&mut bytes, &[4, 62, 1, 0]);
    bytes.extend(
        [0, HEADER as u64, 0]
            .iter()
            .flat_map(|word: &u64| word.to_le_bytes()),
    );
    half(
        &mut bytes,
        &[0, 0, HEADER as u16, ENTRY as u16, count as u16, 0, 0, 0],
    );
    let entry = |bytes: &mut Vec<u8>, kind: u32, flags: u32, words: [u64; 6]| {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    };
    entry(
        &mut bytes,
        NOTE,
        0,
        [notes_at as u64, 0, 0, notes.len() as u64, 0, 4],
    );
    for piece in pieces {
        let len = piece.end - piece.start;
        let there = if piece.filled { len } else { 0 };
        let words = [offset, piece.start, 0, there, len, PAGE];
        entry(&mut bytes, LOAD, elf_flags(piece.access), words);
        offset += there;
    }
    bytes.extend(notes);
    bytes.resize(end, 0);
    bytes
}

/// `PF_R` and so on: the other way round than `PROT_READ`.
fn elf_flags(access: Access) -> u32 {
    let bit = |one, flag| if access.contains(one) { flag } else { 0 };
    bit(Access::READ, 4) | bit(Access::WRITE, 2) | bit(Access::EXEC, 1)
}

/// The file, as long as it may become.
struct File {
    inode: Rc<dyn Inode>,
    limit: u64,
}

impl File {
    fn put(&self, offset: u64, bytes: &[u8]) -> Result {
        let room = usize::try_from(self.limit.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut source = Source::kernel(bytes.get(..room.min(bytes.len())).unwrap_or_default());
        let mut done = 0;
        while source.remaining() > 0 {
            match self.inode.write_at(offset + done, &mut source)? {
                0 => return Err(Errno::EIO),
                written => done += written as u64,
            }
        }
        Ok(())
    }

    /// Writes a range of memory, but for pages of zeroes and what cannot be read.
    fn put_memory(&self, piece: &Piece, offset: u64, buffer: &mut [u8]) -> Result {
        let mut at = piece.start;
        while at < piece.end && offset + (at - piece.start) < self.limit {
            let len = WINDOW.min(piece.end - at) as usize;
            let window = buffer.get_mut(..len).unwrap_or_default();
            if platform::copy_in(at, window).is_err() {
                window.fill(0);
                for (page, bytes) in (at..)
                    .step_by(PAGE as usize)
                    .zip(window.chunks_mut(PAGE as usize))
                {
                    // What cannot be read stays zero.
                    let _ = platform::copy_in(page, bytes);
                }
            }
            let place = offset + (at - piece.start);
            for (from, to) in filled_runs(window) {
                self.put(
                    place + from as u64,
                    window.get(from..to).unwrap_or_default(),
                )?;
            }
            at += len as u64;
        }
        Ok(())
    }
}

/// The runs of pages that are not zero.
fn filled_runs(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (index, page) in bytes.chunks(PAGE as usize).enumerate() {
        if page.iter().all(|&byte| byte == 0) {
            continue;
        }
        let start = index * PAGE as usize;
        let end = start + page.len();
        match runs.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => runs.push((start, end)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::testing::{MEMORY, STACK, first};
    use crate::signal::number;

    #[test]
    fn only_pages_with_content_are_written() {
        let mut bytes = vec![0; 5 * PAGE as usize];
        bytes[PAGE as usize] = 1;
        bytes[3 * PAGE as usize - 1] = 1;
        bytes[4 * PAGE as usize] = 1;
        let page = PAGE as usize;
        assert_eq!(
            filled_runs(&bytes),
            [(page, 3 * page), (4 * page, 5 * page)]
        );
        assert_eq!(filled_runs(&[0; 100]), []);
    }

    #[test]
    fn a_file_begins_with_what_debuggers_look_for() {
        let thread = first();
        let notes = notes::all(&thread, &Info::fault(number::SEGV, 1, 0x1234), &[]);
        let pieces = [
            Piece {
                start: MEMORY.0,
                end: STACK,
                access: Access::READ | Access::WRITE,
                filled: true,
            },
            Piece {
                start: 0x40_0000,
                end: 0x40_1000,
                access: Access::READ | Access::EXEC,
                filled: false,
            },
        ];
        let bytes = file_start(&pieces, &notes);
        assert!(bytes.len().is_multiple_of(PAGE as usize));
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!((half(16), half(18), half(56)), (4, 62, 3));
        // The second entry: where it is in the file, its address, its length there and in memory.
        let load = 64 + 56;
        assert_eq!(bytes[load + 4], 6);
        assert_eq!(word(load + 8), bytes.len() as u64);
        assert_eq!(word(load + 16), MEMORY.0);
        assert_eq!(
            (word(load + 32), word(load + 40)),
            (STACK - MEMORY.0, STACK - MEMORY.0)
        );
        assert_eq!((bytes[load + 60], word(load + 56 + 32)), (5, 0));
        // The first note is the thread's state, with the signal.
        let at = word(64 + 8) as usize;
        assert_eq!(
            bytes[at..at + 20],
            *b"\x05\0\0\0\x50\x01\0\0\x01\0\0\0CORE\0\0\0\0"
        );
        assert_eq!(half(at + 20 + 12), 11);
        assert_eq!(word(at + 20 + 112 + 16 * 8), 0x40_0002);
    }
}
