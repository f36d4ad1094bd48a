//! Writing a reply: its head, and its body if that is short; longer bodies are handed out piece by piece.
//!
//! Everything is copied together from parts that exist already. No number is formatted except lengths, nothing is
//! allocated except the room for the bytes themselves.

use alloc::vec::Vec;
use core::ops::Range;

use crate::date::HttpDate;
use crate::site::Content;

/// Bodies up to this many bytes go out together with their head, by one write.
pub const INLINE_BODY: u64 = 1024;

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $code:literal $reason:literal;)*) => {
        /// How a request ended (RFC 9110 section 15, RFC 6585).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Status {
            $($(#[$doc])* $name,)*
        }

        impl Status {
            /// The three-digit code.
            pub const fn code(self) -> u16 {
                match self {
                    $(Self::$name => $code,)*
                }
            }

            /// Code and reason: the text of a reply without a page.
            const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($code, " ", $reason, "\n"),)*
                }
            }

            /// The start of the head: what is the same in every reply of this status.
            const fn head(self) -> &'static str {
                match self {
                    $(Self::$name => concat!("HTTP/1.1 ", $code, " ", $reason, "\r\nServer: Kiln\r\nDate: "),)*
                }
            }
        }
    };
}

statuses! {
    /// The page.
    Ok = 200 "OK";
    /// Done; there is nothing to show.
    NoContent = 204 "No Content";
    /// A part of the page.
    PartialContent = 206 "Partial Content";
    /// The client has the page already.
    NotModified = 304 "Not Modified";
    /// The request does not follow the rules.
    BadRequest = 400 "Bad Request";
    /// No such page.
    NotFound = 404 "Not Found";
    /// Pages can only be read.
    MethodNotAllowed = 405 "Method Not Allowed";
    /// The rest of the request did not come in time.
    RequestTimeout = 408 "Request Timeout";
    /// A body came without its length.
    LengthRequired = 411 "Length Required";
    /// The page is another one than the client thinks.
    PreconditionFailed = 412 "Precondition Failed";
    /// The body is longer than anybody would send here.
    ContentTooLarge = 413 "Content Too Large";
    /// The request target is too long.
    TargetTooLong = 414 "URI Too Long";
    /// The page has no such part.
    RangeNotSatisfiable = 416 "Range Not Satisfiable";
    /// The client expects what nobody knows here.
    ExpectationFailed = 417 "Expectation Failed";
    /// The request's head is too long.
    FieldsTooLarge = 431 "Request Header Fields Too Large";
    /// An unknown method or transfer coding.
    NotImplemented = 501 "Not Implemented";
    /// Neither HTTP/1.0 nor HTTP/1.1.
    VersionNotSupported = 505 "HTTP Version Not Supported";
}

/// The part of a content that is still to be sent.
#[derive(Clone, Debug)]
pub struct Body {
    content: Content,
    rest: Range<u64>,
}

impl Body {
    /// Nothing.
    pub const EMPTY: Self = Self {
        content: Content::new(b" "),
        rest: 0..0,
    };

    /// All of a content.
    pub const fn whole(content: Content) -> Self {
        Self {
            content,
            rest: 0..content.len,
        }
    }

    /// These bytes of a content, which has them.
    pub const fn part(content: Content, range: Range<u64>) -> Self {
        Self {
            content,
            rest: range,
        }
    }

    /// Bytes still to be sent.
    pub const fn len(&self) -> u64 {
        self.rest.end - self.rest.start
    }

    /// True if everything was sent.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The pieces to be sent, in order.
impl Iterator for Body {
    type Item = &'static [u8];

    fn next(&mut self) -> Option<&'static [u8]> {
        if self.is_empty() {
            return None;
        }
        let block = self.content.block;
        let from = (self.rest.start % block.len() as u64) as usize;
        let len = (self.len()).min((block.len() - from) as u64);
        self.rest.start += len;
        Some(&block[from..from + len as usize])
    }
}

/// A reply's head while it is written.
#[derive(Debug)]
pub struct Head<'o> {
    pub(crate) out: &'o mut Vec<u8>,
}

impl<'o> Head<'o> {
    /// Starts a head at the end of `out`.
    pub fn new(out: &'o mut Vec<u8>, status: Status, date: &HttpDate) -> Self {
        // More than any head here is long, so that it grows in one step.
        out.reserve(320);
        out.extend_from_slice(status.head().as_bytes());
        out.extend_from_slice(date);
        out.extend_from_slice(b"\r\n");
        Self { out }
    }

    /// Adds a field; `name` ends with a colon and a space.
    pub fn field(&mut self, name: &str, value: &[u8]) -> &mut Self {
        self.text(name).out.extend_from_slice(value);
        self.text("\r\n")
    }

    /// Adds a piece of text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.out.extend_from_slice(text.as_bytes());
        self
    }

    /// Adds a number.
    pub fn number(&mut self, mut number: u64) -> &mut Self {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.out.extend_from_slice(&digits[at..]);
        self
    }

    /// Ends the head. Puts `body` behind it if it is short, else gives it back.
    pub fn end(&mut self, body: Body) -> Body {
        self.text("\r\n");
        if body.len() > INLINE_BODY {
            return body;
        }
        for piece in body {
            self.out.extend_from_slice(piece);
        }
        Body::EMPTY
    }
}

/// The content of a reply that has no page: its status in words.
pub const fn explanation(status: Status) -> Content {
    Content::new(status.text().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_repeats_its_block_from_any_place_on() {
        let content = Content {
            block: b"abcdef",
            len: 20,
        };
        let bytes = |range| {
            Body::part(content, range)
                .flatten()
                .copied()
                .collect::<Vec<_>>()
        };
        assert_eq!(bytes(0..20), b"abcdefabcdefabcdefab");
        assert_eq!(bytes(5..7), b"fa");
        assert_eq!(bytes(4..17), b"efabcdefabcde");
        assert_eq!(bytes(3..3), b"");
    }

    #[test]
    fn numbers() {
        let mut out = Vec::new();
        let mut head = Head { out: &mut out };
        head.number(0)
            .text(" ")
            .number(1_048_576)
            .text(" ")
            .number(u64::MAX);
        assert_eq!(out, b"0 1048576 18446744073709551615");
    }
}
