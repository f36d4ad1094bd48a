//! A guest that talks to a folder of the test's own.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use kiln_ninep::directory::entries;
use kiln_ninep::{Attributes, Data, NO_FID, Names, Qid, Reply, Request, Text, VERSION, set};
use proptest::prelude::*;
use rustix::io::Errno;

use crate::session::Session;
use crate::{Export, serve};

/// A folder with a file, a folder and links that lead out; removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("kiln-9p-{}-{number}", std::process::id()));
        fs::create_dir_all(path.join("served/inner")).unwrap();
        fs::write(path.join("secret"), "secret").unwrap();
        let served = path.join("served");
        fs::write(served.join("file"), "hello").unwrap();
        symlink("../secret", served.join("out")).unwrap();
        symlink("/etc", served.join("etc")).unwrap();
        Self(path)
    }

    fn served(&self) -> PathBuf {
        self.0.join("served")
    }

    fn export(&self, read_only: bool) -> Export {
        Export::open(&self.served(), read_only, 100).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Asks, and hands the reply to `look`.
fn ask<R>(
    session: &mut Session<'_>,
    request: &Request<'_>,
    look: impl FnOnce(Reply<'_>) -> R,
) -> R {
    let mut message = vec![0; 70_000];
    let len = request.encode(5, &mut message).unwrap();
    let mut reply = vec![0; 140_000];
    let len = session.answer(&message[..len], &mut reply);
    let (tag, reply) = Reply::decode(&reply[..len]).unwrap();
    assert_eq!(tag, 5);
    look(reply)
}

fn done(session: &mut Session<'_>, request: &Request<'_>) -> Result<(), Errno> {
    ask(session, request, |reply| match reply {
        Reply::Error { errno } => Err(Errno::from_raw_os_error(errno.cast_signed())),
        _ => Ok(()),
    })
}

fn begin(session: &mut Session<'_>) {
    let version = Request::Version {
        msize: 1 << 20,
        version: Text(VERSION),
    };
    ask(session, &version, |reply| {
        let agreed = Reply::Version {
            msize: 128 << 10,
            version: Text(VERSION),
        };
        assert_eq!(reply, agreed);
    });
    let attach = Request::Attach {
        fid: 0,
        auth: NO_FID,
        user: Text(b""),
        tree: Text(b""),
        uid: 70,
    };
    assert_eq!(done(session, &attach), Ok(()));
}

fn walk(session: &mut Session<'_>, new: u32, path: &str) -> Result<(), Errno> {
    let names: Vec<Text<'_>> = path
        .split('/')
        .filter(|name| !name.is_empty())
        .map(|name| Text(name.as_bytes()))
        .collect();
    let count = names.len();
    let walk = Request::Walk {
        fid: 0,
        new,
        names: Names::new(&names).unwrap(),
    };
    ask(session, &walk, |reply| match reply {
        Reply::Walk { qids } if qids.as_slice().len() == count => Ok(()),
        Reply::Walk { .. } => Err(Errno::NOENT),
        Reply::Error { errno } => Err(Errno::from_raw_os_error(errno.cast_signed())),
        other => panic!("{other:?}"),
    })
}

fn attributes(session: &mut Session<'_>, fid: u32) -> Attributes {
    ask(
        session,
        &Request::GetAttr {
            fid,
            mask: u64::MAX,
        },
        |reply| {
            let Reply::GetAttr { attributes } = reply else {
                panic!("{reply:?}");
            };
            attributes
        },
    )
}

fn read(session: &mut Session<'_>, fid: u32, offset: u64, count: u32) -> Vec<u8> {
    ask(session, &Request::Read { fid, offset, count }, |reply| {
        let Reply::Read { data } = reply else {
            panic!("{reply:?}");
        };
        data.0.to_vec()
    })
}

fn names(session: &mut Session<'_>, fid: u32, count: u32) -> Vec<String> {
    let (mut offset, mut all) = (0, Vec::new());
    loop {
        let request = Request::Readdir { fid, offset, count };
        let more = ask(session, &request, |reply| {
            let Reply::Readdir { data } = reply else {
                panic!("{reply:?}");
            };
            let mut more = !data.0.is_empty();
            for entry in entries(data.0) {
                if entry.is_end() {
                    more = false;
                } else {
                    all.push(String::from_utf8(entry.name.0.to_vec()).unwrap());
                }
                offset = entry.next;
            }
            more
        });
        if !more {
            all.sort();
            return all;
        }
    }
}

#[test]
fn files_are_found_read_and_written() {
    let folder = Folder::new();
    let export = folder.export(false);
    let mut session = Session::new(&export);
    begin(&mut session);
    walk(&mut session, 1, "file").unwrap();
    let found = attributes(&mut session, 1);
    assert_eq!(
        (found.size, found.uid, found.gid),
        (5, 70, 70),
        "the guest's own"
    );
    assert_eq!(found.qid.kind, 0);
    assert_eq!(
        done(&mut session, &Request::Open { fid: 1, flags: 2 }),
        Ok(())
    );
    assert_eq!(read(&mut session, 1, 1, 3), b"ell");
    assert_eq!(read(&mut session, 1, 9, 3), b"");
    let write = Request::Write {
        fid: 1,
        offset: 5,
        data: Data(b", world"),
    };
    assert_eq!(done(&mut session, &write), Ok(()));
    assert_eq!(
        fs::read(folder.served().join("file")).unwrap(),
        b"hello, world"
    );
    let truncate = Request::SetAttr {
        fid: 1,
        valid: set::SIZE | set::MODE | set::MTIME | set::MTIME_SET | set::UID,
        mode: 0o6640,
        uid: 70,
        gid: 0,
        size: 4,
        atime: 0,
        atime_nanos: 0,
        mtime: 1000,
        mtime_nanos: 7,
    };
    assert_eq!(done(&mut session, &truncate), Ok(()));
    let host = fs::metadata(folder.served().join("file")).unwrap();
    assert_eq!((host.len(), host.mtime(), host.mtime_nsec()), (4, 1000, 7));
    assert_eq!(
        host.permissions().mode() & 0o7777,
        0o640,
        "nobody's identity"
    );
    assert_eq!(done(&mut session, &Request::Clunk { fid: 1 }), Ok(()));
    assert_eq!(
        done(&mut session, &Request::Clunk { fid: 1 }),
        Err(Errno::BADF)
    );
}

#[test]
fn files_and_folders_are_made_renamed_and_removed() {
    let folder = Folder::new();
    let export = folder.export(false);
    let mut session = Session::new(&export);
    begin(&mut session);
    walk(&mut session, 1, "inner").unwrap();
    let create = |name: &'static [u8], flags| Request::Create {
        fid: 1,
        name: Text(name),
        flags,
        mode: 0o4755,
        gid: 0,
    };
    assert_eq!(done(&mut session, &create(b"new", 0o102)), Ok(()));
    let host = fs::metadata(folder.served().join("inner/new")).unwrap();
    assert_eq!(host.permissions().mode() & 0o7000, 0);
    walk(&mut session, 2, "inner").unwrap();
    walk(&mut session, 3, "").unwrap();
    let rename = Request::RenameAt {
        from: 2,
        old: Text(b"new"),
        to: 3,
        new: Text(b"renamed"),
    };
    assert_eq!(done(&mut session, &rename), Ok(()));
    // The open file goes along.
    assert_eq!(read(&mut session, 1, 0, 10), b"");
    let mkdir = Request::Mkdir {
        folder: 3,
        name: Text(b"made"),
        mode: 0o755,
        gid: 0,
    };
    assert_eq!(done(&mut session, &mkdir), Ok(()));
    assert_eq!(done(&mut session, &mkdir), Err(Errno::EXIST));
    let link = Request::Link {
        folder: 3,
        fid: 1,
        name: Text(b"second"),
    };
    assert_eq!(done(&mut session, &link), Ok(()));
    assert_eq!(attributes(&mut session, 1).links, 2);
    assert_eq!(
        done(&mut session, &Request::Open { fid: 3, flags: 0 }),
        Ok(())
    );
    let expected = ["etc", "file", "inner", "made", "out", "renamed", "second"];
    // All at once, and one after the other.
    assert_eq!(names(&mut session, 3, 8000), expected);
    assert_eq!(names(&mut session, 3, 40), expected);
    walk(&mut session, 4, "").unwrap();
    let unlink = |name: &'static [u8], flags| Request::UnlinkAt {
        folder: 4,
        name: Text(name),
        flags,
    };
    assert_eq!(done(&mut session, &unlink(b"made", 0)), Err(Errno::ISDIR));
    assert_eq!(done(&mut session, &unlink(b"made", 0x200)), Ok(()));
    assert_eq!(done(&mut session, &unlink(b"renamed", 0)), Ok(()));
    assert_eq!(
        done(&mut session, &unlink(b"renamed", 0)),
        Err(Errno::NOENT)
    );
}

#[test]
fn nothing_leads_out_of_the_folder() {
    let folder = Folder::new();
    let export = folder.export(false);
    let mut session = Session::new(&export);
    begin(&mut session);
    for path in ["..", "inner/..", ".", "inner/../../secret"] {
        assert!(walk(&mut session, 9, path).is_err(), "{path}");
    }
    for name in [&b"../secret"[..], b"inner/x", b"", b"a\0b"] {
        let names = Names::new(&[Text(name)]).unwrap();
        let request = Request::Walk {
            fid: 0,
            new: 9,
            names,
        };
        assert_eq!(done(&mut session, &request), Err(Errno::INVAL), "{name:?}");
    }
    // Links are text.
    walk(&mut session, 1, "out").unwrap();
    assert_eq!(attributes(&mut session, 1).qid.kind, Qid::LINK);
    ask(&mut session, &Request::Readlink { fid: 1 }, |reply| {
        let target = Text(b"../secret");
        assert_eq!(reply, Reply::Readlink { target });
    });
    assert_eq!(
        done(&mut session, &Request::Open { fid: 1, flags: 0 }),
        Err(Errno::LOOP)
    );
    assert_eq!(walk(&mut session, 2, "etc/passwd"), Err(Errno::NOENT));
    let chmod = Request::SetAttr {
        fid: 1,
        valid: set::MODE,
        mode: 0o777,
        uid: 0,
        gid: 0,
        size: 0,
        atime: 0,
        atime_nanos: 0,
        mtime: 0,
        mtime_nanos: 0,
    };
    assert_eq!(done(&mut session, &chmod), Err(Errno::OPNOTSUPP));
    // Creating where a link is.
    walk(&mut session, 3, "").unwrap();
    for flags in [0o101, 0o1101, 0o301] {
        let create = Request::Create {
            fid: 3,
            name: Text(b"out"),
            flags,
            mode: 0o644,
            gid: 0,
        };
        let expected = if flags & 0o200 != 0 {
            Errno::EXIST
        } else {
            Errno::LOOP
        };
        assert_eq!(done(&mut session, &create), Err(expected), "{flags:o}");
    }
    let link = Request::Link {
        folder: 3,
        fid: 1,
        name: Text(b"x"),
    };
    assert_eq!(done(&mut session, &link), Err(Errno::OPNOTSUPP));
    assert_eq!(fs::read(folder.0.join("secret")).unwrap(), b"secret");
}

#[test]
fn what_is_no_ordinary_file_is_not_opened() {
    let folder = Folder::new();
    let export = folder.export(false);
    let mut session = Session::new(&export);
    begin(&mut session);
    let make = |name: &'static [u8], mode| Request::Mknod {
        folder: 0,
        name: Text(name),
        mode,
        major: 1,
        minor: 3,
        gid: 0,
    };
    assert_eq!(
        done(&mut session, &make(b"null", 0o20_666)),
        Err(Errno::PERM)
    );
    assert_eq!(
        done(&mut session, &make(b"disk", 0o60_666)),
        Err(Errno::PERM)
    );
    assert_eq!(done(&mut session, &make(b"pipe", 0o10_666)), Ok(()));
    let host = fs::symlink_metadata(folder.served().join("pipe")).unwrap();
    assert!(host.file_type().is_fifo());
    walk(&mut session, 1, "pipe").unwrap();
    for flags in 0..3 {
        assert_eq!(
            done(&mut session, &Request::Open { fid: 1, flags }),
            Err(Errno::NXIO)
        );
    }
    walk(&mut session, 2, "inner").unwrap();
    assert_eq!(
        done(&mut session, &Request::Open { fid: 2, flags: 1 }),
        Err(Errno::ISDIR)
    );
}

#[test]
fn a_read_only_folder_stays_as_it_is() {
    let folder = Folder::new();
    let export = folder.export(true);
    let mut session = Session::new(&export);
    begin(&mut session);
    walk(&mut session, 1, "file").unwrap();
    for flags in [1, 2, 0o1000, 0o1002] {
        assert_eq!(
            done(&mut session, &Request::Open { fid: 1, flags }),
            Err(Errno::ROFS)
        );
    }
    assert_eq!(
        done(&mut session, &Request::Open { fid: 1, flags: 0 }),
        Ok(())
    );
    assert_eq!(read(&mut session, 1, 0, 9), b"hello");
    let mkdir = Request::Mkdir {
        folder: 0,
        name: Text(b"x"),
        mode: 0o755,
        gid: 0,
    };
    let unlink = Request::UnlinkAt {
        folder: 0,
        name: Text(b"file"),
        flags: 0,
    };
    let create = Request::Create {
        fid: 0,
        name: Text(b"file"),
        flags: 0,
        mode: 0,
        gid: 0,
    };
    for request in [mkdir, unlink, create] {
        assert_eq!(done(&mut session, &request), Err(Errno::ROFS));
    }
}

#[test]
fn attributes_of_users_are_kept_where_the_host_has_them() {
    let folder = Folder::new();
    let export = folder.export(false);
    let mut session = Session::new(&export);
    begin(&mut session);
    walk(&mut session, 1, "file").unwrap();
    walk(&mut session, 2, "file").unwrap();
    let create = |name: &'static [u8]| Request::XattrCreate {
        fid: 1,
        name: Text(name),
        size: 5,
        flags: 0,
    };
    for name in [
        &b"security.selinux"[..],
        b"trusted.x",
        b"system.posix_acl_access",
        b"",
    ] {
        assert_eq!(done(&mut session, &create(name)), Err(Errno::OPNOTSUPP));
    }
    assert_eq!(done(&mut session, &create(b"user.kiln")), Ok(()));
    let write = |data| Request::Write {
        fid: 1,
        offset: 0,
        data: Data(data),
    };
    assert_eq!(done(&mut session, &write(b"longer")), Err(Errno::INVAL));
    assert_eq!(done(&mut session, &write(b"value")), Ok(()));
    if done(&mut session, &Request::Clunk { fid: 1 }) == Err(Errno::OPNOTSUPP) {
        eprintln!("skipped: no attributes on this file system");
        return;
    }
    let walk = |new, name: &'static [u8]| Request::XattrWalk {
        fid: 2,
        new,
        name: Text(name),
    };
    assert_eq!(done(&mut session, &walk(3, b"user.kiln")), Ok(()));
    assert_eq!(read(&mut session, 3, 0, 100), b"value");
    assert_eq!(done(&mut session, &walk(4, b"")), Ok(()));
    assert_eq!(read(&mut session, 4, 0, 100), b"user.kiln\0");
}

#[test]
fn attributes_in_memory_are_few() {
    let folder = Folder::new();
    let export = Export::open(&folder.served(), false, 1000).unwrap();
    let mut session = Session::new(&export);
    begin(&mut session);
    let create = |fid| Request::XattrCreate {
        fid,
        name: Text(b"user.kiln"),
        size: 65_536,
        flags: 0,
    };
    for fid in 1..=64 {
        walk(&mut session, fid, "file").unwrap();
        assert_eq!(done(&mut session, &create(fid)), Ok(()));
    }
    walk(&mut session, 65, "file").unwrap();
    assert_eq!(done(&mut session, &create(65)), Err(Errno::NFILE));
    let read = Request::XattrWalk {
        fid: 65,
        new: 66,
        name: Text(b""),
    };
    assert_eq!(done(&mut session, &read), Err(Errno::NFILE));
    let _ = done(&mut session, &Request::Clunk { fid: 1 });
    assert_eq!(done(&mut session, &create(65)), Ok(()));
}

#[test]
fn locks_are_kept_against_others() {
    let folder = Folder::new();
    let export = folder.export(false);
    let mut session = Session::new(&export);
    begin(&mut session);
    for fid in [1, 2] {
        walk(&mut session, fid, "file").unwrap();
        assert_eq!(done(&mut session, &Request::Open { fid, flags: 2 }), Ok(()));
    }
    let lock = |fid, kind| Request::Lock {
        fid,
        kind,
        flags: 0,
        start: 0,
        length: 0,
        process: 1,
        client: Text(b""),
    };
    let status = |session: &mut Session<'_>, request| {
        ask(session, &request, |reply| match reply {
            Reply::Lock { status } => status,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(status(&mut session, lock(1, 1)), 0);
    assert_eq!(status(&mut session, lock(2, 0)), 1, "blocked");
    assert_eq!(status(&mut session, lock(1, 2)), 0);
    assert_eq!(status(&mut session, lock(2, 0)), 0);
    assert_eq!(done(&mut session, &lock(1, 3)), Err(Errno::INVAL));
}

#[test]
fn descriptors_are_bounded() {
    let folder = Folder::new();
    let export = folder.export(false);
    let mut session = Session::new(&export);
    begin(&mut session);
    let made = (1..1000).take_while(|&fid| walk(&mut session, fid, "file").is_ok());
    assert_eq!(made.count(), 49);
    assert_eq!(walk(&mut session, 2000, "file"), Err(Errno::MFILE));
    begin(&mut session);
    assert_eq!(walk(&mut session, 2000, "file"), Ok(()), "a new beginning");
}

#[test]
fn replies_fit_what_was_agreed() {
    let folder = Folder::new();
    fs::write(folder.served().join("big"), vec![b'x'; 100_000]).unwrap();
    let export = folder.export(false);
    let mut session = Session::new(&export);
    let version = Request::Version {
        msize: 4096,
        version: Text(VERSION),
    };
    assert_eq!(done(&mut session, &version), Ok(()));
    let attach = Request::Attach {
        fid: 0,
        auth: NO_FID,
        user: Text(b""),
        tree: Text(b""),
        uid: 0,
    };
    assert_eq!(done(&mut session, &attach), Ok(()));
    walk(&mut session, 1, "big").unwrap();
    assert_eq!(
        done(&mut session, &Request::Open { fid: 1, flags: 0 }),
        Ok(())
    );
    assert_eq!(read(&mut session, 1, 0, u32::MAX).len(), 4096 - 11);
}

#[test]
fn the_socket_is_served_until_it_is_closed() {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let folder = Folder::new();
    let export = folder.export(false);
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let server = std::thread::spawn(move || serve(&export, &theirs));
    let mut message = [0; 100];
    let version = Request::Version {
        msize: 8192,
        version: Text(VERSION),
    };
    let len = version.encode(1, &mut message).unwrap();
    for request in [&message[..len], b"nonsense"] {
        rustix::io::write(&ours, request).unwrap();
        let mut reply = [0; 100];
        let len = rustix::io::read(&ours, &mut reply).unwrap();
        assert!(Reply::decode(&reply[..len]).is_ok());
    }
    drop(ours);
    server.join().unwrap();
}

fn request(number: u8, tag: u8, fields: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 4];
    message.extend([number, tag, 0]);
    message.extend(fields);
    let len = message.len() as u32;
    message[..4].copy_from_slice(&len.to_le_bytes());
    message
}

/// Everything below a folder but what is served.
fn outside(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("secret")).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_asked_is_answered(requests in proptest::collection::vec(
        (0u8..128, any::<u8>(), proptest::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..40)),
        0..60,
    )) {
        let folder = Folder::new();
        let export = folder.export(false);
        let mut session = Session::new(&export);
        begin(&mut session);
        let mut reply = vec![0; 8192];
        for (number, tag, fields) in requests {
            let len = session.answer(&request(number, tag, &fields), &mut reply);
            prop_assert!(Reply::decode(&reply[..len]).is_ok());
        }
        prop_assert_eq!(outside(&folder.0), b"secret");
    }
}

#[test]
fn files_of_processes_are_not_opened() {
    let export = Export::open(Path::new("/proc"), false, 100).unwrap();
    let mut session = Session::new(&export);
    begin(&mut session);
    let own = format!("{}/mem", std::process::id());
    for (fid, path) in [(1, own.as_str()), (2, "uptime")] {
        assert_eq!(walk(&mut session, fid, path), Ok(()));
        let open = Request::Open { fid, flags: 0 };
        assert_eq!(done(&mut session, &open), Err(Errno::NXIO));
    }
}

/// The replies to several requests in one packet.
fn ask_at_once<R>(
    session: &mut Session<'_>,
    requests: &[(u16, Request<'_>)],
    look: impl FnOnce(Vec<(u16, Reply<'_>)>) -> R,
) -> R {
    let mut packet = vec![0; 10_000];
    let mut len = 0;
    for (tag, request) in requests {
        len += request.encode(*tag, &mut packet[len..]).unwrap();
    }
    let mut reply = vec![0; 140_000];
    let len = session.answer(&packet[..len], &mut reply);
    let replies = kiln_ninep::message::messages(&reply[..len]);
    look(replies.map(|one| Reply::decode(one).unwrap()).collect())
}

#[test]
fn what_is_asked_at_once_is_answered_in_order_and_fails_alone() {
    let folder = Folder::new();
    let export = folder.export(false);
    let mut session = Session::new(&export);
    begin(&mut session);
    let look = |fid, new, name: &'static [u8]| Request::Walk {
        fid,
        new,
        names: Names::new(&[Text(name)]).unwrap(),
    };
    let told = |fid| Request::GetAttr {
        fid,
        mask: kiln_ninep::GETATTR_BASIC,
    };
    let failed = |reply: &Reply<'_>, errno: Errno| {
        let errno = errno.raw_os_error().cast_unsigned();
        *reply == Reply::Error { errno }
    };
    let requests = [
        (5, look(0, 1, b"file")),
        (5, told(1)),
        (5, Request::Open { fid: 1, flags: 0 }),
        (5, look(0, 2, b"missing")),
        (5, told(2)),
        (5, look(0, 3, b"etc")),
        (5, look(3, 4, b"passwd")),
        (kiln_ninep::NO_TAG, Request::Clunk { fid: 1 }),
        (kiln_ninep::NO_TAG, Request::Clunk { fid: 77 }),
        (5, told(1)),
        (5, told(3)),
    ];
    ask_at_once(&mut session, &requests, |replies| {
        assert_eq!(replies.len(), 9);
        assert!(replies.iter().all(|(tag, _)| *tag == 5));
        let [walk, file, open, missing, nothing, _, beyond, gone, link] = &replies[..] else {
            panic!()
        };
        assert!(matches!(walk.1, Reply::Walk { .. }));
        assert!(matches!(file.1, Reply::GetAttr { attributes } if attributes.size == 5));
        assert!(matches!(open.1, Reply::Open { .. }));
        assert!(failed(&missing.1, Errno::NOENT));
        assert!(failed(&nothing.1, Errno::BADF));
        // A link is not followed, whoever stands behind it.
        assert!(failed(&beyond.1, Errno::NOTDIR));
        assert!(failed(&gone.1, Errno::BADF));
        assert!(
            matches!(link.1, Reply::GetAttr { attributes } if attributes.qid.kind == Qid::LINK)
        );
    });
    // What only gives fids back says nothing.
    let clunk = [(kiln_ninep::NO_TAG, Request::Clunk { fid: 3 })];
    assert_eq!(
        ask_at_once(&mut session, &clunk, |replies| replies.len()),
        0
    );
    assert_eq!(done(&mut session, &told(3)), Err(Errno::BADF));
}

#[test]
fn replies_to_one_packet_fit_into_one() {
    let folder = Folder::new();
    fs::write(folder.served().join("big"), vec![b'x'; 200_000]).unwrap();
    let export = folder.export(false);
    let mut session = Session::new(&export);
    begin(&mut session);
    walk(&mut session, 1, "big").unwrap();
    assert_eq!(
        done(&mut session, &Request::Open { fid: 1, flags: 0 }),
        Ok(())
    );
    let read = Request::Read {
        fid: 1,
        offset: 0,
        count: 100_000,
    };
    let mut packet = vec![0; 10_000];
    let mut len = 0;
    for _ in 0..300 {
        len += read.encode(5, &mut packet[len..]).unwrap();
    }
    let mut reply = vec![0; 128 << 10];
    let len = session.answer(&packet[..len], &mut reply);
    let lengths: Vec<_> = kiln_ninep::message::messages(&reply[..len])
        .map(|one| match Reply::decode(one).unwrap().1 {
            Reply::Read { data } => data.0.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(lengths[0], 100_000);
    assert!(lengths[1] > 30_000 && lengths.len() < 300);
}
