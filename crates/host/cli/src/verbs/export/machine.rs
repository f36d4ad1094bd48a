//! The machine to be exported, before it is put in any format's words.

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt;

use kiln_image::{Digest, Image, digest};
use kiln_monitor::backends::foreign::{limits, plan as other};
use kiln_monitor::devices::manifest::{self, Source};
use kiln_monitor::devices::net::{Link, LinkOptions, NetOption};
use kiln_monitor::size::Size;
use kiln_monitor::spec::{BlockOption, PortForward};
use kiln_monitor::{Error, Spec, names};

use super::Format;
use crate::exit::Failure;

/// The interface of a link that is configured, but connected to nothing here. No interface can have this name.
pub const STATIC: &str = "..";

/// A machine.
pub struct Machine {
    /// Its name.
    pub name: String,
    /// The bytes of the image.
    pub image: Vec<u8>,
    /// What its headers say.
    pub layout: kiln_image::Layout,
    /// Memory of the machine: a little more than what the guest may use.
    pub memory: Size,
    /// The kernel's command line, word by word. Without any character that a shell, JSON or GRUB gives a meaning.
    pub words: Vec<String>,
    /// Links in the order of declaration.
    pub links: Vec<NetLink>,
    /// Disks in the order of declaration.
    pub disks: Vec<BlockOption>,
    /// Ports of the host that lead into the guest.
    pub ports: Vec<PortForward>,
}

/// One network link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetLink {
    /// The tap device it is connected to; QEMU's own network if there is none.
    pub tap: Option<String>,
    /// The Ethernet address, if it matters.
    pub mac: Option<String>,
}

impl Machine {
    /// What `spec` wants of `image`. Only a `limited` guest is told how much memory it may use, if it is on a disk.
    ///
    /// # Errors
    /// Options that do not fit the image, or an image that cannot be read.
    pub fn new(spec: &Spec, limited: bool, image: &Image, format: Format) -> Result<Self, Failure> {
        let stem = spec.image_name();
        let stem = stem.strip_suffix(".kiln").unwrap_or(&stem);
        let name = spec.name.clone().unwrap_or_else(|| plain_name(stem));
        let mut words = vec![word("kiln.name", &name), word("kiln.arg", stem)];
        words.extend(spec.args.iter().map(|arg| word("kiln.arg", arg)));
        words.extend(spec.env.iter().map(|env| word("kiln.env", env)));
        if limited || format.is_monitor() {
            words.push(word("kiln.memory", &spec.memory.bytes().to_string()));
        }
        let nets = connected(spec, image, format)?;
        let blocks = if format.is_monitor() {
            spec.blocks.clone()
        } else {
            all_disks(image)
        };
        let plan = manifest::plan(
            &spec.image_name(),
            image.devices(),
            &nets,
            &blocks,
            !spec.ports.is_empty(),
        )?;
        no_gaps(image, &plan)?;
        let mut links = Vec::new();
        let mut disks = Vec::new();
        for device in plan {
            match device.source {
                Source::User(mac) => links.push(NetLink {
                    tap: None,
                    mac: mac.map(ethernet),
                }),
                Source::Tap(tap) => {
                    words.extend(configuration(device.name, tap));
                    links.push(NetLink {
                        tap: Some(tap.interface.clone()),
                        mac: tap.mac.map(ethernet),
                    });
                }
                Source::Packet(packet) => {
                    return Err(Failure::new(format!(
                        "other monitors have no packet sockets: use --net {}=tap:{} with a tap device",
                        device.name, packet.interface
                    )));
                }
                Source::File(block) => disks.push(BlockOption {
                    file: absolute(block)?,
                    ..block.clone()
                }),
            }
        }
        let layout = image.layout().clone();
        let memory = other::machine_memory(layout.memory_size(), spec.memory.bytes());
        let machine = Self {
            name,
            image: bytes(image).map_err(|error| Error::file("read", image.path(), error))?,
            layout,
            memory: Size::from_bytes(memory),
            words,
            links,
            disks,
            ports: spec.ports.clone(),
        };
        let length = machine.line().len();
        match format {
            Format::Firecracker => {
                limits::check_firecracker(length, machine.links.len() + machine.disks.len())
            }
            // Devices on a PCI bus need no words.
            _ => limits::check_line(length, 0),
        }
        .map_err(Error::from)?;
        Ok(machine)
    }

    /// The whole command line.
    pub fn line(&self) -> String {
        self.words.join(" ")
    }

    /// Identity of the machine, for identifiers that only have to differ from others'.
    pub fn digest(&self) -> Digest {
        let mut bytes = self.image.clone();
        bytes.extend(self.line().bytes());
        digest::of_bytes(&bytes)
    }
}

/// A name that a machine can have, made of a file's.
fn plain_name(stem: &str) -> String {
    let plain = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-' => c,
        _ => '-',
    };
    let name: String = stem.chars().map(plain).take(63).collect();
    if names::valid(&name) {
        name
    } else {
        "guest".to_owned()
    }
}

fn bytes(image: &Image) -> std::io::Result<Vec<u8>> {
    let file: &File = image.file();
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// The links' options. Where there is no network of the monitor's own, links without one are on taps called `tap0` and
/// so on, or, on disks, on whatever there will be.
fn connected(spec: &Spec, image: &Image, format: Format) -> Result<Vec<NetOption>, Failure> {
    if format == Format::Qemu {
        if let Some(net) = spec.nets.iter().find(|net| is_static(net)) {
            let device = net.device.as_deref().unwrap_or("eth0");
            return Err(Failure::new(format!(
                "--net static is not connected to anything: use --net {device}=tap:IFNAME,ip=... or user"
            )));
        }
        return Ok(spec.nets.clone());
    }
    if let Some(net) = spec
        .nets
        .iter()
        .find(|net| matches!(net.link, Link::User { .. }))
    {
        let device = net.device.as_deref().unwrap_or("eth0");
        return Err(Failure::new(format!(
            "this format has no user network: use --net {device}=tap:IFNAME, --net {device}=static,ip=..., or nothing for DHCP"
        )));
    }
    let names: Vec<&str> = image
        .devices()
        .iter()
        .filter(|device| device.kind == kiln_image::DeviceKind::Net)
        .map(|device| device.name.as_str())
        .collect();
    let mut nets = spec.nets.clone();
    for (index, &name) in names.iter().enumerate() {
        let own = |net: &&mut NetOption| match &net.device {
            Some(device) => device == name,
            None => names.len() == 1,
        };
        let interface = if format.is_monitor() {
            format!("tap{index}")
        } else {
            STATIC.to_owned()
        };
        match nets.iter_mut().find(own) {
            Some(net) if is_static(net) => {
                if let Link::Tap(tap) = &mut net.link {
                    tap.interface = interface;
                }
            }
            Some(_) => {}
            None => nets.push(NetOption {
                device: Some(name.to_owned()),
                link: Link::Tap(LinkOptions {
                    interface,
                    ..LinkOptions::default()
                }),
            }),
        }
    }
    Ok(nets)
}

fn is_static(net: &NetOption) -> bool {
    matches!(&net.link, Link::Tap(tap) if tap.interface == STATIC)
}

/// An option for each disk: on a computer of its own, it is plugged in there.
fn all_disks(image: &Image) -> Vec<BlockOption> {
    let disks = image.devices().iter();
    disks
        .filter(|device| device.kind == kiln_image::DeviceKind::Block)
        .map(|device| BlockOption {
            device: device.name.clone(),
            file: "/".into(),
            read_only: false,
        })
        .collect()
}

/// A machine's devices have no names: the nth of a kind is the nth declared. So none before another can be left out.
fn no_gaps(image: &Image, plan: &[manifest::Planned<'_>]) -> Result<(), Failure> {
    for (index, device) in image.devices().iter().enumerate() {
        let has = |name: &str| plan.iter().any(|planned| planned.name == name);
        let later = image.devices()[index + 1..]
            .iter()
            .find(|later| later.kind == device.kind && has(&later.name));
        if let (false, Some(later)) = (has(&device.name), later) {
            return Err(Failure::new(format!(
                "device {} would be taken for {}, which is declared before it: attach {} too",
                later.name, device.name, device.name
            )));
        }
    }
    Ok(())
}

fn absolute(block: &BlockOption) -> Result<std::path::PathBuf, Failure> {
    let path = std::path::absolute(&block.file)
        .map_err(|error| Error::file("find", &block.file, error))?;
    match path.to_str() {
        Some(text) if !text.contains([',', '\n', '"', '\\']) => Ok(path),
        _ => Err(Failure::new(format!(
            "--block {}: other monitors' options cannot name this file: use one without commas, quotes and line feeds",
            path.display()
        ))),
    }
}

/// The static configuration of a link as a word; none if there is nothing to say.
fn configuration(device: &str, tap: &LinkOptions) -> Option<String> {
    let prefixed = |key: &str, address: Option<(String, u8)>| {
        address.map(|(address, prefix)| format!(",{key}={address}/{prefix}"))
    };
    let plain = |key: &str, address: Option<String>| address.map(|a| format!(",{key}={a}"));
    let settings: String = [
        prefixed("ip4", tap.ip4.map(|(a, p)| (a.to_string(), p))),
        plain("gw4", tap.gateway4.map(|a| a.to_string())),
        plain("dns4", tap.dns4.map(|a| a.to_string())),
        prefixed("ip6", tap.ip6.map(|(a, p)| (a.to_string(), p))),
        plain("gw6", tap.gateway6.map(|a| a.to_string())),
        plain("dns6", tap.dns6.map(|a| a.to_string())),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!settings.is_empty()).then(|| format!("kiln.net={device}{settings}"))
}

fn ethernet(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// One word of the command line, in characters that mean nothing to anybody on its way.
fn word(key: &str, value: &str) -> String {
    let mut word = format!("{key}=");
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => word.push(char::from(byte)),
            b'.' | b'_' | b':' | b'/' | b',' | b'=' | b'@' | b'+' | b'-' => {
                word.push(char::from(byte));
            }
            // Writing to a string cannot fail.
            _ => drop(write!(word, "%{byte:02x}")),
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_nothing_to_shells() {
        assert_eq!(word("kiln.arg", "a b"), "kiln.arg=a%20b");
        assert_eq!(
            word("kiln.env", "A=$x'\"\\;%ü"),
            "kiln.env=A=%24x%27%22%5c%3b%25%c3%bc"
        );
        assert_eq!(word("kiln.arg", "/a:b,c-d"), "kiln.arg=/a:b,c-d");
    }

    #[test]
    fn names_come_from_files() {
        assert_eq!(plain_name("web"), "web");
        assert_eq!(plain_name("my web's"), "my-web-s");
        assert_eq!(plain_name("-x"), "guest");
    }

    #[test]
    fn links_are_configured_in_one_word() {
        let net: NetOption = "lan=tap:t,ip=10.0.0.2/24,gw=10.0.0.1,dns=fd00::1"
            .parse()
            .unwrap();
        let Link::Tap(tap) = net.link else {
            panic!("a tap");
        };
        assert_eq!(
            configuration("lan", &tap).unwrap(),
            "kiln.net=lan,ip4=10.0.0.2/24,gw4=10.0.0.1,dns6=fd00::1"
        );
        assert_eq!(configuration("lan", &LinkOptions::default()), None);
    }
}
