//! A state folder of one test, the commands in it, and the end of everything that was started there.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::process::{Outcome, Running};
use crate::{artifacts, backend};

/// A folder for one test. `kiln` keeps its state in it, so tests do not see each other's instances.
///
/// Dropping it removes the folder and all instances, these with the command that [`artifacts::kiln`] has named before:
/// dropping builds nothing.
pub struct Session {
    dir: PathBuf,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// An empty one.
    ///
    /// # Panics
    /// If the folder cannot be made.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("kiln-test-{}-{number}", std::process::id()));
        fs::create_dir_all(dir.join("run")).expect("a folder for the test");
        Self { dir }
    }

    /// The test's folder, for its files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file in the test's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A file of `len` zero bytes.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn disk(&self, name: &str, len: u64) -> PathBuf {
        let path = self.file(name);
        fs::File::create(&path)
            .and_then(|file| file.set_len(len))
            .expect("a disk file");
        path
    }

    /// Where `kiln` keeps this session's state.
    pub fn state(&self) -> PathBuf {
        self.dir.join("run/kiln")
    }

    /// `kiln` in this session. It sees a small, fixed environment.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        self.wrapped(artifacts::kiln(), args)
    }

    /// Another program in this session's environment.
    pub fn wrapped<S: AsRef<OsStr>>(
        &self,
        program: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        // Whoever runs the tests may have them ignore signals: a shell in the background, nohup(1).
        let mut command = Command::new("/usr/bin/env");
        command
            .arg("--default-signal=HUP,INT,QUIT")
            .arg(program)
            .args(args)
            .env_remove("KILN_LOG")
            .env("LANG", "C.UTF-8")
            .env("KILN_BACKEND", backend::name())
            .env("XDG_RUNTIME_DIR", self.dir.join("run"))
            // What is packed of installed programs is the same for all tests.
            .env(
                "KILN_CACHE",
                artifacts::workspace().join("target/programs/cache"),
            );
        command
    }

    /// Runs `kiln` to its end.
    #[track_caller]
    pub fn kiln<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        Running::start(&mut self.command(args)).finish()
    }

    /// Starts `kiln` and leaves it running.
    pub fn start<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Running {
        Running::start(&mut self.command(args))
    }

    /// The words of `kiln run OPTIONS IMAGE ARGS`, options and arguments divided at blanks.
    pub fn words(options: &str, guest: &str, args: &str) -> Vec<String> {
        let mut words = vec!["run".to_owned()];
        words.extend(options.split_whitespace().map(str::to_owned));
        words.push(artifacts::guest(guest).display().to_string());
        words.extend(args.split_whitespace().map(str::to_owned));
        words
    }

    /// Runs a guest in the foreground to its end.
    #[track_caller]
    pub fn run(&self, options: &str, guest: &str, args: &str) -> Outcome {
        self.kiln(Self::words(options, guest, args))
    }

    /// Runs a guest in the foreground and leaves it running.
    pub fn start_guest(&self, options: &str, guest: &str, args: &str) -> Running {
        self.start(Self::words(options, guest, args))
    }

    /// Starts a guest in the background; its id.
    #[track_caller]
    pub fn detach(&self, options: &str, guest: &str, args: &str) -> String {
        let started = self.run(&format!("-d {options}"), guest, args);
        let id = started.ends_with(0).text().trim().to_owned();
        assert!(
            id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit()),
            "not an id\n{started}"
        );
        id
    }

    /// `kiln inspect` of one instance.
    ///
    /// # Panics
    /// If it fails or is not JSON.
    #[track_caller]
    pub fn inspect(&self, instance: &str) -> Value {
        let shown = self.kiln(["inspect", instance]);
        let parsed: Value = serde_json::from_str(&shown.ends_with(0).text()).expect("JSON");
        parsed[0].clone()
    }

    /// The lines of a command's `--format json`.
    ///
    /// # Panics
    /// If it fails or is not JSON.
    #[track_caller]
    pub fn rows(&self, args: &[&str]) -> Vec<Value> {
        let printed = self.kiln(args.iter().chain(&["--format", "json"]));
        let text = printed.ends_with(0).text();
        text.lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }

    /// Process ids of an instance's guest and supervisor.
    ///
    /// # Panics
    /// If it does not run.
    #[track_caller]
    pub fn pids(&self, instance: &str) -> (u32, u32) {
        let shown = self.inspect(instance);
        let pid =
            |name: &str| u32::try_from(shown["State"][name].as_u64().unwrap_or(0)).unwrap_or(0);
        let pids = (pid("Pid"), pid("SupervisorPid"));
        assert!(pids.0 != 0 && pids.1 != 0, "does not run: {shown:#}");
        pids
    }

    /// The only instance that runs.
    ///
    /// # Panics
    /// If there is none within a moment, or more than one.
    #[track_caller]
    pub fn only_instance(&self) -> String {
        let mut ids = String::new();
        crate::host::eventually("an instance runs", || {
            ids = self.kiln(["ps", "-q"]).text();
            !ids.trim().is_empty()
        });
        assert_eq!(ids.lines().count(), 1, "one instance: {ids}");
        ids.trim().to_owned()
    }

    /// Names of everything in the state folder but its fixed parts.
    pub fn leftovers(&self) -> Vec<String> {
        let in_folder = |path: PathBuf| {
            let entries = path.read_dir().into_iter().flatten().filter_map(Result::ok);
            entries
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect::<Vec<_>>()
        };
        let mut found = in_folder(self.state());
        found.retain(|name| name.len() == 12);
        found.extend(in_folder(self.state().join("names")));
        found
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Where the command was never asked for, or does not build, nothing of it runs. This may be the way out of a
        // panic that said so: a second one would end all tests.
        if let Some(kiln) = artifacts::known_kiln() {
            let listed = self.wrapped(kiln, ["ps", "-aq"]).output();
            let ids = listed
                .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
                .unwrap_or_default();
            if !ids.trim().is_empty() {
                let args = ["rm", "-f"].into_iter().chain(ids.split_whitespace());
                // What cannot be removed is what some test is about; it has failed already then.
                let _ = self.wrapped(kiln, args).output();
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Runs a case of the guest `probe` in a session of its own.
#[track_caller]
pub fn probe(args: &str) -> Outcome {
    probe_with("", args)
}

/// The same with options for `kiln run`.
#[track_caller]
pub fn probe_with(options: &str, args: &str) -> Outcome {
    Session::new().run(options, "probe", args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_a_session_builds_nothing() {
        let session = Session::new();
        let dir = session.dir().to_owned();
        drop(session);
        assert!(!dir.exists(), "left behind");
        assert_eq!(artifacts::known_kiln(), None);
    }
}
