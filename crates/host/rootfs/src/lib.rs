//! The root file system of an installed Linux program: what it needs, gathered from the host.
//!
//! [`gather()`] finds the program, its loader and libraries, the files of its package and of those that it depends on, what
//! its arguments name, and what every system has, and puts all of it under the same paths into a tree that becomes an
//! EROFS image. Nothing is executed for that. What was looked at is remembered ([`Gathered::seen`]), so that a later start
//! finds out by some calls of `stat(2)` whether the image still holds ([`cache`]).
//!
//! | module | its part |
//! | --- | --- |
//! | `program` | from a word to an ELF file: search path, scripts |
//! | `elf`, `ldcache`, `libraries` | what the loader will look for, and where |
//! | `packages` | files of Debian packages |
//! | `trees` | interpreters and programs with files of their own outside packages |
//! | `arguments` | files that arguments name |
//! | `system` | accounts, name service, certificates, time zones, locales, terminals |
//! | `collect` | taking files, links and folders into the tree |
//! | [`folder()`] | a root file system that is there already |
//! | [`cache`] | images made before |
#![forbid(unsafe_code)]

mod arguments;
pub mod cache;
mod collect;
mod elf;
mod error;
mod exclude;
mod folder;
mod ldcache;
mod libraries;
mod packages;
mod program;
mod system;
mod trees;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use kiln_fs::erofs::Tree;

pub use collect::{Look, Seen};
pub use error::Error;
pub use folder::{Folder, folder};

use collect::{Collector, Watch};
use exclude::Excluded;
use libraries::Linker;
use packages::Packages;

/// The search path of programs in guests, unless the user says otherwise.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables of the program's environment that decide about what is gathered.
pub const VARIABLES: [&str; 7] = [
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LD_LIBRARY_PATH",
    "NODE_PATH",
    "TERM",
    "TZ",
];

/// What to gather for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The program as the user named it: a path, or a name on the search path.
    pub program: String,
    /// Its arguments: files that they name are taken.
    pub args: Vec<String>,
    /// Where the user is.
    pub cwd: PathBuf,
    /// Where programs are searched, as in `PATH`.
    pub search: Option<OsString>,
    /// The environment of the program in the guest.
    pub env: Vec<String>,
    /// Files and folders to take besides.
    pub include: Vec<PathBuf>,
    /// Paths and names to leave out.
    pub exclude: Vec<String>,
}

impl Request {
    /// What the arguments name of the host's files: all that they change about what is gathered.
    pub fn named(&self) -> Vec<&str> {
        arguments::named(self).collect()
    }

    /// The value of a variable in the program's environment.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        let of = |pair: &&String| pair.split_once('=').is_some_and(|(key, _)| key == name);
        let pair = self.env.iter().rev().find(of)?;
        pair.split_once('=').map(|(_, value)| value)
    }
}

/// What was gathered.
#[derive(Debug)]
pub struct Gathered {
    /// The files.
    pub tree: Tree,
    /// The program's path, then arguments before those of the user.
    pub entrypoint: Vec<String>,
    /// Working directory that its arguments make sense in, if they name files.
    pub cwd: Option<String>,
    /// What to look at to know whether gathering again would give the same.
    pub seen: Vec<Seen>,
    /// The files that have a content, with what tells one content from another, and folders that were taken whole.
    pub identity: Vec<Seen>,
    /// Bytes of all files.
    pub bytes: u64,
    /// What the user should know, a line each.
    pub notes: Vec<String>,
}

impl Gathered {
    /// A digest of all that the root file system holds: every path with its kind, permissions and owner, other names of
    /// files, targets of links, and what tells one content from another. No content is read.
    pub fn digest(&self) -> cache::Key {
        cache::Key::of(&(&self.tree, &self.identity))
    }
}

/// Gathers the files for a program.
///
/// # Errors
/// [`Error`]: the program cannot be found or run.
pub fn gather(request: &Request) -> Result<Gathered, Error> {
    let search = request.search.as_deref();
    let program = program::find(&request.program, &request.cwd, search)?;
    let mut to = Collector::new(Excluded::new(&request.exclude));
    to.seen
        .extend(program.passed.iter().map(|path| Seen::now(path)));
    let take = |to: &mut Collector, path: &Path| {
        to.add(path, Watch::File)
            .map_err(|error| Error::unreadable(path, error))
    };
    take(&mut to, &program.path)?;
    for script in &program.scripts {
        take(&mut to, script)?;
    }
    let library_path = request.variable("LD_LIBRARY_PATH").unwrap_or_default();
    let interpreter = program.elf.interpreter.as_deref();
    let mut linker = Linker::new(interpreter, library_path, &mut to);
    if let Some(interpreter) = interpreter {
        take(&mut to, Path::new(interpreter))?;
    }
    linker.program(&program.path, &program.elf, &mut to)?;
    for path in &request.include {
        let path = program::tidy(&request.cwd.join(path));
        to.add_tree(&path, Watch::File, usize::MAX)
            .map_err(|error| Error::unreadable(&path, error))?;
    }
    let mut notes = Vec::new();
    let mut own = vec![&*program.path];
    let real = program.path.canonicalize().unwrap_or_default();
    own.push(&real);
    own.extend(program.scripts.iter().map(PathBuf::as_path));
    let packaged = Packages::read().is_some_and(|all| packages::add(&all, &own, &mut to));
    trees::add(&program.path, packaged, &mut to);
    let cwd = arguments::add(request, &program.scripts, &mut to, &mut notes);
    system::add(request, &mut linker, &mut to)?;

    // Modules have libraries, which may have modules.
    let mut known = 0;
    while known < to.objects.len() {
        let objects = to.objects[known..].to_vec();
        known = to.objects.len();
        for path in objects {
            linker.module(&path, &mut to);
        }
    }
    let path = program.path.to_str().ok_or_else(|| Error::NotAProgram {
        path: program.path.clone(),
        what: "its path is no text",
    })?;
    let mut entrypoint = vec![path.to_owned()];
    entrypoint.extend(program.before);
    if let Some(first) = to.unreadable.first() {
        let others = match to.unreadable.len() {
            1 => String::new(),
            count => format!(" and {} other files", count - 1),
        };
        notes.push(format!(
            "{}{others} may not be read, and are left out",
            first.display()
        ));
    }
    Ok(Gathered {
        tree: to.tree,
        entrypoint,
        cwd,
        seen: to.seen,
        identity: to.identity,
        bytes: to.bytes,
        notes,
    })
}
