//! `kiln export`: write an image in the form that somebody else's monitor, cloud or computer starts.
//!
//! An image is a virtual machine's kernel as it is (`docs/machine.md`); what else it takes differs. For monitors that
//! load a kernel that is a script with their options ([`monitors`]), for computers that start from a disk it is a boot
//! loader ([`disk`]).
//!
//! Everything is made in a folder beside the output, under a name that nobody has, and moved into place when it is
//! complete; nothing that is there already is replaced. The same image and options give the same bytes, except for `ova`, into whose disk `qemu-img` writes a random
//! number.

mod disk;
mod gpt;
mod machine;
mod monitors;
mod multiboot;
mod ova;
mod tools;

use std::path::PathBuf;

use kiln_image::Image;
use kiln_monitor::devices::net::NetOption;
use kiln_monitor::size::Size;
use kiln_monitor::spec::{self, BlockOption, PortForward};
use kiln_monitor::{Error, Spec};

use super::run;
use crate::exit::Failure;
use crate::target::Target;
use crate::tell::tell;
use crate::{program, style, target};
use machine::Machine;
use tools::Workshop;

/// Arguments of `kiln export`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What to write
    #[arg(short = 'f', long, value_name = "FORMAT", value_enum)]
    format: Format,
    /// The file or folder to write [default: NAME with the format's ending]
    #[arg(short = 'o', long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Name of the machine [default: the image's]
    #[arg(long)]
    name: Option<String>,
    /// Memory of the guest, in bytes or with K, M or G [default: 64M; disks: all there is]
    #[arg(short = 'm', long, value_name = "SIZE")]
    memory: Option<String>,
    /// Set an environment variable: NAME=value, or NAME to pass the present one on
    #[arg(short = 'e', long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Read environment variables from a file, one NAME=value a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Forward a port of the host, qemu only: [ADDR:]HOST:GUEST[/udp]
    #[arg(short = 'p', long, value_name = "PORTS")]
    publish: Vec<String>,
    /// Connect a network device: [NAME=]user, none, tap:IFNAME or static, the latter two with [,ip=A/P][,gw=A]...
    #[arg(long, visible_alias = "network", value_name = "LINK")]
    net: Vec<String>,
    /// Attach a disk: NAME=FILE[:ro]
    #[arg(long, value_name = "NAME=FILE")]
    block: Vec<String>,
    /// Show no progress while building
    #[arg(short = 'q', long)]
    quiet: bool,
    /// An image file or the folder of a Rust crate, then the program's arguments
    #[arg(
        value_names = ["TARGET", "ARGS"],
        num_args = 1..,
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    target: Vec<String>,
}

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A folder with the image and a script that starts QEMU
    Qemu,
    /// A folder with the image, Firecracker's configuration and a script
    Firecracker,
    /// A folder with the image and a script that starts Cloud Hypervisor
    CloudHypervisor,
    /// A disk for BIOS and UEFI
    Raw,
    /// A CD for BIOS and UEFI, also for USB sticks
    Iso,
    /// The disk in QEMU's format
    Qcow2,
    /// The disk with a description, as desktop programs for virtual machines import it
    Ova,
}

impl Format {
    /// True if another monitor loads the image itself.
    fn is_monitor(self) -> bool {
        matches!(self, Self::Qemu | Self::Firecracker | Self::CloudHypervisor)
    }

    /// What the output's name ends in.
    fn ending(self) -> &'static str {
        match self {
            Self::Qemu => "-qemu",
            Self::Firecracker => "-firecracker",
            Self::CloudHypervisor => "-cloud-hypervisor",
            Self::Raw => ".img",
            Self::Iso => ".iso",
            Self::Qcow2 => ".qcow2",
            Self::Ova => ".ova",
        }
    }
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let spec = spec(arguments)?;
    let image = Image::open(&spec.image)?;
    let machine = Machine::new(&spec, arguments.memory.is_some(), &image, arguments.format)?;
    let output = match &arguments.output {
        Some(output) => output.clone(),
        None => format!("{}{}", machine.name, arguments.format.ending()).into(),
    };
    tools::is_absent(&output)?;
    let shop = Workshop::beside(&output)?;
    let made = match arguments.format {
        Format::Qemu => monitors::qemu(&shop, &machine)?,
        Format::Firecracker => monitors::firecracker(&shop, &machine)?,
        Format::CloudHypervisor => monitors::cloud_hypervisor(&shop, &machine)?,
        Format::Raw => disk::raw(&shop, &machine)?,
        Format::Iso => disk::iso(&shop, &machine)?,
        Format::Qcow2 => disk::qcow2(&shop, &machine)?,
        Format::Ova => ova::write(&shop, &machine)?,
    };
    shop.deliver(&made, &output)?;
    if let (false, Some(disk)) = (arguments.format.is_monitor(), machine.disks.first()) {
        tell(format_args!(
            "note: start from it as an IDE, SATA or CD drive: the first virtio disk is the program's {:?}",
            disk.device
        ));
    }
    style::line(&output.display().to_string())?;
    Ok(0)
}

/// The arguments as a [`Spec`], checked before a crate is built: that takes long.
fn spec(arguments: &Arguments) -> Result<Spec, Failure> {
    let Some((target, args)) = arguments.target.split_first() else {
        return Err(Failure::new("TARGET is missing"));
    };
    if target.starts_with('-') {
        return Err(Failure::new(format!(
            "unknown option {target}: `kiln export --help` lists them"
        )));
    }
    let mut spec = Spec::new(target);
    spec.name.clone_from(&arguments.name);
    // The brief way to say that no options follow is no argument of the program.
    spec.args = args
        .strip_prefix(&["--".to_owned()])
        .unwrap_or(args)
        .to_vec();
    if let Some(memory) = &arguments.memory {
        spec.memory = run::memory_size(memory)?;
    }
    for text in &arguments.publish {
        spec.ports
            .extend(PortForward::parse_list(text).map_err(Error::from)?);
    }
    for text in &arguments.net {
        spec.nets.push(net(text)?);
    }
    for text in &arguments.block {
        spec.blocks.push(text.parse::<BlockOption>()?);
    }
    for file in &arguments.env_file {
        run::env_file(file, &mut spec.env)?;
    }
    for text in &arguments.env {
        spec.env.extend(run::env(text));
    }
    spec.check()?;
    only_for_monitors(arguments)?;
    if arguments.format == Format::Qemu {
        only_ipv4(&spec.ports)?;
    }
    if let Some(output) = &arguments.output {
        tools::is_absent(output)?;
    }
    spec.env = spec::effective_env(&spec.env);
    spec.image = match target::find(target, None, arguments.quiet)? {
        Target::Image(image) if program::config_of(&image)?.is_none() => image,
        _ => {
            return Err(Failure::cannot_run(format!(
                "{target}: images of Linux programs run under kiln itself in this version: use kiln run"
            )));
        }
    };
    Ok(spec)
}

/// One `--net`. A link that is configured but not connected here counts as a tap device of that name.
fn net(text: &str) -> Result<NetOption, Failure> {
    let (name, link) = match text.find(['=', ':', ',']) {
        Some(at) if text.as_bytes()[at] == b'=' => text.split_at(at + 1),
        _ => ("", text),
    };
    let parsed = match link.strip_prefix("static") {
        Some(rest) if rest.is_empty() || rest.starts_with(',') => {
            format!("{name}tap:{}{rest}", machine::STATIC).parse()
        }
        _ => text.parse(),
    };
    Ok(parsed?)
}

/// A disk file's devices are the business of whoever starts it.
fn only_for_monitors(arguments: &Arguments) -> Result<(), Failure> {
    let option = match arguments.format {
        Format::Qemu => return Ok(()),
        _ if !arguments.publish.is_empty() => "--publish",
        Format::Firecracker | Format::CloudHypervisor => return Ok(()),
        _ if !arguments.block.is_empty() => "--block",
        _ => return Ok(()),
    };
    Err(Failure::new(format!(
        "{option} has no meaning in this format: leave it out, and set that up where the machine runs"
    )))
}

/// QEMU's own network listens on no other addresses.
fn only_ipv4(ports: &[PortForward]) -> Result<(), Failure> {
    let other = |port: &&PortForward| port.host.is_ipv6() && !port.both_families;
    let Some(port) = ports.iter().find(other) else {
        return Ok(());
    };
    Err(Failure::new(format!(
        "--publish {}:{}: QEMU's user network forwards from IPv4 addresses only: use one, or none for all of them",
        port.host, port.guest_port
    )))
}

/// Bytes as a size in mebibytes, rounded up.
fn mebibytes(size: Size) -> u64 {
    size.bytes().div_ceil(1 << 20)
}
