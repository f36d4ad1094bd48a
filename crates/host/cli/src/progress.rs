//! Telling that something takes long.

use std::path::Path;
use std::time::Instant;

use kiln_image::{Builder, Output};
use kiln_monitor::size::Size;

use crate::exit::Failure;
use crate::tell::tell;

/// Builds a crate with a line before and after, cargo's own progress between them.
///
/// # Errors
/// Why it could not be built.
pub fn build(builder: &Builder, folder: &Path, quiet: bool) -> Result<Output, Failure> {
    if quiet {
        return Ok(builder.build_any()?);
    }
    let started = Instant::now();
    tell(format_args!("building {}", folder.display()));
    let output = builder.build_any()?;
    let (file, size) = match &output {
        Output::Image(built) => (&built.image, built.size),
        Output::Program { file, .. } => (file, file.metadata().map_or(0, |meta| meta.len())),
    };
    tell(format_args!(
        "built {} ({}) in {:.1} s",
        file.display(),
        Size::from_bytes(size).rounded(),
        started.elapsed().as_secs_f64()
    ));
    Ok(output)
}
