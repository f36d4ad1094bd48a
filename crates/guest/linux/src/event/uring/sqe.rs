//! Submission entries: `struct io_uring_sqe`.

use super::memory::Region;

/// Operations by their numbers (`io_uring_enter(2)`).
#[allow(missing_docs, reason = "the names are Linux's")]
pub mod op {
    pub const NOP: u8 = 0;
    pub const READV: u8 = 1;
    pub const WRITEV: u8 = 2;
    pub const FSYNC: u8 = 3;
    pub const READ_FIXED: u8 = 4;
    pub const WRITE_FIXED: u8 = 5;
    pub const POLL_ADD: u8 = 6;
    pub const POLL_REMOVE: u8 = 7;
    pub const SYNC_FILE_RANGE: u8 = 8;
    pub const SENDMSG: u8 = 9;
    pub const RECVMSG: u8 = 10;
    pub const TIMEOUT: u8 = 11;
    pub const TIMEOUT_REMOVE: u8 = 12;
    pub const ACCEPT: u8 = 13;
    pub const ASYNC_CANCEL: u8 = 14;
    pub const LINK_TIMEOUT: u8 = 15;
    pub const CONNECT: u8 = 16;
    pub const FALLOCATE: u8 = 17;
    pub const OPENAT: u8 = 18;
    pub const CLOSE: u8 = 19;
    pub const FILES_UPDATE: u8 = 20;
    pub const STATX: u8 = 21;
    pub const READ: u8 = 22;
    pub const WRITE: u8 = 23;
    pub const FADVISE: u8 = 24;
    pub const MADVISE: u8 = 25;
    pub const SEND: u8 = 26;
    pub const RECV: u8 = 27;
    pub const OPENAT2: u8 = 28;
    pub const EPOLL_CTL: u8 = 29;
    pub const SPLICE: u8 = 30;
    pub const PROVIDE_BUFFERS: u8 = 31;
    pub const REMOVE_BUFFERS: u8 = 32;
    pub const TEE: u8 = 33;
    pub const SHUTDOWN: u8 = 34;
    pub const RENAMEAT: u8 = 35;
    pub const UNLINKAT: u8 = 36;
    pub const MKDIRAT: u8 = 37;
    pub const SYMLINKAT: u8 = 38;
    pub const LINKAT: u8 = 39;
    pub const MSG_RING: u8 = 40;
    pub const FSETXATTR: u8 = 41;
    pub const SETXATTR: u8 = 42;
    pub const FGETXATTR: u8 = 43;
    pub const GETXATTR: u8 = 44;
    pub const SOCKET: u8 = 45;
    /// Behind the last one.
    pub const END: u8 = 46;

    /// True if it is implemented.
    pub const fn is_known(op: u8) -> bool {
        op < END
    }
}

bitflags::bitflags! {
    /// `IOSQE_*`
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Flags: u8 {
        /// The descriptor is one of the registered files.
        const FIXED_FILE = 1;
        /// It starts when all before it have ended.
        const DRAIN = 2;
        /// The next one starts when it has succeeded.
        const LINK = 4;
        /// The next one starts when it has ended.
        const HARDLINK = 8;
        /// It may as well be done by others.
        const ASYNC = 0x10;
        /// A buffer is chosen by the kernel.
        const BUFFER_SELECT = 0x20;
        /// Success is not worth an entry.
        const SKIP_SUCCESS = 0x40;
    }
}

/// An entry.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "the names are those of the record")]
pub struct Sqe {
    pub opcode: u8,
    pub flags: Flags,
    pub unknown_flags: bool,
    pub ioprio: u16,
    pub fd: i32,
    pub off: u64,
    pub addr: u64,
    pub len: u32,
    pub op_flags: u32,
    pub user_data: u64,
    pub buf_index: u16,
    pub personality: u16,
    pub file_index: u32,
    pub addr3: u64,
}

impl Sqe {
    /// The entry at an offset of the region.
    pub(super) fn read(region: &Region, at: usize) -> Self {
        let word = |index: usize| region.word(at + index * 4);
        let long = |index: usize| u64::from(word(index)) | (u64::from(word(index + 1)) << 32);
        let first = word(0).to_ne_bytes();
        let buffer = word(10);
        Self {
            opcode: first[0],
            flags: Flags::from_bits_truncate(first[1]),
            unknown_flags: Flags::from_bits(first[1]).is_none(),
            ioprio: u16::from_ne_bytes([first[2], first[3]]),
            fd: word(1).cast_signed(),
            off: long(2),
            addr: long(4),
            len: word(6),
            op_flags: word(7),
            user_data: long(8),
            buf_index: buffer as u16,
            personality: (buffer >> 16) as u16,
            file_index: word(11),
            addr3: long(12),
        }
    }

    /// True if the next entry belongs to it.
    pub fn is_linked(&self) -> bool {
        self.flags.intersects(Flags::LINK | Flags::HARDLINK)
    }
}
