//! What `/proc/net` shows: the texts of `proc_net(5)`.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::net::{IpAddr, SocketAddr};

use super::inet::tcp::Tcp;
use super::inet::udp::Udp;
use super::inet::{links, state_number};
use super::unix::Unix;
use super::{AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM, Socket};
use crate::fs::OpenFile;

/// Calls `each` with every open socket once.
fn sockets(mut each: impl FnMut(&Socket)) {
    let mut seen: Vec<Rc<OpenFile>> = Vec::new();
    for process in crate::kernel().processes.all() {
        for fd in process.files.numbers() {
            let Ok(open) = process.files.get(fd) else {
                continue;
            };
            let known = seen.iter().any(|known| Rc::ptr_eq(known, &open));
            if !known && let Some(socket) = open.downcast::<Socket>() {
                each(socket);
                seen.push(open);
            }
        }
    }
}

/// An address as the kernel prints its memory: words of 32 bits in the machine's order.
fn hex(family: u16, address: SocketAddr) -> String {
    let mut text = String::new();
    let octets = match (family, address.ip()) {
        (AF_INET, IpAddr::V4(ip)) => ip.octets().to_vec(),
        (_, IpAddr::V4(ip)) => ip.to_ipv6_mapped().octets().to_vec(),
        (_, IpAddr::V6(ip)) => ip.octets().to_vec(),
    };
    for word in octets.as_chunks::<4>().0 {
        let _ = write!(text, "{:08X}", u32::from_ne_bytes(*word));
    }
    let _ = write!(text, ":{:04X}", address.port());
    text
}

/// One line of `/proc/net/tcp` or `udp`.
struct Line {
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
    queues: (usize, usize),
}

fn write_lines(
    text: &mut String,
    family: u16,
    kind: u32,
    width: usize,
    describe: impl Fn(&Socket) -> Option<Line>,
) {
    let mut number = 0;
    sockets(|socket| {
        if socket.family != family || socket.kind != kind {
            return;
        }
        let Some(line) = describe(socket) else { return };
        let row = format!(
            "{number:4}: {} {} {:02X} {:08X}:{:08X} 00:00000000 00000000 {:5} {:8} {} 1 0000000000000000 0",
            hex(family, line.local),
            hex(family, line.remote),
            line.state,
            line.queues.0,
            line.queues.1,
            0,
            0,
            socket.inode,
        );
        let _ = writeln!(text, "{row:width$}");
        number += 1;
    });
}

/// Nobody, in the address's family.
fn nobody(of: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match of {
        SocketAddr::V4(_) => core::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => core::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, 0)
}

fn tcp_line(socket: &Socket) -> Option<Line> {
    let tcp: &Tcp = socket.protocol.as_any().downcast_ref()?;
    if let Some(stream) = tcp.stream() {
        let (local, remote) = stream.ends().ok()?;
        return Some(Line {
            local,
            remote,
            state: state_number(stream.state()),
            queues: (stream.unacknowledged(), stream.readable()),
        });
    }
    let local = tcp.bound()?;
    let listens = socket.protocol.is_listening();
    Some(Line {
        local,
        remote: nobody(local),
        state: if listens { 10 } else { 7 },
        queues: (0, tcp.waiting()),
    })
}

fn udp_line(socket: &Socket) -> Option<Line> {
    let udp: &Udp = socket.protocol.as_any().downcast_ref()?;
    let (local, remote) = udp.ends()?;
    Some(Line {
        local,
        remote: remote.unwrap_or(nobody(local)),
        state: if remote.is_some() { 1 } else { 7 },
        queues: (0, socket.protocol.readable(socket).unwrap_or(0)),
    })
}

/// `/proc/net/tcp`
pub fn tcp() -> Vec<u8> {
    let mut text = format!(
        "{:149}\n",
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
    );
    write_lines(&mut text, AF_INET, SOCK_STREAM, 149, tcp_line);
    text.into_bytes()
}

/// `/proc/net/tcp6`
pub fn tcp6() -> Vec<u8> {
    let mut text = String::from(
        "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n",
    );
    write_lines(&mut text, AF_INET6, SOCK_STREAM, 0, tcp_line);
    text.into_bytes()
}

/// `/proc/net/udp`
pub fn udp() -> Vec<u8> {
    let mut text = format!(
        "{:127}\n",
        "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops"
    );
    write_lines(&mut text, AF_INET, SOCK_DGRAM, 127, udp_line);
    text.into_bytes()
}

/// `/proc/net/udp6`
pub fn udp6() -> Vec<u8> {
    let mut text = String::from(
        "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n",
    );
    write_lines(&mut text, AF_INET6, SOCK_DGRAM, 0, udp_line);
    text.into_bytes()
}

/// `/proc/net/unix`
pub fn unix() -> Vec<u8> {
    let mut text =
        String::from("Num       RefCount Protocol Flags    Type St Inode Path\n").into_bytes();
    sockets(|socket| {
        let Some(unix) = socket.protocol.as_any().downcast_ref::<Unix>() else {
            return;
        };
        let endpoint = &unix.endpoint;
        let listens = endpoint.is_listening();
        let flags = if listens { 0x1_0000 } else { 0 };
        let state = if endpoint.was_connected() { 3 } else { 1 };
        let row = format!(
            "0000000000000000: 00000002 00000000 {flags:08X} {:04X} {state:02X} {:5}",
            socket.kind, socket.inode
        );
        text.extend(row.bytes());
        if let Some(name) = endpoint.name() {
            text.push(b' ');
            let path = name.bytes().get(2..).unwrap_or_default();
            let path = path.strip_suffix(&[0]).unwrap_or(path);
            // Abstract names are shown with an @ for each NUL.
            text.extend(path.iter().map(|&b| if b == 0 { b'@' } else { b }));
        }
        text.push(b'\n');
    });
    text
}

/// `/proc/net/dev`
pub fn dev() -> Vec<u8> {
    let mut text = String::from(
        "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n",
    );
    for (name, link) in links::all() {
        let name = String::from_utf8_lossy(&name);
        let stats = &link.stats;
        let (packets, bytes) = match link.index {
            0 => (stats.frames_out, stats.bytes_out),
            _ => (stats.frames_in, stats.bytes_in),
        };
        let dropped = stats.dropped_malformed + stats.dropped_unsupported;
        let _ = writeln!(
            text,
            "{name:>6}: {bytes:7} {packets:7} {:4} {dropped:4} {:4} {:5} {:10} {:9} {:8} {:7} {:4} {:4} {:4} {:5} {:7} {:10}",
            0,
            0,
            0,
            0,
            0,
            stats.bytes_out,
            stats.frames_out,
            0,
            stats.dropped_queue_full,
            0,
            0,
            0,
            0
        );
    }
    text.into_bytes()
}

/// `/proc/net/route`
pub fn route() -> Vec<u8> {
    let mut text = format!(
        "{:127}\n",
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT"
    );
    for (name, link) in links::all() {
        let name = String::from_utf8_lossy(&name);
        for route in &link.routes {
            let IpAddr::V4(network) = route.network else {
                continue;
            };
            let gateway = match route.gateway {
                Some(IpAddr::V4(gateway)) => u32::from_ne_bytes(gateway.octets()),
                _ => 0,
            };
            let flags = 1 | if route.gateway.is_some() { 2 } else { 0 };
            let mask = u32::MAX.checked_shl(32 - u32::from(route.prefix.min(32)));
            let row = format!(
                "{name}\t{:08X}\t{gateway:08X}\t{flags:04X}\t0\t0\t0\t{:08X}\t0\t0\t0",
                u32::from_ne_bytes(network.octets()),
                mask.unwrap_or(0).to_be(),
            );
            let _ = writeln!(text, "{row:127}");
        }
    }
    text.into_bytes()
}

/// `/proc/net/if_inet6`
pub fn if_inet6() -> Vec<u8> {
    let mut text = String::new();
    for (name, link) in links::all() {
        let name = String::from_utf8_lossy(&name);
        for assigned in &link.addresses {
            let IpAddr::V6(address) = assigned.address else {
                continue;
            };
            let scope = match address {
                _ if link.index == 0 => 0x10,
                address if address.is_unicast_link_local() => 0x20,
                _ => 0,
            };
            let _ = writeln!(
                text,
                "{:032x} {:02x} {:02x} {scope:02x} 80 {name:>8}",
                address.to_bits(),
                links::number(&link),
                assigned.prefix,
            );
        }
    }
    text.into_bytes()
}

/// `/proc/net/sockstat`
pub fn sockstat() -> Vec<u8> {
    let (mut all, mut tcp, mut udp) = (0, 0, 0);
    sockets(|socket| {
        all += 1;
        let inet = matches!(socket.family, AF_INET | AF_INET6);
        tcp += u32::from(inet && socket.kind == SOCK_STREAM);
        udp += u32::from(inet && socket.kind == SOCK_DGRAM);
    });
    let ended = crate::kernel().network.stack().stats().time_wait;
    format!(
        "sockets: used {all}\nTCP: inuse {tcp} orphan 0 tw {ended} alloc {tcp} mem 0\nUDP: inuse {udp} mem 0\nUDPLITE: inuse 0\nRAW: inuse 0\nFRAG: inuse 0 memory 0\n"
    )
    .into_bytes()
}
