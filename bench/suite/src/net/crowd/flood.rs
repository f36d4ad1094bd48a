//! A bounded flood of SYNs from addresses that nobody has, inside the benchmark's own namespace.
//!
//! Answers to those addresses reach the namespace and end there: they are no addresses of it, and it forwards nothing. A
//! second raw socket sees them and counts.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with,
};

use crate::Result;

/// SYNs sent without looking at the clock.
const BURST: u32 = 32;

/// IPv4's protocol number of TCP.
const TCP: u8 = 6;

/// What was sent.
pub struct Sent {
    /// SYNs.
    pub count: u64,
    /// Answers that came in meanwhile, those that were repeated counted again.
    pub answered: u64,
    /// How long it took.
    pub time: Duration,
}

/// Sends so many SYNs, spread over a time.
pub fn send(to: SocketAddrV4, count: u32, time: Duration) -> Result<Sent> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::RAW,
        flags,
        Some(ipproto::RAW),
    )
    .map_err(|error| format!("a raw socket: {error}"))?;
    let before = undeliverable();
    let start = Instant::now();
    let mut sent_so_far = 0;
    for n in 0..count {
        if n % BURST == 0 {
            let due = time.mul_f64(f64::from(n) / f64::from(count));
            if let Some(early) = due.checked_sub(start.elapsed()) {
                thread::sleep(early);
            } else if start.elapsed() > time * 2 {
                break;
            }
        }
        let packet = syn(to, n);
        // A full queue loses a SYN, as it may.
        if sendto(&socket, &packet, SendFlags::empty(), &to).is_ok() {
            sent_so_far += 1;
        }
    }
    let time = start.elapsed();
    Ok(Sent {
        count: sent_so_far,
        answered: undeliverable().saturating_sub(before),
        time,
    })
}

/// Packets that came to this namespace for addresses which are not its own: forwarded, if it forwarded any.
fn undeliverable() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap_or_default();
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
        return 0;
    };
    let found = names
        .split(' ')
        .zip(values.split(' '))
        .find(|(name, _)| *name == "InAddrErrors");
    found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

/// IPv4 (RFC 791) and TCP (RFC 9293) headers of the `n`th SYN, with a maximum segment size as every host says it.
fn syn(to: SocketAddrV4, n: u32) -> [u8; 44] {
    let [_, _, high, low] = (n % 65_000 + 256).to_be_bytes();
    let from = Ipv4Addr::new(10, 21, high, low);
    let port = 1024 + (n / 65_000) as u16 * 7 + (n % 60_000) as u16;
    let mut packet = [0; 44];
    let (ip, tcp) = packet.split_at_mut(20);
    ip[0] = 0x45;
    // Length, identification and checksum are the kernel's matter with such a socket.
    ip[8] = 64;
    ip[9] = TCP;
    ip[12..16].copy_from_slice(&from.octets());
    ip[16..].copy_from_slice(&to.ip().octets());
    tcp[..2].copy_from_slice(&port.to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&n.wrapping_mul(2_654_435_761).to_be_bytes());
    tcp[12] = 6 << 4;
    tcp[13] = 2;
    tcp[14..16].copy_from_slice(&64_240u16.to_be_bytes());
    tcp[20..].copy_from_slice(&[2, 4, 5, 180]);
    let sum = checksum(from, *to.ip(), tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Of a segment and its pseudo-header (RFC 9293 section 3.1).
fn checksum(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> u16 {
    let pair = |two: &[u8]| u32::from(u16::from_be_bytes([two[0], two[1]]));
    let pseudo = [&from.octets()[..], &to.octets()[..]].concat();
    let sum: u32 = pseudo.chunks(2).chain(segment.chunks(2)).map(pair).sum();
    let sum = sum + u32::from(TCP) + segment.len() as u32;
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_with_its_checksum_sums_up_to_zero() {
        let to = SocketAddrV4::new(Ipv4Addr::new(10, 71, 0, 2), 7);
        let packet = syn(to, 77_777);
        let from = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
        assert_eq!(from.octets()[..2], [10, 21]);
        assert_eq!(checksum(from, *to.ip(), &packet[20..]), 0);
    }
}
