//! Writing a [`Tree`] as an image.
//!
//! The super block comes first, then all inodes in the order of their paths, with links' targets and the ends of folders
//! behind them, then the blocks of folders, then the content of files. A regular file's content starts on a page and is
//! filled up with zeroes to a page's end, so that it can be mapped; files that are equal share it. Holes of a file are
//! holes of the image file, too, which says the same and takes no space. Inodes are extended ones, because interpreters
//! compare times of modification. The same tree gives the same bytes.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use std::collections::HashMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::sparse;
use super::tree::{Content, Node, Source, Tree};
use super::{EXTENDED_SIZE, Kind, MAGIC, SLOT, SUPER_OFFSET, SUPER_SIZE};

const BLOCK: u64 = 4096;
const BLOCK_BITS: u8 = 12;
const ENTRY: usize = 12;

/// `feature_compat`: there is a checksum, and compact inodes would have the time of modification.
const COMPAT: u32 = 1 | 2;

const PLAIN: u16 = 0;
const INLINE: u16 = 2;

/// Files up to this many bytes are gathered to be written together.
const SMALL: u64 = 256 << 10;

/// What a written image holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the image, a multiple of the page size.
    pub len: u64,
    /// How many inodes.
    pub inodes: u64,
    /// Bytes that are not there because files are equal.
    pub shared: u64,
}

impl Tree {
    /// Writes the image from the file's position on; the file ends behind it then.
    ///
    /// # Errors
    /// If a file cannot be read, has changed its size, or `out` cannot be written.
    pub fn write(&self, out: &mut File) -> io::Result<Summary> {
        let plan = Plan::of(self)?;
        let start = out.stream_position()?;
        // Where holes will be nothing must be.
        out.set_len(start)?;
        let mut buffer = plan.head;
        for (source, _) in &plan.data {
            if source.len() <= SMALL || matches!(source, Source::Bytes(_)) {
                append(source, &mut buffer)?;
            } else if let Source::File(path, len) = source {
                out.write_all(&buffer)?;
                buffer.clear();
                copy(path, *len, out)?;
                buffer.resize((len.next_multiple_of(BLOCK) - len) as usize, 0);
            }
            if buffer.len() as u64 >= 4 * SMALL {
                out.write_all(&buffer)?;
                buffer.clear();
            }
        }
        out.write_all(&buffer)?;
        // It may end with a hole.
        out.set_len(start + plan.summary.len)?;
        Ok(plan.summary)
    }

    /// The image in memory.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let plan = Plan::of(self)?;
        let mut bytes = plan.head;
        for (source, _) in &plan.data {
            append(source, &mut bytes)?;
        }
        Ok(bytes)
    }
}

/// An image without the content of its regular files.
struct Plan<'a> {
    /// Super block, inodes and folders.
    head: Vec<u8>,
    /// What comes behind that, each from a block's start on, and that block's number.
    data: Vec<(&'a Source, u64)>,
    summary: Summary,
}

/// What is known about a node before any address is.
struct Part {
    node: usize,
    /// Extended attributes as they are written.
    attributes: Vec<u8>,
    /// Names of a folder, divided into blocks.
    blocks: Vec<Vec<(Vec<u8>, usize)>>,
    /// Bytes of content.
    size: u64,
    /// How many of them stand behind the inode.
    tail: u64,
    /// Offset of the inode.
    at: u64,
    /// Number of the first block of content.
    block: u64,
}

impl Part {
    fn layout(&self) -> u16 {
        if self.tail > 0 { INLINE } else { PLAIN }
    }

    /// Bytes of inode, attributes and tail.
    fn len(&self) -> u64 {
        EXTENDED_SIZE + self.attributes.len() as u64 + self.tail
    }

    fn nid(&self) -> u64 {
        self.at / SLOT
    }
}

impl<'a> Plan<'a> {
    fn of(tree: &'a Tree) -> io::Result<Self> {
        let mut parts = in_order(tree);
        let mut end = SUPER_OFFSET + SUPER_SIZE;
        for part in &mut parts {
            end = end.next_multiple_of(SLOT);
            // A tail must not cross a block's end; nothing else does then either.
            if end % BLOCK + part.len() > BLOCK {
                end = end.next_multiple_of(BLOCK);
            }
            part.at = end;
            end += part.len();
        }
        let mut block = end.div_ceil(BLOCK);
        for part in &mut parts {
            if !matches!(tree.nodes[part.node].content, Content::File(_)) {
                part.block = block;
                block += (part.size - part.tail).div_ceil(BLOCK);
            }
        }
        let head_blocks = block;
        let (data, shared) = place_files(tree, &mut parts, &mut block)?;
        if u32::try_from(block).is_err() {
            return Err(io::Error::other("more than 16 TiB of files"));
        }
        let mut head = vec![0; (head_blocks * BLOCK) as usize];
        write_inodes(tree, &parts, &mut head);
        let summary = Summary {
            len: block * BLOCK,
            inodes: parts.len() as u64,
            shared,
        };
        write_super_block(&mut head, &parts, summary);
        Ok(Self {
            head,
            data,
            summary,
        })
    }
}

/// The tree's nodes, each once, a folder before what it holds.
fn in_order(tree: &Tree) -> Vec<Part> {
    let mut seen = vec![false; tree.nodes.len()];
    let mut parts = Vec::with_capacity(tree.nodes.len());
    let mut waiting = vec![(0, 0)];
    while let Some((node, parent)) = waiting.pop() {
        if core::mem::replace(&mut seen[node], true) {
            continue;
        }
        parts.push(part(&tree.nodes[node], node, parent));
        if let Content::Directory(children) = &tree.nodes[node].content {
            waiting.extend(children.values().rev().map(|&child| (child, node)));
        }
    }
    parts
}

fn part(of: &Node, node: usize, parent: usize) -> Part {
    let attributes = attributes(of);
    let room = BLOCK.saturating_sub(EXTENDED_SIZE + attributes.len() as u64);
    let mut blocks = Vec::new();
    let (size, last) = match &of.content {
        Content::File(source) => (source.len(), 0),
        Content::Special(..) => (0, 0),
        Content::Symlink(target) => (target.len() as u64, target.len() as u64),
        Content::Directory(children) => {
            let mut names: Vec<(Vec<u8>, usize)> = children
                .iter()
                .map(|(name, &child)| (name.clone(), child))
                .collect();
            names.push((b".".to_vec(), node));
            names.push((b"..".to_vec(), parent));
            names.sort_unstable();
            blocks = into_blocks(names);
            let last = blocks.last().map_or(0, |block| bytes_of(block));
            let full = (blocks.len() as u64).saturating_sub(1) * BLOCK;
            (full + last, last)
        }
    };
    Part {
        node,
        attributes,
        blocks,
        size,
        tail: if last <= room { last } else { 0 },
        at: 0,
        block: 0,
    }
}

fn bytes_of(block: &[(Vec<u8>, usize)]) -> u64 {
    block
        .iter()
        .map(|(name, _)| (name.len() + ENTRY) as u64)
        .sum()
}

/// Divides a folder's names into blocks.
fn into_blocks(names: Vec<(Vec<u8>, usize)>) -> Vec<Vec<(Vec<u8>, usize)>> {
    let mut blocks = vec![Vec::new()];
    let mut used = 0;
    for entry in names {
        let len = (entry.0.len() + ENTRY) as u64;
        if used + len > BLOCK {
            blocks.push(Vec::new());
            used = 0;
        }
        used += len;
        if let Some(block) = blocks.last_mut() {
            block.push(entry);
        }
    }
    blocks
}

/// The extended attributes of a node as they stand behind its inode; those with a prefix that the format has no number
/// for are left out.
fn attributes(node: &Node) -> Vec<u8> {
    const PREFIXES: [(u8, &[u8]); 6] = [
        (2, b"system.posix_acl_access"),
        (3, b"system.posix_acl_default"),
        (1, b"user."),
        (4, b"trusted."),
        (5, b"lustre."),
        (6, b"security."),
    ];
    let mut bytes = Vec::new();
    for (name, value) in &node.meta.attributes {
        let known = PREFIXES
            .iter()
            .find_map(|(number, prefix)| Some((*number, name.strip_prefix(*prefix)?)));
        let Some((number, suffix)) = known else {
            continue;
        };
        let (Ok(name_len), Ok(value_len)) =
            (u8::try_from(suffix.len()), u16::try_from(value.len()))
        else {
            continue;
        };
        if bytes.is_empty() {
            bytes.resize(12, 0);
        }
        bytes.extend([name_len, number]);
        bytes.extend(value_len.to_le_bytes());
        bytes.extend(suffix);
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// Gives each file its blocks; equal files get the same. Returns whose content goes where, in order, and the bytes saved.
fn place_files<'a>(
    tree: &'a Tree,
    parts: &mut [Part],
    block: &mut u64,
) -> io::Result<(Vec<(&'a Source, u64)>, u64)> {
    let mut sizes: HashMap<u64, u32> = HashMap::new();
    for part in parts.iter().filter(|part| part.blocks.is_empty()) {
        *sizes.entry(part.size).or_default() += 1;
    }
    let mut known: HashMap<(u64, u64), (&Source, u64)> = HashMap::new();
    let mut data = Vec::new();
    let mut shared = 0;
    for part in parts {
        let Content::File(source) = &tree.nodes[part.node].content else {
            continue;
        };
        if part.size == 0 {
            continue;
        }
        let blocks = part.size.div_ceil(BLOCK);
        // A size that no other file has: not worth reading.
        if sizes.get(&part.size).is_some_and(|&count| count > 1) {
            let digest = digest(source)?;
            if let Some((other, at)) = known.get(&(part.size, digest))
                && equal(source, other)?
            {
                part.block = *at;
                shared += blocks * BLOCK;
                continue;
            }
            known.insert((part.size, digest), (source, *block));
        }
        part.block = *block;
        data.push((source, *block));
        *block += blocks;
    }
    Ok((data, shared))
}

fn write_inodes(tree: &Tree, parts: &[Part], head: &mut [u8]) {
    let mut nids = vec![0; tree.nodes.len()];
    for part in parts {
        nids[part.node] = part.nid();
    }
    for (index, part) in parts.iter().enumerate() {
        let node = &tree.nodes[part.node];
        let kind = node.content.kind();
        let links = match &node.content {
            Content::Directory(children) => {
                let folder = |&&child: &&usize| tree.nodes[child].content.kind() == Kind::Directory;
                2 + children.values().filter(folder).count() as u32
            }
            _ => node.names,
        };
        let address = match node.content {
            Content::Special(_, device) => device,
            _ if part.size == part.tail => 0,
            _ => part.block as u32,
        };
        let icount = match part.attributes.len() {
            0 => 0,
            len => (len - 12) / 4 + 1,
        };
        let mut bytes = Vec::with_capacity(part.len() as usize);
        bytes.extend((part.layout() << 1 | 1).to_le_bytes());
        bytes.extend((icount as u16).to_le_bytes());
        bytes.extend((node.meta.mode & 0xfff | kind.mode()).to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(part.size.to_le_bytes());
        bytes.extend(address.to_le_bytes());
        bytes.extend((index as u32 + 1).to_le_bytes());
        bytes.extend(node.meta.uid.to_le_bytes());
        bytes.extend(node.meta.gid.to_le_bytes());
        bytes.extend(node.meta.modified.seconds.to_le_bytes());
        bytes.extend(node.meta.modified.nanos.to_le_bytes());
        bytes.extend(links.to_le_bytes());
        bytes.extend([0; 16]);
        bytes.extend(&part.attributes);
        let content = match &node.content {
            Content::Symlink(target) => target.clone(),
            Content::Directory(_) => folder(tree, part, &nids),
            _ => Vec::new(),
        };
        let (body, tail) = content.split_at(content.len() - part.tail as usize);
        bytes.extend(tail);
        put(head, part.at, &bytes);
        put(head, part.block * BLOCK, body);
    }
}

/// The content of a folder.
fn folder(tree: &Tree, part: &Part, nids: &[u64]) -> Vec<u8> {
    let mut content = Vec::with_capacity(part.size as usize);
    for block in &part.blocks {
        content.resize(content.len().next_multiple_of(BLOCK as usize), 0);
        let mut at = block.len() * ENTRY;
        for (name, node) in block {
            content.extend(nids[*node].to_le_bytes());
            content.extend((at as u16).to_le_bytes());
            content.push(tree.nodes[*node].content.kind().entry_type());
            content.push(0);
            at += name.len();
        }
        for (name, _) in block {
            content.extend(name);
        }
    }
    content
}

fn write_super_block(head: &mut [u8], parts: &[Part], summary: Summary) {
    let root = parts.first().map_or(0, Part::nid);
    let mut bytes = Vec::with_capacity(SUPER_SIZE as usize);
    bytes.extend(MAGIC.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(COMPAT.to_le_bytes());
    bytes.extend([BLOCK_BITS, 0]);
    bytes.extend((root as u16).to_le_bytes());
    bytes.extend(summary.inodes.to_le_bytes());
    // Time of compact inodes: there are none.
    bytes.extend([0; 12]);
    bytes.extend(((summary.len / BLOCK) as u32).to_le_bytes());
    bytes.resize(SUPER_SIZE as usize, 0);
    put(head, SUPER_OFFSET, &bytes);
    let checksum = crc32c(&head[SUPER_OFFSET as usize..BLOCK as usize]);
    put(head, SUPER_OFFSET + 4, &checksum.to_le_bytes());
}

fn put(head: &mut [u8], at: u64, bytes: &[u8]) {
    let at = at as usize;
    if !bytes.is_empty() {
        head[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// CRC-32C without the final inversion, as the format wants it.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg())
        })
    })
}

fn open(path: &Path) -> io::Result<File> {
    File::open(path).map_err(|error| naming(path, &error))
}

fn naming(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn changed(path: &Path) -> io::Error {
    io::Error::other(format!("{}: changed while it was read", path.display()))
}

/// Adds the content, filled up to a block's end.
fn append(source: &Source, to: &mut Vec<u8>) -> io::Result<()> {
    let start = to.len();
    match source {
        Source::Bytes(bytes) => to.extend_from_slice(bytes),
        Source::File(path, len) => {
            open(path)?
                .take(*len)
                .read_to_end(to)
                .map_err(|error| naming(path, &error))?;
            if (to.len() - start) as u64 != *len {
                return Err(changed(path));
            }
        }
    }
    let len = to.len() - start;
    to.resize(start + len.next_multiple_of(BLOCK as usize), 0);
    Ok(())
}

/// The pieces of a file's content that are not all zeroes, with their offsets.
fn pieces(source: &Source) -> io::Result<Box<dyn Iterator<Item = io::Result<sparse::Piece>> + '_>> {
    Ok(match source {
        Source::Bytes(bytes) => Box::new(sparse::of_bytes(bytes).map(Ok)),
        Source::File(path, len) => Box::new(sparse::Pieces::new(open(path)?, *len)),
    })
}

/// A digest that equal files share; others might.
fn digest(source: &Source) -> io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    for piece in pieces(source)? {
        let (at, bytes) = piece?;
        hasher.write_u64(at);
        hasher.write(&bytes);
    }
    Ok(hasher.finish())
}

/// Whether two files of the same length are equal.
fn equal(a: &Source, b: &Source) -> io::Result<bool> {
    let (mut a, mut b) = (pieces(a)?, pieces(b)?);
    loop {
        match (a.next().transpose()?, b.next().transpose()?) {
            (None, None) => return Ok(true),
            (of_a, of_b) if of_a == of_b => {}
            _ => return Ok(false),
        }
    }
}

/// Copies the first `len` bytes of a file to where `out` stands, without writing anything where it has holes. `out` stands
/// behind them then, and may end before.
fn copy(path: &Path, len: u64, out: &mut File) -> io::Result<()> {
    let mut from = open(path)?;
    let start = out.stream_position()?;
    let mut at = 0;
    while let Some(data) = sparse::data(&from, at, len).map_err(|error| naming(path, &error))? {
        from.seek(SeekFrom::Start(data.start))?;
        out.seek(SeekFrom::Start(start + data.start))?;
        let wanted = data.end - data.start;
        // The kernel copies, or shares the blocks.
        if io::copy(&mut Read::by_ref(&mut from).take(wanted), out)? != wanted {
            return Err(changed(path));
        }
        at = data.end;
    }
    // What was cut off looks like a hole.
    if from.metadata()?.len() < len {
        return Err(changed(path));
    }
    out.seek(SeekFrom::Start(start + len)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }
}
