//! Which shared libraries an ELF file will be given by its loader.
//!
//! The rules are those of `ld.so(8)`: `DT_RPATH` of the object and of those that brought it if it has no `DT_RUNPATH`, then
//! `LD_LIBRARY_PATH`, `DT_RUNPATH`, the loader's cache, and the default folders. musl's loader has its own list of folders
//! and no cache. Programs are never executed to find out.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::Error;
use crate::collect::{Collector, Watch};
use crate::elf::{self, Elf, Kind, Parsed};
use crate::ldcache::LoaderCache;

const CACHE: &str = "/etc/ld.so.cache";
const DEFAULT: [&str; 6] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];
const MUSL_PATHS: &str = "/etc/ld-musl-x86_64.path";
const MUSL_DEFAULT: [&str; 3] = ["/lib", "/usr/local/lib", "/usr/lib"];
/// Folders in a library folder with variants for newer processors.
const VARIANTS: [&str; 3] = ["x86-64-v2", "x86-64-v3", "x86-64-v4"];

/// Finds libraries and takes them.
pub(crate) struct Linker {
    cache: LoaderCache,
    library_path: Vec<PathBuf>,
    default: Vec<PathBuf>,
    musl: bool,
    /// Names of all libraries taken.
    pub names: HashSet<String>,
    done: HashSet<PathBuf>,
}

/// An object whose libraries are to be found.
struct Object {
    path: PathBuf,
    elf: Elf,
    /// `DT_RPATH` folders of those that brought it.
    inherited: Rc<Vec<PathBuf>>,
}

impl Linker {
    /// A linker as the program's loader is one.
    pub fn new(interpreter: Option<&str>, library_path: &str, collector: &mut Collector) -> Self {
        let musl = interpreter
            .and_then(|path| path.rsplit('/').next())
            .is_some_and(|name| name.starts_with("ld-musl"));
        let mut cache = LoaderCache::default();
        let mut default: Vec<PathBuf> = Vec::new();
        if musl {
            match std::fs::read_to_string(MUSL_PATHS) {
                Ok(text) => {
                    collector.add_if_there(Path::new(MUSL_PATHS), Watch::File);
                    default.extend(
                        text.split([':', '\n'])
                            .filter(|p| !p.is_empty())
                            .map(PathBuf::from),
                    );
                }
                Err(_) => default.extend(MUSL_DEFAULT.map(PathBuf::from)),
            }
        } else if interpreter.is_some() {
            if let Ok(bytes) = std::fs::read(CACHE) {
                cache = LoaderCache::parse(&bytes);
            }
            collector.add_if_there(Path::new(CACHE), Watch::File);
            default.extend(DEFAULT.map(PathBuf::from));
        }
        Self {
            cache,
            library_path: library_path
                .split([':', ';'])
                .filter(|folder| !folder.is_empty())
                .map(PathBuf::from)
                .collect(),
            default,
            musl,
            names: HashSet::new(),
            done: HashSet::new(),
        }
    }

    /// Takes the libraries of the program at `path`, theirs, and so on.
    ///
    /// # Errors
    /// For a library that is missing.
    pub fn program(&mut self, path: &Path, elf: &Elf, to: &mut Collector) -> Result<(), Error> {
        let main = Object {
            path: path.to_owned(),
            elf: elf.clone(),
            inherited: Rc::new(Vec::new()),
        };
        match self.closure(main, to)? {
            None => Ok(()),
            Some((library, needing)) => Err(Error::NoLibrary {
                program: path.to_owned(),
                library,
                needing: (needing != path).then_some(needing),
            }),
        }
    }

    /// Takes the libraries of an object that the program may load by itself; missing ones are its own concern.
    pub fn module(&mut self, path: &Path, to: &mut Collector) {
        if let Ok(file) = File::open(path)
            && let Ok(Parsed::Elf(elf)) = elf::parse(&file)
            && elf.kind != Kind::Other
        {
            let object = Object {
                path: path.to_owned(),
                elf,
                inherited: Rc::new(Vec::new()),
            };
            let _ = self.closure(object, to);
        }
    }

    /// Takes a library by name, as `dlopen(3)` finds it. False if there is none.
    pub fn by_name(&mut self, name: &str, to: &mut Collector) -> bool {
        let nobody = Object {
            path: PathBuf::from("/"),
            elf: Elf {
                kind: Kind::Movable,
                interpreter: None,
                needed: vec![name.to_owned()],
                rpath: None,
                runpath: None,
                entry: 0,
            },
            inherited: Rc::new(Vec::new()),
        };
        matches!(self.closure(nobody, to), Ok(None))
    }

    /// Returns the first library that is missing, and who needs it.
    fn closure(
        &mut self,
        main: Object,
        to: &mut Collector,
    ) -> Result<Option<(String, PathBuf)>, Error> {
        let mut missing = None;
        let mut waiting = VecDeque::from([main]);
        while let Some(object) = waiting.pop_front() {
            if !self.done.insert(object.path.clone()) && object.path != Path::new("/") {
                continue;
            }
            let mut inherited = Vec::new();
            if object.elf.runpath.is_none() {
                inherited.extend(folders(object.elf.rpath.as_deref(), &object.path));
                inherited.extend(object.inherited.iter().cloned());
            }
            let inherited = Rc::new(inherited);
            for name in &object.elf.needed {
                let found = self.find(name, &object, &inherited);
                if found.is_empty() && missing.is_none() {
                    missing = Some((name.clone(), object.path.clone()));
                }
                for (path, elf) in found {
                    to.add(&path, Watch::File)
                        .map_err(|error| Error::unreadable(&path, error))?;
                    self.names.insert(name.clone());
                    waiting.push_back(Object {
                        path,
                        elf,
                        inherited: inherited.clone(),
                    });
                }
            }
        }
        Ok(missing)
    }

    /// The file that the loader takes for `name`, and variants of it for newer processors.
    fn find(&self, name: &str, object: &Object, inherited: &[PathBuf]) -> Vec<(PathBuf, Elf)> {
        if name.contains('/') {
            let path = expand(name, &object.path);
            return library(&path).map(|elf| (path, elf)).into_iter().collect();
        }
        // musl knows its own library by these names and looks for no file.
        if self.musl && matches!(name, "libc.so" | "libc.musl-x86_64.so.1") {
            let own = ["/lib/ld-musl-x86_64.so.1", "/usr/lib/ld-musl-x86_64.so.1"];
            for path in own.map(PathBuf::from) {
                if let Some(elf) = library(&path) {
                    return vec![(path, elf)];
                }
            }
        }
        let mut found = Vec::new();
        let before = inherited.iter().chain(&self.library_path).cloned();
        let runpath = folders(object.elf.runpath.as_deref(), &object.path);
        for folder in before.chain(runpath) {
            if self.in_folder(&folder, name, &mut found) {
                return found;
            }
        }
        for path in self.cache.find(name) {
            if let Some(elf) = library(path) {
                found.push((path.clone(), elf));
            }
        }
        if found.is_empty() {
            let _ = self
                .default
                .iter()
                .any(|folder| self.in_folder(folder, name, &mut found));
        }
        found
    }

    fn in_folder(&self, folder: &Path, name: &str, found: &mut Vec<(PathBuf, Elf)>) -> bool {
        if !self.musl {
            for variant in VARIANTS {
                let path = folder.join("glibc-hwcaps").join(variant).join(name);
                if let Some(elf) = library(&path) {
                    found.push((path, elf));
                }
            }
        }
        let path = folder.join(name);
        match library(&path) {
            Some(elf) => {
                found.push((path, elf));
                true
            }
            None => false,
        }
    }
}

/// The ELF file at `path` if a loader could take it for a library.
fn library(path: &Path) -> Option<Elf> {
    match elf::parse(&File::open(path).ok()?).ok()? {
        Parsed::Elf(elf) if elf.kind == Kind::Movable => Some(elf),
        _ => None,
    }
}

/// The folders of a `DT_RPATH` or `DT_RUNPATH` in an object at `path`.
fn folders(list: Option<&str>, path: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for entry in list
        .into_iter()
        .flat_map(|list| list.split(':'))
        .filter(|e| !e.is_empty())
    {
        folders.push(expand(entry, path));
        // The loader takes the program's own place without links, but a library's as it was found.
        if entry.contains("ORIGIN")
            && let Ok(real) = path.canonicalize()
            && real != path
        {
            folders.push(expand(entry, &real));
        }
    }
    folders
}

/// Puts in what `$ORIGIN`, `$LIB` and `$PLATFORM` stand for.
fn expand(text: &str, object: &Path) -> PathBuf {
    let origin = object.parent().unwrap_or(Path::new("/")).to_string_lossy();
    let mut text = text.to_owned();
    for (name, value) in [
        ("ORIGIN", &*origin),
        ("LIB", "lib/x86_64-linux-gnu"),
        ("PLATFORM", "x86_64"),
    ] {
        text = text
            .replace(&format!("${{{name}}}"), value)
            .replace(&format!("${name}"), value);
    }
    let path = PathBuf::from(text);
    if path.is_absolute() {
        path
    } else {
        Path::new("/").join(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_expanded() {
        let at = Path::new("/opt/x/bin/program");
        assert_eq!(expand("$ORIGIN/../lib", at), Path::new("/opt/x/bin/../lib"));
        assert_eq!(expand("${ORIGIN}", at), Path::new("/opt/x/bin"));
        assert_eq!(expand("/a/$LIB", at), Path::new("/a/lib/x86_64-linux-gnu"));
        assert_eq!(
            folders(Some("/a::$ORIGIN"), Path::new("/nowhere/b")),
            [PathBuf::from("/a"), "/nowhere".into()]
        );
    }
}
