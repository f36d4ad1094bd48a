//! Where Kiln runs with less than usual: as an ordinary user, without user namespaces, inside a container.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_system_tests::host::{find_program, give_to, is_root};
use kiln_system_tests::{Outcome, Running, Session, backend, guest, kiln, skip};

/// `nobody` on every distribution.
const NOBODY: u32 = 65534;

/// Copies of the command and an image where every user can read them.
struct Portable {
    session: Session,
    kiln: PathBuf,
    image: PathBuf,
}

impl Portable {
    fn new(guest_name: &str) -> Self {
        let session = Session::new();
        // By another process: a descriptor open for writing here would be inherited by whatever another test starts at
        // that moment, and the copy could not be executed for as long.
        let copied = Command::new("cp")
            .args([kiln(), &guest(guest_name)])
            .arg(session.dir())
            .status();
        assert!(copied.is_ok_and(|status| status.success()), "cp");
        let name = |path: &Path| session.file(&path.file_name().expect("a file").to_string_lossy());
        let (to_kiln, to_image) = (name(kiln()), name(&guest(guest_name)));
        Self {
            session,
            kiln: to_kiln,
            image: to_image,
        }
    }

    /// `kiln run` behind a program that takes something away.
    #[track_caller]
    fn run(&self, wrapper: &[&str], options: &str, args: &str) -> Outcome {
        let run = format!(
            "{} run {options} {} {args}",
            self.kiln.display(),
            self.image.display()
        );
        self.kiln(wrapper, run.split_whitespace())
    }

    #[track_caller]
    fn kiln<'a>(&self, wrapper: &[&'a str], words: impl Iterator<Item = &'a str>) -> Outcome {
        let (program, args) = wrapper.split_first().expect("a program");
        let program = find_program(&[program]).expect("looked for before");
        let args: Vec<&str> = args.iter().copied().chain(words).collect();
        Running::start(&mut self.session.wrapped(&program, args)).finish()
    }
}

const AS_NOBODY: &[&str] = &[
    "setpriv",
    "--reuid",
    "65534",
    "--regid",
    "65534",
    "--clear-groups",
];

#[test]
fn an_ordinary_user_runs_guests() {
    if backend::kind() == "kvm" {
        return skip("who may open /dev/kvm is tested in `kvm.rs`");
    }
    if !is_root() {
        return skip("the tests run as an ordinary user already");
    }
    if find_program(&["setpriv"]).is_none() {
        return skip("`setpriv` (util-linux) is not installed");
    }
    let portable = Portable::new("probe");
    give_to(&portable.session.dir().join("run"), NOBODY);
    portable.run(AS_NOBODY, "--name mine", "hello").succeeds();
    portable
        .run(AS_NOBODY, "--rm", "touch write 0")
        .ends_with(139);
    portable.run(AS_NOBODY, "--rm --strict", "hello").succeeds();
    // The state folder is nobody else's.
    let state = portable.session.state();
    let mode =
        std::os::unix::fs::MetadataExt::mode(&fs::metadata(&state).expect("the state folder"));
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    // Without XDG_RUNTIME_DIR there is a place too.
    let mut command = portable
        .session
        .wrapped(&find_program(&["setpriv"]).expect("found"), &AS_NOBODY[1..]);
    command
        .arg(&portable.kiln)
        .arg("ps")
        .env_remove("XDG_RUNTIME_DIR");
    Running::start(&mut command).finish().ends_with(0);
}

#[test]
fn an_ordinary_user_publishes_a_port() {
    if backend::kind() == "kvm" {
        return skip("who may open /dev/kvm is tested in `kvm.rs`");
    }
    if !is_root() || find_program(&["setpriv"]).is_none() {
        return skip("needs root and `setpriv` to become somebody else");
    }
    let portable = Portable::new("netprobe");
    give_to(&portable.session.dir().join("run"), NOBODY);
    let port = kiln_system_tests::host::free_port();
    let run = format!(
        "{} run -p 127.0.0.1:{port}:7 {} serve",
        portable.kiln.display(),
        portable.image.display()
    );
    let args: Vec<&str> = AS_NOBODY[1..]
        .iter()
        .copied()
        .chain(run.split_whitespace())
        .collect();
    let program = find_program(&["setpriv"]).expect("found");
    let mut running = Running::start(&mut portable.session.wrapped(&program, args));
    running.wait_for("serving");
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    std::io::Write::write_all(&mut stream, b"rootless").expect("written");
    std::io::Read::read_exact(&mut stream, &mut [0; 8]).expect("an echo");
}

#[test]
fn what_an_ordinary_user_may_not_do_is_told() {
    if !is_root() || find_program(&["setpriv"]).is_none() {
        return skip("needs root and `setpriv` to become somebody else");
    }
    let portable = Portable::new("netprobe");
    give_to(&portable.session.dir().join("run"), NOBODY);
    let start =
        fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    let mut cases = vec![("--net tap:kilntap0,ip=10.1.1.1/24", "kilntap0")];
    if start.trim().parse().is_ok_and(|port: u16| port > 81) {
        cases.push(("-p 127.0.0.1:81:7", "needs privileges"));
    }
    for (options, text) in cases {
        let outcome = portable.run(AS_NOBODY, options, "binds");
        outcome.ends_with(125).is_one_line_error().tells(text);
    }
    assert_eq!(portable.session.leftovers(), [""; 0], "left behind");
}

/// A user namespace in which no other can be made: what containers and hardened distributions do.
fn without_user_namespaces() -> Option<[&'static str; 6]> {
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
    let wrapper = ["unshare", "-Ur", "sh", "-c", script, "sh"];
    let tried = Command::new(wrapper[0])
        .args(&wrapper[1..])
        .args(["sh", "-c", "! unshare -U true"])
        .output();
    tried
        .is_ok_and(|output| output.status.success())
        .then_some(wrapper)
}

#[test]
fn without_user_namespaces_it_says_so_and_goes_on() {
    let Some(wrapper) = without_user_namespaces() else {
        return skip("a user namespace without further ones cannot be made here");
    };
    let portable = Portable::new("probe");
    portable.run(&wrapper, "--name less", "hello").succeeds();
    let inspect = format!("{} inspect less", portable.kiln.display());
    let shown = portable.kiln(&wrapper, inspect.split_whitespace());
    let shown: serde_json::Value = serde_json::from_str(&shown.ends_with(0).text()).expect("JSON");
    let protections = shown[0]["Protections"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let of = |name: &str| {
        protections
            .iter()
            .find(|p| p["Name"] == name)
            .cloned()
            .unwrap_or_default()
    };
    // Who is root there can have a process namespace, but is root only there and cannot become nobody.
    assert_eq!(of("process namespace")["InForce"], true, "{shown:#}");
    for name in ["user namespace", "not run as root"] {
        assert_eq!(of(name)["InForce"], false, "{shown:#}");
        assert!(
            of(name)["Missing"]
                .as_str()
                .is_some_and(|reason| !reason.is_empty()),
            "{shown:#}"
        );
    }
    assert_eq!(of("seccomp filter")["InForce"], true, "{shown:#}");
    // The sandbox is as tight as ever.
    portable.run(&wrapper, "--rm", "syscall 59").ends_with(159);
    if !backend::is_machine() {
        portable
            .run(&wrapper, "--rm", "gate-syscall 257")
            .ends_with(159);
    }
}

#[test]
fn strict_refuses_where_a_protection_is_missing() {
    let Some(wrapper) = without_user_namespaces() else {
        return skip("a user namespace without further ones cannot be made here");
    };
    let portable = Portable::new("probe");
    let outcome = portable.run(&wrapper, "--strict", "hello");
    outcome
        .ends_with(125)
        .is_one_line_error()
        .tells("--strict")
        .tells("unprivileged user");
    assert_eq!(portable.session.leftovers(), [""; 0], "left behind");
}

#[test]
fn low_limits_do_not_hurt() {
    let portable = Portable::new("probe");
    if find_program(&["prlimit"]).is_none() {
        return skip("`prlimit` (util-linux) is not installed");
    }
    portable
        .run(&["prlimit", "--nofile=32"], "--rm", "hello")
        .succeeds();
    portable
        .run(&["prlimit", "--stack=65536"], "--rm", "hello")
        .succeeds();
    portable
        .run(&["prlimit", "--core=unlimited"], "--rm", "touch write 0")
        .ends_with(139);
    let cores = fs::read_dir(portable.session.dir())
        .expect("a folder")
        .filter_map(Result::ok);
    assert!(
        !cores
            .map(|e| e.file_name())
            .any(|name| name.to_string_lossy().starts_with("core"))
    );
    // Too few descriptors for a program with a link: an error that says so, no crash.
    let outcome = portable.run(&["prlimit", "--nofile=4"], "--rm", "hello");
    assert!(outcome.code == 0 || outcome.code == 125, "{outcome}");
}

/// With signals blocked and ignored as some supervisors leave them.
#[test]
fn inherited_signal_settings_do_not_matter() {
    let portable = Portable::new("probe");
    let Some(env) = find_program(&["env"]) else {
        return skip("`env` is not installed");
    };
    let run = format!(
        "{} run --rm {} wait",
        portable.kiln.display(),
        portable.image.display()
    );
    let args: Vec<&str> = ["--ignore-signal", "--block-signal"]
        .into_iter()
        .chain(run.split_whitespace())
        .collect();
    let mut running = Running::start(&mut portable.session.wrapped(&env, args));
    running.wait_for("ready");
    running.signal(rustix::process::Signal::TERM);
    running.finish().ends_with(143);
}
