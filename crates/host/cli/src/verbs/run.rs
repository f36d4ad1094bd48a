//! `kiln run`: start a guest, in the foreground or in the background.
//!
//! This is the path whose cost counts: see `bench/` for what it may take.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_image::Config;
use kiln_monitor::Spec;
use kiln_monitor::console::output::stdout_failure;
use kiln_monitor::devices::net::NetOption;
use kiln_monitor::error::EXIT_KILN;
use kiln_monitor::run::{detached, foreground};
use kiln_monitor::size::Size;
use kiln_monitor::spec::{BlockOption, PortForward, VolumeOption};

use crate::exit::Failure;
use crate::target::Target;
use crate::{program, style, target};

/// Arguments of `kiln run`.
#[allow(clippy::struct_excessive_bools, reason = "they are options")]
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Forward a port of the host: [ADDR:]HOST:GUEST[/udp]
    #[arg(short = 'p', long, value_name = "PORTS")]
    publish: Vec<String>,
    /// Run in the background and print the instance's id
    #[arg(short = 'd', long)]
    detach: bool,
    /// Set an environment variable: NAME=value, or NAME to pass the present one on
    #[arg(short = 'e', long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Read environment variables from a file, one NAME=value a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Name of the instance [default: a made-up one]
    #[arg(long)]
    name: Option<String>,
    /// Remove the instance when it has ended
    #[arg(long)]
    rm: bool,
    /// Memory of the guest, in bytes or with K, M or G [default: 64M, for Linux programs 1G]
    #[arg(short = 'm', long, value_name = "SIZE")]
    memory: Option<String>,
    /// Connect a network device: [NAME=]user, none, tap:IFNAME or packet:IFNAME[,ip=A/P][,gw=A]
    #[arg(long, visible_alias = "network", value_name = "LINK")]
    net: Vec<String>,
    /// Attach a disk: NAME=FILE[:ro]
    #[arg(long, value_name = "NAME=FILE")]
    block: Vec<String>,
    /// What runs the guest: auto, process, kvm, qemu[,accel=A][,machine=M], firecracker or cloud-hypervisor
    /// [default: auto, or what the environment says]
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// Refuse to start when a protection is not available on this host
    #[arg(long)]
    strict: bool,
    /// Seconds that the guest may take to end when asked to [default: 10]
    #[arg(long, value_name = "SECONDS")]
    stop_timeout: Option<u64>,
    /// Show no progress while building
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Let a program use a folder of the host: FOLDER:PATH[:ro]
    #[arg(short = 'v', long, value_name = "FOLDER:PATH")]
    volume: Vec<String>,
    /// Write a core file if a signal ends the program: to FILE, or to a new file in FOLDER
    #[arg(long, value_name = "FILE|FOLDER")]
    core: Option<PathBuf>,
    #[command(flatten)]
    program: program::Options,
    /// Print the program's system calls
    #[arg(long)]
    strace: bool,
    /// Report at the end what the program used
    #[arg(long, hide = true)]
    report: bool,
    /// Which of a crate's programs to run
    #[arg(long, value_name = "NAME")]
    bin: Option<String>,
    /// The standard input is always the program's own
    #[arg(short = 'i', long, hide = true)]
    interactive: bool,
    /// The program gets a terminal if there is one
    #[arg(short = 't', long, hide = true)]
    tty: bool,
    /// A program, an image file or the folder of a Rust crate, then the program's arguments
    #[arg(
        value_names = ["TARGET", "ARGS"],
        num_args = 1..,
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    target: Vec<String>,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let spec = spec(arguments)?;
    if arguments.detach {
        style::line(&detached(&spec)?.id)?;
        return Ok(0);
    }
    let code = foreground(&spec)?;
    match stdout_failure() {
        Some(error) => Err(output_lost(&spec, code, &error)),
        None => Ok(code),
    }
}

/// Not all of the guest's output could be written. A guest that failed by itself keeps its exit code.
fn output_lost(spec: &Spec, code: u8, error: &impl Display) -> Failure {
    let text = format!("cannot write the guest's output: {error}");
    Failure::Message {
        text: if spec.remove {
            text
        } else {
            text + "; `kiln logs` has it all"
        },
        code: if code == 0 { EXIT_KILN } else { code },
    }
}

/// The arguments as a [`Spec`]. Options are checked before a crate is built: that takes long.
fn spec(arguments: &Arguments) -> Result<Spec, Failure> {
    let mut spec = options(arguments)?;
    let target = arguments.target.first().map_or("", String::as_str);
    match target::find(target, arguments.bin.as_deref(), arguments.quiet)? {
        Target::Image(image) => {
            arguments.program.packs_nothing(target)?;
            if let Some(config) = program::config_of(&image)? {
                for_program(arguments, &config, &mut spec)?;
            }
            spec.image = image;
        }
        Target::Program(word) => {
            let request = arguments.program.request(word, &spec.args, &spec.env)?;
            let (image, config) = program::image(&request, arguments.quiet)?;
            spec.image = image;
            for_program(arguments, &config, &mut spec)?;
        }
    }
    Ok(spec)
}

/// What the options say; the image is TARGET as it stands there.
fn options(arguments: &Arguments) -> Result<Spec, Failure> {
    // All words from TARGET on are one list for clap: so it leaves options behind TARGET to the program.
    let Some((target, args)) = arguments.target.split_first() else {
        return Err(Failure::new("TARGET is missing"));
    };
    if target.starts_with('-') {
        return Err(Failure::new(format!(
            "unknown option {target}: `kiln run --help` lists them"
        )));
    }
    let mut spec = Spec::new(target);
    spec.name.clone_from(&arguments.name);
    spec.remove = arguments.rm;
    spec.strict = arguments.strict;
    spec.args = args.to_vec();
    if let Some(memory) = &arguments.memory {
        spec.memory = memory_size(memory)?;
    }
    let default = std::env::var("KILN_BACKEND")
        .ok()
        .filter(|name| !name.is_empty());
    if let Some(backend) = arguments.backend.as_ref().or(default.as_ref()) {
        spec.backend = backend.parse()?;
    }
    if let Some(seconds) = arguments.stop_timeout {
        spec.stop_timeout = Duration::from_secs(seconds);
    }
    for text in &arguments.publish {
        let ports = PortForward::parse_list(text).map_err(kiln_monitor::Error::from)?;
        spec.ports.extend(ports);
    }
    for text in &arguments.net {
        spec.nets.push(text.parse::<NetOption>()?);
    }
    for text in &arguments.block {
        spec.blocks.push(text.parse::<BlockOption>()?);
    }
    for text in &arguments.volume {
        spec.volumes.push(text.parse::<VolumeOption>()?);
    }
    spec.core.clone_from(&arguments.core);
    for file in &arguments.env_file {
        env_file(file, &mut spec.env)?;
    }
    for text in &arguments.env {
        spec.env.extend(env(text));
    }
    spec.check()?;
    Ok(spec)
}

/// Makes the spec that of a Linux program: the personality's options, then the program and its arguments.
fn for_program(arguments: &Arguments, config: &Config, spec: &mut Spec) -> Result<(), Failure> {
    let chosen = arguments.program.user()?;
    let (uid, gid) = chosen.unwrap_or((config.uid, config.gid));
    let mut options = config.options.clone();
    if arguments.strace {
        options.push("--strace".to_owned());
    }
    if arguments.report {
        options.push("--report".to_owned());
    }
    if !config.syscalls.is_empty() {
        options.push(format!("--only-calls={}", config.syscalls.join(",")));
    }
    let chosen = arguments.program.workdir()?;
    let cwd = chosen.unwrap_or(&config.cwd);
    if cwd != "/" {
        options.push(format!("--cwd={cwd}"));
    }
    for (name, id) in [("uid", uid), ("gid", gid)] {
        if id != 0 {
            options.push(format!("--{name}={id}"));
        }
    }
    if let Some(name) = &arguments.program.hostname {
        options.push(format!("--hostname={name}"));
    }
    options.push("--".to_owned());
    options.extend_from_slice(&config.entrypoint);
    if spec.args.is_empty() {
        options.extend_from_slice(&config.args);
    }
    options.append(&mut spec.args);
    spec.args = options;
    let mut env = program::environment(if uid == 0 { "/root" } else { "/" });
    env.extend_from_slice(&config.env);
    env.append(&mut spec.env);
    spec.env = env;
    if arguments.memory.is_none() {
        spec.memory = config
            .memory
            .map_or(program::DEFAULT_MEMORY, Size::from_bytes);
    }
    Ok(())
}

pub(super) fn memory_size(text: &str) -> Result<Size, Failure> {
    text.parse().map_err(|error: kiln_monitor::size::NotASize| {
        kiln_monitor::Error::option("--memory", text, error.to_string()).into()
    })
}

/// One `--env`: a bare name takes its value from here, and is left out if there is none, as with docker.
pub(super) fn env(text: &str) -> Option<String> {
    if text.contains('=') || text.is_empty() {
        return Some(text.to_owned());
    }
    std::env::var(text)
        .ok()
        .map(|value| format!("{text}={value}"))
}

pub(super) fn env_file(path: &Path, into: &mut Vec<String>) -> Result<(), Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| kiln_monitor::Error::file("read", path, error))?;
    let lines = text.lines().map(str::trim_start);
    into.extend(
        lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .filter_map(env),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, Command, FromArgMatches};

    fn arguments(args: &[&str]) -> Result<Arguments, Failure> {
        let command = Arguments::augment_args(Command::new("run").no_binary_name(true));
        let matches = command.try_get_matches_from(args)?;
        Ok(Arguments::from_arg_matches(&matches)?)
    }

    fn parse(args: &[&str]) -> Result<Spec, Failure> {
        spec(&arguments(args)?)
    }

    #[test]
    fn options_come_before_the_target_and_arguments_behind_it() {
        let words = [
            "-m", "2M", "-p", "8080:80", "--rm", "x.kiln", "-p", "--", "a",
        ];
        let spec = options(&arguments(&words).unwrap()).unwrap();
        assert_eq!(spec.memory, Size::from_bytes(2 << 20));
        assert_eq!(spec.ports.len(), 1);
        assert!(spec.remove);
        assert_eq!(spec.args, ["-p", "--", "a"]);
    }

    #[test]
    fn bad_options_are_told_in_one_line_before_anything_is_built() {
        for (args, text) in [
            (
                &["-m", "lots", "nothing"][..],
                "--memory \"lots\": not a size",
            ),
            (&["-v", "named:/b", "nothing"], "volumes have no names here"),
            (&["--backend", "xen", "nothing"], "not in this version"),
            (&["--backend", "vmware", "nothing"], "use auto, process"),
            (
                &["--backend", "qemu,accel=x", "nothing"],
                "accel=kvm or tcg",
            ),
            (&["-e", "=x", "nothing"], "--env"),
            (&["--net", "x", "nothing"], "--net"),
            (&["./nothing"], "no such program, image or folder"),
            (&["surely-nothing"], "no such program"),
            (&["--memroy", "2M", "x"], "unknown option --memroy"),
            (&["--bin", "a", "true"], "--bin: true is not the folder"),
            (&["--bin", "a", "x.kiln"], "--bin: x.kiln is not the folder"),
            (&["--include", "/etc", "x.kiln"], "--include: x.kiln"),
            (&["--exclude", "x", "x.kiln"], "--exclude: x.kiln"),
            (
                &["--include", "/kiln-nothing", "true"],
                "--include /kiln-nothing: no such file",
            ),
        ] {
            let Err(Failure::Message { text: message, .. }) = parse(args) else {
                panic!("{args:?}");
            };
            assert!(message.contains(text), "{message}");
            assert!(!message.contains('\n'));
        }
    }

    #[test]
    fn exit_codes_are_dockers() {
        assert_eq!(parse(&["nothing"]).unwrap_err().code(), 127);
        assert_eq!(parse(&["/"]).unwrap_err().code(), 126);
        assert_eq!(parse(&["-m", "x", "nothing"]).unwrap_err().code(), 125);
    }

    #[test]
    fn a_bare_environment_name_is_passed_on() {
        assert_eq!(env("A=b").as_deref(), Some("A=b"));
        assert_eq!(env("KILN_TEST_SURELY_UNSET"), None);
        assert!(env("PATH").unwrap().starts_with("PATH="));
    }
}
