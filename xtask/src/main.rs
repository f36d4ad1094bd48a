//! What cargo cannot express: `cargo xtask test | lint | fuzz | bench | ci`.
//!
//! Nothing here installs anything; `.ci/run` does that. A tool that is missing is named together with what is skipped
//! for want of it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Host packages that are not default members.
const HOST: &[&str] = &[
    "kiln-system-tests",
    "kiln-lossy",
    "kiln-tcp-spec",
    "xtask",
    "bench-suite",
    "bench-mem",
];
/// Guests, linted as guests. Their libraries are linted as host crates too.
const GUESTS: &[&str] = &[
    "hello",
    "echo",
    "web",
    "kv",
    "guest-probe",
    "guest-blockdev",
    "guest-netprobe",
    "guest-links",
    "guest-netload",
    "guest-tcpload",
    "guest-alloc",
    "kiln-linux-image",
];
/// Whole-system tests that hold for guests in Kiln's own virtual machines: all but those about images and other monitors.
const ON_KVM: &[&str] = &[
    "basics",
    "blocks",
    "capture",
    "clock",
    "confinement",
    "container",
    "example_kv",
    "example_web",
    "faults",
    "heap",
    "interop",
    "lifecycle",
    "linux_calls",
    "linux_core",
    "linux_databases",
    "linux_languages",
    "linux_limits",
    "linux_machines",
    "linux_packing",
    "linux_sanitizers",
    "linux_servers",
    "linux_sysv",
    "linux_terminal",
    "linux_volumes",
    "linux_volumes_hostile",
    "network",
    "packets",
    "panics",
    "program_abi",
    "prometheus",
    "randomness",
    "sandbox",
    "stopping",
    "taps",
    "tasks",
    "tcp",
];
/// Those about what happens inside of a guest.
const ON_QEMU: &[&str] = &[
    "basics",
    "blocks",
    "clock",
    "faults",
    "heap",
    "network",
    "panics",
    "randomness",
    "tasks",
    "program_abi",
    "linux_calls",
    "linux_core",
    "linux_databases",
    "linux_machines",
    "linux_sanitizers",
    "linux_sysv",
    "linux_terminal",
    "linux_volumes",
    "linux_volumes_hostile",
];
/// Seconds for each fuzz target in `cargo xtask fuzz`.
const FUZZ_SECONDS: &str = "30";
/// What whole-system tests use if it is there: the program, its Debian package, what is skipped without it.
const TOOLS: &[(&str, &str, &str)] = &[
    ("curl", "curl", "tests of the web example"),
    ("ip", "iproute2", "tests on tap devices"),
    ("ping", "iputils-ping", "ping tests on tap devices"),
    ("tcpdump", "tcpdump", "a part of the tests of captures"),
    ("dnsmasq", "dnsmasq-base", "DHCP tests on tap devices"),
    ("nc", "netcat-openbsd", "half-closed connections"),
    ("iperf3", "iperf3", "bulk tests on tap devices"),
    ("dig", "bind9-dnsutils", "tests of the resolver"),
    ("radvd", "radvd", "tests of IPv6 autoconfiguration"),
    ("tcpdump", "tcpdump", "tests of what the guest sends"),
    (
        "qemu-system-x86_64",
        "qemu-system-x86",
        "tests of images under QEMU, nested virtualization, disk images",
    ),
    ("grub-mkimage", "grub-common", "tests of exported disks"),
    ("setpriv", "util-linux", "tests as an ordinary user"),
    ("redis-benchmark", "redis-tools", "tests of Linux servers"),
    (
        "go",
        "golang-go",
        "tests of Linux programs in other languages",
    ),
    ("dockerd", "docker.io", "the tests inside a container"),
    ("containerd", "containerd", "the tests inside a container"),
];

fn main() -> ExitCode {
    let verb = env::args().nth(1).unwrap_or_default();
    let done = match verb.as_str() {
        "test" => test(),
        "lint" => lint(),
        "fuzz" => fuzz(),
        "bench" => bench(),
        "ci" => lint().and_then(|()| test()).and_then(|()| fuzz()),
        _ => Err("usage: cargo xtask test | lint | fuzz | bench | ci".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Every test: crates on the host, then whole systems through the real command.
fn test() -> Result<(), String> {
    report_tools();
    cargo(&["test"])?;
    for package in ["web", "kv", "kiln-lossy", "kiln-tcp-spec"] {
        cargo(&["test", "--package", package])?;
    }
    cargo(&["build", "--release", "--package", "kiln-cli"])?;
    cargo(&["test", "--package", "kiln-system-tests"])?;
    on_other_backends()
}

/// The tests of guests, which hold on every backend, on those that this machine has beside `process`.
fn on_other_backends() -> Result<(), String> {
    if std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
    {
        on_backend("kvm", ON_KVM)?;
    } else {
        println!("skipped: system tests on kvm (/dev/kvm cannot be opened here)");
    }
    if has("qemu-system-x86_64") {
        on_backend("qemu,accel=tcg,machine=microvm", ON_QEMU)?;
        on_backend("qemu,accel=tcg,machine=q35", ON_QEMU)
    } else {
        println!("skipped: system tests on qemu (Debian: qemu-system-x86)");
        Ok(())
    }
}

fn on_backend(backend: &str, tests: &[&str]) -> Result<(), String> {
    println!("system tests on {backend}");
    let mut command = Command::new("cargo");
    command.args(["test", "--package", "kiln-system-tests"]);
    for test in tests {
        command.args(["--test", test]);
    }
    run(command.env("KILN_TEST_BACKEND", backend))
}

fn lint() -> Result<(), String> {
    cargo(&["fmt", "--all", "--check"])?;
    let host = ["clippy", "--all-targets", "--", "--deny", "warnings"];
    cargo(&host)?;
    for package in HOST {
        cargo(&[
            "clippy",
            "--all-targets",
            "--package",
            package,
            "--",
            "--deny",
            "warnings",
        ])?;
    }
    for package in ["web", "kv"] {
        cargo(&[
            "clippy",
            "--lib",
            "--tests",
            "--package",
            package,
            "--",
            "--deny",
            "warnings",
        ])?;
    }
    for guest in GUESTS {
        lint_guest(guest)?;
    }
    // A workspace of its own, which breaks when what it drives changes.
    let fuzz = ["--manifest-path", "fuzz/Cargo.toml"];
    cargo(&[&["fmt"], &fuzz[..], &["--check"]].concat())?;
    run(Command::new("cargo")
        .arg("clippy")
        .args(fuzz)
        .args(["--target-dir", "target/lint", "--", "--deny", "warnings"])
        .env("RUSTFLAGS", "--cfg fuzzing"))?;
    run(Command::new("cargo")
        .args(["doc", "--no-deps"])
        .env("RUSTDOCFLAGS", "--deny warnings"))?;
    if has("cargo-deny") {
        cargo(&["deny", "check", "bans", "licenses", "sources"])
    } else {
        println!("skipped: cargo deny (not installed: cargo install cargo-deny)");
        Ok(())
    }
}

/// Code that only exists in guests is linted with their flags, in a folder of its own so that nothing is rebuilt.
fn lint_guest(package: &str) -> Result<(), String> {
    let flags = ["--cfg", "kiln_guest", "-C", "panic=abort"];
    run(Command::new("cargo")
        .args(["clippy", "--package", package, "--bins"])
        .args(["--target-dir", "target/lint", "--", "--deny", "warnings"])
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")))
}

fn fuzz() -> Result<(), String> {
    let targets = root().join("fuzz/fuzz_targets");
    let entries = targets
        .read_dir()
        .map_err(|error| format!("{}: {error}", targets.display()))?;
    let mut names: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    names.sort();
    for name in names.iter().filter_map(|path| path.file_stem()) {
        run(Command::new(root().join("fuzz/run"))
            .arg(name)
            .arg(FUZZ_SECONDS))?;
    }
    Ok(())
}

fn bench() -> Result<(), String> {
    let built = ["--package", "kiln-cli", "--package", "kiln-lossy"];
    cargo(&[&["build", "--release"], &built[..]].concat())?;
    cargo(&["run", "--release", "--package", "bench-suite"])?;
    cargo(&["run", "--release", "--package", "bench-mem"])
}

fn report_tools() {
    for (program, package, what) in TOOLS {
        if !has(program) {
            println!("skipped for want of `{program}` (Debian: {package}): {what}");
        }
    }
}

fn has(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}

fn cargo(args: &[&str]) -> Result<(), String> {
    run(Command::new("cargo").args(args))
}

fn run(command: &mut Command) -> Result<(), String> {
    let command = command.current_dir(root());
    println!("+ {command:?}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?}: {status}")),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a folder of the repository")
}
