//! Part `boot`: from starting a program to its end, `kiln run hello.kiln` beside programs that do nothing.
//!
//! Every contender is started with `posix_spawn` from this process and waited for with `waitpid`, in turns: one round
//! starts each once. Output goes to `/dev/null`. The least that any of them could take is a `fork` whose child ends at
//! once; that is measured by a small C program, since this one may not fork.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::figures::{self, Table, micros, number};
use crate::process::{self, PATIENCE};
use crate::setting::Setting;
use crate::{Result, instance};

/// At most so many times as long as the C program, on an idle machine.
const GOAL: f64 = 1.5;

const C_NOTHING: &str = "int main(void) { return 0; }\n";
const RUST_NOTHING: &str = "fn main() {}\n";
const C_FORK: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
int main(void) {
    double times[101];
    for (int i = 0; i < 101; i++) {
        struct timespec begin, end;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        pid_t child = fork();
        if (child == 0) _exit(0);
        if (child < 0 || waitpid(child, 0, 0) != child) return 1;
        clock_gettime(CLOCK_MONOTONIC, &end);
        times[i] = (end.tv_sec - begin.tv_sec) * 1e6 + (end.tv_nsec - begin.tv_nsec) / 1e3;
    }
    qsort(times, 101, sizeof times[0], compare);
    printf("%f\n", times[50]);
    return 0;
}
"#;

/// Something that is started again and again.
pub struct Contender {
    name: String,
    command: Command,
    /// Measure up to the first line of output instead of the end.
    first_line: bool,
    /// Whatever exit code it has is fine.
    any_code: bool,
    /// Microseconds.
    samples: Vec<f64>,
}

impl Contender {
    /// With `first_line`, what counts is the time up to the first line of output.
    pub fn new(name: &str, mut command: Command, first_line: bool) -> Self {
        let output = if first_line {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(Stdio::null());
        Self {
            name: name.to_owned(),
            command,
            first_line,
            any_code: false,
            samples: Vec::new(),
        }
    }

    /// For programs that end as they like.
    pub fn any_code(&mut self) {
        self.any_code = true;
    }

    /// What was measured, in microseconds.
    pub fn samples(&self) -> &[f64] {
        &self.samples
    }

    /// Starts it once and waits for its end.
    fn once(&mut self) -> Result<()> {
        let start = Instant::now();
        let failed = |error| format!("{}: {error}", self.name);
        let mut child = self.command.spawn().map_err(failed)?;
        let mut time = Duration::ZERO;
        if let Some(output) = child.stdout.take().filter(|_| self.first_line) {
            let mut line = String::new();
            BufReader::new(output)
                .read_line(&mut line)
                .map_err(failed)?;
            time = start.elapsed();
        }
        let status = child.wait().map_err(failed)?;
        if !self.first_line {
            time = start.elapsed();
        }
        if !status.success() && !self.any_code {
            return Err(format!("{}: {status}", self.name));
        }
        self.samples.push(micros(time));
        Ok(())
    }
}

/// Measures and prints.
pub fn run(setting: &Setting) -> Result<()> {
    let rounds = setting.pick(50, 15);
    let hello = setting.image("hello")?;
    let folder = setting.folder.join("boot");
    std::fs::create_dir(&folder).map_err(|error| error.to_string())?;

    let mut contenders = Vec::new();
    let peers: [(&str, Result<PathBuf>); 2] = [
        ("C program", c_program(&folder)),
        ("Rust program", compile_rust(&folder)),
    ];
    for (name, program) in peers {
        match program {
            Ok(program) => contenders.push(Contender::new(name, bare(&program), false)),
            Err(message) => println!("skipped: {name}: {message}"),
        }
    }
    let kiln = |arguments: &[&str]| {
        let mut command = setting.kiln();
        command.args(arguments);
        command
    };
    let run_hello = || {
        let mut command = kiln(&["run"]);
        command.arg(&hello);
        command
    };
    contenders.push(Contender::new("kiln version", kiln(&["version"]), false));
    contenders.push(Contender::new("kiln run hello", run_hello(), false));
    contenders.push(Contender::new(
        "kiln run hello, first line",
        run_hello(),
        true,
    ));

    measure(&mut contenders, rounds)?;
    println!("{rounds} rounds, microseconds");
    print(&contenders);
    match floor(&folder) {
        Ok(floor) => println!("fork, exit and wait alone: {} us", number(floor)),
        Err(message) => println!("skipped: fork, exit and wait alone: {message}"),
    }
    instance::end_all(&setting.kiln, &setting.folder)?;

    let peer = folder.join("nothing");
    match runc(setting, &folder, &peer) {
        Ok(command) => {
            let mut contenders = [
                Contender::new("C program", bare(&peer), false),
                Contender::new("kiln run hello", run_hello(), false),
                Contender::new("runc run, C program", command, false),
            ];
            measure(&mut contenders, setting.pick(20, 5))?;
            print(&contenders);
        }
        Err(message) => println!("skipped: runc: {message}"),
    }
    Ok(())
}

/// The first round warms caches and is thrown away.
pub fn measure(contenders: &mut [Contender], rounds: usize) -> Result<()> {
    for _ in 0..=rounds {
        for contender in &mut *contenders {
            contender.once()?;
        }
    }
    for contender in contenders {
        contender.samples.remove(0);
    }
    Ok(())
}

/// Prints what was measured. The ratio is to the first contender.
pub fn print(contenders: &[Contender]) {
    let reference = format!("to the {}", contenders[0].name);
    let mut table = Table::new(&["", "median us", "fastest us", &reference, "goal"]);
    for contender in contenders {
        let fastest = contender.samples.iter().copied().fold(f64::NAN, f64::min);
        let goal = contender.name == "kiln run hello";
        table.row([
            contender.name.clone(),
            number(figures::median(&contender.samples)),
            number(fastest),
            number(figures::ratio(&contender.samples, &contenders[0].samples)),
            if goal { number(GOAL) } else { String::new() },
        ]);
    }
    table.print();
}

/// A program without environment.
pub fn bare(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    command
}

/// A static C program that returns 0.
pub fn c_program(folder: &Path) -> Result<PathBuf> {
    compile_c(folder, "nothing", C_NOTHING)
}

fn compile_c(folder: &Path, name: &str, source: &str) -> Result<PathBuf> {
    let cc = process::need("cc", "gcc")?;
    let file = folder.join(format!("{name}.c"));
    std::fs::write(&file, source).map_err(|error| error.to_string())?;
    let program = folder.join(name);
    let mut compile = Command::new(cc);
    compile.args(["-O2", "-static", "-o"]).arg(&program);
    process::output(compile.arg(&file), PATIENCE)?;
    Ok(program)
}

fn compile_rust(folder: &Path) -> Result<PathBuf> {
    let rustc = process::need("rustc", "rustc")?;
    let file = folder.join("nothing.rs");
    std::fs::write(&file, RUST_NOTHING).map_err(|error| error.to_string())?;
    let program = folder.join("nothing-rust");
    let mut compile = Command::new(rustc);
    compile
        .args(["-O", "-C", "panic=abort", "-C", "strip=symbols"])
        .args(["-C", "target-feature=+crt-static"])
        .args(["-C", "relocation-model=static", "-o"])
        .arg(&program);
    process::output(compile.arg(&file), PATIENCE)?;
    Ok(program)
}

/// Microseconds of a `fork` whose child ends at once.
fn floor(folder: &Path) -> Result<f64> {
    let program = compile_c(folder, "fork", C_FORK)?;
    let text = process::output(&mut bare(&program), PATIENCE)?;
    text.trim()
        .parse()
        .map_err(|error| format!("{text}: {error}"))
}

/// The C program as a container: a bundle with one file and the configuration that runc itself suggests.
fn runc(setting: &Setting, folder: &Path, program: &Path) -> Result<Command> {
    let runc = process::need("runc", "runc")?;
    if !process::is_root() {
        return Err("needs root".to_owned());
    }
    let bundle = folder.join("bundle");
    let root = bundle.join("rootfs");
    let explain = |error: std::io::Error| error.to_string();
    std::fs::create_dir_all(&root).map_err(explain)?;
    std::fs::copy(program, root.join("nothing"))
        .map_err(|error| format!("no C program to run: {error}"))?;
    process::output(
        Command::new(&runc).arg("spec").current_dir(&bundle),
        PATIENCE,
    )?;
    let file = bundle.join("config.json");
    let config = std::fs::read_to_string(&file).map_err(explain)?;
    let config = config
        .replace("\"terminal\": true", "\"terminal\": false")
        .replace("\"sh\"", "\"/nothing\"");
    std::fs::write(&file, config).map_err(explain)?;
    let mut command = Command::new(runc);
    command
        .arg("--root")
        .arg(setting.folder.join("runc"))
        .args(["run", "--bundle"])
        .arg(&bundle)
        .arg(format!("kiln-bench-{}", std::process::id()));
    // Tells a machine that cannot run containers from one that is slow.
    process::output(&mut command, PATIENCE)?;
    Ok(command)
}
