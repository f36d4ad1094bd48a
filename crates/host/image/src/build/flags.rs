//! The compiler and linker flags of an image.
//!
//! Two things decide them: an image is a static, position-independent file of four segments that a loader maps as they
//! lie, and the same sources give the same bytes whichever folder, user or machine builds them. The latter is why paths
//! are renamed throughout; cargo leaves flags out of its symbol hashes as soon as they rename paths.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::package::Program;
use super::toolchain::Toolchain;

/// Names of the folders that sources lie in, as an image's debug information and panic messages have them.
const OWN: &str = "/src";
const OTHER: &str = "/dep";
const CARGO: &str = "/cargo";
const TARGET: &str = "/target";

/// All flags for rustc, in the form of `CARGO_ENCODED_RUSTFLAGS`.
pub(super) fn encoded(program: &Program, toolchain: &Toolchain, script: &Path) -> OsString {
    let mut flags = Flags::default();
    flags.push("--cfg=kiln_guest");
    // Static PIE: no interpreter, no symbol is looked up at start.
    flags.codegen("relocation-model=pie");
    flags.codegen("target-feature=+crt-static");
    flags.codegen("panic=abort");
    // Stacks are walked by frame pointers; unwind tables are not in the image.
    flags.codegen("force-frame-pointers=yes");
    // Names that carry generic arguments, so that a stack tells which instance of a function it was.
    flags.codegen("symbol-mangling-version=v0");
    flags.codegen("linker-flavor=ld.lld");
    flags.joined("-Clinker=", &toolchain.linker);
    flags.joined("-Clink-arg=-T", script.as_os_str());
    for arg in [
        "--build-id=sha1",
        "--gc-sections",
        "--hash-style=gnu",
        "--no-dynamic-linker",
        "--no-eh-frame-hdr",
        "--no-undefined",
        "-znoexecstack",
        "-znow",
        "-zrelro",
        "-zseparate-code",
        "-ztext",
        "-zmax-page-size=4096",
        // A relative relocation costs a bit or two instead of 24 bytes.
        "-zpack-relative-relocs",
    ] {
        flags.joined("-Clink-arg=", OsStr::new(arg));
    }
    // The last matching rule wins: from the outer folders to the inner ones.
    if let Some(home) = cargo_home() {
        flags.rename(&home, CARGO);
    }
    for root in &program.other_roots {
        let name = root.file_name().unwrap_or_default().to_string_lossy();
        flags.rename(root, &format!("{OTHER}/{name}"));
    }
    flags.rename(&program.workspace_root, OWN);
    flags.rename(&program.target_dir, TARGET);
    if let Some((folder, name)) = &toolchain.library_source {
        flags.rename(folder, name);
    }
    flags.0
}

/// Cargo's own folder, with the sources of dependencies from registries and repositories.
fn cargo_home() -> Option<PathBuf> {
    let home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(env::var_os("HOME")?).join(".cargo"),
    };
    home.canonicalize().ok()
}

#[derive(Default)]
struct Flags(OsString);

impl Flags {
    fn push(&mut self, flag: impl AsRef<OsStr>) {
        if !self.0.is_empty() {
            self.0.push("\u{1f}");
        }
        self.0.push(flag);
    }

    fn codegen(&mut self, option: &str) {
        self.joined("-C", OsStr::new(option));
    }

    fn joined(&mut self, flag: &str, value: &OsStr) {
        let mut joined = OsString::from(flag);
        joined.push(value);
        self.push(joined);
    }

    fn rename(&mut self, folder: &Path, name: &str) {
        let mut rule = OsString::from("--remap-path-prefix=");
        rule.push(folder);
        rule.push("=");
        rule.push(name);
        self.push(rule);
    }
}
