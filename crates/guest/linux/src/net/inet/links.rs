//! Network interfaces as programs see them: `lo`, `eth0`, `eth1`, ...

use alloc::format;
use alloc::vec::Vec;

use kiln_net::Stack;
use kiln_net::direct::LinkState;

/// `IFF_UP | IFF_RUNNING | IFF_LOWER_UP` and what kind it is.
const UP: u32 = 0x1 | 0x40 | 0x1_0000;
/// `IFF_LOOPBACK`
const LOOPBACK: u32 = 0x8;
/// `IFF_BROADCAST | IFF_MULTICAST`
const ETHERNET: u32 = 0x2 | 0x1000;

/// All interfaces with their names, the loopback interface first.
pub fn all() -> Vec<(Vec<u8>, LinkState)> {
    let links = crate::kernel().network.stack().links();
    let named = links.into_iter().map(|link| (name(&link), link));
    named.collect()
}

/// An interface's name.
fn name(link: &LinkState) -> Vec<u8> {
    match link.index {
        0 => b"lo".to_vec(),
        index => format!("eth{}", index - 1).into_bytes(),
    }
}

/// Its number as programs see it: from 1 on.
pub fn number(link: &LinkState) -> i32 {
    i32::try_from(link.index)
        .unwrap_or(i32::MAX)
        .saturating_add(1)
}

/// Its flags (`netdevice(7)`).
pub fn flags(link: &LinkState) -> u32 {
    UP | if link.index == 0 { LOOPBACK } else { ETHERNET }
}

/// The number of the interface with this name.
pub fn index_of(wanted: &[u8]) -> Option<i32> {
    let all = all();
    let found = all.iter().find(|(name, _)| name == wanted)?;
    Some(number(&found.1))
}

/// The name of the interface with this number.
pub fn name_of(wanted: i32) -> Option<Vec<u8>> {
    let mut all = all().into_iter();
    let found = all.find(|(_, link)| number(link) == wanted)?;
    Some(found.0)
}

/// A handle of the stack whose sockets are bound to one interface.
pub fn stack_on(wanted: &[u8]) -> Option<Stack> {
    let all = all();
    let found = all.iter().find(|(name, _)| name == wanted)?;
    crate::kernel().network.stack().on_link(found.1.index)
}
