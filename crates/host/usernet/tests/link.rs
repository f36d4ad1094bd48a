//! UDP, DNS, ICMP and what a guest needs to find its way.

mod common;

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use common::{DNS, GATEWAY, Guest, Host, PATIENCE, link, loopback_config, with_forwards};
use kiln_usernet::{Config, Usernet};
use smoltcp::socket::dhcpv4;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, IpEndpoint, IpProtocol, Ipv4Address, Ipv4Packet,
    Ipv4Repr, Ipv6Packet,
};

fn host_socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn ethernet(config: &Config, kind: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 14 + payload.len()];
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame);
    ethernet.set_src_addr(EthernetAddress(config.guest_mac));
    ethernet.set_dst_addr(EthernetAddress::BROADCAST);
    ethernet.set_ethertype(kind);
    ethernet.payload_mut().copy_from_slice(payload);
    frame
}

/// Sends a frame and waits for one that satisfies the test.
fn ask(guest: &mut Guest, frame: &[u8], fits: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    guest.wire.send_raw(frame);
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        common::wait_readable(&guest.wire.fd, Duration::from_millis(100));
        while let Some(frame) = guest.wire.receive_raw() {
            if fits(&frame) {
                return frame;
            }
        }
    }
    panic!("no answer");
}

#[test]
fn datagrams_reach_the_right_client() {
    let (host, mut guest) = Host::start(with_forwards(&["127.0.0.1:0:53/udp"]));
    let address = host.forward(0);
    let server = guest.udp(53);
    let (first, second) = (host_socket(), host_socket());
    first.send_to(b"one", address).unwrap();
    second.send_to(b"two", address).unwrap();
    let mut senders = Vec::new();
    let mut count = 0;
    guest.run(|guest| {
        let socket = guest.datagrams(server);
        while let Ok((data, meta)) = socket.recv().map(|(d, m)| (d.to_vec(), m)) {
            assert_eq!(meta.endpoint.addr, GATEWAY);
            senders.push(meta.endpoint.port);
            socket.send_slice(&data, meta.endpoint).unwrap();
            count += 1;
        }
        count == 2
    });
    // The guest asks for the gateway's Ethernet address before it answers.
    guest.run_for(Duration::from_millis(100));
    assert_ne!(senders[0], senders[1]);
    let mut buffer = [0; 16];
    assert_eq!(first.recv_from(&mut buffer).unwrap(), (3, address));
    assert_eq!(&buffer[..3], b"one");
    assert_eq!(second.recv_from(&mut buffer).unwrap(), (3, address));
    assert_eq!(&buffer[..3], b"two");
    assert_eq!(host.finish().stats().udp_now, 2);
}

#[test]
fn an_answer_comes_from_the_address_that_the_client_asked() {
    let (host, mut guest) = Host::start(with_forwards(&["0:53/udp"]));
    let server = guest.udp(53);
    let mut clients = Vec::new();
    for forward in &host.forwards {
        let (from, asked): (&str, &[&str]) = if forward.host.is_ipv4() {
            // Without knowing what was asked, Linux answers 127.0.0.1 from there.
            ("127.0.0.1:0", &["127.0.0.1", "127.0.0.2", "127.9.8.7"])
        } else {
            ("[::1]:0", &["::1"])
        };
        // One socket, so that only the address asked tells its questions apart.
        let client = UdpSocket::bind(from).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        for address in asked {
            let asked = SocketAddr::new(address.parse().unwrap(), forward.host.port());
            clients.push((client.try_clone().unwrap(), asked));
        }
    }
    for (client, asked) in &clients {
        client.send_to(asked.to_string().as_bytes(), asked).unwrap();
    }
    let mut count = 0;
    guest.run(|guest| {
        let socket = guest.datagrams(server);
        while let Ok((data, meta)) = socket.recv().map(|(d, m)| (d.to_vec(), m)) {
            socket.send_slice(&data, meta.endpoint).unwrap();
            count += 1;
        }
        count == clients.len()
    });
    guest.run_for(Duration::from_millis(100));
    let mut buffer = [0; 64];
    for (client, _) in &clients {
        let (length, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], from.to_string().as_bytes());
    }
    // A socket that is connected takes nothing from elsewhere.
    let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
    connected.set_read_timeout(Some(PATIENCE)).unwrap();
    connected
        .connect(("127.0.0.2", host.forward(0).port()))
        .unwrap();
    connected.send(b"x").unwrap();
    guest.run(|guest| {
        let socket = guest.datagrams(server);
        let Ok((data, meta)) = socket.recv().map(|(d, m)| (d.to_vec(), m)) else {
            return false;
        };
        socket.send_slice(&data, meta.endpoint).unwrap();
        true
    });
    assert_eq!(connected.recv(&mut buffer).unwrap(), 1);
    assert_eq!(host.finish().stats().udp_now, clients.len() as u64 + 1);
}

#[test]
fn the_guest_sends_datagrams_and_hears_only_whom_it_asked() {
    let (host, mut guest) = Host::start(loopback_config());
    let peer = host_socket();
    let port = peer.local_addr().unwrap().port();
    let client = guest.udp(5000);
    let large = vec![7; 60_000];
    guest
        .datagrams(client)
        .send_slice(&large, IpEndpoint::new(GATEWAY, port))
        .unwrap();
    guest.run_for(Duration::from_millis(20));
    let mut buffer = vec![0; 65_536];
    let (length, from) = peer.recv_from(&mut buffer).unwrap();
    assert!(buffer[..length] == large);
    peer.send_to(&buffer[..length], from).unwrap();
    guest.run(|guest| guest.datagrams(client).can_recv());
    let (data, meta) = guest.datagrams(client).recv().unwrap();
    assert!(data == large);
    assert_eq!(meta.endpoint, IpEndpoint::new(GATEWAY, port));

    // Another address of the host has not been asked.
    let stranger = UdpSocket::bind("127.0.0.2:0").unwrap();
    stranger.send_to(b"let me in", from).unwrap();
    guest.run_for(Duration::from_millis(100));
    assert!(!guest.datagrams(client).can_recv());
    assert_eq!(host.finish().stats().udp_dropped, 1);
}

#[test]
fn udp_flows_are_bounded() {
    let mut config = loopback_config();
    config.limits.udp_flows = 4;
    let (host, mut guest) = Host::start(config);
    let peer = host_socket();
    let port = peer.local_addr().unwrap().port();
    for i in 0..10 {
        let socket = guest.udp(6000 + i);
        guest
            .datagrams(socket)
            .send_slice(b"x", IpEndpoint::new(GATEWAY, port))
            .unwrap();
        guest.run_for(Duration::from_millis(5));
        peer.recv_from(&mut [0; 4]).unwrap();
    }
    let stats = host.finish().stats();
    assert_eq!((stats.udp_now, stats.udp_evicted), (4, 6));
}

#[test]
fn dns_queries_go_to_the_resolver() {
    let resolver = host_socket();
    // The first resolver is dead: its port refuses.
    let dead = host_socket().local_addr().unwrap();
    let config = Config {
        resolvers: vec![dead, resolver.local_addr().unwrap()],
        ..Config::default()
    };
    let (host, mut guest) = Host::start(config);
    let server = thread::spawn(move || {
        let mut buffer = [0; 512];
        let (length, from) = resolver.recv_from(&mut buffer).unwrap();
        // A forged answer with another identifier, then the true one.
        let mut answer = buffer[..length].to_vec();
        answer[2] |= 0x80;
        answer[0] ^= 1;
        resolver.send_to(&answer, from).unwrap();
        answer[0] ^= 1;
        answer.extend(b"answer");
        resolver.send_to(&answer, from).unwrap();
    });
    let client = guest.udp(5353);
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01x\x00\x00\x01\x00\x01";
    guest
        .datagrams(client)
        .send_slice(query, IpEndpoint::new(DNS, 53))
        .unwrap();
    guest.run(|guest| guest.datagrams(client).can_recv());
    let (answer, meta) = guest.datagrams(client).recv().unwrap();
    assert_eq!(meta.endpoint, IpEndpoint::new(DNS, 53));
    assert!(answer.starts_with(b"\x12\x34\x81") && answer.ends_with(b"answer"));
    server.join().unwrap();
    assert_eq!(host.finish().stats().dns_queries, 1);
}

#[test]
fn dns_says_servfail_when_nobody_answers() {
    let dead = host_socket().local_addr().unwrap();
    let config = Config {
        resolvers: vec![dead],
        ..Config::default()
    };
    let (host, mut guest) = Host::start(config);
    let client = guest.udp(5353);
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01x\x00\x00\x01\x00\x01";
    guest
        .datagrams(client)
        .send_slice(query, IpEndpoint::new(DNS, 53))
        .unwrap();
    guest.run(|guest| guest.datagrams(client).can_recv());
    let (answer, _) = guest.datagrams(client).recv().unwrap();
    assert_eq!(answer[3] & 15, 2);
    assert_eq!(host.finish().stats().dns_failed, 1);
}

/// A network that the test drives itself, so that it can let time pass.
fn by_hand(config: Config) -> (Usernet, Guest) {
    let (ours, theirs) = link();
    let guest = Guest::new(theirs, &config, true);
    (Usernet::new(config, ours).unwrap(), guest)
}

/// Lets both sides work until they have nothing more to do.
fn settle(network: &mut Usernet, guest: &mut Guest, now: Instant) {
    for _ in 0..20 {
        guest.poll();
        network.run(now);
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_silent_resolver_is_given_up() {
    let silent = host_socket();
    let config = Config {
        resolvers: vec![silent.local_addr().unwrap()],
        ..Config::default()
    };
    let (mut network, mut guest) = by_hand(config);
    let client = guest.udp(5353);
    guest
        .datagrams(client)
        .send_slice(&[7; 12], IpEndpoint::new(DNS, 53))
        .unwrap();
    guest
        .datagrams(client)
        .send_slice(&[1; 12], IpEndpoint::new(DNS, 53))
        .unwrap();
    let start = Instant::now();
    settle(&mut network, &mut guest, start);
    assert_eq!(network.stats().dns_failed, 0);
    let deadline = network.deadline().unwrap();
    assert!(deadline > start && deadline < start + Duration::from_secs(3));
    for step in 1..=3 {
        settle(
            &mut network,
            &mut guest,
            start + step * Duration::from_secs(3),
        );
    }
    assert_eq!(network.stats().dns_failed, 2);
    assert_eq!(guest.datagrams(client).recv().unwrap().0[3] & 15, 2);
    assert_eq!(network.deadline(), None);
}

#[test]
fn an_idle_connection_costs_no_time() {
    let (mut network, mut guest) = by_hand(with_forwards(&["127.0.0.1:0:80"]));
    let server = guest.listen(80, 4096);
    let mut client = std::net::TcpStream::connect(network.forwards()[0].host).unwrap();
    for i in 0..3 {
        std::io::Write::write_all(&mut client, &[i; 100]).unwrap();
        let now = Instant::now();
        settle(&mut network, &mut guest, now);
        guest.run(|guest| {
            common::echo(guest.socket(server));
            true
        });
        settle(&mut network, &mut guest, now + Duration::from_millis(10));
        std::io::Read::read_exact(&mut client, &mut [0; 100]).unwrap();
    }
    // At most a stale timer is left, and looking at it leaves none.
    network.run(Instant::now() + Duration::from_secs(5));
    assert_eq!(network.deadline(), None);
}

#[test]
fn idle_udp_flows_end() {
    let (mut network, mut guest) = by_hand(loopback_config());
    let peer = host_socket();
    let port = peer.local_addr().unwrap().port();
    let client = guest.udp(5000);
    guest
        .datagrams(client)
        .send_slice(b"x", IpEndpoint::new(GATEWAY, port))
        .unwrap();
    let start = Instant::now();
    settle(&mut network, &mut guest, start);
    assert_eq!(network.stats().udp_now, 1);
    network.run(start + Duration::from_mins(1));
    assert_eq!(network.stats().udp_now, 1);
    network.run(start + Duration::from_mins(3));
    assert_eq!(network.stats().udp_now, 0);
}

#[test]
fn dhcp_leases_the_guests_address() {
    let config = Config {
        hostname: "web".to_owned(),
        ..Config::default()
    };
    let (host, mut guest) = Host::start(config);
    guest
        .interface
        .update_ip_addrs(|addresses| addresses.truncate(0));
    let mut socket = dhcpv4::Socket::new();
    socket.set_outgoing_options(&[]);
    let buffer = Box::leak(vec![0; 1024].into_boxed_slice());
    socket.set_receive_packet_buffer(buffer);
    let client = guest.sockets.add(socket);
    let mut leased = None;
    guest.run(|guest| {
        if let Some(dhcpv4::Event::Configured(lease)) =
            guest.sockets.get_mut::<dhcpv4::Socket>(client).poll()
        {
            let options: Vec<_> = lease
                .packet
                .as_ref()
                .unwrap()
                .options()
                .map(|option| (option.kind, option.data.to_vec()))
                .collect();
            leased = Some((
                lease.address,
                lease.router,
                lease.dns_servers.clone(),
                options,
            ));
        }
        leased.is_some()
    });
    let (address, router, dns, options) = leased.unwrap();
    assert_eq!(address.to_string(), "10.0.2.15/24");
    assert_eq!(router, Some(Ipv4Address::new(10, 0, 2, 2)));
    assert_eq!(dns[..], [Ipv4Address::new(10, 0, 2, 3)]);
    assert!(options.contains(&(26, 65_520_u16.to_be_bytes().to_vec())));
    assert!(options.contains(&(12, b"web".to_vec())));
    assert_eq!(host.finish().stats().dhcp_answers, 2);
}

#[test]
fn arp_answers_for_the_gateway_alone() {
    let config = Config::default();
    let (_host, mut guest) = Host::start(config.clone());
    let request = |target: Ipv4Address| {
        let repr = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress(config.guest_mac),
            source_protocol_addr: config.guest4,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: target,
        };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut ArpPacket::new_unchecked(&mut bytes[..]));
        ethernet(&config, EthernetProtocol::Arp, &bytes)
    };
    // Asking for one's own address is duplicate detection, and the next host is nobody.
    guest.wire.send_raw(&request(config.guest4));
    guest.wire.send_raw(&request(Ipv4Address::new(10, 0, 2, 4)));
    let answer = ask(&mut guest, &request(config.gateway4), |_| true);
    let packet = ArpPacket::new_checked(&answer[14..]).unwrap();
    assert_eq!(packet.operation(), ArpOperation::Reply);
    assert_eq!(packet.source_hardware_addr(), config.gateway_mac);
    assert_eq!(packet.source_protocol_addr(), config.gateway4.octets());
}

/// Wraps an `ICMPv6` message of the guest.
fn icmp6(config: &Config, source: Ipv6Addr, target: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 40 + message.len()];
    bytes[40..].copy_from_slice(message);
    let mut packet = Ipv6Packet::new_unchecked(&mut bytes[..]);
    packet.set_version(6);
    packet.set_payload_len(message.len() as u16);
    packet.set_next_header(IpProtocol::Icmpv6);
    packet.set_hop_limit(255);
    packet.set_src_addr(source);
    packet.set_dst_addr(target);
    Icmpv6Packet::new_unchecked(packet.payload_mut()).fill_checksum(&source, &target);
    ethernet(config, EthernetProtocol::Ipv6, &bytes)
}

/// The message in a frame if it is an `ICMPv6` message of this type with a good checksum.
fn icmp6_message(frame: &[u8], kind: u8) -> Option<Vec<u8>> {
    let packet = Ipv6Packet::new_checked(frame.get(14..)?).ok()?;
    if packet.next_header() != IpProtocol::Icmpv6 || packet.payload()[0] != kind {
        return None;
    }
    let message = Icmpv6Packet::new_checked(packet.payload()).unwrap();
    assert!(message.verify_checksum(&packet.src_addr(), &packet.dst_addr()));
    assert_eq!(packet.hop_limit(), 255);
    Some(packet.payload().to_vec())
}

#[test]
fn neighbor_discovery_and_router_advertisement() {
    let config = Config::default();
    let (_host, mut guest) = Host::start(config.clone());

    let mut solicitation = vec![135, 0, 0, 0, 0, 0, 0, 0];
    solicitation.extend(config.gateway6.octets());
    let all_nodes = "ff02::1".parse().unwrap();
    let frame = icmp6(&config, config.guest6, all_nodes, &solicitation);
    let answer = ask(&mut guest, &frame, |f| icmp6_message(f, 136).is_some());
    let advert = icmp6_message(&answer, 136).unwrap();
    assert_eq!(advert[8..24], config.gateway6.octets());
    assert_eq!(advert[26..32], config.gateway_mac);

    let routers = "ff02::2".parse().unwrap();
    let frame = icmp6(
        &config,
        Ipv6Addr::UNSPECIFIED,
        routers,
        &[133, 0, 0, 0, 0, 0, 0, 0],
    );
    let answer = ask(&mut guest, &frame, |f| icmp6_message(f, 134).is_some());
    let advert = icmp6_message(&answer, 134).unwrap();
    let mut options = &advert[16..];
    let mut kinds = Vec::new();
    while let [kind, length, ..] = *options {
        kinds.push(kind);
        let (option, rest) = options.split_at(usize::from(length) * 8);
        match kind {
            3 => assert_eq!(option[16..24], config.guest6.octets()[..8]),
            5 => assert_eq!(option[4..], 65_520_u32.to_be_bytes()),
            25 => assert_eq!(option[8..], config.dns6.octets()),
            _ => {}
        }
        options = rest;
    }
    assert_eq!(kinds, [1, 5, 3, 25]);
}

#[test]
fn the_router_is_advertised_again_before_it_is_forgotten() {
    let config = Config::default();
    let (ours, theirs) = link();
    let mut guest = Guest::new(theirs, &config, true);
    let mut network = Usernet::new(config.clone(), ours).unwrap();
    let start = Instant::now();
    // Nobody has asked, and nobody is told.
    for minute in 0..60 {
        network.run(start + Duration::from_secs(60 * minute));
    }
    assert!(guest.wire.receive_raw().is_none());
    assert_eq!(network.deadline(), None);
    let asked = start + Duration::from_hours(1);
    let routers = "ff02::2".parse().unwrap();
    let solicitation = [133, 0, 0, 0, 0, 0, 0, 0];
    let frame = icmp6(&config, config.guest6, routers, &solicitation);
    guest.wire.send_raw(&frame);
    while network.run(asked) {}
    let answer = guest.wire.receive_raw().unwrap();
    assert!(icmp6_message(&answer, 134).is_some());
    assert_eq!(answer[38..54], config.guest6.octets());
    let (mut now, mut heard) = (asked, 0);
    while let Some(due) = network.deadline()
        && due <= asked + Duration::from_hours(2)
    {
        assert!(due > now && due <= now + Duration::from_mins(30));
        now = due;
        network.run(now);
        while let Some(frame) = guest.wire.receive_raw() {
            let advert = icmp6_message(&frame, 134).unwrap();
            assert!(u16::from_be_bytes([advert[6], advert[7]]) > 1800);
            // To all nodes.
            assert_eq!(
                frame[38..54],
                Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets()
            );
            heard += 1;
        }
    }
    assert_eq!(heard, 4);
}

#[test]
fn the_gateway_answers_ping() {
    let config = Config::default();
    let (host, mut guest) = Host::start(config.clone());
    let echo = Icmpv4Repr::EchoRequest {
        ident: 7,
        seq_no: 9,
        data: b"ping",
    };
    let ip = Ipv4Repr {
        src_addr: config.guest4,
        dst_addr: config.gateway4,
        next_header: IpProtocol::Icmp,
        payload_len: echo.buffer_len(),
        hop_limit: 64,
    };
    let caps = smoltcp::phy::ChecksumCapabilities::default();
    let mut bytes = vec![0; 20 + echo.buffer_len()];
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &caps);
    echo.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes[20..]), &caps);
    let frame = ethernet(&config, EthernetProtocol::Ipv4, &bytes);
    let answer = ask(&mut guest, &frame, |frame| frame[12..14] == [8, 0]);
    let packet = Ipv4Packet::new_checked(&answer[14..]).unwrap();
    let message = Icmpv4Packet::new_checked(packet.payload()).unwrap();
    assert!(matches!(
        Icmpv4Repr::parse(&message, &caps),
        Ok(Icmpv4Repr::EchoReply {
            ident: 7,
            seq_no: 9,
            data: b"ping"
        })
    ));
    assert_eq!(host.finish().stats().ping_requests, 1);
}

#[test]
fn frames_under_a_false_name_are_ignored() {
    let config = Config::default();
    let (host, mut guest) = Host::start(config);
    guest.interface.update_ip_addrs(|addresses| {
        addresses[0] = "10.0.2.99/24".parse().unwrap();
    });
    guest.connect((GATEWAY, 80), 40_000);
    guest.run_for(Duration::from_millis(50));
    let stats = host.finish().stats();
    assert!(stats.frames_spoofed > 0);
    assert_eq!(stats.tcp_opened, 0);
}

#[test]
fn the_end_of_the_guest_is_noticed() {
    let (ours, theirs) = link();
    let mut network = Usernet::new(Config::default(), ours).unwrap();
    network.run(Instant::now());
    assert!(!network.is_closed());
    drop(theirs);
    network.run(Instant::now());
    assert!(network.is_closed());
    assert!(network.inspect().contains("guest 10.0.2.15/24"));
}
