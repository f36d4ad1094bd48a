//! Shared memory and semaphores of System V: the answers of the host's kernel, and a database that needs them.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kiln_system_tests::program::compiled;
use kiln_system_tests::{Session, backend, skip};

#[test]
fn the_answers_are_those_of_linux() {
    let Some(program) = compiled("c/sysv.c", "gcc", "{source} -O1 -pthread -o {out}") else {
        return;
    };
    let here = Command::new(&program).output().expect("it runs here");
    let here = String::from_utf8(here.stdout).expect("text");
    assert!(here.ends_with("SUCCESS\n"), "{here}");
    let words = ["run".to_owned(), program.display().to_string()];
    let outcome = Session::new()
        .start(words)
        .finish_within(Duration::from_mins(1));
    outcome.ends_with(0);
    // What the host's administrator may have changed.
    let of_program = |text: &str| {
        let lines = text.lines();
        let kept = lines.filter(|line| !line.starts_with("/proc/sys/kernel/"));
        kept.map(str::to_owned).collect::<Vec<_>>()
    };
    for (guest, host) in of_program(&outcome.text()).iter().zip(of_program(&here)) {
        assert_eq!(*guest, host, "{outcome}");
    }
    outcome
        .prints("/proc/sys/kernel/shmmni: 4096\n")
        .prints("SUCCESS");
}

/// One process is what a guest can have: the mode in which it reads statements from its input. It refuses to run as root, here and there.
#[test]
fn postgres_starts_with_its_shared_memory() {
    const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
    const NOBODY: u32 = 65534;
    if !backend::only_on(&["process", "kvm"], "others have no folders of the host") {
        return;
    }
    let server = Path::new(PROGRAMS).join("postgres");
    if !server.is_file() || !rustix::process::geteuid().is_root() {
        skip(
            "postgresql-15 is not installed, or this is not root, who can make a database as somebody else",
        );
        return;
    }
    let folder = std::env::temp_dir().join(format!("kiln-postgres-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::os::unix::fs::chown(&folder, Some(NOBODY), None).expect("root may");
    let data = folder.join("data");
    let made = Command::new(Path::new(PROGRAMS).join("initdb"))
        .args(["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "-D"])
        .arg(&data)
        .uid(NOBODY)
        .output()
        .expect("it runs here");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    // Who runs `kiln` owns the files that are the program's.
    let owned = Command::new("chown")
        .arg("-R")
        .arg("0:0")
        .arg(&data)
        .status();
    assert!(owned.expect("it runs").success());
    let session = Session::new();
    let volume = format!("--volume={}:/data", data.display());
    let user = format!("--user={NOBODY}");
    let server = server.display().to_string();
    let words = ["run", &volume, &user, &server];
    let words = words
        .into_iter()
        .chain(["--single", "-D", "/data", "postgres"]);
    let statements = "create table t (n int);\ninsert into t select generate_series(1, 1000);\nselect sum(n) from t;\n";
    let input = session.file("statements");
    std::fs::write(&input, statements).expect("room for them");
    let output = session
        .command(words)
        .stdin(std::fs::File::open(&input).expect("just made"))
        .output()
        .expect("kiln starts");
    let _ = std::fs::remove_dir_all(&folder);
    let text = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{told}");
    assert!(text.contains("sum = \"500500\""), "{text}\n{told}");
}
