//! A Linux in QEMU, which plays an AMD processor that can run virtual machines (SVM) and walks their page tables.
//!
//! On such a machine the `kvm` backend meets what real hardware does, slowly: wherever this is run, whatever the host's own
//! KVM. The Linux is the host's or Debian's, never installed, with a memory file system that holds the command under test
//! and images. [`Linux::find`] finds its parts, [`Linux::run`] boots it, has it run commands, and says how each ended.
//!
//! What the commands print comes over the serial line, with a letter before each line that says what it is.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::artifacts;
use crate::elf::{Elf, Field};
use crate::host::find_program;
use crate::process::{Outcome, Running};

/// Longer than this no boot may take with all its commands.
const LIMIT: Duration = Duration::from_mins(5);
/// The module that is wanted, of which all others follow.
const MODULE: &str = "kvm_amd";
/// Debian's package that needs the kernel.
const PACKAGE: &str = "linux-image-amd64";

/// What is booted: a kernel, its modules for KVM in the order in which they are loaded, and a shell.
#[derive(Clone, Debug)]
pub struct Linux {
    qemu: PathBuf,
    kernel: PathBuf,
    modules: Vec<PathBuf>,
    busybox: PathBuf,
}

impl Linux {
    /// Finds everything on this machine, or else gets Debian's packages, once until the next `cargo clean`.
    ///
    /// # Errors
    /// Why there is none here.
    pub fn find() -> Result<Self, String> {
        let qemu = find_program(&["qemu-system-x86_64"]).ok_or("QEMU is not installed")?;
        let busybox = match find_program(&["busybox"]).filter(|path| is_static(path)) {
            Some(path) => path,
            None => fetched("busybox", "busybox-static", |unpacked, into| {
                copy(&unpacked.join("bin/busybox"), &into.join("busybox"))
            })?
            .join("busybox"),
        };
        let (kernel, modules) = match installed() {
            Some(found) => found,
            None => downloaded()?,
        };
        Ok(Self {
            qemu,
            kernel,
            modules,
            busybox,
        })
    }

    /// Boots, runs commands of a shell one after the other, and switches off. `files` lie in its root directory.
    ///
    /// # Errors
    /// If a file cannot be read.
    ///
    /// # Panics
    /// If it does not come to the end of the last command, or not within five minutes.
    #[track_caller]
    pub fn run(
        &self,
        at: &Path,
        files: &[(&str, &Path)],
        commands: &[String],
    ) -> io::Result<Vec<Outcome>> {
        let mut archive = Archive::default();
        for folder in ["bin", "dev", "modules", "proc", "run", "sys", "tmp"] {
            archive.add(folder, FOLDER, b"");
        }
        archive.add("bin/busybox", PROGRAM, &fs::read(&self.busybox)?);
        archive.add("bin/sh", LINK, b"busybox");
        for (number, module) in self.modules.iter().enumerate() {
            let name = format!("modules/{number}.ko");
            archive.add(&name, PROGRAM, &fs::read(module)?);
        }
        for (name, path) in files {
            archive.add(name, PROGRAM, &fs::read(path)?);
        }
        archive.add("init", PROGRAM, script(commands).as_bytes());
        let initrd = at.join("initrd");
        fs::write(&initrd, archive.finish())?;

        let mut command = Command::new(&self.qemu);
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio"])
            .args(["-machine", "q35", "-accel", "tcg"])
            // With two processors, QEMU 7.2 hangs now and then when a guest is started on one of them.
            .args(["-cpu", "max", "-smp", "1", "-m", "1536"])
            .args(["-append", PARAMETERS])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&initrd);
        let ended = Running::start(&mut command).finish_within(LIMIT);
        let outcomes = parse(&ended.text());
        assert_eq!(
            outcomes.len(),
            commands.len(),
            "commands that ended\n{ended}"
        );
        Ok(outcomes)
    }
}

/// For the kernel. Its messages go nowhere but for the very last; no time is spent on finding out what the time is, or on
/// protecting anybody from anybody.
const PARAMETERS: &str =
    "console=ttyS0 quiet loglevel=1 panic=-1 tsc=reliable no_timer_check mitigations=off";

/// What the kernel runs first. Every command's output is printed behind its end.
fn script(commands: &[String]) -> String {
    let mut script = String::from(
        "#!/bin/sh
        export PATH=/bin HOME=/tmp XDG_RUNTIME_DIR=/run
        /bin/busybox --install -s /bin
        mount -t proc proc /proc
        mount -t sysfs sys /sys
        mount -t devtmpfs dev /dev
        mount -t tmpfs tmp /tmp
        mount -t tmpfs run /run
        ip link set lo up
        for module in /modules/*; do insmod $module; done
        now() { cut -d' ' -f1 /proc/uptime; }
        step() {
            from=$(now)
            timeout 60 sh -c \"$1\" >/tmp/out 2>/tmp/err </dev/null
            code=$?
            to=$(now)
            sed 's/^/o /' /tmp/out
            sed 's/^/e /' /tmp/err
            echo
            echo \"= $code $from $to\"
        }
        ",
    );
    for command in commands {
        let quoted = command.replace('\'', "'\\''");
        let _ = writeln!(script, "step '{quoted}'");
    }
    script.push_str("poweroff -f\n");
    script
}

/// Reads what [`script`] prints.
fn parse(text: &str) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let (mut stdout, mut stderr) = (String::new(), String::new());
    for line in text.lines() {
        let line = line.trim_end_matches('\r');
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "o" => stdout.extend([rest, "\n"]),
            "e" => stderr.extend([rest, "\n"]),
            "=" => {
                let mut words = rest.split(' ');
                let code = words.next().and_then(|word| word.parse().ok());
                let mut time = || words.next()?.parse().ok().map(Duration::from_secs_f64);
                if let (Some(code), Some(from), Some(to)) = (code, time(), time()) {
                    outcomes.push(Outcome {
                        code,
                        stdout: std::mem::take(&mut stdout).into_bytes(),
                        stderr: std::mem::take(&mut stderr),
                        took: to.saturating_sub(from),
                    });
                }
            }
            _ => {}
        }
    }
    outcomes
}

/// True for a program that needs no other file.
pub fn is_static(program: &Path) -> bool {
    /// `PT_INTERP`.
    const INTERPRETER: u64 = 3;
    let Ok(bytes) = fs::read(program) else {
        return false;
    };
    bytes.starts_with(b"\x7fELF") && {
        let elf = Elf(bytes);
        (0..elf.header_count()).all(|index| elf.get(index, Field::Type) != INTERPRETER)
    }
}

/// A kernel of this machine's that has the module.
fn installed() -> Option<(PathBuf, Vec<PathBuf>)> {
    let kernels = Path::new("/boot").read_dir().ok()?;
    kernels.filter_map(Result::ok).find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let version = name.strip_prefix("vmlinuz-")?;
        // Some distributions let only root read it.
        fs::File::open(entry.path()).ok()?;
        let folder = Path::new("/lib/modules").join(version).join("kernel");
        let into = cache().join(format!("modules-{version}"));
        if !into.is_dir() {
            complete(&into, |into| gather(&folder, into)).ok()?;
        }
        Some((entry.path(), in_order(&into)?))
    })
}

/// Debian's kernel, in the cache.
fn downloaded() -> Result<(PathBuf, Vec<PathBuf>), String> {
    let named = output(Command::new("apt-cache").args(["depends", PACKAGE]))?;
    let named = String::from_utf8_lossy(&named);
    let package = named
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .ok_or_else(|| format!("apt-cache does not know {PACKAGE} (apt-get update?)"))?;
    let version = package.trim_start_matches("linux-image-");
    let folder = fetched(package, package, |unpacked, into| {
        let kernel = unpacked.join("boot").join(format!("vmlinuz-{version}"));
        copy(&kernel, &into.join("vmlinuz"))?;
        let modules = unpacked.join("lib/modules").join(version).join("kernel");
        gather(&modules, into)
    })?;
    let modules = in_order(&folder).ok_or("the cache has no modules")?;
    Ok((folder.join("vmlinuz"), modules))
}

fn cache() -> PathBuf {
    artifacts::workspace().join("target/system-tests/nested")
}

/// A folder of the cache with what is wanted of a Debian package.
fn fetched(
    name: &str,
    package: &str,
    pick: impl FnOnce(&Path, &Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let folder = cache().join(name);
    if !folder.is_dir() {
        complete(&folder, |into| {
            let unpacked = into.join("unpacked");
            fs::create_dir_all(&unpacked).map_err(|error| error.to_string())?;
            output(
                Command::new("apt-get")
                    .args(["download", "-q", package])
                    .current_dir(into),
            )?;
            let package = into
                .read_dir()
                .ok()
                .and_then(|mut files| {
                    files.find_map(|file| {
                        let path = file.ok()?.path();
                        (path.extension()? == "deb").then_some(path)
                    })
                })
                .ok_or_else(|| format!("apt-get has left no file of {package}"))?;
            output(
                Command::new("dpkg-deb")
                    .arg("-x")
                    .args([&package, &unpacked]),
            )?;
            pick(&unpacked, into)?;
            fs::remove_file(&package)
                .and_then(|()| fs::remove_dir_all(&unpacked))
                .map_err(|error| error.to_string())
        })?;
    }
    Ok(folder)
}

/// Fills a new folder, which is there whole or not at all, whoever else does the same at the same time.
fn complete(folder: &Path, fill: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), String> {
    let unfinished = cache().join(format!(".unfinished-{}", std::process::id()));
    fs::create_dir_all(&unfinished)
        .map_err(|error| format!("{}: {error}", unfinished.display()))?;
    let done = fill(&unfinished).and_then(|()| {
        // Somebody else may have been faster.
        let renamed = fs::rename(&unfinished, folder);
        renamed.or_else(|error| {
            folder
                .is_dir()
                .then_some(())
                .ok_or_else(|| error.to_string())
        })
    });
    // Gone already if all went well.
    let _ = fs::remove_dir_all(&unfinished);
    done
}

/// Copies the wanted module and those it depends on, decompressed, with a number before the name: the order of loading.
fn gather(kernel: &Path, into: &Path) -> Result<(), String> {
    let mut all = Vec::new();
    list(kernel, &mut all);
    let mut wanted = vec![MODULE.to_owned()];
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    while let Some(name) = wanted.pop() {
        // Once more and further in front, if several need it.
        found.retain(|(known, _)| *known != name);
        let Some(path) = all.iter().find(|path| module_name(path) == name) else {
            if name == MODULE {
                return Err(format!("{} has no {MODULE}", kernel.display()));
            }
            // Part of the kernel itself.
            continue;
        };
        let bytes = read_module(path)?;
        wanted.extend(dependencies(&bytes));
        found.push((name, bytes));
    }
    for (number, (name, bytes)) in found.iter().rev().enumerate() {
        let path = into.join(format!("{number:02}-{name}.ko"));
        fs::write(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// What [`gather`] has left, in the order of loading.
fn in_order(folder: &Path) -> Option<Vec<PathBuf>> {
    let mut modules = Vec::new();
    list(folder, &mut modules);
    modules.retain(|path| path.extension().is_some_and(|end| end == "ko"));
    modules.sort();
    (!modules.is_empty()).then_some(modules)
}

fn list(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            list(&path, into);
        } else {
            into.push(path);
        }
    }
}

/// A module's name by its file's, in which a dash may stand for an underscore.
fn module_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (name, _) = name.split_once(".ko").unwrap_or_default();
    name.replace('-', "_")
}

fn read_module(path: &Path) -> Result<Vec<u8>, String> {
    let program = match path.extension().and_then(|end| end.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path).map_err(|error| format!("{}: {error}", path.display())),
    };
    output(Command::new(program).arg("-dc").arg(path))
}

/// The modules that a module names in its section `.modinfo` as those it depends on.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let at = module.windows(KEY.len()).position(|part| part == KEY);
    let list = at.and_then(|at| module[at + KEY.len()..].split(|&byte| byte == 0).next());
    let list = String::from_utf8_lossy(list.unwrap_or_default()).replace('-', "_");
    let names = list.split(',').filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to)
        .map(drop)
        .map_err(|error| format!("{}: {error}", from.display()))
}

/// What a program prints, if all goes well.
fn output(command: &mut Command) -> Result<Vec<u8>, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let ended = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    if ended.status.success() {
        return Ok(ended.stdout);
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let last = said.lines().last().unwrap_or_default();
    Err(format!("{name}: {last}"))
}

/// Kind and rights of a folder.
const FOLDER: u32 = 0o040_755;
/// Of a program.
const PROGRAM: u32 = 0o100_755;
/// Of a symbolic link.
const LINK: u32 = 0o120_777;

/// A memory file system's content, as the kernel unpacks it: a cpio archive of the kind `newc` (Linux's
/// `Documentation/driver-api/early-userspace/buffer-format.rst`).
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let len = |bytes: usize| u32::try_from(bytes).expect("less than 4 GiB");
        // Inode, mode, owner, group, links, time, size, two numbers each of the device and of its own, name, checksum.
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            len(content.len()),
            0,
            0,
            0,
            0,
            len(name.len() + 1),
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, b"");
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_its_parts_at_multiples_of_four() {
        let mut archive = Archive::default();
        archive.add("bin/a", PROGRAM, b"12345");
        let bytes = archive.finish();
        assert!(bytes.starts_with(b"07070100000001000081ed"));
        assert_eq!(&bytes[54..62], b"00000005", "the content's length");
        assert_eq!(&bytes[94..102], b"00000006", "the name's with its zero");
        assert_eq!(&bytes[110..116], b"bin/a\0");
        assert_eq!(&bytes[116..124], b"12345\0\0\0");
        assert_eq!(&bytes[124..130], b"070701");
        assert!(bytes.len().is_multiple_of(4));
    }

    #[test]
    fn ends_are_read_with_the_output_before_them() {
        let text = "noise\r\no one\r\no two\r\n\r\n= 0 1.00 1.25\r\ne bad\r\no no end\r\n\r\n= 139 2.0 2.5\r\n";
        let [first, second] = &parse(text)[..] else {
            panic!("two ends");
        };
        assert_eq!((first.code, &*first.text()), (0, "one\ntwo\n"));
        assert_eq!(first.took, Duration::from_millis(250));
        assert_eq!((second.code, &*second.stderr), (139, "bad\n"));
        second.prints("no end");
    }

    #[test]
    fn modules_name_what_they_depend_on() {
        let module = b"license=GPL\0depends=kvm,x86-pkg\0name=kvm_amd\0";
        assert_eq!(dependencies(module), ["kvm", "x86_pkg"]);
        assert_eq!(dependencies(b"license=GPL\0depends=\0"), [""; 0]);
        assert_eq!(module_name(Path::new("/m/kvm-amd.ko.xz")), "kvm_amd");
    }
}
