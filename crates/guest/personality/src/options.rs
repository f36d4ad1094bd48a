//! The arguments of the image: options, `--`, the program and its arguments.

use alloc::vec::Vec;

/// What the arguments ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options<'a> {
    /// Print every system call (`--strace`).
    pub trace: bool,
    /// Working directory (`--cwd=PATH`).
    pub cwd: Option<&'a [u8]>,
    /// Who the program runs as (`--uid=N`, `--gid=N`).
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The machine's name (`--hostname=NAME`).
    pub hostname: Option<&'a [u8]>,
    /// Folders of the host: device name, path, read-only (`--volume=NAME:/path[:ro]`).
    pub volumes: Vec<Volume<'a>>,
    /// The device of the folder that core files go to (`--core=NAME`).
    pub core: Option<&'a [u8]>,
    /// Where the program's file is (`--exec=PATH`), if not where its name says.
    pub exec: Option<&'a [u8]>,
    /// Columns and rows of the terminal that the console is (`--terminal=COLUMNSxROWS`).
    pub terminal: Option<(u16, u16)>,
    /// Standard error output is not that terminal (`--errors-apart`).
    pub errors_apart: bool,
    /// Report at the end what the program used (`--report`).
    pub report: bool,
    /// The only system calls that the program may make (`--only-calls=NAME,NAME`).
    pub only_calls: Option<&'a [u8]>,
    /// The program and its arguments.
    pub program: Vec<&'a [u8]>,
}

/// A folder of the host.
#[derive(Debug, PartialEq, Eq)]
pub struct Volume<'a> {
    /// Name of the device.
    pub device: &'a [u8],
    /// Where it is mounted.
    pub path: &'a [u8],
    /// Nothing can be written there.
    pub read_only: bool,
}

impl<'a> Options<'a> {
    /// Reads the arguments behind the image's name.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(mut arguments: impl Iterator<Item = &'a [u8]>) -> Result<Self, &'static str> {
        let mut options = Self::default();
        for argument in arguments.by_ref() {
            if argument == b"--" {
                options.program = arguments.collect();
                return Ok(options);
            }
            let at = argument.iter().position(|&b| b == b'=');
            let (name, value) = match at {
                Some(at) => (&argument[..at], &argument[at + 1..]),
                None => (argument, &[][..]),
            };
            match name {
                b"--strace" => options.trace = true,
                b"--report" => options.report = true,
                b"--only-calls" => options.only_calls = Some(value),
                b"--cwd" => options.cwd = Some(value),
                b"--uid" => options.uid = number(value)?,
                b"--gid" => options.gid = number(value)?,
                b"--hostname" => options.hostname = Some(value),
                b"--core" => options.core = Some(value),
                b"--exec" => options.exec = Some(value),
                b"--volume" => options.volumes.push(volume(value)?),
                b"--errors-apart" => options.errors_apart = true,
                b"--terminal" => {
                    let mut sides = value.split(|&b| b == b'x').map(number);
                    let (Some(columns), Some(rows)) = (sides.next(), sides.next()) else {
                        return Err("expected --terminal=COLUMNSxROWS");
                    };
                    let side = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
                    options.terminal = Some((side(columns?), side(rows?)));
                }
                _ => return Err("unknown option of the Linux personality"),
            }
        }
        Ok(options)
    }
}

fn number(text: &[u8]) -> Result<u32, &'static str> {
    let text = core::str::from_utf8(text).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or("expected a number")
}

fn volume(text: &[u8]) -> Result<Volume<'_>, &'static str> {
    let (text, read_only) = match text.strip_suffix(b":ro") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let at = text.iter().position(|&b| b == b':');
    let at = at.ok_or("expected --volume=NAME:/path")?;
    let (device, path) = (&text[..at], &text[at + 1..]);
    if device.is_empty() || !path.starts_with(b"/") {
        return Err("expected --volume=NAME:/path");
    }
    Ok(Volume {
        device,
        path,
        read_only,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<'a>(arguments: &[&'a str]) -> Result<Options<'a>, &'static str> {
        Options::parse(arguments.iter().map(|a| a.as_bytes()))
    }

    #[test]
    fn options_end_at_two_dashes() {
        let options = parse(&["--strace", "--cwd=/tmp", "--", "/bin/ls", "--uid=3"]).unwrap();
        assert!(options.trace);
        assert_eq!(options.cwd, Some(&b"/tmp"[..]));
        assert_eq!(options.uid, 0);
        assert_eq!(options.program, [&b"/bin/ls"[..], b"--uid=3"]);
    }

    #[test]
    fn volumes_name_a_device_and_a_path() {
        let options = parse(&["--volume=data:/srv/x:ro", "--volume=more:/y"]).unwrap();
        assert_eq!(options.volumes[0].path, b"/srv/x");
        assert!(options.volumes[0].read_only);
        assert_eq!(options.volumes[1].device, b"more");
        assert!(parse(&["--volume=data"]).is_err());
        assert!(parse(&["--volume=data:relative"]).is_err());
    }

    #[test]
    fn what_is_unknown_is_refused() {
        assert!(parse(&["--colour"]).is_err());
        assert!(parse(&["--uid=root"]).is_err());
    }

    #[test]
    fn a_terminal_has_two_sides() {
        let options = parse(&["--terminal=80x25"]).unwrap();
        assert_eq!(options.terminal, Some((80, 25)));
        assert!(parse(&["--terminal=80"]).is_err());
    }
}
