//! The supervisor's side of the state folder: making an instance, recording it, letting go of it.
//!
//! A [`Claim`] is held from before the guest is visible to others until the supervisor ends. It is done in steps so
//! that a start pays only for what it needs at that moment: [`Registry::claim`] makes the folder, takes the lock and
//! the name; [`Claim::record`] tells the world once the guest has started; [`Claim::finish`] records the end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation};
use rustix::io::Errno;

use super::record::{self, End, Record};
use super::{NAMES, Registry, make, open_folder};
use crate::Error;

/// How often to try for a name that others take and give back meanwhile.
const TRIES: usize = 16;

/// An instance's place in the registry, held by its supervisor.
#[derive(Debug)]
pub struct Claim {
    id: String,
    name: String,
    path: PathBuf,
    /// The instance's folder, and with it the lock.
    dir: OwnedFd,
    state: Option<OwnedFd>,
}

impl Registry {
    /// Makes the folder of instance `id`, locks it and takes the name. Nothing is left behind if one of them fails.
    ///
    /// # Errors
    /// [`Error::NameInUse`], and [`Error::File`] for example on a full disk.
    pub fn claim(&self, id: &str, name: &str) -> Result<Claim, Error> {
        let path = self.root.join(id);
        let failed = |error: Errno| Error::file("create", &path, error);
        rustix::fs::mkdirat(&self.dir, id, rustix::fs::Mode::RWXU).map_err(failed)?;
        let claimed = self.lock(id, &path).and_then(|dir| {
            self.take_name(id, name)?;
            Ok(dir)
        });
        match claimed {
            Ok(dir) => Ok(Claim {
                id: id.to_owned(),
                name: name.to_owned(),
                path,
                dir,
                state: None,
            }),
            Err(error) => {
                // The first error is the one to tell.
                let _ = rustix::fs::unlinkat(&self.dir, id, AtFlags::REMOVEDIR);
                Err(error)
            }
        }
    }

    fn lock(&self, id: &str, path: &Path) -> Result<OwnedFd, Error> {
        let failed = |error: Errno| Error::file("lock", path, error);
        let dir = open_folder(&self.dir, Path::new(id)).map_err(failed)?;
        // Others hold this lock only for moments, to see whether it is free.
        rustix::fs::flock(&dir, FlockOperation::LockExclusive).map_err(failed)?;
        Ok(dir)
    }

    fn take_name(&self, id: &str, name: &str) -> Result<(), Error> {
        let link = Path::new(NAMES).join(name);
        let failed = |error: Errno| Error::file("create", self.root.join(&link), error);
        match rustix::fs::symlinkat(id, &self.dir, &link) {
            Err(Errno::NOENT) => make(&self.dir, Path::new(NAMES)).map_err(failed)?,
            Err(Errno::EXIST) => {}
            result => return result.map_err(failed),
        }
        let _names = self.lock_names().map_err(failed)?;
        for _ in 0..TRIES {
            match rustix::fs::symlinkat(id, &self.dir, &link) {
                Err(Errno::EXIST) => {}
                result => return result.map_err(failed),
            }
            match rustix::fs::readlinkat(&self.dir, &link, Vec::new()) {
                // Its owner has let go of it.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(failed(error)),
                Ok(_) => {}
            }
            if let Some(owner) = self.owner_of(name) {
                // Loading also clears away an owner that is no more.
                let exists = match self.look(&owner, true)? {
                    Some(instance) => instance.record.name == name,
                    None => open_folder(&self.dir, Path::new(&owner)).is_ok(),
                };
                if exists {
                    return Err(Error::NameInUse {
                        name: name.to_owned(),
                        id: owner,
                    });
                }
            }
            super::gone(rustix::fs::unlinkat(&self.dir, &link, AtFlags::empty()))
                .map_err(failed)?;
        }
        Err(failed(Errno::EXIST))
    }
}

impl Claim {
    /// The instance's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The instance's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The instance's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The instance's folder, to make files in.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Tells the world what the instance is: from now on other commands see it.
    ///
    /// # Errors
    /// [`Error::File`], for example on a full disk.
    pub fn record(&mut self, record: &Record) -> Result<(), Error> {
        let file = record::create(&self.dir, record).map_err(|error| match error {
            Errno::TOOBIG => Error::option(
                "-e",
                "...",
                "arguments and environment are too long: pass large values in a file",
            ),
            error => Error::file("write", self.path.join(super::STATE_FILE), error),
        })?;
        self.state = Some(file);
        Ok(())
    }

    /// Deletes the control socket: nobody will answer there any more.
    pub fn remove_socket(&self) {
        // What is left of it only makes a client ask in vain.
        let _ = rustix::fs::unlinkat(&self.dir, super::CONTROL_SOCKET, AtFlags::empty());
    }

    /// Records how the instance ended and lets go of it.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn finish(self, end: &End) -> Result<(), Error> {
        let Some(state) = &self.state else {
            return Ok(());
        };
        record::write_line(state, end)
            .map_err(|error| Error::file("write", self.path.join(super::STATE_FILE), error))
    }

    /// Lets go of the instance and deletes everything about it.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn forget(self, registry: &Registry) -> Result<(), Error> {
        registry.erase(&self.id, Some(&self.name), &self.dir, false)
    }
}
