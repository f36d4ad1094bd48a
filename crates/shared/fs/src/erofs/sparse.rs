//! Files with holes: where their data are, so that nobody reads or writes what is not there.

use alloc::vec;
use alloc::vec::Vec;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use rustix::fs::{SeekFrom as Part, seek};
use rustix::io::Errno;

/// Bytes that are looked at together.
const PIECE: usize = 64 << 10;

/// The next bytes of a file that are data, from `from` on and before `end`; `None` if only a hole follows. A file system
/// that knows of no holes says that all is data.
///
/// # Errors
/// As of `lseek(2)`.
pub(super) fn data(file: &File, from: u64, end: u64) -> io::Result<Option<Range<u64>>> {
    if from >= end {
        return Ok(None);
    }
    let start = match seek(file, Part::Data(from)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(from..end)),
        Err(error) => return Err(error.into()),
    };
    if start >= end {
        return Ok(None);
    }
    let hole = seek(file, Part::Hole(start)).map_or(end, |hole| hole.min(end));
    Ok(Some(start..hole))
}

/// An offset and what stands there.
pub(super) type Piece = (u64, Vec<u8>);

/// The pieces of a file's first bytes that are not all zeroes. They are the same for a file with holes and for one with
/// zeroes in their place. Ends behind the first error.
pub(super) struct Pieces {
    file: File,
    at: u64,
    len: u64,
    /// Data are known to reach as far.
    data: u64,
}

impl Pieces {
    /// Of the first `len` bytes. A file that is shorter has less of them.
    pub fn new(file: File, len: u64) -> Self {
        Self {
            file,
            at: 0,
            len,
            data: 0,
        }
    }

    fn step(&mut self) -> io::Result<Option<Piece>> {
        let piece = PIECE as u64;
        loop {
            if self.at >= self.data {
                let Some(data) = data(&self.file, self.at, self.len)? else {
                    return Ok(None);
                };
                self.at = data.start / piece * piece;
                self.data = data.end;
            }
            let at = self.at;
            let mut bytes = vec![0; piece.min(self.len - at) as usize];
            self.at += bytes.len() as u64;
            self.file.seek(SeekFrom::Start(at))?;
            let read = fill(&mut self.file, &mut bytes)?;
            bytes.truncate(read);
            if bytes.iter().any(|&byte| byte != 0) {
                return Ok(Some((at, bytes)));
            }
        }
    }
}

impl Iterator for Pieces {
    type Item = io::Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.at = self.len;
        }
        step.transpose()
    }
}

/// The same of bytes in memory.
pub(super) fn of_bytes(bytes: &[u8]) -> impl Iterator<Item = Piece> {
    bytes
        .chunks(PIECE)
        .enumerate()
        .filter(|(_, bytes)| bytes.iter().any(|&byte| byte != 0))
        .map(|(index, bytes)| ((index * PIECE) as u64, bytes.to_vec()))
}

/// Reads until the buffer is full or the end is reached.
fn fill(from: &mut File, to: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < to.len() {
        match from.read(&mut to[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}
