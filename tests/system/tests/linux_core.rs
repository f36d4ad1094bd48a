//! Core files of Linux programs: written where they are wanted, and understood by gdb.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kiln_system_tests::program::{compiled, installed};
use kiln_system_tests::{Outcome, Session, backend};

fn program() -> Option<PathBuf> {
    compiled("c/crash.c", "gcc", "{source} -g -O0 -pthread -o {out}")
}

/// A folder of this test's own, which goes away with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kiln-core-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).expect("it is there");
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.expect("an entry").file_name().display().to_string()
        };
        entries.map(name).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run(session: &Session, options: &[&str], what: &str) -> Option<Outcome> {
    let program = program()?.display().to_string();
    let mut words = vec!["run", "--name=crash"];
    words.extend(options);
    words.extend([program.as_str(), what]);
    Some(session.start(words).finish_within(Duration::from_mins(1)))
}

fn gdb(core: &Path, commands: &[&str]) -> Option<String> {
    let mut gdb = Command::new(installed("gdb")?);
    gdb.args(["-nx", "-batch"]);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let output = gdb.arg(program()?).arg(core).output().expect("gdb starts");
    Some(format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

#[test]
fn a_debugger_finds_where_it_was_all_threads_and_the_memory() {
    if !backend::only_on(
        &["process", "kvm", "qemu"],
        "others have no folders of the host",
    ) {
        return;
    }
    let folder = Folder::new("segv");
    let core = folder.0.join("here");
    let session = Session::new();
    let option = format!("--core={}", core.display());
    let Some(outcome) = run(&session, &[&option], "segv") else {
        return;
    };
    outcome.ends_with(139).says("SIGSEGV at 0x");
    outcome.tells(&format!("core file: {}", core.display()));
    assert_eq!(folder.names(), ["here"]);
    let metadata = core.metadata().expect("it was written");
    assert_eq!(metadata.mode() & 0o777, 0o600);
    assert!(metadata.blocks() * 512 < 16 << 20, "{}", metadata.blocks());
    let shown = session.kiln(["inspect", "crash"]).text();
    let expected = format!("\"CoreFile\": \"{}\"", core.display());
    assert!(shown.contains(&expected), "{shown}");

    let commands = [
        "bt",
        "print text",
        "print in_heap",
        "print $_siginfo._sifields._sigfault.si_addr",
        "info auxv",
        "info proc mappings",
        "thread apply all bt",
    ];
    let Some(said) = gdb(&core, &commands) else {
        return;
    };
    for expected in [
        "terminated with signal SIGSEGV",
        "#0  0x",
        "crashes_here (depth=0, at=0x10)",
        "crashes_here (depth=3, at=0x10)",
        "in main (count=2",
        "\"In the data\"",
        "\"in the heap\"",
        "(void *) 0x10",
        "AT_SYSINFO_EHDR",
        "libc.so.6",
        "sleeps_here ()",
        "start_thread",
    ] {
        assert!(said.contains(expected), "{expected:?} is not in\n{said}");
    }
}

#[test]
fn in_a_folder_it_has_the_instances_name_and_abort_is_told_too() {
    if !backend::only_on(
        &["process", "kvm", "qemu"],
        "others have no folders of the host",
    ) {
        return;
    }
    let folder = Folder::new("abort");
    let session = Session::new();
    let option = format!("--core={}", folder.0.display());
    let Some(outcome) = run(&session, &[&option], "abort") else {
        return;
    };
    outcome.ends_with(134).says("SIGABRT at 0x");
    let names = folder.names();
    assert!(
        names.len() == 1 && names[0].starts_with("core.crash."),
        "{names:?}"
    );
    if let Some(said) = gdb(&folder.0.join(&names[0]), &["bt"]) {
        assert!(
            said.contains("abort ()") && said.contains("in main ("),
            "{said}"
        );
    }
}

#[test]
fn the_program_may_forbid_it() {
    if !backend::only_on(
        &["process", "kvm", "qemu"],
        "others have no folders of the host",
    ) {
        return;
    }
    let folder = Folder::new("forbidden");
    let option = format!("--core={}", folder.0.display());
    for (what, why) in [("limit", "RLIMIT_CORE"), ("secret", "PR_SET_DUMPABLE")] {
        if let Some(outcome) = run(&Session::new(), &[&option], what) {
            outcome.ends_with(139).says("no core file: ").says(why);
        }
        assert!(folder.names().is_empty());
    }
}

#[test]
fn where_it_cannot_be_it_is_refused_in_one_line() {
    let Some(outcome) = run(&Session::new(), &["--core=/nowhere/core"], "segv") else {
        return;
    };
    outcome.ends_with(125).is_one_line_error();
    if ["firecracker", "cloud-hypervisor"].contains(&backend::kind()) {
        let outcome = run(&Session::new(), &["--core=/tmp"], "segv");
        outcome
            .expect("it was there")
            .ends_with(125)
            .is_one_line_error();
    }
}
