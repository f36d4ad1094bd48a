//! The example `kv`: a store of keys and values on a disk, with redis' protocol.
//!
//! What it promises is that a change it has acknowledged is there afterwards, whatever happened in between. So these
//! tests stop it, kill its guest or its supervisor in the middle of a crowd of writers, fill its disk, and compare what
//! it has then with what it said. A writer knows its own keys; the only change it may be in doubt about is the one that
//! was under way.
//!
//! Killing a process leaves the host's page cache as it was: what a power failure does to a disk is not tested here.

use std::collections::BTreeMap;
use std::fs;
use std::iter;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kiln_system_tests::Session;
use kiln_system_tests::host::{eventually, is_alive, signal};
use kiln_system_tests::process::PATIENCE;
use kiln_system_tests::random::Random;
use kiln_system_tests::resp::{Store, Value};
use kiln_system_tests::service::Service;
use rustix::process::Signal;

const KILN_ERROR: i32 = 125;

/// The store on a disk of the session.
#[track_caller]
fn store(session: Session, name: &str, options: &str) -> (Service, SocketAddr) {
    let disk = session.file("disk");
    let options = format!(
        "-p 127.0.0.1:0:6380 --block data={} {options}",
        disk.display()
    );
    let service = Service::start_in(session, name, &options, "kv");
    let to = service.address("6380/tcp");
    (service, to)
}

#[test]
fn kv_speaks_resp_and_lines() {
    let session = Session::new();
    session.disk("disk", 1 << 20);
    let (service, to) = store(session, "kv", "");
    assert!(service.running.output().contains("kv: 0 keys, "));
    let mut client = Store::connect(to);
    let (ok, bulk) = (Value::simple("OK"), |bytes: &[u8]| {
        Value::Bulk(bytes.to_owned())
    });
    assert_eq!(client.ask(&["PING"]), Value::simple("PONG"));
    assert_eq!(client.ask(&["GET", "a"]), Value::Nothing);
    assert_eq!(client.ask(&["SET", "a", "1"]), ok);
    assert_eq!(client.ask(&["GET", "a"]), bulk(b"1"));
    assert_eq!(client.ask(&["SET", "a", ""]), ok);
    assert_eq!(client.ask(&["GET", "a"]), bulk(b""));
    let (key, value) = (b"\r\n\0\xff$*".to_vec(), Random::new(1).bytes(65_536));
    assert_eq!(client.ask(&[b"SET", &*key, &value]), ok);
    assert_eq!(client.ask(&[b"get", &*key]), bulk(&value));
    assert_eq!(client.ask(&["DBSIZE"]), Value::Integer(2));
    assert_eq!(client.ask(&["EXISTS", "a", "b"]), Value::Integer(1));
    assert_eq!(client.ask(&["DEL", "a", "b"]), Value::Integer(1));
    assert_eq!(client.ask(&["DEL", "a"]), Value::Integer(0));
    assert_eq!(client.ask(&["GET", "a"]), Value::Nothing);
    for words in [
        &["GET"][..],
        &["INCR", "a"],
        &["SET", "a", "1", "NX"],
        &["SELECT", "1"],
    ] {
        let reply = client.ask(words);
        let Value::Error(text) = reply else {
            panic!("{words:?}: {reply:?}");
        };
        assert!(text.starts_with("ERR "), "{text}");
    }
    // Typed lines, one write, answered in order, and seen by others at once.
    let lines = b"SET typed word\r\nget typed\nDEL typed nothing\r\nGET typed\r\nSET b 2\r\n";
    client.send(lines).expect("sent");
    for expected in [
        ok.clone(),
        bulk(b"word"),
        Value::Integer(1),
        Value::Nothing,
        ok.clone(),
    ] {
        assert_eq!(client.receive().expect("a reply"), expected);
    }
    assert_eq!(Store::connect(to).ask(&["GET", "b"]), bulk(b"2"));
    assert_eq!(client.ask(&["QUIT"]), ok);
    assert!(client.has_ended());

    let mut client = Store::connect(to);
    client.send(b"*1\r\nnonsense\r\n").expect("sent");
    let reply = client.receive().expect("a reply");
    assert!(matches!(&reply, Value::Error(text) if text.contains("Protocol error")));
    assert!(client.has_ended());
    service.stop(Signal::TERM).1.ends_with(0);
}

#[test]
fn kv_finds_its_data_after_a_stop() {
    let mut session = Session::new();
    session.disk("disk", 1 << 20);
    for (round, signal) in [Signal::TERM, Signal::INT, Signal::TERM]
        .into_iter()
        .enumerate()
    {
        let (service, to) = store(session, &format!("kv{round}"), "");
        assert!(
            service
                .running
                .output()
                .contains(&format!("kv: {round} keys, "))
        );
        let mut client = Store::connect(to);
        for earlier in 0..round {
            let key = format!("key{earlier}");
            assert_eq!(
                client.ask(&["GET", &key]),
                Value::Bulk(key.clone().into_bytes())
            );
        }
        let key = format!("key{round}");
        assert_eq!(client.ask(&["SET", &key, &key]), Value::simple("OK"));
        let (ended, outcome) = service.stop(signal);
        outcome.ends_with(0);
        session = ended;
    }
}

/// A change to some keys.
#[derive(Clone, Debug)]
enum Change {
    Set(Vec<u8>, Vec<u8>),
    /// All of them, or none.
    Delete(Vec<Vec<u8>>),
}

type Keys = BTreeMap<Vec<u8>, Vec<u8>>;

impl Change {
    fn apply(&self, keys: &mut Keys) {
        match self {
            Self::Set(key, value) => drop(keys.insert(key.clone(), value.clone())),
            Self::Delete(gone) => keys.retain(|key, _| !gone.contains(key)),
        }
    }

    fn words(&self) -> Vec<&[u8]> {
        match self {
            Self::Set(key, value) => vec![b"SET", key, value],
            Self::Delete(keys) => {
                let keys = keys.iter().map(|key| &**key);
                iter::once(&b"DEL"[..]).chain(keys).collect()
            }
        }
    }
}

/// A client with keys of its own that knows what was acknowledged.
struct Writer {
    number: usize,
    random: Random,
    keys: Keys,
    /// The change that was under way when the store was killed: done, or not.
    doubtful: Option<Change>,
}

impl Writer {
    const KEYS: usize = 12;

    fn new(number: usize) -> Self {
        Self {
            number,
            random: Random::new(1000 + number as u64),
            keys: Keys::new(),
            doubtful: None,
        }
    }

    fn key(&self, index: usize) -> Vec<u8> {
        format!("writer{}:{index}", self.number).into_bytes()
    }

    fn change(&mut self) -> Change {
        if self.random.below(4) == 0 {
            let mut keys = Vec::new();
            for index in 0..Self::KEYS {
                if self.random.below(3) == 0 {
                    keys.push(self.key(index));
                }
            }
            keys.push(self.key(0));
            return Change::Delete(keys);
        }
        let index = self.random.below(Self::KEYS);
        let len = self.random.below(3000);
        Change::Set(self.key(index), self.random.bytes(len))
    }

    /// Changes keys until the store is gone, or a long time has passed: whoever should have killed it has failed then.
    fn run(&mut self, mut client: Store, acknowledged: &AtomicUsize) {
        let until = Instant::now() + 2 * PATIENCE;
        while Instant::now() < until {
            let change = self.change();
            let Ok(reply) = client.command(&change.words()) else {
                self.doubtful = Some(change);
                return;
            };
            let expected = match &change {
                Change::Set(..) => Value::simple("OK"),
                Change::Delete(keys) => {
                    let mut there: Vec<_> =
                        keys.iter().filter(|k| self.keys.contains_key(*k)).collect();
                    there.sort_unstable();
                    there.dedup();
                    Value::Integer(there.len() as u64)
                }
            };
            assert_eq!(reply, expected, "writer {}", self.number);
            change.apply(&mut self.keys);
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Compares what is there with what was acknowledged, and goes on from it.
    #[track_caller]
    fn check(&mut self, client: &mut Store) {
        let mut found = Keys::new();
        for index in 0..Self::KEYS {
            let key = self.key(index);
            match client.ask(&[b"GET", &*key]) {
                Value::Bulk(value) => drop(found.insert(key, value)),
                Value::Nothing => {}
                other => panic!("{other:?}"),
            }
        }
        let mut with_last = self.keys.clone();
        if let Some(change) = self.doubtful.take() {
            change.apply(&mut with_last);
        }
        if found != self.keys && found != with_last {
            let lens = |keys: &Keys| {
                let each = keys
                    .iter()
                    .map(|(k, v)| format!("{}={}", k.escape_ascii(), v.len()));
                each.collect::<Vec<_>>().join(" ")
            };
            panic!(
                "writer {}\nfound        {}\nacknowledged {}\nor           {}",
                self.number,
                lens(&found),
                lens(&self.keys),
                lens(&with_last)
            );
        }
        self.keys = found;
    }
}

/// The disk is small, so that its log is compacted many times.
#[test]
fn kv_keeps_what_it_acknowledged_whoever_is_killed() {
    let mut session = Session::new();
    session.disk("disk", 1 << 20);
    let mut random = Random::new(6380);
    let mut writers: Vec<Writer> = (0..8).map(Writer::new).collect();
    for round in 0..6 {
        let name = format!("kv{round}");
        let (service, to) = store(session, &name, "");
        let pids = service.session.pids(&name);
        let acknowledged = AtomicUsize::new(0);
        let pause = Duration::from_micros(random.number() % 150_000);
        let victim = if round % 2 == 0 { pids.0 } else { pids.1 };
        thread::scope(|scope| {
            for writer in &mut writers {
                let (client, acknowledged) = (Store::connect(to), &acknowledged);
                scope.spawn(move || writer.run(client, acknowledged));
            }
            eventually("changes are acknowledged", || {
                acknowledged.load(Ordering::Relaxed) > 100
            });
            thread::sleep(pause);
            signal(victim, Signal::KILL);
        });
        println!("round {round}: killed after {pause:?}, {acknowledged:?} changes acknowledged");
        service.running.finish().ends_with(137);
        eventually("guest and supervisor are gone", || {
            !is_alive(pids.0) && !is_alive(pids.1)
        });

        let (service, to) = store(service.session, &format!("{name}-after"), "");
        let mut client = Store::connect(to);
        for writer in &mut writers {
            writer.check(&mut client);
        }
        let count: usize = writers.iter().map(|writer| writer.keys.len()).sum();
        assert_eq!(client.ask(&["DBSIZE"]), Value::Integer(count as u64));
        let (ended, outcome) = service.stop(Signal::TERM);
        outcome.ends_with(0).prints(&format!("kv: {count} keys, "));
        session = ended;
    }
}

#[test]
fn kv_has_its_disk_for_itself() {
    let session = Session::new();
    let disk = session.disk("disk", 1 << 20);
    let (service, to) = store(session, "first", "");
    let option = format!("--rm -p 127.0.0.1:0:6380 --block data={}", disk.display());
    let second = service.session.run(&option, "kv", "");
    second
        .ends_with(KILN_ERROR)
        .is_one_line_error()
        .tells("in use by another instance");
    // The first has not noticed.
    let mut client = Store::connect(to);
    assert_eq!(client.ask(&["SET", "a", "1"]), Value::simple("OK"));
    let (session, outcome) = service.stop(Signal::TERM);
    outcome.ends_with(0);
    let (service, to) = store(session, "second", "");
    assert_eq!(
        Store::connect(to).ask(&["GET", "a"]),
        Value::Bulk(b"1".to_vec())
    );
    service.stop(Signal::TERM).1.ends_with(0);
}

#[test]
fn kv_refuses_disks_of_others() {
    let session = Session::new();
    for (name, at, byte, len, text) in [
        ("start", 0, 0x53, 1 << 20, "holds something else"),
        // Where ext4 has its magic number.
        ("ext4", 1080, 0x53, 1 << 20, "holds something else"),
        (
            "probe",
            128 * 1024 - 1,
            0x53,
            1 << 20,
            "holds something else",
        ),
        ("small", 0, 0, 16 * 1024, "at least 264 KiB"),
    ] {
        let disk = session.file(name);
        let mut content = vec![0; len];
        content[at] = byte;
        fs::write(&disk, &content).expect("a disk");
        let option = format!("--rm -p 127.0.0.1:0:6380 --block data={}", disk.display());
        let outcome = session.run(&option, "kv", "");
        outcome
            .ends_with(1)
            .prints("kv: disk \"data\"")
            .prints(text);
        assert!(
            fs::read(&disk).expect("the disk") == content,
            "{name}: written to"
        );
    }
}

#[test]
fn kv_goes_on_reading_when_the_disk_is_full() {
    let session = Session::new();
    session.disk("disk", 264 * 1024);
    let (service, to) = store(session, "kv", "");
    let mut client = Store::connect(to);
    let value = |number: usize| Random::new(number as u64).bytes(4000);
    let key = |number: usize| format!("key{number}").into_bytes();
    let mut count = 0;
    let full = loop {
        match client.ask(&[b"SET", &*key(count), &value(count)]) {
            Value::Simple(_) => count += 1,
            other => break other,
        }
        assert!(count < 66, "more than the disk holds");
    };
    assert!(
        matches!(&full, Value::Error(text) if text.contains("the disk is full")),
        "{full:?}"
    );
    assert!(count >= 10, "full after {count} values of 4,000 bytes");
    let all_there = |client: &mut Store| {
        for number in 0..count {
            assert_eq!(
                client.ask(&[b"GET", &*key(number)]),
                Value::Bulk(value(number)),
                "{number}"
            );
        }
    };
    all_there(&mut client);
    all_there(&mut Store::connect(to));
    assert_eq!(client.ask(&[b"GET", &*key(count)]), Value::Nothing);
    let again = client.ask(&[b"SET", &*key(count), &value(count)]);
    assert_eq!(again, full, "still full");
    // What is there can be replaced, deleting makes room, and a restart finds the same.
    for _ in 0..50 {
        let replaced = client.ask(&[b"SET", &*key(0), &value(0)]);
        assert_eq!(replaced, Value::simple("OK"));
    }
    assert_eq!(client.ask(&[b"DEL", &*key(1)]), Value::Integer(1));
    let room = client.ask(&[b"SET", &*key(1), &value(1)]);
    assert_eq!(room, Value::simple("OK"));
    let (session, outcome) = service.stop(Signal::TERM);
    outcome.ends_with(0);
    let (service, to) = store(session, "again", "");
    all_there(&mut Store::connect(to));
    service.stop(Signal::TERM).1.ends_with(0);
}
