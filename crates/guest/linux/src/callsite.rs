//! Places in a program where it makes system calls, and what can stand there instead of a trap.
//!
//! A `syscall` instruction is two bytes; a jump to a *stub* in reach takes five. Two shapes leave room for it:
//!
//! - [`Shape::Number`]: the instruction before loads the number (`mov eax, n` or `mov rax, n`). The jump replaces that one; the `syscall`
//!   stays, so whoever jumps right to it traps as before.
//! - [`Shape::Follower`]: behind it stands an instruction of at least three bytes that means the same elsewhere. The jump replaces both, and the stub
//!   performs the second. Whoever jumps to what was behind the `syscall` (a thread that was in a call when the place was changed, say) lands in the second byte
//!   of the jump's distance: stubs are placed so that this byte is no instruction, and the trap leads on ([`is_no_instruction`]).
//!
//! This module decides and assembles; it changes nothing. Encodings: Intel SDM volume 2.

/// Bytes of a stub's place.
pub const STUB: usize = 32;
/// Bytes before a `syscall` that [`recognize`] looks at, and behind it.
pub const BEFORE: usize = 10;
/// Behind it.
pub const BEHIND: usize = 8;
/// Length of the instruction itself.
pub const SYSCALL: u64 = 2;
/// In stubs for [`Shape::Follower`]: where a `syscall` stands that a restarted call comes back to, two bytes before the rest.
const REST: u64 = 15;

/// What a place looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An instruction of this length before the `syscall` loads this number.
    Number {
        /// 5 or 7.
        len: u8,
        /// Sign-extended if the length is 7.
        number: u32,
    },
    /// An instruction of this length follows.
    Follower {
        /// 3 to 7.
        len: u8,
        /// Its bytes.
        bytes: [u8; BEHIND],
    },
}

/// Looks at the bytes around a `syscall` that was just executed with `number` in `rax`. `None` if it has to go on to trap.
pub fn recognize(before: &[u8; BEFORE], behind: &[u8], number: u64) -> Option<Shape> {
    number_before(before, number).or_else(|| follower(behind))
}

/// The bytes cannot be read backwards with certainty; that they hold the very number makes it likely, and what else could end in them is
/// left alone: instructions with this number as an operand whose encoding has `b8` before it.
fn number_before(before: &[u8; BEFORE], number: u64) -> Option<Shape> {
    let [_, _, b8, b7, b6, b5, b4, b3, b2, b1] = *before;
    let immediate = u32::from_le_bytes([b4, b3, b2, b1]);
    if [b7, b6, b5] == [0x48, 0xc7, 0xc0]
        && i64::from(immediate.cast_signed()) == number.cast_signed()
    {
        return Some(Shape::Number {
            len: 7,
            number: immediate,
        });
    }
    if b5 != 0xb8 || u64::from(immediate) != number {
        return None;
    }
    // A prefix would make it another instruction; with a displacement of b8 it would be one of memory with an immediate operand.
    let prefixed = (0x40..=0x4f).contains(&b6) || matches!(b6, 0x66 | 0x67);
    let with_immediate = |opcode: u8| matches!(opcode, 0x69 | 0x81 | 0xc7);
    let on_memory = with_immediate(b7) && (0x40..=0x7f).contains(&b6)
        || with_immediate(b8)
            && matches!(b7, 0x44 | 0x4c | 0x54 | 0x5c | 0x64 | 0x6c | 0x74 | 0x7c);
    (!prefixed && !on_memory).then_some(Shape::Number {
        len: 5,
        number: immediate,
    })
}

/// An instruction that does not depend on where it stands, and does not branch.
fn follower(behind: &[u8]) -> Option<Shape> {
    let len = match *behind {
        // cmp rax, imm32
        [0x48, 0x3d, ..] => 6,
        // cmp eax, imm32
        [0x3d, ..] => 5,
        // cmp rax, imm8; add or sub rsp, imm8
        [0x48, 0x83, 0xf8 | 0xc4 | 0xec, ..] => 4,
        // cmp eax, imm8
        [0x83, 0xf8, ..] => 3,
        // test rax, rax
        [0x48, 0x85, 0xc0, ..] => 3,
        // mov r64, r64; movsxd r64, r32
        [
            0x48 | 0x49 | 0x4c | 0x4d,
            0x89 | 0x8b | 0x63,
            0xc0..=0xff,
            ..,
        ] => 3,
        // mov r32, r32 with a prefix
        [0x41 | 0x44 | 0x45, 0x89 | 0x8b, 0xc0..=0xff, ..] => 3,
        // mov r32, imm32
        [0xb8..=0xbf, ..] => 5,
        // xor r, r; and r, imm8 with a prefix
        [0x45 | 0x4d, 0x31, 0xc0..=0xff, ..] => 3,
        _ => return None,
    };
    let mut bytes = [0; BEHIND];
    bytes.get_mut(..len)?.copy_from_slice(behind.get(..len)?);
    Some(Shape::Follower {
        len: len as u8,
        bytes,
    })
}

/// A place that is to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Address of the `syscall`.
    pub syscall: u64,
    /// What is around it.
    pub shape: Shape,
    /// Where the stub stands.
    pub stub: u64,
}

impl Site {
    /// First byte that changes.
    pub fn start(&self) -> u64 {
        match self.shape {
            Shape::Number { len, .. } => self.syscall - u64::from(len),
            Shape::Follower { .. } => self.syscall,
        }
    }

    /// Behind the last byte that changes.
    pub fn end(&self) -> u64 {
        match self.shape {
            Shape::Number { .. } => self.syscall,
            Shape::Follower { len, .. } => self.syscall + SYSCALL + u64::from(len),
        }
    }

    /// What stands in the place: the jump, and breakpoints behind it.
    pub fn jump(&self) -> Option<([u8; 9], usize)> {
        let len = (self.end() - self.start()) as usize;
        let mut bytes = [0xcc; 9];
        bytes[0] = 0xe9;
        bytes[1..5].copy_from_slice(&distance(self.start() + 5, self.stub)?.to_le_bytes());
        Some((bytes, len.min(9)))
    }

    /// What stood there.
    pub fn original(&self) -> ([u8; 9], usize) {
        let mut bytes = [0; 9];
        let len = (self.end() - self.start()) as usize;
        match self.shape {
            Shape::Number { len: 7, number } => {
                bytes[..3].copy_from_slice(&[0x48, 0xc7, 0xc0]);
                bytes[3..7].copy_from_slice(&number.to_le_bytes());
            }
            Shape::Number { number, .. } => {
                bytes[0] = 0xb8;
                bytes[1..5].copy_from_slice(&number.to_le_bytes());
            }
            Shape::Follower {
                bytes: follower, ..
            } => {
                bytes[..2].copy_from_slice(&[0x0f, 0x05]);
                bytes[2..9].copy_from_slice(&follower[..7]);
            }
        }
        (bytes, len.min(9))
    }

    /// The stub, which jumps to the address that lies at `entry`.
    pub fn code(&self, entry: u64) -> Option<[u8; STUB]> {
        let mut code = Code {
            bytes: [0xcc; STUB],
            len: 0,
            at: self.stub,
        };
        match self.shape {
            Shape::Number { .. } => {
                let (original, len) = self.original();
                code.put(&original[..len]);
                code.lea_rcx(self.syscall + SYSCALL)?;
                code.jump_through(entry)?;
            }
            Shape::Follower { len, bytes } => {
                code.lea_rcx(self.stub + REST)?;
                code.jump_through(entry)?;
                code.put(&[0x0f, 0x05]);
                code.put(bytes.get(..len.into())?);
                let target = distance(code.here() + 5, self.end())?;
                code.put(&[0xe9]);
                code.put(&target.to_le_bytes());
            }
        }
        Some(code.bytes)
    }

    /// Where in the program a thread stands whose instruction pointer is in the stub.
    pub fn outside(&self, rip: u64) -> u64 {
        match self.shape {
            Shape::Number { .. } => self.start(),
            Shape::Follower { .. } if rip < self.stub + REST => self.syscall,
            Shape::Follower { .. } if rip == self.stub + REST => self.syscall + SYSCALL,
            Shape::Follower { .. } => self.end(),
        }
    }

    /// Where the instruction stands now that was behind the `syscall`, if it has moved.
    pub fn rest(&self) -> Option<u64> {
        matches!(self.shape, Shape::Follower { .. }).then_some(self.stub + REST)
    }

    /// True if a stub may stand at this place: it is in reach, and nobody takes the jump's middle for an instruction.
    pub fn fits(&self) -> bool {
        let Some(distance) = distance(self.start() + 5, self.stub) else {
            return false;
        };
        match self.shape {
            Shape::Number { .. } => true,
            Shape::Follower { .. } => is_no_instruction(distance.to_le_bytes()[1]),
        }
    }
}

/// True if an instruction that begins so traps with "invalid opcode" or "breakpoint" in 64-bit mode (SDM volume 2, appendix A).
pub fn is_no_instruction(byte: u8) -> bool {
    matches!(
        byte,
        0x06 | 0x07
            | 0x0e
            | 0x16
            | 0x17
            | 0x1e
            | 0x1f
            | 0x27
            | 0x2f
            | 0x37
            | 0x3f
            | 0x60
            | 0x61
            | 0x82
            | 0x9a
            | 0xcc
            | 0xce
            | 0xd4
            | 0xd6
            | 0xea
    )
}

fn distance(from: u64, to: u64) -> Option<i32> {
    i32::try_from(to.wrapping_sub(from).cast_signed()).ok()
}

struct Code {
    bytes: [u8; STUB],
    len: usize,
    at: u64,
}

impl Code {
    fn here(&self) -> u64 {
        self.at + self.len as u64
    }

    fn put(&mut self, bytes: &[u8]) {
        if let Some(to) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            to.copy_from_slice(bytes);
        }
        self.len += bytes.len();
    }

    /// lea rcx, [rip + ...]
    fn lea_rcx(&mut self, to: u64) -> Option<()> {
        let distance = distance(self.here() + 7, to)?;
        self.put(&[0x48, 0x8d, 0x0d]);
        self.put(&distance.to_le_bytes());
        Some(())
    }

    /// jmp [rip + ...]
    fn jump_through(&mut self, at: u64) -> Option<()> {
        let distance = distance(self.here() + 6, at)?;
        self.put(&[0xff, 0x25]);
        self.put(&distance.to_le_bytes());
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before(bytes: &[u8]) -> [u8; BEFORE] {
        let mut all = [0x90; BEFORE];
        all[BEFORE - bytes.len()..].copy_from_slice(bytes);
        all
    }

    #[test]
    fn a_number_before_the_call_is_known_by_its_value() {
        let mov = [0xb8, 39, 0, 0, 0];
        let shape = recognize(&before(&mov), &[], 39);
        assert_eq!(shape, Some(Shape::Number { len: 5, number: 39 }));
        assert_eq!(recognize(&before(&mov), &[], 40), None);
        let wide = [0x48, 0xc7, 0xc0, 202, 0, 0, 0];
        let shape = recognize(&before(&wide), &[], 202);
        assert_eq!(
            shape,
            Some(Shape::Number {
                len: 7,
                number: 202
            })
        );
    }

    #[test]
    fn what_only_ends_like_a_load_of_the_number_is_left_alone() {
        for bytes in [
            // mov r8d, 39
            &[0x41, 0xb8, 39, 0, 0, 0][..],
            // mov dword ptr [rbp - 0x48], 39
            &[0xc7, 0x45, 0xb8, 39, 0, 0, 0],
            // mov dword ptr [rsp - 0x48], 39
            &[0xc7, 0x44, 0x24, 0xb8, 39, 0, 0, 0],
            // cmp dword ptr [rbp - 0x48], 39
            &[0x81, 0x7d, 0xb8, 39, 0, 0, 0],
            // mov dword ptr [rbx + rcx*4 - 0x48], 39
            &[0xc7, 0x44, 0x8b, 0xb8, 39, 0, 0, 0],
        ] {
            assert_eq!(recognize(&before(bytes), &[], 39), None, "{bytes:x?}");
        }
    }

    #[test]
    fn followers_are_those_that_mean_the_same_elsewhere() {
        for (bytes, len) in [
            (&[0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0x77, 0x56][..], 6),
            (&[0x3d, 0x00, 0xf0, 0xff, 0xff, 0x77, 0x56], 5),
            (&[0x48, 0x85, 0xc0, 0x78], 3),
            (&[0x49, 0x89, 0xc0, 0x90], 3),
        ] {
            let shape = recognize(&[0x90; BEFORE], bytes, 0);
            let Some(Shape::Follower { len: found, .. }) = shape else {
                panic!("{bytes:x?}");
            };
            assert_eq!(found, len);
        }
        for bytes in [
            // ret; test eax, eax; jne; lea rax, [rip]; cut off
            &[0xc3, 0x90, 0x90][..],
            &[0x85, 0xc0, 0x75, 0x10],
            &[0x0f, 0x85, 1, 2, 3, 4],
            &[0x48, 0x8d, 0x05, 1, 2, 3, 4],
            &[0x48, 0x3d, 0, 0],
            &[0x48, 0x8b, 0x05, 0, 0, 0, 0],
        ] {
            assert_eq!(recognize(&[0x90; BEFORE], bytes, 0), None, "{bytes:x?}");
        }
    }

    fn number() -> Site {
        Site {
            syscall: 0x40_1005,
            shape: Shape::Number { len: 5, number: 39 },
            stub: 0x50_0040,
        }
    }

    fn follower() -> Site {
        let bytes = [0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, 0, 0];
        Site {
            syscall: 0x40_1000,
            shape: Shape::Follower { len: 6, bytes },
            // The distance is 0x10cc00: its second byte is a breakpoint.
            stub: 0x50_dc05,
        }
    }

    #[test]
    fn the_jump_replaces_the_load_and_leaves_the_call() {
        let site = number();
        let (jump, len) = site.jump().unwrap();
        assert_eq!(len, 5);
        assert_eq!(jump[..5], [0xe9, 0x3b, 0xf0, 0x0f, 0x00]);
        let code = site.code(0x50_0000).unwrap();
        assert_eq!(code[..5], [0xb8, 39, 0, 0, 0]);
        // lea rcx, [0x401007]
        assert_eq!(code[5..8], [0x48, 0x8d, 0x0d]);
        let back = i32::from_le_bytes([code[8], code[9], code[10], code[11]]);
        assert_eq!(0x50_0040 + 12 + i64::from(back), 0x40_1007);
        assert_eq!(code[12..14], [0xff, 0x25]);
        let entry = i32::from_le_bytes([code[14], code[15], code[16], code[17]]);
        assert_eq!(0x50_0040 + 18 + i64::from(entry), 0x50_0000);
    }

    #[test]
    fn the_follower_runs_in_the_stub() {
        let site = follower();
        assert!(site.fits());
        let (jump, len) = site.jump().unwrap();
        assert_eq!((jump[0], len), (0xe9, 8));
        assert_eq!(jump[2], 0xcc);
        assert_eq!(jump[5..8], [0xcc; 3]);
        let code = site.code(0x50_0000).unwrap();
        assert_eq!(code[13..15], [0x0f, 0x05]);
        assert_eq!(code[15..21], [0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff]);
        assert_eq!(code[21], 0xe9);
        let back = i32::from_le_bytes([code[22], code[23], code[24], code[25]]);
        assert_eq!(0x50_dc05 + 26 + i64::from(back), 0x40_1008);
        assert_eq!(
            site.original().0[..8],
            [0x0f, 0x05, 0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff]
        );
    }

    #[test]
    fn a_thread_in_a_stub_stands_somewhere_in_the_program() {
        let site = number();
        assert_eq!(site.outside(0x50_0045), 0x40_1000);
        let site = follower();
        assert_eq!(site.outside(site.stub), site.syscall);
        assert_eq!(site.outside(site.stub + 13), site.syscall);
        assert_eq!(site.outside(site.stub + 15), site.syscall + 2);
        assert_eq!(site.outside(site.stub + 21), site.syscall + 8);
        assert_eq!(site.rest(), Some(site.stub + 15));
    }

    #[test]
    fn stubs_out_of_reach_do_not_fit() {
        let far = Site {
            stub: 0x1_8040_1000,
            ..number()
        };
        assert!(!far.fits());
        assert!(far.jump().is_none());
        let plain = Site {
            stub: 0x50_9005,
            ..follower()
        };
        assert!(!plain.fits(), "90 is an instruction");
    }
}
