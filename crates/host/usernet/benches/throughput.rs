//! How fast the network carries requests and bulk data, against stand-in guests on the loopback interface.
//!
//! Requests go to a guest without state that answers each segment with one segment: what is measured is the network
//! and the host's own TCP, not the guest. Bulk data go through a smoltcp guest. Each figure is printed beside the same
//! load on a plain loopback connection, and with the processor time that the network's thread used.
//!
//! `cargo bench -p kiln-usernet --bench throughput [requests|connections|bulk-in|bulk-out]`

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{GATEWAY, Host, wait_readable};
use kiln_abi::NetHeader;
use kiln_abi::layout::Record;
use kiln_usernet::{Config, Usernet};
use rustix::event::epoll;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use smoltcp::wire::{
    EthernetFrame, Ipv4Address, Ipv4Packet, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

const CONNECTIONS: usize = 64;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost:8080\r\n\r\n";
/// As long as nginx's answer with its 612-byte page.
const ANSWER: usize = 850;
const TIME: Duration = Duration::from_secs(3);
const BULK: usize = 3_000_000_000;
const BULK_GB: f64 = 3.0;

fn main() {
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let run = |name: &str, bench: fn()| {
        if wanted.as_deref().is_none_or(|wanted| wanted == name) {
            bench();
        }
    };
    run("requests", requests);
    run("connections", connections);
    run("bulk-in", bulk_in);
    run("bulk-out", bulk_out);
}

fn requests() {
    let direct = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = direct.local_addr().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let server = thread::spawn({
        let stop = Arc::clone(&stop);
        move || serve_directly(&direct, &stop)
    });
    let base = load(address);
    stop.store(true, Ordering::Relaxed);
    server.join().unwrap();

    let (network, address, guest) = start_stateless();
    let rate = load(address);
    let cpu = network.finish();
    guest.join().unwrap();
    println!(
        "requests: {rate:.0}/s on {CONNECTIONS} connections, {:.2} of loopback's {base:.0}/s; {:.2} us of the \
         network's processor time each",
        rate / base,
        cpu.as_secs_f64() * 1e6 / (rate * TIME.as_secs_f64())
    );
}

fn connections() {
    let (network, address, guest) = start_stateless();
    let start = Instant::now();
    let mut count = 0;
    let mut buffer = [0; 4096];
    while start.elapsed() < TIME {
        let mut streams: Vec<_> = (0..16)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        for stream in &mut streams {
            stream.write_all(REQUEST).unwrap();
        }
        for mut stream in streams {
            let mut length = 0;
            while length < ANSWER {
                length += stream.read(&mut buffer).unwrap();
            }
            count += 1;
        }
    }
    let rate = f64::from(count) / start.elapsed().as_secs_f64();
    let cpu = network.finish();
    guest.join().unwrap();
    println!(
        "connections: {rate:.0}/s with one request each; {:.2} us of the network's processor time each",
        cpu.as_secs_f64() * 1e6 / f64::from(count)
    );
}

fn bulk_in() {
    let config = Config {
        forwards: vec!["127.0.0.1:0:80".parse().unwrap()],
        ..Config::default()
    };
    let (host, mut guest) = Host::start_trusting(config);
    let address = host.forward(0);
    let server = guest.listen(80, 1 << 20);
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        let data = vec![1; 1 << 18];
        let mut left = BULK;
        while left != 0 {
            left -= stream.write(&data[..left.min(data.len())]).unwrap();
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = stream.read(&mut [0]);
    });
    let mut received = 0;
    let mut start = None;
    guest.run(|guest| {
        let socket = guest.socket(server);
        while socket.can_recv() {
            start.get_or_insert_with(Instant::now);
            received += socket.recv(|data| (data.len(), data.len())).unwrap();
        }
        received == BULK
    });
    report("bulk into the guest", start.unwrap());
    guest.socket(server).close();
    guest.run(|_| client.is_finished());
    drop(host);
}

fn bulk_out() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (host, mut guest) = Host::start_trusting(common::loopback_config());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 1 << 18];
        let mut received = 0;
        while received < BULK {
            received += stream.read(&mut buffer).unwrap();
        }
    });
    let handle = guest.connect((GATEWAY, port), 40_000);
    let mut sent = 0;
    let start = Instant::now();
    guest.run(|guest| {
        let socket = guest.socket(handle);
        while socket.can_send() && sent < BULK {
            let take = |room: &mut [u8]| room.len().min(BULK - sent);
            sent += socket.send(|room| (take(room), take(room))).unwrap();
        }
        server.is_finished()
    });
    report("bulk out of the guest", start);
    drop(host);
}

fn report(what: &str, start: Instant) {
    let rate = BULK_GB / start.elapsed().as_secs_f64();
    println!("{what}: {rate:.2} GB/s on one connection");
}

/// The network's thread.
struct Running {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Duration>,
}

impl Running {
    /// Ends it and tells how much processor time it used.
    fn finish(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn start_stateless() -> (Running, SocketAddr, thread::JoinHandle<()>) {
    let config = Config {
        forwards: vec!["127.0.0.1:0:80".parse().unwrap()],
        ..Config::default()
    };
    let (ours, theirs) = common::link();
    let mut network = Usernet::new(config, ours).unwrap();
    let address = network.forwards()[0].host;
    let stop = Arc::new(AtomicBool::new(false));
    let thread = thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let clock = rustix::time::ClockId::ThreadCPUTime;
            let before = rustix::time::clock_gettime(clock);
            while !stop.load(Ordering::Relaxed) {
                let wait = network.deadline().map_or(Duration::from_millis(20), |d| {
                    d.saturating_duration_since(Instant::now())
                        .min(Duration::from_millis(20))
                });
                if !wait.is_zero() {
                    wait_readable(&network, wait);
                }
                network.run(Instant::now());
            }
            let used = rustix::time::clock_gettime(clock) - before;
            Duration::new(
                used.tv_sec.unsigned_abs(),
                used.tv_nsec.unsigned_abs() as u32,
            )
        }
    });
    let guest = thread::spawn(move || answer_all(&theirs));
    (Running { stop, thread }, address, guest)
}

/// A guest without state: the answer's sequence numbers follow from the question's.
fn answer_all(link: &OwnedFd) {
    let mut buffer = vec![0; 70_000];
    let mut answer = vec![0; NetHeader::SIZE + 14 + 20 + 20 + ANSWER];
    let payload = [b'x'; ANSWER];
    loop {
        let length = match recv(link, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((_, length)) if length > NetHeader::SIZE => length,
            Ok(_) => return,
            Err(_) => {
                wait_readable(link, Duration::from_secs(1));
                continue;
            }
        };
        let frame = EthernetFrame::new_unchecked(&buffer[NetHeader::SIZE..length]);
        let ip = Ipv4Packet::new_unchecked(frame.payload());
        if ip.version() != 4 {
            continue;
        }
        let segment = TcpPacket::new_unchecked(ip.payload());
        let data = segment.payload().len();
        if segment.rst() || data == 0 && !segment.syn() && !segment.fin() {
            continue;
        }
        let repr = TcpRepr {
            src_port: segment.dst_port(),
            dst_port: segment.src_port(),
            control: if segment.syn() {
                TcpControl::Syn
            } else if segment.fin() {
                TcpControl::Fin
            } else {
                TcpControl::Psh
            },
            seq_number: if segment.syn() {
                TcpSeqNumber(1000)
            } else {
                segment.ack_number()
            },
            ack_number: Some(segment.seq_number() + segment.segment_len()),
            window_len: 60_000,
            window_scale: None,
            max_seg_size: segment.syn().then_some(60_000),
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: if data == 0 { &[] } else { &payload },
        };
        let total = 20 + repr.buffer_len();
        let out = &mut answer[NetHeader::SIZE..];
        let mut ethernet = EthernetFrame::new_unchecked(&mut *out);
        ethernet.set_dst_addr(frame.src_addr());
        ethernet.set_src_addr(frame.dst_addr());
        ethernet.set_ethertype(frame.ethertype());
        let mut reply = Ipv4Packet::new_unchecked(&mut out[14..]);
        reply.set_version(4);
        reply.set_header_len(20);
        reply.set_total_len(total as u16);
        reply.set_hop_limit(64);
        reply.set_next_header(ip.next_header());
        let (from, to): (Ipv4Address, Ipv4Address) = (ip.dst_addr(), ip.src_addr());
        reply.set_src_addr(from);
        reply.set_dst_addr(to);
        repr.emit(
            &mut TcpPacket::new_unchecked(reply.payload_mut()),
            &from.into(),
            &to.into(),
            &smoltcp::phy::ChecksumCapabilities::ignored(),
        );
        answer[..NetHeader::SIZE].copy_from_slice(NetHeader::PLAIN.as_bytes());
        let message = &answer[..NetHeader::SIZE + 14 + total];
        while send(link, message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
            == Err(rustix::io::Errno::AGAIN)
        {
            thread::yield_now();
        }
    }
}

/// Connections that are waited for together.
struct Poll {
    epoll: OwnedFd,
    ready: Vec<usize>,
}

impl Poll {
    fn new() -> Self {
        Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(),
            ready: Vec::new(),
        }
    }

    fn add(&self, fd: impl AsFd, index: usize) {
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN).unwrap();
    }

    fn wait(&mut self) {
        let mut events = Vec::with_capacity(256);
        let timeout = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        let _ = epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&timeout),
        );
        self.ready.clear();
        self.ready
            .extend(events.iter().map(|event| event.data.u64() as usize));
    }
}

/// A client with many keep-alive connections, one request under way on each. Returns requests per second.
fn load(address: SocketAddr) -> f64 {
    let mut streams: Vec<_> = (0..CONNECTIONS)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let mut poll = Poll::new();
    for (index, stream) in streams.iter_mut().enumerate() {
        stream.set_nodelay(true).unwrap();
        poll.add(&*stream, index);
        stream.write_all(REQUEST).unwrap();
    }
    let mut pending = [ANSWER; CONNECTIONS];
    let mut buffer = [0; 8192];
    let mut count = 0_u32;
    let start = Instant::now();
    while start.elapsed() < TIME {
        poll.wait();
        for &index in &poll.ready {
            let length = streams[index].read(&mut buffer).unwrap();
            assert!(
                length != 0 && length <= pending[index],
                "one answer for each request"
            );
            pending[index] -= length;
            if pending[index] == 0 {
                pending[index] = ANSWER;
                count += 1;
                streams[index].write_all(REQUEST).unwrap();
            }
        }
    }
    f64::from(count) / start.elapsed().as_secs_f64()
}

/// The same service without a network between.
fn serve_directly(listener: &TcpListener, stop: &AtomicBool) {
    let mut poll = Poll::new();
    let mut streams = Vec::new();
    for index in 0..CONNECTIONS {
        let (stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        poll.add(&stream, index);
        streams.push(stream);
    }
    let answer = [b'x'; ANSWER];
    let mut buffer = [0; 8192];
    while !stop.load(Ordering::Relaxed) {
        poll.wait();
        for &index in &poll.ready {
            if streams[index]
                .read(&mut buffer)
                .is_ok_and(|length| length != 0)
            {
                let _ = streams[index].write_all(&answer);
            }
        }
    }
}
