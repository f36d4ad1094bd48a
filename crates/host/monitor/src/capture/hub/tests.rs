//! Captures with real connections and a backend of a few frames.

use std::io::Read;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::*;
use crate::backend::{Ended, Protection, Usage};
use crate::capture::stream::parse;

/// A backend that sees the frames of link 1.
#[derive(Default)]
struct Fake {
    wanted: (u64, u32),
    frames: Vec<Vec<u8>>,
    lost: u32,
}

impl Guest for Fake {
    fn wait_started(&mut self) -> Result<(), crate::Error> {
        unreachable!()
    }

    fn ended(&self) -> BorrowedFd<'_> {
        unreachable!()
    }

    fn pid(&self) -> u32 {
        unreachable!()
    }

    fn send(&self, _: u32) {}

    fn kill(&self) {}

    fn wait(&mut self) -> std::io::Result<Ended> {
        unreachable!()
    }

    fn failure(&self) -> Option<crate::Error> {
        None
    }

    fn protections(&self) -> Vec<Protection> {
        Vec::new()
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn copies(&self) -> u64 {
        1 << 1
    }

    fn copy(&mut self, wanted: u64, snaplen: u32) {
        self.wanted = (wanted, snaplen);
    }

    fn copied(&mut self, take: &mut dyn FnMut(Copied<'_>)) {
        for bytes in self.frames.drain(..) {
            take(Copied::Frame(Frame {
                device: 1,
                direction: Direction::Out,
                time: 1,
                len: bytes.len() as u32,
                bytes: &bytes,
            }));
        }
        if self.lost != 0 {
            take(Copied::Lost {
                device: 1,
                frames: std::mem::take(&mut self.lost),
            });
        }
    }
}

fn link(device: u32, name: &str) -> Link {
    Link {
        device,
        name: name.to_owned(),
        kind: "tap:tap0".to_owned(),
        mac: [2; 6],
    }
}

fn hub() -> Hub {
    Hub::new(vec![link(1, "lan"), link(2, "wan")], None)
}

fn wish(links: &[String]) -> Wish<'_> {
    Wish { links, snaplen: 64 }
}

fn connect(hub: &mut Hub, guest: &mut Fake, snaplen: u32) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    hub.add(ours.into(), &[link(1, "lan")], snaplen, b"first\n".to_vec());
    hub.instruct(guest, None);
    hub.handle(&[]);
    theirs
}

/// One turn of a supervisor's loop.
fn turn(hub: &mut Hub, guest: &mut Fake) {
    let ready: Vec<PollFlags> = {
        let interests = hub.interests();
        let mut fds: Vec<PollFd<'_>> = interests
            .iter()
            .map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
            .collect();
        poll(&mut fds, Some(&Timespec::default())).unwrap();
        fds.iter().map(PollFd::revents).collect()
    };
    hub.collect(guest, Instant::now());
    hub.handle(&ready);
    hub.instruct(guest, None);
}

/// Lengths of frames, and the counts, of a stream that ends in an orderly way.
fn read_all(mut stream: UnixStream) -> (Vec<usize>, Count) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let mut rest = bytes.strip_prefix(b"first\n").expect("the first line");
    let (mut frames, mut counted) = (Vec::new(), None);
    loop {
        let (record, len) = parse(rest).unwrap().expect("a whole record");
        rest = &rest[len..];
        match record {
            Record::Frame(frame) => frames.push(frame.bytes.len()),
            Record::Count(count) => counted = Some(count),
            Record::End => break,
        }
    }
    assert!(rest.is_empty());
    (frames, counted.expect("counts"))
}

#[test]
fn what_cannot_be_captured_is_refused_with_the_reason() {
    let guest = Fake::default();
    let nothing = Hub::new(Vec::new(), None);
    let told = |hub: &Hub, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        hub.choose(&wish(&names), &guest).unwrap_err()
    };
    assert!(told(&nothing, &[]).contains("no network link"));
    assert!(told(&hub(), &["eth0"]).contains("use lan, wan or all"));
    assert!(told(&hub(), &[]).contains("tcpdump on the host's interface"));
    let chosen = hub().choose(&wish(&["lan".to_owned()]), &guest);
    assert_eq!(chosen, Ok(vec![link(1, "lan")]));
}

#[test]
fn each_capture_gets_as_much_of_a_frame_as_it_wants() {
    let (mut hub, mut guest) = (hub(), Fake::default());
    let short = connect(&mut hub, &mut guest, 20);
    assert_eq!(guest.wanted, (1 << 1, 20));
    let long = connect(&mut hub, &mut guest, 1000);
    assert_eq!(guest.wanted, (1 << 1, 1000));
    guest.frames = vec![vec![1; 100], vec![2; 10]];
    guest.lost = 3;
    turn(&mut hub, &mut guest);
    long.shutdown(Shutdown::Write).unwrap();
    turn(&mut hub, &mut guest);
    assert_eq!(guest.wanted, (1 << 1, 20));
    let count = Count {
        device: 1,
        frames: 2,
        dropped: 3,
    };
    assert_eq!(read_all(long), (vec![100, 10], count));
    hub.finish();
    assert_eq!(read_all(short), (vec![20, 10], count));
}

#[test]
fn one_who_does_not_read_loses_frames_and_holds_up_nobody() {
    let (mut hub, mut guest) = (hub(), Fake::default());
    let stuck = connect(&mut hub, &mut guest, u32::MAX);
    for _ in 0..20 {
        guest.frames = vec![vec![0; 60_000]; 10];
        turn(&mut hub, &mut guest);
    }
    let waiting = {
        let capture = &hub.lock().all[0];
        capture.queue.len() - capture.sent
    };
    assert!(waiting <= QUEUE, "{waiting}");
    stuck.shutdown(Shutdown::Write).unwrap();
    turn(&mut hub, &mut guest);
    assert_eq!(guest.wanted.0, 0, "nobody else captures");
    let reader = std::thread::spawn(move || read_all(stuck));
    while !hub.lock().all.is_empty() {
        turn(&mut hub, &mut guest);
    }
    let (frames, count) = reader.join().unwrap();
    assert_eq!(frames.len() as u64, count.frames);
    assert_eq!(count.frames + count.dropped, 200);
    assert!(count.dropped > 0);
}

#[test]
fn one_who_goes_away_is_forgotten() {
    let (mut hub, mut guest) = (hub(), Fake::default());
    let gone = connect(&mut hub, &mut guest, 64);
    drop(gone);
    turn(&mut hub, &mut guest);
    assert!(hub.interests().is_empty());
    assert_eq!(guest.wanted.0, 0);
    assert_eq!(hub.deadline(), None);
}

#[test]
fn there_is_a_greatest_number() {
    let (mut hub, mut guest) = (hub(), Fake::default());
    let all: Vec<UnixStream> = (0..MAX_CAPTURES)
        .map(|_| connect(&mut hub, &mut guest, 64))
        .collect();
    let refused = hub.choose(&wish(&["lan".to_owned()]), &guest).unwrap_err();
    assert!(refused.contains("4 times already"), "{refused}");
    drop(all);
}
