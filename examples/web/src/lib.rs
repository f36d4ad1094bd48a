//! A static web site over HTTP/1.1: everything but the sockets.
//!
//! The library knows bytes: what a client sent goes in, what it shall be answered comes out. It reads no socket and no
//! clock, so that its tests run on any host and need no stand-ins. The guest in `main.rs` and `server/` adds
//! connections, time limits and the limit on how many there may be.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`session`] | one connection: bytes in, requests one after the other, replies out |
//! | [`request`] | reading a request's head |
//! | [`answer`] | from request to reply: methods, conditions, ranges |
//! | [`reply`] | writing a reply's head; bodies |
//! | [`range`] | the `Range` field |
//! | [`etag`] | entity tags and the lists of them |
//! | [`path`](mod@path) | from request target to the path of a page |
//! | [`date`] | the `Date` field |
//! | [`site`] | the pages |
//!
//! The rules are those of RFC 9110 (semantics, "HTTP") and RFC 9112 (HTTP/1.1).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod answer;
pub mod date;
pub mod etag;
pub mod path;
pub mod range;
pub mod reply;
pub mod request;
pub mod session;
pub mod site;

#[cfg(test)]
mod tests;
