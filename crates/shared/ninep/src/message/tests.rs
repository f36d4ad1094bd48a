extern crate std;

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::{NO_TAG, VERSION};

fn encoded(request: &Request<'_>, tag: u16) -> Vec<u8> {
    let mut bytes = vec![0; 300];
    let len = request.encode(tag, &mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

#[test]
fn a_version_looks_as_the_protocol_says() {
    let request = Request::Version {
        msize: 8192,
        version: Text(VERSION),
    };
    let expected = b"\x15\0\0\0\x64\xff\xff\0\x20\0\0\x08\x009P2000.L";
    assert_eq!(encoded(&request, NO_TAG), expected);
    assert_eq!(Request::decode(expected), Ok((NO_TAG, request)));
}

#[test]
fn a_walk_has_its_names() {
    let names = Names::new(&[Text(b"usr"), Text(b"lib")]).unwrap();
    let walk = Request::Walk {
        fid: 1,
        new: 2,
        names,
    };
    let bytes = encoded(&walk, 7);
    assert_eq!(Request::decode(&bytes), Ok((7, walk)));
    assert_eq!(tag_of(&bytes), Some(7));
    assert_eq!(Names::new(&[Text(b"x"); 17]), None);
    // Seventeen names in a message.
    let mut many = encoded(&walk, 7);
    many[15] = 17;
    assert_eq!(Request::decode(&many), Err(Malformed));
}

#[test]
fn every_cut_and_every_addition_is_noticed() {
    let write = Request::Write {
        fid: 3,
        offset: 1 << 40,
        data: Data(b"hello"),
    };
    let bytes = encoded(&write, 1);
    for len in 0..bytes.len() {
        assert_eq!(Request::decode(&bytes[..len]), Err(Malformed), "{len}");
        // Also if the size fits what is there.
        let mut cut = bytes[..len].to_vec();
        if let Some(size) = cut.get_mut(..4) {
            size.copy_from_slice(&(len as u32).to_le_bytes());
        }
        assert_eq!(Request::decode(&cut), Err(Malformed), "{len}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(Request::decode(&longer), Err(Malformed));
    longer[0] += 1;
    assert_eq!(Request::decode(&longer), Err(Malformed));
}

#[test]
fn what_does_not_fit_is_not_written() {
    let reply = Reply::Readlink {
        target: Text(&[b'x'; 100]),
    };
    let mut bytes = [0; 109];
    assert_eq!(reply.encode(1, &mut bytes), Some(109));
    assert_eq!(reply.encode(1, &mut bytes[..108]), None);
}

#[test]
fn data_that_are_there_get_their_header() {
    let mut bytes = vec![0; 20];
    bytes[11..16].copy_from_slice(b"hello");
    assert_eq!(frame_data(9, false, 5, &mut bytes), Some(16));
    let reply = Reply::Read {
        data: Data(b"hello"),
    };
    assert_eq!(Reply::decode(&bytes[..16]), Ok((9, reply)));
    assert_eq!(frame_data(9, true, 10, &mut bytes), None);
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_none(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let len = bytes.len() as u32;
        if let Some(size) = bytes.get_mut(..4) {
            size.copy_from_slice(&len.to_le_bytes());
        }
        if let Ok((tag, request)) = Request::decode(&bytes) {
            prop_assert_eq!(encoded(&request, tag), bytes.clone());
        }
        if let Ok((tag, reply)) = Reply::decode(&bytes) {
            let mut again = vec![0; 300];
            let len = reply.encode(tag, &mut again).unwrap();
            prop_assert_eq!(&again[..len], &bytes[..]);
        }
    }
}

#[test]
fn a_packet_holds_messages_and_what_is_none_ends_it() {
    let mut packet = [0; 100];
    let first = Request::Clunk { fid: 1 }.encode(1, &mut packet).unwrap();
    let second = Request::GetAttr { fid: 2, mask: 3 };
    let second = second.encode(1, &mut packet[first..]).unwrap();
    let all: Vec<_> = messages(&packet[..first + second]).collect();
    assert_eq!(all, [&packet[..first], &packet[first..first + second]]);
    // Shorter than a header, longer than the packet.
    for rest in [&[3, 0, 0, 0, 1, 2, 3, 4][..], &[0], &[9, 0, 0, 0, 1]] {
        let mut cut = packet[..first].to_vec();
        cut.extend_from_slice(rest);
        let all: Vec<_> = messages(&cut).collect();
        assert_eq!(all, [&packet[..first], rest]);
    }
    assert_eq!(messages(&[]).count(), 0);
}
