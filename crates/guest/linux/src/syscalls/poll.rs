//! `poll(2)` and `select(2)`.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use super::epoll::deadline_of;
use super::event::{nanoseconds, timespec};
use super::{Args, Call};
use crate::event::mask_argument;
use crate::event::poll::{self, Asked};
use crate::platform;
use crate::process::Thread;
use crate::signal::with_mask;
use crate::user::UserAddr;
use crate::wait::{Deadline, Events};
use crate::{Errno, Result, shortage};

/// The family.
pub const CALLS: &[Call] = &[
    Call::full(7, "poll", 3, sys_poll),
    Call::full(23, "select", 5, sys_select),
    Call::full(270, "pselect6", 6, sys_pselect6),
    Call::full(271, "ppoll", 5, sys_ppoll),
];

/// Bytes of a `struct pollfd`: descriptor, events asked for, events found.
const POLLFD: usize = 8;

/// Events that `select(2)` calls readable.
const READ_SET: Events = Events::READABLE
    .union(Events::RDBAND)
    .union(Events::HUP)
    .union(Events::ERR);
/// Writable.
const WRITE_SET: Events = Events::WRITABLE.union(Events::WRBAND).union(Events::ERR);
/// Exceptional.
const EXCEPT_SET: Events = Events::PRI;

fn do_poll(thread: &Rc<Thread>, at: UserAddr, count: u64, deadline: Deadline) -> Result<u64> {
    let files = &thread.process.files;
    if count > files.limit.get() as u64 {
        return Err(Errno::EINVAL);
    }
    // More while it sleeps: an entry in the queue of each.
    shortage::room(count * (POLLFD + 3 * size_of::<Asked>()) as u64)?;
    let mut records = vec![0; count as usize * POLLFD];
    at.read_bytes(&mut records)?;
    let mut all: Vec<Asked> = Vec::with_capacity(count as usize);
    for record in records.chunks_exact(POLLFD) {
        let fd = i32::from_ne_bytes([record[0], record[1], record[2], record[3]]);
        let wanted = u16::from_ne_bytes([record[4], record[5]]);
        let open = files.get(fd).ok();
        let mut found = Events::empty();
        found.set(Events::NVAL, fd >= 0 && open.is_none());
        all.push(Asked {
            open,
            wanted: Events::from_bits_truncate(wanted.into()),
            found,
        });
    }
    let ready = poll::wait(thread, &mut all, deadline)?;
    for (record, asked) in records.chunks_exact_mut(POLLFD).zip(&all) {
        let found = asked.found.bits() as u16;
        record[6..].copy_from_slice(&found.to_ne_bytes());
    }
    at.write_bytes(&records)?;
    Ok(ready as u64)
}

fn sys_poll(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let deadline = deadline_of(args.int(2));
    do_poll(thread, args.addr(0), args.uint(1).into(), deadline)
}

/// A `struct timespec` or `struct timeval` that is updated with what is left of it.
struct Timeout {
    at: UserAddr,
    /// How many of its small units make a second.
    units: u64,
    deadline: Deadline,
}

impl Timeout {
    fn read(at: UserAddr, units: u64) -> Result<Self> {
        let deadline = match at.read_if::<[i64; 2]>()? {
            None => None,
            Some([seconds, part]) => {
                let scale = (1_000_000_000 / units).cast_signed();
                // A timeval may have more microseconds than a second.
                let (more, part) = match units {
                    1_000_000 if part >= 0 => (part / 1_000_000, part % 1_000_000),
                    _ => (0, part),
                };
                let seconds = seconds.saturating_add(more);
                match nanoseconds(seconds, part.saturating_mul(scale))? {
                    0 => Some(0),
                    wait => Some(platform::now().saturating_add(wait)),
                }
            }
        };
        Ok(Self {
            at,
            units,
            deadline,
        })
    }

    /// Tells the program how much time was left. Linux ignores it if that cannot be written.
    fn write_back(&self) {
        let Some(deadline) = self.deadline else {
            return;
        };
        let left = deadline.saturating_sub(platform::now());
        let [seconds, nanos] = timespec(left);
        let scale = (1_000_000_000 / self.units).cast_signed();
        let _ = self.at.write([seconds, nanos / scale]);
    }
}

fn sys_ppoll(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let timeout = Timeout::read(args.addr(2), 1_000_000_000)?;
    let mask = mask_argument(args.addr(3), args.word(4))?;
    let result = with_mask(thread, mask, || {
        do_poll(thread, args.addr(0), args.uint(1).into(), timeout.deadline)
    });
    timeout.write_back();
    result
}

/// One of the sets of `select(2)`.
struct Set {
    at: UserAddr,
    wanted: Events,
    bits: Vec<u8>,
}

impl Set {
    fn read(at: UserAddr, count: usize, wanted: Events) -> Result<Self> {
        // In words, as the kernel has them.
        let mut bits = vec![0; count.div_ceil(64) * 8];
        if at.is_null() {
            bits.clear();
        } else {
            at.read_bytes(&mut bits)?;
        }
        Ok(Self { at, wanted, bits })
    }

    fn has(&self, fd: usize) -> bool {
        let byte = self.bits.get(fd / 8).copied().unwrap_or(0);
        byte & (1 << (fd % 8)) != 0
    }
}

fn do_select(thread: &Rc<Thread>, args: Args, deadline: Deadline) -> Result<u64> {
    let files = &thread.process.files;
    let count = usize::try_from(args.int(0)).map_err(|_| Errno::EINVAL)?;
    // Sets may be larger than the table: what lies behind its end is ignored.
    let highest = files.numbers().last().map_or(0, |&fd| fd as usize + 1);
    let count = count.min(highest.next_multiple_of(64).max(64));
    let mut sets = [
        Set::read(args.addr(1), count, READ_SET)?,
        Set::read(args.addr(2), count, WRITE_SET)?,
        Set::read(args.addr(3), count, EXCEPT_SET)?,
    ];
    let mut numbers = Vec::new();
    let mut all = Vec::new();
    for fd in 0..count {
        let mut asked = Asked::default();
        for set in sets.iter().filter(|set| set.has(fd)) {
            asked.wanted |= set.wanted;
        }
        if asked.wanted.is_empty() {
            continue;
        }
        asked.open = Some(files.get(fd as i32)?);
        numbers.push(fd);
        all.push(asked);
    }
    wait_for_sets(thread, &mut all, deadline)?;
    let mut found = 0;
    for set in &mut sets {
        let mut answer = vec![0; set.bits.len()];
        for (&fd, asked) in numbers.iter().zip(&all) {
            if set.has(fd) && asked.found.intersects(set.wanted) {
                if let Some(byte) = answer.get_mut(fd / 8) {
                    *byte |= 1 << (fd % 8);
                }
                found += 1;
            }
        }
        if !set.at.is_null() {
            set.at.write_bytes(&answer)?;
        }
    }
    Ok(found)
}

/// Waits until something is found that is in one of the sets. `poll` tells more than that: a hang-up is nothing for who waits to write.
fn wait_for_sets(thread: &Rc<Thread>, all: &mut [Asked], deadline: Deadline) -> Result {
    loop {
        let ready = poll::wait(thread, all, deadline)?;
        let told = all.iter().any(|asked| asked.found.intersects(asked.wanted));
        if ready == 0 || told || deadline == Some(0) {
            return Ok(());
        }
        // Those that only tell what nobody asked for are left out from now on.
        for asked in all.iter_mut().filter(|asked| !asked.found.is_empty()) {
            asked.open = None;
            asked.found = Events::empty();
        }
    }
}

fn sys_select(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let timeout = Timeout::read(args.addr(4), 1_000_000)?;
    let result = do_select(thread, args, timeout.deadline);
    timeout.write_back();
    result
}

fn sys_pselect6(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let timeout = Timeout::read(args.addr(4), 1_000_000_000)?;
    let mask = match args.addr(5).read_if::<[u64; 2]>()? {
        None => None,
        Some([at, size]) => mask_argument(UserAddr(at), size)?,
    };
    let result = with_mask(thread, mask, || do_select(thread, args, timeout.deadline));
    timeout.write_back();
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::testing::{self, PAGE_AT};
    use crate::fs::{OpenFile, OpenFlags};

    fn pipe(thread: &Rc<Thread>) -> Rc<OpenFile> {
        let (reader, writer) = crate::event::pipe::pair(OpenFlags::NONBLOCK);
        let files = &thread.process.files;
        files.add(reader, false, 0).expect("room");
        files.add(writer.clone(), false, 0).expect("room");
        writer
    }

    fn write(thread: &Rc<Thread>, open: &OpenFile) {
        let mut from = crate::io::Source::kernel(b"x");
        open.file.write(thread, open, &mut from).expect("room");
    }

    fn pollfd(fd: i32, wanted: Events) -> u64 {
        u64::from(fd.cast_unsigned()) | (u64::from(wanted.bits()) << 32)
    }

    #[test]
    fn poll_tells_what_is_so_of_each_descriptor() {
        let thread = testing::thread();
        let writer = pipe(&thread);
        let page = UserAddr(PAGE_AT);
        let asked = [
            pollfd(0, Events::IN),
            pollfd(1, Events::OUT),
            pollfd(-1, Events::IN),
            pollfd(77, Events::IN),
        ];
        page.write(asked).expect("memory");
        let call = || sys_poll(&thread, Args([PAGE_AT, 4, 0, 0, 0, 0]));
        assert_eq!(call(), Ok(2));
        let found = || {
            let records: [u64; 4] = page.read().expect("memory");
            records.map(|record| Events::from_bits_truncate((record >> 48) as u32))
        };
        let nothing = Events::empty();
        assert_eq!(found(), [nothing, Events::OUT, nothing, Events::NVAL]);
        write(&thread, &writer);
        assert_eq!(call(), Ok(3));
        assert_eq!(found()[0], Events::IN);
    }

    #[test]
    fn a_look_with_another_mask_ends_with_the_signal_that_it_lets_in() {
        use crate::signal::{self, Info, bit, number};
        const USR1: u32 = number::USR1;
        let thread = testing::thread();
        let writer = pipe(&thread);
        thread.process.signals.actions.set(
            USR1,
            signal::Action {
                handler: 0x40_1000,
                ..signal::Action::default()
            },
        );
        signal::set_blocked(&thread, bit(USR1));
        let info = Info::user(USR1, signal::info::SI_USER, 1, 0);
        signal::send_to_process(&thread.process, info).expect("sent");
        let page = UserAddr(PAGE_AT);
        page.add(64).write([0_u64, 0, 0]).expect("memory");
        page.add(96).write([PAGE_AT + 80, 8]).expect("memory");
        page.write([pollfd(0, Events::IN), 1]).expect("memory");
        let (now, mask, both) = (PAGE_AT + 64, PAGE_AT + 80, PAGE_AT + 96);
        let ppoll = || sys_ppoll(&thread, Args([PAGE_AT, 1, now, mask, 8, 0]));
        let pselect = || sys_pselect6(&thread, Args([1, PAGE_AT + 8, 0, 0, now, both]));
        for call in [&ppoll as &dyn Fn() -> Result<u64>, &pselect] {
            assert_eq!(call(), Err(Errno::ERESTARTNOHAND));
            // Until the handler runs the mask is the call's.
            assert_eq!(thread.signals.blocked.get(), 0);
            thread.signals.saved.take();
            signal::set_blocked(&thread, bit(USR1));
        }
        // What is ready comes first.
        write(&thread, &writer);
        assert_eq!(ppoll(), Ok(1));
        assert_eq!(thread.signals.blocked.get(), bit(USR1));
    }

    #[test]
    fn poll_waits_for_its_timeout() {
        let thread = testing::thread();
        let _writer = pipe(&thread);
        UserAddr(PAGE_AT)
            .write(pollfd(0, Events::IN))
            .expect("memory");
        let before = platform::now();
        assert_eq!(sys_poll(&thread, Args([PAGE_AT, 1, 30, 0, 0, 0])), Ok(0));
        assert_eq!(platform::now() - before, 30_000_000);
        let forever = Args([PAGE_AT, 1, u64::MAX, 0, 0, 0]);
        assert_eq!(sys_poll(&thread, forever), Err(Errno::ERESTARTNOHAND));
        let huge = Args([PAGE_AT, 1 << 30, 0, 0, 0, 0]);
        assert_eq!(sys_poll(&thread, huge), Err(Errno::EINVAL));
    }

    #[test]
    fn select_leaves_the_ready_ones_in_its_sets() {
        let thread = testing::thread();
        let writer = pipe(&thread);
        let page = UserAddr(PAGE_AT);
        let call = |timeout| {
            page.write([0b11_u64, 0b10, 0b11]).expect("memory");
            let sets = [2, PAGE_AT, PAGE_AT + 8, PAGE_AT + 16, timeout, 0];
            let count = sys_select(&thread, Args(sets));
            (count, page.read::<[u64; 3]>().expect("memory"))
        };
        assert_eq!(call(0), (Ok(1), [0, 0b10, 0]));
        write(&thread, &writer);
        assert_eq!(call(0), (Ok(2), [0b01, 0b10, 0]));
    }

    #[test]
    fn select_tells_how_much_time_is_left() {
        let thread = testing::thread();
        let writer = pipe(&thread);
        let page = UserAddr(PAGE_AT);
        page.add(64).write([1_i64, 500]).expect("memory");
        page.write(1_u64).expect("memory");
        let args = Args([1, PAGE_AT, 0, 0, PAGE_AT + 64, 0]);
        assert_eq!(sys_select(&thread, args), Ok(0));
        assert_eq!(page.add(64).read(), Ok([0_i64, 0]));
        write(&thread, &writer);
        page.add(64).write([1_i64, 500]).expect("memory");
        page.write(1_u64).expect("memory");
        assert_eq!(sys_select(&thread, args), Ok(1));
        assert_eq!(page.add(64).read(), Ok([1_i64, 500]));
        page.write(0b100_u64).expect("memory");
        let closed = Args([3, PAGE_AT, 0, 0, 0, 0]);
        assert_eq!(sys_select(&thread, closed), Err(Errno::EBADF));
    }
}
