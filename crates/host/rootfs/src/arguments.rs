//! Files that a program's arguments name.
//!
//! An argument that is the path of something on the host, or has one behind its `=`, is taken under the same path; the
//! working directory is then the user's, so that relative paths mean the same. A script that an interpreter is given
//! brings its folder with it, because its modules lie there.

use std::path::{Path, PathBuf};

use crate::Request;
use crate::collect::{Collector, Watch};
use crate::program::tidy;

/// More files than this are not taken for an argument's sake.
const MOST: usize = 5_000;

/// Folders that are nobody's in particular, or the machine's own: never taken whole for an argument's sake.
const NEVER: [&str; 14] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/proc", "/root", "/run", "/sys",
    "/tmp", "/usr", "/var",
];

/// Endings of scripts whose folder comes along.
const SCRIPTS: [&str; 9] = ["py", "js", "mjs", "cjs", "rb", "pl", "php", "lua", "tcl"];

/// Takes the files that arguments name; `scripts` come with their folders too. Returns the working directory if one of them
/// is relative, and adds to `notes` what was too much.
pub(crate) fn add(
    request: &Request,
    scripts: &[PathBuf],
    to: &mut Collector,
    notes: &mut Vec<String>,
) -> Option<String> {
    let mut cwd = None;
    for text in named(request) {
        let path = tidy(&request.cwd.join(text));
        if !text.starts_with('/') {
            cwd = request.cwd.to_str().map(str::to_owned);
        }
        if path.is_dir() {
            folder(&path, to, notes);
        } else {
            let _ = to.add(&path, Watch::File);
            if is_script(&path) {
                script(&path, to);
            }
        }
    }
    for path in scripts {
        script(path, to);
    }
    if let Some(cwd) = &cwd {
        let _ = to.add(Path::new(cwd), Watch::Package);
    }
    cwd
}

/// What arguments name that is there now, as they say it, one thing for each argument.
pub(crate) fn named(request: &Request) -> impl Iterator<Item = &str> {
    let is_there = |text: &&str| {
        let path = tidy(&request.cwd.join(text));
        // In /dev, /proc and /sys the guest has its own.
        let own = ["/dev", "/proc", "/sys"]
            .iter()
            .any(|folder| path.starts_with(folder));
        text.len() <= 4096 && !own && path.exists()
    };
    request
        .args
        .iter()
        .filter_map(move |argument| candidates(argument).find(is_there))
}

/// The argument itself, and what stands behind `=` or a short option.
fn candidates(argument: &str) -> impl Iterator<Item = &str> {
    let whole = (!argument.starts_with('-')).then_some(argument);
    let value = argument.split_once('=').map(|(_, value)| value);
    let short = (argument.starts_with('-') && !argument.starts_with("--"))
        .then(|| argument.get(2..))
        .flatten();
    [whole, value, short]
        .into_iter()
        .flatten()
        .filter(|text| !text.is_empty())
}

fn is_script(path: &Path) -> bool {
    let ending = path.extension().and_then(std::ffi::OsStr::to_str);
    ending.is_some_and(|ending| SCRIPTS.contains(&ending))
}

/// A folder that may be taken whole.
fn is_somebodys(path: &Path) -> bool {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    !NEVER.iter().any(|never| real == Path::new(never))
        && home.as_deref() != Some(&*real)
        && real.parent() != Some(Path::new("/usr"))
        && real.parent() != Some(Path::new("/home"))
}

fn folder(path: &Path, to: &mut Collector, notes: &mut Vec<String>) {
    let _ = to.add(path, Watch::Package);
    if !is_somebodys(path) {
        return;
    }
    if count(path, MOST) >= MOST {
        notes.push(format!(
            "{} has more than {MOST} files, which are left out: take them by --include or -v",
            path.display()
        ));
        return;
    }
    let _ = to.add_tree(path, Watch::File, MOST);
}

/// The folder of a script if it is not too large, and modules of node above it.
fn script(path: &Path, to: &mut Collector) {
    let Some(folder) = path.parent() else {
        return;
    };
    for above in folder.ancestors() {
        for name in ["node_modules", "package.json"] {
            let path = above.join(name);
            if path.exists() {
                let _ = to.add_tree(&path, Watch::File, 20 * MOST);
            }
        }
    }
    let programs = folder.ends_with("bin") || folder.ends_with("sbin");
    if !programs && is_somebodys(folder) && count(folder, MOST) < MOST {
        let _ = to.add_tree(folder, Watch::File, MOST);
    }
}

/// How many files are in a folder and below, as far as `most`.
fn count(path: &Path, most: usize) -> usize {
    let mut count = 0;
    let mut waiting = vec![path.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
        {
            count += 1;
            if count >= most {
                return count;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(entry.path());
            }
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_in_arguments() {
        let of = |argument| candidates(argument).collect::<Vec<_>>();
        assert_eq!(of("a/b"), ["a/b"]);
        assert_eq!(of("key=a/b"), ["key=a/b", "a/b"]);
        assert_eq!(of("--conf=a"), ["a"]);
        assert_eq!(of("-ca"), ["a"]);
        assert_eq!(of("-c"), [""; 0]);
        assert_eq!(of(""), [""; 0]);
    }

    #[test]
    fn shared_folders_are_not_taken_whole() {
        for path in ["/", "/etc", "/usr/lib", "/tmp", "/bin"] {
            assert!(!is_somebodys(Path::new(path)), "{path}");
        }
        assert!(is_somebodys(Path::new("/srv/www")));
    }
}
