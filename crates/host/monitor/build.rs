//! Builds the gate, the sealed code of the `process` and `kvm` backends, as a flat blob: `$OUT_DIR/gate.bin`.
//!
//! It is placed at a random address, so it is position-independent and may need next to no relocation (`gate.ld`).

use std::env;
use std::path::PathBuf;

use kiln_blob::Compiler;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let here = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let crates = PathBuf::from(here).join("../..");
    let gate = crates.join("guest/gate");
    Compiler::new(&["-Copt-level=2", "-Crelocation-model=pie"])
        .library("kiln_abi", &crates.join("shared/abi"))
        .library("kiln_gate", &gate)
        .link(
            "gate.bin",
            &gate.join("src/blob.rs"),
            &gate.join("gate.ld"),
            &["-Clink-arg=-pie", "-Clink-arg=--no-dynamic-linker"],
        );
}
