//! What a new program finds on its stack: argument strings, environment, the auxiliary vector (`getauxval(3)`).
//!
//! From the top down, as Linux lays it out: a null word, the path it was started by, environment and argument strings, the platform's
//! name and 16 random bytes, then the auxiliary vector, pointers to the environment, pointers to the arguments, and their number at the
//! stack pointer, which is a multiple of 16.

use alloc::vec::Vec;

use crate::user::PAGE;

/// The longest string, with its NUL (`MAX_ARG_STRLEN`).
const MAX_STRING: usize = 32 * PAGE as usize;

/// Entries of the auxiliary vector (`<linux/auxvec.h>`).
#[allow(missing_docs, reason = "the names are Linux's")]
pub mod at {
    pub const NULL: u64 = 0;
    pub const PHDR: u64 = 3;
    pub const PHENT: u64 = 4;
    pub const PHNUM: u64 = 5;
    pub const PAGESZ: u64 = 6;
    pub const BASE: u64 = 7;
    pub const FLAGS: u64 = 8;
    pub const ENTRY: u64 = 9;
    pub const UID: u64 = 11;
    pub const EUID: u64 = 12;
    pub const GID: u64 = 13;
    pub const EGID: u64 = 14;
    pub const PLATFORM: u64 = 15;
    pub const HWCAP: u64 = 16;
    pub const CLKTCK: u64 = 17;
    pub const SECURE: u64 = 23;
    pub const RANDOM: u64 = 25;
    pub const HWCAP2: u64 = 26;
    pub const RSEQ_FEATURE_SIZE: u64 = 27;
    pub const RSEQ_ALIGN: u64 = 28;
    pub const EXECFN: u64 = 31;
    pub const SYSINFO_EHDR: u64 = 33;
    pub const MINSIGSTKSZ: u64 = 51;
}

/// What goes onto the stack.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The path that the program was started by.
    pub path: &'a [u8],
    /// Its arguments.
    pub arguments: &'a [Vec<u8>],
    /// Its environment.
    pub environment: &'a [Vec<u8>],
    /// The auxiliary vector, without the entries that point to the stack and without the end.
    pub auxiliary: &'a [(u64, u64)],
    /// For `AT_RANDOM`.
    pub random: [u8; 16],
}

/// A stack as it is to be written: `bytes` go to `pointer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// The stack pointer.
    pub pointer: u64,
    /// What lies from there to the top.
    pub bytes: Vec<u8>,
    /// Where the argument strings start and end.
    pub arguments: (u64, u64),
    /// Where the environment strings start and end.
    pub environment: (u64, u64),
    /// The auxiliary vector, as it is on the stack.
    pub auxiliary: Vec<u64>,
}

/// Bytes that strings and their pointers may take, for a stack of at most `stack_limit` bytes: a quarter of it, between 128 KiB and 6 MiB
/// (`execve(2)`, "Limits on size of arguments and environment").
pub fn room(stack_limit: u64) -> u64 {
    (stack_limit / 4).min(6 << 20).max(MAX_STRING as u64)
}

/// True if the strings and the pointers to them fit in `room`.
pub fn fits(request: &Request, room: u64) -> bool {
    let mut sum = request.path.len() as u64;
    for text in request.arguments.iter().chain(request.environment) {
        if text.len() >= MAX_STRING {
            return false;
        }
        sum = sum.saturating_add(text.len() as u64 + 1 + 8);
    }
    sum <= room
}

/// Lays a stack out that ends at `top`, a multiple of 16.
pub fn build(request: &Request, top: u64) -> Stack {
    // Strings in the order of their addresses, then everything below them.
    let mut strings = Vec::new();
    let mut place = |text: &[u8]| {
        let at = strings.len() as u64;
        strings.extend_from_slice(text);
        strings.push(0);
        at
    };
    let arguments: Vec<u64> = request.arguments.iter().map(|text| place(text)).collect();
    let between = arguments_end(&arguments, request.arguments);
    let environment: Vec<u64> = request.environment.iter().map(|text| place(text)).collect();
    let path = place(request.path);
    let base = top - 8 - strings.len() as u64;
    strings.extend_from_slice(&[0; 8]);

    let platform = b"x86_64\0";
    let random = (base - 16) & !15;
    let platform_at = random - platform.len() as u64;
    let mut auxiliary = Vec::new();
    let pointing = [
        (at::RANDOM, random),
        (at::EXECFN, base + path),
        (at::PLATFORM, platform_at),
        (at::NULL, 0),
    ];
    for &(kind, value) in request.auxiliary.iter().chain(&pointing) {
        auxiliary.extend([kind, value]);
    }
    let mut words = Vec::new();
    words.push(arguments.len() as u64);
    words.extend(arguments.iter().map(|at| base + at));
    words.push(0);
    words.extend(environment.iter().map(|at| base + at));
    words.push(0);
    words.extend_from_slice(&auxiliary);
    let pointer = (platform_at - 8 * words.len() as u64) & !15;

    let mut bytes = Vec::with_capacity((top - pointer) as usize);
    for word in words {
        bytes.extend(word.to_le_bytes());
    }
    bytes.resize((platform_at - pointer) as usize, 0);
    bytes.extend_from_slice(platform);
    bytes.extend_from_slice(&request.random);
    bytes.resize((base - pointer) as usize, 0);
    bytes.extend_from_slice(&strings);
    Stack {
        pointer,
        bytes,
        arguments: (base, base + between),
        environment: (base + between, base + path),
        auxiliary,
    }
}

/// Where the last of some strings ends.
fn arguments_end(starts: &[u64], texts: &[Vec<u8>]) -> u64 {
    let last = starts.last().zip(texts.last());
    last.map_or(0, |(start, text)| start + text.len() as u64 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn word(stack: &Stack, at: u64) -> u64 {
        let from = (at - stack.pointer) as usize;
        u64::from_le_bytes(stack.bytes[from..from + 8].try_into().unwrap())
    }

    fn text(stack: &Stack, at: u64) -> &[u8] {
        let from = &stack.bytes[(at - stack.pointer) as usize..];
        &from[..from.iter().position(|&byte| byte == 0).unwrap()]
    }

    #[test]
    fn a_program_finds_its_arguments_environment_and_vector() {
        let arguments = [b"prog".to_vec(), b"-x".to_vec(), vec![]];
        let environment = [b"A=1".to_vec()];
        let request = Request {
            path: b"/bin/prog",
            arguments: &arguments,
            environment: &environment,
            auxiliary: &[(at::PAGESZ, 4096)],
            random: [7; 16],
        };
        let stack = build(&request, 0x10_0000);
        assert_eq!(stack.pointer % 16, 0);
        assert_eq!(stack.pointer + stack.bytes.len() as u64, 0x10_0000);
        assert_eq!(word(&stack, stack.pointer), 3);
        for (index, argument) in arguments.iter().enumerate() {
            let at = word(&stack, stack.pointer + 8 + 8 * index as u64);
            assert_eq!(text(&stack, at), argument);
        }
        assert_eq!(word(&stack, stack.pointer + 32), 0);
        assert_eq!(text(&stack, word(&stack, stack.pointer + 40)), b"A=1");
        assert_eq!(word(&stack, stack.pointer + 48), 0);
        let mut found = vec![];
        let mut at = stack.pointer + 56;
        loop {
            found.push((word(&stack, at), word(&stack, at + 8)));
            if found.last().unwrap().0 == at::NULL {
                break;
            }
            at += 16;
        }
        let value = |kind| found.iter().find(|(k, _)| *k == kind).unwrap().1;
        assert_eq!(value(at::PAGESZ), 4096);
        assert_eq!(text(&stack, value(at::EXECFN)), b"/bin/prog");
        assert_eq!(text(&stack, value(at::PLATFORM)), b"x86_64");
        assert_eq!(word(&stack, value(at::RANDOM)), 0x0707_0707_0707_0707);
        assert_eq!(value(at::RANDOM) % 16, 0);
        let (from, to) = stack.arguments;
        assert_eq!(to - from, 5 + 3 + 1);
        assert_eq!(stack.environment, (to, to + 4));
    }

    #[test]
    fn too_much_is_noticed() {
        let long = [vec![b'a'; MAX_STRING]];
        let many = vec![b"abc".to_vec(); 20_000];
        let mut request = Request {
            path: b"x",
            arguments: &long,
            environment: &[],
            auxiliary: &[],
            random: [0; 16],
        };
        assert!(!fits(&request, room(8 << 20)));
        request.arguments = &many;
        assert!(fits(&request, room(8 << 20)));
        assert!(!fits(&request, room(0)));
    }
}
