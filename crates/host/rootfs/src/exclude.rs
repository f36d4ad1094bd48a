//! What the user does not want to have in the root file system.

use std::path::{Path, PathBuf};

/// Paths that are left out, with what is below them. A word without a slash stands for every file of that name, and `*` in
/// it for any characters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Excluded {
    paths: Vec<PathBuf>,
    names: Vec<String>,
}

impl Excluded {
    pub fn new(words: &[String]) -> Self {
        let (paths, names) = words
            .iter()
            .partition::<Vec<_>, _>(|word| word.contains('/'));
        Self {
            paths: paths.into_iter().map(PathBuf::from).collect(),
            names: names.into_iter().cloned().collect(),
        }
    }

    /// True if `path`, which is absolute, is left out.
    pub fn matches(&self, path: &Path) -> bool {
        let name = path.file_name().and_then(std::ffi::OsStr::to_str);
        self.paths.iter().any(|excluded| path.starts_with(excluded))
            || name.is_some_and(|name| self.names.iter().any(|pattern| like(pattern, name)))
    }
}

/// Whether a name fits a pattern with `*`.
fn like(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut name) = name.strip_prefix(start) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        match name.find(part) {
            Some(at) => name = &name[at + part.len()..],
            None => return false,
        }
    }
    name.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_names_are_left_out() {
        let excluded = Excluded::new(&["/usr/share/doc".into(), "*.pyc".into(), "test".into()]);
        for path in [
            "/usr/share/doc",
            "/usr/share/doc/a/b",
            "/x/a.pyc",
            "/x/test",
        ] {
            assert!(excluded.matches(Path::new(path)), "{path}");
        }
        for path in ["/usr/share/docs", "/x/a.py", "/x/tests", "/"] {
            assert!(!excluded.matches(Path::new(path)), "{path}");
        }
        assert!(like("a*b*c", "aXbYbZc") && !like("a*b*c", "ac") && !like("a*a", "a"));
    }
}
