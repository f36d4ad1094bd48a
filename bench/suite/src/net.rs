//! Part `net`: the guest's TCP/IP stack beside the Linux kernel's.
//!
//! | section | guest | peer in the same run |
//! | --- | --- | --- |
//! | [`requests`] | web through a tap device, on each backend | nginx over a veth pair |
//! | [`bulk`] | netload, one stream in and out through a tap device | `iperf3` over the veth pair |
//! | [`loss`] | netload sends through a relay that loses and delays | the kernel through the same relay |
//! | [`crowd`] | netload with very many idle connections, then under a flood of SYNs | itself before |
//! | [`rootless`] | web and netload through `user` networking | nginx and `iperf3` behind `pasta` |
//! | [`instructions`] | web under QEMU, counted by a plugin | none: the figure has no noise |
//!
//! All but the last need root, and work in namespaces made here with the congestion control reno.

mod bulk;
mod crowd;
mod instructions;
mod iperf;
mod loss;
mod requests;
mod rootless;
mod stream;

use crate::Result;
use crate::place::Place;
use crate::process;
use crate::setting::Setting;

pub use crowd::{hold_main, main as crowd_main};
pub use stream::main as stream_main;

/// A section of this part.
type Section = fn(&Setting, &Place) -> Result<()>;

const SECTIONS: [(&str, Section); 6] = [
    ("requests", requests::run),
    ("bulk", bulk::run),
    ("loss", loss::run),
    ("crowd", crowd::run),
    ("rootless", rootless::run),
    ("instructions", instructions::run),
];

/// Which sections to measure, by name with commas between; all if it is not set.
const CHOICE: &str = "KILN_BENCH_NET";

/// Measures and prints.
pub fn run(setting: &Setting) -> Result<()> {
    if !process::is_root() {
        println!("skipped: needs root for namespaces");
        return Ok(());
    }
    let choice = std::env::var(CHOICE).ok();
    let chosen = |name: &str| {
        let choice = choice.as_deref();
        choice.is_none_or(|names| names.split(',').any(|one| one == name))
    };
    let mut failed = Vec::new();
    for (name, section) in SECTIONS {
        if !chosen(name) {
            continue;
        }
        println!("\n-- {name}");
        let place = Place::namespaces(setting)?;
        println!(
            "congestion control: {}; the guest's own in the guest",
            place.congestion_control()?
        );
        let measured = section(setting, &place);
        // One that failed may have been on another.
        setting.set_backend("process");
        if let Err(message) = measured {
            println!("failed: {message}");
            failed.push(name);
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(failed.join(", "))
}

/// The backends of guests with a tap device that work here.
fn backends(setting: &Setting) -> Result<Vec<&'static str>> {
    let hello = setting.image("hello")?;
    Ok(["process", "kvm"]
        .into_iter()
        .filter(|backend| crate::machines::works(setting, backend, &hello))
        .collect())
}
