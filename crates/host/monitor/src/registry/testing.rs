//! A folder for a test, deleted with the value.

use std::path::{Path, PathBuf};

/// A new, empty folder.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes one in the host's folder for temporary files.
    ///
    /// # Panics
    /// If it cannot.
    #[allow(clippy::new_without_default, reason = "making a folder is no default")]
    pub fn new() -> Self {
        use std::os::unix::fs::DirBuilderExt;
        let name = format!("kiln-test-{}", crate::names::id(super::random()));
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .unwrap();
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
