//! Pings that programs send: echo requests and their answers (RFC 792, RFC 4443).
//!
//! Few programs send any: what deals with answers is entered into the table when the first socket is made, so that the images of all others do
//! without it.
//!
//! A socket has an identifier, which its requests carry and by which answers are found again; one without takes the answers to all.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::net::IpAddr;

use core::net::SocketAddr;

use crate::addresses::peer;
use crate::direct::{Ready, Received, SendOptions, Watch};
use crate::error::Error;
use crate::ingress::HOP_LIMIT;
use crate::ip::{self, Header, Outbound};
use crate::stack::{Core, LOOPBACK};
use crate::tcp::Ecn;

/// Bytes of a message's header.
const HEADER: usize = 8;
/// Types of requests.
const REQUEST4: u8 = 8;
const REQUEST6: u8 = 128;
/// Bytes that waiting answers of a socket may take.
const LIMIT: usize = 64 * 1024;
/// What a waiting answer takes besides its bytes.
const OVERHEAD: usize = 64;
/// The longest request.
const LONGEST: usize = 65_507;
/// The most sockets: each answer goes through all of them.
const MOST: usize = 256;

/// A socket.
pub(crate) struct Ping {
    id: u32,
    /// Its identifier; one that takes everything has none.
    identifier: Option<u16>,
    v6: bool,
    pub arrived: VecDeque<(Received, Box<[u8]>)>,
    held: usize,
    watch: Rc<dyn Watch>,
}

/// What takes in an answer: on which link, behind which header, its bytes.
type Receive = fn(&mut Core, usize, &Header, &[u8]);

/// All of them.
#[derive(Default)]
pub(crate) struct Pings {
    list: Vec<Ping>,
    /// Takes in an answer.
    receive: Option<Receive>,
    /// Gives a socket back.
    release: Option<fn(&mut Core, u32)>,
}

impl Pings {
    pub(crate) fn get(&mut self, id: u32) -> Option<&mut Ping> {
        self.list.iter_mut().find(|ping| ping.id == id)
    }
}

impl Ping {
    /// Shows the next answer to `copy`, and forgets it if it is to be taken.
    pub(crate) fn receive_with<R>(
        &mut self,
        take: bool,
        copy: impl FnOnce(&[u8]) -> R,
    ) -> Option<(Received, R)> {
        let (received, bytes) = self.arrived.front()?;
        let result = (*received, copy(bytes));
        if take {
            self.held -= bytes.len() + OVERHEAD;
            self.arrived.pop_front();
        }
        Some(result)
    }
}

impl Core {
    /// Makes a socket; without a wanted identifier it gets a free one, and with `all` none.
    pub(crate) fn open_ping(
        &mut self,
        v6: bool,
        wanted: Option<u16>,
        all: bool,
        watch: Rc<dyn Watch>,
    ) -> Result<(u32, u16), Error> {
        if self.pings.list.len() >= MOST {
            return Err(Error::Exhausted);
        }
        self.pings.receive = Some(Self::take_in_echo);
        self.pings.release = Some(Self::forget_ping);
        let taken = |core: &Self, identifier: u16| {
            let pings = &core.pings.list;
            let same = |ping: &Ping| ping.identifier == Some(identifier) && ping.v6 == v6;
            pings.iter().any(same)
        };
        let identifier = match wanted {
            _ if all => 0,
            Some(wanted) if taken(self, wanted) => return Err(Error::AddressInUse),
            Some(wanted) => wanted,
            None => self.free_port(taken).ok_or(Error::AddressInUse)?,
        };
        let id = self.id();
        self.pings.list.push(Ping {
            id,
            identifier: (!all).then_some(identifier),
            v6,
            arrived: VecDeque::new(),
            held: 0,
            watch,
        });
        Ok((id, identifier))
    }

    /// The program has dropped a socket.
    pub(crate) fn release_ping(&mut self, id: u32) {
        if let Some(release) = self.pings.release {
            release(self, id);
        }
    }

    fn forget_ping(&mut self, id: u32) {
        self.pings.list.retain(|ping| ping.id != id);
    }

    /// An answer has arrived; its checksum was right.
    pub(crate) fn receive_echo(&mut self, port: usize, header: &Header, message: &[u8]) {
        if let Some(receive) = self.pings.receive {
            receive(self, port, header, message);
        }
    }

    fn take_in_echo(&mut self, port: usize, header: &Header, message: &[u8]) {
        let Some([_, _, _, _, high, low, _, _]) = message.first_chunk::<HEADER>() else {
            return;
        };
        let identifier = u16::from_be_bytes([*high, *low]);
        for ping in &mut self.pings.list {
            let is_meant = ping.v6 == header.source.is_ipv6()
                && ping.identifier.is_none_or(|own| own == identifier);
            if !is_meant || ping.held + message.len() + OVERHEAD > LIMIT {
                continue;
            }
            ping.held += message.len() + OVERHEAD;
            let received = Received {
                source: SocketAddr::new(header.source, 0),
                destination: header.destination,
                link: port,
                hop_limit: header.hop_limit,
                len: message.len(),
            };
            ping.arrived.push_back((received, message.into()));
            ping.watch.changed(Ready::READ);
        }
    }

    /// Sends a request, with the socket's identifier and the right checksum. `false`: the link has no room now.
    pub(crate) fn send_echo(
        &mut self,
        id: u32,
        message: &[u8],
        to: IpAddr,
        options: SendOptions,
        only: Option<u8>,
    ) -> Result<bool, Error> {
        let to = peer(to);
        let ping = self.pings.get(id).ok_or(Error::NotConnected)?;
        let identifier = ping.identifier;
        let kind = if to.is_ipv4() { REQUEST4 } else { REQUEST6 };
        if ping.v6 != to.is_ipv6() || message.len() < HEADER || message[..2] != [kind, 0] {
            return Err(Error::InvalidInput);
        }
        if message.len() > LONGEST {
            return Err(Error::MessageTooLong);
        }
        let (port, way) = self.route(to, options.link.or(only))?;
        let source = options.source.unwrap_or(way.source);
        if source.is_ipv4() != to.is_ipv4() || !self.is_own(source) {
            return Err(Error::AddressNotAvailable);
        }
        let outbound = Outbound {
            source,
            destination: to,
            protocol: if to.is_ipv4() { ip::ICMP } else { ip::ICMPV6 },
            hop_limit: options.hop_limit.unwrap_or(HOP_LIMIT),
            ecn: Ecn::NotEct,
        };
        let fill = |bytes: &mut [u8]| {
            bytes.copy_from_slice(message);
            if let Some(identifier) = identifier {
                bytes[4..6].copy_from_slice(&identifier.to_be_bytes());
            }
            bytes[2..4].fill(0);
            let sum = match to {
                // RFC 792 knows no pseudo-header.
                IpAddr::V4(_) => !ip::sum(bytes),
                IpAddr::V6(_) => ip::checksum_of(&outbound, bytes, core::iter::empty()),
            };
            bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        };
        let now = self.now;
        let (interface, mut context) = self.port(port);
        let len = message.len();
        match interface.send(outbound, way.next_hop, len, fill, now, &mut context) {
            Ok(()) => {
                self.pending = true;
                Ok(true)
            }
            Err(Error::Exhausted) => {
                self.pending |= port == LOOPBACK;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
