//! The notes of an image: ABI, devices, build id.

use std::fmt;

use kiln_abi::note::{self, AbiNote, DeviceNote, RawNote};
use kiln_abi::{DeviceKind, MAX_DEVICES, VERSION};

use super::Fault;

/// Owner and type of the note that the linker writes (`NT_GNU_BUILD_ID`).
const BUILD_ID_OWNER: &[u8] = b"GNU";
const BUILD_ID_TYPE: u32 = 3;

/// A device that a program declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name, unique in the image and valid by [`note::valid_name`].
    pub name: String,
    /// What it is.
    pub kind: DeviceKind,
    /// The program starts without it too.
    pub optional: bool,
}

/// What the linker computed over the whole program: it ties an image to its debug file. Displayed in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BuildId(Vec<u8>);

impl BuildId {
    /// The build id with these bytes, if they are 8 to 64.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (8..=64)
            .contains(&bytes.len())
            .then(|| Self(bytes.to_vec()))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// All notes of an image.
#[derive(Clone, Debug)]
pub(super) struct Notes {
    pub abi: AbiNote,
    pub devices: Vec<Device>,
    pub build_id: Option<BuildId>,
}

impl Notes {
    /// Reads the notes in the contents of the note segments. Notes of other owners are ignored.
    pub fn parse<'a>(segments: impl Iterator<Item = &'a [u8]>) -> Result<Self, Fault> {
        let mut abi = None;
        let mut build_id = None;
        let mut declared = Vec::new();
        for note in segments.flat_map(note::parse) {
            let note = note.map_err(|_| Fault::TruncatedNotes)?;
            if note.owner == BUILD_ID_OWNER && note.kind == BUILD_ID_TYPE {
                let id = BuildId::new(note.payload).ok_or(Fault::BadBuildId)?;
                if build_id.replace(id).is_some() {
                    return Err(Fault::BadBuildId);
                }
            }
            if note.owner != note::OWNER.as_bytes() {
                continue;
            }
            match note.kind {
                note::TYPE_ABI if abi.replace(note).is_some() => {
                    return Err(Fault::SeveralAbiNotes);
                }
                note::TYPE_ABI => {}
                _ => declared.push(note),
            }
        }
        // The version decides how everything else is to be understood.
        let abi = abi_of(&abi.ok_or(Fault::NoAbiNote)?)?;
        Ok(Self {
            abi,
            devices: devices_of(&declared)?,
            build_id,
        })
    }
}

fn abi_of(note: &RawNote<'_>) -> Result<AbiNote, Fault> {
    let version = note
        .payload
        .first_chunk()
        .copied()
        .map(u32::from_le_bytes)
        .ok_or(Fault::BadAbiNote)?;
    if version != VERSION {
        return Err(Fault::OtherAbi {
            found: version,
            expected: VERSION,
        });
    }
    note.record()
        .filter(|abi: &AbiNote| abi.flags & !AbiNote::PROGRAM == 0)
        .ok_or(Fault::BadAbiNote)
}

fn devices_of(notes: &[RawNote<'_>]) -> Result<Vec<Device>, Fault> {
    if notes.len() > MAX_DEVICES {
        return Err(Fault::TooManyDevices {
            found: notes.len(),
            most: MAX_DEVICES,
        });
    }
    let mut devices: Vec<Device> = Vec::with_capacity(notes.len());
    for (index, note) in notes.iter().enumerate() {
        let device = device_of(index, note)?;
        if devices.iter().any(|known| known.name == device.name) {
            return Err(Fault::DuplicateDevice(device.name));
        }
        devices.push(device);
    }
    Ok(devices)
}

fn device_of(index: usize, note: &RawNote<'_>) -> Result<Device, Fault> {
    if note.kind != note::TYPE_DEVICE {
        return Err(Fault::UnknownNote(note.kind));
    }
    let record: DeviceNote = note.record().ok_or(Fault::BadDevice { index })?;
    let name = record.name().ok_or(Fault::BadDevice { index })?.to_owned();
    let kind = DeviceKind::from_raw(record.kind);
    // Folders are attached without being declared.
    let Some(kind) = kind.filter(|kind| *kind != DeviceKind::Files) else {
        return Err(Fault::UnknownDevice {
            name,
            kind: record.kind,
        });
    };
    if record.flags & !DeviceNote::OPTIONAL != 0 {
        return Err(Fault::UnknownDeviceFlags {
            name,
            flags: record.flags,
        });
    }
    Ok(Device {
        name,
        kind,
        optional: record.flags & DeviceNote::OPTIONAL != 0,
    })
}
