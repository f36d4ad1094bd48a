//! A root file system that somebody made in a folder: taken as it is.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kiln_fs::erofs::{Source, Tree};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use crate::collect::{kind_of, meta_of};
use crate::elf::{self, Kind, Parsed};
use crate::exclude::Excluded;
use crate::{DEFAULT_PATH, Error};

/// A folder as a root file system.
#[derive(Debug)]
pub struct Folder {
    /// Its files.
    pub tree: Tree,
    /// Path of the program in it.
    pub program: String,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Takes all files in `folder`, with their owners and permissions, but those excluded. `word` names the program in it: an
/// absolute path there, or a name on the search path of guests.
///
/// # Errors
/// If a file cannot be read, or the program is not there or none that could run.
pub fn folder(folder: &Path, word: &str, exclude: &[String]) -> Result<Folder, Error> {
    let meta = fs::metadata(folder).map_err(|error| Error::unreadable(folder, error))?;
    if !meta.is_dir() {
        return Err(Error::NotAProgram {
            path: folder.to_owned(),
            what: "a folder with a root file system is expected",
        });
    }
    let mut taking = Taking {
        tree: Tree::new(meta_of(&meta)),
        names: HashMap::new(),
        excluded: Excluded::new(exclude),
        bytes: 0,
    };
    taking.take(folder, Path::new("/"))?;
    let root = rustix::fs::openat(CWD, folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Error::unreadable(folder, error.into()))?;
    Ok(Folder {
        program: find(&root, word)?,
        tree: taking.tree,
        bytes: taking.bytes,
    })
}

struct Taking {
    tree: Tree,
    names: HashMap<(u64, u64), PathBuf>,
    excluded: Excluded,
    bytes: u64,
}

impl Taking {
    /// Takes what is in `from` as what is in `to`.
    fn take(&mut self, from: &Path, to: &Path) -> Result<(), Error> {
        let unreadable = |error| Error::unreadable(from, error);
        for entry in fs::read_dir(from).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let (path, inside) = (entry.path(), to.join(entry.file_name()));
            if self.excluded.matches(&inside) {
                continue;
            }
            let meta = entry
                .metadata()
                .map_err(|error| Error::unreadable(&path, error))?;
            let own = meta_of(&meta);
            let name = inside.as_os_str().as_bytes();
            let put = if meta.is_dir() {
                self.tree.directory(name, own)
            } else if meta.is_symlink() {
                let target =
                    fs::read_link(&path).map_err(|error| Error::unreadable(&path, error))?;
                self.tree.symlink(name, own, target.as_os_str().as_bytes())
            } else if meta.is_file() {
                let key = (meta.dev(), meta.ino());
                if let Some(first) = self.names.get(&key) {
                    self.tree.hard_link(name, first.as_os_str().as_bytes())
                } else {
                    File::open(&path).map_err(|error| Error::unreadable(&path, error))?;
                    if meta.nlink() > 1 {
                        self.names.insert(key, inside.clone());
                    }
                    self.bytes += meta.len();
                    self.tree
                        .file(name, own, Source::File(path.clone(), meta.len()))
                }
            } else {
                let (kind, numbers) = kind_of(&meta);
                self.tree.special(name, own, kind, numbers)
            };
            put.map_err(|error| Error::Misplaced(error.to_string()))?;
            if meta.is_dir() {
                self.take(&path, &inside)?;
            }
        }
        Ok(())
    }
}

/// Opens a path as the guest would, with its root as the top.
fn open(root: &OwnedFd, path: &str) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).map(File::from)
}

fn find(root: &OwnedFd, word: &str) -> Result<String, Error> {
    let candidates: Vec<String> = if word.starts_with('/') {
        vec![word.to_owned()]
    } else if word.contains('/') {
        vec![format!("/{word}")]
    } else {
        DEFAULT_PATH
            .split(':')
            .map(|folder| format!("{folder}/{word}"))
            .collect()
    };
    for path in candidates {
        let Ok(file) = open(root, &path) else {
            continue;
        };
        let at = PathBuf::from(&path);
        let meta = file
            .metadata()
            .map_err(|error| Error::unreadable(&at, error))?;
        if !meta.is_file() {
            return Err(Error::NotAFile {
                path: at,
                what: "something else",
            });
        }
        if meta.mode() & 0o111 == 0 {
            return Err(Error::NotExecutable(at));
        }
        return match elf::parse(&file).map_err(|error| Error::unreadable(&at, error))? {
            Parsed::Foreign(machine) => Err(Error::Foreign { path: at, machine }),
            Parsed::Damaged(what) => Err(Error::NotAProgram { path: at, what }),
            Parsed::Elf(elf) if elf.kind == Kind::Other => Err(Error::NotAProgram {
                path: at,
                what: "an object file or core dump",
            }),
            Parsed::Elf(elf) => match elf.interpreter {
                Some(interpreter) if open(root, &interpreter).is_err() => Err(Error::NoLoader {
                    program: at,
                    interpreter,
                }),
                _ => Ok(path),
            },
            Parsed::Other(head) if head.starts_with(b"#!") => Ok(path),
            Parsed::Other(_) => Err(Error::NotAProgram {
                path: at,
                what: "neither an ELF file nor a script that starts with #!",
            }),
        };
    }
    Err(Error::NotFound(word.to_owned()))
}
