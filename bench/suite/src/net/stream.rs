//! The kernel's end of a stream for the section [`super::loss`], as a program of its own in some namespace.
//!
//! `stream allows ALGORITHM` fails where sockets cannot have that congestion control; `stream source PORT ALGORITHM` sends to whoever connects, for ever; `stream drain ADDRESS SECONDS` connects, reads for
//! so long and prints how many bytes came and how many microseconds it took.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use crate::{Result, figures};

const BLOCK: usize = 128 * 1024;
/// How long a drain tries to connect.
const CONNECT: Duration = Duration::from_secs(10);
/// How long nothing may arrive before the clock is looked at.
const GLANCE: Duration = Duration::from_millis(50);

/// See the module.
pub fn main(arguments: &[&str]) -> Result<()> {
    match *arguments {
        ["allows", algorithm] => allows(algorithm),
        ["source", port, algorithm] => source(
            port.parse().map_err(|error| format!("{port}: {error}"))?,
            algorithm,
        ),
        ["drain", address, seconds] => {
            let address = address
                .parse()
                .map_err(|error| format!("{address}: {error}"))?;
            let seconds = seconds
                .parse()
                .map_err(|error| format!("{seconds}: {error}"))?;
            drain(address, Duration::from_secs(seconds))
        }
        _ => Err(
            "stream: source PORT ALGORITHM, drain ADDRESS SECONDS, or allows ALGORITHM".to_owned(),
        ),
    }
}

fn allows(algorithm: &str) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0));
    let listener = listener.map_err(|error| error.to_string())?;
    sockopt::set_tcp_congestion(&listener, algorithm).map_err(|error| error.to_string())
}

fn source(port: u16, algorithm: &str) -> Result<()> {
    let explain = |error: std::io::Error| error.to_string();
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).map_err(explain)?;
    loop {
        let (mut stream, _) = listener.accept().map_err(explain)?;
        sockopt::set_tcp_congestion(&stream, algorithm)
            .map_err(|error| format!("{algorithm}: {error}"))?;
        thread::spawn(move || {
            let block = vec![0; BLOCK];
            // Ends with the client.
            while stream.write_all(&block).is_ok() {}
        });
    }
}

fn drain(address: SocketAddr, time: Duration) -> Result<()> {
    let mut stream = connect(address)?;
    let explain = |error: std::io::Error| error.to_string();
    stream.set_read_timeout(Some(GLANCE)).map_err(explain)?;
    let mut block = vec![0; BLOCK];
    let (start, mut bytes) = (Instant::now(), 0);
    while start.elapsed() < time {
        match stream.read(&mut block) {
            Ok(0) => return Err(format!("{address} closed after {bytes} bytes")),
            Ok(count) => bytes += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    println!("{bytes} {:.0}", figures::micros(start.elapsed()));
    Ok(())
}

/// Until the server is there.
fn connect(address: SocketAddr) -> Result<TcpStream> {
    let deadline = Instant::now() + CONNECT;
    loop {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() >= deadline => return Err(format!("{address}: {error}")),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}
