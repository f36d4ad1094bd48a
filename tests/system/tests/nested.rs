//! The `kvm` backend on AMD's virtualization, emulated by QEMU: what guests do there, they do on hardware.
//!
//! A Linux is booted once for all cases, which takes some ten seconds, and runs the command under test with the images that
//! the other tests run. What is looked at is what those look at for the `process` backend: exit codes, output, what is told
//! of faults.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_system_tests::nested::{Linux, is_static};
use kiln_system_tests::program::compiled;
use kiln_system_tests::{Outcome, Running, Session, guest, kiln, skip};

const SEGV: i32 = 139;
const FORBIDDEN: i32 = 159;

/// A case of the guest `probe`: its arguments, the exit code, and what the two outputs contain. Floating-point exceptions
/// are not among them: QEMU does not emulate those of SSE.
type Case = (&'static str, i32, &'static str, &'static str);

const CASES: &[Case] = &[
    // What the guest finds for itself.
    ("hello there", 0, "Hello, there!", ""),
    ("exit 7", 7, "", ""),
    ("globals", 0, "SUCCESS", ""),
    ("float", 0, "SUCCESS", ""),
    ("one-write 20000", 0, "SUCCESS", ""),
    ("churn", 0, "SUCCESS", ""),
    ("idle 50", 0, "SUCCESS", ""),
    ("ticks", 0, "SUCCESS", ""),
    ("protect", 0, "SUCCESS", ""),
    ("release", 0, "SUCCESS", ""),
    ("bad-ops", 0, "SUCCESS", ""),
    ("bad-buffers", 0, "SUCCESS", ""),
    ("bad-protect", 0, "SUCCESS", ""),
    ("bad-traps", 0, "SUCCESS", ""),
    // Page faults.
    (
        "touch read 0x8",
        SEGV,
        "about to read",
        "page fault: read at address 0x8",
    ),
    (
        "touch write 0x10000",
        SEGV,
        "about to write",
        "page fault: write at address 0x10000",
    ),
    (
        "touch exec 0x1000",
        SEGV,
        "about to exec",
        "page fault: execution at address 0x1000",
    ),
    ("touch read 0xffff800000000000", SEGV, "", "page fault"),
    ("touch read above-heap", SEGV, "", "page fault: read"),
    ("touch write text", SEGV, "", "page fault: write"),
    ("touch write rodata", SEGV, "", "page fault: write"),
    ("touch write relro", SEGV, "", "page fault: write"),
    ("touch write boot", SEGV, "", "page fault: write"),
    ("touch write gate", SEGV, "", "page fault: write"),
    ("touch exec heap", SEGV, "", "page fault: execution"),
    ("touch exec stack", SEGV, "", "page fault: execution"),
    ("touch exec data", SEGV, "", "page fault: execution"),
    ("touch read text", 1, "SURVIVED", ""),
    ("protected-write", SEGV, "read 0", "page fault: write"),
    ("stack-overflow", SEGV, "", "stack overflow"),
    ("bad-stack", SEGV, "", "page fault: write at address 0xff8"),
    // The other exceptions.
    ("divide", 136, "", "division error"),
    ("undefined", 132, "", "illegal instruction"),
    ("breakpoint", 133, "", "breakpoint"),
    ("halt", SEGV, "", "general protection fault"),
    ("port", SEGV, "", "general protection fault"),
    (
        "touch write 0x800000000000",
        SEGV,
        "",
        "general protection fault",
    ),
    ("bad-frame", 132, "", "illegal instruction"),
    // Calls of a host that is not there.
    ("syscall 59", FORBIDDEN, "", "system call 59"),
    ("int80", FORBIDDEN, "", "system call"),
    ("call-record-null", SEGV, "about to call", "call record"),
    ("call-record-gate", SEGV, "about to call", "call record"),
    // Ends that are told.
    ("panic", 101, "", "the answer is 42"),
    ("exhaust", 101, "", "memory allocation"),
];

const IMAGES: [&str; 4] = ["hello", "probe", "program", "web"];

/// Cases of the guest `program`, which does what a library OS does that runs a Linux program.
const PROGRAM_CASES: [&str; 4] = ["memory", "calls", "storm", "ticks"];

/// A Linux program that looks at every register after its system calls, packed with the command under test.
fn packed(session: &Session) -> Option<PathBuf> {
    let arguments = "{source} -O2 -static -pthread -o {out}";
    let program = compiled("c/registers.c", "gcc", arguments)?;
    let image = session.file("registers.kiln");
    session
        .kiln([
            "build".as_ref(),
            program.as_os_str(),
            "-o".as_ref(),
            image.as_os_str(),
        ])
        .ends_with(0);
    Some(image)
}

/// What happens to the example `web`: in the background, asked twice, stopped.
const WEB: [&str; 6] = [
    "kiln run --backend kvm -d -p 8080:80 --name web /web.kiln",
    "for i in $(seq 300); do kiln logs web | grep listening && break; sleep 0.1; done",
    "wget -q -O - http://127.0.0.1:8080/",
    "wget -q -O - http://127.0.0.1:8080/bench/1m | wc -c",
    "kiln stop web",
    "kiln inspect web",
];

/// What `sha256sum` prints for an image there, if it is the file that all backends run here.
fn hash_line(image: &str) -> String {
    let printed = Running::start(Command::new("sha256sum").arg(guest(image))).finish();
    let text = printed.ends_with(0).text();
    let hash = text.split(' ').next().expect("a line begins with the hash");
    format!("{hash}  /{image}.kiln\n")
}

fn print_times(commands: &[String], outcomes: &[Outcome]) {
    let mut table = String::new();
    for (command, outcome) in commands.iter().zip(outcomes) {
        let _ = writeln!(table, "{:6.2} s  {command}", outcome.took.as_secs_f64());
    }
    println!("{table}");
}

#[test]
fn guests_do_on_amds_virtualization_what_they_do_elsewhere() {
    if !is_static(kiln()) {
        skip("the command under test needs libraries");
        return;
    }
    let linux = match Linux::find() {
        Ok(linux) => linux,
        Err(reason) => {
            skip(reason);
            return;
        }
    };
    let images = IMAGES.map(|name| (format!("{name}.kiln"), guest(name)));
    let mut files: Vec<(&str, &Path)> = vec![("bin/kiln", kiln())];
    files.extend(images.iter().map(|(name, path)| (&**name, &**path)));

    let session = Session::new();
    let packed = packed(&session);
    files.extend(packed.iter().map(|path| ("registers", &**path)));

    let mut commands = vec![
        "dmesg | grep -i kvm".to_owned(),
        "kiln run --backend kvm /hello.kiln".to_owned(),
        "kiln run --backend process /hello.kiln".to_owned(),
        "sha256sum /*.kiln".to_owned(),
    ];
    let first_of_web = commands.len();
    commands.extend(WEB.map(str::to_owned));
    let first_case = commands.len();
    for (args, ..) in CASES {
        commands.push(format!("kiln run --backend kvm /probe.kiln {args}"));
    }

    let first_of_programs = commands.len();
    for case in PROGRAM_CASES {
        commands.push(format!("kiln run --backend kvm /program.kiln {case}"));
    }
    if packed.is_some() {
        for options in ["", "signals"] {
            commands.push(format!(
                "ln -sf /registers /tmp/r.kiln; kiln run --backend kvm /tmp/r.kiln {options}"
            ));
        }
    }

    let outcomes = linux
        .run(session.dir(), &files, &commands)
        .expect("files that were just built");
    print_times(&commands, &outcomes);

    outcomes[0].prints("Nested Paging enabled");
    for hello in &outcomes[1..3] {
        hello.ends_with(0).prints("Hello from a unikernel!");
    }
    assert_eq!(outcomes[3].text(), IMAGES.map(hash_line).concat());
    check_web(&outcomes[first_of_web..first_case]);
    for outcome in &outcomes[first_of_programs..] {
        outcome.ends_with(0).prints("SUCCESS");
    }
    for ((args, code, prints, tells), outcome) in CASES.iter().zip(&outcomes[first_case..]) {
        println!("probe {args}");
        outcome.ends_with(*code).prints(prints).tells(tells);
        if *code > 128 {
            assert!(!outcome.text().contains("SURVIVED"), "{outcome}");
            // But for those whose end nobody but the gate sees, a fault is told with the function that did it.
            let traced = !args.starts_with("call-record");
            outcome.tells(if traced { "guest_probe::" } else { "faulted" });
        }
    }
}

fn check_web(outcomes: &[Outcome]) {
    let [started, listening, page, large, stopped, inspected] = outcomes else {
        panic!("as many outcomes as commands");
    };
    started.ends_with(0);
    listening.prints("listening on port");
    page.ends_with(0).prints("one sealed machine");
    large.ends_with(0).prints("1048576");
    stopped.ends_with(0);
    let shown: serde_json::Value = serde_json::from_str(&inspected.text()).expect("JSON");
    assert_eq!(shown[0]["State"]["ExitCode"], 0, "{shown:#}");
    assert_eq!(shown[0]["Config"]["Backend"], "kvm", "{shown:#}");
}
