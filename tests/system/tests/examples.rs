//! The examples, as their readers try them out: `hello`, `echo`, `web` and `kv`, and the command with which the README
//! begins.
//!
//! Clients are plain sockets; `curl` repeats what matters where it is installed.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use kiln_system_tests::artifacts::workspace;
use kiln_system_tests::host::{eventually, find_program, free_port, is_alive};
use kiln_system_tests::process::PATIENCE;
use kiln_system_tests::{Outcome, Running, Session, guest, skip};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use http::{Client, Reply};
use resp::{Store, Value};

const KILN_ERROR: i32 = 125;
/// How long any answer may take.
const ANSWER: Duration = Duration::from_secs(20);

/// An example that runs in the foreground.
struct Service {
    session: Session,
    running: Running,
    name: String,
}

impl Service {
    /// Starts an example in a session of its own and waits until it says that it listens.
    #[track_caller]
    fn start(options: &str, example: &str) -> Self {
        Self::start_in(Session::new(), example, options, example)
    }

    #[track_caller]
    fn start_in(session: Session, name: &str, options: &str, example: &str) -> Self {
        let mut running = session.start_guest(&format!("--name {name} {options}"), example, "");
        running.wait_for("listening on port");
        Self {
            session,
            running,
            name: name.to_owned(),
        }
    }

    /// Where on the host a port of the guest is, such as `80/tcp`.
    #[track_caller]
    fn address(&self, guest_port: &str) -> SocketAddr {
        let shown = self.session.inspect(&self.name);
        let ports = shown["Ports"].as_array().expect("a list of ports");
        let forwards = ports.iter().filter_map(|port| port.as_str());
        let mut hosts = forwards.filter_map(|port| {
            let host = port.strip_suffix(guest_port)?.strip_suffix(':')?;
            host.parse().ok()
        });
        hosts
            .next()
            .unwrap_or_else(|| panic!("no forward of {guest_port}: {shown:#}"))
    }

    /// Asks it to stop.
    #[track_caller]
    fn stop(self, signal: Signal) -> (Session, Outcome) {
        self.running.signal(signal);
        (self.session, self.running.finish())
    }
}

#[track_caller]
fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&to, ANSWER).expect("a connection");
    stream.set_read_timeout(Some(ANSWER)).expect("a timeout");
    stream.set_write_timeout(Some(ANSWER)).expect("a timeout");
    stream
}

/// Sends a signal to a process by its id.
#[track_caller]
fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process id"), signal).expect("a process of ours");
}

/// `SplitMix64`: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("less than a usize")
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// A small HTTP client.
mod http {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::SocketAddr;

    /// A connection to a web server.
    pub struct Client(BufReader<std::net::TcpStream>);

    /// What it answered.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Reply {
        pub version: String,
        pub status: u16,
        pub fields: Vec<(String, String)>,
        pub body: Vec<u8>,
    }

    impl Reply {
        /// The value of a field that comes once.
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
        #[track_caller]
        pub fn connect(to: SocketAddr) -> Self {
            Self(BufReader::new(super::connect(to)))
        }

        #[track_caller]
        pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
            self.0.get_mut().write_all(bytes.as_ref()).expect("sent");
        }

        /// Reads a reply with its body, whose length the head tells.
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

        /// Reads a reply that has no body whatever its head says.
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

        /// A request with some more fields, each with its end of line, and the reply.
        #[track_caller]
        pub fn get(&mut self, target: &str, fields: &str) -> Reply {
            self.send(request("GET", target, fields));
            self.receive()
        }

        /// Checks that the server ends the connection, with nothing behind the last reply.
        #[track_caller]
        pub fn ends(&mut self) {
            let mut rest = Vec::new();
            self.0.read_to_end(&mut rest).expect("an orderly end");
            assert!(rest.is_empty(), "{}", rest.escape_ascii());
        }
    }

    /// A request of HTTP/1.1.
    pub fn request(method: &str, target: &str, fields: &str) -> String {
        format!("{method} {target} HTTP/1.1\r\nHost: example.org\r\n{fields}\r\n")
    }
}

/// A small client of redis' protocol. Errors are for those whose server is killed.
mod resp {
    use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
    use std::net::{SocketAddr, TcpStream};

    /// A reply.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Value {
        Simple(String),
        Error(String),
        Integer(u64),
        Bulk(Vec<u8>),
        Nothing,
    }

    impl Value {
        pub fn simple(text: &str) -> Self {
            Self::Simple(text.to_owned())
        }
    }

    /// A connection to a store.
    pub struct Store(BufReader<TcpStream>);

    impl Store {
        #[track_caller]
        pub fn connect(to: SocketAddr) -> Self {
            Self(BufReader::new(super::connect(to)))
        }

        pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
            self.0.get_mut().write_all(bytes)
        }

        /// Sends a command as an array of bulk strings and reads the reply.
        pub fn command(&mut self, words: &[&[u8]]) -> Result<Value> {
            self.send(&encode(words))?;
            self.receive()
        }

        /// The same for those whose server lives.
        #[track_caller]
        pub fn ask<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Value {
            let words: Vec<&[u8]> = words.iter().map(AsRef::as_ref).collect();
            self.command(&words).expect("a reply")
        }

        pub fn receive(&mut self) -> Result<Value> {
            let line = self.line()?;
            let rest = line.get(1..).unwrap_or_default();
            let strange = || Error::new(ErrorKind::InvalidData, format!("no reply: {line:?}"));
            match line.as_bytes().first() {
                Some(b'+') => Ok(Value::Simple(rest.to_owned())),
                Some(b'-') => Ok(Value::Error(rest.to_owned())),
                Some(b':') => rest.parse().map(Value::Integer).map_err(|_| strange()),
                Some(b'$') if rest == "-1" => Ok(Value::Nothing),
                Some(b'$') => {
                    let len: usize = rest.parse().map_err(|_| strange())?;
                    let mut bytes = vec![0; len + 2];
                    self.0.read_exact(&mut bytes)?;
                    if bytes.split_off(len) != b"\r\n" {
                        return Err(strange());
                    }
                    Ok(Value::Bulk(bytes))
                }
                _ => Err(strange()),
            }
        }

        fn line(&mut self) -> Result<String> {
            let mut line = String::new();
            self.0.read_line(&mut line)?;
            // A server that is killed may leave half a line.
            let whole = line.strip_suffix("\r\n").map(str::to_owned);
            whole.ok_or_else(|| ErrorKind::UnexpectedEof.into())
        }

        /// True if the server has ended the connection.
        pub fn has_ended(&mut self) -> bool {
            self.0.fill_buf().is_ok_and(<[u8]>::is_empty)
        }
    }

    /// A command as an array of bulk strings.
    pub fn encode(words: &[&[u8]]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend(format!("${}\r\n", word.len()).bytes());
            bytes.extend_from_slice(word);
            bytes.extend(b"\r\n");
        }
        bytes
    }
}

#[test]
fn hello_says_hello() {
    let session = Session::new();
    let plain = session.run("--rm --memory 512K", "hello", "");
    plain.ends_with(0);
    assert_eq!(plain.text(), "Hello from a unikernel!\n", "{plain}");
    assert_eq!(plain.stderr, "", "{plain}");
    let named = session.run("--rm --memory 512K", "hello", "World");
    named.ends_with(0);
    assert_eq!(named.text(), "Hello, World!\n", "{named}");
    assert_eq!(session.leftovers(), [""; 0], "left behind");
}

#[test]
fn hello_is_small() {
    let len = fs::metadata(guest("hello")).expect("an image").len();
    assert!(len <= 48 * 1024, "{len} bytes");
}

/// Checks that a TCP and a UDP port give back what they are sent.
#[track_caller]
fn echoes(tcp: SocketAddr, udp: SocketAddr) {
    use std::io::{Read, Write};
    use std::net::Shutdown;

    let mut random = Random(7);
    let mut stream = connect(tcp);
    for len in [1, 5, 2048, 2049, 60_000] {
        let sent = random.bytes(len);
        stream.write_all(&sent).expect("sent");
        let mut back = vec![0; len];
        stream.read_exact(&mut back).expect("an echo");
        assert!(back == sent, "{len} bytes over TCP");
    }
    stream.write_all(b"the last").expect("sent");
    stream.shutdown(Shutdown::Write).expect("half closed");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("an orderly end");
    assert_eq!(rest, b"the last");

    let any: SocketAddr = if udp.is_ipv6() {
        (Ipv6Addr::LOCALHOST, 0).into()
    } else {
        ([127, 0, 0, 1], 0).into()
    };
    let socket = UdpSocket::bind(any).expect("a socket");
    socket.set_read_timeout(Some(ANSWER)).expect("a timeout");
    socket.connect(udp).expect("a peer");
    for len in [0, 1, 512, 1472, 2048] {
        let sent = random.bytes(len);
        socket.send(&sent).expect("sent");
        let mut back = [0; 4096];
        let got = socket.recv(&mut back).expect("an echo");
        assert!(back[..got] == sent, "{len} bytes over UDP");
    }
}

#[test]
fn echo_gives_back_what_it_is_sent() {
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2)] {
        let service = Service::start("-p 127.0.0.1:0:7 -p 127.0.0.1:0:7/udp", "echo");
        let tcp = service.address("7/tcp");
        echoes(tcp, service.address("7/udp"));
        // A client that is still there does not keep it from stopping.
        let _client = connect(tcp);
        let asked = Instant::now();
        let (_session, outcome) = service.stop(signal);
        outcome
            .ends_with(0)
            .prints(&format!("echo: stopping on signal {number}\n"));
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(2), "stopped after {took:?}");
        assert!(TcpStream::connect(tcp).is_err(), "the port is still open");
    }
}

fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

#[test]
fn echo_speaks_ipv6() {
    if !has_ipv6() {
        return skip("this host has no IPv6 loopback address");
    }
    let service = Service::start("-p [::1]:0:7 -p [::1]:0:7/udp", "echo");
    echoes(service.address("7/tcp"), service.address("7/udp"));
    service.stop(Signal::TERM).1.ends_with(0);
}

#[test]
fn echo_serves_many_at_once() {
    use std::io::{Read, Write};

    let service = Service::start("-p 127.0.0.1:0:7", "echo");
    let to = service.address("7/tcp");
    thread::scope(|scope| {
        for client in 0..32 {
            scope.spawn(move || {
                let mut random = Random(client);
                let mut stream = connect(to);
                for _ in 0..20 {
                    let len = 1 + random.below(5000);
                    let sent = random.bytes(len);
                    stream.write_all(&sent).expect("sent");
                    let mut back = vec![0; sent.len()];
                    stream.read_exact(&mut back).expect("an echo");
                    assert!(back == sent, "client {client}: somebody else's echo");
                }
            });
        }
    });
}

/// Path, type and file of every page of the site.
const PAGES: [(&str, &str, &str); 5] = [
    ("/", "text/html; charset=utf-8", "index.html"),
    ("/index.html", "text/html; charset=utf-8", "index.html"),
    ("/style.css", "text/css; charset=utf-8", "style.css"),
    ("/kiln.svg", "image/svg+xml", "kiln.svg"),
    ("/robots.txt", "text/plain; charset=utf-8", "robots.txt"),
];
/// The least memory that the site is promised to run with.
const SMALL_WEB: &str = "--memory 2M -p 127.0.0.1:0:80";

/// A file of the site.
fn site(name: &str) -> Vec<u8> {
    fs::read(workspace().join("examples/web/site").join(name)).expect("a page of the site")
}

/// The page `/bench/1m`: numbered lines of 64 characters, the same 256 again and again.
fn megabyte() -> Vec<u8> {
    let lines = (0..256).map(|line| {
        let text: String = (4..63u8)
            .map(|column| char::from(b'A' + column % 26))
            .collect();
        format!("{line:03} {text}\n")
    });
    lines.collect::<String>().repeat(64).into_bytes()
}

/// The site with little memory, and a connection to it.
fn small_web() -> (Service, Client) {
    let service = Service::start(SMALL_WEB, "web");
    let client = Client::connect(service.address("80/tcp"));
    (service, client)
}

#[test]
fn web_is_small() {
    let image = fs::metadata(guest("web")).expect("an image").len();
    let folder = workspace().join("examples/web/site");
    let files = folder.read_dir().expect("the site").filter_map(Result::ok);
    let pages: u64 = files
        .map(|file| file.metadata().expect("a page").len())
        .sum();
    assert!(pages > 0, "no pages");
    let rest = image - pages;
    assert!(
        rest <= 256 * 1024,
        "{rest} bytes beside {pages} bytes of pages"
    );
}

#[test]
fn web_serves_the_files_of_the_site() {
    let (_service, mut client) = small_web();
    for (path, content_type, file) in PAGES {
        let reply = client.get(path, "");
        assert_eq!((reply.status, &*reply.version), (200, "HTTP/1.1"), "{path}");
        assert_eq!(reply.field("Content-Type"), Some(content_type), "{path}");
        assert!(reply.body == site(file), "{path} is not {file}");
        assert_eq!(reply.field("Accept-Ranges"), Some("bytes"), "{path}");
        assert!(
            reply
                .field("Date")
                .is_some_and(|date| date.ends_with(" GMT"))
        );
    }
}

#[test]
fn web_answers_head_without_content() {
    let (_service, mut client) = small_web();
    for path in ["/", "/style.css", "/bench/1m", "/nowhere"] {
        let whole = client.get(path, "");
        client.send(http::request("HEAD", path, ""));
        let head = client.receive_head();
        assert_eq!(head.status, whole.status, "{path}");
        assert_eq!(head.lasting_fields(), whole.lasting_fields(), "{path}");
        assert_eq!(head.content_length(), Some(whole.body.len()), "{path}");
        // Nothing follows the head: the next reply is in step.
        assert_eq!(client.get("/robots.txt", "").body, site("robots.txt"));
    }
}

#[test]
fn web_knows_what_a_client_has_already() {
    let (_service, mut client) = small_web();
    let tag = |reply: &Reply| reply.field("ETag").expect("an entity tag").to_owned();
    let index = tag(&client.get("/", ""));
    let style = tag(&client.get("/style.css", ""));
    assert_ne!(index, style);
    assert_eq!(tag(&client.get("/", "")), index);
    for known in [
        index.clone(),
        format!("W/{index}"),
        format!("\"x\", {index}"),
        "*".to_owned(),
    ] {
        let reply = client.get("/", &format!("If-None-Match: {known}\r\n"));
        assert_eq!(reply.status, 304, "{known}");
        assert_eq!(tag(&reply), index);
        assert!(reply.body.is_empty());
    }
    for other in [style, "\"x\"".to_owned()] {
        let reply = client.get("/", &format!("If-None-Match: {other}\r\n"));
        assert_eq!(reply.status, 200, "{other}");
        assert_eq!(reply.body, site("index.html"));
    }
}

#[test]
fn web_sends_parts_of_pages() {
    let (_service, mut client) = small_web();
    for (path, page) in [("/", site("index.html")), ("/bench/1m", megabyte())] {
        let len = page.len();
        for (range, first, end) in [
            ("0-0", 0, 1),
            ("0-99", 0, 100),
            ("100-1500", 100, 1501),
            ("-1", len - 1, len),
            ("-500", len - 500, len),
            ("-99999999", 0, len),
            ("1000-", 1000, len),
            ("0-", 0, len),
            ("1800-99999999", 1800, len),
        ] {
            let reply = client.get(path, &format!("Range: bytes={range}\r\n"));
            assert_eq!(reply.status, 206, "{path} {range}");
            let told = format!("bytes {first}-{}/{len}", end - 1);
            assert_eq!(reply.field("Content-Range"), Some(&*told), "{path} {range}");
            assert!(reply.body == page[first..end], "{path} {range}");
        }
        for range in [format!("{len}-"), format!("{len}-{}", len + 5), "-0".into()] {
            let reply = client.get(path, &format!("Range: bytes={range}\r\n"));
            assert_eq!(reply.status, 416, "{path} {range}");
            let told = format!("bytes */{len}");
            assert_eq!(reply.field("Content-Range"), Some(&*told), "{path} {range}");
        }
        // What is no range, or one of another version of the page, is as good as none.
        for fields in [
            "Range: bytes=5-1\r\n",
            "Range: lines=0-5\r\n",
            "Range: bytes=0-5\r\nIf-Range: \"x\"\r\n",
        ] {
            let reply = client.get(path, fields);
            assert_eq!(reply.status, 200, "{path} {fields}");
            assert!(reply.body == page, "{path} {fields}");
        }
    }
}

#[test]
fn web_keeps_connections() {
    let (service, mut client) = small_web();
    assert_eq!(client.get("/", "").body, site("index.html"));
    assert_eq!(client.get("/style.css", "").body, site("style.css"));
    let last = client.get("/", "Connection: close\r\n");
    assert_eq!(last.field("Connection"), Some("close"));
    client.ends();

    // HTTP/1.0 keeps them on request only.
    let mut client = Client::connect(service.address("80/tcp"));
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let kept = client.receive();
    assert_eq!(kept.field("Connection"), Some("keep-alive"));
    assert_eq!(kept.body, site("index.html"));
    client.send("GET /robots.txt HTTP/1.0\r\n\r\n");
    let reply = client.receive();
    assert_eq!(reply.status, 200);
    assert_eq!(reply.body, site("robots.txt"));
    client.ends();
}

#[test]
fn web_answers_requests_in_order_that_come_at_once() {
    let (_service, mut client) = small_web();
    for round in 0..20 {
        let pages: Vec<_> = (0..10).map(|n| PAGES[(n * 3 + round) % 5]).collect();
        let requests: String = pages
            .iter()
            .map(|(path, ..)| http::request("GET", path, ""))
            .collect();
        client.send(requests);
        for (path, content_type, file) in pages {
            let reply = client.receive();
            assert_eq!(reply.status, 200, "{path}");
            assert_eq!(reply.field("Content-Type"), Some(content_type));
            assert!(reply.body == site(file), "{path} in round {round}");
        }
    }
    // The same one byte at a time.
    for byte in http::request("GET", "/robots.txt", "Connection: close\r\n").bytes() {
        client.send([byte]);
    }
    assert_eq!(client.receive().body, site("robots.txt"));
    client.ends();
}

#[test]
fn web_refuses_what_it_cannot_do() {
    let (service, mut client) = small_web();
    let to = service.address("80/tcp");
    let missing = client.get("/nowhere", "");
    assert_eq!(missing.status, 404);
    assert_eq!(missing.body, site("404.html"));
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        client.send(http::request(method, "/", "Content-Length: 4\r\n") + "body");
        let reply = client.receive();
        assert_eq!(reply.status, 405, "{method}");
        let allowed = reply.field("Allow").expect("what is allowed");
        assert!(allowed.contains("GET") && allowed.contains("HEAD"));
    }
    client.send(http::request("OPTIONS", "/", ""));
    assert_eq!(client.receive().status, 204);
    assert_eq!(client.get("/", "").status, 200);

    for (garbage, status) in [
        ("\u{1}\u{2}\u{3}\r\n\r\n", 400),
        ("GET\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nno field\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\n\r\n", 505),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
    ] {
        let mut client = Client::connect(to);
        client.send(garbage);
        let reply = client.receive();
        assert_eq!(reply.status, status, "{garbage:?}");
        assert_eq!(reply.field("Connection"), Some("close"), "{garbage:?}");
        client.ends();
    }
    assert_eq!(
        Client::connect(to).get("/", "").body,
        site("index.html"),
        "afterwards"
    );
}

#[test]
fn web_bounds_what_it_reads() {
    let (service, _) = small_web();
    let to = service.address("80/tcp");
    for (head, status) in [
        (
            http::request("GET", &format!("/{}", "a".repeat(2100)), ""),
            414,
        ),
        (
            http::request("GET", "/", &format!("Cookie: {}\r\n", "a".repeat(5000))),
            431,
        ),
        (http::request("GET", "/", &"A: b\r\n".repeat(100)), 431),
        (
            http::request("POST", "/", "Content-Length: 100000000\r\n"),
            413,
        ),
    ] {
        let mut client = Client::connect(to);
        client.send(&head);
        assert_eq!(client.receive().status, status, "{head:.50}");
        client.ends();
    }
    assert_eq!(Client::connect(to).get("/", "").status, 200);
}

/// Paths that would lead out of the site, and to what they lead instead.
const OUTSIDE: [(&str, u16); 9] = [
    ("/..", 400),
    ("/../../etc/passwd", 400),
    ("/%2e%2e/etc/passwd", 400),
    ("/..%2f..%2fetc/passwd", 400),
    ("/a/../../etc/passwd", 400),
    ("/index.html%00.css", 400),
    ("/%252e%252e/etc/passwd", 404),
    ("/..\\..\\etc\\passwd", 404),
    ("//etc/passwd", 404),
];

#[test]
fn web_does_not_lead_out_of_the_site() {
    let (_service, mut client) = small_web();
    for (target, status) in OUTSIDE {
        let reply = client.get(target, "");
        assert_eq!(reply.status, status, "{target}");
        assert!(!reply.body.windows(5).any(|part| part == b"root:"));
    }
    // What stays inside is a page like others.
    assert_eq!(client.get("/a/../style.css", "").body, site("style.css"));
}

#[test]
fn web_survives_noise() {
    use std::io::{Read, Write};

    let (service, mut client) = small_web();
    let to = service.address("80/tcp");
    let mut random = Random(80);
    for round in 0..60 {
        let len = random.below(9000);
        let mut noise = random.bytes(len);
        if round % 3 == 0 {
            noise.splice(0..0, *b"GET / HTTP/1.1\r\n");
        }
        let mut stream = connect(to);
        // It may close the connection before everything is sent, or wait for the rest of a line that never ends.
        let _ = stream.write_all(&noise);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        assert!(
            reply.is_empty() || reply.starts_with(b"HTTP/1.1 "),
            "round {round}: {}",
            reply.escape_ascii()
        );
    }
    assert_eq!(client.get("/", "").body, site("index.html"));
}

#[test]
fn web_sends_a_megabyte_whole() {
    let (service, mut client) = small_web();
    let expected = megabyte();
    assert_eq!(expected.len(), 1 << 20);
    for _ in 0..8 {
        assert!(client.get("/bench/1m", "").body == expected);
    }
    let to = service.address("80/tcp");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(Client::connect(to).get("/bench/1m", "").body == expected));
        }
    });
    assert_eq!(client.get("/bench/612", "").body, expected[..612]);
}

#[test]
fn web_serves_many_connections() {
    let service = Service::start("-p 127.0.0.1:0:80", "web");
    let to = service.address("80/tcp");
    thread::scope(|scope| {
        for number in 0..32 {
            scope.spawn(move || {
                let mut client = Client::connect(to);
                for round in 0..50 {
                    let (path, _, file) = PAGES[(number + round) % PAGES.len()];
                    let reply = client.get(path, "");
                    assert_eq!(reply.status, 200, "connection {number}, round {round}");
                    assert!(reply.body == site(file), "{number}, {round}: {path}");
                }
            });
        }
    });
    service.stop(Signal::TERM).1.ends_with(0);
}

/// A guest that is halted for a moment finds many newcomers at once, more than its backlog holds. All are served in
/// the end.
#[test]
fn web_with_little_memory_serves_those_who_come_at_once() {
    let (service, mut client) = small_web();
    // Once a port has answered, a refusal by the guest is passed on to the client.
    assert_eq!(client.get("/", "Connection: close\r\n").status, 200);
    client.ends();
    let to = service.address("80/tcp");
    let (guest, _) = service.session.pids(&service.name);
    signal(guest, Signal::STOP);
    let mut clients: Vec<Client> = (0..40).map(|_| Client::connect(to)).collect();
    for client in &mut clients {
        client.send(http::request("GET", "/", "Connection: close\r\n"));
    }
    // Time for the monitor to hand them all on.
    thread::sleep(Duration::from_millis(200));
    signal(guest, Signal::CONT);
    for mut client in clients {
        let reply = client.receive();
        assert_eq!(reply.status, 200);
        assert!(reply.body == site("index.html"));
        client.ends();
    }
}

/// Far more than it has memory for: they take turns.
#[test]
fn web_with_little_memory_serves_a_crowd() {
    let (service, _) = small_web();
    let to = service.address("80/tcp");
    thread::scope(|scope| {
        for number in 0..100 {
            scope.spawn(move || {
                for round in 0..5 {
                    let mut client = Client::connect(to);
                    let reply = client.get("/", "Connection: close\r\n");
                    assert_eq!(reply.status, 200, "client {number}, round {round}");
                    assert!(reply.body == site("index.html"), "{number}, {round}");
                    client.ends();
                }
            });
        }
    });
    service.stop(Signal::TERM).1.ends_with(0);
}

#[test]
fn web_is_reached_over_ipv6() {
    if !has_ipv6() {
        return skip("this host has no IPv6 loopback address");
    }
    let service = Service::start("--memory 2M -p [::1]:0:80", "web");
    let to = service.address("80/tcp");
    assert!(to.is_ipv6(), "{to}");
    let mut client = Client::connect(to);
    assert_eq!(client.get("/", "").body, site("index.html"));
    assert!(client.get("/bench/1m", "").body == megabyte());
    if let Some(curl) = Curl::find(service, "80/tcp") {
        assert_eq!(curl.get(&["/"]), site("index.html"));
    }
}

#[test]
fn web_stops_when_asked() {
    for signal in [Signal::TERM, Signal::INT] {
        let (service, mut client) = small_web();
        assert_eq!(client.get("/", "").status, 200);
        let asked = Instant::now();
        let (_session, outcome) = service.stop(signal);
        outcome.ends_with(0).prints("web: stopped\n");
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(2), "stopped after {took:?}");
        client.ends();
    }
}

/// The real client, and where it goes.
struct Curl {
    service: Service,
    program: std::path::PathBuf,
    host: SocketAddr,
}

impl Curl {
    /// `None`, with a reason printed, if there is none.
    fn find(service: Service, guest_port: &str) -> Option<Self> {
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

    /// Runs it with options and targets.
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

    /// What it prints when all goes well.
    #[track_caller]
    fn get(&self, args: &[&str]) -> Vec<u8> {
        let outcome = self.run(args);
        outcome.ends_with(0);
        outcome.stdout
    }

    /// The same as text.
    #[track_caller]
    fn text(&self, args: &[&str]) -> String {
        String::from_utf8(self.get(args)).expect("text")
    }
}

#[test]
fn curl_gets_pages() {
    let Some(curl) = Curl::find(small_web().0, "80/tcp") else {
        return;
    };
    for (path, content_type, file) in PAGES {
        assert!(curl.get(&[path]) == site(file), "{path} is not {file}");
        let told = curl.text(&["-o/dev/null", "-w%{http_code} %{content_type}", path]);
        assert_eq!(told, format!("200 {content_type}"), "{path}");
    }
    assert!(curl.get(&["/bench/1m"]) == megabyte());
    let told = curl.text(&["-o/dev/null", "-w%{size_download}", "/bench/1m"]);
    assert_eq!(told, "1048576");
    let told = curl.text(&["-0", "-o/dev/null", "-w%{http_code}", "/"]);
    assert_eq!(told, "200", "HTTP/1.0");

    let head = curl.text(&["-I", "/"]);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let len = site("index.html").len();
    assert!(
        head.contains(&format!("\r\nContent-Length: {len}\r\n")),
        "{head}"
    );
    let tag = head
        .lines()
        .find_map(|line| line.strip_prefix("ETag: "))
        .expect("an entity tag");
    let known = format!("-HIf-None-Match: {tag}");
    let told = curl.text(&[&*known, "-w%{http_code} %{size_download}", "/"]);
    assert_eq!(told, "304 0");

    // Two requests, one connection.
    let discard = "-o/dev/null";
    let told = curl.text(&[discard, discard, "-w%{num_connects}", "/", "/style.css"]);
    assert_eq!(told, "10");
}

#[test]
fn curl_gets_parts_and_refusals() {
    let Some(curl) = Curl::find(small_web().0, "80/tcp") else {
        return;
    };
    let page = site("index.html");
    assert_eq!(curl.get(&["-r0-99", "/"]), page[..100]);
    assert_eq!(curl.get(&["-r-100", "/"]), page[page.len() - 100..]);
    assert_eq!(curl.get(&["-r500-", "/"]), page[500..]);
    let status = |args: &[&str]| {
        let told = ["-o/dev/null", "-w%{http_code}"];
        curl.text(&[&told, args].concat())
    };
    assert_eq!(status(&["-r99999-", "/"]), "416");
    assert_eq!(status(&["/nowhere"]), "404");
    assert_eq!(status(&["-dbody", "/"]), "405");
    assert_eq!(status(&["-XBREW", "/"]), "501");
    for (target, expected) in OUTSIDE {
        let told = status(&["--path-as-is", target]);
        assert_eq!(told, expected.to_string(), "{target}");
    }
    // The connection is closed, and curl sees why.
    let field = format!("-HCookie: {}", "a".repeat(8000));
    assert_eq!(status(&[&*field, "/"]), "431");
    assert_eq!(curl.get(&["/"]), page);
}

/// The store on a disk of the session.
#[track_caller]
fn store(session: Session, name: &str, options: &str) -> (Service, SocketAddr) {
    let disk = session.file("disk");
    let options = format!(
        "-p 127.0.0.1:0:6380 --block data={} {options}",
        disk.display()
    );
    let service = Service::start_in(session, name, &options, "kv");
    let to = service.address("6380/tcp");
    (service, to)
}

#[test]
fn kv_speaks_resp_and_lines() {
    let session = Session::new();
    session.disk("disk", 1 << 20);
    let (service, to) = store(session, "kv", "");
    assert!(service.running.output().contains("kv: 0 keys, "));
    let mut client = Store::connect(to);
    let (ok, bulk) = (Value::simple("OK"), |bytes: &[u8]| {
        Value::Bulk(bytes.to_owned())
    });
    assert_eq!(client.ask(&["PING"]), Value::simple("PONG"));
    assert_eq!(client.ask(&["GET", "a"]), Value::Nothing);
    assert_eq!(client.ask(&["SET", "a", "1"]), ok);
    assert_eq!(client.ask(&["GET", "a"]), bulk(b"1"));
    assert_eq!(client.ask(&["SET", "a", ""]), ok);
    assert_eq!(client.ask(&["GET", "a"]), bulk(b""));
    let (key, value) = (b"\r\n\0\xff$*".to_vec(), Random(1).bytes(65_536));
    assert_eq!(client.ask(&[b"SET", &*key, &value]), ok);
    assert_eq!(client.ask(&[b"get", &*key]), bulk(&value));
    assert_eq!(client.ask(&["DBSIZE"]), Value::Integer(2));
    assert_eq!(client.ask(&["EXISTS", "a", "b"]), Value::Integer(1));
    assert_eq!(client.ask(&["DEL", "a", "b"]), Value::Integer(1));
    assert_eq!(client.ask(&["DEL", "a"]), Value::Integer(0));
    assert_eq!(client.ask(&["GET", "a"]), Value::Nothing);
    for words in [
        &["GET"][..],
        &["INCR", "a"],
        &["SET", "a", "1", "NX"],
        &["SELECT", "1"],
    ] {
        let reply = client.ask(words);
        let Value::Error(text) = reply else {
            panic!("{words:?}: {reply:?}");
        };
        assert!(text.starts_with("ERR "), "{text}");
    }
    // Typed lines, one write, answered in order, and seen by others at once.
    let lines = b"SET typed word\r\nget typed\nDEL typed nothing\r\nGET typed\r\nSET b 2\r\n";
    client.send(lines).expect("sent");
    for expected in [
        ok.clone(),
        bulk(b"word"),
        Value::Integer(1),
        Value::Nothing,
        ok.clone(),
    ] {
        assert_eq!(client.receive().expect("a reply"), expected);
    }
    assert_eq!(Store::connect(to).ask(&["GET", "b"]), bulk(b"2"));
    assert_eq!(client.ask(&["QUIT"]), ok);
    assert!(client.has_ended());

    let mut client = Store::connect(to);
    client.send(b"*1\r\nnonsense\r\n").expect("sent");
    let reply = client.receive().expect("a reply");
    assert!(matches!(&reply, Value::Error(text) if text.contains("Protocol error")));
    assert!(client.has_ended());
    service.stop(Signal::TERM).1.ends_with(0);
}

#[test]
fn kv_finds_its_data_after_a_stop() {
    let mut session = Session::new();
    session.disk("disk", 1 << 20);
    for (round, signal) in [Signal::TERM, Signal::INT, Signal::TERM]
        .into_iter()
        .enumerate()
    {
        let (service, to) = store(session, &format!("kv{round}"), "");
        assert!(
            service
                .running
                .output()
                .contains(&format!("kv: {round} keys, "))
        );
        let mut client = Store::connect(to);
        for earlier in 0..round {
            let key = format!("key{earlier}");
            assert_eq!(
                client.ask(&["GET", &key]),
                Value::Bulk(key.clone().into_bytes())
            );
        }
        let key = format!("key{round}");
        assert_eq!(client.ask(&["SET", &key, &key]), Value::simple("OK"));
        let (ended, outcome) = service.stop(signal);
        outcome.ends_with(0);
        session = ended;
    }
}

/// A change to some keys.
#[derive(Clone, Debug)]
enum Change {
    Set(Vec<u8>, Vec<u8>),
    /// All of them, or none.
    Delete(Vec<Vec<u8>>),
}

type Keys = std::collections::BTreeMap<Vec<u8>, Vec<u8>>;

impl Change {
    fn apply(&self, keys: &mut Keys) {
        match self {
            Self::Set(key, value) => drop(keys.insert(key.clone(), value.clone())),
            Self::Delete(gone) => keys.retain(|key, _| !gone.contains(key)),
        }
    }

    fn words(&self) -> Vec<&[u8]> {
        match self {
            Self::Set(key, value) => vec![b"SET", key, value],
            Self::Delete(keys) => {
                let keys = keys.iter().map(|key| &**key);
                std::iter::once(&b"DEL"[..]).chain(keys).collect()
            }
        }
    }
}

/// A client with keys of its own that knows what was acknowledged.
struct Writer {
    number: usize,
    random: Random,
    keys: Keys,
    /// The change that was under way when the store was killed: done, or not.
    doubtful: Option<Change>,
}

impl Writer {
    const KEYS: usize = 12;

    fn new(number: usize) -> Self {
        Self {
            number,
            random: Random(1000 + number as u64),
            keys: Keys::new(),
            doubtful: None,
        }
    }

    fn key(&self, index: usize) -> Vec<u8> {
        format!("writer{}:{index}", self.number).into_bytes()
    }

    fn change(&mut self) -> Change {
        if self.random.below(4) == 0 {
            let mut keys = Vec::new();
            for index in 0..Self::KEYS {
                if self.random.below(3) == 0 {
                    keys.push(self.key(index));
                }
            }
            keys.push(self.key(0));
            return Change::Delete(keys);
        }
        let index = self.random.below(Self::KEYS);
        let len = self.random.below(3000);
        Change::Set(self.key(index), self.random.bytes(len))
    }

    /// Changes keys until the store is gone, or a long time has passed: whoever should have killed it has failed then.
    fn run(&mut self, mut client: Store, acknowledged: &std::sync::atomic::AtomicUsize) {
        let until = Instant::now() + 2 * PATIENCE;
        while Instant::now() < until {
            let change = self.change();
            let Ok(reply) = client.command(&change.words()) else {
                self.doubtful = Some(change);
                return;
            };
            let expected = match &change {
                Change::Set(..) => Value::simple("OK"),
                Change::Delete(keys) => {
                    let mut there: Vec<_> =
                        keys.iter().filter(|k| self.keys.contains_key(*k)).collect();
                    there.sort_unstable();
                    there.dedup();
                    Value::Integer(there.len() as u64)
                }
            };
            assert_eq!(reply, expected, "writer {}", self.number);
            change.apply(&mut self.keys);
            acknowledged.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// Compares what is there with what was acknowledged, and goes on from it.
    #[track_caller]
    fn check(&mut self, client: &mut Store) {
        let mut found = Keys::new();
        for index in 0..Self::KEYS {
            let key = self.key(index);
            match client.ask(&[b"GET", &*key]) {
                Value::Bulk(value) => drop(found.insert(key, value)),
                Value::Nothing => {}
                other => panic!("{other:?}"),
            }
        }
        let mut with_last = self.keys.clone();
        if let Some(change) = self.doubtful.take() {
            change.apply(&mut with_last);
        }
        if found != self.keys && found != with_last {
            let lens = |keys: &Keys| {
                let each = keys
                    .iter()
                    .map(|(k, v)| format!("{}={}", k.escape_ascii(), v.len()));
                each.collect::<Vec<_>>().join(" ")
            };
            panic!(
                "writer {}\nfound        {}\nacknowledged {}\nor           {}",
                self.number,
                lens(&found),
                lens(&self.keys),
                lens(&with_last)
            );
        }
        self.keys = found;
    }
}

/// The disk is small, so that its log is compacted many times.
#[test]
fn kv_keeps_what_it_acknowledged_whoever_is_killed() {
    use std::sync::atomic::{AtomicUsize, Ordering};

    let mut session = Session::new();
    session.disk("disk", 1 << 20);
    let mut random = Random(6380);
    let mut writers: Vec<Writer> = (0..8).map(Writer::new).collect();
    for round in 0..6 {
        let name = format!("kv{round}");
        let (service, to) = store(session, &name, "");
        let pids = service.session.pids(&name);
        let acknowledged = AtomicUsize::new(0);
        let pause = Duration::from_micros(random.next() % 150_000);
        let victim = if round % 2 == 0 { pids.0 } else { pids.1 };
        thread::scope(|scope| {
            for writer in &mut writers {
                let (client, acknowledged) = (Store::connect(to), &acknowledged);
                scope.spawn(move || writer.run(client, acknowledged));
            }
            eventually("changes are acknowledged", || {
                acknowledged.load(Ordering::Relaxed) > 100
            });
            thread::sleep(pause);
            signal(victim, Signal::KILL);
        });
        println!("round {round}: killed after {pause:?}, {acknowledged:?} changes acknowledged");
        service.running.finish().ends_with(137);
        eventually("guest and supervisor are gone", || {
            !is_alive(pids.0) && !is_alive(pids.1)
        });

        let (service, to) = store(service.session, &format!("{name}-after"), "");
        let mut client = Store::connect(to);
        for writer in &mut writers {
            writer.check(&mut client);
        }
        let count: usize = writers.iter().map(|writer| writer.keys.len()).sum();
        assert_eq!(client.ask(&["DBSIZE"]), Value::Integer(count as u64));
        let (ended, outcome) = service.stop(Signal::TERM);
        outcome.ends_with(0).prints(&format!("kv: {count} keys, "));
        session = ended;
    }
}

#[test]
fn kv_has_its_disk_for_itself() {
    let session = Session::new();
    let disk = session.disk("disk", 1 << 20);
    let (service, to) = store(session, "first", "");
    let option = format!("--rm -p 127.0.0.1:0:6380 --block data={}", disk.display());
    let second = service.session.run(&option, "kv", "");
    second
        .ends_with(KILN_ERROR)
        .is_one_line_error()
        .tells("in use by another instance");
    // The first has not noticed.
    let mut client = Store::connect(to);
    assert_eq!(client.ask(&["SET", "a", "1"]), Value::simple("OK"));
    let (session, outcome) = service.stop(Signal::TERM);
    outcome.ends_with(0);
    let (service, to) = store(session, "second", "");
    assert_eq!(
        Store::connect(to).ask(&["GET", "a"]),
        Value::Bulk(b"1".to_vec())
    );
    service.stop(Signal::TERM).1.ends_with(0);
}

#[test]
fn kv_refuses_disks_of_others() {
    let session = Session::new();
    for (name, at, byte, len, text) in [
        ("start", 0, 0x53, 1 << 20, "holds something else"),
        // Where ext4 has its magic number.
        ("ext4", 1080, 0x53, 1 << 20, "holds something else"),
        (
            "probe",
            128 * 1024 - 1,
            0x53,
            1 << 20,
            "holds something else",
        ),
        ("small", 0, 0, 16 * 1024, "at least 264 KiB"),
    ] {
        let disk = session.file(name);
        let mut content = vec![0; len];
        content[at] = byte;
        fs::write(&disk, &content).expect("a disk");
        let option = format!("--rm -p 127.0.0.1:0:6380 --block data={}", disk.display());
        let outcome = session.run(&option, "kv", "");
        outcome
            .ends_with(1)
            .prints("kv: disk \"data\"")
            .prints(text);
        assert!(
            fs::read(&disk).expect("the disk") == content,
            "{name}: written to"
        );
    }
}

#[test]
fn kv_goes_on_reading_when_the_disk_is_full() {
    let session = Session::new();
    session.disk("disk", 264 * 1024);
    let (service, to) = store(session, "kv", "");
    let mut client = Store::connect(to);
    let value = |number: usize| Random(number as u64).bytes(4000);
    let key = |number: usize| format!("key{number}").into_bytes();
    let mut count = 0;
    let full = loop {
        match client.ask(&[b"SET", &*key(count), &value(count)]) {
            Value::Simple(_) => count += 1,
            other => break other,
        }
        assert!(count < 66, "more than the disk holds");
    };
    assert!(
        matches!(&full, Value::Error(text) if text.contains("the disk is full")),
        "{full:?}"
    );
    assert!(count >= 10, "full after {count} values of 4,000 bytes");
    let all_there = |client: &mut Store| {
        for number in 0..count {
            assert_eq!(
                client.ask(&[b"GET", &*key(number)]),
                Value::Bulk(value(number)),
                "{number}"
            );
        }
    };
    all_there(&mut client);
    all_there(&mut Store::connect(to));
    assert_eq!(client.ask(&[b"GET", &*key(count)]), Value::Nothing);
    let again = client.ask(&[b"SET", &*key(count), &value(count)]);
    assert_eq!(again, full, "still full");
    // What is there can be replaced, deleting makes room, and a restart finds the same.
    for _ in 0..50 {
        let replaced = client.ask(&[b"SET", &*key(0), &value(0)]);
        assert_eq!(replaced, Value::simple("OK"));
    }
    assert_eq!(client.ask(&[b"DEL", &*key(1)]), Value::Integer(1));
    let room = client.ask(&[b"SET", &*key(1), &value(1)]);
    assert_eq!(room, Value::simple("OK"));
    let (session, outcome) = service.stop(Signal::TERM);
    outcome.ends_with(0);
    let (service, to) = store(session, "again", "");
    all_there(&mut Store::connect(to));
    service.stop(Signal::TERM).1.ends_with(0);
}

/// The command in the README that starts the web server, word by word but for the port.
#[test]
fn the_first_command_of_the_readme() {
    use std::os::unix::process::CommandExt;

    const BUILD: Duration = Duration::from_mins(5);
    let readme = fs::read_to_string(workspace().join("README.md")).expect("the README");
    let line = readme
        .lines()
        .find(|line| line.starts_with("cargo run "))
        .expect("the README runs an example");
    let port = free_port();
    let (before, after) = line.split_once("8080:80 ").expect("a forwarded port");
    let line = format!("{before}{port}:80 {after}");
    let mut words = line.split_whitespace().skip(1);

    let session = Session::new();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = session.wrapped(cargo.as_ref(), &mut words);
    // A group of its own, as in a shell, where Ctrl-C reaches all of it.
    command.current_dir(workspace()).process_group(0);
    let mut running = Running::start(&mut command);
    let until = Instant::now() + BUILD;
    while !running.output().contains("listening on port 80") {
        assert!(running.is_running(), "{line}: {}", running.finish());
        assert!(Instant::now() < until, "{line}: not within {BUILD:?}");
        thread::sleep(Duration::from_millis(20));
    }
    let host = SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(Client::connect(host).get("/", "").body, site("index.html"));
    if let Some(curl) = find_program(&["curl"]) {
        let url = format!("http://localhost:{port}");
        let args = ["-q", "-sS", "--noproxy", "*", "--max-time", "20", &url];
        let outcome = Running::start(&mut session.wrapped(&curl, args)).finish();
        assert_eq!(outcome.ends_with(0).stdout, site("index.html"));
    } else {
        skip("curl is not installed");
    }
    let group = i32::try_from(running.id()).ok().and_then(Pid::from_raw);
    kill_process_group(group.expect("a process id"), Signal::INT).expect("our children");
    let outcome = running.finish();
    outcome.ends_with(0).prints("web: stopped\n");
}
