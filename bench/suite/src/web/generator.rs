//! A small load generator for machines without `wrk`: one thread, `epoll`, one request at a time on each connection.
//!
//! It is a program of its own (`bench-suite load ADDRESS PATH SECONDS keep|close|memcached`), so that it can run in another namespace
//! than the benchmark.

use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use super::load::{CONNECTIONS, report};
use crate::{Result, http};

/// How long to wait for events before looking at the clock.
const WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

const CONNECT: Duration = Duration::from_secs(1);

/// Room for a head, and for much of a body at once.
const BUFFER: usize = 128 * 1024;

struct Generator {
    address: SocketAddr,
    request: String,
    close: bool,
    /// Replies end with a line `END`.
    lines: bool,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
    requests: u64,
    bytes: u64,
    errors: u64,
}

#[derive(Default)]
struct Connection {
    stream: Option<TcpStream>,
    /// A part of a head. Mostly empty, as heads arrive whole.
    head: Vec<u8>,
    /// What is still to come of the body; `None` before the head is there.
    rest: Option<usize>,
}

/// `load ADDRESS PATH SECONDS keep|close|memcached`; for the last the path is a key.
pub fn main(arguments: &[&str]) -> Result<()> {
    let &[address, path, seconds, kind] = arguments else {
        return Err("load: ADDRESS PATH SECONDS keep|close|memcached".to_owned());
    };
    let address = address
        .parse()
        .map_err(|error| format!("{address}: {error}"))?;
    let seconds = seconds
        .parse()
        .map_err(|error| format!("{seconds}: {error}"))?;
    let close = kind == "close";
    let lines = kind == "memcached";
    if lines {
        store(&address, path)?;
    }
    let mut generator = Generator {
        address,
        request: if lines {
            format!("get {path}\r\n")
        } else {
            http::request(path, close)
        },
        close,
        lines,
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| error.to_string())?,
        connections: (0..CONNECTIONS).map(|_| Connection::default()).collect(),
        buffer: vec![0; BUFFER],
        requests: 0,
        bytes: 0,
        errors: 0,
    };
    let start = Instant::now();
    generator.run(start + Duration::from_secs(seconds))?;
    report(
        generator.requests,
        generator.bytes,
        start.elapsed(),
        generator.errors,
    );
    Ok(())
}

/// Gives memcached something to find.
fn store(address: &SocketAddr, key: &str) -> Result<()> {
    let explain = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect_timeout(address, CONNECT).map_err(explain)?;
    let value = "x".repeat(100);
    write!(stream, "set {key} 0 0 100\r\n{value}\r\n").map_err(explain)?;
    let mut reply = [0; 8];
    stream.read_exact(&mut reply).map_err(explain)?;
    if &reply == b"STORED\r\n" {
        return Ok(());
    }
    Err("memcached does not store".to_owned())
}

impl Generator {
    fn run(&mut self, end: Instant) -> Result<()> {
        for index in 0..self.connections.len() {
            self.open(index)?;
        }
        let mut events = [MaybeUninit::uninit(); CONNECTIONS];
        while Instant::now() < end {
            let ready = match epoll::wait(&self.epoll, &mut events, Some(&WAIT)) {
                Ok((ready, _)) => ready,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.to_string()),
            };
            for event in ready {
                let index = event.data.u64() as usize;
                if self.read(index).is_err() {
                    self.errors += 1;
                    self.open(index)?;
                }
            }
        }
        Ok(())
    }

    /// Connects, anew if need be, and sends the first request. Dropping the old socket takes it out of the set.
    fn open(&mut self, index: usize) -> Result<()> {
        self.connections[index] = Connection::default();
        let explain = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect_timeout(&self.address, CONNECT).map_err(explain)?;
        stream.set_nodelay(true).map_err(explain)?;
        // So short a request always fits into a new socket's buffer.
        stream.write_all(self.request.as_bytes()).map_err(explain)?;
        stream.set_nonblocking(true).map_err(explain)?;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN)
            .map_err(|error| error.to_string())?;
        self.connections[index].stream = Some(stream);
        Ok(())
    }

    /// Reads once, and goes on to the next request if that was the end of a reply.
    fn read(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        let stream = connection.stream.as_mut().ok_or("no connection")?;
        let count = match stream.read(&mut self.buffer) {
            Ok(0) => return Err("closed".to_owned()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        self.bytes += count as u64;
        let data = &self.buffer[..count];
        let whole = if self.lines {
            data.ends_with(b"END\r\n")
        } else {
            connection.take(data)?
        };
        if !whole {
            return Ok(());
        }
        self.requests += 1;
        if self.close {
            return self.open(index);
        }
        let stream = connection.stream.as_mut().ok_or("no connection")?;
        stream
            .write_all(self.request.as_bytes())
            .map_err(|error| error.to_string())
    }
}

impl Connection {
    /// Takes what has arrived; true if the reply is whole.
    fn take(&mut self, data: &[u8]) -> Result<bool> {
        let rest = if let Some(rest) = self.rest {
            rest.checked_sub(data.len())
        } else {
            self.head.extend_from_slice(data);
            let Some((head, body)) = http::lengths(&self.head)? else {
                return Ok(false);
            };
            let begun = self.head.len() - head;
            self.head.clear();
            body.checked_sub(begun)
        };
        match rest {
            Some(0) => {
                self.rest = None;
                Ok(true)
            }
            Some(rest) => {
                self.rest = Some(rest);
                Ok(false)
            }
            None => Err("the reply is longer than it says".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_whole_at_their_last_byte() {
        let mut connection = Connection::default();
        assert_eq!(connection.take(b"HTTP/1.1 200 OK\r\nContent-"), Ok(false));
        assert_eq!(connection.take(b"Length: 4\r\n\r\nab"), Ok(false));
        assert_eq!(connection.take(b"cd"), Ok(true));
        assert_eq!(
            connection.take(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"),
            Ok(true)
        );
        let long = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxy";
        assert!(connection.take(long).is_err());
    }
}
