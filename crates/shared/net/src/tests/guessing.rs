//! What somebody who knows this code, and has seen what it did before, can still not foretell: which port, which sequence
//! number and which key come next. RFC 6056, RFC 6528, RFC 5961.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Duration;
use std::vec::Vec;

use kiln_abi::NetHeader;

use super::hostile::{icmp4, tcp4, udp4};
use super::{A4, B_MAC, B4, Host, Setup, World, bytes_of, socket};
use crate::table::{Key, Pair, Secret};
use crate::tcp::{Flags, Segment, Seq};
use crate::{Error, ListenOptions, Stack, TcpListener, UdpSocket};

/// The range of ephemeral ports.
const PORTS: u32 = 32_768;
const FIRST: u16 = 32_768;

/// Pearson's statistic for numbers below `bound`, in 64 classes. By chance it is above 120 once in 20,000 times.
fn uneven(numbers: impl Iterator<Item = u32>, bound: u32) -> f64 {
    let mut classes = [0.0f64; 64];
    let mut all = 0.0;
    for number in numbers {
        classes[(u64::from(number) * 64 / u64::from(bound)) as usize] += 1.0;
        all += 1.0;
    }
    let expected = all / 64.0;
    classes
        .iter()
        .map(|count| (count - expected).powi(2) / expected)
        .sum()
}

const EVEN: f64 = 120.0;

fn host(world: &mut World, seed: u8) -> Host {
    let mut setup = Setup::new([2, 0, 0, 0, 1, seed], [seed; 32]).memory_budget(1 << 30);
    setup.link = setup.link.ipv4(A4, 8, None);
    world.stack(setup)
}

/// Starts to connect, and tells from which port.
fn connect(stack: &Stack, to: (Ipv4Addr, u16)) -> Result<(Key, u16), Error> {
    stack.with(|core| {
        let key = core.connect(socket(to.0, to.1), None)?;
        let pair = core.connections.table.get(key).expect("a connection").pair;
        Ok((key, pair.local.port()))
    })
}

/// The peer `number` of many.
fn peer(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a80_0000 + number)
}

fn all_secrets(stack: &Stack) -> Vec<Secret> {
    stack.with(|core| {
        let mut secrets = Vec::from(core.connections.secrets());
        secrets.push(core.ended.secret());
        secrets
    })
}

#[test]
fn each_boot_and_each_purpose_has_a_key_of_its_own() {
    let mut world = World::new();
    let mut known = HashSet::new();
    for seed in 1..=50 {
        for Secret(first, second) in all_secrets(&host(&mut world, seed)) {
            assert!(known.insert(first) && known.insert(second));
        }
    }
    let (one, two) = (host(&mut world, 1), host(&mut world, 1));
    assert_eq!(
        all_secrets(&one),
        all_secrets(&two),
        "the seed is all there is"
    );
}

#[test]
fn ports_are_spread_over_the_whole_range() {
    let mut world = World::new();
    let a = host(&mut world, 1);
    let ports: Vec<u32> = (0..10_000)
        .map(|number| connect(&a, (peer(number), 80)).expect("connects").1)
        .map(|port| u32::from(port.checked_sub(FIRST).expect("an ephemeral port")))
        .collect();
    assert!(uneven(ports.iter().copied(), PORTS) < EVEN);
    // The low bits, too.
    assert!(uneven(ports.iter().map(|port| port % 64), 64) < EVEN);
    let different: HashSet<&u32> = ports.iter().collect();
    // 10,000 of 32,768 with repetition: 8,617 different ones on average.
    assert!(
        (8_450..8_790).contains(&different.len()),
        "{}",
        different.len()
    );
}

#[test]
fn a_port_says_nothing_of_the_next_to_somebody_else() {
    let mut world = World::new();
    let a = host(&mut world, 1);
    // Somebody sees the ports of connections to himself before and after each one to another.
    let port = |to| u32::from(connect(&a, to).expect("connects").1);
    let (mut before, mut after, mut between) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..6_000u32 {
        before.push(port((peer(1), 1 + number as u16)));
        between.push(port((peer(2 + number), 443)));
        after.push(port((peer(1), 10_001 + number as u16)));
    }
    let distances = |seen: &[u32]| {
        let pairs = seen.iter().zip(&between);
        uneven(
            pairs.map(|(seen, other)| other.wrapping_sub(*seen) % PORTS),
            PORTS,
        )
    };
    assert!(distances(&before) < EVEN && distances(&after) < EVEN);
    // Nor is it in the middle of the two.
    let ends = before.iter().zip(&after);
    let inside = ends
        .zip(&between)
        .filter(|((a, b), port)| (*a.min(b)..=*a.max(b)).contains(port))
        .count();
    // A third is, by chance.
    assert!((1_850..2_150).contains(&inside), "{inside}");
    // Another boot takes others for the same.
    let b = host(&mut world, 2);
    let same = (0..6_000)
        .filter(|number| {
            let port = connect(&b, (peer(2 + number), 443)).expect("connects").1;
            u32::from(port) == between[*number as usize]
        })
        .count();
    assert!(same < 5, "{same} of 6000 ports are those of another boot");
}

#[test]
fn every_port_is_given_once_and_then_there_is_none() {
    let mut world = World::new();
    let a = host(&mut world, 1);
    // One of them is somebody's own.
    let listener = TcpListener::bind(&a, socket(A4, 40_000)).expect("binds");
    let to = (peer(1), 80);
    let mut given = HashSet::new();
    let mut last = None;
    for _ in 1..PORTS {
        let (key, port) = connect(&a, to).expect("connects");
        assert!(port >= FIRST && port != 40_000 && given.insert(port));
        last = Some((key, port));
    }
    assert_eq!(connect(&a, to).err(), Some(Error::Exhausted));
    // Another peer, or another port of the same, has all of them still.
    connect(&a, (peer(2), 80)).expect("connects");
    connect(&a, (to.0, 81)).expect("connects");
    // The only one that is free again is found.
    let (key, port) = last.expect("a connection");
    a.with(|core| core.remove(key));
    assert_eq!(connect(&a, to).expect("connects").1, port);
    drop(listener);
    assert_eq!(connect(&a, to).expect("connects").1, 40_000);
    assert_eq!(connect(&a, to).err(), Some(Error::Exhausted));
    // A listener that wants any port gets none that a connection has.
    let any = TcpListener::bind(&a, socket(A4, 0));
    assert_eq!(any.err(), Some(Error::AddressInUse));
}

#[test]
fn every_port_of_datagrams_is_given_once_and_then_there_is_none() {
    let mut world = World::new();
    let a = host(&mut world, 1);
    let address = |one: &UdpSocket| one.local_addr().expect("an address");
    let port = |one: &UdpSocket| address(one).port();
    let mut sockets: Vec<UdpSocket> = (0..PORTS)
        .map(|_| UdpSocket::bind(&a, socket(A4, 0)).expect("binds"))
        .collect();
    let ports: HashSet<u16> = sockets.iter().map(port).collect();
    assert_eq!(ports.len(), sockets.len());
    let none = UdpSocket::bind(&a, socket(A4, 0));
    assert_eq!(none.err(), Some(Error::AddressInUse));
    let free = address(&sockets.swap_remove(12_345));
    let found = UdpSocket::bind(&a, socket(A4, 0)).expect("binds");
    assert_eq!(address(&found), free);
    // Giving back so many one by one takes long.
    std::mem::forget(sockets);
}

/// What a host answers to a SYN that comes from a peer: the number in its SYN and its timestamp.
fn greeting(world: &World, b: &Host, source: [u8; 4], port: u16) -> (Seq, u32) {
    let mut syn = tcp4(source, B4, port, 80, 1000, 0, 2, &[]);
    // With an option for timestamps.
    let option = [1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0];
    syn.extend(option);
    syn[14 + 20 + 12] = 0x80;
    let length = (syn.len() - 14) as u16;
    syn[16..18].copy_from_slice(&length.to_be_bytes());
    syn[24..26].fill(0);
    let sum = !smoltcp::wire::checksum::data(&syn[14..34]);
    syn[24..26].copy_from_slice(&sum.to_be_bytes());
    let vouched = NetHeader {
        flags: NetHeader::DATA_VALID,
        ..NetHeader::PLAIN
    };
    b.receive(vouched, &syn, world.now);
    let mut answers = answers(world, b);
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

/// The TCP segments that a host sends now: number and timestamp.
pub(super) fn answers(world: &World, b: &Host) -> Vec<(Seq, u32)> {
    let mut found = Vec::new();
    b.poll(world.now);
    b.link.transmit(|frames| {
        for (_, frame) in frames.iter() {
            let bytes = bytes_of(&frame);
            if bytes[12..14] == [8, 0] && bytes[23] == 6 {
                let (_, _, segment) = Segment::parse(&bytes[34..]).expect("a segment");
                let clock = segment.options.timestamps.map_or(0, |stamps| stamps.value);
                found.push((segment.seq, clock));
            }
        }
        frames.len()
    });
    found
}

/// A host that listens and knows all its neighbours, which never are asked.
pub(super) fn server(world: &mut World, seed: u8) -> (Host, TcpListener) {
    let mut setup = Setup::new(B_MAC, [seed; 32]).memory_budget(1 << 30);
    setup.link = setup.link.ipv4(B4, 8, None);
    let b = world.stack(setup);
    let options = ListenOptions {
        backlog: 100_000,
        ..ListenOptions::default()
    };
    let listener = TcpListener::bind_with(&b, socket(B4, 80), options).expect("binds");
    (b, listener)
}

/// Lets the host find a neighbour by a frame from it.
pub(super) fn introduce(world: &World, b: &Host, source: [u8; 4]) {
    let mut arp = Vec::from([0xff; 6]);
    arp.extend([
        2, 0, 0, 0, 0, 7, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 7,
    ]);
    arp.extend(source);
    arp.extend([0; 6]);
    arp.extend(B4.octets());
    b.receive(NetHeader::PLAIN, &arp, world.now);
    answers(world, b);
}

#[test]
fn sequence_numbers_of_one_peer_say_nothing_of_anothers() {
    let mut world = World::new();
    let (b, _listener) = server(&mut world, 1);
    let (c, _other) = server(&mut world, 2);
    let peer = [10, 0, 0, 9];
    for host in [&b, &c] {
        introduce(&world, host, peer);
    }
    let seen: Vec<(Seq, u32)> = (1..=4_000)
        .map(|port| greeting(&world, &b, peer, port))
        .collect();
    // All within one tick of both clocks, so that only the secret tells them apart.
    let steps = |read: fn(&(Seq, u32)) -> u32| {
        let pairs = seen.windows(2);
        let steps: Vec<u32> = pairs
            .map(|two| read(&two[1]).wrapping_sub(read(&two[0])))
            .collect();
        steps
    };
    let distances = [steps(|one| one.0.0), steps(|one| one.1)];
    for numbers in &distances {
        assert!(uneven(numbers.iter().copied(), u32::MAX) < EVEN);
        assert!(uneven(numbers.iter().map(|n| n % 64), 64) < EVEN);
    }
    // The number and the clock are not the same secret shown twice.
    let both = seen
        .iter()
        .map(|(number, clock)| number.0.wrapping_sub(*clock));
    assert!(uneven(both, u32::MAX) < EVEN);
    // Nor is another boot's number at the same distance.
    let apart: HashSet<u32> = (1..=200)
        .map(|port| greeting(&world, &c, peer, port).0.0)
        .zip(&seen)
        .map(|(there, here)| there.wrapping_sub(here.0.0))
        .collect();
    assert_eq!(apart.len(), 200);
}

#[test]
fn the_next_incarnation_is_numbered_by_the_clock() {
    let mut world = World::new();
    let a = host(&mut world, 1);
    let pair = Pair {
        local: socket(A4, 40_000),
        remote: socket(peer(1), 80),
    };
    let number = |world: &World| {
        a.poll(world.now);
        a.with(|core| core.iss(&pair))
    };
    let first = number(&world);
    world.now = world.now + Duration::from_secs(1);
    // RFC 9293 section 3.4.1: a tick of four microseconds.
    assert_eq!(number(&world).since(first), 250_000);
    // Round after round, beyond 4.55 hours.
    world.now = world.now + Duration::from_micros(4 << 32);
    assert_eq!(number(&world).since(first), 250_000);
}

#[test]
fn a_peer_cannot_spend_the_challenges_of_another() {
    // With one limit for all, somebody could tell from what he gets himself whether he has met the window of somebody
    // else: RFC 5961 section 7 has such a limit, and it was used so.
    let mut world = World::new();
    let (b, _listener) = server(&mut world, 1);
    let peer = [10, 0, 0, 9];
    introduce(&world, &b, peer);
    let send = |port: u16, number: u32, acknowledged: u32, flags: Flags| {
        let segment = tcp4(peer, B4, port, 80, number, acknowledged, flags.0, &[]);
        b.receive(NetHeader::PLAIN, &segment, world.now);
        answers(&world, &b)
    };
    for port in [1, 2] {
        let (number, _) = send(port, 1000, 0, Flags::SYN)[0];
        assert_eq!(send(port, 1001, number.0 + 1, Flags::ACK), []);
    }
    assert_eq!(b.stats().established, 2);
    // Resets within the window, but not at its edge.
    let challenges = |port| -> usize {
        let tries = 0..200;
        tries
            .map(|step| send(port, 1010 + step, 0, Flags::RST).len())
            .sum()
    };
    assert_eq!(challenges(1), 10);
    assert_eq!(challenges(2), 10);
    assert_eq!(b.stats().established, 2);
}

/// What a router says about a packet of this host: that no more than 1400 bytes get through.
fn too_big(packet: &[u8]) -> Vec<u8> {
    let mut message = Vec::from([3, 4, 0, 0, 0, 0]);
    message.extend(1400u16.to_be_bytes());
    // Behind the Ethernet header: the IP header and eight bytes.
    message.extend(&packet[14..42]);
    icmp4([10, 0, 0, 3].into(), B4, &message)
}

fn path_mtu(b: &Host, remote: Ipv4Addr) -> u16 {
    b.with(|core| core.ports[1].interface.path_mtu(remote.into(), core.now))
}

#[test]
fn a_router_is_not_believed_about_datagrams_that_nobody_can_have_sent() {
    let mut world = World::new();
    let (b, _listener) = server(&mut world, 1);
    let (peer, other) = (Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::new(10, 0, 0, 10));
    let say = |from: u16, remote: Ipv4Addr, to: u16| {
        let packet = udp4(B4, remote, from, to, &[0; 1472]);
        b.receive(NetHeader::PLAIN, &too_big(&packet), world.now);
        path_mtu(&b, remote)
    };
    assert_eq!(say(5000, peer, 53), 1500, "nobody has the port");
    let connected = UdpSocket::bind(&b, socket(B4, 5000)).expect("binds");
    connected.connect(socket(peer, 53)).expect("connects");
    assert_eq!(say(5000, other, 53), 1500, "it sends to another");
    assert_eq!(say(5000, peer, 54), 1500, "it sends to another port");
    assert_eq!(say(5000, peer, 53), 1400);
    let _open = UdpSocket::bind(&b, socket(Ipv4Addr::UNSPECIFIED, 5001)).expect("binds");
    assert_eq!(say(5001, other, 99), 1400);
}

#[test]
fn a_router_is_not_believed_about_segments_that_are_not_on_their_way() {
    let mut world = World::new();
    let (b, listener) = server(&mut world, 1);
    let peer = [10, 0, 0, 9];
    introduce(&world, &b, peer);
    world.spawn("server", async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        stream.write_all(&[0; 1000]).await.expect("writes");
        std::future::pending::<()>().await;
    });
    let send = |number: u32, acknowledged: u32, flags: Flags| {
        let segment = tcp4(peer, B4, 7, 80, number, acknowledged, flags.0, &[]);
        b.receive(NetHeader::PLAIN, &segment, world.now);
        answers(&world, &b)
    };
    let first = send(1000, 0, Flags::SYN)[0].0 + 1;
    send(1001, first.0, Flags::ACK);
    world.run_programs();
    let segments = answers(&world, &b);
    assert_eq!(segments[0].0, first);
    let say = |port: u16, seq: Seq| {
        let packet = tcp4(B4.octets(), peer.into(), 80, port, seq.0, 0, 16, &[0; 1460]);
        b.receive(NetHeader::PLAIN, &too_big(&packet), world.now);
        path_mtu(&b, peer.into())
    };
    assert_eq!(say(8, first), 1500, "no such connection");
    assert_eq!(say(7, first - 1), 1500, "acknowledged");
    assert_eq!(say(7, first + 1000), 1500, "not sent yet");
    assert_eq!(say(7, first + 999), 1400);
}
