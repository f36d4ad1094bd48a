//! Addresses: paths, and abstract names that begin with a NUL.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};

use super::super::{AF_UNIX, Address};
use super::endpoint::Endpoint;
use crate::fs::{self, AT_FDCWD, Inode, Kind, Walk};
use crate::process::Thread;
use crate::{Errno, Result};

/// Where the path begins in `struct sockaddr_un`.
const PATH_AT: usize = 2;
/// The longest path.
const PATH_LEN: usize = 108;
/// How many names are tried when one is chosen.
const CHOICES: u32 = 1 << 20;

/// A type of socket and a name.
type Key = (u32, Vec<u8>);

/// Abstract names. Each type of socket has its own.
#[derive(Debug, Default)]
pub struct Names {
    by_name: RefCell<BTreeMap<Key, Weak<Endpoint>>>,
    next: Cell<u32>,
}

/// What an endpoint has bound.
#[derive(Debug)]
pub enum Name {
    /// A path: the endpoint is attached to its inode.
    Path(Rc<Address>),
    /// An abstract name.
    Abstract(Rc<Address>),
    /// That of the listener that a connection came from.
    Borrowed(Rc<Address>),
}

impl Name {
    /// The address.
    pub fn address(&self) -> Rc<Address> {
        match self {
            Self::Path(address) | Self::Abstract(address) | Self::Borrowed(address) => {
                address.clone()
            }
        }
    }

    /// A listener's name for the connections that come from it.
    pub fn borrowed(address: Rc<Address>) -> Self {
        Self::Borrowed(address)
    }

    /// Gives an abstract name back. A path stays, and leads nowhere.
    pub fn release(&self, of: &Rc<Endpoint>) {
        if let Self::Abstract(address) = self {
            let kernel = crate::kernel();
            let mut names = kernel.network.unix.by_name.borrow_mut();
            let name = address.bytes().get(PATH_AT..).unwrap_or_default();
            let key = (of.kind, name.to_vec());
            if names
                .get(&key)
                .is_some_and(|known| core::ptr::eq(known.as_ptr(), Rc::as_ptr(of)))
            {
                names.remove(&key);
            }
        }
    }
}

/// What is attached to an inode.
struct Attached(Weak<Endpoint>);

/// The address of a socket that has none.
pub fn unnamed() -> Address {
    Address::new(&AF_UNIX.to_ne_bytes())
}

/// What an address names.
enum Parsed<'a> {
    Unnamed,
    Abstract(&'a [u8]),
    Path(&'a [u8]),
}

fn parse(address: &Address) -> Result<Parsed<'_>> {
    let bytes = address.bytes();
    if bytes.len() < PATH_AT || bytes.len() > PATH_AT + PATH_LEN || address.family() != AF_UNIX {
        return Err(Errno::EINVAL);
    }
    let path = bytes.get(PATH_AT..).unwrap_or_default();
    Ok(match path.first() {
        None => Parsed::Unnamed,
        Some(0) => Parsed::Abstract(path),
        Some(_) => {
            let end = path.iter().position(|&b| b == 0).unwrap_or(path.len());
            Parsed::Path(&path[..end])
        }
    })
}

/// Finds who has an address: among sockets of a type if it is an abstract one.
///
/// # Errors
/// `ECONNREFUSED`, `EPROTOTYPE` for a path that leads to another type, `EINVAL`, `EACCES`, those of walking a path.
pub fn find(thread: &Rc<Thread>, address: &Address, kind: u32) -> Result<Rc<Endpoint>> {
    let found = match parse(address)? {
        Parsed::Unnamed => return Err(Errno::EINVAL),
        Parsed::Abstract(name) => {
            let kernel = crate::kernel();
            let names = kernel.network.unix.by_name.borrow();
            names.get(&(kind, name.to_vec())).and_then(Weak::upgrade)
        }
        Parsed::Path(path) => {
            let place = fs::resolve(thread, AT_FDCWD, path, Walk::FOLLOW)?;
            let inode = &place.inode;
            fs::permit(thread, inode, 2)?;
            if inode.metadata()?.kind != Kind::Socket {
                return Err(Errno::ECONNREFUSED);
            }
            attached_to(inode)
        }
    };
    let found = found.ok_or(Errno::ECONNREFUSED)?;
    if found.is_closed() {
        return Err(Errno::ECONNREFUSED);
    }
    if found.kind != kind {
        return Err(Errno::EPROTOTYPE);
    }
    Ok(found)
}

fn attached_to(inode: &Rc<dyn Inode>) -> Option<Rc<Endpoint>> {
    let attached = inode.attachment()?.borrow();
    let attached = attached.as_ref()?.downcast_ref::<Attached>()?;
    attached.0.upgrade()
}

/// `bind(2)`.
///
/// # Errors
/// `EINVAL` if it has an address already, `EADDRINUSE`, those of making a name.
pub fn bind(thread: &Rc<Thread>, endpoint: &Rc<Endpoint>, address: &Address) -> Result {
    let parsed = parse(address)?;
    if let Parsed::Unnamed = parsed {
        return match endpoint.name() {
            Some(_) => Ok(()),
            None => autobind(endpoint),
        };
    }
    if endpoint.name().is_some() {
        return Err(Errno::EINVAL);
    }
    let name = match parsed {
        Parsed::Unnamed => return Err(Errno::EINVAL),
        Parsed::Abstract(name) => {
            enter(endpoint, name)?;
            Name::Abstract(Rc::new(*address))
        }
        Parsed::Path(path) => {
            let mode = 0o777;
            let place =
                fs::make_node(thread, AT_FDCWD, path, Kind::Socket, mode, 0).map_err(|error| {
                    match error {
                        Errno::EEXIST => Errno::EADDRINUSE,
                        error => error,
                    }
                })?;
            let attached: Rc<dyn Any> = Rc::new(Attached(Rc::downgrade(endpoint)));
            let slot = place.inode.attachment().ok_or(Errno::EOPNOTSUPP)?;
            *slot.borrow_mut() = Some(attached);
            // The path as it is told again ends with a NUL.
            let mut bytes = Vec::from(AF_UNIX.to_ne_bytes());
            bytes.extend(path);
            bytes.push(0);
            Name::Path(Rc::new(Address::new(&bytes)))
        }
    };
    *endpoint.bound.borrow_mut() = Some(name);
    Ok(())
}

fn enter(endpoint: &Rc<Endpoint>, name: &[u8]) -> Result {
    let kernel = crate::kernel();
    let mut names = kernel.network.unix.by_name.borrow_mut();
    let key = (endpoint.kind, name.to_vec());
    if names
        .get(&key)
        .is_some_and(|known| known.strong_count() > 0)
    {
        return Err(Errno::EADDRINUSE);
    }
    names.insert(key, Rc::downgrade(endpoint));
    Ok(())
}

/// Chooses an abstract name of five hexadecimal digits.
///
/// # Errors
/// `ENOSPC` if all are taken.
pub fn autobind(endpoint: &Rc<Endpoint>) -> Result {
    let kernel = crate::kernel();
    let next = &kernel.network.unix.next;
    for _ in 0..CHOICES {
        let number = next.get();
        next.set((number + 1) % CHOICES);
        let mut bytes = Vec::from(AF_UNIX.to_ne_bytes());
        bytes.push(0);
        bytes.extend(format!("{number:05x}").bytes());
        if enter(endpoint, &bytes[PATH_AT..]).is_ok() {
            *endpoint.bound.borrow_mut() = Some(Name::Abstract(Rc::new(Address::new(&bytes))));
            return Ok(());
        }
    }
    Err(Errno::ENOSPC)
}
