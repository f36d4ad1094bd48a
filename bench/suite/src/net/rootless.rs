//! Rootless networking: web and netload through `user`, nginx and `iperf3` behind `pasta`, with the same clients.
//!
//! Two ways in: from the same namespace through loopback, where `pasta` joins two sockets without a packet, and from
//! another through the veth pair, where both take packets apart and make new ones.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::iperf::{self, Way};
use crate::Result;
use crate::figures::{self, Table, number};
use crate::instance::Instance;
use crate::janitor::Kept;
use crate::place::{self, Place};
use crate::process;
use crate::setting::Setting;
use crate::web;
use crate::web::load::{CASES, Load, Outcome};
use crate::web::nginx;

/// The address of the load's namespace that others reach.
const VETH: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 72, 0, 1));
/// Ports of both contenders, for pages and for bulk.
const GUEST: (u16, u16) = (8080, 5211);
const PEER: (u16, u16) = (8081, 5212);

const GIGABYTE: f64 = 1e9;

/// Measures and prints.
pub fn run(setting: &Setting, place: &Place) -> Result<()> {
    let peer = match Pasta::start(setting, place) {
        Ok(peer) => Some(peer),
        Err(message) => {
            println!("skipped: peer: {message}");
            None
        }
    };
    let web = setting.image("web")?;
    let netload = setting.image_of("tests/guests", "netload")?;
    let forward = |outer: u16, inner: u16| format!("0.0.0.0:{outer}:{inner}");
    let start =
        |arguments: &[&str]| Instance::start(setting, place.near(&setting.kiln()), arguments);
    let pages = start(&["-p", &forward(GUEST.0, 80), &web.to_string_lossy()])?;
    let bulk = start(&[
        "-p",
        &forward(GUEST.1, iperf::PORT),
        &netload.to_string_lossy(),
        "iperf3",
        &iperf::PORT.to_string(),
    ])?;
    let mut table = Table::new(&[
        "user beside pasta",
        "kiln",
        "pasta",
        "ratio",
        "guest us",
        "superv. us",
    ]);
    let load = Load::new(setting);
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    for (way, host) in [("loopback", loopback), ("veth", VETH)] {
        let client = |command: &Command| {
            if host == loopback {
                place.near(command)
            } else {
                place.far(command)
            }
        };
        for case in &CASES[..2] {
            requests(
                setting,
                (&mut table, format!("{way}: requests/s, {}", case.name)),
                &pages,
                |port| load.run_from(client, SocketAddr::new(host, port), case),
                peer.is_some(),
            )?;
        }
        for (name, direction) in [("in", Way::In), ("out", Way::Out)] {
            if iperf::program().is_err() {
                continue;
            }
            streams(
                setting,
                (&mut table, format!("{way}: GB/s {name}, per MB")),
                &bulk,
                |port| {
                    let to = SocketAddr::new(host, port);
                    iperf::measure(client, to, direction, setting.pick(3, 1))
                },
                peer.is_some(),
            )?;
        }
    }
    table.print();
    Ok(())
}

fn requests(
    setting: &Setting,
    (table, name): (&mut Table, String),
    guest: &Instance<'_>,
    run: impl Fn(u16) -> Result<Outcome>,
    has_peer: bool,
) -> Result<()> {
    let measure = |port| run(port).map(|outcome| (outcome.rate(), outcome.requests));
    compare(
        setting,
        (table, name),
        guest,
        measure,
        (GUEST.0, PEER.0),
        has_peer,
    )
}

fn streams(
    setting: &Setting,
    (table, name): (&mut Table, String),
    guest: &Instance<'_>,
    run: impl Fn(u16) -> Result<iperf::Flow>,
    has_peer: bool,
) -> Result<()> {
    let measure = |port| run(port).map(|flow| (flow.rate / GIGABYTE, flow.bytes / 1e6));
    compare(
        setting,
        (table, name),
        guest,
        measure,
        (GUEST.1, PEER.1),
        has_peer,
    )
}

/// `measure` gives a rate, and how much was done, by which what it cost is divided.
fn compare(
    setting: &Setting,
    (table, name): (&mut Table, String),
    guest: &Instance<'_>,
    measure: impl Fn(u16) -> Result<(f64, f64)>,
    (port, peer_port): (u16, u16),
    has_peer: bool,
) -> Result<()> {
    let (mut kiln, mut pasta, mut used) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..web::pairs(setting) {
        let before = guest.usage()?;
        let (rate, done) = measure(port)?;
        used.push(guest.usage()?.since(before, done));
        kiln.push(rate);
        if has_peer {
            pasta.push(measure(peer_port)?.0);
        }
    }
    let used_by = |read: fn(&crate::instance::Usage) -> f64| {
        number(figures::median(
            &used.iter().map(read).collect::<Vec<f64>>(),
        ))
    };
    table.row([
        name,
        number(figures::median(&kiln)),
        number(figures::median(&pasta)),
        number(figures::ratio(&kiln, &pasta)),
        used_by(|one| one.guest),
        used_by(|one| one.supervisor),
    ]);
    Ok(())
}

/// nginx and an `iperf3` server behind `pasta`.
struct Pasta {
    _process: Kept,
}

impl Pasta {
    /// Root must tell it to stay root: in a namespace of ours nobody else may set up its own. Then it has no other
    /// user's name for the programs either, so they take ports that anybody may have.
    fn start(setting: &Setting, place: &Place) -> Result<Self> {
        let pasta = process::need("pasta", "passt")?;
        let nginx = nginx::program()?;
        let iperf = iperf::program()?;
        let (near, _) = place.both()?;
        // It takes its addresses from the interface with the default route, and does not start without.
        near.ip("route add default via 10.72.0.2")?;
        let folder = setting.folder.join("pasta");
        let listen = place::at(Ipv4Addr::UNSPECIFIED, PEER.0);
        let conf = nginx::prepare(&folder, listen)?;
        let script = folder.join("inside");
        let text = format!(
            "echo reno > /proc/sys/net/ipv4/tcp_congestion_control\n\
             {iperf} -s -p {port} &\n\
             exec {nginx} -p {folder} -c {conf} -e error.log\n",
            iperf = iperf.display(),
            port = PEER.1,
            nginx = nginx.display(),
            folder = folder.display(),
            conf = conf.display(),
        );
        fs::write(&script, text).map_err(|error| error.to_string())?;
        let mut command = Command::new(pasta);
        command
            .args(["-f", "-q", "--config-net", "--runas", "0:0"])
            .args(["-t", &format!("{},{}", PEER.0, PEER.1)])
            .args(["-u", "none", "-T", "none", "-U", "none", "--"])
            // `pasta` does not end what it has started; with its first process a process namespace ends.
            .arg(process::need("setpriv", "util-linux")?)
            .args(["--pdeathsig", "KILL", "sh"])
            .arg(&script);
        let mut command = place.near(&command);
        let process = setting.keep(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
        // It has no sign for being ready; the first requests must not meet it half way.
        thread::sleep(Duration::from_millis(500));
        Ok(Self { _process: process })
    }
}
