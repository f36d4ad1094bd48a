//! Reading an instance's log, of a running one or one that has ended.
//!
//! A [`Reader`] gives lines with the time at which each began. It copes with everything that a log in use can look like:
//! a piece that is just being written, files that are rotated while they are read, and none at all.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::log::{FILE, MAX_PIECE, OLDER};
use crate::clock::WallTime;

/// A line longer than this is given in parts, so that a guest that never ends one costs no more memory.
const MAX_LINE: usize = 1 << 20;

/// Part of an instance's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When the first byte of it came.
    pub time: WallTime,
    /// The bytes, with the newline unless the output stops without one.
    pub text: Vec<u8>,
}

/// Reads a log from its beginning.
#[derive(Debug)]
pub struct Reader {
    folder: PathBuf,
    file: Option<File>,
    /// Bytes of the file that were read and not yet understood.
    pending: Vec<u8>,
    /// Where in `pending` the next header starts.
    at: usize,
    /// The present piece: its time, and how many bytes of it are still to come.
    piece: (WallTime, usize),
    /// The line that is being put together.
    line: Option<Line>,
}

impl Reader {
    /// Opens the log in an instance's folder.
    ///
    /// # Errors
    /// The host's, but none for a log that does not exist yet.
    pub fn open(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        let file = match open(&folder.join(OLDER))? {
            Some(file) => Some(file),
            None => open(&folder.join(FILE))?,
        };
        Ok(Self {
            folder,
            file,
            pending: Vec::new(),
            at: 0,
            piece: (WallTime(0), 0),
            line: None,
        })
    }

    /// The next line; `None` at the present end of the log. What stands there without a newline is given as a line of
    /// its own, so that a prompt shows.
    ///
    /// # Errors
    /// The host's.
    pub fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.take_line() {
                return Ok(Some(line));
            }
            if !self.fill()? {
                return Ok(self.line.take());
            }
        }
    }

    /// A whole line out of what was read already.
    fn take_line(&mut self) -> Option<Line> {
        loop {
            if self.piece.1 == 0 {
                self.piece = self.header()?;
                continue;
            }
            let available = &self.pending[self.at..];
            let available = &available[..available.len().min(self.piece.1)];
            if available.is_empty() {
                return None;
            }
            let newline = available.iter().position(|&byte| byte == b'\n');
            let taken = newline.map_or(available.len(), |index| index + 1);
            let line = self.line.get_or_insert_with(|| Line {
                time: self.piece.0,
                text: Vec::new(),
            });
            line.text.extend_from_slice(&available[..taken]);
            self.at += taken;
            self.piece.1 -= taken;
            if newline.is_some() || line.text.len() >= MAX_LINE {
                return self.line.take();
            }
        }
    }

    /// Reads the header at the present place, if all of it is there. A file that makes no sense is given up.
    fn header(&mut self) -> Option<(WallTime, usize)> {
        let rest = &self.pending[self.at..];
        let end = rest.iter().take(64).position(|&byte| byte == b'\n');
        let parsed = end.and_then(|end| {
            let (time, len) = std::str::from_utf8(&rest[..end]).ok()?.split_once(' ')?;
            let len = len
                .parse()
                .ok()
                .filter(|len| (1..=MAX_PIECE).contains(len))?;
            Some((WallTime(time.parse().ok()?), len))
        });
        match (end, parsed) {
            (Some(end), Some(_)) => self.at += end + 1,
            (None, _) if rest.len() < 64 => {}
            _ => self.at = self.pending.len(),
        }
        parsed
    }

    /// Reads on, in the next file if this one is at its end. False if there is nothing more now.
    fn fill(&mut self) -> io::Result<bool> {
        self.pending.drain(..self.at);
        self.at = 0;
        let Some(file) = &mut self.file else {
            self.file = open(&self.folder.join(FILE))?;
            return Ok(self.file.is_some());
        };
        if read_some(file, &mut self.pending)? {
            return Ok(true);
        }
        let Some(next) = open(&self.folder.join(FILE))? else {
            return Ok(false);
        };
        let (ours, theirs) = (file.metadata()?, next.metadata()?);
        if (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()) {
            return Ok(false);
        }
        // The writer does not come back to a rotated file, but may have written between our read and the rotation.
        if read_some(file, &mut self.pending)? {
            return Ok(true);
        }
        self.pending.clear();
        self.piece.1 = 0;
        self.file = Some(next);
        Ok(true)
    }
}

/// The last `count` lines of a log.
///
/// # Errors
/// The host's.
pub fn tail(reader: &mut Reader, count: usize) -> io::Result<Vec<Line>> {
    let mut last = std::collections::VecDeque::new();
    while let Some(line) = reader.next_line()? {
        if last.len() == count {
            last.pop_front();
        }
        if count > 0 {
            last.push_back(line);
        }
    }
    Ok(last.into())
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_some(file: &mut File, into: &mut Vec<u8>) -> io::Result<bool> {
    Ok(file.take(MAX_PIECE as u64).read_to_end(into)? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::log::Log;
    use crate::registry::testing::TempDir;

    fn text(line: Option<Line>) -> Option<String> {
        line.map(|line| String::from_utf8(line.text).unwrap())
    }

    #[test]
    fn a_line_has_the_time_of_its_first_byte() {
        let dir = TempDir::new();
        let folder = File::open(dir.path()).unwrap();
        let mut log = Log::create(&folder).unwrap();
        log.write(&folder, WallTime(10), b"a").unwrap();
        log.write(&folder, WallTime(20), b"b\nc\n").unwrap();
        let mut reader = Reader::open(dir.path()).unwrap();
        let first = reader.next_line().unwrap().unwrap();
        assert_eq!(
            (first.time, first.text.as_slice()),
            (WallTime(10), &b"ab\n"[..])
        );
        assert_eq!(reader.next_line().unwrap().unwrap().time, WallTime(20));
    }

    #[test]
    fn following_gives_what_is_added_later() {
        let dir = TempDir::new();
        let folder = File::open(dir.path()).unwrap();
        let mut reader = Reader::open(dir.path()).unwrap();
        assert_eq!(reader.next_line().unwrap(), None);
        let mut log = Log::create(&folder).unwrap();
        log.write(&folder, WallTime(1), b"one\n").unwrap();
        assert_eq!(text(reader.next_line().unwrap()).unwrap(), "one\n");
        assert_eq!(reader.next_line().unwrap(), None);
        // What a rotation does, with output right before and after it.
        log.write(&folder, WallTime(2), b"two\n").unwrap();
        std::fs::rename(dir.path().join(FILE), dir.path().join(OLDER)).unwrap();
        let mut log = Log::create(&folder).unwrap();
        log.write(&folder, WallTime(3), b"three\n").unwrap();
        assert_eq!(text(reader.next_line().unwrap()).unwrap(), "two\n");
        assert_eq!(text(reader.next_line().unwrap()).unwrap(), "three\n");
        assert_eq!(reader.next_line().unwrap(), None);
    }

    #[test]
    fn a_piece_that_is_being_written_waits_for_its_rest() {
        let dir = TempDir::new();
        let path = dir.path().join(FILE);
        let whole = b"5 6\nhello\n";
        let mut reader = Reader::open(dir.path()).unwrap();
        let mut seen = String::new();
        for len in 1..=whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            seen.extend(text(reader.next_line().unwrap()));
        }
        assert_eq!(seen, "hello\n");
    }

    #[test]
    fn nonsense_ends_the_reading_of_a_file() {
        let dir = TempDir::new();
        for bytes in [&b"x y\nabc"[..], b"1 99999999999\nabc", &[b'9'; 200]] {
            std::fs::write(dir.path().join(FILE), bytes).unwrap();
            let mut reader = Reader::open(dir.path()).unwrap();
            assert_eq!(reader.next_line().unwrap(), None);
        }
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        let dir = TempDir::new();
        let folder = File::open(dir.path()).unwrap();
        let mut log = Log::create(&folder).unwrap();
        log.write(&folder, WallTime(1), b"1\n2\n3\n").unwrap();
        for (count, expected) in [(0, 0), (2, 2), (9, 3)] {
            let mut reader = Reader::open(dir.path()).unwrap();
            assert_eq!(tail(&mut reader, count).unwrap().len(), expected);
        }
    }
}
