//! Compiling a few crates into one flat blob of machine code, for build scripts.
//!
//! Two parts of Kiln's host side carry code that runs elsewhere: the monitor its gate, every image its machine part.
//! Both are Rust without a standard library, compiled by the compiler that cargo uses, but by themselves: their flags
//! are not those of the program around them, and the link fails if a path of theirs could panic (each has a panic
//! handler that is defined nowhere).
//!
//! [`pack()`] makes such code smaller.
#![forbid(unsafe_code)]

mod pack;

pub use pack::pack;

use std::ffi::OsString;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Compiles libraries, then links them into a blob.
///
/// Failures end the build script with a message.
#[derive(Debug)]
pub struct Compiler {
    rustc: OsString,
    out: PathBuf,
    flags: Vec<String>,
    libraries: Vec<String>,
}

impl Compiler {
    /// A compiler with the flags that every blob has, and `flags` besides.
    pub fn new(flags: &[&str]) -> Self {
        let common = [
            "--edition=2024",
            "--target=x86_64-unknown-linux-gnu",
            "--cap-lints=allow",
            "-Cpanic=abort",
            "-Ccodegen-units=1",
            "-Coverflow-checks=off",
            "-Cdebug-assertions=off",
            "-Cforce-frame-pointers=yes",
        ];
        Self {
            rustc: env::var_os("RUSTC").expect("cargo sets RUSTC"),
            out: env::var_os("OUT_DIR").expect("cargo sets OUT_DIR").into(),
            flags: common.iter().chain(flags).map(|&f| f.to_owned()).collect(),
            libraries: Vec::new(),
        }
    }

    /// Enables these features of the crates that follow.
    #[must_use]
    pub fn features(mut self, names: &[&str]) -> Self {
        let flags = names.iter().map(|name| format!("--cfg=feature=\"{name}\""));
        self.flags.extend(flags);
        self
    }

    /// Compiles the crate in `folder` as a library for those that follow.
    #[must_use]
    pub fn library(mut self, name: &str, folder: &Path) -> Self {
        let source = folder.join("src");
        println!("cargo:rerun-if-changed={}", source.display());
        self.run(name, "rlib", &source.join("lib.rs"), &[]);
        self.libraries.push(name.to_owned());
        self
    }

    /// Links `root` with all libraries by linker script `script` into the file `name` in `OUT_DIR`.
    pub fn link(self, name: &str, root: &Path, script: &Path, flags: &[&str]) {
        println!("cargo:rerun-if-changed={}", script.display());
        println!("cargo:rerun-if-changed={}", root.display());
        let script = format!("-Clink-arg=-T{}", script.display());
        let mut all = vec![
            "-Clinker=rust-lld",
            "-Clinker-flavor=ld.lld",
            "-Clto=fat",
            "-Clink-arg=--gc-sections",
            "-Clink-arg=--oformat=binary",
            &script,
        ];
        all.extend(flags);
        self.run("blob", "bin", root, &all);
        must(
            fs::rename(self.out.join("blob"), self.out.join(name)),
            "renaming the blob",
        );
    }

    fn run(&self, name: &str, kind: &str, source: &Path, more: &[&str]) {
        let mut command = Command::new(&self.rustc);
        command
            .args(&self.flags)
            .args(["--crate-name", name, "--crate-type", kind])
            .arg("-L")
            .arg(&self.out)
            .arg("--out-dir")
            .arg(&self.out)
            .args(more);
        for library in &self.libraries {
            let file = self.out.join(format!("lib{library}.rlib"));
            let value = format!("{library}={}", file.display());
            command.arg("--extern").arg(value);
        }
        let status = must(command.arg(source).status(), "running rustc");
        assert!(status.success(), "compiling {} failed", source.display());
    }
}

fn must<T, E: Debug>(result: Result<T, E>, doing: &str) -> T {
    result.unwrap_or_else(|error| panic!("{doing} failed: {error:?}"))
}
