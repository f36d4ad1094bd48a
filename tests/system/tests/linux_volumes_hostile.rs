//! Folders of the host that others work against: slow answers, races, limits, odd names.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kiln_system_tests::process::Running;
use kiln_system_tests::{Outcome, Session, backend, program};
use rustix::process::Signal;

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
        program::installed("python3")?;
        let session = Session::new();
        let folder = session.file("volume");
        fs::create_dir(&folder).expect("a folder");
        Some(Self { session, folder })
    }

    fn words(&self, script: &str) -> Vec<String> {
        let volume = format!("{}:/data", self.folder.display());
        let script = format!(
            "import errno, mmap, os, sys, threading, time\nos.chdir('/data')\n{script}\nprint('SUCCESS')"
        );
        let words = ["run", "--rm", "-q", "-v", &volume, "python3", "-c", &script];
        words.map(str::to_owned).to_vec()
    }

    fn start(&self, script: &str) -> Running {
        self.session.start(self.words(script))
    }

    fn python(&self, script: &str) -> Outcome {
        self.start(script).finish_within(Duration::from_mins(3))
    }
}

/// Whoever serves the folder is stopped while a thread of the guest does one thing after the other; another one shall not notice.
#[test]
fn whatever_waits_for_the_host_lets_others_run() {
    const CALLS: [&str; 9] = [
        "stat", "open", "listdir", "rename", "unlink", "mkdir", "close", "shared", "private",
    ];
    let Some(volume) = Volume::new() else { return };
    for name in ["file", "other", "gone"] {
        fs::write(volume.folder.join(name), "x").expect("a file");
    }
    fs::write(volume.folder.join("big"), vec![b'x'; 4 << 20]).expect("a file");
    let script = r"
import ctypes
libc = ctypes.CDLL(None)
libc.memchr.restype = ctypes.c_void_p
libc.memchr.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
state = ['']
# This one has nothing to do with the folder.
def tick():
    longest, last, name = 0, time.monotonic(), ''
    while name != 'end':
        time.sleep(0.01)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        if state[0] != name:
            if name: print('longest', name, int(longest * 1000), flush=True)
            longest, name = 0, state[0]
ticker = threading.Thread(target=tick); ticker.start()
fd = os.open('big', os.O_RDWR)
shared = mmap.mmap(fd, 4 << 20)
private = mmap.mmap(fd, 4 << 20, mmap.MAP_PRIVATE)
written = os.open('written', os.O_CREAT | os.O_WRONLY)
os.write(written, b'x')
calls = {
    'stat': lambda: os.stat('file').st_size == 1,
    'open': lambda: os.open('file', os.O_RDONLY) > 0,
    'listdir': lambda: 'file' in os.listdir('.'),
    'rename': lambda: os.rename('other', 'renamed') is None,
    'unlink': lambda: os.unlink('gone') is None,
    'mkdir': lambda: os.mkdir('new') is None,
    'close': lambda: os.close(written) is None,
    'shared': lambda: touch(shared),
    'private': lambda: touch(private),
}
# Calls of the library let others of Python run.
def touch(mapping):
    at = ctypes.addressof(ctypes.c_char.from_buffer(mapping)) + (3 << 20)
    return libc.memchr(at, 120, 1) == at
for name, call in calls.items():
    state[0] = name
    print('next', name, flush=True)
    time.sleep(0.5)
    assert call(), name
state[0] = 'end'
ticker.join()
";
    let mut guest = volume.start(script);
    for name in CALLS {
        guest.wait_for(&format!("next {name}"));
        guest.signal(Signal::STOP);
        std::thread::sleep(Duration::from_millis(2500));
        guest.signal(Signal::CONT);
    }
    let outcome = guest.finish();
    outcome.succeeds();
    for name in CALLS {
        let longest: u64 = outcome
            .value(&format!("longest {name} "))
            .parse()
            .expect("a number");
        assert!(longest < 1200, "{name}: stopped for {longest} ms");
    }
}

/// A folder in the path becomes a link that leads out, and back again, all the time.
#[test]
fn a_folder_that_becomes_a_link_never_leads_out() {
    let Some(volume) = Volume::new() else { return };
    let outside = volume.session.file("outside");
    fs::create_dir(&outside).expect("a folder");
    fs::write(outside.join("file"), "secret").expect("a file");
    let inner = volume.folder.join("a/inner");
    fs::create_dir_all(&inner).expect("a folder");
    fs::write(inner.join("file"), "inside").expect("a file");
    let ends = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            let away = volume.folder.join("a/away");
            while !ends.load(Ordering::Relaxed) {
                let _ = fs::rename(&inner, &away);
                let _ = symlink(&outside, &inner);
                std::thread::sleep(Duration::from_micros(50));
                let _ = fs::remove_file(&inner);
                let _ = fs::rename(&away, &inner);
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        let script = r"
found, until = set(), time.monotonic() + 3
while time.monotonic() < until:
    for path in ('a/inner/file', 'a/inner/../inner/file'):
        try:
            with open(path) as file: found.add(file.read())
            assert os.stat(path).st_size == 6
        except OSError as error:
            assert error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE), error
        try: open('a/inner/made', 'x').close(); os.unlink('a/inner/made')
        except OSError: pass
assert found == {'inside'}, found
";
        let outcome = volume.python(script);
        ends.store(true, Ordering::Relaxed);
        outcome
    });
    outcome.succeeds();
    let there: Vec<_> = fs::read_dir(&outside)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(there, ["file"]);
}

/// What is open stays what it is, whatever becomes of its name and of the folders above it.
#[test]
fn folders_are_renamed_and_removed_under_open_files() {
    let Some(volume) = Volume::new() else { return };
    fs::create_dir_all(volume.folder.join("a/b")).expect("a folder");
    fs::write(volume.folder.join("a/b/file"), "content").expect("a file");
    let script = r"
def wait(name):
    while not os.path.exists('/data/' + name): time.sleep(0.01)
os.chdir('a/b')
f = open('file', 'r+')
folder = os.open('.', os.O_RDONLY)
print('open', flush=True)
wait('renamed')
# Found from the folder that was left open, and from where one is; not by the old name.
assert os.listdir('.') == ['file'] and os.stat('file').st_size == 7
assert not os.path.exists('/data/a/b/file') and os.path.exists('/data/moved/b/file')
open('new', 'w').close()
os.rename('new', 'newer', src_dir_fd=folder, dst_dir_fd=folder)
f.write('changed'); f.flush()
print('again', flush=True)
wait('removed')
assert os.listdir(folder) == []
for call in (lambda: open('new', 'w'), lambda: os.stat('file'), lambda: os.mkdir('sub')):
    try: call(); sys.exit('it is still there')
    except FileNotFoundError: pass
f.seek(0)
assert f.read() == 'changed' and os.fstat(f.fileno()).st_nlink == 0
f.write('more'); f.flush(); os.fsync(f.fileno())
assert os.stat('/data/renamed').st_size == 0
";
    let mut guest = volume.start(script);
    let at = |name: &str| volume.folder.join(name);
    guest.wait_for("open");
    fs::rename(at("a"), at("moved")).expect("renamed");
    fs::write(at("renamed"), "").expect("a file");
    guest.wait_for("again");
    assert!(at("moved/b/newer").exists());
    fs::remove_dir_all(at("moved")).expect("removed");
    fs::write(at("removed"), "").expect("a file");
    guest.finish().succeeds();
}

#[test]
fn names_are_as_long_and_as_odd_as_the_host_allows() {
    let Some(volume) = Volume::new() else { return };
    let long = "l".repeat(255);
    fs::write(volume.folder.join(&long), "long").expect("a file");
    let script = r"
long = 'l' * 255
assert open(long).read() == 'long'
os.rename(long, 'm' * 255)
assert os.listdir('.') == ['m' * 255]
for call in (lambda: os.stat('x' * 256), lambda: open('x' * 256, 'w'), lambda: os.rename('m' * 255, 'x' * 256)):
    try: call(); sys.exit('too long a name')
    except OSError as error: assert error.errno == errno.ENAMETOOLONG, error
# Every byte that a name may have, deep down.
path = b''
for first in range(1, 256, 16):
    name = bytes(byte for byte in range(first, min(first + 16, 256)) if byte != 0x2f)
    path = os.path.join(path, name)
    os.mkdir(path)
file = os.path.join(path, b'\xff' * 255)
open(file, 'w').write('deep')
assert os.stat(file).st_size == 4 and open(file).read() == 'deep'
assert os.listdir(path) == [b'\xff' * 255]
os.symlink(b'\xfe' * 3000, 'link')
assert os.readlink(b'link') == b'\xfe' * 3000
";
    volume.python(script).succeeds();
    let mut at = volume.folder.clone();
    let bytes: Vec<u8> = (1..=u8::MAX).collect();
    for part in bytes.chunks(16) {
        let name: Vec<u8> = part.iter().copied().filter(|byte| *byte != b'/').collect();
        at.push(OsStr::from_bytes(&name));
    }
    at.push(OsStr::from_bytes(&[0xff; 255]));
    assert_eq!(fs::read(at).expect("the file"), b"deep");
}

/// The supervisor may have few descriptors: the guest is told, and goes on when it has closed some.
#[test]
fn more_files_than_the_host_can_keep_open_are_refused() {
    let Some(volume) = Volume::new() else { return };
    for number in 0..1000 {
        fs::write(volume.folder.join(number.to_string()), "x").expect("a file");
    }
    let script = r"
for round in range(3):
    files = []
    try:
        for n in range(1000): files.append(os.open(str(n), os.O_RDONLY))
        sys.exit('no limit')
    except OSError as error:
        assert error.errno in (errno.EMFILE, errno.ENFILE), error
    assert len(files) > 20, len(files)
    assert all(os.pread(fd, 9, 0) == b'x' for fd in files)
    for fd in files: os.close(fd)
    # And looking at many is no matter.
    for n in range(1000): assert os.stat(str(n)).st_size == 1
    made = os.open('made%d' % round, os.O_CREAT | os.O_RDWR)
    os.write(made, b'made'); os.close(made)
";
    let kiln = kiln_system_tests::artifacts::kiln();
    let words = volume.words(script);
    let limited = "ulimit -n 400; exec \"$0\" \"$@\"";
    let mut all = vec![
        "-c".to_owned(),
        limited.to_owned(),
        kiln.display().to_string(),
    ];
    all.extend(words);
    let shell = program::installed("sh").expect("a shell");
    Running::start(&mut volume.session.wrapped(&shell, all))
        .finish()
        .succeeds();
    assert!(volume.folder.join("made2").exists());
}

/// Two guests on one folder: what the one has done the other sees with its next call, and a name is made by one of them only.
#[test]
fn two_guests_see_what_the_other_does() {
    let Some(volume) = Volume::new() else { return };
    let script = |me: u32, other: u32| {
        format!(
            r"
me, other = {me}, {other}
won = 0
for n in range(300):
    try: os.close(os.open('name%d' % n, os.O_CREAT | os.O_EXCL | os.O_WRONLY)); won += 1
    except FileExistsError: pass
print('won', won, flush=True)
# Each in turn: write, tell by a new name; the other looks at once.
fd = os.open('turn', os.O_CREAT | os.O_RDWR)
for n in range(100):
    if n % 2 == me:
        os.ftruncate(fd, n + 1)
        os.pwrite(fd, b'%05d' % n, 0)
        os.mkdir('turn%d' % n)
    else:
        until = time.monotonic() + 60
        while not os.path.exists('turn%d' % n): assert time.monotonic() < until, n
        assert os.fstat(fd).st_size == os.stat('turn').st_size == max(5, n + 1)
        assert os.pread(fd, 5, 0) == b'%05d' % n
        os.rmdir('turn%d' % n)
        os.rename('turn', 'turned'); os.rename('turned', 'turn')
        assert not os.path.exists('turn%d' % n)
"
        )
    };
    let first = volume.start(&script(0, 1));
    let second = volume.start(&script(1, 0));
    let outcomes = [first, second].map(|guest| guest.finish_within(Duration::from_mins(2)));
    let won: u32 = outcomes
        .iter()
        .map(|outcome| {
            let won = outcome.succeeds().value("won ");
            won.parse::<u32>().expect("a number")
        })
        .sum();
    assert_eq!(won, 300);
}
