//! Builds the machine part, which every image carries, as flat blobs in `$OUT_DIR`: one for each set of devices that an
//! image can declare.
//!
//! They are linked for the fixed physical address that `docs/machine.md` gives them, and packed.

use std::path::{Path, PathBuf};
use std::{env, fs};

use kiln_blob::{Compiler, pack};

/// Physical address of the machine part, and where in its header stand: the address behind the last byte of the file part,
/// the address at which the packed bytes begin, and the one for which they were linked.
const ADDRESS: usize = 0x10_0000;
const FILE_END: usize = 3;
const PACKED: usize = 5;
const CODE: usize = 6;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let here = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let crates = PathBuf::from(here).join("../..");
    let machine = crates.join("guest/machine");
    // Without devices no operation takes long enough for speed to count.
    for (name, features, optimise) in [
        ("machine.bin", &[] as &[_], "-Copt-level=z"),
        ("machine-net.bin", &["virtio", "net"], "-Copt-level=s"),
        ("machine-block.bin", &["virtio", "block"], "-Copt-level=s"),
        (
            "machine-net-block.bin",
            &["virtio", "net", "block"],
            "-Copt-level=s",
        ),
        (
            "machine-program.bin",
            &["virtio", "net", "program"],
            "-Copt-level=3",
        ),
    ] {
        Compiler::new(&[optimise, "-Crelocation-model=static"])
            .features(features)
            .library("kiln_abi", &crates.join("shared/abi"))
            .library("kiln_virtio", &crates.join("guest/virtio"))
            .library("kiln_machine", &machine)
            .link(
                name,
                &machine.join("src/blob.rs"),
                &machine.join("machine.ld"),
                &[],
            );
        pack_file(&out.join(name));
    }
}

/// Packs what is at a distance from the entry, and puts it right behind.
fn pack_file(file: &Path) {
    let mut blob = fs::read(file).expect("reading the blob");
    let word = |index: usize| {
        let bytes = blob[index * 4..].first_chunk().expect("a header");
        u32::from_le_bytes(*bytes) as usize
    };
    let (packed, code) = (word(PACKED) - ADDRESS, word(CODE) - ADDRESS);
    let bytes = pack(&blob[code..], (ADDRESS + code) as u32);
    assert!(packed + bytes.len() <= code, "no room for the packed bytes");
    blob.truncate(packed);
    blob.extend(bytes);
    let end = (ADDRESS + blob.len()) as u32;
    blob[FILE_END * 4..][..4].copy_from_slice(&end.to_le_bytes());
    fs::write(file, blob).expect("writing the blob");
}
