//! A guest with one network link. The first argument names a case.
//!
//! `serve` offers TCP and UDP echo on port 7, a sink that checks a pattern and answers with the length it got on port 9,
//! a source of that pattern on port 19, and the reset of every connection on port 11. `metrics` does the same and shows
//! counters to the host that are no good.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "a program, not a library")]

extern crate alloc;

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::net::SocketAddr;

use kiln::io::{Read, Write};
use kiln::net::{self, Error, TcpListener, TcpStream, UdpSocket};
use kiln::time::{Duration, timeout};
use kiln::{println, spawn};
use kiln_abi::metrics::{Net, NetBlock};

#[kiln::main(net)]
async fn main() -> Result<u8, Error> {
    let args: Vec<&'static str> = kiln::args().skip(1).collect();
    let arg = |index: usize| args.get(index).copied().unwrap_or_default();
    match arg(0) {
        "serve" => serve().await?,
        "metrics" => metrics().await?,
        "addresses" => addresses().await?,
        "connect" => connect(arg(1)).await,
        "lookup" => lookup(arg(1)).await?,
        "binds" => binds()?,
        other => {
            println!("no case {other:?}");
            return Ok(99);
        }
    }
    println!("SUCCESS");
    Ok(0)
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from(([0u16; 8], port))
}

/// Shows counters to the host, then serves. One block is about a link that has one already, the other about a device that
/// is not there.
async fn metrics() -> Result<(), Error> {
    static BLOCKS: [NetBlock; 2] = [NetBlock::new(0), NetBlock::new(60)];
    for block in &BLOCKS {
        println!("register {:?}", kiln_rt::metrics::register(block));
    }
    BLOCKS[0].add(Net::TcpRetransmitted, 41);
    BLOCKS[0].add(Net::TcpRetransmitted, 1);
    BLOCKS[0].set(Net::BufferBytes, u64::MAX);
    BLOCKS[1].set(Net::UdpSockets, 5);
    serve().await
}

async fn serve() -> Result<(), Error> {
    each(TcpListener::bind(any(7))?, echo);
    each(TcpListener::bind(any(9))?, sink);
    each(TcpListener::bind(any(19))?, source);
    each(TcpListener::bind(any(11))?, async |stream: TcpStream| {
        stream.abort();
        Ok(())
    });
    let udp = UdpSocket::bind(any(7))?;
    drop(spawn(async move {
        let mut buffer = vec![0; 65536];
        loop {
            match udp.recv_from(&mut buffer).await {
                Ok((len, peer)) => {
                    if let Err(error) = udp.send_to(&buffer[..len], peer).await {
                        println!("udp: {error}");
                    }
                }
                Err(error) => println!("udp: {error}"),
            }
        }
    }));
    addresses().await?;
    println!("serving");
    core::future::pending().await
}

/// Accepts for ever, each connection in a task of its own.
fn each(
    listener: TcpListener,
    serve: impl AsyncFn(TcpStream) -> Result<(), Error> + Copy + 'static,
) {
    drop(spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(spawn(async move {
                    // A client that goes away is no concern of the others.
                    let _ = serve(stream).await;
                })),
                Err(error) => println!("accept: {error}"),
            }
        }
    }));
}

async fn echo(mut stream: TcpStream) -> Result<(), Error> {
    let mut buffer = vec![0; 16384];
    loop {
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..len]).await?;
    }
}

/// The byte at a position of the pattern that sink and source agree on with their peers.
fn pattern(position: u64) -> u8 {
    (position ^ position >> 8 ^ position >> 16) as u8
}

async fn sink(mut stream: TcpStream) -> Result<(), Error> {
    let mut buffer = vec![0; 65536];
    let (mut total, mut wrong) = (0u64, 0u64);
    loop {
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            break;
        }
        let differing = (total..)
            .zip(&buffer[..len])
            .filter(|(at, byte)| pattern(*at) != **byte);
        wrong += differing.count() as u64;
        total += len as u64;
    }
    // The peer has closed its side and still gets an answer.
    let mut answer = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(answer, "{total} {wrong}");
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// Reads a length as a line of text, then sends that much.
async fn source(mut stream: TcpStream) -> Result<(), Error> {
    let mut line = String::new();
    let mut byte = [0];
    while stream.read(&mut byte).await? == 1 && byte[0] != b'\n' {
        line.push(char::from(byte[0]));
    }
    let total: u64 = line.trim().parse().map_err(|_| Error::InvalidInput)?;
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
    stream.shutdown().await
}

async fn addresses() -> Result<(), Error> {
    if timeout(Duration::from_secs(10), net::ready())
        .await
        .is_err()
    {
        println!("no address within ten seconds");
        return Err(Error::TimedOut);
    }
    for address in net::addresses() {
        println!("address {address:?}");
    }
    Ok(())
}

/// Tells what a connection and a datagram to an address lead to.
async fn connect(address: &str) {
    let address: SocketAddr = address.parse().expect("an address and a port");
    let tcp = timeout(Duration::from_secs(3), TcpStream::connect(address)).await;
    match tcp {
        Ok(Ok(mut stream)) => {
            let mut text = vec![0; 100];
            let got = timeout(Duration::from_secs(3), stream.read(&mut text)).await;
            println!("tcp connected, {got:?}");
        }
        Ok(Err(error)) => println!("tcp {error:?}"),
        Err(_) => println!("tcp no answer"),
    }
    let udp = async {
        let socket = UdpSocket::bind(any(0))?;
        socket.send_to(b"hello?", address).await?;
        let mut buffer = [0; 100];
        socket.recv_from(&mut buffer).await.map(|(len, _)| len)
    };
    match timeout(Duration::from_secs(1), udp).await {
        Ok(result) => println!("udp {result:?}"),
        Err(_) => println!("udp no answer"),
    }
}

async fn lookup(name: &str) -> Result<(), Error> {
    net::ready().await?;
    match net::lookup(name).await {
        Ok(addresses) => println!("found {addresses:?}"),
        Err(error) => println!("not found: {error:?}"),
    }
    Ok(())
}

fn binds() -> Result<(), Error> {
    let first = TcpListener::bind(any(80))?;
    assert_eq!(TcpListener::bind(any(80)).unwrap_err(), Error::AddressInUse);
    drop(first);
    drop(TcpListener::bind(any(80))?);
    let udp = UdpSocket::bind(any(80))?;
    assert_eq!(UdpSocket::bind(any(80)).unwrap_err(), Error::AddressInUse);
    drop(udp);
    let free = UdpSocket::bind(any(0))?;
    assert_ne!(free.local_addr()?.port(), 0);
    let foreign = SocketAddr::from(([192, 0, 2, 77], 80));
    assert_eq!(
        TcpListener::bind(foreign).unwrap_err(),
        Error::AddressNotAvailable
    );
    Ok(())
}
