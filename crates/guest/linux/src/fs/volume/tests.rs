//! A folder of this very host, behind its server.

use core::cell::RefCell;
use std::path::PathBuf;
use std::prelude::v1::*;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{format, fs as host};

use kiln_ninep_server::{Export, Session};

use super::*;
use crate::fs::testing::{call, program};
use crate::fs::{Inode, Kind, NewInode};
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
        client.attach(1000).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = host::remove_dir_all(&self.0);
    }
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
        if request.get(4) == Some(&FSYNC) {
            seen.borrow_mut().extend(request.get(11));
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
