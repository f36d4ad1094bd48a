//! What can go wrong on the host's side, in words that say what to do.
//!
//! One enum for the crate. Every message is one line without the leading `kiln: `, which the command adds. Each error
//! also knows the exit code that `docker run` would end with in its place ([`Error::exit_code`]).

use std::io;
use std::path::{Path, PathBuf};

use kiln_image::image::Reason;
use kiln_image::{Fault, ImageError};
use rustix::io::Errno;

use crate::size::Size;

/// Exit code for errors of Kiln itself.
pub const EXIT_KILN: u8 = 125;
/// Exit code for a target that cannot be run.
pub const EXIT_CANNOT_RUN: u8 = 126;
/// Exit code for a target that does not exist.
pub const EXIT_NOT_FOUND: u8 = 127;
/// Exit code of a guest that was ended by force: 128 plus SIGKILL.
pub const EXIT_KILLED: u8 = 137;

/// An error of the monitor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option's text makes no sense.
    #[error("{option} {value:?}: {problem}")]
    Option {
        /// The option as it is typed, for example `--memory`.
        option: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it and what to write instead.
        problem: String,
    },

    /// The devices given do not fit those the image declares. The text is complete.
    #[error("{0}")]
    Manifest(String),

    /// A device could not be opened. The text is complete.
    #[error("{0}")]
    Device(String),

    /// The memory asked for is less than the image needs.
    #[error(
        "{image} needs at least {needed} of memory: use --memory {needed} or more (now {given})"
    )]
    MemoryTooSmall {
        /// The image's file name.
        image: String,
        /// What it needs.
        needed: Size,
        /// What was given.
        given: Size,
    },

    /// The backend asked for is not part of this version.
    #[error("the backend {0:?} is not in this version: use --backend process")]
    NoBackend(String),

    /// No instance has this name or id.
    #[error("no instance {0:?}: `kiln ps -a` lists them")]
    NoInstance(String),

    /// More than one id starts like this.
    #[error("more than one instance id starts with {0:?}: give more of it")]
    Ambiguous(String),

    /// The name is taken.
    #[error(
        "the name {name:?} is in use by instance {id}: choose another, or remove that one with `kiln rm {name}`"
    )]
    NameInUse {
        /// The name.
        name: String,
        /// Who has it.
        id: String,
    },

    /// The instance runs, and the request is for ended ones.
    #[error("{0} is running: stop it first with `kiln stop {0}`, or add --force")]
    Running(String),

    /// The instance does not run, and the request is for running ones.
    #[error("{0} is not running")]
    NotRunning(String),

    /// The state folder cannot be used.
    #[error("cannot keep state in {}: {problem}", path.display())]
    StateFolder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },

    /// A file could not be used.
    #[error("cannot {doing} {}: {}", path.display(), describe(error))]
    File {
        /// What was tried: "read", "write", "create", ...
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The host's answer.
        error: io::Error,
    },

    /// The supervisor of a running instance does not answer as it should.
    #[error("the supervisor of {name} does not answer: {problem}")]
    Control {
        /// The instance.
        name: String,
        /// What happened.
        problem: String,
    },

    /// The supervisor of a running instance cannot do what it was asked for.
    #[error("cannot capture {name}: {problem}")]
    Refused {
        /// The instance.
        name: String,
        /// Why not, and what to do.
        problem: String,
    },

    /// A start in the background failed with this message and exit code.
    #[error("{message}")]
    Detached {
        /// What the supervisor reported.
        message: String,
        /// The code to end with.
        code: u8,
    },

    /// The image file was refused.
    #[error("{}", image_text(.0))]
    Image(#[from] ImageError),

    /// The backend could not start the guest.
    #[error(transparent)]
    Backend(#[from] crate::backends::process::Error),

    /// Another program's virtual machine could not be started.
    #[error(transparent)]
    Foreign(#[from] crate::backends::foreign::Error),

    /// The rootless network could not be set up.
    #[error(transparent)]
    Network(#[from] kiln_usernet::Error),

    /// The host refused something that should always work.
    #[error("cannot {doing}: {}", describe(error))]
    Host {
        /// What was tried, as it continues "cannot ...".
        doing: &'static str,
        /// The host's answer.
        error: io::Error,
    },
}

impl Error {
    /// An [`Error::Host`].
    pub fn host(doing: &'static str, error: impl Into<io::Error>) -> Self {
        Self::Host {
            doing,
            error: error.into(),
        }
    }

    /// An [`Error::File`].
    pub fn file(doing: &'static str, path: impl AsRef<Path>, error: impl Into<io::Error>) -> Self {
        Self::File {
            doing,
            path: path.as_ref().to_owned(),
            error: error.into(),
        }
    }

    /// An [`Error::Option`].
    pub fn option(option: &'static str, value: &str, problem: impl Into<String>) -> Self {
        Self::Option {
            option,
            value: value.to_owned(),
            problem: problem.into(),
        }
    }

    /// The exit code of a command that fails with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Detached { code, .. } => *code,
            Self::Image(error) => image_exit_code(error),
            _ => EXIT_KILN,
        }
    }
}

/// The host's answer in words, with advice where there is some.
pub(crate) fn describe(error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT) => "the disk is full".to_owned(),
        Some(Errno::MFILE | Errno::NFILE) => {
            "too many open files: raise the limit (`ulimit -n`)".to_owned()
        }
        Some(Errno::ROFS) => "the file system is read-only".to_owned(),
        Some(Errno::ACCESS | Errno::PERM) => "permission denied".to_owned(),
        Some(Errno::NOENT) => "no such file or folder".to_owned(),
        Some(Errno::NOMEM) => "the host is out of memory".to_owned(),
        // `io::Error` appends "(os error N)", which helps nobody who reads a one-line message.
        _ => {
            let text = error.to_string();
            match text.rfind(" (os error") {
                Some(end) => text[..end].to_owned(),
                None => text,
            }
        }
    }
}

/// What is wrong with an image, with what is known beyond its own fault.
fn image_text(error: &ImageError) -> String {
    match &error.reason {
        Reason::Io(host) => format!("{}: {}", error.path.display(), describe(host)),
        Reason::Fault(Fault::LinuxProgram) => {
            format!("{error}: `kiln run` packs and runs it under a name that does not end in .kiln")
        }
        Reason::Fault(_) => error.to_string(),
    }
}

fn image_exit_code(error: &ImageError) -> u8 {
    match &error.reason {
        Reason::Io(error) if error.kind() == io::ErrorKind::NotFound => EXIT_NOT_FOUND,
        _ => EXIT_CANNOT_RUN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line_and_say_what_to_do() {
        let full = Error::file("write", "/x/state", Errno::NOSPC);
        assert_eq!(full.to_string(), "cannot write /x/state: the disk is full");
        assert_eq!(full.exit_code(), EXIT_KILN);
        let name = Error::NameInUse {
            name: "web".into(),
            id: "0123456789ab".into(),
        };
        assert!(name.to_string().contains("kiln rm web"));
        let other = Error::host("open a pipe", Errno::INVAL);
        assert_eq!(other.to_string(), "cannot open a pipe: Invalid argument");
    }

    #[test]
    fn a_detached_start_keeps_its_code() {
        let error = Error::Detached {
            message: "x is not an image".into(),
            code: 126,
        };
        assert_eq!(error.exit_code(), 126);
    }
}
