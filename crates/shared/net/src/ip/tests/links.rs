//! How a host comes to addresses and routes, and what it keeps from whom.

use super::*;

/// A router advertisement: lifetime of the router, then options.
pub(super) fn advert(flags: u8, lifetime: u16, options: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![134, 0, 0, 0, 0, flags];
    bytes.extend(lifetime.to_be_bytes());
    bytes.extend([0; 8]);
    for option in options {
        bytes.extend(*option);
    }
    icmp(
        [0x33, 0x33, 0, 0, 0, 1],
        ("fe80::1", "ff02::1"),
        255,
        &bytes,
    )
}

/// A prefix information option; on-link and autonomous.
pub(super) fn prefix(prefix: &str, valid: u32, preferred: u32) -> Vec<u8> {
    let mut bytes = vec![3, 4, 64, 0xc0];
    bytes.extend(valid.to_be_bytes());
    bytes.extend(preferred.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(v6(prefix).octets());
    bytes
}

const OWN: &str = "2001:db8:1::ff:fe00:7";

#[test]
fn routers_are_asked_less_and_less_often() {
    let mut host = Host::auto();
    let said = host.said();
    let question = "fe80::ff:fe00:7 > ff02::2 router solicitation > 33:33:00:00:00:02";
    assert!(said.contains(&question.into()), "{said:?}");
    host.after(60);
    let questions = host
        .said()
        .iter()
        .filter(|said| said.contains("router sol"))
        .count();
    assert_eq!(questions, 3);
    host.after(7 * 3600);
    let questions = host
        .said()
        .iter()
        .filter(|said| said.contains("router sol"))
        .count();
    assert!((10..16).contains(&questions), "{questions}");
    host.receive(&advert(0, 1800, &[]));
    host.sent();
    host.after(900);
    assert!(host.said().is_empty());
}

#[test]
fn routers_are_asked_again_when_the_last_has_gone() {
    let mut host = Host::auto();
    host.receive(&advert(0, 1800, &[]));
    host.after(10);
    // Another one stays for longer.
    let other = icmp(
        [0x33, 0x33, 0, 0, 0, 1],
        ("fe80::2", "ff02::1"),
        255,
        &[134, 0, 0, 0, 0, 0, 0x23, 0x28, 0, 0, 0, 0, 0, 0, 0, 0],
    );
    host.receive(&other);
    host.after(3600);
    let questions = |host: &mut Host| {
        let said = host.said();
        let questions = said.iter().filter(|said| said.contains("router sol"));
        questions.count()
    };
    questions(&mut host);
    host.after(5399);
    assert_eq!(questions(&mut host), 0);
    host.after(2);
    assert_eq!(host.interface.way(ip("2001:db8:9::1")), None);
    assert_eq!(questions(&mut host), 1);
    host.after(5);
    assert_eq!(questions(&mut host), 1);
    host.receive(&advert(0, 9000, &[]));
    host.after(8000);
    assert_eq!(questions(&mut host), 0);
}

#[test]
fn an_advertisement_gives_addresses_routes_and_servers() {
    let mut host = Host::auto();
    host.interface.changes();
    let mut servers = vec![25, 5, 0, 0, 0, 0, 2, 88];
    servers.extend(v6("2001:db8::53").octets());
    servers.extend(v6("2001:db8::54").octets());
    let mtu = [5, 1, 0, 0, 0, 0, 5, 120];
    host.receive(&advert(
        0,
        1800,
        &[
            &[1, 1, 2, 0, 0, 0, 0, 1],
            &prefix("2001:db8:1::", 7200, 3600),
            &prefix("fd00:1::", 7200, 3600),
            &servers,
            &mtu,
        ],
    ));
    assert!(host.interface.changes().addresses);
    let addresses: Vec<_> = host
        .interface
        .addresses()
        .map(|(address, _)| address)
        .collect();
    assert_eq!(
        addresses,
        [ip(OWN), ip("fd00:1::ff:fe00:7"), ip("fe80::ff:fe00:7")]
    );
    let way = host.interface.way(ip("2001:db8:9::1")).expect("a way");
    assert_eq!((way.next_hop, way.source), (ip("fe80::1"), ip(OWN)));
    let way = host.interface.way(ip("fd00:1::5")).expect("a way");
    assert_eq!(
        (way.next_hop, way.source, way.prefix),
        (ip("fd00:1::5"), ip("fd00:1::ff:fe00:7"), 64)
    );
    let servers: Vec<_> = host.interface.name_servers().collect();
    assert_eq!(servers, [ip("2001:db8::53"), ip("2001:db8::54")]);
    assert_eq!(host.interface.path_mtu(ip("2001:db8:9::1"), host.now), 1400);
    // The router's Ethernet address came with it.
    host.sent();
    host.send("2001:db8:9::1", 20).expect("known");
    assert_eq!(host.said().len(), 1);
    // Servers, router, then addresses go.
    host.after(600);
    assert_eq!(host.interface.name_servers().count(), 0);
    host.after(1200);
    assert_eq!(host.interface.way(ip("2001:db8:9::1")), None);
    assert!(host.interface.has(ip(OWN)));
    host.after(5400);
    assert!(!host.interface.has(ip(OWN)));
    assert_eq!(host.interface.way(ip("fd00:1::5")), None);
    assert_eq!(host.interface.addresses().count(), 1);
}

#[test]
fn a_deprecated_address_is_no_source_but_still_ours() {
    let mut host = Host::auto();
    host.receive(&advert(
        0,
        9000,
        &[
            &prefix("2001:db8:1::", 7200, 100),
            &prefix("2001:db8:2::", 7200, 7200),
        ],
    ));
    host.after(10);
    let source = |host: &Host| {
        host.interface
            .way(ip("2001:db8:1:9::1"))
            .expect("a way")
            .source
    };
    assert_eq!(source(&host), ip(OWN));
    host.after(100);
    assert_eq!(source(&host), ip("2001:db8:2::ff:fe00:7"));
    assert!(host.interface.has(ip(OWN)));
}

#[test]
fn lifetimes_are_not_cut_below_two_hours() {
    let mut host = Host::auto();
    host.receive(&advert(0, 9000, &[&prefix("2001:db8:1::", 86_400, 86_400)]));
    host.receive(&advert(0, 9000, &[&prefix("2001:db8:1::", 1, 1)]));
    host.after(7100);
    assert!(host.interface.has(ip(OWN)));
    // Less than two hours are left: nothing shortens them.
    host.receive(&advert(0, 9000, &[&prefix("2001:db8:1::", 1, 1)]));
    host.after(99);
    assert!(host.interface.has(ip(OWN)));
    host.after(2);
    assert!(!host.interface.has(ip(OWN)));
    // Longer ones count at once.
    host.receive(&advert(0, 9000, &[&prefix("2001:db8:1::", 100, 100)]));
    host.receive(&advert(0, 9000, &[&prefix("2001:db8:1::", 1000, 1000)]));
    host.after(999);
    assert!(host.interface.has(ip(OWN)));
}

#[test]
fn advertisements_that_make_no_sense_are_ignored() {
    let good = prefix("2001:db8:1::", 7200, 3600);
    let bad: [Vec<u8>; 4] = [
        prefix("2001:db8:1::", 100, 200),
        prefix("fe80::", 7200, 3600),
        prefix("ff05::", 7200, 3600),
        [&good[..2], &[63], &good[3..]].concat(),
    ];
    for option in bad {
        let mut host = Host::auto();
        host.receive(&advert(0, 1800, &[&option]));
        assert_eq!(host.interface.addresses().count(), 1, "{option:?}");
    }
    // An option of length 0 spoils everything.
    let mut host = Host::auto();
    host.receive(&advert(0, 1800, &[&good, &[1, 0, 0, 0, 0, 0, 0, 0]]));
    assert_eq!(host.interface.addresses().count(), 1);
    // From beyond the link.
    let mut bytes = vec![134, 0, 0, 0, 0, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend(&good);
    let all = [0x33, 0x33, 0, 0, 0, 1];
    host.receive(&icmp(all, ("fe80::1", "ff02::1"), 254, &bytes));
    host.receive(&icmp(all, ("2001:db8::1", "ff02::1"), 255, &bytes));
    assert_eq!(host.interface.addresses().count(), 1);
}

#[test]
fn a_flood_of_routers_and_prefixes_displaces_nothing() {
    let mut host = Host::auto();
    host.receive(&advert(0, 1800, &[&prefix("2001:db8:1::", 7200, 7200)]));
    for number in 0..2000u16 {
        let router = std::format!("fe80::{:x}", number + 2);
        let network = std::format!("2001:db8:{:x}::", number + 2);
        let mut bytes = vec![134, 0, 0, 0, 0, 0, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend(prefix(&network, u32::MAX, u32::MAX));
        host.receive(&icmp(
            [0x33, 0x33, 0, 0, 0, 1],
            (&router, "ff02::1"),
            255,
            &bytes,
        ));
    }
    assert!(host.interface.has(ip(OWN)));
    assert_eq!(host.interface.addresses().count(), 9);
    host.sent();
    host.after(5);
    let way = host.interface.way(ip("2001:db8:ffff::1")).expect("a way");
    assert_eq!(way.next_hop, ip("fe80::1"));
}

#[test]
fn routers_take_turns_when_they_do_not_answer() {
    let mut host = Host::auto();
    let all = [0x33, 0x33, 0, 0, 0, 1];
    let mut bytes = vec![134, 0, 0, 0, 0, 0, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend(prefix("2001:db8:1::", 72_000, 72_000));
    for router in ["fe80::1", "fe80::2", "fe80::3"] {
        host.receive(&icmp(all, (router, "ff02::1"), 255, &bytes));
    }
    let next = |host: &Host| {
        host.interface
            .way(ip("2001:db8:9::1"))
            .expect("a way")
            .next_hop
    };
    let mut order = Vec::new();
    for _ in 0..6 {
        order.push(next(&host));
        host.send("2001:db8:9::1", 20).expect("waits");
        host.after(5);
    }
    assert_eq!(order[..3], [ip("fe80::1"), ip("fe80::2"), ip("fe80::3")]);
    assert_eq!(order[3..], order[..3]);
    // One that speaks is preferred.
    bytes.extend([1, 1, 2, 0, 0, 0, 0, 1]);
    host.receive(&icmp(all, ("fe80::2", "ff02::1"), 255, &bytes));
    assert_eq!(next(&host), ip("fe80::2"));
}

#[test]
fn preferences_and_routes_of_routers_count() {
    let mut host = Host::auto();
    let all = [0x33, 0x33, 0, 0, 0, 1];
    let mut low = vec![134, 0, 0, 0, 0, 0x18, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0];
    low.extend(prefix("2001:db8:1::", 72_000, 72_000));
    // To 2001:db8:5::/48, with high preference.
    low.extend([24, 2, 48, 0x08, 0, 0, 2, 88, 0x20, 1, 0xd, 0xb8, 0, 5, 0, 0]);
    host.receive(&icmp(all, ("fe80::1", "ff02::1"), 255, &low));
    host.receive(&icmp(
        all,
        ("fe80::2", "ff02::1"),
        255,
        &[134, 0, 0, 0, 0, 0, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0],
    ));
    let next = |host: &Host, to| host.interface.way(ip(to)).expect("a way").next_hop;
    assert_eq!(next(&host, "2001:db8:9::1"), ip("fe80::2"));
    assert_eq!(next(&host, "2001:db8:5::1"), ip("fe80::1"));
    host.after(601);
    assert_eq!(next(&host, "2001:db8:5::1"), ip("fe80::2"));
    // A router that is none any more.
    host.receive(&icmp(
        all,
        ("fe80::2", "ff02::1"),
        255,
        &[134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ));
    assert_eq!(next(&host, "2001:db8:9::1"), ip("fe80::1"));
}

#[test]
fn the_same_ethernet_address_twice_ends_autoconfiguration() {
    let mut host = Host::auto();
    host.receive(&advert(0, 1800, &[&prefix("2001:db8:1::", 7200, 3600)]));
    let check = ndp(135, 0, "fe80::ff:fe00:7", None);
    host.receive(&icmp(
        [0x33, 0x33, 0xff, 0, 0, 7],
        ("::", "ff02::1:ff00:7"),
        255,
        &check,
    ));
    assert_eq!(host.interface.addresses().count(), 0);
    assert_eq!(host.stats.address_conflicts, 1);
    host.receive(&advert(0, 1800, &[&prefix("2001:db8:1::", 7200, 3600)]));
    assert_eq!(host.interface.addresses().count(), 0);
}

/// The answer of `DHCPv6` to what the host said last, with a server's address: without its checksum.
fn dhcp6(host: &mut Host) -> Vec<u8> {
    let frames = host.sent();
    let request = frames
        .iter()
        .find(|frame| frame[20] == 17)
        .expect("a request");
    assert!(describe(request).starts_with("fe80::ff:fe00:7 > ff02::1:2 udp"));
    let id = &request[63..66];
    let mut reply = vec![2, 35, 2, 34, 0, 0, 0, 0, 7];
    reply.extend(id);
    reply.extend([0, 2, 0, 1, 9, 0, 23, 0, 16]);
    reply.extend(v6("2001:db8::53").octets());
    let length = reply.len() as u16;
    put(&mut reply, 4, &length.to_be_bytes());
    reply
}

#[test]
fn other_information_comes_from_dhcp() {
    let mut host = Host::auto();
    host.receive(&advert(0x40, 1800, &[]));
    host.after(2);
    let mut reply = dhcp6(&mut host);
    let (source, destination) = (ip("fe80::1"), ip("fe80::ff:fe00:7"));
    let pseudo = pseudo_sum(source, destination, 17, reply.len());
    let total = !add_sums(pseudo, sum(&reply));
    put(&mut reply, 6, &total.to_be_bytes());
    host.receive(&frame(MAC, ("fe80::1", "fe80::ff:fe00:7"), 17, 64, &reply));
    assert_eq!(
        host.interface.name_servers().collect::<Vec<_>>(),
        [ip("2001:db8::53")]
    );
    assert!(host.interface.changes().addresses);
}

/// A server on the other end of a virtual link leaves the checksum of UDP to whoever sends the datagram on.
#[test]
fn dhcp_servers_on_the_host_leave_out_checksums() {
    let mut host = Host::auto();
    host.receive(&advert(0x40, 1800, &[]));
    host.after(2);
    let mut reply = dhcp6(&mut host);
    put(&mut reply, 6, &[1, 1]);
    let reply = frame(MAC, ("fe80::1", "fe80::ff:fe00:7"), 17, 64, &reply);
    host.receive(&reply);
    assert_eq!(host.interface.name_servers().count(), 0);
    assert_eq!(host.stats.dropped_checksum, 1);
    host.receive_from(&reply, true);
    assert_eq!(host.interface.name_servers().count(), 1);

    let mut host = Host::dhcp();
    for kind in [2, 5] {
        let mut message = dhcp(&mut host, kind, "10.0.0.7");
        put(&mut message, 14 + 20 + 6, &[1, 1]);
        host.receive(&message);
        host.receive_from(&message, true);
    }
    assert_eq!(host.stats.dropped_checksum, 2);
    assert!(host.interface.has(ip("10.0.0.7")));
}

/// A message of a DHCP server about 10.0.0.7, answering what the host said last.
pub(super) fn dhcp(host: &mut Host, kind: u8, to: &str) -> Vec<u8> {
    let frames = host.sent();
    let request = frames
        .iter()
        .rfind(|frame| frame[12..14] == [8, 0] && frame[23] == 17)
        .expect("a request");
    let mut bytes = vec![0, 67, 0, 68, 0, 0, 0, 0];
    let mut body = vec![0; 240];
    body[..3].copy_from_slice(&[2, 1, 6]);
    body[4..8].copy_from_slice(&request[46..50]);
    body[16..20].copy_from_slice(&[10, 0, 0, 7]);
    body[28..34].copy_from_slice(&MAC);
    body[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
    body.extend([53, 1, kind, 54, 4, 10, 0, 0, 1, 1, 4, 255, 255, 255, 0]);
    body.extend([
        51, 4, 0, 0, 14, 16, 3, 4, 10, 0, 0, 1, 6, 4, 9, 9, 9, 9, 26, 2, 5, 120, 255,
    ]);
    bytes.extend(body);
    let length = bytes.len() as u16;
    put(&mut bytes, 4, &length.to_be_bytes());
    let mac = if to == "255.255.255.255" { ALL } else { MAC };
    frame(mac, ("10.0.0.1", to), 17, 64, &bytes)
}

#[test]
fn a_lease_configures_the_interface() {
    // The server may or may not send to the address that is not there yet.
    for to in ["255.255.255.255", "10.0.0.7"] {
        let mut host = Host::dhcp();
        assert_eq!(host.interface.way(ip("10.0.0.1")), None);
        let offer = dhcp(&mut host, 2, to);
        host.receive(&offer);
        let ack = dhcp(&mut host, 5, to);
        host.receive(&ack);
        host.after(0);
        assert_eq!(host.said(), ["arp who-has 10.0.0.7 tell 10.0.0.7 > all"]);
        assert!(host.interface.changes().addresses);
        assert_eq!(
            host.interface.addresses().next(),
            Some((ip("10.0.0.7"), 24))
        );
        let way = host.interface.way(ip("198.51.100.1")).expect("a way");
        assert_eq!((way.next_hop, way.source), (ip("10.0.0.1"), ip("10.0.0.7")));
        assert_eq!(
            host.interface.name_servers().collect::<Vec<_>>(),
            [ip("9.9.9.9")]
        );
        assert_eq!(host.interface.path_mtu(ip("198.51.100.1"), host.now), 1400);
        // The renewal goes to the server.
        host.after(1801);
        let said = host.said();
        assert!(
            said.contains(&"arp who-has 10.0.0.1 tell 10.0.0.7 > all".into()),
            "{said:?}"
        );
        host.after(3600);
        assert!(!host.interface.has(ip("10.0.0.7")));
        assert_eq!(host.interface.way(ip("198.51.100.1")), None);
        assert_eq!(host.interface.path_mtu(ip("198.51.100.1"), host.now), 1500);
    }
}

#[test]
fn a_leased_address_that_another_has_is_declined() {
    let mut host = Host::dhcp();
    let offer = dhcp(&mut host, 2, "10.0.0.7");
    host.receive(&offer);
    let ack = dhcp(&mut host, 5, "10.0.0.7");
    host.receive(&ack);
    host.after(0);
    host.sent();
    host.receive(&arp(ALL, 2, PEER, "10.0.0.7", "10.0.0.7"));
    assert_eq!(host.said(), ["arp who-has 10.0.0.7 tell 10.0.0.7 > all"]);
    assert!(host.interface.has(ip("10.0.0.7")));
    host.after(1);
    host.receive(&arp(ALL, 2, PEER, "10.0.0.7", "10.0.0.7"));
    assert!(!host.interface.has(ip("10.0.0.7")));
    let said = host.said();
    assert!(
        said.last()
            .is_some_and(|said| said.starts_with("0.0.0.0 > 255.255.255.255 udp"))
    );
}

#[test]
fn datagrams_without_an_address_are_not_for_transports() {
    let mut host = Host::dhcp();
    let bytes = frame(
        MAC,
        ("10.0.0.1", "10.0.0.7"),
        17,
        64,
        &[0, 67, 0, 69, 0, 8, 0, 0],
    );
    assert_eq!(host.receive(&bytes), Got::Nothing);
}
