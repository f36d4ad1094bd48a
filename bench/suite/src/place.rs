//! Where load and servers meet: two network namespaces, or the host's loopback.
//!
//! ```text
//!   near namespace                          far namespace
//!   load, loopback: kiln user, nginx        nginx
//!   kilnt0  10.71.0.1 ── guest 10.71.0.2
//!   kilnv0  10.72.0.1 ──────────────────── kilnv1 10.72.0.2
//! ```
//!
//! A namespace lives as long as a process in it that sleeps, so nothing is left behind when that process is ended.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::janitor::Kept;
use crate::process::{self, PATIENCE};
use crate::setting::Setting;

/// The tap device that the guest gets.
pub const TAP: &str = "kilnt0";
/// Where the guest behind the tap device listens.
pub const TAP_GUEST: SocketAddr = at(Ipv4Addr::new(10, 71, 0, 2), 80);
/// Where nginx behind the veth pair listens.
pub const VETH_PEER: SocketAddr = at(Ipv4Addr::new(10, 72, 0, 2), 80);

/// Some hosts have another default whose pacing halves what a kernel sends over links like these.
const CONGESTION_CONTROL: &str = "reno";

const SYSCTL: &str = "/proc/sys/net/ipv4";

/// Seconds after which a namespace goes by itself.
const LIFE: &str = "600";

/// An address from its parts.
pub const fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(ip), port)
}

/// Namespaces, or none.
pub struct Place {
    namespaces: Option<(Namespace, Namespace)>,
    has_tap: bool,
}

/// A network namespace with reno as congestion control. Gone when this is dropped and no process is left in it.
pub struct Namespace {
    sleeper: Kept,
}

impl Place {
    /// The host's own loopback.
    pub fn host() -> Self {
        Self {
            namespaces: None,
            has_tap: false,
        }
    }

    /// Two namespaces with links. Needs root. Without `/dev/net/tun` there is no tap device.
    pub fn namespaces(setting: &Setting) -> Result<Self> {
        let (near, far) = (Namespace::new(setting)?, Namespace::new(setting)?);
        near.ip("link set lo up")?;
        let peer = far.sleeper.id();
        near.ip(&format!(
            "link add kilnv0 type veth peer name kilnv1 netns {peer}"
        ))?;
        near.ip("addr add 10.72.0.1/24 dev kilnv0")?;
        near.ip("link set kilnv0 up")?;
        far.ip("addr add 10.72.0.2/24 dev kilnv1")?;
        far.ip("link set kilnv1 up")?;
        let tap = near.tap();
        if let Err(message) = &tap {
            println!("skipped: tap: {message}");
        }
        Ok(Self {
            namespaces: Some((near, far)),
            has_tap: tap.is_ok(),
        })
    }

    /// True if nobody else is on these networks.
    pub fn is_ours(&self) -> bool {
        self.namespaces.is_some()
    }

    /// True if a guest can be attached to [`TAP`].
    pub fn has_tap(&self) -> bool {
        self.has_tap
    }

    /// The same call where the load is.
    pub fn near(&self, command: &Command) -> Command {
        within(self.namespaces.as_ref().map(|(near, _)| near), command)
    }

    /// The same call behind the veth pair.
    pub fn far(&self, command: &Command) -> Command {
        within(self.namespaces.as_ref().map(|(_, far)| far), command)
    }

    /// The namespace where the load is, and the one behind the veth pair.
    pub fn both(&self) -> Result<(&Namespace, &Namespace)> {
        let (near, far) = self.namespaces.as_ref().ok_or("needs root")?;
        Ok((near, far))
    }

    /// The congestion control that kernels' sockets use here. Guests bring their own.
    pub fn congestion_control(&self) -> Result<String> {
        let mut cat = Command::new("cat");
        cat.arg(format!("{SYSCTL}/tcp_congestion_control"));
        let name = process::output(&mut self.near(&cat), PATIENCE)?;
        let whose = if self.is_ours() {
            "in namespaces of the benchmark's own"
        } else {
            "on this host's loopback"
        };
        Ok(format!("{} {whose}", name.trim()))
    }

    /// The length of a page of a server in the namespaces.
    pub fn fetch(&self, setting: &Setting, address: SocketAddr, path: &str) -> Result<usize> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut fetch = Command::new(program);
        fetch
            .current_dir(&setting.folder)
            .args(["fetch", &address.to_string(), path]);
        let text = process::output(&mut self.near(&fetch), PATIENCE)?;
        text.trim()
            .parse()
            .map_err(|error| format!("{text}: {error}"))
    }
}

impl Namespace {
    /// An empty one. Needs root.
    pub fn new(setting: &Setting) -> Result<Self> {
        let unshare = process::need("unshare", "util-linux")?;
        let sleeper = setting.keep(Command::new(unshare).args(["--net", "sleep", LIFE]))?;
        let namespace = Self { sleeper };
        namespace.wait()?;
        namespace.sysctl("tcp_congestion_control", CONGESTION_CONTROL)?;
        // A connection for each request takes more ports than the default leaves.
        namespace.sysctl("ip_local_port_range", "1024 65000")?;
        namespace.sysctl("tcp_tw_reuse", "1")?;
        Ok(namespace)
    }

    /// Until the process has left the namespace it came from.
    fn wait(&self) -> Result<()> {
        let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net"));
        let own = link("self").map_err(|error| error.to_string())?;
        let pid = self.sleeper.id().to_string();
        let deadline = Instant::now() + Duration::from_secs(5);
        while link(&pid).is_ok_and(|theirs| theirs == own) {
            if Instant::now() > deadline {
                return Err("this host does not give a network namespace".to_owned());
            }
            thread::sleep(Duration::from_millis(1));
        }
        link(&pid)
            .map(drop)
            .map_err(|error| format!("no network namespace: {error}"))
    }

    /// The file that stands for it.
    pub fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.sleeper.id())
    }

    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path()));
        command
    }

    /// Runs `ip` in it.
    pub fn ip(&self, words: &str) -> Result<()> {
        let ip = process::need("ip", "iproute2")?;
        process::output(self.enter().arg(ip).args(words.split(' ')), PATIENCE).map(drop)
    }

    /// The same call in it.
    pub fn within(&self, command: &Command) -> Command {
        within(Some(self), command)
    }

    /// Sets a variable of `net.ipv4`. The file is that of the namespace in which it is opened.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let script = "echo \"$1\" > \"$2\"";
        let file = format!("{SYSCTL}/{name}");
        let mut shell = self.enter();
        shell.args(["sh", "-c", script, "sh", value, &file]);
        process::output(&mut shell, PATIENCE).map(drop)
    }

    fn tap(&self) -> Result<()> {
        self.ip(&format!("tuntap add {TAP} mode tap vnet_hdr"))?;
        self.ip(&format!("addr add 10.71.0.1/24 dev {TAP}"))?;
        self.ip(&format!("link set {TAP} up"))
    }
}

/// The same call in a namespace, with the same folder and environment, except that an environment is not cleared.
fn within(namespace: Option<&Namespace>, command: &Command) -> Command {
    let mut whole = namespace.map_or_else(|| Command::new("env"), Namespace::enter);
    whole.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => whole.env(name, value),
            None => whole.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        whole.current_dir(folder);
    }
    whole
}

/// An address on the host's loopback where nobody listens at the moment.
pub fn free_port() -> Result<SocketAddr> {
    let explain = |error: std::io::Error| error.to_string();
    let listener = TcpListener::bind(at(Ipv4Addr::LOCALHOST, 0)).map_err(explain)?;
    listener.local_addr().map_err(explain)
}
