//! Opening an image file and checking that it is one.
//!
//! Nothing in the file is trusted: it may come from a registry or a stranger. [`Layout::parse`] turns the first bytes of
//! a file into a description that a monitor can map without checking anything again, or into one sentence that says what
//! is wrong. Opening costs an `open`, an `fstat` and one `pread` of [`HEAD`] bytes, because programs start in less
//! time than reading them whole would take; a digest of the content is computed elsewhere, when somebody asks.

mod elf;
mod fault;
mod layout;
mod machine;
mod notes;
mod root;
mod segments;

#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::Config;

pub use fault::Fault;
pub use layout::Layout;
pub use machine::{GUEST_ADDRESS, MACHINE_ADDRESS, MachineHeader, MachinePart};
pub use notes::{BuildId, Device};
pub use root::{FilePart, MAX_CONFIG};
pub(crate) use root::{PT_CONFIG, PT_ROOT};
pub use segments::{Access, LoadSegment};

/// Headers and notes of an image lie in this many bytes at its start. The greatest number of devices fits twice.
pub const HEAD: usize = 8192;

/// The most memory in bytes that the segments of an image may span.
pub const MAX_SPAN: u64 = 1 << 30;

/// The greatest alignment in bytes that a segment may ask for.
pub const MAX_ALIGNMENT: u64 = 2 << 20;

/// An open image whose headers have been checked.
///
/// What the headers say is in its [`Layout`].
#[derive(Debug)]
pub struct Image {
    file: File,
    path: PathBuf,
    layout: Layout,
}

/// Why a file cannot be run as an image.
#[derive(Debug, Error)]
#[error("{}: {reason}", path.display())]
pub struct ImageError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub reason: Reason,
}

/// The reason in an [`ImageError`].
#[derive(Debug, Error)]
pub enum Reason {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It can be read and is not an image, or a bad one.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Image {
    /// Opens and checks the image at `path`.
    ///
    /// # Errors
    /// If the file cannot be read or is not a valid image for this version of Kiln.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ImageError> {
        let path = path.into();
        match File::open(&path) {
            Ok(file) => Self::from_file(file, path),
            Err(error) => Err(ImageError {
                path,
                reason: error.into(),
            }),
        }
    }

    /// Checks the image in an open file. `path` is its name for messages, and where its debug file is looked for.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn from_file(file: File, path: impl Into<PathBuf>) -> Result<Self, ImageError> {
        let path = path.into();
        match check(&file) {
            Ok(layout) => Ok(Self { file, path, layout }),
            Err(reason) => Err(ImageError { path, reason }),
        }
    }

    /// Checks the first bytes of a file of `file_size` bytes: [`HEAD`] of them, or all if they are fewer.
    ///
    /// # Errors
    /// A [`Fault`] if it is not a valid image.
    pub fn parse(head: &[u8], file_size: u64) -> Result<Layout, Fault> {
        Layout::parse(head, file_size)
    }

    /// The open file, for mapping its segments.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The name under which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, given away.
    pub fn into_file(self) -> File {
        self.file
    }

    /// How the Linux program in the image is started; `None` if the image has none.
    ///
    /// # Errors
    /// If the file cannot be read, or the configuration is not of this version of Kiln.
    pub fn config(&self) -> Result<Option<Config>, ImageError> {
        let Some(part) = self.layout.config_part() else {
            return Ok(None);
        };
        let mut bytes = vec![0; part.len as usize];
        self.file
            .read_exact_at(&mut bytes, part.offset)
            .map_err(Reason::from)
            .and_then(|()| Ok(Config::parse(&bytes)?))
            .map(Some)
            .map_err(|reason| ImageError {
                path: self.path.clone(),
                reason,
            })
    }

    /// What the headers say.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}

impl Deref for Image {
    type Target = Layout;

    fn deref(&self) -> &Layout {
        &self.layout
    }
}

fn check(file: &File) -> Result<Layout, Reason> {
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(Fault::Directory.into());
    }
    let mut head = [0; HEAD];
    let mut len = 0;
    while len < HEAD {
        match file.read_at(&mut head[len..], len as u64) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        // The usual case: no second call just to be told of the end.
        if len as u64 == metadata.len() {
            break;
        }
    }
    Ok(Layout::parse(&head[..len], metadata.len())?)
}
