//! `epoll(7)`.

use alloc::rc::Rc;

use super::event::{install, nanoseconds};
use super::{Args, Call};
use crate::event::epoll::{Epoll, Interest, MAX_EVENTS};
use crate::event::mask_argument;
use crate::platform;
use crate::process::Thread;
use crate::signal::with_mask;
use crate::wait::Deadline;
use crate::{Errno, Result};

/// The family.
pub const CALLS: &[Call] = &[
    Call::full(213, "epoll_create", 1, sys_epoll_create),
    Call::full(232, "epoll_wait", 4, sys_epoll_wait),
    Call::full(233, "epoll_ctl", 4, sys_epoll_ctl),
    Call::full(281, "epoll_pwait", 6, sys_epoll_pwait),
    Call::full(291, "epoll_create1", 1, sys_epoll_create1),
    Call::full(441, "epoll_pwait2", 6, sys_epoll_pwait2),
];

const ADD: i32 = 1;
const DELETE: i32 = 2;
const MODIFY: i32 = 3;

fn sys_epoll_create(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    if args.int(0) <= 0 {
        return Err(Errno::EINVAL);
    }
    install(thread, Epoll::new(), 0)
}

fn sys_epoll_create1(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let flags = args.uint(0);
    if flags & !crate::fs::OpenFlags::CLOEXEC.bits() != 0 {
        return Err(Errno::EINVAL);
    }
    install(thread, Epoll::new(), flags)
}

fn sys_epoll_ctl(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let (operation, fd) = (args.int(1), args.int(2));
    let interest = match operation {
        DELETE => Interest::default(),
        _ => Interest::read(args.addr(3))?,
    };
    let files = &thread.process.files;
    let instance = files.get(args.int(0))?;
    let open = files.get(fd)?;
    if open.file.queue().is_none() {
        return Err(Errno::EPERM);
    }
    let epoll = instance.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    if Rc::ptr_eq(&instance, &open) {
        return Err(Errno::EINVAL);
    }
    match operation {
        ADD => epoll.add(fd, &open, interest)?,
        MODIFY => epoll.modify(fd, &open, interest)?,
        DELETE => epoll.remove(fd, &open)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

fn wait(thread: &Rc<Thread>, args: Args, deadline: Deadline) -> Result<u64> {
    let most = usize::try_from(args.int(2)).unwrap_or(0);
    if most == 0 || most > MAX_EVENTS {
        return Err(Errno::EINVAL);
    }
    let open = thread.process.files.get(args.int(0))?;
    let epoll = open.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    let count = epoll.wait(thread, args.addr(1), most, deadline)?;
    Ok(count as u64)
}

/// Milliseconds from now on: negative for ever, 0 not at all.
pub(super) fn deadline_of(milliseconds: i32) -> Deadline {
    match u64::try_from(milliseconds) {
        Err(_) => None,
        Ok(0) => Some(0),
        Ok(wait) => Some(platform::now().saturating_add(wait * 1_000_000)),
    }
}

fn sys_epoll_wait(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    wait(thread, args, deadline_of(args.int(3)))
}

fn sys_epoll_pwait(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let mask = mask_argument(args.addr(4), args.word(5))?;
    let deadline = deadline_of(args.int(3));
    with_mask(thread, mask, || wait(thread, args, deadline))
}

fn sys_epoll_pwait2(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let mask = mask_argument(args.addr(4), args.word(5))?;
    let deadline = match args.addr(3).read_if::<[i64; 2]>()? {
        None => None,
        Some([seconds, nanos]) => match nanoseconds(seconds, nanos)? {
            0 => Some(0),
            wait => Some(platform::now().saturating_add(wait)),
        },
    };
    with_mask(thread, mask, || wait(thread, args, deadline))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::testing::{self, PAGE_AT};
    use crate::fs::{OpenFile, OpenFlags};
    use crate::user::UserAddr;
    use crate::wait::Events;

    const EDGE: u32 = 1 << 31;
    const ONESHOT: u32 = 1 << 30;
    const IN: u32 = 1;
    const EVENTS_AT: u64 = PAGE_AT + 4096;

    struct Machine {
        thread: Rc<Thread>,
        epoll: u64,
    }

    impl Machine {
        fn new() -> Self {
            let thread = testing::thread();
            let epoll = sys_epoll_create1(&thread, Args::default()).expect("a descriptor");
            Self { thread, epoll }
        }

        fn pipe(&self) -> (Rc<OpenFile>, Rc<OpenFile>, u64) {
            let (reader, writer) = crate::event::pipe::pair(OpenFlags::NONBLOCK);
            let fd = self.thread.process.files.add(reader.clone(), false, 0);
            (reader, writer, fd.expect("room") as u64)
        }

        fn control(&self, operation: i32, fd: u64, events: u32) -> Result<u64> {
            let at = UserAddr(PAGE_AT);
            at.write(events)?;
            at.add(4).write([u32::try_from(fd).expect("small"), 7])?;
            let operation = u64::from(operation.cast_unsigned());
            let args = Args([self.epoll, operation, fd, PAGE_AT, 0, 0]);
            sys_epoll_ctl(&self.thread, args)
        }

        /// The descriptors that are ready and with what.
        fn wait(&self, most: u64) -> alloc::vec::Vec<(u32, u32)> {
            let args = Args([self.epoll, EVENTS_AT, most, 0, 0, 0]);
            let count = sys_epoll_wait(&self.thread, args).expect("a count");
            let words: alloc::vec::Vec<[u32; 3]> = UserAddr(EVENTS_AT)
                .read_array(count as usize)
                .expect("memory");
            assert!(words.iter().all(|word| word[2] == 7));
            words.iter().map(|word| (word[1], word[0])).collect()
        }

        fn write(&self, writer: &OpenFile) {
            let mut from = crate::io::Source::kernel(b"xx");
            writer
                .file
                .write(&self.thread, writer, &mut from)
                .expect("room");
        }

        fn read(&self, reader: &OpenFile, len: usize) {
            let mut to = [0; 100];
            let mut sink = crate::io::Sink::kernel(&mut to[..len]);
            reader
                .file
                .read(&self.thread, reader, &mut sink)
                .expect("bytes");
        }
    }

    #[test]
    fn level_triggered_events_come_until_they_are_not_so_any_more() {
        let machine = Machine::new();
        let (reader, writer, fd) = machine.pipe();
        assert_eq!(machine.control(ADD, fd, IN), Ok(0));
        assert_eq!(machine.control(ADD, fd, IN), Err(Errno::EEXIST));
        assert_eq!(machine.wait(10), []);
        machine.write(&writer);
        assert_eq!(machine.wait(10), [(1, IN)]);
        machine.read(&reader, 1);
        assert_eq!(machine.wait(10), [(1, IN)]);
        machine.read(&reader, 1);
        assert_eq!(machine.wait(10), []);
        drop(writer);
        assert_eq!(machine.wait(10), [(1, Events::HUP.bits())]);
    }

    #[test]
    fn edge_triggered_events_come_once_for_each_wake_up() {
        let machine = Machine::new();
        let (_reader, writer, fd) = machine.pipe();
        machine.control(ADD, fd, IN | EDGE).expect("added");
        machine.write(&writer);
        assert_eq!(machine.wait(10), [(1, IN)]);
        assert_eq!(machine.wait(10), []);
        machine.write(&writer);
        assert_eq!(machine.wait(10), [(1, IN)]);
        // Changing the entry looks at the file anew.
        machine.control(MODIFY, fd, IN | EDGE).expect("changed");
        assert_eq!(machine.wait(10), [(1, IN)]);
    }

    #[test]
    fn a_oneshot_entry_sleeps_until_it_is_changed() {
        let machine = Machine::new();
        let (_reader, writer, fd) = machine.pipe();
        machine.control(ADD, fd, IN | ONESHOT).expect("added");
        machine.write(&writer);
        assert_eq!(machine.wait(10), [(1, IN)]);
        machine.write(&writer);
        assert_eq!(machine.wait(10), []);
        machine.control(MODIFY, fd, IN | ONESHOT).expect("changed");
        assert_eq!(machine.wait(10), [(1, IN)]);
    }

    #[test]
    fn the_end_is_told_to_who_asks_for_nothing_but_not_of_a_spent_oneshot() {
        let machine = Machine::new();
        let (_reader, writer, fd) = machine.pipe();
        machine.control(ADD, fd, 0).expect("added");
        machine.write(&writer);
        assert_eq!(machine.wait(10), []);
        machine.control(MODIFY, fd, IN | ONESHOT).expect("changed");
        assert_eq!(machine.wait(10), [(1, IN)]);
        drop(writer);
        assert_eq!(machine.wait(10), []);
        machine.control(MODIFY, fd, 0).expect("changed");
        assert_eq!(machine.wait(10), [(1, Events::HUP.bits())]);
    }

    #[test]
    fn ready_ones_take_turns_when_few_are_asked_for() {
        let machine = Machine::new();
        let pipes = [machine.pipe(), machine.pipe(), machine.pipe()];
        for (_, writer, fd) in &pipes {
            machine.control(ADD, *fd, IN).expect("added");
            machine.write(writer);
        }
        assert_eq!(machine.wait(2), [(1, IN), (2, IN)]);
        assert_eq!(machine.wait(2), [(3, IN), (1, IN)]);
    }

    #[test]
    fn closing_the_last_descriptor_ends_the_watching() {
        let machine = Machine::new();
        let (reader, writer, fd) = machine.pipe();
        machine.control(ADD, fd, IN).expect("added");
        machine.write(&writer);
        drop(reader);
        let other = machine.thread.process.files.add(
            machine.thread.process.files.get(1).expect("open"),
            false,
            0,
        );
        drop(machine.thread.process.files.remove(1));
        // Another descriptor still refers to the description.
        assert_eq!(machine.wait(10), [(1, IN)]);
        drop(machine.thread.process.files.remove(other.expect("room")));
        assert_eq!(machine.wait(10), []);
        let (_reader, _writer, fd) = machine.pipe();
        assert_eq!(machine.control(ADD, fd, IN), Ok(0));
        assert_eq!(machine.control(DELETE, fd, 0), Ok(0));
        assert_eq!(machine.control(DELETE, fd, 0), Err(Errno::ENOENT));
    }

    #[test]
    fn instances_watch_each_other_but_not_in_a_ring() {
        let machine = Machine::new();
        let outer = sys_epoll_create(&machine.thread, Args([1, 0, 0, 0, 0, 0])).expect("fd");
        let (_reader, writer, fd) = machine.pipe();
        machine.control(ADD, fd, IN).expect("added");
        let outside = Machine {
            thread: machine.thread.clone(),
            epoll: outer,
        };
        assert_eq!(outside.control(ADD, machine.epoll, IN), Ok(0));
        assert_eq!(machine.control(ADD, outer, IN), Err(Errno::ELOOP));
        assert_eq!(machine.control(ADD, machine.epoll, IN), Err(Errno::EINVAL));
        assert_eq!(outside.wait(10), []);
        machine.write(&writer);
        assert_eq!(outside.wait(10), [(0, IN)]);
    }

    #[test]
    fn an_instance_that_watches_another_for_edges_is_told_of_each() {
        let machine = Machine::new();
        let outer = sys_epoll_create(&machine.thread, Args([1, 0, 0, 0, 0, 0])).expect("fd");
        let (reader, writer, fd) = machine.pipe();
        machine.control(ADD, fd, IN).expect("added");
        let outside = Machine {
            thread: machine.thread.clone(),
            epoll: outer,
        };
        outside
            .control(ADD, machine.epoll, IN | EDGE)
            .expect("added");
        for round in 0..3 {
            machine.write(&writer);
            assert_eq!(outside.wait(10), [(0, IN)], "round {round}");
            assert_eq!(outside.wait(10), []);
            assert_eq!(machine.wait(10), [(2, IN)]);
            machine.read(&reader, 2);
        }
    }

    #[test]
    fn instances_nest_only_so_deep_from_whichever_end_they_are_joined() {
        for from_above in [true, false] {
            let machine = Machine::new();
            let more = (0..12).map(|_| sys_epoll_create1(&machine.thread, Args::default()));
            let all: alloc::vec::Vec<_> = more.map(|fd| fd.expect("a descriptor")).collect();
            let mut joins: alloc::vec::Vec<_> = all.windows(2).collect();
            if !from_above {
                joins.reverse();
            }
            let joined = joins.iter().map(|pair| {
                let outer = Machine {
                    thread: machine.thread.clone(),
                    epoll: pair[0],
                };
                outer.control(ADD, pair[1], IN)
            });
            let count = joined.take_while(Result::is_ok).count();
            assert_eq!(count, 5, "from above: {from_above}");
        }
    }

    #[test]
    fn an_exclusive_entry_that_nobody_sleeps_on_does_not_keep_others_from_being_told() {
        const EXCLUSIVE: u32 = 1 << 28;
        struct Sleeper(core::cell::Cell<bool>);
        impl crate::wait::Observer for Sleeper {
            fn notify(&self, _events: Events) {
                self.0.set(true);
            }
        }
        let busy = Machine::new();
        let (_reader, writer, fd) = busy.pipe();
        let idle = sys_epoll_create1(&busy.thread, Args::default()).expect("a descriptor");
        let idle = Machine {
            thread: busy.thread.clone(),
            epoll: idle,
        };
        busy.control(ADD, fd, IN | EXCLUSIVE).expect("added");
        idle.control(ADD, fd, IN | EXCLUSIVE).expect("added");
        let open = busy
            .thread
            .process
            .files
            .get(idle.epoll as i32)
            .expect("open");
        let sleeper = Rc::new(Sleeper(core::cell::Cell::new(false)));
        open.file.queue().expect("a queue").add(sleeper.clone());
        busy.write(&writer);
        assert!(sleeper.0.get());
    }

    #[test]
    fn an_instance_is_a_file_without_a_type() {
        const FSTAT: u64 = 5;
        let machine = Machine::new();
        let stat = Args([machine.epoll, EVENTS_AT, 0, 0, 0, 0]);
        assert_eq!(crate::syscalls::perform(&machine.thread, FSTAT, stat), 0);
        // Behind device, inode and links.
        let mode: u32 = UserAddr(EVENTS_AT).add(24).read().expect("memory");
        assert_eq!(mode, 0o600);
    }

    #[test]
    fn bad_arguments_are_refused() {
        let machine = Machine::new();
        let call = |args| sys_epoll_wait(&machine.thread, Args(args));
        assert_eq!(call([0, EVENTS_AT, 0, 0, 0, 0]), Err(Errno::EINVAL));
        assert_eq!(call([9, EVENTS_AT, 1, 0, 0, 0]), Err(Errno::EBADF));
        let (_, writer, fd) = machine.pipe();
        assert_eq!(call([fd, EVENTS_AT, 1, 0, 0, 0]), Err(Errno::EINVAL));
        machine.control(ADD, fd, IN).expect("added");
        machine.write(&writer);
        assert_eq!(call([0, 0, 1, 0, 0, 0]), Err(Errno::EFAULT));
        let null = crate::dev::open_device(
            &machine.thread,
            crate::fs::Kind::Character,
            crate::dev::tree::NULL,
            OpenFlags::RDWR,
        );
        let null = OpenFile::new(null.expect("a device"), OpenFlags::RDWR);
        let fd = machine.thread.process.files.add(null, false, 0);
        let fd = fd.expect("room") as u64;
        assert_eq!(machine.control(ADD, fd, IN), Err(Errno::EPERM));
    }

    #[test]
    fn waiting_ends_with_the_timeout_or_a_signal() {
        let machine = Machine::new();
        let before = platform::now();
        let call = |timeout: i32| {
            let timeout = u64::from(timeout.cast_unsigned());
            sys_epoll_wait(&machine.thread, Args([0, EVENTS_AT, 8, timeout, 0, 0]))
        };
        assert_eq!(call(5), Ok(0));
        assert_eq!(platform::now() - before, 5_000_000);
        assert_eq!(call(-1), Err(Errno::EINTR));
    }
}
