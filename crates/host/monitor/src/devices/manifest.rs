//! Which of the user's options goes to which device that the image declares.
//!
//! A guest gets exactly the devices it declares: one that is missing, and one that it does not know, are both errors
//! before anything starts. The only thing that happens by itself: an image with one network device and no option for
//! it is put on the rootless network.

use std::fmt::Write as _;

use kiln_abi::{DeviceKind, MAX_DEVICES};
use kiln_image::Device as Declared;

use super::net::{Link, LinkOptions, NetOption};
use crate::Error;
use crate::spec::BlockOption;

/// One device that the guest will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned<'a> {
    /// Its kind.
    pub kind: DeviceKind,
    /// Its name in the image.
    pub name: &'a str,
    /// What it is on the host.
    pub source: Source<'a>,
}

/// What a device is on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// The rootless network, with this Ethernet address if one was asked for.
    User(Option<[u8; 6]>),
    /// A tap device.
    Tap(&'a LinkOptions),
    /// An interface of the host.
    Packet(&'a LinkOptions),
    /// A file or block device.
    File(&'a BlockOption),
}

/// Matches options to declared devices. The result is in the order of declaration.
///
/// # Errors
/// [`Error::Manifest`]: a device is missing, unknown, given twice or there are too many.
pub fn plan<'a>(
    image: &str,
    declared: &'a [Declared],
    nets: &'a [NetOption],
    blocks: &'a [BlockOption],
    ports: bool,
) -> Result<Vec<Planned<'a>>, Error> {
    if declared.len() > MAX_DEVICES {
        return Err(Error::Manifest(format!(
            "{image} declares {} devices: an instance can have {MAX_DEVICES}",
            declared.len()
        )));
    }
    let links = bind_links(image, declared, nets, ports)?;
    check_disks(image, declared, blocks)?;
    let mut plan = Vec::with_capacity(declared.len());
    for device in declared {
        let source = match device.kind {
            DeviceKind::Net => links
                .iter()
                .find(|(name, _)| *name == device.name)
                .map(|(_, source)| *source),
            DeviceKind::Block => blocks
                .iter()
                .find(|block| block.device == device.name)
                .map(Source::File),
            DeviceKind::Files => None,
        };
        match source {
            Some(source) => plan.push(Planned {
                kind: device.kind,
                name: &device.name,
                source,
            }),
            None if device.optional => {}
            None => return Err(Error::Manifest(missing(image, device, nets))),
        }
    }
    let user_links = plan
        .iter()
        .filter(|planned| matches!(planned.source, Source::User(_)))
        .count();
    match user_links {
        0 if ports => Err(Error::Manifest(format!(
            "--publish leads to the rootless network, which {image} is not on: leave out --publish, or add --net user"
        ))),
        0 | 1 => Ok(plan),
        _ => Err(Error::Manifest(
            "only one device can be on the rootless network: use --net NAME=tap:IFNAME for the others".to_owned(),
        )),
    }
}

/// Which network device gets which link.
fn bind_links<'a>(
    image: &str,
    declared: &'a [Declared],
    nets: &'a [NetOption],
    ports: bool,
) -> Result<Vec<(&'a str, Source<'a>)>, Error> {
    let names = names_of(declared, DeviceKind::Net);
    if names.is_empty() {
        let what = match nets.iter().find(|net| net.link != Link::None) {
            Some(_) => "--net",
            None if ports => "--publish",
            None => return Ok(Vec::new()),
        };
        return Err(Error::Manifest(format!(
            "{image} has no network device: leave out {what}"
        )));
    }
    if nets.is_empty() {
        return Ok(match names[..] {
            [only] => vec![(only, Source::User(None))],
            _ => Vec::new(),
        });
    }
    let mut bound: Vec<(&str, Source<'_>)> = Vec::with_capacity(nets.len());
    for net in nets {
        let source = match &net.link {
            Link::None => continue,
            Link::User { mac } => Source::User(*mac),
            Link::Tap(options) => Source::Tap(options),
            Link::Packet(options) => Source::Packet(options),
        };
        let name = match &net.device {
            Some(wanted) => *names.iter().find(|name| *name == wanted).ok_or_else(|| {
                Error::Manifest(format!(
                    "{image} has no network device \"{wanted}\": it declares {}",
                    quoted(&names)
                ))
            })?,
            None => match names[..] {
                [only] => only,
                _ => {
                    return Err(Error::Manifest(format!(
                        "{image} declares several network devices ({}): say which with --net NAME=...",
                        quoted(&names)
                    )));
                }
            },
        };
        if bound.iter().any(|(other, _)| *other == name) {
            return Err(Error::Manifest(format!(
                "the network device \"{name}\" is given twice: leave out one --net"
            )));
        }
        bound.push((name, source));
    }
    Ok(bound)
}

/// Every disk option names a declared disk, and none twice.
fn check_disks(image: &str, declared: &[Declared], blocks: &[BlockOption]) -> Result<(), Error> {
    let names = names_of(declared, DeviceKind::Block);
    for (index, block) in blocks.iter().enumerate() {
        let wanted = &block.device;
        if !names.contains(&wanted.as_str()) {
            return Err(Error::Manifest(if names.is_empty() {
                format!("{image} has no block device: leave out --block")
            } else {
                format!(
                    "{image} has no block device \"{wanted}\": it declares {}",
                    quoted(&names)
                )
            }));
        }
        if blocks[..index].iter().any(|other| other.device == *wanted) {
            return Err(Error::Manifest(format!(
                "the block device \"{wanted}\" is given twice: leave out one --block"
            )));
        }
    }
    Ok(())
}

fn missing(image: &str, device: &Declared, nets: &[NetOption]) -> String {
    let name = &device.name;
    match device.kind {
        DeviceKind::Block => {
            format!("{image} needs the block device \"{name}\": add --block {name}=FILE")
        }
        DeviceKind::Net if nets.iter().any(|net| net.link == Link::None) => {
            format!("{image} needs the network device \"{name}\": use --net user instead of none")
        }
        DeviceKind::Files => format!("{image} needs the folder \"{name}\""),
        DeviceKind::Net => format!(
            "{image} needs the network device \"{name}\": add --net {name}=user or --net {name}=tap:IFNAME"
        ),
    }
}

fn names_of(declared: &[Declared], kind: DeviceKind) -> Vec<&str> {
    declared
        .iter()
        .filter(|device| device.kind == kind)
        .map(|device| device.name.as_str())
        .collect()
}

fn quoted(names: &[&str]) -> String {
    let mut text = String::new();
    for (index, name) in names.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}\"{name}\"");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(name: &str) -> Declared {
        Declared {
            kind: DeviceKind::Net,
            name: name.to_owned(),
            optional: false,
        }
    }

    fn disk(name: &str) -> Declared {
        Declared {
            kind: DeviceKind::Block,
            ..net(name)
        }
    }

    fn optional(device: Declared) -> Declared {
        Declared {
            optional: true,
            ..device
        }
    }

    fn refused(declared: &[Declared], nets: &[&str], blocks: &[&str], ports: bool) -> String {
        let nets: Vec<NetOption> = nets.iter().map(|net| net.parse().unwrap()).collect();
        let blocks: Vec<BlockOption> = blocks.iter().map(|block| block.parse().unwrap()).collect();
        plan("web.kiln", declared, &nets, &blocks, ports)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn one_network_device_is_put_on_the_rootless_network() {
        for ports in [false, true] {
            let declared = [net("eth0")];
            let plan = plan("web.kiln", &declared, &[], &[], ports).unwrap();
            assert_eq!(plan.len(), 1);
            assert_eq!(plan[0].source, Source::User(None));
        }
    }

    #[test]
    fn missing_devices_are_named_with_the_option_to_add() {
        assert_eq!(
            refused(&[disk("data")], &[], &[], false),
            "web.kiln needs the block device \"data\": add --block data=FILE"
        );
        assert_eq!(
            refused(&[net("a"), net("b")], &["a=user"], &[], false),
            "web.kiln needs the network device \"b\": add --net b=user or --net b=tap:IFNAME"
        );
        assert_eq!(
            refused(&[net("eth0")], &["none"], &[], false),
            "web.kiln needs the network device \"eth0\": use --net user instead of none"
        );
    }

    #[test]
    fn undeclared_devices_are_refused() {
        assert_eq!(
            refused(&[], &[], &["data=f"], false),
            "web.kiln has no block device: leave out --block"
        );
        assert_eq!(
            refused(&[disk("data")], &[], &["log=f"], false),
            "web.kiln has no block device \"log\": it declares \"data\""
        );
        assert_eq!(
            refused(&[], &["user"], &[], false),
            "web.kiln has no network device: leave out --net"
        );
        assert_eq!(
            refused(&[], &[], &[], true),
            "web.kiln has no network device: leave out --publish"
        );
        assert!(refused(&[net("a")], &["b=user"], &[], false).contains("it declares \"a\""));
    }

    #[test]
    fn ambiguity_and_repetition_are_refused() {
        assert!(refused(&[net("a"), net("b")], &["user"], &[], false).contains("say which"));
        assert!(refused(&[net("a")], &["user", "a=user"], &[], false).contains("given twice"));
        assert!(refused(&[disk("d")], &[], &["d=x", "d=y"], false).contains("given twice"));
        assert!(
            refused(&[net("a"), net("b")], &["a=user", "b=user"], &[], false).contains("only one")
        );
        assert!(refused(&[net("a")], &["tap:t0"], &[], true).contains("--publish"));
    }

    #[test]
    fn optional_devices_may_be_left_out() {
        let declared = [optional(disk("data")), optional(net("eth0"))];
        let nets = ["none".parse().unwrap()];
        assert_eq!(plan("web.kiln", &declared, &nets, &[], false).unwrap(), []);
        assert_eq!(
            plan("web.kiln", &declared, &[], &[], false).unwrap().len(),
            1
        );
    }

    #[test]
    fn devices_keep_the_order_of_declaration() {
        let declared = [disk("b"), net("n"), disk("a")];
        let blocks = ["a=x".parse().unwrap(), "b=y:ro".parse().unwrap()];
        let plan = plan("web.kiln", &declared, &[], &blocks, false).unwrap();
        let names: Vec<_> = plan.iter().map(|planned| planned.name).collect();
        assert_eq!(names, ["b", "n", "a"]);
    }

    #[test]
    fn more_devices_than_ready_bits_are_refused() {
        let many: Vec<Declared> = (0..=MAX_DEVICES).map(|n| disk(&format!("d{n}"))).collect();
        assert_eq!(
            refused(&many, &[], &[], false),
            "web.kiln declares 64 devices: an instance can have 63"
        );
    }
}
