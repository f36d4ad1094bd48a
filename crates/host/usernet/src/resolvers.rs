//! The host's DNS servers, as `/etc/resolv.conf` names them (resolv.conf(5)).

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

const FILE: &str = "/etc/resolv.conf";

/// How often the file is looked at while queries come in.
const CHECK: Duration = Duration::from_secs(1);

/// Servers used at most, as the C library does.
const MOST: usize = 3;

/// A list that follows the file, unless it was configured.
pub(crate) struct Resolvers {
    list: Vec<SocketAddr>,
    fixed: bool,
    checked: Option<Instant>,
    modified: Option<SystemTime>,
}

impl Resolvers {
    pub fn new(configured: &[SocketAddr]) -> Self {
        Self {
            list: configured.to_vec(),
            fixed: !configured.is_empty(),
            checked: None,
            modified: None,
        }
    }

    /// The servers in order of preference; none if the host has none.
    pub fn current(&mut self, now: Instant) -> &[SocketAddr] {
        let due = self.checked.is_none_or(|checked| now >= checked + CHECK);
        if !self.fixed && due {
            self.checked = Some(now);
            let modified = std::fs::metadata(FILE)
                .and_then(|meta| meta.modified())
                .ok();
            if modified.is_none() || modified != self.modified {
                self.modified = modified;
                // A host without the file has no resolvers.
                self.list = parse(&std::fs::read_to_string(FILE).unwrap_or_default());
            }
        }
        &self.list
    }
}

fn parse(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "nameserver").then(|| words.next())?
        })
        .filter_map(parse_server)
        .take(MOST)
        .collect()
}

/// Reads an address; link-local IPv6 addresses carry the name or number of an interface.
fn parse_server(text: &str) -> Option<SocketAddr> {
    if let Some((address, zone)) = text.split_once('%') {
        let scope = zone.parse().ok().or_else(|| interface_index(zone))?;
        return Some(SocketAddrV6::new(address.parse().ok()?, super::dns::PORT, 0, scope).into());
    }
    let address: IpAddr = text.parse().ok()?;
    Some(SocketAddr::new(address, super::dns::PORT))
}

fn interface_index(name: &str) -> Option<u32> {
    if name.contains(['/', '.']) {
        return None;
    }
    let file = Path::new("/sys/class/net").join(name).join("ifindex");
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_as_the_c_library_does() {
        let text = "# comment\nsearch example.org\nnameserver 127.0.0.53\nnameserver\tfd00::1 \n\
                    nameserver fe80::1%7\nnameserver 9.9.9.9\n";
        let servers = parse(text);
        assert_eq!(
            servers[..2],
            [
                "127.0.0.53:53".parse::<SocketAddr>().unwrap(),
                "[fd00::1]:53".parse().unwrap()
            ]
        );
        assert_eq!(servers.len(), 3, "the fourth is ignored");
        let SocketAddr::V6(scoped) = servers[2] else {
            panic!("{servers:?}");
        };
        assert_eq!(scoped.scope_id(), 7);
        assert!(parse("nameserver\nnameserver x\noptions edns0\n").is_empty());
    }
}
