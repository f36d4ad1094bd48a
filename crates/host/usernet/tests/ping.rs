//! Echo requests of the guest to the world, by the host kernel's ping sockets.
//!
//! Which groups may have such sockets is a matter of the network namespace. The test makes one of its own, with
//! addresses of the world on its loopback interface, and needs root for it.

mod common;

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::Duration;

use common::{Guest, Host};
use kiln_usernet::Config;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::icmp;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr};

const GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";
const WORLD: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// Runs a test in a thread with its own network namespace, or says why it cannot.
fn in_own_namespace(test: fn()) {
    let thread = thread::spawn(move || {
        // SAFETY: a namespace of the network says nothing about descriptors; only this thread and those that it
        // starts move into it.
        if let Err(errno) = unsafe { unshare_unsafe(UnshareFlags::NEWNET) } {
            return Err(format!("network namespaces cannot be made here: {errno}"));
        }
        for words in [
            "link set lo up",
            "addr add 192.0.2.1/32 dev lo",
            "-6 addr add 2001:db8::1/128 dev lo nodad",
        ] {
            let done = Command::new("ip").args(words.split(' ')).status();
            if !done.as_ref().is_ok_and(ExitStatus::success) {
                return Err(format!("`ip {words}`: {done:?}"));
            }
        }
        test();
        Ok(())
    });
    if let Err(reason) = thread.join().expect("the test succeeds") {
        // Not by a macro, whose output the harness would keep to itself.
        let _ = writeln!(std::io::stderr(), "skipped: {reason}");
    }
}

/// A socket of the guest that sends and receives echoes with this identifier.
fn pinger(guest: &mut Guest, identifier: u16) -> SocketHandle {
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 70_000]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(icmp::Endpoint::Ident(identifier)).unwrap();
    guest.sockets.add(socket)
}

fn send(guest: &mut Guest, socket: SocketHandle, ident: u16, seq_no: u16, to: IpAddr, data: &[u8]) {
    let Guest {
        interface, sockets, ..
    } = guest;
    let socket = sockets.get_mut::<icmp::Socket>(socket);
    let caps = ChecksumCapabilities::default();
    let source = interface.get_source_address_ipv6(&match to {
        IpAddr::V6(to) => to,
        IpAddr::V4(to) => to.to_ipv6_mapped(),
    });
    let message = socket.send(8 + data.len(), to.into()).unwrap();
    match to {
        IpAddr::V4(_) => Icmpv4Repr::EchoRequest {
            ident,
            seq_no,
            data,
        }
        .emit(&mut Icmpv4Packet::new_unchecked(message), &caps),
        IpAddr::V6(to) => Icmpv6Repr::EchoRequest {
            ident,
            seq_no,
            data,
        }
        .emit(
            &source,
            &to,
            &mut Icmpv6Packet::new_unchecked(message),
            &caps,
        ),
    }
}

/// The identifier, sequence number and data of a reply, and whom it came from.
fn receive(guest: &mut Guest, socket: SocketHandle) -> Option<(u16, u16, Vec<u8>, IpAddr)> {
    let socket = guest.sockets.get_mut::<icmp::Socket>(socket);
    let (message, from) = socket.recv().ok()?;
    // The interface has checked the checksum.
    let caps = ChecksumCapabilities::ignored();
    let from = IpAddr::from(from);
    match from {
        IpAddr::V4(_) => match Icmpv4Repr::parse(&Icmpv4Packet::new_unchecked(message), &caps) {
            Ok(Icmpv4Repr::EchoReply {
                ident,
                seq_no,
                data,
            }) => Some((ident, seq_no, data.to_vec(), from)),
            other => panic!("{other:?} is no reply"),
        },
        IpAddr::V6(source) => {
            let packet = Icmpv6Packet::new_unchecked(message);
            match Icmpv6Repr::parse(&source, &source, &packet, &caps) {
                Ok(Icmpv6Repr::EchoReply {
                    ident,
                    seq_no,
                    data,
                }) => Some((ident, seq_no, data.to_vec(), from)),
                other => panic!("{other:?} is no reply"),
            }
        }
    }
}

#[test]
fn the_world_answers_ping() {
    in_own_namespace(|| {
        fs::write(GROUPS, "0 2147483647").expect("the namespace's own setting");
        let config = Config {
            mtu: 1500,
            ..Config::default()
        };
        let (host, mut guest) = Host::start(config);
        let sockets = [7, 0xfffe].map(|ident| (ident, pinger(&mut guest, ident)));
        let mut count = 0;
        for to in WORLD.map(|address| address.parse::<IpAddr>().unwrap()) {
            // From nothing to all that fits into a packet of the link.
            let largest = 1500 - 8 - if to.is_ipv4() { 20 } else { 40 };
            for (seq, size) in (1..).zip([0, 56, largest]) {
                for (ident, socket) in sockets {
                    let data: Vec<u8> = (0..size).map(|i| (i + usize::from(ident)) as u8).collect();
                    send(&mut guest, socket, ident, seq, to, &data);
                    let mut reply = None;
                    guest.run(|guest| {
                        reply = receive(guest, socket);
                        reply.is_some()
                    });
                    assert!(
                        reply == Some((ident, seq, data, to)),
                        "{size} bytes to {to}: {reply:?}"
                    );
                    count += 1;
                }
            }
        }
        let stats = host.finish().stats();
        assert_eq!((stats.ping_requests, stats.ping_denied), (count, 0));
    });
}

#[test]
fn a_host_without_ping_sockets_is_silent() {
    in_own_namespace(|| {
        // No group at all, as namespaces begin.
        fs::write(GROUPS, "1 0").expect("the namespace's own setting");
        for to in WORLD {
            let (host, mut guest) = Host::start(Config::default());
            let socket = pinger(&mut guest, 7);
            send(&mut guest, socket, 7, 1, to.parse().unwrap(), b"anybody?");
            guest.run_for(Duration::from_millis(200));
            assert_eq!(receive(&mut guest, socket), None);
            let stats = host.finish().stats();
            assert_eq!((stats.ping_requests, stats.ping_denied), (1, 1), "{to}");
        }
    });
}
