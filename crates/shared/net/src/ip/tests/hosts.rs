//! What every host does: answers for its addresses, finds its neighbours, answers pings and errors.

use super::*;
use crate::Error;
use crate::ip::{Resolved, TroubleKind, Way};

#[test]
fn a_host_announces_its_static_address_twice() {
    let mut host = Host::new(LinkConfig::new(MAC).ipv4(v4("10.0.0.7"), 24, None));
    let announcement = "arp who-has 10.0.0.7 tell 10.0.0.7 > all";
    assert_eq!(host.said(), [announcement]);
    assert!(host.interface.has(ip("10.0.0.7")));
    host.after(3);
    assert_eq!(host.said(), [announcement]);
    host.after(3600);
    assert!(host.said().is_empty());
    assert_eq!(host.interface.deadline(), Instant::FOREVER);
}

#[test]
fn an_arp_request_is_answered_and_remembered() {
    let mut host = Host::v4();
    host.receive(&arp(ALL, 1, PEER, "10.0.0.9", "10.0.0.7"));
    assert_eq!(host.said(), ["arp 10.0.0.7 is-at us for 10.0.0.9 > peer"]);
    assert_eq!(host.send("10.0.0.9", 20), Ok(()));
    assert_eq!(host.said(), ["10.0.0.7 > 10.0.0.9 udp +20 > peer"]);
}

#[test]
fn probes_are_answered_and_others_requests_are_not() {
    let mut host = Host::v4();
    host.receive(&arp(ALL, 1, PEER, "0.0.0.0", "10.0.0.7"));
    assert_eq!(host.said(), ["arp 10.0.0.7 is-at us for 0.0.0.0 > peer"]);
    host.receive(&arp(ALL, 1, PEER, "10.0.0.9", "10.0.0.8"));
    assert!(host.said().is_empty());
}

#[test]
fn datagrams_wait_for_their_neighbour() {
    let mut host = Host::v4();
    for size in 20..150 {
        assert_eq!(host.send("198.51.100.1", size), Ok(()));
    }
    assert_eq!(host.said(), ["arp who-has 10.0.0.1 tell 10.0.0.7 > all"]);
    host.receive(&arp(MAC, 2, PEER, "10.0.0.1", "10.0.0.7"));
    let said = host.said();
    assert_eq!(said.len(), 130);
    assert_eq!(said[0], "10.0.0.7 > 198.51.100.1 udp +20 > peer");
    assert_eq!(said[129], "10.0.0.7 > 198.51.100.1 udp +149 > peer");
    assert!(host.interface.changes().neighbors);
}

#[test]
fn a_neighbour_that_does_not_answer_is_given_up_after_three_requests() {
    let mut host = Host::v4();
    assert_eq!(host.send("10.0.0.9", 20), Ok(()));
    host.after_millis(2500);
    assert_eq!(host.said().len(), 3);
    assert!(!host.interface.changes().neighbors);
    host.after_millis(501);
    assert!(host.interface.changes().neighbors);
    assert_eq!(host.send("10.0.0.9", 20), Err(Error::Unreachable));
    assert!(host.said().is_empty());
    host.after_millis(1000);
    assert_eq!(host.send("10.0.0.9", 20), Ok(()));
    assert_eq!(host.said(), ["arp who-has 10.0.0.9 tell 10.0.0.7 > all"]);
}

#[test]
fn a_stale_neighbour_is_probed_and_looked_for_anew() {
    let mut host = Host::v4();
    host.receive(&arp(ALL, 1, PEER, "10.0.0.9", "10.0.0.7"));
    host.sent();
    host.send("10.0.0.9", 20).expect("known");
    host.after(4);
    assert_eq!(host.said().len(), 1);
    host.after_millis(3500);
    let probe = "arp who-has 10.0.0.9 tell 10.0.0.7 > peer";
    assert_eq!(host.said(), [probe, probe, probe]);
    host.after(1);
    host.send("10.0.0.9", 20).expect("waits");
    assert_eq!(host.said(), ["arp who-has 10.0.0.9 tell 10.0.0.7 > all"]);
}

#[test]
fn a_transports_word_spares_probes() {
    let mut host = Host::v4();
    host.receive(&arp(ALL, 1, PEER, "10.0.0.9", "10.0.0.7"));
    for _ in 0..100 {
        host.send("10.0.0.9", 20).expect("known");
        host.with(|interface, now, _| interface.confirm(ip("10.0.0.9"), now));
        host.after(4);
    }
    assert!(
        !host
            .said()
            .iter()
            .any(|said| said.contains("who-has 10.0.0.9"))
    );
}

#[test]
fn what_is_said_unasked_makes_no_neighbour() {
    let mut host = Host::v4();
    host.receive(&arp(MAC, 2, PEER, "10.0.0.9", "10.0.0.7"));
    host.receive(&arp(ALL, 1, PEER, "10.0.0.9", "10.0.0.9"));
    host.send("10.0.0.9", 20).expect("waits");
    assert_eq!(host.said(), ["arp who-has 10.0.0.9 tell 10.0.0.7 > all"]);
}

#[test]
fn a_static_address_is_defended_but_not_in_a_storm() {
    let mut host = Host::v4();
    for _ in 0..5 {
        host.receive(&arp(ALL, 1, PEER, "10.0.0.7", "10.0.0.7"));
    }
    // The conflict counts as a question too.
    let announcements = host.said();
    let ours = announcements
        .iter()
        .filter(|said| said.ends_with("tell 10.0.0.7 > all"));
    assert_eq!(ours.count(), 1);
    assert!(host.interface.has(ip("10.0.0.7")));
    assert_eq!(host.stats.address_conflicts, 5);
}

#[test]
fn a_ping_is_answered() {
    let mut host = Host::v4();
    host.receive(&arp(ALL, 1, PEER, "10.0.0.9", "10.0.0.7"));
    host.sent();
    let request = [8, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7];
    host.receive(&icmp(MAC, ("10.0.0.9", "10.0.0.7"), 64, &request));
    assert_eq!(host.said(), ["10.0.0.7 > 10.0.0.9 icmp 0.0 +3 > peer"]);
    host.receive(&icmp(ALL, ("10.0.0.9", "10.0.0.255"), 64, &request));
    assert!(host.said().is_empty());
}

#[test]
fn a_ping_over_ipv6_is_answered() {
    let mut host = Host::v6();
    let request = [128, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7];
    host.receive(&icmp(MAC, ("2001:db8::9", "2001:db8::7"), 64, &request));
    assert_eq!(
        host.said(),
        ["2001:db8::7 > ff02::1:ff00:9 who-has 2001:db8::9 option 1 us > 33:33:ff:00:00:09"]
    );
    let answer = ndp(136, 0x60, "2001:db8::9", Some((2, PEER)));
    host.receive(&icmp(MAC, ("2001:db8::9", "2001:db8::7"), 255, &answer));
    assert_eq!(
        host.said(),
        ["2001:db8::7 > 2001:db8::9 icmp 129.0 +3 > peer"]
    );
}

#[test]
fn solicitations_are_answered() {
    let mut host = Host::v6();
    let group = [0x33, 0x33, 0xff, 0, 0, 7];
    let question = ndp(135, 0, "2001:db8::7", Some((1, PEER)));
    host.receive(&icmp(
        group,
        ("2001:db8::9", "ff02::1:ff00:7"),
        255,
        &question,
    ));
    let answer = "2001:db8::7 > 2001:db8::9 2001:db8::7 is-at [SO] option 2 us > peer";
    assert_eq!(host.said(), [answer]);
    // From beyond a router.
    host.receive(&icmp(
        group,
        ("2001:db8::9", "ff02::1:ff00:7"),
        254,
        &question,
    ));
    // Somebody checks the address.
    let check = ndp(135, 0, "2001:db8::7", None);
    host.receive(&icmp(group, ("::", "ff02::1:ff00:7"), 255, &check));
    let answer = "2001:db8::7 > ff02::1 2001:db8::7 is-at [O] option 2 us > 33:33:00:00:00:01";
    assert_eq!(host.said(), [answer]);
}

#[test]
fn a_new_address_is_checked_while_it_is_used() {
    let config = LinkConfig::new(MAC).ipv6(v6("2001:db8::7"), 64, None);
    let mut host = Host::new(config);
    assert!(host.interface.has(ip("2001:db8::7")));
    let said = host.said();
    let check = ":: > ff02::1:ff00:7 who-has 2001:db8::7 > 33:33:ff:00:00:07";
    assert!(said.contains(&check.into()), "{said:?}");
    // Nobody's cache is changed meanwhile.
    host.send("2001:db8::9", 20).expect("waits");
    let question = "2001:db8::7 > ff02::1:ff00:9 who-has 2001:db8::9 > 33:33:ff:00:00:09";
    assert!(host.said().contains(&question.into()));
    host.after(2);
    host.sent();
    host.send("2001:db8::8", 20).expect("waits");
    let question =
        "2001:db8::7 > ff02::1:ff00:8 who-has 2001:db8::8 option 1 us > 33:33:ff:00:00:08";
    assert_eq!(host.said(), [question]);
}

#[test]
fn a_duplicate_address_is_given_up() {
    for checks in [true, false] {
        let config = LinkConfig::new(MAC).ipv6(v6("2001:db8::9"), 64, None);
        let mut host = Host::new(config);
        host.interface.changes();
        if checks {
            let group = [0x33, 0x33, 0xff, 0, 0, 9];
            let check = ndp(135, 0, "2001:db8::9", None);
            host.receive(&icmp(group, ("::", "ff02::1:ff00:9"), 255, &check));
        } else {
            let all = [0x33, 0x33, 0, 0, 0, 1];
            let answer = ndp(136, 0x20, "2001:db8::9", Some((2, PEER)));
            host.receive(&icmp(all, ("2001:db8::9", "ff02::1"), 255, &answer));
        }
        assert!(!host.interface.has(ip("2001:db8::9")));
        assert!(host.interface.changes().addresses);
        assert!(host.interface.has(ip("fe80::ff:fe00:7")));
    }
}

#[test]
fn packets_for_transports_come_out() {
    let mut host = Host::v4();
    let mut bytes = frame(MAC, ("10.0.0.9", "10.0.0.7"), 17, 64, &[1; 20]);
    // Padding of the link.
    bytes.extend([0xee; 9]);
    let Got::Packet(header, payload) = host.receive(&bytes) else {
        panic!("a packet");
    };
    assert_eq!(header.source, ip("10.0.0.9"));
    assert_eq!(payload, [1; 20]);
    let mut host = Host::v6();
    let bytes = frame(MAC, ("2001:db8::9", "2001:db8::7"), 6, 64, &[2; 20]);
    assert!(matches!(host.receive(&bytes), Got::Packet(header, _) if header.protocol == 6));
}

#[test]
fn frames_that_cannot_be_are_dropped() {
    let mut host = Host::v4();
    for (source, destination) in [
        ("10.0.0.7", "10.0.0.7"),
        ("127.0.0.1", "10.0.0.7"),
        ("224.0.0.1", "10.0.0.7"),
        ("255.255.255.255", "10.0.0.7"),
        ("10.0.0.255", "10.0.0.7"),
        ("240.0.0.1", "10.0.0.7"),
        ("0.0.0.0", "10.0.0.7"),
        ("10.0.0.9", "127.0.0.1"),
    ] {
        let bytes = frame(MAC, (source, destination), 17, 64, &[1; 20]);
        assert_eq!(
            host.receive(&bytes),
            Got::Nothing,
            "{source} > {destination}"
        );
    }
    assert_eq!(host.stats.dropped_martian, 8);
    // A unicast packet to everybody's Ethernet address.
    let bytes = frame(ALL, ("10.0.0.9", "10.0.0.7"), 17, 64, &[1; 20]);
    assert_eq!(host.receive(&bytes), Got::Nothing);
    // For others.
    let bytes = frame(MAC, ("10.0.0.9", "10.0.0.8"), 17, 64, &[1; 20]);
    assert_eq!(host.receive(&bytes), Got::Nothing);
    let bytes = frame(PEER, ("10.0.0.9", "10.0.0.7"), 17, 64, &[1; 20]);
    assert_eq!(host.receive(&bytes), Got::Nothing);
    // TCP to many.
    let bytes = frame(ALL, ("10.0.0.9", "10.0.0.255"), 6, 64, &[1; 20]);
    assert_eq!(host.receive(&bytes), Got::Nothing);
    assert!(host.said().is_empty());
}

#[test]
fn ways_follow_the_longest_prefix() {
    let mut config = LinkConfig::new(MAC).ipv4(v4("10.0.0.7"), 24, Some(v4("10.0.0.1")));
    config.routes.push(crate::config::Route {
        network: ip("192.0.2.0"),
        prefix: 24,
        gateway: ip("10.0.0.2"),
    });
    let host = Host::new(config);
    let way = |to| {
        host.interface.way(ip(to)).map(
            |Way {
                 prefix, next_hop, ..
             }| (prefix, next_hop),
        )
    };
    assert_eq!(way("10.0.0.9"), Some((24, ip("10.0.0.9"))));
    assert_eq!(way("192.0.2.9"), Some((24, ip("10.0.0.2"))));
    assert_eq!(way("198.51.100.9"), Some((0, ip("10.0.0.1"))));
    assert_eq!(way("255.255.255.255"), Some((32, ip("255.255.255.255"))));
    assert_eq!(way("224.0.0.251"), Some((4, ip("224.0.0.251"))));
    assert_eq!(way("127.0.0.1"), None);
    assert_eq!(way("2001:db8::1"), None);
}

#[test]
fn groups_and_broadcast_have_addresses_of_their_own() {
    let mut host = Host::v4();
    let mut resolve = |to| host.with(|interface, now, cx| interface.resolve(ip(to), now, cx));
    assert_eq!(
        resolve("224.129.2.3"),
        Resolved::Known([1, 0, 0x5e, 1, 2, 3])
    );
    assert_eq!(resolve("10.0.0.255"), Resolved::Known(ALL));
    assert_eq!(
        resolve("ff02::fb"),
        Resolved::Known([0x33, 0x33, 0, 0, 0, 0xfb])
    );
}

/// An error about a datagram from port 1 to port 2.
fn error(kind: u8, code: u8, word: u32, addresses: (&str, &str), length: usize) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(word.to_be_bytes());
    let mut data = vec![0; length];
    pattern(&mut data);
    message.extend(&frame(PEER, addresses, 17, 64, &data)[14..]);
    message.truncate(300);
    message
}

#[test]
fn errors_reach_the_transport() {
    let mut host = Host::v4();
    let about = ("10.0.0.7", "198.51.100.9");
    let message = error(3, 3, 0, about, 40);
    let Got::Trouble(trouble) = host.receive(&icmp(MAC, ("10.0.0.1", "10.0.0.7"), 64, &message))
    else {
        panic!("trouble");
    };
    assert_eq!(trouble.kind, TroubleKind::Hard(Error::ConnectionRefused));
    assert_eq!((trouble.local.port(), trouble.remote.port()), (1, 2));
    assert_eq!(trouble.remote.ip(), ip("198.51.100.9"));
    // About somebody else's packet.
    let message = error(3, 3, 0, ("10.0.0.8", "198.51.100.9"), 40);
    let bytes = icmp(MAC, ("10.0.0.1", "10.0.0.7"), 64, &message);
    assert_eq!(host.receive(&bytes), Got::Nothing);
}

#[test]
fn what_is_too_big_lowers_the_path_mtu() {
    let mut host = Host::v6();
    let remote = "2001:db8:1::9";
    let message = error(2, 0, 1400, ("2001:db8::7", remote), 1452);
    let bytes = icmp(MAC, ("2001:db8::1", "2001:db8::7"), 64, &message);
    let Got::Trouble(trouble) = host.receive(&bytes) else {
        panic!("trouble");
    };
    let (mtu, length) = (1400, 1492);
    assert_eq!(trouble.kind, TroubleKind::TooBig { mtu, length });
    // Not before a transport has found that it can have sent the packet.
    assert_eq!(host.interface.path_mtu(ip(remote), host.now), 1500);
    let now = host.now;
    let believed = host.interface.too_big(ip(remote), mtu, length, now);
    assert_eq!(believed, Some(1400));
    assert_eq!(host.interface.path_mtu(ip(remote), host.now), 1400);
    assert_eq!(host.interface.path_mtu(ip("2001:db8:1::8"), host.now), 1500);
    host.after(600);
    assert_eq!(host.interface.path_mtu(ip(remote), host.now), 1500);
}

#[test]
fn a_closed_port_is_reported_within_limits() {
    let mut host = Host::v4();
    host.receive(&arp(ALL, 1, PEER, "10.0.0.9", "10.0.0.7"));
    host.sent();
    let Got::Packet(header, payload) =
        host.receive(&frame(MAC, ("10.0.0.9", "10.0.0.7"), 17, 64, &[1; 100]))
    else {
        panic!("a packet");
    };
    let report = |host: &mut Host| {
        host.with(|interface, now, cx| interface.port_unreachable(&header, &payload, now, cx));
    };
    report(&mut host);
    assert_eq!(host.said(), ["10.0.0.7 > 10.0.0.9 icmp 3.3 +120 > peer"]);
    for _ in 0..1000 {
        report(&mut host);
    }
    assert_eq!(host.said().len(), 31);
    assert_eq!(host.stats.icmp_errors_limited, 969);
    host.after(1);
    report(&mut host);
    assert_eq!(host.said().len(), 1);
}

#[test]
fn unknown_protocols_are_reported() {
    let mut host = Host::v4();
    host.receive(&arp(ALL, 1, PEER, "10.0.0.9", "10.0.0.7"));
    host.sent();
    host.receive(&frame(MAC, ("10.0.0.9", "10.0.0.7"), 99, 64, &[1; 10]));
    assert_eq!(host.said(), ["10.0.0.7 > 10.0.0.9 icmp 3.2 +30 > peer"]);
    host.receive(&frame(ALL, ("10.0.0.9", "10.0.0.255"), 99, 64, &[1; 10]));
    assert!(host.said().is_empty());
}

#[test]
fn extension_headers_are_skipped_or_reported() {
    let mut host = Host::v6();
    let neighbor = ndp(135, 0, "2001:db8::7", Some((1, PEER)));
    host.receive(&icmp(MAC, ("2001:db8::9", "2001:db8::7"), 255, &neighbor));
    host.sent();
    let addresses = ("2001:db8::9", "2001:db8::7");
    // Destination options with padding, then UDP.
    let mut payload = vec![17, 0, 1, 4, 0, 0, 0, 0];
    payload.extend([3; 12]);
    assert!(matches!(
        host.receive(&frame(MAC, addresses, 60, 64, &payload)),
        Got::Packet(Header { protocol: 17, .. }, data) if data == [3; 12]
    ));
    // An atomic fragment.
    payload[..8].copy_from_slice(&[17, 0, 0, 0, 1, 2, 3, 4]);
    assert!(matches!(
        host.receive(&frame(MAC, addresses, 44, 64, &payload)),
        Got::Packet(Header { protocol: 17, .. }, data) if data == [3; 12]
    ));
    assert!(host.said().is_empty());
    // An option that must be understood.
    payload[..8].copy_from_slice(&[17, 0, 0x82, 0, 1, 2, 0, 0]);
    host.receive(&frame(MAC, addresses, 60, 64, &payload));
    assert_eq!(
        host.said(),
        ["2001:db8::7 > 2001:db8::9 icmp 4.2 +60 > peer"]
    );
    // Nothing behind, and a protocol that is not here.
    host.receive(&frame(MAC, addresses, 59, 64, &payload));
    assert!(host.said().is_empty());
    host.receive(&frame(MAC, addresses, 99, 64, &payload));
    assert_eq!(
        host.said(),
        ["2001:db8::7 > 2001:db8::9 icmp 4.1 +60 > peer"]
    );
}

#[test]
fn loopback_takes_everything() {
    let mut host = Host::v4();
    host.interface = Interface::loopback(65_535);
    assert_eq!(host.interface.addresses().count(), 2);
    let way = host.interface.way(ip("127.0.0.5")).expect("a way");
    assert_eq!((way.prefix, way.next_hop), (8, ip("127.0.0.5")));
    assert_eq!(host.interface.way(ip("10.0.0.7")), None);
    let mut bytes = frame([0; 6], ("10.0.0.7", "10.0.0.7"), 17, 64, &[1; 20]);
    bytes[..14].fill(0);
    assert!(matches!(host.receive(&bytes), Got::Packet(..)));
    let mut bytes = icmp([0; 6], ("::1", "::1"), 64, &[128, 0, 0, 0, 1, 1, 1, 1]);
    bytes[..14].fill(0);
    host.receive(&bytes);
    assert_eq!(host.sent().len(), 1);
}
