//! The smoltcp device: at most one received packet, and the way to the guest.
//!
//! smoltcp would take all packets of a device and look through all its sockets for each. Here every connection has a
//! socket set of its own, packets are assigned by our hash table, and the device offers smoltcp just the one packet
//! that belongs to the set it is called with.

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::link::Outbound;

pub(crate) struct Port<'a> {
    /// The IP packet to be taken, if any.
    pub packet: Option<&'a [u8]>,
    pub out: &'a mut Outbound,
    pub mtu: u16,
}

/// What smoltcp should know about the link: IP packets, and nobody checks transport checksums.
pub(crate) fn capabilities(mtu: u16) -> DeviceCapabilities {
    let mut caps = DeviceCapabilities::default();
    caps.medium = Medium::Ip;
    caps.max_transmission_unit = usize::from(mtu);
    caps.checksum.ipv4 = Checksum::Tx;
    caps.checksum.tcp = Checksum::None;
    caps
}

pub(crate) struct Incoming<'a>(&'a [u8]);
pub(crate) struct Outgoing<'a>(&'a mut Outbound);

impl Device for Port<'_> {
    type RxToken<'t>
        = Incoming<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Outgoing<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        let packet = self.packet.take()?;
        Some((Incoming(packet), Outgoing(self.out)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        (!self.out.blocked()).then_some(Outgoing(self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities(self.mtu)
    }
}

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        // A direct answer to a received packet comes without asking whether the link is blocked. It may be dropped like
        // any packet; what `transmit` allowed is kept even if the link fills up with it.
        let urgent = !self.0.blocked();
        self.0.ip(length, urgent, f)
    }
}
