//! The tree below: inodes of an EROFS image.

use kiln_fs::erofs::{self, Error};

use crate::Errno;
use crate::fs::{Kind, Time};

/// What a program is told of an image that contradicts itself.
pub(super) fn damaged(error: Error) -> Errno {
    match error {
        Error::NotADirectory => Errno::ENOTDIR,
        Error::Unsupported(_) => Errno::EOPNOTSUPP,
        Error::NotErofs | Error::Damaged(_) => Errno::EUCLEAN,
    }
}

pub(super) fn kind(of: erofs::Kind) -> Kind {
    match of {
        erofs::Kind::File => Kind::Regular,
        erofs::Kind::Directory => Kind::Directory,
        erofs::Kind::Symlink => Kind::Link,
        erofs::Kind::CharDevice => Kind::Character,
        erofs::Kind::BlockDevice => Kind::Block,
        erofs::Kind::Fifo => Kind::Fifo,
        erofs::Kind::Socket => Kind::Socket,
    }
}

pub(super) fn time(of: erofs::Stamp) -> Time {
    let seconds = u64::try_from(of.seconds).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::from(of.nanos))
}
