//! A host under test at one end of a lossy link, Linux at the other.
//!
//! The host under test is a Linux namespace of its own or a guest; the peer is a Linux namespace. Between them runs the
//! relay of `kiln-lossy` with a capture at the tested host's end, which `kiln-tcp-spec` then judges. A guest opens its tap
//! device itself, so a bridge joins that device with the relay's: frames larger than a segment are divided there, since
//! the relay's device takes none.
//!
//! ```text
//! guest - tapk - bridge - tapa - relay - tapb (Linux)
//!                Linux - tapa - relay - tapb (Linux)
//! ```

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiln_lossy::{Counters, End, Impairment, Relay, Running as Link};
use kiln_tcp_spec::{Config, Report, Specification, capture};

use crate::netns::Netns;
use crate::session::Session;

/// The tested host's addresses.
pub const HOST: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 9, 0, 2),
    Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2),
);
/// The peer's addresses.
pub const PEER: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 9, 0, 1),
    Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1),
);

/// The ports of `netprobe serve`, used alike by Linux here.
pub const SINK: u16 = 9;
/// See [`SINK`].
pub const SOURCE: u16 = 19;

/// Both namespaces and the link between them.
pub struct Rig {
    /// Where the host under test is.
    pub host: Netns,
    /// Where its peer is.
    pub peer: Netns,
    /// The test's files.
    pub session: Session,
    link: Option<Link>,
    capture: PathBuf,
}

impl Rig {
    /// Makes it; why it cannot be made on this machine.
    ///
    /// # Errors
    /// What is missing.
    ///
    /// # Panics
    /// If the machine has everything and it still fails.
    pub fn new(how: &Impairment, seed: u64, guest: bool) -> Result<Self, String> {
        let (host, peer, session) = (Netns::new()?, Netns::new()?, Session::new());
        for netns in [&host, &peer] {
            for setting in [
                // Its pacing would hide what is tested.
                "net.ipv4.tcp_congestion_control=reno",
                // Linux does not back off its first SYNs otherwise, which RFC 6298 demands.
                "net.ipv4.tcp_syn_linear_timeouts=0",
                "net.ipv4.tcp_no_metrics_save=1",
            ] {
                netns.set(&session, setting);
            }
        }
        host.ip("tuntap add dev tapa mode tap");
        host.ip("link set tapa txqueuelen 10000");
        peer.ip("tuntap add dev tapb mode tap");
        peer.ip("link set tapb txqueuelen 10000");
        if guest {
            host.set(&session, "net.ipv6.conf.all.disable_ipv6=1");
            host.set(&session, "net.ipv6.conf.default.disable_ipv6=1");
            host.ip("tuntap add dev tapk mode tap vnet_hdr");
            host.ip("link set tapk txqueuelen 10000");
            host.ip("link add bridge0 type bridge forward_delay 0 mcast_snooping 0");
            for port in ["tapk", "tapa"] {
                host.ip(&format!("link set {port} master bridge0"));
            }
            host.ip("link set bridge0 up");
            host.ip("link set tapk up");
        } else {
            host.ip(&format!("addr add {}/24 dev tapa", HOST.0));
            host.ip(&format!("addr add {}/64 dev tapa nodad", HOST.1));
        }
        peer.ip(&format!("addr add {}/24 dev tapb", PEER.0));
        peer.ip(&format!("addr add {}/64 dev tapb nodad", PEER.1));
        let capture = kept(&session);
        let end = |netns: &Netns, interface: &str, capture: Option<PathBuf>| End {
            interface: interface.into(),
            namespace: Some(netns.path().into()),
            capture,
            impairment: how.clone(),
        };
        let (a, b) = (
            end(&host, "tapa", Some(capture.clone())),
            end(&peer, "tapb", None),
        );
        let relay = Relay::open(&a, &b, seed).expect("a relay");
        host.ip("link set tapa up");
        peer.ip("link set tapb up");
        let link = Some(relay.start().expect("a thread"));
        Ok(Self {
            host,
            peer,
            session,
            link,
            capture,
        })
    }

    /// Ends the link and judges what the host under test has sent.
    ///
    /// # Panics
    /// If the link has failed or its capture cannot be read.
    pub fn judge(&mut self) -> (Report, [Counters; 2]) {
        let counters = self
            .link
            .take()
            .expect("judged once")
            .stop()
            .expect("the link");
        let hosts = [IpAddr::V4(HOST.0), IpAddr::V6(HOST.1)];
        let file = std::fs::File::open(&self.capture).expect("the capture");
        let events = capture::read(file, &hosts).expect("a capture");
        (Specification::judge(Config::new(hosts), &events), counters)
    }

    /// The capture at the tested host's end.
    pub fn capture(&self) -> &Path {
        &self.capture
    }
}

/// Where a capture goes: to the folder `KILN_TCP_KEEP`, or away with the test.
fn kept(session: &Session) -> PathBuf {
    let Some(folder) = std::env::var_os("KILN_TCP_KEEP") else {
        return session.file("capture.pcapng");
    };
    let name = std::thread::current()
        .name()
        .unwrap_or("capture")
        .replace(':', "-");
    Path::new(&folder).join(format!("{name}.pcapng"))
}

/// The byte at a position of the pattern of `netprobe`.
fn pattern(position: u64) -> u8 {
    (position ^ position >> 8 ^ position >> 16) as u8
}

/// Sends so much of the pattern.
fn send(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let all: Vec<u8> = (0..bytes).map(pattern).collect();
    stream.write_all(&all)?;
    stream.shutdown(Shutdown::Write)
}

/// Receives the pattern to its end; how much, and how much of it is something else.
fn receive(stream: &mut impl Read) -> io::Result<(u64, u64)> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    let wrong = (0..)
        .zip(&all)
        .filter(|(at, byte)| pattern(*at) != **byte)
        .count();
    Ok((all.len() as u64, wrong as u64))
}

/// Connects, trying for a while: the other side may be starting.
fn connect(netns: &Netns, to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let until = Instant::now() + patience;
    let stream = netns.within(|| {
        loop {
            match TcpStream::connect_timeout(&to, patience) {
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
                other => break other,
            }
        }
    })?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

/// Sends the pattern from a namespace to a sink; what the sink says it got.
///
/// # Errors
/// If the connection fails or nothing moves for `patience`.
pub fn push(netns: &Netns, to: IpAddr, bytes: u64, patience: Duration) -> io::Result<String> {
    let mut stream = connect(netns, SocketAddr::new(to, SINK), patience)?;
    send(&mut stream, bytes)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.trim().to_owned())
}

/// Asks a source for the pattern; what came.
///
/// # Errors
/// If the connection fails or nothing moves for `patience`.
pub fn pull(netns: &Netns, from: IpAddr, bytes: u64, patience: Duration) -> io::Result<String> {
    let mut stream = connect(netns, SocketAddr::new(from, SOURCE), patience)?;
    writeln!(stream, "{bytes}")?;
    let (got, wrong) = receive(&mut stream)?;
    Ok(format!("{got} {wrong}"))
}

/// The same, but reads nothing for a while: the window closes.
///
/// # Errors
/// If the connection fails or nothing moves for `patience`.
pub fn pull_late(
    netns: &Netns,
    from: IpAddr,
    bytes: u64,
    patience: Duration,
) -> io::Result<String> {
    let mut stream = connect(netns, SocketAddr::new(from, SOURCE), patience)?;
    writeln!(stream, "{bytes}")?;
    std::thread::sleep(Duration::from_secs(2));
    let (got, wrong) = receive(&mut stream)?;
    Ok(format!("{got} {wrong}"))
}

/// Serves one connection in a namespace as `netprobe` does on the sink's or the source's port.
///
/// # Errors
/// If the connection fails or nothing moves for `patience`.
pub fn serve_one(listener: &TcpListener, port: u16, patience: Duration) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let until = Instant::now() + patience;
    let mut stream = loop {
        match listener.accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => break other?.0,
        }
    };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    if port == SINK {
        let (got, wrong) = receive(&mut stream)?;
        writeln!(stream, "{got} {wrong}")?;
        return stream.shutdown(Shutdown::Write);
    }
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    let bytes = line
        .trim()
        .parse()
        .map_err(|_| io::ErrorKind::InvalidData)?;
    send(&mut stream, bytes)?;
    // Until the client has closed too.
    stream.read_to_end(&mut Vec::new()).map(drop)
}

/// A listener in a namespace.
///
/// # Panics
/// If the port is in use there.
pub fn listen(netns: &Netns, port: u16) -> TcpListener {
    netns.within(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("a free port"))
}
