//! Part `linux`: Linux programs as guests beside the same programs as plain processes.
//!
//! | section | what | peer in the same run |
//! | --- | --- | --- |
//! | [`call`] | `getppid` in a loop | the host's own system call |
//! | [`start`] | a static program from start to end, redis-server to its first PONG | the same without Kiln |
//! | [`servers`] | redis, nginx and memcached behind a tap device under load | the same behind a veth pair |
//! | [`memory`] | redis-server that does nothing | the same as a process |
//! | [`instructions`] | guest instructions for each request, by QEMU's translator | none, it has goals |
//! | [`compute`] | programs that only compute | the same as processes |
//! | [`volumes`] | files of a folder of the host | the same as processes |

mod call;
mod compute;
mod instructions;
mod memory;
mod servers;
mod start;
mod volumes;

use std::path::{Path, PathBuf};

use crate::Result;
use crate::process;
use crate::setting::Setting;

/// Which sections to measure, by name with commas between; all if it is not set.
const CHOICE: &str = "KILN_BENCH_LINUX";

/// A section of this part.
type Section = fn(&Setting) -> Result<()>;

const SECTIONS: [(&str, Section); 7] = [
    ("call", call::run),
    ("start", start::run),
    ("servers", servers::run),
    ("memory", memory::run),
    ("instructions", instructions::run),
    ("compute", compute::run),
    ("volumes", volumes::run),
];

/// Measures and prints.
pub fn run(setting: &Setting) -> Result<()> {
    let choice = std::env::var(CHOICE).ok();
    let chosen = |name: &str| {
        let choice = choice.as_deref();
        choice.is_none_or(|names| names.split(',').any(|one| one == name))
    };
    let mut failed = Vec::new();
    for (name, section) in SECTIONS {
        if !chosen(name) {
            continue;
        }
        println!("\n-- {name}");
        if let Err(message) = section(setting) {
            println!("failed: {message}");
            failed.push(name);
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(failed.join(", "))
}

/// Where programs and what they serve lie: not in the benchmark's own folder, which is in memory under `/dev`, where a
/// guest has devices of its own.
fn folder() -> Result<PathBuf> {
    let folder = crate::setting::workspace().join("target/bench-linux");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    Ok(folder)
}

/// Compiles a C program.
fn compile(name: &str, source: &str, flags: &[&str]) -> Result<PathBuf> {
    let cc = process::need("cc", "gcc")?;
    let folder = folder()?;
    let file = folder.join(format!("{name}.c"));
    std::fs::write(&file, source).map_err(|error| error.to_string())?;
    let program = folder.join(name);
    let mut command = std::process::Command::new(cc);
    command
        .arg("-O2")
        .args(flags)
        .arg(&file)
        .arg("-o")
        .arg(&program);
    process::output(&mut command, process::PATIENCE)?;
    Ok(program)
}

/// The redis server's arguments: nothing on disk, everybody may ask.
const REDIS: [&str; 4] = ["--protected-mode", "no", "--save", ""];

/// A program as text, for arguments.
fn text(path: &Path) -> String {
    path.display().to_string()
}
