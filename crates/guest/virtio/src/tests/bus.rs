//! Leads register accesses of the current thread to devices of this thread.

use std::boxed::Box;
use std::cell::RefCell;
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use core::ptr::NonNull;

use crate::registers::Registers;

/// What lies behind a window of registers.
pub(crate) trait Window {
    fn read(&mut self, offset: usize, size: usize) -> u64;
    fn write(&mut self, offset: usize, size: usize, value: u64);
}

type Entry = (usize, usize, Rc<RefCell<dyn Window>>);

std::thread_local! {
    static WINDOWS: RefCell<Vec<Entry>> = const { RefCell::new(Vec::new()) };
}

/// Makes a window of `len` bytes.
pub(crate) fn attach(len: usize, window: Rc<RefCell<dyn Window>>) -> Registers {
    // Nobody reads or writes this memory; it only makes the addresses this window's own.
    let memory: &'static mut [u64] = Box::leak(vec![0; len.div_ceil(8)].into_boxed_slice());
    let base = NonNull::from(memory).cast::<u8>();
    WINDOWS.with_borrow_mut(|windows| windows.push((base.addr().get(), len, window)));
    // SAFETY: accesses do not reach memory.
    unsafe { Registers::new(base, len) }
}

fn find(address: usize) -> Option<(usize, Rc<RefCell<dyn Window>>)> {
    WINDOWS.with_borrow(|windows| {
        windows
            .iter()
            .find(|(base, len, _)| (*base..*base + *len).contains(&address))
            .map(|(base, _, window)| (address - base, window.clone()))
    })
}

pub(crate) fn read(address: usize, size: usize) -> Option<u64> {
    find(address).map(|(offset, window)| window.borrow_mut().read(offset, size))
}

pub(crate) fn write(address: usize, size: usize, value: u64) -> bool {
    find(address)
        .map(|(offset, window)| window.borrow_mut().write(offset, size, value))
        .is_some()
}
