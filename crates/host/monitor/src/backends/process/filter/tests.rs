//! The filter, run by a small interpreter of classic BPF over crafted system calls.

use super::*;

const GATE: Range = Range {
    start: 0x5b12_3456_7000,
    end: 0x5b12_3456_b000,
};
const STACK: Range = Range {
    start: 0x3111_ffff_0000,
    end: 0x3112_0001_0000,
};
const DATA: Range = Range {
    start: 0x1000_0000_1000,
    end: 0x1000_0000_3000,
};
const CAPACITY: u64 = (1 << 32) + 4096;

fn devices() -> Vec<DeviceState> {
    let device = |kind: DeviceKind, flags| DeviceState {
        kind: kind as u32,
        flags,
        capacity: CAPACITY,
        sector_size: 512,
        reserved: 0,
    };
    vec![
        device(DeviceKind::Net, 0),
        device(DeviceKind::Block, 0),
        device(DeviceKind::Block, DeviceInfo::READ_ONLY),
    ]
}

fn verdict_at(ip: u64, number: u32, args: [u64; 6]) -> u32 {
    let devices = devices();
    let filter = build(&Rules {
        gate: GATE,
        protectable: STACK,
        sealable: DATA,
        releasable: STACK,
        devices: &devices,
        timer: Some(0),
        vcpu: None,
    });
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(ARCH.to_le_bytes());
    data.extend(ip.to_le_bytes());
    for arg in args {
        data.extend(arg.to_le_bytes());
    }
    run(&filter, &data)
}

fn run(filter: &[u64], data: &[u8]) -> u32 {
    let (mut a, mut pc) = (0u32, 0usize);
    loop {
        let word = filter[pc];
        let (code, jt, jf) = (word as u16, (word >> 16) as u8, (word >> 24) as u8);
        let k = (word >> 32) as u32;
        pc += 1;
        let holds = match code {
            LOAD => {
                let at = k as usize;
                a = u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
                continue;
            }
            RETURN => return k,
            0x05 => {
                pc += k as usize;
                continue;
            }
            JUMP_EQUAL => a == k,
            JUMP_GREATER => a > k,
            JUMP_GREATER_EQUAL => a >= k,
            _ => panic!("instruction {code:#x}"),
        };
        pc += usize::from(if holds { jt } else { jf });
    }
}

fn verdict(number: u32, args: [u64; 6]) -> u32 {
    verdict_at(GATE.start + 100, number, args)
}

#[test]
fn calls_from_elsewhere_trap() {
    for ip in [
        0,
        GATE.start - 1,
        GATE.end + 1,
        GATE.start + (1 << 32),
        0x40_1000,
    ] {
        assert_eq!(verdict_at(ip, nr::EXIT_GROUP, [0; 6]), RET_TRAP, "{ip:#x}");
    }
    assert_eq!(verdict_at(GATE.end, nr::EXIT_GROUP, [0; 6]), RET_ALLOW);
}

#[test]
fn unknown_calls_kill() {
    // open, mmap, execve, socket, ptrace, clone, kill, munmap, seccomp, io_uring_setup.
    for number in [2, 9, 59, 41, 101, 56, 62, 11, 317, 425, u32::MAX] {
        assert_eq!(verdict(number, [1; 6]), RET_KILL, "call {number}");
    }
}

#[test]
fn descriptors_are_those_of_the_devices() {
    for (number, allowed) in [
        (nr::READV, vec![3]),
        (nr::WRITEV, vec![3]),
        (nr::PREAD64, vec![4, 5]),
        (nr::FDATASYNC, vec![4, 5]),
        (nr::WRITE, vec![1]),
    ] {
        for fd in 0..8 {
            let expected = if allowed.contains(&fd) {
                RET_ALLOW
            } else {
                RET_KILL
            };
            assert_eq!(
                verdict(number, [fd, 0x1000, 1, 0, 0, 0]),
                expected,
                "call {number} on {fd}"
            );
        }
    }
}

#[test]
fn no_write_makes_a_disk_longer() {
    let write = |fd, len, offset| verdict(nr::PWRITE64, [fd, 0x1000, len, offset, 0, 0]);
    for (len, offset) in [
        (1, 0),
        (1, CAPACITY - 1),
        (4096, CAPACITY - 4096),
        (65536, CAPACITY - 65536),
        (1 << 20, CAPACITY - (1 << 20)),
        (1 << 20, 0),
    ] {
        assert_eq!(write(4, len, offset), RET_ALLOW, "{len} at {offset}");
        assert_eq!(write(5, len, offset), RET_KILL, "read-only disk");
        assert_eq!(write(3, len, offset), RET_KILL, "network link");
    }
    for (len, offset) in [
        (1, CAPACITY),
        (2, CAPACITY - 1),
        (4097, CAPACITY - 4097),
        ((1 << 20) + 1, 0),
        (1 << 32, 0),
        (1, u64::MAX),
        (4096, CAPACITY - 4095),
    ] {
        assert_eq!(write(4, len, offset), RET_KILL, "{len} at {offset}");
    }
}

#[test]
fn discarding_keeps_the_size() {
    assert_eq!(verdict(nr::FALLOCATE, [4, 3, 0, 4096, 0, 0]), RET_ALLOW);
    for (fd, mode) in [(4, 0), (4, 1), (4, 2), (4, 0x13), (5, 3), (3, 3)] {
        assert_eq!(verdict(nr::FALLOCATE, [fd, mode, 0, 4096, 0, 0]), RET_KILL);
    }
}

#[test]
fn memory_calls_stay_in_guest_memory_and_never_make_code() {
    let protect = |addr, len, prot| verdict(nr::MPROTECT, [addr, len, prot, 0, 0, 0]);
    let (yes, no) = (RET_ALLOW, RET_KILL);
    for (range, writable) in [(STACK, yes), (DATA, no)] {
        for addr in [range.start, range.end - 4096] {
            for (prot, expected) in [
                (0, yes),
                (1, yes),
                (3, writable),
                (2, no),
                (4, no),
                (5, no),
                (7, no),
            ] {
                assert_eq!(protect(addr, 4096, prot), expected, "{addr:#x} {prot}");
            }
            assert_eq!(protect(addr, 1 << 32, 1), no);
            assert_eq!(protect(addr, 4096, 1 << 32), no);
        }
    }
    for addr in [
        0,
        STACK.start - 1,
        STACK.end,
        DATA.start - 4096,
        DATA.end,
        GATE.start,
        u64::MAX,
    ] {
        assert_eq!(protect(addr, 4096, 3), RET_KILL, "{addr:#x}");
    }
    assert_eq!(
        verdict(nr::MADVISE, [STACK.start, 4096, 9, 0, 0, 0]),
        RET_ALLOW
    );
    assert_eq!(
        verdict(nr::MADVISE, [DATA.start, 4096, 9, 0, 0, 0]),
        RET_KILL
    );
    assert_eq!(
        verdict(nr::MADVISE, [STACK.start, 4096, 4, 0, 0, 0]),
        RET_KILL
    );
}

#[test]
fn a_guest_without_devices_has_fewer_calls() {
    let none = build(&Rules {
        gate: GATE,
        protectable: STACK,
        sealable: DATA,
        releasable: STACK,
        devices: &[],
        timer: None,
        vcpu: None,
    });
    let allowed = |number: u32| {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(ARCH.to_le_bytes());
        data.extend((GATE.start + 8).to_le_bytes());
        data.extend([0; 48]);
        run(&none, &data) != RET_KILL
    };
    let names: Vec<u32> = (0..500).filter(|&number| allowed(number)).collect();
    // With all arguments zero some calls are refused for their arguments, so this is a lower bound that shows which
    // calls are gone.
    for gone in [
        nr::READV,
        nr::WRITEV,
        nr::PREAD64,
        nr::PWRITE64,
        nr::FDATASYNC,
        nr::FALLOCATE,
        nr::TIMER_SETTIME,
    ] {
        assert!(!names.contains(&gone), "call {gone}");
    }
}

#[test]
fn sixty_three_disks_fit() {
    let disk = devices()[1];
    let filter = build(&Rules {
        gate: GATE,
        protectable: STACK,
        sealable: DATA,
        releasable: STACK,
        devices: &[disk; kiln_abi::MAX_DEVICES],
        timer: Some(0),
        vcpu: None,
    });
    assert!(
        filter.len() <= kiln_gate::state::MAX_FILTER,
        "{}",
        filter.len()
    );
}
