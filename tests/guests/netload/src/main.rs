//! The guest's end of load on a network link: bytes in, bytes out, bytes back, and what `iperf3` speaks.
//!
//! Arguments are pairs of a service and its port, such as `sink 9 source 19`; each listens on every address of the link.
//!
//! | service | what it does with a connection |
//! | --- | --- |
//! | `sink` | reads and forgets, closes when the peer does |
//! | `source` | writes as fast as it may until the peer goes away |
//! | `echo` | sends everything back, closes when the peer does |
//! | `talk` | the same for many connections that say little: 64 bytes of buffer each |
//! | `first` | says a word, closes its direction, and reads what the peer still has to say; `state` tells how much |
//! | `upload` | an HTTP server that takes what it is given, see [`upload`] |
//! | `iperf3` | an `iperf3` server for TCP, see [`iperf3`] |
//! | `state` | UDP: answers with the link's addresses and name servers, each on a line |
//! | `names` | UDP: answers a name with its addresses |
#![no_std]
#![no_main]
#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "a program, not a library")]

extern crate alloc;

mod iperf3;
mod state;
mod upload;

use alloc::vec;
use core::net::Ipv6Addr;

use kiln::io::{Read, Write};
use kiln::net::{self, Error, TcpListener, TcpStream, UdpSocket};
use kiln::{println, spawn};

/// What one read or write may move. Larger ones gain nothing: no link carries more in a frame than half of it.
const BLOCK: usize = 128 * 1024;
/// What a connection of `talk` costs beyond what the stack takes.
const SMALL: usize = 64;

#[kiln::main(net)]
async fn main() -> Result<u8, Error> {
    let mut words = kiln::args().skip(1);
    while let Some(service) = words.next() {
        let Some(port) = words.next().and_then(|port| port.parse().ok()) else {
            println!("{service}: a port is missing");
            return Ok(99);
        };
        let any = (Ipv6Addr::UNSPECIFIED, port);
        match service {
            "state" => {
                drop(spawn(state::serve(UdpSocket::bind(any)?)));
                continue;
            }
            "names" => {
                drop(spawn(state::serve_names(UdpSocket::bind(any)?)));
                continue;
            }
            _ => {}
        }
        let listener = TcpListener::bind(any)?;
        match service {
            "sink" => each(listener, sink),
            "source" => each(listener, source),
            "echo" => each(listener, async |stream| {
                echo(stream, &mut vec![0; BLOCK]).await
            }),
            "talk" => each(listener, async |stream| echo(stream, &mut [0; SMALL]).await),
            "first" => each(listener, state::first),
            "upload" => each(listener, upload::serve),
            "iperf3" => drop(spawn(iperf3::serve(listener))),
            other => {
                println!("no service {other:?}");
                return Ok(99);
            }
        }
    }
    net::ready().await?;
    for line in state::lines() {
        println!("{line}");
    }
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

async fn sink(mut stream: TcpStream) -> Result<(), Error> {
    let mut buffer = vec![0; BLOCK];
    while stream.read(&mut buffer).await? > 0 {}
    stream.shutdown().await
}

async fn source(mut stream: TcpStream) -> Result<(), Error> {
    let buffer = vec![0; BLOCK];
    loop {
        stream.write_all(&buffer).await?;
    }
}

async fn echo(mut stream: TcpStream, buffer: &mut [u8]) -> Result<(), Error> {
    stream.set_nodelay(true);
    loop {
        let len = stream.read(buffer).await?;
        if len == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..len]).await?;
    }
}
