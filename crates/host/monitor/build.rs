//! Builds the gate, the sealed code of the `process` backend, as a flat blob: `$OUT_DIR/gate.bin`.
//!
//! It is compiled with the same compiler as everything else, but by itself: no standard library, its own linker
//! script, and a link that fails if any path of it could panic or would need relocation.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let here =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let crates = here.join("../..");
    let abi = crates.join("shared/abi/src");
    let gate = crates.join("guest/gate");
    for path in [
        &abi,
        &gate.join("src"),
        &gate.join("gate.ld"),
        &here.join("build.rs"),
    ] {
        println!("cargo:rerun-if-changed={}", path.display());
    }

    let library = |name: &str, source: &Path, dependencies: &[&str]| {
        rustc(&out, name, "rlib", source, dependencies, &[]);
    };
    library("kiln_abi", &abi.join("lib.rs"), &[]);
    library("kiln_gate", &gate.join("src/lib.rs"), &["kiln_abi"]);
    let script = format!("link-arg=-T{}", gate.join("gate.ld").display());
    let elf = out.join("gate.bin");
    rustc(
        &out,
        "blob",
        "bin",
        &gate.join("src/blob.rs"),
        &["kiln_abi", "kiln_gate"],
        &[
            "-Clinker=rust-lld",
            "-Clinker-flavor=ld.lld",
            "-Clto=fat",
            "-Clink-arg=-pie",
            "-Clink-arg=--no-dynamic-linker",
            "-Clink-arg=--gc-sections",
            "-Clink-arg=--oformat=binary",
            &format!("-C{script}"),
        ],
    );
    fs::rename(out.join("blob"), elf).expect("the blob was just linked");
}

fn rustc(out: &Path, name: &str, kind: &str, source: &Path, dependencies: &[&str], more: &[&str]) {
    let compiler = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let mut command = Command::new(compiler);
    command
        .args(["--edition=2024", "--target=x86_64-unknown-linux-gnu"])
        .args([
            "-Copt-level=2",
            "-Cpanic=abort",
            "-Ccodegen-units=1",
            "-Crelocation-model=pie",
        ])
        .args([
            "-Coverflow-checks=off",
            "-Cdebug-assertions=off",
            "-Cforce-frame-pointers=yes",
        ])
        .args([
            "--cap-lints=allow",
            "--crate-name",
            name,
            "--crate-type",
            kind,
        ])
        .arg("-L")
        .arg(out)
        .arg("--out-dir")
        .arg(out)
        .args(more);
    for dependency in dependencies {
        let path = out.join(format!("lib{dependency}.rlib"));
        command
            .arg("--extern")
            .arg(format!("{dependency}={}", path.display()));
    }
    let status = command.arg(source).status();
    let done = status.as_ref().is_ok_and(std::process::ExitStatus::success);
    assert!(done, "compiling {} failed: {status:?}", source.display());
}
