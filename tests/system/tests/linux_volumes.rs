//! Folders of the host in a Linux program's file system (`kiln run -v`).

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};

use kiln_system_tests::{Outcome, Session, backend, program};

struct Volume {
    session: Session,
    folder: std::path::PathBuf,
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
        fs::write(folder.join("file"), "from the host\n").expect("a file");
        Some(Self { session, folder })
    }

    fn run(&self, read_only: &str, name: &str, args: &[&str]) -> Outcome {
        let program = program::installed(name).expect("a program of every system");
        let volume = format!("{}:/data{read_only}", self.folder.display());
        let program = program.display().to_string();
        let mut words = vec!["run", "--rm", "-q", "-v", &volume, &program];
        words.extend(args);
        self.session.kiln(words)
    }
}

#[test]
fn a_program_reads_and_writes_the_hosts_files() {
    let Some(volume) = Volume::new() else { return };
    volume
        .run("", "cat", &["/data/file"])
        .ends_with(0)
        .prints("from the host");
    volume
        .run("", "cp", &["/data/file", "/data/copy"])
        .ends_with(0);
    volume.run("", "mkdir", &["-p", "/data/a/b"]).ends_with(0);
    volume
        .run("", "mv", &["/data/copy", "/data/a/b/moved"])
        .ends_with(0);
    let moved = fs::read_to_string(volume.folder.join("a/b/moved")).expect("the file");
    assert_eq!(moved, "from the host\n");
    volume.run("", "rm", &["-r", "/data/a"]).ends_with(0);
    assert!(!volume.folder.join("a").exists());
}

#[test]
fn a_volumes_path_is_taken_without_its_dots() {
    let Some(volume) = Volume::new() else { return };
    let option = format!("{}:/x/.././y//z", volume.folder.display());
    volume
        .session
        .kiln(["run", "--rm", "-q", "-v", &option, "cat", "/y/z/file"])
        .ends_with(0)
        .prints("from the host");
}

#[test]
fn a_read_only_folder_stays_as_it_is() {
    let Some(volume) = Volume::new() else { return };
    volume
        .run(":ro", "cat", &["/data/file"])
        .ends_with(0)
        .prints("from the host");
    volume
        .run(":ro", "touch", &["/data/new"])
        .ends_with(1)
        .says("Read-only file system");
    assert!(!volume.folder.join("new").exists());
}

#[test]
fn there_are_folders_without_a_network() {
    let Some(volume) = Volume::new() else { return };
    let program = program::installed("cat").expect("a program of every system");
    let folder = format!("{}:/data", volume.folder.display());
    let program = program.display().to_string();
    volume
        .session
        .kiln([
            "run",
            "--rm",
            "-q",
            "--net",
            "none",
            "-v",
            &folder,
            &program,
            "/data/file",
        ])
        .ends_with(0)
        .prints("from the host");
}

#[test]
fn links_do_not_lead_to_the_hosts_files() {
    let Some(volume) = Volume::new() else { return };
    let secret = volume.session.file("secret");
    fs::write(&secret, "secret of the host").expect("a file");
    symlink(&secret, volume.folder.join("absolute")).expect("a link");
    symlink("../secret", volume.folder.join("relative")).expect("a link");
    for link in ["/data/absolute", "/data/relative", "/data/../secret"] {
        let outcome = volume.run("", "cat", &[link]);
        outcome.ends_with(1).says("No such file or directory");
    }
    volume
        .run("", "readlink", &["/data/relative"])
        .ends_with(0)
        .prints("../secret");
}

#[test]
fn what_is_no_folder_is_told_in_one_line() {
    let Some(volume) = Volume::new() else { return };
    let outcome = volume
        .session
        .kiln(["run", "-q", "-v", "/nonexistent:/data", "/bin/true"]);
    outcome.is_one_line_error().tells("/nonexistent");
    let outcome = volume
        .session
        .kiln(["run", "-v", "data:/data", "/bin/true"]);
    outcome.is_one_line_error().tells("write a folder");
    let image = kiln_system_tests::guest("probe").display().to_string();
    let volume_option = format!("{}:/data", volume.folder.display());
    let outcome = volume.session.kiln(["run", "-v", &volume_option, &image]);
    outcome.is_one_line_error().tells("use --block");
}

/// What a program of Python prints and ends with that has the folder as `/data`.
fn python(volume: &Volume, options: &str, script: &str) -> Option<Outcome> {
    program::installed("python3")?;
    let script =
        format!("import os, sys, mmap, fcntl, errno, threading, time\nos.chdir('/data')\n{script}");
    Some(volume.run(options, "python3", &["-c", &script]))
}

#[test]
fn mappings_and_calls_show_the_same_content() {
    let Some(volume) = Volume::new() else { return };
    fs::write(volume.folder.join("big"), vec![b'.'; 1 << 20]).expect("a file");
    let script = r"
fd = os.open('big', os.O_RDWR)
a = mmap.mmap(fd, 1 << 20)
b = mmap.mmap(fd, 65536, offset=131072)
reader = mmap.mmap(os.open('big', os.O_RDONLY), 1 << 20, prot=mmap.PROT_READ)
a[131072:131077] = b'first'
assert b[:5] == b'first' and reader[131072:131077] == b'first'
assert os.pread(fd, 7, 131071) == b'.first.'
os.pwrite(fd, b'second', 131070)
assert a[131070:131078] == b'secondt.' and b[:6] == b'condt.'
# Another descriptor, another name, appended.
os.link('big', 'name')
other = os.open('name', os.O_WRONLY | os.O_APPEND)
os.write(other, b'end')
assert os.fstat(fd).st_size == (1 << 20) + 3
c = mmap.mmap(fd, 0)
assert c[1 << 20:] == b'end'
c[(1 << 20) + 1:] = b'ND'
assert open('name', 'rb').read()[-3:] == b'eND'
a[:6] = b'synced'
a.flush()
os.ftruncate(fd, 200000)
assert a[199999:200001] == b'.\0'
os.ftruncate(fd, 300000)
assert a[200000:200004] == bytes(4)
os.ftruncate(fd, 131072)
print('cut', flush=True)
b[0]
";
    let Some(outcome) = python(&volume, "", script) else {
        return;
    };
    // 128 and SIGBUS.
    outcome.ends_with(135).prints("cut");
    let there = fs::read(volume.folder.join("big")).expect("the file");
    assert_eq!((there.len(), &there[..6]), (131_072, &b"synced"[..]));
}

#[test]
fn appending_loses_nothing_beside_others() {
    let Some(volume) = Volume::new() else { return };
    let log = volume.folder.join("log");
    fs::write(&log, "").expect("a file");
    let host = std::thread::spawn({
        let log = log.clone();
        move || {
            use std::io::Write;
            let mut log = fs::OpenOptions::new()
                .append(true)
                .open(log)
                .expect("the file");
            for number in 0..3000 {
                log.write_all(format!("host {number}\n").as_bytes())
                    .expect("written");
            }
        }
    });
    let script = r"
fd = os.open('log', os.O_WRONLY | os.O_APPEND)
for n in range(1000):
    line = b'guest %d\n' % n
    # Where pwrite(2) says does not count.
    written = os.write(fd, line) if n % 2 else os.pwrite(fd, line, 0)
    assert written == len(line)
assert os.lseek(fd, 0, os.SEEK_CUR) > 0
";
    let outcome = python(&volume, "", script);
    host.join().expect("the host's part");
    let Some(outcome) = outcome else { return };
    outcome.ends_with(0);
    let all = fs::read_to_string(&log).expect("the file");
    for (who, count) in [("host", 3000), ("guest", 1000)] {
        let lines: Vec<_> = all.lines().filter(|line| line.starts_with(who)).collect();
        assert_eq!(lines.len(), count);
        assert!(
            lines
                .iter()
                .zip(0..)
                .all(|(line, n)| **line == format!("{who} {n}"))
        );
    }
}

#[test]
fn locks_hold_against_the_host() {
    let Some(volume) = Volume::new() else { return };
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(volume.folder.join("file"));
    let file = file.expect("the file");
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).expect("a lock");
    let script = r"
fd = os.open('file', os.O_RDWR)
try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    sys.exit('it had the lock')
except BlockingIOError:
    pass
# Others run while one waits.
ticks = []
waiter = threading.Thread(target=lambda: fcntl.flock(fd, fcntl.LOCK_EX))
waiter.start()
print('waiting', flush=True)
while waiter.is_alive():
    ticks.append(1)
    time.sleep(0.01)
assert len(ticks) > 5, len(ticks)
fcntl.lockf(fd, fcntl.LOCK_EX, 10, 5)
print('locked', flush=True)
time.sleep(60)
";
    if program::installed("python3").is_none() {
        return;
    }
    let script = format!("import os, sys, fcntl, threading, time\nos.chdir('/data')\n{script}");
    let folder = format!("{}:/data", volume.folder.display());
    let mut guest = volume.session.start([
        "run", "--rm", "-q", "--name", "locker", "-v", &folder, "python3", "-c", &script,
    ]);
    guest.wait_for("waiting");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(!guest.output().contains("locked"));
    rustix::fs::flock(&file, rustix::fs::FlockOperation::Unlock).expect("no lock");
    guest.wait_for("locked");
    let refused = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared);
    assert_eq!(refused, Err(rustix::io::Errno::AGAIN));
    let path = volume.folder.join("file").display().to_string();
    let host = |range: &str| {
        let script = format!(
            "import fcntl; fcntl.lockf(open('{path}', 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB, {range})"
        );
        let mut command = std::process::Command::new("python3");
        kiln_system_tests::process::Running::start(command.args(["-c", &script])).finish()
    };
    host("1, 14").ends_with(1).tells("BlockingIOError");
    host("100, 15").ends_with(0);
    // They go with the guest.
    guest.signal(rustix::process::Signal::KILL);
    guest.finish();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared).is_err() {
        assert!(std::time::Instant::now() < until, "the lock is still there");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn what_happens_to_files_on_the_host_is_seen() {
    let Some(volume) = Volume::new() else { return };
    let odd = std::ffi::OsStr::from_bytes(b"odd-\xff\xfe");
    fs::write(volume.folder.join(odd), "odd").expect("a file");
    let script = r"
assert b'odd-\xff\xfe' in os.listdir(b'.')
assert open(b'odd-\xff\xfe').read() == 'odd'
open(b'\x80new', 'w').write('made')
# Removed while open.
f = open('file')
os.remove('file')
assert f.read() == 'from the host\n' and os.fstat(f.fileno()).st_nlink == 0
g = open('gone', 'w+')
os.remove('gone')
g.write('still'); g.flush(); g.seek(0)
assert g.read() == 'still' and not os.path.exists('gone')
# Whose files are.
os.umask(0o027)
fd = os.open('mode', os.O_CREAT | os.O_RDWR, 0o6777)
st = os.fstat(fd)
assert (st.st_uid, st.st_gid, st.st_mode & 0o7777) == (0, 0, 0o750), oct(st.st_mode)
# A folder that is replaced under its user.
os.mkdir('old'); os.chdir('old'); open('inside', 'w').close()
os.rename('/data/old', '/data/moved'); os.mkdir('/data/old')
assert os.listdir('.') == ['inside'] and os.listdir('/data/old') == []
os.chdir('/data')
# Direct and synchronous.
fd = os.open('direct', os.O_CREAT | os.O_RDWR | os.O_DIRECT | os.O_SYNC)
assert os.write(fd, b'x' * 4096) == 4096
assert fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_SYNC | os.O_DIRECT) == os.O_SYNC | os.O_DIRECT
print('SUCCESS')
";
    let Some(outcome) = python(&volume, "", script) else {
        return;
    };
    outcome.succeeds();
    let made = std::ffi::OsStr::from_bytes(b"\x80new");
    assert_eq!(
        fs::read(volume.folder.join(made)).expect("the file"),
        b"made"
    );
    let file = fs::metadata(volume.folder.join("mode")).expect("the file");
    assert_eq!(file.mode() & 0o7777, 0o750);
    assert_eq!(file.uid(), rustix::process::getuid().as_raw());
}

#[test]
fn a_hundred_thousand_files_are_listed() {
    let Some(volume) = Volume::new() else { return };
    for number in 0..100_000 {
        fs::write(volume.folder.join(number.to_string()), "").expect("a file");
    }
    let script = "names = os.listdir('.')\nassert len(set(names)) == len(names) == 100001, len(names)\nprint('SUCCESS')";
    let Some(outcome) = python(&volume, "", script) else {
        return;
    };
    outcome.succeeds();
}

#[test]
fn a_full_disk_is_told() {
    let Some(volume) = Volume::new() else { return };
    if program::installed("python3").is_none() || program::installed("unshare").is_none() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        kiln_system_tests::skip("only root mounts a small disk".to_owned());
        return;
    }
    // A small disk for this test and what it starts.
    let script = r"
import os, mmap, errno
def full(what, *args):
    try:
        while True: what(*args)
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
fd = os.open('/data/a', os.O_CREAT | os.O_RDWR)
os.ftruncate(fd, 1 << 20)
m = mmap.mmap(fd, 1 << 20)
m[:4] = b'kept'
m.flush()
full(os.write, os.open('/data/fill', os.O_CREAT | os.O_WRONLY), b'x' * 65536)
full(os.write, os.open('/data/fill2', os.O_CREAT | os.O_WRONLY), b'x' * 1000)
m[500000:500004] = b'late'
try:
    m.flush()
    raise SystemExit('no error')
except OSError as error:
    assert error.errno == errno.ENOSPC, error
os.truncate('/data/fill', 0)
m.flush()
assert os.pread(fd, 4, 500000) == b'late' and os.pread(fd, 4, 0) == b'kept'
print('SUCCESS')
";
    let folder = volume.folder.display();
    let kiln = kiln_system_tests::artifacts::kiln().display().to_string();
    let small = format!(
        "mount -t tmpfs -o size=2m none {folder} || exit 77; exec {kiln} run --rm -q -v {folder}:/data python3 -c \"$0\""
    );
    let words = ["-m", "sh", "-c", &small, script];
    let unshare = program::installed("unshare").expect("looked at before");
    let outcome =
        kiln_system_tests::process::Running::start(&mut volume.session.wrapped(&unshare, words))
            .finish();
    if outcome.code == 77 {
        kiln_system_tests::skip("no small disk can be mounted here".to_owned());
        return;
    }
    outcome.succeeds();
}

/// A file system of its own that can be stopped (`fsfreeze(8)`).
struct Freezer {
    folder: std::path::PathBuf,
}

impl Freezer {
    /// `None` where that cannot be had.
    fn new(volume: &Volume) -> Option<Self> {
        let image = volume.session.disk("disk", 32 << 20);
        let made = host("mkfs.ext4", &["-q", &image.display().to_string()]);
        let folder = volume.folder.clone();
        let words = [
            "-o",
            "loop",
            &image.display().to_string(),
            &folder.display().to_string(),
        ];
        if !made || !host("mount", &words) {
            kiln_system_tests::skip("no file system can be made and mounted here".to_owned());
            return None;
        }
        Some(Self { folder })
    }

    fn freeze(&self, how: &str) {
        assert!(host("fsfreeze", &[how, &self.folder.display().to_string()]));
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        host("fsfreeze", &["-u", &self.folder.display().to_string()]);
        host("umount", &["-l", &self.folder.display().to_string()]);
    }
}

fn host(program: &str, args: &[&str]) -> bool {
    let mut command = std::process::Command::new(program);
    command
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.stderr(std::process::Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[test]
fn a_host_that_is_slow_stops_only_who_waits_for_it() {
    let Some(volume) = Volume::new() else { return };
    if program::installed("python3").is_none() {
        return;
    }
    let Some(disk) = Freezer::new(&volume) else {
        return;
    };
    fs::write(volume.folder.join("file"), "file").expect("a file");
    let script = r"
import os, threading, time
fd = os.open('/data/file', os.O_RDWR)
def work():
    print('asking', flush=True)
    os.pwrite(fd, b'x', 0); os.fsync(fd)
worker = threading.Thread(target=work); worker.start()
longest, last = 0, time.monotonic()
while worker.is_alive():
    time.sleep(0.01)
    now = time.monotonic()
    longest, last = max(longest, now - last), now
    print('tick', flush=True)
print('longest', int(longest * 1000))
";
    disk.freeze("-f");
    let folder = format!("{}:/data", volume.folder.display());
    let mut guest = volume
        .session
        .start(["run", "--rm", "-q", "-v", &folder, "python3", "-c", script]);
    guest.wait_for("asking");
    std::thread::sleep(std::time::Duration::from_secs(3));
    disk.freeze("-u");
    let outcome = guest.finish();
    let longest: u64 = outcome
        .ends_with(0)
        .value("longest ")
        .parse()
        .expect("a number");
    assert!(longest < 1500, "stopped for {longest} ms\n{outcome}");
    let ticks = outcome.text().matches("tick").count();
    assert!(ticks > 50, "{ticks} ticks\n{outcome}");
}

#[test]
fn a_folder_inside_another_is_seen_whatever_the_order() {
    let Some(volume) = Volume::new() else { return };
    let inner = volume.session.file("inner");
    fs::create_dir(&inner).expect("a folder");
    fs::write(inner.join("mine"), "of the inner one").expect("a file");
    fs::create_dir_all(volume.folder.join("sub/deep")).expect("folders");
    let outer = format!("{}:/data", volume.folder.display());
    let inside = format!("{}:/data/sub/deep", inner.display());
    let shell = program::installed("dash").or_else(|| program::installed("sh"));
    let shell = shell
        .expect("a program of every system")
        .display()
        .to_string();
    for (number, order) in [[&outer, &inside], [&inside, &outer]]
        .into_iter()
        .enumerate()
    {
        let script = format!(
            "read line </data/sub/deep/mine; echo \"$line\"; echo x >/data/sub/deep/new{number}"
        );
        volume
            .session
            .kiln([
                "run", "--rm", "-q", "-v", order[0], "-v", order[1], &shell, "-c", &script,
            ])
            .ends_with(0)
            .prints("of the inner one");
        assert!(inner.join(format!("new{number}")).exists());
        assert!(!volume.folder.join(format!("sub/deep/new{number}")).exists());
    }
}

#[test]
fn folders_on_the_way_to_a_mounted_one_are_as_they_are() {
    let Some(volume) = Volume::new() else { return };
    if program::installed("python3").is_none() {
        return;
    }
    let inner = volume.session.file("inner");
    fs::create_dir(&inner).expect("a folder");
    fs::write(inner.join("mine"), "of the inner one").expect("a file");
    fs::create_dir_all(volume.folder.join("sub/deep")).expect("folders");
    let script = "import os
os.chmod('/data/sub', 0o711)
print(oct(os.stat('/data/sub').st_mode & 0o777))
os.rename('/data/sub', '/data/moved')
print(os.listdir('/data'), open('/data/moved/deep/mine').read())
os.rename('/data/moved', '/data/sub')
print(os.listdir('/data/sub/deep'), os.path.exists('/data/moved'))";
    let outer = format!("{}:/data", volume.folder.display());
    let inside = format!("{}:/data/sub/deep", inner.display());
    let outcome = volume.session.kiln([
        "run", "--rm", "-q", "-v", &outer, "-v", &inside, "python3", "-c", script,
    ]);
    outcome
        .ends_with(0)
        .prints("0o711")
        .prints("of the inner one");
    outcome.prints("['mine'] False");
    assert!(volume.folder.join("sub/deep").exists());
}
