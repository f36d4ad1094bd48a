//! `pipe(2)`.

use alloc::rc::Rc;

use super::{Args, Call};
use crate::event::pipe;
use crate::fs::OpenFlags;
use crate::process::Thread;
use crate::user::UserAddr;
use crate::{Errno, Result};

/// The family.
pub const CALLS: &[Call] = &[
    Call::full(22, "pipe", 1, sys_pipe),
    Call::full(293, "pipe2", 2, sys_pipe2),
];

fn make(thread: &Rc<Thread>, to: UserAddr, flags: OpenFlags) -> Result<u64> {
    let close_on_exec = flags.contains(OpenFlags::CLOEXEC);
    let (reader, writer) = pipe::pair(flags);
    let files = &thread.process.files;
    let first = files.add(reader, close_on_exec, 0)?;
    let second = match files.add(writer, close_on_exec, 0) {
        Ok(second) => second,
        Err(error) => {
            drop(files.remove(first));
            return Err(error);
        }
    };
    if let Err(error) = to.write([first, second]) {
        drop(files.remove(first));
        drop(files.remove(second));
        return Err(error);
    }
    Ok(0)
}

fn sys_pipe(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    make(thread, args.addr(0), OpenFlags::empty())
}

fn sys_pipe2(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let known = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK | OpenFlags::DIRECT;
    let flags = OpenFlags::from_bits(args.uint(1)).filter(|&flags| known.contains(flags));
    make(thread, args.addr(0), flags.ok_or(Errno::EINVAL)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::testing::{self, PAGE_AT};

    fn call(thread: &Rc<Thread>, to: u64, flags: u64) -> Result<u64> {
        sys_pipe2(thread, Args([to, flags, 0, 0, 0, 0]))
    }

    #[test]
    fn both_ends_get_descriptors() {
        let thread = testing::thread();
        let flags = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK;
        assert_eq!(call(&thread, PAGE_AT, flags.bits().into()), Ok(0));
        let numbers: [i32; 2] = UserAddr(PAGE_AT).read().expect("memory");
        assert_eq!(numbers, [0, 1]);
        let writer = thread.process.files.descriptor(1).expect("open");
        assert!(writer.close_on_exec && writer.open.nonblocking());
        assert!(writer.open.flags.get().writable());
    }

    #[test]
    fn nothing_stays_open_when_the_call_fails() {
        let thread = testing::thread();
        assert_eq!(call(&thread, 0, 0), Err(Errno::EFAULT));
        assert_eq!(call(&thread, PAGE_AT, 1), Err(Errno::EINVAL));
        thread.process.files.limit.set(1);
        assert_eq!(call(&thread, PAGE_AT, 0), Err(Errno::EMFILE));
        assert!(thread.process.files.numbers().is_empty());
    }
}
