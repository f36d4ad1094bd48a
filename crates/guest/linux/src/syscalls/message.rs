//! `sendmsg(2)`, `recvmsg(2)`, `sendmmsg(2)`, `recvmmsg(2)`: `struct msghdr` and control data.

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::Args;
use super::socket::{given, open_socket, receive, send, socket_of};
use crate::fs::OpenFile;
use crate::io::{self, IoVec, Sink, Source};
use crate::net::message::Control;
use crate::net::options::SOL_SOCKET;
use crate::net::{Address, Incoming, MessageFlags, Outgoing, Socket};
use crate::process::Thread;
use crate::user::{Plain, UserAddr};
use crate::{Errno, Result, shortage};

/// `struct msghdr`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Header {
    name: u64,
    name_len: u32,
    padding: u32,
    vectors: u64,
    vector_count: u64,
    control: u64,
    control_len: u64,
    flags: u32,
    padding2: u32,
}

// SAFETY: integers; what would be padding is named.
unsafe impl Plain for Header {}

/// Where `msg_namelen` lies in it.
const NAME_LEN_AT: u64 = 8;
/// Where `msg_controllen` lies.
const CONTROL_LEN_AT: u64 = 40;
/// Where `msg_flags` lies.
const FLAGS_AT: u64 = 48;
/// `sizeof(struct mmsghdr)`.
const MANY_LEN: u64 = 64;
/// Where `msg_len` lies in it.
const MANY_LEN_AT: u64 = 56;
/// `sizeof(struct cmsghdr)`.
const CONTROL_HEADER: usize = 16;
/// The most control data of a message (`net.core.optmem_max`).
const MAX_CONTROL: u64 = 20_480;
/// `SCM_RIGHTS`
const SCM_RIGHTS: u32 = 1;
/// Runs `f` on the vectors of a message.
fn with_vectors<R>(header: &Header, f: impl FnOnce(&[IoVec]) -> Result<R>) -> Result<R> {
    if header.vector_count > io::MAX_VECTORS as u64 {
        return Err(Errno::EMSGSIZE);
    }
    f(&io::vectors(UserAddr(header.vectors), header.vector_count)?)
}

/// Control data from the program.
fn read_control(header: &Header) -> Result<Vec<Control>> {
    let mut all = Vec::new();
    if header.control_len == 0 || header.control == 0 {
        return Ok(all);
    }
    if header.control_len > MAX_CONTROL {
        return Err(Errno::ENOBUFS);
    }
    shortage::room(2 * header.control_len)?;
    let bytes: Vec<u8> = {
        let mut bytes = alloc::vec![0; header.control_len as usize];
        UserAddr(header.control).read_bytes(&mut bytes)?;
        bytes
    };
    let mut rest = &bytes[..];
    while rest.len() >= CONTROL_HEADER {
        let (head, _) = rest.split_at(CONTROL_HEADER);
        let len = crate::user::from_bytes::<u64>(head).unwrap_or(0);
        let level = crate::user::from_bytes::<u32>(&head[8..]).unwrap_or(0);
        let kind = crate::user::from_bytes::<u32>(&head[12..]).unwrap_or(0);
        let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
        let data = rest.get(CONTROL_HEADER..len).ok_or(Errno::EINVAL)?;
        all.push(Control {
            level,
            kind,
            data: data.to_vec(),
        });
        rest = rest.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(all)
}

/// Writes control data to the program, as far as it fits. Returns the bytes written, and whether something was left out.
struct ControlWriter {
    at: UserAddr,
    left: usize,
    written: usize,
    cut: bool,
}

impl ControlWriter {
    fn put(&mut self, level: u32, kind: u32, data: &[u8]) -> Result {
        if self.left < CONTROL_HEADER {
            self.cut = true;
            return Ok(());
        }
        let fits = data.len().min(self.left - CONTROL_HEADER);
        self.cut |= fits < data.len();
        let len = CONTROL_HEADER + fits;
        self.at.write(len as u64)?;
        self.at.add(8).write([level, kind])?;
        self.at
            .add(CONTROL_HEADER as u64)
            .write_bytes(&data[..fits])?;
        let space = len.next_multiple_of(8).min(self.left);
        self.at = self.at.add(space as u64);
        self.left -= space;
        self.written += space;
        Ok(())
    }

    /// Descriptors for files that came with the message, as many as fit.
    fn put_files(
        &mut self,
        thread: &Thread,
        files: Vec<Rc<OpenFile>>,
        close_on_exec: bool,
    ) -> Result {
        if files.is_empty() {
            return Ok(());
        }
        let fits = self.left.saturating_sub(CONTROL_HEADER) / 4;
        self.cut |= fits < files.len();
        let mut numbers = Vec::new();
        for file in files.into_iter().take(fits) {
            match thread.process.files.add(file, close_on_exec, 0) {
                Ok(number) => numbers.extend(number.to_ne_bytes()),
                Err(_) => {
                    self.cut = true;
                    break;
                }
            }
        }
        if numbers.is_empty() {
            return Ok(());
        }
        self.put(SOL_SOCKET, SCM_RIGHTS, &numbers)
    }
}

fn send_one(
    thread: &Rc<Thread>,
    open: &OpenFile,
    socket: &Socket,
    at: UserAddr,
    flags: MessageFlags,
) -> Result<usize> {
    let header: Header = at.read()?;
    let control = read_control(&header)?;
    let to = given(UserAddr(header.name), header.name_len.min(128))?;
    with_vectors(&header, |vectors| {
        let mut source = Source::user(vectors);
        let mut message = Outgoing {
            data: &mut source,
            to,
            flags,
            control,
        };
        send(thread, open, socket, &mut message)
    })
}

fn receive_one(
    thread: &Rc<Thread>,
    open: &OpenFile,
    socket: &Socket,
    at: UserAddr,
    flags: MessageFlags,
) -> Result<usize> {
    let header: Header = at.read()?;
    if header.name != 0 && header.name_len > i32::MAX as u32 {
        return Err(Errno::EINVAL);
    }
    with_vectors(&header, |vectors| {
        let mut sink = Sink::user(vectors);
        let mut message = Incoming::plain(&mut sink);
        message.flags = flags;
        message.wants_from = header.name != 0;
        message.wants_control = header.control != 0 && header.control_len > 0;
        let count = receive(thread, open, socket, &mut message)?;
        let Incoming {
            from,
            control,
            files,
            mut told,
            ..
        } = message;
        if header.name != 0 {
            let from = from.unwrap_or_else(Address::none);
            let bytes = from.bytes();
            let fits = bytes.len().min(header.name_len as usize);
            UserAddr(header.name).write_bytes(&bytes[..fits])?;
            at.add(NAME_LEN_AT).write(bytes.len() as u32)?;
        }
        let space = if header.control == 0 {
            0
        } else {
            header.control_len
        };
        let mut writer = ControlWriter {
            at: UserAddr(header.control),
            left: usize::try_from(space).unwrap_or(0),
            written: 0,
            cut: false,
        };
        for item in &control {
            writer.put(item.level, item.kind, &item.data)?;
        }
        let close_on_exec = flags.contains(MessageFlags::CMSG_CLOEXEC);
        writer.put_files(thread, files, close_on_exec)?;
        told.set(
            MessageFlags::CTRUNC,
            writer.cut || told.contains(MessageFlags::CTRUNC),
        );
        if close_on_exec {
            told |= MessageFlags::CMSG_CLOEXEC;
        }
        at.add(CONTROL_LEN_AT).write(writer.written as u64)?;
        at.add(FLAGS_AT).write(told.bits())?;
        Ok(count)
    })
}

pub(super) fn sendmsg(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = open_socket(thread, args.int(0))?;
    let socket = socket_of(&open)?;
    let flags = MessageFlags::from_bits_truncate(args.uint(2));
    let sent = send_one(thread, &open, socket, args.addr(1), flags)?;
    Ok(sent as u64)
}

pub(super) fn recvmsg(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = open_socket(thread, args.int(0))?;
    let socket = socket_of(&open)?;
    let flags = MessageFlags::from_bits_truncate(args.uint(2));
    let count = receive_one(thread, &open, socket, args.addr(1), flags)?;
    Ok(count as u64)
}

/// Does `each` for up to `count` messages, and tells each its length. An error is told only if it is the first's.
fn many(
    at: UserAddr,
    count: u32,
    mut each: impl FnMut(UserAddr, u64) -> Result<usize>,
) -> Result<u64> {
    let mut done = 0;
    while done < u64::from(count.min(io::MAX_VECTORS as u32)) {
        let message = at.add(done * MANY_LEN);
        let len = match each(message, done) {
            Ok(len) => len,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        };
        message.add(MANY_LEN_AT).write(len as u32)?;
        done += 1;
    }
    Ok(done)
}

pub(super) fn sendmmsg(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = open_socket(thread, args.int(0))?;
    let socket = socket_of(&open)?;
    let flags = MessageFlags::from_bits_truncate(args.uint(3));
    many(args.addr(1), args.uint(2), |at, _| {
        send_one(thread, &open, socket, at, flags)
    })
}

pub(super) fn recvmmsg(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = open_socket(thread, args.int(0))?;
    let socket = socket_of(&open)?;
    let flags = MessageFlags::from_bits_truncate(args.uint(3));
    let timeout: Option<[i64; 2]> = args.addr(4).read_if()?;
    let mut until = None;
    if let Some([seconds, nanos]) = timeout {
        let (Ok(seconds), 0..1_000_000_000) = (u64::try_from(seconds), nanos) else {
            return Err(Errno::EINVAL);
        };
        let nanos = seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(nanos.cast_unsigned());
        until = Some(crate::platform::now().saturating_add(nanos));
    }
    many(args.addr(1), args.uint(2), |at, done| {
        let mut flags = flags;
        if done > 0 {
            // The time is looked at between messages only, as recvmmsg(2) says under "BUGS".
            if until.is_some_and(|until| crate::platform::now() >= until) {
                return Err(Errno::EAGAIN);
            }
            if flags.contains(MessageFlags::WAITFORONE) {
                flags |= MessageFlags::DONTWAIT;
            }
        }
        receive_one(thread, &open, socket, at, flags)
    })
}
