//! A place to work in, and the host's programs that work there.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kiln_monitor::Error;
use kiln_monitor::signals::{self, Signals};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::exit::Failure;

/// What files are dated with if `SOURCE_DATE_EPOCH` does not say: the first moment of a FAT file system, 1980.
const EPOCH: &str = "315532800";

/// What files are dated with, in seconds since 1970.
pub fn epoch() -> String {
    std::env::var("SOURCE_DATE_EPOCH").unwrap_or_else(|_| EPOCH.to_owned())
}

/// A program of the host.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// Its name.
    pub program: &'static str,
    /// The package of Debian that has it.
    pub package: &'static str,
}

/// A folder that goes away with everything in it, also if the user wants no more of it meanwhile.
pub struct Workshop {
    folder: PathBuf,
    /// From here on these do not end the process, but what it does.
    signals: Signals,
}

/// Refuses an output that is there already, whatever it is, and the standard output.
///
/// # Errors
/// If it is there.
pub fn is_absent(output: &Path) -> Result<(), Failure> {
    if output == Path::new("-") {
        return Err(Failure::new(
            "--output \"-\": an export is written to a file or folder: name one",
        ));
    }
    match output.symlink_metadata() {
        Ok(_) => Err(exists(output)),
        // What else there may be to say is said when it is made.
        Err(_) => Ok(()),
    }
}

fn exists(output: &Path) -> Failure {
    Failure::new(format!(
        "{} exists already: remove it, or choose another with --output",
        output.display()
    ))
}

impl Workshop {
    /// A folder beside `output`, on the same file system, so that the result can be moved there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn beside(output: &Path) -> Result<Self, Failure> {
        let Some(name) = output.file_name() else {
            return Err(Failure::new(format!(
                "{}: not the name of a file: choose another with --output",
                output.display()
            )));
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", std::process::id()));
        let folder = std::path::absolute(output.with_file_name(hidden))
            .map_err(|error| Error::file("create", output, error))?;
        let signals = signals::block()?;
        fs::create_dir(&folder).map_err(|error| Error::file("create", &folder, error))?;
        Ok(Self { folder, signals })
    }

    /// Moves what was made to where nothing is yet.
    ///
    /// # Errors
    /// If something has come there meanwhile, the file system's, and the user's wish to end.
    pub fn deliver(&self, made: &Path, output: &Path) -> Result<(), Failure> {
        self.goes_on()?;
        let moved = match renameat_with(CWD, made, CWD, output, RenameFlags::NOREPLACE) {
            // Not every file system knows how.
            Err(Errno::INVAL | Errno::NOSYS) => {
                is_absent(output)?;
                fs::rename(made, output)
            }
            Err(Errno::EXIST) => return Err(exists(output)),
            result => result.map_err(io::Error::from),
        };
        moved.map_err(|error| Error::file("write", output, error).into())
    }

    /// Whether the user still wants it.
    fn goes_on(&self) -> Result<(), Failure> {
        let signal = self
            .signals
            .next()
            .and_then(|signal| u8::try_from(signal).ok());
        signal.map_or(Ok(()), |signal| Err(Failure::Silent(128 + signal)))
    }

    /// The path of something in it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(
        &self,
        name: impl AsRef<Path>,
        bytes: impl AsRef<[u8]>,
    ) -> Result<PathBuf, Failure> {
        let path = self.path(name);
        let made = match path.parent() {
            Some(folder) => fs::create_dir_all(folder),
            None => Ok(()),
        };
        made.and_then(|()| fs::write(&path, bytes))
            .map_err(|error| Error::file("write", &path, error))?;
        Ok(path)
    }

    /// Writes a file that takes no room for its zeroes.
    ///
    /// # Errors
    /// The file system's.
    pub fn write_sparse(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, Failure> {
        const BLOCK: usize = 64 << 10;
        let path = self.path(name);
        let write = || -> io::Result<()> {
            let file = fs::File::create(&path)?;
            file.set_len(bytes.len() as u64)?;
            for (index, block) in bytes.chunks(BLOCK).enumerate() {
                if block.iter().any(|&byte| byte != 0) {
                    file.write_all_at(block, (index * BLOCK) as u64)?;
                }
            }
            Ok(())
        };
        write().map_err(|error| Error::file("write", &path, error))?;
        Ok(path)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// The file system's.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, Failure> {
        let path = self.path(path);
        Ok(fs::read(&path).map_err(|error| Error::file("read", &path, error))?)
    }

    /// Runs a program in the folder and waits for it.
    ///
    /// # Errors
    /// If it is not installed or fails.
    pub fn run(&self, tool: Tool, arguments: &[&str]) -> Result<(), Failure> {
        let Tool { program, package } = tool;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(&self.folder)
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .env("SOURCE_DATE_EPOCH", epoch())
            .stdin(Stdio::null());
        let output = match command.output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Failure::new(format!(
                    "{program} is not installed: install the package {package}"
                )));
            }
            result => result.map_err(|error| Error::file("run", program, error))?,
        };
        // A program in the same terminal has been told the same.
        self.goes_on()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rfind(|line| !line.trim().is_empty());
        Err(Failure::new(format!(
            "{program} failed: {}",
            last.unwrap_or("it does not say why").trim()
        )))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // What is left of it does no harm, and there may be another error to tell.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: Tool = Tool {
        program: "sh",
        package: "dash",
    };

    #[test]
    fn a_workshop_leaves_nothing_behind() {
        let output = std::env::temp_dir().join(format!("kiln-export-{}", std::process::id()));
        let shop = Workshop::beside(&output).unwrap();
        shop.write("a/b", "text").unwrap();
        shop.run(SHELL, &["-c", "cat a/b > c; printf %s \"$TZ\" >> c"])
            .unwrap();
        assert_eq!(shop.read("c").unwrap(), b"textUTC");
        let zeroes = vec![0; 300_000];
        shop.write_sparse("z", &zeroes).unwrap();
        assert_eq!(shop.read("z").unwrap(), zeroes);
        let folder = shop.path("");
        assert!(folder.exists());
        drop(shop);
        assert!(!folder.exists());
    }

    #[test]
    fn nothing_that_is_there_is_replaced() {
        let folder = std::env::temp_dir().join(format!("kiln-deliver-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let output = folder.join("out");
        let shop = Workshop::beside(&output).unwrap();
        let deliver = |text: &str| {
            let made = shop.write("made", text).unwrap();
            shop.deliver(&made, &output)
        };
        deliver("first").unwrap();
        let there = |result| match result {
            Err(Failure::Message { text, .. }) => text.contains("exists already"),
            _ => false,
        };
        assert!(there(is_absent(&output)) && there(deliver("second")));
        assert!(is_absent(Path::new("-")).is_err());
        assert_eq!(fs::read(&output).unwrap(), b"first");
        fs::remove_file(&output).unwrap();
        // Not even a link that leads nowhere, or an empty folder.
        std::os::unix::fs::symlink("/nowhere", &output).unwrap();
        assert!(there(is_absent(&output)) && there(deliver("third")));
        fs::remove_file(&output).unwrap();
        fs::create_dir(&output).unwrap();
        assert!(there(is_absent(&output)) && there(deliver("fourth")));
        drop(shop);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn programs_that_fail_or_are_missing_are_told_in_one_line() {
        let output = std::env::temp_dir().join(format!("kiln-tools-{}", std::process::id()));
        let shop = Workshop::beside(&output).unwrap();
        let told = |tool, words: &[&str]| match shop.run(tool, words) {
            Err(Failure::Message { text, code: 125 }) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            told(SHELL, &["-c", "echo one >&2; echo two >&2; exit 3"]),
            "sh failed: two"
        );
        let missing = Tool {
            program: "kiln-no-such-program",
            package: "some-package",
        };
        assert_eq!(
            told(missing, &[]),
            "kiln-no-such-program is not installed: install the package some-package"
        );
    }
}
