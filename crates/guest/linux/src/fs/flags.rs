//! Flags of `open(2)`.

#![allow(missing_docs, reason = "the names are Linux's")]

bitflags::bitflags! {
    /// Flags of `open(2)`, with the access mode.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[allow(missing_docs, reason = "the names are Linux's")]
    pub struct OpenFlags: u32 {
        const WRONLY = 1;
        const RDWR = 2;
        const CREAT = 0o100;
        const EXCL = 0o200;
        const NOCTTY = 0o400;
        const TRUNC = 0o1000;
        const APPEND = 0o2000;
        const NONBLOCK = 0o4000;
        const DSYNC = 0o10000;
        const ASYNC = 0o20000;
        const DIRECT = 0o40000;
        const LARGEFILE = 0o100_000;
        const DIRECTORY = 0o200_000;
        const NOFOLLOW = 0o400_000;
        const NOATIME = 0o1_000_000;
        const CLOEXEC = 0o2_000_000;
        /// `O_SYNC` without `O_DSYNC`, which belongs to it.
        const SYNC = 0o4_000_000;
        const PATH = 0o10_000_000;
        const TMPFILE = 0o20_000_000;
    }
}

impl OpenFlags {
    /// May read.
    pub fn readable(self) -> bool {
        !self.contains(Self::WRONLY) && !self.contains(Self::PATH)
    }

    /// May write.
    pub fn writable(self) -> bool {
        self.intersects(Self::WRONLY | Self::RDWR) && !self.contains(Self::PATH)
    }
}

bitflags::bitflags! {
    /// How a path is walked.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Walk: u32 {
        /// A symbolic link at the end is followed.
        const FOLLOW = 1;
        /// An empty path is the folder (or whatever the descriptor is) itself: `AT_EMPTY_PATH`.
        const EMPTY = 2;
        /// `RESOLVE_NO_XDEV`
        const NO_XDEV = 4;
        /// `RESOLVE_NO_MAGICLINKS`
        const NO_MAGIC = 8;
        /// `RESOLVE_NO_SYMLINKS`
        const NO_LINKS = 0x10;
        /// `RESOLVE_BENEATH`
        const BENEATH = 0x20;
        /// `RESOLVE_IN_ROOT`
        const IN_ROOT = 0x40;
        /// The last name is made or taken away: a link there is not followed, not even before a slash.
        const LAST = 0x80;
        /// What is at the end will be opened for reading only.
        const READ = 0x100;
    }
}
