//! Telling that something takes long.

use std::path::Path;
use std::time::Instant;

use kiln_image::{Builder, Built};
use kiln_monitor::size::Size;

use crate::exit::Failure;

/// Builds an image with a line before and after, cargo's own progress between them.
///
/// # Errors
/// Why it could not be built.
pub fn build(builder: &Builder, folder: &Path, quiet: bool) -> Result<Built, Failure> {
    if quiet {
        return Ok(builder.build()?);
    }
    let started = Instant::now();
    eprintln!("kiln: building {}", folder.display());
    let built = builder.build()?;
    eprintln!(
        "kiln: built {} ({}) in {:.1} s",
        built.image.display(),
        Size::from_bytes(built.size).rounded(),
        started.elapsed().as_secs_f64()
    );
    Ok(built)
}
