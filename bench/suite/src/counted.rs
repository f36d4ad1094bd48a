//! A QEMU whose translator counts the guest's instructions: figures without the noise of time.
//!
//! The plugin is `plugin/instructions.c`, compiled here; it counts into a file that can be read at any time.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::Result;
use crate::process::{self, PATIENCE};
use crate::setting::{self, Setting};

const PROGRAM: &str = "qemu-system-x86_64";
const SOURCE: &str = "bench/suite/plugin/instructions.c";

/// Counts of addresses.
pub type Counts = HashMap<u64, u64>;

/// A QEMU with the plugin in it, in a folder of its own, under the name of the real one.
pub struct Counted {
    folder: PathBuf,
}

impl Counted {
    /// Compiles the plugin. Fails if QEMU or the compiler is missing.
    pub fn prepare(setting: &Setting) -> Result<Self> {
        let qemu = process::need(PROGRAM, "qemu-system-x86")?;
        let compiler = process::need("gcc", "gcc")?;
        let folder = setting.folder.join("counted");
        let explain = |error: std::io::Error| format!("{}: {error}", folder.display());
        fs::create_dir(&folder).map_err(explain)?;
        // QEMU runs as another user.
        let passable = Permissions::from_mode(0o711);
        fs::set_permissions(&setting.folder, passable.clone()).map_err(explain)?;
        fs::set_permissions(&folder, passable).map_err(explain)?;
        let counted = Self { folder };
        let plugin = counted.folder.join("instructions.so");
        let mut build = Command::new(compiler);
        build
            .args(["-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o"])
            .arg(&plugin)
            .arg(setting::workspace().join(SOURCE));
        process::output(&mut build, PATIENCE)?;
        fs::write(counted.file(), []).map_err(|error| error.to_string())?;
        let script = format!(
            "#!/bin/sh\nexec {} -plugin {},out={} \"$@\"\n",
            qemu.display(),
            plugin.display(),
            counted.file().display()
        );
        let wrapper = counted.folder.join(PROGRAM);
        fs::write(&wrapper, script).map_err(|error| error.to_string())?;
        for (path, mode) in [(wrapper, 0o755), (plugin, 0o755), (counted.file(), 0o666)] {
            fs::set_permissions(&path, Permissions::from_mode(mode))
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(counted)
    }

    fn file(&self) -> PathBuf {
        self.folder.join("count")
    }

    /// Where `kiln` finds this QEMU before any other.
    pub fn path(&self) -> Result<OsString> {
        let others = std::env::var_os("PATH").unwrap_or_default();
        let folders = [self.folder.clone()]
            .into_iter()
            .chain(std::env::split_paths(&others));
        std::env::join_paths(folders).map_err(|error| error.to_string())
    }

    /// The counts up to now. They stay empty if this QEMU takes no plugins.
    pub fn read(&self) -> Result<Counts> {
        let bytes = fs::read(self.file()).map_err(|error| error.to_string())?;
        Ok(parse(&bytes))
    }
}

/// Reads the plugin's table: pairs of an address and a count.
fn parse(bytes: &[u8]) -> Counts {
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
    bytes
        .chunks_exact(16)
        .map(|pair| (number(&pair[..8]), number(&pair[8..])))
        .filter(|&(_, count)| count > 0)
        .collect()
}

/// What `counts` has beyond `earlier`.
pub fn since(counts: &Counts, earlier: &Counts) -> Counts {
    counts
        .iter()
        .map(|(&address, &count)| (address, count - earlier.get(&address).unwrap_or(&0)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_and_compared() {
        let table: Vec<u8> = [0x10u64, 5, 0, 0, 0x20, 7]
            .iter()
            .flat_map(|number| number.to_ne_bytes())
            .collect();
        let counts = parse(&table);
        assert_eq!(counts, Counts::from([(0x10, 5), (0x20, 7)]));
        let later = Counts::from([(0x10, 6), (0x20, 7), (0x30, 1)]);
        assert_eq!(
            since(&later, &counts),
            Counts::from([(0x10, 1), (0x20, 0), (0x30, 1)])
        );
    }
}
