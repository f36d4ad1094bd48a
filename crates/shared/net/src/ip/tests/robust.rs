//! Whatever arrives is survived, and costs no more than its limits.

use super::*;
use proptest::prelude::*;

fn hosts() -> Vec<Host> {
    let mut hosts = vec![Host::v4(), Host::v6(), Host::auto(), Host::dhcp(), Host::v4()];
    hosts[4].interface = Interface::loopback(65_535);
    hosts
}

fn survive(frame: &[u8]) {
    for mut host in hosts() {
        host.receive(frame);
        host.after(100);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes: Vec<u8>) {
        survive(&bytes);
    }

    #[test]
    fn any_packets_are_survived(
        v6: bool,
        protocol in prop_oneof![Just(1u8), Just(58), Just(2), Just(44), Just(0), Just(60), Just(43), Just(17), any::<u8>()],
        to_group: bool,
        hop in prop_oneof![Just(255u8), Just(1)],
        mut payload in proptest::collection::vec(any::<u8>(), 0..120),
        kind in 125u8..145,
    ) {
        if protocol == 58 && !payload.is_empty() {
            payload[0] = kind;
        }
        let addresses = match (v6, to_group) {
            (true, true) => ("fe80::9", "ff02::1"),
            (true, false) => ("fe80::9", "fe80::ff:fe00:7"),
            (false, true) => ("10.0.0.9", "224.0.0.1"),
            (false, false) => ("10.0.0.9", "10.0.0.7"),
        };
        let to = if to_group { ALL } else { MAC };
        survive(&frame(to, addresses, protocol, hop, &payload));
        survive(&icmp(to, addresses, hop, &payload));
    }
}
