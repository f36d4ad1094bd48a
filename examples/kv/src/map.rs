//! What lies in memory: all keys and values.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use core::cell::{Ref, RefCell};
use core::ops::Bound;

use crate::format::{OP_LEN, Op};

/// Memory that an entry takes besides its bytes: its share of a tree node, and the heap's rounding up, twice.
const ENTRY_OVERHEAD: usize = 96;

/// The entries, and what they take.
#[derive(Debug, Default)]
pub struct Map {
    entries: BTreeMap<Box<[u8]>, Box<[u8]>>,
    /// Bytes of a snapshot's operations.
    pub snapshot_len: u64,
    /// Bytes of memory.
    pub memory: usize,
}

/// Bytes that an entry takes in a snapshot.
pub const fn snapshot_len(key: &[u8], value_len: usize) -> u64 {
    (OP_LEN + key.len() + value_len) as u64
}

/// Bytes that an entry takes in memory.
pub const fn memory(key: &[u8], value_len: usize) -> usize {
    ENTRY_OVERHEAD + key.len() + value_len
}

impl Map {
    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.entries.get(key).map(|value| &**value)
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without any key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries behind a key, in the order of keys; from the first on without one.
    pub fn entries_behind(&self, key: Option<&[u8]>) -> impl Iterator<Item = (&[u8], &[u8])> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.entries.range::<[u8], _>((from, Bound::Unbounded));
        range.map(|(key, value)| (&**key, &**value))
    }

    /// Makes a change.
    pub fn apply(&mut self, op: Op) {
        match op {
            Op::Set { key, value } => {
                self.remove(&key);
                self.snapshot_len += snapshot_len(&key, value.len());
                self.memory += memory(&key, value.len());
                self.entries.insert(key, value);
            }
            Op::Delete { key } => self.remove(&key),
            Op::Clear => *self = Self::default(),
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(value) = self.entries.remove(key) {
            self.snapshot_len -= snapshot_len(key, value.len());
            self.memory -= memory(key, value.len());
        }
    }
}

/// The store for readers: what has been committed, and nothing else.
#[derive(Clone, Debug, Default)]
pub struct View(pub(crate) Rc<RefCell<Map>>);

impl View {
    /// The entries. Not to be held while waiting for anything: a commit could not be applied.
    pub fn read(&self) -> Ref<'_, Map> {
        self.0.borrow()
    }
}
