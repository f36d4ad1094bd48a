//! The guest's numbers for files, and what is behind them.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use kiln_ninep::Qid;
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

/// What an extended attribute's fid holds.
#[derive(Clone, Debug)]
pub enum Attribute {
    /// To be read: the value, or a list of names.
    Value(Vec<u8>),
    /// To be written.
    New {
        name: Vec<u8>,
        value: Vec<u8>,
        size: usize,
        flags: u32,
    },
}

/// A file.
#[derive(Clone, Debug)]
pub struct Fid {
    /// The file itself, opened for nothing (`O_PATH`), or for reading and writing.
    pub at: Arc<OwnedFd>,
    /// What kind of file that is.
    pub kind: FileType,
    /// Opened for reading or writing.
    pub open: Option<Arc<OwnedFd>>,
    /// It is an attribute of the file instead.
    pub attribute: Option<Attribute>,
}

impl Fid {
    /// A file that was found.
    pub fn new(at: OwnedFd, stat: &Stat) -> Self {
        Self {
            at: Arc::new(at),
            kind: FileType::from_raw_mode(stat.st_mode),
            open: None,
            attribute: None,
        }
    }

    /// A name of the file that leads to it whatever becomes of its real names (proc(5)). Not for symbolic links: some calls would
    /// follow them.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for those.
    pub fn path(&self) -> Result<String, Errno> {
        if self.kind == FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        Ok(format!("/proc/self/fd/{}", self.at.as_raw_fd()))
    }

    /// What it is opened as.
    ///
    /// # Errors
    /// `EBADF` if it is not open.
    pub fn opened(&self) -> Result<&OwnedFd, Errno> {
        self.open.as_deref().ok_or(Errno::BADF)
    }
}

/// The most files with an attribute: of each up to 64 KiB are kept.
const MOST_ATTRIBUTES: usize = 64;

/// All files of a guest.
#[derive(Debug)]
pub struct Fids {
    all: HashMap<u32, Fid>,
    most: usize,
}

impl Fids {
    /// None, of which there can be so many that they hold at most `descriptors`: two each.
    pub fn new(descriptors: usize) -> Self {
        Self {
            all: HashMap::new(),
            most: descriptors / 2,
        }
    }

    /// The file with this number.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn get(&self, number: u32) -> Result<&Fid, Errno> {
        self.all.get(&number).ok_or(Errno::BADF)
    }

    /// The same, to be changed.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn get_mut(&mut self, number: u32) -> Result<&mut Fid, Errno> {
        self.all.get_mut(&number).ok_or(Errno::BADF)
    }

    /// Gives a file a number.
    ///
    /// # Errors
    /// `EBADF` if the number is in use, `EMFILE` if there are too many.
    pub fn add(&mut self, number: u32, fid: Fid) -> Result<(), Errno> {
        if number == kiln_ninep::NO_FID || self.all.contains_key(&number) {
            return Err(Errno::BADF);
        }
        self.replace(number, fid)
    }

    /// Gives a number another file.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn replace(&mut self, number: u32, fid: Fid) -> Result<(), Errno> {
        if self.all.len() >= self.most && !self.all.contains_key(&number) {
            return Err(Errno::MFILE);
        }
        self.all.insert(number, fid);
        Ok(())
    }

    /// Whether there may be one more with an attribute, whose value is kept in memory.
    ///
    /// # Errors
    /// `ENFILE`.
    pub fn check_attributes(&self) -> Result<(), Errno> {
        let with_one = |fid: &&Fid| fid.attribute.is_some();
        if self.all.values().filter(with_one).count() >= MOST_ATTRIBUTES {
            return Err(Errno::NFILE);
        }
        Ok(())
    }

    /// Takes a number back.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn remove(&mut self, number: u32) -> Result<Fid, Errno> {
        self.all.remove(&number).ok_or(Errno::BADF)
    }

    /// Takes all back.
    pub fn clear(&mut self) {
        self.all.clear();
    }
}

/// How the guest knows a file. Files on other file systems that are mounted in the folder get numbers that are unlikely to be those of
/// its own.
pub fn qid(stat: &Stat, root_device: u64) -> Qid {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Qid::DIRECTORY,
        FileType::Symlink => Qid::LINK,
        _ => 0,
    };
    let elsewhere = stat.st_dev ^ root_device;
    Qid {
        kind,
        version: 0,
        path: stat.st_ino ^ elsewhere.wrapping_mul(0x9e37_79b9_7f4a_7c15),
    }
}

/// A name as it may stand in a request.
///
/// # Errors
/// `EINVAL` for what is none, `ENAMETOOLONG`.
pub fn checked(name: &[u8]) -> Result<&[u8], Errno> {
    const LONGEST: usize = 255;
    if name.len() > LONGEST {
        return Err(Errno::NAMETOOLONG);
    }
    let good = !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0);
    good.then_some(name).ok_or(Errno::INVAL)
}
