use super::*;
use crate::net::listing;

/// A request for a dump.
fn dump(kind: u16) -> Vec<u8> {
    let mut bytes = Vec::from(20_u32.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(0x301_u16.to_ne_bytes());
    bytes.extend(7_u32.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes
}

/// All messages of an answer: type and body.
fn answers(program: &Program, fd: u64) -> Vec<(u16, Vec<u8>)> {
    let mut all = Vec::new();
    while let Ok(bytes) = program.receive(fd, 8192, 0) {
        let mut rest = &bytes[..];
        while rest.len() >= 16 {
            let len = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            assert_eq!(rest[8], 7);
            all.push((
                u16::from_ne_bytes([rest[4], rest[5]]),
                rest[16..len].to_vec(),
            ));
            rest = &rest[len.next_multiple_of(4)..];
        }
    }
    all
}

/// An attribute's value.
fn attribute(body: &[u8], header: usize, wanted: u8) -> Option<Vec<u8>> {
    let mut rest = &body[header..];
    while rest.len() >= 4 {
        let len = usize::from(rest[0]);
        if rest[2] == wanted {
            return Some(rest[4..len].to_vec());
        }
        rest = &rest[len.next_multiple_of(4).min(rest.len())..];
    }
    None
}

#[test]
fn interfaces_and_addresses_are_told() {
    let program = Program::new();
    let fd = program.socket(16, 3 | NONBLOCK);
    program
        .with_address(BIND, fd, &[16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        .unwrap();
    let name = program.name(GETSOCKNAME, fd).unwrap();
    assert_eq!(name[..8], [16, 0, 0, 0, 1, 0, 0, 0]);

    program.send(fd, &dump(18), 0).unwrap();
    let links = answers(&program, fd);
    assert_eq!(links.len(), 2);
    assert_eq!((links[0].0, links[1].0), (16, 3));
    assert_eq!(links[0].1[4..8], [1, 0, 0, 0]);
    assert_eq!(attribute(&links[0].1, 16, 3).unwrap(), b"lo\0");
    assert_eq!(attribute(&links[0].1, 16, 1).unwrap(), [0; 6]);

    program.send(fd, &dump(22), 0).unwrap();
    let addresses = answers(&program, fd);
    assert_eq!(addresses.len(), 3);
    assert_eq!(addresses[0].1[..2], [2, 8]);
    assert_eq!(attribute(&addresses[0].1, 8, 2).unwrap(), [127, 0, 0, 1]);
    assert_eq!(addresses[1].1[..2], [10, 128]);

    program.send(fd, &dump(26), 0).unwrap();
    assert_eq!(answers(&program, fd).last().unwrap().0, 3);
}

#[test]
fn changes_are_refused() {
    let program = Program::new();
    let fd = program.socket(16, 3 | NONBLOCK);
    let mut request = dump(20);
    request[6..8].copy_from_slice(&5_u16.to_ne_bytes());
    program.send(fd, &request, 0).unwrap();
    let answers = answers(&program, fd);
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].0, 2);
    assert_eq!(answers[0].1[..4], (-1_i32).to_ne_bytes());
    assert_eq!(
        program.call(SOCKET, &[16, 3, 9]),
        Err(Errno::EPROTONOSUPPORT)
    );
    assert_eq!(program.call(SOCKET, &[17, 3, 3]), Err(Errno::EPERM));
}

#[test]
fn open_sockets_are_listed() {
    let program = Program::new();
    let fd = program.socket(2, 1);
    program
        .with_address(BIND, fd, &address4([127, 0, 0, 1], 8080))
        .unwrap();
    program.call(LISTEN, &[fd, 5]).unwrap();
    let text = listing::tcp();
    let lines: Vec<&[u8]> = text.split(|&b| b == b'\n').collect();
    assert_eq!((lines.len(), lines[1].len()), (3, 149));
    assert!(lines[1].starts_with(b"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000"));
    let udp = program.socket(10, 2);
    program
        .with_address(BIND, udp, &address6(core::net::Ipv6Addr::LOCALHOST, 53))
        .unwrap();
    let text = listing::udp6();
    let local = b"   0: 00000000000000000000000001000000:0035 ";
    assert!(
        text.split(|&b| b == b'\n')
            .nth(1)
            .unwrap()
            .starts_with(local)
    );
    let unix = program.socket(1, 1);
    program.with_address(BIND, unix, b"\x01\0\0name").unwrap();
    assert!(listing::unix().ends_with(b" @name\n"));
    let dev = listing::dev();
    assert!(dev.windows(5).any(|part| part == b"   lo"));
    assert!(
        listing::if_inet6().starts_with(b"00000000000000000000000000000001 01 80 10 80       lo\n")
    );
}
