//! The command and the guests' images, built when they are older than the sources.
//!
//! Tests run in many processes at once (nextest gives each its own), so a lock file lets one of them build while the
//! others wait, and a stamp file tells them afterwards that nothing is left to do.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::SystemTime;

use kiln_image::Builder;
use rustix::fs::{FlockOperation, flock};

/// The workspace's folder.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here
        .ancestors()
        .nth(2)
        .expect("tests/system lies two folders deep");
    root.to_owned()
}

/// Where the command is, once somebody has asked for it.
static KILN: OnceLock<PathBuf> = OnceLock::new();

/// The `kiln` command: what the environment variable `KILN` names, or this workspace's.
///
/// # Panics
/// If there is none, or it does not build.
pub fn kiln() -> &'static Path {
    KILN.get_or_init(|| match std::env::var_os("KILN") {
        Some(path) => fs::canonicalize(&path)
            .unwrap_or_else(|error| panic!("KILN={}: {error}", path.display())),
        None => built("kiln", &["crates"], build_command),
    })
}

/// The same if [`kiln`] has returned before in this process. Builds nothing and does not panic.
pub fn known_kiln() -> Option<&'static Path> {
    KILN.get().map(PathBuf::as_path)
}

/// The image of a guest in `tests/guests` or `examples`.
pub fn guest(name: &str) -> PathBuf {
    static IMAGES: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    // A failed build has poisoned the lock; the others may still succeed.
    let mut images = IMAGES
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let images = images.get_or_insert_default();
    if let Some(path) = images.get(name) {
        return path.clone();
    }
    let path = try_guest(name).unwrap_or_else(|error| panic!("{name} does not build: {error}"));
    images.insert(name.to_owned(), path.clone());
    path
}

/// The same for a guest that may not build.
///
/// # Errors
/// What the build says.
pub fn try_guest(name: &str) -> Result<PathBuf, String> {
    let (folder, output) = if workspace().join("tests/guests").join(name).is_dir() {
        (format!("tests/guests/{name}"), format!("guest-{name}"))
    } else {
        (format!("examples/{name}"), name.to_owned())
    };
    let sources = [
        "crates/guest",
        "crates/shared",
        "crates/host/image",
        "tests/guests",
        "examples",
    ];
    try_built(&output, &sources, || {
        let image = outputs().join(format!("{output}.kiln"));
        let builder = Builder::new(workspace().join(folder))
            .output(&image)
            .quiet(true);
        builder
            .build()
            .map(|built| built.image)
            .map_err(|error| error.to_string())
    })
}

fn outputs() -> PathBuf {
    workspace().join("target/system-tests")
}

fn built(name: &str, sources: &[&str], build: impl FnOnce() -> Result<PathBuf, String>) -> PathBuf {
    try_built(name, sources, build).unwrap_or_else(|error| panic!("{name} does not build: {error}"))
}

/// Builds unless a stamp newer than all sources says where the result is.
fn try_built(
    name: &str,
    sources: &[&str],
    build: impl FnOnce() -> Result<PathBuf, String>,
) -> Result<PathBuf, String> {
    fs::create_dir_all(outputs()).expect("a folder for what is built");
    let lock = File::create(outputs().join("lock")).expect("a lock file");
    flock(&lock, FlockOperation::LockExclusive).expect("the lock");
    let stamp = outputs().join(format!("{name}.stamp"));
    let newest = sources
        .iter()
        .map(|folder| newest(&workspace().join(folder)))
        .chain([
            modified(&workspace().join("Cargo.lock")),
            modified(&workspace().join("Cargo.toml")),
        ])
        .max();
    if let Ok(path) = fs::read_to_string(&stamp)
        && Some(modified(&stamp)) > newest
        && Path::new(&path).exists()
    {
        return Ok(path.into());
    }
    let path = build()?;
    fs::write(&stamp, path.to_str().expect("a path in UTF-8")).expect("a stamp");
    Ok(path)
}

fn build_command() -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(workspace())
        .args([
            "build",
            "--release",
            "-p",
            "kiln-cli",
            "--message-format",
            "json-render-diagnostics",
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err("see above".into());
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut executables = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message["executable"].as_str()?))
    });
    executables
        .next_back()
        .ok_or_else(|| "cargo names no executable".into())
}

fn modified(path: &Path) -> SystemTime {
    path.metadata()
        .and_then(|metadata| metadata.modified())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// When the last of a folder's files was changed.
fn newest(folder: &Path) -> SystemTime {
    let Ok(entries) = folder.read_dir() else {
        return SystemTime::UNIX_EPOCH;
    };
    let times = entries.filter_map(Result::ok).map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            newest(&path)
        } else {
            modified(&path)
        }
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}
