//! What a guest under another monitor writes to its console, with the report of its end somewhere in it.
//!
//! Output comes in pieces of any size. What is passed on and the report must not depend on how it was cut, nothing of it may
//! get lost, and little may be held back.
#![no_main]

use kiln_monitor::backends::foreign::report::Screen;
use libfuzzer_sys::fuzz_target;

const TOKEN: &str = "0011223344556677";

fuzz_target!(|pieces: Vec<Vec<u8>>| {
    // Short stand-ins, so that reports are found.
    let pieces: Vec<Vec<u8>> = pieces
        .into_iter()
        .map(|piece| {
            let mut out = Vec::new();
            for byte in piece {
                match byte {
                    0xf0 => out.extend(format!("\x1b_kiln {TOKEN} ").bytes()),
                    0xf1 => out.extend(b"0 0 1000 - - -"),
                    0xf2 => out.extend(b"\x1b\\"),
                    byte => out.push(byte),
                }
            }
            out
        })
        .collect();
    let whole = pieces.concat();
    let (mut passed, mut last) = (Vec::new(), None);
    let mut screen = Screen::new(TOKEN);
    for piece in pieces {
        let mut output = piece;
        last = screen.pass(&mut output, false).or(last);
        passed.extend(output);
    }
    let mut rest = Vec::new();
    last = screen.pass(&mut rest, true).or(last);
    passed.extend(rest);

    let mut at_once = whole.clone();
    let report = Screen::new(TOKEN).pass(&mut at_once, true);
    assert_eq!(passed, at_once, "it matters how output is cut");
    assert_eq!(last, report);
    if report.is_none() {
        assert_eq!(passed, whole, "output is lost");
    }
});
