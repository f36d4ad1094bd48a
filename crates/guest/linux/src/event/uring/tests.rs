use alloc::rc::Rc;
use alloc::vec::Vec;

mod buffers;

use super::memory::Layout;
use super::sqe::{Flags, op};
use super::*;
use crate::event::testing::{self, PAGE_AT};
use crate::fs::{OpenFile, OpenFlags};
use crate::platform::pretend;
use crate::user::UserAddr;

/// An instance with eight entries, and a pipe as descriptors 0 and 1.
struct Machine {
    thread: Rc<Thread>,
    uring: Rc<Uring>,
    reader: Rc<OpenFile>,
    writer: Rc<OpenFile>,
}

#[derive(Default)]
struct Entry {
    opcode: u8,
    flags: Flags,
    fd: i32,
    off: u64,
    addr: u64,
    len: u32,
    op_flags: u32,
    user_data: u32,
    buffer: u16,
}

impl Machine {
    fn new() -> Self {
        let thread = testing::thread();
        let (reader, writer) = crate::event::pipe::pair(OpenFlags::empty());
        thread
            .process
            .files
            .add(reader.clone(), false, 0)
            .expect("room");
        thread
            .process
            .files
            .add(writer.clone(), false, 0)
            .expect("room");
        let uring = Uring::new(8, &mut [0; 30]).expect("an instance");
        Self {
            thread,
            uring,
            reader,
            writer,
        }
    }

    fn push(&self, entry: &Entry) {
        let uring = &self.uring;
        let tail = uring.word(Layout::SQ_TAIL);
        let index = tail & 7;
        uring.set(uring.layout.array() + index as usize * 4, index);
        let at = index as usize * 64;
        let first = u32::from(entry.opcode) | (u32::from(entry.flags.bits()) << 8);
        let words = [
            first,
            entry.fd.cast_unsigned(),
            entry.off as u32,
            (entry.off >> 32) as u32,
            entry.addr as u32,
            (entry.addr >> 32) as u32,
            entry.len,
            entry.op_flags,
            entry.user_data,
            0,
            entry.buffer.into(),
        ];
        for (word, value) in words.into_iter().enumerate() {
            uring.rings.sqes.set(at + word * 4, value);
        }
        uring.set(Layout::SQ_TAIL, tail.wrapping_add(1));
    }

    fn enter(&self, count: u32) -> Result<u32> {
        self.uring.enter(&self.thread, count, None, None)
    }

    /// What has completed: names and results.
    fn take(&self) -> Vec<(u32, i32)> {
        let uring = &self.uring;
        uring.flush_overflow();
        let mut all = Vec::new();
        while uring.available() > 0 {
            let head = uring.word(Layout::CQ_HEAD);
            let at = Layout::CQES + (head & 15) as usize * 16;
            all.push((uring.word(at), uring.word(at + 8).cast_signed()));
            uring.set(Layout::CQ_HEAD, head.wrapping_add(1));
        }
        all
    }

    fn write(&self, bytes: &[u8]) {
        let mut from = crate::io::Source::kernel(bytes);
        self.writer
            .file
            .write(&self.thread, &self.writer, &mut from)
            .expect("room");
    }

    fn poll(user_data: u32) -> Entry {
        Entry {
            opcode: op::POLL_ADD,
            op_flags: Events::IN.bits(),
            user_data,
            ..Entry::default()
        }
    }

    fn nop(user_data: u32) -> Entry {
        Entry {
            user_data,
            ..Entry::default()
        }
    }

    fn timeout(user_data: u32, nanos: i64, opcode: u8) -> Entry {
        let at = PAGE_AT + 1024 + u64::from(user_data) * 16;
        UserAddr(at).write([0, nanos]).expect("memory");
        Entry {
            opcode,
            addr: at,
            len: 1,
            user_data,
            ..Entry::default()
        }
    }
}

#[test]
fn the_parameters_tell_where_things_lie() {
    let _thread = testing::thread();
    let mut params = [0; 30];
    let uring = Uring::new(5, &mut params).expect("an instance");
    assert_eq!(params[..2], [8, 16]);
    assert_eq!(params[16], uring.layout.array() as u32);
    assert_eq!(uring.word(params[13] as usize), 8);
    assert_eq!(Uring::new(0, &mut [0; 30]).err(), Some(Errno::EINVAL));
    let mut polled = [0; 30];
    polled[2] = 1;
    assert_eq!(Uring::new(8, &mut polled).err(), Some(Errno::EINVAL));
    let Ok(Mapped::Pages(pages)) = uring.map(true) else {
        panic!("it is mapped by pages");
    };
    let ring = pages.run(0, 9).expect("the rings");
    let same = pages.run(0x800_0000 / 4096, 1).expect("the rings again");
    assert_eq!(ring.address, same.address);
    assert!(pages.run(0x1000_0000 / 4096, 1).is_ok());
    assert_eq!(pages.run(77, 1).err(), Some(Errno::ENXIO));
}

#[test]
fn entries_are_done_in_order() {
    let machine = Machine::new();
    machine.push(&Machine::nop(1));
    machine.push(&Entry {
        opcode: 200,
        user_data: 2,
        ..Entry::default()
    });
    machine.push(&Machine::nop(3));
    // A bad entry ends the submission.
    assert_eq!(machine.enter(8), Ok(2));
    assert_eq!(machine.take(), [(1, 0), (2, -Errno::EINVAL.0)]);
    assert_eq!(machine.enter(8), Ok(1));
    assert_eq!(machine.take(), [(3, 0)]);
}

#[test]
fn a_read_waits_for_its_bytes() {
    let machine = Machine::new();
    machine.push(&Entry {
        opcode: op::READ,
        off: u64::MAX,
        addr: PAGE_AT,
        len: 10,
        user_data: 7,
        ..Entry::default()
    });
    assert_eq!(machine.enter(1), Ok(1));
    assert_eq!(machine.take(), []);
    machine.write(b"hello");
    // Whoever has the processor next does it.
    crate::kernel().timers.fire(crate::platform::now());
    assert_eq!(machine.take(), [(7, 5)]);
    assert_eq!(UserAddr(PAGE_AT).read(), Ok(*b"hello"));
    assert!(!machine.reader.nonblocking());
    // A description that does not wait makes no difference: only the entry can say that (RWF_NOWAIT).
    machine.reader.flags.set(OpenFlags::NONBLOCK);
    let mut read = Entry {
        opcode: op::READ,
        addr: PAGE_AT,
        len: 10,
        ..Entry::default()
    };
    machine.push(&read);
    machine.enter(1).expect("submitted");
    assert_eq!(machine.take(), []);
    read.op_flags = 8;
    machine.push(&read);
    machine.enter(1).expect("submitted");
    assert_eq!(machine.take(), [(0, -Errno::EAGAIN.0)]);
    machine.write(b"again");
    machine.enter(0).expect("entered");
    assert_eq!(machine.take(), [(0, 5)]);
    assert!(machine.reader.nonblocking());
}

#[test]
fn linked_entries_follow_each_other_and_fail_together() {
    let machine = Machine::new();
    let linked = |entry: Entry| Entry {
        flags: Flags::LINK,
        ..entry
    };
    machine.push(&linked(Machine::poll(1)));
    machine.push(&linked(Machine::nop(2)));
    machine.push(&Machine::nop(3));
    machine.push(&Machine::nop(4));
    assert_eq!(machine.enter(4), Ok(4));
    assert_eq!(machine.take(), [(4, 0)]);
    machine.write(b"x");
    machine.enter(0).expect("entered");
    assert_eq!(machine.take(), [(1, 1), (2, 0), (3, 0)]);
    let bad = |flags| Entry {
        opcode: op::READ,
        fd: 99,
        user_data: 5,
        flags,
        ..Entry::default()
    };
    machine.push(&bad(Flags::LINK));
    machine.push(&Machine::nop(6));
    machine.enter(2).expect("submitted");
    let canceled = -Errno::ECANCELED.0;
    assert_eq!(machine.take(), [(5, -Errno::EBADF.0), (6, canceled)]);
    // Whoever wants no word of success gets none of what does not follow.
    machine.push(&bad(Flags::LINK | Flags::SKIP_SUCCESS));
    machine.push(&Machine::nop(6));
    machine.enter(2).expect("submitted");
    assert_eq!(machine.take(), [(5, -Errno::EBADF.0)]);
}

#[test]
fn a_chain_with_an_entry_that_cannot_be_is_refused_as_a_whole() {
    let machine = Machine::new();
    let linked = |entry: Entry| Entry {
        flags: Flags::LINK,
        ..entry
    };
    let wrong = |user_data| Entry {
        opcode: 200,
        user_data,
        ..Entry::default()
    };
    for entry in [
        linked(Machine::nop(1)),
        linked(wrong(2)),
        Machine::nop(3),
        Machine::nop(4),
    ] {
        machine.push(&entry);
    }
    let (invalid, canceled) = (-Errno::EINVAL.0, -Errno::ECANCELED.0);
    assert_eq!(machine.enter(4), Ok(4));
    let expected = [(1, canceled), (2, invalid), (3, canceled), (4, 0)];
    assert_eq!(machine.take(), expected);
    // At the end of a chain it ends the submission.
    for entry in [linked(Machine::nop(5)), wrong(6), Machine::nop(7)] {
        machine.push(&entry);
    }
    assert_eq!(machine.enter(3), Ok(2));
    assert_eq!(machine.take(), [(5, canceled), (6, invalid)]);
}

#[test]
fn a_poll_that_waits_can_be_changed() {
    const UPDATE_EVENTS: u32 = 2;
    const UPDATE_USER_DATA: u32 = 4;
    let machine = Machine::new();
    machine.push(&Entry {
        op_flags: Events::PRI.bits(),
        ..Machine::poll(1)
    });
    let change = |whom, flags, events: Events, new| Entry {
        opcode: op::POLL_REMOVE,
        addr: whom,
        len: flags,
        op_flags: events.bits(),
        off: new,
        user_data: 9,
        ..Entry::default()
    };
    machine.push(&change(1, UPDATE_USER_DATA, Events::empty(), 5));
    machine.push(&change(1, UPDATE_USER_DATA, Events::empty(), 6));
    machine.enter(3).expect("submitted");
    assert_eq!(machine.take(), [(9, 0), (9, -Errno::ENOENT.0)]);
    machine.write(b"x");
    machine.enter(0).expect("entered");
    assert_eq!(machine.take(), []);
    machine.push(&change(5, UPDATE_EVENTS, Events::IN, 0));
    machine.enter(1).expect("submitted");
    assert_eq!(machine.take(), [(9, 0), (5, 1)]);
}

#[test]
fn an_instance_for_one_thread_refuses_others() {
    let machine = Machine::new();
    let mut params = [0; 30];
    params[2] = 0x2000;
    let without = Uring::new(8, &mut params);
    assert_eq!(without.err(), Some(Errno::EINVAL), "deferred, but for all");
    params[2] |= 0x1000;
    let uring = Uring::new(8, &mut params).expect("an instance");
    uring.belongs_to(&machine.thread);
    assert_eq!(uring.enter(&machine.thread, 0, None, None), Ok(0));
    let other = testing::thread();
    let refused = Some(Errno::EEXIST);
    assert_eq!(uring.enter(&other, 0, None, None).err(), refused);
    assert_eq!(uring.register(&other, 3, UserAddr(0), 0).err(), refused);
}

#[test]
fn a_drained_entry_waits_for_all_before_it() {
    let machine = Machine::new();
    machine.push(&Machine::poll(1));
    machine.push(&Entry {
        flags: Flags::DRAIN,
        ..Machine::nop(2)
    });
    machine.push(&Machine::nop(3));
    machine.enter(3).expect("submitted");
    assert_eq!(machine.take(), []);
    machine.write(b"x");
    machine.enter(0).expect("entered");
    assert_eq!(machine.take(), [(1, 1), (2, 0), (3, 0)]);
}

#[test]
fn timeouts_end_by_their_time_or_by_completions() {
    let machine = Machine::new();
    machine.push(&Machine::timeout(1, 5000, op::TIMEOUT));
    let counted = Entry {
        off: 2,
        ..Machine::timeout(2, 1_000_000, op::TIMEOUT)
    };
    machine.push(&counted);
    machine.push(&Machine::nop(3));
    machine.enter(3).expect("submitted");
    assert_eq!(machine.take(), [(3, 0)]);
    pretend::advance(6000);
    crate::kernel().timers.fire(crate::platform::now());
    // The end of another timeout is not one of them.
    assert_eq!(machine.take(), [(1, -Errno::ETIME.0)]);
    machine.push(&Machine::nop(4));
    machine.enter(1).expect("submitted");
    assert_eq!(machine.take(), [(4, 0), (2, 0)]);
}

#[test]
fn a_linked_timeout_limits_the_one_in_front_of_it() {
    let machine = Machine::new();
    let limited = |user_data| Entry {
        flags: Flags::LINK,
        ..Machine::poll(user_data)
    };
    machine.push(&limited(1));
    machine.push(&Machine::timeout(2, 5000, op::LINK_TIMEOUT));
    machine.enter(2).expect("submitted");
    pretend::advance(6000);
    crate::kernel().timers.fire(crate::platform::now());
    let (late, canceled) = (-Errno::ETIME.0, -Errno::ECANCELED.0);
    assert_eq!(machine.take(), [(2, late), (1, canceled)]);
    machine.push(&limited(3));
    machine.push(&Machine::timeout(4, 5000, op::LINK_TIMEOUT));
    machine.enter(2).expect("submitted");
    machine.write(b"x");
    machine.enter(0).expect("entered");
    assert_eq!(machine.take(), [(3, 1), (4, canceled)]);
    // The limit of a timeout is one beside it, not in its place, and may say that nobody wants to hear of it.
    let mut first = Machine::timeout(5, 3000, op::TIMEOUT);
    first.flags = Flags::LINK;
    let mut second = Machine::timeout(6, 5000, op::LINK_TIMEOUT);
    second.flags = Flags::SKIP_SUCCESS;
    machine.push(&first);
    machine.push(&second);
    machine.enter(2).expect("submitted");
    pretend::advance(4000);
    crate::kernel().timers.fire(crate::platform::now());
    assert_eq!(machine.take(), [(5, late)]);
}

#[test]
fn what_waits_can_be_canceled() {
    let machine = Machine::new();
    machine.push(&Machine::poll(1));
    let cancel = |whom| Entry {
        opcode: op::ASYNC_CANCEL,
        addr: whom,
        user_data: 2,
        ..Entry::default()
    };
    machine.push(&cancel(1));
    machine.push(&cancel(1));
    machine.enter(3).expect("submitted");
    let expected = [(1, -Errno::ECANCELED.0), (2, 0), (2, -Errno::ENOENT.0)];
    assert_eq!(machine.take(), expected);
    assert!(machine.reader.file.queue().expect("a queue").is_empty());
}

#[test]
fn completions_that_find_no_room_are_kept() {
    let machine = Machine::new();
    for round in 0..3 {
        for entry in 0..8 {
            machine.push(&Machine::nop(round * 8 + entry));
        }
        machine.enter(8).expect("submitted");
    }
    assert_eq!(machine.uring.word(Layout::SQ_FLAGS), SQ_CQ_OVERFLOW);
    let mut all = machine.take();
    all.extend(machine.take());
    let names: Vec<u32> = all.iter().map(|&(name, _)| name).collect();
    assert_eq!(names, (0..24).collect::<Vec<_>>());
}

#[test]
fn registered_files_buffers_and_counters_are_used() {
    let machine = Machine::new();
    let register = |what, at, count| {
        machine
            .uring
            .register(&machine.thread, what, UserAddr(at), count)
    };
    UserAddr(PAGE_AT).write([0, 1, -1]).expect("memory");
    assert_eq!(register(2, PAGE_AT, 3), Ok(0));
    assert_eq!(register(2, PAGE_AT, 3), Err(Errno::EBUSY));
    UserAddr(PAGE_AT + 64)
        .write([PAGE_AT + 4096, 100])
        .expect("memory");
    assert_eq!(register(0, PAGE_AT + 64, 1), Ok(0));
    let counter = OpenFile::new(
        crate::event::eventfd::EventFd::new(0, false),
        OpenFlags::NONBLOCK,
    );
    let fd = machine.thread.process.files.add(counter.clone(), false, 0);
    UserAddr(PAGE_AT + 80)
        .write(fd.expect("room"))
        .expect("memory");
    assert_eq!(register(4, PAGE_AT + 80, 1), Ok(0));
    machine.write(b"fixed");
    let read = |addr, buffer| Entry {
        opcode: op::READ_FIXED,
        flags: Flags::FIXED_FILE,
        addr,
        len: 20,
        buffer,
        ..Entry::default()
    };
    machine.push(&read(PAGE_AT + 4096 + 90, 0));
    machine.push(&read(PAGE_AT + 4096, 1));
    machine.push(&read(PAGE_AT + 4096 + 10, 0));
    machine.enter(3).expect("submitted");
    let fault = -Errno::EFAULT.0;
    assert_eq!(machine.take(), [(0, fault), (0, fault), (0, 5)]);
    assert!(counter.file.poll(&counter).contains(Events::IN));
    // What operations there are.
    assert_eq!(register(8, PAGE_AT + 2048, 256), Ok(0));
    let last: u8 = UserAddr(PAGE_AT + 2048).read().expect("memory");
    assert_eq!(last, op::END - 1);
    assert_eq!(register(99, 0, 0), Err(Errno::EINVAL));
}

#[test]
fn a_poll_of_the_instance_itself_does_not_wake_itself_for_ever() {
    let machine = Machine::new();
    let own = OpenFile::new(machine.uring.clone(), OpenFlags::RDWR);
    let fd = machine.thread.process.files.add(own, false, 0);
    machine.push(&Entry {
        fd: fd.expect("room"),
        len: 1,
        ..Machine::poll(1)
    });
    machine.push(&Machine::nop(2));
    machine.enter(2).expect("submitted");
    let all = machine.take();
    assert_eq!(all.first(), Some(&(2, 0)));
    assert!(all.len() < 4, "{all:?}");
}

#[test]
fn what_is_started_by_a_timer_does_not_sleep() {
    let machine = Machine::new();
    let ran = Rc::new(Cell::new(None));
    detached(|| {
        let never = wait::sleep_until(&machine.thread, &[], None, || None::<()>);
        ran.set(Some(never));
    });
    assert_eq!(ran.get(), Some(Err(Errno::EAGAIN)));
    assert!(!crate::kernel().event.is_detached());
}

#[test]
fn entering_waits_for_completions() {
    let machine = Machine::new();
    machine.push(&Machine::timeout(1, 5000, op::TIMEOUT));
    let before = crate::platform::now();
    let done = machine.uring.enter(&machine.thread, 1, Some(1), None);
    assert_eq!(done, Ok(1));
    assert_eq!(crate::platform::now() - before, 5000);
    let late = Some(crate::platform::now() + 100);
    machine.take();
    let done = machine.uring.enter(&machine.thread, 0, Some(1), late);
    assert_eq!(done, Err(Errno::ETIME));
}
