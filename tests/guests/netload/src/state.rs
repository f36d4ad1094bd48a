//! What the guest knows of its network, told to whoever asks by UDP.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use kiln::io::{Read, Write};
use kiln::net::{self, Error, TcpStream, UdpSocket};
use kiln::println;

/// Bytes that peers of [`first`] sent after this end had closed its direction.
static AFTER_CLOSE: AtomicU64 = AtomicU64::new(0);

/// The whole state, a line for each fact.
pub fn lines() -> Vec<String> {
    let addresses = net::addresses().into_iter();
    let mut lines: Vec<String> = addresses
        .map(|one| format!("address {}/{}", one.address, one.prefix))
        .collect();
    if let Ok(stack) = net::default_stack() {
        lines.extend(
            stack
                .name_servers()
                .iter()
                .map(|server| format!("server {server}")),
        );
    }
    lines.push(format!(
        "after-close {}",
        AFTER_CLOSE.load(Ordering::Relaxed)
    ));
    lines
}

/// Answers each datagram with the state.
pub async fn serve(socket: UdpSocket) {
    let mut buffer = [0; 16];
    loop {
        match socket.recv_from(&mut buffer).await {
            // An answer that cannot be sent is lost, as a datagram may be anywhere.
            Ok((_, peer)) => drop(socket.send_to(lines().join("\n").as_bytes(), peer).await),
            Err(error) => return println!("state: {error}"),
        }
    }
}

/// Answers each datagram, a name, with its addresses in order, a line each, or with why there are none.
pub async fn serve_names(socket: UdpSocket) {
    let mut buffer = vec![0; 512];
    loop {
        let (len, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => return println!("names: {error}"),
        };
        let name = String::from_utf8_lossy(&buffer[..len]).trim().to_string();
        let answer = match net::lookup(&name).await {
            Ok(mut addresses) => {
                addresses.sort();
                let lines: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                lines.join("\n")
            }
            Err(error) => format!("{error:?}"),
        };
        let _ = socket.send_to(answer.as_bytes(), peer).await;
    }
}

/// Closes its direction before the peer does, and goes on reading.
pub async fn first(mut stream: TcpStream) -> Result<(), Error> {
    stream.write_all(b"closed\n").await?;
    stream.shutdown().await?;
    let mut buffer = vec![0; 16384];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            len => drop(AFTER_CLOSE.fetch_add(len as u64, Ordering::Relaxed)),
        }
    }
}
