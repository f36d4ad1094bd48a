//! The calls of `syscalls::memory`, as a program makes them.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};

use proptest::prelude::*;

use super::*;
use crate::fs::{File, Kind, Mapped, Metadata, OpenFile, OpenFlags, Pages, Run};
use crate::io::{Sink, Source as Bytes};
use crate::platform::{Access, pretend};
use crate::process::Thread;
use crate::syscalls::{Args, table};
use crate::user::{USER_END, UserAddr};

const READ: u64 = 1;
const WRITE: u64 = 2;
const EXEC: u64 = 4;
const SHARED: u64 = 1;
const PRIVATE: u64 = 2;
const FIXED: u64 = 0x10;
const ANONYMOUS: u64 = 0x20;
const GROWSDOWN: u64 = 0x100;
const NORESERVE: u64 = 0x4000;
const NOREPLACE: u64 = 0x10_0000;

fn process() -> Rc<Thread> {
    pretend::reset();
    let thread = crate::kernel().processes.first();
    let memory = &thread.process.memory;
    crate::kernel().active_memory.set(memory);
    memory.set_search_top(0x2fff_0000_0000);
    thread
}

fn call(thread: &Rc<Thread>, number: u64, args: [u64; 6]) -> Result<u64> {
    (table::find(number).unwrap().handler)(thread, Args(args))
}

fn mmap(thread: &Rc<Thread>, at: u64, len: u64, protection: u64, flags: u64) -> Result<u64> {
    call(thread, 9, [at, len, protection, flags, u64::MAX, 0])
}

fn limit(thread: &Rc<Thread>, resource: u32, soft: u64) {
    let mut limits = thread.process.limits.borrow_mut();
    limits.set_by_number(resource, soft, u64::MAX);
}

fn munmap(thread: &Rc<Thread>, at: u64, len: u64) -> Result<u64> {
    call(thread, 11, [at, len, 0, 0, 0, 0])
}

fn mprotect(thread: &Rc<Thread>, at: u64, len: u64, protection: u64) -> Result<u64> {
    call(thread, 10, [at, len, protection, 0, 0, 0])
}

fn mremap(thread: &Rc<Thread>, at: u64, old: u64, new: u64, flags: u64, to: u64) -> Result<u64> {
    call(thread, 25, [at, old, new, flags, to, 0])
}

fn madvise(thread: &Rc<Thread>, at: u64, len: u64, advice: u64) -> Result<u64> {
    call(thread, 28, [at, len, advice, 0, 0, 0])
}

fn anywhere(thread: &Rc<Thread>, len: u64) -> u64 {
    mmap(thread, 0, len, READ | WRITE, PRIVATE | ANONYMOUS).unwrap()
}

/// A file in memory, mapped in one of the ways that there are.
struct Imitation {
    bytes: RefCell<Vec<u8>>,
    way: Way,
    /// Pages that somebody holds.
    held: Rc<dyn Any>,
    saved: Saved,
}

enum Way {
    Image(u64),
    Pages,
    Copy,
}

struct ImitatedPages {
    count: Cell<u64>,
    held: Rc<dyn Any>,
    saved: Saved,
}

/// Ranges of page numbers.
type Saved = Rc<RefCell<Vec<(u64, u64)>>>;

impl Pages for ImitatedPages {
    fn run(&self, first: u64, count: u64) -> Result<Run> {
        if first >= self.count.get() {
            return Err(Errno::ENXIO);
        }
        // Never more than three pages lie side by side.
        let pages = count.min(self.count.get() - first).min(3 - first % 3);
        Ok(Run {
            address: 0x7000_0000_0000 + first / 3 * 0x10_0000 + first % 3 * PAGE,
            pages,
            hold: self.held.clone(),
        })
    }
    fn save(&self, first: u64, last: u64) -> Result {
        self.saved.borrow_mut().push((first, last));
        Ok(())
    }
}

impl File for Imitation {
    fn metadata(&self) -> Result<Metadata> {
        Ok(Metadata {
            device: 5,
            inode: 77,
            kind: Kind::Regular,
            mode: 0o755,
            size: self.bytes.borrow().len() as u64,
            ..Metadata::default()
        })
    }
    fn read_at(&self, _thread: &Rc<Thread>, offset: u64, to: &mut Sink) -> Result<usize> {
        let bytes = self.bytes.borrow();
        to.put(bytes.get(offset as usize..).unwrap_or_default())
    }
    fn write_at(&self, _thread: &Rc<Thread>, offset: u64, from: &mut Bytes) -> Result<usize> {
        let mut bytes = self.bytes.borrow_mut();
        from.take(&mut bytes[offset as usize..])
    }
    fn map(&self, _shared: bool) -> Result<Mapped> {
        Ok(match self.way {
            Way::Image(at) => Mapped::Image(at),
            Way::Copy => Mapped::Copy,
            Way::Pages => Mapped::Pages(Rc::new(ImitatedPages {
                count: Cell::new((self.bytes.borrow().len() as u64).div_ceil(PAGE)),
                held: self.held.clone(),
                saved: self.saved.clone(),
            })),
        })
    }
    fn describe(&self) -> Vec<u8> {
        b"/a/file".to_vec()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn file(way: Way, bytes: Vec<u8>) -> Rc<Imitation> {
    Rc::new(Imitation {
        bytes: RefCell::new(bytes),
        way,
        held: Rc::new(()),
        saved: Rc::default(),
    })
}

fn open(file: &Rc<Imitation>, flags: OpenFlags) -> Rc<OpenFile> {
    OpenFile::new(file.clone(), flags)
}

fn map_file(
    thread: &Rc<Thread>,
    open: &Rc<OpenFile>,
    len: u64,
    access: Access,
    flags: MapFlags,
    offset: u64,
) -> Result<u64> {
    let request = MapRequest {
        len,
        access,
        flags,
        file: Some((open.clone(), offset)),
        ..MapRequest::default()
    };
    thread.process.memory.map(thread, &request)
}

#[test]
fn what_is_mapped_holds_zeroes_and_keeps_what_is_written() {
    let thread = process();
    let at = anywhere(&thread, 0x3001);
    assert_eq!(at % PAGE, 0);
    assert_eq!(UserAddr(at + 0x3ff8).read::<u64>(), Ok(0));
    assert_eq!(UserAddr(at + 0x3ff8).write(7_u64), Ok(()));
    assert_eq!(UserAddr(at + 0x3ff8).read::<u64>(), Ok(7));
    assert_eq!(UserAddr(at + 0x3ffc).read::<u64>(), Err(Errno::EFAULT));
    assert_eq!(munmap(&thread, at, 0x4000), Ok(0));
    assert_eq!(UserAddr(at).read::<u8>(), Err(Errno::EFAULT));
    assert_eq!(thread.process.memory.totals(), Totals::default());
}

#[test]
fn impossible_requests_have_the_errors_of_the_manual_page() {
    let thread = process();
    let private = PRIVATE | ANONYMOUS;
    let cases = [
        (mmap(&thread, 0, 0, READ, private), Errno::EINVAL),
        (mmap(&thread, 0, u64::MAX, READ, private), Errno::ENOMEM),
        (mmap(&thread, 0, USER_END, READ, private), Errno::ENOMEM),
        (mmap(&thread, 0, PAGE, READ, ANONYMOUS), Errno::EINVAL),
        (mmap(&thread, 0, PAGE, READ, ANONYMOUS | 3), Errno::EINVAL),
        (mmap(&thread, 0, PAGE, READ, PRIVATE), Errno::EBADF),
        (
            mmap(&thread, 0x1001, PAGE, READ, private | FIXED),
            Errno::EINVAL,
        ),
        (mmap(&thread, 0, PAGE, READ, private | FIXED), Errno::EPERM),
        (
            mmap(&thread, USER_END, PAGE, READ, private | FIXED),
            Errno::ENOMEM,
        ),
        (
            mmap(&thread, 0, PAGE, READ, SHARED | ANONYMOUS | GROWSDOWN),
            Errno::EINVAL,
        ),
        (munmap(&thread, 0x10_0001, PAGE), Errno::EINVAL),
        (munmap(&thread, 0x10_0000, 0), Errno::EINVAL),
        (munmap(&thread, 0x10_0000, u64::MAX), Errno::EINVAL),
        (mprotect(&thread, 0x10_0001, PAGE, READ), Errno::EINVAL),
        (mprotect(&thread, 0x10_0000, PAGE, READ), Errno::ENOMEM),
        (mprotect(&thread, 0x10_0000, PAGE, 0x10), Errno::EINVAL),
        (mremap(&thread, 0x10_0000, PAGE, PAGE, 0, 0), Errno::EFAULT),
        (mremap(&thread, 0x10_0000, PAGE, 0, 0, 0), Errno::EINVAL),
        (mremap(&thread, 0x10_0000, PAGE, PAGE, 2, 0), Errno::EINVAL),
        (mremap(&thread, 0x10_0000, PAGE, PAGE, 8, 0), Errno::EINVAL),
        (madvise(&thread, 0x10_0000, PAGE, 4), Errno::ENOMEM),
        (madvise(&thread, 0x10_0000, PAGE, 77), Errno::EINVAL),
    ];
    for (index, (found, expected)) in cases.into_iter().enumerate() {
        assert_eq!(found, Err(expected), "case {index}");
    }
    assert_eq!(munmap(&thread, 0x10_0000, PAGE), Ok(0));
}

#[test]
fn hints_are_followed_where_there_is_room() {
    let thread = process();
    let private = PRIVATE | ANONYMOUS;
    assert_eq!(
        mmap(&thread, 0xc0_0000_0123, PAGE, READ, private),
        Ok(0xc0_0000_0000)
    );
    let other = mmap(&thread, 0xc0_0000_0000, PAGE, READ, private).unwrap();
    assert_ne!(other, 0xc0_0000_0000);
    let taken = mmap(&thread, 0xc0_0000_0000, PAGE, READ, private | NOREPLACE);
    assert_eq!(taken, Err(Errno::EEXIST));
    assert_eq!(
        mmap(&thread, 0xc0_0000_0000, PAGE, READ, private | FIXED),
        Ok(0xc0_0000_0000)
    );
    let low = mmap(&thread, 0, PAGE, READ, private | 0x40).unwrap();
    assert!(low < 0x8000_0000);
    // MAP_32BIT takes wishes as well (Steel Bank Common Lisp has one), unless they are too high.
    let wish = mmap(&thread, 0x5000_0000, PAGE, READ, private | 0x40);
    assert_eq!(wish, Ok(0x5000_0000));
    let again = mmap(&thread, 0x5000_0000, PAGE, READ, private | 0x40).unwrap();
    assert!(again != 0x5000_0000 && again < 0x8000_0000);
    let high = mmap(&thread, 0xd0_0000_0000, PAGE, READ, private | 0x40).unwrap();
    assert!(high < 0x8000_0000);
}

#[test]
fn reservations_of_any_size_are_possible() {
    let thread = process();
    let flags = PRIVATE | ANONYMOUS | NORESERVE;
    // The shadow of an address sanitizer, and what V8, Go and Java reserve.
    let (shadow, end) = (0x7fff_8000, 0x1000_7fff_8000);
    let at = mmap(&thread, shadow, end - shadow, READ | WRITE, flags | FIXED);
    assert_eq!(at, Ok(shadow));
    for len in [1 << 40, 300 << 30, 600 << 30] {
        let at = mmap(&thread, 0, len, 0, flags).unwrap();
        assert_eq!(mprotect(&thread, at, 0x1000, READ | WRITE), Ok(0));
        assert_eq!(UserAddr(at).write(1_u8), Ok(()));
        assert_eq!(munmap(&thread, at + 0x1000, len - 0x1000), Ok(0));
    }
    assert_eq!(UserAddr(0x800_0000_0000).write(1_u8), Ok(()));
}

#[test]
fn likes_are_one_area_and_access_is_by_page() {
    let thread = process();
    let memory = &thread.process.memory;
    let at = anywhere(&thread, 0x8000);
    mprotect(&thread, at + 0x2000, 0x2000, READ).unwrap();
    assert_eq!(memory.regions().len(), 3);
    assert_eq!(UserAddr(at + 0x2000).write(1_u8), Err(Errno::EFAULT));
    assert_eq!(UserAddr(at + 0x4000).write(1_u8), Ok(()));
    mprotect(&thread, at, 0x8000, READ | WRITE).unwrap();
    assert_eq!(memory.regions().len(), 1);
    munmap(&thread, at + 0x3000, 0x1000).unwrap();
    // What lies before the hole is changed all the same.
    assert_eq!(mprotect(&thread, at, 0x8000, READ), Err(Errno::ENOMEM));
    assert_eq!(UserAddr(at).write(1_u8), Err(Errno::EFAULT));
    assert_eq!(UserAddr(at + 0x4000).write(1_u8), Ok(()));
}

#[test]
fn the_break_moves_until_something_is_in_its_way() {
    let thread = process();
    let brk = |to| call(&thread, 12, [to, 0, 0, 0, 0, 0]).unwrap();
    thread.process.memory.start_heap(0x5_0123);
    assert_eq!(brk(0), 0x5_1000);
    assert_eq!(brk(0x5_2345), 0x5_2345);
    assert_eq!(UserAddr(0x5_2fff).write(1_u8), Ok(()));
    assert_eq!(&*thread.process.memory.regions()[0].name, b"[heap]");
    mmap(&thread, 0x6_0000, PAGE, READ, PRIVATE | ANONYMOUS | FIXED).unwrap();
    assert_eq!(brk(0x6_0001), 0x5_2345);
    assert_eq!(brk(0x6_0000), 0x6_0000);
    assert_eq!(brk(0x5_1000), 0x5_1000);
    assert_eq!(UserAddr(0x5_1000).read::<u8>(), Err(Errno::EFAULT));
    assert_eq!(brk(1), 0x5_1000);
}

#[test]
fn mappings_grow_in_place_or_move_with_what_they_hold() {
    let thread = process();
    let at = anywhere(&thread, 0x2000);
    UserAddr(at + 0x1000).write(42_u32).unwrap();
    let wall = anywhere(&thread, 0x1000);
    assert_eq!(wall + 0x1000, at);
    assert_eq!(
        mremap(&thread, wall, 0x1000, 0x2000, 0, 0),
        Err(Errno::ENOMEM)
    );
    assert_eq!(mremap(&thread, at, 0x2000, 0x5000, 0, 0), Ok(at));
    let moved = mremap(&thread, wall, 0x1000, 0x4000, 1, 0).unwrap();
    assert_ne!(moved, wall);
    assert_eq!(UserAddr(wall).read::<u8>(), Err(Errno::EFAULT));
    let fixed = mremap(&thread, at, 0x5000, 0x2000, 3, 0x7000_0000).unwrap();
    assert_eq!(fixed, 0x7000_0000);
    assert_eq!(UserAddr(fixed + 0x1000).read::<u32>(), Ok(42));
    assert_eq!(UserAddr(at).read::<u8>(), Err(Errno::EFAULT));
    assert_eq!(UserAddr(at + 0x4000).read::<u8>(), Err(Errno::EFAULT));
    let kept = mremap(&thread, fixed, 0x2000, 0x2000, 5, 0).unwrap();
    assert_eq!(UserAddr(kept + 0x1000).read::<u32>(), Ok(42));
    assert_eq!(UserAddr(fixed + 0x1000).read::<u32>(), Ok(0));
    let overlap = mremap(&thread, kept, 0x2000, 0x2000, 3, kept + 0x1000);
    assert_eq!(overlap, Err(Errno::EINVAL));
}

#[test]
fn memory_that_is_not_needed_holds_zeroes_again() {
    let thread = process();
    let at = anywhere(&thread, 0x3000);
    UserAddr(at).write(1_u8).unwrap();
    UserAddr(at + 0x1000).write(1_u8).unwrap();
    assert_eq!(madvise(&thread, at, 0x1000, 4), Ok(0));
    assert_eq!(UserAddr(at).read::<u8>(), Ok(0));
    assert_eq!(UserAddr(at + 0x1000).read::<u8>(), Ok(1));
    assert_eq!(madvise(&thread, at, 0x3000, 8), Ok(0));
    assert_eq!(UserAddr(at + 0x1000).read::<u8>(), Ok(0));
    let shared = mmap(&thread, 0, PAGE, READ | WRITE, SHARED | ANONYMOUS).unwrap();
    UserAddr(shared).write(1_u8).unwrap();
    assert_eq!(madvise(&thread, shared, PAGE, 4), Ok(0));
    assert_eq!(UserAddr(shared).read::<u8>(), Ok(1));
    assert_eq!(madvise(&thread, shared, PAGE, 9), Ok(0));
    assert_eq!(UserAddr(shared).read::<u8>(), Ok(0));
}

#[test]
fn limits_hold() {
    let thread = process();
    let set = |resource, soft| limit(&thread, resource, soft);
    set(9, 0x10_0000);
    assert_eq!(
        mmap(&thread, 0, 0x20_0000, READ, PRIVATE | ANONYMOUS),
        Err(Errno::ENOMEM)
    );
    set(9, u64::MAX);
    set(2, 0x4000);
    anywhere(&thread, 0x4000);
    let more = mmap(&thread, 0, 0x1000, READ | WRITE, PRIVATE | ANONYMOUS);
    assert_eq!(more, Err(Errno::ENOMEM));
    let only_read = mmap(&thread, 0, 0x1000, READ, PRIVATE | ANONYMOUS).unwrap();
    let writable = mprotect(&thread, only_read, 0x1000, READ | WRITE);
    assert_eq!(writable, Err(Errno::ENOMEM));
}

#[test]
fn a_stack_grows_down_to_its_limit_and_keeps_a_gap() {
    let thread = process();
    let memory = &thread.process.memory;
    limit(&thread, 3, 0x40_0000);
    let top = 0x1_0000_0000;
    let flags = PRIVATE | ANONYMOUS | FIXED | GROWSDOWN;
    mmap(&thread, top - 0x1000, 0x1000, READ | WRITE, flags).unwrap();
    assert_eq!(
        memory.fault(top - 0x5000, Access::WRITE),
        FaultOutcome::Resolved
    );
    assert_eq!(UserAddr(top - 0x5000).write(1_u8), Ok(()));
    // The library OS writes signal frames below the stack pointer.
    assert_eq!(UserAddr(top - 0x9000).write(1_u8), Ok(()));
    assert_eq!(memory.regions().len(), 1);
    assert_eq!(
        memory.fault(top - 0x50_0000, Access::READ),
        FaultOutcome::NotMapped
    );
    mmap(
        &thread,
        top - 0x20_0000,
        0x1000,
        READ,
        PRIVATE | ANONYMOUS | FIXED,
    )
    .unwrap();
    assert_eq!(
        memory.fault(top - 0x1f_0000, Access::WRITE),
        FaultOutcome::NotMapped
    );
    assert_eq!(
        memory.fault(top - 0xf_0000, Access::WRITE),
        FaultOutcome::Resolved
    );
}

#[test]
fn faults_are_what_linux_says_they_are() {
    let thread = process();
    let memory = &thread.process.memory;
    let at = mmap(&thread, 0, 0x1000, READ, PRIVATE | ANONYMOUS).unwrap();
    assert_eq!(memory.fault(at, Access::WRITE), FaultOutcome::NotAllowed);
    assert_eq!(memory.fault(at, Access::EXEC), FaultOutcome::NotAllowed);
    assert_eq!(
        memory.fault(0x50_0000, Access::READ),
        FaultOutcome::NotMapped
    );
    assert_eq!(FaultOutcome::NotAllowed.signal(), Some((11, 2)));
    assert_eq!(FaultOutcome::NoContent.signal(), Some((7, 2)));
}

#[test]
fn a_file_of_the_image_is_mapped_as_far_as_it_goes() {
    let thread = process();
    let memory = &thread.process.memory;
    let mut image = vec![0; 0x1000];
    image.extend(vec![7; 0x1800]);
    pretend::set_root_image(image);
    let file = file(Way::Image(0x1000), vec![7; 0x1800]);
    let open = open(&file, OpenFlags::empty());
    let read = Access::READ;
    let at = map_file(&thread, &open, 0x4000, read, MapFlags::PRIVATE, 0).unwrap();
    assert_eq!(UserAddr(at + 0x17ff).read::<u8>(), Ok(7));
    assert_eq!(UserAddr(at + 0x1800).read::<u8>(), Ok(0));
    assert_eq!(UserAddr(at + 0x2000).read::<u8>(), Err(Errno::EFAULT));
    assert_eq!(memory.fault(at + 0x2000, read), FaultOutcome::NoContent);
    assert_eq!(memory.regions()[0].inode, 77);
    assert_eq!(&*memory.regions()[0].name, b"/a/file");
    // Making it writable lets the program write its own copy, but nothing appears behind the end.
    assert_eq!(mprotect(&thread, at, 0x4000, READ | WRITE), Ok(0));
    assert_eq!(UserAddr(at).write(9_u8), Ok(()));
    assert_eq!(memory.fault(at + 0x2000, read), FaultOutcome::NoContent);
    assert_eq!(madvise(&thread, at, 0x1000, 4), Ok(0));
    assert_eq!(UserAddr(at).read::<u8>(), Ok(7));
    // The file stays open while it is mapped.
    assert_eq!(Rc::strong_count(&open), 2);
    assert_eq!(munmap(&thread, at, 0x4000), Ok(0));
    assert_eq!(Rc::strong_count(&open), 1);
}

#[test]
fn rights_to_a_file_limit_those_to_its_mapping() {
    let thread = process();
    let file = file(Way::Pages, vec![0; 0x1000]);
    let both = Access::READ | Access::WRITE;
    let read_only = open(&file, OpenFlags::empty());
    let write_only = open(&file, OpenFlags::WRONLY);
    let map = |open, access, flags| map_file(&thread, open, PAGE, access, flags, 0);
    assert_eq!(map(&read_only, both, MapFlags::SHARED), Err(Errno::EACCES));
    assert_eq!(
        map(&write_only, both, MapFlags::PRIVATE),
        Err(Errno::EACCES)
    );
    assert!(map(&read_only, both, MapFlags::PRIVATE).is_ok());
    let at = map(&read_only, Access::READ, MapFlags::SHARED).unwrap();
    assert_eq!(
        mprotect(&thread, at, PAGE, READ | WRITE),
        Err(Errno::EACCES)
    );
}

#[test]
fn pages_of_a_file_system_appear_when_they_are_touched() {
    let thread = process();
    let memory = &thread.process.memory;
    let file = file(Way::Pages, vec![0; 100 << 12]);
    let open = open(&file, OpenFlags::RDWR);
    let both = Access::READ | Access::WRITE;
    let at = map_file(&thread, &open, 128 << 12, both, MapFlags::SHARED, 0).unwrap();
    let far = at + (50 << 12);
    assert_eq!(memory.fault(far, Access::WRITE), FaultOutcome::Resolved);
    assert_eq!(UserAddr(at + (70 << 12)).write(5_u8), Ok(()));
    let again = map_file(&thread, &open, PAGE, both, MapFlags::SHARED, 70 << 12).unwrap();
    assert_eq!(UserAddr(again).read::<u8>(), Ok(5));
    let behind = at + (100 << 12);
    assert_eq!(memory.fault(behind, Access::READ), FaultOutcome::NoContent);
    assert_eq!(UserAddr(behind).read::<u8>(), Err(Errno::EFAULT));
    // A range that was moved takes its pages along; pages are given back when nothing maps them.
    let moved = mremap(&thread, at, 128 << 12, 256 << 12, 1, 0).unwrap();
    assert_eq!(UserAddr(moved + (70 << 12)).read::<u8>(), Ok(5));
    assert!(Rc::strong_count(&file.held) > 2);
    munmap(&thread, moved, 256 << 12).unwrap();
    munmap(&thread, again, PAGE).unwrap();
    assert_eq!(Rc::strong_count(&file.held), 1);
}

#[test]
fn shared_pages_that_may_be_written_are_saved_when_they_have_to_be() {
    let thread = process();
    let file = file(Way::Pages, vec![1; 0x8000]);
    let open_both = open(&file, OpenFlags::RDWR);
    let both = Access::READ | Access::WRITE;
    let map = |open, access, flags| map_file(&thread, open, 0x4000, access, flags, 0x2000).unwrap();
    let at = map(&open_both, both, MapFlags::SHARED);
    assert_eq!(call(&thread, 26, [at + PAGE, PAGE, 4, 0, 0, 0]), Ok(0));
    assert_eq!(file.saved.take(), [(3, 4)]);
    mprotect(&thread, at, 0x4000, 0).unwrap();
    munmap(&thread, at, 0x2000).unwrap();
    assert_eq!(file.saved.take(), [(2, 4)]);
    thread.process.memory.clear();
    assert_eq!(file.saved.take(), [(4, 6)]);
    map(&open_both, both, MapFlags::PRIVATE);
    map(
        &open(&file, OpenFlags::empty()),
        Access::READ,
        MapFlags::SHARED,
    );
    thread.process.memory.clear();
    assert_eq!(file.saved.take(), []);
}

#[test]
fn what_was_copied_is_the_programs_own() {
    let thread = process();
    let file = file(Way::Copy, vec![1; 0x2800]);
    let open = open(&file, OpenFlags::RDWR);
    let both = Access::READ | Access::WRITE;
    let shared = map_file(&thread, &open, 0x3000, both, MapFlags::SHARED, 0);
    assert_eq!(shared, Err(Errno::ENODEV));
    let at = map_file(&thread, &open, 0x3000, both, MapFlags::PRIVATE, 0).unwrap();
    assert_eq!(UserAddr(at + 0x27ff).read::<u8>(), Ok(1));
    assert_eq!(UserAddr(at + 0x2800).read::<u8>(), Ok(0));
    UserAddr(at + 0x1000).write(3_u8).unwrap();
    munmap(&thread, at, 0x3000).unwrap();
    assert_eq!(file.bytes.borrow()[0x1000], 1);
}

#[test]
fn long_files_are_read_where_they_are_touched() {
    let thread = process();
    let memory = &thread.process.memory;
    let mut bytes = vec![1; 1 << 20];
    bytes[900_000] = 5;
    let file = file(Way::Copy, bytes);
    let open = open(&file, OpenFlags::RDWR);
    let both = Access::READ | Access::WRITE;
    let at = map_file(&thread, &open, 2 << 20, both, MapFlags::PRIVATE, 0).unwrap();
    let there: u64 = pretend::mappings().iter().map(|m| m.1 - m.0).sum();
    assert_eq!(there, 256 << 10);
    assert_eq!(UserAddr(at + 900_000).read::<u8>(), Ok(5));
    assert_eq!(
        memory.fault(at + 600_000, Access::READ),
        FaultOutcome::Resolved
    );
    assert_eq!(
        memory.fault(at + (1 << 20), Access::READ),
        FaultOutcome::NoContent
    );
    // The file grows, as that of a database does.
    file.bytes.borrow_mut().resize(3 << 19, 8);
    assert_eq!(UserAddr(at + (1 << 20)).read::<u8>(), Ok(8));
}

std::thread_local! {
    static TEXT: RefCell<Vec<(u64, u64)>> = const { RefCell::new(Vec::new()) };
}

#[test]
fn who_watches_text_is_told_when_it_goes() {
    let thread = process();
    let memory = &thread.process.memory;
    memory.watch_text(|start, end| TEXT.with(|text| text.borrow_mut().push((start, end))));
    let at = mmap(&thread, 0, 0x3000, READ | EXEC, PRIVATE | ANONYMOUS).unwrap();
    assert_eq!(TEXT.take(), vec![]);
    mprotect(&thread, at, 0x1000, READ | WRITE).unwrap();
    assert_eq!(TEXT.take(), vec![(at, at + 0x1000)]);
    munmap(&thread, at, 0x3000).unwrap();
    assert_eq!(TEXT.take(), vec![(at + 0x1000, at + 0x3000)]);
}

#[test]
fn what_is_kept_for_the_library_os_is_not_the_programs() {
    let thread = process();
    let memory = &thread.process.memory;
    let near = 0x10_0000_0000;
    let at = memory.reserve_near(near, 1 << 30, 0x20_0000).unwrap();
    assert!(at.abs_diff(near) < 1 << 30);
    assert_eq!(memory.regions(), vec![]);
    assert_eq!(memory.totals(), Totals::default());
    let flags = PRIVATE | ANONYMOUS;
    assert_eq!(
        mmap(&thread, at, PAGE, READ, flags | FIXED),
        Err(Errno::ENOMEM)
    );
    assert_ne!(mmap(&thread, at, PAGE, READ, flags), Ok(at));
    assert_eq!(munmap(&thread, at - 0x1000, 0x40_0000), Ok(0));
    assert_eq!(mprotect(&thread, at, PAGE, READ), Err(Errno::ENOMEM));
    assert_ne!(memory.reserve_near(near, 1 << 30, 0x20_0000), Ok(at));
}

#[test]
fn locking_is_counted_and_limited() {
    let thread = process();
    *thread.process.credentials.borrow_mut() = crate::process::Credentials::new(1000, 1000);
    limit(&thread, 8, 0x4000);
    let at = anywhere(&thread, 0x8000);
    let mlock = |at, len| call(&thread, 149, [at, len, 0, 0, 0, 0]);
    assert_eq!(mlock(at, 0x8000), Err(Errno::ENOMEM));
    assert_eq!(mlock(at + 1, 0x2000), Ok(0));
    assert_eq!(thread.process.memory.totals().locked, 0x3000);
    assert_eq!(mlock(at, 0x4000), Ok(0));
    assert_eq!(madvise(&thread, at, 0x1000, 4), Err(Errno::EINVAL));
    assert_eq!(call(&thread, 150, [at, 0x8000, 0, 0, 0, 0]), Ok(0));
    assert_eq!(thread.process.memory.totals().locked, 0);
    assert_eq!(thread.process.memory.regions().len(), 1);
}

#[test]
fn presence_is_told_page_by_page() {
    let thread = process();
    let at = anywhere(&thread, 0x3000);
    let to = anywhere(&thread, 0x1000);
    munmap(&thread, at + 0x2000, 0x1000).unwrap();
    assert_eq!(call(&thread, 27, [at, 0x2000, to, 0, 0, 0]), Ok(0));
    assert_eq!(UserAddr(to).read::<[u8; 3]>(), Ok([1, 1, 0]));
    let hole = call(&thread, 27, [at, 0x3000, to, 0, 0, 0]);
    assert_eq!(hole, Err(Errno::ENOMEM));
}

/// The pages that the property below plays with.
const ARENA: u64 = 0x40_0000;
const ARENA_PAGES: u64 = 24;

/// A change that a program makes, in pages of the arena.
#[derive(Clone, Debug)]
enum Change {
    Map(u64, u64, u64),
    Unmap(u64, u64),
    Protect(u64, u64, u64),
    Move(u64, u64, u64),
    Write(u64, u8),
    Forget(u64, u64),
}

fn change() -> impl Strategy<Value = Change> {
    let page = 0..ARENA_PAGES;
    let len = 1..8_u64;
    let protection = prop::sample::select(vec![0, READ, READ | WRITE]);
    prop_oneof![
        (page.clone(), len.clone(), protection.clone()).prop_map(|(a, b, c)| Change::Map(a, b, c)),
        (page.clone(), len.clone()).prop_map(|(a, b)| Change::Unmap(a, b)),
        (page.clone(), len.clone(), protection).prop_map(|(a, b, c)| Change::Protect(a, b, c)),
        (page.clone(), len.clone(), page.clone()).prop_map(|(a, b, c)| Change::Move(a, b, c)),
        (page.clone(), 1..=255_u8).prop_map(|(a, b)| Change::Write(a, b)),
        (page, len).prop_map(|(a, b)| Change::Forget(a, b)),
    ]
}

/// What a page is: its access, and the byte it holds.
type Model = Vec<Option<(u64, u8)>>;

fn apply(thread: &Rc<Thread>, model: &mut Model, change: &Change) {
    let at = |page: u64| ARENA + page * PAGE;
    let part = |page: u64, len: u64| page as usize..(page + len) as usize;
    match *change {
        Change::Map(page, len, protection) => {
            let flags = PRIVATE | ANONYMOUS | FIXED;
            let mapped = mmap(thread, at(page), len * PAGE, protection, flags);
            assert_eq!(mapped, Ok(at(page)));
            model[part(page, len)].fill(Some((protection, 0)));
        }
        Change::Unmap(page, len) => {
            assert_eq!(munmap(thread, at(page), len * PAGE), Ok(0));
            model[part(page, len)].fill(None);
        }
        Change::Protect(page, len, protection) => {
            let result = mprotect(thread, at(page), len * PAGE, protection);
            let pages = &mut model[part(page, len)];
            let before_hole = pages.iter_mut().map_while(Option::as_mut);
            let changed = before_hole.map(|page| page.0 = protection).count();
            let whole = changed as u64 == len;
            assert_eq!(result, if whole { Ok(0) } else { Err(Errno::ENOMEM) });
        }
        Change::Move(page, len, to) => {
            let result = mremap(thread, at(page), len * PAGE, len * PAGE, 3, at(to));
            let from = model[part(page, len)].to_vec();
            if page.abs_diff(to) < len {
                assert_eq!(result, Err(Errno::EINVAL));
            } else if from[0].is_none()
                || from.iter().any(|p| p.map(|p| p.0) != from[0].map(|p| p.0))
            {
                assert_eq!(result, Err(Errno::EFAULT));
            } else {
                assert_eq!(result, Ok(at(to)));
                model[part(page, len)].fill(None);
                model[part(to, len)].copy_from_slice(&from);
            }
        }
        Change::Write(page, byte) => {
            let written = UserAddr(at(page)).write(byte).is_ok();
            let allowed = model[page as usize].is_some_and(|page| page.0 & WRITE != 0);
            assert_eq!(written, allowed);
            if let Some(page) = &mut model[page as usize] {
                page.1 = if allowed { byte } else { page.1 };
            }
        }
        Change::Forget(page, len) => {
            let result = madvise(thread, at(page), len * PAGE, 4);
            let pages = &mut model[part(page, len)];
            let whole = pages.iter().all(Option::is_some);
            assert_eq!(result, if whole { Ok(0) } else { Err(Errno::ENOMEM) });
            pages.iter_mut().flatten().for_each(|page| page.1 = 0);
        }
    }
}

proptest! {
    /// Whatever a program does, each page is as a table of pages says, the host's mappings are those of the areas, and like areas are one.
    #[test]
    fn memory_is_what_a_table_of_pages_says(changes in prop::collection::vec(change(), 1..60)) {
        let thread = process();
        let memory = &thread.process.memory;
        let mut model: Model = vec![None; (ARENA_PAGES + 8) as usize];
        for change in &changes {
            apply(&thread, &mut model, change);
            for (index, page) in model.iter().enumerate() {
                let at = UserAddr(ARENA + index as u64 * PAGE);
                let expected = page.filter(|page| page.0 & READ != 0).map(|page| page.1);
                prop_assert_eq!(at.read::<u8>().ok(), expected);
            }
            let regions = memory.regions();
            let runs = model.chunk_by(|a, b| a.map(|p| p.0) == b.map(|p| p.0));
            let expected = runs.filter(|run| run[0].is_some()).count();
            prop_assert_eq!(regions.len(), expected);
            let pages = model.iter().flatten().count() as u64;
            prop_assert_eq!(memory.totals().size, pages * PAGE);
            let on_host: u64 = pretend::mappings().iter().map(|m| m.1 - m.0).sum();
            prop_assert_eq!(on_host, pages * PAGE);
        }
    }
}
