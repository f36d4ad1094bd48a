//! Part `web`: load on examples/web through both kinds of network link, beside nginx serving files of the same size.
//!
//! Through `user` both listen on loopback; through `tap` the guest is behind a tap device and nginx behind a veth pair.
//! As root all of it happens in network namespaces made here, with one congestion control for everybody; otherwise
//! `user` is measured on the host's own loopback, and `tap` is skipped.
//!
//! [`crate::place`] makes the namespaces, [`nginx`] runs the peer, [`load`] makes the requests, with [`generator`] where
//! `wrk` is not installed.

mod generator;
pub mod load;
pub mod nginx;

use std::net::{Ipv4Addr, SocketAddr};

use crate::figures::{self, Table, number};
use crate::instance::{Instance, Usage};
use crate::process;
use crate::setting::Setting;
use crate::{Result, http};

use crate::place::{self, Place};
pub use generator::main as generator_main;
use load::{CASES, Case, Load, Outcome};
use nginx::Nginx;

/// The guest's port on the host, and nginx's, in namespaces where nobody else is.
const GUEST: SocketAddr = place::at(Ipv4Addr::LOCALHOST, 8080);
const PEER: SocketAddr = place::at(Ipv4Addr::LOCALHOST, 8081);

/// Megabytes are decimal.
const MEGABYTE: f64 = 1e6;

/// One server with what a run against it found.
#[derive(Default)]
struct Runs {
    outcomes: Vec<Outcome>,
    /// Per request, for the guest.
    usage: Vec<Usage>,
    /// Microseconds of processor time per request, for the peer.
    peer: Vec<f64>,
}

/// Measures and prints.
pub fn run(setting: &Setting) -> Result<()> {
    let load = Load::new(setting);
    println!(
        "load by {}: 64 connections, runs of {} s, {} pairs",
        load.name(),
        load.seconds(),
        pairs(setting)
    );
    let peer = nginx::program();
    if let Err(message) = &peer {
        println!("skipped: nginx: {message}");
    }
    let place = if process::is_root() {
        Place::namespaces(setting)?
    } else {
        println!("skipped: tap: needs root");
        Place::host()
    };
    println!("congestion control: {}", place.congestion_control()?);
    user(setting, &load, &place)?;
    if place.has_tap() {
        tap(setting, &load, &place, "tap", &CASES)?;
    }
    Ok(())
}

/// Runs of each contender.
pub fn pairs(setting: &Setting) -> usize {
    setting.pick(3, 1)
}

fn user(setting: &Setting, load: &Load, place: &Place) -> Result<()> {
    let web = setting.image("web")?;
    let web = web.to_string_lossy();
    let forward = if place.is_ours() {
        format!("{GUEST}:80")
    } else {
        "127.0.0.1:0:80".to_owned()
    };
    let guest = Instance::start(
        setting,
        place.near(&setting.kiln()),
        &["-p", &forward, &web],
    )?;
    let port = guest.port.ok_or("web has no port")?;
    let peer_address = if place.is_ours() {
        PEER
    } else {
        place::free_port()?
    };
    let peer = nginx::program()
        .ok()
        .map(|program| Nginx::start(setting, &program, peer_address, |c| place.near(c)))
        .transpose()?;
    let address = place::at(Ipv4Addr::LOCALHOST, port);
    compare(
        "user",
        setting,
        load,
        place,
        (&guest, address),
        peer.as_ref(),
        &CASES,
    )
}

/// web through a tap device beside nginx behind the veth pair; `name` is what the tables are called.
pub fn tap(
    setting: &Setting,
    load: &Load,
    place: &Place,
    name: &str,
    cases: &[Case],
) -> Result<()> {
    let link = format!("tap:{},ip={}/24", place::TAP, place::TAP_GUEST.ip());
    beside_nginx(setting, load, place, (name, &link), cases)
}

/// web through a link with the address [`place::TAP_GUEST`] beside nginx behind the veth pair.
pub fn beside_nginx(
    setting: &Setting,
    load: &Load,
    place: &Place,
    (name, link): (&str, &str),
    cases: &[Case],
) -> Result<()> {
    let web = setting.image("web")?;
    let web = web.to_string_lossy();
    let guest = Instance::start(setting, place.near(&setting.kiln()), &["--net", link, &web])?;
    let peer = nginx::program()
        .ok()
        .map(|program| Nginx::start(setting, &program, place::VETH_PEER, |c| place.far(c)))
        .transpose()?;
    let guest = (&guest, place::TAP_GUEST);
    compare(name, setting, load, place, guest, peer.as_ref(), cases)
}

fn compare(
    link: &str,
    setting: &Setting,
    load: &Load,
    place: &Place,
    (guest, address): (&Instance<'_>, SocketAddr),
    peer: Option<&Nginx>,
    cases: &[Case],
) -> Result<()> {
    let mut speed = Table::new(&[
        link,
        "kiln /s",
        "nginx /s",
        "ratio",
        "kiln MB/s",
        "nginx MB/s",
        "kiln errors",
        "nginx errors",
    ]);
    let mut cost = Table::new(&[
        link,
        "guest us",
        "in kernel",
        "superv. us",
        "nginx us",
        "enter",
        "operations",
        "host calls",
        "enter/MB",
        "host calls/MB",
    ]);
    for case in cases {
        check(setting, place, address, case)?;
        if let Some(peer) = peer {
            check(setting, place, peer.address, case)?;
        }
        let (mut kiln, mut nginx) = (Runs::default(), Runs::default());
        for _ in 0..pairs(setting) {
            let before = guest.usage()?;
            let outcome = load.run(place, address, case)?;
            kiln.usage
                .push(guest.usage()?.since(before, outcome.requests));
            kiln.outcomes.push(outcome);
            if let Some(peer) = peer {
                let before = peer.processor_time();
                let outcome = load.run(place, peer.address, case)?;
                let used = figures::micros(peer.processor_time().saturating_sub(before));
                nginx.peer.push(used / outcome.requests);
                nginx.outcomes.push(outcome);
            }
        }
        rows(&mut speed, &mut cost, case, &kiln, &nginx);
    }
    speed.print();
    cost.print();
    Ok(())
}

/// Both serve what is measured, whole.
fn check(setting: &Setting, place: &Place, address: SocketAddr, case: &Case) -> Result<()> {
    let length = if place.is_ours() {
        place.fetch(setting, address, case.path)?
    } else {
        http::fetch(address, case.path, process::PATIENCE)?
    };
    if length == case.length {
        return Ok(());
    }
    Err(format!(
        "{address}{} has {length} bytes instead of {}",
        case.path, case.length
    ))
}

fn rows(speed: &mut Table, cost: &mut Table, case: &Case, kiln: &Runs, nginx: &Runs) {
    let rates = |runs: &Runs| runs.each(Outcome::rate);
    let megabytes = |runs: &Runs| runs.each(|outcome| outcome.bytes / MEGABYTE / outcome.seconds);
    let errors = |runs: &Runs| -> f64 { runs.outcomes.iter().map(|o| o.errors).sum() };
    let median = |samples: Vec<f64>| number(figures::median(&samples));
    speed.row([
        case.name.to_owned(),
        median(rates(kiln)),
        median(rates(nginx)),
        number(figures::ratio(&rates(kiln), &rates(nginx))),
        median(megabytes(kiln)),
        median(megabytes(nginx)),
        format!("{}", errors(kiln)),
        format!("{}", errors(nginx)),
    ]);
    let usage = |read: fn(&Usage) -> f64| median(kiln.usage.iter().map(read).collect());
    // Usage is per request; this many requests make a megabyte.
    let requests =
        figures::median(&kiln.each(|outcome| outcome.requests / outcome.bytes)) * MEGABYTE;
    let per_megabyte = |read: fn(&Usage) -> f64| {
        let all: Vec<f64> = kiln.usage.iter().map(read).collect();
        number(figures::median(&all) * requests)
    };
    cost.row([
        case.name.to_owned(),
        usage(|usage| usage.guest),
        usage(|usage| usage.kernel),
        usage(|usage| usage.supervisor),
        median(nginx.peer.clone()),
        usage(|usage| usage.calls),
        usage(|usage| usage.operations),
        usage(|usage| usage.host_calls),
        per_megabyte(|usage| usage.calls),
        per_megabyte(|usage| usage.host_calls),
    ]);
}

impl Runs {
    fn each(&self, read: impl Fn(&Outcome) -> f64) -> Vec<f64> {
        self.outcomes.iter().map(read).collect()
    }
}
