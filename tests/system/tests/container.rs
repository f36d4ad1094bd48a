//! Inside a container, with the engine's default seccomp profile and capabilities.
//!
//! Uses the machine's Docker if one answers; else, as root and with `dockerd` and `containerd` installed, starts both by
//! hand with folders and a network namespace of their own. The container's image is made of nothing but the command and
//! a guest: the command is linked statically.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use kiln_system_tests::host::{eventually, find_program};
use kiln_system_tests::netns::Netns;
use kiln_system_tests::{Outcome, Running, Session, guest, kiln, skip};

/// A Docker daemon that answers.
struct Docker {
    client: PathBuf,
    host: Option<String>,
    session: Session,
    daemons: Vec<Running>,
    #[allow(dead_code, reason = "kept until the daemons have ended")]
    netns: Option<Netns>,
}

impl Docker {
    fn find() -> Result<Self, String> {
        // Debian's client, if it is there, fits Debian's daemon.
        let client = Some(PathBuf::from("/usr/bin/docker")).filter(|path| path.is_file());
        let client = client
            .or_else(|| find_program(&["docker"]))
            .ok_or("`docker` is not installed")?;
        let docker = Self {
            client,
            host: None,
            session: Session::new(),
            daemons: Vec::new(),
            netns: None,
        };
        if docker.answers() {
            Ok(docker)
        } else {
            docker.start()
        }
    }

    fn answers(&self) -> bool {
        let mut command = self.command(&["version"]);
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Starts containerd and dockerd. In a namespace of their own, since dockerd changes the network; entered by
    /// `nsenter`, since `ip netns exec` hides the control groups.
    fn start(mut self) -> Result<Self, String> {
        let (Some(dockerd), Some(containerd), Some(nsenter)) = (
            find_program(&["dockerd"]),
            find_program(&["containerd"]),
            find_program(&["nsenter"]),
        ) else {
            return Err(
                "no Docker daemon answers, and `dockerd` and `containerd` are not installed".into(),
            );
        };
        let netns = Netns::new()?;
        let folder = self.session.dir().display().to_string();
        let config = format!(
            "version = 2\nroot = \"{folder}/cd-root\"\nstate = \"{folder}/cd-state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{folder}/cd.sock\"\n"
        );
        fs::write(self.session.file("containerd.toml"), config)
            .map_err(|error| error.to_string())?;
        let socket = self.session.file("docker.sock").display().to_string();
        let run = |program: PathBuf, args: String| {
            let mut command = Command::new(&nsenter);
            command
                .arg(format!("--net={}", netns.path()))
                .arg(program)
                .args(args.split_whitespace());
            Running::start(&mut command)
        };
        self.daemons
            .push(run(containerd, format!("-c {folder}/containerd.toml")));
        eventually("containerd is there", || {
            self.session.file("cd.sock").exists()
        });
        self.daemons.push(run(
            dockerd,
            format!(
                "--containerd {folder}/cd.sock -H unix://{socket} --data-root {folder}/data --exec-root {folder}/exec \
                 --pidfile {folder}/docker.pid --bridge=none --iptables=false"
            ),
        ));
        self.host = Some(format!("unix://{socket}"));
        for _ in 0..200 {
            if self.answers() {
                self.netns = Some(netns);
                return Ok(self);
            }
            if self.daemons.iter_mut().any(|daemon| !daemon.is_running()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("dockerd does not start on this machine".into())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.client);
        command.args(args).env("DOCKER_BUILDKIT", "0");
        if let Some(host) = &self.host {
            command.env("DOCKER_HOST", host);
        }
        command
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> Outcome {
        Running::start(&mut self.command(args)).finish()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // Docker first, so that it can tell containerd; then whatever they left mounted.
        for daemon in self.daemons.drain(..).rev() {
            daemon.signal(rustix::process::Signal::TERM);
            let _ = daemon.finish_within(Duration::from_secs(20));
        }
        let folder = self.session.dir().display().to_string();
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let inside = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|path| path.starts_with(&folder));
        for path in inside {
            let _ = Command::new("umount").args(["-l", path]).status();
        }
    }
}

#[test]
fn guests_run_inside_a_container() {
    let docker = match Docker::find() {
        Ok(docker) => docker,
        Err(reason) => return skip(reason),
    };
    let context = docker.session.file("context");
    fs::create_dir(&context).expect("a folder");
    fs::copy(kiln(), context.join("kiln")).expect("a copy");
    fs::copy(guest("probe"), context.join("probe.kiln")).expect("a copy");
    fs::copy(guest("netprobe"), context.join("net.kiln")).expect("a copy");
    let recipe = "FROM scratch\nCOPY kiln /bin/\nCOPY probe.kiln net.kiln /var/\nENV XDG_RUNTIME_DIR=/var\nENTRYPOINT [\"/bin/kiln\"]\n";
    fs::write(context.join("Dockerfile"), recipe).expect("a file");
    let image = format!("kiln-test-{}", std::process::id());
    let built = docker.run(&[
        "build",
        "-q",
        "-t",
        &image,
        context.to_str().expect("UTF-8"),
    ]);
    built.ends_with(0);
    let name = format!("{image}-c");
    let run = |options: &[&str], args: &[&str]| {
        let all: Vec<&str> = ["run", "--rm", "--network", "none"]
            .iter()
            .chain(options)
            .chain(&[image.as_str()])
            .chain(args)
            .copied()
            .collect();
        docker.run(&all)
    };
    // As root and as somebody else, with the default profile; read-only; and with all capabilities dropped.
    for options in [
        &[][..],
        &[
            "--user",
            "1000:1000",
            "-e",
            "XDG_RUNTIME_DIR=/tmp",
            "--tmpfs",
            "/tmp",
        ],
        &[
            "--read-only",
            "-e",
            "XDG_RUNTIME_DIR=/tmp",
            "--tmpfs",
            "/tmp",
        ],
        &["--cap-drop", "ALL", "--security-opt", "no-new-privileges"],
        &["--memory", "64m", "--pids-limit", "20"],
    ] {
        run(options, &["run", "/var/probe.kiln", "hello"]).succeeds();
        run(options, &["run", "/var/probe.kiln", "syscall", "59"])
            .ends_with(159)
            .tells("system call 59");
        run(options, &["run", "/var/probe.kiln", "touch", "write", "0"])
            .ends_with(139)
            .tells("page fault");
        run(options, &["run", "/var/net.kiln", "binds"]).succeeds();
    }
    // A container's stop is the guest's.
    let mut running = Running::start(&mut docker.command(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--name",
        &name,
        &image,
        "run",
        "/var/probe.kiln",
        "graceful",
        "7",
    ]));
    running.wait_for("ready");
    docker.run(&["stop", "-t", "5", &name]).ends_with(0);
    running.finish().ends_with(7).prints("signal 15");
    // Strict mode speaks of what the engine does not grant, or runs.
    let strict = run(&[], &["run", "--strict", "/var/probe.kiln", "hello"]);
    assert!(
        strict.code == 0 || strict.code == 125 && strict.stderr.contains("--strict"),
        "{strict}"
    );
    docker.run(&["rmi", "-f", &image]).ends_with(0);
}
