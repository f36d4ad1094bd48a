//! Sockets: `socket(2)`, `bind(2)`, `listen(2)`, `accept(2)`, `connect(2)`, `send(2)`, `recv(2)`, `getsockopt(2)` and their kin.
//!
//! Only waiting, and the program's records, are dealt with here; what the calls do is [`net`]'s. Calls with `struct msghdr` are in
//! [`message`](super::message).

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::{Args, Call};
use crate::fs::{OpenFile, OpenFlags};
use crate::io::{IoVec, MAX_TRANSFER, Sink, Source};
use crate::net::options::SOL_SOCKET;
use crate::net::{
    self, AF_UNIX, AF_UNSPEC, Address, Connect, Incoming, MessageFlags, Outgoing, SOCK_STREAM,
    Shutdown, Socket,
};
use crate::process::Thread;
use crate::user::UserAddr;
use crate::wait::{Deadline, Events, Patience, sleep_until};
use crate::{Errno, Result, platform};

const IN_LINE: &str = "urgent data of TCP (MSG_OOB) go in line; MSG_OOB of AF_UNIX";

/// The calls of this family.
pub const CALLS: &[Call] = &[
    Call::full(41, "socket", 3, socket),
    Call::full(42, "connect", 3, connect),
    Call::full(43, "accept", 3, accept),
    Call::partly(44, "sendto", 6, sendto, IN_LINE),
    Call::full(45, "recvfrom", 6, recvfrom),
    Call::partly(46, "sendmsg", 3, super::message::sendmsg, IN_LINE),
    Call::full(47, "recvmsg", 3, super::message::recvmsg),
    Call::full(48, "shutdown", 2, shutdown),
    Call::full(49, "bind", 3, bind),
    Call::full(50, "listen", 2, listen),
    Call::full(51, "getsockname", 3, getsockname),
    Call::full(52, "getpeername", 3, getpeername),
    Call::full(53, "socketpair", 4, socketpair),
    Call::partly(
        54,
        "setsockopt",
        5,
        setsockopt,
        "TCP_CONGESTION, TCP_MAXSEG, TCP_DEFER_ACCEPT, IP_TOS and IP_TTL of TCP are kept without effect; SO_LINGER with a time closes in the background; SO_PEEK_OFF is refused",
    ),
    Call::full(55, "getsockopt", 5, getsockopt),
    Call::full(288, "accept4", 4, accept4),
    Call::full(299, "recvmmsg", 5, super::message::recvmmsg),
    Call::partly(307, "sendmmsg", 4, super::message::sendmmsg, IN_LINE),
];

/// `SOCK_NONBLOCK`, the same bit as `O_NONBLOCK`.
const SOCK_NONBLOCK: u32 = 0o4000;
/// `SOCK_CLOEXEC`
const SOCK_CLOEXEC: u32 = 0o2_000_000;
/// The longest value of an option.
const MAX_OPTION: usize = 4096;

/// The open socket behind a descriptor.
pub(super) fn open_socket(thread: &Thread, fd: i32) -> Result<Rc<OpenFile>> {
    let open = thread.process.files.get(fd)?;
    if open.flags.get().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    Ok(open)
}

/// The socket that is open.
pub(super) fn socket_of(open: &OpenFile) -> Result<&Socket> {
    open.downcast().ok_or(Errno::ENOTSOCK)
}

/// Sleeps until the socket is ready for any of `wanted`, or there is an error. `interrupted` is what a signal answers.
///
/// # Errors
/// `EAGAIN` when the deadline has passed; `ERESTARTSYS`, or `EINTR` if there is a deadline.
pub(super) fn wait(
    thread: &Rc<Thread>,
    socket: &Socket,
    patience: &mut Patience,
    wanted: Events,
    deadline: Deadline,
) -> Result {
    let wanted = wanted | Events::ERR | Events::HUP;
    let slept = patience.wait(thread, &socket.bell.queue, deadline, || {
        socket.protocol.poll(socket).intersects(wanted)
    });
    slept.map_err(|error| match error {
        Errno::ETIMEDOUT => Errno::EAGAIN,
        // signal(7): calls on a socket with a timeout are not restarted.
        _ if deadline.is_some() => Errno::EINTR,
        error => error,
    })
}

/// Splits `SOCK_NONBLOCK` and `SOCK_CLOEXEC` off.
fn flags_of(kind: u32) -> Result<(u32, OpenFlags, bool)> {
    let flags = kind & !0xf;
    if flags & !(SOCK_NONBLOCK | SOCK_CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut open = OpenFlags::RDWR;
    open.set(OpenFlags::NONBLOCK, flags & SOCK_NONBLOCK != 0);
    Ok((kind & 0xf, open, flags & SOCK_CLOEXEC != 0))
}

fn socket(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let (kind, flags, close_on_exec) = flags_of(args.uint(1))?;
    let socket = net::create(thread, args.uint(0), kind, args.uint(2))?;
    let open = OpenFile::new(Rc::new(socket), flags);
    let fd = thread.process.files.add(open, close_on_exec, 0)?;
    Ok(u64::from(fd.cast_unsigned()))
}

fn socketpair(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let (kind, flags, close_on_exec) = flags_of(args.uint(1))?;
    let (first, second) = net::create_pair(thread, args.uint(0), kind, args.uint(2))?;
    let files = &thread.process.files;
    let first = files.add(OpenFile::new(Rc::new(first), flags), close_on_exec, 0)?;
    let second = files.add(OpenFile::new(Rc::new(second), flags), close_on_exec, 0);
    let written = second.and_then(|second| args.addr(3).write([first, second]));
    if written.is_err() {
        let old = files.remove(first);
        drop(old);
        if let Ok(second) = second {
            let old = files.remove(second);
            drop(old);
        }
    }
    written.map(|()| 0)
}

fn bind(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = open_socket(thread, args.int(0))?;
    let socket = socket_of(&open)?;
    let address = Address::read(args.addr(1), args.uint(2))?;
    socket.protocol.bind(socket, thread, &address).map(|()| 0)
}

fn listen(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = open_socket(thread, args.int(0))?;
    let socket = socket_of(&open)?;
    // A negative number is a large one.
    let backlog = args.uint(1);
    socket.protocol.listen(socket, thread, backlog).map(|()| 0)
}

fn accept(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    accept_with(thread, args, 0)
}

/// How often a call that lingers looks whether everything has been taken: nobody rings for the last byte.
const LINGER_STEP: u64 = 2_000_000;

/// The last descriptor of a connection is closed: with `SO_LINGER` the call waits until the peer has taken everything, for so many seconds (`socket(7)`).
pub(super) fn linger(thread: &Rc<Thread>, open: &Rc<OpenFile>) {
    let Ok(socket) = socket_of(open) else { return };
    let seconds = u64::from(socket.options.linger.get().unwrap_or(0));
    let is_last = Rc::strong_count(open) == 1;
    if seconds == 0 || !is_last || socket.protocol.is_listening() {
        return;
    }
    let both = Shutdown {
        read: false,
        write: true,
    };
    if socket.protocol.shutdown(socket, both).is_err() {
        return;
    }
    let until = platform::now().saturating_add(seconds.saturating_mul(1_000_000_000));
    let queue = &socket.bell.queue;
    let gone = || {
        let over = socket.protocol.poll(socket).contains(Events::ERR);
        (over || socket.protocol.unsent(socket).unwrap_or(0) == 0).then_some(())
    };
    loop {
        let step = platform::now().saturating_add(LINGER_STEP).min(until);
        match sleep_until(thread, &[queue], Some(step), gone) {
            Err(Errno::ETIMEDOUT) if platform::now() < until => {}
            _ => return,
        }
    }
}

fn accept4(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    accept_with(thread, args, args.uint(3))
}

fn accept_with(thread: &Rc<Thread>, args: Args, flags: u32) -> Result<u64> {
    if flags & !(SOCK_NONBLOCK | SOCK_CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    let (_, flags, close_on_exec) = flags_of(flags)?;
    let open = open_socket(thread, args.int(0))?;
    let socket = socket_of(&open)?;
    let deadline = socket.receive_deadline();
    let files = &thread.process.files;
    let mut patience = Patience::of_one_of_several();
    loop {
        // The descriptor comes first: without one the connection must stay where it is.
        let fd = files.add(open.clone(), close_on_exec, 0)?;
        let accepted = socket.protocol.accept(socket).and_then(|(new, peer)| {
            // Open at once, so that the peer learns of it if this goes no further.
            let new = OpenFile::new(Rc::new(new), flags);
            if !args.addr(1).is_null() {
                peer.write(args.addr(1), args.addr(2))?;
            }
            files.put(fd, new, close_on_exec)
        });
        let error = match accepted {
            Ok(placeholder) => {
                drop(placeholder);
                // Several may have come while only one of those who wait was told.
                if !open.nonblocking() && socket.protocol.poll(socket).contains(Events::READABLE) {
                    socket.bell.queue.wake(Events::READABLE);
                }
                return Ok(u64::from(fd.cast_unsigned()));
            }
            Err(error) => error,
        };
        let placeholder = files.remove(fd);
        drop(placeholder);
        if error != Errno::EAGAIN || open.nonblocking() {
            return Err(error);
        }
        wait(thread, socket, &mut patience, Events::READABLE, deadline)?;
    }
}

fn connect(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = open_socket(thread, args.int(0))?;
    let socket = socket_of(&open)?;
    let address = Address::read(args.addr(1), args.uint(2))?;
    connect_to(thread, &open, socket, &address).map(|()| 0)
}

/// Connects, and waits until that is done if the description allows it.
pub(super) fn connect_to(
    thread: &Rc<Thread>,
    open: &OpenFile,
    socket: &Socket,
    address: &Address,
) -> Result {
    let deadline = socket.send_deadline();
    let mut first = true;
    let mut patience = Patience::default();
    loop {
        let result = socket.protocol.connect(socket, thread, address);
        match result {
            Ok(Connect::Done) => return Ok(()),
            Ok(Connect::Started) if open.nonblocking() => return Err(Errno::EINPROGRESS),
            Ok(Connect::Already) if open.nonblocking() && first => return Err(Errno::EALREADY),
            Ok(_) => {}
            // A local listener with its hands full: `unix(7)`.
            Err(Errno::EAGAIN) if !open.nonblocking() => {}
            Err(error) => return Err(error),
        }
        first = false;
        match wait(thread, socket, &mut patience, Events::WRITABLE, deadline) {
            // A local connection is there or not.
            Err(Errno::EAGAIN) if socket.family != AF_UNIX => return Err(Errno::EINPROGRESS),
            other => other?,
        }
    }
}

fn shutdown(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = open_socket(thread, args.int(0))?;
    let socket = socket_of(&open)?;
    let (read, write) = match args.int(1) {
        0 => (true, false),
        1 => (false, true),
        2 => (true, true),
        _ => return Err(Errno::EINVAL),
    };
    let how = Shutdown { read, write };
    socket.protocol.shutdown(socket, how).map(|()| 0)
}

fn getsockname(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = open_socket(thread, args.int(0))?;
    let socket = socket_of(&open)?;
    let address = socket.protocol.name(socket)?;
    address.write(args.addr(1), args.addr(2)).map(|()| 0)
}

fn getpeername(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = open_socket(thread, args.int(0))?;
    let socket = socket_of(&open)?;
    let address = socket.protocol.peer(socket)?;
    address.write(args.addr(1), args.addr(2)).map(|()| 0)
}

fn sendto(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = open_socket(thread, args.int(0))?;
    let socket = socket_of(&open)?;
    let vectors = [IoVec {
        base: args.word(1),
        len: args.word(2).min(MAX_TRANSFER),
    }];
    let mut source = Source::user(&vectors);
    let mut message = Outgoing::plain(&mut source);
    message.flags = MessageFlags::from_bits_truncate(args.uint(3));
    if !args.addr(4).is_null() {
        message.to = Some(Address::read(args.addr(4), args.uint(5))?);
    }
    let sent = send(thread, &open, socket, &mut message)?;
    Ok(sent as u64)
}

fn recvfrom(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = open_socket(thread, args.int(0))?;
    let socket = socket_of(&open)?;
    let vectors = [IoVec {
        base: args.word(1),
        len: args.word(2).min(MAX_TRANSFER),
    }];
    let mut sink = Sink::user(&vectors);
    let mut message = Incoming::plain(&mut sink);
    message.flags = MessageFlags::from_bits_truncate(args.uint(3));
    message.wants_from = !args.addr(4).is_null();
    let count = receive(thread, &open, socket, &mut message)?;
    if !args.addr(4).is_null() {
        let from = message.from.unwrap_or_else(Address::none);
        from.write(args.addr(4), args.addr(5))?;
    }
    Ok(count as u64)
}

/// Sends a message, and waits for room if that is allowed. A stream takes all of it then.
pub(super) fn send(
    thread: &Rc<Thread>,
    open: &OpenFile,
    socket: &Socket,
    message: &mut Outgoing,
) -> Result<usize> {
    let flags = message.flags;
    let waits = !flags.contains(MessageFlags::DONTWAIT) && !open.nonblocking();
    let deadline = if waits { socket.send_deadline() } else { None };
    let mut total = 0;
    let mut patience = Patience::default();
    loop {
        let mut result = socket.protocol.send(socket, thread, message);
        if let Ok(count) = result {
            total += count;
            let rest = socket.kind == SOCK_STREAM && message.data.remaining() > 0 && count > 0;
            if !(rest && waits) {
                return Ok(total);
            }
            continue;
        }
        if result == Err(Errno::EAGAIN) && waits {
            match wait(thread, socket, &mut patience, Events::WRITABLE, deadline) {
                Ok(()) => continue,
                Err(error) => result = Err(error),
            }
        }
        if total > 0 {
            return Ok(total);
        }
        if result == Err(Errno::EPIPE) && !flags.contains(MessageFlags::NOSIGNAL) {
            net::raise_pipe(socket, thread);
        }
        return result;
    }
}

/// Receives a message, and waits for one if that is allowed; with `MSG_WAITALL` until there is no more room for it.
pub(super) fn receive(
    thread: &Rc<Thread>,
    open: &OpenFile,
    socket: &Socket,
    message: &mut Incoming,
) -> Result<usize> {
    let flags = message.flags;
    let waits = !flags.contains(MessageFlags::DONTWAIT) && !open.nonblocking();
    let deadline = if waits {
        socket.receive_deadline()
    } else {
        None
    };
    // How much must have come before the call returns.
    let room = message.data.remaining();
    let peeks = flags.contains(MessageFlags::PEEK);
    let target = if socket.kind != SOCK_STREAM || (peeks && socket.family == AF_UNIX) {
        0
    } else if flags.contains(MessageFlags::WAITALL) {
        room
    } else {
        room.min(socket.options.receive_least.get() as usize)
    };
    let mut total = 0;
    let mut patience = Patience::default();
    if peeks && waits && target > 1 {
        // What is looked at stays where it is, so that all of it has to be there at once.
        let ended = Events::RDHUP | Events::HUP | Events::ERR;
        while socket.protocol.readable(socket)? < target
            && !socket.protocol.poll(socket).intersects(ended)
        {
            match wait(thread, socket, &mut patience, Events::READABLE, deadline) {
                Ok(()) => {}
                // What is there by then is better than the error.
                Err(_) if socket.protocol.readable(socket)? > 0 => break,
                Err(error) => return Err(error),
            }
        }
    }
    let target = if peeks { 0 } else { target };
    loop {
        let mut result = socket.protocol.receive(socket, thread, message);
        if let Ok(count) = result {
            total += count;
            if count == 0 || total >= target {
                return Ok(total);
            }
            continue;
        }
        let errors = flags.contains(MessageFlags::ERRQUEUE);
        if result == Err(Errno::EAGAIN) && waits && !errors {
            match wait(thread, socket, &mut patience, Events::READABLE, deadline) {
                Ok(()) => continue,
                Err(error) => result = Err(error),
            }
        }
        return if total > 0 { Ok(total) } else { result };
    }
}

fn setsockopt(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = open_socket(thread, args.int(0))?;
    let socket = socket_of(&open)?;
    let len = usize::try_from(args.int(4)).map_err(|_| Errno::EINVAL)?;
    let mut short = [0; 64];
    let long: Vec<u8>;
    let value: &[u8] = match short.get_mut(..len) {
        Some(short) => {
            args.addr(3).read_bytes(short)?;
            short
        }
        None => {
            long = args.addr(3).read_array(len.min(MAX_OPTION))?;
            &long
        }
    };
    let (level, name) = (args.uint(1), args.uint(2));
    if level == SOL_SOCKET {
        net::options::set(socket, thread, name, value)?;
    } else {
        socket
            .protocol
            .set_option(socket, thread, level, name, value)?;
    }
    Ok(0)
}

fn getsockopt(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = open_socket(thread, args.int(0))?;
    let socket = socket_of(&open)?;
    let space: i32 = args.addr(4).read()?;
    let space = usize::try_from(space).map_err(|_| Errno::EINVAL)?;
    let zeros = [0; 256];
    let argument = zeros.get(..space).unwrap_or(&zeros);
    let (level, name) = (args.uint(1), args.uint(2));
    let value = if level == SOL_SOCKET {
        net::options::get(socket, thread, name, argument)?
    } else {
        socket
            .protocol
            .option(socket, thread, level, name, argument)?
    };
    let value = value.get(..space).unwrap_or(&value);
    args.addr(3).write_bytes(value)?;
    args.addr(4).write(value.len() as i32)?;
    Ok(0)
}

/// An address that a call gave with a message: none at all is as good as an unspecified one.
pub(super) fn given(at: UserAddr, len: u32) -> Result<Option<Address>> {
    if at.is_null() || len == 0 {
        return Ok(None);
    }
    let address = Address::read(at, len)?;
    Ok((address.family() != AF_UNSPEC || len >= 2).then_some(address))
}
