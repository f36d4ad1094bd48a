//! Writing an instance's log.
//!
//! The log is what the guest wrote, in pieces as they came out of the pipe, each behind a short header that tells when:
//!
//! ```text
//! 1740830400123456789 14\n        nanoseconds since 1970, bytes that follow
//! hello, world!\n
//! ```
//!
//! It is bounded: when the present file ([`FILE`]) would grow past [`MAX_FILE`], it becomes the older one ([`OLDER`]),
//! which is replaced. So a guest that floods its console costs its instance 10 MiB and no more, and the last 5 MiB at
//! least are there to be read. Writing a piece is one system call.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::clock::WallTime;

/// The present file.
pub const FILE: &str = "console.log";
/// The one before it.
pub const OLDER: &str = "console.log.1";
/// The next one, for a moment.
const NEXT: &str = "console.log.next";
/// The most bytes of one file.
pub const MAX_FILE: u64 = 5 << 20;
/// The most bytes of one piece; longer ones are split.
pub const MAX_PIECE: usize = 64 << 10;

/// The writing end of a log. One process writes an instance's log: its supervisor.
#[derive(Debug)]
pub struct Log {
    file: OwnedFd,
    size: u64,
    max_file: u64,
}

impl Log {
    /// Makes an empty log in folder `dir`.
    ///
    /// # Errors
    /// The host's.
    pub fn create(dir: impl AsFd) -> rustix::io::Result<Self> {
        Self::with_limit(dir, MAX_FILE)
    }

    fn with_limit(dir: impl AsFd, max_file: u64) -> rustix::io::Result<Self> {
        Ok(Self {
            file: create(dir, FILE)?,
            size: 0,
            max_file,
        })
    }

    /// Appends what the guest wrote.
    ///
    /// # Errors
    /// The host's. Of a piece that does not fit on a full disk a part may have been written; readers leave it out.
    pub fn write(&mut self, dir: impl AsFd, time: WallTime, text: &[u8]) -> rustix::io::Result<()> {
        for piece in text.chunks(MAX_PIECE) {
            let header = format!("{} {}\n", time.0, piece.len());
            let len = (header.len() + piece.len()) as u64;
            if self.size + len > self.max_file && self.size > 0 {
                self.rotate(&dir)?;
            }
            let slices = [IoSlice::new(header.as_bytes()), IoSlice::new(piece)];
            let written =
                rustix::io::retry_on_intr(|| rustix::io::writev(&self.file, &slices))? as u64;
            if written != len {
                // A torn piece would make what follows it unreadable: take it back.
                rustix::fs::ftruncate(&self.file, self.size)?;
                return Err(Errno::NOSPC);
            }
            self.size += len;
        }
        Ok(())
    }

    fn rotate(&mut self, dir: impl AsFd) -> rustix::io::Result<()> {
        // Whatever fails, the present file stays in use, and the next piece tries again.
        let next = create(&dir, NEXT)?;
        match rustix::fs::renameat(&dir, FILE, &dir, OLDER) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        rustix::fs::renameat(&dir, NEXT, &dir, FILE)?;
        self.file = next;
        self.size = 0;
        Ok(())
    }
}

fn create(dir: impl AsFd, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::TRUNC | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::read::{Line, Reader};
    use crate::registry::testing::TempDir;

    fn lines(dir: &TempDir) -> Vec<String> {
        let mut reader = Reader::open(dir.path()).unwrap();
        let mut lines = Vec::new();
        while let Some(Line { text, .. }) = reader.next_line().unwrap() {
            lines.push(String::from_utf8(text).unwrap());
        }
        lines
    }

    #[test]
    fn what_was_written_is_read_back_in_lines() {
        let dir = TempDir::new();
        let folder = std::fs::File::open(dir.path()).unwrap();
        let mut log = Log::create(&folder).unwrap();
        log.write(&folder, WallTime(1), b"one\ntw").unwrap();
        log.write(&folder, WallTime(2), b"o\n\nlast").unwrap();
        assert_eq!(lines(&dir), ["one\n", "two\n", "\n", "last"]);
    }

    #[test]
    fn a_flood_keeps_the_last_two_files() {
        let dir = TempDir::new();
        let folder = std::fs::File::open(dir.path()).unwrap();
        let mut log = Log::with_limit(&folder, 1000).unwrap();
        for number in 0..500 {
            let line = format!("line {number}\n");
            log.write(&folder, WallTime(number), line.as_bytes())
                .unwrap();
        }
        let kept = lines(&dir);
        assert_eq!(kept.last().unwrap(), "line 499\n");
        assert!(kept.len() > 30 && kept.len() < 200, "{} lines", kept.len());
        let size: u64 = [FILE, OLDER]
            .iter()
            .map(|file| dir.path().join(file).metadata().unwrap().len())
            .sum();
        assert!(size <= 2000);
    }

    #[test]
    fn a_log_that_could_not_be_rotated_goes_on_when_it_can() {
        let dir = TempDir::new();
        let folder = std::fs::File::open(dir.path()).unwrap();
        let mut log = Log::with_limit(&folder, 100).unwrap();
        let obstacle = dir.path().join(NEXT);
        std::fs::create_dir(&obstacle).unwrap();
        let piece = [b'\n'; 60];
        log.write(&folder, WallTime(1), &piece).unwrap();
        assert!(log.write(&folder, WallTime(2), &piece).is_err());
        std::fs::remove_dir(&obstacle).unwrap();
        log.write(&folder, WallTime(3), b"later").unwrap();
        assert_eq!(lines(&dir).last().unwrap(), "later");
    }

    #[test]
    fn long_pieces_are_split() {
        let dir = TempDir::new();
        let folder = std::fs::File::open(dir.path()).unwrap();
        let mut log = Log::create(&folder).unwrap();
        let text = vec![b'x'; MAX_PIECE * 2 + 7];
        log.write(&folder, WallTime(1), &text).unwrap();
        assert_eq!(lines(&dir).concat().len(), text.len());
    }
}
