//! Pages of content: memory of the library OS that programs may have mapped.
//!
//! The program runs only while the library OS does not, and no borrow of a page outlives a call, so a page may be changed by both.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, Ref, RefCell, RefMut};

use crate::{Errno, Result};

const BYTES: usize = super::PAGE as usize;

#[derive(Clone)]
#[repr(C, align(4096))]
struct Memory([u8; BYTES]);

/// Pages that were made together and lie side by side.
pub(in crate::fs) struct Chunk {
    address: u64,
    memory: RefCell<Box<[Memory]>>,
    /// How many of them belong to the file; whoever holds more handles than that has pages mapped.
    pub(in crate::fs) listed: Cell<usize>,
}

impl Chunk {
    /// Zeroed pages.
    pub(in crate::fs) fn new(pages: usize) -> Result<Rc<Self>> {
        let mut memory = Vec::new();
        memory.try_reserve_exact(pages).map_err(|_| Errno::ENOMEM)?;
        memory.resize(pages, Memory([0; BYTES]));
        let memory = memory.into_boxed_slice();
        Ok(Rc::new(Self {
            address: memory.as_ptr().expose_provenance() as u64,
            memory: RefCell::new(memory),
            listed: Cell::new(0),
        }))
    }
}

/// One page of a chunk.
#[derive(Clone)]
pub(in crate::fs) struct Page {
    pub(in crate::fs) chunk: Rc<Chunk>,
    pub(in crate::fs) index: usize,
}

impl Page {
    pub(in crate::fs) fn address(&self) -> u64 {
        self.chunk.address + (self.index * BYTES) as u64
    }

    /// The bytes; `EFAULT` if they are just being written, as when a program gives a mapping of a file as the place to read the file to.
    pub(in crate::fs) fn bytes(&self) -> Result<Ref<'_, [u8; BYTES]>> {
        let memory = self.chunk.memory.try_borrow().map_err(|_| Errno::EFAULT)?;
        Ref::filter_map(memory, |memory| memory.get(self.index).map(|page| &page.0))
            .map_err(|_| Errno::EFAULT)
    }

    pub(in crate::fs) fn bytes_mut(&self) -> Result<RefMut<'_, [u8; BYTES]>> {
        let memory = self
            .chunk
            .memory
            .try_borrow_mut()
            .map_err(|_| Errno::EFAULT)?;
        RefMut::filter_map(memory, |memory| {
            memory.get_mut(self.index).map(|page| &mut page.0)
        })
        .map_err(|_| Errno::EFAULT)
    }

    /// True if somebody has the page mapped, or one that was made with it.
    pub(in crate::fs) fn is_held(&self) -> bool {
        Rc::strong_count(&self.chunk) > self.chunk.listed.get()
    }
}
