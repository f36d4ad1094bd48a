//! Calls that start another program: in the same process; there are no others yet.

use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;

use super::{Args, Call};
use crate::process::{Thread, exec};
use crate::user::UserAddr;
use crate::{Errno, Result, fs};

/// The calls.
pub const CALLS: &[Call] = &[
    Call::full(59, "execve", 3, execve),
    Call::full(322, "execveat", 5, execveat),
];

/// The most of arguments and environment together, with their pointers.
const MOST: usize = 2 << 20;
/// `MAX_ARG_STRLEN`.
const LONGEST: usize = 128 << 10;

/// Reads strings by a list of pointers to them; a null pointer is an empty list, as on Linux only.
fn strings(at: UserAddr, left: &mut usize) -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    if at.is_null() {
        return Ok(all);
    }
    for index in 0.. {
        let pointer = UserAddr(at.add(8 * index).read()?);
        if pointer.is_null() {
            break;
        }
        let text = pointer.read_string(LONGEST).map_err(|error| {
            if error == Errno::ENAMETOOLONG {
                Errno::E2BIG
            } else {
                error
            }
        })?;
        let used = text.len() + 1 + 8;
        *left = left.checked_sub(used).ok_or(Errno::E2BIG)?;
        all.push(text);
    }
    Ok(all)
}

fn start(thread: &Rc<Thread>, path: &[u8], argv: UserAddr, envp: UserAddr) -> Result<u64> {
    let mut left = MOST;
    let arguments = strings(argv, &mut left)?;
    let environment = strings(envp, &mut left)?;
    exec::execute(thread, path, &arguments, &environment).map(|()| 0)
}

fn execve(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let path = args.addr(0).read_path()?;
    start(thread, &path, args.addr(1), args.addr(2))
}

fn execveat(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const EMPTY_PATH: u32 = 0x1000;
    const NO_FOLLOW: u32 = 0x100;
    if args.uint(4) & !(EMPTY_PATH | NO_FOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let (at, flags) = (args.int(0), args.uint(4));
    let path = args.addr(1).read_path()?;
    let path = if path.is_empty() {
        if flags & EMPTY_PATH == 0 {
            return Err(Errno::ENOENT);
        }
        thread.process.files.get(at)?;
        format!("/proc/self/fd/{at}").into_bytes()
    } else if path.starts_with(b"/") || at == fs::AT_FDCWD {
        path
    } else {
        thread.process.files.get(at)?;
        let mut full = format!("/proc/self/fd/{at}/").into_bytes();
        full.extend_from_slice(&path);
        full
    };
    start(thread, &path, args.addr(2), args.addr(3))
}
