//! Extended attributes: those of users. All others (`security`, `trusted`, `system`) are the host's own business.

use kiln_ninep::Reply;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::fid::{Attribute, Fid};
use crate::session::Session;

/// The longest value, and the longest list of names (xattr(7)).
const LONGEST: usize = 64 << 10;
/// The longest name.
const LONGEST_NAME: usize = 255;
const CREATE: u32 = 1;
const REPLACE: u32 = 2;
const PREFIX: &[u8] = b"user.";

impl Session<'_> {
    pub(crate) fn walk_attribute(
        &mut self,
        number: u32,
        new: u32,
        name: &[u8],
    ) -> Result<Reply<'static>, Errno> {
        self.fids.check_attributes()?;
        let fid = self.fids.get(number)?;
        let mut value = if name.is_empty() {
            list(fid)?
        } else {
            get(fid, name)?
        };
        value.shrink_to_fit();
        let size = value.len() as u64;
        let attribute = Fid {
            open: None,
            attribute: Some(Attribute::Value(value)),
            ..fid.clone()
        };
        self.fids.add(new, attribute)?;
        Ok(Reply::XattrWalk { size })
    }

    pub(crate) fn create_attribute(
        &mut self,
        number: u32,
        name: &[u8],
        size: u64,
        flags: u32,
    ) -> Result<Reply<'static>, Errno> {
        let name = checked(name)?.to_vec();
        let size = usize::try_from(size).ok().filter(|size| *size <= LONGEST);
        let size = size.ok_or(Errno::TOOBIG)?;
        self.fids.check_attributes()?;
        let fid = self.fids.get_mut(number)?;
        if fid.open.is_some() || fid.attribute.is_some() {
            return Err(Errno::BADF);
        }
        fid.attribute = Some(Attribute::New {
            name,
            value: Vec::new(),
            size,
            flags,
        });
        Ok(Reply::XattrCreate {})
    }
}

fn checked(name: &[u8]) -> Result<&[u8], Errno> {
    let good = name.starts_with(PREFIX) && name.len() <= LONGEST_NAME && !name.contains(&0);
    good.then_some(name).ok_or(Errno::OPNOTSUPP)
}

fn get(fid: &Fid, name: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; LONGEST];
    let len = rustix::fs::getxattr(fid.path()?, checked(name)?, &mut value[..])?;
    value.truncate(len);
    Ok(value)
}

fn list(fid: &Fid) -> Result<Vec<u8>, Errno> {
    let mut names = vec![0; LONGEST];
    let len = rustix::fs::listxattr(fid.path()?, &mut names[..])?;
    names.truncate(len);
    let users = names.split_inclusive(|&byte| byte == 0);
    Ok(users
        .filter(|name| name.starts_with(PREFIX))
        .flatten()
        .copied()
        .collect())
}

/// Takes the next part of a value.
pub fn append(attribute: &mut Attribute, offset: u64, data: &[u8]) -> Result<usize, Errno> {
    let Attribute::New { value, size, .. } = attribute else {
        return Err(Errno::BADF);
    };
    if offset != value.len() as u64 || value.len() + data.len() > *size {
        return Err(Errno::INVAL);
    }
    value.extend_from_slice(data);
    Ok(data.len())
}

/// Sets the attribute that was written, when its fid is given back.
pub fn finish(fid: &Fid) -> Result<(), Errno> {
    let Some(Attribute::New {
        name,
        value,
        size,
        flags,
    }) = &fid.attribute
    else {
        return Ok(());
    };
    if value.len() != *size {
        return Err(Errno::INVAL);
    }
    let path = fid.path()?;
    // How Linux' client removes one.
    if *size == 0 && *flags & REPLACE != 0 {
        return rustix::fs::removexattr(path, &name[..]);
    }
    let flags = match *flags {
        0 => XattrFlags::empty(),
        CREATE => XattrFlags::CREATE,
        REPLACE => XattrFlags::REPLACE,
        _ => return Err(Errno::INVAL),
    };
    rustix::fs::setxattr(path, &name[..], value, flags)
}
