//! Semaphores of System V: `semget(2)`, `semop(2)`, `semtimedop(2)`, `semctl(2)`.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use super::{Args, Call};
use crate::ipc::sem::{GREATEST, MOST_OF_A_SET, MOST_OPERATIONS, MOST_SETS, Operation, Set};
use crate::ipc::{self, Object, Owner, command};
use crate::process::Thread;
use crate::time::Timespec;
use crate::user::{Plain, bytes_of, bytes_of_mut};
use crate::wait::Deadline;
use crate::{Errno, Result};

/// The calls.
pub const CALLS: &[Call] = &[
    Call::full(64, "semget", 3, semget),
    Call::full(65, "semop", 3, semop),
    Call::full(66, "semctl", 4, semctl),
    Call::full(220, "semtimedop", 4, semtimedop),
];

fn semget(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let (key, count, flags) = (args.int(0), args.int(1), args.uint(2));
    let count = u64::try_from(count).map_err(|_| Errno::EINVAL)?;
    if count > MOST_OF_A_SET {
        return Err(Errno::EINVAL);
    }
    let fits = |set: &Set| {
        if count > set.count() {
            Err(Errno::EINVAL)
        } else {
            Ok(())
        }
    };
    let kernel = crate::kernel();
    kernel
        .ipc
        .sets
        .find_or_make(thread, (key, flags), MOST_SETS, fits, |owner| {
            if count == 0 {
                return Err(Errno::EINVAL);
            }
            // Each operation has a copy of it while it lasts.
            crate::shortage::room(count * 2 * size_of::<crate::ipc::sem::Semaphore>() as u64)
                .map_err(|_| Errno::ENOMEM)?;
            Ok(Set::new(owner, count))
        })
}

fn semop(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    operate(thread, &args, None)
}

fn semtimedop(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let deadline = match args.addr(3).read_if::<Timespec>()? {
        Some(time) => time.deadline()?,
        None => None,
    };
    operate(thread, &args, deadline)
}

fn operate(thread: &Rc<Thread>, args: &Args, deadline: Deadline) -> Result<u64> {
    let count = args.word(2);
    if count == 0 || args.int(0) < 0 {
        return Err(Errno::EINVAL);
    }
    if count > MOST_OPERATIONS {
        return Err(Errno::E2BIG);
    }
    let mut operations = Vec::with_capacity(count as usize);
    for index in 0..count {
        let at = args.addr(1).add(index * size_of::<Operation>() as u64);
        operations.push(at.read::<Operation>()?);
    }
    let set = crate::kernel().ipc.sets.get(args.int(0))?;
    if operations
        .iter()
        .any(|one| u64::from(one.number) >= set.count())
    {
        return Err(Errno::EFBIG);
    }
    let alters = operations.iter().any(|one| one.change != 0);
    let wanted = if alters { ipc::WRITE } else { ipc::READ };
    set.owner().get().permit(thread, wanted)?;
    set.operate(thread, &operations, deadline)?;
    Ok(0)
}

/// `struct semid64_ds`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Record {
    owner: Owner,
    operated: u64,
    unused: u64,
    changed: u64,
    unused_too: u64,
    count: u64,
    rest: [u64; 2],
}

// SAFETY: integers without gaps.
unsafe impl Plain for Record {}

fn record(set: &Set) -> Record {
    Record {
        owner: set.owner().get(),
        operated: set.operated.get(),
        changed: set.changed.get(),
        count: set.count(),
        ..Record::default()
    }
}

/// `struct seminfo`, as the limits are, or what is in use: sets and semaphores.
fn info(in_use: Option<(u64, u64)>) -> [i32; 10] {
    let most = (MOST_OF_A_SET * MOST_SETS as u64) as i32;
    let operations = MOST_OPERATIONS as i32;
    let (size, adjusted) = in_use.map_or((20, GREATEST), |(sets, all)| (sets as i32, all as i32));
    [
        most,
        MOST_SETS as i32,
        most,
        most,
        MOST_OF_A_SET as i32,
        operations,
        operations,
        size,
        GREATEST,
        adjusted,
    ]
}

fn semctl(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const GET_USER: u32 = 11;
    const GET_VALUE: u32 = 12;
    const GET_ALL: u32 = 13;
    const COUNT_TAKERS: u32 = 14;
    const COUNT_WAITERS: u32 = 15;
    const SET_VALUE: u32 = 16;
    const SET_ALL: u32 = 17;
    const STAT_AT: u32 = 18;
    const INFO_OF_ALL: u32 = 19;
    const STAT_ANY: u32 = 20;
    let (id, number, at) = (args.int(0), args.int(1), args.addr(3));
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let kernel = crate::kernel();
    let sets = &kernel.ipc.sets;
    match args.uint(2) {
        command::INFO => {
            at.write(info(None))?;
            return Ok(sets.last());
        }
        INFO_OF_ALL => {
            let all = sets.all();
            let count = all.iter().map(|(_, set)| set.count()).sum();
            at.write(info(Some((all.len() as u64, count))))?;
            return Ok(sets.last());
        }
        command::STAT => {
            let set = sets.get(id)?;
            set.owner().get().permit(thread, ipc::READ)?;
            at.write(record(&set))?;
        }
        kind @ (STAT_AT | STAT_ANY) => {
            let (id, set) = sets.at(id)?;
            if kind == STAT_AT {
                set.owner().get().permit(thread, ipc::READ)?;
            }
            at.write(record(&set))?;
            return Ok(id.into());
        }
        command::SET => {
            let new: Record = at.read()?;
            let set = sets.get(id)?;
            set.owner().get().own(thread)?;
            set.set(&new.owner);
        }
        command::RMID => {
            let set = sets.get(id)?;
            set.owner().get().own(thread)?;
            set.remove();
            sets.remove(id.unsigned_abs());
        }
        GET_ALL => {
            let set = sets.get(id)?;
            set.owner().get().permit(thread, ipc::READ)?;
            let values: Vec<u16> = set.all.borrow().iter().map(|one| one.value).collect();
            for (index, value) in values.iter().enumerate() {
                at.add(2 * index as u64).write_bytes(bytes_of(value))?;
            }
        }
        SET_ALL => {
            let set = sets.get(id)?;
            set.owner().get().permit(thread, ipc::WRITE)?;
            let mut values = vec![0u16; set.count() as usize];
            for (index, value) in values.iter_mut().enumerate() {
                at.add(2 * index as u64).read_bytes(bytes_of_mut(value))?;
            }
            set.assign(thread, 0, &values)?;
        }
        kind @ (GET_USER..=COUNT_WAITERS | SET_VALUE) => {
            let set = sets.get(id)?;
            let alters = kind == SET_VALUE;
            let wanted = if alters { ipc::WRITE } else { ipc::READ };
            // Before the semaphore: as Linux does.
            if alters && !(0..=GREATEST).contains(&args.int(3)) {
                return Err(Errno::ERANGE);
            }
            set.owner().get().permit(thread, wanted)?;
            let index = usize::try_from(number).map_err(|_| Errno::EINVAL)?;
            let one = set.all.borrow().get(index).copied();
            let one = one.ok_or(Errno::EINVAL)?;
            return match kind {
                GET_USER => Ok(one.last_user.into()),
                GET_VALUE => Ok(one.value.into()),
                COUNT_TAKERS => Ok(one.waiting_to_take.into()),
                COUNT_WAITERS => Ok(one.waiting_for_zero.into()),
                _ => set.assign(thread, index, &[args.int(3) as u16]).map(|()| 0),
            };
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}
