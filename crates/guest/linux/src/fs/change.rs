//! Changing what inodes are like: `chmod(2)`, `chown(2)`, `truncate(2)`.

use alloc::rc::Rc;

use super::permission::owns;
use super::watch::{self, Mask};
use super::{Changes, Inode, Kind, Place, content};
use crate::process::Thread;
use crate::{Errno, Result};

const SET_USER: u32 = 0o4000;
const SET_GROUP: u32 = 0o2000;

/// Changes an inode; who may is not checked.
///
/// # Errors
/// `EROFS`, `EPERM` for what cannot be changed.
pub fn change(place: &Place, changes: Changes) -> Result {
    if place.mount().read_only.get() {
        return Err(Errno::EROFS);
    }
    place.inode.change(changes)?;
    watch::tell(&place.inode, Some(&place.dentry), Mask::ATTRIB);
    Ok(())
}

/// `chmod(2)`.
///
/// # Errors
/// `EPERM`, `EROFS`, `EOPNOTSUPP` for links.
pub fn change_mode(thread: &Rc<Thread>, place: &Place, mode: u32) -> Result {
    let of = place.metadata()?;
    if of.kind == Kind::Link {
        return Err(Errno::EOPNOTSUPP);
    }
    if !owns(thread, &of) {
        return Err(Errno::EPERM);
    }
    let mut mode = mode & 0o7777;
    {
        let credentials = thread.process.credentials.borrow();
        let in_group = credentials.fsgid == of.gid || credentials.groups.contains(&of.gid);
        if credentials.fsuid != 0 && !in_group {
            mode &= !SET_GROUP;
        }
    }
    change(
        place,
        Changes {
            mode: Some(mode),
            ..Changes::default()
        },
    )
}

/// `chown(2)`; `u32::MAX` leaves a number as it is.
///
/// # Errors
/// `EPERM`, `EROFS`.
pub fn change_owner(thread: &Rc<Thread>, place: &Place, uid: u32, gid: u32) -> Result {
    let given = |number: u32| (number != u32::MAX).then_some(number);
    let (uid, gid) = (given(uid), given(gid));
    let of = place.metadata()?;
    {
        let credentials = thread.process.credentials.borrow();
        if credentials.fsuid != 0 {
            let own = credentials.fsuid == of.uid;
            let group_fits = |gid: u32| {
                gid == of.gid || gid == credentials.fsgid || credentials.groups.contains(&gid)
            };
            if !own || uid.is_some_and(|uid| uid != of.uid) || !gid.is_none_or(group_fits) {
                return Err(Errno::EPERM);
            }
        }
    }
    // Whose permissions a program lends is not for another to keep (`chown(2)`).
    let lends = of.kind == Kind::Regular && of.mode & (SET_USER | SET_GROUP) != 0;
    let mode = lends.then(|| {
        let mut mode = of.mode & !SET_USER;
        if mode & 0o10 != 0 {
            mode &= !SET_GROUP;
        }
        mode
    });
    change(
        place,
        Changes {
            mode,
            uid,
            gid,
            ..Changes::default()
        },
    )
}

/// `truncate(2)`; who may is not checked.
///
/// # Errors
/// `EFBIG`, `EROFS`, `EPERM` for sealed files.
pub fn truncate(thread: &Rc<Thread>, place: &Place, size: u64) -> Result {
    if place.mount().read_only.get() {
        return Err(Errno::EROFS);
    }
    if size > place.metadata()?.size {
        content::limit(thread, size - 1)?;
    }
    place.inode.resize(size)?;
    watch::tell(&place.inode, Some(&place.dentry), Mask::MODIFY);
    Ok(())
}

/// `fallocate(2)`.
///
/// # Errors
/// `EFBIG` for a file that would grow beyond `RLIMIT_FSIZE`, and those of `fallocate(2)`.
pub fn allocate(
    thread: &Rc<Thread>,
    inode: &Rc<dyn Inode>,
    mode: u32,
    offset: u64,
    len: u64,
) -> Result {
    const KEEP_SIZE: u32 = 1;
    let end = offset.saturating_add(len);
    if mode & KEEP_SIZE == 0 && end > inode.metadata()?.size {
        content::limit(thread, end - 1)?;
    }
    inode.allocate(mode, offset, len)
}

/// `setxattr(2)`, or with `None` `removexattr(2)`; who may is not checked.
///
/// # Errors
/// Those of `setxattr(2)`.
pub fn change_xattr(place: &Place, name: &[u8], value: Option<&[u8]>, flags: u32) -> Result {
    place.inode.set_xattr(name, value, flags)?;
    watch::tell(&place.inode, Some(&place.dentry), Mask::ATTRIB);
    Ok(())
}
