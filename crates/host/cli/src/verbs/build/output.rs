//! Where an image is written.
//!
//! An image appears in one step, by a renaming: whatever has the name is gone then. So only an ordinary file is replaced,
//! and a symbolic link leads to what is written.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::exit::Failure;

/// So many symbolic links in a row are followed, as by Linux (`path_resolution(7)`).
const LINKS: usize = 40;

/// The file that is to be made or replaced for the output `named`.
///
/// # Errors
/// If that is something else than a file.
pub fn file(named: &Path) -> Result<PathBuf, Failure> {
    let refused = |problem: &str| {
        Err(Failure::new(format!(
            "{}: {problem}: name a file for the image with --output",
            named.display()
        )))
    };
    if named.as_os_str().is_empty() || named == Path::new("-") {
        return Err(Failure::new(format!(
            "--output {:?}: an image is written to a file: name one",
            named.display().to_string()
        )));
    }
    if named.as_os_str().as_bytes().ends_with(b"/") {
        return refused("a folder");
    }
    let mut file = named.to_owned();
    for _ in 0..LINKS {
        let kind = match file.symlink_metadata() {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(file),
            Err(error) => return refused(&error.to_string()),
        };
        if kind.is_file() {
            return Ok(file);
        }
        if !kind.is_symlink() {
            return refused(match kind {
                kind if kind.is_dir() => "a folder",
                kind if kind.is_fifo() => "a named pipe",
                kind if kind.is_socket() => "a socket",
                _ => "a device",
            });
        }
        match fs::read_link(&file) {
            // An absolute one takes the place of the whole path.
            Ok(target) => file = file.with_file_name("").join(target),
            Err(error) => return refused(&error.to_string()),
        }
    }
    refused("too many symbolic links")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    fn refused(path: &Path) -> String {
        match file(path) {
            Err(Failure::Message { text, code: 125 }) if !text.contains('\n') => text,
            other => panic!("{}: {other:?}", path.display()),
        }
    }

    #[test]
    fn only_files_are_replaced_and_links_are_followed() {
        let folder = std::env::temp_dir().join(format!("kiln-output-{}", std::process::id()));
        fs::create_dir_all(folder.join("a")).unwrap();
        let path = |name: &str| folder.join(name);

        fs::write(path("there.kiln"), "old").unwrap();
        assert_eq!(file(&path("there.kiln")).unwrap(), path("there.kiln"));
        assert_eq!(file(&path("new.kiln")).unwrap(), path("new.kiln"));
        assert_eq!(file(Path::new("new.kiln")).unwrap(), Path::new("new.kiln"));

        symlink("../there.kiln", path("a/relative")).unwrap();
        symlink(path("a/relative"), path("twice")).unwrap();
        let led_to = |name| file(&path(name)).unwrap();
        assert_eq!(led_to("twice"), path("a/../there.kiln"));
        symlink("nowhere", path("dangling")).unwrap();
        assert_eq!(led_to("dangling"), path("nowhere"));

        symlink("round", path("round")).unwrap();
        assert!(refused(&path("round")).contains("too many symbolic links"));
        assert!(refused(&folder).contains("a folder"));
        assert!(refused(&path("new/")).contains("a folder"));
        symlink("/dev/null", path("null")).unwrap();
        assert!(refused(&path("null")).contains("a device"));
        let _listener = UnixListener::bind(path("socket")).unwrap();
        assert!(refused(&path("socket")).contains("a socket"));
        assert!(refused(Path::new("-")).contains("name one"));
        assert!(refused(Path::new("")).contains("name one"));
        fs::remove_dir_all(&folder).unwrap();
    }
}
