//! Folders of the host.
//!
//! Each is a device that answers 9P2000.L ([`kiln_ninep`]). Calls with descriptors and names, and the program's own touching of mapped pages,
//! let other threads run until the reply comes; for everything else (locks, copies to and from mapped pages, programs that are started)
//! the machine stands still. What the host has is not remembered here: others may change it at any time. Only inodes are kept as long as somebody uses them, so that two names of one file, or the same name found twice, are one file to
//! locks and mappings; and pages of files that are mapped shared.
//!
//! | file | its part |
//! | --- | --- |
//! | [`client`] | requests and replies |
//! | [`fids`] | numbers for files, and finding files by their names |
//! | [`replies`] | what is made of replies |
//! | [`node`] | an inode: names, attributes |
//! | [`content`] | its content: reading and writing |
//! | [`cache`] | pages of files that are mapped shared |
//! | [`xattr`] | extended attributes |
//! | [`lock`] | locks towards others than this machine |

mod cache;
mod client;
mod content;
mod fids;
mod lock;
mod node;
mod replies;
mod xattr;

use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use crate::platform;
use crate::{Errno, Result};
use client::Client;

/// Mounts the folder that is the device `name` at `path`, whose files are to be those of user `uid`.
///
/// # Errors
/// `ENODEV` if there is no such device, others if the host does not let it be used.
pub fn mount(name: &[u8], path: &[u8], read_only: bool, uid: u32) -> Result {
    let device = platform::folder(name).ok_or(Errno::ENODEV)?;
    let client = Rc::new(Client::begin(device, super::new_device())?);
    let root = client.attach(uid)?;
    let kernel = crate::kernel();
    let volumes = &kernel.vfs.volumes;
    volumes.all.borrow_mut().push(Rc::downgrade(&client));
    super::mount(path, root, "9p", name)?;
    if let Some(mount) = kernel.vfs.mounts().last() {
        mount.read_only.set(read_only);
    }
    Ok(())
}

/// The folder that is the device `name`, which the program does not see. Files in it are the host user's own.
///
/// # Errors
/// As [`mount`].
pub fn hidden(name: &[u8]) -> Result<Rc<dyn super::Inode>> {
    let device = platform::folder(name).ok_or(Errno::ENODEV)?;
    let client = Rc::new(Client::begin(device, super::new_device())?);
    let root = client.attach(0)?;
    Ok(root)
}

/// All folders.
#[derive(Default)]
pub struct Volumes {
    all: RefCell<Vec<Weak<Client>>>,
    /// There are fids of which the servers have not been told that nobody needs them.
    unneeded: Cell<bool>,
}

impl Volumes {
    /// Tells the servers of fids that nobody needs: what they lead to is not to be kept by a machine that rests.
    pub fn give_back(&self) {
        if self.unneeded.replace(false) {
            let all = self.all.borrow();
            for client in all.iter().filter_map(Weak::upgrade) {
                client.give_back_now();
                if client.has_unneeded() {
                    self.unneeded.set(true);
                }
            }
        }
    }
}

/// Replies have come from folders: whoever waits for one looks. Nothing may be borrowed.
pub fn replies_came() {
    let all = crate::kernel().vfs.volumes.all.borrow().clone();
    for client in all.iter().filter_map(Weak::upgrade) {
        client.take_replies();
    }
}

#[cfg(test)]
mod tests;
