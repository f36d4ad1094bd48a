//! The state machine of neighbours, event by event.

use super::*;
use core::net::Ipv4Addr;

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

fn host(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

const A: Mac = [2, 0, 0, 0, 0, 1];
const B: Mac = [2, 0, 0, 0, 0, 2];

fn keep_none(_: IpAddr) -> bool {
    false
}

fn in_state(state: State) -> Neighbors {
    let mut neighbors = Neighbors::new(0);
    neighbors.create(host(1), state, A, at(50), at(0), &keep_none);
    neighbors
}

fn advert(solicited: bool, replace: bool) -> Evidence {
    Evidence::Advert {
        solicited,
        replace,
        router: false,
    }
}

/// RFC 4861 appendix C, and what ARP makes of the same states.
#[test]
fn evidence_changes_states_as_the_table_says() {
    use State::{Delay, Failed, Incomplete, Probe, Reachable, Stale};
    let table = [
        // Solicited advertisements.
        (Incomplete, Some(A), advert(true, false), Reachable, A),
        (Failed, Some(A), advert(true, false), Reachable, A),
        (Stale, Some(A), advert(true, false), Reachable, A),
        (Probe, Some(A), advert(true, false), Reachable, A),
        (Probe, None, advert(true, false), Reachable, A),
        (Reachable, Some(B), advert(true, false), Stale, A),
        (Stale, Some(B), advert(true, false), Stale, A),
        (Probe, Some(B), advert(true, false), Probe, A),
        (Stale, Some(B), advert(true, true), Reachable, B),
        (Incomplete, None, advert(true, true), Incomplete, A),
        // Unsolicited ones.
        (Incomplete, Some(B), advert(false, false), Stale, B),
        (Reachable, Some(A), advert(false, true), Reachable, A),
        (Reachable, Some(B), advert(false, true), Stale, B),
        (Delay, Some(B), advert(false, true), Stale, B),
        (Reachable, Some(B), advert(false, false), Stale, A),
        // Solicitations, router advertisements, ARP requests for us.
        (Incomplete, Some(B), Evidence::Asks, Stale, B),
        (Reachable, Some(A), Evidence::Asks, Reachable, A),
        (Reachable, Some(B), Evidence::Asks, Stale, B),
        (Delay, Some(A), Evidence::Asks, Delay, A),
        (Reachable, None, Evidence::Asks, Reachable, A),
        // ARP that is not for us.
        (Reachable, Some(B), Evidence::Tells, Stale, B),
        (Probe, Some(A), Evidence::Tells, Probe, A),
        // ARP replies: only who was asked answers.
        (Incomplete, Some(B), Evidence::Reply, Reachable, B),
        (Probe, Some(A), Evidence::Reply, Reachable, A),
        (Stale, Some(A), Evidence::Reply, Stale, A),
        (Reachable, Some(B), Evidence::Reply, Stale, B),
    ];
    for (before, mac, evidence, after, known) in table {
        let mut neighbors = in_state(before);
        neighbors.heard(host(1), mac, evidence, at(10), &keep_none);
        let entry = &neighbors.entries[0];
        assert_eq!(
            (entry.state, entry.mac),
            (after, known),
            "{before:?} {mac:?} {evidence:?}"
        );
    }
}

#[test]
fn only_who_asks_for_us_becomes_known() {
    for (evidence, entries) in [
        (Evidence::Asks, 1),
        (Evidence::Tells, 0),
        (Evidence::Reply, 0),
        (advert(true, true), 0),
    ] {
        let mut neighbors = Neighbors::new(0);
        neighbors.heard(host(1), Some(A), evidence, at(0), &keep_none);
        assert_eq!(neighbors.entries.len(), entries, "{evidence:?}");
    }
}

#[test]
fn time_changes_states_as_the_table_says() {
    let mut neighbors = in_state(State::Stale);
    assert_eq!(neighbors.lookup(host(1), at(0)), Some(Resolved::Known(A)));
    assert_eq!(neighbors.deadline(), at(5));
    for second in [5, 6, 7] {
        let events = neighbors.advance(at(second));
        assert_eq!(events, [Event::Solicit(host(1), Some(A))], "{second}");
        assert_eq!(
            neighbors.lookup(host(1), at(second)),
            Some(Resolved::Known(A))
        );
    }
    assert_eq!(neighbors.advance(at(8)), [Event::Failed(host(1))]);
    assert_eq!(neighbors.lookup(host(1), at(8)), None);
    assert_eq!(neighbors.deadline(), Instant::FOREVER);
}

#[test]
fn reachable_ends_after_its_time() {
    let mut neighbors = in_state(State::Stale);
    neighbors.confirm(host(1), at(0));
    let until = neighbors.entries[0].timer;
    assert!((at(15)..=at(45)).contains(&until));
    assert_eq!(neighbors.lookup(host(1), at(14)), Some(Resolved::Known(A)));
    assert_eq!(neighbors.deadline(), Instant::FOREVER);
    assert_eq!(neighbors.lookup(host(1), until), Some(Resolved::Known(A)));
    assert_eq!(neighbors.deadline(), until + DELAY_FIRST_PROBE);
}

#[test]
fn inventions_displace_inventions() {
    let mut neighbors = Neighbors::new(0);
    let router = host(1);
    let keep = |address| address == router;
    neighbors.heard(router, Some(A), Evidence::Asks, at(0), &keep);
    // Some that the host talks to.
    for number in 2..20 {
        neighbors.heard(host(number), Some(A), Evidence::Asks, at(0), &keep);
        neighbors.lookup(host(number), at(100));
    }
    for number in 1000..100_000 {
        neighbors.heard(host(number), Some(B), Evidence::Asks, at(100), &keep);
    }
    assert_eq!(neighbors.entries.len(), MAX_ENTRIES);
    for number in 1..20 {
        assert!(neighbors.position(host(number)).is_ok());
    }
    // Those that are looked for have a share of their own.
    for number in 200_000..300_000 {
        neighbors.look_for(host(number), at(100), &keep);
    }
    assert_eq!(neighbors.entries.len(), MAX_ENTRIES);
    for number in 1..20 {
        assert!(neighbors.position(host(number)).is_ok());
    }
}

#[test]
fn when_all_are_in_use_there_is_no_new_one() {
    let mut neighbors = Neighbors::new(0);
    for number in 0..MAX_ENTRIES as u32 {
        neighbors.heard(host(number), Some(A), Evidence::Asks, at(0), &keep_none);
        neighbors.lookup(host(number), at(0));
    }
    assert!(!neighbors.look_for(host(9999), at(1), &keep_none));
    assert!(neighbors.look_for(host(9999), at(100), &keep_none));
}

#[test]
fn what_waits_is_bounded() {
    let mut neighbors = Neighbors::new(0);
    let waiting = |size| Waiting {
        outbound: Outbound {
            source: host(7),
            destination: host(1),
            protocol: 17,
            hop_limit: 64,
            ecn: crate::tcp::Ecn::NotEct,
        },
        payload: alloc::vec![0; size],
    };
    neighbors.look_for(host(1), at(0), &keep_none);
    for _ in 0..1000 {
        assert!(neighbors.wait(host(1), waiting(128)));
    }
    assert_eq!(neighbors.waiting, MAX_WAITING);
    assert!(!neighbors.wait(host(1), waiting(MAX_WAITING_BYTES)));
    let heard = neighbors.heard(host(1), Some(A), Evidence::Reply, at(0), &keep_none);
    assert_eq!(heard.waiting.len(), MAX_WAITING / (OVERHEAD + 128));
    assert_eq!(neighbors.waiting, 0);
}
