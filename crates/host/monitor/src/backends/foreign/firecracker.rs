//! Firecracker, 1.12 or later (the first that boots images by their PVH entry).
//!
//! It reads its machine from a JSON file, here one in memory, and opens tap devices by name itself. Its own log goes to
//! standard error.

use std::os::fd::AsRawFd;

use serde_json::{Value, json};

use super::Error;
use super::child::Input;
use super::guest::{Sign, Told};
use super::limits;
use super::plan::{self, Plan, Planned, Planning, by_path};

/// The program.
pub const PROGRAM: &str = "firecracker";

/// What to do without it.
pub const ADVICE: &str =
    "get it from github.com/firecracker-microvm/firecracker/releases and put it on PATH";

/// What Firecracker is to be started with.
///
/// # Errors
/// [`Error::Unable`] if there is too much of something, [`Error::Host`].
pub fn tell(plan: &Plan) -> Result<Told, Error> {
    limits::check_firecracker(plan.line.len(), plan.devices.len())?;
    let text = config(plan).to_string();
    let file = plan::memory_file("firecracker-config", &mut text.as_bytes())?;
    let arguments = [
        "--no-api",
        "--config-file",
        &by_path(file.as_raw_fd()),
        "--log-path",
        &by_path(2),
        "--level",
        "Error",
    ];
    Ok(Told {
        arguments: arguments.map(str::to_owned).to_vec(),
        descriptors: vec![file],
        input: Input::Pipe,
        sign: Sign::Thread("fc_vcpu 0"),
        needs_kvm: true,
        shows_line: false,
    })
}

fn config(plan: &Plan) -> Value {
    let drives: Vec<Value> = plan.disks().enumerate().map(drive).collect();
    let links: Vec<Value> = plan.links().enumerate().map(link).collect();
    let mut boot = json!({
        "kernel_image_path": by_path(plan.kernel),
        "boot_args": plan.line,
    });
    if let Some(root) = plan.root {
        boot["initrd_path"] = by_path(root).into();
    }
    json!({
        "boot-source": boot,
        "machine-config": { "vcpu_count": 1, "mem_size_mib": plan.memory_mib },
        "drives": drives,
        "network-interfaces": links,
        "entropy": {},
    })
}

fn drive((index, disk): (usize, &Planned)) -> Value {
    json!({
        "drive_id": format!("disk{index}"),
        "path_on_host": by_path(disk.fd),
        "is_root_device": false,
        "is_read_only": disk.is_read_only(),
        // Without it flushes are taken and not done.
        "cache_type": "Writeback",
    })
}

fn link((index, link): (usize, &Planned)) -> Value {
    let name = match &link.kind {
        Planning::Named(name) => name.as_str(),
        _ => "",
    };
    json!({
        "iface_id": format!("net{index}"),
        "host_dev_name": name,
        "guest_mac": link.mac(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::plan::testing::plan;
    use super::*;

    #[test]
    fn all_of_the_machine_stands_in_the_file() {
        let config = config(&plan(&[Planning::File, Planning::Named("tap0".into())]));
        assert_eq!(
            config["boot-source"]["kernel_image_path"],
            "/proc/self/fd/9"
        );
        assert_eq!(
            config["boot-source"]["boot_args"],
            "kiln.name=web kiln.memory=67108864"
        );
        assert_eq!(config["machine-config"]["mem_size_mib"], 70);
        let disk = &config["drives"][0];
        assert_eq!(disk["path_on_host"], "/proc/self/fd/10");
        assert_eq!(disk["cache_type"], "Writeback");
        let link = &config["network-interfaces"][0];
        assert_eq!(link["host_dev_name"], "tap0");
        assert_eq!(link["guest_mac"], "02:00:00:00:00:01");
    }

    #[test]
    fn too_many_devices_are_refused() {
        let error = tell(&plan(&vec![Planning::File; 19])).err().unwrap();
        assert!(
            error
                .to_string()
                .contains("room for 18 devices, and this image has 19")
        );
        assert!(tell(&plan(&vec![Planning::File; 18])).is_ok());
    }

    #[test]
    fn a_command_line_that_does_not_fit_is_refused() {
        let mut plan = plan(&[]);
        plan.line = "x".repeat(2010);
        let error = tell(&plan).err().unwrap().to_string();
        assert!(error.contains("2010 bytes"), "{error}");
        plan.line.truncate(1900);
        assert!(tell(&plan).is_ok());
    }
}
