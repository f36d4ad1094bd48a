//! What the installed Rust toolchain brings along for linking images.
//!
//! Images are linked by LLD, called directly: no C compiler, no system libraries and no start files take part, so the
//! same toolchain gives the same bytes on every distribution. Toolchains from rustup carry LLD under the name
//! `rust-lld`, and rustc finds it in its own folder. A distribution's toolchain may lack it; then an `ld.lld` of the
//! system does the same.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::BuildError;

/// What the build needs to know of the toolchain that cargo is going to use.
#[derive(Debug)]
pub(super) struct Toolchain {
    /// The value for `-C linker`.
    pub linker: OsString,
    /// Folder of the standard library's sources, if they are installed, and the name that the precompiled library
    /// has for it. Code instantiated from it in the guest would name the folder otherwise.
    pub library_source: Option<(PathBuf, String)>,
}

impl Toolchain {
    /// Asks the `rustc` that is in charge of the folder `crate_dir` (a toolchain file may choose it).
    pub fn find(crate_dir: &Path) -> Result<Self, BuildError> {
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let facts = ask(
            &rustc,
            crate_dir,
            &["--print=sysroot", "--print=host-tuple"],
        )?;
        let mut lines = facts.lines();
        let (Some(sysroot), Some(host)) = (lines.next(), lines.next()) else {
            return Err(BuildError::Toolchain {
                program: rustc,
                reason: "it does not say where its files are".into(),
            });
        };
        let library = Path::new(sysroot).join("lib/rustlib");
        let linker = if library.join(host).join("bin/rust-lld").exists() {
            "rust-lld".into()
        } else if on_path("ld.lld") {
            "ld.lld".into()
        } else {
            return Err(BuildError::NoLinker);
        };
        let source = library.join("src/rust");
        let library_source = if source.exists() {
            let version = ask(&rustc, crate_dir, &["--version", "--verbose"])?;
            version
                .lines()
                .find_map(|line| line.strip_prefix("commit-hash: "))
                .map(|hash| (source, format!("/rustc/{hash}")))
        } else {
            None
        };
        Ok(Self {
            linker,
            library_source,
        })
    }
}

fn ask(program: &OsString, dir: &Path, args: &[&str]) -> Result<String, BuildError> {
    let failed = |reason: String| BuildError::Toolchain {
        program: program.clone(),
        reason,
    };
    let output = Command::new(program)
        .args(args)
        .current_dir(dir)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ));
    }
    String::from_utf8(output.stdout).map_err(|_| failed("its answer is not text".into()))
}

fn on_path(program: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}
