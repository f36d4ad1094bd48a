//! Datagrams that do not fit into a packet.

use super::*;

#[test]
fn fragments_are_sent_and_put_together() {
    for (mut host, peer, own) in [
        (Host::v4(), "10.0.0.9", "10.0.0.7"),
        (Host::v6(), "2001:db8::9", "2001:db8::7"),
    ] {
        let v6 = own.contains(':');
        host.send(peer, 4000).expect("waits");
        host.sent();
        if v6 {
            let answer = ndp(136, 0x60, peer, Some((2, PEER)));
            host.receive(&icmp(MAC, (peer, own), 255, &answer));
        } else {
            host.receive(&arp(MAC, 2, PEER, peer, own));
        }
        let frames = host.sent();
        let said: Vec<_> = frames.iter().map(|frame| describe(frame)).collect();
        let expected = if v6 {
            ["0+1448...", "1448+1448...", "2896+1104"]
        } else {
            ["0+1480...", "1480+1480...", "2960+1040"]
        };
        let expected: Vec<_> = expected
            .iter()
            .map(|part| std::format!("{own} > {peer} fragment {part} > peer"))
            .collect();
        assert_eq!(said, expected);
        // The same back, last one first.
        let mut got = Got::Nothing;
        for mut frame in frames.into_iter().rev() {
            frame[..6].copy_from_slice(&MAC);
            frame[6..12].copy_from_slice(&PEER);
            // Swapped addresses do not change the checksum.
            if v6 {
                let (a, b) = frame[22..54].split_at_mut(16);
                a.swap_with_slice(b);
            } else {
                let (a, b) = frame[26..34].split_at_mut(4);
                a.swap_with_slice(b);
            }
            assert_eq!(got, Got::Nothing);
            got = host.receive(&frame);
        }
        let mut whole = vec![0; 4000];
        pattern(&mut whole);
        assert!(matches!(got, Got::Packet(header, data) if data == whole && header.protocol == 17));
        assert_eq!((host.stats.fragmented, host.stats.reassembled), (1, 1));
    }
}

#[test]
fn missing_fragments_are_reported() {
    let mut host = Host::v4();
    host.receive(&arp(ALL, 1, PEER, "10.0.0.9", "10.0.0.7"));
    host.sent();
    let mut bytes = frame(MAC, ("10.0.0.9", "10.0.0.7"), 17, 64, &[1; 80]);
    bytes[20] = 0x20;
    bytes[24..26].fill(0);
    let total = (!sum(&bytes[14..34])).to_be_bytes();
    bytes[24..26].copy_from_slice(&total);
    host.receive(&bytes);
    host.after_millis(29_999);
    assert!(host.said().is_empty());
    host.after(1);
    assert_eq!(host.said(), ["10.0.0.7 > 10.0.0.9 icmp 11.1 +100 > peer"]);
}

#[test]
fn fragments_that_cannot_be_are_reported() {
    let mut host = Host::v6();
    let neighbor = ndp(135, 0, "2001:db8::7", Some((1, PEER)));
    host.receive(&icmp(MAC, ("2001:db8::9", "2001:db8::7"), 255, &neighbor));
    host.sent();
    let mut send = |next: u8, position: u16, length: usize| {
        let mut payload = vec![next, 0];
        payload.extend(position.to_be_bytes());
        payload.extend([0, 0, 0, 1]);
        payload.resize(8 + length, 0);
        host.receive(&frame(
            MAC,
            ("2001:db8::9", "2001:db8::7"),
            44,
            64,
            &payload,
        ));
        host.said()
    };
    let report = |code, length| {
        [std::format!(
            "2001:db8::7 > 2001:db8::9 icmp 4.{code} +{length} > peer"
        )]
    };
    // Not a multiple of eight, beyond 64 KiB, headers missing.
    assert_eq!(send(17, 1, 12), report(0, 60));
    assert_eq!(send(17, 0xfff8, 16), report(0, 64));
    assert_eq!(send(60, 1, 8), report(3, 56));
}
