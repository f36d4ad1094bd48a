//! A tree of files to be written as an image.
//!
//! Only names and attributes are held; the content of files stays where it is until the image is written
//! ([`Tree::write`], in [`write`](super::write)).

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use core::hash::{Hash, Hasher};
use std::path::PathBuf;

use super::{Kind, Stamp};

/// `NAME_MAX`, and `PATH_MAX` without the final NUL.
const MAX_NAME: usize = 255;
const MAX_TARGET: usize = 4095;

/// What an inode has besides its content.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Meta {
    /// Permissions, with set-user-ID, set-group-ID and sticky bits; without the type.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When the content changed last.
    pub modified: Stamp,
    /// Extended attributes: whole name and value, in the order in which they are listed.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Meta {
    /// Of user and group 0, at the beginning of time.
    pub fn new(mode: u16) -> Self {
        Self {
            mode,
            uid: 0,
            gid: 0,
            modified: Stamp::default(),
            attributes: Vec::new(),
        }
    }
}

/// Where a regular file's content comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// From memory.
    Bytes(Vec<u8>),
    /// From a file of the host that has exactly this many bytes.
    File(PathBuf, u64),
}

impl Source {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, len) => *len,
        }
    }
}

/// Why something cannot be put into a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misplaced {
    path: Vec<u8>,
    reason: &'static str,
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = alloc::string::String::from_utf8_lossy(&self.path);
        write!(f, "{path}: {}", self.reason)
    }
}

impl core::error::Error for Misplaced {}

pub(super) type Children = BTreeMap<Vec<u8>, usize>;

#[derive(Clone, Debug, Hash)]
pub(super) enum Content {
    File(Source),
    Directory(Children),
    Symlink(Vec<u8>),
    /// A device, pipe or socket; the numbers of a device as the kernel packs them.
    Special(Kind, u32),
}

impl Content {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::File(_) => Kind::File,
            Self::Directory(_) => Kind::Directory,
            Self::Symlink(_) => Kind::Symlink,
            Self::Special(kind, _) => *kind,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub meta: Meta,
    pub content: Content,
    /// How many names it has, other than `.` and `..`.
    pub names: u32,
}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // A folder's time changes with all that others make in it.
        let modified = match self.content {
            Content::Directory(_) => Stamp::default(),
            _ => self.meta.modified,
        };
        let meta = &self.meta;
        (meta.mode, meta.uid, meta.gid, modified, &meta.attributes).hash(state);
        (&self.content, self.names).hash(state);
    }
}

/// A tree of files. Paths are absolute or not: they start at its top either way.
///
/// Its hash is that of all that an image of it would hold, but for two things: the content of files of the host, which is
/// not read for that, and the times of folders. It depends on the order in which files were added.
#[derive(Clone, Debug, Hash)]
pub struct Tree {
    pub(super) nodes: Vec<Node>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new(Meta::new(0o755))
    }
}

impl Tree {
    /// A tree whose top has these attributes, and is empty.
    pub fn new(top: Meta) -> Self {
        let top = Node {
            meta: top,
            content: Content::Directory(Children::new()),
            names: 0,
        };
        Self {
            nodes: alloc::vec![top],
        }
    }

    /// Adds a regular file, in place of what may be there.
    ///
    /// # Errors
    /// If the path is none for a file. Folders on the way are made if they are missing.
    pub fn file(&mut self, path: &[u8], meta: Meta, source: Source) -> Result<(), Misplaced> {
        self.put(path, meta, Content::File(source))
    }

    /// Adds a folder, or gives one that is there already these attributes.
    ///
    /// # Errors
    /// As of [`file`](Self::file).
    pub fn directory(&mut self, path: &[u8], meta: Meta) -> Result<(), Misplaced> {
        if let Some(node) = self.find(path)
            && matches!(self.nodes[node].content, Content::Directory(_))
        {
            self.nodes[node].meta = meta;
            return Ok(());
        }
        self.put(path, meta, Content::Directory(Children::new()))
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// As of [`file`](Self::file); also if `target` is empty or too long.
    pub fn symlink(&mut self, path: &[u8], meta: Meta, target: &[u8]) -> Result<(), Misplaced> {
        if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
            return Err(misplaced(path, "a link to nowhere"));
        }
        self.put(path, meta, Content::Symlink(target.to_owned()))
    }

    /// Adds a device with major and minor number, a pipe or a socket.
    ///
    /// # Errors
    /// As of [`file`](Self::file); also if `kind` is none of these.
    pub fn special(
        &mut self,
        path: &[u8],
        meta: Meta,
        kind: Kind,
        (major, minor): (u32, u32),
    ) -> Result<(), Misplaced> {
        let device = match kind {
            // As `new_encode_dev` of the kernel packs them.
            Kind::CharDevice | Kind::BlockDevice => {
                minor & 0xff | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
            }
            Kind::Fifo | Kind::Socket => 0,
            _ => return Err(misplaced(path, "no device, pipe or socket")),
        };
        self.put(path, meta, Content::Special(kind, device))
    }

    /// Gives the file at `existing` another name.
    ///
    /// # Errors
    /// As of [`file`](Self::file); also if there is no file at `existing`, or a folder.
    pub fn hard_link(&mut self, path: &[u8], existing: &[u8]) -> Result<(), Misplaced> {
        let node = self
            .find(existing)
            .ok_or_else(|| misplaced(existing, "not there, so it gets no other name"))?;
        if matches!(self.nodes[node].content, Content::Directory(_)) {
            return Err(misplaced(existing, "a folder, which has one name only"));
        }
        self.bind(path, node)
    }

    /// True if something is at `path`; links are not followed.
    pub fn contains(&self, path: &[u8]) -> bool {
        self.find(path).is_some()
    }

    /// Takes everything away that `keep` does not want, and folders that it does not want either and that are empty then.
    /// It is asked for each name with its whole path; for a folder behind what is in it.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], Kind) -> bool) {
        let mut path = Vec::new();
        self.retain_in(0, &mut path, &mut keep);
    }

    fn retain_in(
        &mut self,
        folder: usize,
        path: &mut Vec<u8>,
        keep: &mut impl FnMut(&[u8], Kind) -> bool,
    ) {
        let Content::Directory(children) = &self.nodes[folder].content else {
            return;
        };
        for (name, node) in children.clone() {
            let len = path.len();
            path.push(b'/');
            path.extend_from_slice(&name);
            self.retain_in(node, path, keep);
            let full = matches!(&self.nodes[node].content, Content::Directory(c) if !c.is_empty());
            if !full && !keep(path, self.nodes[node].content.kind()) {
                if let Content::Directory(children) = &mut self.nodes[folder].content {
                    children.remove(&name);
                }
                self.nodes[node].names -= 1;
            }
            path.truncate(len);
        }
    }

    /// Calls `each` with the path of every regular file and its length in bytes.
    pub fn files(&self, mut each: impl FnMut(&[u8], u64)) {
        let mut waiting = alloc::vec![(0, Vec::new())];
        while let Some((node, path)) = waiting.pop() {
            match &self.nodes[node].content {
                Content::File(source) => each(&path, source.len()),
                Content::Directory(children) => {
                    for (name, &child) in children.iter().rev() {
                        waiting.push((child, [&*path, b"/", name].concat()));
                    }
                }
                _ => {}
            }
        }
    }

    fn put(&mut self, path: &[u8], meta: Meta, content: Content) -> Result<(), Misplaced> {
        let node = self.nodes.len();
        self.nodes.push(Node {
            meta,
            content,
            names: 0,
        });
        self.bind(path, node)
    }

    /// Names `node`.
    fn bind(&mut self, path: &[u8], node: usize) -> Result<(), Misplaced> {
        let (folder, name) = split(path).ok_or_else(|| misplaced(path, "no name for a file"))?;
        if name.len() > MAX_NAME {
            return Err(misplaced(path, "a name longer than 255 bytes"));
        }
        let folder = self.folder(folder)?;
        let Content::Directory(children) = &mut self.nodes[folder].content else {
            return Err(misplaced(path, "below something that is no folder"));
        };
        let before = children.insert(name.to_owned(), node);
        if let Some(before) = before {
            let full =
                matches!(&self.nodes[before].content, Content::Directory(c) if !c.is_empty());
            if full {
                if let Content::Directory(children) = &mut self.nodes[folder].content {
                    children.insert(name.to_owned(), before);
                }
                return Err(misplaced(path, "in place of a folder with files"));
            }
            self.nodes[before].names -= 1;
        }
        self.nodes[node].names += 1;
        Ok(())
    }

    /// The folder at `path`, made if it is missing.
    fn folder(&mut self, path: &[u8]) -> Result<usize, Misplaced> {
        let mut here = 0;
        for name in names(path) {
            if matches!(name, b"." | b"..") || name.contains(&0) || name.len() > MAX_NAME {
                return Err(misplaced(path, "no name for a folder"));
            }
            let new = self.nodes.len();
            let Content::Directory(children) = &mut self.nodes[here].content else {
                return Err(misplaced(path, "below something that is no folder"));
            };
            here = *children.entry(name.to_owned()).or_insert(new);
            if here == new {
                self.nodes.push(Node {
                    meta: Meta::new(0o755),
                    content: Content::Directory(Children::new()),
                    names: 1,
                });
            }
        }
        Ok(here)
    }

    fn find(&self, path: &[u8]) -> Option<usize> {
        let mut here = 0;
        for name in names(path) {
            let Content::Directory(children) = &self.nodes[here].content else {
                return None;
            };
            here = *children.get(name)?;
        }
        Some(here)
    }
}

fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|name| !name.is_empty())
}

/// Folder and name of a path.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = path.iter().rposition(|&b| b != b'/')? + 1;
    let path = &path[..end];
    let start = path.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
    let name = &path[start..];
    (!matches!(name, b"." | b"..") && !name.contains(&0)).then_some((&path[..start], name))
}

fn misplaced(path: &[u8], reason: &'static str) -> Misplaced {
    Misplaced {
        path: path.to_owned(),
        reason,
    }
}
