//! HTTP from a client's side: a small strict client, and `curl`.
//!
//! [`Client`] sends exactly the bytes it is told to and understands no more of a [`Reply`] than a test asks about: one
//! head, fields that look as Kiln's server writes them, a body whose length the head tells (no chunks). What deviates
//! fails the test. [`Curl`] repeats with a client that others wrote what matters, where it is installed.
//!
//! Source: RFC 9110 (methods, fields, status codes) and RFC 9112 (what goes over the connection).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use crate::host::find_program;
use crate::process::{Outcome, Running};
use crate::service::{self, Service};
use crate::skip;

/// A connection to a web server.
#[derive(Debug)]
pub struct Client(BufReader<TcpStream>);

/// What it answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// As in the status line: `HTTP/1.1`.
    pub version: String,
    /// The status code.
    pub status: u16,
    /// Names and values in the order in which they came.
    pub fields: Vec<(String, String)>,
    /// The content, empty if there is none.
    pub body: Vec<u8>,
}

impl Reply {
    /// The value of a field, whatever the case of its name; `None` if it does not come.
    ///
    /// # Panics
    /// If it comes more than once.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut found = self
            .fields
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| &**value);
        assert!(found.next().is_none(), "{name} comes twice: {self:?}");
        value
    }

    /// The length that it announces.
    ///
    /// # Panics
    /// If that is no number.
    #[track_caller]
    pub fn content_length(&self) -> Option<usize> {
        self.field("Content-Length")
            .map(|len| len.parse().expect("a length"))
    }

    /// All fields but the time of day, which differs between two replies.
    pub fn lasting_fields(&self) -> Vec<(String, String)> {
        let fields = self.fields.iter().filter(|(name, _)| name != "Date");
        fields.cloned().collect()
    }
}

impl Client {
    /// Connects to a server.
    ///
    /// # Panics
    /// If there is no answer at the address.
    #[track_caller]
    pub fn connect(to: SocketAddr) -> Self {
        Self(BufReader::new(service::connect(to)))
    }

    /// Sends bytes, be they a request or not.
    ///
    /// # Panics
    /// If the server does not take them.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).expect("sent");
    }

    /// Reads a reply with its body, whose length the head tells.
    ///
    /// # Panics
    /// If no such reply comes.
    #[track_caller]
    pub fn receive(&mut self) -> Reply {
        let mut reply = self.receive_head();
        let has_body = !matches!(reply.status, 100..200 | 204 | 304);
        if has_body {
            let len = reply.content_length().expect("a length of the body");
            reply.body = vec![0; len];
            self.0.read_exact(&mut reply.body).expect("the body");
        }
        reply
    }

    /// Reads a reply that has no body whatever its head says, such as one to `HEAD`.
    ///
    /// # Panics
    /// If no reply comes, or what comes is none.
    #[track_caller]
    pub fn receive_head(&mut self) -> Reply {
        let status_line = self.line();
        let (version, rest) = status_line.split_once(' ').expect("a status line");
        let (status, reason) = rest.split_once(' ').expect("a status line");
        assert!(!reason.is_empty(), "{status_line}");
        let mut reply = Reply {
            version: version.to_owned(),
            status: status.parse().expect("a status"),
            fields: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let line = self.line();
            if line.is_empty() {
                return reply;
            }
            let (name, value) = line.split_once(": ").expect("a field");
            reply.fields.push((name.to_owned(), value.to_owned()));
        }
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line");
        line.strip_suffix("\r\n").expect("a whole line").to_owned()
    }

    /// Asks for a page with some more fields, each with its end of line, and reads the reply.
    #[track_caller]
    pub fn get(&mut self, target: &str, fields: &str) -> Reply {
        self.send(request("GET", target, fields));
        self.receive()
    }

    /// Checks that the server ends the connection, with nothing behind the last reply.
    ///
    /// # Panics
    /// If something comes, or the end does not.
    #[track_caller]
    pub fn ends(&mut self) {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).expect("an orderly end");
        assert!(rest.is_empty(), "{}", rest.escape_ascii());
    }
}

/// A request of HTTP/1.1 with some more fields, each with its end of line.
pub fn request(method: &str, target: &str, fields: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: example.org\r\n{fields}\r\n")
}

/// The page `/bench/1m` of the example `web`: numbered lines of 64 characters, the same 256 again and again.
pub fn megabyte() -> Vec<u8> {
    let lines = (0..256).map(|line| {
        let text: String = (4..63u8)
            .map(|column| char::from(b'A' + column % 26))
            .collect();
        format!("{line:03} {text}\n")
    });
    lines.collect::<String>().repeat(64).into_bytes()
}

/// `curl`, and the service it goes to.
pub struct Curl {
    service: Service,
    program: PathBuf,
    host: SocketAddr,
}

impl Curl {
    /// The `curl` of this machine for a port of a service; `None`, with a reason printed, if it is not installed.
    pub fn find(service: Service, guest_port: &str) -> Option<Self> {
        let Some(program) = find_program(&["curl"]) else {
            skip("curl is not installed");
            return None;
        };
        let host = service.address(guest_port);
        Some(Self {
            service,
            program,
            host,
        })
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> Outcome {
        let mut command = self.service.session.wrapped(
            &self.program,
            ["-q", "-sS", "-g", "--noproxy", "*", "--max-time", "20"],
        );
        for arg in args {
            if arg.starts_with('/') {
                command.arg(format!("http://{}{arg}", self.host));
            } else {
                command.arg(arg);
            }
        }
        Running::start(&mut command).finish()
    }

    /// What it prints, given options, and targets as paths, when all goes well.
    #[track_caller]
    pub fn get(&self, args: &[&str]) -> Vec<u8> {
        let outcome = self.run(args);
        outcome.ends_with(0);
        outcome.stdout
    }

    /// The same as text.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn text(&self, args: &[&str]) -> String {
        String::from_utf8(self.get(args)).expect("text")
    }
}
