//! Folders of the host in a Linux program's file system (`kiln run -v`).

use std::fs;
use std::os::unix::fs::symlink;

use kiln_system_tests::{Outcome, Session, backend, program};

struct Volume {
    session: Session,
    folder: std::path::PathBuf,
}

impl Volume {
    /// `None` where such programs do not run.
    fn new() -> Option<Self> {
        if !backend::only_on(&["process"], "Linux programs run on the process backend") {
            return None;
        }
        let session = Session::new();
        let folder = session.file("volume");
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("file"), "from the host\n").expect("a file");
        Some(Self { session, folder })
    }

    fn run(&self, read_only: &str, name: &str, args: &[&str]) -> Outcome {
        let program = program::installed(name).expect("a program of every system");
        let volume = format!("{}:/data{read_only}", self.folder.display());
        let program = program.display().to_string();
        let mut words = vec!["run", "--rm", "-q", "-v", &volume, &program];
        words.extend(args);
        self.session.kiln(words)
    }
}

#[test]
fn a_program_reads_and_writes_the_hosts_files() {
    let Some(volume) = Volume::new() else { return };
    volume
        .run("", "cat", &["/data/file"])
        .ends_with(0)
        .prints("from the host");
    volume
        .run("", "cp", &["/data/file", "/data/copy"])
        .ends_with(0);
    volume.run("", "mkdir", &["-p", "/data/a/b"]).ends_with(0);
    volume
        .run("", "mv", &["/data/copy", "/data/a/b/moved"])
        .ends_with(0);
    let moved = fs::read_to_string(volume.folder.join("a/b/moved")).expect("the file");
    assert_eq!(moved, "from the host\n");
    volume.run("", "rm", &["-r", "/data/a"]).ends_with(0);
    assert!(!volume.folder.join("a").exists());
}

#[test]
fn a_read_only_folder_stays_as_it_is() {
    let Some(volume) = Volume::new() else { return };
    volume
        .run(":ro", "cat", &["/data/file"])
        .ends_with(0)
        .prints("from the host");
    volume
        .run(":ro", "touch", &["/data/new"])
        .ends_with(1)
        .tells("Read-only file system");
    assert!(!volume.folder.join("new").exists());
}

#[test]
fn links_do_not_lead_to_the_hosts_files() {
    let Some(volume) = Volume::new() else { return };
    let secret = volume.session.file("secret");
    fs::write(&secret, "secret of the host").expect("a file");
    symlink(&secret, volume.folder.join("absolute")).expect("a link");
    symlink("../secret", volume.folder.join("relative")).expect("a link");
    for link in ["/data/absolute", "/data/relative", "/data/../secret"] {
        let outcome = volume.run("", "cat", &[link]);
        outcome.ends_with(1).tells("No such file or directory");
    }
    volume
        .run("", "readlink", &["/data/relative"])
        .ends_with(0)
        .prints("../secret");
}

#[test]
fn what_is_no_folder_is_told_in_one_line() {
    let Some(volume) = Volume::new() else { return };
    let outcome = volume
        .session
        .kiln(["run", "-q", "-v", "/nonexistent:/data", "/bin/true"]);
    outcome.is_one_line_error().tells("/nonexistent");
    let outcome = volume
        .session
        .kiln(["run", "-v", "data:/data", "/bin/true"]);
    outcome.is_one_line_error().tells("write a folder");
    let image = kiln_system_tests::guest("probe").display().to_string();
    let volume_option = format!("{}:/data", volume.folder.display());
    let outcome = volume.session.kiln(["run", "-v", &volume_option, &image]);
    outcome.is_one_line_error().tells("use --block");
}
