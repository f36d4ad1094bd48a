//! Requests to web on 64 connections, kept or one each, through a tap device and a `packet` link, beside nginx behind a
//! veth pair.

use crate::Result;
use crate::place::{self, Place};
use crate::setting::Setting;
use crate::web;
use crate::web::load::{CASES, Load};

/// A veth end in the namespace of the load, for a guest that has the other end by itself.
const PACKET: &str = "kilnp0";

/// Measures and prints.
pub fn run(setting: &Setting, place: &Place) -> Result<()> {
    let load = Load::new(setting);
    println!("load by {}: 64 connections", load.name());
    // The third is bulk, which has a section of its own.
    let cases = &CASES[..2];
    for backend in super::backends(setting)? {
        setting.set_backend(backend);
        web::tap(setting, &load, place, &format!("tap, {backend}"), cases)?;
    }
    setting.set_backend("process");
    packet(setting, &load, place)
}

fn packet(setting: &Setting, load: &Load, place: &Place) -> Result<()> {
    let (near, _) = place.both()?;
    near.ip(&format!("link add {PACKET} type veth peer name {PACKET}p"))?;
    near.ip(&format!("link set {PACKET} up"))?;
    near.ip(&format!("link set {PACKET}p up"))?;
    // The guest's address is behind this link now.
    near.ip(&format!("addr del 10.71.0.1/24 dev {}", place::TAP))?;
    near.ip(&format!("addr add 10.71.0.1/24 dev {PACKET}p"))?;
    let link = format!("packet:{PACKET},ip={}/24", place::TAP_GUEST.ip());
    let measured = web::beside_nginx(
        setting,
        load,
        place,
        ("packet, process", &link),
        &CASES[..2],
    );
    if let Err(message) = measured {
        println!("skipped: packet: {message}");
    }
    Ok(())
}
