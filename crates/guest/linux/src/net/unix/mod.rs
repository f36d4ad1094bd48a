//! Sockets within the machine (`unix(7)`).
//!
//! An [`Endpoint`] is what others know of a socket: the address it has bound, what has been sent to it, who its peer is. A connection is two of
//! them that know each other. Names lead to endpoints: those of the file system by what is attached to an inode, abstract ones by a table.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`endpoint`] | endpoints, connections, listening |
//! | [`garbage`] | sockets that only messages hold |
//! | [`inbox`] | what has been sent and not been received yet |
//! | [`name`] | addresses |
//! | [`rights`] | `SCM_RIGHTS`, `SCM_CREDENTIALS` |

pub mod endpoint;
pub mod garbage;
pub mod inbox;
pub mod name;
pub mod rights;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;

use super::message::MessageFlags;
use super::options::{Options, SOL_SOCKET, Switches};
use super::{
    AF_UNIX, AF_UNSPEC, Address, Bell, Connect, Incoming, Outgoing, Protocol, SOCK_DGRAM, SOCK_RAW,
    SOCK_SEQPACKET, SOCK_STREAM, Shutdown, Socket,
};
use crate::process::Thread;
use crate::wait::Events;
use crate::{Errno, Result, shortage};

use endpoint::Endpoint;
use rights::{Ancillary, Ucred};

/// `SO_PEERCRED`
const SO_PEERCRED: u32 = 17;
/// `SO_PEERGROUPS`
const SO_PEERGROUPS: u32 = 59;
/// The longest message that is taken whatever the buffer's size (`net.core.wmem_max`).
const LONGEST: usize = 8 << 20;

/// What a socket of this family does.
#[derive(Debug)]
pub struct Unix {
    /// The endpoint.
    pub endpoint: Rc<Endpoint>,
}

fn kind_of(kind: u32, protocol: u32) -> Result<u32> {
    if protocol != 0 && protocol != u32::from(AF_UNIX) {
        return Err(Errno::EPROTONOSUPPORT);
    }
    match kind {
        SOCK_STREAM | SOCK_DGRAM | SOCK_SEQPACKET => Ok(kind),
        // Linux takes it for the same as datagrams.
        SOCK_RAW => Ok(SOCK_DGRAM),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}

fn assemble(options: Options, endpoint: Rc<Endpoint>) -> Socket {
    let kind = (AF_UNIX, endpoint.kind, 0);
    let bell = endpoint.bell.clone();
    Socket::assemble(kind, options, bell, Box::new(Unix { endpoint }))
}

/// `socket(2)`.
///
/// # Errors
/// `EPROTONOSUPPORT`, `ESOCKTNOSUPPORT`.
pub fn create(kind: u32, protocol: u32) -> Result<Socket> {
    let kind = kind_of(kind, protocol)?;
    Ok(assemble(Options::default(), Endpoint::new(kind)))
}

/// `socketpair(2)`.
///
/// # Errors
/// As [`create`].
pub fn create_pair(thread: &Thread, kind: u32, protocol: u32) -> Result<(Socket, Socket)> {
    let kind = kind_of(kind, protocol)?;
    let (first, second) = (Endpoint::new(kind), Endpoint::new(kind));
    let credentials = Ucred::of(thread);
    Endpoint::pair(&first, &second, credentials, credentials);
    Ok((
        assemble(Options::default(), first),
        assemble(Options::default(), second),
    ))
}

impl Unix {
    fn is_connected_kind(&self) -> bool {
        self.endpoint.kind != SOCK_DGRAM
    }

    /// What `SO_PASSCRED` asks for: the peer can tell who it is by its name.
    fn name_if_asked(&self, socket: &Socket) -> Result {
        if socket.options.has(Switches::PASS_CREDENTIALS) && self.endpoint.name().is_none() {
            name::autobind(&self.endpoint)?;
        }
        Ok(())
    }

    fn connect_stream(
        &self,
        socket: &Socket,
        thread: &Rc<Thread>,
        address: &Address,
    ) -> Result<Connect> {
        let endpoint = &self.endpoint;
        if endpoint.is_listening() {
            return Err(Errno::EINVAL);
        }
        if endpoint.was_connected() {
            return Err(Errno::EISCONN);
        }
        self.name_if_asked(socket)?;
        let listener = name::find(thread, address, endpoint.kind)?;
        endpoint.connect_to(&listener, Ucred::of(thread))?;
        Ok(Connect::Done)
    }

    fn connect_datagram(
        &self,
        socket: &Socket,
        thread: &Rc<Thread>,
        address: &Address,
    ) -> Result<Connect> {
        if address.family() == AF_UNSPEC {
            self.endpoint.disconnect();
            return Ok(Connect::Done);
        }
        self.name_if_asked(socket)?;
        let target = name::find(thread, address, SOCK_DGRAM)?;
        if !target.takes_from(&self.endpoint) {
            return Err(Errno::EPERM);
        }
        self.endpoint.set_target(&target);
        Ok(Connect::Done)
    }

    fn send_stream(
        &self,
        socket: &Socket,
        thread: &Rc<Thread>,
        message: &mut Outgoing,
    ) -> Result<usize> {
        if message.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let endpoint = &self.endpoint;
        if message.to.is_some() {
            return Err(if endpoint.was_connected() {
                Errno::EISCONN
            } else {
                Errno::EOPNOTSUPP
            });
        }
        let peer = endpoint.peer_to_write()?;
        let room = peer.inbox.room(limit(socket));
        let most = message.data.remaining();
        if most == 0 {
            return Ok(0);
        }
        if room == 0 {
            endpoint.wait_for(&peer);
            return Err(Errno::EAGAIN);
        }
        shortage::content(room.min(most) as u64, Errno::ENOBUFS)?;
        let ancillary = rights::of_message(thread, message)?;
        let taken = peer.inbox.append(message.data, room.min(most), ancillary)?;
        if taken < most {
            endpoint.wait_for(&peer);
        }
        peer.bell.queue.wake(Events::READABLE);
        Ok(taken)
    }

    fn send_record(
        &self,
        socket: &Socket,
        thread: &Rc<Thread>,
        message: &mut Outgoing,
    ) -> Result<usize> {
        if message.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let endpoint = &self.endpoint;
        let target = match &message.to {
            Some(to) if !self.is_connected_kind() => {
                let target = name::find(thread, to, SOCK_DGRAM)?;
                if endpoint.is_write_shut() {
                    return Err(Errno::EPIPE);
                }
                target
            }
            _ => endpoint.peer_to_write()?,
        };
        let len = message.data.remaining();
        if len > (limit(socket)).min(LONGEST) {
            return Err(Errno::EMSGSIZE);
        }
        if !self.is_connected_kind() {
            if !target.takes_from(endpoint) {
                return Err(Errno::EPERM);
            }
            if target.is_read_shut() {
                return Err(Errno::EPIPE);
            }
            self.name_if_asked(socket)?;
        }
        if !target.inbox.takes(len, limit(socket)) {
            endpoint.wait_for(&target);
            return Err(Errno::EAGAIN);
        }
        shortage::content(len as u64, Errno::ENOBUFS)?;
        let ancillary = rights::of_message(thread, message)?;
        let data = message.data.take_all()?;
        if data.len() < len {
            return Err(Errno::EFAULT);
        }
        target.inbox.push(data, ancillary, endpoint.name());
        target.bell.queue.wake(Events::READABLE);
        Ok(len)
    }

    /// Gives the control data and files of what was received.
    fn tell(&self, socket: &Socket, message: &mut Incoming, ancillary: Ancillary) {
        if socket.options.has(Switches::PASS_CREDENTIALS) {
            message.add_control(
                SOL_SOCKET,
                rights::SCM_CREDENTIALS,
                &ancillary.credentials.bytes(),
            );
        }
        message.files = ancillary.files.take();
        super::inet::udp::add_time(socket, message);
    }

    fn receive_stream(&self, socket: &Socket, message: &mut Incoming) -> Result<usize> {
        let endpoint = &self.endpoint;
        if message.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        if !endpoint.was_connected() {
            return Err(Errno::EINVAL);
        }
        let space = message.data.remaining();
        if space == 0 {
            return Ok(0);
        }
        if endpoint.inbox.is_empty() {
            if let Some(error) = endpoint.take_error() {
                return Err(error);
            }
            return if endpoint.is_read_shut() {
                Ok(0)
            } else {
                Err(Errno::EAGAIN)
            };
        }
        let peeks = message.flags.contains(MessageFlags::PEEK);
        let by_sender = socket.options.has(Switches::PASS_CREDENTIALS);
        let (count, ancillary) = endpoint.inbox.read(message.data, peeks, by_sender)?;
        if message.wants_from {
            message.from = endpoint.peer_name().map(|name| *name);
        }
        self.tell(socket, message, ancillary);
        if !peeks {
            endpoint.has_read();
        }
        Ok(count)
    }

    fn receive_record(&self, socket: &Socket, message: &mut Incoming) -> Result<usize> {
        let endpoint = &self.endpoint;
        let flags = message.flags;
        if flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.is_connected_kind() && !endpoint.was_connected() {
            return Err(Errno::ENOTCONN);
        }
        let peeks = flags.contains(MessageFlags::PEEK);
        let Some(record) = endpoint.inbox.take_record(peeks) else {
            if let Some(error) = endpoint.take_error() {
                return Err(error);
            }
            return if endpoint.is_read_shut() {
                Ok(0)
            } else {
                Err(Errno::EAGAIN)
            };
        };
        let len = record.data.len();
        let fits = len.min(message.data.remaining());
        let put = message
            .data
            .put(record.data.get(..fits).unwrap_or_default())?;
        if !peeks {
            endpoint.has_read();
        }
        message.from = record.from.as_deref().copied();
        if len > put {
            message.told |= MessageFlags::TRUNC;
        }
        self.tell(socket, message, record.ancillary);
        Ok(if flags.contains(MessageFlags::TRUNC) {
            len
        } else {
            put
        })
    }
}

/// Bytes that a sender may have waiting with its receiver.
fn limit(socket: &Socket) -> usize {
    socket.options.send_buffer.get() as usize
}

impl Protocol for Unix {
    fn bind(&self, _socket: &Socket, thread: &Rc<Thread>, address: &Address) -> Result {
        name::bind(thread, &self.endpoint, address)
    }

    fn listen(&self, _socket: &Socket, thread: &Rc<Thread>, backlog: u32) -> Result {
        if !self.is_connected_kind() {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.endpoint.name().is_none() || self.endpoint.was_connected() {
            return Err(Errno::EINVAL);
        }
        self.endpoint.listen(backlog.min(4096), Ucred::of(thread));
        Ok(())
    }

    fn accept(&self, socket: &Socket) -> Result<(Socket, Address)> {
        if !self.is_connected_kind() {
            return Err(Errno::EOPNOTSUPP);
        }
        let new = self.endpoint.accept()?;
        let peer = new.peer_name().map_or_else(name::unnamed, |name| *name);
        let options = Options::default();
        let kept = Switches::PASS_CREDENTIALS | Switches::PASS_SECURITY;
        options.switches.set(socket.options.switches.get() & kept);
        Ok((assemble(options, new), peer))
    }

    fn connect(&self, socket: &Socket, thread: &Rc<Thread>, address: &Address) -> Result<Connect> {
        if self.is_connected_kind() {
            self.connect_stream(socket, thread, address)
        } else {
            self.connect_datagram(socket, thread, address)
        }
    }

    fn name(&self, _socket: &Socket) -> Result<Address> {
        let name = self.endpoint.name();
        Ok(name.map_or_else(name::unnamed, |name| *name))
    }

    fn peer(&self, _socket: &Socket) -> Result<Address> {
        if !self.endpoint.has_peer() {
            return Err(Errno::ENOTCONN);
        }
        let name = self.endpoint.peer_name();
        Ok(name.map_or_else(name::unnamed, |name| *name))
    }

    fn send(&self, socket: &Socket, thread: &Rc<Thread>, message: &mut Outgoing) -> Result<usize> {
        if self.endpoint.kind == SOCK_STREAM {
            self.send_stream(socket, thread, message)
        } else {
            self.send_record(socket, thread, message)
        }
    }

    fn receive(
        &self,
        socket: &Socket,
        _thread: &Rc<Thread>,
        message: &mut Incoming,
    ) -> Result<usize> {
        if message.flags.contains(MessageFlags::ERRQUEUE) {
            return Err(Errno::EAGAIN);
        }
        if self.endpoint.kind == SOCK_STREAM {
            self.receive_stream(socket, message)
        } else {
            self.receive_record(socket, message)
        }
    }

    fn shutdown(&self, _socket: &Socket, how: Shutdown) -> Result {
        self.endpoint.shutdown(how);
        Ok(())
    }

    fn poll(&self, socket: &Socket) -> Events {
        self.endpoint.poll(limit(socket))
    }

    fn take_error(&self, _socket: &Socket) -> Option<Errno> {
        self.endpoint.take_error()
    }

    fn is_listening(&self) -> bool {
        self.endpoint.is_listening()
    }

    fn set_option(
        &self,
        _socket: &Socket,
        _thread: &Rc<Thread>,
        _level: u32,
        _name: u32,
        _value: &[u8],
    ) -> Result {
        Err(Errno::EOPNOTSUPP)
    }

    fn option(
        &self,
        _socket: &Socket,
        thread: &Rc<Thread>,
        level: u32,
        name: u32,
        argument: &[u8],
    ) -> Result<Vec<u8>> {
        match (level, name) {
            (SOL_SOCKET, SO_PEERCRED) => {
                let peer = self.endpoint.peer_credentials();
                Ok(peer.unwrap_or(Ucred::NOBODY).bytes().to_vec())
            }
            (SOL_SOCKET, SO_PEERGROUPS) => {
                if self.endpoint.peer_credentials().is_none() {
                    return Err(Errno::ENODATA);
                }
                let groups = thread.process.credentials.borrow().groups.clone();
                let bytes: Vec<u8> = groups
                    .iter()
                    .flat_map(|group| group.to_ne_bytes())
                    .collect();
                if argument.len() < bytes.len() {
                    return Err(Errno::ERANGE);
                }
                Ok(bytes)
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn readable(&self, _socket: &Socket) -> Result<usize> {
        if self.endpoint.is_listening() {
            return Err(Errno::EINVAL);
        }
        Ok(if self.is_connected_kind() {
            self.endpoint.inbox.held()
        } else {
            self.endpoint.inbox.next_len()
        })
    }

    fn unsent(&self, _socket: &Socket) -> Result<usize> {
        Ok(self.endpoint.peer().map_or(0, |peer| peer.inbox.held()))
    }

    fn release(&self, _socket: &Socket) {
        self.endpoint.close();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A bell of its own for a new endpoint.
fn bell() -> Rc<Bell> {
    Rc::default()
}
