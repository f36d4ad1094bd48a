//! What one side of a pair does, seen from the other.

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::*;
use crate::event::testing::{self, PAGE_AT};
use crate::fs::OpenFile;
use crate::io::{Sink, Source};
use crate::platform::{self, pretend};

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

fn ioctl(pair: &Pair, request: u32) -> Result<u64> {
    let slave = &pair.slave;
    slave.file.ioctl(&pair.thread, slave, request, PAGE_AT)
}

#[test]
fn speeds_are_told_in_numbers() {
    let pair = pair();
    let at = UserAddr(PAGE_AT);
    assert_eq!(ioctl(&pair, 0x802c_542a), Ok(0));
    let mut settings: [u32; 11] = at.read().expect("memory");
    assert_eq!(settings[..4], [0x500, 5, 0xbf, 0x8a3b]);
    assert_eq!(settings[9..], [38400, 38400]);
    // BOTHER for both, seven bits.
    settings[2] = 0x1000_1000 | 0x20;
    settings[9..].copy_from_slice(&[1234, 5678]);
    at.write(settings).expect("memory");
    assert_eq!(ioctl(&pair, 0x402c_542b), Ok(0));
    assert_eq!(ioctl(&pair, 0x802c_542a), Ok(0));
    let settings: [u32; 11] = at.read().expect("memory");
    assert_eq!(settings[2], 0x1000_10b0);
    assert_eq!(settings[9..], [1234, 5678]);
    // B115200 by the old call.
    let mut old: [u32; 9] = at.read().expect("memory");
    old[2] = 0x1002;
    at.write(old).expect("memory");
    assert_eq!(ioctl(&pair, ioctl::TCSETS), Ok(0));
    assert_eq!(ioctl(&pair, 0x802c_542a), Ok(0));
    let settings: [u32; 11] = at.read().expect("memory");
    assert_eq!(settings[9..], [115_200, 115_200]);
    for request in 0x402c_542b..=0x402c_542d_u32 {
        let slave = &pair.slave;
        let nowhere = slave.file.ioctl(&pair.thread, slave, request, 8);
        assert_eq!(nowhere, Err(Errno::EFAULT));
    }
}

#[test]
fn a_signal_character_drops_what_is_echoed_before_it() {
    let pair = pair();
    assert_eq!(pair.write(&pair.master, b"x\x03"), Ok(2));
    assert_eq!(pair.read(&pair.master), Ok(b"^C".to_vec()));
    assert_eq!(pair.read(&pair.slave), Err(Errno::EAGAIN));
    let at = UserAddr(PAGE_AT);
    assert_eq!(ioctl(&pair, ioctl::TCGETS), Ok(0));
    let mut termios: [u32; 9] = at.read().expect("memory");
    termios[3] |= 0x80;
    at.write(termios).expect("memory");
    assert_eq!(ioctl(&pair, ioctl::TCSETS), Ok(0));
    assert_eq!(pair.write(&pair.master, b"x\x03\n"), Ok(3));
    assert_eq!(pair.read(&pair.master), Ok(b"x^C\r\n".to_vec()));
    assert_eq!(pair.read(&pair.slave), Ok(b"x\n".to_vec()));
}

#[test]
fn nothing_is_left_of_a_terminal_whose_user_has_gone() {
    let pair = pair();
    assert_eq!(pair.write(&pair.master, b"typed\n"), Ok(6));
    let Pair {
        thread,
        master,
        slave,
    } = pair;
    drop(master);
    let mut to = [0; 9];
    let got = slave.file.read(&thread, &slave, &mut Sink::kernel(&mut to));
    assert_eq!(got, Ok(0));
    let asked = |request| slave.file.ioctl(&thread, &slave, request, PAGE_AT);
    assert_eq!(asked(ioctl::TCGETS), Err(Errno::EIO));
    assert_eq!(asked(ioctl::FIONREAD), Err(Errno::EIO));
    assert_eq!(asked(ioctl::TIOCSPGRP), Err(Errno::ENOTTY));
}

#[test]
fn only_groups_of_the_session_come_to_the_foreground() {
    let pair = pair();
    let at = UserAddr(PAGE_AT);
    let set = |group: i32| {
        at.write(group).expect("memory");
        ioctl(&pair, ioctl::TIOCSPGRP)
    };
    let own = pair.thread.process.group.get().cast_signed();
    assert_eq!(set(own), Ok(0));
    assert_eq!(set(99_999), Err(Errno::ESRCH));
    assert_eq!(set(-1), Err(Errno::EINVAL));
    assert_eq!(ioctl(&pair, ioctl::TIOCNOTTY), Ok(0));
    assert_eq!(set(own), Err(Errno::ENOTTY), "not its terminal");
}

#[test]
fn the_users_terminal_hears_again_when_what_was_typed_is_dropped() {
    let thread = testing::thread();
    crate::dev::set_terminal(80, 24, 0);
    let terminal = Pty::find(0).expect("the user's terminal");
    let flags = OpenFlags::RDWR | OpenFlags::NONBLOCK;
    let side = OpenFile::new(terminal.terminal(), flags);
    pretend::type_input(&[b'x'; 6000]);
    crate::dev::console_ready();
    pretend::type_input(b"still in the way\n");
    let flush = side.file.ioctl(&thread, &side, ioctl::TCFLSH, 0);
    assert_eq!(flush, Ok(0));
    pretend::type_input(b"heard\n");
    crate::dev::console_ready();
    let mut text = [0; 100];
    let mut lines = Vec::new();
    while let Ok(count @ 1..) = side.file.read(&thread, &side, &mut Sink::kernel(&mut text)) {
        lines.push(text[..count].to_vec());
        if !terminal.line.borrow().has_input() {
            break;
        }
    }
    assert_eq!(lines.last().map(Vec::as_slice), Some(&b"heard\n"[..]));
    assert!(lines.iter().all(|line| !line.starts_with(b"xx")), "dropped");
}
