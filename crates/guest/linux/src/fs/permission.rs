//! Who may do what with an inode (`path_resolution(7)`, "Permissions").

use alloc::rc::Rc;

use super::{Dentry, Inode, Kind, Metadata};
use crate::process::{Credentials, Thread};
use crate::{Errno, Result};

/// Read.
pub const READ: u32 = 4;
/// Write.
pub const WRITE: u32 = 2;
/// Execute a file, or search a folder.
pub const EXECUTE: u32 = 1;

/// Checks that a thread may do something with an inode: 4 read, 2 write, 1 execute or search.
///
/// # Errors
/// `EACCES`.
pub fn permit(thread: &Rc<Thread>, inode: &Rc<dyn Inode>, wanted: u32) -> Result {
    permit_by(thread, wanted, || inode.metadata())
}

/// The same of what was just found at a name.
pub(super) fn permit_at(thread: &Rc<Thread>, at: &Rc<Dentry>, wanted: u32) -> Result {
    permit_by(thread, wanted, || at.metadata())
}

fn permit_by(
    thread: &Rc<Thread>,
    wanted: u32,
    metadata: impl FnOnce() -> Result<Metadata>,
) -> Result {
    if is_superuser(thread) && wanted & EXECUTE == 0 {
        return Ok(());
    }
    // Before anything is borrowed: a file system may let others run until it knows.
    let of = metadata()?;
    let credentials = thread.process.credentials.borrow();
    let who = (credentials.fsuid, credentials.fsgid);
    check(&of, who, &credentials, wanted)
}

fn is_superuser(thread: &Rc<Thread>) -> bool {
    thread.process.credentials.borrow().fsuid == 0
}

/// The same for other numbers than those that count for files (`access(2)`).
pub(crate) fn check(
    of: &Metadata,
    (uid, gid): (u32, u32),
    credentials: &Credentials,
    wanted: u32,
) -> Result {
    if uid == 0 {
        // What nobody may execute the superuser may not either.
        let runs = of.kind == Kind::Directory || of.mode & 0o111 != 0;
        return if wanted & EXECUTE == 0 || runs {
            Ok(())
        } else {
            Err(Errno::EACCES)
        };
    }
    let granted = if uid == of.uid {
        of.mode >> 6
    } else if gid == of.gid || credentials.groups.contains(&of.gid) {
        of.mode >> 3
    } else {
        of.mode
    };
    if granted & wanted == wanted {
        Ok(())
    } else {
        Err(Errno::EACCES)
    }
}

/// True if the thread owns the inode, or is the superuser.
pub(crate) fn owns(thread: &Rc<Thread>, of: &Metadata) -> bool {
    let fsuid = thread.process.credentials.borrow().fsuid;
    fsuid == 0 || fsuid == of.uid
}

/// Checks that names may be made or taken away in a folder.
pub(super) fn permit_change(thread: &Rc<Thread>, folder: &Rc<Dentry>) -> Result {
    if folder.kind != Kind::Directory {
        return Err(Errno::ENOTDIR);
    }
    // A folder can be searched by the superuser whatever its mode is.
    let wanted = if is_superuser(thread) {
        WRITE
    } else {
        WRITE | EXECUTE
    };
    permit_at(thread, folder, wanted)?;
    if folder.mount.read_only.get() {
        return Err(Errno::EROFS);
    }
    Ok(())
}

/// Checks that a name may be taken away: in a folder with the sticky bit only by the owner of one of both.
pub(super) fn permit_removal(
    thread: &Rc<Thread>,
    folder: &Rc<Dentry>,
    victim: &Rc<Dentry>,
) -> Result {
    permit_change(thread, folder)?;
    if is_superuser(thread) {
        return Ok(());
    }
    let of = folder.metadata()?;
    if of.mode & 0o1000 != 0 && !owns(thread, &of) && !owns(thread, &victim.metadata()?) {
        return Err(Errno::EPERM);
    }
    Ok(())
}
