//! Replies to what was asked in one packet.

use kiln_ninep::Reply;
use kiln_ninep::message::messages;

use crate::{Errno, Result};

/// Replies to what was asked in one packet, errors as such.
pub struct Replies<'a> {
    tag: u16,
    rest: &'a [u8],
}

impl<'a> Replies<'a> {
    /// Those in a packet, which should have this tag.
    pub fn of(tag: u16, packet: &'a [u8]) -> Self {
        Self { tag, rest: packet }
    }

    /// The next one.
    ///
    /// # Errors
    /// What it says; `EIO` if there is none.
    pub fn one(&mut self) -> Result<Reply<'a>> {
        self.next().unwrap_or(Err(Errno::EIO))
    }
}

impl<'a> Iterator for Replies<'a> {
    type Item = Result<Reply<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let message = messages(self.rest).next()?;
        self.rest = self.rest.get(message.len()..).unwrap_or_default();
        Some(match Reply::decode(message) {
            Ok((_, Reply::Error { errno })) => Err(error(errno)),
            Ok((told, reply)) if told == self.tag => Ok(reply),
            _ => Err(Errno::EIO),
        })
    }
}

/// What `read` makes of a reply; that it is another one is the server's fault.
pub fn understand<R>(reply: &Reply<'_>, read: impl FnOnce(&Reply<'_>) -> Option<R>) -> Result<R> {
    read(reply).ok_or(Errno::EIO)
}

/// An error number of the server's, which is Linux' own.
fn error(number: u32) -> Errno {
    match i32::try_from(number) {
        Ok(number @ 1..=4095) => Errno(number),
        _ => Errno::EIO,
    }
}
