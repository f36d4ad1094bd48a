//! Whatever a program asks for, in whatever order: nothing panics, and memory that is not the program's is not touched.

use proptest::prelude::*;

use super::*;

/// Calls, and how each argument is made of a random number.
const CALLS: &[(u64, &[Kind])] = &[
    (SOCKET, &[Kind::Family, Kind::Type, Kind::Protocol]),
    (
        SOCKETPAIR,
        &[Kind::Family, Kind::Type, Kind::Zero, Kind::Pointer],
    ),
    (BIND, &[Kind::Fd, Kind::Address, Kind::Len]),
    (LISTEN, &[Kind::Fd, Kind::Small]),
    (CONNECT, &[Kind::Fd, Kind::Address, Kind::Len]),
    (CONNECT, &[Kind::Fd, Kind::Address, Kind::Len]),
    (
        ACCEPT4,
        &[Kind::Fd, Kind::Pointer, Kind::Pointer, Kind::Nonblock],
    ),
    (
        SENDTO,
        &[
            Kind::Fd,
            Kind::Pointer,
            Kind::Size,
            Kind::Flags,
            Kind::Address,
            Kind::Len,
        ],
    ),
    (
        SENDTO,
        &[
            Kind::Fd,
            Kind::Pointer,
            Kind::Size,
            Kind::Flags,
            Kind::Zero,
            Kind::Zero,
        ],
    ),
    (
        RECVFROM,
        &[
            Kind::Fd,
            Kind::Pointer,
            Kind::Size,
            Kind::Flags,
            Kind::Pointer,
            Kind::Pointer,
        ],
    ),
    (SENDMSG, &[Kind::Fd, Kind::Record, Kind::Flags]),
    (RECVMSG, &[Kind::Fd, Kind::Record, Kind::Flags]),
    (SHUTDOWN, &[Kind::Fd, Kind::Small]),
    (
        SETSOCKOPT,
        &[
            Kind::Fd,
            Kind::Level,
            Kind::Option,
            Kind::Pointer,
            Kind::Len,
        ],
    ),
    (
        GETSOCKOPT,
        &[
            Kind::Fd,
            Kind::Level,
            Kind::Option,
            Kind::Pointer,
            Kind::Pointer,
        ],
    ),
    (GETSOCKNAME, &[Kind::Fd, Kind::Pointer, Kind::Pointer]),
    (GETPEERNAME, &[Kind::Fd, Kind::Pointer, Kind::Pointer]),
    (
        299,
        &[Kind::Fd, Kind::Record, Kind::Small, Kind::Flags, Kind::Zero],
    ),
    (307, &[Kind::Fd, Kind::Record, Kind::Small, Kind::Flags]),
    (0, &[Kind::Fd, Kind::Pointer, Kind::Size]),
    (1, &[Kind::Fd, Kind::Pointer, Kind::Size]),
    (16, &[Kind::Fd, Kind::Request, Kind::Pointer]),
    (3, &[Kind::Fd]),
];

#[derive(Clone, Copy)]
enum Kind {
    Family,
    Type,
    Protocol,
    Fd,
    Address,
    Len,
    Small,
    Size,
    Flags,
    Pointer,
    Record,
    Level,
    Option,
    Request,
    Nonblock,
    Zero,
}

fn argument(kind: Kind, random: u64) -> u64 {
    let of = |all: &[u64]| all[random as usize % all.len()];
    match kind {
        Kind::Family => of(&[1, 1, 2, 2, 2, 10, 16, 17, 0, 99]),
        Kind::Type => of(&[1, 1, 1, 2, 2, 3, 5, 0, 77]) | NONBLOCK,
        Kind::Protocol => of(&[0, 0, 0, 0, 1, 6, 17, 58, 15]),
        Kind::Fd => random % 12,
        Kind::Address => ADDRESS + random % 6 * 64,
        Kind::Len => of(&[
            0,
            1,
            2,
            4,
            8,
            12,
            16,
            16,
            16,
            16,
            24,
            28,
            28,
            110,
            128,
            129,
            u64::MAX,
        ]),
        Kind::Small => random % 5,
        Kind::Size => of(&[0, 1, 7, 100, 5000, 70_000, 300_000, u64::MAX]),
        Kind::Flags => of(&[
            0,
            0,
            0,
            0x40,
            2,
            0x20,
            0x100,
            0x42,
            1,
            0x2000,
            0x8000,
            0x400_0000,
            u64::MAX,
        ]),
        Kind::Pointer => of(&[
            DATA,
            DATA,
            DATA,
            RECORD,
            LENGTH,
            0,
            0x1234,
            MEMORY + MEMORY_LEN - 2,
        ]),
        Kind::Record => RECORD + random % 2 * 0x100,
        Kind::Level => of(&[0, 1, 1, 1, 6, 6, 17, 41, 58, 255, 270]),
        Kind::Option => random % 80,
        Kind::Request => of(&[
            0x541b, 0x5411, 0x8905, 0x8910, 0x8912, 0x8913, 0x8915, 0x8927, 0x8933,
        ]),
        Kind::Nonblock => NONBLOCK,
        Kind::Zero => 0,
    }
}

/// Addresses of several families, some of them of sockets that are there, and records of messages.
fn prepare(random: u64) {
    let port = 9000 + (random % 3) as u16;
    let all = [
        address4([127, 0, 0, 1], port),
        address4([0, 0, 0, 0], port),
        address6(core::net::Ipv6Addr::LOCALHOST, port),
        Vec::from(*b"\x01\0\0a"),
        Vec::from([16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        address4([224, 0, 0, 1], port),
    ];
    for (number, bytes) in (0..).zip(&all) {
        UserAddr(ADDRESS + number * 64).write([0_u8; 32]).unwrap();
        UserAddr(ADDRESS + number * 64).write_bytes(bytes).unwrap();
    }
    UserAddr(LENGTH).write(random as u32 % 200).unwrap();
    UserAddr(RECORD + 64)
        .write([DATA, random % 10_000])
        .unwrap();
    let control = [28, 1 | (1 << 32), (random % 12) | (1 << 32), 0];
    UserAddr(CONTROL).write::<[u64; 4]>(control).unwrap();
    let name = if random.is_multiple_of(3) { ADDRESS } else { 0 };
    UserAddr(RECORD)
        .write([name, 16, RECORD + 64, 1, CONTROL, random % 40, 0_u64])
        .unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_calls_are_answered(
        steps in prop::collection::vec((0..CALLS.len(), any::<[u64; 6]>()), 1..120),
    ) {
        let program = Program::new();
        for (call, random) in steps {
            let (number, kinds) = CALLS[call];
            prepare(random[5]);
            let args: Vec<u64> = kinds
                .iter()
                .zip(random)
                .map(|(kind, random)| argument(*kind, random))
                .collect();
            let _ = program.call(number, &args);
            for fd in program.thread.process.files.numbers() {
                program.ready(fd as u64);
            }
        }
        let _ = crate::net::listing::tcp();
        let _ = crate::net::listing::udp6();
        let _ = crate::net::listing::unix();
    }
}
