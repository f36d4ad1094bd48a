//! Why there is no image.

use std::ffi::OsString;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a program could not be built into an image.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The folder holds no package.
    #[error("{}: no Cargo.toml there: name the folder of a Rust crate", .0.display())]
    NoManifest(PathBuf),
    /// Cargo does not understand the manifest.
    #[error("{}: {reason}", manifest.display())]
    Manifest {
        /// The manifest.
        manifest: PathBuf,
        /// Cargo's words.
        reason: String,
    },
    /// The folder is a workspace without a package of its own.
    #[error("{}: a workspace, not a program: choose a program with --bin, or name the folder of one of its members ({members})", manifest.display())]
    Workspace {
        /// The manifest.
        manifest: PathBuf,
        /// Names of the members.
        members: String,
    },
    /// The package is a library only.
    #[error("{}: no program in this package: add src/main.rs", .0.display())]
    NoBinary(PathBuf),
    /// It is not clear which program is meant.
    #[error("package {package} has several programs: choose one with --bin ({binaries})")]
    SeveralBinaries {
        /// The package.
        package: String,
        /// Its programs.
        binaries: String,
    },
    /// The program that was asked for does not exist.
    #[error("package {package} has no program {wanted}: choose one of {binaries}")]
    UnknownBinary {
        /// The package.
        package: String,
        /// The program asked for.
        wanted: String,
        /// Its programs.
        binaries: String,
    },
    /// Cargo or rustc cannot be run.
    #[error("{}: {reason}: Kiln builds with the Rust toolchain of https://rustup.rs", program.display())]
    Toolchain {
        /// The command.
        program: OsString,
        /// What went wrong.
        reason: String,
    },
    /// The toolchain has no LLD.
    #[error(
        "no linker: the Rust toolchain lacks rust-lld and there is no ld.lld: install the package lld, or the toolchain of https://rustup.rs"
    )]
    NoLinker,
    /// The program does not compile or link.
    #[error("{}: the build failed{}{}", manifest.display(), after_colon(messages), hint(*uses_kiln))]
    Compile {
        /// The manifest.
        manifest: PathBuf,
        /// The compiler's messages, if they were not printed already.
        messages: String,
        /// The package depends on Kiln's library.
        uses_kiln: bool,
    },
    /// The program has none of Kiln's notes.
    #[error("{}: not a Kiln program: add `kiln` as a dependency and put #[kiln::main] before `async fn main`", .0.display())]
    NotKiln(PathBuf),
    /// The linker's result is not what the linker script describes.
    #[error("{}: unexpected layout of the linked program: {reason}", file.display())]
    Layout {
        /// The linked file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl BuildError {
    pub(super) fn io(file: &Path, source: io::Error) -> Self {
        Self::Io {
            file: file.to_owned(),
            source,
        }
    }

    pub(super) fn layout(file: &Path, reason: &dyn Display) -> Self {
        Self::Layout {
            file: file.to_owned(),
            reason: reason.to_string(),
        }
    }
}

fn after_colon(messages: &str) -> String {
    if messages.is_empty() {
        String::new()
    } else {
        format!(":\n{messages}")
    }
}

fn hint(uses_kiln: bool) -> &'static str {
    if uses_kiln {
        "\n(if the linker misses -lc, a dependency needs std: turn off its default features)"
    } else {
        "\nthe package does not depend on `kiln`: a Kiln program needs it, and #[kiln::main]"
    }
}
