//! Cloud Hypervisor, 38 or later.
//!
//! The serial console writes to standard output, and reads from standard input if that is a terminal. Devices are
//! virtio-pci. Tap devices are handed over as descriptors, but it looks up their MTU by name and so must be in
//! their network namespace. Its own log goes to standard error.

use super::Error;
use super::child::Input;
use super::guest::{Sign, Told};
use super::limits;
use super::plan::{Plan, Planned, by_path};

/// The program.
pub const PROGRAM: &str = "cloud-hypervisor";

/// What to do without it.
pub const ADVICE: &str =
    "get it from github.com/cloud-hypervisor/cloud-hypervisor/releases and put it on PATH";

/// What Cloud Hypervisor is to be started with.
///
/// # Errors
/// [`Error::Unable`] if the command line is too long.
pub fn tell(plan: &Plan) -> Result<Told, Error> {
    limits::check_line(plan.line.len(), 0)?;
    Ok(Told {
        arguments: arguments(plan),
        descriptors: Vec::new(),
        input: Input::Terminal,
        sign: Sign::Thread("vcpu0"),
        needs_kvm: true,
        shows_line: true,
    })
}

fn arguments(plan: &Plan) -> Vec<String> {
    let mut words: Vec<String> = [
        "--kernel",
        &by_path(plan.kernel),
        "--cmdline",
        &plan.line,
        "--cpus",
        "boot=1",
        "--memory",
        &format!("size={}M", plan.memory_mib),
        "--console",
        "off",
        "--serial",
        "tty",
        "--seccomp",
        "true",
    ]
    .map(str::to_owned)
    .to_vec();
    if let Some(root) = plan.root {
        words.extend(["--initramfs".to_owned(), by_path(root)]);
    }
    // One option with several values: given twice, only the last would count.
    let mut list = |option: &str, values: Vec<String>| {
        if !values.is_empty() {
            words.push(option.to_owned());
            words.extend(values);
        }
    };
    list("--net", plan.links().map(link).collect());
    list("--disk", plan.disks().map(disk).collect());
    words
}

fn link(link: &Planned) -> String {
    format!("fd={},mac={}", link.fd, link.mac())
}

fn disk(disk: &Planned) -> String {
    let read_only = if disk.is_read_only() { "on" } else { "off" };
    format!(
        "path={},readonly={read_only},image_type=raw",
        by_path(disk.fd)
    )
}

#[cfg(test)]
mod tests {
    use super::super::plan::Planning;
    use super::super::plan::testing::plan;
    use super::*;

    #[test]
    fn a_command_line_that_would_be_cut_off_is_refused() {
        let mut plan = plan(&[]);
        plan.line = "x".repeat(4096);
        let error = tell(&plan).err().unwrap().to_string();
        assert!(error.contains("4096 bytes"), "{error}");
    }

    #[test]
    fn devices_of_a_kind_stand_behind_one_option() {
        let kinds = [Planning::Tap, Planning::File, Planning::Tap];
        let words = arguments(&plan(&kinds)).join(" ");
        assert!(words.contains("--kernel /proc/self/fd/9 --cmdline kiln.name=web"));
        assert!(words.contains("--memory size=70M"));
        assert!(words.contains("--net fd=10,mac=02:00:00:00:00:00 fd=12,mac=02:00:00:00:00:02"));
        assert!(words.contains("--disk path=/proc/self/fd/11,readonly=off,image_type=raw"));
    }
}
