//! The Linux personality's image, carried along by the `kiln` command.
//!
//! The image is that of the package `kiln-linux-image` (`crates/guest/personality`). This crate's build script builds it
//! as `kiln build` would, for speed, so that a plain `cargo build` of the workspace makes a command that runs programs by
//! itself. Its debug file stays in the target folder ([`DEBUG_FILE`]).
//!
//! The environment variable `KILN_PERSONALITY` names another image to use instead, for work on the personality; if it is
//! set while the workspace is built, nothing is carried along and it has to be set for `kiln run` too.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::io;
use std::path::Path;

/// Names another image to use.
pub const VARIABLE: &str = "KILN_PERSONALITY";

/// The debug file of the image that is carried along, where it was built.
pub const DEBUG_FILE: &str = concat!(env!("OUT_DIR"), "/linux.debug");

/// A digest of the image that is carried along: different for different images.
pub const DIGEST: &str = env!("KILN_PERSONALITY_DIGEST");

static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/linux.kiln"));

/// The image: the one carried along, or the content of the file `instead`.
///
/// # Errors
/// If the file cannot be read, or there is no image because this command was built without.
pub fn image(instead: Option<&Path>) -> io::Result<Cow<'static, [u8]>> {
    match instead {
        Some(file) => std::fs::read(file)
            .map(Cow::Owned)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display()))),
        None if IMAGE.is_empty() => Err(io::Error::other(format!(
            "this kiln was built without its Linux personality: name one by {VARIABLE}"
        ))),
        None => Ok(Cow::Borrowed(IMAGE)),
    }
}
