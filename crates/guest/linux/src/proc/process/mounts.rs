//! `/proc/PID/mounts` and `mountinfo`: the file systems that are mounted.

use alloc::rc::Rc;
use alloc::string::String;

use crate::proc::pseudo::{Subject, Text};
use crate::process::Thread;
use crate::{Result, fs, put};

/// A text of `/proc/mounts`, where spaces and the like are octal.
fn escaped(bytes: &[u8]) -> String {
    let mut text = Text::default();
    for &byte in bytes {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => put!(text, "\\{byte:03o}"),
            _ => text.bytes(&[byte]),
        }
    }
    String::from_utf8_lossy(&text.0).into_owned()
}

fn mount_options(mount: &fs::Mount) -> String {
    let mut options = String::from(if mount.read_only.get() { "ro" } else { "rw" });
    let flags = mount.flags.get();
    for (bit, name) in [
        (2, ",nosuid"),
        (4, ",nodev"),
        (8, ",noexec"),
        (0x400, ",noatime"),
        (0x1000, ",relatime"),
    ] {
        if flags & bit != 0 {
            options.push_str(name);
        }
    }
    options
}

/// `/proc/PID/mounts`, as in `fstab(5)`.
pub(super) fn mounts(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    for mount in crate::kernel().vfs.mounts() {
        let more = mount.options.borrow();
        let comma = if more.is_empty() { "" } else { "," };
        put!(
            text,
            "{} {} {} {}{comma}{more} 0 0\n",
            escaped(&mount.source),
            escaped(&mount.path()),
            mount.kind,
            mount_options(&mount)
        );
    }
    Ok(())
}

pub(super) fn mountinfo(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    let mounts = crate::kernel().vfs.mounts();
    let root = mounts.first().map_or(1, |mount| mount.id);
    for mount in &mounts {
        let path = mount.path();
        // The mount that holds the folder it covers: the one with the longest path above.
        let above = mounts.iter().filter(|other| {
            let other_path = other.path();
            other.id != mount.id
                && path.starts_with(&other_path)
                && (other_path.ends_with(b"/") || path.get(other_path.len()) == Some(&b'/'))
        });
        let parent = above.max_by_key(|other| other.path().len());
        let parent = parent.map_or(root, |parent| parent.id);
        let more = mount.options.borrow();
        let comma = if more.is_empty() { "" } else { "," };
        let access = if mount.read_only.get() { "ro" } else { "rw" };
        put!(
            text,
            "{} {parent} 0:{} / {} {} - {} {} {access}{comma}{more}\n",
            mount.id,
            mount.id,
            escaped(&path),
            mount_options(mount),
            mount.kind,
            escaped(&mount.source)
        );
    }
    Ok(())
}
