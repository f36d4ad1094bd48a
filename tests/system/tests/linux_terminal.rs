//! Linux programs at a terminal: they find theirs as they would find the user's own.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use kiln_system_tests::host::eventually;
use kiln_system_tests::process::PATIENCE;
use kiln_system_tests::program::{compiled, installed};
use kiln_system_tests::{Session, artifacts, backend};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

/// A terminal with somebody at it.
struct Terminal {
    user: File,
    seen: String,
    child: Child,
    /// The command's side, kept so that it can be looked at when the command has ended.
    side: OwnedFd,
}

impl Terminal {
    /// Starts a command as the leader of a session at a new terminal of 101 columns and 33 rows.
    fn start(session: &Session, setsid: &Path, words: &[String]) -> Self {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&user).expect("granted");
        unlockpt(&user).expect("unlocked");
        let name = ptsname(&user, Vec::new()).expect("a name");
        let name = name.into_string().expect("text");
        let side: OwnedFd = File::options()
            .read(true)
            .write(true)
            .open(name)
            .expect("the other side")
            .into();
        let window = Winsize {
            ws_row: 33,
            ws_col: 101,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&side, window).expect("a size");
        let clone = || side.try_clone().expect("a descriptor");
        let all = ["--ctty", "--wait"].map(str::to_owned);
        let child = session
            .wrapped(setsid, all.iter().chain(words))
            .stdin(clone())
            .stdout(clone())
            .stderr(clone())
            .spawn()
            .expect("it starts");
        Self {
            user: user.into(),
            seen: String::new(),
            child,
            side,
        }
    }

    /// Waits until a text is shown, and types another.
    fn answer(&mut self, text: &str, typed: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.seen.contains(text) {
            assert!(Instant::now() < until, "no {text:?} in {:?}", self.seen);
            self.look(Duration::from_millis(100));
        }
        self.user.write_all(typed.as_bytes()).expect("typed");
    }

    fn look(&mut self, time: Duration) -> bool {
        let time = Timespec {
            tv_sec: 0,
            tv_nsec: time.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&self.user, PollFlags::IN)];
        if poll(&mut fds, Some(&time)).expect("polled") == 0 {
            return false;
        }
        let mut buffer = [0; 4096];
        let count = self.user.read(&mut buffer).unwrap_or(0);
        self.seen += &String::from_utf8_lossy(&buffer[..count]);
        count > 0
    }

    /// All that was shown, and the exit code. The terminal's settings are as they were.
    fn finish(mut self) -> (String, Option<i32>) {
        let until = Instant::now() + PATIENCE;
        let code = loop {
            self.look(Duration::from_millis(10));
            if let Some(status) = self.child.try_wait().expect("waited") {
                break status.code();
            }
            assert!(Instant::now() < until, "it goes on: {:?}", self.seen);
        };
        while self.look(Duration::from_millis(10)) {}
        let settings = tcgetattr(&self.side).expect("a terminal");
        assert!(
            settings
                .local_modes
                .contains(rustix::termios::LocalModes::ICANON | rustix::termios::LocalModes::ECHO),
            "the terminal is left in {settings:?}"
        );
        (self.seen, code)
    }
}

/// Ctrl-C, Ctrl-D, and what the key for erasing sends.
const INTERRUPT: &str = "\x03";
const END: &str = "\x04";
const ERASE: &str = "\x7f";

fn converse(mut terminal: Terminal) -> (String, Option<i32>) {
    terminal.answer("type a line", &format!("lins{ERASE}e\r"));
    terminal.answer("type keys", &format!("a\r{INTERRUPT}{END}"));
    terminal.answer("interrupt twice", INTERRUPT);
    // One that comes while the other is pending would be the same.
    terminal.answer("^C", "");
    std::thread::sleep(Duration::from_millis(300));
    terminal.answer("interrupt twice", INTERRUPT);
    terminal.answer("end it", END);
    terminal.finish()
}

#[test]
fn a_program_at_a_terminal_has_one() {
    let Some(program) = compiled("c/terminal.c", "gcc", "{source} -O1 -o {out}") else {
        return;
    };
    let Some(setsid) = installed("setsid") else {
        return;
    };
    let program = program.display().to_string();
    let session = Session::new();
    let here = converse(Terminal::start(
        &session,
        &setsid,
        std::slice::from_ref(&program),
    ));
    assert!(
        here.0.starts_with("111 101x33\r\nnamed 1 0\r\n"),
        "{here:?}"
    );
    assert_eq!(here.1, Some(7), "{here:?}");
    let kiln = artifacts::kiln().display().to_string();
    let words = [kiln, "run".to_owned(), "--rm".to_owned(), program];
    let there = converse(Terminal::start(&session, &setsid, &words));
    // What `kiln` says about packing it comes before.
    let (_, said) = there.0.split_once("111").expect("a terminal in the guest");
    assert_eq!(format!("111{said}"), here.0, "{there:?}");
    assert_eq!(there.1, Some(7), "{there:?}");
}

#[test]
fn streams_that_are_no_terminal_stay_what_they_are() {
    let Some(setsid) = installed("setsid") else {
        return;
    };
    let session = Session::new();
    let errors = session.file("errors");
    let command = format!(
        "'{}' run --rm --quiet perl -e 'print join(\",\", map {{ -t $_ ? 1 : 0 }} (STDIN, STDOUT, STDERR)), \"\\n\"; print STDERR \"apart\\n\"' 2>'{}'",
        artifacts::kiln().display(),
        errors.display()
    );
    let Some(_) = installed("perl") else {
        return;
    };
    let words = ["sh", "-c", &command].map(str::to_owned);
    let (seen, code) = Terminal::start(&session, &setsid, &words).finish();
    let errors = std::fs::read_to_string(errors).expect("a file");
    assert_eq!(code, Some(0), "{seen}{errors}");
    assert!(seen.contains("1,1,0\r\n"), "{seen}{errors}");
    if backend::kind() == "qemu" {
        // Its console is one stream.
        return;
    }
    assert!(
        errors.contains("apart\n") && !seen.contains("apart"),
        "{seen}{errors}"
    );
}

#[test]
fn it_learns_of_the_windows_size() {
    let (Some(setsid), Some(_)) = (installed("setsid"), installed("python3")) else {
        return;
    };
    let session = Session::new();
    let program = "import os,signal,time
show=lambda *_: os.write(1, b'size %d %d\\n' % tuple(os.get_terminal_size()))
signal.signal(signal.SIGWINCH, show)
show()
while True: time.sleep(1)";
    let kiln = artifacts::kiln().display().to_string();
    let words = [&kiln, "run", "--rm", "--quiet", "python3", "-c", program].map(str::to_owned);
    let mut terminal = Terminal::start(&session, &setsid, &words);
    terminal.answer("size 101 33", "");
    for (columns, rows) in [(80, 25), (4095, 1)] {
        let window = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&terminal.user, window).expect("a size");
        terminal.answer(&format!("size {columns} {rows}"), "");
    }
    terminal.answer("", INTERRUPT);
    let (seen, code) = terminal.finish();
    assert!(seen.contains("KeyboardInterrupt"), "{seen}");
    assert_eq!(code, Some(130), "{seen}");
}

#[test]
fn signals_of_every_kind_reach_it() {
    let Some(python) = installed("python3") else {
        return;
    };
    let session = Session::new();
    let program = "import signal
kinds=[1,2,10,12,14,15,28,37,64]
signal.pthread_sigmask(signal.SIG_BLOCK, kinds)
print('waits', flush=True)
while True: print('got', int(signal.sigwait(kinds)), flush=True)";
    let words = ["run", "-d", "--name", "it", "--quiet"].map(str::to_owned);
    let python = python.display().to_string();
    let all = words
        .into_iter()
        .chain([python, "-c".to_owned(), program.to_owned()]);
    let started = session.command(all).output().expect("kiln starts");
    assert!(started.status.success(), "{started:?}");
    let log = || session.kiln(["logs", "it"]).text();
    eventually("it waits", || log().contains("waits"));
    let kinds = [
        ("HUP", 1),
        ("SIGINT", 2),
        ("usr1", 10),
        ("12", 12),
        ("ALRM", 14),
        ("TERM", 15),
        ("WINCH", 28),
        ("RTMIN+3", 37),
        ("RTMAX", 64),
    ];
    for (name, number) in kinds {
        session.kiln(["kill", "-s", name, "it"]).ends_with(0);
        eventually(name, || log().contains(&format!("got {number}\n")));
    }
    session.kiln(["kill", "-s", "NONE", "it"]).ends_with(125);
    session.kiln(["kill", "it"]).ends_with(0);
}

/// As in `yes | head -1`: whoever writes to nobody learns it, and does not go on for ever.
#[test]
fn output_that_nobody_reads_any_more_is_a_broken_pipe() {
    let (Some(yes), Some(python)) = (installed("yes"), installed("python3")) else {
        return;
    };
    let session = Session::new();
    let on_qemu = backend::kind() == "qemu";
    let endless = ["while True: print('line')"].map(str::to_owned);
    // SIGPIPE ends the one, the other ignores it and finds the error; a QEMU's guest only hears of the end.
    let cases = [
        (yes, &[][..], &[Some(141)][..], ""),
        (
            python,
            &[&["-c".to_owned()], &endless[..]].concat(),
            // The second is that of a last write that fails as well.
            &[Some(1), Some(120)],
            "BrokenPipeError",
        ),
    ];
    for (program, arguments, codes, complaint) in cases {
        let program = program.display().to_string();
        let mut words = ["run", "--rm", "--quiet", &program]
            .map(str::to_owned)
            .to_vec();
        words.extend_from_slice(arguments);
        let errors = session.file("errors");
        let mut child = session
            .command(words)
            .stdout(std::process::Stdio::piped())
            .stderr(File::create(&errors).expect("a file"))
            .spawn()
            .expect("kiln starts");
        let mut stdout = child.stdout.take().expect("a pipe was asked for");
        let mut start = [0; 4];
        stdout.read_exact(&mut start).expect("output");
        drop(stdout);
        let until = Instant::now() + PATIENCE;
        let ended = loop {
            if let Some(status) = child.try_wait().expect("our child") {
                break status.code();
            }
            if Instant::now() > until {
                let _ = child.kill();
                panic!("{program} goes on for ever with nobody reading");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let said = std::fs::read_to_string(&errors).expect("a file");
        if on_qemu {
            // Or it was ended by force, if its output kept it from hearing of it.
            let by_signal = matches!(ended, Some(143 | 137));
            assert!(by_signal, "{program} {ended:?}: {said}");
        } else {
            assert!(codes.contains(&ended), "{program} {ended:?}: {said}");
            assert!(said.contains(complaint), "{said}");
        }
    }
}
