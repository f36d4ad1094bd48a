//! The program's memory: what is mapped where.
//!
//! An [`AddressSpace`] knows every range that the program has mapped ([`area::Area`]), and keeps the platform's mappings in step with them. Most
//! content the host makes present by itself when it is touched: zeroes, and files of the root image. Files whose pages a
//! file system keeps (tmpfs, memfd) are mapped page by page when the program first faults on them ([`AddressSpace::fault`]); files
//! that can only be read (private mappings of volumes) are copied likewise.
//!
//! | file | its part |
//! | --- | --- |
//! | [`area`], [`areas`], [`ranges`], [`present`] | the records, without the platform |
//! | [`map`] | `mmap`, `munmap`, `mprotect` |
//! | [`remap`] | `mremap` |
//! | [`heap`] | `brk` |
//! | [`advice`] | `madvise`, `msync`, `mlock`, `mincore` |
//! | [`files`], [`copies`] | content of mapped files: making it present, writing it back, taking it away |
//! | [`dump`] | what of it belongs into a core file |
//! | [`fault`] | what an access that the processor refused means |
//!
//! The program's ranges are those between [`USER_START`] and [`USER_END`](crate::user::USER_END).

pub mod advice;
pub mod area;
pub mod areas;
pub mod copies;
pub mod dump;
pub mod fault;
pub mod files;
pub mod flags;
pub mod heap;
pub mod layout;
pub mod map;
pub mod present;
pub mod ranges;
pub mod remap;
#[cfg(test)]
mod tests;

use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use crate::process::Process;
use crate::process::limits::Resource;
use crate::user::{PAGE, USER_START};
use crate::{Errno, Result, platform};
use area::{Area, AreaFlags, Content};
pub use area::{Purpose, Region};
pub use areas::Totals;
pub use fault::FaultOutcome;
pub use files::{content_gone, may_be_written};
pub use flags::{MapFlags, RemapFlags};
pub use map::MapRequest;

/// The most areas a program may have (`vm.max_map_count`).
pub const MAX_AREAS: usize = 65530;

/// What is told when program text has changed or gone: first address and the one behind the last.
pub type TextWatcher = fn(u64, u64);

/// What of `getrlimit(2)` concerns memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// `RLIMIT_AS`
    pub size: u64,
    /// `RLIMIT_DATA`
    pub data: u64,
    /// `RLIMIT_STACK`
    pub stack: u64,
    /// `RLIMIT_MEMLOCK`; without end for those with `CAP_IPC_LOCK`.
    pub locked: u64,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self {
            size: u64::MAX,
            data: u64::MAX,
            stack: 8 << 20,
            locked: u64::MAX,
        }
    }
}

impl MemoryLimits {
    /// Those of a process.
    pub fn of(process: &Process) -> Self {
        let limits = process.limits.borrow();
        let soft = |resource| limits.of(resource).0;
        let privileged = process.credentials.borrow().euid == 0;
        Self {
            size: soft(Resource::AddressSpace),
            data: soft(Resource::Data),
            stack: soft(Resource::Stack),
            locked: if privileged {
                u64::MAX
            } else {
                soft(Resource::LockedMemory)
            },
        }
    }
}

/// What a process can address.
#[derive(Debug, Default)]
pub struct AddressSpace {
    state: RefCell<State>,
    text_watcher: Cell<Option<TextWatcher>>,
}

#[derive(Debug, Default)]
struct State {
    areas: areas::Areas,
    /// Of files that are made present page by page: what is.
    present: present::Present,
    limits: MemoryLimits,
    layout: layout::Layout,
    heap: heap::Heap,
    /// `mlockall(MCL_FUTURE)`
    lock_future: bool,
    /// The largest that the space has been, for `VmPeak`.
    peak: u64,
}

/// What has to be done after the state has been changed and is not borrowed any more: files are closed, watchers told.
#[derive(Debug, Default)]
#[must_use]
struct Aftermath {
    removed: Vec<Area>,
    /// What kept pages of file systems where they were.
    released: Vec<present::Piece>,
    text: Vec<(u64, u64)>,
}

impl Aftermath {
    fn settle(self, space: &AddressSpace) {
        drop(self.released);
        drop(self.removed);
        for (start, end) in self.text {
            space.text_changed(start, end);
        }
    }
}

impl AddressSpace {
    /// Takes the limits of its process over: calls do so before they add memory.
    pub fn set_limits(&self, limits: MemoryLimits) {
        self.state.borrow_mut().limits = limits;
    }

    /// Calls `watcher` whenever text that the program could execute has been taken away, replaced or made writable.
    pub fn watch_text(&self, watcher: TextWatcher) {
        self.text_watcher.set(Some(watcher));
    }

    fn text_changed(&self, start: u64, end: u64) {
        if let Some(watcher) = self.text_watcher.get() {
            watcher(start, end);
        }
    }

    /// All that is mapped, for `/proc/self/maps`.
    pub fn regions(&self) -> Vec<Region> {
        let state = self.state.borrow();
        let areas = state.areas.iter().filter(|area| area.is_program());
        areas.map(Region::from).collect()
    }

    /// The region of an address.
    pub fn region(&self, at: u64) -> Option<Region> {
        let state = self.state.borrow();
        let area = state.areas.find(at).filter(|area| area.is_program());
        area.map(Region::from)
    }

    /// Where a file is mapped: first address, the one behind the last, and the offset in the file, in ascending order.
    pub fn pieces_of(&self, open: &Rc<crate::fs::OpenFile>) -> Vec<(u64, u64, u64)> {
        let state = self.state.borrow();
        let is_it = |area: &&Area| area.file().is_some_and(|file| Rc::ptr_eq(&file.open, open));
        let areas = state.areas.iter().filter(is_it);
        areas
            .map(|area| (area.start, area.end, area.offset))
            .collect()
    }

    /// Sums over all that is mapped.
    pub fn totals(&self) -> Totals {
        self.state.borrow().areas.totals()
    }

    /// The largest sum there has been (`VmPeak`).
    pub fn peak(&self) -> u64 {
        self.state.borrow().peak
    }

    /// An estimate of what is present, in bytes. The host makes pages present without telling; it cannot be more than what the program may
    /// use, nor more than what the machine has given away.
    pub fn resident(&self) -> u64 {
        let (total, free) = platform::memory();
        self.totals().usable.min(total.saturating_sub(free))
    }

    /// Where the parts of the program lie, for `/proc/self/stat` and `prctl(PR_SET_MM)`.
    pub fn layout(&self) -> layout::Layout {
        self.state.borrow().layout.clone()
    }

    /// Notes where the parts of the program lie.
    pub fn set_layout(&self, change: impl FnOnce(&mut layout::Layout)) {
        change(&mut self.state.borrow_mut().layout);
    }

    /// The area around `at`, if it is text of a file that the program can execute but not write, and that nobody else would see changes of.
    pub fn fixed_text(&self, at: u64) -> Option<(u64, u64)> {
        let state = self.state.borrow();
        let area = state.areas.find(at)?;
        let own = area.access == platform::Access::READ | platform::Access::EXEC
            && !area.flags.contains(AreaFlags::SHARED);
        let of_file = area.file().is_some_and(|file| {
            matches!(file.source, area::Source::Image { .. } | area::Source::Copy)
        });
        (own && of_file).then_some((area.start, area.end))
    }

    /// Of a word in a shared mapping of a file: the file's pages, as a number, and where in the file the word is.
    pub fn shared_word(&self, at: u64) -> Option<(usize, u64)> {
        let state = self.state.borrow();
        if state.areas.totals().shared == 0 {
            return None;
        }
        let area = state.areas.find(at)?;
        let pages = area.shared_pages()?;
        let pages = Rc::as_ptr(pages).cast::<()>().addr();
        let page = area.offset_of(at & !(PAGE - 1));
        Some((pages, page + at % PAGE))
    }

    /// Keeps a free range of `len` bytes for the library OS, all of it nearer than `reach` bytes to `near`, and returns where. The program neither sees nor
    /// replaces it; nothing is mapped there yet.
    ///
    /// # Errors
    /// `ENOMEM` if there is none.
    pub fn reserve_near(&self, near: u64, reach: u64, len: u64) -> Result<u64> {
        let len = map::round_up(len)
            .filter(|&len| len > 0)
            .ok_or(Errno::EINVAL)?;
        let mut state = self.state.borrow_mut();
        let low = near.saturating_sub(reach).max(USER_START);
        let high = near.saturating_add(reach).min(crate::user::USER_END);
        let low = map::round_up(low).ok_or(Errno::ENOMEM)?;
        let at = state
            .areas
            .search_within(low, high & !(PAGE - 1), len, PAGE)
            .ok_or(Errno::ENOMEM)?;
        state.areas.insert(Area {
            start: at,
            end: at + len,
            access: platform::Access::empty(),
            most: platform::Access::empty(),
            flags: AreaFlags::empty(),
            content: Content::Reserved,
            offset: 0,
        });
        Ok(at)
    }

    /// Takes everything away: for `execve(2)`, and when the process has ended. Shared files are written back first.
    pub fn clear(&self) {
        self.write_back(0, u64::MAX);
        let mut aftermath = Aftermath::default();
        {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            for area in state.areas.take_all() {
                if area.is_program() {
                    aftermath.note_gone(&area, &mut state.present);
                }
                let _ = platform::unmap(area.start, area.len());
                aftermath.removed.push(area);
            }
            state.heap = heap::Heap::default();
            state.layout = layout::Layout::default();
            state.lock_future = false;
            state.peak = 0;
            state.present = present::Present::default();
        }
        aftermath.settle(self);
    }
}

/// The address space that the processor has at hand: the running thread's.
#[derive(Debug, Default)]
pub struct ActiveMemory(RefCell<Weak<AddressSpace>>);

impl ActiveMemory {
    /// Notes that from now on this one is at hand.
    pub fn set(&self, space: &Rc<AddressSpace>) {
        *self.0.borrow_mut() = Rc::downgrade(space);
    }

    /// Makes present what a copy to or from the program has found missing; true if another try is worth it.
    pub fn make_present(&self, at: u64, len: usize, access: platform::Access) -> bool {
        let space = self.0.borrow().upgrade();
        space.is_some_and(|space| space.make_present(at, len as u64, access))
    }
}
