//! Disks. The cases assert in the guest; see `tests/guests/blockdev`.

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;

use kiln_system_tests::host::is_root;
use kiln_system_tests::{Outcome, Session, backend, skip};

const KILN_ERROR: i32 = 125;
const SIZE: u64 = 8 << 20;

#[track_caller]
fn on_a_disk(case: &str) -> (Session, Outcome) {
    let session = Session::new();
    let disk = session.disk("disk", SIZE);
    let outcome = session.run(
        &format!("--rm --block data={}", disk.display()),
        "blockdev",
        case,
    );
    (session, outcome)
}

#[test]
fn geometry() {
    let (_session, outcome) = on_a_disk("geometry");
    outcome
        .succeeds()
        .prints("capacity=8388608\nsector=512\nread_only=false\nsecond=false\n");
}

#[test]
fn what_is_written_is_read_back_and_lies_in_the_file() {
    let (session, outcome) = on_a_disk("verify");
    outcome.succeeds();
    let file = fs::File::open(session.file("disk")).expect("the disk");
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, SIZE - 512)
        .expect("the last sector");
    let number = SIZE / 512 - 1;
    let first = (number << 8).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    assert_eq!(sector[..8], first.to_le_bytes());
    assert_eq!(
        file.metadata().expect("the disk").len(),
        SIZE,
        "the disk has grown"
    );
}

#[test]
fn what_is_out_of_range_or_misaligned_is_refused() {
    let (_session, outcome) = on_a_disk("edges");
    outcome.succeeds();
}

#[test]
fn large_transfers() {
    let (_session, outcome) = on_a_disk("big");
    outcome.succeeds();
}

#[test]
fn scatter_and_gather() {
    let (_session, outcome) = on_a_disk("segments");
    outcome.succeeds();
}

#[test]
fn flush_and_discard() {
    let (session, outcome) = on_a_disk("flush");
    outcome.succeeds();
    assert!(
        fs::read(session.file("disk"))
            .expect("the disk")
            .starts_with(&[b'F'; 512])
    );
    let (_session, outcome) = on_a_disk("discard");
    outcome.succeeds();
}

#[test]
fn unknown_disks_are_not_found() {
    let (_session, outcome) = on_a_disk("absent");
    outcome.succeeds();
}

#[test]
fn a_read_only_disk_is_not_written() {
    let session = Session::new();
    let disk = session.file("disk");
    fs::write(&disk, [7; 4096]).expect("a disk");
    fs::set_permissions(&disk, std::os::unix::fs::PermissionsExt::from_mode(0o444))
        .expect("our file");
    let outcome = session.run(
        &format!("--block data={}:ro", disk.display()),
        "blockdev",
        "read-only",
    );
    outcome.succeeds().prints("first=7");
    assert_eq!(fs::read(&disk).expect("the disk"), [7; 4096]);
}

#[test]
fn two_disks() {
    let session = Session::new();
    let (a, b) = (session.disk("a", SIZE), session.disk("b", 1 << 16));
    let options = format!(
        "--block second={} --block data={}",
        b.display(),
        a.display()
    );
    session.run(&options, "blockdev", "two").succeeds();
    assert_eq!(fs::read(&a).expect("a disk")[..512], [1; 512]);
    assert_eq!(fs::read(&b).expect("a disk")[..512], [2; 512]);
}

#[test]
fn as_many_disks_as_possible() {
    if !backend::only_on(&["process", "kvm"], "other machines have fewer slots") {
        return;
    }
    let session = Session::new();
    let mut options = String::new();
    for number in 0..63u64 {
        let disk = session.disk(&format!("disk{number}"), 4096 + 512 * number);
        write!(options, "--block d{number:02}={} ", disk.display()).expect("text");
    }
    session.run(&options, "disks63", "").succeeds();
    let last = fs::read(session.file("disk62")).expect("a disk");
    assert_eq!(last[..512], [63; 512]);
}

#[test]
fn files_that_are_no_disks_are_refused() {
    let session = Session::new();
    session.disk("empty", 0);
    session.disk("odd", 1000);
    session.disk("small", 511);
    fs::create_dir(session.file("folder")).expect("a folder");
    let fifo = session.file("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .expect("a FIFO");
    for (name, text) in [
        ("missing", "no such file"),
        ("empty", "is empty"),
        ("odd", "1000 bytes, not a multiple of 512"),
        ("small", "511 bytes, not a multiple of 512"),
        ("folder", "neither a file nor a block device"),
        ("fifo", "neither a file nor a block device"),
    ] {
        let option = format!("--block data={}", session.file(name).display());
        let outcome = session.run(&option, "blockdev", "geometry");
        outcome
            .ends_with(KILN_ERROR)
            .is_one_line_error()
            .tells(text)
            .tells(name);
    }
    assert_eq!(session.leftovers(), [""; 0], "left behind");
}

#[test]
fn malformed_options_are_refused() {
    let session = Session::new();
    for option in ["data", "data=", "=file", "DATA=file", "data/x=file"] {
        let outcome = session.run(&format!("--block {option}"), "blockdev", "geometry");
        outcome
            .ends_with(KILN_ERROR)
            .is_one_line_error()
            .tells("--block");
    }
}

#[test]
fn the_manifest_must_fit() {
    let session = Session::new();
    let disk = session.disk("disk", 4096);
    let file = disk.display();
    for (options, guest, text) in [
        (
            String::new(),
            "blockdev",
            "needs the block device \"data\": add --block data=FILE",
        ),
        (
            format!("--block second={file}"),
            "blockdev",
            "needs the block device \"data\"",
        ),
        (
            format!("--block data={file} --block third={file}"),
            "blockdev",
            "no block device \"third\"",
        ),
        (
            format!("--block data={file} --block data={file}"),
            "blockdev",
            "given twice",
        ),
        (
            format!("--block data={file}"),
            "probe",
            "has no block device: leave out --block",
        ),
        (
            format!("--block data={file} --net user"),
            "blockdev",
            "no network device: leave out --net",
        ),
        (
            format!("--block data={file} -p 1234:80"),
            "blockdev",
            "no network device: leave out --publish",
        ),
        ("--net user".to_owned(), "probe", "leave out --net"),
        (
            "--net none".to_owned(),
            "netprobe",
            "needs the network device \"eth0\"",
        ),
        (
            "--net eth1=user".to_owned(),
            "netprobe",
            "no network device \"eth1\"",
        ),
        (
            "--net user --net eth0=user".to_owned(),
            "netprobe",
            "given twice",
        ),
        (String::new(), "links", "needs the network device \"left\""),
        ("--net user".to_owned(), "links", "say which"),
        (
            "--net left=user --net right=user".to_owned(),
            "links",
            "only one",
        ),
    ] {
        let outcome = session.run(&options, guest, "");
        outcome
            .ends_with(KILN_ERROR)
            .is_one_line_error()
            .tells(text);
    }
    assert_eq!(session.leftovers(), [""; 0], "left behind");
}

#[test]
fn a_disk_has_one_writer_or_many_readers() {
    let session = Session::new();
    let disk = session.disk("disk", 4096);
    let (writing, reading) = (
        format!("--block data={}", disk.display()),
        format!("--block data={}:ro", disk.display()),
    );
    session.detach(&format!("--name writer {writing}"), "blockdev", "hold");
    for options in [&writing, &reading] {
        let outcome = session.run(options, "blockdev", "geometry");
        outcome
            .ends_with(KILN_ERROR)
            .is_one_line_error()
            .tells("in use by another instance");
    }
    session.kiln(["kill", "writer"]).ends_with(0);
    session.detach(&format!("--name reader {reading}"), "blockdev", "hold");
    session
        .run(&reading, "blockdev", "geometry")
        .succeeds()
        .prints("read_only=true");
    session
        .run(&writing, "blockdev", "geometry")
        .ends_with(KILN_ERROR);
    session.kiln(["kill", "reader"]).ends_with(0);
    session.run(&writing, "blockdev", "geometry").succeeds();
}

#[test]
fn what_was_flushed_survives_kill_at_any_moment() {
    let session = Session::new();
    let disk = session.disk("disk", 4096);
    let mut last = 0u64;
    for round in 0..5u64 {
        let mut running = session.start_guest(
            &format!("--name w{round} --block data={}", disk.display()),
            "blockdev",
            "write-loop",
        );
        running.wait_for("durable 3\n");
        std::thread::sleep(std::time::Duration::from_millis(7 * round));
        session.kiln(["kill", &format!("w{round}")]).ends_with(0);
        let outcome = running.finish();
        outcome.ends_with(137);
        let text = outcome.text();
        let told = text
            .lines()
            .filter_map(|line| line.strip_prefix("durable "))
            .next_back();
        let told: u64 = told.and_then(|n| n.parse().ok()).expect("a number");
        let bytes = fs::read(&disk).expect("the disk");
        let stored = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        assert!(
            stored == told || stored == told + 1,
            "told {told}, stored {stored}"
        );
        last = last.max(stored);
    }
    assert!(last > 3);
}

#[test]
fn a_disk_that_shrinks_or_fills_the_host_is_an_error_for_the_guest_only() {
    if !is_root() {
        return skip("making a small file system needs root");
    }
    let session = Session::new();
    let mount = session.file("small");
    fs::create_dir(&mount).expect("a folder");
    let Ok(mounted) = Mounted::tmpfs(&mount, "size=1M") else {
        return skip("tmpfs cannot be mounted here");
    };
    let disk = mount.join("disk");
    // Larger than the file system: only what is written takes room.
    fs::File::create(&disk)
        .and_then(|file| file.set_len(4 << 20))
        .expect("a sparse file");
    let outcome = session.run(
        &format!("--block data={}", disk.display()),
        "blockdev",
        "fill",
    );
    // virtio has one error for everything that goes wrong with a disk.
    let error = if backend::is_machine() && backend::kind() != "kvm" {
        "Err(Io)"
    } else {
        "Err(NoSpace)"
    };
    outcome.ends_with(0).prints(error);
    drop(mounted);
}

/// A mounted file system, unmounted when it is dropped.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(at: &std::path::Path, options: &str) -> Result<Self, ()> {
        let mut command = std::process::Command::new("mount");
        command
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(at);
        match command.status() {
            Ok(status) if status.success() => Ok(Self(at.to_owned())),
            _ => Err(()),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

/// State lives on a full disk: the start is refused in one line; an instance that runs already ends as it should.
#[test]
fn a_full_disk_under_the_state_folder() {
    if !is_root() {
        return skip("making a small file system needs root");
    }
    let session = Session::new();
    let mount = session.dir().join("run");
    let Ok(_mounted) = Mounted::tmpfs(&mount, "size=256k") else {
        return skip("tmpfs cannot be mounted here");
    };
    let mut running = session.start_guest("--name early", "probe", "graceful 3");
    running.wait_for("ready");
    let mut filler = fs::File::create(mount.join("filler")).expect("a file");
    while filler.write_all(&[1; 4096]).is_ok() {}
    drop(filler);
    let outcome = session.run("", "probe", "hello");
    outcome
        .ends_with(KILN_ERROR)
        .is_one_line_error()
        .tells("the disk is full");
    running.signal(rustix::process::Signal::TERM);
    running.finish().ends_with(3).prints("cleaned up");
    fs::remove_file(mount.join("filler")).expect("the filler");
    let shown = session.inspect("early");
    assert_eq!(shown["State"]["ExitCode"], 3, "{shown:#}");
    assert_eq!(
        session.kiln(["ps", "-aq"]).text().lines().count(),
        1,
        "the refused start left something"
    );
}
