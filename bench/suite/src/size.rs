//! Part `size`: how many bytes the images of the examples have.
//!
//! The images are what `kiln build` writes: segments, notes and the symbol table that backtraces are read from. Debug
//! information lies in a file beside them and is not counted.

use std::path::Path;

use crate::figures::{self, Table, count, number};
use crate::setting::{Setting, workspace};
use crate::{Result, process};

/// Examples with their goals in KiB.
const EXAMPLES: [(&str, Option<u64>); 4] = [
    ("hello", Some(48)),
    ("echo", None),
    ("web", Some(256)),
    ("kv", None),
];

/// The part of web's image that are its pages for measurements: a block of 16 KiB and a page (examples/web/src/site.rs).
const WEB_MEASUREMENT_PAGES: u64 = 16 * 1024 + 612;

/// Measures and prints.
pub fn run(setting: &Setting) -> Result<()> {
    let mut table = Table::new(&["image", "KiB", "goal KiB", "of the goal"]);
    let mut failures = Vec::new();
    for (example, goal) in EXAMPLES {
        let image = match setting.image(example) {
            Ok(image) => image,
            Err(message) => {
                failures.push(format!("{example}: {message}"));
                continue;
            }
        };
        let bytes = bytes_of(&image)?;
        // Only the program itself has a goal, not what it serves.
        let site = workspace().join("examples").join(example).join("site");
        if site.is_dir() {
            let pages = pages_of(&site)? + WEB_MEASUREMENT_PAGES;
            row(&mut table, example, bytes, None);
            let name = format!("{example}, its pages aside");
            row(&mut table, &name, bytes.saturating_sub(pages), goal);
        } else {
            row(&mut table, example, bytes, goal);
        }
    }
    // A peer for comparison: what the system's own web server has on disk, libraries aside.
    if let Some(nginx) = process::find("nginx") {
        row(
            &mut table,
            "nginx, program without libraries",
            bytes_of(&nginx)?,
            None,
        );
    }
    table.print();
    match failures.first() {
        Some(message) => Err(message.clone()),
        None => Ok(()),
    }
}

fn row(table: &mut Table, name: &str, bytes: u64, goal: Option<u64>) {
    let share = goal.map(|goal| count(bytes) / count(goal * 1024));
    table.row([
        name.to_owned(),
        figures::kib(bytes),
        goal.map_or(String::new(), |goal| goal.to_string()),
        share.map_or(String::new(), number),
    ]);
}

fn bytes_of(file: &Path) -> Result<u64> {
    let about = std::fs::metadata(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(about.len())
}

fn pages_of(folder: &Path) -> Result<u64> {
    let explain = |error| format!("{}: {error}", folder.display());
    let mut sum = 0;
    for entry in std::fs::read_dir(folder).map_err(explain)? {
        sum += bytes_of(&entry.map_err(explain)?.path())?;
    }
    Ok(sum)
}
