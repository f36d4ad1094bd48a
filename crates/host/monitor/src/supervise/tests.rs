//! The loop with a guest that is only a pipe and a few notes.

use std::cell::{Cell, RefCell};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use kiln_abi::ExitReason;
use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};

use super::*;
use crate::backend::{How, Usage};
use crate::console::read::Reader;
use crate::registry::testing::TempDir;

/// It has ended once the write end of `ended` is closed.
struct Fake {
    ended: OwnedFd,
    alive: RefCell<Option<(OwnedFd, OwnedFd)>>,
    stops: Cell<u32>,
    killed: Cell<bool>,
    /// Ends when asked to.
    obedient: bool,
    /// Output that is not a whole line yet.
    kept: Vec<u8>,
    /// What it has in use.
    memory: Option<u64>,
}

impl Fake {
    /// A guest and the read end of its console.
    fn new(obedient: bool) -> (Self, OwnedFd) {
        let (ended, life) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (console, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::fs::fcntl_setfl(&console, OFlags::NONBLOCK).unwrap();
        let fake = Self {
            ended,
            alive: RefCell::new(Some((life, write))),
            stops: Cell::new(0),
            killed: Cell::new(false),
            obedient,
            kept: Vec::new(),
            memory: None,
        };
        (fake, console)
    }

    fn says(&self, text: &[u8]) {
        let alive = self.alive.borrow();
        let (_, console) = alive.as_ref().unwrap();
        assert_eq!(rustix::io::write(console, text), Ok(text.len()));
    }

    fn end(&self) {
        self.alive.take();
    }
}

impl Guest for Fake {
    fn wait_started(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Lines that end with `?` are for the monitor.
    fn screen(&mut self, output: &mut Vec<u8>, last: bool) {
        let mut text = std::mem::take(&mut self.kept);
        text.append(output);
        let complete = match text.iter().rposition(|&b| b == b'\n') {
            _ if last => text.len(),
            Some(end) => end + 1,
            None => 0,
        };
        self.kept = text.split_off(complete);
        for line in text.split_inclusive(|&b| b == b'\n') {
            if !line.ends_with(b"?\n") {
                output.extend(line);
            }
        }
    }

    fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    fn pid(&self) -> u32 {
        1
    }

    fn send(&self, signal: u32) {
        self.stops.set(signal);
        if self.obedient {
            self.says(b"bye\n");
            self.end();
        }
    }

    fn kill(&self) {
        self.killed.set(true);
        self.end();
    }

    fn wait(&mut self) -> std::io::Result<Ended> {
        let (how, code) = if self.killed.get() {
            (How::Killed(9), 137)
        } else {
            (How::Exited(ExitReason::Exit), 0)
        };
        Ok(Ended {
            how,
            code,
            message: String::new(),
            frames: Vec::new(),
            registers: None,
            image_start: 0,
            usage: Usage::default(),
        })
    }

    fn failure(&self) -> Option<crate::Error> {
        None
    }

    fn protections(&self) -> Vec<crate::backend::Protection> {
        Vec::new()
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn memory_in_use(&self) -> Option<u64> {
        self.memory
    }
}

struct Setup {
    dir: TempDir,
    folder: std::fs::File,
    /// A client whose request is there when the loop begins.
    server: Option<Server>,
}

impl Setup {
    fn new() -> Self {
        let dir = TempDir::new();
        Self {
            folder: std::fs::File::open(dir.path()).unwrap(),
            server: None,
            dir,
        }
    }

    fn client(&mut self, request: &Request) -> UnixStream {
        self.server = Some(Server::bind(self.folder.as_fd(), self.dir.path()).unwrap());
        let mut stream = UnixStream::connect(self.dir.path().join(CONTROL_SOCKET)).unwrap();
        serde_json::to_writer(&mut stream, request).unwrap();
        std::io::Write::write_all(&mut stream, b"\n").unwrap();
        stream
    }

    fn run(&mut self, guest: &mut Fake, console: OwnedFd) -> (Ended, usize) {
        let mut supervisor = Supervisor {
            guest,
            console: Channel::new(console, Output::none()),
            errors: None,
            usernet: None,
            captures: Hub::new(Vec::new(), None),
            log: Log::create(&self.folder).unwrap(),
            dir: self.folder.as_fd(),
            path: self.dir.path(),
            control: self.server.take(),
            signals: crate::signals::block().unwrap(),
            stop_timeout: Duration::from_millis(20),
            is_program: false,
            terminal: None,
            memory: 1000,
            tell: |_| {},
            progress: Progress::default(),
        };
        let (ended, waiting) = supervisor.run().unwrap();
        (ended, waiting.len())
    }

    fn log(&self) -> String {
        let mut reader = Reader::open(PathBuf::from(self.dir.path())).unwrap();
        let mut text = Vec::new();
        while let Some(line) = reader.next_line().unwrap() {
            text.extend(line.text);
        }
        String::from_utf8(text).unwrap()
    }
}

#[test]
fn what_was_written_before_the_end_is_in_the_log() {
    let mut setup = Setup::new();
    let (mut guest, console) = Fake::new(true);
    guest.says(b"hello\nworld\n");
    guest.end();
    let (ended, _) = setup.run(&mut guest, console);
    assert_eq!(ended.code, 0);
    assert_eq!(setup.log(), "hello\nworld\n");
}

#[test]
fn what_is_for_the_monitor_is_not_passed_on_and_nothing_else_is_lost() {
    let mut setup = Setup::new();
    let (mut guest, console) = Fake::new(true);
    guest.says(b"hello\nready?\nno newline at the end");
    guest.end();
    setup.run(&mut guest, console);
    assert_eq!(setup.log(), "hello\nno newline at the end");
}

#[test]
fn a_guest_that_is_asked_to_stop_may_say_something() {
    let mut setup = Setup::new();
    let (mut guest, console) = Fake::new(true);
    let _client = setup.client(&Request::Stop {
        signal: 15,
        timeout_ms: None,
    });
    let (ended, waiting) = setup.run(&mut guest, console);
    assert_eq!((ended.code, waiting, guest.stops.get()), (0, 1, 15));
    assert_eq!(setup.log(), "bye\n");
}

#[test]
fn a_guest_that_does_not_stop_is_ended_by_force() {
    let mut setup = Setup::new();
    let (mut guest, console) = Fake::new(false);
    let _client = setup.client(&Request::Stop {
        signal: 2,
        timeout_ms: Some(30),
    });
    let started = Instant::now();
    let (ended, _) = setup.run(&mut guest, console);
    assert_eq!((ended.code, guest.stops.get()), (137, 2));
    assert!(started.elapsed() >= Duration::from_millis(30));
}

#[test]
fn the_control_socket_appears_when_the_guest_has_run_for_a_moment() {
    let mut setup = Setup::new();
    let (mut guest, console) = Fake::new(false);
    let path = setup.dir.path().join(CONTROL_SOCKET);
    let client = std::thread::spawn(move || {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut stream = loop {
            match UnixStream::connect(&path) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < deadline => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        };
        std::io::Write::write_all(&mut stream, b"{\"request\":\"signal\",\"signal\":9}\n").unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
        text
    });
    let (ended, _) = setup.run(&mut guest, console);
    assert_eq!(ended.how, How::Killed(9));
    assert_eq!(client.join().unwrap(), "{\"response\":\"done\"}\n");
}

#[test]
fn a_guest_that_uses_too_much_memory_is_ended() {
    let mut setup = Setup::new();
    let (mut guest, console) = Fake::new(false);
    guest.memory = Some(1001);
    let (ended, _) = setup.run(&mut guest, console);
    assert_eq!((ended.how, ended.code), (How::OutOfMemory, 137));
    assert!(ended.message.contains("raise it with --memory"));
}
