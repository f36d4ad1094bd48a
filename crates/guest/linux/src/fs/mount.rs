//! Mounting, and what is mounted at the start.

use alloc::rc::Rc;
use alloc::string::String;
use core::cell::{Cell, RefCell};

use kiln_fs::erofs;

use super::tmpfs::Tmpfs;
use super::{Dentry, Inode, Kind, Mount, NewInode, Place};
use crate::platform;
use crate::{Errno, Result};

const PAGE: u64 = 4096;

/// Pages that a file system in memory may have: half of the machine's memory, as Linux has it.
pub(super) fn default_limit() -> u64 {
    platform::memory().0 / 2 / PAGE
}

/// Where memory files live.
pub fn memory_files() -> Rc<Tmpfs> {
    let kernel = crate::kernel();
    let memory = kernel
        .vfs
        .memory
        .get_or_init(|| Tmpfs::without_names(default_limit()));
    memory.clone()
}

/// The name that a path from the root of all leads to; links are not followed, and no permissions are checked.
fn plain(path: &[u8]) -> Result<Rc<Dentry>> {
    let root = crate::kernel().vfs.root.borrow().clone();
    let mut here = root.ok_or(Errno::ENOENT)?.top();
    for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
        here = here.child(name)?.top();
    }
    Ok(here)
}

/// Mounts a file system: `root` covers what is at `path`, a path from the root of all without links. Folders that are missing there are made if
/// the file system allows it.
///
/// # Errors
/// `ENOENT`, `ENOTDIR`.
pub fn mount(path: &[u8], root: Rc<dyn Inode>, kind: &str, source: &[u8]) -> Result {
    let is_root = path.iter().all(|&b| b == b'/');
    let at = if is_root && crate::kernel().vfs.root.borrow().is_none() {
        None
    } else {
        make_folders(path)?;
        Some(plain(path)?)
    };
    mount_on(at, root, kind, source, 0).map(|_| ())
}

/// Mounts a file system on a name.
pub(super) fn mount_on(
    at: Option<Rc<Dentry>>,
    root: Rc<dyn Inode>,
    kind: &str,
    source: &[u8],
    flags: u64,
) -> Result<Rc<Mount>> {
    const ST_RDONLY: u64 = 1;
    let kernel = crate::kernel();
    let vfs = &kernel.vfs;
    if let Some(at) = &at
        && (at.kind == Kind::Directory) != (root.metadata()?.kind == Kind::Directory)
    {
        return Err(Errno::ENOTDIR);
    }
    vfs.last_mount.set(vfs.last_mount.get() + 1);
    let mount = Rc::new(Mount {
        id: vfs.last_mount.get(),
        kind: kind.into(),
        source: source.into(),
        options: RefCell::new(String::new()),
        read_only: Cell::new(flags & ST_RDONLY != 0),
        flags: Cell::new(flags & !ST_RDONLY),
        at: RefCell::new(at.clone()),
        since: platform::wall(),
    });
    let top = Dentry::new(root, mount.clone(), None, b"")?;
    match at {
        None => {
            let old = vfs.root.borrow_mut().replace(top);
            drop(old);
        }
        Some(at) => {
            // Where names are not kept this one is, and those that lead to it: it must be found again.
            let mut kept = at.clone();
            loop {
                let parent = kept.parent.borrow().clone();
                let Some(parent) = parent else {
                    break;
                };
                let name = kept.name.borrow().clone();
                let old = parent.children.borrow_mut().insert(name, kept);
                drop(old);
                kept = parent;
            }
            let old = at.covered.borrow_mut().replace(top);
            drop(old);
        }
    }
    vfs.mounts.borrow_mut().push(mount.clone());
    Ok(mount)
}

/// `mount(2)`, for the superuser.
///
/// # Errors
/// `ENODEV` for kinds of file systems that there are not, `EINVAL`.
pub fn mount_call(at: &Place, source: &[u8], kind: &[u8], flags: u64, options: &[u8]) -> Result {
    const MS_REMOUNT: u64 = 0x20;
    const MS_BIND: u64 = 0x1000;
    const MS_MOVE: u64 = 0x2000;
    /// `MS_UNBINDABLE`, `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`
    const MS_PROPAGATION: u64 = 0xf << 17;
    /// `MS_RDONLY`, `MS_NOSUID`, `MS_NODEV`, `MS_NOEXEC`
    const KEPT: u64 = 0xf;
    if flags & MS_PROPAGATION != 0 {
        // There is one name space: nothing to share it with.
        return Ok(());
    }
    if flags & MS_REMOUNT != 0 {
        if !at.is_mount_root() {
            return Err(Errno::EINVAL);
        }
        at.mount().read_only.set(flags & 1 != 0);
        at.mount().flags.set(flags & KEPT & !1);
        return Ok(());
    }
    if flags & (MS_BIND | MS_MOVE) != 0 {
        return Err(Errno::EINVAL);
    }
    let root = match kind {
        b"tmpfs" | b"ramfs" => memory(options)?,
        _ => return Err(Errno::ENODEV),
    };
    let kind = if kind == b"ramfs" { "ramfs" } else { "tmpfs" };
    let mount = mount_on(Some(at.dentry.clone()), root, kind, source, flags & KEPT)?;
    *mount.options.borrow_mut() = String::from_utf8_lossy(options).into_owned();
    Ok(())
}

/// A file system in memory with the options of `tmpfs(5)`; those that are not known do not matter.
fn memory(options: &[u8]) -> Result<Rc<dyn Inode>> {
    let (mut limit, mut mode) = (default_limit(), 0o1777);
    for option in options.split(|&b| b == b',') {
        let text = core::str::from_utf8(option).map_err(|_| Errno::EINVAL)?;
        match text.split_once('=') {
            Some(("mode", value)) => {
                mode = u32::from_str_radix(value, 8).map_err(|_| Errno::EINVAL)? & 0o7777;
            }
            Some(("size", value)) => {
                let (digits, unit) = match value.strip_suffix(['k', 'K']) {
                    Some(digits) => (digits, 1 << 10),
                    None => match value.strip_suffix(['m', 'M']) {
                        Some(digits) => (digits, 1 << 20),
                        None => match value.strip_suffix(['g', 'G']) {
                            Some(digits) => (digits, 1 << 30),
                            None => (value, 1),
                        },
                    },
                };
                if let Ok(number) = digits.parse::<u64>() {
                    limit = number.saturating_mul(unit).div_ceil(PAGE);
                } else if !value.ends_with('%') {
                    return Err(Errno::EINVAL);
                }
            }
            _ => {}
        }
    }
    Ok(Tmpfs::empty(limit, mode))
}

/// `umount2(2)`: takes away what is mounted at a place.
///
/// # Errors
/// `EINVAL` if it is not the top of a mounted file system, `EBUSY` if others are mounted in it.
pub fn unmount(place: &Place) -> Result {
    let mount = place.mount().clone();
    let at = mount.at.borrow().clone().ok_or(Errno::EINVAL)?;
    if place.dentry.parent.borrow().is_some() {
        return Err(Errno::EINVAL);
    }
    let kernel = crate::kernel();
    let mounts = kernel.vfs.mounts();
    let inside = |other: &Rc<Mount>| {
        let at = other.at.borrow();
        at.as_ref().is_some_and(|at| Rc::ptr_eq(&at.mount, &mount))
    };
    if mounts.iter().any(inside) {
        return Err(Errno::EBUSY);
    }
    let top = at.covered.borrow_mut().take();
    if let Some(top) = top {
        forget_all(top);
    }
    unkeep(&at);
    kernel
        .vfs
        .mounts
        .borrow_mut()
        .retain(|other| !Rc::ptr_eq(other, &mount));
    Ok(())
}

/// Lets go of a name that was kept for what was mounted at it or below, where names are not kept else.
fn unkeep(at: &Rc<Dentry>) {
    let mut kept = at.clone();
    while !kept.leads_to_mounts() {
        let parent = kept.parent.borrow().clone();
        let Some(parent) = parent.filter(|parent| !parent.inode.steady()) else {
            return;
        };
        let name = kept.name.borrow().clone();
        let old = parent.children.borrow_mut().remove(&name);
        drop(old);
        kept = parent;
    }
}

/// Parents and children know each other: lets go of all names of a file system.
fn forget_all(top: Rc<Dentry>) {
    let mut left = alloc::vec![top];
    while let Some(dentry) = left.pop() {
        let children = core::mem::take(&mut *dentry.children.borrow_mut());
        left.extend(children.into_values());
    }
}

/// Makes the folders of a path that are missing.
fn make_folders(path: &[u8]) -> Result {
    let root = crate::kernel().vfs.root.borrow().clone();
    let mut here = root.ok_or(Errno::ENOENT)?.top();
    for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
        let child = match here.child(name) {
            Err(Errno::ENOENT) => {
                let inode = here
                    .inode
                    .create(name, &root_owned(Kind::Directory, 0o755))?;
                here.adopt(inode, name)
            }
            other => other,
        };
        here = child?.top();
    }
    Ok(())
}

fn root_owned(kind: Kind, mode: u32) -> NewInode<'static> {
    NewInode {
        kind,
        mode,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: &[],
    }
}

/// Makes a file at the start if it is not there.
fn make_file(folder: &[u8], name: &[u8], content: &[u8]) -> Result {
    make_folders(folder)?;
    let folder = plain(folder)?;
    match folder.child(name) {
        Err(Errno::ENOENT) => {
            let inode = folder
                .inode
                .create(name, &root_owned(Kind::Regular, 0o644))?;
            inode.write_at(0, &mut crate::io::Source::kernel(content))?;
            Ok(())
        }
        other => other.map(|_| ()),
    }
}

/// Mounts everything that is there at the start.
///
/// # Errors
/// What a damaged root image answers.
pub fn start() -> Result {
    let root = match platform::root_image() {
        Some(bytes) => {
            let image = erofs::Image::new(bytes).map_err(|_| Errno::EUCLEAN)?;
            Tmpfs::over(image, default_limit())?
        }
        None => Tmpfs::empty(default_limit(), 0o755),
    };
    mount(b"/", root, "overlay", b"root")?;
    crate::dev::mount()?;
    crate::proc::mount()?;
    mount(
        b"/dev/shm",
        Tmpfs::empty(default_limit(), 0o1777),
        "tmpfs",
        b"tmpfs",
    )?;
    // Not file systems of their own: they would hide what the root image has there, such as the program.
    for (path, mode) in [(&b"/tmp"[..], 0o1777), (b"/run", 0o755)] {
        make_folders(path)?;
        plain(path)?.inode.change(super::Changes {
            mode: Some(mode),
            ..super::Changes::default()
        })?;
    }
    let mut hostname = crate::kernel().hostname.borrow().clone();
    hostname.push(b'\n');
    make_file(b"/etc", b"hostname", &hostname)?;
    make_file(
        b"/etc",
        b"hosts",
        b"127.0.0.1 localhost\n::1 localhost ip6-localhost\n",
    )?;
    Ok(())
}
