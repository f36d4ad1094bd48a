//! Getting addresses: DHCP and stateless autoconfiguration, against servers made by hand.

use std::boxed::Box;
use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;
use std::vec::Vec;

use super::hostile::{icmp6, udp4};
use super::{A_MAC, B4, Frame, Responder, Setup, World};
use crate::{Error, Ipv4Setup, Ipv6Setup, TcpStream};

const OFFERED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 42);

/// A DHCP server (RFC 2131) that gives everybody the same address, and says which MTU the network has. Notes the host names it hears.
fn dhcp_server(names: Rc<RefCell<Vec<Vec<u8>>>>, lease: u32, mtu: u16) -> Responder {
    Box::new(move |(_, frame): &Frame| {
        let is_dhcp = frame.len() > 282 && frame[12..14] == [8, 0] && frame[36..38] == [0, 67];
        if !is_dhcp {
            return Vec::new();
        }
        let request = &frame[42..];
        let mut kind = 0;
        let mut at = 240;
        while at + 1 < request.len() && request[at] != 255 {
            let end = at + 2 + usize::from(request[at + 1]);
            match request[at] {
                53 => kind = request[at + 2],
                12 => names.borrow_mut().push(request[at + 2..end].to_vec()),
                _ => {}
            }
            at = end;
        }
        let answer = if kind == 1 { 2 } else { 5 };
        let mut reply = std::vec![0; 240];
        reply[..4].copy_from_slice(&[2, 1, 6, 0]);
        reply[4..8].copy_from_slice(&request[4..8]);
        reply[16..20].copy_from_slice(&OFFERED.octets());
        reply[20..24].copy_from_slice(&B4.octets());
        reply[28..34].copy_from_slice(&request[28..34]);
        reply[236..240].copy_from_slice(&[99, 130, 83, 99]);
        reply.extend([53, 1, answer, 54, 4]);
        reply.extend(B4.octets());
        reply.extend([51, 4]);
        reply.extend(lease.to_be_bytes());
        reply.extend([1, 4, 255, 255, 255, 0, 3, 4]);
        reply.extend(B4.octets());
        reply.extend([26, 2]);
        reply.extend(mtu.to_be_bytes());
        reply.extend([6, 4, 9, 9, 9, 9, 255]);
        Vec::from([udp4(B4, OFFERED, 67, 68, &reply)])
    })
}

fn dhcp_only() -> Setup {
    let mut setup = Setup::new(A_MAC, [1; 32]);
    setup.stack = setup.stack.hostname("kiln-guest");
    setup.link.ipv4 = Ipv4Setup::Dhcp;
    setup
}

#[test]
fn dhcp_gives_address_gateway_and_name_server() {
    let mut world = World::new();
    let a = world.stack(dhcp_only());
    let names = Rc::new(RefCell::new(Vec::new()));
    world.responder(dhcp_server(names.clone(), 3600, 1500));
    world.faults.loss = 300;
    let stack = a.clone();
    world.spawn("program", async move {
        let early = TcpStream::connect(&stack, super::socket(B4, 80)).await;
        assert_eq!(early.err(), Some(Error::AddressNotAvailable));
        stack.ready().await;
        let addresses = stack.addresses();
        assert_eq!(addresses.len(), 1);
        assert_eq!(addresses[0].address, IpAddr::V4(OFFERED));
        assert_eq!(addresses[0].prefix, 24);
        assert_eq!(stack.name_servers(), [IpAddr::from([9, 9, 9, 9])]);
    });
    world.run();
    assert_eq!(names.borrow()[0], b"kiln-guest");
}

#[test]
fn a_lease_that_is_not_renewed_ends_with_its_connections() {
    let mut world = World::new();
    let a = world.stack(dhcp_only());
    world.responder(dhcp_server(Rc::default(), 600, 1500));
    let stack = a.clone();
    world.spawn("program", async move { stack.ready().await });
    world.run();
    world.pass(Duration::from_secs(2000));
    assert_eq!(a.addresses().len(), 1, "renewed while the server is there");
    let stack = a.clone();
    world.spawn("homeless", async move {
        let lost = TcpStream::connect(&stack, super::socket([10, 0, 0, 9], 80));
        assert_eq!(lost.await.err(), Some(Error::Unreachable));
    });
    world.run();
    world.faults.loss = 1000;
    world.pass(Duration::from_secs(700));
    assert_eq!(a.addresses(), []);
}

const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

fn slaac_only() -> Setup {
    let mut setup = Setup::new(A_MAC, [1; 32]);
    setup.link.ipv6 = Ipv6Setup::Auto;
    setup
}

/// A router advertisement of `2001:db8:1::/64` with a name server.
pub(super) fn advert(router_life: u16, prefix_life: u32) -> Vec<u8> {
    let mut advert = Vec::from([134, 0, 0, 0, 64, 0]);
    advert.extend(router_life.to_be_bytes());
    advert.extend([0; 8]);
    advert.extend([3, 4, 64, 0xc0]);
    advert.extend(prefix_life.to_be_bytes());
    advert.extend(prefix_life.to_be_bytes());
    advert.extend([0; 4]);
    advert.extend([0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    advert.extend([25, 3, 0, 0]);
    advert.extend(prefix_life.to_be_bytes());
    advert.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53]);
    advert
}

/// A router (RFC 4861) that answers solicitations.
fn router() -> Responder {
    Box::new(|(_, frame): &Frame| {
        if frame.get(54) != Some(&133) {
            return Vec::new();
        }
        let everybody = "ff02::1".parse().expect("an address");
        Vec::from([icmp6(ROUTER, everybody, &advert(1800, 86_400))])
    })
}

#[test]
fn a_router_gives_prefix_route_and_name_server() {
    let mut world = World::new();
    let a = world.stack(slaac_only());
    world.responder(router());
    let stack = a.clone();
    world.spawn("program", async move {
        stack.ready().await;
        let addresses = stack.addresses();
        let global: Ipv6Addr = "2001:db8:1::ff:fe00:a".parse().expect("an address");
        let local: Ipv6Addr = "fe80::ff:fe00:a".parse().expect("an address");
        assert_eq!(addresses[0].address, IpAddr::V6(global));
        assert_eq!(addresses[1].address, IpAddr::V6(local));
        let server: Ipv6Addr = "2001:db8::53".parse().expect("an address");
        assert_eq!(stack.name_servers(), [IpAddr::V6(server)]);
    });
    world.run();
}

#[test]
fn without_a_router_the_stack_asks_ever_more_rarely() {
    let mut world = World::new();
    let a = world.stack(slaac_only());
    world.pass(Duration::from_hours(4));
    let asked = a.stats().frames_out;
    // RFC 7559: within two hours at the most two or three times more.
    world.pass(Duration::from_hours(2));
    assert!(a.stats().frames_out - asked <= 3, "{:?}", a.stats());
    assert_eq!(a.addresses().len(), 1);
}

#[test]
fn advertisements_from_outside_the_link_are_ignored() {
    let mut world = World::new();
    let a = world.stack(slaac_only());
    let global = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let everybody = "ff02::1".parse().expect("an address");
    world.inject(icmp6(global, everybody, &advert(1800, 86_400)));
    world.pass(Duration::from_secs(1));
    assert_eq!(a.addresses().len(), 1);
}

#[test]
fn connections_keep_to_the_mtu_that_the_network_says() {
    let mut world = World::new();
    let a = world.stack(dhcp_only());
    world.responder(dhcp_server(Rc::default(), 3600, 1400));
    let _b = world.stack(super::config_b());
    let record = Rc::new(RefCell::new(Vec::<Frame>::new()));
    world.record = Some(record.clone());
    world.spawn("program", async move {
        a.ready().await;
        let refused = TcpStream::connect(&a, super::socket(B4, 80)).await;
        assert_eq!(refused.err(), Some(Error::ConnectionRefused));
    });
    world.run();
    // A SYN, whose first option is the largest segment.
    let is_syn = |frame: &&Frame| frame.1.get(23) == Some(&6) && frame.1[47] & 0x12 == 2;
    let record = record.borrow();
    let syn = record.iter().find(is_syn).expect("a SYN");
    assert_eq!(syn.1[54..58], [2, 4, 0x05, 0x50], "1360 and 40 are 1400");
}

#[test]
fn connections_go_on_by_another_router() {
    let mut world = World::new();
    let a = world.stack(slaac_only());
    let everybody: Ipv6Addr = "ff02::1".parse().expect("an address");
    let second = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
    world.inject(icmp6(ROUTER, everybody, &advert(1800, 86_400)));
    world.inject(icmp6(second, everybody, &advert(1800, 86_400)));
    world.pass(Duration::from_secs(2));
    let record = Rc::new(RefCell::new(Vec::<Frame>::new()));
    world.record = Some(record.clone());
    let to: Ipv6Addr = "2001:db8:9::1".parse().expect("an address");
    let stack = a.clone();
    world.spawn("client", async move {
        let _ = TcpStream::connect(&stack, super::socket(to, 80)).await;
    });
    world.pass(Duration::from_secs(12));
    // Neighbour solicitations by the last byte of their target: neither router answers.
    let asked = |last: u8| {
        let record = record.borrow();
        let is_it = |(_, frame): &&Frame| {
            frame.get(20) == Some(&58)
                && frame.get(54) == Some(&135)
                && frame.get(77) == Some(&last)
        };
        record.iter().filter(is_it).count()
    };
    assert!(asked(1) > 0 && asked(2) > 0, "{} {}", asked(1), asked(2));
}

#[test]
fn another_router_is_looked_for_when_the_last_one_says_goodbye() {
    let mut world = World::new();
    let _a = world.stack(slaac_only());
    let everybody: Ipv6Addr = "ff02::1".parse().expect("an address");
    world.inject(icmp6(ROUTER, everybody, &advert(1800, 86_400)));
    world.pass(Duration::from_secs(20));
    let record = Rc::new(RefCell::new(Vec::<Frame>::new()));
    world.record = Some(record.clone());
    world.inject(icmp6(ROUTER, everybody, &advert(0, 86_400)));
    world.pass(Duration::from_mins(1));
    let record = record.borrow();
    let is_it = |(_, frame): &&Frame| frame.get(20) == Some(&58) && frame.get(54) == Some(&133);
    assert!(
        record.iter().filter(is_it).count() > 0,
        "router solicitations"
    );
}
