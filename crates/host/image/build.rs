//! Builds the machine part, which every image carries, as a flat blob: `$OUT_DIR/machine.bin`.
//!
//! It is linked for the fixed physical address that `docs/machine.md` gives it.

use std::env;
use std::path::PathBuf;

use kiln_blob::Compiler;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let here = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let crates = PathBuf::from(here).join("../..");
    let machine = crates.join("guest/machine");
    Compiler::new(&["-Copt-level=s", "-Crelocation-model=static"])
        .library("kiln_abi", &crates.join("shared/abi"))
        .library("kiln_virtio", &crates.join("guest/virtio"))
        .library("kiln_machine", &machine)
        .link(
            "machine.bin",
            &machine.join("src/blob.rs"),
            &machine.join("machine.ld"),
            &[],
        );
}
