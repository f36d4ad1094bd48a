//! System V's means of communication (`sysvipc(7)`): shared memory ([`shm`]) and semaphores ([`sem`]).
//!
//! Both are objects that outlive who made them, found by a key of the program's choice or by an identifier: [`Table`] keeps them, [`Owner`] says
//! who may do what.

pub mod sem;
pub mod shm;

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use crate::process::Thread;
use crate::user::Plain;
use crate::{Errno, Result, platform};

/// `IPC_PRIVATE`: a key that is nobody's.
pub const PRIVATE: i32 = 0;
/// `IPC_CREAT`
pub const CREATE: u32 = 0o1000;
/// `IPC_EXCL`
pub const EXCLUSIVE: u32 = 0o2000;
/// `IPC_NOWAIT`
pub const NO_WAIT: u32 = 0o4000;

/// Commands that all three `ctl` calls know.
pub mod command {
    #![allow(missing_docs, reason = "the names are those of the man pages")]
    pub const RMID: u32 = 0;
    pub const SET: u32 = 1;
    pub const STAT: u32 = 2;
    pub const INFO: u32 = 3;
}

/// Permission to read.
pub const READ: u32 = 0o4;
/// Permission to write.
pub const WRITE: u32 = 0o2;

const CAP_IPC_OWNER: u32 = 15;
const CAP_SYS_ADMIN: u32 = 21;

/// `struct ipc64_perm`: who owns an object, and what others may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Owner {
    /// The key that it was made with.
    pub key: i32,
    /// Owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Who made it.
    pub creator_uid: u32,
    /// That one's group.
    pub creator_gid: u32,
    /// Permissions, and of shared memory two bits of state.
    pub mode: u32,
    /// Number of the use of the object's place.
    pub sequence: u32,
    padding: u32,
    unused: [u64; 2],
}

// SAFETY: integers without gaps.
unsafe impl Plain for Owner {}

impl Owner {
    fn new(thread: &Thread, key: i32, mode: u32) -> Self {
        let ids = thread.process.credentials.borrow();
        Self {
            key,
            uid: ids.euid,
            gid: ids.egid,
            creator_uid: ids.euid,
            creator_gid: ids.egid,
            mode: mode & 0o777,
            ..Self::default()
        }
    }

    /// Checks that a thread may do what `wanted` says: [`READ`], [`WRITE`], or permission bits of all three kinds.
    ///
    /// # Errors
    /// `EACCES`.
    pub fn permit(&self, thread: &Thread, wanted: u32) -> Result {
        let ids = thread.process.credentials.borrow();
        let is_owner = ids.euid == self.uid || ids.euid == self.creator_uid;
        let of_group = |group| ids.egid == group || ids.groups.contains(&group);
        let granted = if is_owner {
            self.mode >> 6
        } else if of_group(self.gid) || of_group(self.creator_gid) {
            self.mode >> 3
        } else {
            self.mode
        };
        let wanted = wanted >> 6 | wanted >> 3 | wanted;
        let missing = wanted & !granted & 0o7;
        if missing == 0 || ids.can(CAP_IPC_OWNER) {
            Ok(())
        } else {
            Err(Errno::EACCES)
        }
    }

    /// Checks that a thread may remove or change it.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn own(&self, thread: &Thread) -> Result {
        let ids = thread.process.credentials.borrow();
        let is_owner = ids.euid == self.uid || ids.euid == self.creator_uid;
        if is_owner || ids.can(CAP_SYS_ADMIN) {
            Ok(())
        } else {
            Err(Errno::EPERM)
        }
    }

    /// `IPC_SET`.
    pub fn set(&mut self, new: &Self) {
        (self.uid, self.gid) = (new.uid, new.gid);
        self.mode = self.mode & !0o777 | new.mode & 0o777;
    }
}

/// What a table keeps.
pub trait Object {
    /// Who owns it.
    fn owner(&self) -> &Cell<Owner>;
}

/// Objects of one kind, by identifier.
#[derive(Debug)]
pub struct Table<T> {
    objects: RefCell<BTreeMap<u32, Rc<T>>>,
    next: Cell<u32>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            objects: RefCell::default(),
            next: Cell::new(0),
        }
    }
}

impl<T: Object> Table<T> {
    /// The object with an identifier.
    ///
    /// # Errors
    /// `EINVAL` if there is none.
    pub fn get(&self, id: i32) -> Result<Rc<T>> {
        let id = u32::try_from(id).map_err(|_| Errno::EINVAL)?;
        self.objects.borrow().get(&id).cloned().ok_or(Errno::EINVAL)
    }

    /// The object with a place in the table, and its identifier (`SHM_STAT`).
    ///
    /// # Errors
    /// `EINVAL` if there is none.
    pub fn at(&self, place: i32) -> Result<(u32, Rc<T>)> {
        let place = usize::try_from(place).map_err(|_| Errno::EINVAL)?;
        let objects = self.objects.borrow();
        let found = objects.iter().nth(place);
        found
            .map(|(&id, object)| (id, object.clone()))
            .ok_or(Errno::EINVAL)
    }

    /// All of them.
    pub fn all(&self) -> alloc::vec::Vec<(u32, Rc<T>)> {
        let objects = self.objects.borrow();
        objects
            .iter()
            .map(|(&id, object)| (id, object.clone()))
            .collect()
    }

    /// The greatest place in use, 0 if there is none (what `IPC_INFO` returns).
    pub fn last(&self) -> u64 {
        self.objects.borrow().len().saturating_sub(1) as u64
    }

    /// The `get` calls: the object of a key, which `make` makes and `fits` looks at. Returns its identifier.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT`, `EACCES`, `ENOSPC` beyond `most`, and those of the two.
    pub fn find_or_make(
        &self,
        thread: &Thread,
        (key, flags): (i32, u32),
        most: usize,
        fits: impl FnOnce(&T) -> Result,
        make: impl FnOnce(Owner) -> Result<T>,
    ) -> Result<u64> {
        let found = self.all().into_iter().find(|(_, object)| {
            let owner = object.owner().get();
            key != PRIVATE && owner.key == key
        });
        if let Some((id, object)) = found {
            if flags & (CREATE | EXCLUSIVE) == CREATE | EXCLUSIVE {
                return Err(Errno::EEXIST);
            }
            fits(&object)?;
            object.owner().get().permit(thread, flags & 0o777)?;
            return Ok(id.into());
        }
        if key != PRIVATE && flags & CREATE == 0 {
            return Err(Errno::ENOENT);
        }
        if self.objects.borrow().len() >= most {
            return Err(Errno::ENOSPC);
        }
        crate::shortage::object(Errno::ENOSPC)?;
        let object = make(Owner::new(thread, key, flags))?;
        let id = self.next.get();
        self.next.set((id + 1) & i32::MAX.unsigned_abs());
        self.objects.borrow_mut().insert(id, Rc::new(object));
        Ok(id.into())
    }

    /// Takes one out.
    pub fn remove(&self, id: u32) {
        let object = self.objects.borrow_mut().remove(&id);
        drop(object);
    }
}

/// Seconds since 1970.
fn seconds() -> u64 {
    platform::wall() / 1_000_000_000
}

/// All that is kept of it.
#[derive(Debug, Default)]
pub struct State {
    /// Segments of shared memory.
    pub segments: Table<shm::Segment>,
    /// Sets of semaphores.
    pub sets: Table<sem::Set>,
}
