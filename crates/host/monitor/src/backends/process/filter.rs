//! The seccomp filter of a guest, built from the devices it has.
//!
//! Two rules stand before all others: another architecture's calls kill, or are turned into a signal if a Linux program runs; and a call from anywhere but the gate's code
//! is turned into a signal, which the gate hands to the guest as a trap. Then each call of [`kiln_gate::sys`] is
//! allowed with exactly the arguments that the gate uses; anything else kills the process.
//!
//! What the arguments are held to is what the host's safety rests on, see `docs/security.md`. Ranges of memory are
//! compared by start and length only; that is enough because nothing is mapped within 4 GiB behind them (see
//! [`layout`](super::layout)).

use kiln_abi::user::{USER_END, USER_START};
use kiln_abi::{DeviceInfo, DeviceKind};
use kiln_gate::devices::WRITE_CLASSES;
use kiln_gate::state::{CONSOLE_FD, CONTROL_FD, DeviceState, ERRORS_FD, FIRST_DEVICE_FD, Range};
use kiln_gate::sys::{
    MADV_DONTNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_POPULATE_READ, MADV_POPULATE_WRITE,
    MADV_REMOVE, MAP_COPY, MAP_POPULATE, MAP_SAME, MAP_ZERO, MREMAP_TO, PUNCH_HOLE, kvm, nr,
};

/// `AUDIT_ARCH_X86_64`.
const ARCH: u32 = 0xc000_003e;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_TRAP: u32 = 0x0003_0000;
const RET_KILL: u32 = 0x8000_0000;

/// Offsets in `struct seccomp_data`.
const AT_NR: u32 = 0;
const AT_ARCH: u32 = 4;
const AT_IP: u32 = 8;
const AT_ARGS: u32 = 16;

/// Instruction classes and modes of classic BPF (`<linux/bpf_common.h>`).
const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
/// An unconditional jump, whose offset has 32 bits.
const JUMP: u16 = 0x05;
/// The accumulator to the index register.
const KEEP: u16 = 0x07;
/// The index register to the accumulator's value.
const ADD_KEPT: u16 = 0x0c;
/// What is in both, the accumulator and the constant.
const AND: u16 = 0x54;

/// What the filter needs to know of an instance.
#[derive(Debug)]
pub struct Rules<'a> {
    /// The gate's code.
    pub gate: Range,
    /// Memory whose protection the guest may change.
    pub protectable: Range,
    /// Memory that the guest may make read-only or inaccessible, for good.
    pub sealable: Range,
    /// Memory that the guest may release.
    pub releasable: Range,
    /// The devices, in order.
    pub devices: &'a [DeviceState],
    /// The tick timer, if there is one.
    pub timer: Option<u32>,
    /// The virtual CPU, if the guest runs on one.
    pub vcpu: Option<u32>,
    /// The program that the guest runs, if it does.
    pub program: Option<ProgramRules>,
}

/// What a guest needs that runs a program.
#[derive(Clone, Copy, Debug)]
pub struct ProgramRules {
    /// The guest's memory.
    pub memory: u32,
    /// Where in it the part begins that may be mapped.
    pub free_offset: u64,
    /// The file with the root image, if it has one.
    pub root: Option<u32>,
    /// The console's input.
    pub input: u32,
}

/// The filter's instructions, each a `struct sock_filter` as one word.
pub fn build(rules: &Rules) -> Vec<u64> {
    let mut f = Filter(Vec::with_capacity(256));
    f.load(AT_ARCH);
    // Of a program, the signal tells it that this kernel has no 32-bit calls.
    let other_calls = match rules.program {
        Some(_) => RET_TRAP,
        None => RET_KILL,
    };
    f.require(JUMP_EQUAL, ARCH, other_calls);
    f.load(AT_IP + 4);
    f.require(JUMP_EQUAL, (rules.gate.start >> 32) as u32, RET_TRAP);
    f.load(AT_IP);
    f.require(JUMP_GREATER_EQUAL, rules.gate.start as u32, RET_TRAP);
    // The pointer is behind the instruction.
    f.refuse(JUMP_GREATER, rules.gate.end as u32, RET_TRAP);
    f.load(AT_NR);

    let fds = |wanted: fn(&DeviceState) -> bool| -> Vec<u32> {
        let all = (FIRST_DEVICE_FD.cast_unsigned()..).zip(rules.devices);
        all.filter(|(_, d)| wanted(d)).map(|(fd, _)| fd).collect()
    };
    let nets = fds(|d| d.kind == DeviceKind::Net as u32);
    let disks = fds(|d| d.kind == DeviceKind::Block as u32);
    let writable = fds(writable_disk);
    let folders = fds(|d| d.kind == DeviceKind::Files as u32);

    // The most frequent first.
    if let Some(program) = &rules.program {
        f.on(nr::RT_SIGRETURN, |_| ());
        f.program_memory(program, rules.accesses());
    }
    if let Some(vcpu) = rules.vcpu {
        f.on(nr::IOCTL, |f| {
            if rules.program.is_some() {
                f.load_low(0);
                f.if_loaded(vcpu + 1, |f| {
                    f.among(1, &[kvm::SET_USER_MEMORY_REGION]);
                    f.ret(RET_ALLOW);
                });
            }
            f.fd_among(&[vcpu]);
            f.among(1, &[kvm::RUN, kvm::GET_SREGS]);
        });
    }
    if !nets.is_empty() {
        for number in [nr::READV, nr::WRITEV] {
            f.on(number, |f| {
                f.fd_among(&nets);
                f.at_most(2, kiln_abi::op::MAX_SEGMENTS + 1);
            });
        }
    }
    f.on(nr::PPOLL, |f| {
        f.at_most(1, kiln_abi::MAX_DEVICES as u64 + 1);
        f.equals(3, 0);
    });
    f.on(nr::CLOCK_GETTIME, |f| f.at_most(0, 1));
    let mut readers = vec![CONSOLE_FD.cast_unsigned(), ERRORS_FD.cast_unsigned()];
    readers.extend(&folders);
    f.on(nr::WRITE, |f| f.fd_among(&readers));
    if rules.program.is_none() {
        f.on(nr::RT_SIGRETURN, |_| ());
    }
    if !disks.is_empty() {
        f.on(nr::PREAD64, |f| f.fd_among(&disks));
        f.on(nr::FDATASYNC, |f| f.fd_among(&disks));
    }
    if !writable.is_empty() {
        f.on(nr::PWRITE64, |f| {
            for (fd, disk) in (FIRST_DEVICE_FD.cast_unsigned()..).zip(rules.devices) {
                if writable_disk(disk) {
                    f.write_inside(fd, disk.capacity);
                }
            }
            f.ret(RET_KILL);
        });
        f.on(nr::FALLOCATE, |f| {
            f.fd_among(&writable);
            f.equals(1, PUNCH_HOLE.into());
        });
    }
    let mut sources = folders;
    sources.extend(rules.program.map(|program| program.input));
    f.on(nr::READ, |f| {
        f.allow_fds(&sources);
        f.fd_among(&[CONTROL_FD.cast_unsigned()]);
        f.at_most(2, 4);
    });
    f.memory(rules);
    f.on(nr::GETRANDOM, |f| {
        f.at_most(1, kiln_abi::op::MAX_RANDOM);
        f.equals(2, 0);
    });
    if let Some(timer) = rules.timer {
        f.on(nr::TIMER_SETTIME, |f| {
            f.equals(0, timer.into());
            f.equals(1, 0);
            f.equals(3, 0);
        });
    }
    f.on(nr::EXIT_GROUP, |_| ());
    f.ret(RET_KILL);
    f.0
}

/// Reading, writing, executing.
const ANY_ACCESS: u64 = 7;
/// Reading, writing.
const DATA_ACCESS: u64 = 3;

impl Rules<'_> {
    /// The most that may be done with a program's memory. In a virtual machine this process never executes any of it.
    fn accesses(&self) -> u64 {
        if self.vcpu.is_some() {
            DATA_ACCESS
        } else {
            ANY_ACCESS
        }
    }
}

fn writable_disk(disk: &DeviceState) -> bool {
    disk.kind == DeviceKind::Block as u32 && disk.flags & DeviceInfo::READ_ONLY == 0
}

/// The upper half of the user range's end, the lower half of which is 0.
const USER_END_HIGH: u32 = (USER_END >> 32) as u32;
const _: () = assert!(USER_END.is_multiple_of(1 << 32) && USER_START < 1 << 32);

struct Filter(Vec<u64>);

impl Filter {
    fn emit(&mut self, code: u16, if_true: u8, if_false: u8, k: u32) {
        let word = u64::from(code)
            | u64::from(if_true) << 16
            | u64::from(if_false) << 24
            | u64::from(k) << 32;
        self.0.push(word);
    }

    fn load(&mut self, offset: u32) {
        self.emit(LOAD, 0, 0, offset);
    }

    fn load_low(&mut self, arg: u32) {
        self.load(AT_ARGS + arg * 8);
    }

    fn load_high(&mut self, arg: u32) {
        self.load(AT_ARGS + arg * 8 + 4);
    }

    fn ret(&mut self, action: u32) {
        self.emit(RETURN, 0, 0, action);
    }

    /// Goes on if the comparison holds, else does `action`.
    fn require(&mut self, comparison: u16, k: u32, action: u32) {
        self.emit(comparison, 1, 0, k);
        self.ret(action);
    }

    /// Goes on if the comparison does not hold, else does `action`.
    fn refuse(&mut self, comparison: u16, k: u32, action: u32) {
        self.emit(comparison, 0, 1, k);
        self.ret(action);
    }

    /// For system call `number`: the checks of `body`, then allow. Expects the number to be loaded, and leaves it so.
    fn on(&mut self, number: u32, body: impl FnOnce(&mut Self)) {
        let mut inner = Self(Vec::new());
        body(&mut inner);
        inner.ret(RET_ALLOW);
        // A long body is jumped over by an unconditional jump.
        self.emit(JUMP_EQUAL, 1, 0, number);
        self.emit(JUMP, 0, 0, inner.0.len() as u32);
        self.0.append(&mut inner.0);
    }

    fn equals(&mut self, arg: u32, value: u64) {
        self.among(arg, &[value as u32]);
    }

    /// Kills unless the argument is one of `values`.
    fn among(&mut self, arg: u32, values: &[u32]) {
        self.load_high(arg);
        self.require(JUMP_EQUAL, 0, RET_KILL);
        self.load_low(arg);
        self.low_among(values);
    }

    /// Descriptors are `int`s: the upper half of the register does not count.
    fn fd_among(&mut self, values: &[u32]) {
        self.load_low(0);
        self.low_among(values);
    }

    fn low_among(&mut self, values: &[u32]) {
        for (index, &value) in values.iter().enumerate() {
            let to_the_end = (values.len() - index) as u8;
            self.emit(JUMP_EQUAL, to_the_end, 0, value);
        }
        self.ret(RET_KILL);
    }

    /// Allows if argument 0 is one of these descriptors, else goes on.
    fn allow_fds(&mut self, values: &[u32]) {
        for &value in values {
            self.load_low(0);
            self.emit(JUMP_EQUAL, 0, 1, value);
            self.ret(RET_ALLOW);
        }
    }

    fn at_most(&mut self, arg: u32, most: u64) {
        self.load_high(arg);
        self.require(JUMP_EQUAL, 0, RET_KILL);
        self.load_low(arg);
        self.refuse(JUMP_GREATER, most as u32, RET_KILL);
    }

    /// Allows if argument 0 starts inside `range`, else goes on. Kills unless argument 1 is below 4 GiB.
    fn allow_range(&mut self, range: Range) {
        self.load_high(1);
        self.require(JUMP_EQUAL, 0, RET_KILL);
        if range.end > range.start {
            self.skip_unless_at_least(0, range.start, 6);
            self.skip_unless_at_most(0, range.end - 1, 1);
            self.ret(RET_ALLOW);
        }
    }

    /// Goes on if the 64-bit argument is at least `low`, else skips `skip` instructions behind these four.
    fn skip_unless_at_least(&mut self, arg: u32, low: u64, skip: u8) {
        let (high_word, low_word) = ((low >> 32) as u32, low as u32);
        self.load_high(arg);
        self.emit(JUMP_GREATER, 3, 0, high_word);
        self.emit(JUMP_EQUAL, 0, skip + 2, high_word);
        self.load_low(arg);
        self.emit(JUMP_GREATER_EQUAL, 0, skip, low_word);
    }

    /// Goes on if the 64-bit argument is at most `high`, else skips `skip` instructions behind these.
    fn skip_unless_at_most(&mut self, arg: u32, high: u64, skip: u8) {
        let (high_word, low_word) = ((high >> 32) as u32, high as u32);
        self.load_high(arg);
        self.emit(JUMP_GREATER, skip + 3, 0, high_word);
        self.emit(JUMP_EQUAL, 0, 2, high_word);
        self.load_low(arg);
        self.emit(JUMP_GREATER, skip, 0, low_word);
    }

    /// The calls by which the guest changes memory that is mapped already.
    fn memory(&mut self, rules: &Rules) {
        self.on(nr::MADVISE, |f| {
            if rules.program.is_some() {
                f.in_user_half(|f| {
                    f.user_range(0, 1);
                    f.among(
                        2,
                        &[
                            MADV_DONTNEED,
                            MADV_HUGEPAGE,
                            MADV_NOHUGEPAGE,
                            MADV_POPULATE_READ,
                            MADV_POPULATE_WRITE,
                        ],
                    );
                });
            }
            f.equals(2, MADV_REMOVE.into());
            f.allow_range(rules.releasable);
            f.ret(RET_KILL);
        });
        self.on(nr::MPROTECT, |f| {
            if rules.program.is_some() {
                f.in_user_half(|f| {
                    f.user_range(0, 1);
                    f.at_most(2, rules.accesses());
                });
            }
            // Nothing, reading, reading and writing; never executing.
            f.among(2, &[0, 1, 3]);
            f.allow_range(rules.protectable);
            f.among(2, &[0, 1]);
            f.allow_range(rules.sealable);
            f.ret(RET_KILL);
        });
    }

    /// The calls by which the guest changes what is mapped in the user range, where only the program's memory lies.
    fn program_memory(&mut self, program: &ProgramRules, accesses: u64) {
        self.on(nr::MMAP, |f| {
            f.user_range(0, 1);
            f.at_most(2, accesses);
            f.load_high(3);
            f.require(JUMP_EQUAL, 0, RET_KILL);
            // Zeroes: the descriptor does not count.
            f.if_flags(MAP_ZERO, |f| f.ret(RET_ALLOW));
            f.if_flags(MAP_COPY, |f| {
                f.load_low(4);
                f.if_loaded(program.memory, |f| f.free_memory(program));
                if let Some(root) = program.root {
                    f.if_loaded(root, |f| f.ret(RET_ALLOW));
                }
                f.ret(RET_KILL);
            });
            f.if_flags(MAP_SAME, |f| {
                f.load_low(4);
                f.if_loaded(program.memory, |f| f.free_memory(program));
                f.ret(RET_KILL);
            });
            f.ret(RET_KILL);
        });
        self.on(nr::MUNMAP, |f| f.user_range(0, 1));
        self.on(nr::MREMAP, |f| {
            f.user_range(0, 1);
            f.user_range(4, 2);
            f.equals(3, MREMAP_TO.into());
        });
    }

    /// Allows if the offset is not before the guest's free memory, else kills.
    fn free_memory(&mut self, program: &ProgramRules) {
        self.skip_unless_at_least(5, program.free_offset, 1);
        self.ret(RET_ALLOW);
        self.ret(RET_KILL);
    }

    /// If argument 3 is `flags`, with or without `MAP_POPULATE`: the checks of `body`, which decide. Else goes on.
    fn if_flags(&mut self, flags: u32, body: impl FnOnce(&mut Self)) {
        self.load_low(3);
        self.emit(AND, 0, 0, !MAP_POPULATE);
        self.if_loaded(flags, body);
    }

    /// If `value` is loaded: the checks of `body`, which decide. Else goes on, and leaves what is loaded.
    fn if_loaded(&mut self, value: u32, body: impl FnOnce(&mut Self)) {
        let mut inner = Self(Vec::new());
        body(&mut inner);
        self.emit(JUMP_EQUAL, 1, 0, value);
        self.emit(JUMP, 0, 0, inner.0.len() as u32);
        self.0.append(&mut inner.0);
    }

    /// If argument 0 lies below the end of the user range: the checks of `body`, then allow. Else goes on.
    fn in_user_half(&mut self, body: impl FnOnce(&mut Self)) {
        let mut inner = Self(Vec::new());
        body(&mut inner);
        inner.ret(RET_ALLOW);
        self.load_high(0);
        self.emit(JUMP_GREATER_EQUAL, 0, 1, USER_END_HIGH);
        self.emit(JUMP, 0, 0, inner.0.len() as u32);
        self.0.append(&mut inner.0);
    }

    /// Kills unless what starts at argument `start` and is as long as argument `len` says lies in the user range, or less than
    /// 8 GiB behind it, where nothing is.
    fn user_range(&mut self, start: u32, len: u32) {
        self.load_high(start);
        self.refuse(JUMP_GREATER_EQUAL, USER_END_HIGH, RET_KILL);
        // Page 0 and those behind it stay unmapped, whatever the host's own rule is.
        self.emit(JUMP_EQUAL, 0, 3, 0);
        self.load_low(start);
        self.require(JUMP_GREATER_EQUAL, USER_START as u32, RET_KILL);
        self.load_high(len);
        self.refuse(JUMP_GREATER, USER_END_HIGH, RET_KILL);
        self.emit(KEEP, 0, 0, 0);
        self.load_high(start);
        self.emit(ADD_KEPT, 0, 0, 0);
        self.refuse(JUMP_GREATER, USER_END_HIGH, RET_KILL);
    }

    /// For `pwrite64` on `fd`: allows what ends inside `capacity`, kills the rest. Other descriptors go on behind.
    fn write_inside(&mut self, fd: u32, capacity: u64) {
        let mut inner = Self(Vec::new());
        inner.load_high(2);
        inner.require(JUMP_EQUAL, 0, RET_KILL);
        for class in WRITE_CLASSES.into_iter().filter(|&class| class <= capacity) {
            inner.load_low(2);
            inner.emit(JUMP_GREATER, 6, 0, class as u32);
            inner.skip_unless_at_most(3, capacity - class, 1);
            inner.ret(RET_ALLOW);
        }
        inner.ret(RET_KILL);
        self.load_low(0);
        self.emit(JUMP_EQUAL, 0, inner.0.len() as u8, fd);
        self.0.append(&mut inner.0);
    }
}

#[cfg(test)]
mod tests;
