//! Folders for monitors that load a kernel themselves: the image as it is, and a script with the monitor's options.
//!
//! Scripts are of POSIX `sh`; what they are started with is added to the monitor's options.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use kiln_monitor::Error;
use kiln_monitor::spec::{BlockOption, PortForward};

use super::machine::{Machine, NetLink};
use super::mebibytes;
use super::tools::Workshop;
use crate::exit::Failure;

/// A folder for QEMU 7.2 or later.
///
/// # Errors
/// The file system's.
pub fn qemu(shop: &Workshop, machine: &Machine) -> Result<PathBuf, Failure> {
    folder(shop, machine, "QEMU", &qemu_command(machine))
}

/// A folder for Firecracker 1.12 or later.
///
/// # Errors
/// The file system's.
pub fn firecracker(shop: &Workshop, machine: &Machine) -> Result<PathBuf, Failure> {
    let config = serde_json::to_string_pretty(&firecracker_config(machine))?;
    shop.write(format!("{OUT}/config.json"), config + "\n")?;
    let command = ["firecracker --no-api --config-file config.json".to_owned()];
    folder(shop, machine, "Firecracker", &command)
}

/// A folder for Cloud Hypervisor.
///
/// # Errors
/// The file system's.
pub fn cloud_hypervisor(shop: &Workshop, machine: &Machine) -> Result<PathBuf, Failure> {
    folder(
        shop,
        machine,
        "Cloud Hypervisor",
        &cloud_hypervisor_command(machine),
    )
}

const OUT: &str = "out";

fn folder(
    shop: &Workshop,
    machine: &Machine,
    monitor: &str,
    command: &[String],
) -> Result<PathBuf, Failure> {
    shop.write(format!("{OUT}/{}", file_name(machine)), &machine.image)?;
    let script = format!(
        "#!/bin/sh\n# Starts {} in a virtual machine of {monitor}. Arguments are added to its options.\nset -eu\ncd \"$(dirname \"$0\")\"\nexec {} \\\n    \"$@\"\n",
        machine.name,
        command.join(" \\\n    ")
    );
    let path = shop.write(format!("{OUT}/run.sh"), script)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
        .map_err(|error| Error::file("write", &path, error))?;
    Ok(shop.path(OUT))
}

fn file_name(machine: &Machine) -> String {
    format!("{}.kiln", machine.name)
}

fn qemu_command(machine: &Machine) -> Vec<String> {
    let mut command = vec![
        "qemu-system-x86_64 -machine q35".to_owned(),
        // The first that works; a processor that has both what KVM and what translation can do.
        "-accel \"${ACCEL:-kvm}\" -accel tcg -cpu max,-arch-capabilities".to_owned(),
        format!("-m {}M", mebibytes(machine.memory)),
        "-nodefaults -no-user-config -no-reboot -display none".to_owned(),
        "-chardev stdio,id=console,signal=off -serial chardev:console".to_owned(),
        format!("-kernel {}", quoted(&file_name(machine))),
        format!("-append {}", quoted(&machine.line())),
    ];
    let mut slot = 0;
    let mut place = || {
        slot += 1;
        // Slot 0 is the bridge; each of the others has room for eight.
        let (slot, function) = (1 + (slot - 1) / 8, (slot - 1) % 8);
        format!("disable-legacy=on,multifunction=on,addr={slot:#x}.{function}")
    };
    for (index, link) in machine.links.iter().enumerate() {
        command.push(format!(
            "-netdev {}",
            quoted(&qemu_netdev(index, link, &machine.ports))
        ));
        let mac = link.mac.as_ref().map(|mac| format!(",mac={mac}"));
        command.push(format!(
            "-device virtio-net-pci,netdev=net{index},{}{}",
            place(),
            mac.unwrap_or_default()
        ));
    }
    for (index, disk) in machine.disks.iter().enumerate() {
        command.push(format!("-blockdev {}", quoted(&qemu_blockdev(index, disk))));
        command.push(format!(
            "-device virtio-blk-pci,drive=disk{index},{}",
            place()
        ));
    }
    command.push(format!("-device virtio-rng-pci,{}", place()));
    command
}

fn qemu_netdev(index: usize, link: &NetLink, ports: &[PortForward]) -> String {
    if let Some(tap) = &link.tap {
        return format!("tap,id=net{index},ifname={tap},script=no,downscript=no");
    }
    let mut netdev = format!("user,id=net{index}");
    for port in ports {
        let address = match port.host.ip() {
            ip if port.both_families || ip.is_unspecified() => String::new(),
            ip => ip.to_string(),
        };
        // Writing to a string cannot fail.
        let _ = write!(
            netdev,
            ",hostfwd={}:{address}:{}-:{}",
            port.protocol,
            port.host.port(),
            port.guest_port
        );
    }
    netdev
}

fn qemu_blockdev(index: usize, disk: &BlockOption) -> String {
    let read_only = if disk.read_only { "on" } else { "off" };
    format!(
        "driver=raw,node-name=disk{index},read-only={read_only},discard=unmap,file.driver=file,file.filename={}",
        disk.file.display()
    )
}

fn firecracker_config(machine: &Machine) -> serde_json::Value {
    let drives: Vec<_> = machine
        .disks
        .iter()
        .enumerate()
        .map(|(index, disk)| {
            serde_json::json!({
                "drive_id": format!("disk{index}"),
                "path_on_host": disk.file.display().to_string(),
                "is_root_device": false,
                "is_read_only": disk.read_only,
                // Without it flushes are taken and not done.
                "cache_type": "Writeback",
            })
        })
        .collect();
    let links: Vec<_> = machine
        .links
        .iter()
        .enumerate()
        .map(|(index, link)| {
            let mut config = serde_json::json!({
                "iface_id": format!("net{index}"),
                "host_dev_name": link.tap,
            });
            if let Some(mac) = &link.mac {
                config["guest_mac"] = mac.as_str().into();
            }
            config
        })
        .collect();
    serde_json::json!({
        "boot-source": {
            "kernel_image_path": file_name(machine),
            "boot_args": machine.line(),
        },
        "machine-config": { "vcpu_count": 1, "mem_size_mib": mebibytes(machine.memory) },
        "drives": drives,
        "network-interfaces": links,
        "entropy": {},
    })
}

fn cloud_hypervisor_command(machine: &Machine) -> Vec<String> {
    let mut command = vec![
        "cloud-hypervisor --cpus boot=1".to_owned(),
        format!("--memory size={}M", mebibytes(machine.memory)),
        "--console off --serial tty".to_owned(),
        format!("--kernel {}", quoted(&file_name(machine))),
        format!("--cmdline {}", quoted(&machine.line())),
    ];
    // One option with several values: given twice, only the last would count.
    let mut list = |option: &str, values: Vec<String>| {
        if !values.is_empty() {
            command.push(format!("{option} {}", values.join(" ")));
        }
    };
    let net = |link: &NetLink| {
        let tap = link.tap.as_deref().unwrap_or_default();
        let mac = link.mac.as_ref().map(|mac| format!(",mac={mac}"));
        quoted(&format!("tap={tap}{}", mac.unwrap_or_default()))
    };
    let disk = |disk: &BlockOption| {
        let read_only = if disk.read_only { "on" } else { "off" };
        quoted(&format!(
            "path={},readonly={read_only},image_type=raw",
            disk.file.display()
        ))
    };
    list("--net", machine.links.iter().map(net).collect());
    list("--disk", machine.disks.iter().map(disk).collect());
    command
}

/// One word for the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
