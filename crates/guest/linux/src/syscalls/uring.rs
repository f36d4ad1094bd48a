//! `io_uring_setup(2)` and its kin.

use alloc::rc::Rc;

use super::event::{install, nanoseconds};
use super::{Args, Call};
use crate::event::mask_argument;
use crate::event::uring::{Params, Uring};
use crate::fs::OpenFlags;
use crate::platform;
use crate::process::Thread;
use crate::signal::with_mask;
use crate::user::{UserAddr, bytes_of, bytes_of_mut};
use crate::{Errno, Result};

const MISSING: &str =
    "rings polled by the kernel, polled devices, zero-copy sends, `recvmsg` that goes on";

/// The family.
pub const CALLS: &[Call] = &[
    Call::partly(425, "io_uring_setup", 2, setup, MISSING),
    Call::partly(426, "io_uring_enter", 6, enter, MISSING),
    Call::partly(427, "io_uring_register", 4, register, MISSING),
];

/// `IORING_SETUP_ATTACH_WQ`
const ATTACH_WQ: u32 = 0x20;
const ENTER_GETEVENTS: u32 = 1;
const ENTER_SQ_WAKEUP: u32 = 2;
const ENTER_SQ_WAIT: u32 = 4;
const ENTER_EXT_ARG: u32 = 8;

fn setup(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    // 120 bytes of words: too many for the arrays that are plain by themselves.
    let mut halves = [[0_u32; 15]; 2];
    for (index, half) in halves.iter_mut().enumerate() {
        args.addr(1)
            .add(index as u64 * 60)
            .read_bytes(bytes_of_mut(half))?;
    }
    let mut params: Params = core::array::from_fn(|word| halves[word / 15][word % 15]);
    if params[2] & ATTACH_WQ != 0 {
        // There are no workers to share, but it must be an instance.
        with_ring(thread, params[6].cast_signed(), |_| Ok(())).map_err(|error| match error {
            Errno::EOPNOTSUPP => Errno::EINVAL,
            error => error,
        })?;
    }
    let uring = Uring::new(args.uint(0), &mut params)?;
    uring.belongs_to(thread);
    for (word, value) in params.iter().enumerate() {
        args.addr(1)
            .add(word as u64 * 4)
            .write_bytes(bytes_of(value))?;
    }
    install(thread, uring, OpenFlags::CLOEXEC.bits())
}

fn with_ring<T>(thread: &Rc<Thread>, fd: i32, work: impl FnOnce(&Uring) -> Result<T>) -> Result<T> {
    let open = thread.process.files.get(fd)?;
    work(open.downcast::<Uring>().ok_or(Errno::EOPNOTSUPP)?)
}

fn enter(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let flags = args.uint(3);
    if flags & !(ENTER_GETEVENTS | ENTER_SQ_WAKEUP | ENTER_SQ_WAIT | ENTER_EXT_ARG) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut deadline = None;
    let mask = if flags & ENTER_GETEVENTS == 0 {
        None
    } else if flags & ENTER_EXT_ARG != 0 {
        // struct io_uring_getevents_arg
        if args.word(5) != 24 {
            return Err(Errno::EINVAL);
        }
        let [mask, size, time]: [u64; 3] = args.addr(4).read()?;
        if let Some([seconds, nanos]) = UserAddr(time).read_if::<[i64; 2]>()? {
            let after = nanoseconds(seconds, nanos)?;
            deadline = Some(platform::now().saturating_add(after));
        }
        mask_argument(UserAddr(mask), size & 0xffff_ffff)?
    } else {
        mask_argument(args.addr(4), args.word(5))?
    };
    let wanted = (flags & ENTER_GETEVENTS != 0).then(|| args.uint(2));
    let done = with_mask(thread, mask, || {
        with_ring(thread, args.int(0), |uring| {
            uring.enter(thread, args.uint(1), wanted, deadline)
        })
    })?;
    Ok(done.into())
}

fn register(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    with_ring(thread, args.int(0), |uring| {
        uring.register(thread, args.uint(1), args.addr(2), args.uint(3))
    })
}
