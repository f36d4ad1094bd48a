//! ICMP sockets: pings (`icmp(7)`). Those of kind `SOCK_DGRAM` are for everybody; raw ones, for which `CAP_NET_RAW` is needed, take the answers
//! to all pings, with their IP header.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};
use core::net::{IpAddr, SocketAddr};

use kiln_net::direct::{Pings, Ready, SendOptions};

use super::super::message::MessageFlags;
use super::super::{
    AF_INET, AF_INET6, AF_UNSPEC, Address, Connect, Incoming, Outgoing, Protocol, SOCK_RAW, Socket,
};
use super::ip_options::{IP_RECVTTL, IPV6_RECVHOPLIMIT, IpOptions};
use super::tcp::{any, stack_of};
use super::{IPPROTO_IP, IPPROTO_IPV6, errno, has_sent};
use crate::process::Thread;
use crate::wait::Events;
use crate::{Errno, Result};

/// The longest message.
const LONGEST: usize = 65_507;
/// Bytes of an IPv4 header.
const IP_HEADER: usize = 20;
/// `SOL_RAW`, `SOL_ICMPV6`: filters of raw sockets.
const FILTER_LEVELS: [u32; 2] = [255, 58];

/// A socket for pings.
#[derive(Debug, Default)]
pub struct Ping {
    pings: RefCell<Option<Rc<Pings>>>,
    wanted: Cell<u16>,
    source: Cell<Option<IpAddr>>,
    peer: Cell<Option<IpAddr>>,
    options: IpOptions,
}

impl Ping {
    /// A socket without an identifier yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn pings(&self, socket: &Socket) -> Result<Rc<Pings>> {
        let known = self.pings.borrow().clone();
        if let Some(pings) = known {
            return Ok(pings);
        }
        let stack = stack_of(socket)?;
        let v6 = socket.family == AF_INET6;
        let bell = socket.bell.clone();
        let pings = if socket.kind == SOCK_RAW {
            Pings::all(&stack, v6, bell)
        } else {
            let wanted = self.wanted.get();
            Pings::new(&stack, v6, (wanted != 0).then_some(wanted), bell)
        };
        let pings = Rc::new(pings.map_err(errno)?);
        *self.pings.borrow_mut() = Some(pings.clone());
        Ok(pings)
    }

    fn address(&self, socket: &Socket, ip: Option<IpAddr>, port: u16) -> Address {
        let ip = ip.unwrap_or(any(socket.family).ip());
        Address::from_inet(socket.family, SocketAddr::new(ip, port))
    }
}

/// The header that raw sockets of IPv4 show before what they receive.
fn ip_header(from: IpAddr, to: IpAddr, ttl: u8, len: usize) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else {
        return Vec::new();
    };
    let total = ((IP_HEADER + len) as u16).to_be_bytes();
    let mut header = Vec::from([0x45, 0, total[0], total[1], 0, 0, 0, 0, ttl, 1, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    header
}

impl Protocol for Ping {
    fn bind(&self, socket: &Socket, _thread: &Rc<Thread>, address: &Address) -> Result {
        let address = address.inet(socket.family)?;
        if self.pings.borrow().is_some() {
            return Err(Errno::EINVAL);
        }
        self.wanted.set(address.port());
        self.pings(socket)?;
        if !address.ip().is_unspecified() {
            self.source.set(Some(address.ip()));
        }
        Ok(())
    }

    fn connect(&self, socket: &Socket, _thread: &Rc<Thread>, address: &Address) -> Result<Connect> {
        if address.family() == AF_UNSPEC && address.bytes().len() >= 2 {
            self.peer.set(None);
            return Ok(Connect::Done);
        }
        let peer = address.inet(socket.family)?.ip();
        self.pings(socket)?;
        self.peer.set(Some(peer));
        Ok(Connect::Done)
    }

    fn name(&self, socket: &Socket) -> Result<Address> {
        let identifier = self.pings.borrow().as_ref().map(|pings| pings.identifier());
        Ok(self.address(socket, self.source.get(), identifier.unwrap_or(0)))
    }

    fn peer(&self, socket: &Socket) -> Result<Address> {
        let peer = self.peer.get().ok_or(Errno::ENOTCONN)?;
        Ok(self.address(socket, Some(peer), 0))
    }

    fn send(&self, socket: &Socket, _thread: &Rc<Thread>, message: &mut Outgoing) -> Result<usize> {
        let to = match &message.to {
            Some(to) => to.inet(socket.family)?.ip(),
            None => self.peer.get().ok_or(Errno::EDESTADDRREQ)?,
        };
        let len = message.data.remaining();
        if len > LONGEST {
            return Err(Errno::EMSGSIZE);
        }
        let bytes = message.data.take_all()?;
        if bytes.len() < len {
            return Err(Errno::EFAULT);
        }
        let (level, name) = match socket.family {
            AF_INET => (IPPROTO_IP, 2),
            _ => (IPPROTO_IPV6, 16),
        };
        let options = SendOptions {
            source: self.source.get(),
            hop_limit: u8::try_from(self.options.value(level, name)).ok(),
            link: None,
        };
        let pings = self.pings(socket)?;
        let sent = pings
            .send(&bytes, to, options)
            .map_err(|error| match error {
                kiln_net::Error::Unreachable | kiln_net::Error::AddressNotAvailable => {
                    Errno::ENETUNREACH
                }
                error => errno(error),
            })?;
        has_sent(pings.is_local(to));
        if sent { Ok(len) } else { Err(Errno::ENOBUFS) }
    }

    fn receive(
        &self,
        socket: &Socket,
        _thread: &Rc<Thread>,
        message: &mut Incoming,
    ) -> Result<usize> {
        let flags = message.flags;
        if flags.contains(MessageFlags::ERRQUEUE) {
            return Err(Errno::EAGAIN);
        }
        let pings = self.pings(socket)?;
        let data = &mut *message.data;
        let take = !flags.contains(MessageFlags::PEEK);
        let raw = socket.kind == SOCK_RAW && socket.family == AF_INET;
        let received = pings.receive_with(take, |bytes| {
            let fits = bytes.len().min(data.remaining());
            if raw {
                Ok((0, bytes.to_vec()))
            } else {
                data.put(&bytes[..fits]).map(|put| (put, Vec::new()))
            }
        });
        let (received, result) = received.ok_or(Errno::EAGAIN)?;
        let (mut put, bytes) = result?;
        let mut len = received.len;
        if raw {
            let (from, to) = (received.source.ip(), received.destination);
            let mut all = ip_header(from, to, received.hop_limit, bytes.len());
            all.extend(bytes);
            len = all.len();
            all.truncate(data.remaining());
            put = data.put(&all)?;
        }
        message.from = Some(Address::from_inet(socket.family, received.source));
        let ttl = u32::from(received.hop_limit).to_ne_bytes();
        if self.options.has(IPPROTO_IP, IP_RECVTTL) && socket.family == AF_INET {
            message.add_control(IPPROTO_IP, 2, &ttl);
        }
        if self.options.has(IPPROTO_IPV6, IPV6_RECVHOPLIMIT) {
            message.add_control(IPPROTO_IPV6, 52, &ttl);
        }
        super::udp::add_time(socket, message);
        if len > put {
            message.told |= MessageFlags::TRUNC;
        }
        Ok(if flags.contains(MessageFlags::TRUNC) {
            len
        } else {
            put
        })
    }

    fn poll(&self, _socket: &Socket) -> Events {
        let mut events = Events::WRITABLE;
        if let Some(pings) = self.pings.borrow().as_ref()
            && pings.ready().any(Ready::READ)
        {
            events |= Events::READABLE;
        }
        events
    }

    fn set_option(
        &self,
        socket: &Socket,
        _thread: &Rc<Thread>,
        level: u32,
        name: u32,
        value: &[u8],
    ) -> Result {
        if FILTER_LEVELS.contains(&level) {
            // Only answers arrive anyway.
            return Ok(());
        }
        self.options.set(socket, level, name, value)
    }

    fn option(
        &self,
        socket: &Socket,
        _thread: &Rc<Thread>,
        level: u32,
        name: u32,
        argument: &[u8],
    ) -> Result<Vec<u8>> {
        self.options.get(socket, level, name, argument)
    }

    fn readable(&self, _socket: &Socket) -> Result<usize> {
        let pings = self.pings.borrow();
        Ok(pings.as_ref().map_or(0, |pings| pings.next_len()))
    }

    fn unsent(&self, _socket: &Socket) -> Result<usize> {
        Ok(0)
    }

    fn release(&self, _socket: &Socket) {
        let old = self.pings.borrow_mut().take();
        drop(old);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
