//! Builds the Linux personality's image.
//!
//! Its target folder lies beside those of the profiles, so that checks, tests and releases share what was compiled.

use std::path::{Path, PathBuf};
use std::{env, fs};

use kiln_image::{Builder, Optimize, digest};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=KILN_PERSONALITY");
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let image = out.join("linux.kiln");
    let root = here.join("../../..");
    let package = root.join("crates/guest/personality");
    let wanted = env::var_os("KILN_PERSONALITY").is_none() && package.join("Cargo.toml").is_file();
    if wanted {
        for source in ["crates/guest", "crates/shared", "Cargo.lock"] {
            println!("cargo:rerun-if-changed={}", root.join(source).display());
        }
        let built = Builder::new(&package)
            .bin("linux")
            .optimize(Optimize::Speed)
            .for_programs(true)
            .target_dir(shared_folder(&out))
            .output(&image)
            .quiet(true)
            .build();
        if let Err(error) = built {
            panic!("building the Linux personality failed: {error}");
        }
    } else {
        fs::write(&image, []).expect("writing to OUT_DIR");
    }
    let digest = digest::of_file(&image)
        .expect("reading the image")
        .to_string();
    println!("cargo:rustc-env=KILN_PERSONALITY_DIGEST={}", &digest[..32]);
}

/// `OUT_DIR` is `<target>/<profile>/build/<package>/out`.
fn shared_folder(out: &Path) -> PathBuf {
    let build = out.ancestors().nth(2).filter(|dir| dir.ends_with("build"));
    match build.and_then(|dir| dir.ancestors().nth(2)) {
        Some(target) => target.join("personality"),
        None => out.join("target"),
    }
}
