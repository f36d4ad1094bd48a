//! Where reads put their bytes and writes take theirs: buffers of the program (`struct iovec`) or of the library OS.

use alloc::vec::Vec;
use core::ops::{Deref, DerefMut, Range};

use crate::user::{PAGE, Plain, UserAddr};
use crate::{Errno, Result};

/// `struct iovec`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct IoVec {
    /// Address.
    pub base: u64,
    /// Bytes.
    pub len: u64,
}

// SAFETY: two words.
unsafe impl Plain for IoVec {}

/// `UIO_MAXIOV`.
pub const MAX_VECTORS: usize = 1024;

/// The most bytes of one call (`read(2)`, notes).
pub const MAX_TRANSFER: u64 = 0x7fff_f000;

#[derive(Debug)]
enum Place<'a> {
    /// Buffers of the program, and how far into the first of them.
    User(&'a [IoVec], u64),
    Sink(&'a mut [u8]),
    Source(&'a [u8]),
}

/// So many vectors need no memory of the heap.
const FEW_VECTORS: usize = 8;

/// Vectors that were read from the program.
#[derive(Debug)]
pub struct Vectors {
    few: [IoVec; FEW_VECTORS],
    count: usize,
    /// All of them if they are not few.
    many: Vec<IoVec>,
}

impl Deref for Vectors {
    type Target = [IoVec];

    fn deref(&self) -> &[IoVec] {
        self.few.get(..self.count).unwrap_or(&self.many)
    }
}

impl DerefMut for Vectors {
    fn deref_mut(&mut self) -> &mut [IoVec] {
        self.few.get_mut(..self.count).unwrap_or(&mut self.many)
    }
}

/// Reads `count` vectors from the program, cut to [`MAX_TRANSFER`] in all.
///
/// # Errors
/// `EINVAL` for more than [`MAX_VECTORS`] or lengths that are negative; `EFAULT`.
pub fn vectors(at: UserAddr, count: u64) -> Result<Vectors> {
    if count > MAX_VECTORS as u64 {
        return Err(Errno::EINVAL);
    }
    let mut all = Vectors {
        few: [IoVec::default(); FEW_VECTORS],
        count: count as usize,
        many: Vec::new(),
    };
    if all.count > FEW_VECTORS {
        all.many = at.read_array(all.count)?;
    } else {
        at.read_all(&mut all.few[..all.count])?;
    }
    let mut left = MAX_TRANSFER;
    for vector in all.iter_mut() {
        if vector.len > i64::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        vector.len = vector.len.min(left);
        left -= vector.len;
    }
    Ok(all)
}

/// Where a read puts bytes.
#[derive(Debug)]
pub struct Sink<'a> {
    place: Place<'a>,
    left: usize,
    done: usize,
    in_pages: bool,
}

impl<'a> Sink<'a> {
    /// Into the program's buffers.
    pub fn user(vectors: &'a [IoVec]) -> Self {
        Self {
            place: Place::User(vectors, 0),
            left: vectors.iter().map(|v| v.len as usize).sum(),
            done: 0,
            in_pages: false,
        }
    }

    /// Into a buffer of the library OS.
    pub fn kernel(buffer: &'a mut [u8]) -> Self {
        Self {
            left: buffer.len(),
            place: Place::Sink(buffer),
            done: 0,
            in_pages: false,
        }
    }

    /// From now on the program's buffers are filled up to the first page that is not there, as reads of regular files do.
    pub fn fill_pages(&mut self) {
        self.in_pages = true;
    }

    /// Bytes that still fit.
    pub fn remaining(&self) -> usize {
        self.left
    }

    /// Lets at most `most` further bytes be put for now; returns how many are kept back, for [`give_back`](Self::give_back).
    pub fn hold_back(&mut self, most: usize) -> usize {
        let kept = self.left.saturating_sub(most);
        self.left -= kept;
        kept
    }

    /// Ends what [`hold_back`](Self::hold_back) began.
    pub fn give_back(&mut self, kept: usize) {
        self.left += kept;
    }

    /// Bytes put so far.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Takes as many of `bytes` as fit, and returns their number.
    ///
    /// # Errors
    /// `EFAULT` if nothing could be put; after some, fewer are taken instead.
    pub fn put(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut from = &bytes[..bytes.len().min(self.left)];
        let before = self.done;
        while !from.is_empty() {
            let len = match &mut self.place {
                Place::User(vectors, into) => {
                    let (at, len) = piece(vectors, into, from.len());
                    match at.write_bytes(&from[..len]) {
                        Ok(()) => advance(into, len),
                        Err(error) => {
                            let part = if self.in_pages {
                                pages(at, len, |at, range| at.write_bytes(&from[range]))
                            } else {
                                0
                            };
                            advance(into, part);
                            self.done += part;
                            if self.done == before {
                                return Err(error);
                            }
                            self.left = 0;
                            break;
                        }
                    }
                    len
                }
                Place::Sink(buffer) => {
                    let (to, rest) = core::mem::take(buffer).split_at_mut(from.len());
                    to.copy_from_slice(from);
                    *buffer = rest;
                    from.len()
                }
                Place::Source(_) => return Err(Errno::EINVAL),
            };
            self.done += len;
            self.left -= len;
            from = &from[len..];
        }
        Ok(self.done - before)
    }

    /// Puts `count` zeroes, as far as they fit.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_zeros(&mut self, count: usize) -> Result<usize> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut left = count;
        while left > 0 {
            let put = self.put(&ZEROS[..left.min(ZEROS.len())])?;
            if put == 0 {
                break;
            }
            left -= put;
        }
        Ok(count - left)
    }
}

/// Where a write takes bytes from.
#[derive(Debug)]
pub struct Source<'a> {
    place: Place<'a>,
    left: usize,
    done: usize,
    keeps_ids: bool,
    in_pages: bool,
}

impl<'a> Source<'a> {
    /// From the program's buffers.
    pub fn user(vectors: &'a [IoVec]) -> Self {
        Self {
            place: Place::User(vectors, 0),
            left: vectors.iter().map(|v| v.len as usize).sum(),
            done: 0,
            keeps_ids: false,
            in_pages: false,
        }
    }

    /// From bytes of the library OS.
    pub fn kernel(bytes: &'a [u8]) -> Self {
        Self {
            left: bytes.len(),
            place: Place::Source(bytes),
            done: 0,
            keeps_ids: false,
            in_pages: false,
        }
    }

    /// From now on as much of the program's buffers is taken as is there up to a page that is not, as writes of regular files do.
    pub fn take_pages(&mut self) {
        self.in_pages = true;
    }

    /// Who writes may keep a file's set-user-ID and set-group-ID bits (`CAP_FSETID`).
    pub fn set_keeps_ids(&mut self, keeps: bool) {
        self.keeps_ids = keeps;
    }

    /// As [`set_keeps_ids`](Self::set_keeps_ids) has it.
    pub fn keeps_ids(&self) -> bool {
        self.keeps_ids
    }

    /// Lets at most `most` further bytes be taken.
    pub fn limit(&mut self, most: usize) {
        self.left = self.left.min(most);
    }

    /// Lets at most `most` further bytes be taken for now; returns how many are kept back, for [`give_back`](Self::give_back).
    pub fn hold_back(&mut self, most: usize) -> usize {
        let kept = self.left.saturating_sub(most);
        self.left -= kept;
        kept
    }

    /// Ends what [`hold_back`](Self::hold_back) began.
    pub fn give_back(&mut self, kept: usize) {
        self.left += kept;
    }

    /// Bytes not yet taken.
    pub fn remaining(&self) -> usize {
        self.left
    }

    /// Bytes taken so far.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Fills as much of `to` as there is, and returns how much.
    ///
    /// # Errors
    /// `EFAULT` if nothing could be taken; after some, fewer are taken instead.
    #[inline]
    pub fn take(&mut self, to: &mut [u8]) -> Result<usize> {
        let want = to.len().min(self.left);
        let mut to = &mut to[..want];
        let before = self.done;
        while !to.is_empty() {
            let len = match &mut self.place {
                Place::User(vectors, into) => {
                    let (at, len) = piece(vectors, into, to.len());
                    match at.read_bytes(&mut to[..len]) {
                        Ok(()) => advance(into, len),
                        Err(error) => {
                            let part = if self.in_pages {
                                pages(at, len, |at, range| at.read_bytes(&mut to[range]))
                            } else {
                                0
                            };
                            advance(into, part);
                            self.done += part;
                            if self.done == before {
                                return Err(error);
                            }
                            self.left = 0;
                            break;
                        }
                    }
                    len
                }
                Place::Source(bytes) => {
                    let (from, rest) = bytes.split_at(to.len());
                    to.copy_from_slice(from);
                    *bytes = rest;
                    to.len()
                }
                Place::Sink(_) => return Err(Errno::EINVAL),
            };
            self.done += len;
            self.left -= len;
            to = &mut to[len..];
        }
        Ok(self.done - before)
    }

    /// Appends at most `most` bytes to `to`, and returns how many.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn append(&mut self, to: &mut Vec<u8>, most: usize) -> Result<usize> {
        if let Place::Source(bytes) = &mut self.place {
            let (from, rest) = bytes.split_at(most.min(self.left));
            to.extend_from_slice(from);
            *bytes = rest;
            self.done += from.len();
            self.left -= from.len();
            return Ok(from.len());
        }
        let start = to.len();
        to.resize(start + most.min(self.left), 0);
        let taken = self.take(&mut to[start..]);
        to.truncate(start + *taken.as_ref().unwrap_or(&0));
        taken
    }

    /// Passes over everything that is left, without looking at it; returns how much that was.
    pub fn skip_all(&mut self) -> usize {
        self.done += self.left;
        core::mem::take(&mut self.left)
    }

    /// Everything that is left.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn take_all(&mut self) -> Result<Vec<u8>> {
        let mut all = alloc::vec![0; self.left];
        let len = self.take(&mut all)?;
        all.truncate(len);
        Ok(all)
    }
}

/// The next piece of the program's buffers, at most `most` bytes. There is one.
fn piece(vectors: &mut &[IoVec], into: &mut u64, most: usize) -> (UserAddr, usize) {
    while let Some(first) = vectors.first()
        && *into == first.len
    {
        *vectors = &vectors[1..];
        *into = 0;
    }
    let first = vectors.first().copied().unwrap_or_default();
    let len = ((first.len - *into) as usize).min(most);
    (UserAddr(first.base).add(*into), len)
}

/// Copies `len` bytes at an address of the program's page by page, up to the first that fails. Returns how many.
#[cold]
fn pages(
    at: UserAddr,
    len: usize,
    mut copy: impl FnMut(UserAddr, Range<usize>) -> Result,
) -> usize {
    let mut done = 0;
    while done < len {
        let at = at.add(done as u64);
        let rest = (PAGE - at.0 % PAGE) as usize;
        let end = len.min(done + rest);
        if copy(at, done..end).is_err() {
            break;
        }
        done = end;
    }
    done
}

fn advance(into: &mut u64, len: usize) {
    *into += len as u64;
}
