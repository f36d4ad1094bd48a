//! A durable key-value store as a unikernel.
//!
//! Opens the disk "data", starts the one task that writes it, and a task for each client. What they do is decided by
//! the library of this crate.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

extern crate alloc;

mod server;

use alloc::rc::Rc;
use core::net::Ipv6Addr;

use kiln::block::Disk;
use kiln::log::LevelFilter;
use kiln::net::{Error, TcpListener};
use kiln::select::{Either, select};
use kv::recovery::open;

use server::Server;
use server::disk::Data;

/// Beside redis' own, so that both can run on one host.
const PORT: u16 = 6380;
/// The part of memory that keys and values may take: a quarter. The network stack has a half.
const DATA_SHARE: usize = 4;

#[kiln::main(net, block = "data")]
async fn main() -> u8 {
    kiln::init_log(LevelFilter::Warn);
    let memory = kiln::memory::statistics().capacity / DATA_SHARE;
    let mut random = [0; 8];
    kiln::random::fill(&mut random);
    let disk = match Disk::open("data") {
        Ok(disk) => Data(disk),
        Err(error) => {
            kiln::println!("kv: disk \"data\": {error}");
            return 1;
        }
    };
    let (view, writer) = match open(disk, u64::from_le_bytes(random), memory).await {
        Ok(store) => store,
        Err(error) => {
            kiln::println!("kv: disk \"data\": {error}");
            return 1;
        }
    };
    let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)) {
        Ok(listener) => listener,
        Err(error) => {
            kiln::println!("kv: port {PORT}: {error}");
            return 1;
        }
    };
    kiln::println!("kv: {} keys, listening on port {PORT}", view.read().len());

    let server = Rc::new(Server::new(view));
    drop(kiln::spawn(server::committer::run(writer, server.clone())));
    let stop = kiln::shutdown::requested_signal();
    match select(accept(listener, &server), stop).await {
        Either::First(error) => {
            kiln::println!("kv: {error}");
            1
        }
        // What was acknowledged is on stable storage, what was not need not be.
        Either::Second(_) => 0,
    }
}

/// Starts a task for each client. Returns only if nothing can be accepted any more.
async fn accept(listener: TcpListener, server: &Rc<Server>) -> Error {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let server = server.clone();
                drop(kiln::spawn(async move {
                    server::client::serve(stream, &server).await;
                }));
            }
            Err(error) => return error,
        }
    }
}
