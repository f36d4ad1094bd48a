//! Tests of calls that have their logic in the files of this folder: threads, processes, identities, the machine.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use crate::process::testing::{MEMORY, STACK, call, first};
use crate::process::{RunState, Thread};
use crate::user::UserAddr;
use crate::{Errno, kernel};

const OUT: UserAddr = MEMORY.add(1024);

fn error(errno: Errno) -> i64 {
    -i64::from(errno.0)
}

fn bytes(at: UserAddr, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    at.read_bytes(&mut bytes).expect("mapped");
    bytes
}

mod threads {
    use super::*;

    const CLONE: u64 = 56;
    const CLONE3: u64 = 435;
    const EXIT: u64 = 60;
    const EXIT_GROUP: u64 = 231;
    /// What `pthread_create(3)` asks for.
    const PTHREAD: u64 = 0x003d_0f00;

    #[test]
    fn a_thread_begins_where_its_parent_is() {
        let thread = first();
        thread.fs_base.set(1);
        crate::signal::set_blocked(&thread, 8);
        let (parent_tid, child_tid) = (MEMORY.0, MEMORY.0 + 4);
        let made = call(
            &thread,
            CLONE,
            [PTHREAD, 0x7000, parent_tid, child_tid, 0x9000],
        );
        assert_eq!(made, 2);
        let child = kernel().processes.thread(2).expect("made");
        let (mine, its) = (thread.registers.get(), child.registers.get());
        assert_eq!((its.rax, its.rsp, its.rip), (0, 0x7000, mine.rip));
        assert_eq!((child.fs_base.get(), thread.fs_base.get()), (0x9000, 1));
        assert_eq!(child.clear_tid.get(), child_tid);
        assert_eq!(UserAddr(parent_tid).read(), Ok([2u32, 0]));
        assert_eq!(child.signals.blocked.get(), 8);
        assert_eq!(child.state.get(), RunState::Ready);
        assert!(Rc::ptr_eq(&child.process, &thread.process));
        assert_eq!(call(&child, 186, []), 2);
        assert_eq!(call(&child, 39, []), 1);
    }

    #[test]
    fn clone3_takes_the_stack_by_its_lowest_address() {
        let thread = first();
        let args = [PTHREAD, 0, 0, 0, 0, 0x6000, 0x1000, 0x9000];
        assert_eq!(MEMORY.write(args), Ok(()));
        assert_eq!(call(&thread, CLONE3, [MEMORY.0, 64]), 2);
        let child = kernel().processes.thread(2).expect("made");
        assert_eq!(child.registers.get().rsp, 0x7000);
        // A future version may have more, if it is zero.
        assert_eq!(call(&thread, CLONE3, [MEMORY.0, 128]), 3);
        assert_eq!(MEMORY.add(120).write(1u64), Ok(()));
        let newer = call(&thread, CLONE3, [MEMORY.0, 128]);
        assert_eq!(newer, error(Errno::E2BIG));
        assert_eq!(call(&thread, CLONE3, [MEMORY.0, 63]), error(Errno::EINVAL));
        let huge = call(&thread, CLONE3, [MEMORY.0, 1 << 40]);
        assert_eq!(huge, error(Errno::E2BIG));
    }

    #[test]
    fn flags_that_do_not_go_together_are_refused() {
        let thread = first();
        let cases = [
            // A thread without shared handlers, handlers without shared memory.
            (0x1_0000, Errno::EINVAL),
            (0x0800, Errno::EINVAL),
            // Namespaces.
            (0x2_0000, Errno::EPERM),
            (0x4000_0000, Errno::EPERM),
            // Processes: fork, vfork.
            (17, Errno::ENOSYS),
            (0x4111, Errno::ENOSYS),
        ];
        for (flags, errno) in cases {
            assert_eq!(call(&thread, CLONE, [flags]), error(errno), "{flags:#x}");
        }
        let tls_outside = call(&thread, CLONE, [PTHREAD, 0, MEMORY.0, 0, 1 << 47]);
        assert_eq!(tls_outside, error(Errno::EPERM));
        assert_eq!(kernel().processes.thread_count(), 1);
    }

    #[test]
    fn threads_are_limited() {
        let thread = first();
        thread.process.limits.borrow_mut()[6].0 = 2;
        assert_eq!(call(&thread, CLONE, [0x1_0900]), 2);
        let one_more = call(&thread, CLONE, [0x1_0900]);
        assert_eq!(one_more, error(Errno::EAGAIN));
    }

    #[test]
    #[should_panic(expected = "ended with code 3, signal 0")]
    fn the_machine_ends_with_the_last_thread() {
        let thread = first();
        assert_eq!(call(&thread, CLONE, [0x1_0900]), 2);
        let child = kernel().processes.thread(2).expect("made");
        assert_eq!(call(&thread, EXIT, [7]), 0);
        call(&child, EXIT, [3]);
    }

    #[test]
    #[should_panic(expected = "ended with code 42, signal 0")]
    fn the_machine_ends_with_its_process() {
        let thread = first();
        assert_eq!(call(&thread, CLONE, [0x1_0900]), 2);
        call(&thread, EXIT_GROUP, [42 | 0xff00]);
    }

    #[test]
    fn numbers_are_used_again_last() {
        let thread = first();
        for expected in 2..5 {
            assert_eq!(call(&thread, CLONE, [0x1_0900]), expected);
        }
        let third = kernel().processes.thread(3).expect("made");
        call(&third, EXIT, [0]);
        assert!(kernel().processes.thread(3).is_none());
        assert_eq!(call(&thread, CLONE, [0x1_0900]), 5);
    }

    #[test]
    fn restartable_sequences_are_aborted() {
        const RSEQ: u64 = 334;
        let thread = first();
        let area = MEMORY.0 + 2048;
        assert_eq!(call(&thread, RSEQ, [area, 32, 0, 0x5305_3053]), 0);
        assert_eq!(UserAddr(area).read(), Ok([0u32; 2]));
        let again = call(&thread, RSEQ, [area, 32, 0, 0x5305_3053]);
        assert_eq!(again, error(Errno::EBUSY));
        // struct rseq_cs: start 0x400000, 16 bytes, abort address with its signature before it.
        let target = MEMORY.0 + 4096;
        let record = [0, 0x40_0000, 16, target];
        assert_eq!(OUT.write(record), Ok(()));
        assert_eq!(UserAddr(target - 4).write(0x5305_3053u32), Ok(()));
        assert_eq!(UserAddr(area + 8).write(OUT.0), Ok(()));
        crate::process::rseq::preempted(&thread);
        assert!(thread.work.get());
        assert!(crate::signal::before_return(&thread));
        assert_eq!(thread.registers.get().rip, target);
        assert_eq!(UserAddr(area + 8).read(), Ok(0u64));
        // A wrong signature is an attack.
        assert_eq!(UserAddr(area + 8).write(OUT.0), Ok(()));
        assert_eq!(OUT.write([0, target, 16, MEMORY.0 + 64]), Ok(()));
        crate::process::rseq::before_return(&thread);
        assert!(crate::signal::is_pending(&thread));
    }

    #[test]
    fn segments_are_kept() {
        const ARCH_PRCTL: u64 = 158;
        let thread = first();
        assert_eq!(call(&thread, ARCH_PRCTL, [0x1002, 0x5000]), 0);
        assert_eq!(thread.fs_base.get(), 0x5000);
        assert_eq!(call(&thread, ARCH_PRCTL, [0x1003, OUT.0]), 0);
        assert_eq!(OUT.read(), Ok(0x5000u64));
        let outside = call(&thread, ARCH_PRCTL, [0x1002, crate::user::USER_END]);
        assert_eq!(outside, error(Errno::EPERM));
        let unknown = call(&thread, ARCH_PRCTL, [0x3001, 0]);
        assert_eq!(unknown, error(Errno::EINVAL));
    }
}

mod scheduling {
    use super::*;

    #[test]
    fn there_is_one_processor() {
        let thread = first();
        assert_eq!(OUT.write(u64::MAX), Ok(()));
        assert_eq!(call(&thread, 204, [0, 128, OUT.0]), 8);
        assert_eq!(OUT.read(), Ok(1u64));
        assert_eq!(call(&thread, 204, [0, 4, OUT.0]), error(Errno::EINVAL));
        assert_eq!(OUT.write(2u64), Ok(()));
        assert_eq!(call(&thread, 203, [0, 8, OUT.0]), error(Errno::EINVAL));
        assert_eq!(OUT.write(3u64), Ok(()));
        assert_eq!(call(&thread, 203, [0, 8, OUT.0]), 0);
        assert_eq!(call(&thread, 309, [OUT.0, OUT.0 + 4, 0]), 0);
        assert_eq!(OUT.read(), Ok(0u64));
    }

    #[test]
    fn niceness_is_told_upside_down() {
        let thread = first();
        assert_eq!(call(&thread, 140, [0, 0]), 20);
        assert_eq!(call(&thread, 141, [0, 0, 5]), 0);
        assert_eq!(call(&thread, 140, [0, 0]), 15);
        // Not back again without privilege.
        let back = call(&thread, 141, [0, 0, u64::MAX]);
        assert_eq!(back, error(Errno::EACCES));
        assert_eq!(call(&thread, 140, [3, 0]), error(Errno::EINVAL));
        assert_eq!(call(&thread, 140, [0, 99]), error(Errno::ESRCH));
    }

    #[test]
    fn classes_have_their_priorities() {
        let thread = first();
        assert_eq!(call(&thread, 146, [1]), 99);
        assert_eq!(call(&thread, 147, [2]), 1);
        assert_eq!(call(&thread, 146, [9]), error(Errno::EINVAL));
        assert_eq!(OUT.write(7u32), Ok(()));
        let real_time = call(&thread, 144, [0, 1, OUT.0]);
        assert_eq!(real_time, error(Errno::EPERM));
        assert_eq!(call(&thread, 144, [0, 3, OUT.0]), error(Errno::EINVAL));
        assert_eq!(OUT.write(0u32), Ok(()));
        assert_eq!(call(&thread, 144, [0, 3 | 0x4000_0000, OUT.0]), 0);
        assert_eq!(call(&thread, 145, [0]), 3 | 0x4000_0000);
        assert_eq!(call(&thread, 315, [0, OUT.0, 48, 0]), 0);
        assert_eq!(OUT.read(), Ok([48u32, 3, 1, 0]));
    }
}

mod processes {
    use super::*;

    const PRCTL: u64 = 157;

    #[test]
    fn the_first_process_leads_its_session() {
        let thread = first();
        let told = |number| call(&thread, number, [0]);
        // getpid, getppid, getpgid, getsid
        assert_eq!([told(39), told(110), told(121), told(124)], [1, 0, 1, 1]);
        assert_eq!(call(&thread, 112, []), error(Errno::EPERM));
        assert_eq!(call(&thread, 109, [0, 0]), error(Errno::EPERM));
        assert_eq!(call(&thread, 121, [77]), error(Errno::ESRCH));
        // wait4, waitid
        assert_eq!(call(&thread, 61, [u64::MAX, 0, 0, 0]), error(Errno::ECHILD));
        assert_eq!(call(&thread, 247, [0, 0, 0, 4]), error(Errno::ECHILD));
        assert_eq!(call(&thread, 247, [0, 0, 0, 0]), error(Errno::EINVAL));
    }

    #[test]
    fn limits_go_down_but_not_up() {
        let thread = first();
        assert_eq!(call(&thread, 302, [0, 7, 0, OUT.0]), 0);
        assert_eq!(OUT.read(), Ok([1u64 << 20, 1 << 20]));
        assert_eq!(MEMORY.write([100u64, 200]), Ok(()));
        assert_eq!(call(&thread, 302, [0, 7, MEMORY.0, 0]), 0);
        assert_eq!(thread.process.files.limit.get(), 100);
        for wrong in [[201, 200], [1, 300]] {
            assert_eq!(MEMORY.write(wrong), Ok(()));
            assert!(call(&thread, 160, [7, MEMORY.0]) < 0);
        }
        assert_eq!(call(&thread, 97, [7, OUT.0]), 0);
        assert_eq!(OUT.read(), Ok([100u64, 200]));
        assert_eq!(call(&thread, 97, [16, OUT.0]), error(Errno::EINVAL));
    }

    #[test]
    fn names_are_cut() {
        let thread = first();
        let long = b"a name that is far too long\0";
        assert_eq!(MEMORY.write_bytes(long), Ok(()));
        assert_eq!(call(&thread, PRCTL, [15, MEMORY.0]), 0);
        assert_eq!(call(&thread, PRCTL, [16, OUT.0]), 0);
        assert_eq!(bytes(OUT, 16), b"a name that is \0");
    }

    #[test]
    fn what_has_been_set_is_told() {
        let thread = first();
        let set = |option, value| call(&thread, PRCTL, [option, value, 0, 0, 0]);
        // no_new_privs cannot be taken back.
        assert_eq!((set(39, 0), set(38, 1), set(39, 0)), (0, 0, 1));
        assert_eq!(set(38, 0), error(Errno::EINVAL));
        // Dumpable, keep capabilities, bounding set.
        assert_eq!((set(3, 0), set(4, 0), set(3, 0)), (1, 0, 0));
        assert_eq!((set(8, 1), set(7, 0)), (0, 1));
        assert_eq!((set(23, 7), set(24, 7), set(23, 7)), (1, 0, 0));
        assert_eq!(set(23, 41), error(Errno::EINVAL));
        assert_eq!((set(29, 7), set(30, 0)), (0, 7));
        assert_eq!(set(4711, 0), error(Errno::EINVAL));
    }

    #[test]
    fn memory_is_copied_between_vectors() {
        let thread = first();
        assert_eq!(MEMORY.write_bytes(b"0123456789"), Ok(()));
        let local = MEMORY.add(512);
        let remote = MEMORY.add(600);
        let vector = [OUT.0, 3, OUT.0 + 8, 4];
        assert_eq!(local.write(vector), Ok(()));
        assert_eq!(remote.write([MEMORY.0, 10u64]), Ok(()));
        let args = [1, local.0, 2, remote.0, 1, 0];
        assert_eq!(call(&thread, 310, args), 7);
        assert_eq!(bytes(OUT, 12), b"012\0\0\0\0\x003456");
        let other = [9, local.0, 2, remote.0, 1, 0];
        assert_eq!(call(&thread, 310, other), error(Errno::ESRCH));
    }
}

mod identities {
    use super::*;

    fn ids(thread: &Thread) -> [u32; 8] {
        let c = thread.process.credentials.borrow();
        [
            c.uid, c.euid, c.suid, c.fsuid, c.gid, c.egid, c.sgid, c.fsgid,
        ]
    }

    #[test]
    fn root_becomes_anybody_and_cannot_go_back() {
        let thread = first();
        assert_eq!(call(&thread, 119, [5, 6, 7]), 0);
        assert_eq!(call(&thread, 105, [33]), 0);
        assert_eq!(ids(&thread), [33, 33, 33, 33, 5, 6, 7, 6]);
        assert_eq!(call(&thread, 105, [0]), error(Errno::EPERM));
        assert_eq!(call(&thread, 106, [7]), 0);
        assert_eq!(call(&thread, 106, [8]), error(Errno::EPERM));
        assert_eq!(call(&thread, 116, [0, 0]), error(Errno::EPERM));
        let sets = thread.process.credentials.borrow().capabilities;
        assert_eq!((sets.permitted, sets.effective), (0, 0));
    }

    #[test]
    fn a_saved_user_comes_back() {
        let thread = first();
        assert_eq!(call(&thread, 117, [1000, 1000, 0]), 0);
        let effective = || thread.process.credentials.borrow().capabilities.effective;
        assert_eq!(effective(), 0);
        let same = u64::from(u32::MAX);
        assert_eq!(call(&thread, 117, [same, 0, same]), 0);
        assert_ne!(effective(), 0);
        assert_eq!(call(&thread, 118, [OUT.0, OUT.0 + 4, OUT.0 + 8]), 0);
        assert_eq!(OUT.read(), Ok([1000u32, 0, 0]));
    }

    #[test]
    fn groups_are_set_and_told() {
        let thread = first();
        assert_eq!(MEMORY.write([4u32, 20, 27]), Ok(()));
        assert_eq!(call(&thread, 116, [3, MEMORY.0]), 0);
        assert_eq!(call(&thread, 115, [0, 0]), 3);
        assert_eq!(call(&thread, 115, [2, OUT.0]), error(Errno::EINVAL));
        assert_eq!(call(&thread, 115, [9, OUT.0]), 3);
        assert_eq!(OUT.read(), Ok([4u32, 20, 27]));
        let too_many = call(&thread, 116, [65_537, MEMORY.0]);
        assert_eq!(too_many, error(Errno::EINVAL));
    }

    #[test]
    fn capabilities_can_be_given_up() {
        let thread = first();
        let (head, sets) = (MEMORY, MEMORY.add(64));
        assert_eq!(head.write([0x2008_0522u32, 0]), Ok(()));
        assert_eq!(call(&thread, 125, [head.0, sets.0]), 0);
        let told: [u32; 6] = sets.read().expect("there");
        assert_eq!(told[0], 0xa804_25fb);
        assert_eq!(sets.write([1u32, 1, 0, 0, 0, 0]), Ok(()));
        assert_eq!(call(&thread, 126, [head.0, sets.0]), 0);
        assert_eq!(sets.write([3u32, 3, 0, 0, 0, 0]), Ok(()));
        let more = call(&thread, 126, [head.0, sets.0]);
        assert_eq!(more, error(Errno::EPERM));
        // An unknown version is answered with the one that is known.
        assert_eq!(head.write([1u32, 0]), Ok(()));
        assert_eq!(call(&thread, 125, [head.0, 0]), 0);
        assert_eq!(head.read(), Ok(0x2008_0522u32));
    }
}

mod machine {
    use super::*;

    #[test]
    fn the_machine_says_what_it_is() {
        let thread = first();
        assert_eq!(MEMORY.write_bytes(b"box"), Ok(()));
        assert_eq!(call(&thread, 170, [MEMORY.0, 3]), 0);
        assert_eq!(call(&thread, 63, [OUT.0]), 0);
        let told = bytes(OUT, 6 * 65);
        let field = |n: usize| told[n * 65..].split(|&b| b == 0).next().unwrap_or(&[]);
        assert_eq!(field(0), b"Linux");
        assert_eq!(field(1), b"box");
        assert!(field(2).starts_with(b"6.1."));
        assert_eq!(field(4), b"x86_64");
        assert_eq!(call(&thread, 170, [MEMORY.0, 65]), error(Errno::EINVAL));
        assert_eq!(call(&thread, 63, [8]), error(Errno::EFAULT));
    }

    #[test]
    fn memory_and_threads_are_counted() {
        let thread = first();
        assert_eq!(call(&thread, 99, [OUT.0]), 0);
        let told: [u64; 14] = OUT.read().expect("there");
        assert_eq!(told[4..6], [64 << 20, 32 << 20]);
        assert_eq!(told[10] & 0xffff, 1);
        assert_eq!(told[13], 1);
    }

    #[test]
    fn randomness_fills_what_it_is_given() {
        let thread = first();
        assert_eq!(call(&thread, 318, [OUT.0, 1000, 0]), 1000);
        assert!(bytes(OUT, 1000).iter().any(|&b| b != 0));
        assert_eq!(call(&thread, 318, [OUT.0, 1, 8]), error(Errno::EINVAL));
        assert_eq!(call(&thread, 318, [8, 1, 0]), error(Errno::EFAULT));
        // As far as there is memory.
        let near_end = crate::process::testing::STACK - 100;
        let filled = call(&thread, 318, [near_end, u64::MAX, 0]);
        assert!(filled < 100);
    }

    #[test]
    fn every_call_survives_nonsense() {
        let thread = first();
        let words = [
            0,
            1,
            7,
            u64::MAX,
            1 << 63,
            0xffff_f000,
            MEMORY.0,
            MEMORY.0 + 1,
        ];
        // exit and exit_group end the thread, fatal signals the machine.
        let ending = [60, 231, 62, 200, 234, 129, 297, 15];
        let mine = [
            crate::syscalls::futex::CALLS,
            crate::syscalls::identity::CALLS,
            crate::syscalls::process::CALLS,
            crate::syscalls::sched::CALLS,
            crate::syscalls::signal::CALLS,
            crate::syscalls::system::CALLS,
            crate::syscalls::thread::CALLS,
            crate::syscalls::time::CALLS,
        ];
        let mut seed = 1u64;
        for round in 0..40_000 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(round);
            let pick = |n: u64| words[(seed >> (8 * n) & 7) as usize];
            let args = [pick(1), pick(2), pick(3), pick(4), pick(5), pick(6)];
            let family = mine[(seed >> 60 & 7) as usize];
            let one = &family[(seed >> 50) as usize % family.len()];
            if !ending.contains(&one.number) {
                call(&thread, one.number.into(), args);
            }
        }
    }
}

mod helpers {
    use super::*;
    use crate::process::trace;

    const CLONE: u64 = 56;
    const PTRACE: u64 = 101;
    const WAIT4: u64 = 61;
    /// `CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_UNTRACED`
    const SHARES_ALL: u64 = 0x80_0700;
    const ATTACH: u64 = 16;
    const GETREGS: u64 = 12;
    const DETACH: u64 = 17;
    const NO_HANG: u64 = 1;

    #[test]
    fn a_child_that_shares_memory_stops_a_thread_reads_it_and_ends() {
        let thread = first();
        // A stack of its own is needed, and all three parts shared.
        for (flags, stack) in [
            (SHARES_ALL, 0),
            (0x500, STACK),
            (SHARES_ALL | 0x4000, STACK),
        ] {
            assert_eq!(call(&thread, CLONE, [flags, stack]), error(Errno::ENOSYS));
        }
        let pid = call(&thread, CLONE, [SHARES_ALL, STACK - 4096]);
        let helper = crate::kernel().processes.thread(pid as u32).unwrap();
        assert_eq!(call(&helper, 39, []), pid);
        assert_eq!(call(&helper, 110, []), 1);
        assert!(Rc::ptr_eq(&helper.process.memory, &thread.process.memory));
        assert_eq!(call(&thread, WAIT4, [pid as u64, 0, NO_HANG, 0]), 0);

        assert_eq!(
            call(&helper, PTRACE, [GETREGS, 1, 0, OUT.0]),
            error(Errno::ESRCH)
        );
        assert_eq!(
            call(&helper, PTRACE, [ATTACH, pid as u64, 0, 0]),
            error(Errno::EPERM)
        );
        assert_eq!(call(&helper, PTRACE, [ATTACH, 1, 0, 0]), 0);
        assert_eq!(
            call(&helper, PTRACE, [ATTACH, 1, 0, 0]),
            error(Errno::EPERM)
        );
        assert!(thread.has_signal_to_handle());
        let waiting = crate::signal::take(&thread, u64::MAX).unwrap();
        assert_eq!(waiting.signal(), 19);
        // Nobody runs beside it here.
        trace::pretend_stop(&thread, 19);
        assert_eq!(call(&helper, WAIT4, [1, OUT.0, 0x4000_0000, 0]), 1);
        assert_eq!(OUT.read(), Ok(0x137fu32));
        assert_eq!(call(&helper, WAIT4, [1, 0, NO_HANG, 0]), 0);
        assert_eq!(call(&helper, PTRACE, [GETREGS, 1, 0, OUT.0]), 0);
        let words: [u64; trace::REGISTER_WORDS] = OUT.read().unwrap();
        let registers = thread.registers.get();
        assert_eq!((words[16], words[19]), (registers.rip, registers.rsp));
        assert_eq!(call(&helper, PTRACE, [DETACH, 1, 0, 0]), 0);
        assert_eq!(
            call(&helper, PTRACE, [DETACH, 1, 0, 0]),
            error(Errno::ESRCH)
        );

        assert_eq!(call(&helper, 231, [5]), 0);
        assert!(!crate::signal::before_return(&helper));
        assert_eq!(call(&thread, WAIT4, [u64::MAX, OUT.0, 0, 0]), pid);
        assert_eq!(OUT.read(), Ok(0x500u32));
        assert_eq!(
            call(&thread, WAIT4, [u64::MAX, 0, 0, 0]),
            error(Errno::ECHILD)
        );
    }
}
