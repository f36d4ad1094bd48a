//! When the network has something to do: the descriptor that its owner waits for.

mod common;

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use common::{Guest, link, with_forwards};
use kiln_usernet::Usernet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Long enough for the kernel to wake somebody.
const SOON: Duration = Duration::from_millis(50);

/// A network that the test drives itself, a forward of datagrams, and somebody who uses it.
fn network() -> (Usernet, Guest, UdpSocket) {
    let config = with_forwards(&["127.0.0.1:0:5000/udp"]);
    let (ours, theirs) = link();
    let guest = Guest::new(theirs, &config, true);
    let network = Usernet::new(config, ours).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(network.forwards()[0].host).unwrap();
    (network, guest, client)
}

fn has_work(network: &Usernet) -> bool {
    let fd = network.as_fd();
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let timeout = Timespec::try_from(SOON).unwrap();
    poll(&mut fds, Some(&timeout)).unwrap() > 0
}

/// Works until nothing is left to do.
fn settle(network: &mut Usernet) {
    while has_work(network) {
        network.run(Instant::now());
    }
}

fn take_all(guest: &mut Guest) -> usize {
    std::iter::from_fn(|| guest.wire.receive_raw()).count()
}

#[test]
fn frames_that_the_guest_takes_wake_nobody() {
    let (mut network, mut guest, client) = network();
    settle(&mut network);
    for _ in 0..3 {
        client.send(b"hello").unwrap();
        assert!(has_work(&network));
        settle(&mut network);
        assert_eq!(take_all(&mut guest), 1);
        assert!(!has_work(&network), "room that nobody waits for was told");
    }
}

#[test]
fn a_link_that_was_full_is_filled_again_when_there_is_room() {
    let (mut network, mut guest, client) = network();
    let long = vec![1; 60_000];
    let mut sent = 0;
    while network.stats().frames_dropped == 0 {
        client.send(&long).unwrap();
        sent += 1;
        network.run(Instant::now());
        assert!(sent < 1000, "it takes everything");
    }
    // Nothing more fits until the guest takes some.
    let start = Instant::now();
    while has_work(&network) {
        network.run(Instant::now());
        assert!(start.elapsed() < Duration::from_secs(5), "it never rests");
    }
    let mut taken = take_all(&mut guest);
    assert!(taken > 0);
    while has_work(&network) {
        network.run(Instant::now());
        taken += take_all(&mut guest);
        assert!(start.elapsed() < Duration::from_secs(20), "it never rests");
    }
    let dropped = network.stats().frames_dropped as usize;
    // A datagram of this length is one frame or several fragments, but a whole number of frames.
    assert_eq!(taken % (sent - dropped), 0, "{taken} of {sent}, {dropped}");
    assert!(!has_work(&network));
}
