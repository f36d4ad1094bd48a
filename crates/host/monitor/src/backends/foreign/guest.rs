//! The supervisor's handle on a monitor's process and the guest in it.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use kiln_abi::ExitReason;
use kiln_abi::note::AbiNote;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::child::{self, Child, Input, Network, Order};
use super::errors::Errors;
use super::plan::Files;
use super::protections::{Granted, needs_root, protections, refuse_missing};
use super::report::{Report, Screen};
use super::{Error, Monitor, input, qemu};
use crate::backend::{Ended, Guest, How, Launch, Protection, Usage};
use crate::backends::process::guest::proc_usage;
use crate::backends::process::os;
use crate::error::EXIT_KILN;

const SIGINT: u32 = 2;
const SIGPIPE: u32 = 13;
const SIGTERM: u32 = 15;
const SIGKILL: u32 = 9;

/// What the console's reader in a guest takes for a request to end (`docs/machine.md`, section 4).
const INTERRUPT: u8 = 3;
const TERMINATE: u8 = 4;

/// Exit code of a guest whose machine went off without a word, as a crash has it.
const EXIT_SILENT: u8 = 139;

/// How long a monitor may take to say that its machine runs.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// How often to look whether a thread is there.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The most of a monitor's own words that are told.
const MAX_SAID: usize = 300;

/// What a monitor is to be started with.
#[derive(Debug)]
pub struct Told {
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Descriptors that were made for it.
    pub descriptors: Vec<OwnedFd>,
    /// What it takes for a console's input.
    pub input: Input,
    /// How it is known that its machine runs.
    pub sign: Sign,
    /// Whether it opens `/dev/kvm`.
    pub needs_kvm: bool,
    /// Whether the guest's command line is among the arguments, where everybody on the host can read it.
    pub shows_line: bool,
}

/// How it is known that a machine runs.
#[derive(Debug)]
pub enum Sign {
    /// All that is to be said on a control socket is answered.
    Control(qemu::Control),
    /// A thread of this name.
    Thread(&'static str),
}

/// A monitor's process.
#[derive(Debug)]
pub struct ForeignGuest {
    title: &'static str,
    child: Child,
    errors: Errors,
    screen: Screen,
    /// Until it has been looked for.
    sign: Option<Sign>,
    report: Option<Report>,
    /// The guest has written something.
    spoke: bool,
    /// It runs a Linux program, whose line carries every request.
    runs_program: bool,
    /// It was ended by [`Guest::kill`].
    killed: Cell<bool>,
    protections: Vec<Protection>,
    ended: Option<Ended>,
}

/// Starts what was told.
///
/// # Errors
/// [`Error`].
pub(super) fn start(
    monitor: &Monitor,
    told: Told,
    launch: Launch,
    files: &Files,
    token: &str,
) -> Result<ForeignGuest, Error> {
    let namespaces: Vec<RawFd> = launch
        .devices
        .iter()
        .filter_map(|device| device.interface.as_ref()?.namespace.as_ref())
        .map(AsRawFd::as_raw_fd)
        .collect();
    let network = network(monitor, &launch, &namespaces)?;
    let needs_root = needs_root(monitor, &told, &launch);
    let root = rustix::process::geteuid().is_root();
    let mut descriptors: Vec<RawFd> = vec![files.kernel.as_raw_fd()];
    descriptors.extend(files.root.as_ref().map(AsRawFd::as_raw_fd));
    descriptors.extend(told.descriptors.iter().map(AsRawFd::as_raw_fd));
    descriptors.extend(launch.devices.iter().map(|device| device.host.as_raw_fd()));
    let strict = launch.strict;
    let mut granted = Granted {
        network,
        shows_line: told.shows_line,
        root: needs_root.clone().filter(|_| root),
        no_namespaces: None,
    };
    if strict {
        refuse_missing(&protections(monitor, &granted))?;
    }
    let (child, errors) = child::start(Order {
        program: &monitor.program,
        arguments: &told.arguments,
        descriptors: &descriptors,
        input: told.input,
        output: launch.console,
        network,
        nobody: needs_root.is_none(),
    })?;
    let runs_program = launch.image.abi().flags & AbiNote::PROGRAM != 0;
    if runs_program {
        let line = child.input.try_clone();
        input::pass_on(
            launch.input,
            line.map_err(Error::host("copy a descriptor"))?,
        );
    }
    // With our copies of its ends open, nobody would see that it has closed them.
    drop(told.descriptors);
    granted.no_namespaces = child.no_namespaces.as_ref().map(crate::error::describe);
    let still_root = child.still_root.as_ref().map(crate::error::describe);
    granted.root = granted.root.or(still_root);
    let protections = protections(monitor, &granted);
    let mut guest = ForeignGuest {
        title: monitor.title(),
        errors: Errors::of(errors),
        child,
        screen: Screen::new(token),
        sign: Some(told.sign),
        report: None,
        spoke: false,
        runs_program,
        killed: Cell::new(false),
        protections,
        ended: None,
    };
    if strict {
        // Dropping it ends it.
        refuse_missing(&guest.protections)?;
    }
    if let Some(Sign::Control(_)) = guest.sign {
        // It waits to be told.
        guest.come_up()?;
    }
    Ok(guest)
}

/// Which network namespace the monitor is to be in: monitors that open or look up tap devices must be where these are.
fn network(monitor: &Monitor, launch: &Launch, own: &[RawFd]) -> Result<Network, Error> {
    let taps = launch
        .devices
        .iter()
        .filter(|device| device.interface.is_some());
    match (monitor.is_qemu(), own, taps.count()) {
        (true, _, _) | (_, [], 0) => Ok(Network::None),
        (_, [], _) => Ok(Network::Ours),
        (_, [namespace], 1) => Ok(Network::Of(*namespace)),
        _ => Err(Error::Unable(format!(
            "{} cannot have --net user beside a tap device: use tap devices only, or --backend qemu",
            monitor.title()
        ))),
    }
}

impl ForeignGuest {
    /// Whether the monitor has ended, waiting at most this long for it.
    fn has_ended(&self, wait: Duration) -> bool {
        let mut fds = [PollFd::new(&self.child.pidfd, PollFlags::IN)];
        poll(&mut fds, Some(&timespec(wait))).is_ok_and(|ready| ready > 0)
    }

    /// Waits for a sign that the machine runs. False if the monitor ends, or takes too long.
    fn shows(&self, sign: &mut Sign) -> Result<bool, Error> {
        let until = Instant::now() + START_PATIENCE;
        match sign {
            Sign::Thread(name) => {
                while !has_thread(self.child.pid, name) {
                    if self.has_ended(LOOK_AGAIN) || Instant::now() >= until {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Sign::Control(control) => {
                // A socket that breaks is as good as a monitor that ends.
                while control.say_next().unwrap_or(true) {
                    match self.answer(control, until) {
                        Ok(Some(Ok(()))) => {}
                        Ok(Some(Err(said))) => {
                            let monitor = self.title;
                            return Err(Error::Died { monitor, said });
                        }
                        Ok(None) | Err(_) => return Ok(false),
                    }
                }
                Ok(true)
            }
        }
    }

    /// The next answer; `None` if there comes none.
    fn answer(
        &self,
        control: &mut qemu::Control,
        until: Instant,
    ) -> rustix::io::Result<Option<Result<(), String>>> {
        let mut piece = [0; 1024];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [
                PollFd::new(&*control, PollFlags::IN),
                PollFd::new(&self.child.pidfd, PollFlags::IN),
            ];
            if left.is_zero() || poll(&mut fds, Some(&timespec(left)))? == 0 {
                return Ok(None);
            }
            let count = rustix::io::read(&*control, &mut piece)?;
            if count == 0 {
                return Ok(None);
            }
            if let Some(answer) = control.hear(&piece[..count]) {
                return Ok(Some(answer));
            }
        }
    }

    /// Returns when the machine runs, once.
    fn come_up(&mut self) -> Result<(), Error> {
        // Nothing is wanted of a control socket afterwards, and what is not read would pile up.
        let Some(mut sign) = self.sign.take() else {
            return Ok(());
        };
        match self.shows(&mut sign) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(refused) => {
                self.kill();
                return Err(refused);
            }
        }
        if !self.has_ended(Duration::from_millis(100)) {
            self.kill();
            return Err(Error::Died {
                monitor: self.title,
                said: format!("it took more than {} s", START_PATIENCE.as_secs()),
            });
        }
        // A guest may have come and gone: then there is something on its console, and the supervisor finds out.
        if self.errors.text().is_empty() {
            return Ok(());
        }
        Err(self.died())
    }

    fn died(&self) -> Error {
        let said = last_line(&self.errors.text());
        Error::Died {
            monitor: self.title,
            said: if said.is_empty() {
                "it ended without saying why".to_owned()
            } else {
                said
            },
        }
    }

    /// Makes sense of how the process ended and what the guest said before.
    fn describe(&mut self, status: i32, cpu_ns: u64) -> Ended {
        let mut ended = Ended {
            how: How::Killed(SIGKILL),
            code: 128 + SIGKILL as u8,
            message: String::new(),
            frames: Vec::new(),
            registers: None,
            image_start: 0,
            usage: Usage {
                cpu_ns,
                ..Usage::default()
            },
        };
        let signal = (status & 0x7f).cast_unsigned();
        if let Some(report) = self.report.take() {
            ended.how = How::Exited(report.reason);
            ended.code = report.code;
            ended.message = report.message;
            ended.frames = report.frames;
            ended.image_start = report.image_start;
            ended.registers = report
                .registers
                .filter(|_| report.reason == ExitReason::Fault);
        } else if !self.killed.get() {
            match signal {
                SIGKILL | SIGTERM => {
                    ended.how = How::Killed(signal);
                    ended.code = 128 + signal as u8;
                }
                0 if status == 0 => {
                    ended.how = How::Silent;
                    ended.code = EXIT_SILENT;
                }
                _ => {
                    ended.how = How::MonitorFailed;
                    ended.code = EXIT_KILN;
                    ended.message = match (last_line(&self.errors.text()), signal) {
                        (said, 0) if !said.is_empty() => format!("{}: {said}", self.title),
                        (_, 0) => format!("{} ended with code {}", self.title, status >> 8 & 0xff),
                        _ => format!("{} ended by signal {signal}", self.title),
                    };
                }
            }
        }
        ended
    }
}

impl Guest for ForeignGuest {
    fn wait_started(&mut self) -> Result<(), crate::Error> {
        Ok(self.come_up()?)
    }

    fn screen(&mut self, output: &mut Vec<u8>, last: bool) {
        self.spoke |= !output.is_empty();
        if let Some(report) = self.screen.pass(output, last) {
            self.report = Some(report);
            // It has nothing more to do, and what its machine does now (a reset, say) is nobody's business.
            os::kill(&self.child.pidfd);
        }
    }

    fn ended(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    fn pid(&self) -> u32 {
        self.child.pid
    }

    fn send(&self, event: u32) {
        let request = match event {
            SIGTERM => vec![TERMINATE],
            event if event == SIGINT || !self.runs_program => vec![INTERRUPT],
            event => input::request(event),
        };
        // A full pipe holds earlier requests that the guest has not looked at yet; one more changes nothing. A request is written
        // whole or not at all (pipe(7)).
        let _ = rustix::io::write(&self.child.input, &request);
    }

    /// That nobody reads what it writes, it cannot know: the monitor's own output goes on.
    fn hears(&self, signal: u32) -> bool {
        signal != SIGPIPE && (self.runs_program || matches!(signal, SIGINT | SIGTERM))
    }

    fn kill(&self) {
        self.killed.set(true);
        os::kill(&self.child.pidfd);
    }

    fn wait(&mut self) -> io::Result<Ended> {
        if let Some(ended) = &self.ended {
            return Ok(ended.clone());
        }
        let (status, cpu_ns) = os::reap(self.child.pid)?;
        let ended = self.describe(status, cpu_ns);
        self.ended = Some(ended.clone());
        Ok(ended)
    }

    fn failure(&self) -> Option<crate::Error> {
        let failed = self.ended.as_ref()?.how == How::MonitorFailed;
        (failed && !self.spoke).then(|| self.died().into())
    }

    fn protections(&self) -> Vec<Protection> {
        self.protections.clone()
    }

    fn usage(&self) -> Usage {
        let (cpu_ns, resident) = proc_usage(self.child.pid);
        Usage {
            cpu_ns,
            resident,
            ..Usage::default()
        }
    }
}

impl Drop for ForeignGuest {
    fn drop(&mut self) {
        if self.ended.is_none() {
            os::kill(&self.child.pidfd);
            // Nothing can be done about a child that cannot be waited for.
            let _ = os::reap(self.child.pid);
        }
    }
}

/// Whether a process has a thread of this name.
fn has_thread(pid: u32, name: &str) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    threads.into_iter().flatten().flatten().any(|thread| {
        std::fs::read_to_string(thread.path().join("comm"))
            .is_ok_and(|comm| comm.trim_end() == name)
    })
}

/// The last line that says anything, without what terminals would act upon.
fn last_line(text: &str) -> String {
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    let line = line.unwrap_or_default();
    line.chars()
        .filter(|character| !character.is_control())
        .take(MAX_SAID)
        .collect()
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::path::Path;

    const TOKEN: &str = "0123456789abcdef";

    /// A shell script in a monitor's place, and the read end of its console.
    fn guest(script: &str) -> (ForeignGuest, OwnedFd) {
        let (console, output) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (child, errors) = child::start(Order {
            program: Path::new("/bin/sh"),
            arguments: &["-c".to_owned(), script.to_owned()],
            descriptors: &[],
            input: Input::Pipe,
            output,
            network: Network::None,
            nobody: false,
        })
        .unwrap();
        let guest = ForeignGuest {
            title: "Shell",
            errors: Errors::of(errors),
            child,
            screen: Screen::new(TOKEN),
            sign: Some(Sign::Thread("sleep")),
            report: None,
            spoke: false,
            runs_program: false,
            killed: Cell::new(false),
            protections: Vec::new(),
            ended: None,
        };
        (guest, console)
    }

    /// What it wrote, and how it ended.
    fn outcome(guest: &mut ForeignGuest, console: &OwnedFd) -> (String, Ended) {
        let (mut all, mut piece) = (Vec::new(), vec![0; 4096]);
        while let Ok(count @ 1..) = rustix::io::read(console, &mut piece[..]) {
            let mut output = piece[..count].to_vec();
            guest.screen(&mut output, false);
            all.extend(output);
        }
        let mut rest = Vec::new();
        guest.screen(&mut rest, true);
        all.extend(rest);
        let ended = guest.wait().unwrap();
        (String::from_utf8(all).unwrap(), ended)
    }

    #[test]
    fn an_end_is_what_the_guest_says_it_is() {
        let script =
            format!("printf 'hello\\n\\033_kiln {TOKEN} 0 2a 0 - - -\\033\\\\'; exec sleep 100");
        let (mut guest, console) = guest(&script);
        let (output, ended) = outcome(&mut guest, &console);
        assert_eq!(output, "hello\n");
        assert_eq!((ended.how, ended.code), (How::Exited(ExitReason::Exit), 42));
        assert!(guest.failure().is_none());
    }

    #[test]
    fn a_monitor_that_fails_before_the_guest_speaks_is_an_error() {
        let (mut guest, console) = guest("echo first >&2; echo 'no such device' >&2; exit 1");
        let (_, ended) = outcome(&mut guest, &console);
        assert_eq!((ended.how, ended.code), (How::MonitorFailed, 125));
        let error = guest.failure().unwrap();
        assert_eq!(
            error.to_string(),
            "Shell could not start the guest: no such device"
        );
        assert_eq!(error.exit_code(), 125);
    }

    #[test]
    fn last_words_are_told_however_much_a_monitor_said_before() {
        // Three times what a pipe holds.
        let flood = "i=0; while [ $i -lt 100 ]; do head -c 2000 /dev/zero >&2; i=$((i + 1)); done";
        let (mut guest, console) = guest(&format!("{flood}; echo >&2; echo 'too bad' >&2; exit 1"));
        let (_, ended) = outcome(&mut guest, &console);
        assert_eq!(
            (ended.how, ended.message.as_str()),
            (How::MonitorFailed, "Shell: too bad")
        );
    }

    #[test]
    fn a_monitor_that_fails_later_is_how_the_guest_ended() {
        let (mut guest, console) = guest("echo hello; echo 'internal error' >&2; exit 1");
        let (output, ended) = outcome(&mut guest, &console);
        assert_eq!(output, "hello\n");
        assert_eq!((ended.how, ended.code), (How::MonitorFailed, 125));
        assert_eq!(ended.message, "Shell: internal error");
        assert!(guest.failure().is_none());
    }

    #[test]
    fn other_ends_are_told_apart() {
        for (script, how, code) in [
            ("echo hello", How::Silent, 139),
            ("echo hello; kill -9 $$", How::Killed(9), 137),
            ("echo hello; kill -SEGV $$", How::MonitorFailed, 125),
        ] {
            let (mut guest, console) = guest(script);
            let (_, ended) = outcome(&mut guest, &console);
            assert_eq!((ended.how, ended.code), (how, code), "{script}");
        }
        let (mut guest, console) = guest("exec sleep 100");
        guest.kill();
        let (_, ended) = outcome(&mut guest, &console);
        assert_eq!((ended.how, ended.code), (How::Killed(9), 137));
    }

    #[test]
    fn requests_to_stop_are_bytes_on_the_console() {
        let (mut guest, console) = guest("head -c 2 | od -An -tx1");
        guest.send(2);
        guest.send(SIGTERM);
        let (output, _) = outcome(&mut guest, &console);
        assert_eq!(output.trim(), "03 04");
    }

    #[test]
    fn a_sign_of_life_is_waited_for() {
        let (mut started, _console) = guest("exec sleep 100");
        started.wait_started().unwrap();
        started.sign = Some(Sign::Thread("vcpu"));
        started.kill();
        assert!(started.wait_started().is_ok(), "it may have come and gone");
        let (mut failed, _console) = guest("echo 'cannot' >&2; exit 3");
        failed.sign = Some(Sign::Thread("vcpu"));
        let error = failed.wait_started().unwrap_err().to_string();
        assert!(error.ends_with("cannot"), "{error}");
    }

    #[test]
    fn what_a_monitor_says_is_told_in_one_line() {
        assert_eq!(last_line("a\n\n \x1b[31mb \n\n"), "[31mb");
        assert_eq!(last_line("\n"), "");
        assert_eq!(last_line(&"x".repeat(1000)).len(), MAX_SAID);
    }
}
