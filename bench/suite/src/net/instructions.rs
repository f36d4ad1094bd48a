//! Instructions that the guest executes for a request, counted by a plugin of QEMU's translator: a figure without the
//! noise of time, to be watched from change to change.
//!
//! The plugin is `plugin/instructions.c`, compiled here; it counts into a file, and [`profile`] tells the parts of the
//! guest apart. One client makes one request after the
//! other, so that nothing is batched: a few requests, then many, and what the second run takes beyond the first is divided
//! by the requests that it makes beyond. What remains of noise is where interrupts and the guest's clock fall: it is in the
//! parts that wait, `runtime` and `machine part`, and hardly in the others.

mod profile;

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::figures::{self, Table, number};
use crate::instance::Instance;
use crate::place::{self, Place};
use crate::process::{self, PATIENCE};
use crate::setting::{self, Setting};
use profile::{Counts, Image};

const BACKEND: &str = "qemu,accel=tcg";
const PROGRAM: &str = "qemu-system-x86_64";
const SOURCE: &str = "bench/suite/plugin/instructions.c";

/// How long a run of requests may take; translated code is slow.
const RUN: Duration = Duration::from_mins(2);

/// What is asked for: for the table, the page, whether a connection is kept, and how many times beyond [`FEW`].
const CASES: [(&str, &str, &str, u64); 3] = [
    ("612 bytes, keep-alive", "/bench/612", "keep", 4000),
    ("612 bytes, a connection each", "/bench/612", "close", 1500),
    ("1 MiB, keep-alive", "/bench/1m", "keep", 40),
];
/// Requests of the run that tells what any run takes.
const FEW: u64 = 4;

/// Measures and prints.
pub fn run(setting: &Setting, place: &Place) -> Result<()> {
    let (qemu, compiler) = match (
        process::need(PROGRAM, "qemu-system-x86"),
        process::need("gcc", "gcc"),
    ) {
        (Ok(qemu), Ok(compiler)) => (qemu, compiler),
        (Err(message), _) | (_, Err(message)) => {
            println!("skipped: {message}");
            return Ok(());
        }
    };
    if !place.has_tap() {
        return Ok(());
    }
    let counted = Counted::prepare(setting, &qemu, &compiler)?;
    setting.set_backend(BACKEND);
    let web = setting.image("web")?;
    let web = web.to_string_lossy();
    let link = format!("tap:{},ip={}/24", place::TAP, place::TAP_GUEST.ip());
    let mut kiln = setting.kiln();
    kiln.env("PATH", counted.path()?);
    let _guest = Instance::start(setting, place.near(&kiln), &["--net", &link, &web])?;
    ask(setting, place, place::TAP_GUEST, "/bench/612", "keep", 10)?;
    let start = counted.read()?;
    if start.is_empty() {
        println!("skipped: this QEMU takes no plugins");
        return Ok(());
    }
    let image = Image::read(&setting.folder.join("web.debug"))?;
    let base = image.place(&start).ok_or("nothing was executed")?;
    let mut head = vec!["instructions per request", "in all", "lowest", "highest"];
    head.extend(profile::PARTS);
    let mut table = Table::new(&head);
    for (name, path, kind, requests) in CASES {
        let requests = setting.pick(requests, requests / 4);
        let mut splits = Vec::new();
        for _ in 0..setting.pick(5, 3) {
            let start = counted.read()?;
            ask(setting, place, place::TAP_GUEST, path, kind, FEW)?;
            let middle = counted.read()?;
            ask(setting, place, place::TAP_GUEST, path, kind, FEW + requests)?;
            let end = counted.read()?;
            let split = |counts| image.split(&counts, base);
            let first = split(profile::since(&middle, &start));
            let second = split(profile::since(&end, &middle));
            // What is not there for each request may go either way.
            let beyond = |part: usize| figures::count(second[part]) - figures::count(first[part]);
            splits.push(
                (0..profile::PARTS.len())
                    .map(|part| beyond(part) / figures::count(requests))
                    .collect::<Vec<f64>>(),
            );
        }
        let totals: Vec<f64> = splits.iter().map(|split| split.iter().sum()).collect();
        let part = |part: usize| {
            let samples: Vec<f64> = splits.iter().map(|split| split[part]).collect();
            number(figures::median(&samples))
        };
        table.row([
            name.to_owned(),
            number(figures::median(&totals)),
            number(totals.iter().copied().fold(f64::INFINITY, f64::min)),
            number(totals.iter().copied().fold(0.0, f64::max)),
            part(0),
            part(1),
            part(2),
            part(3),
            part(4),
        ]);
    }
    table.print();
    Ok(())
}

fn ask(
    setting: &Setting,
    place: &Place,
    address: SocketAddr,
    path: &str,
    kind: &str,
    count: u64,
) -> Result<()> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut ask = Command::new(program);
    ask.current_dir(&setting.folder).args([
        "ask",
        &address.to_string(),
        path,
        &count.to_string(),
        kind,
    ]);
    process::output(&mut place.near(&ask), RUN).map(drop)
}

/// A QEMU with the plugin in it, in a folder of its own, under the name of the real one.
struct Counted {
    folder: PathBuf,
}

impl Counted {
    fn prepare(setting: &Setting, qemu: &Path, compiler: &Path) -> Result<Self> {
        let folder = setting.folder.join("counted");
        let explain = |error: std::io::Error| format!("{}: {error}", folder.display());
        fs::create_dir(&folder).map_err(explain)?;
        // QEMU runs as another user.
        let passable = Permissions::from_mode(0o711);
        fs::set_permissions(&setting.folder, passable.clone()).map_err(explain)?;
        fs::set_permissions(&folder, passable).map_err(explain)?;
        let counted = Self { folder };
        let plugin = counted.folder.join("instructions.so");
        let mut build = Command::new(compiler);
        build
            .args(["-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o"])
            .arg(&plugin)
            .arg(setting::workspace().join(SOURCE));
        process::output(&mut build, PATIENCE)?;
        fs::write(counted.file(), []).map_err(|error| error.to_string())?;
        let script = format!(
            "#!/bin/sh\nexec {} -plugin {},out={} \"$@\"\n",
            qemu.display(),
            plugin.display(),
            counted.file().display()
        );
        let wrapper = counted.folder.join(PROGRAM);
        fs::write(&wrapper, script).map_err(|error| error.to_string())?;
        for (path, mode) in [(wrapper, 0o755), (plugin, 0o755), (counted.file(), 0o666)] {
            fs::set_permissions(&path, Permissions::from_mode(mode))
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(counted)
    }

    fn file(&self) -> PathBuf {
        self.folder.join("count")
    }

    /// Where `kiln` finds this QEMU before any other.
    fn path(&self) -> Result<std::ffi::OsString> {
        let others = std::env::var_os("PATH").unwrap_or_default();
        let folders = [self.folder.clone()]
            .into_iter()
            .chain(std::env::split_paths(&others));
        std::env::join_paths(folders).map_err(|error| error.to_string())
    }

    fn read(&self) -> Result<Counts> {
        let bytes = fs::read(self.file()).map_err(|error| error.to_string())?;
        Ok(profile::parse(&bytes))
    }
}
