//! What TARGET is: an image file, or a crate's folder that has to be built first.

use std::path::{Path, PathBuf};

use kiln_image::Builder;

use crate::exit::Failure;
use crate::progress;

/// The image to run for `target`. A crate's folder is built, with cargo's progress on the standard error output.
///
/// # Errors
/// A target that is not there, or a folder that is no crate or does not build.
pub fn image(target: &Path, quiet: bool) -> Result<PathBuf, Failure> {
    // The common case costs no system call: opening the image tells whether it is there.
    if target
        .extension()
        .is_some_and(|ending| ending == kiln_image::build::IMAGE_EXTENSION)
    {
        return Ok(target.to_owned());
    }
    match target.metadata() {
        Ok(metadata) if !metadata.is_dir() => Ok(target.to_owned()),
        Ok(_) if target.join("Cargo.toml").is_file() => {
            Ok(progress::build(&Builder::new(target).quiet(quiet), target, quiet)?.image)
        }
        Ok(_) => Err(Failure::cannot_run(format!(
            "{}: a folder without Cargo.toml: name an image or the folder of a Rust crate",
            target.display()
        ))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Failure::not_found(
            format!("{}: no such image or folder", target.display()),
        )),
        Err(error) => Err(Failure::cannot_run(format!(
            "{}: {error}",
            target.display()
        ))),
    }
}
