//! Instructions that the guest executes for a request, counted by a plugin of QEMU's translator: a figure without the
//! noise of time, to be watched from change to change.
//!
//! [`profile`] tells the parts of the guest apart. One client makes one request after the
//! other, so that nothing is batched: a few requests, then many, and what the second run takes beyond the first is divided
//! by the requests that it makes beyond. What remains of noise is where interrupts and the guest's clock fall: it is in the
//! parts that wait, `runtime` and `machine part`, and hardly in the others.

mod profile;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::counted::{self, Counted};
use crate::figures::{self, Table, number};
use crate::instance::Instance;
use crate::place::{self, Place};
use crate::process;
use crate::setting::Setting;
use profile::Image;

const BACKEND: &str = "qemu,accel=tcg";

/// How long a run of requests may take; translated code is slow.
const RUN: Duration = Duration::from_mins(2);

/// What is asked for: for the table, the page, whether a connection is kept, and how many times beyond [`FEW`].
const CASES: [(&str, &str, &str, u64); 3] = [
    ("612 bytes, keep-alive", "/bench/612", "keep", 4000),
    ("612 bytes, a connection each", "/bench/612", "close", 1500),
    ("1 MiB, keep-alive", "/bench/1m", "keep", 40),
];
/// Requests of the run that tells what any run takes.
const FEW: u64 = 4;

/// Measures and prints.
pub fn run(setting: &Setting, place: &Place) -> Result<()> {
    if !place.has_tap() {
        return Ok(());
    }
    let counted = match Counted::prepare(setting) {
        Ok(counted) => counted,
        Err(message) => {
            println!("skipped: {message}");
            return Ok(());
        }
    };
    setting.set_backend(BACKEND);
    let web = setting.image("web")?;
    let web = web.to_string_lossy();
    let link = format!("tap:{},ip={}/24", place::TAP, place::TAP_GUEST.ip());
    let mut kiln = setting.kiln();
    kiln.env("PATH", counted.path()?);
    let _guest = Instance::start(setting, place.near(&kiln), &["--net", &link, &web])?;
    ask(setting, place, place::TAP_GUEST, "/bench/612", "keep", 10)?;
    let start = counted.read()?;
    if start.is_empty() {
        println!("skipped: this QEMU takes no plugins");
        return Ok(());
    }
    let image = Image::read(&setting.folder.join("web.debug"))?;
    let base = image.place(&start).ok_or("nothing was executed")?;
    let mut head = vec!["instructions per request", "in all", "lowest", "highest"];
    head.extend(profile::PARTS);
    let mut table = Table::new(&head);
    for (name, path, kind, requests) in CASES {
        let requests = setting.pick(requests, requests / 4);
        let mut splits = Vec::new();
        for _ in 0..setting.pick(5, 3) {
            let start = counted.read()?;
            ask(setting, place, place::TAP_GUEST, path, kind, FEW)?;
            let middle = counted.read()?;
            ask(setting, place, place::TAP_GUEST, path, kind, FEW + requests)?;
            let end = counted.read()?;
            let split = |counts| image.split(&counts, base);
            let first = split(counted::since(&middle, &start));
            let second = split(counted::since(&end, &middle));
            // What is not there for each request may go either way.
            let beyond = |part: usize| figures::count(second[part]) - figures::count(first[part]);
            splits.push(
                (0..profile::PARTS.len())
                    .map(|part| beyond(part) / figures::count(requests))
                    .collect::<Vec<f64>>(),
            );
        }
        let totals: Vec<f64> = splits.iter().map(|split| split.iter().sum()).collect();
        let part = |part: usize| {
            let samples: Vec<f64> = splits.iter().map(|split| split[part]).collect();
            number(figures::median(&samples))
        };
        table.row([
            name.to_owned(),
            number(figures::median(&totals)),
            number(totals.iter().copied().fold(f64::INFINITY, f64::min)),
            number(totals.iter().copied().fold(0.0, f64::max)),
            part(0),
            part(1),
            part(2),
            part(3),
            part(4),
        ]);
    }
    table.print();
    Ok(())
}

fn ask(
    setting: &Setting,
    place: &Place,
    address: SocketAddr,
    path: &str,
    kind: &str,
    count: u64,
) -> Result<()> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut ask = Command::new(program);
    ask.current_dir(&setting.folder).args([
        "ask",
        &address.to_string(),
        path,
        &count.to_string(),
        kind,
    ]);
    process::output(&mut place.near(&ask), RUN).map(drop)
}
