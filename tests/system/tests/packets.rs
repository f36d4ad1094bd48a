//! Packet sockets on an interface of the host, as root in network namespaces of the tests' own.

use std::net::Ipv4Addr;

use kiln_system_tests::netns::Netns;
use kiln_system_tests::{Running, Session, backend, skip};

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 2);

macro_rules! netns {
    () => {
        match Netns::new() {
            Ok(netns) => netns,
            Err(reason) => return skip(reason),
        }
    };
}

/// Two interfaces that are one cable: `near` with an address, `far` without.
fn cable(netns: &Netns) {
    netns.ip("link add near type veth peer name far");
    netns.ip("addr add 10.9.1.1/24 dev near");
    netns.ip("addr add fd00:9::1/64 dev near nodad");
    netns.ip("link set near up");
    netns.ip("link set far up");
}

#[track_caller]
fn serving(netns: &Netns, session: &Session, options: &str) -> Running {
    let mut running = netns.start_guest(session, options, "netprobe", "serve");
    running.wait_for("serving");
    running
}

#[test]
fn tcp_over_both_families() {
    if !backend::only_on(&["process", "kvm"], "other monitors have no packet sockets") {
        return;
    }
    let (netns, session) = (netns!(), Session::new());
    cable(&netns);
    let _running = serving(
        &netns,
        &session,
        "--net packet:far,ip=10.9.1.2/24,ip6=fd00:9::2/64",
    );
    netns.echoes_over_tcp((GUEST, 7).into());
    netns.echoes_over_tcp("[fd00:9::2]:7".parse().expect("an address"));
}

#[test]
fn an_ethernet_address_of_the_guests_own() {
    if !backend::only_on(&["process", "kvm"], "other monitors have no packet sockets") {
        return;
    }
    let (netns, session) = (netns!(), Session::new());
    cable(&netns);
    let _running = serving(
        &netns,
        &session,
        "--net packet:far,ip=10.9.1.2/24,mac=02:00:00:00:00:77",
    );
    netns.echoes_over_tcp((GUEST, 7).into());
}

/// A socket is told that its interface went down; the guest's link is there again when it comes up.
#[test]
fn an_interface_that_goes_down_and_comes_up() {
    if !backend::only_on(&["process", "kvm"], "other monitors have no packet sockets") {
        return;
    }
    let (netns, session) = (netns!(), Session::new());
    cable(&netns);
    let _running = serving(&netns, &session, "--net packet:far,ip=10.9.1.2/24");
    netns.echoes_over_tcp((GUEST, 7).into());
    for _ in 0..2 {
        netns.ip("link set far down");
        std::thread::sleep(std::time::Duration::from_millis(300));
        netns.ip("link set far up");
        netns.echoes_over_tcp((GUEST, 7).into());
    }
}

#[test]
fn an_interface_that_is_not_there() {
    let (netns, session) = (netns!(), Session::new());
    let guest = kiln_system_tests::guest("netprobe");
    let arguments = format!("run --net packet:nothing0 {} serve", guest.display());
    netns
        .run(&session, kiln_system_tests::kiln(), &arguments)
        .ends_with(125)
        .tells("no network interface nothing0");
}
