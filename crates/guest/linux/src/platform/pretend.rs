//! The ground as tests have it.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::{Access, Backing, Stream};
use crate::kernel::Kernel;
use crate::process::Thread;
use crate::user::{PAGE, USER_END, USER_START};
use crate::{Errno, Result};

/// A range that is mapped. What its pages hold is made when they are touched, so that a mapping may be as long as it likes.
#[derive(Clone, Copy)]
struct Mapping {
    end: u64,
    access: Access,
    backing: Backing,
}

impl Mapping {
    /// The same, `by` bytes further on.
    fn further(self, by: u64) -> Self {
        let backing = match self.backing {
            Backing::Zero => Backing::Zero,
            Backing::Image(at) => Backing::Image(at + by),
            Backing::Shared(at) => Backing::Shared(at + by),
            Backing::Private(at) => Backing::Private(at + by),
        };
        Self { backing, ..self }
    }
}

type Content = Rc<RefCell<Box<[u8]>>>;

/// The program's memory.
#[derive(Default)]
struct Memory {
    mappings: BTreeMap<u64, Mapping>,
    /// What pages hold that were touched, by page number.
    contents: BTreeMap<u64, Content>,
    /// Pages that are shared, by the library OS's address.
    shared: BTreeMap<u64, Content>,
}

impl Memory {
    fn find(&self, at: u64) -> Option<Mapping> {
        let (&start, mapping) = self.mappings.range(..=at).next_back()?;
        (at < mapping.end).then(|| mapping.further((at & !(PAGE - 1)) - start))
    }

    /// Makes an address a border between mappings.
    fn cut(&mut self, at: u64) {
        if let Some((&start, mapping)) = self.mappings.range_mut(..at).next_back()
            && mapping.end > at
        {
            let rest = mapping.further(at - start);
            mapping.end = at;
            self.mappings.insert(at, rest);
        }
    }

    /// Takes the mappings of a range, and what its pages hold.
    fn take(&mut self, start: u64, end: u64) -> (BTreeMap<u64, Mapping>, BTreeMap<u64, Content>) {
        self.cut(start);
        self.cut(end);
        let mut mappings = self.mappings.split_off(&start);
        self.mappings.append(&mut mappings.split_off(&end));
        let mut contents = self.contents.split_off(&(start / PAGE));
        self.contents.append(&mut contents.split_off(&(end / PAGE)));
        (mappings, contents)
    }

    /// What the page of an address holds.
    fn content(&mut self, at: u64, backing: Backing) -> Content {
        let new = || Rc::new(RefCell::new(content(backing)));
        match backing {
            Backing::Shared(of) => self.shared.entry(of).or_insert_with(new).clone(),
            _ => self.contents.entry(at / PAGE).or_insert_with(new).clone(),
        }
    }
}

type Script = Box<dyn FnOnce()>;

/// Bytes of memory that the machine has.
const MEMORY: u64 = 64 << 20;

/// What answers for a folder of the host: request in, reply out.
pub type Answer = Box<dyn FnMut(&[u8], &mut [u8]) -> usize>;

/// Bytes of an FPU state: the legacy part and the header.
const FPU_LEN: usize = 576;

/// The imitation's state, one for each thread of the test program.
#[derive(Default)]
struct Pretended {
    kernel: RefCell<Option<Rc<Kernel>>>,
    memory: RefCell<Memory>,
    image: Cell<&'static [u8]>,
    now: Cell<u64>,
    /// Bytes of memory that are taken.
    taken: Cell<u64>,
    /// How often a thread has slept.
    sleeps: Cell<u32>,
    random: Cell<u64>,
    output: RefCell<Vec<u8>>,
    reader_gone: Cell<bool>,
    input: RefCell<Vec<u8>>,
    /// What others do while the thread sleeps, one at a time.
    script: RefCell<VecDeque<Script>>,
    folders: RefCell<Vec<Answer>>,
    /// Replies of folders that nobody has taken yet.
    replies: RefCell<VecDeque<Vec<u8>>>,
    /// How often a long call has let others run.
    breaths: Cell<u32>,
    /// What others do while a thread is busy with a long call, one at a time.
    while_busy: RefCell<VecDeque<Script>>,
    /// The FPU state that was set last.
    fpu: RefCell<Vec<u8>>,
}

std::thread_local! {
    static PRETENDED: Pretended = Pretended::default();
}

fn with<R>(work: impl FnOnce(&Pretended) -> R) -> R {
    PRETENDED.with(work)
}

/// Forgets everything: the next use of the kernel makes a new one.
pub fn reset() {
    with(|p| {
        let old = p.kernel.borrow_mut().take();
        drop(old);
        *p.memory.borrow_mut() = Memory::default();
        p.script.borrow_mut().clear();
        p.replies.borrow_mut().clear();
        p.while_busy.borrow_mut().clear();
        p.output.borrow_mut().clear();
        p.reader_gone.set(false);
        p.input.borrow_mut().clear();
        p.now.set(1_000_000_000);
        p.sleeps.set(0);
        p.taken.set(0);
        p.fpu.borrow_mut().clear();
    });
}

/// Takes memory away from the machine, of the half that is free at first.
pub fn take_memory(bytes: u64) {
    with(|p| p.taken.set(bytes));
}

/// Gives the machine a root image.
pub fn set_root_image(image: Vec<u8>) {
    with(|p| p.image.set(Box::leak(image.into_boxed_slice())));
}

/// How often long calls have let others run.
pub fn breaths() -> u32 {
    with(|p| p.breaths.get())
}

/// The next time that a long call lets others run, this is done by them.
pub fn while_busy(work: impl FnOnce() + 'static) {
    with(|p| p.while_busy.borrow_mut().push_back(Box::new(work)));
}

/// The next time that a thread sleeps, this is done by somebody else meanwhile. Several are done one after another.
pub fn while_asleep(work: impl FnOnce() + 'static) {
    with(|p| p.script.borrow_mut().push_back(Box::new(work)));
}

/// Gives the machine a folder of a host, in place of those it has.
pub fn set_folder(answer: Answer) {
    with(|p| *p.folders.borrow_mut() = vec![answer]);
}

/// Gives the machine one more.
pub fn add_folder(answer: Answer) {
    with(|p| p.folders.borrow_mut().push(answer));
}

/// Lets time pass, in nanoseconds.
pub fn advance(nanos: u64) {
    with(|p| p.now.set(p.now.get() + nanos));
}

/// What was written to the console since the last time.
pub fn take_output() -> Vec<u8> {
    with(|p| core::mem::take(&mut *p.output.borrow_mut()))
}

/// Types something at the console.
pub fn type_input(bytes: &[u8]) {
    with(|p| p.input.borrow_mut().extend_from_slice(bytes));
}

pub(super) fn kernel() -> Rc<Kernel> {
    let there = with(|p| p.kernel.borrow().clone());
    there.unwrap_or_else(|| {
        let new = Rc::new(Kernel::new());
        with(|p| *p.kernel.borrow_mut() = Some(new.clone()));
        new
    })
}

pub(super) fn now() -> u64 {
    with(|p| p.now.get())
}

pub(super) fn wall() -> u64 {
    1_700_000_000_000_000_000 + now()
}

pub(super) fn host_clocks() -> (u64, u64) {
    (now(), wall() - now())
}

pub(super) fn counter() -> super::Counter {
    super::Counter {
        value: now(),
        frequency: 1_000_000_000,
    }
}

pub(super) fn random(to: &mut [u8]) {
    with(|p| {
        for byte in to {
            // Knuth's MMIX generator: tests want the same numbers each time.
            let next = p
                .random
                .get()
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            p.random.set(next);
            *byte = (next >> 56) as u8;
        }
    });
}

/// Calls `each` with every page's part of the range.
fn walk(
    at: u64,
    len: usize,
    needed: Access,
    mut each: impl FnMut(&mut [u8], core::ops::Range<usize>),
) -> Result {
    let end = at.checked_add(len as u64).ok_or(Errno::EFAULT)?;
    if len > 0 && (at < USER_START || end > USER_END) {
        return Err(Errno::EFAULT);
    }
    with(|p| {
        let mut memory = p.memory.borrow_mut();
        let mut done = 0;
        while done < len {
            let here = at + done as u64;
            let mapping = memory.find(here).ok_or(Errno::EFAULT)?;
            if !mapping.access.contains(needed) {
                return Err(Errno::EFAULT);
            }
            let offset = (here % PAGE) as usize;
            let count = (PAGE as usize - offset).min(len - done);
            let content = memory.content(here, mapping.backing);
            let mut bytes = content.borrow_mut();
            each(&mut bytes[offset..offset + count], done..done + count);
            done += count;
        }
        Ok(())
    })
}

pub(super) fn copy_in(from: u64, to: &mut [u8]) -> Result {
    walk(from, to.len(), Access::READ, |bytes, part| {
        to[part].copy_from_slice(bytes);
    })
}

pub(super) fn copy_out(to: u64, from: &[u8]) -> Result {
    walk(to, from.len(), Access::WRITE, |bytes, part| {
        bytes.copy_from_slice(&from[part]);
    })
}

pub(super) fn compare_exchange(at: u64, old: u32, new: u32) -> Result<u32> {
    let mut word = [0; 4];
    copy_in(at, &mut word)?;
    let found = u32::from_ne_bytes(word);
    if found == old {
        copy_out(at, &new.to_ne_bytes())?;
    }
    Ok(found)
}

/// What a page holds at first.
fn content(backing: Backing) -> Box<[u8]> {
    let mut bytes = vec![0; PAGE as usize].into_boxed_slice();
    if let Backing::Image(offset) = backing {
        let image = with(|p| p.image.get());
        let from = image.get(offset as usize..).unwrap_or(&[]);
        let len = from.len().min(PAGE as usize);
        bytes[..len].copy_from_slice(&from[..len]);
    }
    bytes
}

pub(super) fn map(at: u64, len: u64, access: Access, backing: Backing) -> Result {
    let end = at + len;
    let mapping = Mapping {
        end,
        access,
        backing,
    };
    with(|p| {
        let mut memory = p.memory.borrow_mut();
        memory.take(at, end);
        memory.mappings.insert(at, mapping);
    });
    Ok(())
}

pub(super) fn unmap(at: u64, len: u64) -> Result {
    with(|p| p.memory.borrow_mut().take(at, at.saturating_add(len)));
    Ok(())
}

pub(super) fn protect(at: u64, len: u64, access: Access) -> Result {
    with(|p| {
        let mut memory = p.memory.borrow_mut();
        memory.cut(at);
        memory.cut(at + len);
        for (_, mapping) in memory.mappings.range_mut(at..at + len) {
            mapping.access = access;
        }
    });
    Ok(())
}

pub(super) fn discard(at: u64, len: u64) -> Result {
    with(|p| {
        let mut memory = p.memory.borrow_mut();
        let mut contents = memory.contents.split_off(&(at / PAGE));
        let mut above = contents.split_off(&((at + len) / PAGE));
        memory.contents.append(&mut above);
    });
    Ok(())
}

pub(super) fn relocate(from: u64, len: u64, to: u64) -> Result {
    let moved = |at: u64| at - from + to;
    with(|p| {
        let mut memory = p.memory.borrow_mut();
        let (mappings, contents) = memory.take(from, from + len);
        for (start, mut mapping) in mappings {
            mapping.end = moved(mapping.end);
            memory.mappings.insert(moved(start), mapping);
        }
        for (page, content) in contents {
            let page = moved(page * PAGE) / PAGE;
            memory.contents.insert(page, content);
        }
    });
    Ok(())
}

/// The mappings of the program, each with its end, access and backing: what a test may compare with what should be there.
pub fn mappings() -> Vec<(u64, u64, Access, Backing)> {
    with(|p| {
        let memory = p.memory.borrow();
        let all = memory.mappings.iter();
        all.map(|(&start, m)| (start, m.end, m.access, m.backing))
            .collect()
    })
}

pub(super) fn populate(_at: u64, _len: u64) {}

pub(super) fn reach(_at: u64, _len: u64, _access: Access) -> bool {
    false
}

pub(super) fn folder(_name: &[u8]) -> Option<u32> {
    with(|p| !p.folders.borrow().is_empty()).then_some(0)
}

pub(super) fn ask_folder(device: u32, request: &[u8], reply: &mut [u8]) -> Result<usize> {
    with(|p| {
        if request.is_empty() {
            let came = p.replies.borrow_mut().pop_front().ok_or(Errno::EAGAIN)?;
            reply[..came.len()].copy_from_slice(&came);
            return Ok(came.len());
        }
        let mut folders = p.folders.borrow_mut();
        let answer = folders.get_mut(device as usize).ok_or(Errno::EIO)?;
        if !reply.is_empty() {
            return Ok(answer(request, reply));
        }
        let mut later = vec![0; kiln_abi::user::MAX_NINEP as usize];
        let len = answer(request, &mut later);
        later.truncate(len);
        if len > 0 {
            p.replies.borrow_mut().push_back(later);
        }
        Ok(0)
    })
}

pub(super) fn await_folder(_device: u32, _on: bool) {}

pub(super) fn stand_still_for(_device: u32) {}

pub(super) fn memory() -> (u64, u64) {
    (MEMORY, free_memory())
}

pub(super) fn free_memory() -> u64 {
    (MEMORY / 2).saturating_sub(with(|p| p.taken.get()))
}

pub(super) fn show_missing(_place: usize, _name: &str, _count: u64) {}

pub(super) fn root_image() -> Option<&'static [u8]> {
    let image = with(|p| p.image.get());
    (!image.is_empty()).then_some(image)
}

pub(super) fn console_write(_stream: Stream, bytes: &[u8]) -> Result<usize> {
    with(|p| {
        if p.reader_gone.get() {
            return Err(Errno::EPIPE);
        }
        p.output.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    })
}

/// Nobody reads the console any more.
pub fn close_output() {
    with(|p| p.reader_gone.set(true));
}

pub(super) fn console_read(to: &mut [u8]) -> Result<usize> {
    with(|p| {
        let mut input = p.input.borrow_mut();
        if input.is_empty() {
            return Err(Errno::EAGAIN);
        }
        let len = input.len().min(to.len());
        to[..len].copy_from_slice(&input[..len]);
        input.drain(..len);
        Ok(len)
    })
}

/// The last moment that the clock gets to: wall-clock time has room for it, decades from now.
const LAST: u64 = 1 << 61;

/// How often threads sleep before they are told that a signal came: a timer that is due again and again ends nothing.
const MOST_SLEEPS: u32 = 100_000;

/// Whoever is in the script acts. Then nobody else can run: time passes until the next timer, and without one that is ever due the thread is
/// told that a signal came.
pub(super) fn switch(thread: &Rc<Thread>) {
    let scripted = with(|p| p.script.borrow_mut().pop_front());
    if let Some(work) = scripted {
        work();
        return;
    }
    if with(|p| !p.replies.borrow().is_empty()) {
        crate::fs::volume::replies_came();
        return;
    }
    let sleeps = with(|p| p.sleeps.replace(p.sleeps.get().saturating_add(1)));
    let next = kernel().timers.next();
    match next.filter(|&next| next <= LAST && sleeps < MOST_SLEEPS) {
        Some(next) => {
            with(|p| p.now.set(p.now.get().max(next)));
            kernel().timers.fire(next);
        }
        None => thread.pretend_signal(),
    }
}

pub(super) fn breathe(_thread: &Rc<Thread>) {
    with(|p| p.breaths.set(p.breaths.get() + 1));
    let script = with(|p| p.while_busy.borrow_mut().pop_front());
    if let Some(script) = script {
        script();
    }
}

pub(super) fn is_current(_thread: &Rc<Thread>) -> bool {
    true
}

pub(super) fn prepare(_thread: &Rc<Thread>) -> Result {
    Ok(())
}

pub(super) fn fpu_state(_thread: &Thread, to: &mut [u8]) -> usize {
    let len = to.len().min(FPU_LEN);
    to[..len].fill(0);
    with(|p| {
        let known = p.fpu.borrow();
        let len = len.min(known.len());
        to[..len].copy_from_slice(&known[..len]);
    });
    len
}

pub(super) fn set_fpu_state(_thread: &Thread, from: &[u8]) -> Result {
    with(|p| *p.fpu.borrow_mut() = from.to_vec());
    Ok(())
}

pub(super) fn clear_fpu_state(_thread: &Thread) {
    let mut state = [0; FPU_LEN].to_vec();
    state[..2].copy_from_slice(&0x37f_u16.to_le_bytes());
    state[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    with(|p| *p.fpu.borrow_mut() = state);
}

pub(super) fn turn() {}

pub(super) fn end(code: u8, signal: u32) -> ! {
    panic!("the machine has ended with code {code}, signal {signal}")
}
