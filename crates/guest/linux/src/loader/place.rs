//! Mapping a program's segments where they belong.

use alloc::rc::Rc;

use super::elf::{Header, Program, Segment};
use crate::fs::OpenFile;
use crate::mm::{MapFlags, MapRequest};
use crate::platform::{self, Access};
use crate::process::Thread;
use crate::user::PAGE;
use crate::{Errno, Result};

/// Where a program came to lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// What was added to its addresses.
    pub bias: u64,
    /// Where it starts.
    pub entry: u64,
    /// Behind its last segment.
    pub end: u64,
    /// Its text.
    pub code: (u64, u64),
    /// Its data.
    pub data: (u64, u64),
}

/// Maps a program: at its own addresses, or, if it is position independent, at `base` or where there is room.
///
/// # Errors
/// What mapping answers: `ENOMEM`, `EEXIST`, `EINVAL`.
pub fn place(
    thread: &Rc<Thread>,
    open: &Rc<OpenFile>,
    header: &Header,
    program: &Program,
    base: Option<u64>,
) -> Result<Placed> {
    let memory = &thread.process.memory;
    let bias = if header.relocatable {
        let len = program.end.saturating_sub(program.start);
        let at = match base {
            Some(base) => base & !(program.align - 1),
            None => memory.find_free(len, program.align)?,
        };
        at.wrapping_sub(program.start & !(program.align - 1))
    } else {
        0
    };
    // Its own segments may share pages, the later ones count; nothing else may be where it goes.
    let range = bias.wrapping_add(program.start)..bias.wrapping_add(program.end);
    if !memory.is_free(range.start, range.end) {
        return Err(Errno::EEXIST);
    }
    let entry = bias.wrapping_add(header.entry);
    let mut placed = Placed {
        bias,
        entry,
        ..Placed::default()
    };
    for segment in &program.segments {
        let at = Segment {
            address: bias.wrapping_add(segment.address),
            ..*segment
        };
        if at.address.checked_add(at.memory_len).is_none() {
            return Err(Errno::ENOMEM);
        }
        map_segment(thread, open, &at)?;
        placed.end = placed.end.max(at.end());
        let part = if at.access.contains(Access::EXEC) {
            &mut placed.code
        } else {
            &mut placed.data
        };
        if part.1 == 0 || !at.access.contains(Access::WRITE) {
            part.0 = at.address;
        }
        part.1 = part.1.max(at.file_end());
    }
    Ok(placed)
}

/// Maps one segment: what comes from the file, then zeroes.
fn map_segment(thread: &Rc<Thread>, open: &Rc<OpenFile>, segment: &Segment) -> Result {
    let memory = &thread.process.memory;
    let first = segment.first_page();
    let mut request = MapRequest {
        at: first,
        access: segment.access,
        flags: MapFlags::PRIVATE | MapFlags::FIXED,
        ..MapRequest::default()
    };
    let mut zeroes = first;
    if segment.file_len > 0 {
        let before = segment.address - first;
        request.len = before + segment.file_len;
        request.file = Some((open.clone(), segment.offset - before));
        memory.map(thread, &request)?;
        zeroes = segment.file_end().next_multiple_of(PAGE);
        let rest = zeroes - segment.file_end();
        if rest > 0 && segment.end() > segment.file_end() {
            // To the end of the page: the dynamic linker takes what is behind its variables for its first allocations.
            clear(thread, segment, rest)?;
        }
    }
    if segment.end_page() > zeroes {
        request.at = zeroes;
        request.len = segment.end_page() - zeroes;
        request.file = None;
        request.flags = MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::FIXED;
        memory.map(thread, &request)?;
    }
    Ok(())
}

/// Zeroes the rest of a segment's last page from the file.
fn clear(thread: &Rc<Thread>, segment: &Segment, len: u64) -> Result {
    const ZEROES: [u8; PAGE as usize] = [0; PAGE as usize];
    let zeroes = ZEROES.get(..len as usize).ok_or(Errno::EINVAL)?;
    let memory = &thread.process.memory;
    let page = segment.file_end() & !(PAGE - 1);
    if segment.access.contains(Access::WRITE) {
        return platform::copy_out(segment.file_end(), zeroes);
    }
    memory.protect(page, PAGE, Access::READ | Access::WRITE, false)?;
    let result = platform::copy_out(segment.file_end(), zeroes);
    memory.protect(page, PAGE, segment.access, false)?;
    result
}
