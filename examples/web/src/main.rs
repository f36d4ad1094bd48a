//! A static web site as a unikernel.
//!
//! This file is the program's frame: it listens, hands out seats to connections and stops when asked. What a
//! connection says is decided by the library of this crate; [`server`] adds sockets, clocks and limits.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

extern crate alloc;

mod server;

use alloc::rc::Rc;
use core::net::Ipv6Addr;

use kiln::log::LevelFilter;
use kiln::net::{Error, TcpListener};
use kiln::select::{Either, select};

use server::Server;

const PORT: u16 = 80;

#[kiln::main(net)]
async fn main() -> Result<(), Error> {
    kiln::init_log(LevelFilter::Warn);
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
    kiln::println!("web: listening on port {PORT}");

    let server = Rc::new(Server::new());
    let stop = kiln::shutdown::requested_signal();
    match select(accept(listener, &server), stop).await {
        Either::First(error) => Err(error),
        Either::Second(_) => {
            // The listener is gone: nobody new gets in.
            let finished = server.finish().await;
            kiln::println!(
                "web: stopped{}",
                if finished {
                    ""
                } else {
                    ", some replies were cut off"
                }
            );
            Ok(())
        }
    }
}

/// Starts a task for each connection. Returns only if nothing can be accepted any more.
async fn accept(listener: TcpListener, server: &Rc<Server>) -> Error {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => return error,
        };
        // While every seat is taken by somebody busy, further connections wait with the listener.
        let seat = server.seats.take().await;
        let server = server.clone();
        drop(kiln::spawn(async move {
            server::connection::serve(stream, peer, &server, &seat).await;
        }));
    }
}
