//! Reading a request's head (RFC 9112 sections 2 to 6).
//!
//! The grammar is httparse's; here is what the fields mean to this server, and the limits.

use core::mem::MaybeUninit;

use crate::reply::Status;

/// Longest head of a request, in bytes: request line and fields. It is also the most memory for a connection's input.
pub const MAX_HEAD: usize = 4096;
/// Longest request target, in bytes.
pub const MAX_TARGET: usize = 2048;
/// The longest body that is read to its end and dropped, so that the connection can go on.
pub const MAX_BODY: u64 = 64 * 1024;
/// The most fields in a head.
const MAX_FIELDS: usize = 64;

/// What a client may want with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Its content.
    Get,
    /// What `Get` would say about it.
    Head,
    /// Which methods there are.
    Options,
    /// One of the methods that no page here allows.
    Other,
}

/// A request, as far as this server reads it. Fields that came twice count once.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// The target as it was sent.
    pub target: &'a str,
    /// True for HTTP/1.0.
    pub is_http10: bool,
    /// Whether the client wants to send further requests on this connection.
    pub keep_alive: bool,
    /// Bytes of body that follow the head.
    pub body_len: u64,
    /// `If-Match`.
    pub if_match: Option<&'a [u8]>,
    /// `If-None-Match`.
    pub if_none_match: Option<&'a [u8]>,
    /// `Range`.
    pub range: Option<&'a [u8]>,
    /// `If-Range`.
    pub if_range: Option<&'a [u8]>,
}

/// Reads the head at the start of `input`: the request and the head's length, or `None` if there is more to come.
///
/// # Errors
/// What to answer instead. Where the next request would begin is not known then, or not worth finding out: the
/// connection ends with that answer.
pub fn parse(input: &[u8]) -> Result<Option<(Request<'_>, usize)>, Status> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let len = match parsed.parse_with_uninit_headers(input, &mut fields) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return incomplete(input, parsed.path),
        Err(httparse::Error::TooManyHeaders) => return Err(Status::FieldsTooLarge),
        Err(httparse::Error::Version) => return Err(Status::VersionNotSupported),
        Err(_) => return Err(Status::BadRequest),
    };
    if len > MAX_HEAD {
        return Err(Status::FieldsTooLarge);
    }
    let target = parsed.path.unwrap_or_default();
    if target.len() > MAX_TARGET {
        return Err(Status::TargetTooLong);
    }
    let is_http10 = parsed.version == Some(0);
    let mut request = Request {
        method: method(parsed.method.unwrap_or_default())?,
        target,
        is_http10,
        keep_alive: !is_http10,
        body_len: 0,
        if_match: None,
        if_none_match: None,
        range: None,
        if_range: None,
    };
    let mut framing = Framing::default();
    for field in parsed.headers.iter() {
        request.read_field(field.name, field.value, &mut framing)?;
    }
    // RFC 9112 section 3.2: exactly one `Host`, except from clients that do not know the field.
    if framing.hosts > 1 || (framing.hosts == 0 && !is_http10) {
        return Err(Status::BadRequest);
    }
    request.body_len = framing.body_len(is_http10)?;
    if framing.expects_continue && request.body_len > 0 {
        // No body changes an answer of this server, so none is asked for. Whether it comes nevertheless cannot be
        // known (RFC 9110 section 10.1.1), hence the end of the connection.
        request.keep_alive = false;
        request.body_len = 0;
    }
    Ok(Some((request, len)))
}

/// Whether to go on reading.
fn incomplete(
    input: &[u8],
    target: Option<&str>,
) -> Result<Option<(Request<'static>, usize)>, Status> {
    let line_ended = target.is_some();
    if target.is_some_and(|target| target.len() > MAX_TARGET) {
        return Err(Status::TargetTooLong);
    }
    match (input.len() < MAX_HEAD, line_ended) {
        (true, _) => Ok(None),
        (false, true) => Err(Status::FieldsTooLarge),
        (false, false) => Err(Status::TargetTooLong),
    }
}

fn method(name: &str) -> Result<Method, Status> {
    match name {
        "GET" => Ok(Method::Get),
        "HEAD" => Ok(Method::Head),
        "OPTIONS" => Ok(Method::Options),
        "POST" | "PUT" | "DELETE" | "PATCH" | "TRACE" | "CONNECT" => Ok(Method::Other),
        _ => Err(Status::NotImplemented),
    }
}

/// Fields that tell where a request ends.
#[derive(Debug, Default)]
struct Framing {
    hosts: u32,
    content_length: Option<u64>,
    chunked: bool,
    expects_continue: bool,
}

impl Framing {
    fn body_len(&self, is_http10: bool) -> Result<u64, Status> {
        if self.chunked {
            // Both at once is how requests are smuggled past a proxy (RFC 9112 section 6.1), and HTTP/1.0 has no
            // chunks. A body of unknown length is not worth reading here.
            let forged = self.content_length.is_some() || is_http10;
            return Err(if forged {
                Status::BadRequest
            } else {
                Status::LengthRequired
            });
        }
        let len = self.content_length.unwrap_or(0);
        if len > MAX_BODY {
            return Err(Status::ContentTooLarge);
        }
        Ok(len)
    }
}

impl<'a> Request<'a> {
    fn read_field(
        &mut self,
        name: &str,
        value: &'a [u8],
        framing: &mut Framing,
    ) -> Result<(), Status> {
        // The length tells most fields apart, and those that browsers send and nobody here reads cost no comparison.
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            4 if is("host") => framing.hosts += 1,
            5 if is("range") => self.range = self.range.or(Some(value)),
            6 if is("expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Status::ExpectationFailed);
                }
                framing.expects_continue = true;
            }
            8 if is("if-match") => self.if_match = self.if_match.or(Some(value)),
            8 if is("if-range") => self.if_range = self.if_range.or(Some(value)),
            10 if is("connection") => self.read_connection(value),
            13 if is("if-none-match") => self.if_none_match = self.if_none_match.or(Some(value)),
            14 if is("content-length") => {
                let len = decimal(value).ok_or(Status::BadRequest)?;
                if framing.content_length.is_some_and(|other| other != len) {
                    return Err(Status::BadRequest);
                }
                framing.content_length = Some(len);
            }
            17 if is("transfer-encoding") => {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Status::NotImplemented);
                }
                framing.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn read_connection(&mut self, value: &[u8]) {
        for option in value.split(|&b| b == b',') {
            let option = option.trim_ascii();
            if option.eq_ignore_ascii_case(b"close") {
                self.keep_alive = false;
            } else if self.is_http10 && option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            }
        }
    }
}

/// A length in digits, and nothing else. What needs more than 64 bits is as good as the greatest number.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, byte| {
        byte.is_ascii_digit().then(|| {
            number
                .saturating_mul(10)
                .saturating_add(u64::from(byte - b'0'))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    fn complete(head: &str) -> Request<'_> {
        let (request, len) = parse(head.as_bytes()).unwrap().unwrap();
        assert_eq!(len, head.len());
        request
    }

    fn refused(head: &str) -> Status {
        parse(head.as_bytes()).unwrap_err()
    }

    #[test]
    fn versions_differ_in_what_happens_afterwards() {
        assert!(complete("GET / HTTP/1.1\r\nHost: a\r\n\r\n").keep_alive);
        assert!(!complete("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n").keep_alive);
        assert!(!complete("GET / HTTP/1.0\r\n\r\n").keep_alive);
        assert!(complete("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive);
        assert_eq!(
            refused("GET / HTTP/2.0\r\n\r\n"),
            Status::VersionNotSupported
        );
    }

    #[test]
    fn a_host_is_named_once() {
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), Status::BadRequest);
        assert_eq!(
            refused("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
            Status::BadRequest
        );
    }

    #[test]
    fn bodies_have_one_length_and_a_limit() {
        let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        assert_eq!(complete(&post("Content-Length: 12\r\n")).body_len, 12);
        assert_eq!(
            complete(&post("Content-Length: 5\r\nContent-Length: 5\r\n")).body_len,
            5
        );
        for (fields, status) in [
            (
                "Content-Length: 5\r\nContent-Length: 6\r\n",
                Status::BadRequest,
            ),
            ("Content-Length: +5\r\n", Status::BadRequest),
            ("Content-Length: \r\n", Status::BadRequest),
            ("Content-Length: 5, 5\r\n", Status::BadRequest),
            (
                "Content-Length: 99999999999999999999999\r\n",
                Status::ContentTooLarge,
            ),
            ("Content-Length: 65537\r\n", Status::ContentTooLarge),
            ("Transfer-Encoding: chunked\r\n", Status::LengthRequired),
            (
                "Transfer-Encoding: gzip, chunked\r\n",
                Status::NotImplemented,
            ),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                Status::BadRequest,
            ),
            ("Expect: a pony\r\n", Status::ExpectationFailed),
        ] {
            assert_eq!(refused(&post(fields)), status, "{fields}");
        }
    }

    #[test]
    fn a_body_that_is_announced_is_not_waited_for() {
        let head = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n";
        let request = complete(head);
        assert!(!request.keep_alive);
        assert_eq!(request.body_len, 0);
    }

    #[test]
    fn heads_end_within_the_limits() {
        assert!(parse(b"GET / HTTP/1.1\r\nHost").unwrap().is_none());
        assert!(parse(b"").unwrap().is_none());
        assert!(parse(b"\r\n\r\nGE").unwrap().is_none());
        let long_target = format!("GET /{}", "a".repeat(MAX_HEAD));
        assert_eq!(refused(&long_target), Status::TargetTooLong);
        let target = format!(
            "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
            "a".repeat(MAX_TARGET)
        );
        assert_eq!(refused(&target), Status::TargetTooLong);
        let field = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nCookie: {}",
            "a".repeat(MAX_HEAD)
        );
        assert_eq!(refused(&field), Status::FieldsTooLarge);
        let fields = format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "A: b\r\n".repeat(MAX_FIELDS)
        );
        assert_eq!(refused(&fields), Status::FieldsTooLarge);
    }

    #[test]
    fn methods() {
        assert_eq!(
            complete("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").method,
            Method::Head
        );
        assert_eq!(
            complete("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n").method,
            Method::Other
        );
        assert_eq!(
            refused("BREW / HTTP/1.1\r\nHost: a\r\n\r\n"),
            Status::NotImplemented
        );
        assert_eq!(
            refused("get / HTTP/1.1\r\nHost: a\r\n\r\n"),
            Status::NotImplemented
        );
    }
}
