//! Why a program cannot be packed.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a program's files cannot be gathered. One line that says what to do.
#[derive(Debug, Error)]
pub enum Error {
    /// No such file, or no such name on the search path.
    #[error("{0}: no such program: name a file, or a program on PATH")]
    NotFound(String),
    /// There, and not a file.
    #[error("{}: not a program but {what}", path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The file may not be executed.
    #[error("{}: permission denied: the file is not executable", .0.display())]
    NotExecutable(PathBuf),
    /// A file that must be had cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Built for another processor.
    #[error("{}: built for {machine}: Kiln runs 64-bit x86 programs", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it was built for.
        machine: String,
    },
    /// ELF, and neither program nor library.
    #[error("{}: not a program: {what}", path.display())]
    NotAProgram {
        /// The file.
        path: PathBuf,
        /// What it is or has.
        what: &'static str,
    },
    /// The loader is missing.
    #[error(
        "{}: its loader {interpreter} is not installed here: install the C library that it was linked with, or link it statically",
        program.display()
    )]
    NoLoader {
        /// The program.
        program: PathBuf,
        /// What `PT_INTERP` says.
        interpreter: String,
    },
    /// A library is missing.
    #[error(
        "{}: shared library {library} not found{}: install it, or set LD_LIBRARY_PATH",
        program.display(),
        needed_by(needing.as_deref())
    )]
    NoLibrary {
        /// The program.
        program: PathBuf,
        /// The library's name.
        library: String,
        /// The library that needs it, if it is not the program itself.
        needing: Option<PathBuf>,
    },
    /// A script whose interpreter is missing.
    #[error("{}: its interpreter {interpreter} is not installed here", script.display())]
    NoInterpreter {
        /// The script.
        script: PathBuf,
        /// What stands behind `#!`.
        interpreter: String,
    },
    /// A script without `#!`, or with nothing behind it, or with another script.
    #[error("{}: {what}", script.display())]
    BadScript {
        /// The script.
        script: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// A path that cannot be in the root file system.
    #[error("{0}")]
    Misplaced(String),
}

fn needed_by(library: Option<&std::path::Path>) -> String {
    library.map_or_else(String::new, |path| {
        format!(" (needed by {})", path.display())
    })
}

impl Error {
    pub(crate) fn unreadable(path: impl Into<PathBuf>, error: io::Error) -> Self {
        Self::Unreadable {
            path: path.into(),
            error,
        }
    }

    /// True if the program is not there at all.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }
}
