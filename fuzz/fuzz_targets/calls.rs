//! System calls that a program makes, one after the other, with arguments that make some sense.
//!
//! Each call is two bytes for its number and then its arguments, as the signature of the call has them: a byte that says what kind of value it
//! is to be, and bytes for the value. Descriptors are those that the program begins with or that earlier calls have answered with; addresses
//! lie in an area of the program's own, where buffers and records are filled with further bytes. Numbers that no call has stand for calls whose records are
//! put together as programs do it: epoll, descriptors in messages, splicing, timers, signals, `io_uring`. After each call signals are delivered.
//!
//! The machine may end by a call or by a signal, as it may for any program. It must not panic, work without end, or take memory that a
//! number of the program's has named.
#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Once;

use kiln_fs::erofs::{Meta, Source, Tree};
use kiln_linux::platform::pretend;
use kiln_linux::process::{RunState, Thread};
use kiln_linux::syscalls::{self, Args, signature, table};
use kiln_linux::user::{PAGE, USER_END, UserAddr};
use kiln_linux::{dev, fs, kernel, signal};
use libfuzzer_sys::fuzz_target;

/// The most that is allocated at once: libFuzzer looks at allocations only with a sanitizer's help.
const MOST_AT_ONCE: usize = 64 << 20;

struct Limited;

#[global_allocator]
static ALLOCATOR: Limited = Limited;

impl Limited {
    /// libFuzzer's hook ends the process: nothing unwinds from here.
    fn check(size: usize) {
        if size > MOST_AT_ONCE {
            panic!("{size} bytes are allocated at once");
        }
    }
}

// SAFETY: all is the system allocator's doing.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::check(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::check(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::check(size);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

/// The program's own memory.
const SCRATCH: u64 = 0x10_0000;
const SCRATCH_LEN: u64 = 64 * PAGE;
/// The part of it that strings, buffers and records are put into, in turn.
const ROOM: u64 = SCRATCH_LEN / 2;
/// Where its stack begins.
const STACK: u64 = SCRATCH + SCRATCH_LEN - PAGE;
/// Numbers from here on, which no call has, stand for calls with records that go together.
const FIRST_RECIPE: u64 = 480;
/// Calls of an input.
const MOST: usize = 64;

const PATHS: &[&[u8]] = &[
    b"/tmp/f",
    b"/tmp/d",
    b"/tmp/d/n",
    b"/tmp/l",
    b"/tmp",
    b"/",
    b".",
    b"..",
    b"",
    b"f",
    b"d/../f",
    b"/usr/bin/static",
    b"/usr/bin/dynamic",
    b"/usr/bin/script",
    b"/etc/passwd",
    b"/usr/share/big",
    b"/usr/share",
    b"/loop",
    b"/dev/null",
    b"/dev/zero",
    b"/dev/random",
    b"/dev/tty",
    b"/dev/ptmx",
    b"/dev/pts/0",
    b"/dev/console",
    b"/dev/shm/s",
    b"/proc/self/maps",
    b"/proc/self/smaps",
    b"/proc/self/status",
    b"/proc/self/stat",
    b"/proc/self/mem",
    b"/proc/self/pagemap",
    b"/proc/self/fd/5",
    b"/proc/self/fd",
    b"/proc/self/fdinfo/3",
    b"/proc/self/exe",
    b"/proc/self/task/1/comm",
    b"/proc/self/oom_score_adj",
    b"/proc/meminfo",
    b"/proc/mounts",
    b"/proc/net/tcp",
    b"/proc/net/unix",
    b"/proc/sys/kernel/hostname",
    b"/proc/sys/net/core/somaxconn",
    b"/sys/devices/system/cpu/online",
    b"user.a",
    b"security.b",
    b"tmpfs",
    b"proc",
];

const INTERESTING: &[u64] = &[
    u64::MAX,
    1 << 63,
    (1 << 63) - 1,
    (1 << 63) - PAGE,
    u64::MAX - PAGE + 1,
    1 << 62,
    0xffff_ffff,
    0x8000_0000,
    0x7fff_ffff,
    0x7fff_f000,
    1 << 32,
    1 << 47,
    USER_END,
    USER_END - PAGE,
    USER_END - 1,
    0x10000,
    PAGE - 1,
    1_000_000_000,
    999_999_999,
    i64::MIN as u64 + 1,
];

/// Flags of `open(2)` that go with others.
const OPEN: &[u64] = &[0, 1, 2, 0o101, 0o102, 0o1102, 0o2102, 0o200_000, 0o4002];

/// What the input has left; zeroes when there is nothing.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u64 {
        self.number(1)
    }

    fn number(&mut self, bytes: usize) -> u64 {
        let mut word = [0; 8];
        let taken = self.take(bytes);
        word[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(word)
    }

    fn take(&mut self, len: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

struct Program<'a> {
    thread: Rc<Thread>,
    input: Input<'a>,
    results: Vec<u64>,
    /// Where the next bytes are put.
    next: u64,
}

impl Program<'_> {
    fn put(&mut self, bytes: &[u8]) -> u64 {
        if self.next + bytes.len() as u64 > SCRATCH + ROOM {
            self.next = SCRATCH;
        }
        let at = self.next;
        // What the program has made of its memory is its own affair.
        let _ = UserAddr(at).write_bytes(bytes);
        self.next = (at + bytes.len() as u64).next_multiple_of(8);
        at
    }

    fn result(&self, which: u64) -> u64 {
        let count = self.results.len().max(1);
        self.results
            .get(which as usize % count)
            .copied()
            .unwrap_or(which)
    }

    fn string(&mut self, choice: u64) -> u64 {
        match choice {
            0..60 => {
                let path = PATHS[choice as usize % PATHS.len()];
                self.put(&[path, b"\0"].concat())
            }
            _ => {
                let len = self.input.byte() as usize;
                let text = self.input.take(len).to_vec();
                self.put(&[&text[..], b"\0"].concat())
            }
        }
    }

    fn pointer(&mut self, choice: u64, depth: u32) -> u64 {
        match choice {
            0..16 => {
                let len = self.input.byte() as usize;
                let bytes = self.input.take(len).to_vec();
                self.put(&bytes)
            }
            // A record of words, some of which may be addresses themselves.
            16..32 if depth < 3 => {
                let mut record = Vec::new();
                for _ in 16..=choice {
                    let kind = self.input.byte();
                    let word = self.argument(b"fsppUUxi"[kind as usize % 8], kind >> 3, depth + 1);
                    record.extend(word.to_le_bytes());
                }
                self.put(&record)
            }
            32..44 => SCRATCH + self.input.number(2) * 4 % SCRATCH_LEN,
            44..52 => 0,
            52..56 => SCRATCH + SCRATCH_LEN - self.input.byte(),
            56..60 => {
                let which = self.input.byte();
                self.result(which)
            }
            _ => self.wild(),
        }
    }

    fn number(&mut self, choice: u64) -> u64 {
        match choice {
            0..16 => choice,
            16..32 => self.input.byte(),
            32..40 => self.input.number(2),
            40..44 => PAGE * self.input.byte(),
            44..50 => 1 << (self.input.byte() % 64),
            50..52 => self.input.byte().wrapping_neg(),
            52..54 => SCRATCH + self.input.byte() * PAGE,
            _ => self.wild(),
        }
    }

    fn wild(&mut self) -> u64 {
        let choice = self.input.byte();
        match INTERESTING.get(choice as usize) {
            Some(&number) => number,
            None if choice < 128 => self.input.number(4),
            None => self.input.number(8),
        }
    }

    fn argument(&mut self, kind: u8, choice: u64, depth: u32) -> u64 {
        let (choice, other) = (choice % 64, choice >= 192);
        let kind = if other {
            b"fspUxS"[choice as usize % 6]
        } else {
            kind
        };
        match kind {
            b'f' => match choice {
                0..20 => choice,
                20..58 => self.result(choice - 20),
                58..61 => fs::AT_FDCWD as u64,
                _ => self.wild(),
            },
            b's' => self.string(choice),
            b'p' | b'r' | b'w' => self.pointer(choice, depth),
            b'O' => match OPEN.get(choice as usize) {
                Some(&flags) => flags,
                None => self.input.number(3),
            },
            b'S' => choice,
            b'x' | b'o' => match choice {
                0..8 => choice,
                8..42 => 1 << (choice - 8),
                42..54 => self.input.number(2),
                54..60 => (1 << (self.input.byte() % 34)) | (1 << (self.input.byte() % 34)),
                _ => self.wild(),
            },
            _ => self.number(choice),
        }
    }

    /// Makes a call as a program does, with what follows on the way back.
    fn call(&mut self, number: u64, args: [u64; 6]) -> u64 {
        let thread = &self.thread;
        let mut registers = thread.registers.get();
        registers.orig_rax = number;
        thread.registers.set(registers);
        kernel().active_memory.set(&thread.process.memory);
        let result = syscalls::perform(thread, number, Args(args));
        let mut registers = thread.registers.get();
        registers.rax = result;
        thread.registers.set(registers);
        if thread.work.get() {
            // Nobody else is there to let a process go on that has been stopped.
            let stopped = thread.clone();
            pretend::while_asleep(move || stopped.process.signals.stopped.set(None));
            signal::before_return(thread);
        }
        result
    }

    fn set_up(&mut self) {
        const MMAP: u64 = 9;
        self.call(MMAP, [SCRATCH, SCRATCH_LEN, 3, 0x32, u64::MAX, 0]);
        let mut registers = self.thread.registers.get();
        registers.rsp = STACK;
        registers.rip = SCRATCH + 2;
        self.thread.registers.set(registers);
        if self.thread.process.files.numbers().len() > 3 {
            return;
        }
        let at = self.put(&[0; 16]);
        let memory = self.put(b"m\0");
        let file = self.put(b"/tmp/f\0");
        let folder = self.put(b"/tmp/d\0");
        let link = self.put(b"/tmp/l\0");
        const SOCKET: u64 = 41;
        for (number, args) in [
            (SOCKET, [2, 1, 0, 0]),
            (SOCKET, [2, 2, 0, 0]),
            (SOCKET, [10, 1, 0, 0]),
            (53, [1, 1, 0, at]),
            (53, [1, 5, 0, at]),
            (293, [at, 0, 0, 0]),
            (290, [1, 0, 0, 0]),
            (291, [0, 0, 0, 0]),
            (2, [file, 0o102, 0o644, 0]),
            (1, [14, SCRATCH, 5000, 0]),
            (319, [memory, 0, 0, 0]),
            (283, [1, 0, 0, 0]),
            (253, [0, 0, 0, 0]),
            (83, [folder, 0o755, 0, 0]),
            (2, [folder, 0, 0, 0]),
            (88, [file, link, 0, 0]),
        ] {
            let [a, b, c, d] = args;
            self.call(number, [a, b, c, d, 0, 0]);
        }
    }

    /// A descriptor: one of those of the start, or one that a call has answered with.
    fn descriptor(&mut self) -> u64 {
        match self.input.byte() {
            choice @ 0..64 => choice % 24,
            choice => self.result(choice),
        }
    }

    fn words(&mut self, words: &[u64]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.put(&bytes)
    }

    fn told(&mut self, number: u64, args: [u64; 6]) -> u64 {
        if VERBOSE.get() {
            eprintln!("{number} {args:x?}");
        }
        let result = self.call(number, args);
        if VERBOSE.get() {
            eprintln!("  = {result:#x}");
        }
        if result.cast_signed() > 2 {
            self.results.push(result);
        }
        result
    }

    /// Calls whose records are hard to guess, put together as programs do it.
    fn recipe(&mut self, which: u64) {
        match which % 12 {
            // epoll_ctl(2) and epoll_wait(2).
            0 => {
                let (epoll, fd) = (self.descriptor(), self.descriptor());
                let events = (self.input.byte() | self.input.byte() << 24) as u32;
                let event = [&events.to_ne_bytes()[..], &[7; 8]].concat();
                let event = self.put(&event);
                let operation = 1 + self.input.byte() % 3;
                self.told(233, [epoll, operation, fd, event, 0, 0]);
                self.told(232, [epoll, SCRATCH + ROOM, 8, 0, 0, 0]);
            }
            // sendmsg(2) with descriptors.
            1 => {
                let count = self.input.byte() % 4;
                let mut control = vec![];
                control.extend((16 + 4 * count).to_ne_bytes());
                control.extend([1_u32, 1].iter().flat_map(|word| word.to_ne_bytes()));
                for _ in 0..count {
                    control.extend((self.descriptor() as u32).to_ne_bytes());
                }
                let len = control.len() as u64;
                let control = self.put(&control);
                let bytes = self.input.byte();
                let vector = self.words(&[SCRATCH, bytes]);
                let header = self.words(&[0, 0, vector, 1, control, len, 0]);
                let (fd, flags) = (self.descriptor(), self.input.byte() & 0x40);
                self.told(46, [fd, header, flags | 0x4000, 0, 0, 0]);
            }
            // recvmsg(2) with room for them.
            2 => {
                let (bytes, room) = (self.input.byte(), self.input.byte());
                let vector = self.words(&[SCRATCH + ROOM, bytes]);
                let header = self.words(&[0, 0, vector, 1, SCRATCH + ROOM + 4096, room, 0]);
                let (fd, flags) = (self.descriptor(), self.input.byte());
                self.told(47, [fd, header, flags, 0, 0, 0]);
            }
            // splice(2), tee(2), vmsplice(2), sendfile(2), copy_file_range(2).
            3 => {
                let (from, to) = (self.descriptor(), self.descriptor());
                let (len, flags) = (self.input.number(2), self.input.byte() % 16);
                let vector = self.words(&[SCRATCH, len]);
                match self.input.byte() % 5 {
                    0 => self.told(275, [from, 0, to, 0, len, flags]),
                    1 => self.told(276, [from, to, len, flags, 0, 0]),
                    2 => self.told(278, [from, vector, 1, flags, 0, 0]),
                    3 => self.told(40, [to, from, 0, len, 0, 0]),
                    _ => self.told(326, [from, 0, to, 0, len, 0]),
                };
            }
            // timer_create(2) and timer_settime(2).
            4 => {
                let signal = self.input.byte() % 66;
                let notify = self.input.byte() % 5;
                let event = self.words(&[9, signal | notify << 32, 1, 0, 0, 0, 0, 0]);
                let clock = self.input.byte() % 12;
                let id = SCRATCH + ROOM;
                if self.told(222, [clock, event, id, 0, 0, 0]) == 0 {
                    let id = UserAddr(id).read::<u32>().unwrap_or(0).into();
                    let (first, again) = (self.input.number(2), self.input.number(2));
                    let times = self.words(&[0, again, 0, first]);
                    let byte = self.input.byte();
                    self.told(223, [id, byte & 1, times, 0, 0, 0]);
                }
            }
            // timerfd_settime(2), setitimer(2).
            5 => {
                let (first, again) = (self.input.number(2), self.input.number(2));
                let times = self.words(&[0, again, 0, first]);
                let fd = self.descriptor();
                let byte = self.input.byte();
                self.told(286, [fd, byte & 3, times, 0, 0, 0]);
                let byte = self.input.byte();
                self.told(38, [byte % 3, times, 0, 0, 0, 0]);
            }
            // mmap(2) of a file, mremap(2), and parts taken away again.
            6 => {
                let fd = self.descriptor();
                let pages = 1 + self.input.byte() % 8;
                let shared = 1 + self.input.byte() % 2;
                let at = self.told(9, [0, pages * PAGE, 3, shared, fd, 0]);
                if at.cast_signed() > 0 {
                    let _ = UserAddr(at).write(7_u64);
                    let (old, new) = (self.input.byte() % 9, self.input.byte() % 9);
                    let moved = self.told(25, [at, old * PAGE, new * PAGE, 1, 0, 0]);
                    let from = self.input.byte() % 8;
                    self.told(11, [moved.wrapping_add(from * PAGE), PAGE, 0, 0, 0, 0]);
                    let byte = self.input.byte();
                    self.told(10, [at, PAGE, byte % 4, 0, 0, 0]);
                    let byte = self.input.byte();
                    self.told(28, [at, pages * PAGE, byte % 26, 0, 0, 0]);
                }
            }
            // sigaction(2), and the signal.
            7 => {
                let signal = 1 + self.input.byte() % 64;
                let flags = [0, 4, 0x1000_0000, 0x4000_0000, 0x8000_0000, 0x800_0004];
                let flags = flags[self.input.byte() as usize % 6] | 0x0400_0000;
                let handler = [0, 1, SCRATCH + 64][self.input.byte() as usize % 3];
                let mask = self.input.number(8);
                let action = self.words(&[handler, flags, SCRATCH + 80, mask]);
                self.told(13, [signal, action, 0, 8, 0, 0]);
                let info =
                    self.words(&[signal, u64::MAX, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                match self.input.byte() % 3 {
                    0 => self.told(62, [1, signal, 0, 0, 0, 0]),
                    1 => self.told(234, [1, 1, signal, 0, 0, 0]),
                    _ => self.told(129, [1, signal, info, 0, 0, 0]),
                };
            }
            // futex(2).
            8 => {
                // With `FUTEX_PRIVATE_FLAG` and `FUTEX_CLOCK_REALTIME`.
                let operation = (self.input.byte() % 14) | (self.input.byte() & 0xc0) << 1;
                let (word, other) = (SCRATCH + self.input.byte() * 4, SCRATCH + self.input.byte());
                let time = self.words(&[0, 1000]);
                let (value, third) = (self.input.byte(), self.input.number(4));
                let fourth = if operation & 3 == 0 { time } else { value };
                self.told(202, [word, operation, value, fourth, other, third]);
            }
            // io_uring_setup(2), its rings, a request, io_uring_enter(2).
            9 => {
                let entries = 1 + self.input.byte() % 16;
                let parameters = self.put(&[0; 120]);
                let fd = self.told(425, [entries, parameters, 0, 0, 0, 0]);
                if fd.cast_signed() < 0 {
                    return;
                }
                let rings = self.told(9, [0, 8192, 3, 0x8001, fd, 0]);
                let requests = self.told(9, [0, 4096, 3, 0x8001, fd, 0x1000_0000]);
                if rings.cast_signed() < 0 || requests.cast_signed() < 0 {
                    return;
                }
                let count = 1 + self.input.byte() % 4;
                for place in 0..count {
                    let (code, flags) = (self.input.byte() % 64, self.input.byte());
                    let target = self.descriptor() as u32;
                    let (offset, at) = (self.input.number(2), SCRATCH + self.input.number(2));
                    let (len, rest) = (self.input.number(2) as u32, self.input.number(4) as u32);
                    let head = code | flags << 8 | u64::from(target) << 32;
                    let request = [
                        head,
                        offset,
                        at,
                        u64::from(len) | u64::from(rest) << 32,
                        1,
                        0,
                        0,
                        0,
                    ];
                    let _ = UserAddr(requests + place * 64).write(request);
                }
                // `sq_off.tail` and `sq_off.array` of the answer.
                let word = |at: u64| UserAddr(parameters + at).read::<u32>().unwrap_or(0);
                let (tail, array) = (word(44), word(64));
                for place in 0..count {
                    let _ = UserAddr(rings + u64::from(array) + place * 4).write(place as u32);
                }
                let _ = UserAddr(rings + u64::from(tail)).write(count as u32);
                let byte = self.input.byte();
                self.told(426, [fd, count, byte % 3, 1, 0, 0]);
            }
            // bind(2), listen(2), connect(2), accept(2) of an abstract name.
            10 => {
                let name = [1_u8, 0, 0, b'a' + self.input.byte() as u8 % 3];
                let name = self.put(&name);
                let fd = self.descriptor();
                match self.input.byte() % 4 {
                    0 => self.told(49, [fd, name, 4, 0, 0, 0]),
                    1 => {
                        let byte = self.input.byte();
                        self.told(50, [fd, byte % 4, 0, 0, 0, 0])
                    }
                    2 => self.told(42, [fd, name, 4, 0, 0, 0]),
                    _ => self.told(288, [fd, 0, 0, 0o4000, 0, 0]),
                };
            }
            // New descriptors, and memory that runs low.
            _ => {
                let kind = [1, 2, 5][self.input.byte() as usize % 3];
                match self.input.byte() % 5 {
                    0 => self.told(53, [1, kind | 0o4000, 0, SCRATCH + ROOM, 0, 0]),
                    1 => self.told(41, [1, kind | 0o4000, 0, 0, 0, 0]),
                    2 => self.told(293, [SCRATCH + ROOM, 0o4000, 0, 0, 0, 0]),
                    3 => {
                        let byte = self.input.byte();
                        self.told(290, [byte, 0o4000, 0, 0, 0, 0])
                    }
                    _ => {
                        pretend::take_memory(self.input.byte() << 17);
                        0
                    }
                };
            }
        }
    }

    fn run(&mut self) {
        for _ in 0..MOST {
            if self.input.0.is_empty() {
                break;
            }
            if self.thread.process.memory.region(SCRATCH).is_none() {
                self.set_up();
            }
            let number = self.input.number(2) % table::COUNT as u64;
            if number >= FIRST_RECIPE {
                self.recipe(number - FIRST_RECIPE);
                if self.thread.state.get() == RunState::Dead {
                    break;
                }
                continue;
            }
            let Some((_, name, kinds)) = signature::find(number) else {
                continue;
            };
            if table::find(number).is_none() {
                continue;
            }
            let mut args = [0; 6];
            for (arg, kind) in args.iter_mut().zip(kinds.bytes()) {
                let choice = self.input.byte();
                *arg = self.argument(kind, choice, 0);
            }
            if VERBOSE.get() {
                eprintln!("{name} {args:x?}");
            }
            let result = self.call(number, args);
            if VERBOSE.get() {
                eprintln!("  = {:#x}", result);
            }
            if result.cast_signed() > 2 {
                self.results.push(result);
            }
            if self.thread.state.get() == RunState::Dead {
                break;
            }
        }
    }
}

std::thread_local! {
    static VERBOSE: Cell<bool> = const { Cell::new(false) };
}

/// What there is to do once: a root image, and that the end of the machine is not a finding.
fn prepare() {
    VERBOSE.set(std::env::var_os("KILN_FUZZ_VERBOSE").is_some());
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or_default();
        if !text.starts_with("the machine has ended") {
            hook(info);
        }
    }));
    let mut tree = Tree::new(Meta::new(0o755));
    let static_program = include_bytes!("../corpus/loader/static");
    let dynamic_program = include_bytes!("../corpus/loader/dynamic");
    for (path, mode, content) in [
        (&b"/usr/bin/static"[..], 0o755, &static_program[1..]),
        (b"/usr/bin/dynamic", 0o755, &dynamic_program[1..]),
        (b"/usr/bin/script", 0o755, b"#!/usr/bin/static -x\n"),
        (b"/etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n"),
        (b"/usr/share/big", 0o644, &[7; 20_000]),
    ] {
        let content = Source::Bytes(content.to_vec());
        tree.file(path, Meta::new(mode), content).expect("a file");
    }
    tree.symlink(b"/loop", Meta::new(0o777), b"loop")
        .expect("a link");
    pretend::set_root_image(tree.to_bytes().expect("an image"));
}

fuzz_target!(|bytes: &[u8]| {
    static ONCE: Once = Once::new();
    ONCE.call_once(prepare);
    pretend::reset();
    let thread = kernel().processes.first();
    fs::start().expect("file systems on the root image");
    // Half of the programs sit at a terminal.
    if bytes.last().is_some_and(|byte| byte & 1 == 1) {
        dev::set_terminal(80, 24, 0);
    }
    for open in dev::standard(&thread, false).expect("the console") {
        thread.process.files.add(open, false, 0).expect("room");
    }
    let mut program = Program {
        thread: thread.clone(),
        input: Input(bytes),
        results: Vec::new(),
        next: SCRATCH,
    };
    let _ended = catch_unwind(AssertUnwindSafe(|| {
        program.set_up();
        program.run();
    }));
    // Processes, threads and descriptors hold each other.
    let _ended = catch_unwind(AssertUnwindSafe(|| {
        for process in kernel().processes.all() {
            for fd in process.files.numbers() {
                drop(process.files.remove(fd));
            }
            process.timers.clear();
            process.memory.clear();
            for thread in process.all_threads() {
                process.threads.borrow_mut().remove(&thread.tid);
            }
        }
    }));
    pretend::reset();
});
