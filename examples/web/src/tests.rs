//! Whole conversations, as a client would see them.

use std::fmt::Write;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use proptest::prelude::*;

use crate::reply::{INLINE_BODY, Status};
use crate::request::MAX_HEAD;
use crate::session::{Expecting, Next, Session};

const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

/// What a client receives that sends `input` in pieces of `piece` bytes, and whether the server closes then.
fn converse(input: &[u8], piece: usize) -> (String, bool) {
    let mut session = Session::new();
    let mut out = Vec::new();
    let mut rest = input;
    loop {
        match session.next(false, DATE, &mut out) {
            Next::Reply(reply) => {
                out.extend(reply.body.flatten());
                if reply.close {
                    return (String::from_utf8(out).unwrap(), true);
                }
            }
            Next::Read if rest.is_empty() => return (String::from_utf8(out).unwrap(), false),
            Next::Read => {
                let room = session.room();
                assert!(!room.is_empty());
                let count = room.len().min(rest.len()).min(piece);
                room[..count].copy_from_slice(&rest[..count]);
                session.received(count);
                rest = &rest[count..];
            }
        }
    }
}

fn get(path: &str, fields: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    converse(request.as_bytes(), usize::MAX).0
}

fn field<'r>(reply: &'r str, name: &str) -> Option<&'r str> {
    let head = &reply[..reply.find("\r\n\r\n").unwrap()];
    head.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn body(reply: &str) -> &str {
    &reply[reply.find("\r\n\r\n").unwrap() + 4..]
}

#[test]
fn a_page_comes_with_its_description() {
    let reply = get("/", "");
    assert!(
        reply.starts_with(
            "HTTP/1.1 200 OK\r\nServer: Kiln\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
        )
    );
    assert_eq!(
        field(&reply, "Content-Type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(
        field(&reply, "Content-Length"),
        Some(&*body(&reply).len().to_string())
    );
    assert_eq!(field(&reply, "Accept-Ranges"), Some("bytes"));
    assert_eq!(field(&reply, "Connection"), None);
    assert!(body(&reply).contains("</html>"));
    assert_eq!(
        field(&get("/style.css?v=2", ""), "Content-Type"),
        Some("text/css; charset=utf-8")
    );
}

#[test]
fn the_pages_for_measurements_have_their_sizes() {
    assert_eq!(body(&get("/bench/612", "")).len(), 612);
    assert_eq!(body(&get("/bench/1m", "")).len(), 1 << 20);
}

#[test]
fn a_small_reply_is_written_in_one_piece() {
    let mut session = Session::new();
    let mut out = Vec::new();
    let request = b"GET /bench/612 HTTP/1.1\r\nHost: a\r\n\r\n";
    session.room()[..request.len()].copy_from_slice(request);
    session.received(request.len());
    let Next::Reply(reply) = session.next(false, DATE, &mut out) else {
        panic!("the request is complete");
    };
    assert!(reply.body.is_empty() && reply.content_len == 612);
    assert!(612 <= INLINE_BODY && out.len() > 612);
    assert_eq!(session.request_line(), "GET /bench/612 HTTP/1.1");
}

#[test]
fn head_says_what_get_would_say() {
    let request = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (head, _) = converse(request.as_bytes(), usize::MAX);
    let whole = get("/", "");
    assert_eq!(head, whole[..whole.len() - body(&whole).len()]);
}

#[test]
fn conditions_compare_entity_tags() {
    let first = get("/", "");
    let tag = field(&first, "ETag").unwrap();
    let reply = get("/", &format!("If-None-Match: \"x\", W/{tag}\r\n"));
    assert!(reply.starts_with("HTTP/1.1 304 "));
    assert_eq!(field(&reply, "ETag"), Some(tag));
    assert_eq!(body(&reply), "");
    assert!(get("/", "If-None-Match: \"x\"\r\n").starts_with("HTTP/1.1 200 "));
    assert!(get("/", "If-None-Match: *\r\n").starts_with("HTTP/1.1 304 "));
    assert!(get("/", "If-Match: \"x\"\r\n").starts_with("HTTP/1.1 412 "));
    assert!(get("/", &format!("If-Match: {tag}\r\n")).starts_with("HTTP/1.1 200 "));
}

#[test]
fn ranges_give_parts() {
    let whole = get("/bench/612", "");
    let (tag, whole) = (field(&whole, "ETag").unwrap(), body(&whole));
    let part = |fields: &str| get("/bench/612", fields);

    let reply = part("Range: bytes=100-199\r\n");
    assert!(reply.starts_with("HTTP/1.1 206 "));
    assert_eq!(field(&reply, "Content-Range"), Some("bytes 100-199/612"));
    assert_eq!(field(&reply, "Content-Length"), Some("100"));
    assert_eq!(body(&reply), &whole[100..200]);
    assert_eq!(body(&part("Range: bytes=600-\r\n")), &whole[600..]);
    assert_eq!(body(&part("Range: bytes=-12\r\n")), &whole[600..]);
    assert_eq!(
        body(&part(&format!("Range: bytes=0-0\r\nIf-Range: {tag}\r\n"))),
        &whole[..1]
    );

    for fields in [
        "Range: bytes=0-0,2-2\r\n",
        "Range: bytes=0-0\r\nIf-Range: \"x\"\r\n",
        "Range: bytes=0-0\r\nIf-Range: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
    ] {
        assert_eq!(body(&part(fields)), whole, "{fields}");
    }
    let reply = part("Range: bytes=612-\r\n");
    assert!(reply.starts_with("HTTP/1.1 416 "));
    assert_eq!(field(&reply, "Content-Range"), Some("bytes */612"));

    let reply = get("/bench/1m", "Range: bytes=16000-49999\r\n");
    assert_eq!(body(&reply), &body(&get("/bench/1m", ""))[16_000..50_000]);
}

#[test]
fn what_is_not_there_or_not_allowed() {
    let reply = get("/nothing", "");
    assert!(reply.starts_with("HTTP/1.1 404 ") && body(&reply).contains("</html>"));
    assert!(get("/../etc/passwd", "").starts_with("HTTP/1.1 400 "));
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcHEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (replies, closed) = converse(request.as_bytes(), usize::MAX);
    assert!(replies.starts_with("HTTP/1.1 405 "));
    assert_eq!(field(&replies, "Allow"), Some("GET, HEAD, OPTIONS"));
    // The body was skipped and the request behind it answered.
    assert!(replies.contains("HTTP/1.1 200 OK") && !closed);
    let (reply, closed) = converse(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", usize::MAX);
    assert!(reply.starts_with("HTTP/1.1 204 ") && !closed);
    let (reply, closed) = converse(b"\0\0\0\0", usize::MAX);
    assert!(reply.starts_with("HTTP/1.1 400 ") && closed);
    assert_eq!(field(&reply, "Connection"), Some("close"));
}

#[test]
fn connections_stay_as_the_client_wishes() {
    for (request, says, closes) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", None, false),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            Some("close"),
            true,
        ),
        ("GET / HTTP/1.0\r\n\r\n", Some("close"), true),
        (
            "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            Some("keep-alive"),
            false,
        ),
    ] {
        let (reply, closed) = converse(request.as_bytes(), usize::MAX);
        assert_eq!(
            (field(&reply, "Connection"), closed),
            (says, closes),
            "{request}"
        );
    }
}

#[test]
fn a_client_that_stops_in_the_middle_is_told() {
    let mut session = Session::new();
    let mut out = Vec::new();
    assert!(session.time_out(DATE, &mut out).is_none());
    session.room()[..3].copy_from_slice(b"GET");
    session.received(3);
    assert!(matches!(session.next(false, DATE, &mut out), Next::Read));
    assert_eq!(session.expecting(), Expecting::Rest);
    let reply = session.time_out(DATE, &mut out).unwrap();
    assert_eq!(reply.status, Status::RequestTimeout);
    assert!(reply.close);
}

#[test]
fn requests_larger_than_the_buffer_end_the_connection() {
    let request = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n",
        "x".repeat(2 * MAX_HEAD)
    );
    let (reply, closed) = converse(request.as_bytes(), usize::MAX);
    assert!(reply.starts_with("HTTP/1.1 431 ") && closed);
}

#[test]
fn a_head_as_long_as_may_be_is_read_in_any_pieces() {
    let start = "GET /bench/612 HTTP/1.1\r\nHost: a\r\nCookie: ";
    let cookie = "x".repeat(MAX_HEAD - start.len() - 4);
    let request = format!("{start}{cookie}\r\n\r\n");
    let expected = get("/bench/612", "");
    for piece in [1, 100, 1016, 1017, 2032, 4095, MAX_HEAD] {
        let (reply, closed) = converse(request.as_bytes(), piece);
        assert!(reply == expected && !closed, "{piece}");
    }
}

proptest! {
    #[test]
    fn pieces_and_pipelines_make_no_difference(
        paths in proptest::collection::vec("/(bench/612|style\\.css|x|index\\.html)", 1..40),
        piece in 1..5000usize,
    ) {
        let mut requests = String::new();
        for path in &paths {
            write!(requests, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        }
        let expected: String = paths.iter().map(|path| get(path, "")).collect();
        prop_assert_eq!(converse(requests.as_bytes(), piece), (expected, false));
    }

    #[test]
    fn no_bytes_are_too_strange(input in proptest::collection::vec(any::<u8>(), 0..6000), piece in 1..6000usize) {
        let mut session = Session::new();
        let mut out = Vec::new();
        for part in input.chunks(piece.min(MAX_HEAD)) {
            let room = session.room();
            let count = room.len().min(part.len());
            room[..count].copy_from_slice(&part[..count]);
            session.received(count);
            while let Next::Reply(reply) = session.next(false, DATE, &mut out) {
                let _ = session.request_line();
                if reply.close {
                    return Ok(());
                }
            }
        }
    }

    #[test]
    fn almost_requests_are_answered(
        request in "(GET|HEAD|PUT|X) (/|\\*|a|http://b/)[ -~]{0,20} HTTP/1\\.[0-2]\r\n(Host: a\r\n)?((Range|If-None-Match|Content-Length|Connection|If-Range|Expect): [ -~]{0,20}\r\n){0,4}\r\n",
    ) {
        let (reply, _) = converse(request.as_bytes(), usize::MAX);
        prop_assert!(reply.starts_with("HTTP/1.1 "));
    }
}
