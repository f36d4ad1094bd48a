//! The choice of the case, and the operations as functions.

use kiln_abi::call::Call;
use kiln_abi::note::{AbiNote, ElfNote};
use kiln_abi::op::{OpError, Segment};
use kiln_abi::user::{UserAccess, UserBacking, UserOp};
use kiln_abi::{Op, RawOp};
use kiln_rt::{boot, console, monitor};

#[used]
#[unsafe(link_section = ".note.kiln")]
static ABI: ElfNote<32> = ElfNote::abi(AbiNote {
    version: kiln_abi::VERSION,
    flags: AbiNote::PROGRAM,
    stack_size: 0,
    min_memory: 0,
    entry: 0,
});

#[unsafe(no_mangle)]
extern "Rust" fn __kiln_main() -> u8 {
    let case = boot::args().nth(1).unwrap_or("memory");
    match case {
        "memory" => crate::memory::all(),
        "fill" => crate::memory::fill(),
        "calls" => crate::calls::calls(),
        "storm" => crate::calls::storm(),
        "cost" => crate::calls::cost(),
        "ticks" => crate::calls::ticks(),
        "cat" => crate::console::cat(),
        "streams" => crate::console::streams(),
        _ => {
            console::print(format_args!("no case {case}\n"));
            return 99;
        }
    }
    console::print(format_args!("SUCCESS\n"));
    0
}

/// Performs one operation.
pub fn perform(op: Op) -> Result<u64, OpError> {
    call(op, &mut Call::default())
}

/// Performs one operation in a call of which the caller wants to know more.
pub fn call(op: Op, call: &mut Call) -> Result<u64, OpError> {
    let mut ops: [RawOp; 1] = [op.encode()];
    call.ops = ops.as_mut_ptr() as u64;
    call.count = 1;
    // SAFETY: the operation's buffers live as long as the caller's references.
    unsafe { monitor::enter(call) };
    ops[0].outcome()
}

/// Performs one operation about the program.
pub fn user(op: UserOp) -> Result<u64, OpError> {
    perform(Op::User(op))
}

/// Pages at `addr`.
pub fn pages(addr: u64, count: u64) -> Segment {
    Segment {
        addr,
        len: count * 4096,
    }
}

pub fn access(bits: u64) -> UserAccess {
    UserAccess::from_bits(bits).expect("a set of three bits")
}

/// Maps pages for reading and writing.
pub fn map(range: Segment, bits: u64, backing: UserBacking) -> Result<u64, OpError> {
    user(UserOp::Map {
        range,
        access: access(bits),
        backing,
        populate: false,
    })
}

/// A word of memory.
pub fn peek(addr: u64) -> u64 {
    // SAFETY: the cases read where they have mapped something.
    unsafe { (addr as *const u64).read_volatile() }
}

/// Changes a word of memory.
pub fn poke(addr: u64, value: u64) {
    // SAFETY: the cases write where they have mapped something.
    unsafe { (addr as *mut u64).write_volatile(value) }
}
