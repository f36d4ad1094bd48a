//! Everybody who talks to the guest, as one program: `crowd ADDRESS IDLE SECONDS SYNS FLOOD-SECONDS PID PID`.
//!
//! The two processes are the guest's, whose memory is looked at in the right moments. What it finds it prints as lines
//! of a name and a number.

use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, recv, send,
    socket_with, sockopt,
};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::flood;
use crate::{Result, figures, process};

/// All of it is local to the client's namespace.
pub const SOURCES: &str = "10.20.0.0/16";

/// Connections that talk all the time.
const ACTIVE: usize = 100;
/// What they say; the answer is the same.
const MESSAGE: [u8; 64] = [b'm'; 64];
/// Connections whose handshake goes on at once. Less than what a listener holds back.
const OPENING: usize = 64;
/// How long a handshake may take; the first repetition of a SYN is in it, the second is not.
const HANDSHAKE: Duration = Duration::from_millis(2500);
/// After so many that failed no more are tried: the guest has no room.
const HOPELESS: usize = 128;
/// How long a newcomer waits while the flood goes on: no SYN of its is repeated.
const NEWCOMER: Duration = Duration::from_millis(900);
/// Time between two newcomers.
const PAUSE: Duration = Duration::from_millis(50);
/// How many idle connections are asked at once whether they are alive.
const ROUND: usize = 256;
/// How long one may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long to wait for events before looking at the clock.
const GLANCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// Which handshakes go on: when each began, and its socket.
type Handshakes = Vec<(Instant, OwnedFd)>;

/// See the module.
pub fn main(arguments: &[&str]) -> Result<()> {
    let &[
        address,
        idle,
        seconds,
        syns,
        flood_seconds,
        guest,
        supervisor,
    ] = arguments
    else {
        return Err("crowd: ADDRESS IDLE SECONDS SYNS FLOOD-SECONDS PID PID".to_owned());
    };
    let number =
        |text: &str| -> Result<u32> { text.parse().map_err(|error| format!("{text}: {error}")) };
    let to: SocketAddrV4 = address
        .parse()
        .map_err(|error| format!("{address}: {error}"))?;
    let pids = [number(guest)?, number(supervisor)?];
    let (idle, time) = (number(idle)? as usize, seconds_of(number(seconds)?));
    allow_files(idle + ACTIVE + 100)?;

    let mut active = Active::open(to)?;
    // The first second is slower than the others: memory is touched for the first time.
    active.measure("first", time)?;
    active.measure("before", time)?;
    report("memory-empty", figures::count(memory(pids)?));

    let start = Instant::now();
    let crowd = crowd(to, idle)?;
    report("opened", figures::count(crowd.len() as u64));
    report("opening", start.elapsed().as_secs_f64());
    active.measure("beside", time)?;
    report("memory-full", figures::count(memory(pids)?));

    let (syns, time_of_flood) = (number(syns)?, seconds_of(number(flood_seconds)?));
    let flood = thread::spawn(move || flood::send(to, syns, time_of_flood));
    let newcomers = thread::spawn(move || newcomers(to, time_of_flood));
    active.measure("flood", time_of_flood)?;
    let flood = flood.join().map_err(|_| "the flood panicked")??;
    let (came, let_in) = newcomers.join().map_err(|_| "the newcomers panicked")?;
    report("came", figures::count(came));
    report("let-in", figures::count(let_in));
    report("syns", figures::count(flood.count));
    report("answered", figures::count(flood.answered));
    report("flooding", flood.time.as_secs_f64());
    active.measure("after", time)?;
    report("alive", figures::count(alive(&crowd) as u64));
    Ok(())
}

fn seconds_of(number: u32) -> Duration {
    Duration::from_secs(number.into())
}

fn report(name: &str, value: f64) {
    println!("{name} {value}");
}

fn explain(error: Errno) -> String {
    error.to_string()
}

fn allow_files(count: usize) -> Result<()> {
    let limit = Some(count as u64);
    let limits = Rlimit {
        current: limit,
        maximum: limit,
    };
    setrlimit(Resource::Nofile, limits)
        .map_err(|error| format!("{count} open files: {error} (fs.nr_open?)"))
}

fn memory(pids: [u32; 2]) -> Result<u64> {
    // On other backends both are one process.
    let [guest, supervisor] = pids;
    let rest = if guest == supervisor {
        0
    } else {
        process::resident(supervisor)?
    };
    Ok(process::resident(guest)? + rest)
}

/// The `n`th source address and everything to connect from it.
fn socket_from(n: usize) -> Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket =
        socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).map_err(explain)?;
    // Far from full: the host part has 16 bits, and an address has some ten thousand ports.
    let [high, low] = ((n % 250) as u16 + 256).to_be_bytes();
    let from = SocketAddrV4::new(Ipv4Addr::new(10, 20, high, low), 0);
    bind(&socket, &from).map_err(|error| format!("{from}: {error}"))?;
    sockopt::set_tcp_nodelay(&socket, true).map_err(explain)?;
    Ok(socket)
}

/// Opens as many connections as the guest takes, at most `count`.
fn crowd(to: SocketAddrV4, count: usize) -> Result<Vec<OwnedFd>> {
    let mut open = Vec::with_capacity(count);
    let mut opening = Handshakes::new();
    let (mut begun, mut failed) = (0, 0);
    while (begun < count && failed < HOPELESS) || !opening.is_empty() {
        while begun < count && failed < HOPELESS && opening.len() < OPENING {
            let socket = socket_from(begun)?;
            match connect(&socket, &to) {
                Ok(()) | Err(Errno::INPROGRESS) => opening.push((Instant::now(), socket)),
                Err(error) => return Err(format!("connection {begun}: {error}")),
            }
            begun += 1;
        }
        let ready: Vec<bool> = {
            let mut polled: Vec<PollFd<'_>> = opening
                .iter()
                .map(|(_, socket)| PollFd::new(socket, PollFlags::OUT))
                .collect();
            poll(&mut polled, Some(&GLANCE)).map_err(explain)?;
            polled.iter().map(|one| !one.revents().is_empty()).collect()
        };
        for index in (0..opening.len()).rev() {
            if ready[index] {
                let (_, socket) = opening.swap_remove(index);
                match sockopt::socket_error(&socket).map_err(explain)? {
                    Ok(()) => open.push(socket),
                    Err(_) => failed += 1,
                }
            } else if opening[index].0.elapsed() > HANDSHAKE {
                opening.swap_remove(index);
                failed += 1;
            }
        }
    }
    Ok(open)
}

/// Tries to connect, again and again for so long: how often, and how often the guest agreed.
fn newcomers(to: SocketAddrV4, time: Duration) -> (u64, u64) {
    let (mut came, mut let_in) = (0, 0);
    let start = Instant::now();
    while start.elapsed() < time {
        came += 1;
        let made = std::net::TcpStream::connect_timeout(&SocketAddr::V4(to), NEWCOMER);
        let_in += u64::from(made.is_ok());
        thread::sleep(PAUSE);
    }
    (came, let_in)
}

/// How many of the connections answer.
fn alive(crowd: &[OwnedFd]) -> usize {
    let said = crowd.chunks(ROUND).map(|some| {
        // Who cannot even take a byte does not answer either.
        let said: Vec<bool> = some
            .iter()
            .map(|socket| send(socket, &MESSAGE[..1], SendFlags::NOSIGNAL) == Ok(1))
            .collect();
        let until = Instant::now() + ANSWER;
        let answers = some.iter().zip(said).filter(|(socket, said)| {
            *said
                && answer(
                    socket.as_fd(),
                    until.saturating_duration_since(Instant::now()),
                )
        });
        answers.count()
    });
    said.sum()
}

fn answer(socket: std::os::fd::BorrowedFd<'_>, patience: Duration) -> bool {
    let patience = Timespec::try_from(patience).ok();
    let mut polled = [PollFd::new(&socket, PollFlags::IN)];
    let mut byte = [0];
    poll(&mut polled, patience.as_ref()).is_ok()
        && recv(socket, &mut byte[..], RecvFlags::DONTWAIT).is_ok_and(|(len, _)| len == 1)
}

/// The connections that talk.
struct Active {
    epoll: OwnedFd,
    to: SocketAddrV4,
    sockets: Vec<OwnedFd>,
    /// Bytes of an answer that are still to come.
    waiting: Vec<usize>,
}

impl Active {
    fn open(to: SocketAddrV4) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(explain)?;
        let mut active = Self {
            epoll,
            to,
            sockets: Vec::new(),
            waiting: vec![0; ACTIVE],
        };
        for index in 0..ACTIVE {
            let socket = active.connect(index)?;
            active.sockets.push(socket);
        }
        Ok(active)
    }

    fn connect(&self, index: usize) -> Result<OwnedFd> {
        let stream = std::net::TcpStream::connect_timeout(&SocketAddr::V4(self.to), 4 * HANDSHAKE)
            .map_err(|error| format!("active connection {index}: {error}"))?;
        stream
            .set_nonblocking(true)
            .map_err(|error| error.to_string())?;
        let socket = OwnedFd::from(stream);
        sockopt::set_tcp_nodelay(&socket, true).map_err(explain)?;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN).map_err(explain)?;
        Ok(socket)
    }

    /// Talks for so long and prints how often.
    fn measure(&mut self, phase: &str, time: Duration) -> Result<()> {
        let (mut answers, mut errors) = (0u64, 0u64);
        let mut events = [MaybeUninit::uninit(); ACTIVE];
        let mut buffer = [0; MESSAGE.len()];
        let start = Instant::now();
        for index in 0..ACTIVE {
            // Others have an answer under way since the last measurement.
            if self.waiting[index] == 0 && !self.say(index) {
                errors += 1;
            }
        }
        while start.elapsed() < time {
            let ready = match epoll::wait(&self.epoll, &mut events, Some(&GLANCE)) {
                Ok((ready, _)) => ready,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.to_string()),
            };
            for event in ready {
                let index = event.data.u64() as usize;
                let room = self.waiting[index].clamp(1, MESSAGE.len());
                let is_well = match recv(
                    &self.sockets[index],
                    &mut buffer[..room],
                    RecvFlags::DONTWAIT,
                ) {
                    Ok((1.., len)) => {
                        self.waiting[index] = self.waiting[index].saturating_sub(len);
                        let is_whole = self.waiting[index] == 0;
                        answers += u64::from(is_whole);
                        !is_whole || self.say(index)
                    }
                    Err(Errno::AGAIN) => true,
                    Ok(_) | Err(_) => false,
                };
                if !is_well {
                    errors += 1;
                    self.sockets[index] = self.connect(index)?;
                    self.say(index);
                }
            }
        }
        report(
            phase,
            figures::count(answers) / start.elapsed().as_secs_f64(),
        );
        report(&format!("{phase}-errors"), figures::count(errors));
        Ok(())
    }

    fn say(&mut self, index: usize) -> bool {
        self.waiting[index] = MESSAGE.len();
        // So little always fits into a socket whose last message was answered.
        send(&self.sockets[index], &MESSAGE, SendFlags::NOSIGNAL) == Ok(MESSAGE.len())
    }
}
