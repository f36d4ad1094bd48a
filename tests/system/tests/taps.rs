//! Tap devices, as root in network namespaces of the tests' own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::Duration;

use kiln_system_tests::host::{find_program, is_root};
use kiln_system_tests::netns::Netns;
use kiln_system_tests::{Running, Session, skip};

const HOST: &str = "10.9.0.1/24";
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

macro_rules! netns {
    () => {
        match Netns::new() {
            Ok(netns) => netns,
            Err(reason) => return skip(reason),
        }
    };
}

#[track_caller]
fn serving(netns: &Netns, session: &Session, options: &str) -> Running {
    let mut running = netns.start_guest(session, options, "netprobe", "serve");
    running.wait_for("serving");
    running
}

fn udp(netns: &Netns) -> UdpSocket {
    let socket = netns.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket"));
    socket
        .set_read_timeout(Some(Duration::from_secs(3)))
        .expect("a timeout");
    socket
}

#[track_caller]
fn echoes(socket: &UdpSocket, to: Ipv4Addr, len: usize) {
    let sent: Vec<u8> = (0..len).map(|i| i.to_le_bytes()[0]).collect();
    socket.send_to(&sent, (to, 7)).expect("sent");
    let mut back = vec![0; 70_000];
    let got = socket
        .recv(&mut back)
        .unwrap_or_else(|error| panic!("{len} bytes: {error}"));
    assert!(back[..got] == sent, "{len} bytes came back as {got}");
}

#[test]
fn tcp_and_udp() {
    let (netns, session) = (netns!(), Session::new());
    netns.tap("tap0", HOST);
    let _running = serving(
        &netns,
        &session,
        "--net tap:tap0,ip=10.9.0.2/24,gw=10.9.0.1",
    );
    let socket = udp(&netns);
    for len in [0, 1, 512, 1472] {
        echoes(&socket, GUEST, len);
    }
    netns.echoes_over_tcp((GUEST, 7).into());
}

#[test]
fn ten_thousand_pings() {
    let (netns, session) = (netns!(), Session::new());
    let Some(ping) = find_program(&["ping"]) else {
        return skip("`ping` (iputils) is not installed");
    };
    netns.tap("tap0", HOST);
    let _running = serving(&netns, &session, "--net tap:tap0,ip=10.9.0.2/24");
    let flood = netns.run(&session, &ping, "-f -q -c 10000 10.9.0.2");
    flood.ends_with(0).prints("10000 received, 0% packet loss");
    // Patterned payload, which `ping` compares.
    let flood = netns.run(&session, &ping, "-f -q -c 2000 -s 1400 -p a55a17 10.9.0.2");
    flood.ends_with(0).prints("2000 received, 0% packet loss");
}

#[test]
fn jumbo_frames() {
    let (netns, session) = (netns!(), Session::new());
    netns.tap("tap0", HOST);
    netns.ip("link set tap0 mtu 9000");
    let _running = serving(&netns, &session, "--net tap:tap0,ip=10.9.0.2/24");
    let socket = udp(&netns);
    for len in [1473, 4096, 8972] {
        echoes(&socket, GUEST, len);
    }
    if let Some(ping) = find_program(&["ping"]) {
        netns
            .run(&session, &ping, "-c 3 -i 0.01 -M do -s 8972 10.9.0.2")
            .ends_with(0)
            .prints("3 received");
    }
}

#[test]
fn an_mtu_can_be_set_lower_than_the_interfaces() {
    let (netns, session) = (netns!(), Session::new());
    netns.tap("tap0", HOST);
    let _running = serving(&netns, &session, "--net tap:tap0,ip=10.9.0.2/24,mtu=1280");
    let mut stream = netns.within(|| TcpStream::connect((GUEST, 19)).expect("a connection"));
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    writeln!(stream, "1000000").expect("written");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("data");
    assert_eq!(all.len(), 1_000_000);
}

#[test]
fn ipv6_with_a_static_address() {
    let (netns, session) = (netns!(), Session::new());
    netns.tap("tap0", HOST);
    netns.ip("addr add fd09::1/64 dev tap0 nodad");
    let _running = serving(
        &netns,
        &session,
        "--net tap:tap0,ip=10.9.0.2/24,ip6=fd09::2/64",
    );
    let stream = netns.within(|| TcpStream::connect("[fd09::2]:7"));
    let mut stream = stream.expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    stream.write_all(b"six").expect("written");
    stream.read_exact(&mut [0; 3]).expect("an echo");
    if let Some(ping) = find_program(&["ping"]) {
        netns
            .run(&session, &ping, "-f -q -c 1000 fd09::2")
            .ends_with(0)
            .prints("0% packet loss");
    }
}

#[test]
fn an_address_by_dhcp() {
    let (netns, session) = (netns!(), Session::new());
    let Some(dnsmasq) = find_program(&["dnsmasq"]) else {
        return skip("`dnsmasq` is not installed");
    };
    netns.tap("tap0", HOST);
    let leases = session.file("leases");
    let args = [
        "--no-daemon",
        "--conf-file=/dev/null",
        "--port=0",
        "--interface=tap0",
        "--bind-interfaces",
        "--dhcp-range=10.9.0.50,10.9.0.50,255.255.255.0,1h",
        "--dhcp-authoritative",
        "--user=root",
        &format!("--dhcp-leasefile={}", leases.display()),
    ]
    .map(str::to_owned);
    let _server = Running::start(&mut netns.command(&session, &dnsmasq, &args));
    let running = serving(&netns, &session, "--name leased --net tap:tap0");
    assert!(
        running.output().contains("10.9.0.50"),
        "{}",
        running.output()
    );
    echoes(&udp(&netns), Ipv4Addr::new(10, 9, 0, 50), 100);
    let lease = std::fs::read_to_string(&leases).expect("a lease");
    assert!(
        lease.contains("10.9.0.50") && lease.contains("leased"),
        "address and name: {lease}"
    );
}

#[test]
fn without_a_dhcp_server_the_guest_waits() {
    let (netns, session) = (netns!(), Session::new());
    netns.tap("tap0", HOST);
    let mut running =
        netns.start_guest(&session, "--name alone --net tap:tap0", "netprobe", "serve");
    let id = session.only_instance();
    let (guest, _) = session.pids(&id);
    let before = kiln_system_tests::host::cpu_time(guest);
    std::thread::sleep(Duration::from_secs(2));
    assert!(running.is_running());
    let used = kiln_system_tests::host::cpu_time(guest).saturating_sub(before);
    assert!(
        used <= Duration::from_millis(50),
        "{used:?} of processor time while waiting for DHCP"
    );
}

#[test]
fn two_links() {
    let (netns, session) = (netns!(), Session::new());
    netns.tap("tap0", HOST);
    netns.tap("tap1", "10.10.0.1/24");
    let options = "--net left=tap:tap0,ip=10.9.0.2/24 --net right=tap:tap1,ip=10.10.0.2/24";
    let mut running = netns.start_guest(&session, options, "links", "");
    running.wait_for("serving");
    let socket = udp(&netns);
    for (address, name) in [("10.9.0.2:7", "left"), ("10.10.0.2:7", "right")] {
        for n in 0..500u32 {
            socket.send_to(&n.to_le_bytes(), address).expect("sent");
            let mut back = [0; 100];
            let (got, from) = socket.recv_from(&mut back).expect("an echo");
            assert_eq!(from.to_string(), address);
            assert_eq!(back[..got], [name.as_bytes(), &n.to_le_bytes()].concat());
        }
    }
    // A packet for one link's address that comes in by the other is none of its business, or answered as that link.
    if let Some(ping) = find_program(&["ping"]) {
        for address in ["10.9.0.2", "10.10.0.2"] {
            netns
                .run(&session, &ping, &format!("-f -q -c 2000 {address}"))
                .ends_with(0)
                .prints("0% packet loss");
        }
    }
}

#[test]
fn optional_links_may_be_absent() {
    let (netns, session) = (netns!(), Session::new());
    netns.tap("tap0", HOST);
    let mut running =
        netns.start_guest(&session, "--net left=tap:tap0,ip=10.9.0.2/24", "links", "");
    running.wait_for("spare=false");
    running.wait_for("right is absent");
    running.wait_for("serving");
}

#[test]
fn one_link_rootless_and_one_tap() {
    let (netns, session) = (netns!(), Session::new());
    netns.tap("tap0", HOST);
    let options = "--net left=user --net right=tap:tap0,ip=10.9.0.2/24 -p 127.0.0.1:4007:7/udp";
    let mut running = netns.start_guest(&session, options, "links", "");
    running.wait_for("serving");
    let socket = udp(&netns);
    for (address, name) in [("127.0.0.1:4007", "left"), ("10.9.0.2:7", "right")] {
        socket.send_to(b"?", address).expect("sent");
        let mut back = [0; 100];
        let got = socket.recv(&mut back).expect("an echo");
        assert_eq!(back[..got], [name.as_bytes(), b"?"].concat());
    }
}

#[test]
fn taps_that_are_not_there_or_not_ours_are_told() {
    let session = Session::new();
    let outcome = session.run("--net tap:kilnnone0,ip=10.9.0.2/24", "netprobe", "serve");
    outcome
        .ends_with(125)
        .is_one_line_error()
        .tells("kilnnone0");
    for option in [
        "tap:t,ip=10.9.0.2",
        "tap:t,ip=10.9.0.2/33",
        "tap:t,mtu=10",
        "tap:t,mac=1:2",
        "tap:t,colour=red",
        "tap:waytoolonginterface",
    ] {
        let outcome = session.run(&format!("--net {option}"), "netprobe", "serve");
        outcome.ends_with(125).is_one_line_error().tells("--net");
    }
    assert_eq!(session.leftovers(), [""; 0], "left behind");
    if is_root() {
        // Nothing was made on the way: as root, opening an unknown tap creates it.
        assert!(!std::path::Path::new("/sys/class/net/kilnnone0").exists());
    }
}
