//! Options that all sockets have: `SOL_SOCKET` (`socket(7)`).

#![allow(missing_docs, reason = "the names of flags are Linux's")]

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::{SOCK_STREAM, Socket};
use crate::process::Thread;
use crate::{Errno, Result};

/// `SOL_SOCKET`
pub const SOL_SOCKET: u32 = 1;

/// What the buffers of a socket hold by default, as Linux tells it (`net.core.rmem_default`).
pub const DEFAULT_BUFFER: u32 = 212_992;
/// The most that a program may ask for (`net.core.wmem_max`), doubled as it is told.
const MOST_BUFFER: u32 = 8 << 20;
/// The least that is given (`SOCK_MIN_RCVBUF`).
const LEAST_RECEIVE: u32 = 2304;
/// The least that is given (`SOCK_MIN_SNDBUF`).
const LEAST_SEND: u32 = 4608;

const SO_DEBUG: u32 = 1;
const SO_REUSEADDR: u32 = 2;
const SO_TYPE: u32 = 3;
const SO_ERROR: u32 = 4;
const SO_DONTROUTE: u32 = 5;
const SO_BROADCAST: u32 = 6;
const SO_SNDBUF: u32 = 7;
const SO_RCVBUF: u32 = 8;
const SO_KEEPALIVE: u32 = 9;
const SO_OOBINLINE: u32 = 10;
const SO_NO_CHECK: u32 = 11;
const SO_PRIORITY: u32 = 12;
const SO_LINGER: u32 = 13;
const SO_BSDCOMPAT: u32 = 14;
const SO_REUSEPORT: u32 = 15;
const SO_PASSCRED: u32 = 16;
const SO_PEERCRED: u32 = 17;
const SO_RCVLOWAT: u32 = 18;
const SO_SNDLOWAT: u32 = 19;
const SO_RCVTIMEO: u32 = 20;
const SO_SNDTIMEO: u32 = 21;
const SO_BINDTODEVICE: u32 = 25;
const SO_ATTACH_FILTER: u32 = 26;
const SO_DETACH_FILTER: u32 = 27;
const SO_TIMESTAMP: u32 = 29;
const SO_ACCEPTCONN: u32 = 30;
const SO_PEERSEC: u32 = 31;
const SO_SNDBUFFORCE: u32 = 32;
const SO_RCVBUFFORCE: u32 = 33;
const SO_PASSSEC: u32 = 34;
const SO_TIMESTAMPNS: u32 = 35;
const SO_MARK: u32 = 36;
const SO_TIMESTAMPING: u32 = 37;
const SO_PROTOCOL: u32 = 38;
const SO_DOMAIN: u32 = 39;
const SO_RXQ_OVFL: u32 = 40;
const SO_PEEK_OFF: u32 = 42;
const SO_LOCK_FILTER: u32 = 44;
const SO_SELECT_ERR_QUEUE: u32 = 45;
const SO_BUSY_POLL: u32 = 46;
const SO_MAX_PACING_RATE: u32 = 47;
const SO_BPF_EXTENSIONS: u32 = 48;
const SO_INCOMING_CPU: u32 = 49;
const SO_ATTACH_REUSEPORT_CBPF: u32 = 51;
const SO_MEMINFO: u32 = 55;
const SO_INCOMING_NAPI_ID: u32 = 56;
const SO_COOKIE: u32 = 57;
const SO_PEERGROUPS: u32 = 59;
const SO_ZEROCOPY: u32 = 60;
const SO_BINDTOIFINDEX: u32 = 62;
const SO_TIMESTAMP_NEW: u32 = 63;
const SO_TIMESTAMPNS_NEW: u32 = 64;
const SO_TIMESTAMPING_NEW: u32 = 65;
const SO_RCVTIMEO_NEW: u32 = 66;
const SO_SNDTIMEO_NEW: u32 = 67;
const SO_PREFER_BUSY_POLL: u32 = 69;
const SO_BUSY_POLL_BUDGET: u32 = 70;
const SO_NETNS_COOKIE: u32 = 71;
const SO_BUF_LOCK: u32 = 72;
const SO_TXREHASH: u32 = 74;
const SO_RCVMARK: u32 = 75;

bitflags::bitflags! {
    /// Options that are on or off.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[allow(missing_docs, reason = "the names are Linux's")]
    pub struct Switches: u32 {
        const DEBUG = 1;
        const REUSE_ADDRESS = 1 << 1;
        const REUSE_PORT = 1 << 2;
        const DONT_ROUTE = 1 << 3;
        const BROADCAST = 1 << 4;
        const KEEPALIVE = 1 << 5;
        const OOB_INLINE = 1 << 6;
        const NO_CHECK = 1 << 7;
        const PASS_CREDENTIALS = 1 << 8;
        const PASS_SECURITY = 1 << 9;
        const TIMESTAMP = 1 << 10;
        const TIMESTAMP_NANOS = 1 << 11;
        const DROPS = 1 << 12;
        const LOCK_FILTER = 1 << 13;
        const SELECT_ERRORS = 1 << 14;
        const ZEROCOPY = 1 << 15;
        const PREFER_BUSY_POLL = 1 << 16;
        const RECEIVE_MARK = 1 << 17;
        /// `SO_RCVBUF` was set.
        const RECEIVE_SET = 1 << 18;
        /// `SO_SNDBUF` was set.
        const SEND_SET = 1 << 19;
    }
}

/// The options of a socket.
#[derive(Clone, Debug)]
pub struct Options {
    /// Those that are on or off.
    pub switches: Cell<Switches>,
    /// Bytes that may wait to be read, as told: twice what was asked for.
    pub receive_buffer: Cell<u32>,
    /// Bytes that may wait to leave, likewise.
    pub send_buffer: Cell<u32>,
    /// `SO_RCVLOWAT`
    pub receive_least: Cell<u32>,
    /// `SO_RCVTIMEO` in nanoseconds, 0 for none.
    pub receive_timeout: Cell<u64>,
    /// `SO_SNDTIMEO` likewise.
    pub send_timeout: Cell<u64>,
    /// `SO_LINGER` in seconds.
    pub linger: Cell<Option<u32>>,
    /// `SO_BINDTODEVICE`: the link's name.
    pub device: RefCell<Vec<u8>>,
    /// Numbers that are kept and told, and change nothing: by their option.
    kept: RefCell<Vec<(u32, u32)>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            switches: Cell::default(),
            receive_buffer: Cell::new(DEFAULT_BUFFER),
            send_buffer: Cell::new(DEFAULT_BUFFER),
            receive_least: Cell::new(1),
            receive_timeout: Cell::new(0),
            send_timeout: Cell::new(0),
            linger: Cell::new(None),
            device: RefCell::default(),
            kept: RefCell::default(),
        }
    }
}

impl Options {
    /// Options of a socket whose buffers are told to hold so much.
    pub fn with_buffers(receive: u32, send: u32) -> Self {
        Self {
            receive_buffer: Cell::new(receive),
            send_buffer: Cell::new(send),
            ..Self::default()
        }
    }

    /// True if one is on.
    pub fn has(&self, switch: Switches) -> bool {
        self.switches.get().contains(switch)
    }

    /// Turns one on or off.
    pub fn put(&self, switch: Switches, on: bool) {
        let mut switches = self.switches.get();
        switches.set(switch, on);
        self.switches.set(switches);
    }

    /// A number that is kept.
    pub fn kept(&self, name: u32) -> Option<u32> {
        let kept = self.kept.borrow();
        kept.iter().find(|(known, _)| *known == name).map(|k| k.1)
    }

    /// Keeps a number.
    pub fn keep(&self, name: u32, value: u32) {
        let mut kept = self.kept.borrow_mut();
        match kept.iter_mut().find(|(known, _)| *known == name) {
            Some(place) => place.1 = value,
            None => kept.push((name, value)),
        }
    }
}

/// The switch behind an option.
fn switch(name: u32) -> Option<Switches> {
    Some(match name {
        SO_DEBUG => Switches::DEBUG,
        SO_REUSEADDR => Switches::REUSE_ADDRESS,
        SO_REUSEPORT => Switches::REUSE_PORT,
        SO_DONTROUTE => Switches::DONT_ROUTE,
        SO_BROADCAST => Switches::BROADCAST,
        SO_KEEPALIVE => Switches::KEEPALIVE,
        SO_OOBINLINE => Switches::OOB_INLINE,
        SO_NO_CHECK => Switches::NO_CHECK,
        SO_PASSCRED => Switches::PASS_CREDENTIALS,
        SO_PASSSEC => Switches::PASS_SECURITY,
        SO_TIMESTAMP | SO_TIMESTAMP_NEW => Switches::TIMESTAMP,
        SO_TIMESTAMPNS | SO_TIMESTAMPNS_NEW => Switches::TIMESTAMP_NANOS,
        SO_RXQ_OVFL => Switches::DROPS,
        SO_LOCK_FILTER => Switches::LOCK_FILTER,
        SO_SELECT_ERR_QUEUE => Switches::SELECT_ERRORS,
        SO_ZEROCOPY => Switches::ZEROCOPY,
        SO_PREFER_BUSY_POLL => Switches::PREFER_BUSY_POLL,
        SO_RCVMARK => Switches::RECEIVE_MARK,
        _ => return None,
    })
}

/// What a number that is kept starts as; `None` for what is not kept.
fn kept_default(name: u32) -> Option<u32> {
    Some(match name {
        SO_PRIORITY | SO_MARK | SO_BUSY_POLL | SO_BUF_LOCK | SO_TIMESTAMPING
        | SO_TIMESTAMPING_NEW => 0,
        SO_MAX_PACING_RATE => u32::MAX,
        SO_INCOMING_CPU => 0,
        SO_BUSY_POLL_BUDGET => 8,
        SO_TXREHASH => 1,
        _ => return None,
    })
}

/// An `int` from the start of an option's value.
///
/// # Errors
/// `EINVAL` if it is too short.
pub fn int(value: &[u8]) -> Result<i32> {
    let bytes = value.first_chunk().ok_or(Errno::EINVAL)?;
    Ok(i32::from_ne_bytes(*bytes))
}

/// `setsockopt(2)` of `SOL_SOCKET`.
///
/// # Errors
/// `ENOPROTOOPT`, `EINVAL`, `EDOM`, `EPERM`, `ENODEV`.
pub fn set(socket: &Socket, _thread: &Rc<Thread>, name: u32, value: &[u8]) -> Result {
    let options = &socket.options;
    if let Some(switch) = switch(name) {
        options.put(switch, int(value)? != 0);
        socket.protocol.options_changed(socket);
        return Ok(());
    }
    match name {
        SO_SNDBUF | SO_SNDBUFFORCE => {
            let wanted = buffer(int(value)?).max(LEAST_SEND);
            options.send_buffer.set(wanted);
            options.put(Switches::SEND_SET, true);
            socket.protocol.options_changed(socket);
        }
        SO_RCVBUF | SO_RCVBUFFORCE => {
            let wanted = buffer(int(value)?).max(LEAST_RECEIVE);
            options.receive_buffer.set(wanted);
            options.put(Switches::RECEIVE_SET, true);
            socket.protocol.options_changed(socket);
        }
        SO_LINGER => {
            let [on, seconds] = pair(value)?;
            options.linger.set((on != 0).then_some(seconds));
        }
        SO_RCVLOWAT => {
            let least = int(value)?;
            options.receive_least.set(match least {
                0 => 1,
                least => u32::try_from(least).unwrap_or(i32::MAX as u32),
            });
        }
        SO_RCVTIMEO | SO_RCVTIMEO_NEW => options.receive_timeout.set(timeout(value)?),
        SO_SNDTIMEO | SO_SNDTIMEO_NEW => options.send_timeout.set(timeout(value)?),
        SO_BINDTODEVICE => bind_to_device(socket, value)?,
        SO_BINDTOIFINDEX => {
            let index = int(value)?;
            let name = super::inet::links::name_of(index).ok_or(Errno::ENODEV)?;
            bind_to_device(socket, &name)?;
        }
        // There is one receiving processor: a filter that spreads connections has nothing to decide.
        SO_ATTACH_REUSEPORT_CBPF => {}
        SO_PEEK_OFF => return Err(Errno::EOPNOTSUPP),
        SO_ATTACH_FILTER => return Err(Errno::ENOMEM),
        SO_DETACH_FILTER => return Err(Errno::ENOENT),
        SO_BSDCOMPAT => {}
        SO_TYPE | SO_ERROR | SO_PROTOCOL | SO_DOMAIN | SO_ACCEPTCONN | SO_SNDLOWAT => {
            return Err(Errno::ENOPROTOOPT);
        }
        name if kept_default(name).is_some() => options.keep(name, int(value)?.cast_unsigned()),
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

/// `getsockopt(2)` of `SOL_SOCKET`.
///
/// # Errors
/// `ENOPROTOOPT`.
pub fn get(socket: &Socket, thread: &Rc<Thread>, name: u32, space: &[u8]) -> Result<Vec<u8>> {
    let options = &socket.options;
    if let Some(switch) = switch(name) {
        return Ok(number(u32::from(options.has(switch))));
    }
    Ok(match name {
        SO_TYPE => number(socket.kind),
        SO_DOMAIN => number(u32::from(socket.family)),
        SO_PROTOCOL => number(socket.number),
        SO_ERROR => {
            let error = socket.protocol.take_error(socket);
            number(error.map_or(0, |e| e.0.cast_unsigned()))
        }
        SO_SNDBUF => number(options.send_buffer.get()),
        SO_RCVBUF => number(options.receive_buffer.get()),
        SO_LINGER => {
            let linger = options.linger.get();
            let mut value = number(u32::from(linger.is_some()));
            value.extend(number(linger.unwrap_or(0)));
            value
        }
        SO_RCVLOWAT => number(options.receive_least.get()),
        SO_SNDLOWAT => number(1),
        SO_RCVTIMEO | SO_RCVTIMEO_NEW => timeval(options.receive_timeout.get()),
        SO_SNDTIMEO | SO_SNDTIMEO_NEW => timeval(options.send_timeout.get()),
        SO_ACCEPTCONN => number(u32::from(socket.protocol.is_listening())),
        SO_BINDTODEVICE => {
            let mut name = options.device.borrow().clone();
            if !name.is_empty() {
                name.push(0);
            }
            name
        }
        SO_BINDTOIFINDEX => {
            let index = super::inet::links::index_of(&options.device.borrow());
            number(index.unwrap_or(0).cast_unsigned())
        }
        SO_COOKIE | SO_NETNS_COOKIE => {
            let cookie = if name == SO_COOKIE { socket.inode } else { 1 };
            if space.len() < 8 {
                return Err(Errno::EINVAL);
            }
            cookie.to_ne_bytes().to_vec()
        }
        SO_MEMINFO => {
            let mut info = [0_u32; 9];
            info[1] = options.receive_buffer.get();
            info[3] = options.send_buffer.get();
            info.iter().flat_map(|n| n.to_ne_bytes()).collect()
        }
        SO_BPF_EXTENSIONS => number(64),
        SO_INCOMING_NAPI_ID | SO_BSDCOMPAT => number(0),
        SO_PEERCRED | SO_PEERGROUPS => {
            return socket
                .protocol
                .option(socket, thread, SOL_SOCKET, name, space);
        }
        SO_PEEK_OFF => return Err(Errno::EOPNOTSUPP),
        SO_PEERSEC => return Err(Errno::ENOPROTOOPT),
        name => match kept_default(name) {
            Some(default) => number(options.kept(name).unwrap_or(default)),
            None => return Err(Errno::ENOPROTOOPT),
        },
    })
}

/// The bytes of an `int`.
pub fn number(value: u32) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

/// What is told of a buffer that was asked for.
fn buffer(wanted: i32) -> u32 {
    // A negative number is a large one.
    wanted
        .cast_unsigned()
        .min(MOST_BUFFER / 2)
        .saturating_mul(2)
}

/// Two numbers of 32 bits.
fn pair(value: &[u8]) -> Result<[u32; 2]> {
    let bytes: &[u8; 8] = value.first_chunk().ok_or(Errno::EINVAL)?;
    let (words, _) = bytes.as_chunks::<4>();
    match words {
        [a, b] => Ok([u32::from_ne_bytes(*a), u32::from_ne_bytes(*b)]),
        _ => Err(Errno::EINVAL),
    }
}

/// `struct timeval` in nanoseconds.
fn timeout(value: &[u8]) -> Result<u64> {
    let bytes: &[u8; 16] = value.first_chunk().ok_or(Errno::EINVAL)?;
    let (words, _) = bytes.as_chunks::<8>();
    let [seconds, micros] = words else {
        return Err(Errno::EINVAL);
    };
    let (seconds, micros) = (i64::from_ne_bytes(*seconds), i64::from_ne_bytes(*micros));
    if !(0..1_000_000).contains(&micros) {
        return Err(Errno::EDOM);
    }
    // A negative time is none that has passed already; Linux takes it as the shortest.
    let Ok(seconds) = u64::try_from(seconds) else {
        return Ok(1);
    };
    let nanos = micros.cast_unsigned() * 1000;
    Ok(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

fn timeval(nanos: u64) -> Vec<u8> {
    let seconds = nanos / 1_000_000_000;
    let micros = nanos % 1_000_000_000 / 1000;
    let words = [seconds, micros];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn bind_to_device(socket: &Socket, name: &[u8]) -> Result {
    let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
    let name = &name[..end.min(15)];
    if !name.is_empty() && super::inet::links::index_of(name).is_none() {
        return Err(Errno::ENODEV);
    }
    *socket.options.device.borrow_mut() = name.to_vec();
    Ok(())
}

/// True if a write may be told that its bytes were not copied (`MSG_ZEROCOPY`).
pub fn zerocopy(socket: &Socket) -> bool {
    socket.kind == SOCK_STREAM && socket.options.has(Switches::ZEROCOPY)
}
