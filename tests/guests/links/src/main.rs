//! A guest with two network links, `left` and `right`, and an optional disk: UDP echo on port 7 of each link, answering
//! with the link's name first.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "a program, not a library")]

extern crate alloc;

use alloc::vec;
use core::net::SocketAddr;

use kiln::net::{self, Error, UdpSocket};
use kiln::{println, spawn};

#[kiln::main(net = "left", optional_net = "right", optional_block = "spare")]
async fn main() -> Result<(), Error> {
    println!("spare={}", kiln::block::Disk::open("spare").is_ok());
    for name in ["left", "right"] {
        let Some(stack) = net::stack(name) else {
            println!("{name} is absent");
            continue;
        };
        stack.ready().await;
        for address in stack.addresses() {
            println!("{name} {address:?}");
        }
        let socket = UdpSocket::bind_on(&stack, SocketAddr::from(([0u16; 8], 7)))?;
        drop(spawn(async move {
            let mut buffer = vec![0; 65536];
            loop {
                let Ok((len, peer)) = socket.recv_from(&mut buffer[..60000]).await else {
                    continue;
                };
                buffer.copy_within(..len, name.len());
                buffer[..name.len()].copy_from_slice(name.as_bytes());
                // A link that is full loses the answer, as links do.
                let _ = socket.send_to(&buffer[..name.len() + len], peer).await;
            }
        }));
    }
    println!("serving");
    core::future::pending().await
}
