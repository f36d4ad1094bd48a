//! What becomes of typed and of written characters.

use super::*;

fn type_in(discipline: &mut Discipline, bytes: &[u8]) -> (Vec<u8>, Vec<Request>) {
    let mut echo = Vec::new();
    let requests = bytes
        .iter()
        .filter_map(|&byte| discipline.input(byte, &mut echo))
        .collect();
    (echo, requests)
}

fn read(discipline: &mut Discipline, len: usize) -> Vec<u8> {
    let mut to = alloc::vec![0; len];
    let got = discipline.read(&mut to);
    to.truncate(got);
    to
}

fn without(discipline: &mut Discipline, local: Local) {
    let mut termios = discipline.termios();
    termios[3] &= !local.bits();
    discipline.set_termios(termios);
}

#[test]
fn a_line_is_read_when_it_is_finished() {
    let mut tty = Discipline::default();
    let (echo, _) = type_in(&mut tty, b"hello");
    assert_eq!(echo, b"hello");
    assert!(!tty.has_input());
    let (echo, _) = type_in(&mut tty, b"\rmore\n");
    assert_eq!(echo, b"\r\nmore\r\n");
    assert_eq!(tty.readable(), 11);
    assert_eq!(read(&mut tty, 3), b"hel");
    assert_eq!(read(&mut tty, 100), b"lo\n");
    assert_eq!(read(&mut tty, 100), b"more\n");
}

#[test]
fn characters_words_and_lines_can_be_erased() {
    let mut tty = Discipline::default();
    let (echo, _) = type_in(&mut tty, b"ab\x7fc\x01\x7f");
    assert_eq!(echo, b"ab\x08 \x08c^A\x08 \x08\x08 \x08");
    let (echo, _) = type_in(&mut tty, b"\x15");
    assert_eq!(echo, b"\x08 \x08\x08 \x08");
    type_in(&mut tty, b"one two  \x17x\n");
    assert_eq!(read(&mut tty, 100), b"one x\n");
    type_in(&mut tty, b"\x16\x7f\n");
    assert_eq!(read(&mut tty, 100), b"\x7f\n");
}

#[test]
fn the_end_of_file_character_ends_a_read() {
    let mut tty = Discipline::default();
    type_in(&mut tty, b"half\x04");
    assert_eq!(read(&mut tty, 100), b"half");
    type_in(&mut tty, b"\x04");
    assert!(tty.has_input());
    assert_eq!(read(&mut tty, 100), b"");
    assert!(!tty.has_input());
}

#[test]
fn signals_flush_what_was_typed() {
    let mut tty = Discipline::default();
    let (echo, requests) = type_in(&mut tty, b"abc\x03\x1c\x1a");
    assert_eq!(
        requests,
        [Request::Interrupt, Request::Quit, Request::Suspend]
    );
    assert_eq!(echo, b"abc^C^\\^Z");
    type_in(&mut tty, b"\n");
    assert_eq!(read(&mut tty, 100), b"\n");
    without(&mut tty, Local::ISIG);
    assert_eq!(type_in(&mut tty, b"\x03").1, []);
}

#[test]
fn raw_bytes_come_as_they_are() {
    let mut tty = Discipline::default();
    type_in(&mut tty, b"line\nrest");
    without(&mut tty, Local::ICANON | Local::ECHO);
    assert_eq!(tty.minimum(), Some((1, 0)));
    assert_eq!(read(&mut tty, 100), b"line\nrest");
    let (echo, _) = type_in(&mut tty, b"x\x7f\x04");
    assert!(echo.is_empty());
    assert_eq!(read(&mut tty, 100), b"x\x7f\x04");
}

#[test]
fn output_stops_and_goes_on() {
    let mut tty = Discipline::default();
    assert_eq!(type_in(&mut tty, b"\x13").1, [Request::Stop]);
    assert!(tty.is_stopped());
    assert_eq!(type_in(&mut tty, b"\x11").1, [Request::Start]);
    assert!(!tty.is_stopped());
    let mut to = Vec::new();
    tty.output(b"a\tb\n", &mut to);
    assert_eq!(to, b"a\tb\r\n");
}

#[test]
fn a_line_that_is_too_long_is_cut() {
    let mut tty = Discipline::default();
    type_in(&mut tty, &[b'x'; 2 * MOST]);
    assert!(tty.has_room());
    type_in(&mut tty, b"\n");
    assert_eq!(tty.readable(), MOST);
    assert!(!tty.has_room());
}
