//! Sockets.
//!
//! A [`Socket`] is the file behind a socket's descriptor: what all kinds of sockets have in common, and a [`Protocol`] that does the
//! rest. None of their functions sleeps: those that find nothing to do answer `EAGAIN`, and the system calls
//! (`syscalls::socket`) sleep on the socket's queue.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`address`] | `struct sockaddr` of all families |
//! | [`message`] | what a message is besides its bytes: flags, addresses, control data |
//! | [`options`] | `SOL_SOCKET` |
//! | [`inet`] | TCP, UDP and ICMP on the network stack `kiln_net` |
//! | [`etc`] | `/etc/resolv.conf`, `/etc/hosts` |
//! | [`listing`] | the texts of `/proc/net` |
//! | [`netlink`] | interfaces, addresses and routes, asked for |
//! | [`unix`] | sockets within the machine |

pub mod address;
pub mod counters;
pub mod etc;
pub mod inet;
pub mod listing;
pub mod message;
pub mod netlink;
pub mod options;
pub mod unix;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, OnceCell};

use kiln_abi::Instant;
use kiln_net::Stack;
use kiln_net::direct::{Ready, Watch};

use crate::fs::{File, Kind, Metadata, OpenFile};
use crate::io::{Sink, Source};
use crate::process::Thread;
use crate::wait::{Deadline, Events, WaitQueue};
use crate::{Errno, Result};

pub use address::Address;
pub use message::{Incoming, MessageFlags, Outgoing};
pub use options::Options;

/// `AF_UNIX`
pub const AF_UNIX: u16 = 1;
/// `AF_INET`
pub const AF_INET: u16 = 2;
/// `AF_INET6`
pub const AF_INET6: u16 = 10;
/// `AF_NETLINK`
pub const AF_NETLINK: u16 = 16;
/// `AF_PACKET`
pub const AF_PACKET: u16 = 17;
/// `AF_UNSPEC`
pub const AF_UNSPEC: u16 = 0;

/// `SOCK_STREAM`
pub const SOCK_STREAM: u32 = 1;
/// `SOCK_DGRAM`
pub const SOCK_DGRAM: u32 = 2;
/// `SOCK_RAW`
pub const SOCK_RAW: u32 = 3;
/// `SOCK_SEQPACKET`
pub const SOCK_SEQPACKET: u32 = 5;

/// The file system that sockets' inodes belong to, as `stat(2)` numbers it.
const SOCKFS: u64 = 8;

/// What sockets share.
#[derive(Default)]
pub struct Network {
    stack: OnceCell<Stack>,
    last: Cell<u64>,
    /// An address has been waited for.
    waited: Cell<bool>,
    /// Netlink sockets that have got a port so far.
    pub netlink_ports: Cell<u32>,
    /// Abstract names of `AF_UNIX`.
    pub unix: unix::name::Names,
    /// Files that `AF_UNIX` messages carried that nobody has received.
    pub undelivered: unix::rights::Undelivered,
    /// Files that `AF_UNIX` messages carry now.
    pub in_flight: unix::garbage::InFlight,
}

impl core::fmt::Debug for Network {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

impl Network {
    /// The network stack. Without any link it has the loopback interface alone.
    pub fn stack(&self) -> &Stack {
        self.stack.get_or_init(make_stack)
    }

    /// Whether the program has made a socket.
    pub fn is_used(&self) -> bool {
        self.last.get() > 0
    }

    /// Lets what was sent over the loopback interface arrive at once, as programs expect it.
    pub fn settle_local(&self) {
        self.stack()
            .settle_local(Instant::from_nanos(crate::platform::now()));
    }

    /// Before a program's first look at the network: waits until a link has an address that others can reach, as it has on a machine whose services are
    /// started when the network is up. Once, and not for long: there may be nobody who gives one.
    pub(crate) fn wait_for_address(&self, thread: &Rc<Thread>) {
        const LONGEST: u64 = 3_000_000_000;
        const STEP: u64 = 1_000_000;
        if self.waited.replace(true) {
            return;
        }
        let stack = self.stack();
        let has_one = || {
            let reachable = |assigned: &kiln_net::Assigned| match assigned.address {
                core::net::IpAddr::V4(_) => true,
                core::net::IpAddr::V6(address) => !address.is_unicast_link_local(),
            };
            stack.links().len() < 2 || stack.addresses().iter().any(reachable)
        };
        let until = crate::platform::now().saturating_add(LONGEST);
        // Nobody rings when an address comes; what brings it arrives while the thread sleeps.
        while !has_one() && crate::platform::now() < until {
            let step = crate::platform::now().saturating_add(STEP);
            let slept =
                crate::wait::sleep_until(thread, &[], Some(step), || has_one().then_some(()));
            if !matches!(slept, Ok(()) | Err(Errno::ETIMEDOUT)) {
                break;
            }
        }
    }

    fn number(&self) -> u64 {
        self.last.set(self.last.get() + 1);
        self.last.get()
    }
}

#[cfg(kiln_guest)]
fn make_stack() -> Stack {
    kiln_rt::net::stack_or_loopback()
}

#[cfg(not(kiln_guest))]
fn make_stack() -> Stack {
    let mut seed = [0; 32];
    crate::platform::random(&mut seed);
    let config = kiln_net::Config::new(seed).memory_budget(64 << 20);
    Stack::new(config, Instant::from_nanos(crate::platform::now()))
}

/// What is rung when something has happened to a socket: those who wait for it hear it.
#[derive(Debug, Default)]
pub struct Bell {
    /// Who waits.
    pub queue: WaitQueue,
}

impl Watch for Bell {
    fn changed(&self, ready: Ready) {
        let mut events = Events::empty();
        if ready.any(Ready::READ) {
            events |= Events::READABLE | Events::RDHUP;
        }
        if ready.any(Ready::WRITE) {
            events |= Events::WRITABLE;
        }
        if ready.any(Ready::CLOSED) {
            events |= Events::HUP;
        }
        if ready.any(Ready::ERROR) {
            events |= Events::ERR;
        }
        if ready.any(Ready::CLOSED | Ready::ERROR) {
            // There is nothing left to share out.
            self.queue.wake_all(events);
        } else {
            self.queue.wake(events);
        }
    }
}

/// Which directions `shutdown(2)` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Nothing will be read.
    pub read: bool,
    /// Nothing will be written.
    pub write: bool,
}

/// How connecting goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connect {
    /// It is done.
    Done,
    /// It has been started: the caller waits until the socket is writable and asks again, or answers `EINPROGRESS`.
    Started,
    /// It had been started before: likewise, but `EALREADY`.
    Already,
}

/// What a kind of sockets does. What it does not answers as Linux does.
///
/// Nothing here sleeps.
#[allow(clippy::missing_errors_doc, reason = "those of the system calls named")]
pub trait Protocol: Any {
    /// `bind(2)`.
    fn bind(&self, socket: &Socket, thread: &Rc<Thread>, address: &Address) -> Result;
    /// `listen(2)`.
    fn listen(&self, _socket: &Socket, _thread: &Rc<Thread>, _backlog: u32) -> Result {
        Err(Errno::EOPNOTSUPP)
    }
    /// `accept(2)`: the new socket and the peer's address, or `EAGAIN`.
    fn accept(&self, _socket: &Socket) -> Result<(Socket, Address)> {
        Err(Errno::EOPNOTSUPP)
    }
    /// `connect(2)`.
    fn connect(&self, socket: &Socket, thread: &Rc<Thread>, address: &Address) -> Result<Connect>;
    /// `getsockname(2)`.
    fn name(&self, socket: &Socket) -> Result<Address>;
    /// `getpeername(2)`.
    fn peer(&self, socket: &Socket) -> Result<Address>;
    /// `sendmsg(2)`: how many bytes were taken.
    fn send(&self, socket: &Socket, thread: &Rc<Thread>, message: &mut Outgoing) -> Result<usize>;
    /// `recvmsg(2)`: what the call returns.
    fn receive(
        &self,
        socket: &Socket,
        thread: &Rc<Thread>,
        message: &mut Incoming,
    ) -> Result<usize>;
    /// `shutdown(2)`.
    fn shutdown(&self, _socket: &Socket, _how: Shutdown) -> Result {
        Err(Errno::EOPNOTSUPP)
    }
    /// `poll(2)`.
    fn poll(&self, socket: &Socket) -> Events;
    /// `getsockopt(SO_ERROR)`: an error that waits to be told; it is told once.
    fn take_error(&self, _socket: &Socket) -> Option<Errno> {
        None
    }
    /// True if it listens.
    fn is_listening(&self) -> bool {
        false
    }
    /// `setsockopt(2)` of levels other than `SOL_SOCKET`.
    fn set_option(
        &self,
        _socket: &Socket,
        _thread: &Rc<Thread>,
        _level: u32,
        _name: u32,
        _value: &[u8],
    ) -> Result {
        Err(Errno::ENOPROTOOPT)
    }
    /// `getsockopt(2)` likewise; `argument` is what the program's buffer holds.
    fn option(
        &self,
        _socket: &Socket,
        _thread: &Rc<Thread>,
        _level: u32,
        _name: u32,
        _argument: &[u8],
    ) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }
    /// One of the options of `SOL_SOCKET` was changed.
    fn options_changed(&self, _socket: &Socket) {}
    /// `FIONREAD`: bytes that the next read would give.
    fn readable(&self, _socket: &Socket) -> Result<usize> {
        Err(Errno::EINVAL)
    }
    /// `SIOCOUTQ`: bytes that the peer has not taken.
    fn unsent(&self, _socket: &Socket) -> Result<usize> {
        Err(Errno::EINVAL)
    }
    /// The last descriptor was closed.
    fn release(&self, socket: &Socket);
    /// Itself, for what is made for one kind.
    fn as_any(&self) -> &dyn Any;
}

/// A socket.
pub struct Socket {
    /// `AF_INET` and the like.
    pub family: u16,
    /// `SOCK_STREAM` and the like.
    pub kind: u32,
    /// `IPPROTO_TCP` and the like.
    pub number: u32,
    /// The inode's number, unique among sockets.
    pub inode: u64,
    /// Options of `SOL_SOCKET`.
    pub options: Options,
    /// Who waits for it.
    pub bell: Rc<Bell>,
    /// What it does.
    pub protocol: Box<dyn Protocol>,
}

impl core::fmt::Debug for Socket {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Socket")
            .field("family", &self.family)
            .field("kind", &self.kind)
            .field("inode", &self.inode)
            .finish_non_exhaustive()
    }
}

impl Socket {
    /// A socket of this family, kind and protocol.
    pub fn assemble(
        (family, kind, number): (u16, u32, u32),
        options: Options,
        bell: Rc<Bell>,
        protocol: Box<dyn Protocol>,
    ) -> Self {
        Self {
            family,
            kind,
            number,
            inode: crate::kernel().network.number(),
            options,
            bell,
            protocol,
        }
    }

    /// When a call that began now gives up waiting to receive (`SO_RCVTIMEO`).
    pub fn receive_deadline(&self) -> Deadline {
        deadline(self.options.receive_timeout.get())
    }

    /// The same for sending (`SO_SNDTIMEO`).
    pub fn send_deadline(&self) -> Deadline {
        deadline(self.options.send_timeout.get())
    }
}

fn deadline(timeout: u64) -> Deadline {
    (timeout != 0).then(|| crate::platform::now().saturating_add(timeout))
}

/// `socket(2)`.
///
/// # Errors
/// `EAFNOSUPPORT`, `EPROTONOSUPPORT`, `ESOCKTNOSUPPORT`, `EPERM`, `EINVAL`.
pub fn create(thread: &Rc<Thread>, family: u32, kind: u32, protocol: u32) -> Result<Socket> {
    if kind == 0 || kind > 10 {
        return Err(Errno::EINVAL);
    }
    let family = u16::try_from(family).map_err(|_| Errno::EAFNOSUPPORT)?;
    if matches!(family, AF_INET | AF_INET6 | AF_NETLINK) {
        crate::kernel().network.wait_for_address(thread);
    }
    match family {
        AF_UNIX => unix::create(kind, protocol),
        family @ (AF_INET | AF_INET6) => inet::create(thread, family, kind, protocol),
        AF_NETLINK => netlink::create(kind, protocol),
        // Only those with CAP_NET_RAW see the frames of a link.
        AF_PACKET => Err(Errno::EPERM),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// `socketpair(2)`.
///
/// # Errors
/// `EOPNOTSUPP` for families that have none; those of [`create`].
pub fn create_pair(
    thread: &Rc<Thread>,
    family: u32,
    kind: u32,
    protocol: u32,
) -> Result<(Socket, Socket)> {
    match family {
        1 => unix::create_pair(thread, kind, protocol),
        0..46 => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

impl File for Socket {
    fn read(&self, thread: &Rc<Thread>, _open: &OpenFile, to: &mut Sink) -> Result<usize> {
        let mut message = Incoming::plain(to);
        self.protocol.receive(self, thread, &mut message)
    }

    fn write(&self, thread: &Rc<Thread>, _open: &OpenFile, from: &mut Source) -> Result<usize> {
        let mut message = Outgoing::plain(from);
        let sent = self.protocol.send(self, thread, &mut message);
        if sent == Err(Errno::EPIPE) {
            raise_pipe(self, thread);
        }
        sent
    }

    fn deadline(&self, reads: bool) -> Deadline {
        if reads {
            self.receive_deadline()
        } else {
            self.send_deadline()
        }
    }

    fn writes_all(&self) -> bool {
        self.kind == SOCK_STREAM
    }

    fn poll(&self, _open: &OpenFile) -> Events {
        self.protocol.poll(self)
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.bell.queue)
    }

    fn ioctl(
        &self,
        thread: &Rc<Thread>,
        _open: &OpenFile,
        request: u32,
        argument: u64,
    ) -> Result<u64> {
        inet::ioctl::perform(self, thread, request, argument)
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(Metadata {
            device: SOCKFS,
            inode: self.inode,
            kind: Kind::Socket,
            mode: 0o777,
            links: 1,
            block_size: 4096,
            ..Metadata::default()
        })
    }

    fn release(&self) {
        self.protocol.release(self);
    }

    fn describe(&self) -> Vec<u8> {
        alloc::format!("socket:[{}]", self.inode).into_bytes()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What a program gets that writes to where nobody reads, unless it says otherwise: of records only the error tells.
pub fn raise_pipe(socket: &Socket, thread: &Rc<Thread>) {
    if socket.kind == SOCK_STREAM {
        crate::signal::pipe(thread);
    }
}

#[cfg(test)]
mod tests;
