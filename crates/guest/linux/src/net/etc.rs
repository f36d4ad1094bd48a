//! What a program finds in `/etc` about the network: the name servers that the links have told of, and the machine's own name.
//!
//! `/etc/resolv.conf` is made each time it is read, for servers may become known late (DHCP) or change. As with containers, it covers what the
//! root image has there, which was right for another machine.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use super::inet::links;
use crate::fs::{self, AT_FDCWD, OpenFlags, Walk};
use crate::io::Source;
use crate::proc::pseudo::{self, Named, Sort, Subject, Text, file};
use crate::process::Thread;
use crate::{Errno, Result, put};

/// The longest `/etc/hosts` that is looked at.
const LONGEST: u64 = 1 << 20;

static RESOLV: Named = file("resolv.conf", resolv);

fn resolv(thread: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    crate::kernel().network.wait_for_address(thread);
    // More are not asked (resolv.conf(5)).
    for server in crate::kernel()
        .network
        .stack()
        .name_servers()
        .iter()
        .take(3)
    {
        put!(text, "nameserver {server}\n");
    }
    Ok(())
}

/// Puts these files in place, once file systems are there.
///
/// # Errors
/// `EROFS` and the like.
pub fn start(thread: &Rc<Thread>) -> Result {
    if links::all().len() > 1 {
        let sort = Sort {
            device: 0x18,
            magic: 0x0102_1994,
            size: 0,
        };
        make(thread, b"/etc/resolv.conf", OpenFlags::empty(), b"")?;
        let root = pseudo::root(sort, &RESOLV);
        fs::mount(b"/etc/resolv.conf", root, "tmpfs", b"resolv.conf")?;
    }
    let name = crate::kernel().hostname.borrow().clone();
    let hosts = fs::resolve(thread, AT_FDCWD, b"/etc/hosts", Walk::FOLLOW)
        .and_then(|place| fs::read_whole(&place, LONGEST));
    let known = |text: &Vec<u8>| {
        let mut words = text.split(u8::is_ascii_whitespace);
        words.any(|word| word == name)
    };
    if !name.is_empty() && !hosts.as_ref().is_ok_and(known) {
        let mut line = alloc::format!("{}\t", own_address()).into_bytes();
        line.extend(&name);
        line.push(b'\n');
        make(thread, b"/etc/hosts", OpenFlags::APPEND, &line)?;
    }
    Ok(())
}

/// The first address of IPv4 that others know this machine by; else one that is its own, as Debian does it.
fn own_address() -> IpAddr {
    let all = links::all();
    let mut outside = all.iter().skip(1).flat_map(|(_, link)| &link.addresses);
    let found = outside.find(|assigned| assigned.address.is_ipv4());
    found.map_or(Ipv4Addr::new(127, 0, 1, 1).into(), |assigned| {
        assigned.address
    })
}

/// Makes a file if it is not there, and writes to it.
fn make(thread: &Rc<Thread>, path: &[u8], flags: OpenFlags, content: &[u8]) -> Result {
    let flags = flags | OpenFlags::WRONLY | OpenFlags::CREAT;
    let open = match fs::open(thread, AT_FDCWD, path, flags, 0o644) {
        // A link that leads nowhere: the name itself is what is wanted.
        Err(Errno::ENOENT) => {
            fs::remove(thread, AT_FDCWD, path, false)?;
            fs::open(thread, AT_FDCWD, path, flags, 0o644)?
        }
        other => other?,
    };
    if !content.is_empty() {
        open.file
            .write(thread, &open, &mut Source::kernel(content))?;
    }
    Ok(())
}
