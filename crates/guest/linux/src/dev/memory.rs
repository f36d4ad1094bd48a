//! `null(4)`, `full(4)`, `random(4)` and `/dev/kmsg`.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;

use super::tree;
use crate::fs::{File, Kind, Mapped, Metadata, OpenFile, OpenFlags};
use crate::io::{Sink, Source};
use crate::platform;
use crate::process::Thread;
use crate::user::UserAddr;
use crate::{Errno, Result};

/// `RNDGETENTCNT`
const RNDGETENTCNT: u32 = 0x8004_5200;

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Takes everything, gives nothing.
    Null,
    /// Gives zeroes.
    Zero,
    /// Gives zeroes, takes nothing.
    Full,
    /// Gives random bytes.
    Random(u64),
    /// Takes messages to the log, which is the console's error stream.
    Log,
}

impl Memory {
    /// By its device number.
    pub fn by_number(rdev: u64) -> Option<Self> {
        Some(match rdev {
            tree::NULL => Self::Null,
            tree::ZERO => Self::Zero,
            tree::FULL => Self::Full,
            tree::RANDOM | tree::URANDOM => Self::Random(rdev),
            tree::KMSG => Self::Log,
            _ => return None,
        })
    }

    fn rdev(self) -> u64 {
        match self {
            Self::Null => tree::NULL,
            Self::Zero => tree::ZERO,
            Self::Full => tree::FULL,
            Self::Random(rdev) => rdev,
            Self::Log => tree::KMSG,
        }
    }

    fn give(self, to: &mut Sink) -> Result<usize> {
        match self {
            Self::Null => Ok(0),
            Self::Zero | Self::Full => to.put_zeros(to.remaining()),
            Self::Random(_) => {
                let mut done = 0;
                while to.remaining() > 0 {
                    let mut piece = [0; 256];
                    let len = to.remaining().min(piece.len());
                    platform::random(&mut piece[..len]);
                    let put = match to.put(&piece[..len]) {
                        Err(error) if done == 0 => return Err(error),
                        other => other.unwrap_or(0),
                    };
                    if put == 0 {
                        break;
                    }
                    done += put;
                }
                Ok(done)
            }
            Self::Log => Err(Errno::EAGAIN),
        }
    }

    fn accept(self, from: &mut Source) -> Result<usize> {
        match self {
            // What is written is not even looked at.
            Self::Null | Self::Zero | Self::Random(_) => Ok(from.skip_all()),
            Self::Full => Err(Errno::ENOSPC),
            Self::Log => {
                let mut line = [0; 1024];
                let len = from.take(&mut line)?;
                platform::console_write_all(platform::Stream::Error, &line[..len]);
                Ok(len)
            }
        }
    }
}

impl File for Memory {
    fn read(&self, _thread: &Rc<Thread>, _open: &OpenFile, to: &mut Sink) -> Result<usize> {
        self.give(to)
    }

    fn write(&self, _thread: &Rc<Thread>, _open: &OpenFile, from: &mut Source) -> Result<usize> {
        self.accept(from)
    }

    fn read_at(&self, _thread: &Rc<Thread>, _offset: u64, to: &mut Sink) -> Result<usize> {
        self.give(to)
    }

    fn write_at(&self, _thread: &Rc<Thread>, _offset: u64, from: &mut Source) -> Result<usize> {
        self.accept(from)
    }

    fn seek(&self, _open: &OpenFile, _offset: i64, _whence: u32) -> Result<u64> {
        Ok(0)
    }

    fn ioctl(
        &self,
        _thread: &Rc<Thread>,
        _open: &OpenFile,
        request: u32,
        argument: u64,
    ) -> Result<u64> {
        match (self, request) {
            (Self::Random(_), RNDGETENTCNT) => {
                UserAddr(argument).write(256_i32)?;
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(Metadata {
            rdev: self.rdev(),
            mode: 0o666,
            ..crate::event::anonymous_metadata(Kind::Character, self.rdev())
        })
    }

    fn map(&self, _shared: bool) -> Result<Mapped> {
        match self {
            Self::Zero => Ok(Mapped::Zero),
            _ => Err(Errno::ENODEV),
        }
    }

    fn reopen(&self, _thread: &Rc<Thread>, _flags: OpenFlags) -> Result<Rc<dyn File>> {
        Ok(Rc::new(*self))
    }

    fn describe(&self) -> Vec<u8> {
        match self {
            Self::Null => &b"/dev/null"[..],
            Self::Zero => b"/dev/zero",
            Self::Full => b"/dev/full",
            Self::Random(tree::RANDOM) => b"/dev/random",
            Self::Random(_) => b"/dev/urandom",
            Self::Log => b"/dev/kmsg",
        }
        .to_vec()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::testing;

    #[test]
    fn they_are_bottomless() {
        let thread = testing::thread();
        let open = |rdev| {
            let file = super::super::open_device(&thread, Kind::Character, rdev, OpenFlags::RDWR);
            OpenFile::new(file.expect("a device"), OpenFlags::RDWR)
        };
        let read = |rdev| {
            let open = open(rdev);
            let mut to = [7; 300];
            let got = open.file.read(&thread, &open, &mut Sink::kernel(&mut to));
            (got, to)
        };
        let write = |rdev| {
            let open = open(rdev);
            open.file
                .write(&thread, &open, &mut Source::kernel(&[1; 10]))
        };
        assert_eq!(read(tree::NULL).0, Ok(0));
        assert_eq!(read(tree::ZERO), (Ok(300), [0; 300]));
        let (got, bytes) = read(tree::URANDOM);
        assert_eq!(got, Ok(300));
        assert_ne!(bytes[..8], [7; 8]);
        assert_eq!(write(tree::NULL), Ok(10));
        assert_eq!(write(tree::FULL), Err(Errno::ENOSPC));
        let none = super::super::open_device(&thread, Kind::Block, 0, OpenFlags::empty());
        assert_eq!(none.err(), Some(Errno::ENXIO));
    }
}
