//! Everybody who talks to the guest, as one program: `crowd ADDRESS IDLE SECONDS SYNS FLOOD-SECONDS PID PID`.
//!
//! The two processes are the guest's, whose memory is looked at in the right moments. What it finds it prints as lines
//! of a name and a number.

use std::mem::MaybeUninit;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};

use super::flood;
use super::holder::Crowd;
use crate::{Result, figures, process};

/// All of it is local to the client's namespace.
pub const SOURCES: &str = "10.20.0.0/16";

/// Connections that talk all the time.
const ACTIVE: usize = 100;
/// What they say; the answer is the same.
const MESSAGE: [u8; 64] = [b'm'; 64];
/// How long a talkative connection may take to open.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a newcomer waits while the flood goes on: no SYN of its is repeated.
const NEWCOMER: Duration = Duration::from_millis(900);
/// Time between two newcomers.
const PAUSE: Duration = Duration::from_millis(50);
/// How long to wait for events before looking at the clock.
const GLANCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

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
    let mut active = Active::open(to)?;
    // The first second is slower than the others: memory is touched for the first time.
    active.measure("first", time)?;
    active.measure("before", time)?;
    report("memory-empty", figures::count(memory(pids)?));

    let start = Instant::now();
    let mut crowd = Crowd::open(to, idle)?;
    report("opened", figures::count(crowd.opened));
    report("processes", figures::count(crowd.holders.len() as u64));
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
    report("alive", figures::count(crowd.alive()?));
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
        let stream = std::net::TcpStream::connect_timeout(&SocketAddr::V4(self.to), CONNECT)
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
