//! Builds a real guest with the real toolchain and looks at what comes out.
//!
//! Each test has a workspace of its own in a temporary folder: the ABI crate and a small program, without dependencies
//! from elsewhere, so nothing is fetched.

use std::fs;
use std::path::{Path, PathBuf};

use kiln_image::build::finish;
use kiln_image::{Access, BuildError, Builder, Built, Image, Symbols, digest};
use object::{Object, ObjectSection, ObjectSymbol};

const WORKSPACE: &str = r#"
[workspace]
resolver = "3"
members = ["abi", "guest"]
[workspace.package]
version = "0.1.0"
edition = "2024"
rust-version = "1.93"
license = "MIT OR Apache-2.0"
repository = "https://example.org"
[workspace.lints.rust]
unexpected_cfgs = { level = "warn", check-cfg = ["cfg(kiln_guest)"] }
"#;

const GUEST: &str = r#"
[package]
name = "guest"
version = "0.1.0"
edition = "2024"
[dependencies]
kiln-abi = { path = "../abi" }
"#;

/// A workspace with the fixture, in a fresh folder.
fn workspace(name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&root);
    copy(&here.join("../../shared/abi"), &root.join("abi"));
    fs::create_dir_all(root.join("guest/src")).unwrap();
    fs::write(root.join("Cargo.toml"), WORKSPACE).unwrap();
    fs::write(root.join("guest/Cargo.toml"), GUEST).unwrap();
    fs::copy(
        here.join("tests/fixture/guest.rs"),
        root.join("guest/src/main.rs"),
    )
    .unwrap();
    root
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn builder(root: &Path) -> Builder {
    Builder::new(root.join("guest"))
        .target_dir(root.join("target"))
        .offline(true)
        .quiet(true)
}

fn build(root: &Path) -> Built {
    builder(root)
        .build()
        .unwrap_or_else(|error| panic!("{error}"))
}

fn address_of(file: &Path, symbol: &str) -> u64 {
    let bytes = fs::read(file).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    file.symbol_by_name(symbol).unwrap().address()
}

#[test]
fn a_guest_becomes_an_image() {
    let root = workspace("image");
    let built = build(&root);
    assert_eq!(built.name, "guest");
    assert_eq!(
        built.image,
        fs::canonicalize(root.join("target/kiln/guest.kiln")).unwrap()
    );

    let image = Image::open(&built.image).unwrap();
    let guest = built.size - image.machine().file_size;
    assert!(guest < 24 * 1024, "{guest} bytes");
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
    let mut end = 0;
    for segment in image.segments() {
        assert_eq!(segment.address, end, "a gap");
        assert_eq!(segment.file_offset, segment.address);
        end = segment.page_end();
    }
    let sealed = &image.segments()[2];
    assert_eq!(image.relro(), Some(sealed.address..sealed.page_end()));
    assert_eq!(image.abi().stack_size, 0x20000);
    assert_eq!(image.devices().len(), 1);
    assert_eq!(image.devices()[0].name, "eth0");
    assert_eq!(image.build_id().unwrap().as_bytes().len(), 20);
    assert_eq!(image.alignment(), 4096);

    let debug = &built.debug;
    assert_eq!(address_of(debug, "_kiln_start"), image.entry());
    assert_eq!(address_of(debug, "__kiln_image_start"), 0);
    assert_eq!(address_of(debug, "__kiln_image_end"), image.memory_size());
    assert_eq!(address_of(debug, "__kiln_relro_start"), sealed.address);
    assert_eq!(address_of(debug, "__kiln_relro_end"), sealed.page_end());
    let relr = address_of(debug, "__kiln_relr_start")..address_of(debug, "__kiln_relr_end");
    assert!(relr.end > relr.start && (relr.end - relr.start) % 8 == 0);
    assert_eq!(
        address_of(debug, "__kiln_rela_start"),
        address_of(debug, "__kiln_rela_end"),
        "all relocations are in the packed table"
    );
}

#[test]
fn an_image_holds_little_but_its_segments() {
    let root = workspace("little");
    let built = build(&root);
    let bytes = fs::read(&built.image).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    assert!(file.section_by_name(".debug_info").is_none());
    assert!(file.section_by_name(".eh_frame").is_none());
    assert!(file.section_by_name(".interp").is_none());
    assert_eq!(
        file.gnu_debuglink().unwrap().unwrap().0,
        b"guest.debug".as_slice()
    );
    assert!(file.section_by_name(".symtab").is_none());
    let names = file.section_by_name(".kiln.symbols").unwrap();
    assert!((1..1000).contains(&names.size()), "{}", names.size());
    // The holes between segments hold what nobody loads.
    let image = Image::open(&built.image).unwrap();
    let machine = image.machine();
    let loaded = image
        .segments()
        .iter()
        .map(|segment| segment.file_offset + segment.file_size)
        .chain([machine.file_offset + machine.file_size])
        .max();
    assert_eq!(loaded, Some(built.size));
}

#[test]
fn the_same_source_gives_the_same_bytes_anywhere() {
    let here = build(&workspace("same/one"));
    let there = build(&workspace("same/another/folder, with spaces"));
    assert_eq!(
        fs::read(&here.debug).unwrap(),
        fs::read(&there.debug).unwrap(),
        "debug files differ"
    );
    assert_eq!(
        digest::of_file(&here.image).unwrap(),
        digest::of_file(&there.image).unwrap(),
        "images differ"
    );
    let bytes = fs::read(&here.debug).unwrap();
    for private in [env!("CARGO_MANIFEST_DIR"), env!("CARGO_TARGET_TMPDIR")] {
        assert!(
            !bytes
                .windows(private.len())
                .any(|w| w == private.as_bytes()),
            "the debug file names {private}"
        );
    }
}

#[test]
fn addresses_get_names_and_lines() {
    let root = workspace("symbols");
    let built = build(&root);
    let mark = address_of(&built.debug, "test_mark");
    let source = fs::read_to_string(root.join("guest/src/main.rs")).unwrap();
    let line_of = |text: &str| {
        let at = source.lines().position(|line| line.contains(text));
        Some(at.unwrap() as u32 + 1)
    };

    let image = Image::open(&built.image).unwrap();
    let symbols = Symbols::open(&image, &[]);
    assert_eq!(symbols.debug_file(), Some(built.debug.as_path()));
    let frames = symbols.frames(mark);
    let names: Vec<_> = frames.iter().map(|f| f.function.as_deref()).collect();
    assert_eq!(names, [Some("guest::inner"), Some("guest::outer")]);
    assert!(frames[0].inlined && !frames[1].inlined);
    assert!(
        frames[0]
            .file
            .as_deref()
            .unwrap()
            .ends_with("guest/src/main.rs")
    );
    assert_eq!(frames[0].line, line_of("test_mark:"));
    assert_eq!(frames[1].line, line_of("inner(x) ^ 1"));
    assert!(symbols.frames(image.memory_size() + 4096).is_empty());
    assert!(symbols.frames(u64::MAX).is_empty());

    // The image alone.
    let away = root.join("away");
    fs::create_dir_all(&away).unwrap();
    let moved = away.join("renamed.kiln");
    fs::copy(&built.image, &moved).unwrap();
    let image = Image::open(&moved).unwrap();
    let symbols = Symbols::open(&image, &[]);
    assert_eq!(symbols.debug_file(), None);
    let frames = symbols.frames(mark);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].to_string(), "guest::outer");
    assert!(!frames[0].inlined);

    // The debug file under another name in a folder, found by its build id.
    let folder = built.debug.parent().unwrap();
    let symbols = Symbols::open(&image, &[folder]);
    assert_eq!(symbols.debug_file(), Some(built.debug.as_path()));

    // Another build's debug file beside the image does not count.
    let mut other = fs::read(&built.debug).unwrap();
    let id = image.build_id().unwrap().as_bytes();
    let at = other.windows(id.len()).position(|w| w == id).unwrap();
    other[at] ^= 1;
    fs::write(away.join("renamed.debug"), other).unwrap();
    assert_eq!(Symbols::open(&image, &[]).debug_file(), None);
}

#[test]
fn damaged_debug_files_do_no_harm() {
    let root = workspace("damaged");
    let built = build(&root);
    let mark = address_of(&built.debug, "test_mark");
    let good = fs::read(&built.debug).unwrap();
    let mut state = 1u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    for round in 0..300 {
        let mut bytes = good.clone();
        for _ in 0..=random() % 8 {
            let at = random() % bytes.len();
            bytes[at] = random() as u8;
        }
        if round % 10 == 0 {
            bytes.truncate(random() % good.len());
        }
        let symbols = Symbols::from_debug_file(&bytes);
        for address in [0, mark, mark + 1, 0x1000, u64::MAX] {
            assert!(symbols.frames(address).len() <= 65);
        }
    }
}

#[test]
fn failures_say_what_to_do() {
    let root = workspace("failures");
    let manifest = root.join("guest/Cargo.toml");
    let failure = |builder: Builder| builder.build().expect_err("it was built").to_string();

    let message = failure(Builder::new(root.join("nowhere")));
    assert!(message.ends_with("no Cargo.toml there: name the folder of a Rust crate"));
    // A workspace stands for its only program.
    let built = Builder::new(&root).build().expect("one program");
    assert_eq!(built.name, "guest");
    let message = failure(Builder::new(root.join("abi")));
    assert!(message.ends_with("no program in this package: add src/main.rs"));
    let message = failure(builder(&root).bin("other"));
    assert_eq!(
        message,
        "package guest has no program other: choose one of guest"
    );

    fs::create_dir_all(root.join("guest/src/bin")).unwrap();
    fs::write(root.join("guest/src/bin/second.rs"), "fn main() {}").unwrap();
    let message = failure(builder(&root));
    assert_eq!(
        message,
        "package guest has several programs: choose one with --bin (guest, second)"
    );

    let strange = "#![no_std]\n#![no_main]\n#[panic_handler]\nfn p(_: &core::panic::PanicInfo) -> ! { loop {} }\n";
    fs::write(root.join("guest/src/bin/second.rs"), strange).unwrap();
    let message = failure(builder(&root).bin("second"));
    assert!(
        message.contains("not a Kiln program: add `kiln`"),
        "{message}"
    );

    fs::write(
        root.join("guest/src/bin/second.rs"),
        "fn main() { nonsense }",
    )
    .unwrap();
    let error = builder(&root).bin("second").build().unwrap_err();
    assert!(matches!(
        error,
        BuildError::Compile {
            uses_kiln: false,
            ..
        }
    ));
    assert!(error.to_string().contains("nonsense"), "{error}");

    fs::write(&manifest, "not toml").unwrap();
    assert!(matches!(
        builder(&root).build(),
        Err(BuildError::Manifest { .. })
    ));
    let linked = finish(Path::new("/bin/sh"), &root.join("x.kiln"));
    assert!(linked.is_err());
}
