//! Multicast: what routers and switches are told.

use super::*;

#[test]
fn groups_are_reported_and_queries_answered() {
    let mut host = Host::v6();
    let group = ip("ff05::1:3");
    assert_eq!(
        host.with(|interface, now, cx| interface.join(group, now, cx)),
        Ok(())
    );
    let joined = "fe80::ff:fe00:7 > ff02::16 alert mld2 4:ff05::1:3 > 33:33:00:00:00:16";
    assert_eq!(host.said(), [joined]);
    host.after(2);
    assert_eq!(host.said(), [joined]);
    let bytes = frame(
        [0x33, 0x33, 0, 1, 0, 3],
        ("2001:db8::9", "ff05::1:3"),
        17,
        64,
        &[1; 20],
    );
    assert!(matches!(host.receive(&bytes), Got::Packet(..)));
    // A general query.
    let mut query = vec![130, 0, 0, 0, 3, 232, 0, 0];
    query.extend([0; 20]);
    let query = |message: &[u8]| {
        let outer = icmp([0x33, 0x33, 0, 0, 0, 1], ("fe80::1", "ff02::1"), 1, message);
        let mut payload = vec![58, 0, 5, 2, 0, 0, 1, 0];
        payload.extend(&outer[54..]);
        frame(
            [0x33, 0x33, 0, 0, 0, 1],
            ("fe80::1", "ff02::1"),
            0,
            1,
            &payload,
        )
    };
    let mut general = vec![130, 0, 0, 0, 3, 232, 0, 0];
    general.extend([0; 20]);
    host.receive(&query(&general));
    host.after_millis(1000);
    let said = host.said();
    assert_eq!(said.len(), 1, "{said:?}");
    for part in ["2:ff05::1:3", "2:ff02::1:ff00:7"] {
        assert!(said[0].contains(part), "{said:?}");
    }
    // An old querier.
    let mut specific = vec![130, 0, 0, 0, 3, 232, 0, 0];
    specific.extend(v6("ff05::1:3").octets());
    host.receive(&query(&specific));
    host.after_millis(1000);
    let said = host.said();
    assert_eq!(
        said,
        ["fe80::ff:fe00:7 > ff05::1:3 alert mld1 report ff05::1:3 > 33:33:00:01:00:03"]
    );
    host.with(|interface, now, cx| interface.leave(group, now, cx));
    let done = "fe80::ff:fe00:7 > ff02::2 alert mld1 done ff05::1:3 > 33:33:00:00:00:02";
    assert_eq!(host.said(), [done]);
    assert_eq!(host.receive(&bytes), Got::Nothing);
    host.after(300);
    host.sent();
    host.with(|interface, now, cx| interface.join(group, now, cx))
        .expect("joined");
    assert_eq!(host.said(), [joined]);
}

#[test]
fn igmp_speaks_what_the_querier_speaks() {
    let mut host = Host::v4();
    let group = ip("239.1.2.3");
    let join = |host: &mut Host| host.with(|interface, now, cx| interface.join(group, now, cx));
    let leave = |host: &mut Host| host.with(|interface, now, cx| interface.leave(group, now, cx));
    let query = |message: &[u8]| {
        let mut bytes = icmp(ALL, ("10.0.0.1", "224.0.0.1"), 1, message);
        bytes[23] = 2;
        bytes[24..26].fill(0);
        let total = (!sum(&bytes[14..34])).to_be_bytes();
        bytes[24..26].copy_from_slice(&total);
        bytes[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 1]);
        bytes
    };
    join(&mut host).expect("joined");
    join(&mut host).expect("joined twice");
    let joined = "10.0.0.7 > 224.0.0.22 igmp3 4:239.1.2.3 > 01:00:5e:00:00:16";
    assert_eq!(host.said(), [joined]);
    host.after(2);
    assert_eq!(host.said(), [joined]);
    host.receive(&query(&[0x11, 10, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0]));
    host.after(1);
    assert_eq!(
        host.said(),
        ["10.0.0.7 > 224.0.0.22 igmp3 2:239.1.2.3 > 01:00:5e:00:00:16"]
    );
    leave(&mut host);
    assert!(host.said().is_empty());
    leave(&mut host);
    assert_eq!(
        host.said(),
        ["10.0.0.7 > 224.0.0.22 igmp3 3:239.1.2.3 > 01:00:5e:00:00:16"]
    );
    host.after(10);
    host.sent();
    host.receive(&query(&[0x11, 10, 0, 0, 0, 0, 0, 0]));
    join(&mut host).expect("joined");
    assert_eq!(
        host.said(),
        ["10.0.0.7 > 239.1.2.3 igmp 0x16 239.1.2.3 > 01:00:5e:01:02:03"]
    );
    host.after(10);
    host.sent();
    leave(&mut host);
    assert_eq!(
        host.said(),
        ["10.0.0.7 > 224.0.0.2 igmp 0x17 239.1.2.3 > 01:00:5e:00:00:02"]
    );
    host.after(10);
    host.sent();
    host.receive(&query(&[0x11, 0, 0, 0, 0, 0, 0, 0]));
    join(&mut host).expect("joined");
    assert_eq!(
        host.said(),
        ["10.0.0.7 > 239.1.2.3 igmp 0x12 239.1.2.3 > 01:00:5e:01:02:03"]
    );
}

#[test]
fn groups_are_limited() {
    let mut host = Host::v4();
    let mut join = |group| host.with(|interface, now, cx| interface.join(group, now, cx));
    assert_eq!(join(ip("10.0.0.1")), Err(crate::Error::InvalidInput));
    assert_eq!(join(ip("ff05::1")), Err(crate::Error::AddressNotAvailable));
    let joined =
        (0..200u32).filter(|number| join(Ipv4Addr::from(0xef00_0000 + number).into()).is_ok());
    assert_eq!(joined.count(), 64);
}
