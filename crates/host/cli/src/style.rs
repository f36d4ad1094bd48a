//! Output formats that several verbs have.

use std::io::{self, Write};

use serde::Serialize;

/// What `--format` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// JSON for programs.
    Json,
}

/// Prints one value as one line of JSON.
///
/// # Errors
/// Those of the standard output.
pub fn json_line(value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    io::stdout().lock().write_all(&text)
}

/// Prints one value as indented JSON.
///
/// # Errors
/// Those of the standard output.
pub fn json_pretty(value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    io::stdout().lock().write_all(&text)
}

/// Prints one line.
///
/// # Errors
/// Those of the standard output.
pub fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}
