//! Sockets as programs use them: by system calls, with records in the program's memory, two ends in one thread.

mod any;
mod netlink;
mod tcp;
mod udp;
mod unix;

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::platform::{self, Access, Backing, pretend};
use crate::process::Thread;
use crate::syscalls::{Args, perform};
use crate::user::UserAddr;
use crate::{Errno, Result};

pub const SOCKET: u64 = 41;
pub const CONNECT: u64 = 42;
pub const SENDTO: u64 = 44;
pub const RECVFROM: u64 = 45;
pub const SENDMSG: u64 = 46;
pub const RECVMSG: u64 = 47;
pub const SHUTDOWN: u64 = 48;
pub const BIND: u64 = 49;
pub const LISTEN: u64 = 50;
pub const GETSOCKNAME: u64 = 51;
pub const GETPEERNAME: u64 = 52;
pub const SOCKETPAIR: u64 = 53;
pub const SETSOCKOPT: u64 = 54;
pub const GETSOCKOPT: u64 = 55;
pub const ACCEPT4: u64 = 288;

pub const NONBLOCK: u64 = 0o4000;

/// Where the program's memory is.
const MEMORY: u64 = 0x10_0000;
const MEMORY_LEN: u64 = 1 << 20;
/// Parts of it.
const ADDRESS: u64 = MEMORY;
const LENGTH: u64 = MEMORY + 0x200;
const RECORD: u64 = MEMORY + 0x400;
const CONTROL: u64 = MEMORY + 0x800;
const DATA: u64 = MEMORY + 0x1000;

/// A program with one thread.
pub struct Program {
    pub thread: Rc<Thread>,
}

impl Program {
    pub fn new() -> Self {
        pretend::reset();
        let thread = crate::kernel().processes.first();
        let access = Access::READ | Access::WRITE;
        assert!(platform::map(MEMORY, MEMORY_LEN, access, Backing::Zero).is_ok());
        Self { thread }
    }

    pub fn call(&self, number: u64, args: &[u64]) -> Result<u64> {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        let value = perform(&self.thread, number, Args(all)).cast_signed();
        if (-4095..0).contains(&value) {
            return Err(Errno((-value) as i32));
        }
        Ok(value.cast_unsigned())
    }

    pub fn socket(&self, family: u64, kind: u64) -> u64 {
        self.call(SOCKET, &[family, kind, 0]).unwrap()
    }

    pub fn with_address(&self, number: u64, fd: u64, address: &[u8]) -> Result<u64> {
        UserAddr(ADDRESS).write_bytes(address).unwrap();
        self.call(number, &[fd, ADDRESS, address.len() as u64])
    }

    /// `getsockname(2)` or `getpeername(2)`.
    pub fn name(&self, number: u64, fd: u64) -> Result<Vec<u8>> {
        UserAddr(LENGTH).write(128_u32).unwrap();
        self.call(number, &[fd, ADDRESS, LENGTH])?;
        let len: u32 = UserAddr(LENGTH).read().unwrap();
        UserAddr(ADDRESS).read_array(len as usize)
    }

    pub fn send(&self, fd: u64, bytes: &[u8], flags: u64) -> Result<u64> {
        UserAddr(DATA).write_bytes(bytes).unwrap();
        self.call(SENDTO, &[fd, DATA, bytes.len() as u64, flags])
    }

    pub fn send_to(&self, fd: u64, bytes: &[u8], to: &[u8]) -> Result<u64> {
        UserAddr(DATA).write_bytes(bytes).unwrap();
        UserAddr(ADDRESS).write_bytes(to).unwrap();
        let len = bytes.len() as u64;
        self.call(SENDTO, &[fd, DATA, len, 0, ADDRESS, to.len() as u64])
    }

    pub fn receive(&self, fd: u64, most: u64, flags: u64) -> Result<Vec<u8>> {
        let count = self.call(RECVFROM, &[fd, DATA, most, flags])?;
        UserAddr(DATA).read_array(count.min(most) as usize)
    }

    pub fn receive_from(&self, fd: u64, most: u64) -> Result<(Vec<u8>, Vec<u8>)> {
        UserAddr(LENGTH).write(128_u32).unwrap();
        let count = self.call(RECVFROM, &[fd, DATA, most, 0, ADDRESS, LENGTH])?;
        let len: u32 = UserAddr(LENGTH).read().unwrap();
        let bytes = UserAddr(DATA).read_array(count as usize)?;
        Ok((bytes, UserAddr(ADDRESS).read_array(len as usize)?))
    }

    pub fn set(&self, fd: u64, level: u64, name: u64, value: u32) -> Result<u64> {
        UserAddr(DATA).write(value).unwrap();
        self.call(SETSOCKOPT, &[fd, level, name, DATA, 4])
    }

    pub fn get(&self, fd: u64, level: u64, name: u64, space: u32) -> Result<Vec<u8>> {
        UserAddr(LENGTH).write(space).unwrap();
        self.call(GETSOCKOPT, &[fd, level, name, DATA, LENGTH])?;
        let len: u32 = UserAddr(LENGTH).read().unwrap();
        UserAddr(DATA).read_array(len as usize)
    }

    pub fn number(&self, fd: u64, level: u64, name: u64) -> u32 {
        let bytes = self.get(fd, level, name, 4).unwrap();
        u32::from_ne_bytes(bytes.try_into().unwrap())
    }

    /// What `poll(2)` would tell.
    pub fn ready(&self, fd: u64) -> crate::wait::Events {
        let open = self.thread.process.files.get(fd as i32).unwrap();
        open.file.poll(&open)
    }

    pub fn close(&self, fd: u64) {
        let old = self.thread.process.files.remove(fd as i32).unwrap();
        drop(old);
    }

    /// `sendmsg(2)` with control data.
    pub fn send_message(&self, fd: u64, bytes: &[u8], control: &[u8]) -> Result<u64> {
        UserAddr(DATA).write_bytes(bytes).unwrap();
        UserAddr(CONTROL).write_bytes(control).unwrap();
        UserAddr(RECORD + 64)
            .write([DATA, bytes.len() as u64])
            .unwrap();
        let control_at = if control.is_empty() { 0 } else { CONTROL };
        let header = [
            0,
            0,
            RECORD + 64,
            1,
            control_at,
            control.len() as u64,
            0_u64,
        ];
        UserAddr(RECORD).write(header).unwrap();
        self.call(SENDMSG, &[fd, RECORD, 0])
    }

    /// `recvmsg(2)`: bytes, control data, flags.
    pub fn receive_message(
        &self,
        fd: u64,
        most: u64,
        space: u64,
    ) -> Result<(Vec<u8>, Vec<u8>, u32)> {
        UserAddr(RECORD + 64).write([DATA, most]).unwrap();
        let header = [ADDRESS, 128, RECORD + 64, 1, CONTROL, space, 0_u64];
        UserAddr(RECORD).write(header).unwrap();
        let count = self.call(RECVMSG, &[fd, RECORD, 0])?;
        let bytes = UserAddr(DATA).read_array(count.min(most) as usize)?;
        let len: u64 = UserAddr(RECORD + 40).read()?;
        let flags: u32 = UserAddr(RECORD + 48).read()?;
        Ok((bytes, UserAddr(CONTROL).read_array(len as usize)?, flags))
    }
}

/// `struct sockaddr_in`.
pub fn address4(ip: [u8; 4], port: u16) -> Vec<u8> {
    let mut bytes = Vec::from([2, 0]);
    bytes.extend(port.to_be_bytes());
    bytes.extend(ip);
    bytes.extend([0; 8]);
    bytes
}

/// `struct sockaddr_in6`.
pub fn address6(ip: core::net::Ipv6Addr, port: u16) -> Vec<u8> {
    let mut bytes = Vec::from([10, 0]);
    bytes.extend(port.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(ip.octets());
    bytes.extend([0; 4]);
    bytes
}

/// The port in an address.
pub fn port_of(address: &[u8]) -> u16 {
    u16::from_be_bytes([address[2], address[3]])
}
