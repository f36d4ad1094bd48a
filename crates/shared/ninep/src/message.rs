//! Requests and replies.

use crate::HEADER;
use crate::wire::{Data, Field, Names, Qid, Qids, Reader, Statistics, Text, Writer, record};

/// A message that is none: too short, too long, of another size than it says, or of an unknown type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

record! {
    /// What `stat` tells.
    Attributes {
        /// Which of them are valid: [`GETATTR_BASIC`](crate::GETATTR_BASIC).
        valid: u64,
        /// Which file.
        qid: Qid,
        /// Type and permissions.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Names that it has.
        links: u64,
        /// Which device it is.
        device: u64,
        /// Bytes.
        size: u64,
        /// Bytes that are best read at once.
        block_size: u64,
        /// Blocks of 512 bytes that it takes.
        blocks: u64,
        /// Last access, seconds.
        atime: u64,
        /// And nanoseconds.
        atime_nanos: u64,
        /// Last change of the content, seconds.
        mtime: u64,
        /// And nanoseconds.
        mtime_nanos: u64,
        /// Last change at all, seconds.
        ctime: u64,
        /// And nanoseconds.
        ctime_nanos: u64,
        /// Not used.
        birth: u64,
        /// Not used.
        birth_nanos: u64,
        /// Not used.
        generation: u64,
        /// Not used.
        data_version: u64,
    }
}

macro_rules! messages {
    ($(#[$about:meta])* $name:ident<$life:lifetime> {
        $($(#[$what:meta])* $variant:ident = $number:literal { $($field:ident: $kind:ty),* $(,)? })*
    }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the fields are the protocol's")]
        #[allow(clippy::large_enum_variant, reason = "there is no allocation here, and one message at a time")]
        pub enum $name<$life> {
            $($(#[$what])* $variant { $($field: $kind,)* },)*
        }

        impl<$life> $name<$life> {
            /// Reads a whole message: its tag, and what it says.
            ///
            /// # Errors
            /// [`Malformed`].
            pub fn decode(message: &$life [u8]) -> Result<(u16, Self), Malformed> {
                let mut from = Reader::new(message);
                Self::read(&mut from, message.len()).filter(|_| from.is_empty()).ok_or(Malformed)
            }

            fn read(from: &mut Reader<$life>, len: usize) -> Option<(u16, Self)> {
                if usize::try_from(u32::get(from)?).ok()? != len {
                    return None;
                }
                let number = u8::get(from)?;
                let tag = u16::get(from)?;
                let message = match number {
                    $($number => Self::$variant { $($field: <$kind>::get(from)?,)* },)*
                    _ => return None,
                };
                Some((tag, message))
            }

            /// Writes the message with this tag. Returns its length; `None` if it does not fit.
            pub fn encode(&self, tag: u16, into: &mut [u8]) -> Option<usize> {
                let mut to = Writer::new(into);
                0u32.put(&mut to)?;
                match self {
                    $(Self::$variant { $($field,)* } => {
                        u8::put(&$number, &mut to)?;
                        tag.put(&mut to)?;
                        $($field.put(&mut to)?;)*
                    })*
                }
                let len = to.len();
                to.patch(0, &u32::try_from(len).ok()?.to_le_bytes())?;
                Some(len)
            }
        }
    };
}

messages! {
    /// What a client asks. `fid`s are the client's own numbers for files.
    Request<'a> {
        /// About the file system of a file.
        StatFs = 8 { fid: u32 }
        /// Opens a file that a walk has found.
        Open = 12 { fid: u32, flags: u32 }
        /// Makes a file in the folder `fid`, which becomes that file, open.
        Create = 14 { fid: u32, name: Text<'a>, flags: u32, mode: u32, gid: u32 }
        /// Makes a symbolic link.
        Symlink = 16 { folder: u32, name: Text<'a>, target: Text<'a>, gid: u32 }
        /// Makes a node.
        Mknod = 18 { folder: u32, name: Text<'a>, mode: u32, major: u32, minor: u32, gid: u32 }
        /// Renames; superseded by [`RenameAt`](Self::RenameAt).
        Rename = 20 { fid: u32, folder: u32, name: Text<'a> }
        /// Where a symbolic link leads.
        Readlink = 22 { fid: u32 }
        /// What `stat` tells.
        GetAttr = 24 { fid: u32, mask: u64 }
        /// Changes some of it, see [`set`](crate::set).
        SetAttr = 26 {
            fid: u32, valid: u32, mode: u32, uid: u32, gid: u32, size: u64,
            atime: u64, atime_nanos: u64, mtime: u64, mtime_nanos: u64,
        }
        /// Makes `new` the extended attribute `name` of `fid`, or the list of all if the name is empty; to be read.
        XattrWalk = 30 { fid: u32, new: u32, name: Text<'a> }
        /// Makes `fid` an extended attribute of its own, to be written; it is set when the fid is given back.
        XattrCreate = 32 { fid: u32, name: Text<'a>, size: u64, flags: u32 }
        /// Entries of a folder, see [`directory`](crate::directory).
        Readdir = 40 { fid: u32, offset: u64, count: u32 }
        /// Durably to the disk: the file with what is known of it if `data_only` is 0, its content if it is 1. With
        /// [`WHOLE`](crate::WHOLE), an addition of ours, everything of the file system that the file belongs to; servers that do not know it
        /// take it for 1.
        Fsync = 50 { fid: u32, data_only: u32 }
        /// A lock on a range: `kind` 0 shared, 1 exclusive, 2 none.
        Lock = 52 { fid: u32, kind: u8, flags: u32, start: u64, length: u64, process: u32, client: Text<'a> }
        /// Who has a lock.
        GetLock = 54 { fid: u32, kind: u8, start: u64, length: u64, process: u32, client: Text<'a> }
        /// One more name for a file.
        Link = 70 { folder: u32, fid: u32, name: Text<'a> }
        /// Makes a folder.
        Mkdir = 72 { folder: u32, name: Text<'a>, mode: u32, gid: u32 }
        /// Renames.
        RenameAt = 74 { from: u32, old: Text<'a>, to: u32, new: Text<'a> }
        /// Removes; flag 0x200 (`AT_REMOVEDIR`) for folders.
        UnlinkAt = 76 { folder: u32, name: Text<'a>, flags: u32 }
        /// The first: which dialect, and how long messages may be.
        Version = 100 { msize: u32, version: Text<'a> }
        /// Not used here.
        Auth = 102 { fid: u32, user: Text<'a>, tree: Text<'a>, uid: u32 }
        /// The root.
        Attach = 104 { fid: u32, auth: u32, user: Text<'a>, tree: Text<'a>, uid: u32 }
        /// Forget an earlier request.
        Flush = 108 { tag: u16 }
        /// Makes `new` what is found from `fid` by these names.
        Walk = 110 { fid: u32, new: u32, names: Names<'a> }
        /// Reads an open file.
        Read = 116 { fid: u32, offset: u64, count: u32 }
        /// Writes an open file.
        Write = 118 { fid: u32, offset: u64, data: Data<'a> }
        /// Gives a fid back.
        Clunk = 120 { fid: u32 }
        /// Removes a file and gives its fid back; superseded by [`UnlinkAt`](Self::UnlinkAt).
        Remove = 122 { fid: u32 }
    }
}

messages! {
    /// What a server answers.
    Reply<'a> {
        /// It could not: an error number of Linux.
        Error = 7 { errno: u32 }
        StatFs = 9 { statistics: Statistics }
        Open = 13 { qid: Qid, unit: u32 }
        Create = 15 { qid: Qid, unit: u32 }
        Symlink = 17 { qid: Qid }
        Mknod = 19 { qid: Qid }
        Rename = 21 {}
        Readlink = 23 { target: Text<'a> }
        GetAttr = 25 { attributes: Attributes }
        SetAttr = 27 {}
        XattrWalk = 31 { size: u64 }
        XattrCreate = 33 {}
        Readdir = 41 { data: Data<'a> }
        Fsync = 51 {}
        Lock = 53 { status: u8 }
        GetLock = 55 { kind: u8, start: u64, length: u64, process: u32, client: Text<'a> }
        Link = 71 {}
        Mkdir = 73 { qid: Qid }
        RenameAt = 75 {}
        UnlinkAt = 77 {}
        Version = 101 { msize: u32, version: Text<'a> }
        Attach = 105 { qid: Qid }
        Flush = 109 {}
        Walk = 111 { qids: Qids }
        Read = 117 { data: Data<'a> }
        Write = 119 { count: u32 }
        Clunk = 121 {}
        Remove = 123 {}
    }
}

/// The tag of a message, if it is long enough to have one.
pub fn tag_of(message: &[u8]) -> Option<u16> {
    let bytes = message.get(5..HEADER)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

/// The messages of a packet, one behind the other. What is none ends it, as the last.
pub fn messages(packet: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = packet;
    core::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let len = u32::get(&mut Reader::new(rest)).and_then(|len| usize::try_from(len).ok());
        let cut = len.filter(|len| *len >= HEADER);
        let (message, behind) = cut
            .and_then(|len| rest.split_at_checked(len))
            .unwrap_or((rest, &[]));
        rest = behind;
        Some(message)
    })
}

/// Writes the header of a reply to [`Request::Read`] or [`Request::Readdir`] before `len` bytes of data that are there already, from
/// [`READ_HEADER`](crate::READ_HEADER) on. Returns the reply's length; `None` if it does not fit.
pub fn frame_data(tag: u16, readdir: bool, len: usize, into: &mut [u8]) -> Option<usize> {
    let whole = crate::READ_HEADER
        .checked_add(len)
        .filter(|end| *end <= into.len())?;
    let mut to = Writer::new(into);
    u32::try_from(whole).ok()?.put(&mut to)?;
    let number: u8 = if readdir { 41 } else { 117 };
    number.put(&mut to)?;
    tag.put(&mut to)?;
    u32::try_from(len).ok()?.put(&mut to)?;
    Some(whole)
}

#[cfg(test)]
mod tests;
