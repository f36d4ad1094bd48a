//! Running programs: finding them, bounding their time, reading what the kernel knows about them.
//!
//! Not the measured kind: [`crate::boot`] starts what it measures itself.

use std::fmt::Write as _;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;

/// How long a program may take that is not part of a measurement.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The path of a program, if there is one of that name. Administrators' folders count for everybody.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// The path of a program, or the reason for skipping what needs it.
pub fn need(program: &str, package: &str) -> Result<PathBuf> {
    find(program).ok_or_else(|| format!("no `{program}` (Debian: {package})"))
}

/// True if the benchmark may make namespaces and devices.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs a program to its end and returns what it printed.
///
/// # Errors
/// If it cannot be started, takes longer than `limit`, or fails; then with the last line it wrote as its error.
pub fn output(command: &mut Command, limit: Duration) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{name}: {error}"))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait(&mut child, limit).map_err(|error| format!("{name}: {error}"))?;
    let text = |thread: thread::JoinHandle<String>| thread.join().unwrap_or_default();
    let (stdout, stderr) = (text(stdout), text(stderr));
    if status.success() {
        return Ok(stdout);
    }
    let mut message = format!("{name}: {status}");
    if let Some(line) = stderr.lines().rfind(|line| !line.trim().is_empty()) {
        let _ = write!(message, ": {line}");
    }
    Err(message)
}

/// Waits for a child, and ends it by force if that takes longer than `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Result<std::process::ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
            Ok(None) => {
                // It may have ended by itself this moment; waiting is right either way.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("took longer than {} s", limit.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Reads a pipe to its end beside the program that writes to it. Whatever is no text is left out.
fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Fields of `/proc/PID/stat` behind the name, the state being the first (proc(5) counts it as the third).
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = text.rsplit_once(") ")?.1;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// Processor time that a process has used, threads included, in units of 10 ms.
pub fn processor_time(pid: u32) -> Duration {
    let (user, system) = processor_times(pid);
    user + system
}

/// The same in two parts: its own instructions and those of virtual machines, and the kernel's in its calls.
pub fn processor_times(pid: u32) -> (Duration, Duration) {
    /// The kernel counts in `USER_HZ`, which is 100 on x86-64 whatever the kernel's own clock.
    const TICK: Duration = Duration::from_millis(10);
    let Some(fields) = stat(pid) else {
        return (Duration::ZERO, Duration::ZERO);
    };
    let ticks = |field: usize| {
        fields
            .get(field)
            .and_then(|f| f.parse().ok())
            .unwrap_or(0u32)
    };
    (TICK * ticks(11), TICK * ticks(12))
}

/// When a process started, which tells it from a later one with the same number. `None` if it has ended, even if its
/// parent has not asked for it yet.
pub fn start_time(pid: u32) -> Option<u64> {
    let fields = stat(pid)?;
    if matches!(fields.first()?.as_str(), "Z" | "X") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// Proportional resident memory of a process in bytes: pages shared by n processes count 1/n.
pub fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    kib_line(&text, "Pss:").ok_or_else(|| format!("{path}: no Pss"))
}

/// Memory that the machine could still give to new programs, in bytes.
pub fn available() -> Result<u64> {
    let path = "/proc/meminfo";
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    kib_line(&text, "MemAvailable:").ok_or_else(|| format!("{path}: no MemAvailable"))
}

fn kib_line(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_read_in_bytes() {
        let text = "Rss:     12 kB\nPss:              100 kB\nPss_Dirty: 3 kB\n";
        assert_eq!(kib_line(text, "Pss:"), Some(102_400));
        assert_eq!(kib_line(text, "Swap:"), None);
    }

    #[test]
    fn this_process_has_memory_and_a_start() {
        let pid = std::process::id();
        assert!(resident(pid).is_ok_and(|bytes| bytes > 0));
        assert!(start_time(pid).is_some());
    }

    #[test]
    fn a_program_that_takes_too_long_is_ended() {
        let mut sleep = Command::new("sleep");
        let result = output(sleep.arg("60"), Duration::from_millis(50));
        assert!(result.is_err_and(|message| message.contains("longer")));
    }
}
