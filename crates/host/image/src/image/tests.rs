//! One test for each rule of the format: a good image, spoilt in one place.

use std::fs;

use kiln_abi::note::{AbiNote, DeviceNote};
use kiln_abi::{DeviceKind, MAX_DEVICES, VERSION};
use proptest::prelude::*;

use super::elf::{self, PF_R, PF_W, PF_X};
use super::sample::{ABI, Sample, header, load};
use super::{
    Access, Fault, GUEST_ADDRESS, HEAD, Image, Layout, MACHINE_ADDRESS, MAX_SPAN, MachinePart,
};

fn parse(bytes: &[u8]) -> Result<Layout, Fault> {
    Image::parse(&bytes[..bytes.len().min(HEAD)], bytes.len() as u64)
}

/// What is wrong with the good sample after `spoil`.
fn fault(spoil: impl FnOnce(&mut Sample)) -> Fault {
    let mut sample = Sample::good();
    spoil(&mut sample);
    parse(&sample.bytes()).expect_err("a bad image was accepted")
}

#[test]
fn a_good_image_is_described() {
    let image = parse(&Sample::good().bytes()).unwrap();
    assert_eq!(image.entry(), 0x1010);
    assert_eq!(image.memory_size(), 0x7000);
    assert_eq!(image.alignment(), 4096);
    assert_eq!(image.relro(), Some(0x3000..0x4000));
    let access: Vec<_> = image.segments().iter().map(|s| s.access).collect();
    assert_eq!(
        access,
        [
            Access::Read,
            Access::ReadExecute,
            Access::ReadWrite,
            Access::ReadWrite
        ]
    );
    assert_eq!(image.segments()[3].memory_size, 0x2345);
    assert_eq!(image.segments()[3].page_end(), 0x7000);
    assert_eq!(image.abi().stack_size, 65536);
    assert_eq!(
        image.machine(),
        MachinePart {
            file_offset: 0x4010,
            file_size: 0x100,
            memory_size: 0x1000,
            entry: MACHINE_ADDRESS + 0x14,
        }
    );
    let devices = image.devices();
    assert_eq!(devices.len(), 2);
    assert_eq!(
        (
            devices[0].name.as_str(),
            devices[0].kind,
            devices[0].optional
        ),
        ("eth0", DeviceKind::Net, false)
    );
    assert_eq!(
        (
            devices[1].name.as_str(),
            devices[1].kind,
            devices[1].optional
        ),
        ("data", DeviceKind::Block, true)
    );
    assert_eq!(image.build_id().unwrap().to_string(), "ab".repeat(20));
}

#[test]
fn other_files_are_told_from_images() {
    assert_eq!(parse(b"").unwrap_err(), Fault::Empty);
    assert_eq!(parse(b"#!/bin/sh\n").unwrap_err(), Fault::Script);
    assert_eq!(parse(b"\x7fEL").unwrap_err(), Fault::NotElf);
    assert_eq!(parse(b"\x7fELF\x02\x01\x01").unwrap_err(), Fault::Truncated);
    assert_eq!(fault(|s| s.ident[4] = 1), Fault::OtherMachine);
    assert_eq!(fault(|s| s.ident[5] = 2), Fault::OtherMachine);
    assert_eq!(fault(|s| s.ident[6] = 0), Fault::OtherMachine);
    assert_eq!(fault(|s| s.machine = 183), Fault::OtherMachine);
    assert_eq!(fault(|s| s.kind = elf::TYPE_FIXED), Fault::LinuxProgram);
    assert_eq!(fault(|s| s.kind = 1), Fault::NotAProgram(1));
    assert_eq!(
        fault(|s| s.headers.push(header(elf::PT_INTERP, PF_R, 0, 1, 1))),
        Fault::LinuxProgram
    );
}

#[test]
fn headers_and_notes_are_near_the_start() {
    for offset in [HEAD as u64, 0x3ff0, u64::MAX, u64::MAX - 55] {
        assert_eq!(fault(|s| s.header_offset = offset), Fault::ScatteredHeaders);
    }
    assert_eq!(fault(|s| s.header_size = 55), Fault::Truncated);
    for offset in [HEAD as u64 - 3, u64::MAX] {
        let mut far = header(elf::PT_NOTE, PF_R, 0, 4, 4);
        far.offset = offset;
        assert_eq!(fault(|s| s.headers.push(far)), Fault::ScatteredHeaders);
    }
}

#[test]
fn there_is_exactly_one_abi_note_of_this_version() {
    assert_eq!(fault(|s| s.notes.clear()), Fault::NoAbiNote);
    assert_eq!(fault(|s| s.abi(ABI)), Fault::SeveralAbiNotes);
    let only = |abi: AbiNote| {
        let mut sample = Sample::without_notes();
        sample.abi(abi);
        parse(&sample.bytes()).unwrap_err()
    };
    assert_eq!(
        only(AbiNote { version: 7, ..ABI }),
        Fault::OtherAbi {
            found: 7,
            expected: VERSION
        }
    );
    assert_eq!(only(AbiNote { flags: 2, ..ABI }), Fault::BadAbiNote);
    for len in [0, 3, 4, 24, 31, 33] {
        let mut sample = Sample::without_notes();
        let mut payload = vec![0; len];
        payload[..len.min(4)].copy_from_slice(&VERSION.to_le_bytes()[..len.min(4)]);
        sample.note(b"Kiln\0", 1, &payload);
        assert_eq!(parse(&sample.bytes()).unwrap_err(), Fault::BadAbiNote);
    }
}

#[test]
fn an_image_of_a_later_abi_is_told_so_whatever_else_it_has() {
    let mut sample = Sample::without_notes();
    sample.note(b"Kiln\0", 99, b"not known yet");
    sample.note(b"Kiln\0", 1, &(VERSION + 1).to_le_bytes());
    assert_eq!(
        parse(&sample.bytes()).unwrap_err().to_string(),
        "built for Kiln ABI 3, this kiln speaks 2: rebuild the image or update kiln"
    );
}

#[test]
fn notes_are_well_formed() {
    assert_eq!(fault(|s| s.notes.extend([1, 2])), Fault::TruncatedNotes);
    assert_eq!(fault(|s| s.note(b"Kiln\0", 3, b"")), Fault::UnknownNote(3));
    assert_eq!(fault(|s| s.note(b"GNU\0", 3, &[1; 20])), Fault::BadBuildId);
    let mut sample = Sample::without_notes();
    sample.abi(ABI);
    sample.note(b"Xen\0", 18, &[0; 4]);
    let image = parse(&sample.bytes()).expect("notes of others are ignored");
    assert_eq!(image.build_id(), None);
    sample.note(b"GNU\0", 3, &[1; 65]);
    assert_eq!(parse(&sample.bytes()).unwrap_err(), Fault::BadBuildId);
}

#[test]
fn devices_are_known_named_and_unique() {
    let good = DeviceNote::new(DeviceKind::Net, "x", 0);
    let declared = |spoil: fn(&mut DeviceNote)| {
        let mut device = good;
        spoil(&mut device);
        fault(|s| s.device(device))
    };
    assert_eq!(
        declared(|d| d.kind = 77),
        Fault::UnknownDevice {
            name: "x".into(),
            kind: 77
        }
    );
    assert_eq!(
        declared(|d| d.flags = 2),
        Fault::UnknownDeviceFlags {
            name: "x".into(),
            flags: 2
        }
    );
    assert_eq!(
        declared(|d| d.name[0] = b'/'),
        Fault::BadDevice { index: 2 }
    );
    assert_eq!(
        fault(|s| s.note(b"Kiln\0", 2, &[0; 31])),
        Fault::BadDevice { index: 2 }
    );
    assert_eq!(
        fault(|s| s.device(DeviceNote::new(DeviceKind::Block, "eth0", 0))),
        Fault::DuplicateDevice("eth0".into())
    );
}

#[test]
fn as_many_devices_as_an_instance_can_have() {
    let mut sample = Sample::without_notes();
    sample.abi(ABI);
    for n in 0..MAX_DEVICES {
        sample.device(DeviceNote::new(DeviceKind::Net, &format!("n{n}"), 0));
    }
    assert_eq!(parse(&sample.bytes()).unwrap().devices().len(), MAX_DEVICES);
    sample.device(DeviceNote::new(DeviceKind::Net, "more", 0));
    assert_eq!(
        parse(&sample.bytes()).unwrap_err(),
        Fault::TooManyDevices {
            found: MAX_DEVICES + 1,
            most: MAX_DEVICES
        }
    );
}

#[test]
fn segments_lie_inside_the_file() {
    assert_eq!(fault(|s| s.size = 0x400f), Fault::OutsideFile(3));
    assert_eq!(
        fault(|s| s.headers[1].offset = !0xfff),
        Fault::OutsideFile(1)
    );
    assert_eq!(
        fault(|s| s.headers[3].file_size = 0x2346),
        Fault::LongerInFile(3)
    );
    assert_eq!(
        fault(|s| s.headers[1].memory_size += 1),
        Fault::ReadOnlyZeroes(1)
    );
    assert_eq!(
        fault(|s| s.headers.retain(|h| h.kind != elf::PT_LOAD)),
        Fault::NoSegments
    );
}

#[test]
fn segments_are_pages_in_order() {
    assert_eq!(fault(|s| s.headers[1].address += 8), Fault::Misaligned(1));
    assert_eq!(fault(|s| s.headers[1].offset += 8), Fault::Misaligned(1));
    for align in [0, 1, 2048, 4097, 12288, 4 << 20, u64::MAX] {
        assert_eq!(fault(|s| s.headers[2].align = align), Fault::Misaligned(2));
    }
    assert_eq!(fault(|s| s.headers.swap(1, 2)), Fault::Overlap(2));
    assert_eq!(fault(|s| s.headers[2].address = 0x2000), Fault::Overlap(2));
    assert_eq!(fault(|s| s.headers[3].address = 0x3000), Fault::Overlap(3));
    assert_eq!(
        fault(|s| s.headers[0].address = 0x8000),
        Fault::NotAtZero(0x8000)
    );
}

#[test]
fn memory_is_limited_and_sums_do_not_overflow() {
    assert_eq!(
        fault(|s| s.headers[3].memory_size = MAX_SPAN),
        Fault::TooLarge
    );
    assert_eq!(
        fault(|s| s.headers[3].memory_size = u64::MAX),
        Fault::TooLarge
    );
    assert_eq!(fault(|s| s.headers[3].address = !0xfff), Fault::TooLarge);
    let mut sample = Sample::good();
    sample.headers[3].memory_size = MAX_SPAN - 0x4000;
    sample.headers[3].align = 2 << 20;
    sample.headers[MACHINE].address = MAX_SPAN;
    let image = parse(&sample.bytes()).unwrap();
    assert_eq!(image.memory_size(), MAX_SPAN);
    assert_eq!(image.alignment(), 2 << 20);
}

#[test]
fn nothing_is_writable_and_executable() {
    assert_eq!(
        fault(|s| s.headers[1].flags |= PF_W),
        Fault::WritableCode(1)
    );
    assert_eq!(fault(|s| s.headers[1].flags = PF_X), Fault::Unreadable(1));
    assert_eq!(fault(|s| s.headers[2].flags = PF_W), Fault::Unreadable(2));
    assert_eq!(
        fault(|s| s.headers[5].flags |= PF_X),
        Fault::ExecutableStack
    );
    assert_eq!(
        fault(|s| s.headers.push(header(elf::PT_TLS, PF_R, 0x3000, 8, 8))),
        Fault::ThreadLocals
    );
}

#[test]
fn the_entry_point_is_code() {
    for entry in [0, 0x10, 0x2800, 0x3000, 0x4000, u64::MAX] {
        let mut sample = Sample::without_notes();
        sample.abi(AbiNote { entry, ..ABI });
        assert_eq!(
            parse(&sample.bytes()).unwrap_err(),
            Fault::BadEntry(entry),
            "{entry:#x}"
        );
    }
}

/// Which of the sample's headers is the machine part's.
const MACHINE: usize = 6;

#[test]
fn there_is_one_machine_part_behind_the_segments() {
    assert_eq!(fault(|s| s.headers.truncate(MACHINE)), Fault::NoMachinePart);
    assert_eq!(
        fault(|s| s.headers.push(s.headers[MACHINE])),
        Fault::NoMachinePart
    );
    assert_eq!(
        fault(|s| s.headers.push(load(PF_R, 0x8000, 0x10, 0x10))),
        Fault::NoMachinePart
    );
    assert_eq!(fault(|s| s.headers.swap(3, MACHINE)), Fault::NoMachinePart);
    assert_eq!(fault(|s| s.headers.swap(0, MACHINE)), Fault::NoSegments);
}

#[test]
fn the_machine_part_is_code_at_its_own_address_inside_the_file() {
    let machine = |spoil: fn(&mut elf::ProgramHeader)| fault(|s| spoil(&mut s.headers[MACHINE]));
    assert_eq!(machine(|h| h.flags |= PF_W), Fault::MachineAccess);
    assert_eq!(machine(|h| h.flags = PF_R), Fault::MachineAccess);
    assert_eq!(machine(|h| h.flags = PF_X), Fault::MachineAccess);
    for physical in [0, 0xff000, 0x10_1000, GUEST_ADDRESS - 1] {
        assert_eq!(
            fault(|s| s.headers[MACHINE].physical = physical),
            Fault::MachineAddress(physical)
        );
    }
    for size in [0x10_0001, u64::MAX] {
        assert_eq!(
            fault(|s| s.headers[MACHINE].memory_size = size),
            Fault::MachineAddress(MACHINE_ADDRESS)
        );
    }
    for address in [0, 0x6000, 0x6fff, MAX_SPAN + 1, u64::MAX] {
        assert_eq!(
            fault(|s| s.headers[MACHINE].address = address),
            Fault::MachineOverlap
        );
    }
    assert_eq!(fault(|s| s.size -= 1), Fault::MachineOutsideFile);
    for offset in [0x4011, u64::MAX] {
        assert_eq!(
            fault(|s| s.headers[MACHINE].offset = offset),
            Fault::MachineOutsideFile
        );
    }
    assert_eq!(
        machine(|h| h.memory_size = h.file_size - 1),
        Fault::MachineOutsideFile
    );
}

#[test]
fn other_monitors_enter_the_machine_part() {
    for entry in [0, 0x1010, 0xf_ffff, 0x10_0100, GUEST_ADDRESS, u64::MAX] {
        assert_eq!(fault(|s| s.entry = entry), Fault::MachineEntry(entry));
    }
}

#[test]
fn physical_addresses_follow_from_addresses() {
    for index in 0..4 {
        assert_eq!(
            fault(|s| s.headers[index].physical += 0x1000),
            Fault::NotPhysical(index)
        );
    }
}

#[test]
fn only_whole_writable_pages_are_sealed() {
    let relro = |address, size| header(elf::PT_GNU_RELRO, PF_R, address, size, size);
    for bad in [
        relro(0x3000, 0xfff),
        relro(0x3800, 0x800),
        relro(0x1000, 0x1000),
        relro(0x3000, 0x2000),
        relro(0x8000, 0x1000),
        relro(!0xfff, 0x1000),
        relro(0x3000, u64::MAX),
    ] {
        assert_eq!(fault(|s| s.headers[4] = bad), Fault::BadRelro);
    }
    assert_eq!(
        fault(|s| s.headers.push(relro(0x3000, 0x1000))),
        Fault::BadRelro
    );
}

#[test]
fn gaps_between_segments_are_allowed() {
    let mut sample = Sample::good();
    sample.headers[3] = load(PF_R | PF_W, 0x4000, 0x10, 0x10);
    sample.headers[3].address = 0x9000;
    sample.headers[3].physical += 0x5000;
    sample.headers[MACHINE].address = 0xa000;
    assert_eq!(parse(&sample.bytes()).unwrap().memory_size(), 0xa000);
}

#[test]
fn messages_name_the_file() {
    let folder = std::env::temp_dir();
    let error = Image::open(&folder).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{}: a folder, not an image: build the crate in it first",
            folder.display()
        )
    );
    let error = Image::open("/bin/sh").unwrap_err();
    assert_eq!(
        error.to_string(),
        "/bin/sh: a Linux program, not a Kiln image"
    );
    assert!(Image::open("/nowhere/x.kiln").is_err());

    let path = folder.join(format!("kiln-image-{}.kiln", std::process::id()));
    fs::write(&path, Sample::good().bytes()).unwrap();
    let image = Image::open(&path);
    fs::remove_file(&path).unwrap();
    assert_eq!(image.unwrap().entry(), 0x1010);
}

/// A sample with room for a root file system, composed.
fn composed(name: &str) -> Vec<u8> {
    let mut sample = Sample::good();
    for _ in 0..2 {
        sample.headers.push(header(0, 0, 0, 0, 0));
    }
    let path = std::env::temp_dir().join(format!("kiln-{name}-{}.kiln", std::process::id()));
    let mut config = crate::Config::new(["/bin/sh"]);
    config.args = vec!["-c".into(), "true".into()];
    crate::compose(&path, &sample.bytes(), &config, 0o600, |file| {
        std::io::Write::write_all(file, &[7; 8192])
    })
    .unwrap();
    let image = Image::open(&path).unwrap();
    assert_eq!(image.config().unwrap(), Some(config));
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    bytes
}

#[test]
fn a_root_file_system_is_appended() {
    let plain = Sample::good().bytes();
    assert_eq!(parse(&plain).unwrap().root(), None);
    let bytes = composed("appended");
    let root = parse(&bytes).unwrap().root().unwrap();
    assert_eq!((root.offset, root.len), (0x5000, 8192));
    assert_eq!(bytes.len(), 0x7000);
    assert_eq!(bytes[0x5000..], [7; 8192]);
    assert!(
        crate::compose(
            "/nowhere/x".as_ref(),
            &plain,
            &crate::Config::new(["/x"]),
            0o600,
            |_| Ok(())
        )
        .unwrap_err()
        .to_string()
        .contains("no room")
    );
}

#[test]
fn a_root_file_system_is_whole_pages_behind_what_is_loaded() {
    use super::{PT_CONFIG, PT_ROOT};
    let with = |kind, spoil: fn(&mut elf::ProgramHeader)| {
        let mut extra = header(kind, PF_R, 0, 0x1000, 0);
        (extra.offset, extra.physical) = (0x5000, 0);
        spoil(&mut extra);
        let mut sample = Sample::good();
        sample.size = 0x6000;
        sample.headers.push(extra);
        parse(&sample.bytes()).map(|_| ())
    };
    for (kind, fault) in [(PT_ROOT, Fault::BadRoot), (PT_CONFIG, Fault::BadConfig)] {
        assert_eq!(with(kind, |_| ()), Ok(()));
        for spoil in [
            (|h| h.offset = 0x6000) as fn(&mut elf::ProgramHeader),
            |h| h.offset = !0xfff,
            |h| h.offset = 0x4000,
            |h| h.offset = 0,
            |h| h.file_size = 0,
            |h| h.file_size = 0x2000,
            |h| h.file_size = !0xfff,
            |h| h.memory_size = 0x1000,
            |h| h.flags = PF_R | PF_W,
            |h| h.flags = PF_R | PF_X,
        ] {
            assert_eq!(with(kind, spoil), Err(fault.clone()));
        }
    }
    assert_eq!(with(PT_ROOT, |h| h.offset = 0x4f00), Err(Fault::BadRoot));
    assert_eq!(with(PT_ROOT, |h| h.file_size = 0xfff), Err(Fault::BadRoot));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done to an image: an answer, and what is accepted keeps the promises of `Layout`.
    #[test]
    fn mutated_images_are_answered(
        changes in prop::collection::vec((0usize..0x600, any::<u8>()), 0..6),
        words in prop::collection::vec(
            (0usize..64, prop::sample::select(vec![0, 1, 0xfff, 0x1000, !0xfff, u64::MAX, 1 << 63])),
            0..2,
        ),
        len in 0usize..0x6000,
    ) {
        let mut bytes = Sample::good().bytes();
        for (at, value) in changes {
            bytes[at] = value;
        }
        for (at, value) in words {
            bytes[at * 8..][..8].copy_from_slice(&value.to_le_bytes());
        }
        bytes.truncate(len.max(0x200));
        if let Ok(image) = parse(&bytes) {
            let mut end = 0;
            for segment in image.segments() {
                prop_assert!(segment.address >= end && segment.address % 4096 == 0);
                prop_assert!(segment.file_offset + segment.file_size <= bytes.len() as u64);
                prop_assert!(segment.file_size <= segment.memory_size);
                end = segment.page_end();
            }
            prop_assert_eq!(image.memory_size(), end);
            prop_assert!(end <= MAX_SPAN && image.entry() < end);
            let machine = image.machine();
            prop_assert!(machine.file_offset + machine.file_size <= bytes.len() as u64);
            prop_assert!(machine.memory_size <= GUEST_ADDRESS - MACHINE_ADDRESS);
        }
    }
}
