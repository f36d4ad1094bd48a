//! The root, and a volume, beside the file system of the machine that the tests run on: the same calls have the same results.

use std::ffi::OsStr;
use std::fs as host;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use kiln_fs::erofs::{Meta, Source, Tree};
use proptest::prelude::*;

use crate::Errno;
use crate::fs::testing::{Program, call, failed, program_on};
use crate::platform::pretend;

/// Paths that operations choose from; those below `image` are in the image at first.
const PATHS: &[&str] = &[
    "a",
    "b",
    "folder",
    "folder/x",
    "folder/y",
    "folder/inner",
    "folder/inner/z",
    "image",
    "image/one",
    "image/two",
    "image/inner",
    "image/inner/three",
    "image/link",
    "image/new",
    "link",
    "link/x",
    "image/inner/",
    "folder/..",
    "image/.",
];

#[derive(Clone, Debug)]
enum Operation {
    Create(usize),
    Append(usize, usize),
    WriteAt(usize, u64, usize),
    Truncate(usize, u64),
    Read(usize, u64),
    MakeFolder(usize),
    RemoveFolder(usize),
    Unlink(usize),
    Rename(usize, usize),
    Link(usize, usize),
    Symlink(usize, usize),
    ReadLink(usize),
    List(usize),
    Stat(usize),
    Mode(usize, u32),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let path = 0..PATHS.len();
    let offset = prop_oneof![0..100_u64, 4000..9000_u64, Just(4096), Just(8192)];
    let len = prop_oneof![1..50_usize, 4000..9000_usize];
    prop_oneof![
        2 => path.clone().prop_map(Create),
        2 => (path.clone(), len.clone()).prop_map(|(p, n)| Append(p, n)),
        2 => (path.clone(), offset.clone(), len).prop_map(|(p, o, n)| WriteAt(p, o, n)),
        1 => (path.clone(), offset.clone()).prop_map(|(p, o)| Truncate(p, o)),
        2 => (path.clone(), offset).prop_map(|(p, o)| Read(p, o)),
        2 => path.clone().prop_map(MakeFolder),
        1 => path.clone().prop_map(RemoveFolder),
        1 => path.clone().prop_map(Unlink),
        4 => (path.clone(), path.clone()).prop_map(|(a, b)| Rename(a, b)),
        2 => (path.clone(), path.clone()).prop_map(|(a, b)| Link(a, b)),
        1 => (path.clone(), path.clone()).prop_map(|(a, b)| Symlink(a, b)),
        1 => path.clone().prop_map(ReadLink),
        3 => path.clone().prop_map(List),
        3 => path.clone().prop_map(Stat),
        1 => (path, 0..0o1000_u32).prop_map(|(p, m)| Mode(p, m)),
    ]
}

/// What an operation gives: bytes or an error's number.
type Outcome = Result<Vec<u8>, i32>;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 253) as u8 + 1).collect()
}

struct Host {
    top: PathBuf,
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = host::remove_dir_all(&self.top);
    }
}

impl Host {
    /// The path, with what it ends with: `PathBuf` would drop a slash.
    fn path(&self, index: usize) -> std::ffi::OsString {
        let mut path = self.top.clone().into_os_string();
        path.push("/");
        path.push(PATHS[index]);
        path
    }

    fn perform(&self, operation: &Operation) -> Outcome {
        use Operation::*;
        let result: std::io::Result<Vec<u8>> = (|| match *operation {
            Create(p) => host::File::create(self.path(p)).map(|_| Vec::new()),
            Append(p, n) => {
                let mut file = host::OpenOptions::new().append(true).open(self.path(p))?;
                file.write_all(&pattern(n)).map(|()| Vec::new())
            }
            WriteAt(p, o, n) => {
                let mut file = host::OpenOptions::new().write(true).open(self.path(p))?;
                file.seek(SeekFrom::Start(o))?;
                file.write_all(&pattern(n)).map(|()| Vec::new())
            }
            Truncate(p, o) => {
                let file = host::OpenOptions::new().write(true).open(self.path(p))?;
                file.set_len(o).map(|()| Vec::new())
            }
            Read(p, o) => {
                let mut file = host::File::open(self.path(p))?;
                file.seek(SeekFrom::Start(o))?;
                let mut all = Vec::new();
                file.read_to_end(&mut all)?;
                Ok(all)
            }
            MakeFolder(p) => host::create_dir(self.path(p)).map(|()| Vec::new()),
            RemoveFolder(p) => host::remove_dir(self.path(p)).map(|()| Vec::new()),
            Unlink(p) => host::remove_file(self.path(p)).map(|()| Vec::new()),
            Rename(a, b) => host::rename(self.path(a), self.path(b)).map(|()| Vec::new()),
            Link(a, b) => host::hard_link(self.path(a), self.path(b)).map(|()| Vec::new()),
            Symlink(a, b) => symlink(PATHS[a], self.path(b)).map(|()| Vec::new()),
            ReadLink(p) => {
                let target = host::read_link(self.path(p))?;
                Ok(target.as_os_str().as_bytes().to_vec())
            }
            List(p) => {
                let mut names = Vec::new();
                for entry in host::read_dir(self.path(p))? {
                    names.push(entry?.file_name().as_bytes().to_vec());
                }
                names.sort();
                Ok(names.join(&b'\n'))
            }
            Stat(p) => {
                let of = host::symlink_metadata(self.path(p))?;
                Ok(told(of.mode(), of.nlink(), of.size()))
            }
            Mode(p, m) => {
                use std::os::unix::fs::PermissionsExt;
                host::set_permissions(self.path(p), host::Permissions::from_mode(m))
                    .map(|()| Vec::new())
            }
        })();
        result.map_err(|error| error.raw_os_error().unwrap())
    }
}

/// What is compared of an inode: folders count their links and bytes as they like.
fn told(mode: u32, links: u64, size: u64) -> Vec<u8> {
    if mode & 0o170_000 == 0o040_000 {
        format!("{mode:o}").into_bytes()
    } else {
        format!("{mode:o} {links} {size}").into_bytes()
    }
}

struct Guest(Program);

impl Guest {
    fn opened(&self, index: usize, flags: i32, work: impl FnOnce(i64) -> i64) -> i64 {
        let fd = call!(self.0, "open", PATHS[index], flags, 0o666);
        if fd < 0 {
            return fd;
        }
        let result = work(fd);
        assert_eq!(call!(self.0, "close", fd), 0);
        result
    }

    fn perform(&self, operation: &Operation) -> Outcome {
        use Operation::*;
        const WRITE: i32 = 1;
        const APPEND: i32 = 0o2001;
        const CREATE: i32 = 0o1101;
        let program = &self.0;
        let mut bytes = Vec::new();
        let result = match *operation {
            Create(p) => self.opened(p, CREATE, |_| 0),
            Append(p, n) => self.opened(p, APPEND, |fd| {
                call!(program, "write", fd, &pattern(n)[..], n)
            }),
            WriteAt(p, o, n) => self.opened(p, WRITE, |fd| {
                call!(program, "pwrite64", fd, &pattern(n)[..], n, o)
            }),
            Truncate(p, o) => self.opened(p, WRITE, |fd| call!(program, "ftruncate", fd, o)),
            Read(p, o) => self.opened(p, 0, |fd| {
                let to = program.room(100_000);
                let read = call!(program, "pread64", fd, to, 100_000, o);
                bytes = program.get(to, usize::try_from(read).unwrap_or(0));
                read
            }),
            MakeFolder(p) => call!(program, "mkdir", PATHS[p], 0o777),
            RemoveFolder(p) => call!(program, "rmdir", PATHS[p]),
            Unlink(p) => call!(program, "unlink", PATHS[p]),
            Rename(a, b) => call!(program, "rename", PATHS[a], PATHS[b]),
            Link(a, b) => call!(program, "link", PATHS[a], PATHS[b]),
            Symlink(a, b) => call!(program, "symlink", PATHS[a], PATHS[b]),
            ReadLink(p) => {
                let to = program.room(100);
                let len = call!(program, "readlink", PATHS[p], to, 100);
                bytes = program.get(to, usize::try_from(len).unwrap_or(0));
                len
            }
            List(p) => {
                let fd = call!(program, "open", PATHS[p], 0o200_000);
                if fd >= 0 {
                    assert_eq!(call!(program, "close", fd), 0);
                    let mut names: Vec<_> = program
                        .list(PATHS[p])
                        .into_iter()
                        .map(|(name, _)| name)
                        .filter(|name| name != b"." && name != b"..")
                        .collect();
                    names.sort();
                    bytes = names.join(&b'\n');
                }
                fd
            }
            Stat(p) => match program.stat(PATHS[p]) {
                Ok(of) => {
                    bytes = told(of[3] as u32, of[2], of[6]);
                    0
                }
                Err(error) => error,
            },
            Mode(p, m) => call!(program, "chmod", PATHS[p], m),
        };
        if result < 0 {
            return Err(-i32::try_from(result).unwrap());
        }
        Ok(bytes)
    }
}

/// A folder of the host, with the same files each time.
fn folder() -> PathBuf {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("kiln-fs-{}-{number}", std::process::id());
    let top = std::env::temp_dir().join(OsStr::from_bytes(name.as_bytes()));
    host::create_dir_all(top.join("image/inner")).unwrap();
    host::write(top.join("image/one"), pattern(10)).unwrap();
    host::hard_link(top.join("image/one"), top.join("image/two")).unwrap();
    host::write(top.join("image/inner/three"), pattern(10_000)).unwrap();
    symlink("inner/three", top.join("image/link")).unwrap();
    top
}

/// Both sides with the same files at first.
fn both() -> (Host, Guest) {
    let mut tree = Tree::new(Meta::new(0o755));
    let file = |len| Source::Bytes(pattern(len));
    tree.directory(b"/t/image", Meta::new(0o755)).unwrap();
    tree.directory(b"/t/image/inner", Meta::new(0o755)).unwrap();
    tree.file(b"/t/image/one", Meta::new(0o644), file(10))
        .unwrap();
    tree.hard_link(b"/t/image/two", b"/t/image/one").unwrap();
    tree.file(b"/t/image/inner/three", Meta::new(0o644), file(10_000))
        .unwrap();
    tree.symlink(b"/t/image/link", Meta::new(0o777), b"inner/three")
        .unwrap();
    let program = program_on(tree.to_bytes().unwrap());
    assert_eq!(call!(program, "chdir", "/t"), 0);
    (Host { top: folder() }, Guest(program))
}

/// The same with a volume: a folder that the host serves.
fn volume() -> (Host, Host, Guest) {
    use kiln_ninep_server::{Export, Session};
    let served = Host { top: folder() };
    // The session borrows it for as long as the thread lives.
    let export = Box::leak(Box::new(Export::open(&served.top, false, 1000).unwrap()));
    let mut session = Session::new(export);
    let program = program_on(Tree::new(Meta::new(0o755)).to_bytes().unwrap());
    pretend::set_folder(Box::new(move |request, reply| {
        session.answer(request, reply)
    }));
    crate::fs::volume::mount(b"test", b"/t", false, 0).unwrap();
    assert_eq!(call!(program, "chdir", "/t"), 0);
    (Host { top: folder() }, served, Guest(program))
}

/// Does the same on both sides, but for what is skipped.
fn compare(
    host: &Host,
    guest: &Guest,
    operations: &[Operation],
    skipped: impl Fn(&Operation) -> bool,
) -> Result<(), TestCaseError> {
    let mut history = String::new();
    for operation in operations {
        if skipped(operation) {
            continue;
        }
        let (expected, found) = (host.perform(operation), guest.perform(operation));
        let told = expected.as_ref().map(Vec::len);
        history.extend([format!("{operation:?} -> {told:?}\n")]);
        prop_assert_eq!(&expected, &found, "after\n{}", history);
    }
    // At the end everything is the same everywhere.
    for index in 0..PATHS.len() {
        for last in [
            Operation::Stat(index),
            Operation::List(index),
            Operation::Read(index, 0),
        ] {
            prop_assert_eq!(
                host.perform(&last),
                guest.perform(&last),
                "{:?} after\n{}",
                last,
                history
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").map_or(150, |n| n.parse().unwrap()),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn the_same_calls_have_the_same_results(
        operations in proptest::collection::vec(operation(), 1..60)
    ) {
        let (host, guest) = both();
        compare(&host, &guest, &operations, |_| false)?;
    }

    #[test]
    fn a_volume_is_the_folder_of_the_host(
        operations in proptest::collection::vec(operation(), 1..40)
    ) {
        let (host, _served, guest) = volume();
        // Links to links the server has not.
        compare(&host, &guest, &operations, |operation| match *operation {
            Operation::Link(old, _) => host::symlink_metadata(host.path(old))
                .is_ok_and(|of| of.is_symlink()),
            _ => false,
        })?;
    }
}

#[test]
fn a_volume_has_attributes_and_files_that_only_their_maker_writes() {
    let (_host, served, guest) = volume();
    let p = &guest.0;
    let fd = call!(p, "open", "own", 0o302, 0o444);
    assert_eq!(call!(p, "write", fd, b"text", 4), 4);
    assert_eq!(call!(p, "fallocate", fd, 0, 0, 10), 0);
    assert_eq!(
        host::read(served.top.join("own")).unwrap(),
        b"text\0\0\0\0\0\0"
    );
    if call!(p, "setxattr", "own", "user.a", b"value", 5, 0) == failed(Errno::EOPNOTSUPP) {
        // The folder of temporary files is on a file system without.
        return;
    }
    let to = p.room(99);
    assert_eq!(call!(p, "getxattr", "own", "user.a", to, 99), 5);
    assert_eq!(p.get(to, 5), b"value");
    assert_eq!(call!(p, "listxattr", "own", to, 99), 7);
    assert_eq!(
        call!(p, "setxattr", "own", "user.a", b"v", 1, 1),
        failed(Errno::EEXIST)
    );
    assert_eq!(call!(p, "removexattr", "own", "user.a"), 0);
    assert_eq!(
        call!(p, "getxattr", "own", "user.a", to, 99),
        failed(Errno::ENODATA)
    );
    assert_eq!(call!(p, "listxattr", "own", to, 99), 0);
}

#[test]
fn what_was_listed_is_what_is_there() {
    let (host, guest) = both();
    for index in 0..PATHS.len() {
        let list = Operation::List(index);
        assert_eq!(host.perform(&list), guest.perform(&list));
    }
}
