//! Source selection and lifetimes.

use super::*;

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

const FOREVER: (Instant, Instant) = (Instant::FOREVER, Instant::FOREVER);

/// Addresses that have been checked.
fn with(list: &[&str]) -> Addresses {
    let mut addresses = Addresses::default();
    for address in list {
        addresses.add(ip(address), 64, Origin::Router, FOREVER, at(0));
    }
    addresses.advance(at(0));
    addresses.advance(at(10));
    addresses.advance(at(20));
    addresses
}

#[test]
fn sources_are_chosen_as_rfc_6724_shows() {
    // Section 10.1, without the rules that are not here.
    for (destination, candidates, expected) in [
        (
            "2001:db8:1::1",
            ["2001:db8:3::1", "fe80::1"],
            "2001:db8:3::1",
        ),
        ("ff05::1", ["2001:db8:3::1", "fe80::1"], "2001:db8:3::1"),
        (
            "2001:db8:1::1",
            ["2001:db8:1::1", "2001:db8:2::1"],
            "2001:db8:1::1",
        ),
        ("fe80::1", ["fe80::2", "2001:db8:1::1"], "fe80::2"),
        (
            "2001:db8:1::1",
            ["2001:db8:1::2", "2001:db8:3::2"],
            "2001:db8:1::2",
        ),
        (
            "2002:c633:6401::1",
            ["2002:c633:6401::d5e3", "2001:db8:1::2"],
            "2002:c633:6401::d5e3",
        ),
        ("ff02::1", ["fe80::1", "2001:db8:3::1"], "fe80::1"),
        ("fd00:1::1", ["fd00:2::1", "fc80::1"], "fd00:2::1"),
        ("2001:db8::1", ["fd00:2::1", "2002::1"], "2002::1"),
    ] {
        for candidates in [candidates, [candidates[1], candidates[0]]] {
            let addresses = with(&candidates);
            assert_eq!(
                addresses.source_for(ip(destination)),
                Some(ip(expected)),
                "{destination}"
            );
        }
    }
}

#[test]
fn an_address_that_is_being_checked_waits_behind_others() {
    let mut addresses = with(&["2001:db8:2::1"]);
    addresses.add(ip("2001:db8:1::1"), 64, Origin::Router, FOREVER, at(30));
    assert_eq!(
        addresses.source_for(ip("2001:db8:1::9")),
        Some(ip("2001:db8:2::1"))
    );
    addresses.advance(at(30));
    addresses.advance(at(31));
    assert_eq!(
        addresses.source_for(ip("2001:db8:1::9")),
        Some(ip("2001:db8:1::1"))
    );
}

#[test]
fn ipv4_prefers_the_network_of_the_destination() {
    let mut addresses = Addresses::default();
    assert_eq!(addresses.source_for(ip("10.0.0.1")), None);
    addresses.add(ip("192.0.2.1"), 24, Origin::Static, FOREVER, at(0));
    addresses.add(ip("10.0.0.7"), 8, Origin::Dhcp, FOREVER, at(0));
    assert_eq!(addresses.source_for(ip("10.9.9.9")), Some(ip("10.0.0.7")));
    assert_eq!(
        addresses.source_for(ip("198.51.100.1")),
        Some(ip("192.0.2.1"))
    );
}

#[test]
fn the_list_has_ipv4_first_and_link_local_last() {
    let mut addresses = Addresses::default();
    addresses.add(ip("fe80::1"), 64, Origin::LinkLocal, FOREVER, at(0));
    addresses.add(ip("2001:db8::1"), 64, Origin::Router, FOREVER, at(0));
    addresses.add(ip("10.0.0.7"), 24, Origin::Dhcp, FOREVER, at(0));
    addresses.add(ip("2001:db8::2"), 64, Origin::Static, FOREVER, at(0));
    let list: Vec<_> = addresses.iter().map(|own| own.address).collect();
    assert_eq!(
        list,
        [
            ip("10.0.0.7"),
            ip("2001:db8::2"),
            ip("2001:db8::1"),
            ip("fe80::1")
        ]
    );
}

#[test]
fn what_was_given_by_hand_is_not_ended_by_routers() {
    let mut addresses = Addresses::default();
    addresses.add(ip("2001:db8::7"), 64, Origin::Static, FOREVER, at(0));
    let IpAddr::V6(address) = ip("2001:db8::7") else {
        unreachable!("IPv6");
    };
    addresses.advertised(address, 64, (at(1), at(1)), at(0));
    addresses.advance(at(100_000));
    assert!(addresses.has(ip("2001:db8::7")));
}

#[test]
fn a_duplicate_does_not_come_back() {
    let mut addresses = Addresses::default();
    let IpAddr::V6(address) = ip("2001:db8::7") else {
        unreachable!("IPv6");
    };
    assert!(addresses.advertised(address, 64, (at(100), at(100)), at(0)));
    assert!(addresses.remove_duplicate(address));
    assert!(!addresses.advertised(address, 64, (at(100), at(100)), at(0)));
    assert!(!addresses.has(address.into()));
}

#[test]
fn broadcast_addresses_are_those_of_the_network() {
    let of = |prefix| broadcast_of([10, 1, 2, 3].into(), prefix);
    assert_eq!(of(24), Some([10, 1, 2, 255].into()));
    assert_eq!(of(8), Some([10, 255, 255, 255].into()));
    assert_eq!(of(30), Some([10, 1, 2, 3].into()));
    assert_eq!((of(31), of(32)), (None, None));
    assert_eq!(of(0), Some([255; 4].into()));
}

#[test]
fn interface_identifiers_are_made_of_the_ethernet_address() {
    let address = link_local([0x02, 0x11, 0x22, 0x33, 0x44, 0x55]);
    assert_eq!(IpAddr::V6(address), ip("fe80::11:22ff:fe33:4455"));
}
