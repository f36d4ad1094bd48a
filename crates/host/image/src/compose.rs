//! Joining the Linux personality and a root file system to one image.
//!
//! The personality is an image as others are, but its headers leave room for two more
//! ([`Builder::for_programs`](crate::Builder::for_programs)). Composing appends the configuration, then the root file
//! system from a page's start on, and fills these headers in; not a byte of what is loaded changes, so all programs share
//! the personality's pages if the file system of the host can share them.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use kiln_abi::PAGE_SIZE;
use thiserror::Error;

use crate::config::Config;
use crate::image::{Fault, Image, MAX_CONFIG, PT_CONFIG, PT_ROOT};

const PT_NULL: u32 = 0;
const PF_R: u32 = 4;
const HEADER_SIZE: usize = 56;

/// Why an image cannot be composed.
#[derive(Debug, Error)]
pub enum ComposeError {
    /// The personality is not an image.
    #[error("the Linux personality: {0}")]
    Personality(#[from] Fault),
    /// It is one, but not made for programs.
    #[error("the Linux personality has no room for a root file system: build it again")]
    NoRoom,
    /// More arguments and environment than an image can hold.
    #[error("arguments and environment are longer than {MAX_CONFIG} bytes")]
    LongConfig,
    /// The file cannot be written.
    #[error("cannot write {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Makes the image file `output` of the personality's bytes, what `write_root` writes from the file's position on, and
/// `config`. `write_root` must write whole pages; what it returns is handed through. `mode` are the file's permissions, of
/// which the umask takes some.
///
/// The file appears in one step when it is complete and on the disk: whenever the machine stops, there is all of it or what
/// was there before. (For 50 MiB that takes some 30 ms on an SSD.)
///
/// # Errors
/// [`ComposeError`]; `write_root`'s errors are taken for those of the file.
pub fn compose<R>(
    output: &Path,
    personality: &[u8],
    config: &Config,
    mode: u32,
    write_root: impl FnOnce(&mut File) -> io::Result<R>,
) -> Result<R, ComposeError> {
    let layout = Image::parse(personality, personality.len() as u64)?;
    if layout.root().is_some() {
        return Err(ComposeError::NoRoom);
    }
    let config = config.bytes();
    if config.len() as u64 > MAX_CONFIG {
        return Err(ComposeError::LongConfig);
    }
    let mut head = personality.to_vec();
    let slots = free_headers(&head);
    let [config_slot, root_slot] = slots[..] else {
        return Err(ComposeError::NoRoom);
    };
    let config_at = head.len().next_multiple_of(8);
    let root_at = (config_at + config.len()).next_multiple_of(PAGE_SIZE as usize);
    put_header(
        &mut head,
        config_slot,
        PT_CONFIG,
        config_at,
        config.len() as u64,
    );
    head.resize(config_at, 0);
    head.extend_from_slice(&config);
    head.resize(root_at, 0);

    let temporary = temporary(output);
    // What a process of the same number left there, or somebody put there.
    let _ = std::fs::remove_file(&temporary);
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|file| write(file, &mut head, root_slot, root_at, write_root))
        .and_then(|result| std::fs::rename(&temporary, output).map(|()| result))
        .map_err(|error| {
            // The first error is the one to report.
            let _ = std::fs::remove_file(&temporary);
            ComposeError::Io {
                path: output.to_owned(),
                error,
            }
        })
}

/// A name beside `output` that nobody else uses.
fn temporary(output: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(output.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    output.with_file_name(name)
}

fn write<R>(
    mut file: File,
    head: &mut [u8],
    root_slot: usize,
    root_at: usize,
    write_root: impl FnOnce(&mut File) -> io::Result<R>,
) -> io::Result<R> {
    file.seek(SeekFrom::Start(root_at as u64))?;
    let result = write_root(&mut file)?;
    let end = file.seek(SeekFrom::End(0))?;
    let len = end.saturating_sub(root_at as u64);
    if len == 0 || !len.is_multiple_of(PAGE_SIZE) {
        return Err(io::Error::other("the root file system is not whole pages"));
    }
    put_header(head, root_slot, PT_ROOT, root_at, len);
    file.seek(SeekFrom::Start(0))?;
    file.write_all(head)?;
    match file.sync_data() {
        // A file system that has nothing to be synchronized with.
        Err(error) if is_unsupported(&error) => Ok(result),
        done => done.map(|()| result),
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
    )
}

/// Where the program headers stand that are not in use. The image was checked before.
fn free_headers(image: &[u8]) -> Vec<usize> {
    let word = |at: usize| image.get(at..)?.first_chunk().copied();
    let table = word(32).map_or(0, u64::from_le_bytes) as usize;
    let count = image
        .get(56..)
        .and_then(|rest| rest.first_chunk().copied())
        .map_or(0, u16::from_le_bytes);
    (0..usize::from(count))
        .map(|index| table.saturating_add(index * HEADER_SIZE))
        .filter(|&at| {
            let kind = image.get(at..).and_then(|rest| rest.first_chunk().copied());
            kind.map(u32::from_le_bytes) == Some(PT_NULL)
        })
        // A segment that turned out empty leaves a header that will do as well.
        .take(2)
        .collect()
}

fn put_header(image: &mut [u8], at: usize, kind: u32, offset: usize, len: u64) {
    let mut header = [0; HEADER_SIZE];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[4..8].copy_from_slice(&PF_R.to_le_bytes());
    header[8..16].copy_from_slice(&(offset as u64).to_le_bytes());
    header[32..40].copy_from_slice(&len.to_le_bytes());
    header[48..56].copy_from_slice(&8u64.to_le_bytes());
    if let Some(place) = image.get_mut(at..at + HEADER_SIZE) {
        place.copy_from_slice(&header);
    }
}
