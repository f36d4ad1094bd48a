//! From the user's options and the image's manifest to open devices.
//!
//! Three steps, in this order so that errors cost nothing: [`manifest::plan`] matches names (pure), then each planned
//! device is opened ([`net`], [`tap`], [`packet`], [`block`]), then all of them are handed to the backend as they are. What the
//! supervisor keeps for itself (the rootless network) comes back beside them.

pub mod block;
pub mod folder;
pub mod island;
pub mod manifest;
pub mod net;
pub mod packet;
pub mod tap;

use kiln_abi::DeviceKind;
use kiln_image::Device as Declared;
use kiln_usernet::Usernet;

use crate::Error;
use crate::backend::{Device, LinkEnds};
use crate::capture::Link;
use crate::spec::Spec;
use folder::Folder;
use manifest::Source;

/// Everything that [`attach`] opened.
pub struct Attached {
    /// The guest's devices in the order in which it numbers them.
    pub devices: Vec<Device>,
    /// The host's side of the guest's rootless link, if it has one.
    pub usernet: Option<Box<Usernet>>,
    /// The network links.
    pub links: Vec<Link>,
    /// Of those, the number of the rootless one.
    pub user_link: Option<u32>,
    /// One line for each device, for `kiln inspect`.
    pub described: Vec<String>,
    /// The host's side of its folders.
    pub folders: Vec<Folder>,
    /// The forwarded ports as they were bound, for `kiln ps`.
    pub ports: Vec<String>,
}

/// Matches and opens all devices of an instance, the network links as the backend wants them.
///
/// # Errors
/// [`Error::Manifest`] when options and manifest do not fit, [`Error::Device`] and [`Error::Network`] when a device
/// cannot be opened.
pub fn attach(
    spec: &Spec,
    name: &str,
    declared: &[Declared],
    ends: LinkEnds,
) -> Result<Attached, Error> {
    let plan = manifest::plan(
        &spec.image_name(),
        declared,
        &spec.nets,
        &spec.blocks,
        !spec.ports.is_empty(),
    )?;
    let mut attached = Attached {
        devices: Vec::with_capacity(plan.len()),
        usernet: None,
        links: Vec::new(),
        user_link: None,
        described: Vec::with_capacity(plan.len()),
        folders: Vec::with_capacity(spec.volumes.len()),
        ports: Vec::new(),
    };
    for (number, planned) in (0..).zip(plan) {
        let (device, described) = match planned.source {
            Source::User(mac) => {
                let (device, usernet) = net::open_user(planned.name, mac, name, &spec.ports, ends)?;
                attached.ports = net::bound_ports(&usernet);
                attached.usernet = Some(usernet);
                attached.user_link = Some(number);
                (device, "user".to_owned())
            }
            Source::Tap(options) => (
                tap::open(planned.name, options, ends)?,
                format!("tap:{}", options.interface),
            ),
            Source::Packet(options) => (
                packet::open(planned.name, options, ends)?,
                format!("packet:{}", options.interface),
            ),
            Source::File(option) => (
                block::open(option)?,
                format!(
                    "{}{}",
                    option.file.display(),
                    if option.read_only { ":ro" } else { "" }
                ),
            ),
        };
        if planned.kind == DeviceKind::Net {
            attached.links.push(Link {
                device: number,
                name: planned.name.to_owned(),
                kind: described.clone(),
                mac: device.info.mac,
            });
        }
        attached.described.push(format!(
            "{} {}={described}",
            planned.kind.name(),
            planned.name
        ));
        attached.devices.push(device);
    }
    let longest = longest_message(ends);
    let folders = spec.volumes.len() + usize::from(spec.core.is_some());
    for (number, option) in spec.volumes.iter().enumerate() {
        let (device, folder) = folder::open(option, number, folders, longest)?;
        let read_only = if option.read_only { ":ro" } else { "" };
        let (folder_name, path) = (option.folder.display(), &option.path);
        attached
            .described
            .push(format!("volume {path}={folder_name}{read_only}"));
        attached.devices.push(device);
        attached.folders.push(folder);
    }
    Ok(attached)
}

/// The longest message of a folder, in bytes: other monitors carry messages as if they were frames.
pub(crate) fn longest_message(ends: LinkEnds) -> usize {
    match ends {
        LinkEnds::Offloaded => kiln_ninep_server::MAX_MESSAGE,
        LinkEnds::Plain | LinkEnds::Taps | LinkEnds::Names => kiln_abi::net::MAX_FRAME,
    }
}

/// A device name as it stands in a device record. `name` is valid by [`kiln_abi::note::valid_name`].
pub(crate) fn padded(name: &str) -> [u8; kiln_abi::note::MAX_NAME + 1] {
    let mut field = [0; kiln_abi::note::MAX_NAME + 1];
    let len = name.len().min(kiln_abi::note::MAX_NAME);
    field[..len].copy_from_slice(&name.as_bytes()[..len]);
    field
}
