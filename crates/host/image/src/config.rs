//! How the Linux program of an image is started.
//!
//! The record lies in the image as JSON. Options of `kiln run` and arguments behind the image's name have the last word over it.

use serde::{Deserialize, Serialize};

use crate::image::Fault;

/// What an image says about its program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Absolute path of the program in the root file system, then the arguments that it always gets.
    pub entrypoint: Vec<String>,
    /// Its arguments behind those, unless others are given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its environment, `NAME=value` each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Working directory.
    #[serde(default = "top", skip_serializing_if = "is_top")]
    pub cwd: String,
    /// User.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uid: u32,
    /// Group.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gid: u32,
    /// Bytes of memory that it may use at most; the monitor's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Names of the only system calls that it may make; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub syscalls: Vec<String>,
    /// Further options of the personality, as in `--hostname=x`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

fn top() -> String {
    "/".to_owned()
}

fn is_top(path: &str) -> bool {
    path == "/"
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(id: &u32) -> bool {
    *id == 0
}

impl Config {
    /// The one for a program: its absolute path, then the arguments that it always gets.
    pub fn new(entrypoint: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            entrypoint: entrypoint.into_iter().map(Into::into).collect(),
            cwd: top(),
            ..Self::default()
        }
    }

    /// Reads what [`bytes`](Self::bytes) wrote.
    ///
    /// # Errors
    /// [`Fault::UnknownConfig`], also for paths that are not absolute.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let config: Self = serde_json::from_slice(bytes)
            .map_err(|error| Fault::UnknownConfig(error.to_string()))?;
        let Some(program) = config.entrypoint.first() else {
            return Err(Fault::UnknownConfig("no program is named".to_owned()));
        };
        for path in [program, &config.cwd] {
            if !path.starts_with('/') || path.contains('\0') {
                return Err(Fault::UnknownConfig(format!(
                    "{path:?} is no absolute path"
                )));
            }
        }
        Ok(config)
    }

    /// As it lies in an image.
    pub fn bytes(&self) -> Vec<u8> {
        // Strings and numbers only: there is nothing that JSON could not hold.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut config = Config::new(["/usr/bin/redis-server"]);
        assert_eq!(
            config.bytes(),
            br#"{"entrypoint":["/usr/bin/redis-server"]}"#
        );
        assert_eq!(Config::parse(&config.bytes()), Ok(config.clone()));
        config.entrypoint.push("-v".into());
        config.args = vec!["--save".into(), String::new()];
        config.env = vec!["LANG=C.UTF-8".into()];
        config.cwd = "/var/lib/redis".into();
        (config.uid, config.gid) = (101, 102);
        config.memory = Some(1 << 30);
        config.syscalls = vec!["read".into()];
        config.options = vec!["--hostname=a".into()];
        assert_eq!(Config::parse(&config.bytes()), Ok(config));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "",
            "{}",
            r#"{"entrypoint":[]}"#,
            r#"{"entrypoint":["/a"],"colour":1}"#,
            r#"{"entrypoint":["a"]}"#,
            r#"{"entrypoint":["/a"],"cwd":"b"}"#,
            r#"{"entrypoint":["/a"],"uid":-1}"#,
        ] {
            assert!(
                matches!(Config::parse(text.as_bytes()), Err(Fault::UnknownConfig(_))),
                "{text}"
            );
        }
    }
}
