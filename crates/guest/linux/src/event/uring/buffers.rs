//! Buffers that the program leaves here for reads to choose from (`IOSQE_BUFFER_SELECT`): given one by one with
//! `IORING_OP_PROVIDE_BUFFERS`, or in a ring of the program's own memory (`IORING_REGISTER_PBUF_RING`).
//!
//! A buffer counts as taken only once something lies in it: a read that must wait takes none meanwhile.

use alloc::collections::VecDeque;

use super::Uring;
use super::sqe::Sqe;
use crate::user::{PAGE, UserAddr};
use crate::{Errno, Result};

/// The most buffers in a group, and the entries of a ring stay below this as well.
const MOST: u64 = 1 << 16;
/// Where the tail lies in a ring: in what its first entry has no use for.
const TAIL_AT: u64 = 14;
/// `sizeof(struct io_uring_buf)`
const ENTRY: u64 = 16;

/// A buffer: `struct io_uring_buf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Buffer {
    pub address: u64,
    pub len: u32,
    pub id: u16,
}

/// What lies under one number.
#[derive(Debug)]
pub(super) enum Group {
    /// Given one by one.
    List(VecDeque<Buffer>),
    /// A ring at an address of the program, with so many entries, of which so many have been taken.
    Ring { at: u64, entries: u16, head: u16 },
}

impl Uring {
    /// The buffer that the next read of this group would get.
    pub(super) fn next_buffer(&self, group: u16) -> Result<Buffer> {
        match self.groups.borrow().get(&group) {
            Some(Group::List(list)) => list.front().copied().ok_or(Errno::ENOBUFS),
            Some(&Group::Ring { at, entries, head }) => {
                let tail: u16 = UserAddr(at).add(TAIL_AT).read()?;
                if tail == head {
                    return Err(Errno::ENOBUFS);
                }
                let entry = UserAddr(at).add(u64::from(head & (entries - 1)) * ENTRY);
                let address: u64 = entry.read()?;
                let len: u32 = entry.add(8).read()?;
                let id: u16 = entry.add(12).read()?;
                Ok(Buffer { address, len, id })
            }
            None => Err(Errno::ENOBUFS),
        }
    }

    /// That buffer has been used.
    pub(super) fn take_buffer(&self, group: u16) {
        match self.groups.borrow_mut().get_mut(&group) {
            Some(Group::List(list)) => {
                list.pop_front();
            }
            Some(Group::Ring { head, .. }) => *head = head.wrapping_add(1),
            None => {}
        }
    }

    /// `IORING_OP_PROVIDE_BUFFERS`: `fd` buffers of `len` bytes each, one behind another, with numbers from `off` on.
    pub(super) fn provide_buffers(&self, sqe: &Sqe) -> Result<u64> {
        let count = u64::try_from(sqe.fd).map_err(|_| Errno::E2BIG)?;
        if count == 0 || count >= MOST {
            return Err(Errno::E2BIG);
        }
        if sqe.off >= MOST {
            return Err(Errno::E2BIG);
        }
        if sqe.len == 0 || sqe.off + count > MOST {
            return Err(Errno::EINVAL);
        }
        let all = u64::from(sqe.len) * count;
        let end = sqe.addr.checked_add(all).ok_or(Errno::EOVERFLOW)?;
        if end > crate::user::USER_END {
            return Err(Errno::EFAULT);
        }
        let mut groups = self.groups.borrow_mut();
        let empty = || Group::List(VecDeque::new());
        let Group::List(list) = groups.entry(sqe.buf_index).or_insert_with(empty) else {
            return Err(Errno::EINVAL);
        };
        if list.len() as u64 + count > MOST {
            return Err(Errno::ENOMEM);
        }
        for number in 0..count {
            list.push_back(Buffer {
                address: sqe.addr + number * u64::from(sqe.len),
                len: sqe.len,
                id: (sqe.off + number) as u16,
            });
        }
        Ok(0)
    }

    /// `IORING_OP_REMOVE_BUFFERS`: up to `fd` of them; returns how many.
    pub(super) fn remove_buffers(&self, sqe: &Sqe) -> Result<u64> {
        let count = usize::try_from(sqe.fd).map_err(|_| Errno::EINVAL)?;
        if count == 0 || count as u64 >= MOST {
            return Err(Errno::EINVAL);
        }
        match self.groups.borrow_mut().get_mut(&sqe.buf_index) {
            Some(Group::List(list)) => {
                let gone = list.drain(..count.min(list.len())).count();
                Ok(gone as u64)
            }
            Some(Group::Ring { .. }) => Err(Errno::EINVAL),
            None => Err(Errno::ENOENT),
        }
    }

    /// `IORING_REGISTER_PBUF_RING`: `struct io_uring_buf_reg`.
    pub(super) fn register_ring(&self, at: UserAddr, count: u32) -> Result<u64> {
        let (ring, entries, group) = registration(at, count)?;
        if ring == 0 {
            return Err(Errno::EFAULT);
        }
        let entries = u16::try_from(entries).map_err(|_| Errno::EINVAL)?;
        if !ring.is_multiple_of(PAGE) || !entries.is_power_of_two() {
            return Err(Errno::EINVAL);
        }
        // The program must be able to read it.
        let _: u16 = UserAddr(ring).add(TAIL_AT).read()?;
        let mut groups = self.groups.borrow_mut();
        match groups.get(&group) {
            Some(Group::Ring { .. }) => return Err(Errno::EEXIST),
            Some(Group::List(list)) if !list.is_empty() => return Err(Errno::EEXIST),
            _ => {}
        }
        let ring = Group::Ring {
            at: ring,
            entries,
            head: 0,
        };
        groups.insert(group, ring);
        Ok(0)
    }

    /// `IORING_UNREGISTER_PBUF_RING`
    pub(super) fn unregister_ring(&self, at: UserAddr, count: u32) -> Result<u64> {
        let (_, _, group) = registration(at, count)?;
        let mut groups = self.groups.borrow_mut();
        match groups.get(&group) {
            Some(Group::Ring { .. }) => groups.remove(&group),
            Some(Group::List(_)) => return Err(Errno::EINVAL),
            None => return Err(Errno::ENOENT),
        };
        Ok(0)
    }
}

/// The ring's address, its entries and the group's number. Memory of the kernel's (`IOU_PBUF_RING_MMAP`) there is none.
fn registration(at: UserAddr, count: u32) -> Result<(u64, u32, u16)> {
    if count != 1 {
        return Err(Errno::EINVAL);
    }
    let ring: u64 = at.read()?;
    let entries: u32 = at.add(8).read()?;
    let [group, flags]: [u16; 2] = at.add(12).read()?;
    let reserved: [u64; 3] = at.add(16).read()?;
    if flags != 0 || reserved != [0; 3] {
        return Err(Errno::EINVAL);
    }
    Ok((ring, entries, group))
}
