//! Disks that start the image through GRUB, by BIOS and by UEFI.
//!
//! GRUB's images are made of its own modules: with them it finds the disk it came from by a file that only this image
//! has, and reads `boot/grub/grub.cfg` there, which anybody can edit.

use std::path::{Path, PathBuf};

use kiln_monitor::Error;

use super::machine::Machine;
use super::tools::{Tool, Workshop, epoch};
use super::{gpt, multiboot};
use crate::exit::Failure;

const MKIMAGE: Tool = Tool {
    program: "grub-mkimage",
    package: "grub-common",
};
const XORRISO: Tool = Tool {
    program: "xorriso",
    package: "xorriso",
};
const QEMU_IMG: Tool = Tool {
    program: "qemu-img",
    package: "qemu-utils",
};
const MFORMAT: Tool = Tool {
    program: "mformat",
    package: "mtools",
};
const MMD: Tool = Tool {
    program: "mmd",
    package: "mtools",
};
const MCOPY: Tool = Tool {
    program: "mcopy",
    package: "mtools",
};

/// What GRUB needs to find and start an image.
const MODULES: &str = "boot fat iso9660 multiboot2 normal part_gpt part_msdos search_fs_file";

/// The least size of a FAT32 file system with the smallest clusters, and some: firmware expects that kind.
const LEAST_FILES: u64 = 34 << 20;

/// One of the computers that GRUB runs on.
struct Platform {
    /// GRUB's name for it.
    name: &'static str,
    /// The folder of its modules.
    folder: &'static str,
    /// The package of Debian that has them.
    package: &'static str,
    /// A file that must be there.
    proof: &'static str,
    /// What it needs besides.
    modules: &'static str,
}

const BIOS: Platform = Platform {
    name: "i386-pc",
    folder: "/usr/lib/grub/i386-pc",
    package: "grub-pc-bin",
    proof: "boot.img",
    modules: "biosdisk",
};
const BIOS_CD: Platform = Platform {
    name: "i386-pc-eltorito",
    proof: "boot_hybrid.img",
    ..BIOS
};
const UEFI: Platform = Platform {
    name: "x86_64-efi",
    folder: "/usr/lib/grub/x86_64-efi",
    package: "grub-efi-amd64-bin",
    proof: "moddep.lst",
    modules: "",
};

/// Files that both kinds of disk have.
struct Parts {
    /// Name of the kernel in the folder `boot`.
    kernel: String,
    /// `boot/grub/grub.cfg`.
    config: String,
}

/// A disk image.
///
/// # Errors
/// A missing or failing program.
pub fn raw(shop: &Workshop, machine: &Machine) -> Result<PathBuf, Failure> {
    let parts = parts(shop, machine)?;
    let boot = installed(&BIOS, "boot.img")?;
    mkimage(shop, &BIOS, "core.img")?;
    mkimage(shop, &UEFI, "bootx64.efi")?;
    let size = (machine.image.len() as u64 * 2 + (8 << 20)).max(LEAST_FILES);
    let sectors = (size / gpt::SECTOR).to_string();
    let hidden = gpt::FILES.to_string();
    fat(
        shop,
        "files.img",
        &[
            "-F", "-c", "1", "-T", &sectors, "-H", &hidden, "-h", "64", "-s", "32",
        ],
        machine,
    )?;
    let kernel = format!("boot/{}", parts.kernel);
    for folder in ["EFI", "EFI/BOOT", "boot", "boot/grub"] {
        shop.run(MMD, &["-i", "files.img", &format!("::{folder}")])?;
    }
    for (file, name) in [
        ("bootx64.efi", "EFI/BOOT/BOOTX64.EFI"),
        (&parts.config, "boot/grub/grub.cfg"),
        (&kernel, &kernel),
    ] {
        shop.run(MCOPY, &["-i", "files.img", file, &format!("::{name}")])?;
    }
    let disk = gpt::disk(
        &boot,
        &shop.read("core.img")?,
        &shop.read("files.img")?,
        &machine.digest().0,
    );
    let disk = disk.ok_or_else(|| Failure::new("GRUB's files are not those of version 2"))?;
    shop.write_sparse("disk.img", &disk)
}

/// The disk in QEMU's format.
///
/// # Errors
/// A missing or failing program.
pub fn qcow2(shop: &Workshop, machine: &Machine) -> Result<PathBuf, Failure> {
    convert(shop, machine, "qcow2", "compat=1.1,lazy_refcounts=off")
}

/// The disk in another format of `qemu-img`.
///
/// # Errors
/// A missing or failing program.
pub fn convert(
    shop: &Workshop,
    machine: &Machine,
    format: &str,
    options: &str,
) -> Result<PathBuf, Failure> {
    raw(shop, machine)?;
    let name = format!("disk.{format}");
    shop.run(
        QEMU_IMG,
        &[
            "convert", "-f", "raw", "-O", format, "-o", options, "disk.img", &name,
        ],
    )?;
    Ok(shop.path(name))
}

/// A CD image that is a disk image as well.
///
/// # Errors
/// A missing or failing program.
pub fn iso(shop: &Workshop, machine: &Machine) -> Result<PathBuf, Failure> {
    let parts = parts(shop, machine)?;
    let hybrid = Path::new(BIOS_CD.folder).join(BIOS_CD.proof);
    mkimage(shop, &BIOS_CD, "boot/bios.img")?;
    mkimage(shop, &UEFI, "bootx64.efi")?;
    fat(shop, "boot/efi.img", &["-f", "2880"], machine)?;
    for folder in ["EFI", "EFI/BOOT"] {
        shop.run(MMD, &["-i", "boot/efi.img", &format!("::{folder}")])?;
    }
    shop.run(
        MCOPY,
        &[
            "-i",
            "boot/efi.img",
            "bootx64.efi",
            "::EFI/BOOT/BOOTX64.EFI",
        ],
    )?;
    let config = format!("boot/grub/grub.cfg={}", parts.config);
    let mbr = format!("--grub2-mbr={}", hybrid.display());
    let mut arguments = vec!["-as", "mkisofs", "-o", "disk.iso", "-R", "-V", "KILN"];
    arguments.extend([
        "-b",
        "boot/bios.img",
        "-no-emul-boot",
        "-boot-load-size",
        "4",
    ]);
    arguments.extend([
        "-boot-info-table",
        "--grub2-boot-info",
        "--protective-msdos-label",
    ]);
    // The option takes its value as a word of its own.
    arguments.extend(mbr.split('='));
    arguments.extend([
        "--efi-boot",
        "boot/efi.img",
        "-efi-boot-part",
        "--efi-boot-image",
    ]);
    let date = format!("={}", epoch());
    arguments.extend(["--set_all_file_dates", &date]);
    let kernel = format!("boot/{0}=boot/{0}", parts.kernel);
    arguments.extend(["-graft-points", &config, &kernel]);
    arguments.extend(["boot/bios.img=boot/bios.img", "boot/efi.img=boot/efi.img"]);
    shop.run(XORRISO, &arguments)?;
    Ok(shop.path("disk.iso"))
}

/// Writes kernel and configuration, and what GRUB's images begin with.
fn parts(shop: &Workshop, machine: &Machine) -> Result<Parts, Failure> {
    let digest = machine.digest().to_string();
    let kernel = format!("kiln-{}.elf", &digest[..16]);
    let file = multiboot::wrap(&machine.image, &machine.layout)?;
    shop.write(format!("boot/{kernel}"), file)?;
    shop.write(
        "early.cfg",
        format!("search.file /boot/{kernel} root\nset prefix=($root)/boot/grub\n"),
    )?;
    shop.write("grub.cfg", config(&kernel, &machine.words))?;
    Ok(Parts {
        kernel,
        config: "grub.cfg".to_owned(),
    })
}

fn config(kernel: &str, words: &[String]) -> String {
    format!(
        "multiboot2 /boot/{kernel} \\\n    {}\nboot\n",
        words.join(" \\\n    ")
    )
}

/// Makes GRUB's image for a platform.
fn mkimage(shop: &Workshop, platform: &Platform, output: &str) -> Result<(), Failure> {
    installed(platform, platform.proof)?;
    let mut arguments = vec!["-O", platform.name, "-d", platform.folder, "-o", output];
    arguments.extend(["-c", "early.cfg", "-p", "/boot/grub"]);
    arguments.extend(platform.modules.split_whitespace());
    arguments.extend(MODULES.split_whitespace());
    shop.run(MKIMAGE, &arguments)
}

/// A file of GRUB's.
fn installed(platform: &Platform, file: &str) -> Result<Vec<u8>, Failure> {
    let path = Path::new(platform.folder).join(file);
    std::fs::read(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::new(format!(
            "{} is not there: install the package {}",
            path.display(),
            platform.package
        )),
        _ => Error::file("read", &path, error).into(),
    })
}

/// Makes a FAT file system.
fn fat(shop: &Workshop, name: &str, size: &[&str], machine: &Machine) -> Result<(), Failure> {
    let digest = machine.digest().to_string();
    let serial = &digest[16..24];
    let mut arguments = vec!["-C", "-i", name, "-v", "KILN", "-N", serial];
    arguments.extend(size);
    arguments.push("::");
    shop.run(MFORMAT, &arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_a_word_a_line() {
        let words = ["kiln.name=x".to_owned(), "kiln.arg=a%20b".to_owned()];
        assert_eq!(
            config("kiln-1.elf", &words),
            "multiboot2 /boot/kiln-1.elf \\\n    kiln.name=x \\\n    kiln.arg=a%20b\nboot\n"
        );
    }
}
