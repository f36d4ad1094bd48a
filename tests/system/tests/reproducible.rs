//! The same sources give the same bytes, in another folder too. Slow: it compiles a guest with all its dependencies twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kiln_system_tests::{Running, Session, artifacts, skip};

/// Copies the workspace's sources: what git knows, and what it would add.
fn copy_sources(root: &Path, to: &Path) -> Result<(), String> {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output()
        .map_err(|error| format!("git: {error}"))?;
    if !listed.status.success() {
        return Err("the sources are not in a git repository".into());
    }
    for name in listed
        .stdout
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty())
    {
        let name = String::from_utf8_lossy(name).into_owned();
        let (from, to) = (root.join(&name), to.join(&name));
        // A file may be deleted and git not yet told.
        if from.is_file() {
            fs::create_dir_all(to.parent().expect("a file in a folder"))
                .map_err(|e| e.to_string())?;
            fs::copy(&from, &to).map_err(|e| format!("{name}: {e}"))?;
        }
    }
    Ok(())
}

#[test]
fn slow_the_same_sources_give_the_same_bytes() {
    let session = Session::new();
    let folders = ["a", "another/folder with a longer name"].map(|name| session.file(name));
    let mut images: Vec<PathBuf> = Vec::new();
    for folder in &folders {
        fs::create_dir_all(folder).expect("a folder");
    }
    if let Err(reason) = copy_sources(&artifacts::workspace(), &folders[0]) {
        return skip(reason);
    }
    // From the copy, so that somebody who edits the sources meanwhile does not make a difference.
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(folders[0].join(".")).arg(&folders[1]);
    Running::start(&mut copy).finish().ends_with(0);
    for folder in &folders {
        let mut command = session.command(["build", "--quiet"]);
        command
            .arg(folder.join("examples/hello"))
            .current_dir(folder);
        let built = Running::start(&mut command).finish_within(Duration::from_mins(4));
        let image = PathBuf::from(built.ends_with(0).text().trim());
        assert!(
            image.starts_with(folder),
            "built somewhere else: {}",
            image.display()
        );
        images.push(image);
    }
    let [first, second] = [0, 1].map(|n| fs::read(&images[n]).expect("an image"));
    let different = first.iter().zip(&second).position(|(a, b)| a != b);
    assert!(
        first == second,
        "lengths {} and {}, first difference at {different:?}",
        first.len(),
        second.len()
    );
    // And nothing of the folders' names is in it.
    let name = session.dir().display().to_string();
    assert!(
        !first
            .windows(name.len())
            .any(|part| part == name.as_bytes()),
        "the image names its folder"
    );
}
