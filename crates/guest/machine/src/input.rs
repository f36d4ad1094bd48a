//! What is typed for the program: bytes of the console, between the machine and [`UserOp::ConsoleRead`](kiln_abi::user::UserOp::ConsoleRead).
//!
//! A supervisor sends requests over the same line, so it codes what belongs to the program: `0x10` comes before a byte that would mean something
//! (as that byte plus `0x40`), before `E` for the end, and before `S` and the 32 bits of a request, six in a byte (plus `0x40`), the lowest first;
//! `0x16` means nothing. Without a supervisor all bytes but the requests are the program's.

/// Bytes that wait for the program.
const ROOM: usize = 1024;

const ESCAPE: u8 = 0x10;
const NOTHING: u8 = 0x16;
const END: u8 = b'E';
const REQUEST: u8 = b'S';
/// Bytes of a request behind its letter.
const PARTS: u8 = 6;

/// The bytes.
#[derive(Debug)]
pub struct Input {
    bytes: [u8; ROOM],
    start: usize,
    len: usize,
    /// There is a supervisor that codes.
    pub coded: bool,
    escaped: bool,
    ended: bool,
    /// Bytes of a request that are to come, and what has come of it.
    parts: u8,
    request: u32,
}

impl Input {
    /// Nothing. All zeroes.
    pub const EMPTY: Self = Self {
        bytes: [0; ROOM],
        start: 0,
        len: 0,
        coded: false,
        escaped: false,
        ended: false,
        parts: 0,
        request: 0,
    };

    /// Whether another byte may be taken from the line.
    pub fn has_room(&self) -> bool {
        self.len < ROOM
    }

    /// Whether there is something to read, or the end.
    pub fn is_ready(&self) -> bool {
        self.len > 0 || self.ended
    }

    /// Takes a byte from the line. The request that it completes ([`Call::event`](kiln_abi::Call::event)), 0 for none.
    pub fn take(&mut self, byte: u8) -> u32 {
        if self.parts > 0 {
            let part = u32::from(byte & 0x3f) << (6 * (PARTS - self.parts));
            self.parts -= 1;
            self.request |= part;
            return if self.parts == 0 { self.request } else { 0 };
        }
        if self.coded && core::mem::take(&mut self.escaped) {
            match byte {
                END => self.ended = true,
                REQUEST => (self.parts, self.request) = (PARTS, 0),
                byte => self.keep(byte.wrapping_sub(0x40)),
            }
            return 0;
        }
        match byte {
            3 => return 2,
            4 => return 15,
            ESCAPE if self.coded => self.escaped = true,
            NOTHING if self.coded => {}
            byte => self.keep(byte),
        }
        0
    }

    fn keep(&mut self, byte: u8) {
        if let Some(to) = self.bytes.get_mut((self.start + self.len) % ROOM)
            && self.len < ROOM
        {
            *to = byte;
            self.len += 1;
        }
    }

    /// Hands bytes to the program; `None` if there are none yet, 0 at the end.
    pub fn read(&mut self, to: &mut [u8]) -> Option<usize> {
        if self.len == 0 {
            return self.ended.then_some(0);
        }
        let mut count = 0;
        for to in to.iter_mut().take(self.len) {
            let Some(byte) = self.bytes.get(self.start % ROOM) else {
                break;
            };
            *to = *byte;
            self.start = (self.start + 1) % ROOM;
            count += 1;
        }
        self.len -= count;
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(input: &mut Input, line: &[u8]) -> std::vec::Vec<u32> {
        line.iter()
            .map(|byte| input.take(*byte))
            .filter(|event| *event != 0)
            .collect()
    }

    #[test]
    fn requests_are_told_from_what_the_program_reads() {
        let mut input = Input::EMPTY;
        input.coded = true;
        let line = b"\x16\x16a\x10C\x03b\x10D\x10P\x10V\x04\x10E";
        assert_eq!(taken(&mut input, line), [2, 15]);
        let mut buffer = [0; 64];
        assert_eq!(input.read(&mut buffer), Some(6));
        assert_eq!(&buffer[..6], b"a\x03b\x04\x10\x16");
        assert_eq!(input.read(&mut buffer), Some(0), "the end");
        assert_eq!(input.read(&mut buffer), Some(0), "is final");
        let line = b"\x10SA@@@@@c\x10S\x5c@@@@A";
        assert_eq!(taken(&mut input, line), [1, 0x4000_001c]);
        assert_eq!(input.read(&mut buffer), Some(1));
    }

    #[test]
    fn without_a_supervisor_bytes_are_bytes() {
        let mut input = Input::EMPTY;
        assert_eq!(taken(&mut input, b"\x10E\x03\x16"), [2]);
        let mut buffer = [0; 2];
        assert_eq!(input.read(&mut buffer), Some(2));
        assert_eq!(&buffer, b"\x10E");
        assert_eq!(input.read(&mut buffer), Some(1));
        assert_eq!(input.read(&mut buffer), None);
    }

    #[test]
    fn no_more_is_taken_than_there_is_room() {
        let mut input = Input::EMPTY;
        let mut buffer = [0; 700];
        let mut next = 0u8;
        let mut expected = 0u8;
        for _ in 0..50 {
            while input.has_room() {
                input.take(b'A' + next % 26);
                next = (next + 1) % 26;
            }
            let count = input.read(&mut buffer).unwrap();
            for byte in &buffer[..count] {
                assert_eq!(*byte, b'A' + expected % 26);
                expected = (expected + 1) % 26;
            }
        }
    }
}
