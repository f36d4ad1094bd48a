//! Databases on volumes: what programs on the host, in one guest and in another do with the same files, and what a guest leaves that is killed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use kiln_system_tests::process::Running;
use kiln_system_tests::{Outcome, Session, backend, program};
use rustix::process::Signal;

/// A folder, and guests that have it as `/data`.
struct Volume {
    session: Session,
    folder: PathBuf,
}

impl Volume {
    /// `None` where such programs do not run.
    fn new() -> Option<Self> {
        if !backend::only_on(
            &["process", "kvm", "qemu"],
            "other monitors have no volumes",
        ) {
            return None;
        }
        let session = Session::new();
        let folder = session.file("volume");
        fs::create_dir(&folder).expect("a folder");
        Some(Self { session, folder })
    }

    fn start(&self, program: &std::path::Path, args: &[&str]) -> Running {
        let volume = format!("{}:/data", self.folder.display());
        let program = program.display().to_string();
        let mut words = vec!["run", "--rm", "-q", "-v", &volume, &program];
        words.extend(args);
        self.session.start(words)
    }

    fn run(&self, program: &std::path::Path, args: &[&str]) -> Outcome {
        self.start(program, args)
            .finish_within(Duration::from_mins(3))
    }

    /// The host's own sqlite3.
    fn host(&self, sqlite: &std::path::Path, sql: &str) -> String {
        let database = self.folder.join("db");
        let mut command = Command::new(sqlite);
        let output = command.arg(database).args([".timeout 60000", sql]).output();
        let output = output.expect("sqlite3 starts");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{sql}: {told}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

/// `count` transactions of one row each, by `name`.
fn inserts(name: &str, count: u32) -> String {
    let rows: Vec<String> = (0..count)
        .map(|number| format!("insert into t values ('{name}', {number});\n"))
        .collect();
    rows.concat()
}

/// Two guests and the host write to one database at the same time, each many transactions.
fn written_by_three(mode: &str) {
    let Some(volume) = Volume::new() else { return };
    let Some(sqlite) = program::installed("sqlite3") else {
        return;
    };
    volume.host(
        &sqlite,
        &format!("pragma journal_mode={mode}; create table t(who, n);"),
    );
    let map = if mode == "wal" {
        "pragma mmap_size=1000000;"
    } else {
        ""
    };
    let sql = |name| format!("{map}\n{}", inserts(name, 40));
    let (first, second) = (sql("first"), sql("second"));
    let guest = |sql: &str| volume.start(&sqlite, &["/data/db", ".timeout 60000", sql]);
    let guests = [guest(&first), guest(&second)];
    for number in 0..40 {
        volume.host(
            &sqlite,
            &format!("insert into t values ('host', {number});"),
        );
    }
    for guest in guests {
        guest.finish_within(Duration::from_mins(3)).ends_with(0);
    }
    assert_eq!(volume.host(&sqlite, "pragma integrity_check;"), "ok");
    let counts = volume.host(
        &sqlite,
        "select who, count(*), count(distinct n) from t group by who;",
    );
    assert_eq!(counts, "first|40|40\nhost|40|40\nsecond|40|40");
}

#[test]
fn two_guests_and_the_host_write_to_one_sqlite_database() {
    written_by_three("delete");
}

#[test]
fn two_guests_and_the_host_write_to_one_sqlite_database_with_a_write_ahead_log() {
    written_by_three("wal");
}

#[test]
fn a_database_outlives_a_guest_that_is_killed() {
    let Some(volume) = Volume::new() else { return };
    let Some(sqlite) = program::installed("sqlite3") else {
        return;
    };
    let rows = (0..1000).map(|number| {
        format!("insert into t values ('guest', {number}); select 'at ' || max(n) from t;\n")
    });
    let sql = format!(
        "pragma journal_mode=wal; pragma mmap_size=10000000; create table if not exists t(who, n);\n{}",
        rows.collect::<Vec<String>>().concat()
    );
    fs::write(volume.folder.join("sql"), sql).expect("a file");
    let mut guest = volume.start(&sqlite, &["/data/db", ".timeout 60000", ".read /data/sql"]);
    guest.wait_for("at 50");
    guest.signal(Signal::KILL);
    let last = guest.finish().text();
    let last = last.lines().rev().find_map(|line| line.strip_prefix("at "));
    let last: u64 = last
        .and_then(|number| number.parse().ok())
        .expect("a number");
    assert_eq!(volume.host(&sqlite, "pragma integrity_check;"), "ok");
    // In this mode the last transactions may be gone after a power cut, but not here: what was written is with the host.
    let found: u64 = volume
        .host(&sqlite, "select max(n) from t;")
        .parse()
        .expect("a number");
    assert!(found >= last, "{found} of {last}");
    // The next guest goes on where that one was.
    let outcome = volume.run(
        &sqlite,
        &[
            "/data/db",
            "pragma mmap_size=10000000; insert into t values ('next', 0); pragma integrity_check;",
        ],
    );
    outcome.ends_with(0).prints("ok");
}

#[test]
fn lmdb_keeps_its_data_also_when_the_guest_is_killed() {
    let Some(volume) = Volume::new() else { return };
    let found = [
        "/usr/lib/x86_64-linux-gnu/liblmdb.so.0",
        "/lib/x86_64-linux-gnu/liblmdb.so.0",
    ];
    if !found.iter().any(|path| std::path::Path::new(path).exists()) {
        kiln_system_tests::skip("liblmdb0 is not installed".to_owned());
        return;
    }
    let compiled = program::compiled("c/lmdb.c", "cc", "-O2 {source} -o {out} -l:liblmdb.so.0");
    let Some(lmdb) = compiled else { return };
    for how in ["", "map"] {
        let _ = fs::remove_file(volume.folder.join("data.mdb"));
        let _ = fs::remove_file(volume.folder.join("lock.mdb"));
        volume
            .run(&lmdb, &["/data", "fill", "50", how])
            .ends_with(0);
        // What the host finds is what the guest has written.
        let mut command = Command::new(&lmdb);
        let host = Running::start(command.arg(&volume.folder).args(["check", how])).finish();
        host.ends_with(0).prints("found 50");
        volume
            .run(&lmdb, &["/data", "check", how])
            .ends_with(0)
            .prints("found 50");
        let mut guest = volume.start(&lmdb, &["/data", "fill", "100000", how]);
        guest.wait_for("committed 200");
        guest.signal(Signal::KILL);
        let last = guest.finish().text();
        let last = last
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("committed "));
        let last: u64 = last
            .and_then(|number| number.parse().ok())
            .expect("a number");
        let after = volume.run(&lmdb, &["/data", "check", how]);
        let found: u64 = after
            .ends_with(0)
            .value("found ")
            .parse()
            .expect("a number");
        assert!(found >= last.max(50), "{found} of {last} ({how})");
    }
}
