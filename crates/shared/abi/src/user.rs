//! What a guest asks for that runs a Linux program in its own address space.
//!
//! An image whose [`AbiNote`](crate::note::AbiNote) has the flag [`PROGRAM`](crate::note::AbiNote::PROGRAM) is a library OS that
//! runs somebody else's program. The monitor then places nothing in the *user range* from [`USER_START`] to [`USER_END`]: all of it
//! is the guest's to map, at addresses of its own choice, by [`UserOp`]s. The host pages it in as it is touched. It does not
//! count as guest memory: no buffer of an operation may lie there.
//!
//! The program's own system calls come to the guest too, see [`UserOp::SystemCalls`].

use crate::op::{OpError, RawOp, Segment, code};

/// First address of the user range.
pub const USER_START: u64 = 0x1_0000;
/// Behind the last one: as high as leaves room above for the library OS at random places, because there are programs that want fixed
/// addresses far up (sanitizers' allocators at `0x5000_0000_0000` and `0x6000_0000_0000`).
pub const USER_END: u64 = 0x7000_0000_0000;

/// What is mapped or protected by one operation may be out of the guest's reach for now if it is longer than this: an access faults
/// that the mapping allows. Protecting pages as they are, at most so many bytes of them, brings them into reach.
pub const LONG: u64 = 1 << 30;

/// What the program may do with pages: a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserAccess(u32);

impl UserAccess {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Reading (`PROT_READ`).
    pub const READ: Self = Self(1);
    /// Writing (`PROT_WRITE`).
    pub const WRITE: Self = Self(2);
    /// Executing (`PROT_EXEC`).
    pub const EXEC: Self = Self(4);

    /// The set with these bits; `None` if there are unknown ones.
    pub const fn from_bits(bits: u64) -> Option<Self> {
        if bits <= 7 {
            Some(Self(bits as u32))
        } else {
            None
        }
    }

    /// The bits.
    pub const fn bits(self) -> u64 {
        self.0 as u64
    }
}

/// What lies behind a mapping of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserBacking {
    /// Zeroes, made when they are touched.
    Zero,
    /// The root image ([`BootInfo::root`](crate::BootInfo::root)) from this offset in bytes on. Written pages become the program's
    /// own.
    Root(u64),
    /// Whole pages of [`MemoryKind::Free`](crate::boot::MemoryKind::Free) memory from this address on: writing to the one is writing
    /// to the other.
    Shared(u64),
    /// The same pages, but written ones become the program's own.
    Private(u64),
}

impl UserBacking {
    const fn to_words(self) -> (u64, u64) {
        match self {
            Self::Zero => (0, 0),
            Self::Root(offset) => (1, offset),
            Self::Shared(address) => (2, address),
            Self::Private(address) => (3, address),
        }
    }

    fn from_words(kind: u64, place: u64) -> Result<Self, OpError> {
        if kind != 0 && !place.is_multiple_of(crate::PAGE_SIZE) {
            return Err(OpError::Invalid);
        }
        Ok(match kind {
            0 => Self::Zero,
            1 => Self::Root(place),
            2 => Self::Shared(place),
            3 => Self::Private(place),
            _ => return Err(OpError::Invalid),
        })
    }
}

/// What will become of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum UserAdvice {
    /// They will be read: make them present (`MADV_POPULATE_READ`).
    PopulateRead = 1,
    /// They will be written: make them present and the program's own (`MADV_POPULATE_WRITE`).
    PopulateWrite = 2,
    /// Huge pages are welcome (`MADV_HUGEPAGE`).
    HugePages = 3,
    /// No huge pages (`MADV_NOHUGEPAGE`).
    SmallPages = 4,
}

/// An operation of a guest that runs a program. Ranges are whole pages inside the user range; they may be of any length.
///
/// Errors of all: [`OpError::Invalid`] for ranges and addresses that are none, [`OpError::NoSpace`] if the host has no memory for
/// it or the process too many mappings, [`OpError::Unsupported`] for images without the flag and on backends that cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserOp {
    /// Maps pages, in place of what may be there. Result: 0. Errors: [`OpError::Io`] if the root image cannot be mapped.
    Map {
        /// Where.
        range: Segment,
        /// What the program may do there.
        access: UserAccess,
        /// What lies behind.
        backing: UserBacking,
        /// Make them present at once (`MAP_POPULATE`).
        populate: bool,
    },
    /// Takes pages away; what is not mapped stays so. Result: 0.
    Unmap {
        /// Which.
        range: Segment,
    },
    /// Changes what may be done with pages. Result: 0. Errors: [`OpError::NoSpace`] if some are not mapped; the others may have
    /// been changed.
    Protect {
        /// Which.
        range: Segment,
        /// What the program may do there.
        access: UserAccess,
    },
    /// Forgets what pages hold: they are as when they were mapped (`MADV_DONTNEED`); shared ones stay. Result: 0. Errors as for
    /// protecting.
    Discard {
        /// Which.
        range: Segment,
    },
    /// Moves pages, with all that was said of them, in place of what may be at `to`; where they were, nothing is mapped. The two
    /// ranges must not overlap. Result: 0. Errors: [`OpError::BadAddress`] if some are not mapped; those before them have moved.
    Move {
        /// Which.
        range: Segment,
        /// Their new first address.
        to: u64,
    },
    /// Says what will become of pages. Result: 0, also if the host does not care. [`OpError::BadAddress`] if pages cannot be
    /// made present because the access does not allow it or what lies behind cannot be read.
    Advise {
        /// Which.
        range: Segment,
        /// What of them.
        advice: UserAdvice,
    },
    /// Says where the program's system calls go. Result: 0.
    ///
    /// From then on a `syscall` instruction anywhere but in the image continues at `entry` with `rcx` the address behind the
    /// instruction, `r11` the flags, and everything else as the program left it: `rax` (the number), `rsp`, the segment bases, the
    /// FPU. Direction, trap and alignment-check flag are clear.
    ///
    /// And a tick that arrives while the image's code or the monitor's runs is not a trap: 1 is written to `deferred`, which the
    /// guest looks at when it is about to return to the program.
    ///
    /// Errors: [`OpError::Invalid`] if `entry` does not lie in the image's text, [`OpError::BadAddress`] if `deferred` is not an
    /// aligned word of writable memory.
    SystemCalls {
        /// Address of the first instruction.
        entry: u64,
        /// Address of a 64-bit word.
        deferred: u64,
    },
    /// Reads from the console. Result: the number of bytes, 0 at its end, which is final. Errors: [`OpError::Again`] if there are
    /// none now; [`call::CONSOLE`](crate::call::CONSOLE) in [`Call::wait_receive`](crate::Call::wait_receive) waits for some.
    ConsoleRead {
        /// Where to put them; at least one byte.
        buffer: Segment,
    },
    /// Exchanges messages of 9P with a device of kind [`DeviceKind::Files`](crate::DeviceKind::Files).
    ///
    /// - With a request and room for a reply: sends the one and waits for the other, which takes as long as the host's file system does. Only
    ///   while no other request of this device is on its way: whichever reply comes first is taken. Result: the reply's length.
    /// - With a request only: sends it and does not wait. Result: 0. [`OpError::Again`] if there is no room for it before a reply has come.
    /// - With room only: takes a reply that has come. Result: its length. [`OpError::Again`] if there is none; the device's bit in
    ///   [`Call::wait_receive`](crate::Call::wait_receive) waits for one.
    ///
    /// Requests are performed in the order in which they were sent, but for those that wait for a disk (`Tfsync`), whose replies may come
    /// later than those of others. Tags tell them apart.
    ///
    /// Errors: [`OpError::NoDevice`], [`OpError::Invalid`] for messages longer than [`MAX_NINEP`] and if there is neither,
    /// [`OpError::Io`] when the device is gone.
    NineP {
        /// Which device.
        device: u32,
        /// The request, a whole message; or nothing.
        request: Segment,
        /// Room for the reply, at least as much as the request's kind may bring (`msize`); or none.
        reply: Segment,
    },
}

/// The most bytes of a 9P message.
pub const MAX_NINEP: u64 = 128 * 1024;

const POPULATE: u64 = 1 << 8;

impl UserOp {
    /// The operation as it lies in memory, its result not yet written.
    pub const fn encode(self) -> RawOp {
        match self {
            Self::Map {
                range,
                access,
                backing,
                populate,
            } => {
                let (kind, place) = backing.to_words();
                let populate = if populate { POPULATE } else { 0 };
                on(
                    code::USER_MAP,
                    range,
                    [access.bits() | populate, kind, place],
                )
            }
            Self::Unmap { range } => on(code::USER_UNMAP, range, [0; 3]),
            Self::Protect { range, access } => on(code::USER_PROTECT, range, [access.bits(), 0, 0]),
            Self::Discard { range } => on(code::USER_DISCARD, range, [0; 3]),
            Self::Move { range, to } => on(code::USER_MOVE, range, [to, 0, 0]),
            Self::Advise { range, advice } => on(code::USER_ADVISE, range, [advice as u64, 0, 0]),
            Self::SystemCalls { entry, deferred } => {
                let words = Segment {
                    addr: entry,
                    len: deferred,
                };
                on(code::SYSTEM_CALLS, words, [0; 3])
            }
            Self::ConsoleRead { buffer } => on(code::CONSOLE_READ, buffer, [0; 3]),
            Self::NineP {
                device,
                request,
                reply,
            } => RawOp {
                device,
                ..on(code::NINEP, request, [reply.addr, reply.len, 0])
            },
        }
    }

    /// The typed operation.
    pub(crate) fn decode(raw: &RawOp) -> Result<Self, OpError> {
        let [addr, len, third, fourth, fifth, _] = raw.args;
        let words = Segment { addr, len };
        let access = |bits| UserAccess::from_bits(bits).ok_or(OpError::Invalid);
        Ok(match raw.code {
            code::USER_MAP => Self::Map {
                range: user_range(words)?,
                access: access(third & !POPULATE)?,
                backing: UserBacking::from_words(fourth, fifth)?,
                populate: third & POPULATE != 0,
            },
            code::USER_UNMAP => Self::Unmap {
                range: user_range(words)?,
            },
            code::USER_PROTECT => Self::Protect {
                range: user_range(words)?,
                access: access(third)?,
            },
            code::USER_DISCARD => Self::Discard {
                range: user_range(words)?,
            },
            code::USER_MOVE => {
                user_range(Segment { addr: third, len })?;
                Self::Move {
                    range: user_range(words)?,
                    to: third,
                }
            }
            code::USER_ADVISE => Self::Advise {
                range: user_range(words)?,
                advice: match third {
                    1 => UserAdvice::PopulateRead,
                    2 => UserAdvice::PopulateWrite,
                    3 => UserAdvice::HugePages,
                    4 => UserAdvice::SmallPages,
                    _ => return Err(OpError::Invalid),
                },
            },
            code::SYSTEM_CALLS => Self::SystemCalls {
                entry: addr,
                deferred: len,
            },
            code::CONSOLE_READ if len > 0 => Self::ConsoleRead { buffer: words },
            code::NINEP if len.max(fourth) <= MAX_NINEP && len.max(fourth) > 0 => Self::NineP {
                device: raw.device,
                request: words,
                reply: Segment {
                    addr: third,
                    len: fourth,
                },
            },
            _ => return Err(OpError::Invalid),
        })
    }
}

/// Whole pages inside the user range.
fn user_range(range: Segment) -> Result<Segment, OpError> {
    let range = crate::op::page_range(range)?;
    if range.addr >= USER_START && range.addr + range.len <= USER_END {
        Ok(range)
    } else {
        Err(OpError::Invalid)
    }
}

const fn on(code: u16, range: Segment, [third, fourth, fifth]: [u64; 3]) -> RawOp {
    RawOp {
        code,
        flags: 0,
        device: 0,
        result: 0,
        args: [range.addr, range.len, third, fourth, fifth, 0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;

    const RANGE: Segment = Segment {
        addr: 0x40_0000,
        len: 0x3000,
    };

    #[test]
    fn every_operation_survives_encoding() {
        let read_execute = UserAccess::from_bits(5).unwrap();
        let ops = [
            UserOp::Map {
                range: RANGE,
                access: read_execute,
                backing: UserBacking::Root(0x7000),
                populate: true,
            },
            UserOp::Map {
                range: RANGE,
                access: UserAccess::NONE,
                backing: UserBacking::Zero,
                populate: false,
            },
            UserOp::Map {
                range: RANGE,
                access: UserAccess::WRITE,
                backing: UserBacking::Shared(0x7100_0000_1000),
                populate: false,
            },
            UserOp::Map {
                range: RANGE,
                access: UserAccess::READ,
                backing: UserBacking::Private(0x7100_0000_1000),
                populate: false,
            },
            UserOp::Unmap { range: RANGE },
            UserOp::Protect {
                range: RANGE,
                access: UserAccess::EXEC,
            },
            UserOp::Discard { range: RANGE },
            UserOp::Move {
                range: RANGE,
                to: 0x50_0000,
            },
            UserOp::Advise {
                range: RANGE,
                advice: UserAdvice::HugePages,
            },
            UserOp::SystemCalls {
                entry: 0x3000_1234_5678,
                deferred: 0x7100_0000_0010,
            },
            UserOp::ConsoleRead { buffer: RANGE },
            UserOp::NineP {
                device: 3,
                request: RANGE,
                reply: Segment { addr: 9, len: 8192 },
            },
        ];
        for op in ops {
            assert_eq!(op.encode().decode(), Ok(Op::User(op)));
        }
    }

    #[test]
    fn ranges_lie_in_the_user_range() {
        let unmap = |addr, len| {
            UserOp::Unmap {
                range: Segment { addr, len },
            }
            .encode()
            .decode()
        };
        assert!(unmap(USER_START, USER_END - USER_START).is_ok());
        for (addr, len) in [
            (0, 0x2_0000),
            (USER_START - 4096, 4096),
            (USER_END, 4096),
            (USER_END - 4096, 8192),
            (USER_START, USER_END),
            (USER_START + 1, 4096),
            (USER_START, 4095),
            (USER_START, 0),
            (u64::MAX - 4095, 4096),
        ] {
            assert_eq!(
                unmap(addr, len),
                Err(OpError::Invalid),
                "{addr:#x} {len:#x}"
            );
        }
        let to_above = UserOp::Move {
            range: RANGE,
            to: USER_END - 4096,
        };
        assert_eq!(to_above.encode().decode(), Err(OpError::Invalid));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let raw = |code, third, fourth, fifth| RawOp {
            code,
            args: [RANGE.addr, RANGE.len, third, fourth, fifth, 0],
            ..RawOp::default()
        };
        for op in [
            raw(code::USER_MAP, 8, 0, 0),
            raw(code::USER_MAP, 1 << 9, 0, 0),
            raw(code::USER_MAP, 1, 4, 0),
            raw(code::USER_MAP, 1, 1, 77),
            raw(code::USER_PROTECT, 1 << 8, 0, 0),
            raw(code::USER_ADVISE, 0, 0, 0),
            raw(code::USER_ADVISE, 5, 0, 0),
            raw(code::NINEP, 0, MAX_NINEP + 1, 0),
            RawOp {
                code: code::NINEP,
                ..RawOp::default()
            },
        ] {
            assert_eq!(op.decode(), Err(OpError::Invalid), "{op:?}");
        }
        let nothing = UserOp::ConsoleRead {
            buffer: Segment { addr: 9, len: 0 },
        };
        assert_eq!(nothing.encode().decode(), Err(OpError::Invalid));
    }

    #[test]
    fn hosts_that_run_no_programs_say_so() {
        let op = UserOp::Unmap { range: RANGE }.encode();
        assert_eq!(op.decode_for(true, true, false), Err(OpError::Unsupported));
    }
}
