//! Whatever arrives is survived, and costs no more than its limits.

use super::*;
use proptest::prelude::*;

fn hosts() -> Vec<Host> {
    let mut hosts = vec![
        Host::v4(),
        Host::v6(),
        Host::auto(),
        Host::dhcp(),
        Host::v4(),
    ];
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

    #[test]
    fn damaged_frames_are_survived(
        which in any::<prop::sample::Index>(),
        places in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        twice: bool,
    ) {
        let frames = valid();
        let (mut host, mut bytes) = which.get(&frames).clone();
        for (place, value) in places {
            let at = place.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        repair(&mut bytes);
        let mut host = host.make();
        host.receive(&bytes);
        if twice {
            host.receive(&bytes);
        }
        host.after(100);
        host.send("2001:db8:9::1", 3000).ok();
        host.send("198.51.100.1", 3000).ok();
        host.after(20_000);
    }
}

/// Which host a frame is for.
#[derive(Clone, Copy, Debug)]
enum For {
    V4,
    V6,
    Auto,
    Dhcp,
}

impl For {
    fn make(&mut self) -> Host {
        match self {
            Self::V4 => Host::v4(),
            Self::V6 => Host::v6(),
            Self::Auto => Host::auto(),
            Self::Dhcp => Host::dhcp(),
        }
    }
}

/// One frame of each kind that hosts understand.
fn valid() -> Vec<(For, Vec<u8>)> {
    let mut servers = vec![25, 3, 0, 0, 0, 0, 2, 88];
    servers.extend(v6("2001:db8::53").octets());
    let options = [
        links::prefix("2001:db8:1::", 7200, 3600),
        servers,
        vec![5, 1, 0, 0, 0, 0, 5, 120],
        vec![24, 2, 48, 0x08, 0, 0, 2, 88, 0x20, 1, 0xd, 0xb8, 0, 5, 0, 0],
        vec![1, 1, 2, 0, 0, 0, 0, 1],
    ];
    let options: Vec<&[u8]> = options.iter().map(Vec::as_slice).collect();
    let mut query = vec![58, 0, 5, 2, 0, 0, 1, 0, 130, 0, 0, 0, 3, 232, 0, 0];
    query.extend([0; 20]);
    let mut fragment = vec![17, 0, 0, 1, 0, 0, 0, 1];
    fragment.extend([7; 64]);
    let mut extended = vec![60, 0, 5, 2, 0, 0, 1, 0, 17, 0, 1, 4, 0, 0, 0, 0];
    extended.extend([7; 16]);
    let mut error = vec![3, 4, 0, 0, 0, 0, 4, 0];
    error.extend(&frame(PEER, ("10.0.0.7", "10.0.0.9"), 6, 64, &[3; 1400])[14..300]);
    let mut error6 = vec![2, 0, 0, 0, 0, 0, 5, 0];
    error6.extend(&frame(PEER, ("2001:db8::7", "2001:db8::9"), 6, 64, &[3; 1400])[14..300]);
    let all6 = [0x33, 0x33, 0, 0, 0, 1];
    let hosts6 = ("2001:db8::9", "2001:db8::7");
    let hosts4 = ("10.0.0.9", "10.0.0.7");
    let solicitation = ndp(135, 0, "2001:db8::7", Some((1, PEER)));
    let advertisement = ndp(136, 0x60, "2001:db8::7", Some((2, PEER)));
    let offer = links::dhcp(&mut Host::dhcp(), 2, "255.255.255.255");
    let mut piece = frame(MAC, hosts4, 17, 64, &[1; 80]);
    piece[20] = 0x20;
    vec![
        (For::Auto, links::advert(0x40, 1800, &options)),
        (For::V6, icmp(MAC, hosts6, 255, &solicitation)),
        (For::V6, icmp(MAC, hosts6, 255, &advertisement)),
        (For::V6, frame(all6, ("fe80::1", "ff02::1"), 0, 1, &query)),
        (For::V6, frame(MAC, hosts6, 44, 64, &fragment)),
        (For::V6, frame(MAC, hosts6, 0, 64, &extended)),
        (For::V6, icmp(MAC, hosts6, 64, &error6)),
        (For::V4, icmp(MAC, hosts4, 64, &error)),
        (
            For::V4,
            icmp(
                ALL,
                ("10.0.0.9", "224.0.0.1"),
                1,
                &[0x11, 10, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0],
            ),
        ),
        (For::V4, arp(ALL, 1, PEER, "10.0.0.9", "10.0.0.7")),
        (For::V4, piece),
        (For::Dhcp, offer),
    ]
}

/// Makes the checksums right again, so that damage is seen by what is behind them.
fn repair(bytes: &mut [u8]) {
    match bytes.get(12..15) {
        Some([8, 0, 0x45]) if bytes.len() >= 34 => {
            bytes[24..26].fill(0);
            let total = (!sum(&bytes[14..34])).to_be_bytes();
            bytes[24..26].copy_from_slice(&total);
            if matches!(bytes[23], 1 | 2) && bytes.len() >= 42 {
                bytes[36..38].fill(0);
                let total = (!sum(&bytes[34..])).to_be_bytes();
                bytes[36..38].copy_from_slice(&total);
            }
        }
        Some([0x86, 0xdd, _]) if bytes.len() >= 62 && matches!(bytes[20], 0 | 58) => {
            let at = if bytes[20] == 0 { 62 } else { 54 };
            if bytes.len() < at + 8 {
                return;
            }
            let length = (bytes.len() - 54) as u16;
            bytes[18..20].copy_from_slice(&length.to_be_bytes());
            bytes[at + 2..at + 4].fill(0);
            let address = |at: usize| IpAddr::V6(address6(&bytes[at..at + 16]));
            let pseudo = pseudo_sum(address(22), address(38), 58, bytes.len() - at);
            let total = (!add_sums(pseudo, sum(&bytes[at..]))).to_be_bytes();
            bytes[at + 2..at + 4].copy_from_slice(&total);
        }
        _ => {}
    }
}
