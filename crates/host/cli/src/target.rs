//! What TARGET is: an image file, a Linux program, or a crate's folder that has to be built first.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use kiln_image::build::IMAGE_EXTENSION;
use kiln_image::image::HEAD;
use kiln_image::{Builder, Fault, Image, Output};

use crate::exit::Failure;
use crate::progress;

/// What there is to run.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// An image file.
    Image(PathBuf),
    /// A Linux program: its path, or a name on the search path.
    Program(String),
}

/// What a TARGET is, before anything is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An image file.
    Image,
    /// The folder of a crate.
    Folder,
    /// A Linux program, or nothing that can be run; gathering its files will tell.
    Program,
}

/// What to run for `word`. A crate's folder is built, with cargo's progress on the standard error output.
///
/// # Errors
/// A target that is not there, or a folder that is no crate or does not build.
pub fn find(word: &str, bin: Option<&str>, quiet: bool) -> Result<Target, Failure> {
    let kind = kind(word)?;
    if bin.is_some() && kind != Kind::Folder {
        return Err(no_crate("--bin", word));
    }
    match kind {
        Kind::Image => Ok(Target::Image(word.into())),
        Kind::Program => Ok(Target::Program(word.to_owned())),
        Kind::Folder => {
            let path = Path::new(word);
            let mut builder = Builder::new(path).quiet(quiet);
            if let Some(bin) = bin {
                builder = builder.bin(bin);
            }
            match progress::build(&builder, path, quiet)? {
                Output::Image(built) => Ok(Target::Image(built.image)),
                Output::Program { file, .. } => text(file).map(Target::Program),
            }
        }
    }
}

/// An option that only crates have.
pub fn no_crate(option: &str, word: &str) -> Failure {
    Failure::new(format!(
        "{option}: {word} is not the folder of a Rust crate: leave the option out, or name such a folder"
    ))
}

/// What `word` is.
///
/// # Errors
/// If it is not there, or a folder without a crate.
pub fn kind(word: &str) -> Result<Kind, Failure> {
    let path = Path::new(word);
    // The common case costs no system call: opening the image tells whether it is there.
    if path
        .extension()
        .is_some_and(|ending| ending == IMAGE_EXTENSION)
    {
        return Ok(Kind::Image);
    }
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() && path.join("Cargo.toml").is_file() => Ok(Kind::Folder),
        // A folder here does not hide a program of the same name.
        Ok(metadata) if metadata.is_dir() && word.contains(['/', '.']) => {
            Err(Failure::cannot_run(format!(
                "{word}: a folder without Cargo.toml: name a program, an image or the folder of a Rust crate"
            )))
        }
        Ok(metadata) if metadata.is_file() && is_image(path) => Ok(Kind::Image),
        Err(error) if word.contains('/') && error.kind() == ErrorKind::NotFound => Err(
            Failure::not_found(format!("{word}: no such program, image or folder")),
        ),
        Err(error) if word.contains('/') => Err(Failure::cannot_run(format!("{word}: {error}"))),
        _ => Ok(Kind::Program),
    }
}

/// A path as text.
///
/// # Errors
/// If it is none.
pub fn text(path: PathBuf) -> Result<String, Failure> {
    path.into_os_string().into_string().map_err(|path| {
        let text = format!("{}: its path is no text", Path::new(&path).display());
        Failure::cannot_run(text)
    })
}

/// True if the file is an image, or was meant to be one.
fn is_image(path: &Path) -> bool {
    let mut head = Vec::with_capacity(HEAD);
    let Ok(file) = File::open(path) else {
        return false;
    };
    let len = file.metadata().map_or(0, |meta| meta.len());
    if file.take(HEAD as u64).read_to_end(&mut head).is_err() {
        return false;
    }
    // Linux programs have no notes of Kiln's, and may have their headers where they like.
    !matches!(
        Image::parse(&head, len),
        Err(Fault::Empty
            | Fault::Script
            | Fault::NotElf
            | Fault::Truncated
            | Fault::OtherMachine
            | Fault::LinuxProgram
            | Fault::NotAProgram(_)
            | Fault::ScatteredHeaders
            | Fault::TruncatedNotes
            | Fault::BadBuildId
            | Fault::NoAbiNote)
    )
}
