//! Taking files of the host into a tree, under the paths that they have here.
//!
//! Whatever leads to a file is taken too: folders with their permissions, and symbolic links on the way as links, with what
//! they lead to. So a path means the same in the guest as on the host.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use kiln_fs::erofs::{Kind, Meta, Source, Stamp, Tree};

use crate::Error;
use crate::exclude::Excluded;

/// `ELOOP`.
const MAX_LINKS: usize = 40;

/// What a file of the host was like when it was taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seen {
    /// Where.
    pub path: PathBuf,
    /// What was looked at.
    pub look: Look,
    /// What was found, see [`Look`]; zeroes for what is not there.
    pub stamp: [u64; 4],
}

/// What of a file counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Look {
    /// All: inode, size, and times of modification and change in nanoseconds.
    All,
    /// Type and permissions, owner and group, and nothing: what folders on the way hold besides does not matter, nor when
    /// they changed.
    Way,
}

impl Look {
    /// What is at `path` now; links are not followed.
    fn at(self, path: &Path) -> [u64; 4] {
        fs::symlink_metadata(path).map_or([0; 4], |meta| self.of(&meta))
    }

    fn of(self, meta: &Metadata) -> [u64; 4] {
        let nanos = |seconds: i64, nanos: i64| {
            (seconds.cast_unsigned())
                .wrapping_mul(1_000_000_000)
                .wrapping_add(nanos.cast_unsigned())
        };
        // A folder's size says nothing that its times do not, and differs between file systems.
        let size = if meta.is_dir() { 0 } else { meta.size() };
        match self {
            Self::All => [
                meta.ino(),
                size,
                nanos(meta.mtime(), meta.mtime_nsec()),
                nanos(meta.ctime(), meta.ctime_nsec()),
            ],
            Self::Way => [meta.mode().into(), meta.uid().into(), meta.gid().into(), 0],
        }
    }
}

impl Seen {
    /// What is at `path` now; links are not followed.
    pub fn now(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            look: Look::All,
            stamp: Look::All.at(path),
        }
    }

    /// Whether it is still so.
    pub fn holds(&self) -> bool {
        self.look.at(&self.path) == self.stamp
    }

    fn of(path: &Path, look: Look, meta: &Metadata) -> Self {
        Self {
            path: path.to_owned(),
            look,
            stamp: look.of(meta),
        }
    }
}

/// How a file that is taken is watched for changes afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// By itself.
    File,
    /// By the package system: its files change when a package does.
    Package,
}

/// Files that are being gathered.
pub(crate) struct Collector {
    pub tree: Tree,
    excluded: Excluded,
    /// What was taken already, by path, and whether it is watched by itself.
    taken: HashMap<PathBuf, bool>,
    /// The first name of files that have several.
    names: HashMap<(u64, u64), PathBuf>,
    /// What has to be looked at to know whether anything changed.
    pub seen: Vec<Seen>,
    /// Files that could not be read, and were left out.
    pub unreadable: Vec<PathBuf>,
    /// Regular files that may be ELF files whose libraries are to be taken too.
    pub objects: Vec<PathBuf>,
    /// Bytes of all regular files.
    pub bytes: u64,
    /// What the content of files depends on, and the times of folders that are taken whole; the tree tells the rest.
    pub identity: Vec<Seen>,
    /// What `add_tree` was last called with: how its first folder is known.
    most: usize,
}

impl Collector {
    pub fn new(excluded: Excluded) -> Self {
        Self {
            tree: Tree::default(),
            excluded,
            taken: HashMap::new(),
            names: HashMap::new(),
            seen: Vec::new(),
            unreadable: Vec::new(),
            objects: Vec::new(),
            bytes: 0,
            identity: Vec::new(),
            most: 0,
        }
    }

    /// Takes the file at `path`, which must be absolute, and what leads there; a folder without what is in it. Returns where
    /// it really is.
    ///
    /// # Errors
    /// As of `stat(2)`; nothing else is an error, not even a file that cannot be read.
    pub fn add(&mut self, path: &Path, watch: Watch) -> io::Result<PathBuf> {
        self.walk(path, watch, MAX_LINKS)
    }

    /// The same for a file that may be missing. Its absence is watched, too.
    pub fn add_if_there(&mut self, path: &Path, watch: Watch) -> Option<PathBuf> {
        let found = self.add(path, watch).ok();
        if found.is_none() {
            self.seen.push(Seen::now(path));
        }
        found
    }

    /// Takes a folder with all that is in it, other file systems and what is mounted on them too; links that lead out of it
    /// are followed. Stops behind `most` files and returns false then.
    pub fn add_tree(&mut self, path: &Path, watch: Watch, most: usize) -> io::Result<bool> {
        let mut left = most;
        self.most = most;
        self.descend(path, watch, &mut left)
    }

    fn descend(&mut self, path: &Path, watch: Watch, left: &mut usize) -> io::Result<bool> {
        let real = self.add(path, watch)?;
        if !fs::symlink_metadata(&real)?.is_dir() {
            return Ok(true);
        }
        let seen = Seen::now(&real);
        self.identity.push(seen.clone());
        // A package's modules are added at the top, and whole folders of them would be many to look at.
        if watch == Watch::File || *left == self.most {
            self.seen.push(seen);
        }
        let Ok(entries) = fs::read_dir(&real) else {
            self.unreadable.push(real);
            return Ok(true);
        };
        let mut names: Vec<_> = entries.filter_map(Result::ok).collect();
        names.sort_unstable_by_key(fs::DirEntry::file_name);
        for entry in names {
            let path = real.join(entry.file_name());
            let useless = watch == Watch::Package && (is_for_building(&path) || says_again(&path));
            let folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            // A folder may be there because of one of its files only, and a package's file not be watched.
            let taken = !folder && watch == Watch::Package && self.taken.contains_key(&path);
            if useless || self.excluded.matches(&path) || taken {
                continue;
            }
            let Some(less) = left.checked_sub(1) else {
                return Ok(false);
            };
            *left = less;
            if folder {
                if !self.descend(&path, watch, left)? {
                    return Ok(false);
                }
            } else {
                // A dangling link stays one.
                let _ = self.add(&path, watch);
            }
        }
        Ok(true)
    }

    /// Puts a file that the host does not have.
    pub fn write(&mut self, path: &str, content: impl Into<Vec<u8>>) -> Result<(), Error> {
        let source = Source::Bytes(content.into());
        self.tree
            .file(path.as_bytes(), Meta::new(0o644), source)
            .map_err(|error| Error::Misplaced(error.to_string()))
    }

    /// Makes a folder that the host may not have.
    pub fn folder(&mut self, path: &str, mode: u16) -> Result<(), Error> {
        self.tree
            .directory(path.as_bytes(), Meta::new(mode))
            .map_err(|error| Error::Misplaced(error.to_string()))
    }

    /// True if the user does not want it.
    pub fn excludes(&self, path: &Path) -> bool {
        self.excluded.matches(path)
    }

    fn walk(&mut self, path: &Path, watch: Watch, links: usize) -> io::Result<PathBuf> {
        let mut here = PathBuf::from("/");
        let mut components = path.components();
        while let Some(component) = components.next() {
            match component {
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
                Component::ParentDir => {
                    here.pop();
                }
                Component::Normal(name) => {
                    here.push(name);
                    if let Some(target) = self.one(&here, watch)? {
                        let links = links
                            .checked_sub(1)
                            .ok_or_else(|| io::Error::from_raw_os_error(libc_eloop()))?;
                        here.pop();
                        let mut next = here.join(target);
                        next.extend(components);
                        return self.walk(&next, watch, links);
                    }
                }
            }
        }
        Ok(here)
    }

    /// Takes what is at `path`, whose folder was taken already. Returns the target if it is a link.
    fn one(&mut self, path: &Path, watch: Watch) -> io::Result<Option<PathBuf>> {
        let meta = fs::symlink_metadata(path)?;
        let link = if meta.is_symlink() {
            Some(fs::read_link(path)?)
        } else {
            None
        };
        let watched = is_watched(path, watch);
        let before = self.taken.get(path).copied();
        if watched && before != Some(true) {
            let look = if meta.is_dir() { Look::Way } else { Look::All };
            self.seen.push(Seen::of(path, look, &meta));
        }
        let watched = watched || before == Some(true);
        self.taken.insert(path.to_owned(), watched);
        if before.is_some() {
            return Ok(link);
        }
        let own = meta_of(&meta);
        let name = path.as_os_str().as_bytes();
        let put = if let Some(target) = &link {
            self.tree.symlink(name, own, target.as_os_str().as_bytes())
        } else if meta.is_dir() {
            self.tree.directory(name, own)
        } else if meta.is_file() {
            return self.regular(path, &meta, own).map(|()| None);
        } else {
            let (kind, numbers) = kind_of(&meta);
            self.tree.special(name, own, kind, numbers)
        };
        put.map_err(io::Error::other)?;
        Ok(link)
    }

    fn regular(&mut self, path: &Path, meta: &Metadata, own: Meta) -> io::Result<()> {
        let name = path.as_os_str().as_bytes();
        if rustix::fs::access(path, rustix::fs::Access::READ_OK).is_err() {
            self.taken.remove(path);
            self.unreadable.push(path.to_owned());
            return Ok(());
        }
        if meta.nlink() > 1 {
            let key = (meta.dev(), meta.ino());
            if let Some(first) = self.names.get(&key) {
                let first = first.as_os_str().as_bytes();
                return self.tree.hard_link(name, first).map_err(io::Error::other);
            }
            self.names.insert(key, path.to_owned());
        }
        self.identity.push(Seen::of(path, Look::All, meta));
        self.bytes += meta.len();
        self.objects.push(path.to_owned());
        let source = Source::File(path.to_owned(), meta.len());
        self.tree.file(name, own, source).map_err(io::Error::other)
    }
}

/// Owner, permissions and time of a file.
pub(crate) fn meta_of(meta: &Metadata) -> Meta {
    Meta {
        mode: (meta.mode() & 0o7777) as u16,
        uid: meta.uid(),
        gid: meta.gid(),
        modified: Stamp {
            seconds: meta.mtime(),
            nanos: u32::try_from(meta.mtime_nsec()).unwrap_or(0),
        },
        attributes: Vec::new(),
    }
}

/// What a file is that is neither regular nor folder nor link, and its numbers if it is a device.
pub(crate) fn kind_of(meta: &Metadata) -> (Kind, (u32, u32)) {
    let kind = meta.file_type();
    let kind = if kind.is_char_device() {
        Kind::CharDevice
    } else if kind.is_block_device() {
        Kind::BlockDevice
    } else if kind.is_fifo() {
        Kind::Fifo
    } else {
        Kind::Socket
    };
    let device = meta.rdev();
    (kind, (rustix::fs::major(device), rustix::fs::minor(device)))
}

/// Packages' files change when packages do, but configuration is for everybody to change.
fn is_watched(path: &Path, watch: Watch) -> bool {
    watch == Watch::File || path.starts_with("/etc") && !path.starts_with("/etc/ssl/certs")
}

/// What only compilers read: static libraries, headers.
pub(crate) fn is_for_building(path: &Path) -> bool {
    let ending = path.extension().and_then(std::ffi::OsStr::to_str);
    matches!(
        ending,
        Some("a" | "la" | "o" | "h" | "hi" | "cmxa" | "cmx" | "cmt" | "cmti")
    )
}

/// Folders that have another folder's files once more: time zones as they are, and with leap seconds.
fn says_again(path: &Path) -> bool {
    let again = ["posix", "right"].map(|name| Path::new("/usr/share/zoneinfo").join(name));
    again.iter().any(|other| other == path)
}

const fn libc_eloop() -> i32 {
    rustix::io::Errno::LOOP.raw_os_error()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::cache::Key;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("kiln-collect-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn collect(take: impl FnOnce(&mut Collector)) -> Collector {
        let mut to = Collector::new(Excluded::new(&[]));
        take(&mut to);
        to
    }

    fn digest(to: &Collector) -> Key {
        Key::of(&(&to.tree, &to.identity))
    }

    fn files(paths: &[&Path]) -> Collector {
        collect(|to| {
            for path in paths {
                to.add(path, Watch::File).unwrap();
            }
        })
    }

    fn folder(path: &Path) -> Collector {
        collect(|to| assert!(to.add_tree(path, Watch::File, 1000).unwrap()))
    }

    fn change_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn holds(to: &Collector) -> bool {
        to.seen.iter().all(Seen::holds)
    }

    #[test]
    fn the_digest_depends_on_all_that_is_there() {
        let scratch = Scratch::new("digest");
        let top = scratch.path("d");
        fs::create_dir(&top).unwrap();
        fs::write(top.join("file"), "content").unwrap();
        symlink("file", top.join("link")).unwrap();
        let mut known = vec![digest(&folder(&top))];
        assert_eq!(digest(&folder(&top)), known[0], "the same twice");
        let mut changed = |what| {
            let new = digest(&folder(&top));
            assert!(!known.contains(&new), "{what}");
            known.push(new);
        };
        fs::create_dir(top.join("sub")).unwrap();
        changed("an empty folder");
        change_mode(&top.join("sub"), 0o700);
        changed("its permissions");
        change_mode(&top, 0o711);
        changed("those of the folder itself");
        fs::hard_link(top.join("file"), top.join("other")).unwrap();
        changed("another name");
        fs::rename(top.join("other"), top.join("third")).unwrap();
        changed("yet another");
        fs::remove_file(top.join("link")).unwrap();
        symlink("third", top.join("link")).unwrap();
        changed("a link's target");
        fs::remove_file(top.join("link")).unwrap();
        fs::create_dir(top.join("link")).unwrap();
        changed("what kind it is");
    }

    #[test]
    fn names_without_content_count() {
        let scratch = Scratch::new("names");
        let (a, b) = (scratch.path("a"), scratch.path("b"));
        fs::write(&a, "content").unwrap();
        fs::hard_link(&a, &b).unwrap();
        assert_ne!(digest(&files(&[&a])), digest(&files(&[&a, &b])));
        let (one, two) = (scratch.path("one"), scratch.path("two"));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&two).unwrap();
        assert_ne!(digest(&files(&[&one])), digest(&files(&[&two])));
    }

    #[test]
    fn what_others_do_in_folders_on_the_way_does_not_count() {
        let scratch = Scratch::new("way");
        let file = scratch.path("folder/file");
        fs::create_dir(scratch.path("folder")).unwrap();
        fs::write(&file, "content").unwrap();
        let before = files(&[&file]);
        fs::write(scratch.path("folder/other"), "content").unwrap();
        assert!(holds(&before));
        assert_eq!(digest(&files(&[&file])), digest(&before));
        change_mode(&scratch.path("folder"), 0o700);
        assert!(!holds(&before), "its permissions do");
        assert_ne!(digest(&files(&[&file])), digest(&before));
    }

    #[test]
    fn folders_that_are_taken_whole_are_watched() {
        let scratch = Scratch::new("whole");
        fs::create_dir_all(scratch.path("d/deep")).unwrap();
        fs::write(scratch.path("d/deep/file"), "content").unwrap();
        let before = folder(&scratch.path("d"));
        assert!(holds(&before));
        fs::write(scratch.path("d/deep/new"), "content").unwrap();
        assert!(!holds(&before));
    }

    #[test]
    fn a_packages_file_is_watched_once_it_is_named() {
        let scratch = Scratch::new("named");
        let file = scratch.path("file");
        for whole in [false, true] {
            fs::write(&file, "content").unwrap();
            let to = collect(|to| {
                to.add(&file, Watch::Package).unwrap();
                if whole {
                    to.add_tree(&scratch.0, Watch::File, 1000).unwrap();
                } else {
                    to.add(&file, Watch::File).unwrap();
                }
            });
            assert!(holds(&to));
            assert_eq!(
                to.identity.iter().filter(|seen| seen.path == file).count(),
                1
            );
            fs::write(&file, "other content").unwrap();
            assert!(!holds(&to), "whole: {whole}");
        }
    }
}
