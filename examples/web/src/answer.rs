//! From request to reply: methods, conditions (RFC 9110 section 13) and ranges (section 14).

use alloc::vec::Vec;

use crate::date::HttpDate;
use crate::etag::{self, Comparison};
use crate::path::{self, Fault, MAX_PATH};
use crate::range::{self, Selection};
use crate::reply::{Body, Head, Status, explanation};
use crate::request::{Method, Request};
use crate::site::{self, Page};

const ALLOWED: &str = "Allow: GET, HEAD, OPTIONS\r\n";

/// A reply whose head, and perhaps body, has been written.
#[derive(Debug)]
pub struct Reply {
    /// How the request ended.
    pub status: Status,
    /// Length of the content that the reply carries.
    pub content_len: u64,
    /// What of the body is still to be sent, behind what was written.
    pub body: Body,
    /// Whether the connection ends with this reply.
    pub close: bool,
}

/// Everything about a reply that does not depend on the page.
struct Context<'c> {
    date: &'c HttpDate,
    out: &'c mut Vec<u8>,
    close: bool,
    /// A client of HTTP/1.0 must be told that the connection stays; others know.
    tell_keep_alive: bool,
    head_only: bool,
}

/// Answers a request, at the end of `out`. With `last` the connection ends with this reply even if the client wants to
/// keep it.
pub fn answer(request: &Request<'_>, last: bool, date: &HttpDate, out: &mut Vec<u8>) -> Reply {
    let close = last || !request.keep_alive;
    let context = Context {
        date,
        out,
        close,
        tell_keep_alive: request.is_http10 && !close,
        head_only: request.method == Method::Head,
    };
    match request.method {
        Method::Get | Method::Head => {}
        Method::Options => return context.without_content(Status::NoContent, ALLOWED),
        Method::Other => return context.explain(Status::MethodNotAllowed),
    }
    let mut buffer = [0; MAX_PATH];
    match path::resolve(request.target.as_bytes(), &mut buffer) {
        Ok(path) => match site::find(path) {
            Some(page) => context.page(request, page),
            None => context.not_found(),
        },
        Err(Fault::Malformed) => context.explain(Status::BadRequest),
        Err(Fault::TooLong) => context.not_found(),
    }
}

/// Answers what is no proper request, or did not come in time; the connection ends with it.
pub fn refuse(status: Status, date: &HttpDate, out: &mut Vec<u8>) -> Reply {
    let context = Context {
        date,
        out,
        close: true,
        tell_keep_alive: false,
        head_only: false,
    };
    context.explain(status)
}

impl Context<'_> {
    fn page(self, request: &Request<'_>, page: &'static Page) -> Reply {
        let matches = |field: &[u8], comparison| etag::list_has(field, &page.etag, comparison);
        if request
            .if_match
            .is_some_and(|field| !matches(field, Comparison::Strong))
        {
            return self.explain(Status::PreconditionFailed);
        }
        if request
            .if_none_match
            .is_some_and(|field| matches(field, Comparison::Weak))
        {
            return self.not_modified(page);
        }
        // Only `GET` has ranges, and a client may make them depend on the page's version. A date there matches
        // nothing, since no reply carries one.
        let current = request
            .if_range
            .is_none_or(|field| field.trim_ascii() == page.etag);
        let selection = match request.range {
            Some(field) if current && request.method == Method::Get => {
                range::select(field, page.content.len)
            }
            _ => Selection::Whole,
        };
        match selection {
            Selection::Whole => self.content(Status::Ok, page, Body::whole(page.content)),
            Selection::Part(part) => {
                let body = Body::part(page.content, part.clone());
                self.part(page, part.start, part.end - 1, body)
            }
            Selection::Unsatisfiable => self.unsatisfiable(page),
        }
    }

    fn content(self, status: Status, page: &Page, body: Body) -> Reply {
        let mut head = Head::new(self.out, status, self.date);
        describe(&mut head, page);
        self.finish(status, body)
    }

    fn part(self, page: &Page, first: u64, last: u64, body: Body) -> Reply {
        let status = Status::PartialContent;
        let mut head = Head::new(self.out, status, self.date);
        describe(&mut head, page);
        head.text("Content-Range: bytes ")
            .number(first)
            .text("-")
            .number(last);
        head.text("/").number(page.content.len).text("\r\n");
        self.finish(status, body)
    }

    fn unsatisfiable(self, page: &Page) -> Reply {
        let status = Status::RangeNotSatisfiable;
        let mut head = Head::new(self.out, status, self.date);
        head.text("Content-Range: bytes */")
            .number(page.content.len);
        head.text("\r\nContent-Type: text/plain; charset=utf-8\r\n");
        self.finish(status, Body::whole(explanation(status)))
    }

    fn not_found(self) -> Reply {
        let status = Status::NotFound;
        let page = &site::NOT_FOUND;
        let mut head = Head::new(self.out, status, self.date);
        head.field("Content-Type: ", page.content_type.as_bytes());
        self.finish(status, Body::whole(page.content))
    }

    fn not_modified(self, page: &Page) -> Reply {
        Head::new(self.out, Status::NotModified, self.date).field("ETag: ", &page.etag);
        self.finish_without_content(Status::NotModified)
    }

    fn without_content(self, status: Status, fields: &str) -> Reply {
        Head::new(self.out, status, self.date).text(fields);
        self.finish_without_content(status)
    }

    /// A reply that says in words what its status says.
    fn explain(self, status: Status) -> Reply {
        let mut head = Head::new(self.out, status, self.date);
        if status == Status::MethodNotAllowed {
            head.text(ALLOWED);
        }
        head.text("Content-Type: text/plain; charset=utf-8\r\n");
        self.finish(status, Body::whole(explanation(status)))
    }

    fn finish(self, status: Status, body: Body) -> Reply {
        let content_len = body.len();
        let mut head = Head { out: self.out };
        head.text("Content-Length: ")
            .number(content_len)
            .text("\r\n");
        head.text(connection(self.close, self.tell_keep_alive));
        let body = if self.head_only { Body::EMPTY } else { body };
        Reply {
            status,
            content_len: body.len(),
            body: head.end(body),
            close: self.close,
        }
    }

    fn finish_without_content(self, status: Status) -> Reply {
        let mut head = Head { out: self.out };
        head.text(connection(self.close, self.tell_keep_alive));
        Reply {
            status,
            content_len: 0,
            body: head.end(Body::EMPTY),
            close: self.close,
        }
    }
}

fn describe(head: &mut Head<'_>, page: &Page) {
    head.field("Content-Type: ", page.content_type.as_bytes());
    head.field("ETag: ", &page.etag);
    head.text("Accept-Ranges: bytes\r\n");
}

fn connection(close: bool, tell_keep_alive: bool) -> &'static str {
    match (close, tell_keep_alive) {
        (true, _) => "Connection: close\r\n",
        (false, true) => "Connection: keep-alive\r\n",
        (false, false) => "",
    }
}
