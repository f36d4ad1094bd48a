//! The echo service (RFC 862) over TCP and UDP, IPv4 and IPv6.
//!
//! A first network program: one task accepts connections, one task serves each of them, the UDP socket is served
//! beside, and a request to stop ends `main`, which ends them all.
#![no_std]
#![no_main]

use core::net::Ipv6Addr;

use kiln::io::Write;
use kiln::net::{Error, TcpListener, TcpStream, UdpSocket};
use kiln::select::{Either3, select3};

/// The service's well-known port.
const PORT: u16 = 7;
/// The longest datagram that is answered whole; what is longer was cut when it arrived.
const LONGEST_DATAGRAM: usize = 2048;

#[kiln::main(net)]
async fn main() -> Result<(), Error> {
    // The unspecified IPv6 address stands for all addresses of both families.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
    kiln::println!("echo: listening on port {PORT}, TCP and UDP");

    let stop = kiln::shutdown::requested_signal();
    match select3(accept(listener), answer(socket), stop).await {
        Either3::First(error) | Either3::Second(error) => Err(error),
        Either3::Third(signal) => {
            kiln::println!("echo: stopping on signal {signal}");
            Ok(())
        }
    }
}

/// Starts a task for each connection. Returns only if nothing can be accepted any more.
async fn accept(listener: TcpListener) -> Error {
    loop {
        match listener.accept().await {
            // The handle is dropped: the task runs by itself.
            Ok((stream, _)) => drop(kiln::spawn(async move {
                // A peer that goes away in the middle is nobody's fault.
                let _ = echo(stream).await;
            })),
            Err(error) => return error,
        }
    }
}

/// Sends back what arrives until the peer has no more to say.
async fn echo(mut stream: TcpStream) -> Result<(), Error> {
    let mut buffer = [0; 2048];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        // Waits while the peer does not read: its data wait in its own host then, not in this guest's memory.
        stream.write_all(&buffer[..count]).await?;
    }
}

/// Sends each datagram back to where it came from. Returns only if the socket is gone.
async fn answer(socket: UdpSocket) -> Error {
    let mut buffer = [0; LONGEST_DATAGRAM];
    loop {
        let (count, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => return error,
        };
        // Two echo services that answer each other never end (RFC 862 services have been used for that).
        if peer.port() == PORT {
            continue;
        }
        // An answer that cannot be sent is lost, as a datagram may be anywhere.
        let _ = socket.send_to(&buffer[..count], peer).await;
    }
}
