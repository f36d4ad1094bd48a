//! The bytes of a file, opened as an image.
//!
//! Any bytes get an answer, and an image that is accepted keeps what `Layout` promises to monitors: they map it
//! without another check.
#![no_main]

use kiln_image::image::{GUEST_ADDRESS, HEAD, MACHINE_ADDRESS, MAX_ALIGNMENT, MAX_SPAN};
use kiln_image::{Access, Image};
use libfuzzer_sys::{Corpus, fuzz_target};

const PAGE: u64 = kiln_abi::PAGE_SIZE;

fuzz_target!(|bytes: &[u8]| -> Corpus {
    // The file's size comes first, so that small inputs can stand for large files.
    let Some((size, head)) = bytes.split_first_chunk() else {
        return Corpus::Reject;
    };
    let size = u64::from(u32::from_le_bytes(*size)).max(head.len() as u64);
    let head = &head[..head.len().min(HEAD)];
    let image = match Image::parse(head, size) {
        Ok(image) => image,
        Err(fault) => {
            assert!(!fault.to_string().contains('\n'));
            return Corpus::Keep;
        }
    };

    let mut end = 0;
    for segment in image.segments() {
        assert!(segment.address >= end && segment.address % PAGE == 0);
        assert!(segment.file_offset % PAGE == 0);
        assert!(segment.file_offset + segment.file_size <= size);
        assert!(segment.file_size <= segment.memory_size);
        assert!(segment.file_size == segment.memory_size || segment.access == Access::ReadWrite);
        end = segment.page_end();
    }
    assert_eq!(image.memory_size(), end);
    assert!(end <= MAX_SPAN);
    assert!(image.alignment().is_power_of_two());
    assert!((PAGE..=MAX_ALIGNMENT).contains(&image.alignment()));
    assert!(image.segments().iter().any(|segment| {
        segment.access == Access::ReadExecute
            && (segment.address..segment.address + segment.file_size).contains(&image.entry())
    }));
    if let Some(relro) = image.relro() {
        assert!(relro.start % PAGE == 0 && relro.end % PAGE == 0);
        assert!(
            image
                .segments()
                .iter()
                .any(|segment| { segment.access == Access::ReadWrite && segment.holds(&relro) })
        );
    }
    let machine = image.machine();
    assert!(machine.file_offset + machine.file_size <= size);
    assert!(machine.file_size <= machine.memory_size);
    assert!(machine.memory_size <= GUEST_ADDRESS - MACHINE_ADDRESS);
    assert!((MACHINE_ADDRESS..MACHINE_ADDRESS + machine.file_size).contains(&machine.entry));
    assert_eq!(image.abi().version, kiln_abi::VERSION);
    assert!(image.devices().len() <= kiln_abi::MAX_DEVICES);
    for (index, device) in image.devices().iter().enumerate() {
        assert!(kiln_abi::note::valid_name(device.name.as_bytes()));
        let before = &image.devices()[..index];
        assert!(before.iter().all(|other| other.name != device.name));
    }
    Corpus::Keep
});
