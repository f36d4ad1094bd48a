//! What of the program's memory belongs into a core file (`core(5)`): its own pages, and of files those that differ from them.

use alloc::vec;
use alloc::vec::Vec;

use super::AddressSpace;
use super::area::{Area, AreaFlags, Content, Source};
use crate::platform::{self, Access};
use crate::process::{DUMP_PRIVATE, DUMP_SHARED};
use crate::user::PAGE;

/// A range of addresses as a core file shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First address.
    pub start: u64,
    /// Behind the last.
    pub end: u64,
    /// What the program may do with it.
    pub access: Access,
    /// Its content belongs into the file; that of others is in the file that is mapped there, or left out.
    pub filled: bool,
}

/// A range where a file is mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePiece {
    /// First address.
    pub start: u64,
    /// Behind the last.
    pub end: u64,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// The file.
    pub path: Vec<u8>,
}

/// Bytes of zeroes at first that are looked through at most, in all. Nobody tells which pages were touched, so that shadow memory of terabytes
/// would take hours, and gigabytes take seconds.
const MOST_LOOKED_THROUGH: u64 = 2 << 30;

/// Bytes compared at once.
const WINDOW: u64 = 64 << 10;

impl AddressSpace {
    /// What there is, in ascending order, with the content of what `filter` lets through (`coredump_filter`). Pages are read, which may make them
    /// present.
    pub fn pieces(&self, filter: u32) -> (Vec<Piece>, Vec<FilePiece>) {
        let areas: Vec<Area> = {
            let state = self.state.borrow();
            let areas = state.areas.iter();
            areas.filter(|area| area.is_program()).cloned().collect()
        };
        let (mut pieces, mut files) = (Vec::new(), Vec::new());
        let mut left = MOST_LOOKED_THROUGH;
        for area in &areas {
            if let Some(file) = area.file() {
                files.push(FilePiece {
                    start: area.start,
                    end: area.end,
                    offset: area.offset,
                    path: file.path.clone(),
                });
            }
            if area.access.is_empty() {
                continue;
            }
            let mut at = area.start;
            let mut add = |end: u64, filled: bool| {
                if at < end {
                    pieces.push(Piece {
                        start: at,
                        end,
                        access: area.access,
                        filled,
                    });
                    at = end;
                }
            };
            for (start, end) in self.own_parts(area, filter, &mut left) {
                add(start, false);
                add(end, true);
            }
            add(area.end, false);
        }
        (pieces, files)
    }

    /// The parts of an area whose content is nowhere else, in ascending order.
    fn own_parts(&self, area: &Area, filter: u32, left: &mut u64) -> Vec<(u64, u64)> {
        let needed = if area.flags.contains(AreaFlags::SHARED) {
            DUMP_SHARED
        } else {
            DUMP_PRIVATE
        };
        let is_own = matches!(area.content, Content::Own { .. });
        if filter & needed == 0 && !is_own {
            return Vec::new();
        }
        if area.flags.contains(AreaFlags::DONT_DUMP) && !matches!(area.content, Content::Own { .. })
        {
            return Vec::new();
        }
        match &area.content {
            Content::Zero(_) if area.len() <= *left => {
                *left -= area.len();
                vec![(area.start, area.end)]
            }
            // The vDSO, which debuggers need to look past signal handlers; its data say nothing.
            Content::Own { name, .. } if *name == "[vdso]" => vec![(area.start, area.end)],
            Content::Zero(_) | Content::Own { .. } | Content::Reserved => Vec::new(),
            Content::File(file) => {
                let shared = area.flags.contains(AreaFlags::SHARED);
                let text =
                    area.access.contains(Access::EXEC) && !area.access.contains(Access::WRITE);
                if shared || text {
                    return Vec::new();
                }
                let ranges = self.state.borrow().host_ranges(area, area.start, area.end);
                match file.source {
                    Source::Image { at, .. } => {
                        let place = |address| at + area.offset_of(address);
                        ranges.into_iter().flat_map(|r| changed(r, place)).collect()
                    }
                    Source::Pages(_) | Source::Copy => ranges,
                }
            }
        }
    }
}

/// The pages of a range that differ from the root image, where `place` says that they come from.
fn changed((start, end): (u64, u64), place: impl Fn(u64) -> u64) -> Vec<(u64, u64)> {
    let image = platform::root_image().unwrap_or_default();
    let mut found: Vec<(u64, u64)> = Vec::new();
    let mut buffer = vec![0; WINDOW as usize];
    let mut at = start;
    while at < end {
        let len = WINDOW.min(end - at);
        let window = buffer.get_mut(..len as usize).unwrap_or_default();
        if platform::copy_in(at, window).is_ok() {
            for (page, bytes) in (at..end)
                .step_by(PAGE as usize)
                .zip(window.chunks(PAGE as usize))
            {
                let original = usize::try_from(place(page)).ok();
                let original = original.and_then(|from| image.get(from..from + bytes.len()));
                if original == Some(bytes) {
                    continue;
                }
                match found.last_mut() {
                    Some(last) if last.1 == page => last.1 = page + PAGE,
                    _ => found.push((page, page + PAGE)),
                }
            }
        }
        at += len;
    }
    found
}
