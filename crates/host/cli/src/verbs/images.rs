//! `kiln images`: list the images that were built here.
//!
//! Images lie where builds put them, in the target folder of the crate's workspace (`target/kiln/NAME.kiln`); there
//! is no store besides. So the list is of the present folder's workspace, or of the folders given.

use std::path::{Path, PathBuf};

use kiln_image::Image;
use kiln_image::build::IMAGE_EXTENSION;
use kiln_monitor::clock::{WallTime, in_words};
use kiln_monitor::size::Size;
use serde::Serialize;

use crate::exit::Failure;
use crate::style::{self, Format};
use crate::table::Table;

/// Arguments of `kiln images`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print paths only
    #[arg(short = 'q', long)]
    quiet: bool,
    /// table, or json: one object a line
    #[arg(long, default_value = "table", value_enum)]
    format: Format,
    /// Folders to look in [default: this folder and target/kiln of it or of a folder above]
    folders: Vec<PathBuf>,
}

/// One image.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    name: String,
    path: PathBuf,
    build_id: Option<String>,
    size: u64,
    devices: Vec<String>,
    created_at: String,
    #[serde(skip)]
    created: WallTime,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let mut rows = Vec::new();
    if arguments.folders.is_empty() {
        // It may be that none of these can be read: then there are no images.
        let folders = default_folders().into_iter();
        rows.extend(
            folders
                .filter_map(|folder| images_in(&folder).ok())
                .flatten(),
        );
    }
    for folder in &arguments.folders {
        rows.extend(images_in(folder)?);
    }
    rows.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
    rows.dedup_by(|a, b| a.path == b.path);
    if arguments.quiet {
        for row in &rows {
            style::line(&row.path.display().to_string())?;
        }
        return Ok(0);
    }
    if arguments.format == Format::Json {
        rows.iter().try_for_each(style::json_line)?;
        return Ok(0);
    }
    let now = WallTime::now();
    let mut table = Table::new(&["NAME", "BUILD ID", "CREATED", "SIZE", "DEVICES", "PATH"]);
    for row in &rows {
        let id = row.build_id.as_deref().unwrap_or("");
        table.row([
            row.name.clone(),
            id[..id.len().min(12)].to_owned(),
            format!("{} ago", in_words(now.since(row.created))),
            Size::from_bytes(row.size).rounded(),
            row.devices.join(", "),
            row.path.display().to_string(),
        ]);
    }
    table.print()?;
    Ok(0)
}

/// This folder, and `target/kiln` in the nearest folder that has one.
fn default_folders() -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::from(".")];
    if let Ok(here) = std::env::current_dir() {
        let built = here.ancestors().map(|folder| folder.join("target/kiln"));
        folders.extend(built.filter(|folder| folder.is_dir()).take(1));
    }
    folders
}

/// The images in a folder. What is no image, or not of this version, is left out.
fn images_in(folder: &Path) -> Result<Vec<Row>, Failure> {
    let entries = folder.read_dir().map_err(|error| {
        Failure::new(format!(
            "{}: {error}: name folders with images",
            folder.display()
        ))
    })?;
    Ok(entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|ending| ending == IMAGE_EXTENSION)
        })
        .filter_map(|path| row(&path))
        .collect())
}

fn row(path: &Path) -> Option<Row> {
    let image = Image::open(path).ok()?;
    let metadata = image.file().metadata().ok()?;
    let since = metadata
        .modified()
        .ok()?
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let created = WallTime(u64::try_from(since.as_nanos()).unwrap_or(0));
    Some(Row {
        name: path.file_stem()?.to_string_lossy().into_owned(),
        build_id: image.build_id().map(ToString::to_string),
        size: metadata.len(),
        devices: image
            .devices()
            .iter()
            .map(|device| {
                let optional = if device.optional { "?" } else { "" };
                format!("{} {}{optional}", device.kind.name(), device.name)
            })
            .collect(),
        created_at: created.rfc3339(),
        created,
        path: path.canonicalize().ok()?,
    })
}
