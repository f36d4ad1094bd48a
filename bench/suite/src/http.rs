//! As much of HTTP/1.1 as a client needs that knows its server: `GET`, `Content-Length`, keep-alive.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;

/// How long one reply may take.
const REPLY: Duration = Duration::from_secs(5);

/// A request, as sent.
pub fn request(path: &str, close: bool) -> String {
    let connection = if close { "Connection: close\r\n" } else { "" };
    format!("GET {path} HTTP/1.1\r\nHost: bench\r\n{connection}\r\n")
}

/// Length of a reply's head and of its body, once the head is there.
///
/// # Errors
/// If the reply is not a 200, or does not say how long it is.
pub fn lengths(reply: &[u8]) -> Result<Option<(usize, usize)>> {
    let Some(end) = reply.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&reply[..end]);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200") {
        return Err(format!("the reply is {status}"));
    }
    let body = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let wanted = name.eq_ignore_ascii_case("content-length");
        wanted.then(|| value.trim().parse().ok())?
    });
    match body {
        Some(body) => Ok(Some((end + 4, body))),
        None => Err("the reply has no length".to_owned()),
    }
}

/// A connection that is kept.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects.
    pub fn new(address: SocketAddr) -> Result<Self> {
        let explain = |error| format!("{address}: {error}");
        let stream = TcpStream::connect_timeout(&address, REPLY).map_err(explain)?;
        stream.set_read_timeout(Some(REPLY)).map_err(explain)?;
        Ok(Self {
            stream,
            buffer: vec![0; 64 * 1024],
        })
    }

    /// Fetches a page and returns the length of its body.
    pub fn get(&mut self, path: &str) -> Result<usize> {
        let explain = |error: std::io::Error| error.to_string();
        self.stream
            .write_all(request(path, false).as_bytes())
            .map_err(explain)?;
        let mut held = 0;
        loop {
            let count = self
                .stream
                .read(&mut self.buffer[held..])
                .map_err(explain)?;
            if count == 0 {
                return Err("the connection was closed in a reply".to_owned());
            }
            held += count;
            if let Some((head, body)) = lengths(&self.buffer[..held])? {
                self.skip((head + body).saturating_sub(held))?;
                return Ok(body);
            }
        }
    }

    fn skip(&mut self, mut rest: usize) -> Result<()> {
        while rest > 0 {
            let room = rest.min(self.buffer.len());
            match self.stream.read(&mut self.buffer[..room]) {
                Ok(0) => return Err("the connection was closed in a reply".to_owned()),
                Ok(count) => rest -= count,
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }
}

/// Fetches a page, again and again until there is a server or the time is over.
pub fn fetch(address: SocketAddr, path: &str, limit: Duration) -> Result<usize> {
    let deadline = Instant::now() + limit;
    loop {
        match Client::new(address).and_then(|mut client| client.get(path)) {
            Ok(body) => return Ok(body),
            Err(message) if Instant::now() >= deadline => return Err(message),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// `fetch ADDRESS PATH`, for servers in another namespace: prints the length of the body.
pub fn fetch_main(arguments: &[&str]) -> Result<()> {
    let &[address, path] = arguments else {
        return Err("fetch: ADDRESS PATH".to_owned());
    };
    let address = address
        .parse()
        .map_err(|error| format!("{address}: {error}"))?;
    println!("{}", fetch(address, path, REPLY)?);
    Ok(())
}

/// `ask ADDRESS PATH COUNT keep|close`: makes so many requests, one after the other, on one connection or one each.
pub fn ask_main(arguments: &[&str]) -> Result<()> {
    let &[address, path, count, kind] = arguments else {
        return Err("ask: ADDRESS PATH COUNT keep|close".to_owned());
    };
    let address = address
        .parse()
        .map_err(|error| format!("{address}: {error}"))?;
    let count: u64 = count.parse().map_err(|error| format!("{count}: {error}"))?;
    let mut client = Client::new(address)?;
    for _ in 0..count {
        client.get(path)?;
        if kind == "close" {
            client = Client::new(address)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_known_once_the_head_is_there() {
        let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
        assert_eq!(lengths(reply), Ok(Some((38, 3))));
        assert_eq!(lengths(&reply[..37]), Ok(None));
    }

    #[test]
    fn other_replies_are_errors() {
        assert!(lengths(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").is_err());
        assert!(lengths(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
