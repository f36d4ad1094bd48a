//! Very many connections that say nothing, a hundred that say much, and then a flood of SYNs, against one guest.
//!
//! The peer is the guest itself before the crowd came. A program of the suite's own in the load's namespace, [`client`],
//! plays everybody, with [`holder`] for those that say nothing; it has a whole network of source addresses, all behind the one neighbour that the guest has as its
//! gateway. The flood comes from addresses that nobody has, so nothing resets what it opens half.

mod client;
mod flood;
mod holder;

use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::figures::{Table, number};
use crate::instance::Instance;
use crate::place::{self, Place};
use crate::process;
use crate::setting::Setting;

pub use client::main;
pub use holder::main as hold_main;

/// The port of netload's service for many connections that say little.
const PORT: u16 = 7;
/// How much memory the guest gets.
const MEMORY: &str = "256M";
/// Idle connections, and how many of them a quick run has. The variable names another number.
const IDLE: (u32, u32) = (100_000, 5_000);
const IDLE_CHOICE: &str = "KILN_BENCH_IDLE";
/// SYNs of the flood, over [`FLOOD_SECONDS`].
const SYNS: (u32, u32) = (200_000, 20_000);
const FLOOD_SECONDS: (u32, u32) = (5, 1);
/// Most of it is for opening connections.
const LIMIT: Duration = Duration::from_mins(5);

/// What the client found, by the names that it prints.
struct Found(String);

/// Measures and prints.
pub fn run(setting: &Setting, place: &Place) -> Result<()> {
    if !place.has_tap() {
        return Ok(());
    }
    let idle = std::env::var(IDLE_CHOICE)
        .ok()
        .map(|text| {
            text.parse()
                .map_err(|error| format!("{IDLE_CHOICE}: {error}"))
        })
        .transpose()?
        .unwrap_or(setting.pick(IDLE.0, IDLE.1));
    let (near, _) = place.both()?;
    near.ip(&format!("route add local {} dev lo", client::SOURCES))?;
    let image = setting.image_of("tests/guests", "netload")?;
    let image = image.to_string_lossy();
    let link = format!(
        "tap:{},ip={}/24,gw=10.71.0.1",
        place::TAP,
        place::TAP_GUEST.ip()
    );
    let guest = Instance::start(
        setting,
        place.near(&setting.kiln()),
        &[
            "--net",
            &link,
            "--memory",
            MEMORY,
            &image,
            "talk",
            &PORT.to_string(),
        ],
    )?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    let numbers = [
        idle,
        setting.pick(3, 1),
        setting.pick(SYNS.0, SYNS.1),
        setting.pick(FLOOD_SECONDS.0, FLOOD_SECONDS.1),
        guest.guest,
        guest.supervisor,
    ];
    command
        .args(["crowd", &format!("{}:{PORT}", place::TAP_GUEST.ip())])
        .args(numbers.map(|number| number.to_string()));
    let found = Found(process::output(&mut place.near(&command), LIMIT)?);
    found.print(idle)
}

impl Found {
    fn get(&self, name: &str) -> Result<f64> {
        let value = self.0.lines().find_map(|line| {
            let (one, value) = line.split_once(' ')?;
            (one == name).then(|| value.parse().ok())?
        });
        value.ok_or_else(|| format!("the client does not say what {name} is: {}", self.0.trim()))
    }

    fn print(&self, wanted: u32) -> Result<()> {
        let opened = self.get("opened")?;
        println!(
            "{opened} of {wanted} connections opened in {} s, --memory {MEMORY}",
            number(self.get("opening")?)
        );
        println!(
            "they are held by {} processes, as this host limits open files",
            self.get("processes")?
        );
        let before = self.get("before")?;
        let mut table = Table::new(&[
            "100 active connections",
            "requests/s",
            "to before",
            "errors",
        ]);
        for (name, phase) in [
            ("before the crowd", "before"),
            ("beside it", "beside"),
            ("in the flood", "flood"),
            ("after it", "after"),
        ] {
            table.row([
                name.to_owned(),
                number(self.get(phase)?),
                number(self.get(phase)? / before),
                number(self.get(&format!("{phase}-errors"))?),
            ]);
        }
        table.print();
        let (empty, full) = (self.get("memory-empty")?, self.get("memory-full")?);
        let mut table = Table::new(&["memory, Pss of guest and supervisor", "KiB"]);
        let whole = |bytes: f64| number(bytes / 1024.0);
        table.row(["with 100 connections".to_owned(), whole(empty)]);
        table.row([format!("with {opened} more"), whole(full)]);
        table.row([
            "a connection".to_owned(),
            number((full - empty) / opened / 1024.0),
        ]);
        table.print();
        println!(
            "\n{} SYNs in {} s, {} answers with repetitions; idle connections alive after them: {} of {opened}",
            self.get("syns")?,
            number(self.get("flooding")?),
            self.get("answered")?,
            self.get("alive")?,
        );
        println!(
            "{} of {} newcomers were let in while it went on",
            self.get("let-in")?,
            self.get("came")?
        );
        Ok(())
    }
}
