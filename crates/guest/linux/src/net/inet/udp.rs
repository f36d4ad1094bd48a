//! UDP sockets (`udp(7)`).

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};

use kiln_net::direct::{BindOptions, Datagrams, Ready, Received, SendOptions};

use super::super::message::MessageFlags;
use super::super::options::{SOL_SOCKET, Switches, int, number};
use super::super::{
    AF_INET6, AF_UNSPEC, Address, Connect, Incoming, Outgoing, Protocol, Shutdown, Socket,
};
use super::ip_options::{
    IP_PKTINFO, IP_RECVTOS, IP_RECVTTL, IPV6_RECVHOPLIMIT, IPV6_RECVPKTINFO, IPV6_V6ONLY, IpOptions,
};
use super::tcp::{any, stack_of};
use super::{IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP, errno, has_sent, multicast};
use crate::process::Thread;
use crate::wait::Events;
use crate::{Errno, Result};

/// The longest datagram over any family.
const LONGEST: usize = 65_527;
/// Datagrams up to this length need no memory of their own on their way out.
const SHORT: usize = 2048;
/// `UDP_CORK`
const UDP_CORK: u32 = 1;
/// `IP_TTL` as control data.
const IP_TTL: u32 = 2;
/// `IP_TOS` as control data.
const IP_TOS: u32 = 1;
/// `IPV6_PKTINFO`
const IPV6_PKTINFO: u32 = 50;
/// `IPV6_HOPLIMIT`
const IPV6_HOPLIMIT: u32 = 52;
/// `IPV6_TCLASS`
const IPV6_TCLASS: u32 = 67;
/// `SCM_TIMESTAMP`
const SCM_TIMESTAMP: u32 = 29;
/// `SCM_TIMESTAMPNS`
const SCM_TIMESTAMPNS: u32 = 35;
/// `SO_RXQ_OVFL`
const SO_RXQ_OVFL: u32 = 40;

/// A UDP socket.
#[derive(Debug, Default)]
pub struct Udp {
    bound: RefCell<Option<Rc<Datagrams>>>,
    /// The program has bound it: it stays so when it is disconnected.
    by_program: Cell<bool>,
    peer: Cell<Option<SocketAddr>>,
    /// The address that datagrams to the peer come from.
    source: Cell<Option<IpAddr>>,
    shut_read: Cell<bool>,
    shut_write: Cell<bool>,
    v6only: Cell<bool>,
    options: IpOptions,
}

impl Udp {
    /// A socket that is neither bound nor connected.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is bound, for `/proc/net/udp`.
    pub fn ends(&self) -> Option<(SocketAddr, Option<SocketAddr>)> {
        let bound = self.bound.borrow();
        let mut local = bound.as_ref()?.local();
        if let Some(source) = self.source.get() {
            local.set_ip(source);
        }
        Some((local, self.peer.get()))
    }

    fn bind_options(&self, socket: &Socket) -> BindOptions {
        BindOptions {
            reuse_address: socket.options.has(Switches::REUSE_ADDRESS),
            reuse_port: socket.options.has(Switches::REUSE_PORT),
            v6only: socket.family == AF_INET6 && self.v6only.get(),
        }
    }

    fn bind_to(&self, socket: &Socket, address: SocketAddr) -> Result<Rc<Datagrams>> {
        let stack = stack_of(socket)?;
        let options = self.bind_options(socket);
        let bell = socket.bell.clone();
        let bound = Datagrams::bind(&stack, address, options, bell).map_err(errno)?;
        let bound = Rc::new(bound);
        if socket.options.has(Switches::RECEIVE_SET) {
            bound.set_limit(socket.options.receive_buffer.get() as usize);
        }
        *self.bound.borrow_mut() = Some(bound.clone());
        Ok(bound)
    }

    /// What it is bound to; a socket that is used without being bound gets a port of its own.
    pub(super) fn bound(&self, socket: &Socket) -> Result<Rc<Datagrams>> {
        let bound = self.bound.borrow().clone();
        match bound {
            Some(bound) => Ok(bound),
            None => self.bind_to(socket, any(socket.family)),
        }
    }

    fn disconnect(&self) -> Result<Connect> {
        self.peer.set(None);
        self.source.set(None);
        if self.by_program.get() {
            if let Some(bound) = self.bound.borrow().as_ref() {
                bound.connect(None).map_err(errno)?;
            }
        } else {
            let old = self.bound.borrow_mut().take();
            drop(old);
        }
        Ok(Connect::Done)
    }

    /// How control data say that a datagram is to be sent.
    fn send_options(&self, message: &Outgoing, to: IpAddr) -> Result<SendOptions> {
        let mut options = SendOptions::default();
        let (level, name) = match (to.is_ipv4(), to.is_multicast()) {
            (true, false) => (IPPROTO_IP, IP_TTL),
            (true, true) => (IPPROTO_IP, super::ip_options::IP_MULTICAST_TTL),
            (false, false) => (IPPROTO_IPV6, 16),
            (false, true) => (IPPROTO_IPV6, super::ip_options::IPV6_MULTICAST_HOPS),
        };
        options.hop_limit = u8::try_from(self.options.value(level, name)).ok();
        if to.is_multicast() {
            options.link = multicast::link_of(&self.options, to);
        }
        for item in &message.control {
            let data = &item.data[..];
            match (item.level, item.kind) {
                (IPPROTO_IP, IP_PKTINFO) if data.len() >= 12 => {
                    let source = data.get(4..8).and_then(|b| <[u8; 4]>::try_from(b).ok());
                    let source = Ipv4Addr::from(source.unwrap_or_default());
                    options.link = link_index(int(data)?)?.or(options.link);
                    if !source.is_unspecified() {
                        options.source = Some(source.into());
                    }
                }
                (IPPROTO_IPV6, IPV6_PKTINFO) if data.len() >= 20 => {
                    let source = data.first_chunk::<16>().copied().unwrap_or_default();
                    let source = core::net::Ipv6Addr::from(source);
                    options.link = link_index(int(&data[16..])?)?.or(options.link);
                    if !source.is_unspecified() {
                        let mapped = source.to_ipv4_mapped().map(IpAddr::V4);
                        options.source = Some(mapped.unwrap_or(source.into()));
                    }
                }
                (IPPROTO_IP, IP_TTL) | (IPPROTO_IPV6, IPV6_HOPLIMIT) => {
                    let limit = u8::try_from(int(data)?).map_err(|_| Errno::EINVAL)?;
                    options.hop_limit = Some(limit);
                }
                (IPPROTO_IP, IP_TOS) | (IPPROTO_IPV6, IPV6_TCLASS) => {}
                (SOL_SOCKET, _) => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(options)
    }

    /// Tells with a datagram what the program wants to know of it.
    fn add_control(&self, socket: &Socket, message: &mut Incoming, received: &Received) {
        if !message.wants_control {
            return;
        }
        let link = (received.link as u32).wrapping_add(1);
        let ttl = u32::from(received.hop_limit);
        match received.destination {
            IpAddr::V4(destination) => {
                if self.options.has(IPPROTO_IP, IP_PKTINFO) {
                    let mut info = Vec::from(link.to_ne_bytes());
                    info.extend(destination.octets());
                    info.extend(destination.octets());
                    message.add_control(IPPROTO_IP, IP_PKTINFO, &info);
                }
                if self.options.has(IPPROTO_IP, IP_RECVTTL) {
                    message.add_control(IPPROTO_IP, IP_TTL, &ttl.to_ne_bytes());
                }
                if self.options.has(IPPROTO_IP, IP_RECVTOS) {
                    message.add_control(IPPROTO_IP, IP_TOS, &[0]);
                }
            }
            IpAddr::V6(_) => {
                if self.options.has(IPPROTO_IPV6, IPV6_RECVHOPLIMIT) {
                    message.add_control(IPPROTO_IPV6, IPV6_HOPLIMIT, &ttl.to_ne_bytes());
                }
            }
        }
        if socket.family == AF_INET6 && self.options.has(IPPROTO_IPV6, IPV6_RECVPKTINFO) {
            let octets = match received.destination {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            let mut info = Vec::from(octets);
            info.extend(link.to_ne_bytes());
            message.add_control(IPPROTO_IPV6, IPV6_PKTINFO, &info);
        }
        add_time(socket, message);
        if socket.options.has(Switches::DROPS)
            && let Some(bound) = self.bound.borrow().as_ref()
            && bound.dropped() > 0
        {
            message.add_control(SOL_SOCKET, SO_RXQ_OVFL, &bound.dropped().to_ne_bytes());
        }
    }
}

/// `SO_TIMESTAMP`, `SO_TIMESTAMPNS`: when the message was received.
pub(in crate::net) fn add_time(socket: &Socket, message: &mut Incoming) {
    let nanos = socket.options.has(Switches::TIMESTAMP_NANOS);
    if !nanos && !socket.options.has(Switches::TIMESTAMP) {
        return;
    }
    let now = crate::platform::wall();
    let (seconds, rest) = (now / 1_000_000_000, now % 1_000_000_000);
    let (kind, rest) = if nanos {
        (SCM_TIMESTAMPNS, rest)
    } else {
        (SCM_TIMESTAMP, rest / 1000)
    };
    let time: Vec<u8> = [seconds, rest]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    message.add_control(SOL_SOCKET, kind, &time);
}

/// The stack's place of an interface that programs know by its number; 0 is none.
pub(super) fn link_index(number: i32) -> Result<Option<u8>> {
    match number {
        0 => Ok(None),
        number => {
            super::links::name_of(number).ok_or(Errno::ENODEV)?;
            Ok(u8::try_from(number - 1).ok())
        }
    }
}

impl Protocol for Udp {
    fn bind(&self, socket: &Socket, _thread: &Rc<Thread>, address: &Address) -> Result {
        let address = address.inet(socket.family)?;
        if self.bound.borrow().is_some() {
            return Err(Errno::EINVAL);
        }
        self.bind_to(socket, address)?;
        self.by_program.set(true);
        Ok(())
    }

    fn connect(&self, socket: &Socket, _thread: &Rc<Thread>, address: &Address) -> Result<Connect> {
        if address.bytes().len() < 2 {
            return Err(Errno::EINVAL);
        }
        if address.family() == AF_UNSPEC {
            return self.disconnect();
        }
        let peer = address.inet(socket.family)?;
        if peer.ip() == IpAddr::V4(Ipv4Addr::BROADCAST) && !socket.options.has(Switches::BROADCAST)
        {
            return Err(Errno::EACCES);
        }
        let stack = stack_of(socket)?;
        let source = Datagrams::source_for(&stack, peer.ip()).map_err(|_| Errno::ENETUNREACH)?;
        let bound = self.bound(socket)?;
        bound.connect(Some(peer)).map_err(errno)?;
        if bound.local().ip().is_unspecified() {
            self.source.set(Some(source));
        }
        let ip = if peer.ip().is_unspecified() {
            source
        } else {
            peer.ip()
        };
        self.peer.set(Some(SocketAddr::new(ip, peer.port())));
        Ok(Connect::Done)
    }

    fn name(&self, socket: &Socket) -> Result<Address> {
        let local = self.ends().map_or(any(socket.family), |ends| ends.0);
        Ok(Address::from_inet(socket.family, local))
    }

    fn peer(&self, socket: &Socket) -> Result<Address> {
        let peer = self.peer.get().ok_or(Errno::ENOTCONN)?;
        Ok(Address::from_inet(socket.family, peer))
    }

    fn send(&self, socket: &Socket, _thread: &Rc<Thread>, message: &mut Outgoing) -> Result<usize> {
        if message.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.shut_write.get() {
            return Err(Errno::EPIPE);
        }
        let to = match &message.to {
            Some(to) if to.family() == AF_UNSPEC && socket.family == AF_INET6 => {
                self.peer.get().ok_or(Errno::EDESTADDRREQ)?
            }
            Some(to) => to.inet(socket.family)?,
            None => self.peer.get().ok_or(Errno::EDESTADDRREQ)?,
        };
        if to.port() == 0 {
            return Err(Errno::EINVAL);
        }
        let len = message.data.remaining();
        if len > LONGEST {
            return Err(Errno::EMSGSIZE);
        }
        if to.is_ipv4() && socket.family == AF_INET6 && self.v6only.get() {
            return Err(Errno::ENETUNREACH);
        }
        if to.ip() == IpAddr::V4(Ipv4Addr::BROADCAST) && !socket.options.has(Switches::BROADCAST) {
            return Err(Errno::EACCES);
        }
        let options = self.send_options(message, to.ip())?;
        let bound = self.bound(socket)?;
        let mut short = [0; SHORT];
        let mut long = Vec::new();
        let data = match short.get_mut(..len) {
            Some(short) => {
                let taken = message.data.take(short)?;
                &short[..taken]
            }
            None => {
                message.data.append(&mut long, len)?;
                &long[..]
            }
        };
        if data.len() < len {
            return Err(Errno::EFAULT);
        }
        let sent = bound.send(data, to, options).map_err(|error| match error {
            kiln_net::Error::Unreachable => Errno::ENETUNREACH,
            kiln_net::Error::AddressNotAvailable if options.source.is_none() => {
                if bound.local().ip().is_unspecified() {
                    Errno::ENETUNREACH
                } else {
                    Errno::EINVAL
                }
            }
            error => errno(error),
        })?;
        has_sent(bound.is_local(to.ip()));
        if sent { Ok(len) } else { Err(Errno::EAGAIN) }
    }

    fn receive(
        &self,
        socket: &Socket,
        _thread: &Rc<Thread>,
        message: &mut Incoming,
    ) -> Result<usize> {
        let flags = message.flags;
        if flags.intersects(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        if flags.contains(MessageFlags::ERRQUEUE) {
            return Err(Errno::EAGAIN);
        }
        let bound = self.bound.borrow();
        let Some(bound) = bound.as_ref() else {
            return if self.shut_read.get() {
                Ok(0)
            } else {
                Err(Errno::EAGAIN)
            };
        };
        let take = !flags.contains(MessageFlags::PEEK);
        let data = &mut *message.data;
        let received = bound.receive_with(take, |bytes| {
            let fits = bytes.len().min(data.remaining());
            let put = data.put(&bytes[..fits])?;
            Ok::<usize, Errno>(put)
        });
        match received.map_err(errno)? {
            Some((received, put)) => {
                let put = put?;
                message.from = Some(Address::from_inet(socket.family, received.source));
                self.add_control(socket, message, &received);
                if received.len > put {
                    message.told |= MessageFlags::TRUNC;
                }
                Ok(if flags.contains(MessageFlags::TRUNC) {
                    received.len
                } else {
                    put
                })
            }
            None if self.shut_read.get() => Ok(0),
            None => Err(Errno::EAGAIN),
        }
    }

    fn shutdown(&self, socket: &Socket, how: Shutdown) -> Result {
        self.shut_read.set(self.shut_read.get() || how.read);
        self.shut_write.set(self.shut_write.get() || how.write);
        socket
            .bell
            .queue
            .wake(Events::READABLE | Events::WRITABLE | Events::RDHUP);
        // Without a peer it is an error, and those who wait are woken nevertheless.
        self.peer.get().map(drop).ok_or(Errno::ENOTCONN)
    }

    fn poll(&self, _socket: &Socket) -> Events {
        let mut events = Events::empty();
        match self.bound.borrow().as_ref() {
            Some(bound) => {
                let ready = bound.ready();
                if ready.any(Ready::READ) {
                    events |= Events::READABLE;
                }
                if ready.any(Ready::WRITE) {
                    events |= Events::WRITABLE;
                }
                if ready.any(Ready::ERROR) {
                    events |= Events::ERR;
                }
            }
            None => events |= Events::WRITABLE,
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
        self.bound.borrow().as_ref()?.take_error().map(errno)
    }

    fn set_option(
        &self,
        socket: &Socket,
        _thread: &Rc<Thread>,
        level: u32,
        name: u32,
        value: &[u8],
    ) -> Result {
        match (level, name) {
            (IPPROTO_IPV6, IPV6_V6ONLY) => {
                if self.bound.borrow().is_some() {
                    return Err(Errno::EINVAL);
                }
                self.v6only.set(int(value)? != 0);
                Ok(())
            }
            (IPPROTO_UDP, UDP_CORK) => match int(value)? {
                0 => Ok(()),
                _ => Err(Errno::ENOPROTOOPT),
            },
            (IPPROTO_IP | IPPROTO_IPV6, name) if multicast::is_option(level, name) => {
                let bound = || self.bound(socket);
                multicast::set(&self.options, level, name, value, bound)
            }
            (IPPROTO_IP | IPPROTO_IPV6, _) => self.options.set(socket, level, name, value),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn option(
        &self,
        socket: &Socket,
        _thread: &Rc<Thread>,
        level: u32,
        name: u32,
        argument: &[u8],
    ) -> Result<Vec<u8>> {
        match (level, name) {
            (IPPROTO_IPV6, IPV6_V6ONLY) => Ok(number(u32::from(self.v6only.get()))),
            (IPPROTO_UDP, UDP_CORK) => Ok(number(0)),
            (IPPROTO_UDP, _) => Err(Errno::ENOPROTOOPT),
            (IPPROTO_IP | IPPROTO_IPV6, _) => self.options.get(socket, level, name, argument),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn options_changed(&self, socket: &Socket) {
        if let Some(bound) = self.bound.borrow().as_ref() {
            bound.set_options(self.bind_options(socket));
            if socket.options.has(Switches::RECEIVE_SET) {
                bound.set_limit(socket.options.receive_buffer.get() as usize);
            }
        }
    }

    fn readable(&self, _socket: &Socket) -> Result<usize> {
        let bound = self.bound.borrow();
        Ok(bound.as_ref().map_or(0, |bound| bound.next_len()))
    }

    fn unsent(&self, _socket: &Socket) -> Result<usize> {
        Ok(0)
    }

    fn release(&self, _socket: &Socket) {
        let old = self.bound.borrow_mut().take();
        drop(old);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
