//! `kiln export`: what it writes is started as its receivers would start it. Disks boot under QEMU (translated), by BIOS
//! and by UEFI; folders are started by their own scripts.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kiln_system_tests::host::{find_program, free_port};
use kiln_system_tests::{Outcome, Running, Session, guest, skip};
use rustix::process::Signal;

const KILN_ERROR: i32 = 125;
const QEMU: &str = "qemu-system-x86_64";

/// Firmware and a boot loader, translated instruction by instruction on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// How a computer starts from a disk.
#[derive(Clone, Copy, Debug)]
enum Firmware {
    Bios,
    Uefi,
}

/// Whether all of this is installed; says what is not.
fn are_here(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|p| find_program(&[p]).is_none());
    if let Some(missing) = missing {
        skip(format_args!("{missing} is not installed"));
    }
    missing.is_none()
}

/// Whether disks can be made and started here.
fn has_grub() -> bool {
    let folders = ["/usr/lib/grub/i386-pc", "/usr/lib/grub/x86_64-efi"];
    if let Some(missing) = folders.iter().find(|folder| !Path::new(folder).is_dir()) {
        skip(format_args!("{missing} is not installed"));
        return false;
    }
    are_here(&[QEMU, "grub-mkimage", "mformat", "xorriso", "qemu-img"])
}

/// Exports a guest; the path of what was made.
#[track_caller]
fn export(session: &Session, format: &str, options: &str, guest: &str, args: &[&str]) -> PathBuf {
    let output = session.file(&format!("out.{format}"));
    let image = kiln_system_tests::guest(guest);
    let mut command = session.command(["export", "--format", format]);
    command
        .arg("-o")
        .arg(&output)
        .args(options.split_whitespace())
        .arg(image)
        .args(args);
    Running::start(&mut command)
        .finish()
        .succeeds_printing(&output);
    output
}

trait Printing {
    fn succeeds_printing(&self, path: &Path);
}

impl Printing for Outcome {
    #[track_caller]
    fn succeeds_printing(&self, path: &Path) {
        self.ends_with(0);
        assert_eq!(self.text(), format!("{}\n", path.display()));
    }
}

/// QEMU with a serial console on its standard output and these words.
fn computer(session: &Session, firmware: Firmware, words: &[&str]) -> Option<Command> {
    let mut command = session.wrapped(Path::new(QEMU), ["-machine", "q35", "-accel", "tcg"]);
    command
        .args([
            "-cpu",
            "max",
            "-m",
            "256M",
            "-nodefaults",
            "-no-user-config",
        ])
        .args(["-no-reboot", "-display", "none", "-serial", "stdio"])
        .args(words);
    if let Firmware::Uefi = firmware {
        let code = ["OVMF_CODE.fd", "OVMF_CODE_4M.fd"]
            .map(|name| Path::new("/usr/share/OVMF").join(name))
            .into_iter()
            .find(|path| path.exists());
        let Some(code) = code else {
            skip("no UEFI firmware for virtual machines is installed (ovmf)");
            return None;
        };
        let drive = format!("if=pflash,format=raw,readonly=on,file={}", code.display());
        command.args(["-drive", &drive]);
    }
    Some(command)
}

/// Starts from a disk to the end of the guest and expects this among what it says.
#[track_caller]
fn starts(session: &Session, firmware: Firmware, words: &[&str], text: &str) {
    if let Some(mut command) = computer(session, firmware, words) {
        let outcome = Running::start(&mut command).finish_within(PATIENCE);
        assert!(outcome.text().contains(text), "{firmware:?}: {outcome}");
        outcome.ends_with(0);
    }
}

#[test]
fn a_raw_disk_starts_by_bios_and_uefi() {
    if !has_grub() {
        return;
    }
    let session = Session::new();
    let args = ["args", "a b", "$x'\"\\"];
    let disk = export(&session, "raw", "--name dorothy", "probe", &args);
    for firmware in [Firmware::Bios, Firmware::Uefi] {
        for bus in ["ide", "virtio"] {
            let drive = format!("format=raw,if={bus},snapshot=on,file={}", disk.display());
            starts(&session, firmware, &["-drive", &drive], "1: \"args\"");
            starts(&session, firmware, &["-drive", &drive], "2: \"a b\"");
            starts(&session, firmware, &["-drive", &drive], r#"3: "$x'\"\\""#);
        }
    }
}

#[test]
fn a_cd_starts_by_bios_and_uefi_and_from_a_stick() {
    if !has_grub() {
        return;
    }
    let session = Session::new();
    let options = "-e COLOUR=red -e EMPTY=";
    let disk = export(&session, "iso", options, "probe", &["env-all"]);
    let disk = disk.display();
    for firmware in [Firmware::Bios, Firmware::Uefi] {
        let text = "COLOUR=red";
        starts(&session, firmware, &["-cdrom", &disk.to_string()], text);
        let drive = format!("format=raw,if=ide,snapshot=on,file={disk}");
        starts(&session, firmware, &["-drive", &drive], text);
    }
}

#[test]
fn other_formats_are_the_same_disk() {
    if !has_grub() {
        return;
    }
    let session = Session::new();
    let disk = export(&session, "qcow2", "", "hello", &[]);
    let drive = format!("format=qcow2,if=ide,snapshot=on,file={}", disk.display());
    starts(&session, Firmware::Bios, &["-drive", &drive], "Hello from");

    let ova = export(&session, "ova", "--name dorothy", "hello", &[]);
    let tar = |words: &[&str]| {
        let mut command = session.wrapped(Path::new("tar"), words);
        command.current_dir(session.dir());
        Running::start(&mut command).finish()
    };
    let listed = tar(&["tf", &ova.display().to_string()]);
    assert_eq!(
        listed.text(),
        "dorothy.ovf\ndorothy.mf\ndorothy.vmdk\n",
        "the description comes first"
    );
    tar(&["xf", &ova.display().to_string()]).ends_with(0);
    let manifest = fs::read_to_string(session.file("dorothy.mf")).expect("a manifest");
    for line in manifest.lines() {
        let (file, sum) = line
            .strip_prefix("SHA256(")
            .and_then(|line| line.split_once(")= "))
            .expect("a line of a manifest");
        let found =
            kiln_image::digest::of_file(&session.file(file)).expect("a file of the archive");
        assert_eq!(found.to_string(), sum, "{file}");
    }
    assert_eq!(manifest.lines().count(), 2);
    let vmdk = session.file("dorothy.vmdk");
    let drive = format!("format=vmdk,if=ide,snapshot=on,file={}", vmdk.display());
    starts(&session, Firmware::Bios, &["-drive", &drive], "Hello from");
}

#[test]
fn a_disk_with_a_static_address_serves() {
    if !has_grub() {
        return;
    }
    let session = Session::new();
    let options = "--net static,ip=10.0.2.99/24,gw=10.0.2.2";
    let disk = export(&session, "raw", options, "web", &[]);
    let port = free_port();
    let drive = format!("format=raw,if=ide,snapshot=on,file={}", disk.display());
    let net = format!("user,id=n,hostfwd=tcp:127.0.0.1:{port}-10.0.2.99:80");
    let device = "virtio-net-pci,netdev=n";
    let words = ["-drive", &drive, "-netdev", &net, "-device", device];
    let Some(mut command) = computer(&session, Firmware::Bios, &words) else {
        return;
    };
    let running = Running::start(&mut command);
    serves(port);
    running.signal(Signal::TERM);
    running.finish();
}

/// Waits until a web server behind a port answers.
#[track_caller]
fn serves(port: u16) {
    answers(
        port,
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 ",
    );
}

/// Waits until whatever is behind a port answers this with that.
#[track_caller]
fn answers(port: u16, question: &[u8], answer: &[u8]) {
    let until = Instant::now() + PATIENCE;
    let answered = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(question).ok()?;
        let mut text = vec![0; answer.len()];
        stream.read_exact(&mut text).ok()?;
        (text == answer).then_some(())
    };
    while answered().is_none() {
        assert!(Instant::now() < until, "nobody answers");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A folder's script in this session.
fn script(session: &Session, folder: &Path) -> Command {
    let mut command = session.wrapped(&folder.join("run.sh"), [""; 0]);
    command.env("ACCEL", "tcg");
    command
}

#[test]
fn a_folder_for_qemu_starts_by_its_script() {
    if !are_here(&[QEMU]) {
        return;
    }
    let session = Session::new();
    let args = ["args", "a b", "it's"];
    let folder = export(&session, "qemu", "-e A=1 -m 32M", "probe", &args);
    let outcome = Running::start(&mut script(&session, &folder)).finish_within(PATIENCE);
    outcome
        .ends_with(0)
        .prints("2: \"a b\"")
        .prints("3: \"it's\"");
    let image = fs::read(folder.join("guest-probe.kiln")).expect("the image");
    assert!(
        image == fs::read(guest("probe")).expect("the image"),
        "the same bytes"
    );
}

#[test]
fn a_folder_for_qemu_forwards_ports() {
    if !are_here(&[QEMU]) {
        return;
    }
    let session = Session::new();
    let port = free_port();
    let options = format!("-p 127.0.0.1:{port}:80");
    let folder = export(&session, "qemu", &options, "web", &[]);
    let running = Running::start(&mut script(&session, &folder));
    serves(port);
    running.signal(Signal::TERM);
    running.finish();
}

#[test]
fn a_folder_for_qemu_has_the_disks() {
    if !are_here(&[QEMU]) {
        return;
    }
    let session = Session::new();
    let port = free_port();
    let disk = session.disk("store.img", 16 << 20);
    let options = format!("-p 127.0.0.1:{port}:6380 --block data={}", disk.display());
    let folder = export(&session, "qemu", &options, "kv", &[]);
    let running = Running::start(&mut script(&session, &folder));
    let set = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$5\r\nvalue\r\n";
    answers(port, set, b"+OK\r\n");
    // Not even asked to end: what it has confirmed is on the disk.
    running.signal(Signal::KILL);
    running.finish();
    let bytes = fs::read(&disk).expect("a disk");
    assert!(bytes.windows(5).any(|part| part == b"value"));

    let made = export(&session, "raw", "", "kv", &[]);
    assert!(made.exists(), "with a note that tells from where to start");
}

#[test]
fn a_folder_for_firecracker_is_what_it_reads() {
    let session = Session::new();
    let options = "-m 32M --net static,ip=10.1.2.3/24";
    let folder = export(&session, "firecracker", options, "web", &[]);
    let config = fs::read(folder.join("config.json")).expect("a configuration");
    let config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
    assert_eq!(config["boot-source"]["kernel_image_path"], "web.kiln");
    let line = config["boot-source"]["boot_args"].as_str().expect("a text");
    assert!(line.contains("kiln.net=eth0,ip4=10.1.2.3/24"), "{line}");
    assert_eq!(config["network-interfaces"][0]["host_dev_name"], "tap0");
    starts_with_kvm(&session, "firecracker");
}

#[test]
fn a_folder_for_cloud_hypervisor_is_what_it_takes() {
    let session = Session::new();
    let folder = export(&session, "cloud-hypervisor", "--net tap:t7", "web", &[]);
    let text = fs::read_to_string(folder.join("run.sh")).expect("a script");
    assert!(text.contains("--kernel 'web.kiln'"), "{text}");
    assert!(text.contains("--net 'tap=t7'"), "{text}");
    starts_with_kvm(&session, "cloud-hypervisor");
}

/// Starts a guest through a monitor's script, where that monitor is.
#[track_caller]
fn starts_with_kvm(session: &Session, format: &str) {
    let kvm = fs::File::options().read(true).write(true).open("/dev/kvm");
    if !are_here(&[format]) {
        return;
    }
    if let Err(error) = kvm {
        return skip(format_args!("/dev/kvm: {error}"));
    }
    let inner = Session::new();
    let folder = export(&inner, format, "", "hello", &[]);
    let outcome = Running::start(&mut script(session, &folder)).finish_within(PATIENCE);
    outcome.prints("Hello from");
}

#[test]
fn the_same_image_gives_the_same_bytes() {
    if !has_grub() {
        return;
    }
    let session = Session::new();
    let later = Session::new();
    for format in ["raw", "iso", "qcow2"] {
        let first = export(&session, format, "", "hello", &["x"]);
        // File systems' dates are of two seconds.
        std::thread::sleep(Duration::from_millis(2100));
        let second = export(&later, format, "", "hello", &["x"]);
        let same = fs::read(first).expect("a disk") == fs::read(second).expect("a disk");
        assert!(same, "{format}");
    }
}

#[test]
fn failures_leave_nothing_behind() {
    let session = Session::new();
    let image = guest("web");
    let image = image.to_str().expect("a path in UTF-8");
    let here = |name: &str| session.file(name).display().to_string();
    fs::write(session.file("there"), "x").expect("a file");
    let listing = || {
        let mut names: Vec<_> = fs::read_dir(session.dir())
            .expect("our folder")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        names
    };
    let before = listing();
    let out = here("out");
    let there = here("there");
    let nowhere = here("no/where");
    for (words, code, text) in [
        (
            &["-f", "floppy", "-o", &out, image][..],
            KILN_ERROR,
            "floppy",
        ),
        (&["-f", "raw", "-o", &out], KILN_ERROR, "TARGET"),
        (&["-f", "raw", "-o", &out, "/bin/ls"], 126, "Linux program"),
        (
            &["-f", "raw", "-o", &out, "/no/image.kiln"],
            127,
            "/no/image.kiln",
        ),
        (
            &["-f", "raw", "-o", &nowhere, image],
            KILN_ERROR,
            "no such file",
        ),
        (
            &["-f", "raw", "-o", &out, "-p", "80:80", image],
            KILN_ERROR,
            "--publish",
        ),
        (
            &["-f", "raw", "-o", &out, "--net", "user", image],
            KILN_ERROR,
            "no user network",
        ),
        (
            &["-f", "raw", "-o", &out, "--block", "x=/y", image],
            KILN_ERROR,
            "--block",
        ),
        (
            &["-f", "raw", "-o", &out, "-m", "lots", image],
            KILN_ERROR,
            "--memory",
        ),
        (
            &["-f", "qemu", "-o", &there, image],
            KILN_ERROR,
            "exists already",
        ),
        (
            &["-f", "qemu", "-o", &out, "--net", "static", image],
            KILN_ERROR,
            "tap:IFNAME",
        ),
        (
            &["-f", "qemu", "-o", &out, "--net", "x=user", image],
            KILN_ERROR,
            "no network device",
        ),
        (
            &["-f", "firecracker", "-o", &out, "--net", "user", image],
            KILN_ERROR,
            "no user network",
        ),
        (
            &["-f", "qemu", "-o", &out, "-p", "[::1]:8080:80", image],
            KILN_ERROR,
            "IPv4 addresses only",
        ),
    ] {
        let outcome = session.kiln(["export"].iter().chain(words));
        outcome.ends_with(code).is_one_line_error().tells(text);
    }
    let mut command = session.command(["export", "-f", "iso", "-o", &out, image]);
    let outcome = Running::start(command.env("PATH", "/nowhere")).finish();
    outcome
        .ends_with(KILN_ERROR)
        .is_one_line_error()
        .tells("install the package grub-");
    assert_eq!(listing(), before, "left behind");
}

#[test]
fn an_export_that_is_given_up_leaves_nothing_behind() {
    if !has_grub() {
        return;
    }
    let session = Session::new();
    let tools = session.file("tools");
    fs::create_dir(&tools).expect("a folder");
    let tool = tools.join("grub-mkimage");
    let slow = "#!/bin/sh\n: > \"$(dirname \"$0\")/started\"\nsleep 1\n";
    fs::write(&tool, slow).expect("a script");
    fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("our file");
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let _ = fs::remove_file(tools.join("started"));
        let out = session.file("made/disk.iso");
        fs::create_dir_all(session.file("made")).expect("a folder");
        let mut command = session.command(["export", "-f", "iso", "-o"]);
        command
            .arg(&out)
            .arg(guest("hello"))
            .env("PATH", format!("{}:/usr/bin:/bin", tools.display()));
        let running = Running::start(&mut command);
        kiln_system_tests::host::eventually("a tool runs", || tools.join("started").exists());
        running.signal(signal);
        running.finish().ends_with(code);
        let left = fs::read_dir(session.file("made")).expect("our folder");
        assert_eq!(left.count(), 0, "left behind");
    }
}

#[test]
fn nothing_that_is_there_is_replaced() {
    let session = Session::new();
    let image = session.file("image.kiln");
    fs::copy(guest("hello"), &image).expect("a copy");
    let before = fs::read(&image).expect("the image");
    let link = session.file("link");
    std::os::unix::fs::symlink("/nowhere", &link).expect("a link");
    let folder = session.file("folder");
    fs::create_dir(&folder).expect("a folder");
    for format in [
        "qemu",
        "firecracker",
        "cloud-hypervisor",
        "raw",
        "iso",
        "qcow2",
        "ova",
    ] {
        for output in [&image, &link, &folder] {
            let mut command = session.command(["export", "-f", format, "-o"]);
            command.arg(output).arg(&image);
            let outcome = Running::start(&mut command).finish();
            outcome
                .ends_with(KILN_ERROR)
                .is_one_line_error()
                .tells("exists already");
        }
    }
    assert!(
        fs::read(&image).expect("the image") == before,
        "it was replaced"
    );
}

#[test]
fn command_lines_that_would_be_cut_off_are_refused() {
    let session = Session::new();
    let out = session.file("out").display().to_string();
    let image = guest("web");
    let image = image.to_str().expect("a path in UTF-8");
    for (format, length) in [
        ("firecracker", 3000),
        ("qemu", 4096),
        ("cloud-hypervisor", 4096),
        ("raw", 4096),
        ("iso", 4096),
        ("qcow2", 4096),
        ("ova", 100_000),
    ] {
        let long = "x".repeat(length);
        session
            .kiln(["export", "-f", format, "-o", &out, image, &long])
            .ends_with(KILN_ERROR)
            .is_one_line_error()
            .tells("arguments and environment come to a command line of ")
            .tells("process and kvm have no such limit");
    }
    assert!(!session.file("out").exists());
}
