//! Headers and checksums against another implementation of them.

use super::*;
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, checksum};
use std::vec;
use std::vec::Vec;

fn outbound(v6: bool, addresses: (u128, u128), protocol: u8, hop_limit: u8, ecn: u8) -> Outbound {
    let address = |bits: u128| -> IpAddr {
        if v6 {
            Ipv6Addr::from(bits).into()
        } else {
            Ipv4Addr::from(bits as u32).into()
        }
    };
    Outbound {
        source: address(addresses.0),
        destination: address(addresses.1),
        protocol,
        hop_limit,
        ecn: Ecn::from_bits(ecn),
    }
}

proptest! {
    #[test]
    fn the_checksum_is_that_of_rfc_1071(bytes: Vec<u8>, more: Vec<u8>) {
        prop_assert_eq!(sum(&bytes), checksum::data(&bytes));
        let both = add_sums(sum(&bytes), sum(&more));
        prop_assert_eq!(both, checksum::combine(&[sum(&bytes), sum(&more)]));
    }

    #[test]
    fn what_is_written_is_read(
        v6: bool,
        addresses: (u128, u128),
        protocol: u8,
        hop_limit: u8,
        ecn in 0u8..4,
        id: u16,
        payload in proptest::collection::vec(any::<u8>(), 0..100),
        padding in 0usize..20,
    ) {
        let outbound = outbound(v6, addresses, protocol, hop_limit, ecn);
        let mut bytes = vec![0xee; headers_len(v6)];
        write_headers(&mut bytes, &outbound, ([1; 6], [2; 6]), payload.len(), id);
        prop_assert_eq!(&bytes[..12], [2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1]);
        bytes.extend(&payload);
        bytes.resize(bytes.len() + padding, 0xaa);
        let ip = &bytes[ETHERNET_HEADER..];
        let packet = if v6 { ipv6(ip) } else { ipv4(ip) }.expect("a packet");
        let expected = Header {
            source: outbound.source,
            destination: outbound.destination,
            protocol,
            ecn: outbound.ecn,
            hop_limit,
        };
        prop_assert_eq!(packet.header, expected);
        prop_assert_eq!(packet.payload, &payload[..]);
        prop_assert_eq!(packet.fragment, None);
        // The other implementation reads the same.
        if v6 {
            prop_assert_eq!(&bytes[12..14], [0x86, 0xdd]);
            let other = Ipv6Packet::new_checked(ip).expect("a packet");
            let other = Ipv6Repr::parse(&other).expect("a header");
            prop_assert_eq!(IpAddr::V6(other.src_addr), outbound.source);
            prop_assert_eq!(other.payload_len, payload.len());
        } else {
            prop_assert_eq!(&bytes[12..14], [0x08, 0x00]);
            let other = Ipv4Packet::new_checked(ip).expect("a packet");
            prop_assert!(other.dont_frag() && other.ident() == id);
            let other = Ipv4Repr::parse(&other, &ChecksumCapabilities::default()).expect("a header");
            prop_assert_eq!(IpAddr::V4(other.dst_addr), outbound.destination);
        }
    }

    #[test]
    fn pseudo_headers_are_those_of_the_rfcs(v6: bool, addresses: (u128, u128), protocol: u8, length in 0usize..65_536) {
        let outbound = outbound(v6, addresses, protocol, 64, 0);
        let expected = checksum::pseudo_header(
            &outbound.source.into(),
            &outbound.destination.into(),
            protocol.into(),
            length as u32,
        );
        let got = pseudo_sum(outbound.source, outbound.destination, protocol, length);
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn any_bytes_are_survived(bytes: Vec<u8>, next: u8, at in 0usize..100) {
        let _ = ipv4(&bytes);
        let _ = ipv6(&bytes);
        if let Ok(walk) = walk(&bytes, next, at, 6) {
            prop_assert!(walk.at >= at);
            prop_assert!(walk.at == at || walk.at <= bytes.len());
        }
    }
}

#[test]
fn extension_headers_are_walked_within_limits() {
    let packet = |headers: &[&[u8]]| -> Vec<u8> {
        let mut bytes = vec![0; IPV6_HEADER];
        for header in headers {
            bytes.extend(*header);
        }
        bytes
    };
    let read = |headers: &[&[u8]], next| walk(&packet(headers), next, IPV6_HEADER, 6);
    let padding: &[u8] = &[60, 0, 1, 4, 0, 0, 0, 0];
    let last: &[u8] = &[17, 0, 1, 4, 0, 0, 0, 0];
    let ok = read(&[padding, padding, last], 60).expect("fine");
    assert_eq!((ok.protocol, ok.at, ok.named_at), (17, 64, 56));
    assert_eq!(read(&[padding; 20], 60), Err(Fault::Unsupported));
    // Hop-by-hop options come first or not at all.
    let hop: &[u8] = &[60, 0, 5, 2, 0, 0, 1, 0];
    assert!(read(&[hop, last], 0).expect("fine").alert);
    let second: &[u8] = &[0, 0, 1, 4, 0, 0, 0, 0];
    assert_eq!(read(&[second, hop, last], 60), Err(problem(1, 40)));
    // A route that is still to be followed.
    let route: &[u8] = &[17, 0, 0, 1, 0, 0, 0, 0];
    assert_eq!(read(&[route], 43), Err(problem(0, 42)));
    let over: &[u8] = &[17, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(read(&[over], 43).expect("fine").protocol, 17);
    // Options: skip, drop, report always, report unless to a group.
    for (kind, expected) in [
        (0x22, None),
        (0x42, Some(Fault::Silent)),
        (
            0x82,
            Some(Fault::Problem {
                code: 2,
                pointer: 42,
                groups_too: true,
            }),
        ),
        (
            0xc2,
            Some(Fault::Problem {
                code: 2,
                pointer: 42,
                groups_too: false,
            }),
        ),
    ] {
        let header: &[u8] = &[17, 0, kind, 4, 0, 0, 0, 0];
        assert_eq!(read(&[header], 60).err(), expected, "{kind:x}");
    }
    // Cut short, and an option beyond its header.
    assert_eq!(read(&[&padding[..4]], 60), Err(Fault::Malformed));
    assert_eq!(
        read(&[&[17, 0, 1, 5, 0, 0, 0, 0]], 60),
        Err(Fault::Malformed)
    );
}

#[test]
fn udp_may_do_without_a_checksum_over_ipv4_only() {
    let header = |v6| Header {
        source: if v6 {
            Ipv6Addr::LOCALHOST.into()
        } else {
            Ipv4Addr::LOCALHOST.into()
        },
        destination: if v6 {
            Ipv6Addr::LOCALHOST.into()
        } else {
            Ipv4Addr::LOCALHOST.into()
        },
        protocol: UDP,
        ecn: Ecn::NotEct,
        hop_limit: 64,
    };
    let mut datagram = [0, 1, 0, 2, 0, 10, 0, 0, 5, 6, 7];
    assert!(checksum_is_right(&header(false), &datagram));
    assert!(!checksum_is_right(&header(true), &datagram));
    let IpAddr::V6(address) = header(true).source else {
        unreachable!("IPv6");
    };
    let pseudo = pseudo_sum(address.into(), address.into(), UDP, 10);
    let total = !add_sums(pseudo, sum(&datagram[..10]));
    put(&mut datagram, 6, &total.to_be_bytes());
    // What is behind the datagram does not count.
    assert!(checksum_is_right(&header(true), &datagram));
    datagram[8] ^= 1;
    assert!(!checksum_is_right(&header(true), &datagram));
}
