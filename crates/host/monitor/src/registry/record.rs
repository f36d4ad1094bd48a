//! What is recorded of an instance: one file of JSON lines.
//!
//! The first line says what the instance is and is written when its guest has started; a second one says how it
//! ended. Lines are only ever appended, each in one write, and a line counts once it ends with a newline. So readers
//! never see half of a change, no temporary file is needed (making and renaming one costs as much as starting a small
//! guest), and recording the end works on a full disk, since it fits into the block that the first line lies in.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::STATE_FILE;
use crate::clock::WallTime;

/// The most bytes that are read of a record, against somebody's having filled the file; and that its first line may have, with
/// room for the second.
const MAX_RECORD: usize = 64 << 20;
const MAX_LINE: usize = MAX_RECORD - (1 << 20);

/// What an instance is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// 12 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The image file, absolute.
    pub image: String,
    /// Arguments, the program's name first.
    pub args: Vec<String>,
    /// Environment.
    pub env: Vec<String>,
    /// When it was made.
    pub created: WallTime,
    /// When its guest started.
    pub started: WallTime,
    /// Process id of what runs the guest.
    pub pid: u32,
    /// Process id of the supervisor.
    pub supervisor: u32,
    /// The backend's name.
    pub backend: String,
    /// Memory of the guest in bytes.
    pub memory: u64,
    /// Devices, one line each.
    pub devices: Vec<String>,
    /// Forwarded ports.
    pub ports: Vec<String>,
    /// To be forgotten when it has ended.
    pub remove: bool,
    /// Whether missing protections were to prevent the start.
    pub strict: bool,
    /// How long it may take to end when asked to, in milliseconds.
    #[serde(default = "usual_stop_timeout")]
    pub stop_timeout_ms: u64,
    /// The folder in which its core file is written while it runs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub core_folder: Option<String>,
}

/// Of records that do not say.
fn usual_stop_timeout() -> u64 {
    10_000
}

/// One protection around a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// Its name.
    pub name: String,
    /// Why it is not in force; `None` if it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub missing: Option<String>,
}

/// How an instance is, in docker's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its guest has not started yet.
    Created,
    /// Its guest runs.
    Running,
    /// Its guest has ended.
    #[default]
    Exited,
    /// Its supervisor was killed, and the guest with it.
    Dead,
}

impl Status {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

/// How an instance ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct End {
    /// [`Status::Exited`] or [`Status::Dead`].
    pub status: Status,
    /// The exit code as a shell sees it.
    pub exit_code: u8,
    /// When.
    pub finished: WallTime,
    /// Why, in one line.
    pub reason: String,
    /// Processor time used in nanoseconds.
    pub cpu_ns: u64,
    /// Calls of the guest to its monitor.
    pub calls: u64,
    /// Host system calls made on the guest's behalf.
    pub host_calls: u64,
    /// Protections that were around the guest.
    pub protections: Vec<Protection>,
    /// The core file, if one was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub core: Option<String>,
}

/// Writes the first line and returns the file for the second one.
///
/// # Errors
/// The host's, [`Errno::NOSPC`] on a full disk; [`Errno::TOOBIG`] for a record that would not be read.
pub fn create(dir: impl AsFd, record: &Record) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::APPEND | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, STATE_FILE, flags, Mode::RUSR | Mode::WUSR)?;
    write_line(&file, record)?;
    Ok(file)
}

/// Writes how it ended behind an existing record.
///
/// # Errors
/// The host's.
pub fn append(dir: impl AsFd, end: &End) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, STATE_FILE, flags, Mode::empty())?;
    write_line(&file, end)
}

/// Appends one line.
///
/// # Errors
/// The host's; [`Errno::NOSPC`] also if the disk takes only part of the line; [`Errno::TOOBIG`].
pub fn write_line(file: &OwnedFd, value: &impl Serialize) -> rustix::io::Result<()> {
    let mut line = serde_json::to_vec(value).map_err(|_| Errno::INVAL)?;
    line.push(b'\n');
    if line.len() > MAX_LINE {
        return Err(Errno::TOOBIG);
    }
    let written = rustix::io::retry_on_intr(|| rustix::io::write(file, &line))?;
    if written == line.len() {
        Ok(())
    } else {
        Err(Errno::NOSPC)
    }
}

/// Reads what is recorded; `None` if nothing is yet.
///
/// # Errors
/// The host's.
pub fn read(dir: impl AsFd) -> rustix::io::Result<Option<(Record, Option<End>)>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = match rustix::fs::openat(dir, STATE_FILE, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        result => result?,
    };
    let mut bytes = Vec::new();
    while bytes.len() < MAX_RECORD {
        bytes.reserve(8192);
        if rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes))? == 0 {
            break;
        }
    }
    Ok(parse(&bytes))
}

/// The lines of a state file. What cannot be understood counts as not written.
pub fn parse(bytes: &[u8]) -> Option<(Record, Option<End>)> {
    let complete = &bytes[..=bytes.iter().rposition(|&b| b == b'\n')?];
    let mut lines = complete.split(|&b| b == b'\n');
    let record = serde_json::from_slice(lines.next()?).ok()?;
    let end = lines.find_map(|line| serde_json::from_slice(line).ok());
    Some((record, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            id: "0123456789ab".into(),
            name: "web".into(),
            args: vec!["web".into(), "a \"b\"\n".into()],
            ..Record::default()
        }
    }

    #[test]
    fn every_prefix_is_nothing_the_record_or_both() {
        let end = End {
            exit_code: 3,
            ..End::default()
        };
        let mut bytes = serde_json::to_vec(&record()).unwrap();
        bytes.push(b'\n');
        let first = bytes.len();
        bytes.extend(serde_json::to_vec(&end).unwrap());
        bytes.push(b'\n');
        for len in 0..=bytes.len() {
            let expected = match len {
                _ if len < first => None,
                _ if len < bytes.len() => Some((record(), None)),
                _ => Some((record(), Some(end.clone()))),
            };
            assert_eq!(parse(&bytes[..len]), expected, "{len} bytes");
        }
    }

    #[test]
    fn fields_of_later_versions_are_ignored_and_missing_ones_have_defaults() {
        let (record, end) = parse(b"{\"id\":\"x\",\"colour\":\"red\"}\n").unwrap();
        assert_eq!(record.id, "x");
        assert_eq!(end, None);
        assert_eq!(parse(b"not json\n"), None);
    }
}
