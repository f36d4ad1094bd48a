//! A running command: its output as it comes, signals, a bounded wait.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a command may take unless the test says otherwise. Long enough for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The exit code; 128 plus the signal's number if it died of one.
    pub code: i32,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error output, as text.
    pub stderr: String,
    /// From its start to its end.
    pub took: Duration,
}

impl Outcome {
    /// The standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Checks the exit code.
    ///
    /// # Panics
    /// If it is another one.
    #[track_caller]
    pub fn ends_with(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "exit code\n{self}");
        self
    }

    /// Checks that the standard output contains a text.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn prints(&self, text: &str) -> &Self {
        assert!(
            self.text().contains(text),
            "{text:?} is not in the output\n{self}"
        );
        self
    }

    /// It wrote this, as an error or, where a machine's console has one stream only, among its output.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Self {
        if crate::backend::kind() == "qemu" {
            self.prints(text)
        } else {
            self.tells(text)
        }
    }

    /// Checks that the standard error output contains a text.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn tells(&self, text: &str) -> &Self {
        assert!(
            self.stderr.contains(text),
            "{text:?} is not in the error output\n{self}"
        );
        self
    }

    /// Checks that the standard error output is one line that starts with `kiln: `, and nothing was printed.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn is_one_line_error(&self) -> &Self {
        let one = self.stderr.trim_end_matches('\n');
        assert!(
            one.starts_with("kiln: ") && !one.contains('\n'),
            "not a one-line error\n{self}"
        );
        assert!(self.stdout.is_empty(), "output before an error\n{self}");
        self
    }

    /// Checks that the guest got to its end and found everything as it should be.
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn succeeds(&self) -> &Self {
        self.ends_with(0).prints("SUCCESS")
    }

    /// The rest of the first line that starts with a prefix.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn value(&self, prefix: &str) -> String {
        let text = self.text();
        let found = text.lines().find_map(|line| line.strip_prefix(prefix));
        found
            .unwrap_or_else(|| panic!("no line starts with {prefix:?}\n{self}"))
            .to_owned()
    }
}

/// So many characters of an output's beginning, and of its end, are shown.
const SHOWN: usize = 3000;

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.text();
        let beginning: String = text.chars().take(SHOWN).collect();
        writeln!(f, "ended with {} after {:?}", self.code, self.took)?;
        writeln!(f, "--- output ---\n{beginning}")?;
        let behind = text.chars().count().saturating_sub(SHOWN);
        if behind > 0 {
            let end: String = text
                .chars()
                .skip(SHOWN + behind - behind.min(SHOWN))
                .collect();
            writeln!(f, "--- and at its end ---\n{end}")?;
        }
        write!(f, "--- error output ---\n{}", self.stderr)
    }
}

/// What a thread reads from a pipe.
#[derive(Default)]
struct Collected {
    bytes: Mutex<Vec<u8>>,
    more: Condvar,
}

/// A command that runs. Dropping it kills it.
pub struct Running {
    child: Child,
    started: Instant,
    stdout: Arc<Collected>,
    stderr: Arc<Collected>,
    readers: Vec<JoinHandle<()>>,
}

impl Running {
    /// Starts a command with its output caught.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
        let (stdout, stderr) = (Arc::default(), Arc::default());
        let readers = vec![
            collect(child.stdout.take().expect("a pipe was asked for"), &stdout),
            collect(child.stderr.take().expect("a pipe was asked for"), &stderr),
        ];
        Self {
            child,
            started,
            stdout,
            stderr,
            readers,
        }
    }

    /// The command's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What has been printed so far.
    pub fn output(&self) -> String {
        let bytes = self.stdout.bytes.lock().expect("readers do not panic");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// True if the command has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Waits until the standard output contains a text.
    ///
    /// # Panics
    /// If it does not within [`PATIENCE`], or the command ends before.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        let stdout = Arc::clone(&self.stdout);
        self.wait_in(&stdout, text);
    }

    /// Waits until the standard error output contains a text.
    ///
    /// # Panics
    /// Like [`wait_for`](Self::wait_for).
    #[track_caller]
    pub fn wait_for_told(&mut self, text: &str) {
        let stderr = Arc::clone(&self.stderr);
        self.wait_in(&stderr, text);
    }

    #[track_caller]
    fn wait_in(&mut self, pipe: &Collected, text: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            let ended = self.child.try_wait().expect("our child").is_some();
            let bytes = pipe.bytes.lock().expect("readers do not panic");
            let found = bytes
                .windows(text.len())
                .any(|part| part == text.as_bytes());
            if found {
                return;
            }
            if Instant::now() >= until || ended {
                drop(bytes);
                let so_far = |pipe: &Collected| {
                    let bytes = pipe.bytes.lock().expect("readers do not panic");
                    String::from_utf8_lossy(&bytes).into_owned()
                };
                panic!(
                    "waited in vain for {text:?} (ended: {ended})\n{}\n{}",
                    so_far(&self.stdout),
                    so_far(&self.stderr)
                );
            }
            let wait = pipe.more.wait_timeout(bytes, Duration::from_millis(20));
            drop(wait.expect("readers do not panic"));
        }
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If the host refuses.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("our child takes signals");
    }

    /// True while the command runs.
    ///
    /// # Panics
    /// If the host refuses to say.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }

    /// Waits for the end, at most [`PATIENCE`].
    #[track_caller]
    pub fn finish(self) -> Outcome {
        self.finish_within(PATIENCE)
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// If it takes longer than `patience`.
    #[track_caller]
    pub fn finish_within(mut self, patience: Duration) -> Outcome {
        let until = Instant::now() + patience;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                break status;
            }
            assert!(
                Instant::now() <= until,
                "no end after {patience:?}\n{}",
                self.output()
            );
            std::thread::sleep(Duration::from_millis(2));
        };
        let took = self.started.elapsed();
        for reader in self.readers.drain(..) {
            reader.join().expect("readers do not panic");
        }
        let taken = |from: &Collected| {
            std::mem::take(&mut *from.bytes.lock().expect("readers do not panic"))
        };
        Outcome {
            code: code(status),
            stdout: taken(&self.stdout),
            stderr: String::from_utf8_lossy(&taken(&self.stderr)).into_owned(),
            took,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill and only to reap.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut pipe: impl Read + Send + 'static, into: &Arc<Collected>) -> JoinHandle<()> {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while let Ok(len @ 1..) = pipe.read(&mut buffer) {
            into.bytes
                .lock()
                .expect("only this thread writes")
                .extend(&buffer[..len]);
            into.more.notify_all();
        }
    })
}

/// The exit code as a shell sees it.
pub fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
