//! Image files that are none, damaged ones, and hostile ones: each is refused with one line and docker's exit code, and
//! leaves nothing behind. Hostile images are made by changing a good one.

use std::fs;

use kiln_system_tests::elf::{Elf, Field, LOAD, NOTE};
use kiln_system_tests::{Outcome, Session, artifacts, guest};

const CANNOT_RUN: i32 = 126;
const NOT_FOUND: i32 = 127;

/// Which loadable segment is the machine part.
const MACHINE: usize = 4;

/// Tries to run a changed image; it must not get to its first instruction.
#[track_caller]
fn refused(image: &Elf) -> Outcome {
    let session = Session::new();
    let path = session.file("bad.kiln");
    image.write(&path);
    let outcome = session.kiln(["run".as_ref(), path.as_os_str()]);
    outcome
        .ends_with(CANNOT_RUN)
        .is_one_line_error()
        .tells("bad.kiln: ");
    assert_eq!(session.leftovers(), [""; 0], "left behind");
    outcome
}

fn good() -> Elf {
    Elf::read(&guest("probe"))
}

#[test]
fn the_good_image_runs() {
    let session = Session::new();
    let path = session.file("good.kiln");
    good().write(&path);
    session
        .kiln(
            [path.as_os_str()]
                .iter()
                .fold(vec!["run".as_ref()], |mut all, word| {
                    all.push(*word);
                    all
                }),
        )
        .succeeds();
}

#[test]
fn what_is_no_image_is_refused() {
    let session = Session::new();
    let file = |name: &str, content: &[u8]| {
        let path = session.file(name);
        fs::write(&path, content).expect("a file");
        path.display().to_string()
    };
    for (path, code, text) in [
        ("/does/not/exist".to_owned(), NOT_FOUND, "/does/not/exist"),
        (
            "/does/not/exist.kiln".to_owned(),
            NOT_FOUND,
            "/does/not/exist.kiln",
        ),
        ("/dev/null".to_owned(), CANNOT_RUN, "/dev/null"),
        ("/".to_owned(), CANNOT_RUN, "folder"),
        (session.dir().display().to_string(), CANNOT_RUN, "folder"),
        (file("empty.kiln", b""), CANNOT_RUN, "empty"),
        (
            file("script.kiln", b"#!/bin/sh\necho no\n"),
            CANNOT_RUN,
            "script",
        ),
        (
            file("text.kiln", b"just some text\n"),
            CANNOT_RUN,
            "not a Kiln image",
        ),
        (
            file("zeroes.kiln", &vec![0; 100_000]),
            CANNOT_RUN,
            "not a Kiln image",
        ),
        (file("short.kiln", b"\x7fELF"), CANNOT_RUN, "damaged"),
    ] {
        let outcome = session.kiln(["run", &path]);
        outcome.ends_with(code).is_one_line_error().tells(text);
    }
    assert_eq!(session.leftovers(), [""; 0], "left behind");
}

#[test]
fn an_unreadable_image_is_refused() {
    let session = Session::new();
    let path = session.file("secret.kiln");
    good().write(&path);
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o0))
        .expect("our file");
    if fs::File::open(&path).is_ok() {
        return kiln_system_tests::skip("root reads every file");
    }
    session
        .kiln(["run".as_ref(), path.as_os_str()])
        .ends_with(CANNOT_RUN)
        .is_one_line_error();
}

/// Every length that ends inside something: the headers byte by byte, around each segment's ends, and just short.
#[test]
fn truncated_images_are_refused() {
    let image = good();
    let len = image.0.len();
    let headers_end = image.headers_at() + image.header_count() * kiln_system_tests::elf::PHDR;
    let mut lengths: Vec<usize> = (1..headers_end + 200).step_by(7).collect();
    for n in 0..=MACHINE {
        let header = image.nth(LOAD, n);
        let offset =
            usize::try_from(image.get(header, Field::Offset)).expect("an offset in the file");
        let size = usize::try_from(image.get(header, Field::Filesz)).expect("a size in the file");
        for at in [offset, offset + 1, offset + size / 2, offset + size - 1] {
            lengths.extend([at].into_iter().filter(|&at| at > 0 && at < len));
        }
    }
    let last = image.nth(LOAD, MACHINE);
    let needed = usize::try_from(image.get(last, Field::Offset) + image.get(last, Field::Filesz))
        .expect("a length");
    lengths.retain(|&length| length < needed);
    for length in lengths {
        refused(&Elf(image.0[..length].to_vec()));
    }
}

#[test]
fn wrong_elf_headers_are_refused() {
    let image = good();
    for (at, bytes, text) in [
        (4, &[1u8][..], "processor"),
        (5, &[2], "processor"),
        (18, &[40, 0], "processor"),
        (16, &[2, 0], ""),
        (16, &[1, 0], "ELF type 1"),
        (54, &[0, 0], ""),
        (54, &[57, 0], ""),
        (56, &[0, 0], ""),
        (56, &[0xff, 0xff], ""),
        (32, &[0xff; 8], ""),
        (32, &[0, 0, 0, 0, 0, 0, 0, 0x80], ""),
    ] {
        refused(&image.clone().patched(at, bytes)).tells(text);
    }
}

#[test]
fn entry_points_outside_of_the_code_are_refused() {
    let image = good();
    let data = image.get(image.nth(LOAD, 3), Field::Vaddr);
    let note = Elf::payload(image.notes()[0]);
    for entry in [0, 0x100, data, 1 << 40, u64::MAX] {
        refused(&image.clone().patched(note + 24, &entry.to_le_bytes())).tells("entry point");
        refused(&image.clone().patched(24, &entry.to_le_bytes())).tells("machine's entry point");
    }
}

#[test]
fn images_without_a_sound_machine_part_are_refused() {
    let image = good();
    let machine = image.nth(LOAD, MACHINE);
    refused(&image.clone().with(machine, Field::Type, 0)).tells("machine part");
    refused(&image.clone().with(machine, Field::Flags, 7)).tells("machine part");
    for address in [0, 0xff000, 0x11_0000] {
        refused(&image.clone().with(machine, Field::Paddr, address)).tells("machine part");
    }
    for size in [1, 0x10_0001, u64::MAX] {
        refused(&image.clone().with(machine, Field::Memsz, size)).tells("machine part");
    }
    refused(&image.clone().with(machine, Field::Vaddr, 0x1000)).tells("machine part");
    refused(&image.clone().with(machine, Field::Offset, u64::MAX)).tells("machine part");
    let segment = image.nth(LOAD, 1);
    refused(&image.clone().with(segment, Field::Paddr, 0x40_0000)).tells("physical address");
}

#[test]
fn segments_that_are_writable_and_executable_are_refused() {
    let image = good();
    for n in 0..4 {
        let header = image.nth(LOAD, n);
        for flags in [7, 3] {
            refused(&image.clone().with(header, Field::Flags, flags))
                .tells("writable and executable");
        }
        for flags in [0, 1, 2] {
            refused(&image.clone().with(header, Field::Flags, flags));
        }
    }
}

#[test]
fn overlapping_and_unordered_segments_are_refused() {
    let image = good();
    let [first, second, third, last] = [0, 1, 2, 3].map(|n| image.nth(LOAD, n));
    let address = |n| image.get(n, Field::Vaddr);
    refused(&image.clone().with(second, Field::Vaddr, 0)).tells("overlap");
    refused(&image.clone().with(third, Field::Vaddr, address(second))).tells("overlap");
    refused(
        &image
            .clone()
            .with(last, Field::Vaddr, address(second) + 4096),
    )
    .tells("overlap");
    refused(
        &image.clone().with(third, Field::Vaddr, address(last)).with(
            last,
            Field::Vaddr,
            address(third),
        ),
    );
    refused(&image.clone().with(first, Field::Vaddr, 4096));
    let size = address(third) - address(second) + 4096;
    refused(
        &image
            .clone()
            .with(second, Field::Filesz, size)
            .with(second, Field::Memsz, size),
    )
    .tells("overlap");
}

#[test]
fn sizes_and_addresses_that_overflow_are_refused() {
    let image = good();
    for n in 0..4 {
        let header = image.nth(LOAD, n);
        for value in [1 << 63, u64::MAX, u64::MAX - 4095, !0 << 12] {
            for field in [Field::Memsz, Field::Filesz, Field::Offset, Field::Vaddr] {
                refused(&image.clone().with(header, field, value));
            }
            refused(&image.clone().with(header, Field::Filesz, value).with(
                header,
                Field::Memsz,
                value,
            ));
        }
    }
    // Sums that wrap round to something small.
    let last = image.nth(LOAD, 3);
    let address = image.get(last, Field::Vaddr);
    refused(
        &image
            .clone()
            .with(last, Field::Memsz, 0u64.wrapping_sub(address)),
    );
    refused(
        &image
            .clone()
            .with(last, Field::Memsz, 0u64.wrapping_sub(address) + 4096),
    );
    // Memory beyond any reason, though it does not overflow.
    refused(&image.clone().with(last, Field::Memsz, 1 << 45));
}

#[test]
fn misaligned_segments_are_refused() {
    let image = good();
    let header = image.nth(LOAD, 1);
    for (field, value) in [
        (Field::Vaddr, image.get(header, Field::Vaddr) + 8),
        (Field::Offset, image.get(header, Field::Offset) + 8),
        (Field::Align, 0),
        (Field::Align, 1),
        (Field::Align, 4095),
        (Field::Align, 1 << 50),
    ] {
        refused(&image.clone().with(header, field, value)).tells("aligned");
    }
}

#[test]
fn other_program_headers_are_looked_at_too() {
    const STACK: u32 = 0x6474_e551;
    const RELRO: u32 = 0x6474_e552;
    let image = good();
    refused(&image.clone().with(image.nth(STACK, 0), Field::Flags, 7)).tells("executable stack");
    let relro = image.nth(RELRO, 0);
    refused(&image.clone().with(relro, Field::Vaddr, 0)).tells("seal");
    refused(&image.clone().with(relro, Field::Memsz, u64::MAX)).tells("seal");
    // A thread-local segment where the stack's was.
    refused(&image.clone().with(image.nth(STACK, 0), Field::Type, 7)).tells("thread-local");
}

#[test]
fn another_abi_is_refused_and_says_what_to_do() {
    let image = good();
    let note = image.notes()[0];
    for version in [0u32, 1, 1000, u32::MAX] {
        let other = image
            .clone()
            .patched(Elf::payload(note), &version.to_le_bytes());
        refused(&other)
            .tells(&format!("ABI {version}"))
            .tells("rebuild the image or update kiln");
    }
    // Reserved flags.
    refused(&image.clone().patched(Elf::payload(note) + 4, &[2])).tells("ABI note");
}

#[test]
fn damaged_notes_are_refused() {
    let image = good();
    let note = image.notes()[0];
    refused(&image.clone().patched(note + 8, &99u32.to_le_bytes())).tells("no ABI note");
    refused(&image.clone().patched(note + 12, b"Kilm")).tells("no ABI note");
    refused(&image.clone().patched(note, &u32::MAX.to_le_bytes()));
    refused(&image.clone().patched(note + 4, &u32::MAX.to_le_bytes()));
    refused(&image.clone().patched(note + 4, &23u32.to_le_bytes()));
    let header = image.nth(NOTE, 0);
    refused(&image.clone().with(header, Field::Offset, u64::MAX));
    refused(&image.clone().with(header, Field::Filesz, u64::MAX));
    refused(&image.clone().with(header, Field::Filesz, 13));
    refused(&image.clone().with(header, Field::Type, 0)).tells("no ABI note");
}

#[test]
fn damaged_device_notes_are_refused() {
    let image = Elf::read(&guest("blockdev"));
    let notes = image.notes();
    assert_eq!(notes.len(), 3, "an ABI note and two disks");
    let abi = |note: usize| image.0[note + 8] == 1;
    let disks: Vec<usize> = notes.iter().copied().filter(|&note| !abi(note)).collect();
    let payload = Elf::payload(disks[0]);
    refused(&image.clone().patched(payload, &77u32.to_le_bytes())).tells("unknown kind 77");
    refused(&image.clone().patched(payload + 4, &0x80u32.to_le_bytes()))
        .tells("unknown flags 0x80");
    refused(&image.clone().patched(payload + 8, b"A/B\0")).tells("invalid name");
    refused(&image.clone().patched(payload + 8, &[b'a'; 24])).tells("invalid name");
    refused(&image.clone().patched(payload + 8, &[0; 24])).tells("invalid name");
    let mut name = [0; 24];
    name.copy_from_slice(&image.0[payload + 8..payload + 32]);
    refused(&image.clone().patched(Elf::payload(disks[1]) + 8, &name)).tells("declared twice");
    refused(&image.clone().patched(disks[0] + 8, &99u32.to_le_bytes()))
        .tells("unknown kind of Kiln note (99)");
    // A second ABI note in a device's place.
    refused(&image.clone().patched(disks[0] + 8, &1u32.to_le_bytes()));
}

#[test]
fn more_devices_than_possible_are_refused_when_built() {
    let error = artifacts::try_guest("disks64").expect_err("64 disks were accepted");
    assert!(
        error.contains("64 devices are declared, at most 63"),
        "{error}"
    );
}

/// Whatever single byte of the headers and notes is changed: refused, or a guest that ends somehow; never a crash of
/// the monitor, never something left behind.
#[test]
fn no_changed_byte_crashes_the_monitor() {
    let session = Session::new();
    let image = good();
    let path = session.file("changed.kiln");
    let end = image.headers_at() + image.header_count() * kiln_system_tests::elf::PHDR + 96;
    for (at, value) in (0..end)
        .step_by(5)
        .zip([0xff, 0x80, 0x01, 0x40].into_iter().cycle())
    {
        image
            .clone()
            .patched(at, &[image.0[at] ^ value])
            .write(&path);
        let outcome = session.kiln(
            ["run", "--rm", "--stop-timeout", "1"]
                .map(std::ffi::OsStr::new)
                .iter()
                .copied()
                .chain([path.as_os_str()]),
        );
        assert!(
            !outcome.stderr.contains("panicked at crates/host"),
            "byte {at}\n{outcome}"
        );
        assert!(outcome.code != 134, "byte {at}\n{outcome}");
    }
    assert_eq!(session.leftovers(), [""; 0], "left behind");
}

#[test]
fn an_image_replaced_while_its_guest_runs_does_not_harm_it() {
    let session = Session::new();
    let path = session.file("live.kiln");
    good().write(&path);
    let mut running = session.start(
        [path.as_os_str(), "ticking".as_ref(), "20".as_ref()]
            .iter()
            .fold(
                vec!["run".as_ref(), "--rm".as_ref()],
                |mut all: Vec<&std::ffi::OsStr>, word| {
                    all.push(word);
                    all
                },
            ),
    );
    running.wait_for("tick 2\n");
    let other = session.file("other.kiln");
    fs::write(&other, b"something else").expect("a file");
    fs::rename(&other, &path).expect("replaced");
    running.wait_for("tick 20\n");
}
