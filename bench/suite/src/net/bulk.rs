//! One stream as fast as it goes, into the guest and out of it, beside the kernel over a veth pair. The client is
//! `iperf3` both times; the guest speaks its protocol.

use std::net::SocketAddr;

use super::iperf::{self, Flow, Way};
use crate::Result;
use crate::figures::{self, Table, number};
use crate::instance::{Instance, Usage};
use crate::place::{self, Place};
use crate::setting::Setting;
use crate::web;

const GIGABYTE: f64 = 1e9;
const MEGABYTE: f64 = 1e6;

/// Measures and prints.
pub fn run(setting: &Setting, place: &Place) -> Result<()> {
    if let Err(message) = iperf::program() {
        println!("skipped: {message}");
        return Ok(());
    }
    if !place.has_tap() {
        return Ok(());
    }
    let _peer = iperf::serve(setting, |c| place.far(c))?;
    let mut table = Table::new(&[
        "one stream",
        "kiln GB/s",
        "linux GB/s",
        "ratio",
        "enter/MB",
        "operations/MB",
        "host calls/MB",
        "guest us/MB",
        "in kernel",
    ]);
    for backend in super::backends(setting)? {
        setting.set_backend(backend);
        measure(setting, place, backend, &mut table)?;
    }
    table.print();
    Ok(())
}

fn measure(setting: &Setting, place: &Place, backend: &str, table: &mut Table) -> Result<()> {
    let image = setting.image_of("tests/guests", "netload")?;
    let image = image.to_string_lossy();
    let link = format!("tap:{},ip={}/24", place::TAP, place::TAP_GUEST.ip());
    let port = iperf::PORT.to_string();
    let guest = Instance::start(
        setting,
        place.near(&setting.kiln()),
        &["--net", &link, &image, "iperf3", &port],
    )?;
    let guest_address = SocketAddr::new(place::TAP_GUEST.ip(), iperf::PORT);
    let peer_address = SocketAddr::new(place::VETH_PEER.ip(), iperf::PORT);
    for (name, way) in [("into", Way::In), ("out of", Way::Out)] {
        let (mut kiln, mut linux, mut used) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..web::pairs(setting) {
            let seconds = setting.pick(3, 1);
            let before = guest.usage()?;
            let flow = iperf::measure(|c| place.near(c), guest_address, way, seconds)?;
            used.push(guest.usage()?.since(before, flow.bytes / MEGABYTE));
            kiln.push(flow);
            linux.push(iperf::measure(
                |c| place.near(c),
                peer_address,
                way,
                seconds,
            )?);
        }
        let rates = |flows: &[Flow]| -> Vec<f64> {
            flows.iter().map(|flow| flow.rate / GIGABYTE).collect()
        };
        let usage = |read: fn(&Usage) -> f64| {
            number(figures::median(
                &used.iter().map(read).collect::<Vec<f64>>(),
            ))
        };
        table.row([
            format!("{name} the guest, {backend}"),
            number(figures::median(&rates(&kiln))),
            number(figures::median(&rates(&linux))),
            number(figures::ratio(&rates(&kiln), &rates(&linux))),
            usage(|one| one.calls),
            usage(|one| one.operations),
            usage(|one| one.host_calls),
            usage(|one| one.guest),
            usage(|one| one.kernel),
        ]);
    }
    Ok(())
}
