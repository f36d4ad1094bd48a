//! Whatever the bytes: the reader answers or fails, and comes to an end.

#![allow(missing_docs)]

use std::sync::OnceLock;

use kiln_fs::erofs::{Image, Inode, Kind, Meta, Source, Tree};
use proptest::prelude::*;

/// A small image with everything in it.
fn sample() -> Vec<u8> {
    static SAMPLE: OnceLock<Vec<u8>> = OnceLock::new();
    SAMPLE.get_or_init(make).clone()
}

fn make() -> Vec<u8> {
    let mut tree = Tree::default();
    let mut meta = Meta::new(0o644);
    meta.attributes = vec![(b"user.colour".to_vec(), b"blue".to_vec())];
    for n in 0..400 {
        let source = Source::Bytes(vec![n as u8; n * 7]);
        tree.file(
            format!("/many/file with a long name {n}").as_bytes(),
            meta.clone(),
            source,
        )
        .unwrap();
    }
    tree.symlink(b"/link", meta.clone(), b"many/file").unwrap();
    tree.special(b"/dev/null", meta, Kind::CharDevice, (1, 3))
        .unwrap();
    tree.to_bytes().unwrap()
}

/// Reads all there is, `budget` inodes at most: folders of a bad image may hold each other.
fn read_all(inode: &Inode<'_>, budget: &mut u32, depth: u32) {
    let _ = (
        inode.device(),
        inode.modified(),
        inode.pages(),
        inode.links(),
    );
    let mut offset = 0;
    for _ in 0..4 {
        let piece = inode.content(offset);
        assert_eq!(piece.is_empty(), offset >= inode.size());
        offset += piece.len() as u64;
    }
    assert_eq!(offset, inode.size());
    if let Ok(attributes) = inode.attributes() {
        for attribute in attributes.flatten() {
            let _ = attribute.name();
        }
    }
    let _ = inode.lookup(b"many");
    let _ = inode.lookup(b"file with a long name 77");
    let Ok(entries) = inode.entries(0) else {
        return;
    };
    let mut last = 0;
    for entry in entries.flatten() {
        assert!(entry.next > last, "reading a folder goes on");
        last = entry.next;
        let Some(left) = budget.checked_sub(1) else {
            return;
        };
        *budget = left;
        if let (Ok(child), false) = (inode.image().inode(entry.nid), depth == 0) {
            read_all(&child, budget, depth - 1);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn spoilt_images_are_answered(
        changes in prop::collection::vec((0usize..0x8000, any::<u8>()), 0..12),
        words in prop::collection::vec(
            (0usize..0x1000, prop::sample::select(vec![0, 1, 0xfff, u64::MAX, 1 << 63, 0xffff_ffff])),
            0..4,
        ),
        len in 0usize..0x10_0000,
        cookie in any::<u64>(),
    ) {
        let mut bytes = sample();
        for (at, value) in changes {
            bytes[at] = value;
        }
        for (at, value) in words {
            bytes[at * 8..][..8].copy_from_slice(&value.to_le_bytes());
        }
        bytes.truncate(len.max(0x4000));
        if let Ok(image) = Image::new(&bytes) {
            if let Ok(root) = image.root() {
                read_all(&root, &mut 2000, 8);
                let _ = root.entries(cookie).map(|entries| entries.take(100).count());
            }
            let _ = image.inode(cookie);
            let _ = image.find(b"/many/file with a long name 5");
        }
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(Image::new(&bytes).is_err());
    }
}
