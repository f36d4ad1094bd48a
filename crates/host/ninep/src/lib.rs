//! A folder of the host for a guest, by 9P2000.L.
//!
//! [`serve`] answers requests on a socket until its other end is closed, one after the other, and does what a request says before it
//! looks at the next. Everything in a request is hostile. What the folder's borders rest on:
//!
//! - A file is a descriptor here (`O_PATH`), never a path. From one to the next leads one name, which is neither `..` nor has a `/`, opened
//!   without following links. So nothing outside of the folder can be named, whatever others rename or link meanwhile; a symbolic
//!   link is told to the guest as text.
//! - Only ordinary files and folders are opened for reading and writing. Device nodes cannot be made, and those that are there stay
//!   closed: they would be the host's devices. Pipes and sockets are made and told of, but they connect nobody.
//! - A read-only folder refuses every request that would change something before it is looked at further.
//! - Set-user-ID bits are never set, nor set-group-ID bits of files: what a guest writes is not more than a file to others on the host.
//! - Descriptors, the length of messages and the work of one request are bounded.
//!
//! Files are the user's who serves them. To the guest they seem to be those of the user that it attaches as, and the other way round,
//! so that programs find their own files to be their own.

mod attributes;
mod change;
mod fid;
mod folder;
mod lock;
mod open;
mod serve;
mod session;
mod xattr;

pub use serve::{Export, MAX_MESSAGE, serve};
pub use session::Session;

#[cfg(test)]
mod tests;
