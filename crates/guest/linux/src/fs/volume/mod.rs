//! Folders of the host.
//!
//! Each is a device that answers 9P2000.L ([`kiln_ninep`]), one request at a time; the machine stands still meanwhile, as for a disk. What
//! the host has is not remembered here: others may change it at any time. Only inodes are kept as long as somebody uses them, so
//! that two names of one file, or the same name found twice, are one file to locks and mappings.

mod client;
mod node;

use alloc::rc::Rc;

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
    super::mount(path, root, "9p", name)?;
    let kernel = crate::kernel();
    if let Some(mount) = kernel.vfs.mounts().last() {
        mount.read_only.set(read_only);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
