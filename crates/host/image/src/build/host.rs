//! Ordinary crates: programs for Linux, which are built as cargo always builds them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::package::Program;
use super::{BuildError, Builder, Built};

/// What [`Builder::build_any`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The image of a crate that uses Kiln's library.
    Image(Built),
    /// The Linux program of one that does not.
    Program {
        /// Its name.
        name: String,
        /// The file that cargo made.
        file: PathBuf,
        /// Cargo's target folder.
        target_dir: PathBuf,
    },
}

/// A line of cargo's messages: only what is about a program that was made.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    executable: Option<PathBuf>,
    #[serde(default)]
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

impl Builder {
    /// Builds a crate that uses Kiln's library into an image ([`build`](Self::build)), and any other into a Linux program, in
    /// cargo's release profile. Where images go and what they are optimized for concerns images only.
    ///
    /// # Errors
    /// As of [`build`](Self::build).
    pub fn build_any(&self) -> Result<Output, BuildError> {
        let program = Program::find(self)?;
        if program.uses_kiln {
            return self.build_found(program).map(Output::Image);
        }
        let file = self.build_for_host(&program)?;
        Ok(Output::Program {
            file,
            name: program.name,
            target_dir: program.target_dir,
        })
    }

    fn build_for_host(&self, program: &Program) -> Result<PathBuf, BuildError> {
        let cargo: OsString = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(&cargo);
        command
            .current_dir(self.work_dir(&program.manifest))
            .args([
                "build",
                "--release",
                "--message-format=json-render-diagnostics",
            ])
            .arg("--manifest-path")
            .arg(&program.manifest)
            .args(["--bin", &program.name]);
        self.lock_options(&mut command);
        self.feature_options(&mut command);
        if let Some(dir) = &self.target_dir {
            command.arg("--target-dir").arg(dir);
        }
        let messages = if self.quiet {
            Stdio::piped()
        } else {
            Stdio::inherit()
        };
        let output = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(messages)
            .spawn()
            .and_then(std::process::Child::wait_with_output)
            .map_err(|error| BuildError::Toolchain {
                program: cargo.clone(),
                reason: error.to_string(),
            })?;
        if !output.status.success() {
            return Err(BuildError::Compile {
                manifest: program.manifest.clone(),
                messages: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                uses_kiln: true,
            });
        }
        executable(&output.stdout, &program.name).ok_or_else(|| BuildError::Toolchain {
            program: cargo,
            reason: format!("no word about where the program {} is", program.name),
        })
    }
}

/// The file of program `name` in cargo's messages.
fn executable(messages: &[u8], name: &str) -> Option<PathBuf> {
    messages
        .split(|&b| b == b'\n')
        .filter_map(|line| serde_json::from_slice::<Message>(line).ok())
        .filter(|message| message.reason == "compiler-artifact")
        .filter(|message| {
            message
                .target
                .as_ref()
                .is_some_and(|target| target.name == name)
        })
        .filter_map(|message| message.executable)
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_messages_tell_where_the_program_is() {
        let messages = br#"{"reason":"compiler-artifact","target":{"name":"dep"},"executable":null}
not json
{"reason":"compiler-artifact","target":{"name":"web"},"executable":"/t/release/web"}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(executable(messages, "web"), Some("/t/release/web".into()));
        assert_eq!(executable(messages, "dep"), None);
    }
}
