//! The guest's last words on its console: what `docs/machine.md`, section 4, lists.
//!
//! Everything here comes from the guest and is bounded. What is not exactly a report with this run's token is output
//! like any other and is passed on; so is what looked like the beginning of one.

use kiln_abi::ExitReason;
use kiln_abi::trap::TrapFrame;

/// The most bytes of a report: its message may be written with three for each of its own.
const MAX_REPORT: usize = 8192;

/// The most return addresses that are kept, as of any guest.
const MAX_FRAMES: usize = 64;

/// The most bytes of a message that are kept, as of any guest.
const MAX_MESSAGE: usize = 1024;

/// Registers in a report: sixteen, then rip, rflags, vector, error, address, signal.
const REGISTERS: usize = 22;

const BEGIN: &str = "\x1b_kiln ";
const END: &[u8] = b"\x1b\\";

/// How a guest says that it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Why.
    pub reason: ExitReason,
    /// Its exit code.
    pub code: u8,
    /// Where its image lay.
    pub image_start: u64,
    /// Return addresses, innermost first.
    pub frames: Vec<u64>,
    /// The registers, if it faulted.
    pub registers: Option<Box<TrapFrame>>,
    /// What it said.
    pub message: String,
}

/// Takes a report out of a stream of output.
#[derive(Debug)]
pub struct Screen {
    /// What a report begins with.
    begin: Vec<u8>,
    /// The beginning of what may be one.
    held: Vec<u8>,
}

/// What stands at an escape character.
enum Found {
    /// No report.
    Other,
    /// Not to be known yet.
    Unfinished,
    /// A report of this many bytes.
    Report(usize, Report),
}

impl Screen {
    /// For reports with this token.
    pub fn new(token: &str) -> Self {
        Self {
            begin: format!("{BEGIN}{token} ").into_bytes(),
            held: Vec::new(),
        }
    }

    /// Takes more output and leaves in `output` what is to be passed on, with `last` all that there is. Gives the
    /// report that ended in it; of several the last.
    pub fn pass(&mut self, output: &mut Vec<u8>, last: bool) -> Option<Report> {
        if self.held.is_empty() && !output.contains(&0x1b) {
            return None;
        }
        let mut text = std::mem::take(&mut self.held);
        text.append(output);
        let mut report = None;
        let mut at = 0;
        while let Some(escape) = text[at..].iter().position(|&byte| byte == 0x1b) {
            let escape = at + escape;
            output.extend(&text[at..escape]);
            at = escape;
            match self.look(&text[at..]) {
                Found::Report(length, found) => {
                    report = Some(found);
                    at += length;
                }
                Found::Unfinished if !last => {
                    self.held = text.split_off(at);
                    return report;
                }
                Found::Unfinished | Found::Other => {
                    output.push(text[at]);
                    at += 1;
                }
            }
        }
        output.extend(&text[at..]);
        report
    }

    fn look(&self, text: &[u8]) -> Found {
        let Some(content) = text.strip_prefix(self.begin.as_slice()) else {
            return if self.begin.starts_with(text) {
                Found::Unfinished
            } else {
                Found::Other
            };
        };
        let content = &content[..content.len().min(MAX_REPORT)];
        match content
            .iter()
            .position(|byte| !(b' '..=b'~').contains(byte))
        {
            Some(end) if content[end..].starts_with(END) => {
                let length = self.begin.len() + end + END.len();
                let parsed = str::from_utf8(&content[..end]).ok().and_then(parse);
                parsed.map_or(Found::Other, |report| Found::Report(length, report))
            }
            Some(end) if content[end..] == END[..1] => Found::Unfinished,
            Some(_) => Found::Other,
            None if content.len() == MAX_REPORT => Found::Other,
            None => Found::Unfinished,
        }
    }
}

/// What stands between token and end.
fn parse(text: &str) -> Option<Report> {
    let mut fields = text.split(' ');
    let mut field = || fields.next();
    let reason = number(field()?)?;
    // As `exit` has it, only the lowest byte counts.
    let code = (number(field()?)? & 0xff) as u8;
    let image_start = number(field()?)?;
    let mut frames = list(field()?)?;
    let registers = list(field()?)?;
    let message = message(field()?)?;
    if fields.next().is_some() {
        return None;
    }
    frames.truncate(MAX_FRAMES);
    Some(Report {
        // One that is unknown here has ended in an orderly way all the same.
        reason: u32::try_from(reason)
            .ok()
            .and_then(ExitReason::from_raw)
            .unwrap_or(ExitReason::Exit),
        code,
        image_start,
        frames,
        registers: match registers.len() {
            0 => None,
            REGISTERS => Some(Box::new(trap_frame(&registers))),
            _ => return None,
        },
        message,
    })
}

/// Hexadecimal digits and nothing else.
fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        u64::from_str_radix(text, 16).ok()
    } else {
        None
    }
}

fn list(text: &str) -> Option<Vec<u64>> {
    match text {
        "-" => Some(Vec::new()),
        _ => text.split(',').map(number).collect(),
    }
}

fn trap_frame(values: &[u64]) -> TrapFrame {
    let mut frame = TrapFrame {
        rip: values[16],
        rflags: values[17],
        vector: values[18] as u32,
        error: values[19] as u32,
        address: values[20],
        signal: values[21] as u32,
        ..TrapFrame::default()
    };
    frame.registers.copy_from_slice(&values[..16]);
    frame
}

fn message(text: &str) -> Option<String> {
    if text == "-" {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (byte, length) = if first == '%' {
            (number(rest.get(1..3)?)? as u8, 3)
        } else {
            (u8::try_from(first).ok()?, 1)
        };
        bytes.push(byte);
        rest = &rest[length..];
    }
    bytes.truncate(MAX_MESSAGE);
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    // A character that the limit has cut in two.
    if bytes.len() == MAX_MESSAGE && text.ends_with(char::REPLACEMENT_CHARACTER) {
        text.pop();
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn screened(pieces: &[&[u8]]) -> (Vec<u8>, Option<Report>) {
        let mut screen = Screen::new(TOKEN);
        let (mut passed, mut report) = (Vec::new(), None);
        for piece in pieces {
            let mut output = piece.to_vec();
            report = screen.pass(&mut output, false).or(report);
            passed.extend(output);
        }
        let mut rest = Vec::new();
        report = screen.pass(&mut rest, true).or(report);
        passed.extend(rest);
        (passed, report)
    }

    fn panic() -> (String, Report) {
        let text = format!("\x1b_kiln {TOKEN} 1 65 100000 101234,102000 - oh%20no%0a100%25\x1b\\");
        let report = Report {
            reason: ExitReason::Panic,
            code: 101,
            image_start: 0x10_0000,
            frames: vec![0x10_1234, 0x10_2000],
            registers: None,
            message: "oh no\n100%".into(),
        };
        (text, report)
    }

    #[test]
    fn a_report_is_taken_out_wherever_it_is_cut() {
        let (text, report) = panic();
        let all = format!("before\n{text}after");
        for cut in 0..=all.len() {
            let (one, other) = all.as_bytes().split_at(cut);
            let (passed, found) = screened(&[one, other]);
            assert_eq!(passed, b"before\nafter", "cut at {cut}");
            assert_eq!(found.as_ref(), Some(&report), "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = all.as_bytes().chunks(1).collect();
        assert_eq!(screened(&bytes).1, Some(report));
    }

    #[test]
    fn a_fault_comes_with_its_registers() {
        let values: Vec<String> = (1..=22).map(|n| format!("{n:x}")).collect();
        let text = format!("\x1b_kiln {TOKEN} 2 8b 0 - {} -\x1b\\", values.join(","));
        let report = screened(&[text.as_bytes()]).1.unwrap();
        let frame = report.registers.unwrap();
        assert_eq!(report.reason, ExitReason::Fault);
        assert_eq!((frame.registers[0], frame.registers[15]), (1, 16));
        assert_eq!((frame.rip, frame.rflags, frame.vector), (17, 18, 19));
        assert_eq!((frame.error, frame.address, frame.signal), (20, 21, 22));
        assert_eq!(report.message, "");
    }

    #[test]
    fn of_two_reports_the_last_one_holds() {
        let text =
            format!("\x1b_kiln {TOKEN} 0 1 0 - - -\x1b\\\x1b_kiln {TOKEN} 0 2 0 - - -\x1b\\");
        let (passed, report) = screened(&[text.as_bytes()]);
        assert_eq!((passed.len(), report.unwrap().code), (0, 2));
    }

    #[test]
    fn of_a_code_the_lowest_byte_counts() {
        for (code, taken) in [("100", 0), ("12a", 0x2a), ("ffffffffffffffff", 0xff)] {
            let text = format!("\x1b_kiln {TOKEN} 0 {code} 0 - - -\x1b\\");
            assert_eq!(screened(&[text.as_bytes()]).1.unwrap().code, taken);
        }
    }

    #[test]
    fn what_is_no_report_is_output() {
        let registers = vec!["0"; 21].join(",");
        for text in [
            "\x1b[31mred\x1b[0m".to_owned(),
            "\x1b".to_owned(),
            "\x1b_kiln fedcba9876543210 0 0 0 - - -\x1b\\".to_owned(),
            format!("\x1b_kiln {TOKEN}"),
            format!("\x1b_kiln {TOKEN} 0 0 0 - - -"),
            format!("\x1b_kiln {TOKEN} 0 0 0 - - -\x1b"),
            format!("\x1b_kiln {TOKEN} 0 0 0 - - -\n\x1b\\"),
            format!("\x1b_kiln {TOKEN} 0 0 0 - -\x1b\\"),
            format!("\x1b_kiln {TOKEN} 0 0 0 - - - -\x1b\\"),
            format!("\x1b_kiln {TOKEN} 0 +1 0 - - -\x1b\\"),
            format!("\x1b_kiln {TOKEN} 0 0x1 0 - - -\x1b\\"),
            format!("\x1b_kiln {TOKEN} 0 0 11111111111111111 - - -\x1b\\"),
            format!("\x1b_kiln {TOKEN} 0 0 0 , - -\x1b\\"),
            format!("\x1b_kiln {TOKEN} 0 0 0 - {registers} -\x1b\\"),
            format!("\x1b_kiln {TOKEN} 0 0 0 - - %\x1b\\"),
            format!("\x1b_kiln {TOKEN} 0 0 0 - - %4\x1b\\"),
            format!("\x1b_kiln {TOKEN} 0 0 0 - - %zz\x1b\\"),
            format!("\x1b_kiln {TOKEN} {}", "a".repeat(3 * MAX_REPORT)),
        ] {
            for size in [1, 7, text.len()] {
                let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
                let (passed, report) = screened(&pieces);
                assert_eq!(String::from_utf8_lossy(&passed), text);
                assert_eq!(report, None, "{text}");
            }
        }
    }

    #[test]
    fn a_report_behind_a_broken_one_counts() {
        let (text, report) = panic();
        let broken = format!("\x1b_kiln {TOKEN} 0 0");
        let (passed, found) = screened(&[broken.as_bytes(), text.as_bytes()]);
        assert_eq!(String::from_utf8_lossy(&passed), broken);
        assert_eq!(found, Some(report));
    }

    #[test]
    fn nothing_is_kept_without_bound() {
        let long = "%e2%82%ac".repeat(800);
        let frames = vec!["ffffffff"; 70].join(",");
        let text = format!("\x1b_kiln {TOKEN} 1 65 0 {frames} - {long}\x1b\\");
        let report = screened(&[text.as_bytes()]).1.unwrap();
        assert_eq!(report.frames.len(), MAX_FRAMES);
        assert!(report.message.len() <= MAX_MESSAGE && report.message.ends_with('€'));
        let mut screen = Screen::new(TOKEN);
        let mut flood = format!("\x1b_kiln {TOKEN} ").into_bytes();
        for _ in 0..1000 {
            let _ = screen.pass(&mut flood, false);
            assert!(screen.held.len() <= MAX_REPORT + 32);
            flood.resize(100, b'a');
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_passed_on(text: Vec<u8>, size in 1..40_usize) {
            let pieces: Vec<&[u8]> = text.chunks(size).collect();
            proptest::prop_assert_eq!(screened(&pieces), (text.clone(), None));
        }
    }
}
