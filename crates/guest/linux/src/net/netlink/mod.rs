//! Netlink sockets (`netlink(7)`): how programs ask for interfaces, addresses and routes.
//!
//! A request is answered while it is sent; the answers wait in the socket. Nothing is ever sent without being asked for: groups may be
//! joined, and stay silent.

mod build;
mod route;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};

use super::message::MessageFlags;
use super::options::{Options, int, number};
use super::{
    AF_NETLINK, AF_UNSPEC, Address, Bell, Connect, Incoming, Outgoing, Protocol, SOCK_DGRAM,
    SOCK_RAW, Socket,
};
use crate::process::Thread;
use crate::user::from_bytes;
use crate::wait::Events;
use crate::{Errno, Result};

use build::{HEADER, Reply};

/// `NETLINK_ROUTE`
const NETLINK_ROUTE: u32 = 0;
/// `NETLINK_SOCK_DIAG`
const NETLINK_SOCK_DIAG: u32 = 4;
/// `NETLINK_KOBJECT_UEVENT`
const NETLINK_KOBJECT_UEVENT: u32 = 15;
/// `SOL_NETLINK`
const SOL_NETLINK: u32 = 270;
/// `NLM_F_ACK`
const ACK: u16 = 4;
/// `NLM_F_DUMP`
const DUMP: u16 = 0x300;
/// The first type of a request; those below are about the protocol itself.
const FIRST_REQUEST: u16 = 16;
/// The longest request.
const LONGEST: usize = 64 << 10;
/// The most answers that wait.
const MOST_ANSWERS: usize = 256;

/// A netlink socket.
#[derive(Debug, Default)]
pub struct Netlink {
    /// Its address, once it has one.
    port: Cell<Option<u32>>,
    groups: Cell<u32>,
    peer: Cell<Option<u32>>,
    answers: RefCell<VecDeque<Vec<u8>>>,
    /// Options that are kept and told: by number.
    options: Cell<u32>,
}

/// `socket(2)`.
///
/// # Errors
/// `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`.
pub fn create(kind: u32, protocol: u32) -> Result<Socket> {
    if kind != SOCK_RAW && kind != SOCK_DGRAM {
        return Err(Errno::ESOCKTNOSUPPORT);
    }
    match protocol {
        NETLINK_ROUTE | NETLINK_SOCK_DIAG | NETLINK_KOBJECT_UEVENT => {}
        _ => return Err(Errno::EPROTONOSUPPORT),
    }
    let parts = (AF_NETLINK, kind, protocol);
    let bell = Rc::new(Bell::default());
    let netlink = Box::new(Netlink::default());
    Ok(Socket::assemble(parts, Options::default(), bell, netlink))
}

/// `struct sockaddr_nl`.
fn address(port: u32, groups: u32) -> Address {
    let mut bytes = Vec::from(AF_NETLINK.to_ne_bytes());
    bytes.extend([0; 2]);
    bytes.extend(port.to_ne_bytes());
    bytes.extend(groups.to_ne_bytes());
    Address::new(&bytes)
}

/// Port and groups.
fn parse(address: &Address) -> Result<(u32, u32)> {
    let bytes = address.bytes();
    if bytes.len() < 12 || address.family() != AF_NETLINK {
        return Err(Errno::EINVAL);
    }
    let word = |at: usize| int(bytes.get(at..).unwrap_or_default()).map(i32::cast_unsigned);
    Ok((word(4)?, word(8)?))
}

impl Netlink {
    /// Its port: the process's number for the first socket that needs one, another for each that follows.
    fn port(&self, thread: &Thread) -> u32 {
        if let Some(port) = self.port.get() {
            return port;
        }
        let taken = &crate::kernel().network.netlink_ports;
        let port = match taken.get() {
            0 => thread.process.pid,
            count => u32::MAX - 4096 - count,
        };
        taken.set(taken.get().wrapping_add(1));
        self.port.set(Some(port));
        port
    }

    /// Answers all requests of a message.
    fn answer(&self, socket: &Socket, thread: &Thread, mut requests: &[u8]) {
        let port = self.port(thread);
        while requests.len() >= HEADER {
            let word = |at: usize| from_bytes::<u32>(&requests[at..]).unwrap_or(0);
            let len = word(0) as usize;
            if len < HEADER || len > requests.len() {
                break;
            }
            let (request, rest) = requests.split_at(len);
            let kind = from_bytes::<u16>(&request[4..]).unwrap_or(0);
            let flags = from_bytes::<u16>(&request[6..]).unwrap_or(0);
            let mut reply = Reply::new(word(8), port);
            let payload = &request[HEADER..];
            let result = if kind < FIRST_REQUEST {
                Ok(())
            } else if socket.number == NETLINK_ROUTE {
                route::answer(kind, flags, payload, &mut reply)
            } else {
                Ok(())
            };
            match result {
                Ok(()) if flags & DUMP != 0 && kind >= FIRST_REQUEST => reply.done(),
                Ok(()) if flags & ACK != 0 => reply.error(0, request),
                Ok(()) => {}
                Err(error) => reply.error(error.0, request),
            }
            let mut answers = self.answers.borrow_mut();
            for message in reply.finish() {
                if answers.len() < MOST_ANSWERS {
                    answers.push_back(message);
                }
            }
            let aligned = len.next_multiple_of(4) - len;
            requests = rest.get(aligned..).unwrap_or_default();
        }
    }
}

impl Protocol for Netlink {
    fn bind(&self, _socket: &Socket, thread: &Rc<Thread>, address: &Address) -> Result {
        let (port, groups) = parse(address)?;
        self.groups.set(groups);
        match (port, self.port.get()) {
            (0, _) => {
                self.port(thread);
            }
            (wanted, Some(port)) if wanted != port => return Err(Errno::EINVAL),
            (wanted, _) => self.port.set(Some(wanted)),
        }
        Ok(())
    }

    fn connect(&self, _socket: &Socket, thread: &Rc<Thread>, address: &Address) -> Result<Connect> {
        if address.family() == AF_UNSPEC && address.bytes().len() >= 2 {
            self.peer.set(None);
            return Ok(Connect::Done);
        }
        let (port, _) = parse(address)?;
        self.port(thread);
        self.peer.set(Some(port));
        Ok(Connect::Done)
    }

    fn name(&self, _socket: &Socket) -> Result<Address> {
        Ok(address(self.port.get().unwrap_or(0), self.groups.get()))
    }

    fn peer(&self, _socket: &Socket) -> Result<Address> {
        Ok(address(self.peer.get().unwrap_or(0), 0))
    }

    fn send(&self, socket: &Socket, thread: &Rc<Thread>, message: &mut Outgoing) -> Result<usize> {
        if message.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let to = match &message.to {
            Some(to) => parse(to)?.0,
            None => self.peer.get().unwrap_or(0),
        };
        if to != 0 {
            // Nobody but the kernel listens.
            return Err(Errno::ECONNREFUSED);
        }
        let len = message.data.remaining();
        if len > LONGEST {
            return Err(Errno::EMSGSIZE);
        }
        let requests = message.data.take_all()?;
        self.answer(socket, thread, &requests);
        socket.bell.queue.wake(Events::READABLE);
        Ok(len)
    }

    fn receive(
        &self,
        _socket: &Socket,
        _thread: &Rc<Thread>,
        message: &mut Incoming,
    ) -> Result<usize> {
        if message.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut answers = self.answers.borrow_mut();
        let answer = answers.front().ok_or(Errno::EAGAIN)?;
        let len = answer.len();
        let fits = len.min(message.data.remaining());
        let put = message.data.put(answer.get(..fits).unwrap_or_default())?;
        if !message.flags.contains(MessageFlags::PEEK) {
            answers.pop_front();
        }
        message.from = Some(address(0, 0));
        if len > put {
            message.told |= MessageFlags::TRUNC;
        }
        Ok(if message.flags.contains(MessageFlags::TRUNC) {
            len
        } else {
            put
        })
    }

    fn poll(&self, _socket: &Socket) -> Events {
        let mut events = Events::WRITABLE;
        events.set(Events::READABLE, !self.answers.borrow().is_empty());
        events
    }

    fn set_option(
        &self,
        _socket: &Socket,
        _thread: &Rc<Thread>,
        level: u32,
        name: u32,
        value: &[u8],
    ) -> Result {
        // `NETLINK_ADD_MEMBERSHIP` up to `NETLINK_GET_STRICT_CHK`: none changes what is answered.
        if level != SOL_NETLINK || !(1..=12).contains(&name) {
            return Err(Errno::ENOPROTOOPT);
        }
        let on = int(value)? != 0;
        let bit = 1 << name;
        let others = self.options.get() & !bit;
        self.options.set(others | if on { bit } else { 0 });
        Ok(())
    }

    fn option(
        &self,
        _socket: &Socket,
        _thread: &Rc<Thread>,
        level: u32,
        name: u32,
        _argument: &[u8],
    ) -> Result<Vec<u8>> {
        if level != SOL_NETLINK || !(1..=12).contains(&name) {
            return Err(Errno::ENOPROTOOPT);
        }
        Ok(number(self.options.get() >> name & 1))
    }

    fn readable(&self, _socket: &Socket) -> Result<usize> {
        Ok(self.answers.borrow().front().map_or(0, Vec::len))
    }

    fn release(&self, _socket: &Socket) {
        self.answers.borrow_mut().clear();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
