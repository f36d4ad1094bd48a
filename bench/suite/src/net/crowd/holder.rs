//! The idle connections, held by as many processes as the host's limit of open files makes necessary.
//!
//! `hold ADDRESS FIRST COUNT` opens connections from the `FIRST`th source address on and prints how many the guest took.
//! For each line that it reads it asks all of them whether they are alive and prints how many answered. It ends with its
//! standard input.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, recv, send,
    socket_with, sockopt,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::Result;

/// Connections whose handshake goes on at once. Less than what a listener holds back.
const OPENING: usize = 64;
/// How long a handshake may take; the first repetition of a SYN is in it, the second is not.
const HANDSHAKE: Duration = Duration::from_millis(2500);
/// After so many that failed no more are tried: the guest has no room.
const HOPELESS: usize = 128;
/// How many idle connections are asked at once whether they are alive.
const ROUND: usize = 256;
/// How long one may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long to wait for events before looking at the clock.
const GLANCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};
/// Files that a process needs beside its connections.
const OTHER_FILES: usize = 64;

/// Which handshakes go on: when each began, and its socket.
type Handshakes = Vec<(Instant, OwnedFd)>;

fn explain(error: Errno) -> String {
    error.to_string()
}

/// See the module.
pub fn main(arguments: &[&str]) -> Result<()> {
    let &[address, first, count] = arguments else {
        return Err("hold: ADDRESS FIRST COUNT".to_owned());
    };
    let number =
        |text: &str| -> Result<usize> { text.parse().map_err(|error| format!("{text}: {error}")) };
    let to: SocketAddrV4 = address
        .parse()
        .map_err(|error| format!("{address}: {error}"))?;
    files()?;
    let held = open(to, number(first)?, number(count)?)?;
    println!("{}", held.len());
    for line in std::io::stdin().lines() {
        line.map_err(|error| error.to_string())?;
        println!("{}", alive(&held));
    }
    Ok(())
}

/// How many files a process may have open, after asking for as many as it may have.
fn files() -> Result<usize> {
    let limits = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limits.maximum,
        maximum: limits.maximum,
    };
    setrlimit(Resource::Nofile, most).map_err(explain)?;
    Ok(limits.maximum.map_or(usize::MAX, |count| count as usize))
}

/// All processes that hold idle connections.
pub struct Crowd {
    /// They end with it.
    pub holders: Vec<Holder>,
    /// Connections that the guest took.
    pub opened: u64,
}

/// One of them.
pub struct Holder {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Crowd {
    /// Opens so many connections, or as many as the guest takes.
    pub fn open(to: SocketAddrV4, count: usize) -> Result<Self> {
        let each = files()?.saturating_sub(OTHER_FILES).max(1);
        let mut crowd = Self {
            holders: Vec::new(),
            opened: 0,
        };
        let mut first = 0;
        while first < count {
            let some = each.min(count - first);
            let mut holder = Holder::start(to, first, some)?;
            let opened = holder.read()?;
            crowd.holders.push(holder);
            crowd.opened += opened;
            if opened < some as u64 {
                break;
            }
            first += some;
        }
        Ok(crowd)
    }

    /// How many of them answer.
    pub fn alive(&mut self) -> Result<u64> {
        let answers = self.holders.iter_mut().map(|holder| {
            if let Some(input) = &mut holder.input {
                writeln!(input).map_err(|error| error.to_string())?;
            }
            holder.read()
        });
        answers.sum()
    }
}

impl Holder {
    fn start(to: SocketAddrV4, first: usize, count: usize) -> Result<Self> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut child = Command::new(program)
            .args(["hold", &to.to_string()])
            .args([first, count].map(|number| number.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or("a holder has no output")?;
        Ok(Self {
            child,
            input,
            output: BufReader::new(output),
        })
    }

    fn read(&mut self) -> Result<u64> {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .map_err(|error| error.to_string())?;
        line.trim()
            .parse()
            .map_err(|error| format!("a holder says {line:?}: {error}"))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Its end of the pipe is its sign to end.
        self.input = None;
        let _ = self.child.wait();
    }
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
fn open(to: SocketAddrV4, first: usize, count: usize) -> Result<Vec<OwnedFd>> {
    let mut open = Vec::with_capacity(count);
    let mut opening = Handshakes::new();
    let (mut begun, mut failed) = (0, 0);
    while (begun < count && failed < HOPELESS) || !opening.is_empty() {
        while begun < count && failed < HOPELESS && opening.len() < OPENING {
            let socket = socket_from(first + begun)?;
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

/// How many of the connections answer.
fn alive(crowd: &[OwnedFd]) -> usize {
    let said = crowd.chunks(ROUND).map(|some| {
        // Who cannot even take a byte does not answer either.
        let said: Vec<bool> = some
            .iter()
            .map(|socket| send(socket, b"?", SendFlags::NOSIGNAL) == Ok(1))
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

fn answer(socket: BorrowedFd<'_>, patience: Duration) -> bool {
    let patience = Timespec::try_from(patience).ok();
    let mut polled = [PollFd::new(&socket, PollFlags::IN)];
    let mut byte = [0];
    poll(&mut polled, patience.as_ref()).is_ok()
        && recv(socket, &mut byte[..], RecvFlags::DONTWAIT).is_ok_and(|(len, _)| len == 1)
}
