//! What a valid image's headers say.

use std::ops::Range;

use kiln_abi::note::AbiNote;

use super::elf::{self, Header, ProgramHeader};
use super::notes::Notes;
use super::root::{self, FilePart};
use super::segments::{self, Access, LoadSegment, Segments};
use super::{BuildId, Device, Fault, HEAD, MachinePart, machine};

/// The description of a valid image: what to map where, where to start, and what the program needs.
///
/// All addresses are relative to where the image is placed.
#[derive(Clone, Debug)]
pub struct Layout {
    segments: Segments,
    machine: MachinePart,
    relro: Option<Range<u64>>,
    root: Option<FilePart>,
    config: Option<FilePart>,
    notes: Notes,
}

impl Layout {
    /// Checks the first bytes of a file of `file_size` bytes: [`HEAD`] of them, or all if they are fewer.
    ///
    /// # Errors
    /// The first [`Fault`] found. Files that are no images at all are told from damaged ones.
    pub fn parse(head: &[u8], file_size: u64) -> Result<Self, Fault> {
        let head = &head[..head.len().min(HEAD)];
        let header = Header::parse(head)?;
        match header.kind {
            elf::TYPE_MOVABLE => {}
            elf::TYPE_FIXED => return Err(Fault::LinuxProgram),
            other => return Err(Fault::NotAProgram(other)),
        }
        let headers = header.program_headers(head)?;
        let of_kind = |kind| headers.clone().filter(move |header| header.kind == kind);
        if of_kind(elf::PT_INTERP).next().is_some() {
            return Err(Fault::LinuxProgram);
        }

        let mut note_bytes = Vec::with_capacity(1);
        for header in of_kind(elf::PT_NOTE) {
            note_bytes.push(part(head, &header).ok_or(Fault::ScatteredHeaders)?);
        }
        let notes = Notes::parse(note_bytes.into_iter())?;

        if of_kind(elf::PT_TLS).next().is_some() {
            return Err(Fault::ThreadLocals);
        }
        if of_kind(elf::PT_GNU_STACK).any(|header| header.flags & elf::PF_X != 0) {
            return Err(Fault::ExecutableStack);
        }
        let guest = of_kind(elf::PT_LOAD).take_while(|header| !machine::is_machine(header));
        let segments = segments::check(guest, file_size)?;
        let mut behind = of_kind(elf::PT_LOAD).skip(segments.list.len());
        let (Some(part), None) = (behind.next(), behind.next()) else {
            return Err(Fault::NoMachinePart);
        };
        let machine = machine::check(&part, header.entry, segments.end(), file_size)?;
        let mut relro = None;
        for header in of_kind(elf::PT_GNU_RELRO) {
            let range = segments::check_relro(&header, &segments.list)?;
            if relro.replace(range).is_some() {
                return Err(Fault::BadRelro);
            }
        }
        let mut root = None;
        for header in of_kind(root::PT_ROOT) {
            let part = root::check_root(&header, &segments.list, machine, file_size)?;
            if root.replace(part).is_some() {
                return Err(Fault::BadRoot);
            }
        }
        let mut config = None;
        for header in of_kind(root::PT_CONFIG) {
            let part = root::check_config(&header, &segments.list, machine, file_size)?;
            if config.replace(part).is_some() {
                return Err(Fault::BadConfig);
            }
        }
        let code = |segment: &LoadSegment| {
            segment.access == Access::ReadExecute
                && (segment.address..segment.address + segment.file_size).contains(&notes.abi.entry)
        };
        if !segments.list.iter().any(code) {
            return Err(Fault::BadEntry(notes.abi.entry));
        }
        Ok(Self {
            segments,
            machine,
            relro,
            root,
            config,
            notes,
        })
    }

    /// What to map, in the order of addresses: whole pages that do not overlap, the first at address 0. Between them
    /// there may be gaps, which the guest must not be able to access.
    pub fn segments(&self) -> &[LoadSegment] {
        &self.segments.list
    }

    /// Address of the first instruction.
    pub fn entry(&self) -> u64 {
        self.notes.abi.entry
    }

    /// The part that only other monitors load.
    pub fn machine(&self) -> MachinePart {
        self.machine
    }

    /// Pages that the guest makes read-only as soon as it has relocated itself.
    pub fn relro(&self) -> Option<Range<u64>> {
        self.relro.clone()
    }

    /// The root file system of a Linux program: whole pages, behind everything that is loaded.
    pub fn root(&self) -> Option<FilePart> {
        self.root
    }

    /// Where the file says how a Linux program is started; see [`Image::config`](super::Image::config).
    pub fn config_part(&self) -> Option<FilePart> {
        self.config
    }

    /// Bytes of address space from the first segment's start to the last one's end, a multiple of the page size.
    pub fn memory_size(&self) -> u64 {
        self.segments.end()
    }

    /// The image's address must be a multiple of this, a power of two, at least the page size.
    pub fn alignment(&self) -> u64 {
        self.segments.alignment
    }

    /// What the program needs of a monitor.
    pub fn abi(&self) -> AbiNote {
        self.notes.abi
    }

    /// The devices that the program declares, in the order of their notes.
    pub fn devices(&self) -> &[Device] {
        &self.notes.devices
    }

    /// The build id, if the image has one. Images of `kiln build` do.
    pub fn build_id(&self) -> Option<&BuildId> {
        self.notes.build_id.as_ref()
    }
}

fn part<'a>(head: &'a [u8], header: &ProgramHeader) -> Option<&'a [u8]> {
    let start = usize::try_from(header.offset).ok()?;
    let len = usize::try_from(header.file_size).ok()?;
    head.get(start..)?.get(..len)
}
