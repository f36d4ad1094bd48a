//! The place where parts work: a folder in memory, the `kiln` command and the images.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::janitor::{Janitor, Kept};
use crate::{Result, instance, process};

/// Where cargo keeps the command, built with `--release`.
const KILN: &str = "x86_64-unknown-linux-gnu/release/kiln";

/// Compiling a guest with everything below it, on a busy machine.
const BUILD: Duration = Duration::from_mins(4);

/// What every part gets.
pub struct Setting {
    /// The command.
    pub kiln: PathBuf,
    /// A folder in memory, gone after the benchmark.
    pub folder: PathBuf,
    /// Whether rougher numbers in less time are wanted.
    pub quick: bool,
    backend: Mutex<&'static str>,
    janitor: Janitor,
}

impl Setting {
    /// Makes the folder and prints what measures where.
    pub fn new(quick: bool) -> Result<Self> {
        let kiln = target().join(KILN);
        if !kiln.is_file() {
            return Err(format!(
                "{} is missing: build it with `cargo build --release --package kiln-cli`",
                kiln.display()
            ));
        }
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let folder = parent.join(format!("kiln-bench-{}", std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(|error| format!("{}: {error}", folder.display()))?;
        let janitor = Janitor::start(&folder, &kiln)?;
        let runtime = instance::runtime(&folder);
        DirBuilder::new()
            .mode(0o700)
            .create(&runtime)
            .map_err(|error| format!("{}: {error}", runtime.display()))?;
        let setting = Self {
            kiln,
            folder,
            quick,
            backend: Mutex::new("process"),
            janitor,
        };
        setting.introduce();
        Ok(setting)
    }

    /// What guests run on from now on, unless a call of the command says otherwise.
    pub fn set_backend(&self, backend: &'static str) {
        *self.lock() = backend;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, &'static str> {
        self.backend.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One number for a whole run, another for a quick one.
    pub fn pick<T>(&self, whole: T, quick: T) -> T {
        if self.quick { quick } else { whole }
    }

    /// A call of the command, with the benchmark's own runtime folder and nothing else in the environment.
    pub fn kiln(&self) -> Command {
        let mut command = instance::command(&self.kiln, &self.folder);
        command.env("KILN_BACKEND", *self.lock());
        command
    }

    /// Builds an example and returns its image.
    pub fn image(&self, example: &str) -> Result<PathBuf> {
        self.image_of("examples", example)
    }

    /// Builds a guest in a folder of the repository and returns its image.
    pub fn image_of(&self, parent: &str, name: &str) -> Result<PathBuf> {
        let image = self.folder.join(format!("{name}.kiln"));
        if image.is_file() {
            return Ok(image);
        }
        let mut build = Command::new(&self.kiln);
        build
            .current_dir(workspace())
            .args(["build", "--quiet", &format!("{parent}/{name}"), "-o"])
            .arg(&image);
        process::output(&mut build, BUILD)?;
        Ok(image)
    }

    /// Starts a program that ends with the benchmark.
    pub fn keep(&self, command: &mut Command) -> Result<Kept> {
        self.janitor.keep(command)
    }

    /// The same for a program that reads its standard input: the pipe stays open as long as it is kept.
    pub fn keep_open(&self, command: &mut Command) -> Result<Kept> {
        self.janitor
            .keep_with(command, std::process::Stdio::piped())
    }

    /// Removes everything and waits for it.
    pub fn finish(mut self) {
        self.janitor.finish();
    }

    fn introduce(&self) {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let model = info
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown processor", |(_, model)| model);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let version = self.kiln().arg("version").output();
        let version = version.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
        println!(
            "{processors} x {model}, Linux {}",
            read("/proc/sys/kernel/osrelease").trim()
        );
        if let Some(line) = version.unwrap_or_default().lines().next() {
            println!("{line}");
        }
        if processors < 3 {
            println!(
                "peers, guests and load share {processors} processors: absolute numbers say little, ratios more"
            );
        }
    }
}

/// Where cargo puts what it builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// The root of the repository.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("this package is two folders deep in the repository")
}
