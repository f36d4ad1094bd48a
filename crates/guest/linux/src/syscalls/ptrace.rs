//! `ptrace(2)`.

use alloc::rc::Rc;
use alloc::vec;

use super::{Args, Call, thread_or_self};
use crate::platform;
use crate::process::{Thread, trace};
use crate::user::{Plain, UserAddr, bytes_of};
use crate::{Errno, Result};

/// The call.
pub const CALLS: &[Call] = &[Call::partly(
    101,
    "ptrace",
    4,
    ptrace,
    "attaching, reading registers and memory, going on: what sanitizers do; no steps, no changes of registers",
)];

/// Notes of a register set (`elf.h`).
const PRSTATUS: u64 = 1;
const FPREGSET: u64 = 2;
const XSTATE: u64 = 0x202;

/// Bytes of the FPU state that every processor has.
const LEGACY: usize = 512;
/// More than any processor's whole state.
const WHOLE: usize = 8192;

/// `struct iovec`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Room {
    base: u64,
    len: u64,
}

// SAFETY: words.
unsafe impl Plain for Room {}

fn ptrace(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const TRACEME: u64 = 0;
    const PEEKTEXT: u64 = 1;
    const PEEKDATA: u64 = 2;
    const POKETEXT: u64 = 4;
    const POKEDATA: u64 = 5;
    const CONT: u64 = 7;
    const KILL: u64 = 8;
    const GETREGS: u64 = 12;
    const GETFPREGS: u64 = 14;
    const ATTACH: u64 = 16;
    const DETACH: u64 = 17;
    const GETREGSET: u64 = 0x4204;
    let (request, tid) = (args.word(0), args.int(1));
    if request == TRACEME {
        return Err(Errno::EPERM);
    }
    if tid <= 0 {
        return Err(Errno::ESRCH);
    }
    if request == ATTACH {
        let other = thread_or_self(thread, tid)?;
        trace::attach(thread, &other)?;
        return Ok(0);
    }
    let other = trace::stopped(thread, tid.unsigned_abs())?;
    let (at, data) = (args.addr(2), args.word(3));
    let signal = || u32::try_from(data).ok().filter(|&signal| signal <= 64);
    match request {
        CONT => trace::go_on(&other, signal().ok_or(Errno::EIO)?),
        DETACH => trace::detach(&other, signal().ok_or(Errno::EIO)?),
        KILL => trace::go_on(&other, crate::signal::number::KILL),
        GETREGS => UserAddr(data).write_bytes(bytes_of(&trace::registers(&other)))?,
        GETFPREGS => {
            let mut state = [0; LEGACY];
            platform::fpu_state(&other, &mut state);
            UserAddr(data).write_bytes(&state)?;
        }
        GETREGSET => register_set(&other, args.word(2), UserAddr(data))?,
        // Only who shares the memory can be the tracer.
        PEEKTEXT | PEEKDATA | POKETEXT | POKEDATA => {
            if !Rc::ptr_eq(&other.process.memory, &thread.process.memory) {
                return Err(Errno::EIO);
            }
            match request {
                PEEKTEXT | PEEKDATA => UserAddr(data).write(at.read::<u64>()?)?,
                _ => at.write(data)?,
            }
        }
        _ => return Err(Errno::EIO),
    }
    Ok(0)
}

/// `PTRACE_GETREGSET`: as much of a set as there is room for.
fn register_set(other: &Thread, note: u64, vector: UserAddr) -> Result {
    let mut room: Room = vector.read()?;
    let registers = trace::registers(other);
    let mut state = vec![0; WHOLE];
    let all = match note {
        PRSTATUS => bytes_of(&registers),
        FPREGSET | XSTATE => {
            let most = if note == XSTATE { WHOLE } else { LEGACY };
            let len = platform::fpu_state(other, state.get_mut(..most).unwrap_or_default());
            state.get(..len).unwrap_or_default()
        }
        _ => return Err(Errno::EINVAL),
    };
    let len = usize::try_from(room.len).map_or(all.len(), |most| most.min(all.len()));
    UserAddr(room.base).write_bytes(all.get(..len).unwrap_or_default())?;
    room.len = len as u64;
    vector.write(room)
}
