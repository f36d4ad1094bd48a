//! File systems whose files are made when they are read: the kit for `/proc`, `/sys` and `/dev`.
//!
//! A tree is declared as constant tables of [`Named`] entries. What an entry is about (a process, a thread, a descriptor) is its
//! [`Subject`], which folders with changing names hand down.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::RefCell;

use crate::fs::{Entry, File, FsStatistics, Inode, Kind, Metadata, OpenFile, OpenFlags, Place};
use crate::io::{Sink, Source};
use crate::process::{Process, Thread};
use crate::{Errno, Result, platform};

/// The most bytes that one write to such a file may have.
const MAX_WRITE: usize = 65536;

/// What an entry is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// A process; 0 for none.
    pub pid: u32,
    /// A thread; 0 for none.
    pub tid: u32,
    /// A descriptor, a processor, or another number.
    pub number: i32,
}

impl Subject {
    /// The process.
    ///
    /// # Errors
    /// `ESRCH` if it is no more.
    pub fn process(self) -> Result<Rc<Process>> {
        crate::kernel()
            .processes
            .process(self.pid)
            .ok_or(Errno::ESRCH)
    }

    /// The thread: the one that is named, or the process's first.
    ///
    /// # Errors
    /// `ESRCH` if it is no more.
    pub fn thread(self) -> Result<Rc<Thread>> {
        let process = self.process()?;
        let threads = process.threads.borrow();
        let thread = match self.tid {
            0 => threads.values().next(),
            tid => threads.get(&tid),
        };
        thread.cloned().ok_or(Errno::ESRCH)
    }
}

/// What a file's text is gathered in.
#[derive(Debug, Default)]
pub struct Text(pub Vec<u8>);

impl Text {
    /// Adds formatted text.
    pub fn add(&mut self, text: core::fmt::Arguments) {
        // Writing to a vector does not fail.
        let _ = core::fmt::Write::write_fmt(self, text);
    }

    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

impl core::fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Adds formatted text to a [`Text`].
#[macro_export]
macro_rules! put {
    ($text:expr, $($format:tt)*) => { $text.add(core::format_args!($($format)*)) };
}

/// Makes a file's text, or a link's.
pub type Read = fn(&Rc<Thread>, Subject, &mut Text) -> Result;
/// Takes what was written to a file.
pub type Write = fn(&Rc<Thread>, Subject, &[u8]) -> Result;
/// Where a link leads that leads to something open.
pub type Jump = fn(&Rc<Thread>, Subject) -> Result<Option<Place>>;
/// The names of a folder whose names change.
pub type List = fn(Subject) -> Vec<Vec<u8>>;
/// What such a name leads to.
pub type Find = fn(Subject, &[u8]) -> Option<(Subject, &'static Named)>;

/// What an entry is.
#[derive(Clone, Copy)]
pub enum Node {
    /// A folder with the same names always, and others that come and go.
    Folder(&'static [Named], Option<(List, Find)>),
    /// A file.
    File(Read, Option<Write>),
    /// A file whose text never changes.
    Fixed(&'static str),
    /// A symbolic link.
    Link(Read, Option<Jump>),
    /// A device.
    Device(Kind, u64),
    /// A device whose minor number is the subject's.
    Numbered(Kind, u64),
}

/// An entry of a folder.
#[derive(Clone, Copy)]
pub struct Named {
    /// Its name.
    pub name: &'static str,
    /// Its permissions.
    pub mode: u32,
    /// What it is.
    pub node: Node,
}

/// A folder.
pub const fn folder(name: &'static str, entries: &'static [Named]) -> Named {
    entry(name, 0o555, Node::Folder(entries, None))
}

/// A folder whose names come and go.
pub const fn listed(name: &'static str, fixed: &'static [Named], list: List, find: Find) -> Named {
    entry(name, 0o555, Node::Folder(fixed, Some((list, find))))
}

/// A file to read.
pub const fn file(name: &'static str, read: Read) -> Named {
    entry(name, 0o444, Node::File(read, None))
}

/// A file to read and write.
pub const fn writable(name: &'static str, read: Read, write: Write) -> Named {
    entry(name, 0o644, Node::File(read, Some(write)))
}

/// A file that always says the same.
pub const fn fixed(name: &'static str, text: &'static str) -> Named {
    entry(name, 0o444, Node::Fixed(text))
}

/// A symbolic link.
pub const fn link(name: &'static str, read: Read) -> Named {
    entry(name, 0o777, Node::Link(read, None))
}

/// A symbolic link that leads to something open.
pub const fn jump(name: &'static str, read: Read, to: Jump) -> Named {
    entry(name, 0o777, Node::Link(read, Some(to)))
}

/// Any entry.
pub const fn entry(name: &'static str, mode: u32, node: Node) -> Named {
    Named { name, mode, node }
}

/// What all inodes of one file system share.
#[derive(Clone, Copy, Debug)]
pub struct Sort {
    /// Its device number.
    pub device: u64,
    /// What `statfs(2)` calls it.
    pub magic: u64,
    /// The size that its files seem to have.
    pub size: u64,
}

/// An inode.
struct Pseudo {
    sort: Sort,
    what: &'static Named,
    subject: Subject,
    inode: u64,
}

/// The root of a file system.
pub fn root(sort: Sort, what: &'static Named) -> Rc<dyn Inode> {
    Rc::new(Pseudo {
        sort,
        what,
        subject: Subject::default(),
        inode: 1,
    })
}

/// Numbers inodes by their path: the same each time.
fn number(parent: u64, name: &[u8]) -> u64 {
    // FNV-1a.
    let mut hash = parent ^ 0xcbf2_9ce4_8422_2325;
    for &byte in name {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    (hash >> 16) | 2
}

impl Node {
    fn kind(&self) -> Kind {
        match self {
            Self::Folder(..) => Kind::Directory,
            Self::File(..) | Self::Fixed(_) => Kind::Regular,
            Self::Link(..) => Kind::Link,
            Self::Device(kind, _) | Self::Numbered(kind, _) => *kind,
        }
    }
}

impl Pseudo {
    fn child(&self, name: &[u8], subject: Subject, what: &'static Named) -> Rc<dyn Inode> {
        Rc::new(Self {
            sort: self.sort,
            what,
            subject,
            inode: number(self.inode, name),
        })
    }
}

impl Inode for Pseudo {
    fn metadata(&self) -> Result<Metadata> {
        let now = platform::wall();
        let (uid, gid) = match self.subject.process() {
            Ok(process) => {
                let who = process.credentials.borrow();
                (who.euid, who.egid)
            }
            Err(_) => (0, 0),
        };
        let rdev = match self.what.node {
            Node::Device(_, rdev) => rdev,
            Node::Numbered(_, major) => {
                let minor = self.subject.number.cast_unsigned().into();
                crate::dev::number(major, minor)
            }
            _ => 0,
        };
        let kind = self.what.node.kind();
        Ok(Metadata {
            device: self.sort.device,
            inode: self.inode,
            kind,
            mode: self.what.mode,
            links: if kind == Kind::Directory { 2 } else { 1 },
            uid,
            gid,
            rdev,
            size: if kind == Kind::Regular {
                self.sort.size
            } else {
                0
            },
            block_size: 1024,
            accessed: now,
            modified: now,
            changed: now,
            ..Metadata::default()
        })
    }

    fn lookup(&self, name: &[u8]) -> Result<Rc<dyn Inode>> {
        let Node::Folder(fixed, changing) = &self.what.node else {
            return Err(Errno::ENOTDIR);
        };
        if let Some(what) = fixed.iter().find(|entry| entry.name.as_bytes() == name) {
            return Ok(self.child(name, self.subject, what));
        }
        let found = changing.and_then(|(_, find)| find(self.subject, name));
        let (subject, what) = found.ok_or(Errno::ENOENT)?;
        Ok(self.child(name, subject, what))
    }

    fn create(&self, name: &[u8], _new: &crate::fs::NewInode) -> Result<Rc<dyn Inode>> {
        match self.lookup(name) {
            Ok(_) => Err(Errno::EEXIST),
            Err(Errno::ENOENT) => Err(Errno::EACCES),
            Err(other) => Err(other),
        }
    }

    fn unlink(&self, name: &[u8], _folder: bool) -> Result {
        self.lookup(name)?;
        Err(Errno::EPERM)
    }

    fn read_link(&self, thread: &Rc<Thread>) -> Result<Vec<u8>> {
        let Node::Link(read, _) = self.what.node else {
            return Err(Errno::EINVAL);
        };
        let mut text = Text::default();
        read(thread, self.subject, &mut text)?;
        Ok(text.0)
    }

    fn follow(&self, thread: &Rc<Thread>) -> Result<Option<Place>> {
        match self.what.node {
            Node::Link(_, Some(to)) => to(thread, self.subject),
            _ => Ok(None),
        }
    }

    fn entries(&self, from: u64, each: &mut dyn FnMut(&Entry) -> bool) -> Result {
        let Node::Folder(fixed, changing) = &self.what.node else {
            return Err(Errno::ENOTDIR);
        };
        let mut next = 0;
        for entry in *fixed {
            next += 1;
            let told = Entry {
                name: entry.name.as_bytes(),
                inode: number(self.inode, entry.name.as_bytes()),
                kind: entry.node.kind(),
                next,
            };
            if next > from && !each(&told) {
                return Ok(());
            }
        }
        let Some((list, find)) = changing else {
            return Ok(());
        };
        for name in list(self.subject) {
            // Numbers say themselves where they come, whatever comes and goes meanwhile.
            let text = core::str::from_utf8(&name).unwrap_or_default();
            next = match text.parse::<u32>() {
                Ok(number) => (1 << 32) + u64::from(number),
                Err(_) => next + 1,
            };
            if next <= from {
                continue;
            }
            let Some((_, what)) = find(self.subject, &name) else {
                continue;
            };
            let told = Entry {
                name: &name,
                inode: number(self.inode, &name),
                kind: what.node.kind(),
                next,
            };
            if !each(&told) {
                break;
            }
        }
        Ok(())
    }

    fn open(&self, _thread: &Rc<Thread>, _flags: OpenFlags) -> Result<Option<Rc<dyn File>>> {
        match self.what.node {
            Node::File(..) | Node::Fixed(_) => {}
            _ => return Ok(None),
        }
        Ok(Some(Rc::new(PseudoFile {
            metadata: self.metadata()?,
            what: self.what,
            subject: self.subject,
            text: RefCell::new(None),
        })))
    }

    fn resize(&self, _size: u64) -> Result {
        match self.what.node {
            // Opening such a file with O_TRUNC is allowed and means nothing.
            Node::File(_, Some(_)) => Ok(()),
            _ => Err(Errno::EPERM),
        }
    }

    fn statistics(&self) -> Result<FsStatistics> {
        Ok(FsStatistics {
            magic: self.sort.magic,
            block_size: 4096,
            ..FsStatistics::default()
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open file of such a file system. Its text is made when it is read from the beginning, and stays so for the reads behind that.
struct PseudoFile {
    metadata: Metadata,
    what: &'static Named,
    subject: Subject,
    text: RefCell<Option<Vec<u8>>>,
}

impl File for PseudoFile {
    fn read(&self, thread: &Rc<Thread>, open: &OpenFile, to: &mut Sink) -> Result<usize> {
        let offset = open.offset.get();
        let got = self.read_at(thread, offset, to)?;
        open.offset.set(offset.saturating_add(got as u64));
        Ok(got)
    }

    fn write(&self, thread: &Rc<Thread>, open: &OpenFile, from: &mut Source) -> Result<usize> {
        let put = self.write_at(thread, open.offset.get(), from)?;
        open.offset
            .set(open.offset.get().saturating_add(put as u64));
        Ok(put)
    }

    fn read_at(&self, thread: &Rc<Thread>, offset: u64, to: &mut Sink) -> Result<usize> {
        let made = self.text.borrow().is_some();
        if offset == 0 || !made {
            let mut text = Text::default();
            match self.what.node {
                Node::File(read, _) => read(thread, self.subject, &mut text)?,
                Node::Fixed(fixed) => text.bytes(fixed.as_bytes()),
                _ => return Err(Errno::EINVAL),
            }
            self.text.replace(Some(text.0));
        }
        let text = self.text.borrow();
        let all = text.as_deref().unwrap_or_default();
        let rest = usize::try_from(offset).ok().and_then(|at| all.get(at..));
        to.put(rest.unwrap_or_default())
    }

    fn write_at(&self, thread: &Rc<Thread>, _offset: u64, from: &mut Source) -> Result<usize> {
        let Node::File(_, Some(write)) = self.what.node else {
            return Err(Errno::EACCES);
        };
        if from.remaining() > MAX_WRITE {
            return Err(Errno::EINVAL);
        }
        let bytes = from.take_all()?;
        write(thread, self.subject, &bytes)?;
        self.text.replace(None);
        Ok(bytes.len())
    }

    fn seek(&self, open: &OpenFile, offset: i64, whence: u32) -> Result<u64> {
        let from = match whence {
            0 => 0,
            1 => open.offset.get(),
            _ => return Err(Errno::EINVAL),
        };
        let to = from.checked_add_signed(offset).ok_or(Errno::EINVAL)?;
        if to > i64::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        open.offset.set(to);
        Ok(to)
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(self.metadata)
    }

    fn describe(&self) -> Vec<u8> {
        self.what.name.as_bytes().to_vec()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A decimal number without sign or leading zeroes.
pub fn parse(name: &[u8]) -> Option<u32> {
    if name.len() > 1 && name.first() == Some(&b'0') {
        return None;
    }
    let digits = name.iter().all(u8::is_ascii_digit);
    let text = core::str::from_utf8(name).ok().filter(|_| digits)?;
    text.parse().ok()
}
