//! What one side of a pair does, seen from the other.

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::*;
use crate::event::testing::{self, PAGE_AT};
use crate::fs::OpenFile;
use crate::io::{Sink, Source};
use crate::platform;

struct Pair {
    thread: Rc<Thread>,
    master: Rc<OpenFile>,
    slave: Rc<OpenFile>,
}

fn pair() -> Pair {
    let thread = testing::thread();
    let flags = OpenFlags::RDWR | OpenFlags::NONBLOCK;
    let master = OpenFile::new(open_master(&thread).expect("room"), flags);
    assert_eq!(open_slave(&thread, 0, flags).err(), Some(Errno::EIO));
    UserAddr(PAGE_AT).write(0_i32).expect("memory");
    let unlocked = master
        .file
        .ioctl(&thread, &master, ioctl::TIOCSPTLCK, PAGE_AT);
    assert_eq!(unlocked, Ok(0));
    let slave = open_slave(&thread, 0, flags).expect("unlocked");
    Pair {
        slave: OpenFile::new(slave, flags),
        master,
        thread,
    }
}

impl Pair {
    fn write(&self, open: &OpenFile, bytes: &[u8]) -> Result<usize> {
        open.file
            .write(&self.thread, open, &mut Source::kernel(bytes))
    }

    fn read(&self, open: &OpenFile) -> Result<Vec<u8>> {
        let mut to = [0; 100];
        let got = open
            .file
            .read(&self.thread, open, &mut Sink::kernel(&mut to))?;
        Ok(to[..got].to_vec())
    }

    fn set_raw(&self, minimum: u8, time: u8) {
        let at = UserAddr(PAGE_AT);
        let mut termios = crate::dev::line::FRESH;
        termios[3] &= !0o12;
        let mut control = termios[5].to_ne_bytes();
        control[2] = time;
        control[3] = minimum;
        termios[5] = u32::from_ne_bytes(control);
        at.write(termios).expect("memory");
        let slave = &self.slave;
        let set = slave
            .file
            .ioctl(&self.thread, slave, ioctl::TCSETS, PAGE_AT);
        assert_eq!(set, Ok(0));
    }
}

#[test]
fn what_is_typed_is_echoed_and_read_by_lines() {
    let pair = pair();
    assert_eq!(pair.write(&pair.master, b"ls"), Ok(2));
    assert_eq!(pair.read(&pair.slave), Err(Errno::EAGAIN));
    assert_eq!(pair.read(&pair.master), Ok(b"ls".to_vec()));
    assert_eq!(pair.write(&pair.master, b"\r"), Ok(1));
    assert_eq!(pair.read(&pair.slave), Ok(b"ls\n".to_vec()));
    assert_eq!(pair.write(&pair.slave, b"a\nb"), Ok(3));
    assert_eq!(pair.read(&pair.master), Ok(b"\r\na\r\nb".to_vec()));
}

#[test]
fn each_side_sees_the_other_one_hang_up() {
    let one = pair();
    let closed = one.slave.clone();
    drop(one.slave);
    assert!(!one.master.file.poll(&one.master).contains(Events::HUP));
    drop(closed);
    assert!(one.master.file.poll(&one.master).contains(Events::HUP));
    let mut to = [0; 4];
    let got = one
        .master
        .file
        .read(&one.thread, &one.master, &mut Sink::kernel(&mut to));
    assert_eq!(got, Err(Errno::EIO));
    let two = pair();
    let Pair {
        thread,
        master,
        slave,
    } = two;
    drop(master);
    let got = slave.file.read(&thread, &slave, &mut Sink::kernel(&mut to));
    assert_eq!(got, Ok(0));
    let put = slave.file.write(&thread, &slave, &mut Source::kernel(b"x"));
    assert_eq!(put, Err(Errno::EIO));
    assert!(numbers().is_empty());
}

#[test]
fn raw_reads_wait_for_their_minimum_or_their_time() {
    let pair = pair();
    pair.slave.flags.set(OpenFlags::RDWR);
    pair.set_raw(0, 0);
    assert_eq!(pair.read(&pair.slave), Ok(Vec::new()));
    pair.set_raw(0, 5);
    let before = platform::now();
    assert_eq!(pair.read(&pair.slave), Ok(Vec::new()));
    assert_eq!(platform::now() - before, 500_000_000);
    pair.set_raw(3, 2);
    pair.write(&pair.master, b"xy").expect("room");
    assert_eq!(pair.read(&pair.slave), Ok(b"xy".to_vec()));
    pair.set_raw(1, 0);
    pair.write(&pair.master, b"z").expect("room");
    assert_eq!(pair.read(&pair.slave), Ok(b"z".to_vec()));
}

#[test]
fn echo_that_nobody_reads_does_not_pile_up() {
    let pair = pair();
    let line = [&[b'x'; 49][..], b"\n"].concat();
    for _ in 0..4000 {
        assert_eq!(pair.write(&pair.master, &line), Ok(50));
        assert_eq!(pair.read(&pair.slave), Ok(line.clone()));
    }
    let waits = UserAddr(PAGE_AT);
    pair.master
        .file
        .ioctl(&pair.thread, &pair.master, ioctl::FIONREAD, PAGE_AT)
        .expect("told");
    assert!(waits.read::<u32>().expect("memory") as usize <= 2 * MOST_OUTPUT);
}

#[test]
fn control_characters_signal_the_foreground_group() {
    let pair = pair();
    pair.slave
        .file
        .ioctl(&pair.thread, &pair.slave, ioctl::TIOCSCTTY, 0)
        .expect("the leader may");
    signal::set_blocked(&pair.thread, signal::bit(number::INT));
    pair.write(&pair.master, b"\x03").expect("room");
    let pending = pair.thread.process.signals.pending.set();
    assert_eq!(pending, signal::bit(number::INT));
    assert!(Pty::controlling(&pair.thread).is_some());
}

#[test]
fn packet_mode_tells_of_data_and_of_stops() {
    let pair = pair();
    UserAddr(PAGE_AT).write(1_i32).expect("memory");
    let master = &pair.master;
    master
        .file
        .ioctl(&pair.thread, master, ioctl::TIOCPKT, PAGE_AT)
        .expect("set");
    pair.write(&pair.slave, b"hi").expect("room");
    assert_eq!(pair.read(master), Ok(b"\0hi".to_vec()));
    pair.write(master, b"\x13").expect("room");
    assert!(master.file.poll(master).contains(Events::PRI));
    assert_eq!(pair.read(master), Ok(alloc::vec![packet::STOP]));
    assert_eq!(pair.write(&pair.slave, b"x"), Err(Errno::EAGAIN));
}

#[test]
fn much_can_be_typed_without_losing_any() {
    let pair = pair();
    pair.set_raw(1, 0);
    let all: Vec<u8> = (0..10_000_u32).map(|n| b'a' + (n % 26) as u8).collect();
    let mut typed = 0;
    let mut got = Vec::new();
    for _ in 0..1000 {
        typed += pair.write(&pair.master, &all[typed..]).unwrap_or(0);
        got.extend(pair.read(&pair.slave).unwrap_or_default());
    }
    assert_eq!(got, all);
}
