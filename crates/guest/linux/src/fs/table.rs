//! A process's descriptors.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::OpenFile;
use crate::shortage;
use crate::{Errno, Result};

/// One descriptor.
#[derive(Clone, Debug)]
pub struct Descriptor {
    /// What it refers to.
    pub open: Rc<OpenFile>,
    /// `FD_CLOEXEC`.
    pub close_on_exec: bool,
}

/// Descriptors by number.
#[derive(Debug)]
pub struct FdTable {
    slots: RefCell<Vec<Option<Descriptor>>>,
    /// No number below this one is free.
    lowest: Cell<usize>,
    /// `RLIMIT_NOFILE`.
    pub limit: Cell<usize>,
}

impl Default for FdTable {
    fn default() -> Self {
        Self {
            slots: RefCell::default(),
            lowest: Cell::new(0),
            limit: Cell::new(1 << 20),
        }
    }
}

/// Makes room for a number. A table is as long as the greatest number in it, which a program may choose.
fn lengthen(slots: &mut Vec<Option<Descriptor>>, number: usize, error: Errno) -> Result {
    let missing = (number + 1).saturating_sub(slots.len());
    if missing > slots.capacity() - slots.len() {
        // It may move, and be twice as long afterwards.
        let bytes = (number + 1) * 2 * size_of::<Option<Descriptor>>();
        shortage::room(bytes as u64).map_err(|_| error)?;
    }
    if missing > 0 {
        slots.resize(number + 1, None);
    }
    Ok(())
}

impl FdTable {
    /// The description behind a descriptor.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn get(&self, fd: i32) -> Result<Rc<OpenFile>> {
        let slots = self.slots.borrow();
        let slot = usize::try_from(fd).ok().and_then(|fd| slots.get(fd));
        match slot {
            Some(Some(descriptor)) => Ok(descriptor.open.clone()),
            _ => Err(Errno::EBADF),
        }
    }

    /// The descriptor itself.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn descriptor(&self, fd: i32) -> Result<Descriptor> {
        let slots = self.slots.borrow();
        let slot = usize::try_from(fd).ok().and_then(|fd| slots.get(fd));
        slot.cloned().flatten().ok_or(Errno::EBADF)
    }

    /// Gives a description the lowest free number from `from` on.
    ///
    /// # Errors
    /// `EMFILE`; `ENFILE` if memory is short: that is what Linux derives its limit of open files from.
    pub fn add(&self, open: Rc<OpenFile>, close_on_exec: bool, from: usize) -> Result<i32> {
        let mut slots = self.slots.borrow_mut();
        let start = from.max(self.lowest.get());
        let free = (start..slots.len()).find(|&n| slots[n].is_none());
        let number = free.unwrap_or(slots.len().max(start));
        if number >= self.limit.get() {
            return Err(Errno::EMFILE);
        }
        shortage::object(Errno::ENFILE)?;
        lengthen(&mut slots, number, Errno::ENFILE)?;
        slots[number] = Some(Descriptor {
            open,
            close_on_exec,
        });
        if from <= self.lowest.get() {
            self.lowest.set(number + 1);
        }
        i32::try_from(number).map_err(|_| Errno::EMFILE)
    }

    /// Puts a description at a number (`dup2(2)`). What was there comes back, to be dropped without the table being borrowed.
    ///
    /// # Errors
    /// `EBADF` for a number that is not allowed; `ENOMEM`.
    pub fn put(
        &self,
        fd: i32,
        open: Rc<OpenFile>,
        close_on_exec: bool,
    ) -> Result<Option<Descriptor>> {
        let number = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        if number >= self.limit.get() {
            return Err(Errno::EBADF);
        }
        let mut slots = self.slots.borrow_mut();
        lengthen(&mut slots, number, Errno::ENOMEM)?;
        Ok(slots[number].replace(Descriptor {
            open,
            close_on_exec,
        }))
    }

    /// Frees a number. What was there comes back.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn remove(&self, fd: i32) -> Result<Descriptor> {
        let number = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let mut slots = self.slots.borrow_mut();
        let found = slots.get_mut(number).and_then(Option::take);
        if found.is_some() {
            self.lowest.set(self.lowest.get().min(number));
        }
        found.ok_or(Errno::EBADF)
    }

    /// Sets or clears `FD_CLOEXEC`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn set_close_on_exec(&self, fd: i32, on: bool) -> Result {
        let mut slots = self.slots.borrow_mut();
        let slot = usize::try_from(fd).ok().and_then(|fd| slots.get_mut(fd));
        match slot {
            Some(Some(descriptor)) => {
                descriptor.close_on_exec = on;
                Ok(())
            }
            _ => Err(Errno::EBADF),
        }
    }

    /// The numbers in use.
    pub fn numbers(&self) -> Vec<i32> {
        let slots = self.slots.borrow();
        let used = slots.iter().enumerate().filter(|(_, slot)| slot.is_some());
        used.filter_map(|(number, _)| i32::try_from(number).ok())
            .collect()
    }
}
