//! Part `machines`: the same image on every backend that this host has.
//!
//! From start to end, beside the C program and beside peers that run a hello of their own; where the guest's own start
//! spends its time; how much memory an instance takes, and many of them; and load on web through each.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::boot::{self, Contender};
use crate::figures::{self, Table, kib, number};
use crate::instance::{self, Instance};
use crate::process::{self, PATIENCE};
use crate::setting::Setting;
use crate::{Result, many, web};

/// From exec to exit on `kvm`, in milliseconds.
const KVM_GOAL: f64 = 2.0;
/// From the guest's first instruction to its `main`, in microseconds.
const START_GOAL: f64 = 100.0;
/// QEMU's first byte after that of a bare kernel, in milliseconds.
const QEMU_GOAL: f64 = 10.0;

/// Backends beside `process`; those that do not work here are skipped with what they say.
const BACKENDS: [&str; 6] = [
    "process",
    "kvm",
    "qemu,accel=tcg",
    "qemu,accel=tcg,machine=q35",
    "firecracker",
    "cloud-hypervisor",
];
/// The stages of a start, as the probe guest names them.
const STAGES: [&str; 4] = ["relocated", "sealed", "ready", "main"];

/// Measures and prints.
pub fn run(setting: &Setting) -> Result<()> {
    let hello = setting.image("hello")?;
    let present: Vec<&str> = BACKENDS
        .into_iter()
        .filter(|backend| works(setting, backend, &hello))
        .collect();
    boots(setting, &present, &hello)?;
    if let Err(message) = first_byte(setting, &hello) {
        println!("skipped: first byte under QEMU: {message}");
    }
    starts(setting, &present)?;
    if !present.contains(&"kvm") {
        return Ok(());
    }
    memory(setting)?;
    println!("\nkvm:");
    setting.set_backend("kvm");
    let measured =
        many::run_so_many(setting, setting.pick(200, 20)).and_then(|()| web::run(setting));
    setting.set_backend("process");
    measured
}

fn on(setting: &Setting, backend: &str, image: &Path) -> Command {
    let mut command = setting.kiln();
    command
        .args(["run", "--rm", "--backend", backend])
        .arg(image);
    command
}

/// True if a guest runs on a backend here; else says why it does not.
pub fn works(setting: &Setting, backend: &str, image: &Path) -> bool {
    match process::output(&mut on(setting, backend, image), PATIENCE) {
        Ok(_) => true,
        Err(message) => {
            println!("skipped: {backend}: {}", message.trim());
            false
        }
    }
}

fn boots(setting: &Setting, present: &[&str], hello: &Path) -> Result<()> {
    let folder = setting.folder.join("machines");
    std::fs::create_dir(&folder).map_err(|error| error.to_string())?;
    let mut contenders = Vec::new();
    match boot::c_program(&folder) {
        Ok(program) => contenders.push(Contender::new("C program", boot::bare(&program), false)),
        Err(message) => println!("skipped: C program: {message}"),
    }
    for backend in present {
        contenders.push(Contender::new(backend, on(setting, backend, hello), false));
    }
    match solo5() {
        Ok(command) => contenders.push(Contender::new("solo5-hvt hello", command, false)),
        Err(message) => println!("skipped: solo5-hvt: {message}"),
    }
    boot::measure(&mut contenders, setting.pick(30, 5))?;
    println!("\nhello from start to end, microseconds (goal for kvm: {KVM_GOAL} ms)");
    boot::print(&contenders);
    Ok(())
}

/// Solo5's own monitor, where somebody has built it: `SOLO5` names the folder of its sources.
fn solo5() -> Result<Command> {
    let folder =
        std::env::var_os("SOLO5").ok_or("SOLO5 does not name a folder with a built Solo5")?;
    let folder = Path::new(&folder);
    let mut command = Command::new(folder.join("tenders/hvt/solo5-hvt"));
    command.arg(folder.join("tests/test_hello/test_hello.hvt"));
    command.arg("Hello_Solo5");
    process::output(&mut command, PATIENCE)?;
    Ok(command)
}

/// A kernel that writes one line to the serial port as its first instructions.
const BARE_KERNEL: &str = r#"
    .section .note.xen, "a", @note
    .align 4
    .long 4, 4, 18
    .asciz "Xen"
    .long _start
    .text
    .code32
    .globl _start
_start:
    mov $0x3f8, %dx
    mov $'!', %al
    out %al, %dx
    mov $'\n', %al
    out %al, %dx
    mov $0xf4, %dx
    out %al, %dx
1:  hlt
    jmp 1b
"#;

/// How much later than a bare kernel's the first byte of hello comes, under the same QEMU with the same options.
fn first_byte(setting: &Setting, hello: &Path) -> Result<()> {
    let qemu = process::need("qemu-system-x86_64", "qemu-system-x86")?;
    let cc = process::need("cc", "gcc")?;
    let folder = setting.folder.join("machines");
    let (source, kernel) = (folder.join("bare.S"), folder.join("bare.elf"));
    std::fs::write(&source, BARE_KERNEL).map_err(|error| error.to_string())?;
    let mut compile = Command::new(cc);
    compile
        .args([
            "-m32",
            "-nostdlib",
            "-static",
            "-no-pie",
            "-Wl,--build-id=none",
        ])
        .args(["-Wl,-Ttext=0x100000", "-o"])
        .arg(&kernel)
        .arg(&source);
    process::output(&mut compile, PATIENCE)?;
    let boot = |kernel: &Path| {
        let mut command = Command::new(&qemu);
        command
            .args(["-accel", "tcg", "-cpu", "max", "-m", "64", "-nodefaults"])
            .args(["-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4"])
            .args(["-M", "microvm", "-append", "kiln.exit=0xf4", "-kernel"])
            .arg(kernel);
        command
    };
    let mut contenders = [
        Contender::new("bare kernel, first line", boot(&kernel), true),
        Contender::new("hello, first line", boot(hello), true),
    ];
    for contender in &mut contenders {
        // The device that ends QEMU makes an exit code of its own.
        contender.any_code();
    }
    boot::measure(&mut contenders, setting.pick(20, 3))?;
    let [bare, hello] = &contenders;
    let late: Vec<f64> = hello
        .samples()
        .iter()
        .zip(bare.samples())
        .map(|(a, b)| (a - b) / 1000.0)
        .collect();
    println!(
        "\nQEMU microvm (tcg), first line: {} ms after a bare kernel's (goal: {QEMU_GOAL})",
        number(figures::median(&late))
    );
    boot::print(&contenders);
    Ok(())
}

/// From the guest's first instruction to `main`, stage by stage, as a table and as a picture.
fn starts(setting: &Setting, present: &[&str]) -> Result<()> {
    const WIDTH: f64 = 60.0;
    let probe = setting.image_of("tests/guests", "probe")?;
    let mut table = Table::new(&["us to", "relocated", "sealed", "ready", "main", "goal"]);
    let mut pictures = Vec::new();
    for backend in present {
        let mut samples: [Vec<f64>; 4] = Default::default();
        for _ in 0..setting.pick(15, 3) {
            let mut command = on(setting, backend, &probe);
            command.arg("startup");
            let text = process::output(&mut command, PATIENCE)?;
            for (name, samples) in STAGES.iter().zip(&mut samples) {
                let (_, rest) = text
                    .split_once(&format!("{name}="))
                    .ok_or("the probe does not say how it started")?;
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                let nanos: f64 = rest[..end].parse().map_err(|_| "not a number")?;
                samples.push(nanos / 1000.0);
            }
        }
        let medians = samples.map(|samples| figures::median(&samples));
        let [relocated, sealed, ready, main] = medians.map(number);
        let goal = number(START_GOAL);
        table.row([(*backend).to_owned(), relocated, sealed, ready, main, goal]);
        pictures.push((*backend, medians));
    }
    println!("\nfrom the guest's first instruction");
    table.print();
    println!("\nr relocation  s first call: traps, sealing  h heap and generator  m to main");
    for (backend, medians) in pictures {
        let mut line = String::new();
        let mut before = 0.0;
        let total = medians[3].max(f64::MIN_POSITIVE);
        for (mark, at) in ["r", "s", "h", "m"].iter().zip(medians) {
            let cells = (WIDTH * (at - before) / total).round().max(0.0);
            // A picture of at most sixty marks.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "0 to 60"
            )]
            line.push_str(&mark.repeat(cells as usize));
            before = at;
        }
        println!("{backend:<28} |{line}| {} us", number(medians[3]));
    }
    Ok(())
}

/// What an idle instance of web takes beside the guest's own memory.
fn memory(setting: &Setting) -> Result<()> {
    let web = setting.image("web")?;
    let web = web.to_string_lossy();
    let mut table = Table::new(&["idle web, KiB", "guest's process", "supervisor"]);
    for backend in ["process", "kvm"] {
        let arguments = [
            "--backend",
            backend,
            "--memory",
            "2M",
            "-p",
            "127.0.0.1:0:80",
            &web,
        ];
        let guest = Instance::start(setting, setting.kiln(), &arguments)?;
        std::thread::sleep(Duration::from_millis(300));
        let (own, supervisor) = guest.resident()?;
        table.row([backend.to_owned(), kib(own), kib(supervisor)]);
    }
    table.print();
    instance::end_all(&setting.kiln, &setting.folder)
}
