//! Cleaning up, however the benchmark ends.
//!
//! A benchmark that is interrupted, panics or is killed cannot clean up after itself. So it starts a second process that
//! reads from a pipe what there is to clean up: `+PID` for a process that was started, `-PID` for one that is gone. The
//! pipe's end is the benchmark's end. Then the janitor ends those processes and all instances in the folder, and removes
//! the folder. It is in a process group of its own, where Ctrl-C does not reach it.
//!
//! It also keeps the time: a benchmark that hangs is ended.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::{Result, instance, process};

/// More than the whole suite takes on a slow machine.
const LIMIT: Duration = Duration::from_mins(20);

/// Time for a process that was asked to end.
const GRACE: Duration = Duration::from_millis(300);

/// Time for what an interrupted benchmark had just started to show itself.
const AFTERMATH: Duration = Duration::from_secs(1);

/// The benchmark's last word if it ends by itself.
const DONE: &str = "done";

/// The benchmark's end of the pipe.
pub struct Janitor {
    child: Child,
    pipe: Option<Arc<Mutex<ChildStdin>>>,
}

/// A process that will be ended, when this is dropped at the latest.
pub struct Kept {
    child: Child,
    pipe: Arc<Mutex<ChildStdin>>,
}

impl Janitor {
    /// Starts the janitor for a folder, in which instances of `kiln` may run.
    pub fn start(folder: &Path, kiln: &Path) -> Result<Self> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut child = Command::new(program)
            .arg("janitor")
            .args([folder, kiln])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| format!("the janitor does not start: {error}"))?;
        let pipe = child
            .stdin
            .take()
            .map(|stdin| Arc::new(Mutex::new(stdin)))
            .ok_or("the janitor has no pipe")?;
        Ok(Self {
            child,
            pipe: Some(pipe),
        })
    }

    /// Starts a program that is ended with the benchmark. `command` must not be one that goes into the background.
    pub fn keep(&self, command: &mut Command) -> Result<Kept> {
        self.keep_with(command, Stdio::null())
    }

    /// The same with another standard input. A pipe to it stays open until the end.
    pub fn keep_with(&self, command: &mut Command, input: Stdio) -> Result<Kept> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(input)
            .spawn()
            .map_err(|error| format!("{name}: {error}"))?;
        let pipe = self.pipe.clone().ok_or("the janitor has gone home")?;
        tell(&pipe, &format!("+{}", child.id()));
        Ok(Kept { child, pipe })
    }

    /// Cleans up and waits for the end of it.
    pub fn finish(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            tell(&pipe, DONE);
        }
        // If it could not do its work it has said so itself.
        let _ = self.child.wait();
    }
}

impl Kept {
    /// Whether it has not ended by itself.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        signal(self.child.id(), Signal::TERM);
        // If it has to be ended by force that is fine here.
        let _ = process::wait(&mut self.child, GRACE);
        tell(&self.pipe, &format!("-{}", self.child.id()));
    }
}

/// A janitor that is gone is not worth stopping a measurement for.
fn tell(pipe: &Mutex<ChildStdin>, line: &str) {
    let _ = writeln!(lock(pipe), "{line}");
}

/// The janitor's process.
pub fn main(arguments: &[&str]) -> Result<()> {
    let &[folder, kiln] = arguments else {
        return Err("janitor: FOLDER KILN".to_owned());
    };
    let (folder, kiln) = (Path::new(folder), Path::new(kiln));
    let benchmark = rustix::process::getppid();
    let kept = Arc::new(Mutex::new(Vec::<(u32, u64)>::new()));
    let late = kept.clone();
    let place = (folder.to_owned(), kiln.to_owned());
    thread::spawn(move || {
        thread::sleep(LIMIT);
        eprintln!("bench-suite: gave up after {} s", LIMIT.as_secs());
        if let Some(benchmark) = benchmark {
            // It may have ended this moment.
            let _ = kill_process(benchmark, Signal::KILL);
        }
        interrupted(&lock(&late), &place.0, &place.1);
        std::process::exit(1);
    });
    let mut done = false;
    for line in io::stdin().lines() {
        let Ok(line) = line else { break };
        let mut kept = lock(&kept);
        if let Some(pid) = line.strip_prefix('+').and_then(|pid| pid.parse().ok()) {
            kept.extend(process::start_time(pid).map(|start| (pid, start)));
        } else if let Some(gone) = line.strip_prefix('-').and_then(|pid| pid.parse().ok()) {
            kept.retain(|&(pid, _)| pid != gone);
        } else if line == DONE {
            done = true;
        }
    }
    if done {
        clean(&lock(&kept), folder, kiln);
    } else {
        interrupted(&lock(&kept), folder, kiln);
    }
    Ok(())
}

/// Cleans up after a benchmark that did not end by itself. What it had just started, an instance or a build, may go on
/// for a moment and make the folder anew.
fn interrupted(kept: &[(u32, u64)], folder: &Path, kiln: &Path) {
    for _ in 0..20 {
        clean(kept, folder, kiln);
        thread::sleep(AFTERMATH);
        if !folder.exists() {
            return;
        }
    }
    eprintln!("bench-suite: {} comes back", folder.display());
}

fn clean(kept: &[(u32, u64)], folder: &Path, kiln: &Path) {
    for by in [Signal::TERM, Signal::KILL] {
        let left: Vec<u32> = kept
            .iter()
            .filter(|&&(pid, start)| process::start_time(pid) == Some(start))
            .map(|&(pid, _)| pid)
            .collect();
        for &pid in &left {
            signal(pid, by);
        }
        if !left.is_empty() {
            thread::sleep(GRACE);
        }
    }
    if let Err(message) = instance::end_all(kiln, folder) {
        eprintln!("bench-suite: {message}");
    }
    if let Err(error) = std::fs::remove_dir_all(folder) {
        eprintln!("bench-suite: {}: {error}", folder.display());
    }
}

/// A panic of the other thread is no reason not to clean up.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// It may be gone already.
fn signal(pid: u32, by: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, by);
    }
}
