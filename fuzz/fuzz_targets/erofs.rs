//! A root image, read as a guest reads it.
//!
//! Any answer but a panic, in time that the image's length bounds: all its folders, files, links and attributes.
#![no_main]

use kiln_fs::erofs::{Image, Inode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(image) = Image::new(bytes) else {
        return;
    };
    if let Ok(root) = image.root() {
        read_all(&root, &mut 500, 6);
    }
    // The last bytes are numbers that a program could have given.
    let number = bytes.last_chunk().copied().map_or(0, u64::from_le_bytes);
    if let Ok(inode) = image.inode(number) {
        read_all(&inode, &mut 50, 1);
    }
    if let Ok(entries) = image.root().and_then(|root| root.entries(number)) {
        entries.take(50).for_each(drop);
    }
});

fn read_all(inode: &Inode<'_>, budget: &mut u32, depth: u32) {
    let mut offset = 0;
    while offset < inode.size() {
        let piece = inode.content(offset);
        assert!(!piece.is_empty());
        offset += piece.len() as u64;
    }
    assert!(inode.content(offset).is_empty());
    if let Some(start) = inode.pages() {
        assert!(start % 4096 == 0);
    }
    if let Ok(attributes) = inode.attributes() {
        attributes.for_each(drop);
    }
    let Ok(entries) = inode.entries(0) else {
        return;
    };
    let mut last = 0;
    for entry in entries.flatten() {
        assert!(entry.next > last && !entry.name.is_empty());
        last = entry.next;
        let _ = inode.lookup(entry.name);
        let Some(left) = budget.checked_sub(1) else {
            return;
        };
        *budget = left;
        if let (Ok(child), Some(depth)) = (inode.image().inode(entry.nid), depth.checked_sub(1)) {
            read_all(&child, budget, depth);
        }
    }
}
