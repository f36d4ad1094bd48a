//! From a crate folder to an image.
//!
//! A guest is built by the host's own cargo and stable toolchain for the host's ordinary target; what makes it an image
//! are flags (`flags`), a linker script and the notes that Kiln's library puts into it. Afterwards the linked file is
//! divided ([`finish()`]): what a monitor needs becomes the image, the rest is kept beside it for debuggers.
//!
//! ```no_run
//! let built = kiln_image::Builder::new("examples/web").build()?;
//! println!("{} is {} bytes", built.image.display(), built.size);
//! # Ok::<(), kiln_image::BuildError>(())
//! ```

mod error;
mod finish;
mod flags;
mod host;
mod machine_part;
mod package;
mod room;
mod toolchain;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use error::BuildError;
pub use finish::finish;
pub use host::Output;

use crate::digest;
use package::Program;
use toolchain::Toolchain;

const SCRIPT: &str = include_str!("build/image.ld");
const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROFILE: &str = "kiln";

/// The ending of image files' names.
pub const IMAGE_EXTENSION: &str = "kiln";
/// The ending of debug files' names.
pub const DEBUG_EXTENSION: &str = "debug";

/// What the compiler optimizes for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Optimize {
    /// A small image (`opt-level = "s"`).
    #[default]
    Size,
    /// A fast one (`opt-level = 3`).
    Speed,
    /// Understandable in a debugger (`opt-level = 1`, full debug information).
    Debug,
}

impl Optimize {
    fn level(self) -> &'static str {
        match self {
            Self::Size => "\"s\"",
            Self::Speed => "3",
            Self::Debug => "1",
        }
    }

    fn debug(self) -> &'static str {
        match self {
            // Not "line-tables-only": inlined functions would be named "poll" and "fmt" without their paths.
            Self::Size | Self::Speed => "\"limited\"",
            Self::Debug => "\"full\"",
        }
    }
}

/// How to build an image. All but the crate's folder has a default.
#[derive(Clone, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is one of cargo's switches"
)]
pub struct Builder {
    crate_dir: PathBuf,
    target_dir: Option<PathBuf>,
    output: Option<PathBuf>,
    bin: Option<String>,
    optimize: Optimize,
    features: Vec<String>,
    default_features: bool,
    locked: bool,
    offline: bool,
    quiet: bool,
    for_programs: bool,
}

/// A finished image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// Name of the program.
    pub name: String,
    /// The image file.
    pub image: PathBuf,
    /// The file with its debug information.
    pub debug: PathBuf,
    /// Length of the image file in bytes.
    pub size: u64,
    /// Length in bytes of what the linker made, debug information included.
    pub linked_size: u64,
}

impl Builder {
    /// Builds the package in folder `crate_dir` (or with that manifest).
    pub fn new(crate_dir: impl Into<PathBuf>) -> Self {
        Self {
            crate_dir: crate_dir.into(),
            target_dir: None,
            output: None,
            bin: None,
            optimize: Optimize::default(),
            features: Vec::new(),
            default_features: true,
            locked: false,
            offline: false,
            quiet: false,
            for_programs: false,
        }
    }

    /// Where cargo puts what it makes; by default the target folder of the package's workspace.
    #[must_use]
    pub fn target_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.target_dir = Some(dir.into());
        self
    }

    /// The image file to write; by default `kiln/NAME.kiln` in the target folder. The debug file goes beside it.
    #[must_use]
    pub fn output(mut self, file: impl Into<PathBuf>) -> Self {
        self.output = Some(file.into());
        self
    }

    /// Which of the package's binaries to build.
    #[must_use]
    pub fn bin(mut self, name: impl Into<String>) -> Self {
        self.bin = Some(name.into());
        self
    }

    /// What to optimize for; by default size.
    #[must_use]
    pub fn optimize(mut self, optimize: Optimize) -> Self {
        self.optimize = optimize;
        self
    }

    /// Features of the package to turn on.
    #[must_use]
    pub fn features(mut self, features: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.features.extend(features.into_iter().map(Into::into));
        self
    }

    /// Whether the package's default features are on; by default they are.
    #[must_use]
    pub fn default_features(mut self, on: bool) -> Self {
        self.default_features = on;
        self
    }

    /// Refuse to change the lock file.
    #[must_use]
    pub fn locked(mut self, on: bool) -> Self {
        self.locked = on;
        self
    }

    /// Do without the network.
    #[must_use]
    pub fn offline(mut self, on: bool) -> Self {
        self.offline = on;
        self
    }

    /// Keep cargo's messages; they are in the error if the build fails. Otherwise they go to the standard error output.
    #[must_use]
    pub fn quiet(mut self, on: bool) -> Self {
        self.quiet = on;
        self
    }

    /// Leave room in the headers for a root file system and a configuration, which [`compose()`](crate::compose()) adds.
    #[must_use]
    pub fn for_programs(mut self, on: bool) -> Self {
        self.for_programs = on;
        self
    }

    /// Compiles, links and finishes the image. Blocks for as long as cargo takes.
    ///
    /// # Errors
    /// A [`BuildError`] for a folder without a program, a program that does not compile, or one that is not a Kiln
    /// program.
    pub fn build(&self) -> Result<Built, BuildError> {
        self.build_found(Program::find(self)?)
    }

    fn build_found(&self, mut program: Program) -> Result<Built, BuildError> {
        fs::create_dir_all(program.target_dir.join(PROFILE))
            .and_then(|()| program.target_dir.canonicalize())
            .map(|dir| program.target_dir = dir)
            .map_err(|error| BuildError::io(&program.target_dir, error))?;
        let toolchain = Toolchain::find(self.work_dir(&program.manifest))?;
        let script = self::script(&program.target_dir, self.for_programs)?;
        self.compile(&program, flags::encoded(&program, &toolchain, &script))?;

        let linked = program
            .target_dir
            .join(TARGET)
            .join(PROFILE)
            .join(&program.name);
        let image = self.output.clone().unwrap_or_else(|| {
            program
                .target_dir
                .join(PROFILE)
                .join(format!("{}.{IMAGE_EXTENSION}", program.name))
        });
        let mut built = finish(&linked, &image)?;
        built.name = program.name;
        Ok(built)
    }

    fn compile(&self, program: &Program, flags: OsString) -> Result<(), BuildError> {
        let mut command = self.cargo("build", &program.manifest);
        command
            .env("CARGO_ENCODED_RUSTFLAGS", flags)
            .args(["--target", TARGET, "--profile", PROFILE, "--bin"])
            .arg(&program.name)
            .arg("--target-dir")
            .arg(&program.target_dir);
        for setting in [
            "inherits=\"release\"",
            "codegen-units=1",
            "debug-assertions=false",
            "incremental=false",
            "lto=\"fat\"",
            "overflow-checks=false",
            "panic=\"abort\"",
            "rpath=false",
            "split-debuginfo=\"off\"",
            "strip=\"none\"",
            &format!("opt-level={}", self.optimize.level()),
            &format!("debug={}", self.optimize.debug()),
        ] {
            command.args(["--config", &format!("profile.{PROFILE}.{setting}")]);
        }
        self.feature_options(&mut command);
        let messages = if self.quiet {
            Stdio::piped()
        } else {
            Stdio::inherit()
        };
        let output = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(messages)
            .spawn()
            .and_then(std::process::Child::wait_with_output)
            .map_err(|error| BuildError::Toolchain {
                program: command.get_program().to_owned(),
                reason: error.to_string(),
            })?;
        if output.status.success() {
            return Ok(());
        }
        Err(BuildError::Compile {
            manifest: program.manifest.clone(),
            messages: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            uses_kiln: program.uses_kiln,
        })
    }

    /// A cargo command on the package, in the package's folder as if typed there, so that its settings apply.
    fn cargo(&self, verb: &str, manifest: &Path) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command
            .current_dir(self.work_dir(manifest))
            // These would contradict the flags given here, or make the result depend on who builds.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_BUILD_RUSTFLAGS")
            .env_remove("CARGO_INCREMENTAL")
            // Lints that are running are those of another build.
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
            .env_remove("CLIPPY_ARGS")
            .arg(verb)
            .arg("--manifest-path")
            .arg(manifest);
        self.lock_options(&mut command);
        command
    }

    fn lock_options(&self, command: &mut Command) {
        if self.locked {
            command.arg("--locked");
        }
        if self.offline {
            command.arg("--offline");
        }
    }

    fn feature_options(&self, command: &mut Command) {
        if !self.features.is_empty() {
            command.args(["--features", &self.features.join(",")]);
        }
        if !self.default_features {
            command.arg("--no-default-features");
        }
    }

    fn work_dir<'a>(&'a self, manifest: &'a Path) -> &'a Path {
        manifest.parent().unwrap_or(&self.crate_dir)
    }
}

/// Writes the linker script. Its name carries its digest: cargo links again when a flag changes, not when a file does.
fn script(target_dir: &Path, for_programs: bool) -> Result<PathBuf, BuildError> {
    const LAST_HEADER: &str = "    machine PT_NULL;";
    let text = if for_programs {
        let more = format!("    root PT_NULL;\n    config PT_NULL;\n{LAST_HEADER}");
        SCRIPT.replace(LAST_HEADER, &more)
    } else {
        SCRIPT.to_owned()
    };
    let digest = digest::of_bytes(text.as_bytes()).to_string();
    let path = target_dir
        .join(PROFILE)
        .join(format!("image-{}.ld", &digest[..12]));
    if !fs::read(&path).is_ok_and(|found| found == text.as_bytes()) {
        replace(&path, text.as_bytes()).map_err(|error| BuildError::io(&path, error))?;
    }
    Ok(path)
}

/// Puts a file in place in one step: whoever has the old one open or mapped keeps it as it was.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    fs::write(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path))
        .inspect_err(|_| {
            // The write's error is the one to report.
            let _ = fs::remove_file(&temporary);
        })
}
