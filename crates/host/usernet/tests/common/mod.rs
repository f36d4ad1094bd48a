//! A stand-in guest: a smoltcp interface at the other end of the link, and the network running in a thread.

// Reason: each test program uses its own part of it.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kiln_abi::NetHeader;
use kiln_abi::layout::Record;
use kiln_usernet::{Config, Framing, PortForward, Usernet};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint, checksum};

/// Long enough for a busy machine; tests that work never wait for it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The network in its own thread, as a supervisor runs it.
pub struct Host {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Usernet>>,
    pub forwards: Vec<PortForward>,
}

impl Host {
    pub fn start(config: Config) -> (Self, Guest) {
        Self::start_with(config, true)
    }

    /// With a guest that skips transport checksums, as a real one does on a link that never leaves the machine.
    pub fn start_trusting(config: Config) -> (Self, Guest) {
        Self::start_with(config, false)
    }

    fn start_with(config: Config, verify: bool) -> (Self, Guest) {
        let guest_config = config.clone();
        let (ours, theirs) = link();
        let network = Usernet::new(config, ours).expect("a network");
        let forwards = network.forwards().to_vec();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || drive(network, &stop)
        });
        let host = Self {
            stop,
            thread: Some(thread),
            forwards,
        };
        (host, Guest::new(theirs, &guest_config, verify))
    }

    pub fn forward(&self, index: usize) -> SocketAddr {
        self.forwards[index].host
    }

    pub fn finish(mut self) -> Usernet {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().expect("no panic")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn drive(mut network: Usernet, stop: &AtomicBool) -> Usernet {
    while !stop.load(Ordering::Relaxed) && !network.is_closed() {
        let now = Instant::now();
        let wait = network.deadline().map_or(Duration::from_millis(20), |d| {
            d.saturating_duration_since(now)
                .min(Duration::from_millis(20))
        });
        wait_readable(&network, wait);
        network.run(Instant::now());
    }
    network
}

pub fn wait_readable(fd: impl AsFd, wait: Duration) {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let timeout = Timespec {
        tv_sec: wait.as_secs().cast_signed(),
        tv_nsec: wait.subsec_nanos().into(),
    };
    let _ = rustix::event::poll(&mut fds, Some(&timeout));
}

pub fn link() -> (OwnedFd, OwnedFd) {
    let (a, b) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&b, 4 << 20);
    (a, b)
}

/// The guest's end as a smoltcp device.
pub struct Wire {
    pub fd: OwnedFd,
    mtu: usize,
    /// Bytes before each frame.
    header: usize,
    /// Complete the open checksums of received frames and let smoltcp check them.
    verify: bool,
    buffer: Vec<u8>,
    outgoing: Vec<u8>,
}

pub struct Incoming<'a>(&'a mut [u8]);
pub struct Outgoing<'a>(&'a OwnedFd, &'a mut Vec<u8>, usize);

impl Wire {
    fn new(fd: OwnedFd, config: &Config, verify: bool) -> Self {
        Self {
            fd,
            mtu: usize::from(config.mtu),
            header: match config.framing {
                Framing::Header => 12,
                Framing::ShortHeader => 10,
                Framing::Plain => 0,
            },
            verify,
            buffer: vec![0; 70_000],
            outgoing: Vec::new(),
        }
    }

    /// Takes one frame as it is.
    pub fn receive_raw(&mut self) -> Option<Vec<u8>> {
        let (_, length) = recv(&self.fd, &mut self.buffer[..], RecvFlags::DONTWAIT).ok()?;
        (length > self.header).then(|| self.buffer[self.header..length].to_vec())
    }

    pub fn send_raw(&self, frame: &[u8]) {
        let mut message = NetHeader::PLAIN.as_bytes()[..self.header].to_vec();
        message.extend(frame);
        let _ = send(&self.fd, &message, SendFlags::NOSIGNAL);
    }
}

impl Device for Wire {
    type RxToken<'a> = Incoming<'a>;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(
        &mut self,
        _: smoltcp::time::Instant,
    ) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let (_, length) = recv(&self.fd, &mut self.buffer[..], RecvFlags::DONTWAIT).ok()?;
        if length <= self.header {
            return None;
        }
        let mut header = [0; NetHeader::SIZE];
        header[NetHeader::SIZE - 2] = 1;
        header[..self.header].copy_from_slice(&self.buffer[..self.header]);
        let header = NetHeader::from_prefix(&header).unwrap();
        assert_eq!(header.num_buffers, 1);
        let frame = &mut self.buffer[self.header..length];
        // Many segments in one frame are taken as they are.
        let head = usize::from(header.hdr_len);
        let cut = usize::from(header.gso_size);
        assert_eq!(header.gso_type != 0, frame.len() > self.mtu + 14);
        if header.gso_type != 0 {
            assert!(head + cut <= self.mtu + 14 && frame.len() > head + cut);
        }
        if self.verify && header.flags & NetHeader::NEEDS_CSUM != 0 {
            let start = usize::from(header.csum_start);
            let at = start + usize::from(header.csum_offset);
            let sum = !checksum::data(&frame[start..]);
            frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        Some((
            Incoming(frame),
            Outgoing(&self.fd, &mut self.outgoing, self.header),
        ))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Self::TxToken<'_>> {
        Some(Outgoing(&self.fd, &mut self.outgoing, self.header))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = self.mtu + 14;
        if !self.verify {
            caps.checksum.tcp = Checksum::None;
            caps.checksum.udp = Checksum::None;
        }
        caps
    }
}

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        self.1.clear();
        self.1.extend(&NetHeader::PLAIN.as_bytes()[..self.2]);
        self.1.resize(self.2 + length, 0);
        let result = f(&mut self.1[self.2..]);
        while let Err(error) = send(self.0, self.1, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            if error != rustix::io::Errno::AGAIN {
                break;
            }
            std::thread::yield_now();
        }
        result
    }
}

/// The guest: an interface with static addresses, and sockets.
pub struct Guest {
    pub wire: Wire,
    pub interface: Interface,
    pub sockets: SocketSet<'static>,
    started: Instant,
}

impl Guest {
    pub fn new(fd: OwnedFd, config: &Config, verify: bool) -> Self {
        let mut wire = Wire::new(fd, config, verify);
        let mut interface_config = InterfaceConfig::new(EthernetAddress(config.guest_mac).into());
        interface_config.random_seed = 7;
        let mut interface =
            Interface::new(interface_config, &mut wire, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses
                .push(IpCidr::new(config.guest4.into(), config.prefix4))
                .unwrap();
            addresses
                .push(IpCidr::new(config.guest6.into(), 64))
                .unwrap();
        });
        let routes = interface.routes_mut();
        routes.add_default_ipv4_route(config.gateway4).unwrap();
        routes.add_default_ipv6_route(config.gateway6).unwrap();
        Self {
            wire,
            interface,
            sockets: SocketSet::new(Vec::new()),
            started: Instant::now(),
        }
    }

    pub fn now(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(self.started.elapsed().as_micros() as i64)
    }

    /// Handles what has arrived and is due.
    pub fn poll(&mut self) {
        let now = self.now();
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
    }

    /// Waits for a frame or a timer, at most a few milliseconds.
    pub fn wait(&mut self) {
        let now = self.now();
        let delay = self.interface.poll_delay(now, &self.sockets);
        let wait = delay.map_or(5000, |d| d.total_micros().min(5000));
        wait_readable(&self.wire.fd, Duration::from_micros(wait));
    }

    /// Runs until the program says that it is done.
    pub fn run(&mut self, mut program: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        loop {
            self.poll();
            if program(self) {
                // What the program did last must go out, too.
                self.poll();
                return;
            }
            assert!(start.elapsed() < PATIENCE, "the guest waited too long");
            self.wait();
        }
    }

    /// Runs for a while without waiting for anything.
    pub fn run_for(&mut self, time: Duration) {
        let start = Instant::now();
        self.run(|_| start.elapsed() >= time);
    }

    pub fn tcp(&mut self, buffer: usize) -> SocketHandle {
        let mut socket = tcp::Socket::new(
            tcp::SocketBuffer::new(vec![0; buffer]),
            tcp::SocketBuffer::new(vec![0; buffer]),
        );
        socket.set_nagle_enabled(false);
        self.sockets.add(socket)
    }

    pub fn listen(&mut self, port: u16, buffer: usize) -> SocketHandle {
        let handle = self.tcp(buffer);
        self.socket(handle).listen(port).unwrap();
        handle
    }

    pub fn connect(&mut self, to: impl Into<IpEndpoint>, from: u16) -> SocketHandle {
        let handle = self.tcp(1 << 18);
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        socket.connect(self.interface.context(), to, from).unwrap();
        handle
    }

    pub fn udp(&mut self, bind: impl Into<IpListenEndpoint>) -> SocketHandle {
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 1 << 17]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(bind).unwrap();
        self.sockets.add(socket)
    }

    pub fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub fn datagrams(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub fn state(&mut self, handle: SocketHandle) -> tcp::State {
        self.socket(handle).state()
    }
}

/// Sends back what comes, and closes when the peer has.
pub fn echo(socket: &mut tcp::Socket<'_>) {
    while socket.can_recv() && socket.can_send() {
        let room = socket.send_capacity() - socket.send_queue();
        let taken = socket
            .recv(|data| {
                let n = data.len().min(room);
                (n, data[..n].to_vec())
            })
            .unwrap();
        assert_eq!(socket.send_slice(&taken), Ok(taken.len()));
    }
    if !socket.may_recv() && socket.state() == tcp::State::CloseWait {
        socket.close();
    }
}

pub fn loopback_config() -> Config {
    Config {
        host_loopback: true,
        ..Config::default()
    }
}

pub fn with_forwards(texts: &[&str]) -> Config {
    Config {
        forwards: texts.iter().map(|text| text.parse().unwrap()).collect(),
        ..Config::default()
    }
}

pub const GATEWAY: IpAddress = IpAddress::v4(10, 0, 2, 2);
pub const DNS: IpAddress = IpAddress::v4(10, 0, 2, 3);
