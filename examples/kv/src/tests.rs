//! What the store promises, on simulated disks.

use std::boxed::Box;
use std::collections::BTreeMap;
use std::format;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use crate::format::{MAX_KEY, MAX_VALUE, Op};
use crate::map::View;
use crate::recovery::{OpenError, open};
use crate::simulated::{Disk, SECTOR, empty, now};
use crate::storage::Fault;
use crate::writer::{Outcome, Refusal, Writer};

type Model = BTreeMap<Box<[u8]>, Box<[u8]>>;

const STORE: u64 = 0x5eed;
const MEMORY: usize = 1 << 20;
/// The smallest disk: compaction comes often.
const SMALL: usize = 40 * 1024;

fn reopen(disk: &Disk) -> (View, Writer<Disk>) {
    now(open(disk.clone(), STORE, MEMORY)).unwrap()
}

fn set(key: &str, value: &[u8]) -> Op {
    Op::Set {
        key: key.as_bytes().into(),
        value: value.into(),
    }
}

fn delete(key: &str) -> Op {
    Op::Delete {
        key: key.as_bytes().into(),
    }
}

fn apply(model: &mut Model, batch: &[Op]) {
    for op in batch {
        match op.clone() {
            Op::Set { key, value } => drop(model.insert(key, value)),
            Op::Delete { key } => drop(model.remove(&key)),
            Op::Clear => model.clear(),
        }
    }
}

fn state(view: &View) -> Model {
    let map = view.read();
    let model: Model = map
        .entries_behind(None)
        .map(|(k, v)| (k.into(), v.into()))
        .collect();
    assert_eq!(model.len(), map.len());
    model
}

const DONE: Outcome = Outcome::Done { existed: false };
const REPLACED: Outcome = Outcome::Done { existed: true };

#[test]
fn what_was_set_is_there_after_opening_again() {
    let disk = empty(SMALL);
    let (view, mut writer) = reopen(&disk);
    let outcomes = now(writer.commit(vec![
        set("a", b"1"),
        set("b", b"2"),
        set("a", b"3"),
        delete("b"),
        delete("c"),
    ]));
    assert_eq!(outcomes, [DONE, DONE, REPLACED, REPLACED, DONE]);
    assert_eq!(view.read().get(b"a"), Some(&b"3"[..]));
    let (view, _) = reopen(&disk);
    assert_eq!(
        state(&view),
        Model::from([(b"a"[..].into(), b"3"[..].into())])
    );
}

#[test]
fn clearing_forgets_everything_before_it() {
    let disk = empty(SMALL);
    let (_, mut writer) = reopen(&disk);
    now(writer.commit(vec![set("a", b"1"), set("b", b"1")]));
    let outcomes = now(writer.commit(vec![set("c", b"1"), Op::Clear, set("a", b"2"), delete("b")]));
    assert_eq!(outcomes, [DONE, REPLACED, DONE, DONE]);
    let (view, _) = reopen(&disk);
    assert_eq!(
        state(&view),
        Model::from([(b"a"[..].into(), b"2"[..].into())])
    );
}

#[test]
fn deleting_nothing_costs_no_write() {
    let disk = empty(SMALL);
    let (_, mut writer) = reopen(&disk);
    let before = disk.events();
    assert_eq!(now(writer.commit(vec![delete("a")])), [DONE]);
    assert_eq!(disk.events(), before);
}

#[test]
fn a_full_disk_stays_readable_and_takes_deletes() {
    let disk = empty(SMALL);
    let (view, mut writer) = reopen(&disk);
    let mut count = 0;
    loop {
        match now(writer.commit(vec![set(&format!("key{count}"), &[7; 500])]))[..] {
            [DONE] => count += 1,
            [Outcome::Refused(Refusal::DiskFull)] => break,
            ref other => panic!("{other:?}"),
        }
    }
    // Three quarters of a half.
    assert!((20..25).contains(&count), "{count}");
    assert_eq!(view.read().len(), count);
    for _ in 0..200 {
        // A value that does not grow may be replaced for ever.
        assert_eq!(now(writer.commit(vec![set("key3", &[8; 500])])), [REPLACED]);
    }
    assert_eq!(
        now(writer.commit(vec![delete("key0"), set("new", &[9; 500])])),
        [REPLACED, DONE]
    );
    let (again, _) = reopen(&disk);
    assert_eq!(state(&again), state(&view));
}

#[test]
fn memory_has_a_limit_too() {
    let disk = empty(SMALL);
    let (_, mut writer) = now(open(disk.clone(), STORE, 3000)).unwrap();
    assert_eq!(now(writer.commit(vec![set("a", &[0; 2500])])), [DONE]);
    let outcomes = now(writer.commit(vec![set("b", &[0; 500]), set("c", b"")]));
    assert_eq!(outcomes, [Outcome::Refused(Refusal::MemoryFull), DONE]);
    assert_eq!(now(open(disk, STORE, 1000)).unwrap_err(), OpenError::Memory);
}

#[test]
fn lengths_have_limits() {
    let (_, mut writer) = reopen(&empty(1 << 20));
    let key = "k".repeat(MAX_KEY + 1);
    assert_eq!(
        now(writer.commit(vec![set(&key, b"")])),
        [Outcome::Refused(Refusal::TooLong)]
    );
    let value = vec![0; MAX_VALUE + 1];
    assert_eq!(
        now(writer.commit(vec![set("a", &value)])),
        [Outcome::Refused(Refusal::TooLong)]
    );
    assert_eq!(
        now(writer.commit(vec![set(&key[1..], &value[1..])])),
        [DONE]
    );
    // What does not fit into a frame of a small disk.
    let (_, mut writer) = reopen(&empty(SMALL));
    assert_eq!(
        now(writer.commit(vec![set("a", &[0; 5000])])),
        [Outcome::Refused(Refusal::TooLong)]
    );
}

#[test]
fn large_stores_are_compacted_and_read_in_parts() {
    let disk = empty(8 << 20);
    let (view, mut writer) = now(open(disk.clone(), STORE, 16 << 20)).unwrap();
    for round in 0..120u32 {
        let value = vec![round as u8; 60_000];
        assert!(matches!(
            now(writer.commit(vec![set(&format!("{}", round % 40), &value)]))[..],
            [Outcome::Done { .. }]
        ));
    }
    let (again, _) = now(open(disk, STORE, 16 << 20)).unwrap();
    assert_eq!(state(&again), state(&view));
    assert_eq!(view.read().len(), 40);
}

#[test]
fn disks_that_hold_something_else_are_left_alone() {
    for at in [0, 510, 1080, 65_600] {
        let mut content = vec![0; 1 << 20];
        content[at] = 1;
        let disk = Disk::new(content.clone());
        assert_eq!(
            now(open(disk.clone(), STORE, MEMORY)).unwrap_err(),
            OpenError::Foreign
        );
        assert_eq!(disk.content(), content);
    }
    assert_eq!(
        now(open(empty(16 * 1024), STORE, MEMORY)).unwrap_err(),
        OpenError::Geometry
    );
    assert!(OpenError::Foreign.to_string().contains("zeros"));
}

#[test]
fn a_disk_cut_short_is_refused() {
    let disk = empty(1 << 20);
    reopen(&disk);
    let content = disk.content()[..1 << 19].to_vec();
    assert_eq!(
        now(open(Disk::new(content), STORE, MEMORY)).unwrap_err(),
        OpenError::Shrunk
    );
}

#[test]
fn an_older_store_on_the_same_disk_does_not_shine_through() {
    let disk = empty(1 << 20);
    let (_, mut writer) = reopen(&disk);
    for index in 0..50 {
        now(writer.commit(vec![set(&format!("{index}"), b"old")]));
    }
    let mut content = disk.content();
    content[..8192].fill(0);
    content[8192..8192 + 131_072].fill(0);
    let (view, _) = now(open(Disk::new(content), STORE + 1, MEMORY)).unwrap();
    assert!(view.read().is_empty());
}

#[test]
fn damage_in_the_middle_is_not_taken_for_the_end() {
    let disk = empty(1 << 20);
    let (_, mut writer) = reopen(&disk);
    for index in 0..10 {
        now(writer.commit(vec![set(&format!("{index}"), b"precious")]));
    }
    let mut content = disk.content();
    content[8192 + 4 * SECTOR + 30] ^= 1;
    let error = now(open(Disk::new(content), STORE, MEMORY)).unwrap_err();
    assert_eq!(error, OpenError::Damaged(8192 + 4 * SECTOR as u64));
}

/// Numbers that look random, for a choice in a test that must be repeatable.
fn generator(mut seed: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    }
}

/// Commits batches until the disk crashes. Returns what was acknowledged, and the same with the batch under way.
fn run(disk: &Disk, batches: &[Vec<Op>], from: &Model) -> (Model, Model) {
    let mut acknowledged = from.clone();
    let Ok((view, mut writer)) = now(open(disk.clone(), STORE, MEMORY)) else {
        assert!(disk.crashed());
        return (acknowledged.clone(), acknowledged);
    };
    assert_eq!(state(&view), acknowledged);
    for batch in batches {
        let mut next = acknowledged.clone();
        apply(&mut next, batch);
        let outcomes = now(writer.commit(batch.clone()));
        if outcomes
            .iter()
            .any(|outcome| matches!(outcome, Outcome::Refused(_)))
        {
            assert!(disk.crashed());
            assert_eq!(state(&view), acknowledged);
            return (acknowledged, next);
        }
        acknowledged = next;
        assert_eq!(state(&view), acknowledged);
    }
    (acknowledged.clone(), acknowledged)
}

/// Opens what is left of a crashed disk. Its content must be one of the two, and stay it.
fn recover(disk: &Disk, expected: &(Model, Model)) -> Model {
    let (view, _) = reopen(disk);
    let found = state(&view);
    assert!(
        found == expected.0 || found == expected.1,
        "{found:?} is neither of {expected:?}"
    );
    found
}

/// The worst that may become of a switch to the other half: everything arrives but its superblock. The next switch goes to
/// the same half with the same snapshot, behind which a frame lies that was never acknowledged.
#[test]
fn a_switch_that_was_lost_leaves_nothing_to_find() {
    let batches: Vec<Vec<Op>> = (0..40).map(|n| vec![set("k", &[n; 10])]).collect();
    let whole = empty(SMALL);
    run(&whole, &batches, &Model::new());
    for first in 1..=whole.events() {
        for second in 1..10 {
            let disk = empty(SMALL);
            disk.crash_at(first);
            let expected = run(&disk, &batches, &Model::new());
            let is_superblock = |sector| sector < 8192 / SECTOR;
            let disk = disk.survivor_by_sector(|sector, versions| {
                (versions - 1) * usize::from(!is_superblock(sector))
            });
            let found = recover(&disk, &expected);
            disk.crash_at(disk.events() + second);
            let expected = run(&disk, &[vec![set("other", b"")]], &found);
            let disk = disk.survivor_by_sector(|sector, versions| {
                (versions - 1) * usize::from(is_superblock(sector))
            });
            recover(&disk, &expected);
        }
    }
}

/// A switch fails in the middle, at each of its steps. There is still room for a small frame in the old half, but
/// nothing may be acknowledged there that a superblock of the new half could hide.
#[test]
fn a_switch_that_failed_hides_nothing() {
    for after in 0..12 {
        let disk = empty(SMALL);
        let (_, mut writer) = reopen(&disk);
        for number in 0..30 {
            assert_eq!(now(writer.commit(vec![set("k", &[number; 10])])).len(), 1);
        }
        disk.fail(Some(Fault::Io), after);
        now(writer.commit(vec![set("large", &[0; 1200])]));
        disk.fail(None, 0);
        let stored = now(writer.commit(vec![set("small", b"")])) == [DONE];
        for survivor in [disk.survivor(|_| 0), disk.survivor(|versions| versions - 1)] {
            let (view, _) = reopen(&survivor);
            assert_eq!(view.read().get(b"k"), Some(&[29; 10][..]));
            assert!(!stored || view.read().get(b"small").is_some());
        }
    }
}

/// A few lengths only, so that frames of different times often begin at the same places.
fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![Just(10), Just(480), Just(900), 0..1400usize]
}

fn operation() -> impl Strategy<Value = Op> {
    let key = || (0..6u8).prop_map(|number| Box::from([b'k', number]));
    prop_oneof![
        12 => (key(), any::<u8>(), lengths())
            .prop_map(|(key, byte, len)| Op::Set { key, value: vec![byte; len].into() }),
        4 => key().prop_map(|key| Op::Delete { key }),
        1 => Just(Op::Clear),
    ]
}

fn batches(most: usize) -> impl Strategy<Value = Vec<Vec<Op>>> {
    proptest::collection::vec(proptest::collection::vec(operation(), 1..3), 1..most)
}

/// Crashes of each run.
const CRASHES: u32 = 24;

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Crashes at random points of a run; at each, nothing, everything and random parts of what was not flushed
    /// survive, or the guest alone has died; then a second run on the result, with a second crash.
    #[test]
    fn crashes_lose_nothing_that_was_acknowledged(
        first in batches(70),
        second in batches(40),
        seed in any::<u64>(),
    ) {
        let whole = empty(SMALL);
        run(&whole, &first, &Model::new());
        let mut random = generator(seed);
        for _ in 0..CRASHES {
            let crash = 1 + random(whole.events() as usize) as u64;
            for kind in 0..5 {
                let disk = empty(SMALL);
                disk.crash_at(crash);
                let expected = run(&disk, &first, &Model::new());
                let survivor = match kind {
                    0 => disk.survivor(|_| 0),
                    1 => disk.survivor(|versions| versions - 1),
                    2 => disk.reattached(),
                    _ => disk.survivor(&mut random),
                };
                survivor.crash_at(1 + random(100) as u64);
                let Ok((view, _)) = now(open(survivor.clone(), STORE, MEMORY)) else {
                    // It crashed again while it was opened.
                    assert!(survivor.crashed());
                    recover(&survivor.survivor(&mut random), &expected);
                    continue;
                };
                let found = state(&view);
                prop_assert!(found == expected.0 || found == expected.1);
                let expected = run(&survivor, &second, &found);
                recover(&survivor.survivor(&mut random), &expected);
            }
        }
    }

    /// Writes fail now and then; after each failure the store goes on.
    #[test]
    fn failed_writes_are_neither_half_there_nor_come_back(
        batches in batches(40),
        faults in proptest::collection::vec(proptest::option::weighted(0.4, prop_oneof![0..4u64, 0..40u64]), 40),
        seed in any::<u64>(),
    ) {
        let disk = empty(SMALL);
        let (view, mut writer) = reopen(&disk);
        let mut acknowledged = Model::new();
        // What may be found instead: a failed batch, as long as nothing was written behind it.
        let mut possible = Vec::new();
        let mut random = generator(seed);
        for (batch, fault) in batches.iter().zip(faults) {
            disk.fail(fault.map(|_| Fault::Full), fault.unwrap_or(0));
            let mut next = acknowledged.clone();
            apply(&mut next, batch);
            let outcomes = now(writer.commit(batch.clone()));
            disk.fail(None, 0);
            if outcomes.contains(&Outcome::Refused(Refusal::Unknown)) {
                // Only a superblock that failed does this. Reading goes on.
                possible.push(next);
                break;
            }
            if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Refused(_))) {
                possible.push(next);
            } else {
                acknowledged = next;
                possible.clear();
            }
            prop_assert_eq!(state(&view), acknowledged.clone());
        }
        let (found, _) = reopen(&disk.survivor(&mut random));
        let found = state(&found);
        prop_assert!(found == acknowledged || possible.contains(&found));
    }

    #[test]
    fn no_disk_is_too_strange(mut content in proptest::collection::vec(any::<u8>(), SMALL), keep in 0..3usize) {
        let disk = empty(SMALL);
        let (_, mut writer) = reopen(&disk);
        now(writer.commit(vec![set("a", b"1")]));
        // Genuine superblocks, or a genuine log too, before the noise.
        let genuine = [0, 8192, 8192 + 3 * SECTOR][keep];
        content[..genuine].copy_from_slice(&disk.content()[..genuine]);
        let _ = now(open(Disk::new(content), STORE, MEMORY));
    }
}
