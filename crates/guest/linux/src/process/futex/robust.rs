//! Robust locks (`set_robust_list(2)`): a thread that ends leaves word in the locks that it still has.

use super::{ANY, OWNER_DIED, TID_MASK, WAITERS, update, wake};
use crate::Result;
use crate::process::Thread;
use crate::user::UserAddr;

/// Bytes of `struct robust_list_head`.
pub const HEAD_LEN: u64 = 24;
/// `ROBUST_LIST_LIMIT`: a list may be a ring without its head.
const MOST: usize = 2048;

/// Marks the locks of a thread that ends. What cannot be read ends the walk.
pub(crate) fn walk(thread: &Thread) {
    let head = thread.robust_list.replace(0);
    if head != 0 {
        let _ = try_walk(thread, head);
    }
}

fn try_walk(thread: &Thread, head: u64) -> Result {
    let [first, offset, pending]: [u64; 3] = UserAddr(head).read()?;
    let mut entry = first;
    for _ in 0..MOST {
        let (at, is_pi) = split(entry);
        if at == head {
            break;
        }
        let next = UserAddr(at).read::<u64>();
        if entry != pending {
            mark(thread, at.wrapping_add(offset), is_pi, false)?;
        }
        entry = next?;
    }
    let (at, is_pi) = split(pending);
    if at != 0 {
        mark(thread, at.wrapping_add(offset), is_pi, true)?;
    }
    Ok(())
}

/// The lowest bit of an entry says that the lock is one with an owner in the kernel.
fn split(entry: u64) -> (u64, bool) {
    (entry & !1, entry & 1 != 0)
}

fn mark(thread: &Thread, at: u64, is_pi: bool, pending: bool) -> Result {
    if !at.is_multiple_of(4) {
        return Ok(());
    }
    let word: u32 = UserAddr(at).read()?;
    let owner = word & TID_MASK;
    if pending && !is_pi && owner == 0 {
        // It was just releasing the lock: the one whom it would have woken next must not wait for ever.
        wake(thread, at, 1, ANY);
        return Ok(());
    }
    if owner != thread.tid {
        return Ok(());
    }
    update(at, |old| Ok(old & WAITERS | OWNER_DIED))?;
    if !is_pi && word & WAITERS != 0 {
        wake(thread, at, 1, ANY);
    }
    Ok(())
}
