//! Reader and writer agree with `mkfs.erofs` and `fsck.erofs`.

#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_fs::erofs::{Image, Inode, Kind, Meta, Source, Stamp, Tree};

/// A folder that is removed again.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kiln-fs-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// True if `program` can be run here; says so otherwise.
fn present(program: &str) -> bool {
    let found = Command::new(program).arg("--help").output().is_ok();
    if !found {
        eprintln!("skipped: there is no {program} here");
    }
    found
}

fn read(inode: &Inode) -> Vec<u8> {
    let mut content = Vec::new();
    while (content.len() as u64) < inode.size() {
        content.extend_from_slice(inode.content(content.len() as u64));
    }
    content
}

fn make_tree(at: &Path) {
    fs::create_dir_all(at.join("many")).unwrap();
    for n in 0..2000 {
        fs::write(at.join(format!("many/file-{n}")), n.to_string()).unwrap();
    }
    for len in [0, 1, 4095, 4096, 4097, 8192, 100_000, 300_001, 2_000_003] {
        let bytes: Vec<u8> = (0..len).map(|n: usize| (n % 251) as u8).collect();
        fs::write(at.join(format!("len-{len}")), bytes).unwrap();
    }
    symlink("many/file-17", at.join("link")).unwrap();
    fs::hard_link(at.join("len-4097"), at.join("other-name")).unwrap();
    fs::create_dir_all(at.join("a/b/c/d")).unwrap();
}

/// Holds an inode against the file it was made of.
fn compare(image: &Image, inode: &Inode, path: &Path) {
    let meta = fs::symlink_metadata(path).unwrap();
    assert_eq!(
        u32::from(inode.mode()),
        meta.mode() & 0o7777,
        "{}",
        path.display()
    );
    assert_eq!((inode.uid(), inode.gid()), (meta.uid(), meta.gid()));
    if meta.is_dir() {
        assert_eq!(inode.kind(), Kind::Directory);
        let mut names = BTreeMap::new();
        let mut cookies = Vec::new();
        for entry in inode.entries(0).unwrap() {
            let entry = entry.unwrap();
            cookies.push(entry.next);
            names.insert(entry.name.to_vec(), entry.nid);
        }
        let mut rest = inode.entries(0).unwrap();
        for cookie in cookies {
            rest.next();
            let there: Vec<_> = inode.entries(cookie).unwrap().map(Result::unwrap).collect();
            assert_eq!(there, rest.clone().map(Result::unwrap).collect::<Vec<_>>());
            if there.len() > 100 && there.len() < 1900 {
                break;
            }
        }
        assert!(names.remove(&b"."[..]).is_some() && names.remove(&b".."[..]).is_some());
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_encoded_bytes();
            let nid = names.remove(&name).expect("a file is missing");
            let found = inode.lookup(&name).unwrap().expect("lookup finds it");
            assert_eq!(found.nid, nid);
            let child = image.inode(nid).unwrap();
            assert_eq!(found.kind, child.kind());
            compare(image, &child, &entry.path());
        }
        assert!(names.is_empty(), "{names:?}");
        assert_eq!(inode.lookup(b"\x01").unwrap(), None);
        assert_eq!(inode.lookup(b"zzz").unwrap(), None);
        assert_eq!(inode.lookup(b"file-1999x").unwrap(), None);
    } else if meta.is_symlink() {
        assert_eq!(inode.kind(), Kind::Symlink);
        let target = fs::read_link(path).unwrap();
        assert_eq!(read(inode), target.into_os_string().into_encoded_bytes());
    } else {
        assert_eq!(u64::from(inode.links()), meta.nlink());
        assert_eq!(inode.modified().seconds, meta.mtime());
        assert_eq!(read(inode), fs::read(path).unwrap(), "{}", path.display());
    }
}

#[test]
fn what_mkfs_writes_is_read() {
    if !present("mkfs.erofs") {
        return;
    }
    let scratch = Scratch::new("mkfs");
    let tree = scratch.0.join("tree");
    make_tree(&tree);
    for options in [&[][..], &["-Eforce-inode-extended"], &["-Enoinline_data"]] {
        let file = scratch.0.join("image");
        let done = Command::new("mkfs.erofs")
            .args(options)
            .arg(&file)
            .arg(&tree)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        let bytes = fs::read(&file).unwrap();
        let image = Image::new(&bytes).unwrap();
        compare(&image, &image.root().unwrap(), &tree);
    }
}

/// Puts what is in a folder into a tree.
fn gather(tree: &mut Tree, names: &mut BTreeMap<u64, Vec<u8>>, from: &Path, to: &str) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = format!("{to}/{}", path.file_name().unwrap().to_str().unwrap());
        let own = Meta {
            mode: (meta.mode() & 0o7777) as u16,
            uid: meta.uid(),
            gid: meta.gid(),
            modified: Stamp {
                seconds: meta.mtime(),
                nanos: u32::try_from(meta.mtime_nsec()).unwrap(),
            },
            attributes: vec![(b"user.origin".to_vec(), name.clone().into_bytes())],
        };
        let name = name.as_bytes();
        if meta.is_dir() {
            tree.directory(name, own).unwrap();
            gather(tree, names, &path, std::str::from_utf8(name).unwrap());
        } else if meta.is_symlink() {
            let target = fs::read_link(&path)
                .unwrap()
                .into_os_string()
                .into_encoded_bytes();
            tree.symlink(name, own, &target).unwrap();
        } else if let Some(first) = names.get(&meta.ino()) {
            tree.hard_link(name, first).unwrap();
        } else {
            names.insert(meta.ino(), name.to_vec());
            tree.file(name, own, Source::File(path, meta.len()))
                .unwrap();
        }
    }
}

#[test]
fn what_is_written_is_read_again_by_both() {
    let scratch = Scratch::new("write");
    let from = scratch.0.join("tree");
    make_tree(&from);
    let mut top = Meta::new((fs::metadata(&from).unwrap().mode() & 0o7777) as u16);
    (top.uid, top.gid) = (
        fs::metadata(&from).unwrap().uid(),
        fs::metadata(&from).unwrap().gid(),
    );
    let mut tree = Tree::new(top);
    gather(&mut tree, &mut BTreeMap::new(), &from, "");

    let file = scratch.0.join("image");
    let summary = tree.write(&mut fs::File::create(&file).unwrap()).unwrap();
    let bytes = fs::read(&file).unwrap();
    assert_eq!(bytes.len() as u64, summary.len);
    assert!(tree.to_bytes().unwrap() == bytes, "two ways, two results");
    let image = Image::new(&bytes).unwrap();
    assert_eq!(image.inodes(), summary.inodes);
    compare(&image, &image.root().unwrap(), &from);
    let node = image.find(b"/many/file-17").unwrap().unwrap();
    let origin = node.attributes().unwrap().value(b"user.origin").unwrap();
    assert_eq!(origin, Some(&b"/many/file-17"[..]));
    for len in [0usize, 1, 4095, 4096, 4097, 100_000] {
        let node = image
            .find(format!("len-{len}").as_bytes())
            .unwrap()
            .unwrap();
        let start = node.pages().expect("files can be mapped") as usize;
        assert!(
            bytes[start + len..][..len.next_multiple_of(4096) - len]
                .iter()
                .all(|&b| b == 0)
        );
    }
    if present("fsck.erofs") {
        let out = scratch.0.join("extracted");
        let done = Command::new("fsck.erofs")
            .arg(format!("--extract={}", out.display()))
            .arg(&file)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        let same = Command::new("diff")
            .arg("-r")
            .arg(&from)
            .arg(&out)
            .status()
            .unwrap();
        assert!(same.success());
    }
}

#[test]
fn holes_stay_holes() {
    const HOLE: u64 = 1 << 30;
    let scratch = Scratch::new("holes");
    let path = |name: &str| scratch.0.join(name);
    let sparse = |name: &str, len: u64, data: &[(u64, &[u8])]| {
        let file = fs::File::create(path(name)).unwrap();
        for (at, bytes) in data {
            file.write_all_at(bytes, *at).unwrap();
        }
        file.set_len(len).unwrap();
    };
    let some = vec![7; 300_000];
    // Data in the middle, at the end, nowhere; then two that differ from a third only in what is a hole and what zeroes.
    sparse("middle", HOLE, &[(HOLE / 2 + 5, &some)]);
    sparse("end", HOLE + 1, &[(HOLE, b"x")]);
    sparse("like-hole", 600_000, &[(0, b"a"), (599_999, b"z")]);
    let mut filled = vec![0; 600_000];
    (filled[0], filled[599_999]) = (b'a', b'z');
    fs::write(path("like-zeroes"), &filled).unwrap();
    filled[300_000] = 1;
    fs::write(path("unlike"), &filled).unwrap();
    sparse("z-nowhere", HOLE + 4097, &[]);
    let mut tree = Tree::default();
    for name in [
        "middle",
        "end",
        "like-hole",
        "like-zeroes",
        "unlike",
        "z-nowhere",
    ] {
        let len = fs::metadata(path(name)).unwrap().len();
        let source = Source::File(path(name), len);
        tree.file(name.as_bytes(), Meta::new(0o644), source)
            .unwrap();
    }
    let image = path("image");
    // What the file had before does not shine through.
    fs::write(&image, vec![0xff; 2 << 20]).unwrap();
    let mut file = fs::File::options().write(true).open(&image).unwrap();
    let summary = tree.write(&mut file).unwrap();
    let meta = fs::metadata(&image).unwrap();
    assert_eq!(meta.len(), summary.len);
    assert!(meta.len() > 3 * HOLE);
    let taken = meta.blocks() * 512;
    assert!(taken < 8 << 20, "{taken} bytes are taken");

    // The head is enough to find the rest: nobody wants three gigabytes in memory.
    let file = fs::File::open(&image).unwrap();
    let read = |at: u64, len: usize| {
        let mut bytes = vec![0xff; len];
        file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    };
    let address = |name: &str| {
        let head = read(0, 1 << 20);
        address_of(&head, name)
    };
    let at = address("middle");
    assert!(read(at + HOLE / 2, 300_010)[5..300_005] == some);
    assert_eq!(read(at + HOLE / 2, 5), [0; 5]);
    assert_eq!(read(at + HOLE - 4096, 4096), [0; 4096]);
    let at = address("end");
    assert_eq!(read(at, 4096), [0; 4096]);
    assert_eq!(read(at + HOLE, 4096)[..2], [b'x', 0]);
    let at = address("z-nowhere");
    assert_eq!(read(at + HOLE, 8192), [0; 8192]);
    assert_eq!(at + HOLE + 8192, meta.len());
    assert_eq!(address("like-hole"), address("like-zeroes"));
    assert_ne!(address("like-hole"), address("unlike"));
    assert!(read(address("unlike"), 600_000) == filled);
}

/// Where the content of a file in the top folder starts, by the inode's field (`i_u` at 16): the reader wants all content
/// in memory.
fn address_of(head: &[u8], name: &str) -> u64 {
    let u16_at = |at: usize| u64::from(u16::from_le_bytes([head[at], head[at + 1]]));
    let root = u16_at(1024 + 14) as usize * 32;
    // The folder is small: its entries stand behind its inode.
    let entries = &head[root + 64..][..4096];
    let count = usize::from(u16::from_le_bytes([entries[8], entries[9]])) / 12;
    let start = |index: usize| {
        let entry = &entries[index * 12..];
        usize::from(u16::from_le_bytes([entry[8], entry[9]]))
    };
    let index = (0..count)
        .find(|&index| entries[start(index)..].starts_with(name.as_bytes()))
        .unwrap();
    let nid = u64::from_le_bytes(entries[index * 12..][..8].try_into().unwrap());
    let inode = nid as usize * 32;
    let block = u32::from_le_bytes(head[inode + 16..][..4].try_into().unwrap());
    u64::from(block) * 4096
}

#[test]
fn equal_files_share_their_pages_and_links_their_inode() {
    let mut tree = Tree::default();
    for name in ["a/one", "b/two", "c/three"] {
        let content = vec![if name == "c/three" { 1 } else { 2 }; 5000];
        tree.file(name.as_bytes(), Meta::new(0o644), Source::Bytes(content))
            .unwrap();
    }
    tree.hard_link(b"four", b"b/two").unwrap();
    tree.special(b"dev/null", Meta::new(0o666), Kind::CharDevice, (1, 3))
        .unwrap();
    tree.special(
        b"dev/far",
        Meta::new(0o600),
        Kind::BlockDevice,
        (259, 70_000),
    )
    .unwrap();
    let bytes = tree.to_bytes().unwrap();
    let image = Image::new(&bytes).unwrap();
    let find = |path: &str| image.find(path.as_bytes()).unwrap().unwrap();
    assert_eq!(find("a/one").pages(), find("b/two").pages());
    assert_ne!(find("a/one").pages(), find("c/three").pages());
    assert_ne!(find("a/one").nid(), find("b/two").nid());
    assert_eq!(find("four").nid(), find("b/two").nid());
    assert_eq!(find("four").links(), 2);
    assert_eq!(find("dev/null").device(), (1, 3));
    assert_eq!(find("dev/far").device(), (259, 70_000));
    assert_eq!(find("dev").links(), 2);
    assert_eq!(image.root().unwrap().links(), 6);
}

#[test]
fn what_has_no_place_in_a_tree_is_refused() {
    let mut tree = Tree::default();
    let file = |tree: &mut Tree, path: &str| {
        tree.file(path.as_bytes(), Meta::new(0o644), Source::Bytes(Vec::new()))
    };
    file(&mut tree, "/a/b").unwrap();
    for path in [
        "",
        "/",
        ".",
        "a/..",
        "a/./b",
        "a/b/c",
        "a",
        "x\0",
        &"x".repeat(256),
    ] {
        let path = path.replace("\\0", "\0");
        assert!(file(&mut tree, &path).is_err(), "{path:?}");
    }
    assert!(tree.symlink(b"l", Meta::new(0o777), b"").is_err());
    assert!(tree.hard_link(b"l", b"nothing").is_err());
    assert!(tree.hard_link(b"l", b"a").is_err());
    file(&mut tree, "a/b").unwrap();
    tree.directory(b"a", Meta::new(0o700)).unwrap();
    assert!(tree.contains(b"a/b") && !tree.contains(b"a/c"));
}

#[test]
fn a_tree_can_be_cut_down() {
    let mut tree = Tree::default();
    for name in ["a/one", "a/two", "b/three", "c/four"] {
        let source = Source::Bytes(name.as_bytes().to_vec());
        tree.file(name.as_bytes(), Meta::new(0o644), source)
            .unwrap();
    }
    tree.hard_link(b"b/other", b"a/one").unwrap();
    tree.directory(b"empty", Meta::new(0o755)).unwrap();
    tree.retain(|path, kind| match kind {
        Kind::Directory => path == b"/empty",
        _ => matches!(path, b"/a/two" | b"/b/other"),
    });
    let mut files = Vec::new();
    tree.files(|path, len| files.push((String::from_utf8(path.to_vec()).unwrap(), len)));
    assert_eq!(
        files,
        [("/a/two".to_owned(), 5), ("/b/other".to_owned(), 5)]
    );
    let bytes = tree.to_bytes().unwrap();
    let image = Image::new(&bytes).unwrap();
    assert_eq!(image.find(b"/b/other").unwrap().unwrap().links(), 1);
    assert!(image.find(b"/empty").unwrap().is_some());
    assert!(image.find(b"/c").unwrap().is_none());
    assert_eq!(image.inodes(), 6);
}
