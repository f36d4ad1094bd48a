//! What stands around a monitor of somebody else's: what Kiln gives it, and what it lacks there.

use std::os::fd::AsRawFd;

use super::child::{self, Network};
use super::guest::Told;
use super::{Error, Monitor};
use crate::backend::{Launch, Protection};

/// Why a monitor that root starts has to stay root: it opens what only root may open.
pub fn needs_root(monitor: &Monitor, told: &Told, launch: &Launch) -> Option<String> {
    let mut opens = Vec::new();
    if told.needs_kvm {
        opens.push("/dev/kvm".to_owned());
    }
    if !monitor.is_qemu() {
        for device in &launch.devices {
            match &device.interface {
                Some(interface) if !interface.opened => opens.push("/dev/net/tun".to_owned()),
                Some(_) => {}
                None => opens.push(super::plan::by_path(device.host.as_raw_fd())),
            }
        }
    }
    let closed = opens
        .into_iter()
        .find(|path| !child::is_for_everybody(path))?;
    let what = if closed.starts_with("/dev/") {
        closed.as_str()
    } else {
        "the disk"
    };
    Some(format!(
        "{} opens {what}, which is not for everybody",
        monitor.title()
    ))
}

/// What is known of a monitor's process.
#[derive(Debug)]
pub struct Granted {
    /// Which network namespace it is in.
    pub network: Network,
    /// The guest's command line is among its arguments.
    pub shows_line: bool,
    /// Why it is root, if it is.
    pub root: Option<String>,
    /// Why it has no namespaces of its own, if it has not.
    pub no_namespaces: Option<String>,
}

/// The protections around such a monitor and its guest, for `kiln inspect`.
pub fn protections(monitor: &Monitor, granted: &Granted) -> Vec<Protection> {
    let always = |name| Protection {
        name,
        missing: None,
    };
    let given = |name, missing| Protection { name, missing };
    let title = monitor.title();
    let no_network = granted.no_namespaces.clone().or_else(|| {
        (granted.network == Network::Ours).then(|| format!("{title} opens the tap device by name"))
    });
    let shown = granted
        .shows_line
        .then(|| format!("{title} takes them on its command line"));
    let emulated = monitor.emulates().then(|| {
        "QEMU translates the guest's code (TCG), which its makers do not count on for isolation"
            .to_owned()
    });
    vec![
        given("virtual machine (KVM)", emulated),
        always(match title {
            "QEMU" => "seccomp filter (QEMU's)",
            "Firecracker" => "seccomp filter (Firecracker's)",
            _ => "seccomp filter (Cloud Hypervisor's, not on its first thread)",
        }),
        always("no new privileges"),
        always("no capabilities"),
        always("descriptors closed"),
        given("not run as root", granted.root.clone()),
        given("user namespace", granted.no_namespaces.clone()),
        given("network namespace", no_network),
        given(
            "no file system access (Landlock)",
            Some(format!("{title} opens files of its own")),
        ),
        given("arguments hidden from other users", shown),
    ]
}

/// For `--strict`.
///
/// # Errors
/// [`Error::Missing`], the first protection that is.
pub fn refuse_missing(protections: &[Protection]) -> Result<(), Error> {
    let missing = protections
        .iter()
        .find_map(|one| Some((one.name, one.missing.clone()?)));
    missing.map_or(Ok(()), |(name, reason)| {
        Err(Error::Missing { name, reason })
    })
}
