//! The guest's command line: what `docs/machine.md`, section 3, lists. Pure text making.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use kiln_abi::{DeviceInfo, DeviceKind};

use crate::backend::Launch;

/// A word that nobody else knows, to recognise this run's report by: 16 hexadecimal digits.
///
/// # Errors
/// If the host has no random numbers.
pub fn token() -> std::io::Result<String> {
    let mut random = [0; 8];
    let got = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    if got != random.len() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(format!("{:016x}", u64::from_ne_bytes(random)))
}

/// The words that a launch comes to. `now` is the wall clock in nanoseconds since 1970.
pub fn line(launch: &Launch, token: &str, now: u64) -> String {
    let mut line = String::new();
    push(&mut line, "kiln.name", launch.name);
    for arg in launch.args {
        push(&mut line, "kiln.arg", arg);
    }
    for env in launch.env {
        push(&mut line, "kiln.env", env);
    }
    for device in &launch.devices {
        if let Some(config) = network(&device.info) {
            push(&mut line, "kiln.net", &config);
        }
    }
    for device in &launch.devices {
        if let Some(folder) = folder(&device.info) {
            push(&mut line, "kiln.folder", &folder);
        }
    }
    push(&mut line, "kiln.memory", &launch.memory.to_string());
    push(&mut line, "kiln.now", &now.to_string());
    push(&mut line, "kiln.report", token);
    line
}

/// Appends a word.
pub fn push(line: &mut String, key: &str, value: &str) {
    if !line.is_empty() {
        line.push(' ');
    }
    line.push_str(key);
    line.push('=');
    for &byte in value.as_bytes() {
        match byte {
            b'!'..=b'~' if byte != b'%' => line.push(char::from(byte)),
            // Writing to a string cannot fail.
            _ => drop(write!(line, "%{byte:02x}")),
        }
    }
}

/// A folder's name and settings; `None` for other devices.
fn folder(info: &DeviceInfo) -> Option<String> {
    if DeviceKind::from_raw(info.kind) != Some(DeviceKind::Files) {
        return None;
    }
    let read_only = info.flags & DeviceInfo::READ_ONLY != 0;
    Some(format!(
        "{}{}",
        info.name()?,
        if read_only { ",ro" } else { "" }
    ))
}

/// The static configuration of a link; `None` if it has none.
fn network(info: &DeviceInfo) -> Option<String> {
    if DeviceKind::from_raw(info.kind) != Some(DeviceKind::Net) {
        return None;
    }
    let four = |address: [u8; 4]| Ipv4Addr::from(address);
    let six = |address: [u8; 16]| Ipv6Addr::from(address);
    let mut keys = Vec::new();
    if info.prefix4 != 0 {
        keys.push(format!("ip4={}/{}", four(info.address4), info.prefix4));
    }
    for (key, address) in [("gw4", info.gateway4), ("dns4", info.dns4)] {
        if address != [0; 4] {
            keys.push(format!("{key}={}", four(address)));
        }
    }
    if info.prefix6 != 0 {
        keys.push(format!("ip6={}/{}", six(info.address6), info.prefix6));
    }
    for (key, address) in [("gw6", info.gateway6), ("dns6", info.dns6)] {
        if address != [0; 16] {
            keys.push(format!("{key}={}", six(address)));
        }
    }
    if keys.is_empty() {
        return None;
    }
    Some(format!("{},{}", info.name()?, keys.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_anything() {
        let mut line = String::new();
        push(&mut line, "kiln.arg", "a b");
        push(&mut line, "kiln.arg", "100%");
        push(&mut line, "kiln.arg", "");
        push(&mut line, "kiln.env", "A=ü\n\"x\",\\");
        assert_eq!(
            line,
            "kiln.arg=a%20b kiln.arg=100%25 kiln.arg= kiln.env=A=%c3%bc%0a\"x\",\\"
        );
    }

    #[test]
    fn a_link_is_told_what_is_known_of_it() {
        let mut info = kiln_usernet::Config::default().device_info();
        info.name = crate::devices::padded("eth0");
        assert_eq!(
            network(&info).unwrap(),
            "eth0,ip4=10.0.2.15/24,gw4=10.0.2.2,dns4=10.0.2.3,ip6=fd00:6b69:6c6e::15/64,gw6=fd00:6b69:6c6e::2,dns6=fd00:6b69:6c6e::3"
        );
        let dynamic = DeviceInfo {
            kind: DeviceKind::Net as u32,
            ..DeviceInfo::default()
        };
        assert_eq!(network(&dynamic), None);
        let disk = DeviceInfo {
            kind: DeviceKind::Block as u32,
            ..info
        };
        assert_eq!(network(&disk), None);
    }

    #[test]
    fn tokens_differ() {
        let (one, other) = (token().unwrap(), token().unwrap());
        assert_eq!(one.len(), 16);
        assert_ne!(one, other);
    }
}
