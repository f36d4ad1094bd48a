//! A command's end of the control socket: one request, one response; and captures, where a stream follows the response.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{MAX_RESPONSE, Request, Response, server};
use crate::Error;
use crate::capture::Link;
use crate::registry::{Instance, Registry};

/// How long a supervisor may take for an answer that it can give at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait for the socket of an instance that runs: it is made a moment after the guest's start.
const APPEARS: Duration = Duration::from_millis(500);

/// How long a supervisor that hangs up may take to record the end and to be gone.
const GOES: Duration = Duration::from_secs(2);

/// Sends a request to a running instance and waits for the response: for as long as the guest runs if the request is
/// one that waits for its end. A supervisor that does not answer when its guest is to be killed is killed, and the guest with it.
///
/// # Errors
/// [`Error::NotRunning`] if its supervisor is gone or goes meanwhile, [`Error::Refused`] if it does not do it, [`Error::Control`] if it
/// does not answer as it should.
pub fn request(instance: &Instance, request: &Request) -> Result<Response, Error> {
    let mut stream = reach(instance)?;
    let (patience, kills) = match request {
        Request::Wait => (None, false),
        // What an ended guest has left for its peers may take as long once more.
        Request::Stop {
            timeout_ms: None, ..
        } => {
            let timeout = Duration::from_millis(instance.record.stop_timeout_ms);
            (timeout.saturating_mul(2).checked_add(PATIENCE), false)
        }
        Request::Stop {
            timeout_ms: Some(ms),
            ..
        } => (Duration::from_millis(*ms).checked_add(PATIENCE), *ms == 0),
        _ => (Some(PATIENCE), false),
    };
    let answer = exchange(&mut stream, request, patience);
    if let Ok(Response::Refused { problem }) = answer {
        return Err(Error::Refused {
            name: instance.record.name.clone(),
            problem,
        });
    }
    answer.or_else(|error| match error.kind() {
        // Its guest has ended, and nobody answers any more.
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof
            if Registry::is_let_go(&instance.path, GOES) =>
        {
            Err(Error::NotRunning(instance.record.name.clone()))
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut if kills => {
            kill(instance, &stream).map_err(|error| failed(instance, &error))
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            let error = io::Error::other("it is stopped or busy: `kiln kill` ends it");
            Err(failed(instance, &error))
        }
        _ => Err(failed(instance, &error)),
    })
}

/// Ends a supervisor that does not answer, one that was stopped (Ctrl-Z) for example. Its guest ends with it.
fn kill(instance: &Instance, stream: &UnixStream) -> io::Result<Response> {
    let supervisor = rustix::net::sockopt::socket_peercred(stream)?.pid;
    let process = pidfd_open(supervisor, PidfdFlags::empty())?;
    // While the lock is held the number is still the supervisor's.
    if !Registry::is_let_go(&instance.path, Duration::ZERO) {
        pidfd_send_signal(&process, Signal::KILL)?;
    }
    if Registry::is_let_go(&instance.path, PATIENCE) {
        Ok(Response::Done)
    } else {
        Err(io::Error::from(io::ErrorKind::TimedOut))
    }
}

/// A capture that runs.
#[derive(Debug)]
pub struct Capture {
    /// Where records come from ([`capture::stream`](crate::capture::stream)).
    pub socket: UnixStream,
    /// The links whose frames come.
    pub links: Vec<Link>,
    /// What came already.
    pub first: Vec<u8>,
}

/// Begins to capture the frames on links of a running instance: those named, or all.
///
/// # Errors
/// As [`request`], and [`Error::Refused`] if the instance has no such links.
pub fn capture(instance: &Instance, links: Vec<String>, snaplen: u32) -> Result<Capture, Error> {
    let mut socket = reach(instance)?;
    let request = Request::Capture { links, snaplen };
    let begin = |socket: &mut UnixStream| -> io::Result<(Response, Vec<u8>)> {
        send(socket, &request)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            let got = socket.read(&mut piece)?;
            bytes.extend(&piece[..got]);
            match bytes.iter().position(|&byte| byte == b'\n') {
                Some(end) => {
                    let first = bytes.split_off(end + 1);
                    return Ok((serde_json::from_slice(&bytes)?, first));
                }
                None if got == 0 || bytes.len() > MAX_RESPONSE => {
                    return Err(io::Error::other("the connection ended"));
                }
                None => {}
            }
        }
    };
    match begin(&mut socket).map_err(|error| failed(instance, &error))? {
        (Response::Capturing { links }, first) => Ok(Capture {
            socket,
            links,
            first,
        }),
        (Response::Refused { problem }, _) => Err(Error::Refused {
            name: instance.record.name.clone(),
            problem,
        }),
        (other, _) => {
            let error = io::Error::other(format!("unexpected answer {other:?}"));
            Err(failed(instance, &error))
        }
    }
}

fn failed(instance: &Instance, error: &io::Error) -> Error {
    Error::Control {
        name: instance.record.name.clone(),
        problem: error.to_string(),
    }
}

/// A connection to an instance's supervisor.
fn reach(instance: &Instance) -> Result<UnixStream, Error> {
    connect(&instance.path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Error::NotRunning(instance.record.name.clone())
        }
        _ => failed(instance, &error),
    })
}

fn connect(folder: &Path) -> io::Result<UnixStream> {
    let started = Instant::now();
    loop {
        let dir = rustix::fs::open(
            folder,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let address = server::address(std::os::fd::AsFd::as_fd(&dir), folder)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket.into()),
            Err(error) if started.elapsed() >= APPEARS => return Err(error.into()),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn send(stream: &mut UnixStream, request: &Request) -> io::Result<()> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&line)
}

fn exchange(
    stream: &mut UnixStream,
    request: &Request,
    patience: Option<Duration>,
) -> io::Result<Response> {
    send(stream, request)?;
    stream.set_read_timeout(patience)?;
    let mut bytes = Vec::new();
    stream.take(MAX_RESPONSE as u64).read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&bytes)?)
}
