//! The state folder: which instances exist, and how they are.
//!
//! There is no daemon, so what one command must know of another's instance stands in files:
//!
//! ```text
//! $XDG_RUNTIME_DIR/kiln/            or /run/kiln as root, else /tmp/kiln-UID; mode 0700
//!     names/web -> 0123456789ab     who has a name; made atomically, so a name has one owner
//!     0123456789ab/                 one instance; its supervisor holds a lock (flock) on this folder
//!         state.jsonl               what it is, then how it ended; see `record`
//!         control.sock              requests to its supervisor; see `control`
//!         console.log               its output; see `console`
//! ```
//!
//! The lock is how others know that a supervisor lives: the host releases it when the process ends, however it ends.
//! It is taken on the folder itself because every file made costs start-up time. An instance without a lock and
//! without a recorded end lost its supervisor; whoever finds it so records that ([`Status::Dead`]).

pub mod claim;
pub mod record;
#[cfg(test)]
pub mod testing;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::clock::WallTime;
use crate::{Error, error, names};

pub use claim::Claim;
pub use record::{End, Record, Status};

pub(crate) const STATE_FILE: &str = "state.jsonl";
pub(crate) const CONTROL_SOCKET: &str = "control.sock";
const NAMES: &str = "names";

/// How old an instance's folder without a record must be before it counts as left behind by a supervisor that was
/// killed at the very start.
const STARTING: Duration = Duration::from_secs(5);

/// The state folder.
#[derive(Debug)]
pub struct Registry {
    root: PathBuf,
    dir: OwnedFd,
}

/// One instance as its files tell it.
#[derive(Clone, Debug)]
pub struct Instance {
    /// What it is.
    pub record: Record,
    /// How it is now.
    pub status: Status,
    /// How it ended, if it has.
    pub end: Option<End>,
    /// Its folder.
    pub path: PathBuf,
}

impl Registry {
    /// Opens this user's state folder and makes it if there is none.
    ///
    /// # Errors
    /// [`Error::StateFolder`] if it belongs to somebody else, can be read by others, is a link, or cannot be made.
    pub fn open() -> Result<Self, Error> {
        Self::at(&default_root())
    }

    /// Opens the state folder at `root`, likewise.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn at(root: &Path) -> Result<Self, Error> {
        let dir = match open_folder(CWD, root) {
            Err(Errno::NOENT) => {
                make(CWD, root).map_err(|error| folder_error(root, &error.to_string()))?;
                let dir = open_folder(CWD, root);
                let dir = dir.map_err(|error| folder_error(root, &error.to_string()))?;
                make(&dir, Path::new(NAMES))
                    .map_err(|error| Error::file("create", root.join(NAMES), error))?;
                dir
            }
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(folder_error(root, "it is a link or a file: remove it"));
            }
            result => result.map_err(|error| folder_error(root, &error.to_string()))?,
        };
        let stat = rustix::fs::fstat(&dir).map_err(|error| Error::file("look at", root, error))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(folder_error(root, "it belongs to another user"));
        }
        if stat.st_mode & 0o077 != 0 {
            return Err(folder_error(
                root,
                &format!(
                    "other users have access to it: chmod 700 {}",
                    root.display()
                ),
            ));
        }
        Ok(Self {
            root: root.to_owned(),
            dir,
        })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A name that nobody has at the moment, made of `random`.
    pub fn free_name(&self, random: [u8; 6]) -> String {
        let mut name = names::generated(random, 0);
        // Each try but the first has 65536 more names, so that running out of tries means something else is broken,
        // which claiming the name will then tell.
        for attempt in 1..64 {
            if self.owner_of(&name).is_none() {
                break;
            }
            name = names::generated(random, attempt);
        }
        name
    }

    /// All instances, oldest first. Those that lost their supervisor are marked, or removed if that was wished.
    ///
    /// # Errors
    /// [`Error::File`] if the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Instance>, Error> {
        let mut instances = Vec::new();
        for id in self.ids()? {
            instances.extend(self.load(&id)?);
        }
        instances.sort_by(|a, b| {
            (a.record.created, &a.record.id).cmp(&(b.record.created, &b.record.id))
        });
        Ok(instances)
    }

    /// The instance with this name, id, or first digits of an id.
    ///
    /// # Errors
    /// [`Error::NoInstance`], [`Error::Ambiguous`].
    pub fn find(&self, key: &str) -> Result<Instance, Error> {
        let none = || Error::NoInstance(key.to_owned());
        if names::valid(key)
            && let Some(id) = self.owner_of(key)
            && let Some(instance) = self.load(&id)?
        {
            return Ok(instance);
        }
        if !names::is_id_prefix(key) {
            return Err(none());
        }
        let mut matching = self.ids()?.into_iter().filter(|id| id.starts_with(key));
        let id = matching.next().ok_or_else(none)?;
        if matching.next().is_some() {
            return Err(Error::Ambiguous(key.to_owned()));
        }
        self.load(&id)?.ok_or_else(none)
    }

    /// The instance with this id as it is now; `None` if it is gone or has not told yet what it is.
    ///
    /// # Errors
    /// [`Error::File`] if its files cannot be read or its loss not be recorded.
    pub fn load(&self, id: &str) -> Result<Option<Instance>, Error> {
        self.look(id, false)
    }

    /// [`load`](Self::load) for a caller that may hold the lock on all names.
    fn look(&self, id: &str, holds_names: bool) -> Result<Option<Instance>, Error> {
        let path = self.root.join(id);
        let dir = match open_folder(&self.dir, Path::new(id)) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(Error::file("open", path, error)),
        };
        // The lock is asked for before the record is read: a supervisor records the end before it lets go. It is shared
        // with others who look at the same time: to them it must not seem to be a supervisor's.
        let abandoned = rustix::fs::flock(&dir, FlockOperation::NonBlockingLockShared).is_ok();
        let state = record::read(&dir).map_err(|error| Error::file("read", &path, error))?;
        let Some((record, end)) = state else {
            if abandoned && older_than(&dir, STARTING) {
                self.erase(id, self.name_of(id).as_deref(), &dir, holds_names)?;
            }
            return Ok(None);
        };
        let (status, end) = match end {
            Some(end) => (end.status, Some(end)),
            None if !abandoned => (Status::Running, None),
            None if record.remove => {
                forget_core(&record);
                self.erase(id, Some(&record.name), &dir, holds_names)?;
                return Ok(None);
            }
            None => {
                forget_core(&record);
                (Status::Dead, Some(lost(&dir)))
            }
        };
        Ok(Some(Instance {
            record,
            status,
            end,
            path,
        }))
    }

    /// Forgets an instance that does not run: its name, log and record.
    ///
    /// # Errors
    /// [`Error::Running`] if its supervisor lives; [`Error::File`] if something cannot be deleted.
    pub fn remove(&self, instance: &Instance) -> Result<(), Error> {
        let id = &instance.record.id;
        let dir = match open_folder(&self.dir, Path::new(id)) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(Error::file("open", &instance.path, error)),
        };
        // A supervisor that has recorded the end lets go of its lock within moments.
        let patience = Instant::now() + Duration::from_secs(2);
        while rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err() {
            if instance.end.is_none() || Instant::now() > patience {
                return Err(Error::Running(instance.record.name.clone()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.erase(id, Some(&instance.record.name), &dir, false)
    }

    /// Waits until the supervisor of an instance has let go of it, for `patience` at the most. Returns whether it has. Blocks.
    pub(crate) fn is_let_go(path: &Path, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            let Ok(dir) = open_folder(CWD, path) else {
                return true;
            };
            if rustix::fs::flock(&dir, FlockOperation::NonBlockingLockShared).is_ok() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The ids of all folders.
    fn ids(&self) -> Result<Vec<String>, Error> {
        let unreadable = |error: Errno| Error::file("read", &self.root, error);
        let mut ids = Vec::new();
        for entry in Dir::read_from(&self.dir).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            if let Ok(name) = entry.file_name().to_str()
                && names::valid_id(name)
            {
                ids.push(name.to_owned());
            }
        }
        Ok(ids)
    }

    /// The id of the instance that has this name.
    fn owner_of(&self, name: &str) -> Option<String> {
        let link = Path::new(NAMES).join(name);
        let id = rustix::fs::readlinkat(&self.dir, link, Vec::new()).ok()?;
        id.into_string().ok().filter(|id| names::valid_id(id))
    }

    /// The name that the instance with this id has taken.
    fn name_of(&self, id: &str) -> Option<String> {
        let folder = rustix::fs::openat(
            &self.dir,
            NAMES,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let mut names = Dir::read_from(folder.ok()?).ok()?;
        names.find_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().to_str().ok()?;
            (self.owner_of(name).as_deref() == Some(id)).then(|| name.to_owned())
        })
    }

    /// Locks all names: whoever takes one over from an instance that is no more, and whoever takes it from that, does so alone.
    fn lock_names(&self) -> rustix::io::Result<OwnedFd> {
        let names = open_folder(&self.dir, Path::new(NAMES))?;
        rustix::fs::flock(&names, FlockOperation::LockExclusive)?;
        Ok(names)
    }

    /// Deletes an instance's folder and, if it is still its own, its name.
    fn erase(
        &self,
        id: &str,
        name: Option<&str>,
        dir: &OwnedFd,
        holds_names: bool,
    ) -> Result<(), Error> {
        let failed = |error: Errno| Error::file("delete", self.root.join(id), error);
        let owns = |name: &str| self.owner_of(name).as_deref() == Some(id);
        if let Some(name) = name.filter(|name| names::valid(name) && owns(name)) {
            let lock = (!holds_names).then(|| self.lock_names());
            let _names = lock.transpose().map_err(failed)?;
            if !owns(name) {
                return self.erase(id, None, dir, holds_names);
            }
            let link = Path::new(NAMES).join(name);
            gone(rustix::fs::unlinkat(&self.dir, link, AtFlags::empty())).map_err(failed)?;
        }
        for entry in Dir::read_from(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type() != FileType::Directory {
                gone(rustix::fs::unlinkat(
                    dir,
                    entry.file_name(),
                    AtFlags::empty(),
                ))
                .map_err(failed)?;
            }
        }
        gone(rustix::fs::unlinkat(&self.dir, id, AtFlags::REMOVEDIR)).map_err(failed)
    }
}

/// Records that the supervisor is no more. The caller holds its lock, perhaps with others who record the same: the first line counts.
fn lost(dir: &OwnedFd) -> End {
    let end = End {
        status: Status::Dead,
        exit_code: error::EXIT_KILLED,
        finished: WallTime::now(),
        reason: "its supervisor was killed".to_owned(),
        ..End::default()
    };
    // On a full disk it stays unrecorded: whoever looks next finds the same, and it can be removed.
    if record::append(dir, &end).is_ok() {
        let _ = rustix::fs::unlinkat(dir, CONTROL_SOCKET, AtFlags::empty());
    }
    end
}

/// Takes away the folder that a supervisor which was killed has left for a core file.
fn forget_core(record: &Record) {
    let name = format!(".kiln-core-{}", record.id);
    if let Some(folder) = record.core_folder.as_deref().map(Path::new)
        && folder.file_name().is_some_and(|last| last == name.as_str())
    {
        // What cannot be removed is the user's to see.
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// Random bytes from the host.
pub fn random() -> [u8; 6] {
    let mut bytes = [0; 6];
    // The call fails only before the host's generator is seeded, early in the boot of a machine; the process id and
    // the clock tell instances apart well enough then.
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) != Ok(6) {
        let mixed = WallTime::now().0 ^ u64::from(std::process::id()) << 24;
        bytes.copy_from_slice(&mixed.to_le_bytes()[..6]);
    }
    bytes
}

fn default_root() -> PathBuf {
    let uid = rustix::process::geteuid();
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if Path::new(&dir).is_absolute() => PathBuf::from(dir).join("kiln"),
        _ if uid.is_root() => PathBuf::from("/run/kiln"),
        _ => PathBuf::from(format!("/tmp/kiln-{}", uid.as_raw())),
    }
}

fn open_folder(at: impl std::os::fd::AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

/// Makes a folder for this user only; one that is there already is as good.
fn make(at: impl std::os::fd::AsFd, path: &Path) -> rustix::io::Result<()> {
    match rustix::fs::mkdirat(at, path, Mode::RWXU) {
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}

/// Deleting what is not there is done.
fn gone(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

fn older_than(dir: &OwnedFd, age: Duration) -> bool {
    rustix::fs::fstat(dir).is_ok_and(|stat| {
        let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
        WallTime::now().since(WallTime(seconds * 1_000_000_000)) > age + Duration::from_secs(1)
    })
}

fn folder_error(path: &Path, problem: &str) -> Error {
    Error::StateFolder {
        path: path.to_owned(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests;
