//! How programs are found and packed: what cannot run, what comes along, and images that are kept.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_system_tests::process::{Outcome, Running};
use kiln_system_tests::program::installed;
use kiln_system_tests::{Session, backend, skip};

const CANNOT_RUN: i32 = 126;
const NOT_FOUND: i32 = 127;

fn elsewhere() -> bool {
    !backend::only_on(&["process", "kvm"], "packing is the same elsewhere")
}

fn write(session: &Session, name: &str, content: &[u8], mode: u32) -> String {
    let path = session.file(name);
    fs::write(&path, content).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("our file");
    path.display().to_string()
}

/// The images and records in a session's cache.
fn kept(session: &Session) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(session.file("cache"))
        .into_iter()
        .flatten()
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "kiln"))
        .collect();
    paths.sort();
    paths
}

/// Runs `kiln` with a cache of the session's own.
fn kiln(session: &Session, words: &[&str]) -> Outcome {
    kiln_with(session, &[], words)
}

/// The same with variables besides.
fn kiln_with(session: &Session, env: &[(&str, &str)], words: &[&str]) -> Outcome {
    let mut command = session.command(words);
    command.env("KILN_CACHE", session.file("cache"));
    command.envs(env.iter().copied());
    Running::start(&mut command).finish_within(Duration::from_mins(2))
}

#[test]
fn what_cannot_run_is_told_in_one_line() {
    if elsewhere() {
        return;
    }
    let session = Session::new();
    let machine = |number: u8| {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(64, 0);
        (bytes[16], bytes[18]) = (2, number);
        bytes
    };
    for (target, code, text) in [
        (
            "surely-not-installed".to_owned(),
            NOT_FOUND,
            "no such program",
        ),
        (
            write(&session, "arm", &machine(183), 0o755),
            CANNOT_RUN,
            "ARM64",
        ),
        (
            write(&session, "riscv", &machine(243), 0o755),
            CANNOT_RUN,
            "RISC-V",
        ),
        (write(&session, "text", b"hello\n", 0o755), CANNOT_RUN, "#!"),
        (
            write(&session, "none", b"#!\n", 0o755),
            CANNOT_RUN,
            "without an interpreter",
        ),
        (
            write(&session, "missing", b"#!/no/such/shell\n", 0o755),
            CANNOT_RUN,
            "/no/such/shell",
        ),
        (
            write(&session, "plain", b"#!/bin/sh\n", 0o644),
            CANNOT_RUN,
            "not executable",
        ),
        (
            write(&session, "short", b"\x7fELF\x02\x01\x01", 0o755),
            CANNOT_RUN,
            "incomplete",
        ),
        ("/dev/null".to_owned(), CANNOT_RUN, "a device"),
    ] {
        kiln(&session, &["run", &target])
            .ends_with(code)
            .is_one_line_error()
            .tells(text);
    }
    assert!(kept(&session).is_empty());
}

#[test]
fn an_image_is_kept_and_made_again_when_something_changed() {
    let Some(busybox) = installed("busybox").filter(|_| !elsewhere()) else {
        return;
    };
    let session = Session::new();
    let file = write(&session, "note.txt", b"first\n", 0o644);
    let busybox = busybox.display().to_string();
    let words = ["run", &busybox, "cat", &file];
    kiln(&session, &words).ends_with(0).prints("first\n");
    let images = kept(&session);
    assert_eq!(images.len(), 1);
    let made = images[0]
        .metadata()
        .and_then(|meta| meta.modified())
        .expect("a time");
    kiln(&session, &words).ends_with(0).prints("first\n");
    assert_eq!(kept(&session), images);
    let again = images[0]
        .metadata()
        .and_then(|meta| meta.modified())
        .expect("a time");
    assert_eq!(made, again, "made a second time");
    write(&session, "note.txt", b"second\n", 0o644);
    kiln(&session, &words).ends_with(0).prints("second\n");
    assert_eq!(kept(&session).len(), 2);
}

#[test]
fn scripts_and_what_arguments_name_come_along() {
    let Some(_) = installed("perl").filter(|_| !elsewhere()) else {
        return;
    };
    let session = Session::new();
    let script = write(
        &session,
        "hello.pl",
        b"#!/usr/bin/env perl\nopen(F, '<', shift) or die; print <F>, \"@ARGV\\n\";\n",
        0o755,
    );
    write(&session, "data.txt", b"content\n", 0o644);
    let mut command = session.command(["run", &script, "data.txt", "more"]);
    command
        .env("KILN_CACHE", session.file("cache"))
        .current_dir(session.dir());
    Running::start(&mut command)
        .finish()
        .ends_with(0)
        .prints("content\nmore\n");
}

#[test]
fn arguments_that_name_no_files_change_nothing() {
    if elsewhere() {
        return;
    }
    let session = Session::new();
    let records = || {
        let entries = fs::read_dir(session.file("cache")).expect("a cache");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names
            .filter(|name| name.to_string_lossy().ends_with(".record"))
            .count()
    };
    for word in ["one", "--two=2", "-three"] {
        kiln(&session, &["run", "echo", word])
            .ends_with(0)
            .prints(word);
    }
    assert_eq!(records(), 1);
    let file = write(&session, "named", b"content\n", 0o644);
    kiln(&session, &["run", "echo", &file]).ends_with(0);
    assert_eq!(records(), 2);
}

#[test]
fn time_zones_are_known_by_their_names() {
    if elsewhere() {
        return;
    }
    if !Path::new("/usr/share/zoneinfo/Asia/Kolkata").exists() {
        return skip("this machine has no time zones (Debian: tzdata)");
    }
    let session = Session::new();
    let zone = "TZ=Asia/Kolkata";
    kiln(&session, &["run", "-e", zone, "date", "-d@0", "+%H:%M %Z"])
        .ends_with(0)
        .prints("05:30 IST\n");
}

#[test]
fn images_of_programs_are_built_the_same_twice_and_remember_their_options() {
    let Some(busybox) = installed("busybox").filter(|_| !elsewhere()) else {
        return;
    };
    let session = Session::new();
    let busybox = busybox.display().to_string();
    let path = |name: &str| session.file(name).display().to_string();
    for name in ["one.kiln", "two.kiln"] {
        let words = [
            "build",
            "-q",
            &busybox,
            "-o",
            &path(name),
            "-e",
            "COLOUR=blue",
            "-w",
            "/tmp",
            "-u",
            "7:8",
            "--",
            "sh",
            "-c",
            "echo $COLOUR; pwd; while read a b c; do case $a in Uid:|Gid:) echo $b;; esac; done < /proc/self/status",
        ];
        kiln(&session, &words).ends_with(0);
    }
    let read = |name: &str| fs::read(path(name)).expect("an image");
    assert!(read("one.kiln") == read("two.kiln"), "two builds differ");
    kiln(&session, &["run", &path("one.kiln")])
        .ends_with(0)
        .prints("blue\n/tmp\n7\n8\n");
    kiln(
        &session,
        &[
            "run",
            "-w",
            "/",
            "-u",
            "0",
            "-e",
            "COLOUR=red",
            &path("one.kiln"),
        ],
    )
    .ends_with(0)
    .prints("red\n/\n0\n0\n");
    kiln(&session, &["run", &path("one.kiln"), "echo", "other"])
        .ends_with(0)
        .prints("other\n");
    let shown = kiln(&session, &["inspect", &path("one.kiln")]);
    shown.ends_with(0);
    assert!(shown.text().contains("\"WorkingDir\": \"/tmp\""), "{shown}");
}

#[test]
fn a_root_file_system_in_a_folder_is_taken_as_it_is() {
    let Some(busybox) = installed("busybox").filter(|_| !elsewhere()) else {
        return;
    };
    let session = Session::new();
    let root = session.file("root");
    fs::create_dir_all(root.join("bin")).expect("a folder");
    fs::copy(busybox, root.join("bin/busybox")).expect("a copy");
    std::os::unix::fs::symlink("busybox", root.join("bin/cat")).expect("a link");
    fs::write(root.join("greeting"), "hello from the folder\n").expect("a file");
    let image = session.file("root.kiln").display().to_string();
    let folder = root.display().to_string();
    let build = |program: &str| {
        kiln(
            &session,
            &[
                "build",
                "-q",
                "--rootfs",
                &folder,
                "-o",
                &image,
                program,
                "--",
                "/greeting",
            ],
        )
    };
    build("/bin/missing")
        .ends_with(NOT_FOUND)
        .is_one_line_error();
    build("/greeting").ends_with(CANNOT_RUN).is_one_line_error();
    build("cat").ends_with(0);
    kiln(&session, &["run", &image])
        .ends_with(0)
        .prints("hello from the folder\n");
}

#[test]
fn a_traced_image_holds_what_was_used_and_a_locked_one_refuses_other_calls() {
    let Some(perl) = installed("perl").filter(|_| !elsewhere()) else {
        return;
    };
    let session = Session::new();
    let perl = perl.display().to_string();
    let path = |name: &str| session.file(name).display().to_string();
    let whole = path("whole.kiln");
    let traced = path("traced.kiln");
    let program = [
        "--",
        "-e",
        "use POSIX; print 'sum ', POSIX::floor(42.5), \"\\n\"",
    ];
    kiln(
        &session,
        &[&["build", "-q", &perl, "-o", &whole], &program[..]].concat(),
    )
    .ends_with(0);
    let options = ["build", "--trace", "--lock-syscalls", &perl, "-o", &traced];
    let outcome = kiln(&session, &[&options, &program[..]].concat());
    outcome.ends_with(0);
    assert!(
        outcome.stderr.contains("files were used; left out are"),
        "{outcome}"
    );
    let size = |path: &str| Path::new(path).metadata().expect("an image").len();
    assert!(
        size(&traced) * 2 < size(&whole),
        "{} of {}",
        size(&traced),
        size(&whole)
    );
    kiln(&session, &["run", &traced])
        .ends_with(0)
        .prints("sum 42\n");
    // Neither socket(2) nor the module for it.
    kiln(
        &session,
        &[
            "run",
            &traced,
            "-e",
            "socket(S, 2, 1, 0) or print \"$!\\n\"",
        ],
    )
    .ends_with(0)
    .prints("Function not implemented\n");
}

#[test]
fn ordinary_crates_are_built_and_packed() {
    if elsewhere() {
        return;
    }
    let session = Session::new();
    let folder = session.file("workspace");
    for (name, text) in [
        (
            "Cargo.toml",
            "[workspace]\nmembers = [\"one\", \"two\"]\nresolver = \"3\"\n",
        ),
        (
            "one/Cargo.toml",
            "[package]\nname = \"one\"\nedition = \"2024\"\n",
        ),
        ("one/src/main.rs", "fn main() { println!(\"one\"); }\n"),
        (
            "two/Cargo.toml",
            "[package]\nname = \"two\"\nedition = \"2024\"\n",
        ),
        (
            "two/src/main.rs",
            "fn main() {\n    let words: Vec<String> = std::env::args().skip(1).collect();\n    std::thread::spawn(move || println!(\"two {words:?}\")).join().unwrap();\n}\n",
        ),
    ] {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    let folder = folder.display().to_string();
    kiln(&session, &["run", "-q", &folder])
        .ends_with(125)
        .is_one_line_error()
        .tells("--bin");
    kiln(&session, &["run", "-q", "--bin", "two", &folder, "a", "-b"])
        .ends_with(0)
        .prints("two [\"a\", \"-b\"]\n");
    kiln(&session, &["run", "-q", &format!("{folder}/one")])
        .ends_with(0)
        .prints("one\n");
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("it is there").mode() & 0o777
}

fn change_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our file");
}

#[test]
fn kept_images_are_their_owners_alone() {
    let Some(busybox) = installed("busybox").filter(|_| !elsewhere()) else {
        return;
    };
    let session = Session::new();
    let secret = write(&session, "secret.key", b"secret\n", 0o600);
    let busybox = busybox.display().to_string();
    let words = ["run", &busybox, "cat", &secret];
    let cache = session.file("cache");
    let all_closed = || {
        assert_eq!(mode(&cache), 0o700);
        let mut count = 0;
        for entry in fs::read_dir(&cache).expect("a cache") {
            let path = entry.expect("an entry").path();
            if !path.is_symlink() {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
                count += 1;
            }
        }
        assert!(count >= 2, "an image and a record");
    };
    kiln(&session, &words).ends_with(0).prints("secret\n");
    all_closed();
    // A cache of former times.
    for entry in fs::read_dir(&cache).expect("a cache") {
        let path = entry.expect("an entry").path();
        if !path.is_symlink() {
            change_mode(&path, 0o644);
        }
    }
    change_mode(&cache, 0o755);
    kiln(&session, &words).ends_with(0).prints("secret\n");
    all_closed();
    // What the user makes is as the umask says.
    let image = session.file("x.kiln");
    let output = image.display().to_string();
    kiln(&session, &["build", "-q", &busybox, "-o", &output]).ends_with(0);
    let plain = session.file("plain");
    fs::write(&plain, "").expect("a file");
    assert_eq!(mode(&image), mode(&plain));
}

#[test]
fn folders_and_other_names_of_files_make_another_image() {
    let Some(busybox) = installed("busybox").filter(|_| !elsewhere()) else {
        return;
    };
    let session = Session::new();
    let busybox = busybox.display().to_string();
    let run = |words: &[&str]| kiln(&session, &[&["run", &busybox], words].concat());
    let path = |name: &str| session.file(name);
    let text = |name: &str| session.file(name).display().to_string();
    for name in ["d", "h", "h/e1", "h/e2"] {
        fs::create_dir(path(name)).expect("a folder");
    }
    change_mode(&path("d"), 0o755);

    let folder = text("d");
    run(&["ls", &folder]).ends_with(0).prints("");
    fs::create_dir(path("d/sub")).expect("a folder");
    run(&["ls", &folder]).ends_with(0).prints("sub\n");
    let stat = ["stat", "-c", "%a", &*folder];
    run(&stat).ends_with(0).prints("755\n");
    change_mode(&path("d"), 0o700);
    run(&stat).ends_with(0).prints("700\n");
    // Those of a folder on the way, too.
    let file = write(&session, "d/file", b"content\n", 0o644);
    let through = ["stat", "-c", "%a", &*folder, &*file];
    run(&through).ends_with(0).prints("700\n644\n");
    change_mode(&path("d"), 0o711);
    run(&through).ends_with(0).prints("711\n644\n");

    let a = write(&session, "h/a", b"linked\n", 0o644);
    fs::hard_link(&a, path("h/b")).expect("a link");
    run(&["cat", &a]).ends_with(0).prints("linked\n");
    run(&["cat", &a, &text("h/b")])
        .ends_with(0)
        .prints("linked\nlinked\n");

    for name in ["h/e1", "h/e2"] {
        let name = text(name);
        run(&["ls", "-d", &name])
            .ends_with(0)
            .prints(&format!("{name}\n"));
    }

    // A folder that comes along because it is asked for.
    let script = format!("ls {folder}/sub");
    let words = [
        "run",
        "--include",
        &*folder,
        &*busybox,
        "sh",
        "-c",
        &*script,
    ];
    kiln(&session, &words).ends_with(0).prints("");
    write(&session, "d/sub/new", b"", 0o644);
    kiln(&session, &words).ends_with(0).prints("new\n");
}

#[test]
fn an_image_that_is_torn_is_made_again() {
    let Some(busybox) = installed("busybox").filter(|_| !elsewhere()) else {
        return;
    };
    let session = Session::new();
    let file = write(&session, "note.txt", b"content\n", 0o644);
    let busybox = busybox.display().to_string();
    let words = ["run", &busybox, "cat", &file];
    kiln(&session, &words).ends_with(0).prints("content\n");
    let images = kept(&session);
    assert_eq!(images.len(), 1);
    let len = images[0].metadata().expect("an image").len();
    let records = || {
        let entries = fs::read_dir(session.file("cache")).expect("a cache");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths
            .filter(|path| path.extension().is_some_and(|ending| ending == "record"))
            .collect::<Vec<_>>()
    };
    for (kept_bytes, whole, without_record) in [
        (0, 0, false),
        (0, len, false),
        (len / 2, len / 2, false),
        (0, 0, true),
        (0, len, true),
    ] {
        let image = fs::File::options()
            .write(true)
            .open(&images[0])
            .expect("an image");
        image.set_len(kept_bytes).expect("our file");
        image.set_len(whole).expect("our file");
        if without_record {
            for record in records() {
                fs::remove_file(record).expect("our file");
            }
        }
        kiln(&session, &words).ends_with(0).prints("content\n");
        assert_eq!(kept(&session), images);
        assert_eq!(images[0].metadata().expect("an image").len(), len);
    }
    for record in records() {
        fs::write(record, "").expect("our file");
    }
    kiln(&session, &words).ends_with(0).prints("content\n");
}

#[test]
fn an_image_larger_than_all_may_be_is_used_all_the_same() {
    let Some(busybox) = installed("busybox").filter(|_| !elsewhere()) else {
        return;
    };
    let session = Session::new();
    let busybox = busybox.display().to_string();
    let small = [("KILN_CACHE_SIZE", "64K")];
    for word in ["one", "two"] {
        kiln_with(&session, &small, &["run", &busybox, "echo", word])
            .ends_with(0)
            .prints(&format!("{word}\n"));
    }
    let images = kept(&session);
    assert_eq!(images.len(), 1);
    // Once it is old, the next one takes its place.
    let image = fs::File::options().append(true).open(&images[0]);
    let old = std::time::SystemTime::now() - Duration::from_hours(1);
    image
        .and_then(|image| image.set_modified(old))
        .expect("our file");
    let file = write(&session, "note.txt", b"content\n", 0o644);
    kiln_with(&session, &small, &["run", &busybox, "cat", &file])
        .ends_with(0)
        .prints("content\n");
    let left = kept(&session);
    assert!(left.len() == 1 && left != images, "{left:?}");
}

#[test]
fn holes_of_files_take_no_space_in_images() {
    const HOLE: u64 = 3 << 30;
    let Some(busybox) = installed("busybox").filter(|_| !elsewhere()) else {
        return;
    };
    let session = Session::new();
    let root = session.file("root");
    fs::create_dir_all(root.join("bin")).expect("a folder");
    fs::copy(busybox, root.join("bin/busybox")).expect("a copy");
    fs::create_dir_all(root.join("var")).expect("a folder");
    let log = fs::File::create(root.join("var/lastlog")).expect("a file");
    log.set_len(HOLE).expect("a hole");
    std::os::unix::fs::FileExt::write_all_at(&log, b"end\n", HOLE).expect("data");
    let image = session.file("root.kiln");
    let (folder, output) = (root.display().to_string(), image.display().to_string());
    kiln(
        &session,
        &[
            "build",
            "-q",
            "--rootfs",
            &folder,
            "-o",
            &output,
            "/bin/busybox",
        ],
    )
    .ends_with(0);
    let meta = image.metadata().expect("an image");
    assert!(meta.len() > HOLE);
    let taken = meta.blocks() * 512;
    assert!(taken < 64 << 20, "{taken} bytes are taken");
    kiln(
        &session,
        &["run", &output, "tail", "-c", "6", "/var/lastlog"],
    )
    .ends_with(0)
    .prints("\0\0end\n");
}
