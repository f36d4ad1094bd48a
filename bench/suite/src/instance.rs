//! Guests in the background: started, looked at and ended through the `kiln` command.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{self, PATIENCE};
use crate::setting::Setting;
use crate::{Result, figures};

/// Where the instances of a benchmark keep their state.
pub fn runtime(folder: &Path) -> PathBuf {
    folder.join("run")
}

/// A call of the command for a benchmark's instances.
pub fn command(kiln: &Path, folder: &Path) -> Command {
    let mut command = Command::new(kiln);
    command
        .env_clear()
        .env("XDG_RUNTIME_DIR", runtime(folder))
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// Ends and removes every instance in a benchmark's folder, however many there are.
pub fn end_all(kiln: &Path, folder: &Path) -> Result<()> {
    let list = process::output(command(kiln, folder).args(["ps", "-a", "-q"]), PATIENCE)?;
    let ids: Vec<&str> = list.split_whitespace().collect();
    for some in ids.chunks(100) {
        process::output(
            command(kiln, folder).args(["rm", "--force"]).args(some),
            PATIENCE,
        )?;
    }
    Ok(())
}

/// A running guest; ended when this is dropped.
pub struct Instance<'s> {
    setting: &'s Setting,
    id: String,
    /// The guest's process.
    pub guest: u32,
    /// The process that serves the guest.
    pub supervisor: u32,
    /// The forwarded port of the host, if there is one.
    pub port: Option<u16>,
}

/// What an instance has used since it started, from `kiln stats` and the kernel.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    /// Calls of the guest out of its machine.
    pub calls: f64,
    /// Operations in these calls.
    pub operations: f64,
    /// System calls that were made for them in the guest's process.
    pub host_calls: f64,
    /// Processor time of the guest in microseconds.
    pub guest: f64,
    /// How much of it was in the host's kernel, for calls of the guest's process.
    pub kernel: f64,
    /// Processor time of the supervisor in microseconds.
    pub supervisor: f64,
}

impl<'s> Instance<'s> {
    /// Starts a guest with `kiln run -d --rm` and such arguments. `around` is the call of the command, which may be
    /// wrapped in another program.
    pub fn start(setting: &'s Setting, mut around: Command, arguments: &[&str]) -> Result<Self> {
        around.args(["run", "-d", "--rm"]).args(arguments);
        let id = process::output(&mut around, PATIENCE)?.trim().to_owned();
        // From here on the instance is ended even if it cannot be looked at.
        let mut instance = Self {
            setting,
            id,
            guest: 0,
            supervisor: 0,
            port: None,
        };
        let text = process::output(setting.kiln().args(["inspect", &instance.id]), PATIENCE)?;
        let about = About::parse(&text).ok_or("`kiln inspect` names no processes")?;
        (instance.guest, instance.supervisor) = (about.guest, about.supervisor);
        instance.port = about.port;
        Ok(instance)
    }

    /// Proportional resident memory of guest and supervisor in bytes.
    pub fn resident(&self) -> Result<(u64, u64)> {
        Ok((
            process::resident(self.guest)?,
            process::resident(self.supervisor)?,
        ))
    }

    /// What it has used up to now.
    pub fn usage(&self) -> Result<Usage> {
        let mut stats = self.setting.kiln();
        stats.args(["stats", "--no-stream", "--format", "json", &self.id]);
        let text = process::output(&mut stats, PATIENCE)?;
        let read = |name| {
            number_after(&text, name)
                .map(figures::count)
                .ok_or_else(|| format!("`kiln stats` has no {name}"))
        };
        let (user, system) = process::processor_times(self.guest);
        Ok(Usage {
            calls: read("calls")?,
            operations: read("operations")?,
            host_calls: read("host_calls")?,
            guest: figures::micros(user + system),
            kernel: figures::micros(system),
            supervisor: figures::micros(process::processor_time(self.supervisor)),
        })
    }
}

impl Drop for Instance<'_> {
    fn drop(&mut self) {
        let mut stop = self.setting.kiln();
        stop.args(["stop", "--time", "1", &self.id]);
        if let Err(message) = process::output(&mut stop, Duration::from_secs(10)) {
            eprintln!("bench-suite: {message}");
        }
    }
}

impl Usage {
    /// What was used between two looks, divided by `by`.
    pub fn since(self, before: Self, by: f64) -> Self {
        Self {
            calls: (self.calls - before.calls) / by,
            operations: (self.operations - before.operations) / by,
            host_calls: (self.host_calls - before.host_calls) / by,
            guest: (self.guest - before.guest) / by,
            kernel: (self.kernel - before.kernel) / by,
            supervisor: (self.supervisor - before.supervisor) / by,
        }
    }
}

/// What `kiln inspect` says about an instance, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub struct About {
    /// The guest's process.
    pub guest: u32,
    /// The process that serves the guest.
    pub supervisor: u32,
    /// The first forwarded port of the host.
    pub port: Option<u16>,
}

impl About {
    /// Reads the description of one instance.
    pub fn parse(text: &str) -> Option<Self> {
        let pid = |name| u32::try_from(number_after(text, name)?).ok();
        let port = text.split_once(":80/tcp\"").and_then(|(before, _)| {
            let (_, port) = before.rsplit_once(':')?;
            port.parse().ok()
        });
        Some(Self {
            guest: pid("Pid")?,
            supervisor: pid("SupervisorPid")?,
            port,
        })
    }

    /// Looks at many instances; each identifier must be known.
    pub fn all(setting: &Setting, ids: &[String]) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        for some in ids.chunks(100) {
            let text = process::output(setting.kiln().arg("inspect").args(some), PATIENCE)?;
            found.extend(text.split("\"Id\":").skip(1).filter_map(Self::parse));
        }
        let guests: HashSet<u32> = found.iter().map(|about| about.guest).collect();
        if guests.len() == ids.len() {
            return Ok(found);
        }
        Err(format!(
            "`kiln inspect` describes {} instances of {}",
            guests.len(),
            ids.len()
        ))
    }
}

/// The number that belongs to a name in JSON, the first if there are several. Enough for what `kiln` prints.
fn number_after(json: &str, name: &str) -> Option<u64> {
    let (_, rest) = json.split_once(&format!("\"{name}\":"))?;
    let rest = rest.trim_start();
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_found_in_what_inspect_prints() {
        let text = r#"[ { "Id": "3cc8", "State": { "Pid": 8079, "SupervisorPid": 8078, "ExitCode": 0 },
            "Ports": [ "127.0.0.1:39145:80/tcp" ] } ]"#;
        let about = About {
            guest: 8079,
            supervisor: 8078,
            port: Some(39145),
        };
        assert_eq!(About::parse(text), Some(about));
        assert_eq!(About::parse("[]"), None);
    }

    #[test]
    fn numbers_are_found_by_their_whole_name() {
        let text = r#"{"host_calls":9,"calls":3,"last":4}"#;
        assert_eq!(number_after(text, "calls"), Some(3));
        assert_eq!(number_after(text, "last"), Some(4));
        assert_eq!(number_after(text, "missing"), None);
    }
}
