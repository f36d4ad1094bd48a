//! Rootless network address translation for Kiln guests.
//!
//! A guest's Ethernet link ends here, in the supervisor's process on the host, and everything that leaves does so
//! through ordinary sockets: no privileges, no tap device, no bridge. The guest sees a small network,
//!
//! ```text
//!   10.0.2.15  fd00:6b69:6c6e::15   the guest
//!   10.0.2.2   fd00:6b69:6c6e::2    the gateway: the world, and the host's forwarded ports
//!   10.0.2.3   fd00:6b69:6c6e::3    a DNS server: the host's resolvers
//! ```
//!
//! and behind the gateway whatever the host can reach, except what trusts whoever can reach it (loopback, link-local).
//!
//! [`Usernet`] is single-threaded and never blocks. Its owner waits for one descriptor ([`AsFd`]: an epoll instance)
//! to become readable or for [`deadline`](Usernet::deadline), and then calls [`run`](Usernet::run). Each call does a
//! bounded piece of work. All memory is bounded by [`Limits`], whatever the guest sends or does not read.
//!
//! ```no_run
//! # fn wait(_: &kiln_usernet::Usernet, _: Option<std::time::Instant>) {}
//! # fn demo(link: std::os::fd::OwnedFd) -> Result<(), kiln_usernet::Error> {
//! use std::time::Instant;
//! use kiln_usernet::{Config, PortForward, Usernet};
//!
//! let config = Config {
//!     forwards: PortForward::parse_list("8080:80")?,
//!     ..Config::default()
//! };
//! let mut network = Usernet::new(config, link)?;
//! while !network.is_closed() {
//!     wait(&network, network.deadline());
//!     network.run(Instant::now());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # The end of a guest
//!
//! What the guest has sent and we have acknowledged is ours to deliver: a host's client that reads slowly may have 1 MiB of
//! it to come, and frames may still be in the link. So whoever runs the network calls [`drain`](Usernet::drain) instead of
//! [`run`](Usernet::run) once the guest has ended, for as long as its patience lasts, before the network is dropped.
//!
//! A client is told by the guest's FIN that a stream is complete, and by nothing else. A guest that ends in good order
//! closes its connections as the exit of a process does, by FIN, or by RST over data that nobody has read, and waits a
//! moment for the frames to leave. A connection without a FIN is therefore one of a guest that was killed, that crashed,
//! or that had more to send than our window let through, and nobody knows how much: what was in the guest's memory is
//! lost. Linux may end the connections of a process that was killed with a FIN, since it still has and sends all that the
//! process has written. We cannot, so that the host's peer sees a reset, even if all that reached us was delivered. The same
//! holds for a stream with FIN whose data have not all been given to the host when the network is dropped. A stream that was
//! cut never looks complete.
//!
//! | file | subject |
//! | --- | --- |
//! | `config`, `forward`, `policy` | what is wanted, and what is allowed |
//! | `link`, `packet` | frames and packets |
//! | `neighbor`, `dhcp` | how the guest finds its way |
//! | `tcp`, `udp`, `icmp`, `dns` | flows |
//! | `local` | which of the host's addresses a datagram came to |
//! | `table`, `poller`, `context`, `stats` | what they share |

#![deny(unsafe_code)]

mod config;
mod context;
mod dhcp;
mod dns;
mod error;
mod forward;
mod icmp;
mod link;
mod local;
mod neighbor;
mod packet;
mod policy;
mod poller;
mod resolvers;
mod stats;
mod table;
mod tcp;
mod udp;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use kiln_abi::DeviceInfo;
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol};

pub use self::config::{Config, Framing, Limits};
pub use self::error::Error;
pub use self::forward::{PortForward, Protocol};
pub use self::link::{Observer, Way};
pub use self::stats::Stats;

use self::context::Context;
use self::dns::Dns;
use self::icmp::Ping;
use self::link::{ETHERNET, Inbound, Received, protocol};
use self::packet::{Datagram, Packet};
use self::poller::{Flags, Poller, Token};
use self::tcp::Tcp;
use self::udp::Udp;

/// Frames taken from the guest before everything that they touched is served.
const FRAMES: usize = 64;

/// Bytes of frames after which it is the same: a guest that sends much learns early that it may go on, and sends while
/// the rest is taken.
const FRAME_BYTES: usize = 256 << 10;

/// What the link is watched for; for room only while something waits for it, as each frame that the guest takes makes some.
const LINK_EVENTS: Flags = Flags::IN.union(Flags::RDHUP).union(Flags::ET);

/// Rounds of frames and service in one call of [`Usernet::run`].
const ROUNDS: usize = 8;

/// The same for one call of [`Usernet::drain`]: more frames than a link holds.
const LAST_ROUNDS: usize = 1024;

/// One guest's network.
// Reason: each flag is a condition of its own that comes and goes in any order with the others.
#[allow(clippy::struct_excessive_bools)]
pub struct Usernet {
    cx: Context,
    inbound: Inbound,
    tcp: Tcp,
    udp: Udp,
    ping: Ping,
    dns: Dns,
    forwards: Vec<PortForward>,
    /// The link may have frames for us.
    link_readable: bool,
    /// The link is watched for room.
    awaits_room: bool,
    /// The last slice left something undone.
    unfinished: bool,
    closed: bool,
    /// The guest has ended, see [`Usernet::drain`].
    ended: bool,
}

impl Usernet {
    /// Makes a network at one end of a `SOCK_SEQPACKET` socket pair and binds all forwarded ports.
    ///
    /// Each message on the link is a [`NetHeader`](kiln_abi::NetHeader) followed by one Ethernet frame, unless
    /// [`Config::framing`] says otherwise. The other end should have a large `SO_SNDBUF` for speed.
    ///
    /// # Errors
    ///
    /// A contradictory configuration, a port that cannot be bound ([`Error::PortInUse`] and its like), or a host that
    /// is out of descriptors.
    pub fn new(config: Config, link: OwnedFd) -> Result<Self, Error> {
        config.check()?;
        let poller = Poller::new().map_err(Error::host("create an epoll instance"))?;
        let (inbound, out) = link::open(link, &config);
        poller
            .add(&out, Token::Link, LINK_EVENTS)
            .map_err(Error::host("wait for the guest's link"))?;
        let tcp = Tcp::new()?;
        let dns = Dns::new(&config.resolvers);
        let requested = config.forwards.clone();
        let mut network = Self {
            cx: Context::new(config, out, poller),
            inbound,
            tcp,
            udp: Udp::new(),
            ping: Ping::new(),
            dns,
            forwards: Vec::new(),
            link_readable: true,
            awaits_room: false,
            unfinished: true,
            closed: false,
            ended: false,
        };
        for forward in &requested {
            network.forward(forward)?;
        }
        Ok(network)
    }

    /// Binds one more port of the host and forwards it.
    ///
    /// # Errors
    ///
    /// [`Error::PortInUse`] and its like.
    pub fn forward(&mut self, forward: &PortForward) -> Result<(), Error> {
        for (fd, bound) in tcp::inbound::bind(forward)? {
            match forward.protocol {
                Protocol::Tcp => self.tcp.listen(&self.cx, fd, forward.guest_port)?,
                Protocol::Udp => self.udp.listen(&self.cx, fd, forward.guest_port)?,
            }
            self.forwards.push(PortForward {
                host: bound,
                both_families: false,
                ..*forward
            });
        }
        Ok(())
    }

    /// The forwards as they are bound: one for each address, with the port that the host chose where it was asked to.
    pub fn forwards(&self) -> &[PortForward] {
        &self.forwards
    }

    /// The configuration in use.
    pub fn config(&self) -> &Config {
        &self.cx.config
    }

    /// What the guest is told about its device at boot, see [`Config::device_info`].
    pub fn device_info(&self) -> DeviceInfo {
        self.cx.config.device_info()
    }

    /// When [`run`](Self::run) should be called even if the descriptor is not readable; a moment in the past when work
    /// is left over, `None` when nothing is due.
    pub fn deadline(&self) -> Option<Instant> {
        if self.unfinished {
            return Some(self.cx.now);
        }
        if self.ended {
            return None;
        }
        [
            self.tcp.deadline(),
            self.udp.deadline(),
            self.ping.deadline(),
            self.dns.deadline(),
            self.cx.next_advertisement,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// True once the guest's end of the link is gone: nothing more will happen.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Does what there is to do, without blocking and in bounded time.
    ///
    /// `now` is the present. Returns true if work is left: call again, after looking at other things that wait.
    pub fn run(&mut self, now: Instant) -> bool {
        self.take_events(now);
        self.expire();
        let mut rounds = 0;
        loop {
            self.take_frames();
            self.tcp.serve(&mut self.cx);
            // Writing may have found room that no event announced yet.
            if self.cx.out.blocked() && self.cx.out.flush() {
                self.tcp.unblocked(&self.cx);
            }
            rounds += 1;
            if !self.link_readable && !self.tcp.has_work() || rounds == ROUNDS {
                break;
            }
        }
        self.watch_for_room();
        self.unfinished = self.link_readable || self.tcp.has_work() || self.cx.poller.overflowed();
        self.unfinished &= !self.closed;
        self.unfinished
    }

    /// Delivers what a guest that has ended has left behind: takes all frames that are still in the link, and goes on giving
    /// the host's sockets the data that wait for them. Returns true while such data are left.
    ///
    /// To be called instead of [`run`](Self::run) once nobody can send on the guest's end of the link any more. It does not
    /// block; the time it takes is bounded by what a link holds. While it returns true, the caller waits as before, for
    /// [`AsFd`] or [`deadline`](Self::deadline), and calls again, until its patience ends: a client that never reads makes
    /// this return true for ever. Then it drops the network, which resets the connections that are left:
    ///
    /// ```no_run
    /// # fn wait(_: &kiln_usernet::Usernet, _: std::time::Instant) {}
    /// # fn demo(mut network: kiln_usernet::Usernet) {
    /// # use std::time::{Duration, Instant};
    /// let limit = Instant::now() + Duration::from_secs(5);
    /// while network.drain(Instant::now()) && Instant::now() < limit {
    ///     wait(&network, network.deadline().unwrap_or(limit).min(limit));
    /// }
    /// drop(network);
    /// # }
    /// ```
    ///
    /// The first call closes the forwarded ports of TCP, and frames to the guest are dropped from then on. A connection that
    /// has nothing left to deliver ends at once: in good order if the guest has sent its FIN, else by a reset.
    pub fn drain(&mut self, now: Instant) -> bool {
        if !self.ended {
            self.ended = true;
            self.link_readable = true;
            self.cx.out.shut();
            self.tcp.close_listeners();
            self.tcp.unblocked(&self.cx);
        }
        self.take_events(now);
        for _ in 0..LAST_ROUNDS {
            self.take_frames();
            self.tcp.serve(&mut self.cx);
            if !self.link_readable && !self.tcp.has_work() {
                break;
            }
        }
        let more = self.link_readable || self.tcp.has_work();
        self.unfinished = more || self.cx.poller.overflowed();
        // As long as frames are left, a connection may still get its FIN.
        more || self.tcp.settle()
    }

    fn take_events(&mut self, now: Instant) {
        self.cx.now = now.max(self.cx.now);
        let events = self.cx.poller.poll();
        for index in 0..events {
            if let Some((token, flags)) = self.cx.poller.event(index) {
                self.event(token, flags);
            }
        }
    }

    /// Begins to watch the link for room when something waits for it. It ends with the first room that nobody waits for:
    /// what is full once will soon be full again.
    fn watch_for_room(&mut self) {
        let blocked = self.cx.out.blocked();
        if blocked && !self.awaits_room {
            let events = LINK_EVENTS | Flags::OUT;
            // Room that is there already is told with this. Should it fail, the next call tries again.
            self.awaits_room = self
                .cx
                .poller
                .modify(&self.cx.out, Token::Link, events)
                .is_ok();
        }
    }

    /// Counters since the network was made.
    pub fn stats(&self) -> Stats {
        let mut stats = self.cx.stats;
        stats.frames_out = self.cx.out.frames;
        stats.bytes_out = self.cx.out.bytes;
        stats.frames_dropped = self.cx.out.dropped;
        stats.tcp_now = self.tcp.len() as u64;
        stats.udp_now = self.udp.len() as u64;
        stats
    }

    /// Shows all frames from now on to somebody, or to nobody. Without one it costs nothing.
    pub fn observe(&mut self, observer: Option<Box<dyn Observer>>) {
        self.cx.out.observer = observer;
    }

    /// A text for people: addresses, forwards, restrictions, counters.
    pub fn inspect(&self) -> String {
        use fmt::Write;
        let config = &self.cx.config;
        let mut text = format!(
            "guest {}/{}, gateway {}, dns {}, mtu {}\n",
            config.guest4, config.prefix4, config.gateway4, config.dns4, config.mtu
        );
        // Writing to a string cannot fail.
        let _ = if config.ipv6 {
            writeln!(
                text,
                "guest {}/64, gateway {}, dns {}",
                config.guest6, config.gateway6, config.dns6
            )
        } else {
            writeln!(text, "no IPv6")
        };
        for forward in &self.forwards {
            let _ = writeln!(text, "forward {forward}");
        }
        if config.host_loopback {
            let _ = writeln!(
                text,
                "the gateway's address reaches the host's loopback interface"
            );
        }
        if self.ping.denied() {
            let _ = writeln!(
                text,
                "ping reaches the gateway only: this host allows no ping sockets \
                 (net.ipv4.ping_group_range)"
            );
        }
        let _ = write!(text, "{}", self.stats());
        text
    }

    fn event(&mut self, token: Token, flags: Flags) {
        let cx = &mut self.cx;
        match token {
            Token::Link => {
                self.link_readable |= flags.intersects(Flags::IN | Flags::HUP | Flags::RDHUP);
                self.inbound.hung_up |= flags.intersects(Flags::HUP | Flags::RDHUP | Flags::ERR);
                if flags.contains(Flags::OUT) {
                    if !cx.out.blocked() && self.awaits_room {
                        let quiet = cx.poller.modify(&cx.out, Token::Link, LINK_EVENTS);
                        self.awaits_room = quiet.is_err();
                    }
                    if cx.out.flush() {
                        self.tcp.unblocked(cx);
                    }
                }
            }
            Token::Listener(index) => self.tcp.accept(cx, index),
            Token::Tcp(key) => self.tcp.event(cx, key, flags),
            Token::UdpForward(index) => self.udp.forward_event(cx, index),
            Token::UdpFlow(key) => self.udp.flow_event(cx, key),
            Token::Ping(key) => self.ping.event(cx, key),
            Token::Dns(key) => self.dns.event(cx, key),
        }
    }

    fn expire(&mut self) {
        self.tcp.expire(&self.cx);
        self.tcp.wake_listeners(&self.cx);
        self.udp.expire(&self.cx);
        self.ping.expire(self.cx.now);
        self.dns.expire(&mut self.cx);
        neighbor::expire(&mut self.cx);
    }

    fn take_frames(&mut self) {
        if !self.link_readable {
            return;
        }
        let mut bytes = 0;
        for _ in 0..FRAMES {
            if bytes >= FRAME_BYTES {
                return;
            }
            match self.inbound.receive() {
                Received::Frame(frame) => {
                    bytes += frame.len();
                    self.cx.stats.frames_in += 1;
                    self.cx.stats.bytes_in += frame.len() as u64;
                    if let Some(observer) = &mut self.cx.out.observer {
                        observer.frame(Way::FromGuest, frame);
                    }
                    let known = take_frame(
                        &mut self.cx,
                        &mut self.tcp,
                        &mut self.udp,
                        &mut self.ping,
                        &mut self.dns,
                        frame,
                    );
                    if !known {
                        self.cx.stats.frames_ignored += 1;
                    }
                }
                Received::Malformed => self.cx.stats.frames_ignored += 1,
                Received::Empty => {
                    self.link_readable = false;
                    return;
                }
                Received::Closed => {
                    self.link_readable = false;
                    self.closed = true;
                    return;
                }
            }
        }
    }
}

/// Gives one frame of the guest to whom it belongs. False if it belongs to nobody.
fn take_frame(
    cx: &mut Context,
    tcp: &mut Tcp,
    udp: &mut Udp,
    ping: &mut Ping,
    dns: &mut Dns,
    frame: &[u8],
) -> bool {
    let Ok(ethernet) = EthernetFrame::new_checked(frame) else {
        return false;
    };
    // A switch would not bring us what is meant for another station.
    let to = ethernet.dst_addr();
    if to != cx.out.gateway_mac() && to.is_unicast() {
        return false;
    }
    let from: EthernetAddress = ethernet.src_addr();
    if from != cx.out.guest_mac() {
        cx.out.learn_guest_mac(from);
    }
    let payload = &frame[ETHERNET..];
    let packet = match ethernet.ethertype() {
        EthernetProtocol::Arp => return neighbor::arp(&cx.config, &mut cx.out, payload),
        EthernetProtocol::Ipv4 | EthernetProtocol::Ipv6 => Packet::parse(payload),
        EthernetProtocol::Unknown(_) => None,
    };
    let Some(packet) = packet else {
        return false;
    };
    if packet.protocol == protocol::ICMPV6 && neighbor::discovery(cx, &packet) {
        return true;
    }
    let is_broadcast = packet.target == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    if packet.protocol == protocol::UDP
        && packet.source.is_ipv4()
        && (is_broadcast || packet.target == IpAddr::V4(cx.config.gateway4))
        && let Some(datagram) = Datagram::parse(&packet)
        && datagram.target.port() == dhcp::SERVER_PORT
    {
        let answered = dhcp::answer(&cx.config, &mut cx.out, datagram.payload);
        cx.stats.dhcp_answers += u64::from(answered);
        return answered;
    }
    if !policy::is_guest(&cx.config, packet.source) {
        cx.stats.frames_spoofed += 1;
        return true;
    }
    match packet.protocol {
        protocol::TCP => {
            let to_dns = policy::route(&cx.config, packet.target) == policy::Route::Dns;
            let resolver: Option<SocketAddr> = to_dns.then(|| dns.first_resolver(cx.now)).flatten();
            tcp.receive(cx, &packet, resolver)
        }
        protocol::UDP => {
            let Some(datagram) = Datagram::parse(&packet) else {
                return false;
            };
            if datagram.target.port() == dns::PORT
                && policy::route(&cx.config, packet.target) == policy::Route::Dns
            {
                dns.receive(cx, datagram);
            } else {
                udp.receive(cx, &packet, datagram);
            }
            true
        }
        protocol::ICMP | protocol::ICMPV6 => ping.receive(cx, &packet),
        _ => false,
    }
}

impl AsFd for Usernet {
    /// The epoll instance: readable when there is something to do.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.cx.poller.as_fd()
    }
}

impl fmt::Debug for Usernet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Usernet")
            .field("forwards", &self.forwards)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

// A supervisor may make the network in one thread and run it in another.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Usernet>();
};
