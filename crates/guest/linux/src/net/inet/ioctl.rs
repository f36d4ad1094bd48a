//! `ioctl(2)` of sockets: `netdevice(7)`, `tcp(7)`, `udp(7)`.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::net::IpAddr;

use kiln_net::direct::LinkState;

use super::super::{AF_INET, Socket};
use super::links;
use crate::process::Thread;
use crate::user::UserAddr;
use crate::{Errno, Result};

const SIOCATMARK: u32 = 0x8905;
const FIOSETOWN: u32 = 0x8901;
const SIOCSPGRP: u32 = 0x8902;
const FIOGETOWN: u32 = 0x8903;
const SIOCGPGRP: u32 = 0x8904;
const SIOCOUTQ: u32 = 0x5411;
const FIONREAD: u32 = 0x541b;
const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCGIFDSTADDR: u32 = 0x8917;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCGIFMETRIC: u32 = 0x891d;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFTXQLEN: u32 = 0x8942;
const SIOCETHTOOL: u32 = 0x8946;

/// `IFNAMSIZ`
const NAME_LEN: usize = 16;
/// `sizeof(struct ifreq)`
const REQUEST_LEN: usize = 40;
/// `ARPHRD_ETHER`, `ARPHRD_LOOPBACK`
const HARDWARE: [u16; 2] = [1, 772];

/// `ioctl(2)`.
///
/// # Errors
/// `ENOTTY`, `ENODEV`, `EADDRNOTAVAIL`, `EFAULT`, `EPERM`.
pub fn perform(socket: &Socket, _thread: &Rc<Thread>, request: u32, argument: u64) -> Result<u64> {
    let at = UserAddr(argument);
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    match request {
        FIONREAD => at.write(count(socket.protocol.readable(socket)?))?,
        SIOCOUTQ => at.write(count(socket.protocol.unsent(socket)?))?,
        SIOCATMARK => at.write(0_i32)?,
        FIOSETOWN | SIOCSPGRP => {
            at.read::<i32>()?;
        }
        FIOGETOWN | SIOCGPGRP => at.write(0_i32)?,
        SIOCGIFCONF => configuration(at)?,
        SIOCGIFNAME => {
            let mut record: [u8; REQUEST_LEN] = read(at)?;
            let wanted = super::super::options::int(&record[NAME_LEN..])?;
            let name = links::name_of(wanted).ok_or(Errno::ENODEV)?;
            put_name(&mut record, &name);
            at.write_bytes(&record)?;
        }
        SIOCGIFFLAGS | SIOCGIFADDR | SIOCGIFDSTADDR | SIOCGIFBRDADDR | SIOCGIFNETMASK
        | SIOCGIFMETRIC | SIOCGIFMTU | SIOCGIFHWADDR | SIOCGIFINDEX | SIOCGIFTXQLEN => {
            interface(at, request)?;
        }
        SIOCETHTOOL => return Err(Errno::EOPNOTSUPP),
        // Interfaces are set up by the host.
        0x8914 | 0x8916 | 0x8918 | 0x891a | 0x891c | 0x8922 | 0x8923 | 0x8924 | 0x890b | 0x890c => {
            return Err(Errno::EPERM);
        }
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}

fn read(at: UserAddr) -> Result<[u8; REQUEST_LEN]> {
    let mut record = [0; REQUEST_LEN];
    at.read_bytes(&mut record)?;
    Ok(record)
}

fn put_name(record: &mut [u8], name: &[u8]) {
    let len = name.len().min(NAME_LEN - 1);
    record[..NAME_LEN].fill(0);
    record[..len].copy_from_slice(&name[..len]);
}

/// The first IPv4 address of an interface, and the length of its prefix.
fn address(link: &LinkState) -> Option<([u8; 4], u8)> {
    link.addresses
        .iter()
        .find_map(|assigned| match assigned.address {
            IpAddr::V4(address) => Some((address.octets(), assigned.prefix)),
            IpAddr::V6(_) => None,
        })
}

fn mask(prefix: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(prefix.min(32)))
        .unwrap_or(0)
}

fn put_address(record: &mut [u8], octets: [u8; 4]) {
    record.fill(0);
    record[..2].copy_from_slice(&AF_INET.to_ne_bytes());
    record[4..8].copy_from_slice(&octets);
}

fn interface(at: UserAddr, request: u32) -> Result {
    let mut record = read(at)?;
    let len = record[..NAME_LEN].iter().position(|&b| b == 0);
    let wanted = &record[..len.unwrap_or(NAME_LEN - 1)];
    // An alias, as in `eth0:1`, names the interface.
    let wanted = wanted.split(|&b| b == b':').next().unwrap_or(wanted);
    let all = links::all();
    let found = all.iter().find(|(name, _)| name == wanted);
    let (_, link) = found.ok_or(Errno::ENODEV)?;
    let (_, value) = record.split_at_mut(NAME_LEN);
    match request {
        SIOCGIFFLAGS => value[..2].copy_from_slice(&(links::flags(link) as u16).to_ne_bytes()),
        SIOCGIFMTU => value[..4].copy_from_slice(&u32::from(link.mtu).to_ne_bytes()),
        SIOCGIFINDEX => value[..4].copy_from_slice(&links::number(link).to_ne_bytes()),
        SIOCGIFMETRIC => value[..4].fill(0),
        SIOCGIFTXQLEN => value[..4].copy_from_slice(&1000_u32.to_ne_bytes()),
        SIOCGIFHWADDR => {
            let kind = HARDWARE[usize::from(link.index == 0)];
            value[..2].copy_from_slice(&kind.to_ne_bytes());
            value[2..8].copy_from_slice(&link.mac);
        }
        _ => {
            let (octets, prefix) = address(link).ok_or(Errno::EADDRNOTAVAIL)?;
            let bits = u32::from_be_bytes(octets);
            let bits = match request {
                SIOCGIFNETMASK => mask(prefix),
                SIOCGIFBRDADDR if link.index != 0 => bits | !mask(prefix),
                SIOCGIFBRDADDR => 0,
                _ => bits,
            };
            put_address(&mut value[..16], bits.to_be_bytes());
        }
    }
    at.write_bytes(&record)
}

/// `SIOCGIFCONF`: interfaces with an IPv4 address.
fn configuration(at: UserAddr) -> Result {
    let space: i32 = at.read()?;
    let to = UserAddr(at.add(8).read()?);
    let mut records: Vec<[u8; REQUEST_LEN]> = Vec::new();
    for (name, link) in links::all() {
        if let Some((octets, _)) = address(&link) {
            let mut record = [0; REQUEST_LEN];
            put_name(&mut record, &name);
            put_address(&mut record[NAME_LEN..NAME_LEN + 16], octets);
            records.push(record);
        }
    }
    if to.is_null() {
        return at.write((records.len() * REQUEST_LEN) as i32);
    }
    let fit = usize::try_from(space).unwrap_or(0) / REQUEST_LEN;
    records.truncate(fit);
    for (number, record) in (0..).zip(&records) {
        to.add(number * REQUEST_LEN as u64).write_bytes(record)?;
    }
    at.write((records.len() * REQUEST_LEN) as i32)
}
