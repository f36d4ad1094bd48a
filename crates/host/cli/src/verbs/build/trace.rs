//! Running a program to see what it uses (`kiln build --trace`).
//!
//! The program runs by this same command as a guest with all of its files, under whatever workload the user gives it. At its
//! end the guest reports which inodes of the root image somebody asked for by name, and which system calls were made, in
//! marked lines on the standard error output (`kiln_linux::report`); everything else there is passed on.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kiln_fs::erofs::{self, Kind, Tree};
use kiln_image::{Config, Image};
use kiln_monitor::signals::{self, Sender, Signals};
use kiln_monitor::size::Size;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process};

use crate::exit::Failure;
use crate::program;
use crate::tell::tell;

/// What a line of a report begins with.
const MARK: &[u8] = b"\x1ekiln-report ";

/// Files that are small, and asked for in moments that a run may not have had.
const ALWAYS: [&[u8]; 4] = [
    b"/etc/group",
    b"/etc/hosts",
    b"/etc/nsswitch.conf",
    b"/etc/passwd",
];

/// So many of the folders that were left out are listed.
const SHOWN: usize = 12;

/// What a run used.
#[derive(Debug, Default)]
pub struct Used {
    /// Names of system calls.
    pub calls: Vec<String>,
    /// Paths in the root file system.
    paths: HashSet<Vec<u8>>,
}

/// Removes a file at the end.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Runs the program in `tree` to its end. `image` is what will be built: the one with everything lies beside it meanwhile.
///
/// # Errors
/// If it cannot be run, or ends without a report.
pub fn run(tree: &Tree, config: &Config, image: &Path, ports: &[String]) -> Result<Used, Failure> {
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let whole =
        Temporary(image.with_file_name(format!(".{name}.{}.trace.kiln", std::process::id())));
    // The program's end by Ctrl-C is not this command's.
    let signals = signals::block()?;
    program::compose(&whole.0, config, program::Readers::Owner, |file| {
        tree.write(file)
    })?;
    while let Some(signal) = signals.next() {
        if asks_for_the_end(signal) {
            return Err(Failure::Silent(128 | u8::try_from(signal).unwrap_or(0)));
        }
    }
    tell("running the program; use what it is to be used for, then end it");
    let own = std::env::current_exe().map_err(|error| failed("find itself", &error))?;
    let mut command = Command::new(own);
    command.args(["run", "--rm", "--report"]);
    for port in ports {
        command.args(["-p", port]);
    }
    let mut child = command
        .arg("--")
        .arg(&whole.0)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed("start the program", &error))?;
    let report = listen(&mut child, &signals)?;
    let status = child
        .wait()
        .map_err(|error| failed("wait for the program", &error))?;
    let (calls, nids) = parse(&report).ok_or_else(|| {
        Failure::new(format!(
            "the program ended ({status}) without a report of what it used: was it killed?"
        ))
    })?;
    let paths = paths(&whole.0, &nids)?;
    Ok(Used { calls, paths })
}

fn failed(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot {what}: {error}"))
}

/// Whether a signal is a wish for the end, not news of the terminal or for the program.
fn asks_for_the_end(signal: u32) -> bool {
    [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM]
        .iter()
        .any(|end| end.as_raw().cast_unsigned() == signal)
}

/// Passes the program's standard error output on, and keeps the lines of the report.
fn listen(child: &mut Child, signals: &Signals) -> Result<Vec<u8>, Failure> {
    let Some(mut errors) = child.stderr.take() else {
        return Ok(Vec::new());
    };
    let mut report = Vec::new();
    let mut pending = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let mut ready = [
            PollFd::new(&errors, PollFlags::IN),
            PollFd::new(signals, PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed("wait for the program", &error.into())),
        }
        let (said, asked) = (
            !ready[0].revents().is_empty(),
            !ready[1].revents().is_empty(),
        );
        if asked
            && let Some((signal, sender)) = signals.next_with_sender()
            && asks_for_the_end(signal)
            // Ctrl-C reaches the program by itself, and it may handle it.
            && sender == Sender::Process
        {
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
        }
        if !said {
            continue;
        }
        let len = match errors.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed("read the program's output", &error)),
        };
        pending.extend_from_slice(&buffer[..len]);
        sort(&mut pending, &mut report);
    }
    let _ = std::io::stderr().write_all(&pending);
    Ok(report)
}

/// Moves what can be told already out of `pending`: lines of the report to `report`, the rest to the standard error output.
fn sort(pending: &mut Vec<u8>, report: &mut Vec<u8>) {
    loop {
        let mark = pending
            .iter()
            .position(|&b| b == MARK[0])
            .unwrap_or(pending.len());
        // Nobody reads it any more: the program shall not mind.
        let _ = std::io::stderr().write_all(&pending[..mark]);
        pending.drain(..mark);
        let Some(end) = pending.iter().position(|&b| b == b'\n') else {
            return;
        };
        let line: Vec<u8> = pending.drain(..=end).collect();
        match line.strip_prefix(MARK) {
            Some(line) => report.extend_from_slice(line),
            None => {
                let _ = std::io::stderr().write_all(&line);
            }
        }
    }
}

/// System calls and inodes of a report; `None` if it has no end.
fn parse(report: &[u8]) -> Option<(Vec<String>, HashSet<u64>)> {
    let text = std::str::from_utf8(report).ok()?;
    let (mut calls, mut nids) = (Vec::new(), HashSet::new());
    let mut ended = false;
    for line in text.lines() {
        let (word, list) = line.split_once(' ').unwrap_or((line, ""));
        let items = list.split(',').filter(|item| !item.is_empty());
        match word {
            "calls" => calls.extend(items.map(str::to_owned)),
            "files" => nids.extend(items.filter_map(|item| u64::from_str_radix(item, 16).ok())),
            "end" => ended = true,
            _ => {}
        }
    }
    ended.then_some((calls, nids))
}

/// The paths that lead to inodes in the root image of an image file.
fn paths(image: &Path, nids: &HashSet<u64>) -> Result<HashSet<Vec<u8>>, Failure> {
    let part = Image::open(image)?.root();
    let bytes = part.map_or_else(
        || Ok(Vec::new()),
        |part| {
            let mut bytes = vec![0; part.len as usize];
            File::open(image)?.read_exact_at(&mut bytes, part.offset)?;
            Ok(bytes)
        },
    );
    let bytes = bytes.map_err(|error| failed("read the image again", &error))?;
    let mut found = HashSet::new();
    let walked = erofs::Image::new(&bytes).and_then(|image| {
        let mut waiting = vec![(image.root()?, Vec::new())];
        while let Some((folder, path)) = waiting.pop() {
            for entry in folder.entries(0)? {
                let entry = entry?;
                if matches!(entry.name, b"." | b"..") {
                    continue;
                }
                let path = [&*path, b"/", entry.name].concat();
                if entry.kind == Kind::Directory {
                    waiting.push((image.inode(entry.nid)?, path.clone()));
                }
                if nids.contains(&entry.nid) {
                    found.insert(path);
                }
            }
        }
        Ok(())
    });
    walked.map_err(|error| Failure::new(format!("{}: {error}", image.display())))?;
    Ok(found)
}

impl Used {
    /// Takes from a tree what the run did not use, and tells what that is.
    pub fn reduce(&self, tree: &mut Tree, quiet: bool) {
        let mut before = BTreeMap::new();
        tree.files(|path, len| {
            before.insert(path.to_vec(), len);
        });
        let mut folders = HashSet::new();
        for path in before.keys() {
            for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
                folders.insert(path[..at].to_vec());
            }
        }
        tree.retain(|path, kind| {
            self.paths.contains(path)
                || ALWAYS.contains(&path)
                // Folders that never had a file in them are there to be written to.
                || kind == Kind::Directory && !folders.contains(path)
        });
        let all: u64 = before.values().sum();
        let count = before.len();
        tree.files(|path, _| {
            before.remove(path);
        });
        let gone: u64 = before.values().sum();
        if quiet {
            return;
        }
        let mut text = format!(
            "{} of {count} files were used; left out are {} of {}:",
            count - before.len(),
            Size::from_bytes(gone).rounded(),
            Size::from_bytes(all).rounded(),
        );
        for (folder, files, bytes) in by_folder(&before) {
            let size = Size::from_bytes(bytes).rounded();
            // Writing to a string does not fail.
            let _ = write!(text, "\n  {size:>9}  {files:6} files  {folder}");
        }
        tell(text);
    }
}

/// The folders with most of these files' bytes, four levels deep at most; the rest as one.
fn by_folder(files: &BTreeMap<Vec<u8>, u64>) -> Vec<(String, usize, u64)> {
    let mut folders: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for (path, len) in files {
        let path = String::from_utf8_lossy(path);
        let parts: Vec<&str> = path.split('/').collect();
        let depth = (parts.len() - 1).min(5);
        let folder = folders.entry(parts[..depth].join("/")).or_default();
        folder.0 += 1;
        folder.1 += len;
    }
    let mut sorted: Vec<(String, usize, u64)> = folders
        .into_iter()
        .map(|(folder, (files, bytes))| (folder, files, bytes))
        .collect();
    sorted.sort_by(|a, b| (b.2, &a.0).cmp(&(a.2, &b.0)));
    if sorted.len() > SHOWN {
        let rest = sorted.split_off(SHOWN);
        let files = rest.iter().map(|entry| entry.1).sum();
        let bytes = rest.iter().map(|entry| entry.2).sum();
        sorted.push((format!("{} other folders", rest.len()), files, bytes));
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_told_from_output() {
        let mut pending = b"hello\n\x1ekiln-report calls read,wri".to_vec();
        let mut report = Vec::new();
        sort(&mut pending, &mut report);
        assert_eq!(pending, b"\x1ekiln-report calls read,wri");
        pending.extend(b"te\n\x1ekiln-report files 1f,20,\n\x1eno\n\x1ekiln-report end\nbye");
        sort(&mut pending, &mut report);
        assert!(pending.is_empty());
        let (calls, nids) = parse(&report).expect("complete");
        assert_eq!(calls, ["read", "write"]);
        assert_eq!(nids, HashSet::from([0x1f, 0x20]));
        assert_eq!(parse(b"calls read\n"), None);
    }

    #[test]
    fn what_is_left_out_is_told_by_folder() {
        let files = [("/a/b/c/d/e/f/x", 10), ("/a/b/c/d/e/y", 5), ("/z", 100)];
        let files = files.map(|(path, len)| (path.as_bytes().to_vec(), len));
        assert_eq!(
            by_folder(&BTreeMap::from(files)),
            [(String::new(), 1, 100), ("/a/b/c/d".to_owned(), 2, 15)]
        );
    }
}
