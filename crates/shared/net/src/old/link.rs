//! One interface of the stack with its sockets and its outgoing queue.
//!
//! There are two: the *wire* (Ethernet, the device) and the *loopback* (bare IP packets, taken out of the queue and
//! received again by the same interface). They share nothing, so a frame from outside can never be taken for local
//! traffic, whatever addresses it claims.
//!
//! Received frames are lent for the duration of one call: their payload is copied once, from the driver's buffer into
//! the buffer of the socket.

use alloc::vec;
use alloc::vec::Vec;
use core::num::{NonZeroU16, NonZeroUsize};

use kiln_abi::Instant;
use smoltcp::iface::{Interface, PollResult, SocketSet};
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::wire::{EthernetAddress, HardwareAddress};

use crate::config::{Config, Offloads};
use crate::frame::ETHERNET_HEADER;
use crate::queue::Queue;

/// Which link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Wire,
    Loopback,
}

/// An interface with its sockets and queue.
pub(crate) struct Link {
    pub iface: Interface,
    pub sockets: SocketSet<'static>,
    pub queue: Queue,
    /// Replies that found the queue full.
    pub lost: u64,
    capabilities: DeviceCapabilities,
}

impl Link {
    /// The link to the device.
    pub(crate) fn wire(config: &Config, seed: u64, now: Instant) -> Self {
        let offloads = config.offloads;
        let mtu = usize::from(config.mtu) + ETHERNET_HEADER;
        // No segment is longer than what fits into the send buffer.
        let unsegmented = (config.tcp_buffers().send + 40 + 60).min(usize::from(u16::MAX));
        let longest = match offloads {
            Offloads {
                tso4: false,
                tso6: false,
                ..
            } => mtu,
            _ => mtu.max(unsegmented + ETHERNET_HEADER),
        };
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = mtu;
        // Received frames are verified before they come here, see `frame`.
        capabilities.checksum.udp = Checksum::Tx;
        capabilities.checksum.tcp = if offloads.checksum {
            Checksum::None
        } else {
            Checksum::Tx
        };
        if offloads.tso4 {
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(longest);
        }
        let queue = Queue::new(config.queue_limit(), longest, offloads);
        let address = HardwareAddress::Ethernet(EthernetAddress(config.mac));
        Self::new(address, capabilities, queue, seed, now)
    }

    /// The link to itself. Nothing on it is ever damaged, so there are no checksums.
    pub(crate) fn loopback(config: &Config, seed: u64, now: Instant) -> Self {
        let mtu = (config.tcp_buffers().send + 100).clamp(8 * 1024, usize::from(u16::MAX));
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = mtu;
        capabilities.checksum = phy::ChecksumCapabilities::ignored();
        let queue = Queue::new(config.queue_limit(), mtu, Offloads::default());
        let mut link = Self::new(HardwareAddress::Ip, capabilities, queue, seed, now);
        // Every address that is sent to over this link is one of the stack's own.
        link.iface.set_any_ip(true);
        link
    }

    fn new(
        address: HardwareAddress,
        capabilities: DeviceCapabilities,
        mut queue: Queue,
        seed: u64,
        now: Instant,
    ) -> Self {
        let mut config = smoltcp::iface::Config::new(address);
        config.random_seed = seed;
        let mut port = Port {
            frame: None,
            queue: &mut queue,
            lost: &mut 0,
            capabilities: &capabilities,
        };
        let mut iface = Interface::new(config, &mut port, timestamp(now));
        // There are few places for incomplete datagrams, and anybody can fill them with fragments of nothing. RFC 1122
        // section 3.3.2 advises 60 to 120 seconds, Linux takes 30.
        iface.set_reassembly_timeout(smoltcp::time::Duration::from_secs(15));
        Self {
            iface,
            sockets: SocketSet::new(Vec::new()),
            queue,
            lost: 0,
            capabilities,
        }
    }

    /// Gives one frame to the protocols. Replies are queued.
    pub(crate) fn ingress(&mut self, frame: &[u8], now: Instant) {
        let mut port = Port {
            frame: Some(frame),
            queue: &mut self.queue,
            lost: &mut self.lost,
            capabilities: &self.capabilities,
        };
        self.iface
            .poll_ingress_single(timestamp(now), &mut port, &mut self.sockets);
    }

    /// Lets all sockets say what they have to say, until there is nothing more or the queue is full. True if anything
    /// was said.
    pub(crate) fn egress(&mut self, now: Instant) -> bool {
        let mut port = Port {
            frame: None,
            queue: &mut self.queue,
            lost: &mut self.lost,
            capabilities: &self.capabilities,
        };
        let now = timestamp(now);
        self.iface.poll_maintenance(now);
        let mut progress = false;
        loop {
            // The result says nothing about fragments, of which each call sends one.
            let before = port.queue.len();
            let result = self.iface.poll_egress(now, &mut port, &mut self.sockets);
            if result == PollResult::None && port.queue.len() == before {
                return progress;
            }
            progress = true;
        }
    }

    /// When the protocols want to act next.
    pub(crate) fn poll_at(&mut self, now: Instant) -> Instant {
        match self.iface.poll_at(timestamp(now), &self.sockets) {
            None => Instant::FOREVER,
            Some(at) => Instant::from_nanos(at.total_micros().max(0).unsigned_abs() * 1000),
        }
    }
}

/// The protocols count in microseconds.
pub(crate) fn timestamp(now: Instant) -> smoltcp::time::Instant {
    let micros = i64::try_from(now.as_nanos() / 1000).unwrap_or(i64::MAX);
    smoltcp::time::Instant::from_micros(micros)
}

/// What the protocols see of a link: at most one received frame, and the queue.
struct Port<'a> {
    frame: Option<&'a [u8]>,
    queue: &'a mut Queue,
    lost: &'a mut u64,
    capabilities: &'a DeviceCapabilities,
}

impl phy::Device for Port<'_> {
    type RxToken<'b>
        = Received<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Outgoing<'b>
    where
        Self: 'b;

    fn receive(
        &mut self,
        _: smoltcp::time::Instant,
    ) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let frame = self.frame.take()?;
        Some((
            Received(frame),
            Outgoing {
                queue: self.queue,
                lost: self.lost,
                segment: None,
            },
        ))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Self::TxToken<'_>> {
        self.queue.has_room().then_some(Outgoing {
            queue: self.queue,
            lost: self.lost,
            segment: None,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities.clone()
    }
}

struct Received<'a>(&'a [u8]);

impl phy::RxToken for Received<'_> {
    fn consume<R, F>(self, f: F) -> R
    where
        F: FnOnce(&[u8]) -> R,
    {
        f(self.0)
    }
}

struct Outgoing<'a> {
    queue: &'a mut Queue,
    lost: &'a mut u64,
    segment: Option<NonZeroU16>,
}

impl phy::TxToken for Outgoing<'_> {
    fn consume<R, F>(self, len: usize, f: F) -> R
    where
        F: FnOnce(&mut [u8]) -> R,
    {
        if self.queue.has_room() {
            self.queue.push(len, self.segment.map(NonZeroU16::get), f)
        } else {
            *self.lost += 1;
            f(&mut vec![0; len])
        }
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size;
    }
}
