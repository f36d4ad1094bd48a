//! What `kiln inspect` shows of an image file.

use std::path::Path;

use kiln_image::{Config, Image, digest};
use serde::Serialize;

use crate::exit::Failure;

/// An image file.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Shown {
    id: String,
    path: String,
    build_id: Option<String>,
    size: u64,
    devices: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<Program>,
}

/// The Linux program in it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Program {
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    env: Vec<String>,
    working_dir: String,
    user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system_calls: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root_size: Option<u64>,
}

/// Reads all there is to show.
pub fn show(path: &Path) -> Result<Shown, Failure> {
    let image = Image::open(path)?;
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    let size = image.file().metadata().map_err(failed)?.len();
    let digest = digest::of_file(path).map_err(failed)?;
    let root_size = image.root().map(|root| root.len);
    Ok(Shown {
        id: format!("sha256:{digest}"),
        path: path.canonicalize().map_err(failed)?.display().to_string(),
        build_id: image.build_id().map(ToString::to_string),
        size,
        devices: image
            .devices()
            .iter()
            .map(|device| {
                let optional = if device.optional { "?" } else { "" };
                format!("{} {}{optional}", device.kind.name(), device.name)
            })
            .collect(),
        program: image.config()?.map(|config| program(config, root_size)),
    })
}

fn program(config: Config, root_size: Option<u64>) -> Program {
    Program {
        entrypoint: config.entrypoint,
        cmd: config.args,
        env: config.env,
        working_dir: config.cwd,
        user: format!("{}:{}", config.uid, config.gid),
        memory: config.memory,
        system_calls: config.syscalls,
        root_size,
    }
}
