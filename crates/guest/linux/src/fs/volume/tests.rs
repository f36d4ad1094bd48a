//! A folder of this very host, behind its server.

use core::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::prelude::v1::*;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{format, fs as host};

use kiln_ninep_server::{Export, Session};

use super::*;
use crate::fs::testing::{call, program};
use crate::fs::{Inode, Kind, NewInode, Pages};
use crate::io::{Sink, Source};
use crate::platform::pretend;

/// Removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("kiln-vol-{}-{number}", std::process::id()));
        host::create_dir_all(path.join("sub")).unwrap();
        host::write(path.join("file"), "hello").unwrap();
        Self(path)
    }

    fn root(&self) -> Rc<dyn Inode> {
        pretend::reset();
        self.serve(|_| ())
    }

    /// The same on the machine that is there; `seen` gets every request.
    fn serve(&self, mut seen: impl FnMut(&[u8]) + 'static) -> Rc<dyn Inode> {
        // The session borrows it for as long as the thread lives.
        let export = Box::leak(Box::new(Export::open(&self.0, false, 1000).unwrap()));
        let mut session = Session::new(export);
        pretend::set_folder(Box::new(move |request, reply| {
            seen(request);
            session.answer(request, reply)
        }));
        let client = Rc::new(Client::begin(0, 7).unwrap());
        crate::kernel()
            .vfs
            .volumes
            .all
            .borrow_mut()
            .push(Rc::downgrade(&client));
        client.attach(1000).unwrap()
    }

    /// For somebody else, beside the one that is served.
    fn serve_again(&self) -> Rc<dyn Inode> {
        let export = Box::leak(Box::new(Export::open(&self.0, false, 1000).unwrap()));
        let mut session = Session::new(export);
        pretend::add_folder(Box::new(move |request, reply| {
            session.answer(request, reply)
        }));
        let client = Rc::new(Client::begin(1, 8).unwrap());
        client.attach(1000).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = host::remove_dir_all(&self.0);
    }
}

/// The message of this kind in a packet.
fn asks(packet: &[u8], kind: u8) -> Option<&[u8]> {
    kiln_ninep::message::messages(packet).find(|message| message.get(4) == Some(&kind))
}

fn new(kind: Kind) -> NewInode<'static> {
    NewInode {
        kind,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        rdev: 0,
        target: b"file",
    }
}

fn read(inode: &Rc<dyn Inode>, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let got = inode
        .read_at(offset, &mut Sink::kernel(&mut bytes))
        .unwrap();
    bytes.truncate(got);
    bytes
}

fn names(folder: &Rc<dyn Inode>) -> Vec<String> {
    let mut all = Vec::new();
    let mut each = |entry: &crate::fs::Entry<'_>| {
        all.push(String::from_utf8(entry.name.to_vec()).unwrap());
        true
    };
    folder.entries(0, &mut each).unwrap();
    all.sort();
    all
}

#[test]
fn files_of_the_host_are_read_and_written() {
    let folder = Folder::new();
    let root = folder.root();
    let file = root.lookup(b"file").unwrap();
    let told = file.metadata().unwrap();
    assert_eq!((told.kind, told.size, told.uid), (Kind::Regular, 5, 1000));
    assert_eq!(read(&file, 1, 100), b"ello");
    let big = vec![b'x'; 300_000];
    assert_eq!(file.write_at(5, &mut Source::kernel(&big)), Ok(300_000));
    assert_eq!(file.metadata().unwrap().size, 300_005);
    assert_eq!(read(&file, 4, 400_000).len(), 300_001);
    assert_eq!(host::read(folder.0.join("file")).unwrap().len(), 300_005);
    file.resize(2).unwrap();
    assert_eq!(host::read(folder.0.join("file")).unwrap(), b"he");
    file.sync(false).unwrap();
    // What the host changes is seen.
    host::write(folder.0.join("file"), "changed").unwrap();
    assert_eq!(read(&file, 0, 100), b"changed");
}

#[test]
fn what_is_to_be_durable_is_asked_of_the_host() {
    const FSYNC: u8 = 50;
    let p = program();
    let folder = Folder::new();
    let asked = Rc::new(RefCell::new(Vec::<u8>::new()));
    let seen = asked.clone();
    let root = folder.serve(move |request| {
        if let Some(sync) = asks(request, FSYNC) {
            seen.borrow_mut().extend(sync.get(11));
        }
    });
    crate::fs::mount(b"/mnt", root, "9p", b"volume").unwrap();
    let fd = call!(p, "open", "/mnt/file", 2, 0);
    assert!(fd >= 0, "{fd}");
    assert_eq!(call!(p, "fsync", fd), 0);
    assert_eq!(call!(p, "fdatasync", fd), 0);
    assert_eq!(call!(p, "syncfs", fd), 0);
    assert_eq!(call!(p, "sync"), 0);
    let whole = kiln_ninep::WHOLE as u8;
    assert_eq!(*asked.borrow(), [0, 1, whole, whole]);
}

#[test]
fn one_file_is_one_inode() {
    let folder = Folder::new();
    let root = folder.root();
    let file = root.lookup(b"file").unwrap();
    root.link(b"second", &file).unwrap();
    let second = root.lookup(b"second").unwrap();
    assert!(Rc::ptr_eq(&file, &second));
    assert_eq!(file.metadata().unwrap().links, 2);
    drop((file, second));
    let again = root.lookup(b"file").unwrap();
    assert_eq!(read(&again, 0, 9), b"hello");
}

#[test]
fn names_are_made_moved_and_removed() {
    let folder = Folder::new();
    let root = folder.root();
    for (name, kind) in [
        (&b"dir"[..], Kind::Directory),
        (b"new", Kind::Regular),
        (b"link", Kind::Link),
        (b"pipe", Kind::Fifo),
    ] {
        let made = root.create(name, &new(kind)).unwrap();
        assert_eq!(made.metadata().unwrap().kind, kind);
        assert_eq!(root.create(name, &new(kind)).err(), Some(Errno::EEXIST));
    }
    assert_eq!(
        root.create(b"null", &new(Kind::Character)).err(),
        Some(Errno::EPERM)
    );
    assert_eq!(names(&root), ["dir", "file", "link", "new", "pipe", "sub"]);
    let sub = root.lookup(b"sub").unwrap();
    root.rename(b"new", &sub, b"moved", 0).unwrap();
    assert_eq!(names(&sub), ["moved"]);
    assert_eq!(root.rename(b"file", &sub, b"moved", 1), Err(Errno::EEXIST));
    assert_eq!(root.unlink(b"sub", true), Err(Errno::ENOTEMPTY));
    sub.unlink(b"moved", false).unwrap();
    root.unlink(b"sub", true).unwrap();
    assert_eq!(root.lookup(b"sub").err(), Some(Errno::ENOENT));
    // Gone, and still there for whoever has it.
    let file = root.lookup(b"file").unwrap();
    root.unlink(b"file", false).unwrap();
    assert_eq!(read(&file, 0, 9), b"hello");
}

#[test]
fn many_files_are_listed_and_given_back() {
    let folder = Folder::new();
    for number in 0..2000 {
        host::write(folder.0.join(format!("number-{number:04}")), "").unwrap();
    }
    let root = folder.root();
    assert_eq!(names(&root).len(), 2002);
    // More than the server lets a guest hold at a time.
    for number in 0..2000 {
        let name = format!("number-{number:04}");
        root.lookup(name.as_bytes()).unwrap().metadata().unwrap();
    }
}

fn node(inode: &Rc<dyn Inode>) -> &super::node::Node {
    inode.as_any().downcast_ref().unwrap()
}

/// What a program does to a page that it has mapped.
fn store(cache: &super::cache::Cache, at: usize, bytes: &[u8]) {
    let page = cache.here(at as u64 / 4096).unwrap();
    let at = at % 4096;
    page.bytes_mut().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
}

fn load(cache: &super::cache::Cache, at: usize, len: usize) -> Vec<u8> {
    let page = cache.here(at as u64 / 4096).unwrap();
    let at = at % 4096;
    page.bytes().unwrap()[at..at + len].to_vec()
}

fn mapped(file: &Rc<dyn Inode>) -> Rc<super::cache::Cache> {
    let cache = node(file).pages().unwrap();
    cache.expect_writes().unwrap();
    cache.run(0, 16).unwrap();
    cache
}

#[test]
fn mappings_and_the_file_are_one() {
    let folder = Folder::new();
    let path = folder.0.join("file");
    host::write(&path, vec![b'a'; 10_000]).unwrap();
    let root = folder.root();
    let file = root.lookup(b"file").unwrap();
    let cache = mapped(&file);
    assert!(Rc::ptr_eq(&cache, &node(&file).pages().unwrap()));
    // What is written to the mapping is read, and is on the host then.
    store(&cache, 100, b"mapped");
    assert_eq!(read(&file, 99, 8), b"amappeda");
    assert_eq!(&host::read(&path).unwrap()[99..107], b"amappeda");
    // What is written to the file is in the mapping, also across pages.
    file.write_at(4094, &mut Source::kernel(b"write")).unwrap();
    assert_eq!(load(&cache, 4094, 2), b"wr");
    assert_eq!(load(&cache, 4096, 4), b"itea");
    // Nothing behind the end becomes part of the file.
    store(&cache, 10_100, b"behind");
    store(&cache, 9_999, b"z");
    file.sync(true).unwrap();
    let there = host::read(&path).unwrap();
    assert_eq!((there.len(), there[9_999]), (10_000, b'z'));
    // What was not saved is when the last mapping goes.
    store(&cache, 5000, b"last");
    drop(cache);
    assert_eq!(&host::read(&path).unwrap()[5000..5004], b"last");
    assert!(node(&file).cached().is_none());
}

#[test]
fn only_what_the_program_has_changed_is_written() {
    let folder = Folder::new();
    let path = folder.0.join("file");
    host::write(&path, vec![b'a'; 4096]).unwrap();
    let root = folder.root();
    let file = root.lookup(b"file").unwrap();
    let cache = mapped(&file);
    store(&cache, 10, b"guest");
    let mut others = host::read(&path).unwrap();
    others[2000..2005].copy_from_slice(b"other");
    host::write(&path, &others).unwrap();
    file.sync(false).unwrap();
    let there = host::read(&path).unwrap();
    assert_eq!(
        (&there[10..15], &there[2000..2005]),
        (&b"guest"[..], &b"other"[..])
    );
    // Read: the mapping has it too, and keeps what is not saved.
    store(&cache, 20, b"more");
    assert_eq!(read(&file, 2000, 5), b"other");
    assert_eq!(load(&cache, 2000, 5), b"other");
    assert_eq!(load(&cache, 20, 4), b"more");
}

#[test]
fn pages_go_when_the_file_is_cut() {
    let folder = Folder::new();
    let path = folder.0.join("file");
    host::write(&path, vec![b'a'; 10_000]).unwrap();
    let root = folder.root();
    let file = root.lookup(b"file").unwrap();
    let cache = mapped(&file);
    store(&cache, 10, b"kept");
    file.resize(5000).unwrap();
    assert!(cache.here(2).is_none());
    assert_eq!(load(&cache, 4999, 2), b"a\0");
    assert_eq!(cache.run(2, 1).err(), Some(Errno::ENXIO));
    file.resize(9000).unwrap();
    assert_eq!(load(&cache, 5000, 1), b"\0");
    assert_eq!(cache.run(2, 1).unwrap().pages, 1);
    assert_eq!(load(&cache, 8192, 1), b"\0");
    assert_eq!(&host::read(&path).unwrap()[10..14], b"kept");
}

#[test]
fn what_the_host_does_not_take_is_not_in_the_mapping() {
    let folder = Folder::new();
    host::write(folder.0.join("file"), vec![b'a'; 4096]).unwrap();
    pretend::reset();
    let full = Rc::new(core::cell::Cell::new(false));
    let (seen, export) = (full.clone(), Export::open(&folder.0, false, 1000).unwrap());
    let mut session = Session::new(Box::leak(Box::new(export)));
    pretend::set_folder(Box::new(move |request, reply| {
        if seen.get()
            && let Some(write) = asks(request, 118)
        {
            let error = kiln_ninep::Reply::Error { errno: 28 };
            return error
                .encode(u16::from_le_bytes([write[5], write[6]]), reply)
                .unwrap();
        }
        session.answer(request, reply)
    }));
    let client = Rc::new(Client::begin(0, 7).unwrap());
    let root: Rc<dyn Inode> = client.attach(1000).unwrap();
    let file = root.lookup(b"file").unwrap();
    let cache = mapped(&file);
    full.set(true);
    let written = file.write_at(10, &mut Source::kernel(b"new"));
    assert_eq!(written, Err(Errno::ENOSPC));
    assert_eq!(load(&cache, 10, 3), b"aaa");
    // What the program has written stays, and is tried again.
    store(&cache, 20, b"later");
    assert_eq!(file.sync(false), Err(Errno::ENOSPC));
    full.set(false);
    assert_eq!(file.sync(false), Ok(()));
    assert_eq!(
        &host::read(folder.0.join("file")).unwrap()[20..25],
        b"later"
    );
}

#[test]
fn a_program_is_told_that_the_hosts_disk_is_full() {
    const WRITE: u8 = 118;
    let p = program();
    let folder = Folder::new();
    let export = Box::leak(Box::new(Export::open(&folder.0, false, 1000).unwrap()));
    let mut session = Session::new(export);
    pretend::set_folder(Box::new(move |request, reply| {
        if let Some(write) = asks(request, WRITE) {
            let error = kiln_ninep::Reply::Error { errno: 28 };
            let tag = u16::from_le_bytes([write[5], write[6]]);
            return error.encode(tag, reply).unwrap();
        }
        session.answer(request, reply)
    }));
    let root: Rc<dyn Inode> = Rc::new(Client::begin(0, 7).unwrap()).attach(1000).unwrap();
    crate::fs::mount(b"/mnt", root, "9p", b"volume").unwrap();
    let fd = call!(p, "open", "/mnt/file", 2, 0);
    let full = crate::fs::testing::failed(Errno::ENOSPC);
    assert_eq!(call!(p, "write", fd, "much", 4), full);
    assert_eq!(call!(p, "pwrite64", fd, "much", 4, 0), full);
}

#[test]
fn a_file_that_others_make_meanwhile_is_opened() {
    const CREATE: u8 = 14;
    let p = program();
    let folder = Folder::new();
    let new = folder.0.join("new");
    let root = folder.serve(move |request| {
        if asks(request, CREATE).is_some() && !new.exists() {
            host::write(&new, "theirs").unwrap();
        }
    });
    crate::fs::mount(b"/mnt", root, "9p", b"volume").unwrap();
    let exclusive = call!(p, "open", "/mnt/new", 0o302, 0o644);
    assert_eq!(exclusive, crate::fs::testing::failed(Errno::EEXIST));
    host::remove_file(folder.0.join("new")).unwrap();
    assert!(call!(p, "open", "/mnt/new", 0o102, 0o644) >= 0);
    assert_eq!(host::read(folder.0.join("new")).unwrap(), b"theirs");
}

#[test]
fn appending_goes_behind_what_others_have_written() {
    let folder = Folder::new();
    let root = folder.root();
    let file = root.lookup(b"file").unwrap();
    assert_eq!(file.append(&mut Source::kernel(b", a")), Ok((3, 8)));
    let mut others = host::OpenOptions::new();
    let mut others = others.append(true).open(folder.0.join("file")).unwrap();
    std::io::Write::write_all(&mut others, b", b").unwrap();
    assert_eq!(file.append(&mut Source::kernel(b", c")), Ok((3, 14)));
    assert_eq!(read(&file, 0, 99), b"hello, a, b, c");
}

#[test]
fn locks_hold_towards_others() {
    use crate::fs::locks::Wish;
    let folder = Folder::new();
    let root = folder.root();
    let file = root.lookup(b"file").unwrap();
    let others = folder.serve_again();
    let other = others.lookup(b"file").unwrap();
    let (mine, theirs) = (file.outside().unwrap(), other.outside().unwrap());
    assert_eq!(mine.lock_range(Wish::Shared, 0, 9), Ok(true));
    assert_eq!(theirs.lock_range(Wish::Shared, 5, 5), Ok(true));
    assert_eq!(theirs.lock_range(Wish::Exclusive, 9, 20), Ok(false));
    assert_eq!(theirs.conflict(true, 9, 20), Ok(Some((0, 9, false))));
    assert_eq!(mine.lock_range(Wish::None, 9, 9), Ok(true));
    assert_eq!(theirs.lock_range(Wish::Exclusive, 9, u64::MAX), Ok(true));
    assert_eq!(mine.conflict(false, 8, 9), Ok(Some((9, u64::MAX, true))));
    // flock(2) is another matter.
    assert_eq!(mine.lock_whole(Wish::Exclusive), Ok(true));
    assert_eq!(theirs.lock_whole(Wish::Shared), Ok(false));
    assert_eq!(mine.lock_whole(Wish::None), Ok(true));
    assert_eq!(theirs.lock_whole(Wish::Shared), Ok(true));
}

#[test]
fn a_lock_shows_what_others_have_written_and_shows_them_what_was_written_here() {
    use crate::fs::locks::Wish;
    let folder = Folder::new();
    let path = folder.0.join("file");
    host::write(&path, vec![b'a'; 4096]).unwrap();
    let root = folder.root();
    let file = root.lookup(b"file").unwrap();
    let cache = mapped(&file);
    store(&cache, 0, b"mine");
    let mut others = host::read(&path).unwrap();
    others[100..106].copy_from_slice(b"theirs");
    host::write(&path, &others).unwrap();
    let locks = file.outside().unwrap();
    assert_eq!(locks.lock_range(Wish::Exclusive, 0, 9), Ok(true));
    assert_eq!(load(&cache, 100, 6), b"theirs");
    assert_eq!(locks.lock_range(Wish::None, 0, 9), Ok(true));
    assert_eq!(&host::read(&path).unwrap()[..4], b"mine");
}

#[test]
fn a_program_that_waits_for_the_host_lets_others_run() {
    let p = program();
    let folder = Folder::new();
    let root = folder.serve(|_| ());
    crate::fs::mount(b"/mnt", root, "9p", b"volume").unwrap();
    let fd = call!(p, "open", "/mnt/file", 2, 0);
    crate::process::sched::begin(Some(&p.thread));
    let kernel = crate::kernel();
    kernel.processes.add_thread(2, p.thread.process.clone());
    let ran = Rc::new(RefCell::new(0));
    for _ in 0..3 {
        let ran = ran.clone();
        pretend::while_asleep(move || *ran.borrow_mut() += 1);
    }
    let written = call!(p, "pwrite64", fd, "written", 7, 0);
    assert_eq!((written, *ran.borrow()), (7, 3));
    pretend::while_asleep(|| ());
    assert_eq!(call!(p, "fsync", fd), 0);
    assert_eq!(host::read(folder.0.join("file")).unwrap(), b"written");
}

/// A program with a folder at `/mnt`, and how many packets it has waited for.
fn counted(folder: &Folder) -> (crate::fs::testing::Program, Rc<Cell<u32>>) {
    let p = program();
    let asked = Rc::new(Cell::new(0));
    let seen = asked.clone();
    let root = folder.serve(move |request| {
        let waits = kiln_ninep::message::messages(request).any(|one| {
            kiln_ninep::message::tag_of(one).is_some_and(|tag| tag != kiln_ninep::NO_TAG)
        });
        seen.set(seen.get() + u32::from(waits));
    });
    crate::fs::mount(b"/mnt", root, "9p", b"volume").unwrap();
    asked.set(0);
    (p, asked)
}

#[test]
fn a_call_asks_the_host_once_where_it_can() {
    let folder = Folder::new();
    host::create_dir_all(folder.0.join("sub/a/b")).unwrap();
    host::write(folder.0.join("sub/a/b/deep"), "deep").unwrap();
    let (p, asked) = counted(&folder);
    let stat = p.room(1000);
    let times = |most: u32| {
        let times = asked.replace(0);
        assert!(times <= most, "{times} times, not {most}");
    };
    assert_eq!(call!(p, "stat", "/mnt/file", stat), 0);
    times(1);
    assert_eq!(call!(p, "stat", "/mnt/sub/a/b/deep", stat), 0);
    times(1);
    let missing = crate::fs::testing::failed(Errno::ENOENT);
    assert_eq!(call!(p, "stat", "/mnt/sub/none/b/deep", stat), missing);
    times(1);
    let fd = call!(p, "open", "/mnt/sub/a/b/deep", 0, 0);
    assert!(fd >= 0);
    times(1);
    assert_eq!(call!(p, "read", fd, stat, 100), 4);
    times(1);
    assert_eq!(call!(p, "close", fd), 0);
    times(0);
    let fd = call!(p, "open", "/mnt/sub", 0o200_000, 0);
    assert!(call!(p, "getdents64", fd, stat, 1000) > 0);
    assert_eq!(call!(p, "getdents64", fd, stat, 1000), 0);
    times(3);
    let fd = call!(p, "open", "/mnt/new", 0o102, 0o644);
    assert!(fd >= 0);
    // Is it there, what is the folder like, make it.
    times(3);
    assert_eq!(call!(p, "unlink", "/mnt/new"), 0);
    times(2);
}

#[test]
fn what_the_host_changes_is_seen_by_the_next_call() {
    let folder = Folder::new();
    let (p, _) = counted(&folder);
    let stat = p.room(1000);
    let path = folder.0.join("file");
    let size = || crate::user::UserAddr(stat).read::<[u64; 7]>().unwrap()[6];
    assert_eq!(call!(p, "chdir", "/mnt/sub"), 0);
    for open in [false, true] {
        // Whatever was told when it was opened.
        let fd = call!(p, "open", "/mnt/file", 2, 0);
        for len in [10, 20] {
            host::write(&path, vec![b'x'; len]).unwrap();
            if open {
                assert_eq!(call!(p, "fstat", fd, stat), 0);
            } else {
                assert_eq!(call!(p, "stat", "/mnt/file", stat), 0);
            }
            assert_eq!(size(), len as u64);
        }
        assert_eq!(call!(p, "close", fd), 0);
    }
    let mode = || crate::user::UserAddr(stat).read::<[u64; 4]>().unwrap()[3] & 0o777;
    for bits in [0o700_u32, 0o750] {
        use std::os::unix::fs::PermissionsExt;
        let permissions = host::Permissions::from_mode(bits);
        host::set_permissions(folder.0.join("sub"), permissions).unwrap();
        assert_eq!(call!(p, "stat", ".", stat), 0);
        assert_eq!(mode(), u64::from(bits));
    }
    // A folder that is replaced between two calls.
    host::create_dir_all(folder.0.join("a/b")).unwrap();
    host::write(folder.0.join("a/b/old"), "").unwrap();
    assert_eq!(call!(p, "stat", "/mnt/a/b/old", stat), 0);
    host::rename(folder.0.join("a"), folder.0.join("moved")).unwrap();
    host::create_dir_all(folder.0.join("a/b")).unwrap();
    let missing = crate::fs::testing::failed(Errno::ENOENT);
    assert_eq!(call!(p, "stat", "/mnt/a/b/old", stat), missing);
    // A link in the middle is followed in the guest's own tree.
    std::os::unix::fs::symlink("../moved", folder.0.join("a/link")).unwrap();
    assert_eq!(call!(p, "stat", "/mnt/a/link/b/old", stat), 0);
    assert_eq!(call!(p, "stat", "/mnt/a/link/../moved/b/old", stat), 0);
}

#[test]
fn names_are_asked_for_while_others_run() {
    let folder = Folder::new();
    let (p, _) = counted(&folder);
    let stat = p.room(1000);
    crate::process::sched::begin(Some(&p.thread));
    let kernel = crate::kernel();
    kernel.processes.add_thread(2, p.thread.process.clone());
    let ran = Rc::new(Cell::new(0));
    let asleep = |times: u32| {
        for _ in 0..times {
            let ran = ran.clone();
            pretend::while_asleep(move || {
                ran.set(ran.get() + 1);
                super::replies_came();
            });
        }
    };
    asleep(1);
    assert_eq!(call!(p, "stat", "/mnt/file", stat), 0);
    assert_eq!(ran.replace(0), 1);
    asleep(1);
    let fd = call!(p, "open", "/mnt/sub", 0o200_000, 0);
    assert_eq!((fd >= 0, ran.replace(0)), (true, 1));
    asleep(1);
    assert!(call!(p, "getdents64", fd, stat, 1000) > 0);
    assert_eq!(ran.replace(0), 1);
    asleep(3);
    assert_eq!(call!(p, "rename", "/mnt/file", "/mnt/moved"), 0);
    assert_eq!(ran.replace(0), 3);
    asleep(2);
    assert_eq!(call!(p, "unlink", "/mnt/moved"), 0);
    assert_eq!(ran.replace(0), 2);
}

#[test]
fn what_others_take_away_at_once_was_made_all_the_same() {
    const WALK: u8 = 110;
    let p = program();
    let folder = Folder::new();
    let new = folder.0.join("new");
    let root = folder.serve(move |request| {
        if asks(request, WALK).is_some() {
            let _ = host::remove_dir(&new);
        }
    });
    crate::fs::mount(b"/mnt", root, "9p", b"volume").unwrap();
    assert_eq!(call!(p, "mkdir", "/mnt/new", 0o755), 0);
    assert!(!folder.0.join("new").exists());
    let stat = p.room(1000);
    let missing = crate::fs::testing::failed(Errno::ENOENT);
    assert_eq!(call!(p, "stat", "/mnt/new", stat), missing);
    assert_eq!(call!(p, "stat", "/mnt/file", stat), 0);
}
