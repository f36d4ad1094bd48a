//! Telling how the guest ended, in words or for a supervisor (`docs/machine.md`, section 4).

use core::fmt::{self, Write};

use kiln_abi::ExitReason;
use kiln_abi::trap::TrapFrame;

/// How a guest ended.
#[derive(Clone, Copy, Debug)]
pub struct Ending<'a> {
    /// An [`ExitReason`].
    pub reason: u32,
    /// The exit code.
    pub code: u32,
    /// Where the image lies.
    pub image_start: u64,
    /// Return addresses, little-endian words, innermost first.
    pub frames: &'a [u8],
    /// The registers at the fault.
    pub registers: Option<&'a TrapFrame>,
    /// What the guest had to say.
    pub message: &'a [u8],
}

/// Writes the report, with the supervisor's token if there is one.
///
/// # Errors
/// Those of `to`.
pub fn write(to: &mut impl Write, ending: &Ending<'_>, token: Option<&[u8]>) -> fmt::Result {
    match token {
        Some(token) => command(to, ending, token),
        None => line(to, ending),
    }
}

fn line(to: &mut impl Write, ending: &Ending<'_>) -> fmt::Result {
    if ending.reason == ExitReason::Exit as u32 {
        return Ok(());
    }
    let what = match ExitReason::from_raw(ending.reason) {
        Some(ExitReason::Panic) => "panic",
        Some(ExitReason::Fault) => "fault",
        Some(ExitReason::Corrupted) => "corrupted",
        Some(ExitReason::Boot) => "cannot start",
        Some(ExitReason::OutOfMemory) => "out of memory",
        _ => "ended",
    };
    to.write_str("kiln: ")?;
    to.write_str(what)?;
    if !ending.message.is_empty() {
        to.write_str(": ")?;
        for &byte in ending.message {
            let printable = matches!(byte, b' '..=b'~' | 0x80..);
            to.write_char(char::from(if printable { byte & 0x7f } else { b' ' }))?;
        }
    }
    let first = ending
        .frames
        .first_chunk()
        .map(|word| u64::from_le_bytes(*word));
    if let Some(address) = ending.registers.map(|r| r.rip).or(first) {
        to.write_str(" at image+")?;
        hex(to, address.wrapping_sub(ending.image_start))?;
    }
    to.write_char('\n')
}

fn command(to: &mut impl Write, ending: &Ending<'_>, token: &[u8]) -> fmt::Result {
    to.write_str("\x1b_kiln ")?;
    encode(to, token)?;
    for number in [
        u64::from(ending.reason),
        ending.code.into(),
        ending.image_start,
    ] {
        to.write_char(' ')?;
        hex(to, number)?;
    }
    to.write_char(' ')?;
    list(to, words(ending.frames))?;
    to.write_char(' ')?;
    match ending.registers {
        None => list(to, core::iter::empty())?,
        Some(r) => {
            let rest = [
                r.rip,
                r.rflags,
                r.vector.into(),
                r.error.into(),
                r.address,
                r.signal.into(),
            ];
            list(to, r.registers.iter().copied().chain(rest))?;
        }
    }
    to.write_char(' ')?;
    encode(to, ending.message)?;
    to.write_str("\x1b\\")
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes
        .chunks_exact(8)
        .filter_map(|w| w.first_chunk())
        .map(|w| u64::from_le_bytes(*w))
}

fn list(to: &mut impl Write, numbers: impl Iterator<Item = u64>) -> fmt::Result {
    let mut empty = true;
    for number in numbers {
        if !empty {
            to.write_char(',')?;
        }
        empty = false;
        hex(to, number)?;
    }
    if empty { to.write_char('-') } else { Ok(()) }
}

/// Without the machinery of `core::fmt`, which is larger than all of this crate.
fn hex(to: &mut impl Write, number: u64) -> fmt::Result {
    let digits = (64 - number.leading_zeros()).div_ceil(4).max(1);
    for index in (0..digits).rev() {
        digit(to, (number >> (index * 4)) as u8)?;
    }
    Ok(())
}

fn digit(to: &mut impl Write, value: u8) -> fmt::Result {
    let value = value & 15;
    to.write_char(char::from(if value < 10 {
        b'0' + value
    } else {
        b'a' - 10 + value
    }))
}

fn encode(to: &mut impl Write, bytes: &[u8]) -> fmt::Result {
    for &byte in bytes {
        if matches!(byte, b'!'..=b'~') && byte != b'%' && !(byte == b'-' && bytes.len() == 1) {
            to.write_char(char::from(byte))?;
        } else {
            to.write_char('%')?;
            digit(to, byte >> 4)?;
            digit(to, byte)?;
        }
    }
    if bytes.is_empty() {
        to.write_char('-')
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    fn text(ending: &Ending<'_>, token: Option<&[u8]>) -> String {
        let mut text = String::new();
        write(&mut text, ending, token).unwrap();
        text
    }

    const EXIT: Ending<'_> = Ending {
        reason: 0,
        code: 3,
        image_start: 0x1000,
        frames: &[],
        registers: None,
        message: b"",
    };

    #[test]
    fn an_orderly_exit_is_told_to_supervisors_only() {
        assert_eq!(text(&EXIT, None), "");
        assert_eq!(
            text(&EXIT, Some(b"t0k")),
            "\x1b_kiln t0k 0 3 1000 - - -\x1b\\"
        );
    }

    #[test]
    fn a_fault_has_registers_and_frames() {
        let mut frame = TrapFrame {
            rip: 0x1234,
            rflags: 0x202,
            vector: 14,
            error: 6,
            address: 8,
            signal: 11,
            ..TrapFrame::default()
        };
        for (value, register) in (0u64..).zip(&mut frame.registers) {
            *register = value * 0x10;
        }
        let ending = Ending {
            reason: 2,
            code: 139,
            frames: &[0x34, 0x12, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x80, 9],
            registers: Some(&frame),
            message: b"page fault: \x1b\n100% -",
            ..EXIT
        };
        assert_eq!(
            text(&ending, Some(b"x")),
            "\x1b_kiln x 2 8b 1000 1234,8000000000000001 \
             0,10,20,30,40,50,60,70,80,90,a0,b0,c0,d0,e0,f0,1234,202,e,6,8,b page%20fault:%20%1b%0a100%25%20-\x1b\\"
        );
        assert_eq!(
            text(&ending, None),
            "kiln: fault: page fault:   100% - at image+234\n"
        );
    }

    #[test]
    fn a_lone_dash_is_not_taken_for_nothing() {
        assert!(
            text(
                &Ending {
                    message: b"-",
                    ..EXIT
                },
                Some(b"x")
            )
            .ends_with(" %2d\x1b\\")
        );
    }
}
