//! Making names, and taking them away: `mknod(2)`, `mkdir(2)`, `symlink(2)`, `link(2)`, `unlink(2)`, `rmdir(2)`, `rename(2)`.

use alloc::rc::Rc;

use super::open::ownership;
use super::permission::{permit_change, permit_removal};
use super::walk::{Found, Last, find};
use super::watch::{self, Mask};
use super::{Dentry, Kind, NewInode, Place, Walk};
use crate::process::Thread;
use crate::{Errno, Result};

/// Finds where a name is to be made, which must not be there.
fn free(thread: &Rc<Thread>, folder: i32, path: &[u8], of_folder: bool) -> Result<Found> {
    let found = find(thread, folder, path, Walk::LAST)?;
    if found.dentry.is_some() {
        return Err(Errno::EEXIST);
    }
    if found.slash && !of_folder {
        return Err(Errno::ENOENT);
    }
    permit_change(thread, &found.parent)?;
    if found.parent.gone.get() {
        return Err(Errno::ENOENT);
    }
    Ok(found)
}

fn make(thread: &Rc<Thread>, found: &Found, new: &NewInode) -> Result<Place> {
    let (uid, gid, extra) = ownership(thread, &found.parent.metadata()?, new.kind);
    let new = NewInode {
        mode: new.mode | extra,
        uid,
        gid,
        ..new.clone()
    };
    let inode = found.parent.inode.create(&found.name, &new)?;
    let dentry = found.parent.adopt(inode, &found.name)?;
    let mask = if new.kind == Kind::Directory {
        Mask::CREATE | Mask::ISDIR
    } else {
        Mask::CREATE
    };
    watch::tell_folder(&found.parent, &found.name, mask, 0);
    Ok(Place::of(dentry))
}

/// `mknodat(2)` and `mkdirat(2)`, and what `bind(2)` does for a socket with a path: gives the new name. The mode is that before the umask.
///
/// # Errors
/// Those of `mknodat(2)`.
pub fn make_node(
    thread: &Rc<Thread>,
    folder: i32,
    path: &[u8],
    kind: Kind,
    mode: u32,
    rdev: u64,
) -> Result<Place> {
    let found = free(thread, folder, path, kind == Kind::Directory)?;
    let superuser = thread.process.credentials.borrow().fsuid == 0;
    if matches!(kind, Kind::Character | Kind::Block) && !superuser {
        return Err(Errno::EPERM);
    }
    let new = NewInode {
        kind,
        mode: mode & 0o7777 & !thread.process.fs.umask.get(),
        uid: 0,
        gid: 0,
        rdev,
        target: &[],
    };
    make(thread, &found, &new)
}

/// `symlinkat(2)`.
///
/// # Errors
/// Those of `symlinkat(2)`.
pub fn make_link(thread: &Rc<Thread>, target: &[u8], folder: i32, path: &[u8]) -> Result {
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    let found = free(thread, folder, path, false)?;
    let new = NewInode {
        kind: Kind::Link,
        mode: 0o777,
        uid: 0,
        gid: 0,
        rdev: 0,
        target,
    };
    make(thread, &found, &new).map(|_| ())
}

/// `linkat(2)`: another name for what is at a place.
///
/// # Errors
/// Those of `linkat(2)`.
pub fn link(thread: &Rc<Thread>, old: &Place, folder: i32, path: &[u8]) -> Result {
    let found = free(thread, folder, path, false)?;
    if !Rc::ptr_eq(&old.dentry.mount, &found.parent.mount)
        && !Rc::ptr_eq(old.mount(), &found.parent.mount)
    {
        return Err(Errno::EXDEV);
    }
    if old.dentry.kind == Kind::Directory {
        return Err(Errno::EPERM);
    }
    let has_none = old.dentry.gone.get() && old.inode.metadata()?.links == 0;
    if has_none && !old.dentry.nameable.get() {
        return Err(Errno::ENOENT);
    }
    found.parent.inode.link(&found.name, &old.inode)?;
    old.dentry.nameable.set(false);
    watch::tell(&old.inode, None, Mask::ATTRIB);
    watch::tell_folder(&found.parent, &found.name, Mask::CREATE, 0);
    Ok(())
}

/// `unlinkat(2)`: takes a name away, with `is_folder` an empty folder's.
///
/// # Errors
/// Those of `unlink(2)` and `rmdir(2)`.
pub fn remove(thread: &Rc<Thread>, folder: i32, path: &[u8], is_folder: bool) -> Result {
    let found = find(thread, folder, path, Walk::LAST)?;
    match (found.last, is_folder) {
        (Last::Name, _) => {}
        (Last::Nothing, true) => return Err(Errno::EBUSY),
        (Last::Dot, true) => return Err(Errno::EINVAL),
        (Last::DotDot, true) => return Err(Errno::ENOTEMPTY),
        (_, false) => return Err(Errno::EISDIR),
    }
    let victim = found.dentry.clone().ok_or(Errno::ENOENT)?;
    if victim.parent.borrow().is_none() || victim.covered.borrow().is_some() {
        return Err(Errno::EBUSY);
    }
    permit_removal(thread, &found.parent, &victim)?;
    if is_folder && victim.kind != Kind::Directory {
        return Err(Errno::ENOTDIR);
    }
    if !is_folder && victim.kind == Kind::Directory {
        return Err(Errno::EISDIR);
    }
    if found.slash && !is_folder {
        return Err(Errno::ENOTDIR);
    }
    found.parent.inode.unlink(&found.name, is_folder)?;
    found.parent.forget(&found.name, Some(&victim));
    if !is_folder {
        watch::tell(&victim.inode, None, Mask::ATTRIB);
    }
    watch::unlinked(&victim, &found.parent);
    let (folder, name) = (found.parent.clone(), found.name.clone());
    drop((found, victim));
    let mask = if is_folder {
        Mask::DELETE | Mask::ISDIR
    } else {
        Mask::DELETE
    };
    watch::tell_folder(&folder, &name, mask, 0);
    Ok(())
}

/// `renameat2(2)`.
///
/// # Errors
/// Those of `rename(2)`.
#[allow(
    clippy::too_many_lines,
    reason = "one rule of rename(2) after the other"
)]
pub fn exchange_or_rename(
    thread: &Rc<Thread>,
    (old_folder, old_path): (i32, &[u8]),
    (new_folder, new_path): (i32, &[u8]),
    flags: u32,
) -> Result {
    const NOREPLACE: u32 = 1;
    const EXCHANGE: u32 = 2;
    const WHITEOUT: u32 = 4;
    if flags & !(NOREPLACE | EXCHANGE | WHITEOUT) != 0
        || flags & EXCHANGE != 0 && flags & (NOREPLACE | WHITEOUT) != 0
    {
        return Err(Errno::EINVAL);
    }
    let old = find(thread, old_folder, old_path, Walk::LAST)?;
    let new = find(thread, new_folder, new_path, Walk::LAST)?;
    if !Rc::ptr_eq(&old.parent.mount, &new.parent.mount) {
        return Err(Errno::EXDEV);
    }
    if old.last != Last::Name {
        return Err(Errno::EBUSY);
    }
    if new.last != Last::Name {
        return Err(if flags & NOREPLACE != 0 {
            Errno::EEXIST
        } else {
            Errno::EBUSY
        });
    }
    let moved = old.dentry.clone().ok_or(Errno::ENOENT)?;
    let is_folder = moved.kind == Kind::Directory;
    let victim = new.dentry.clone();
    if flags & NOREPLACE != 0 && victim.is_some() {
        return Err(Errno::EEXIST);
    }
    if flags & EXCHANGE != 0 && victim.is_none() {
        return Err(Errno::ENOENT);
    }
    if (old.slash && !is_folder)
        || (new.slash
            && !is_folder
            && (flags & EXCHANGE == 0
                || victim.as_ref().is_some_and(|v| v.kind != Kind::Directory)))
    {
        return Err(Errno::ENOTDIR);
    }
    // Not into itself.
    if is_folder && new.parent.is_below(&moved) {
        return Err(Errno::EINVAL);
    }
    if let Some(victim) = &victim
        && old.parent.is_below(victim)
    {
        return Err(if flags & EXCHANGE != 0 {
            Errno::EINVAL
        } else {
            Errno::ENOTEMPTY
        });
    }
    let busy =
        |dentry: &Rc<Dentry>| dentry.parent.borrow().is_none() || dentry.covered.borrow().is_some();
    permit_removal(thread, &old.parent, &moved)?;
    match &victim {
        Some(victim) => permit_removal(thread, &new.parent, victim)?,
        None => permit_change(thread, &new.parent)?,
    }
    if busy(&moved) || victim.as_ref().is_some_and(busy) {
        return Err(Errno::EBUSY);
    }
    if new.parent.gone.get() {
        return Err(Errno::ENOENT);
    }
    let same = match &victim {
        Some(victim) => {
            let (a, b) = (moved.metadata()?, victim.metadata()?);
            (a.device, a.inode) == (b.device, b.inode)
        }
        None => false,
    };
    old.parent
        .inode
        .rename(&old.name, &new.parent.inode, &new.name, flags)?;
    if same {
        return Ok(());
    }
    match (&victim, flags & EXCHANGE != 0) {
        (Some(victim), true) => {
            old.parent.moved(&moved, &new.parent, &new.name);
            // Their names were exchanged: the other one's entry was replaced already.
            *victim.name.borrow_mut() = old.name.as_slice().into();
            let above = victim.parent.borrow_mut().replace(old.parent.clone());
            drop(above);
            if old.parent.inode.steady() {
                let replaced = old
                    .parent
                    .children
                    .borrow_mut()
                    .insert(old.name.as_slice().into(), victim.clone());
                drop(replaced);
            }
        }
        (victim, _) => {
            if let Some(victim) = victim {
                new.parent.forget(&new.name, Some(victim));
            }
            old.parent.moved(&moved, &new.parent, &new.name);
        }
    }
    let exchanged = flags & EXCHANGE != 0;
    if watch::any() {
        let tell_move = |child: &Dentry, (from, name): (&Rc<Dentry>, &[u8]), to: &Found| {
            let dir = match child.kind {
                Kind::Directory => Mask::ISDIR,
                _ => Mask::empty(),
            };
            let cookie = watch::cookie();
            watch::tell_folder(from, name, Mask::MOVED_FROM | dir, cookie);
            watch::tell_folder(&to.parent, &to.name, Mask::MOVED_TO | dir, cookie);
        };
        tell_move(&moved, (&old.parent, &old.name), &new);
        if let (Some(victim), false) = (&victim, exchanged) {
            watch::tell(&victim.inode, None, Mask::ATTRIB);
        }
        watch::tell_moved(&moved.inode);
        if let (Some(victim), true) = (&victim, exchanged) {
            tell_move(victim, (&new.parent, &new.name), &old);
            watch::tell_moved(&victim.inode);
        }
    }
    if let (Some(victim), false) = (&victim, exchanged) {
        watch::unlinked(victim, &new.parent);
    }
    Ok(())
}
