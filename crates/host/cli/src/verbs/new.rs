//! `kiln new`: make a crate that builds and runs as it is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kiln_monitor::Error;

use crate::exit::Failure;
use crate::tell::tell;

/// Arguments of `kiln new`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The folder to make; its last part is the crate's name
    path: PathBuf,
    /// Name of the crate, if it is not the folder's
    #[arg(long)]
    name: Option<String>,
}

const MAIN: &str = include_str!("new/main.rs.txt");
const MANIFEST: &str = include_str!("new/Cargo.toml.txt");
const README: &str = include_str!("new/README.md.txt");

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let path = &arguments.path;
    let name = match (
        &arguments.name,
        path.file_name().and_then(|name| name.to_str()),
    ) {
        (Some(name), _) => name.as_str(),
        (None, Some(name)) => name,
        (None, None) => {
            return Err(Failure::new(format!(
                "{}: not a name for a crate",
                path.display()
            )));
        }
    };
    if !valid_crate_name(name) {
        return Err(Failure::new(format!(
            "{name:?} is not a name for a crate: use letters, digits, '-' and '_', the first a letter (or give --name)"
        )));
    }
    fs::create_dir(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::new(format!(
            "{} exists already: choose another name",
            path.display()
        )),
        _ => Error::file("create", path, error).into(),
    })?;
    for (file, text) in files(name, library().as_deref()) {
        write(&path.join(file), &text)?;
    }
    tell(format_args!(
        "made {0}: run it with `kiln run {0}`",
        path.display()
    ));
    Ok(0)
}

/// The files of a new crate.
fn files(name: &str, library: Option<&Path>) -> [(&'static str, String); 4] {
    let dependency = match library {
        Some(path) => format!("{{ path = {:?} }}", path.display().to_string()),
        None => format!("\"{}\"", env!("CARGO_PKG_VERSION")),
    };
    let fill = |text: &str| text.replace("{name}", name).replace("{kiln}", &dependency);
    [
        ("Cargo.toml", fill(MANIFEST)),
        ("src/main.rs", fill(MAIN)),
        ("README.md", fill(README)),
        (".gitignore", "/target\n".to_owned()),
    ]
}

/// Kiln's library in the checkout that this command was built from, if it is still there.
fn library() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest/kiln");
    path.join("Cargo.toml")
        .is_file()
        .then(|| path.canonicalize().ok())?
}

fn valid_crate_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, text))
        .map_err(|error| Error::file("write", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_filled_in() {
        let files = files("my-app", Some(Path::new("/src/kiln")));
        let [(_, manifest), (_, main), (_, readme), _] = &files;
        assert!(manifest.contains("name = \"my-app\""));
        assert!(manifest.contains("kiln = { path = \"/src/kiln\" }"));
        assert!(main.contains("#[kiln::main]"));
        assert!(
            files
                .iter()
                .all(|(_, text)| !text.contains("{name}") && !text.contains("{kiln}"))
        );
        assert!(readme.contains("kiln run"));
    }

    #[test]
    fn without_a_checkout_the_published_version_is_used() {
        let files = files("x", None);
        assert!(
            files[0]
                .1
                .contains(&format!("kiln = \"{}\"", env!("CARGO_PKG_VERSION")))
        );
    }

    #[test]
    fn names_are_checked() {
        assert!(valid_crate_name("web_2"));
        for bad in ["", "2web", "a b", "ä"] {
            assert!(!valid_crate_name(bad));
        }
    }
}
