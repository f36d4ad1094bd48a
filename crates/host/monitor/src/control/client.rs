//! A command's end of the control socket: one request, one response.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{MAX_RESPONSE, Request, Response, server};
use crate::Error;
use crate::registry::Instance;

/// How long a supervisor may take for an answer that it can give at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait for the socket of an instance that runs: it is made a moment after the guest's start.
const APPEARS: Duration = Duration::from_millis(500);

/// Sends a request to a running instance and waits for the response: for as long as the guest runs if the request is
/// one that waits for its end.
///
/// # Errors
/// [`Error::NotRunning`] if its supervisor is gone, [`Error::Control`] if it does not answer as it should.
pub fn request(instance: &Instance, request: &Request) -> Result<Response, Error> {
    let name = &instance.record.name;
    let failed = |error: &io::Error| Error::Control {
        name: name.clone(),
        problem: error.to_string(),
    };
    let mut stream = match connect(&instance.path) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Err(Error::NotRunning(name.clone()));
        }
        Err(error) => return Err(failed(&error)),
    };
    let waits = matches!(request, Request::Stop { .. } | Request::Wait);
    exchange(&mut stream, request, waits).map_err(|error| failed(&error))
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

fn exchange(stream: &mut UnixStream, request: &Request, waits: bool) -> io::Result<Response> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout((!waits).then_some(PATIENCE))?;
    stream.write_all(&line)?;
    let mut bytes = Vec::new();
    stream.take(MAX_RESPONSE as u64).read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Err(io::Error::other("the connection ended"));
    }
    Ok(serde_json::from_slice(&bytes)?)
}
