//! What a program reads from its console, on its way over the line that also carries requests to end.
//!
//! The code is the machine part's (`docs/machine.md`, section 4): bytes that mean something come behind an escape.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

/// Means nothing. A serial port that is being set up loses a byte; so these come first.
const NOTHING: u8 = 0x16;
const ESCAPE: u8 = 0x10;
const END: u8 = b'E';
const REQUEST: u8 = b'S';

/// How much may lie in the pipe: requests to end wait behind it.
const AHEAD: u64 = 512;
/// How often to look whether the guest has taken some.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Appends bytes as the line carries them.
fn encode(bytes: &[u8], line: &mut Vec<u8>) {
    for &byte in bytes {
        match byte {
            3 | 4 | ESCAPE | NOTHING => line.extend([ESCAPE, byte + 0x40]),
            byte => line.push(byte),
        }
    }
}

/// A request of the owner's ([`Call::event`](kiln_abi::Call::event)), as the line carries it: behind the escape six bytes of six bits.
pub fn request(event: u32) -> Vec<u8> {
    let bits = (0..6).map(|part| 0x40 | (event >> (6 * part) & 0x3f) as u8);
    [ESCAPE, REQUEST].into_iter().chain(bits).collect()
}

/// Begins to pass `input` on to `line`, until its end; without any, the end is told at once. The thread ends with the line.
pub fn pass_on(input: Option<OwnedFd>, line: OwnedFd) {
    std::thread::spawn(move || {
        // A line that breaks is a machine that has ended.
        let _ = pass(input.as_ref().map(AsFd::as_fd), line.as_fd());
    });
}

fn pass(input: Option<BorrowedFd<'_>>, line: BorrowedFd<'_>) -> rustix::io::Result<()> {
    send(line, &[NOTHING; 4])?;
    let mut bytes = [0; AHEAD as usize / 2];
    while let Some(input) = input {
        let mut ready = [PollFd::new(&input, PollFlags::IN)];
        poll(&mut ready, None)?;
        let count = match rustix::io::read(input, &mut bytes) {
            Ok(0) => break,
            Ok(count) => count,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
            // No longer readable is its end, too.
            Err(_) => break,
        };
        let mut coded = Vec::with_capacity(2 * count);
        encode(&bytes[..count], &mut coded);
        while rustix::io::ioctl_fionread(line).unwrap_or(0) > AHEAD {
            std::thread::sleep(LOOK_AGAIN);
        }
        send(line, &coded)?;
    }
    send(line, &[ESCAPE, END])
}

fn send(line: BorrowedFd<'_>, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(line, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                poll(&mut [PollFd::new(&line, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn what_means_something_comes_behind_an_escape() {
        let (from, mut to) = std::io::pipe().unwrap();
        let (mut line, line_end) = std::io::pipe().unwrap();
        pass_on(Some(from.into()), line_end.into());
        to.write_all(b"a\x03\x04\x10\x16E").unwrap();
        drop(to);
        let mut coded = Vec::new();
        line.read_to_end(&mut coded).unwrap();
        assert_eq!(coded, b"\x16\x16\x16\x16a\x10C\x10D\x10P\x10VE\x10E");
    }

    #[test]
    fn requests_have_no_byte_that_means_something() {
        assert_eq!(request(1), b"\x10SA@@@@@");
        assert_eq!(request(0xffff_ffff), b"\x10S\x7f\x7f\x7f\x7f\x7fC");
    }

    #[test]
    fn without_input_there_is_an_end() {
        let (mut line, line_end) = std::io::pipe().unwrap();
        pass_on(None, line_end.into());
        let mut coded = Vec::new();
        line.read_to_end(&mut coded).unwrap();
        assert_eq!(coded, b"\x16\x16\x16\x16\x10E");
    }
}
