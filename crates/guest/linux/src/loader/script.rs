//! Scripts: files that begin with `#!` and the path of what interprets them (`execve(2)`, "Interpreter scripts").

/// How much of a file is looked at.
pub const LINE: usize = 256;

/// The first line of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Script<'a> {
    /// The interpreter's path.
    pub interpreter: &'a [u8],
    /// Everything behind it, as one argument.
    pub argument: Option<&'a [u8]>,
}

/// Reads the beginning of a file: at most [`LINE`] bytes are looked at. `None` if it is not a script that names its interpreter.
pub fn parse(start: &[u8]) -> Option<Script<'_>> {
    let start = start.get(..start.len().min(LINE))?;
    let line = start.strip_prefix(b"#!")?;
    let (line, complete) = match line.iter().position(|&byte| byte == b'\n') {
        Some(end) => (line.get(..end)?, true),
        None => (line, start.len() < LINE),
    };
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | 0);
    let line = trim(line);
    let end = line.iter().position(blank);
    let (interpreter, rest) = match end {
        Some(end) => line.split_at(end),
        // A name that may go on behind what was looked at.
        None if complete => (line, &[][..]),
        None => return None,
    };
    if interpreter.is_empty() {
        return None;
    }
    // A NUL ends the line, as in any string of C.
    let rest = trim(rest);
    let rest = rest.split(|&byte| byte == 0).next().unwrap_or_default();
    Some(Script {
        interpreter,
        argument: (!rest.is_empty()).then_some(rest),
    })
}

/// Without blanks at both ends.
fn trim(line: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let from = line.iter().position(|byte| !blank(byte));
    let to = line.iter().rposition(|byte| !blank(byte));
    match (from, to) {
        (Some(from), Some(to)) => line.get(from..=to).unwrap_or_default(),
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE, Script, parse};
    use alloc::vec;

    fn script<'a>(interpreter: &'a str, argument: Option<&'a str>) -> Option<Script<'a>> {
        Some(Script {
            interpreter: interpreter.as_bytes(),
            argument: argument.map(str::as_bytes),
        })
    }

    #[test]
    fn everything_behind_the_interpreter_is_one_argument() {
        assert_eq!(parse(b"#!/bin/sh\necho"), script("/bin/sh", None));
        assert_eq!(
            parse(b"#! \t/usr/bin/env  -S python3 -u \t\n"),
            script("/usr/bin/env", Some("-S python3 -u"))
        );
        assert_eq!(parse(b"#!/bin/true"), script("/bin/true", None));
    }

    #[test]
    fn a_line_without_a_name_is_no_script() {
        assert_eq!(parse(b"#!"), None);
        assert_eq!(parse(b"#!  \n/bin/sh"), None);
        assert_eq!(parse(b"\x7fELF"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn a_name_that_does_not_fit_is_refused_but_an_argument_is_cut() {
        let mut long = vec![b'a'; 400];
        long[..3].copy_from_slice(b"#!/");
        assert_eq!(parse(&long), None);
        long[10] = b' ';
        assert_eq!(parse(&long).unwrap().argument.unwrap().len(), LINE - 11);
    }
}
