//! Goodput over a link that loses and delays: the guest, the kernel with reno, and with cubic where it may be had, send
//! through the same relay with the same seeds to the same receiver.
//!
//! ```text
//! guest ── kilnt0 ┐
//!                 near (forwards) ── kilnla ── lossy ── kilnlb   receiver's namespace
//! far ──── kilnv0 ┘
//! ```
//!
//! The relay is the program `lossy` of the package `kiln-lossy`, as this program's neighbour or as the variable
//! `KILN_LOSSY` names it. Its taps have no offloads, so each loss is that of one segment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::Result;
use crate::figures::{self, Table, number};
use crate::instance::Instance;
use crate::janitor::Kept;
use crate::place::{self, Namespace, Place};
use crate::process::{self, PATIENCE};
use crate::setting::Setting;
use crate::web;

/// The relay's two devices: of the namespace that forwards, and of the receiver's.
const TAPS: (&str, &str) = ("kilnla", "kilnlb");
/// Milliseconds each way.
const DELAY: u32 = 10;
/// Percent of the packets, each way.
const LOSSES: [u32; 3] = [0, 1, 5];
/// Where contenders send from.
const GUEST_PORT: u16 = 19;
const ALGORITHMS: [(&str, u16); 2] = [("reno", 20), ("cubic", 21)];
/// How long a run may take beyond its time.
const SLACK: Duration = Duration::from_secs(30);
/// How often a device that somebody has just left may be busy.
const BUSY: u32 = 20;

const MEGABYTE: f64 = 1e6;

/// Measures and prints.
pub fn run(setting: &Setting, place: &Place) -> Result<()> {
    let relay = match relay_program() {
        Ok(relay) => relay,
        Err(message) => {
            println!("skipped: {message}");
            return Ok(());
        }
    };
    if !place.has_tap() {
        return Ok(());
    }
    let receiver = Namespace::new(setting)?;
    connect(place, &receiver)?;
    let image = setting.image_of("tests/guests", "netload")?;
    let link = format!(
        "tap:{},ip={}/24,gw=10.71.0.1",
        place::TAP,
        place::TAP_GUEST.ip()
    );
    let port = GUEST_PORT.to_string();
    let _guest = Instance::start(
        setting,
        place.near(&setting.kiln()),
        &["--net", &link, &image.to_string_lossy(), "source", &port],
    )?;
    let mut senders = vec![SocketAddr::new(place::TAP_GUEST.ip(), GUEST_PORT)];
    let mut peers = Vec::new();
    for (algorithm, port) in ALGORITHMS {
        match peer(setting, place, algorithm, port) {
            Ok(peer) => {
                peers.push((algorithm, peer));
                senders.push(SocketAddr::new(place::VETH_PEER.ip(), port));
            }
            Err(message) => println!("skipped: linux with {algorithm}: {message}"),
        }
    }
    let mut table = Table::new(&["goodput, delay 10 ms each way", "MB/s", "kiln to it"]);
    for loss in LOSSES {
        let mut rates = vec![Vec::new(); senders.len()];
        for seed in 1..=web::pairs(setting) {
            for (sender, rates) in senders.iter().zip(&mut rates) {
                let relay = Relay {
                    program: &relay,
                    loss,
                    seed,
                };
                rates.push(relay.measure(setting, place, &receiver, *sender)?);
            }
        }
        let names = ["kiln".to_owned()]
            .into_iter()
            .chain(peers.iter().map(|(name, _)| format!("linux, {name}")));
        for (name, sent) in names.zip(&rates) {
            table.row([
                format!("{loss} % lost, {name}"),
                number(figures::median(sent)),
                number(figures::ratio(&rates[0], sent)),
            ]);
        }
    }
    table.print();
    Ok(())
}

/// The relay, or why there is none.
fn relay_program() -> Result<PathBuf> {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.join("lossy"));
    std::env::var_os("KILN_LOSSY")
        .map(PathBuf::from)
        .or_else(beside)
        .filter(|path| path.is_file())
        .ok_or_else(|| "no relay: build it with `cargo build --release -p kiln-lossy`".to_owned())
}

/// Makes the relay's devices and the routes to and from them.
fn connect(place: &Place, receiver: &Namespace) -> Result<()> {
    let (near, far) = place.both()?;
    let (a, b) = TAPS;
    for (namespace, tap, address) in [(near, a, "10.73.0.1/24"), (receiver, b, "10.73.0.2/24")] {
        namespace.ip("link set lo up")?;
        namespace.ip(&format!("tuntap add {tap} mode tap"))?;
        namespace.ip(&format!("addr add {address} dev {tap}"))?;
        namespace.ip(&format!("link set {tap} up"))?;
    }
    near.sysctl("ip_forward", "1")?;
    far.ip("route add default via 10.72.0.1")?;
    receiver.ip("route add default via 10.73.0.1")
}

/// The kernel as a sender, behind the veth pair.
fn peer(setting: &Setting, place: &Place, algorithm: &str, port: u16) -> Result<Kept> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut allows = Command::new(&program);
    allows.args(["stream", "allows", algorithm]);
    process::output(&mut place.far(&allows), PATIENCE)?;
    let mut source = Command::new(&program);
    source.args(["stream", "source", &port.to_string(), algorithm]);
    setting.keep(&mut place.far(&source))
}

/// The relay for one run.
struct Relay<'p> {
    program: &'p PathBuf,
    loss: u32,
    seed: usize,
}

impl Relay<'_> {
    /// Bytes per second, in millions, that reach the receiver.
    fn measure(
        &self,
        setting: &Setting,
        place: &Place,
        receiver: &Namespace,
        sender: SocketAddr,
    ) -> Result<f64> {
        let (near, _) = place.both()?;
        let _relay = self.start(setting, near, receiver)?;
        let seconds = setting.pick(5, 2);
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut drain = Command::new(program);
        drain.args(["stream", "drain", &sender.to_string(), &seconds.to_string()]);
        let limit = Duration::from_secs(seconds) + SLACK;
        let text = process::output(&mut receiver.within(&drain), limit)?;
        let (bytes, micros) = text.trim().split_once(' ').ok_or("no figures")?;
        let number = |text: &str| text.parse::<f64>().map_err(|error| error.to_string());
        Ok(number(bytes)? / MEGABYTE / (number(micros)? / 1e6))
    }

    fn start(&self, setting: &Setting, near: &Namespace, receiver: &Namespace) -> Result<Kept> {
        for _ in 0..BUSY {
            let mut relay = Command::new(self.program);
            relay
                .args(["--a", TAPS.0, "--b", TAPS.1])
                .args(["--netns-a", &near.path(), "--netns-b", &receiver.path()])
                .args(["--delay", &DELAY.to_string()])
                .args(["--loss", &self.loss.to_string()])
                .args(["--seed", &self.seed.to_string()])
                .stdout(Stdio::null());
            // It ends with its standard input.
            let mut kept = setting.keep_open(&mut relay)?;
            thread::sleep(Duration::from_millis(200));
            if kept.is_running() {
                return Ok(kept);
            }
        }
        Err("the relay does not start".to_owned())
    }
}
