//! What is to be run: from a word on the command line to an ELF file and the arguments in front of the user's.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Access, access};

use crate::Error;
use crate::elf::{self, Elf, Kind, Parsed};
use crate::trees;

/// As far as Linux follows interpreters that are scripts.
const MAX_SCRIPTS: usize = 4;

/// A program that can be loaded.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// The ELF file, under the name that it was found by.
    pub path: PathBuf,
    pub elf: Elf,
    /// Arguments before those of the user: for a script what stands behind its interpreter, and its own path.
    pub before: Vec<String>,
    /// Scripts on the way, to be taken along.
    pub scripts: Vec<PathBuf>,
    /// Places that were looked at and hold nothing, or a stand-in.
    pub passed: Vec<PathBuf>,
}

/// Finds the program that `word` names, as a shell does.
///
/// # Errors
/// See [`Error`]: it is not there, may not be executed, or is nothing that can be.
pub(crate) fn find(word: &str, cwd: &Path, search: Option<&OsStr>) -> Result<Program, Error> {
    let path = locate(word, cwd, search)?;
    let mut passed = Vec::new();
    if !word.contains('/') {
        let folders = search.map(std::env::split_paths).into_iter().flatten();
        let places = folders.map(|folder| tidy(&cwd.join(folder).join(word)));
        passed.extend(places.take_while(|place| *place != path));
    }
    let behind = trees::behind_stand_in(&path, cwd);
    if behind.is_some() {
        passed.push(path.clone());
    }
    let mut program = load(behind.unwrap_or(path), search, MAX_SCRIPTS)?;
    program.passed = passed;
    Ok(program)
}

/// The file that `word` names.
pub(crate) fn locate(word: &str, cwd: &Path, search: Option<&OsStr>) -> Result<PathBuf, Error> {
    if word.contains('/') {
        let path = tidy(&cwd.join(word));
        return match fs::metadata(&path) {
            Ok(_) => Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::NotFound(word.to_owned()))
            }
            Err(error) => Err(Error::unreadable(path, error)),
        };
    }
    let mut refused = None;
    let folders = search.map(std::env::split_paths).into_iter().flatten();
    for folder in folders.filter(|_| !word.is_empty()) {
        let path = tidy(&cwd.join(folder).join(word));
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() && access(&path, Access::EXEC_OK).is_ok() => {
                return Ok(path);
            }
            Ok(meta) if meta.is_file() => refused = Some(path),
            _ => {}
        }
    }
    Err(refused.map_or_else(|| Error::NotFound(word.to_owned()), Error::NotExecutable))
}

/// The path without `.`; what `..` means is left to the file system.
pub(crate) fn tidy(path: &Path) -> PathBuf {
    path.components()
        .filter(|component| !matches!(component, Component::CurDir))
        .collect()
}

fn load(path: PathBuf, search: Option<&OsStr>, scripts: usize) -> Result<Program, Error> {
    let meta = fs::metadata(&path).map_err(|error| Error::unreadable(&path, error))?;
    if !meta.is_file() {
        let kind = meta.file_type();
        let what = if kind.is_dir() {
            "a folder"
        } else if kind.is_fifo() || kind.is_socket() {
            "a pipe or socket"
        } else {
            "a device"
        };
        return Err(Error::NotAFile { path, what });
    }
    let file = File::open(&path).map_err(|error| Error::unreadable(&path, error))?;
    if access(&path, Access::EXEC_OK).is_err() {
        return Err(Error::NotExecutable(path));
    }
    match elf::parse(&file).map_err(|error| Error::unreadable(&path, error))? {
        Parsed::Elf(elf) => runnable(path, elf),
        Parsed::Foreign(machine) => Err(Error::Foreign { path, machine }),
        Parsed::Damaged(what) => Err(Error::NotAProgram { path, what }),
        Parsed::Other(head) if head.starts_with(b"#!") => script(path, &head, search, scripts),
        Parsed::Other(head) => Err(Error::NotAProgram {
            path,
            what: if head.is_empty() {
                "the file is empty"
            } else {
                "neither an ELF file nor a script that starts with #!"
            },
        }),
    }
}

fn runnable(path: PathBuf, elf: Elf) -> Result<Program, Error> {
    let library = elf.interpreter.is_none() && (!elf.needed.is_empty() || elf.entry == 0);
    if elf.kind == Kind::Other {
        let what = "an object file or core dump";
        return Err(Error::NotAProgram { path, what });
    }
    if elf.kind == Kind::Movable && library {
        let what = "a shared library";
        return Err(Error::NotAProgram { path, what });
    }
    if let Some(interpreter) = &elf.interpreter
        && fs::metadata(interpreter).is_err()
    {
        return Err(Error::NoLoader {
            program: path,
            interpreter: interpreter.clone(),
        });
    }
    Ok(Program {
        path,
        elf,
        before: Vec::new(),
        scripts: Vec::new(),
        passed: Vec::new(),
    })
}

fn script(
    path: PathBuf,
    head: &[u8],
    search: Option<&OsStr>,
    scripts: usize,
) -> Result<Program, Error> {
    let bad = |what| Error::BadScript {
        script: path.clone(),
        what,
    };
    let left = scripts
        .checked_sub(1)
        .ok_or_else(|| bad("its interpreter is a script, and so on without end"))?;
    let line = head.split(|&b| b == b'\n').next().unwrap_or_default();
    let line = std::str::from_utf8(line.get(2..).unwrap_or_default())
        .map_err(|_| bad("the line with #! is no text"))?
        .trim_matches([' ', '\t', '\r']);
    let (interpreter, argument) = match line.split_once([' ', '\t']) {
        Some((interpreter, argument)) => (interpreter, argument.trim_start()),
        None => (line, ""),
    };
    if interpreter.is_empty() {
        return Err(bad(
            "a script without an interpreter: nothing stands behind #!",
        ));
    }
    let missing = |interpreter: &str| Error::NoInterpreter {
        script: path.clone(),
        interpreter: interpreter.to_owned(),
    };
    // env(1) would have to execute what it finds: look in its place.
    let name = Path::new(interpreter).file_name().and_then(OsStr::to_str);
    let words = env_words(argument).filter(|_| name == Some("env"));
    let (found, mut before) = if let Some((word, rest)) = words {
        let found = locate(&word, Path::new("/"), search).map_err(|_| missing(&word))?;
        (found, rest)
    } else {
        let found = Path::new("/").join(interpreter);
        fs::metadata(&found).map_err(|_| missing(interpreter))?;
        let argument = Some(argument).filter(|argument| !argument.is_empty());
        (found, argument.into_iter().map(str::to_owned).collect())
    };
    let own = path
        .to_str()
        .ok_or_else(|| bad("its path is no text"))?
        .to_owned();
    let mut program = load(found, search, left)?;
    before.push(own);
    program.before.extend(before);
    program.scripts.push(path);
    Ok(program)
}

/// The interpreter's name and its arguments in what follows `env`; `None` if env is asked for more.
fn env_words(argument: &str) -> Option<(String, Vec<String>)> {
    let mut words: Vec<String> = match argument.strip_prefix("-S") {
        Some(text) => text.split_whitespace().map(str::to_owned).collect(),
        None => vec![argument.to_owned()],
    };
    if words.is_empty() {
        return None;
    }
    let first = words.remove(0);
    (!first.is_empty() && !first.starts_with('-') && !first.contains(['=', '\\', '"', '\'', '$']))
        .then_some((first, words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("kiln-program-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, name: &str, content: &[u8], mode: u32) -> String {
            let path = self.0.join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path.to_str().unwrap().to_owned()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn message(word: &str) -> String {
        let message = find(word, Path::new("/"), Some(OsStr::new("/usr/bin:/bin")))
            .unwrap_err()
            .to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn programs_are_found_as_by_a_shell() {
        let program = find("sh", Path::new("/"), Some(OsStr::new("/nowhere:/bin"))).unwrap();
        assert_eq!(program.path, Path::new("/bin/sh"));
        let program = find("./sh", Path::new("/bin"), None).unwrap();
        assert_eq!(program.path, Path::new("/bin/sh"));
        assert!(message("surely-not-installed").contains("no such program"));
        assert!(message("/surely/not/there").contains("no such program"));
        assert!(message("").contains("no such program"));
    }

    #[test]
    fn scripts_lead_to_their_interpreters() {
        let scratch = Scratch::new("scripts");
        let plain = scratch.file("plain", b"#!/bin/sh -eu \nexit\n", 0o755);
        let program = find(&plain, Path::new("/"), None).unwrap();
        assert_eq!(program.path, Path::new("/bin/sh"));
        assert_eq!(program.before, ["-eu", &plain]);
        let env = scratch.file("env", b"#! /usr/bin/env sh\n", 0o755);
        let program = find(&env, Path::new("/"), Some(OsStr::new("/bin"))).unwrap();
        assert_eq!(program.before, [env]);
        let split = scratch.file("split", b"#!/usr/bin/env -S sh -e -u\n", 0o755);
        let program = find(&split, Path::new("/"), Some(OsStr::new("/bin"))).unwrap();
        assert_eq!(program.before, ["-e", "-u", &split]);
        let nested = scratch.file("nested", format!("#!{plain}\n").as_bytes(), 0o755);
        let program = find(&nested, Path::new("/"), None).unwrap();
        assert_eq!(program.before, ["-eu", &plain, &nested]);
        assert_eq!(program.scripts.len(), 2);
    }

    #[test]
    fn what_cannot_be_run_is_told_in_one_line() {
        let scratch = Scratch::new("bad");
        for (content, mode, expected) in [
            (&b"#!\n"[..], 0o755, "without an interpreter"),
            (
                b"#!/surely/not/there\n",
                0o755,
                "/surely/not/there is not installed",
            ),
            (
                b"#!/usr/bin/env surely-not\n",
                0o755,
                "surely-not is not installed",
            ),
            (b"echo hello\n", 0o755, "neither an ELF file nor a script"),
            (b"", 0o755, "empty"),
            (b"#!/bin/sh\n", 0o644, "not executable"),
            (
                b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0",
                0o755,
                "32-bit x86",
            ),
            (
                b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0",
                0o755,
                "ARM64",
            ),
            (
                b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0",
                0o755,
                "incomplete",
            ),
        ] {
            let file = scratch.file("x", content, mode);
            // Who runs the tests as root may execute nothing either without the permission.
            let found = message(&file);
            assert!(found.contains(expected), "{found}");
        }
        let endless = scratch.0.join("endless");
        let line = format!("#!{}\n", endless.display());
        let endless = scratch.file("endless", line.as_bytes(), 0o755);
        assert!(message(&endless).contains("without end"));
        assert!(message("/").contains("a folder"));
        assert!(message("/dev/null").contains("a device"));
    }
}
