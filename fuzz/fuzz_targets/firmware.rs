//! What a machine tells its guest: a boot loader's or monitor's record, ACPI tables, a command line; and an image's headers.
//!
//! The input is physical memory from 0 on, mirrored at the places where firmware puts things. Any bytes get an answer in
//! bounded time, and what is found lies where it was said to be.
#![no_main]

use kiln_machine::physical::Physical;
use kiln_machine::{acpi, cmdline, firmware, image};
use libfuzzer_sys::fuzz_target;

/// Memory of which only the first bytes are known; every 64 KiB they come again.
struct Mirrored<'a>(&'a [u8]);

impl Physical for Mirrored<'_> {
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
        let start = (address % 0x1_0000) as usize;
        self.0.get(start..start.checked_add(len)?)
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&[which, rest], bytes)) = bytes.split_first_chunk() else {
        return;
    };
    let memory = Mirrored(bytes);
    match which % 4 {
        0 => {
            let magic = if rest & 1 == 0 { 0x36d7_6289 } else { 0 };
            let mut found = firmware::Firmware::EMPTY;
            if found.read(&memory, magic, 0).is_ok() {
                for word in cmdline::words(found.command_line()) {
                    let _ = word;
                }
                for region in found.regions() {
                    assert!(region.start <= region.end);
                }
            }
        }
        1 => {
            let mut found = acpi::Acpi::EMPTY;
            acpi::read(&mut found, &memory, u64::from(rest & 1) * 0xe_0000);
            let _ = (found.controllers(), found.devices());
        }
        2 => {
            for word in cmdline::words(bytes) {
                if let cmdline::Word::Argument(value) | cmdline::Word::Variable(value) = word {
                    assert!(cmdline::decode(value).count() <= value.len());
                }
            }
        }
        _ => {
            if let Ok(found) = image::Image::parse(bytes) {
                for segment in found.loaded() {
                    assert!(segment.start <= segment.end && segment.end <= found.size());
                    assert!(!(segment.writable && segment.executable));
                }
            }
        }
    }
});
