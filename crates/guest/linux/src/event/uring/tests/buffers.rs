//! Buffers that reads choose from, and words about resources that go.

use super::*;

/// What one completion says: name, result, flags.
fn completions(machine: &Machine) -> Vec<(u32, i32, u32)> {
    let uring = &machine.uring;
    let mut all = Vec::new();
    while uring.available() > 0 {
        let head = uring.word(Layout::CQ_HEAD);
        let at = Layout::CQES + (head & 15) as usize * 16;
        let result = uring.word(at + 8).cast_signed();
        all.push((uring.word(at), result, uring.word(at + 12)));
        uring.set(Layout::CQ_HEAD, head.wrapping_add(1));
    }
    all
}

fn chosen(user_data: u32, group: u16) -> Entry {
    Entry {
        opcode: op::READ,
        flags: Flags::BUFFER_SELECT,
        off: u64::MAX,
        user_data,
        buffer: group,
        ..Entry::default()
    }
}

fn provide(count: i32, first: u64, group: u16) -> Entry {
    Entry {
        opcode: op::PROVIDE_BUFFERS,
        fd: count,
        off: first,
        addr: PAGE_AT + 4096,
        len: 4,
        buffer: group,
        ..Entry::default()
    }
}

/// `IORING_CQE_F_BUFFER` with a number.
fn named(id: u32) -> u32 {
    1 | (id << 16)
}

#[test]
fn reads_choose_among_buffers_that_were_given() {
    let machine = Machine::new();
    machine.push(&provide(2, 7, 3));
    machine.push(&chosen(1, 3));
    machine.enter(2).expect("submitted");
    assert_eq!(completions(&machine), [(0, 0, 0)]);
    machine.write(b"abcdef");
    machine.enter(0).expect("entered");
    assert_eq!(completions(&machine), [(1, 4, named(7))]);
    assert_eq!(UserAddr(PAGE_AT + 4096).read(), Ok(*b"abcd"));
    machine.push(&chosen(2, 3));
    machine.push(&chosen(3, 3));
    machine.enter(2).expect("submitted");
    let none = -Errno::ENOBUFS.0;
    assert_eq!(completions(&machine), [(2, 2, named(8)), (3, none, 0)]);
    assert_eq!(UserAddr(PAGE_AT + 4100).read(), Ok(*b"ef"));
    // What was given can be taken back.
    let remove = |count| Entry {
        opcode: op::REMOVE_BUFFERS,
        fd: count,
        buffer: 3,
        ..Entry::default()
    };
    machine.push(&provide(4, 0, 3));
    machine.push(&remove(3));
    machine.push(&remove(3));
    machine.push(&provide(0, 0, 3));
    machine.enter(4).expect("submitted");
    let results: Vec<i32> = completions(&machine).iter().map(|all| all.1).collect();
    assert_eq!(results, [0, 3, 1, -Errno::E2BIG.0]);
    let mut write = chosen(4, 3);
    write.opcode = op::WRITE;
    machine.push(&write);
    machine.enter(1).expect("submitted");
    let unsupported = -Errno::EOPNOTSUPP.0;
    assert_eq!(completions(&machine), [(4, unsupported, 0)]);
}

#[test]
fn reads_choose_from_a_ring_of_the_programs_memory() {
    const REGISTER: u32 = 22;
    const UNREGISTER: u32 = 23;
    let machine = Machine::new();
    let (ring, record) = (PAGE_AT + 4096, PAGE_AT);
    let register = |what, entries: u32| {
        let at = UserAddr(record);
        at.write([ring, u64::from(entries) | (5 << 32), 0, 0, 0])
            .expect("memory");
        machine.uring.register(&machine.thread, what, at, 1)
    };
    assert_eq!(register(REGISTER, 3), Err(Errno::EINVAL));
    assert_eq!(register(REGISTER, 4), Ok(0));
    assert_eq!(register(REGISTER, 4), Err(Errno::EEXIST));
    machine.write(b"hello");
    machine.push(&chosen(1, 5));
    machine.enter(1).expect("submitted");
    assert_eq!(completions(&machine), [(1, -Errno::ENOBUFS.0, 0)]);
    let entry = UserAddr(ring);
    entry
        .write([PAGE_AT + 8192, 3 | (9 << 32)])
        .expect("memory");
    entry.add(14).write(1_u16).expect("memory");
    machine.push(&chosen(2, 5));
    machine.push(&chosen(3, 5));
    machine.enter(2).expect("submitted");
    let none = -Errno::ENOBUFS.0;
    assert_eq!(completions(&machine), [(2, 3, named(9)), (3, none, 0)]);
    assert_eq!(UserAddr(PAGE_AT + 8192).read(), Ok(*b"hel"));
    assert_eq!(register(UNREGISTER, 4), Ok(0));
    assert_eq!(register(UNREGISTER, 4), Err(Errno::ENOENT));
}

#[test]
fn words_tell_of_registered_files_that_go() {
    const FILES2: u32 = 13;
    const UPDATE2: u32 = 14;
    const UNREGISTER: u32 = 3;
    let machine = Machine::new();
    let at = UserAddr(PAGE_AT);
    let register = |what, record: [u64; 4]| {
        at.write(record).expect("memory");
        machine.uring.register(&machine.thread, what, at, 32)
    };
    let (numbers, tags) = (PAGE_AT + 64, PAGE_AT + 128);
    UserAddr(numbers).write([0_i32, 1]).expect("memory");
    UserAddr(tags).write([70_u64, 71]).expect("memory");
    assert_eq!(register(FILES2, [2, 0, numbers, tags]), Ok(0));
    assert_eq!(completions(&machine), []);
    assert_eq!(register(UPDATE2, [1, numbers, 0, 1]), Ok(1));
    assert_eq!(completions(&machine), [(71, 0, 0)]);
    let gone = machine
        .uring
        .register(&machine.thread, UNREGISTER, UserAddr(0), 0);
    assert_eq!(gone, Ok(0));
    assert_eq!(completions(&machine), [(70, 0, 0)]);
}
