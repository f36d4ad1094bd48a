//! TCP sockets (`tcp(7)`).

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use kiln_net::Stack;
use kiln_net::direct::{BindOptions, Binding, Ready, Stream};
use kiln_net::tcp::State;

use super::super::message::MessageFlags;
use super::super::options::{Switches, zerocopy};
use super::super::{
    AF_INET, AF_INET6, AF_UNSPEC, Address, Bell, Connect, Incoming, Outgoing, Protocol, Shutdown,
    Socket,
};
use super::notices::Notices;
use super::tcp_options::TcpOptions;
use super::{errno, has_sent};
use crate::process::Thread;
use crate::wait::Events;
use crate::{Errno, Result, shortage};

/// `net.core.somaxconn`
const MOST_BACKLOG: u32 = 4096;

/// How far a socket has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Neither listening nor connected, bound or not.
    Fresh,
    /// It listens.
    Listening,
    /// `connect(2)` has been called, and nobody has been told yet how it went.
    Connecting,
    /// There is, or was, a connection.
    Connected,
}

/// A TCP socket.
#[derive(Debug)]
pub struct Tcp {
    phase: Cell<Phase>,
    binding: RefCell<Option<Binding>>,
    stream: RefCell<Option<Rc<Stream>>>,
    /// An error of this connection was told; what follows is the end.
    told: Cell<bool>,
    /// An error of an attempt to connect that is to be told by `SO_ERROR` or the next call.
    failed: Cell<Option<Errno>>,
    shut_read: Cell<bool>,
    shut_write: Cell<bool>,
    zerocopy: Notices,
    pub(super) options: TcpOptions,
}

impl Default for Tcp {
    fn default() -> Self {
        Self::new()
    }
}

impl Tcp {
    /// A socket that is not connected.
    pub fn new() -> Self {
        Self::with_options(TcpOptions::default())
    }

    fn with_options(options: TcpOptions) -> Self {
        Self {
            phase: Cell::new(Phase::Fresh),
            binding: RefCell::default(),
            stream: RefCell::default(),
            told: Cell::new(false),
            failed: Cell::new(None),
            shut_read: Cell::new(false),
            shut_write: Cell::new(false),
            zerocopy: Notices::default(),
            options,
        }
    }

    /// The connection, if there is one.
    pub fn stream(&self) -> Option<Rc<Stream>> {
        self.stream.borrow().clone()
    }

    /// What it has bound, if it is not connected.
    pub fn bound(&self) -> Option<SocketAddr> {
        self.binding.borrow().as_ref().map(Binding::local)
    }

    /// Connections that wait to be accepted.
    pub fn waiting(&self) -> usize {
        self.binding.borrow().as_ref().map_or(0, Binding::waiting)
    }

    fn bind_options(&self, socket: &Socket) -> BindOptions {
        BindOptions {
            reuse_address: socket.options.has(Switches::REUSE_ADDRESS),
            reuse_port: socket.options.has(Switches::REUSE_PORT),
            v6only: socket.family == AF_INET6 && self.options.v6only.get(),
        }
    }

    fn bind_to(&self, socket: &Socket, address: SocketAddr) -> Result {
        let stack = stack_of(socket)?;
        let binding = Binding::new(&stack, address, self.bind_options(socket)).map_err(errno)?;
        *self.binding.borrow_mut() = Some(binding);
        Ok(())
    }

    /// What a new connection is set to.
    fn configure(&self, socket: &Socket, stream: &Stream) {
        self.options.apply(socket, stream);
    }

    /// An error of the connection: told once.
    fn error_of(&self, error: kiln_net::Error) -> Option<Errno> {
        (!self.told.replace(true)).then(|| errno(error))
    }

    /// Looks how connecting went.
    fn outcome(&self) -> Result<Connect> {
        let Some(stream) = self.stream() else {
            return Err(Errno::ECONNABORTED);
        };
        match stream.outcome() {
            Ok(None) => Ok(Connect::Already),
            Ok(Some(())) => {
                self.phase.set(Phase::Connected);
                Ok(Connect::Done)
            }
            Err(error) => {
                // Told already, by `SO_ERROR`: Linux has nothing more precise to say.
                let told = self.told.get();
                self.forget();
                Err(if told {
                    Errno::ECONNABORTED
                } else {
                    errno(error)
                })
            }
        }
    }

    /// Back to a socket that may connect.
    fn forget(&self) {
        let old = self.stream.borrow_mut().take();
        drop(old);
        self.phase.set(Phase::Fresh);
        self.told.set(false);
    }

    fn disconnect(&self) -> Result<Connect> {
        if let Some(stream) = self.stream() {
            stream.abort();
            has_sent(stream.is_local());
        }
        self.forget();
        let old = self.binding.borrow_mut().take();
        drop(old);
        Ok(Connect::Done)
    }
}

/// The stack as a socket sees it: all of it, or one link.
pub(super) fn stack_of(socket: &Socket) -> Result<Stack> {
    let kernel = crate::kernel();
    let device = socket.options.device.borrow();
    if device.is_empty() || *device == b"lo"[..] {
        return Ok(kernel.network.stack().clone());
    }
    super::links::stack_on(&device).ok_or(Errno::ENODEV)
}

/// The address that stands for all of a family.
pub(super) fn any(family: u16) -> SocketAddr {
    let ip: IpAddr = if family == AF_INET {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    SocketAddr::new(ip, 0)
}

/// Events for what a stream is ready for.
fn events_of(ready: Ready) -> Events {
    let mut events = Events::empty();
    if ready.any(Ready::READ) {
        events |= Events::READABLE;
    }
    if ready.any(Ready::WRITE) {
        events |= Events::WRITABLE;
    }
    if ready.any(Ready::PEER_CLOSED) {
        events |= Events::READABLE | Events::RDHUP;
    }
    if ready.any(Ready::CLOSED) {
        events |= Events::HUP;
    }
    events
}

impl Protocol for Tcp {
    fn bind(&self, socket: &Socket, _thread: &Rc<Thread>, address: &Address) -> Result {
        let address = address.inet(socket.family)?;
        if self.phase.get() != Phase::Fresh || self.binding.borrow().is_some() {
            return Err(Errno::EINVAL);
        }
        if address.ip().is_multicast() {
            return Err(Errno::EADDRNOTAVAIL);
        }
        self.bind_to(socket, address)
    }

    fn listen(&self, socket: &Socket, _thread: &Rc<Thread>, backlog: u32) -> Result {
        if !matches!(self.phase.get(), Phase::Fresh | Phase::Listening) {
            return Err(Errno::EINVAL);
        }
        if self.binding.borrow().is_none() {
            self.bind_to(socket, any(socket.family))?;
        }
        let binding = self.binding.borrow();
        let binding = binding.as_ref().ok_or(Errno::EINVAL)?;
        let backlog = backlog.min(MOST_BACKLOG) as usize + 1;
        let bell = socket.bell.clone();
        binding.listen(backlog, bell).map_err(errno)?;
        self.phase.set(Phase::Listening);
        self.shut_read.set(false);
        Ok(())
    }

    fn accept(&self, socket: &Socket) -> Result<(Socket, Address)> {
        if self.phase.get() != Phase::Listening || self.shut_read.get() {
            return Err(Errno::EINVAL);
        }
        let accepted = self.binding.borrow().as_ref().and_then(Binding::accept);
        let (stream, peer) = accepted.ok_or(Errno::EAGAIN)?;
        let bell = Rc::new(Bell::default());
        stream.watch(bell.clone());
        let tcp = Self::with_options(self.options.clone());
        tcp.phase.set(Phase::Connected);
        tcp.configure(socket, &stream);
        *tcp.stream.borrow_mut() = Some(Rc::new(stream));
        let kind = (socket.family, socket.kind, socket.number);
        let new = Socket::assemble(kind, socket.options.clone(), bell, Box::new(tcp));
        Ok((new, Address::from_inet(socket.family, peer)))
    }

    fn connect(&self, socket: &Socket, _thread: &Rc<Thread>, address: &Address) -> Result<Connect> {
        if address.bytes().len() < 2 {
            return Err(Errno::EINVAL);
        }
        if address.family() == AF_UNSPEC {
            return self.disconnect();
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        match self.phase.get() {
            Phase::Connecting => return self.outcome(),
            Phase::Connected | Phase::Listening => return Err(Errno::EISCONN),
            Phase::Fresh => {}
        }
        let remote = address.inet(socket.family)?;
        if remote.ip().is_multicast() || remote.ip() == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(Errno::ENETUNREACH);
        }
        if remote.port() == 0 {
            return Err(Errno::ECONNREFUSED);
        }
        let stack = stack_of(socket)?;
        let bound = self.binding.borrow().as_ref().map(Binding::local);
        let bell = socket.bell.clone();
        let stream = Stream::connect(&stack, bound, remote, bell).map_err(|error| match error {
            kiln_net::Error::Unreachable => Errno::ENETUNREACH,
            // A pair of addresses that is in use: as if there were no address left.
            kiln_net::Error::AddressInUse => Errno::EADDRNOTAVAIL,
            kiln_net::Error::AddressNotAvailable if bound.is_none() => Errno::ENETUNREACH,
            kiln_net::Error::Exhausted => Errno::EADDRNOTAVAIL,
            error => errno(error),
        })?;
        self.configure(socket, &stream);
        let local = stream.is_local();
        *self.stream.borrow_mut() = Some(Rc::new(stream));
        self.phase.set(Phase::Connecting);
        has_sent(local);
        Ok(Connect::Started)
    }

    fn name(&self, socket: &Socket) -> Result<Address> {
        if let Some(stream) = self.stream()
            && let Ok((local, _)) = stream.ends()
        {
            return Ok(Address::from_inet(socket.family, local));
        }
        let bound = self.binding.borrow().as_ref().map(Binding::local);
        let address = bound.unwrap_or_else(|| any(socket.family));
        Ok(Address::from_inet(socket.family, address))
    }

    fn peer(&self, socket: &Socket) -> Result<Address> {
        let stream = self.stream().ok_or(Errno::ENOTCONN)?;
        if matches!(stream.state(), State::Closed | State::SynSent) {
            return Err(Errno::ENOTCONN);
        }
        let (_, peer) = stream.ends().map_err(|_| Errno::ENOTCONN)?;
        Ok(Address::from_inet(socket.family, peer))
    }

    fn send(&self, socket: &Socket, _thread: &Rc<Thread>, message: &mut Outgoing) -> Result<usize> {
        // Urgent data go in line.
        if message.flags.contains(MessageFlags::FASTOPEN) {
            return Err(Errno::EOPNOTSUPP);
        }
        let stream = self.stream.borrow();
        let stream = stream.as_deref().ok_or(Errno::EPIPE)?;
        let most = message.data.remaining();
        if self.phase.get() == Phase::Connecting {
            match stream.outcome() {
                Ok(None) => return Err(Errno::EAGAIN),
                Ok(Some(())) => {}
                Err(error) => return Err(self.error_of(error).unwrap_or(Errno::EPIPE)),
            }
        }
        if self.shut_write.get() {
            return Err(Errno::EPIPE);
        }
        let more = message.flags.contains(MessageFlags::MORE);
        if more || self.options.more.get() {
            self.options.more.set(more);
            stream.set_cork(more || self.options.cork.get());
        }
        shortage::content(0, Errno::ENOBUFS)?;
        let mut fault = None;
        let data = &mut *message.data;
        let written = stream.write_with(most, |buffer, wanted| {
            data.append(buffer, wanted).unwrap_or_else(|error| {
                fault = Some(error);
                0
            })
        });
        match written {
            Ok(Some(0)) if let Some(error) = fault => Err(error),
            Ok(Some(count)) => {
                if message.flags.contains(MessageFlags::ZEROCOPY) && zerocopy(socket) {
                    self.zerocopy.add();
                    socket.bell.queue.wake(Events::ERR);
                }
                has_sent(stream.is_local());
                Ok(count)
            }
            Ok(None) => Err(Errno::EAGAIN),
            Err(kiln_net::Error::BrokenPipe) => {
                self.told.set(true);
                Err(Errno::EPIPE)
            }
            Err(error) => Err(self.error_of(error).unwrap_or(Errno::EPIPE)),
        }
    }

    fn receive(
        &self,
        socket: &Socket,
        _thread: &Rc<Thread>,
        message: &mut Incoming,
    ) -> Result<usize> {
        if message.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EINVAL);
        }
        let stream = self.stream.borrow();
        let Some(stream) = stream.as_deref() else {
            return Err(Errno::ENOTCONN);
        };
        if message.flags.contains(MessageFlags::ERRQUEUE) {
            return self.zerocopy.take(socket, message);
        }
        let most = message.data.remaining();
        let discards = message.flags.contains(MessageFlags::TRUNC);
        let mut fault = None;
        let data = &mut *message.data;
        let copy = |bytes: &[u8]| {
            if discards {
                return bytes.len();
            }
            data.put(bytes).unwrap_or_else(|error| {
                fault = Some(error);
                0
            })
        };
        let peeks = message.flags.contains(MessageFlags::PEEK);
        let read = if peeks {
            stream.peek_with(0, most, copy)
        } else {
            stream.read_with(most, copy)
        };
        match read {
            Ok(Some(0)) if let Some(error) = fault => Err(error),
            Ok(Some(count)) => {
                if discards {
                    // What is dropped takes up room as if it had been given.
                    message.data.hold_back(most - count);
                }
                if count > 0 && !peeks && stream.is_local() {
                    has_sent(true);
                }
                Ok(count)
            }
            Ok(None) if self.shut_read.get() => Ok(0),
            Ok(None) => Err(Errno::EAGAIN),
            Err(error) => self.error_of(error).map_or(Ok(0), Err),
        }
    }

    fn shutdown(&self, socket: &Socket, how: Shutdown) -> Result {
        if self.phase.get() == Phase::Listening {
            if how.read {
                self.shut_read.set(true);
                // Whoever connects from now on is refused.
                let old = self.binding.borrow_mut().take();
                let local = old.as_ref().map(Binding::local);
                drop(old);
                self.phase.set(Phase::Fresh);
                if let Some(local) = local {
                    let _ = self.bind_to(socket, local);
                }
                socket.bell.queue.wake_all(Events::READABLE | Events::HUP);
            }
            return Ok(());
        }
        let stream = self.stream().ok_or(Errno::ENOTCONN)?;
        if stream.state() == State::Closed {
            return Err(Errno::ENOTCONN);
        }
        if how.write {
            self.shut_write.set(true);
            stream.shutdown();
            has_sent(stream.is_local());
        }
        if how.read {
            self.shut_read.set(true);
        }
        let closed = self.shut_read.get() && self.shut_write.get();
        let mut events = Events::READABLE | Events::WRITABLE | Events::RDHUP;
        events.set(Events::HUP, closed);
        socket.bell.queue.wake(events);
        Ok(())
    }

    fn poll(&self, socket: &Socket) -> Events {
        if self.phase.get() == Phase::Listening {
            return if self.waiting() > 0 {
                Events::READABLE
            } else {
                Events::empty()
            };
        }
        let stream = self.stream.borrow();
        let Some(stream) = stream.as_deref() else {
            return Events::WRITABLE | Events::HUP;
        };
        let ready = stream.ready();
        let mut events = events_of(ready);
        let least = socket.options.receive_least.get();
        let over = Ready::PEER_CLOSED | Ready::CLOSED | Ready::ERROR;
        if least > 1 && !ready.any(over) && stream.readable() < least as usize {
            events.remove(Events::READABLE);
        }
        if ready.any(Ready::ERROR) && !self.told.get() || self.zerocopy.waits() {
            events |= Events::ERR;
        }
        if self.shut_read.get() {
            events |= Events::READABLE | Events::RDHUP;
            if self.shut_write.get() {
                events |= Events::HUP;
            }
        }
        events
    }

    fn take_error(&self, _socket: &Socket) -> Option<Errno> {
        if let Some(error) = self.failed.take() {
            return Some(error);
        }
        let error = self.stream.borrow().as_ref()?.error()?;
        self.error_of(error)
    }

    fn is_listening(&self) -> bool {
        self.phase.get() == Phase::Listening
    }

    fn set_option(
        &self,
        socket: &Socket,
        _thread: &Rc<Thread>,
        level: u32,
        name: u32,
        value: &[u8],
    ) -> Result {
        let bound = self.binding.borrow().is_some() || self.phase.get() != Phase::Fresh;
        self.options.set(socket, (level, name), value, bound)?;
        if let Some(stream) = self.stream.borrow().as_deref() {
            self.options.apply_changed(socket, (level, name), stream);
            has_sent(stream.is_local());
        }
        Ok(())
    }

    fn option(
        &self,
        socket: &Socket,
        _thread: &Rc<Thread>,
        level: u32,
        name: u32,
        argument: &[u8],
    ) -> Result<Vec<u8>> {
        let stream = self.stream();
        self.options
            .get(socket, (level, name), argument, stream.as_deref())
    }

    fn options_changed(&self, socket: &Socket) {
        if let Some(binding) = self.binding.borrow().as_ref() {
            binding.set_options(self.bind_options(socket));
        }
        if let Some(stream) = self.stream() {
            self.options.apply(socket, &stream);
        }
    }

    fn readable(&self, _socket: &Socket) -> Result<usize> {
        if self.phase.get() == Phase::Listening {
            return Err(Errno::EINVAL);
        }
        Ok(self.stream().map_or(0, |stream| stream.readable()))
    }

    fn unsent(&self, _socket: &Socket) -> Result<usize> {
        if self.phase.get() == Phase::Listening {
            return Err(Errno::EINVAL);
        }
        Ok(self.stream().map_or(0, |stream| stream.unacknowledged()))
    }

    fn release(&self, socket: &Socket) {
        let stream = self.stream.borrow_mut().take();
        if let Some(stream) = stream {
            let local = stream.is_local();
            if socket.options.linger.get() == Some(0) {
                stream.abort();
            }
            drop(stream);
            has_sent(local);
        }
        let binding = self.binding.borrow_mut().take();
        if binding.is_some() {
            drop(binding);
            has_sent(false);
            crate::kernel().network.settle_local();
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
