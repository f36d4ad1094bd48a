//! The core file of a Linux program (`--core`).
//!
//! The guest writes it, for nobody else knows the program's threads and mappings. It gets a folder for that which was made for it, is empty,
//! and takes no more than a program can have in memory; what lies there at the end under the right name, and is a file, becomes the core file.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::backend::{Device, LinkEnds};
use crate::devices::folder::{self, Folder};
use crate::devices::longest_message;
use crate::spec::{Spec, VolumeOption};

/// The file's name in the folder.
const NAME: &str = "core";
/// What may be written beside the program's memory: headers, registers, names.
const BESIDE: u64 = 64 << 20;

/// Where a core file is written, and where it goes. Dropping it takes away what was made.
#[derive(Debug)]
pub struct CoreFile {
    folder: PathBuf,
    target: PathBuf,
}

impl CoreFile {
    /// Makes the folder, beside the file that is wanted; `None` if none is.
    ///
    /// # Errors
    /// [`Error::Option`] if there cannot be such a file, [`Error::File`] if nothing can be made there.
    pub fn prepare(spec: &Spec, name: &str, id: &str) -> Result<Option<Self>, Error> {
        let Some(wanted) = &spec.core else {
            return Ok(None);
        };
        let bad = |problem: &str| Error::option("--core", &wanted.display().to_string(), problem);
        let wanted =
            std::path::absolute(wanted).map_err(|error| Error::file("find", wanted, error))?;
        let target = if wanted.is_dir() {
            wanted.join(format!("core.{name}.{id}"))
        } else {
            wanted
        };
        if fs::symlink_metadata(&target).is_ok_and(|there| !there.is_file()) {
            return Err(bad("this is there, and it is no ordinary file"));
        }
        let parent = target.parent().filter(|parent| parent.is_dir());
        let parent = parent.ok_or_else(|| bad("there is no such folder"))?;
        let folder = parent.join(format!(".kiln-core-{id}"));
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(|error| Error::file("create", &folder, error))?;
        Ok(Some(Self { folder, target }))
    }

    /// The device that leads there, being the one with this number.
    ///
    /// # Errors
    /// The host's.
    pub fn device(&self, spec: &Spec, ends: LinkEnds) -> Result<(Device, Folder), Error> {
        let option = VolumeOption {
            folder: self.folder.clone(),
            path: String::new(),
            read_only: false,
        };
        let number = spec.volumes.len();
        let longest = longest_message(ends);
        let (device, folder) = folder::open(&option, number, number + 1, longest)?;
        Ok((device, folder.limited(spec.memory.bytes() + BESIDE)))
    }

    /// The folder, for whoever cleans up if this process is killed; `None` if its path is no text.
    pub fn folder(&self) -> Option<String> {
        self.folder.to_str().map(str::to_owned)
    }

    /// What the library OS is told of it.
    pub fn argument(spec: &Spec) -> String {
        format!("--core={}", VolumeOption::device(spec.volumes.len()))
    }

    /// Puts the core file where it was wanted, if there is one. Returns where that is, and how much of the disk it takes.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn collect(self) -> Result<Option<(PathBuf, u64)>, Error> {
        /// Of `st_blocks`.
        const BLOCK: u64 = 512;
        let written = self.folder.join(NAME);
        let Ok(metadata) = fs::symlink_metadata(&written) else {
            return Ok(None);
        };
        if !metadata.is_file() {
            return Ok(None);
        }
        let move_there = |from: &Path| fs::rename(from, &self.target);
        move_there(&written).map_err(|error| Error::file("write", &self.target, error))?;
        Ok(Some((self.target.clone(), metadata.blocks() * BLOCK)))
    }
}

impl Drop for CoreFile {
    fn drop(&mut self) {
        // What cannot be removed is the user's to see.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
