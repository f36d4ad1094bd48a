//! Programs that come with trees of files: interpreters with their modules, and what is installed under a prefix of its own.

use std::fs;
use std::path::{Path, PathBuf};

use crate::collect::{Collector, Watch};

/// Prefixes that many programs share: nothing below them belongs to one of them.
const SHARED: [&str; 4] = ["/", "/usr", "/usr/local", "/opt"];

/// Folders of a prefix that a program of it does not need to run.
const USELESS: [&str; 6] = [
    "include",
    "man",
    "src",
    "pkgconfig",
    "share/doc",
    "share/man",
];

/// Where interpreters have modules, below the prefix that they are installed under: names that the program's starts with,
/// then names that those folders start with.
const MODULES: [(&[&str], &[&str]); 9] = [
    (
        &["python", "pypy"],
        &["lib/python", "lib/pypy", "lib64/python"],
    ),
    (
        &["node"],
        &["lib/node_modules", "share/nodejs", "share/node_modules"],
    ),
    (
        &["perl"],
        &["lib/perl", "share/perl", "lib/x86_64-linux-gnu/perl"],
    ),
    (
        &["ruby"],
        &[
            "lib/ruby",
            "share/rubygems-integration",
            "share/ruby-vendor",
        ],
    ),
    (&["php"], &["lib/php", "share/php", "etc/php"]),
    (
        &["lua", "luajit"],
        &["share/lua", "lib/lua", "share/luajit"],
    ),
    (&["tclsh", "wish"], &["lib/tcl", "lib/tk", "share/tcltk"]),
    (&["erl"], &["lib/erlang"]),
    (&["guile"], &["share/guile", "lib/guile"]),
];

/// Folders that servers have their content in unless they are told otherwise.
const CONTENT: [(&[&str], &str); 1] = [(&["nginx", "lighttpd", "apache2", "httpd"], "/var/www")];

/// The most files of such a tree.
const MOST: usize = 200_000;

/// Takes the trees of the program at `path` and whoever it really is. `packaged`: a package has it.
pub(crate) fn add(path: &Path, packaged: bool, to: &mut Collector) {
    let mut names = vec![path.to_owned()];
    if let Ok(real) = path.canonicalize()
        && real != path
    {
        names.push(real);
    }
    for path in &names {
        let Some((prefix, name)) = prefix(path) else {
            continue;
        };
        if prefix.join("pyvenv.cfg").is_file() {
            // A virtual environment of Python: its modules, and how it finds the others.
            let _ = to.add_tree(&prefix, Watch::File, MOST);
            continue;
        }
        let own = !SHARED.iter().any(|shared| prefix == Path::new(shared)) && !is_home(&prefix);
        if own && !packaged {
            whole(&prefix, to);
        } else {
            modules(&prefix, name, to);
            if prefix == Path::new("/usr") {
                modules(Path::new("/usr/local"), name, to);
            }
        }
        for (programs, folder) in CONTENT {
            if programs.contains(&name) {
                let _ = to.add_tree(Path::new(folder), Watch::File, 10_000);
            }
        }
    }
}

/// `PREFIX/bin/NAME` as prefix and name.
fn prefix(path: &Path) -> Option<(PathBuf, &str)> {
    let name = path.file_name()?.to_str()?;
    let folder = path.parent()?;
    let bin = folder.file_name()?.to_str()?;
    matches!(bin, "bin" | "sbin").then(|| Some((folder.parent()?.to_owned(), name)))?
}

fn is_home(prefix: &Path) -> bool {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    home.is_some_and(|home| prefix == home || prefix == home.join(".local"))
        || prefix.parent() == Some(Path::new("/home"))
}

/// A tree of one program or of few: all but what is for people and compilers.
fn whole(prefix: &Path, to: &mut Collector) {
    for entry in fs::read_dir(prefix)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
    {
        let name = entry.file_name();
        let path = prefix.join(&name);
        if USELESS.iter().any(|folder| name == **folder) || !path.is_dir() {
            continue;
        }
        if name == "share" {
            for inner in fs::read_dir(&path)
                .into_iter()
                .flatten()
                .filter_map(Result::ok)
            {
                let below = format!("share/{}", inner.file_name().to_string_lossy());
                if !USELESS.contains(&&*below) {
                    let _ = to.add_tree(&inner.path(), Watch::Package, MOST);
                }
            }
            continue;
        }
        // Programs beside it are not the one that is to run; what it starts has to be named.
        if name != "bin" && name != "sbin" {
            let _ = to.add_tree(&path, Watch::Package, MOST);
        }
    }
}

fn modules(prefix: &Path, name: &str, to: &mut Collector) {
    for (programs, folders) in MODULES {
        if !programs.iter().any(|program| name.starts_with(program)) {
            continue;
        }
        for folder in folders {
            let Some((parent, start)) = folder.rsplit_once('/') else {
                continue;
            };
            let parent = prefix.join(parent);
            for entry in fs::read_dir(&parent)
                .into_iter()
                .flatten()
                .filter_map(Result::ok)
            {
                let found = entry.file_name();
                let found = found.to_string_lossy();
                if found.starts_with(start) && !is_of_another_version(name, &found, start) {
                    let _ = to.add_tree(&parent.join(&*found), Watch::Package, MOST);
                }
            }
        }
    }
}

/// Whether a folder as in `python3.12` is of another version than the program `python3.11`.
fn is_of_another_version(program: &str, folder: &str, start: &str) -> bool {
    let version = |name: &str, start: &str| {
        let rest = name.strip_prefix(start).unwrap_or_default().to_owned();
        rest.starts_with(|c: char| c.is_ascii_digit())
            .then_some(rest)
    };
    let end = program
        .find(|c: char| c.is_ascii_digit())
        .unwrap_or(program.len());
    let (Some(own), Some(other)) = (version(program, &program[..end]), version(folder, start))
    else {
        return false;
    };
    !own.starts_with(&other) && !other.starts_with(&own)
}

/// What a version manager's stand-in stands for: `ROOT/shims/NAME` is `ROOT/versions/VERSION/bin/NAME`, as with pyenv,
/// rbenv and nodenv. The version is that of the nearest `.python-version` (`.ruby-version`...) above `cwd`, or of
/// `ROOT/version`.
pub(crate) fn behind_stand_in(path: &Path, cwd: &Path) -> Option<PathBuf> {
    let folder = path.parent()?;
    let root = folder.parent().filter(|_| folder.ends_with("shims"))?;
    let language = match root.file_name()?.to_str()? {
        ".pyenv" | "pyenv" => "python",
        ".rbenv" | "rbenv" => "ruby",
        ".nodenv" | "nodenv" => "node",
        _ => return None,
    };
    let local = cwd
        .ancestors()
        .map(|folder| folder.join(format!(".{language}-version")));
    local
        .chain([root.join("version")])
        .filter_map(|file| fs::read_to_string(file).ok())
        .flat_map(|text| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .map(|version| {
            root.join("versions")
                .join(version)
                .join("bin")
                .join(path.file_name().unwrap_or_default())
        })
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_folders_and_programs_are_held_together() {
        assert!(!is_of_another_version("python3.11", "python3.11", "python"));
        assert!(!is_of_another_version("python3.11", "python3", "python"));
        assert!(!is_of_another_version("python3", "python3.11", "python"));
        assert!(!is_of_another_version("python", "python3.11", "python"));
        assert!(is_of_another_version("python3.11", "python3.12", "python"));
        assert!(is_of_another_version("python3", "python2.7", "python"));
        assert!(!is_of_another_version(
            "node",
            "node_modules",
            "node_modules"
        ));
    }

    #[test]
    fn prefixes_hold_bin() {
        let of = |path: &str| prefix(Path::new(path)).map(|(prefix, _)| prefix);
        assert_eq!(of("/usr/bin/x"), Some("/usr".into()));
        assert_eq!(of("/bin/x"), Some("/".into()));
        assert_eq!(of("/home/me/x"), None);
    }
}
