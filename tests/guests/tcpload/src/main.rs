//! A guest that moves bulk data over TCP as a client. (As a server there is `netprobe serve`.)
//!
//! `connect-source ADDRESS BYTES` sends that much of a pattern, closes its side and prints what the peer answers.
//! `connect-sink ADDRESS BYTES` asks for that much in a line of text, and prints how much came and how much of it was not
//! the pattern. Both try to connect until the peer is there. Pattern and answers are those of `netprobe`.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "a program, not a library")]

extern crate alloc;

use alloc::string::String;
use alloc::vec;
use core::fmt::Write as _;
use core::net::SocketAddr;

use kiln::io::{Read, Write};
use kiln::net::{self, Error, TcpStream};
use kiln::println;
use kiln::time::{Duration, sleep};

#[kiln::main(net)]
async fn main() -> Result<u8, Error> {
    let mut args = kiln::args().skip(1);
    let mut arg = || args.next().unwrap_or_default();
    let (case, address, bytes) = (arg(), arg(), arg());
    let (Ok(address), Ok(bytes)) = (address.parse(), bytes.parse()) else {
        println!("an address and a number of bytes are needed");
        return Ok(99);
    };
    net::ready().await?;
    match case {
        "connect-source" => source(address, bytes).await?,
        "connect-sink" => sink(address, bytes).await?,
        other => {
            println!("no case {other:?}");
            return Ok(99);
        }
    }
    println!("SUCCESS");
    Ok(0)
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Error> {
    let mut attempts = 0;
    loop {
        match TcpStream::connect(address).await {
            Err(_) if attempts < 20 => sleep(Duration::from_millis(50)).await,
            other => return other,
        }
        attempts += 1;
    }
}

/// The byte at a position of the pattern.
fn pattern(position: u64) -> u8 {
    (position ^ position >> 8 ^ position >> 16) as u8
}

async fn source(address: SocketAddr, total: u64) -> Result<(), Error> {
    let mut stream = connect(address).await?;
    let mut buffer = vec![0; 65536];
    let mut at = 0;
    while at < total {
        let len = (total - at).min(buffer.len() as u64) as usize;
        for (position, byte) in (at..).zip(&mut buffer[..len]) {
            *byte = pattern(position);
        }
        stream.write_all(&buffer[..len]).await?;
        at += len as u64;
    }
    stream.shutdown().await?;
    let mut answer = String::new();
    loop {
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            break;
        }
        answer.push_str(&String::from_utf8_lossy(&buffer[..len]));
    }
    println!("answer {}", answer.trim());
    Ok(())
}

async fn sink(address: SocketAddr, total: u64) -> Result<(), Error> {
    let mut stream = connect(address).await?;
    let mut line = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(line, "{total}");
    stream.write_all(line.as_bytes()).await?;
    let mut buffer = vec![0; 65536];
    let (mut got, mut wrong) = (0u64, 0u64);
    loop {
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            break;
        }
        let differing = (got..)
            .zip(&buffer[..len])
            .filter(|(at, byte)| pattern(*at) != **byte);
        wrong += differing.count() as u64;
        got += len as u64;
    }
    println!("answer {got} {wrong}");
    stream.shutdown().await
}
