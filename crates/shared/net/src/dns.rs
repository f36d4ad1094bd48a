//! Names to addresses: a small stub resolver (RFC 1034 section 5.3.1, RFC 1035).
//!
//! A lookup asks for A and AAAA at once, from a fresh random port with random identifiers (RFC 5452), each server in
//! turn, three times round with growing patience. Nothing is cached. An answer that does not fit into a datagram comes
//! cut, and the question is asked again over TCP (RFC 7766).
//!
//! Reading and writing messages are functions over bytes, further down.

use alloc::vec::Vec;
use core::future::poll_fn;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::pin::pin;
use core::task::{Context, Poll};
use core::time::Duration;

use kiln_abi::Instant;

use crate::error::Error;
use crate::stack::Stack;
use crate::stream::TcpStream;
use crate::udp::UdpSocket;

const PORT: u16 = 53;
const PATIENCE: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];
/// RFC 1035 section 2.3.4, without EDNS.
const LONGEST_MESSAGE: usize = 512;
const TYPES: [u16; 2] = [A, AAAA];
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const CLASS_INTERNET: u16 = 1;
/// Pointers and aliases followed before a message counts as hostile.
const MOST_JUMPS: usize = 16;

/// What a server says to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reply {
    Addresses(Vec<IpAddr>),
    /// The same, with some missing.
    Truncated(Vec<IpAddr>),
    NoSuchName,
    Failed,
}

impl Stack {
    /// The addresses of a host, IPv4 first. Address literals and `localhost` are answered here.
    ///
    /// Asks the servers of the configuration, then those learned from DHCP and router advertisements.
    ///
    /// # Errors
    /// [`Error::NameNotFound`] if a server says that there is no such name or that it has no address;
    /// [`Error::NameServerFailed`] if all servers refuse; [`Error::TimedOut`] if none answers within seven seconds
    /// each; [`Error::NoNameServer`]; [`Error::InvalidInput`] if it cannot be a name.
    pub async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, Error> {
        let name = name.strip_suffix('.').unwrap_or(name);
        if let Ok(address) = name.parse() {
            return Ok(Vec::from([address]));
        }
        // RFC 6761 section 6.3.
        let last_label = name.rsplit('.').next().unwrap_or(name);
        if last_label.eq_ignore_ascii_case("localhost") {
            return Ok(Vec::from([
                Ipv4Addr::LOCALHOST.into(),
                Ipv6Addr::LOCALHOST.into(),
            ]));
        }
        let name = encode_name(name).ok_or(Error::InvalidInput)?;
        let servers = self.name_servers();
        if servers.is_empty() {
            return Err(Error::NoNameServer);
        }
        let mut error = Error::TimedOut;
        for patience in PATIENCE {
            for server in &servers {
                match self.ask(&name, *server, patience).await {
                    Ok(addresses) => return Ok(addresses),
                    Err(Error::NameNotFound) => return Err(Error::NameNotFound),
                    Err(Error::TimedOut) => {}
                    Err(other) => error = other,
                }
            }
        }
        Err(error)
    }

    /// Asks one server once.
    async fn ask(
        &self,
        name: &[u8],
        server: IpAddr,
        patience: Duration,
    ) -> Result<Vec<IpAddr>, Error> {
        let any = match server {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind(self, SocketAddr::new(any, 0))?;
        socket.connect(SocketAddr::new(server, PORT))?;
        let ids = self.with(|core| TYPES.map(|_| core.random.next_u16()));
        for (id, kind) in ids.into_iter().zip(TYPES) {
            socket.send(&encode_query(id, name, kind)).await?;
        }
        let deadline = self.with(|core| core.now) + patience;
        let mut replies = [None, None];
        let mut buffer = [0; LONGEST_MESSAGE];
        while replies.contains(&None) {
            let Some(count) = self.receive_until(&socket, &mut buffer, deadline).await? else {
                break;
            };
            for ((reply, id), kind) in replies.iter_mut().zip(ids).zip(TYPES) {
                if reply.is_none() {
                    *reply = parse_reply(&buffer[..count], id, name, kind);
                }
            }
        }
        drop(socket);
        let deadline = self.with(|core| core.now) + patience;
        for ((reply, id), kind) in replies.iter_mut().zip(ids).zip(TYPES) {
            if !matches!(reply, Some(Reply::Truncated(_))) {
                continue;
            }
            let question = encode_query(id, name, kind);
            let mut asking = pin!(self.ask_over_tcp(server, &question));
            let whole = poll_fn(|context| {
                if let Poll::Ready(message) = asking.as_mut().poll(context) {
                    return Poll::Ready(message.ok());
                }
                self.poll_deadline(deadline, context).map(|()| None)
            });
            if let Some(message) = whole.await
                && let Some(better) = parse_reply(&message, id, name, kind)
            {
                *reply = Some(better);
            }
        }
        judge(replies)
    }

    /// RFC 1035 section 4.2.2: each message behind its length.
    async fn ask_over_tcp(&self, server: IpAddr, question: &[u8]) -> Result<Vec<u8>, Error> {
        let mut stream = TcpStream::connect(self, SocketAddr::new(server, PORT)).await?;
        let mut message = Vec::from((question.len() as u16).to_be_bytes());
        message.extend_from_slice(question);
        stream.write_all(&message).await?;
        message.clear();
        let mut wanted = 2;
        while message.len() < wanted {
            let mut buffer = [0; LONGEST_MESSAGE];
            match stream.read(&mut buffer).await? {
                0 => return Err(Error::ConnectionReset),
                count => message.extend_from_slice(&buffer[..count]),
            }
            if let Some(&[high, low]) = message.first_chunk() {
                wanted = 2 + usize::from(u16::from_be_bytes([high, low]));
            }
        }
        message.truncate(wanted);
        message.drain(..2);
        Ok(message)
    }

    /// Ready when the time has come.
    fn poll_deadline(&self, deadline: Instant, context: &Context<'_>) -> Poll<()> {
        self.with(|core| {
            if core.now >= deadline {
                return Poll::Ready(());
            }
            core.timers.register(deadline, context.waker());
            Poll::Pending
        })
    }

    async fn receive_until(
        &self,
        socket: &UdpSocket,
        buffer: &mut [u8],
        deadline: Instant,
    ) -> Result<Option<usize>, Error> {
        poll_fn(|context| {
            if let Poll::Ready(received) = socket.poll_recv_from(context.waker(), buffer) {
                return Poll::Ready(received.map(|(count, _)| Some(count)));
            }
            self.poll_deadline(deadline, context).map(|()| Ok(None))
        })
        .await
    }
}

/// What the answers to both questions mean together. One good answer is enough.
fn judge(replies: [Option<Reply>; 2]) -> Result<Vec<IpAddr>, Error> {
    let mut addresses = Vec::new();
    let mut error = Error::NameNotFound;
    for reply in replies {
        match reply {
            // There are some, but not to be had from this server.
            Some(Reply::Truncated(found)) if found.is_empty() => error = Error::NameServerFailed,
            // Some are better than none.
            Some(Reply::Addresses(found) | Reply::Truncated(found)) => addresses.extend(found),
            Some(Reply::NoSuchName) => {}
            Some(Reply::Failed) => error = Error::NameServerFailed,
            None => error = Error::TimedOut,
        }
    }
    if addresses.is_empty() {
        Err(error)
    } else {
        Ok(addresses)
    }
}

/// A name as labels with their lengths, in lower case. `None` if it is not one (RFC 1035 section 2.3.4).
fn encode_name(name: &str) -> Option<Vec<u8>> {
    let mut encoded = Vec::new();
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok()?;
        if !(1..=63).contains(&length) || !label.is_ascii() {
            return None;
        }
        encoded.push(length);
        encoded.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    encoded.push(0);
    (encoded.len() <= 255).then_some(encoded)
}

/// RFC 1035 section 4.1: a header asking for recursion, and one question.
fn encode_query(id: u16, name: &[u8], kind: u16) -> Vec<u8> {
    let mut query = Vec::with_capacity(16 + name.len());
    for field in [id, 0x0100, 1, 0, 0, 0] {
        query.extend(field.to_be_bytes());
    }
    query.extend(name);
    query.extend(kind.to_be_bytes());
    query.extend(CLASS_INTERNET.to_be_bytes());
    query
}

/// The answer to a question, `None` if the message is not one to it.
fn parse_reply(message: &[u8], id: u16, name: &[u8], kind: u16) -> Option<Reply> {
    let flags = be16(message, 2)?;
    let is_reply = be16(message, 0)? == id && flags & 0xf800 == 0x8000 && be16(message, 4)? == 1;
    let (asked, at) = read_name(message, 12)?;
    let same = asked == name && be16(message, at)? == kind && be16(message, at + 2)? == 1;
    if !is_reply || !same {
        return None;
    }
    Some(match flags & 15 {
        // A message that is cut may end within a record: what came before counts.
        0 => {
            let count = be16(message, 6)?;
            let addresses = read_answers(message, at + 4, count, asked, kind);
            if flags & 0x0200 == 0 {
                Reply::Addresses(addresses)
            } else {
                Reply::Truncated(addresses)
            }
        }
        3 => Reply::NoSuchName,
        _ => Reply::Failed,
    })
}

/// The addresses among the answers that belong to `wanted` or to what that is an alias of.
fn read_answers(
    message: &[u8],
    mut at: usize,
    count: u16,
    mut wanted: Vec<u8>,
    kind: u16,
) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let mut record = |at: usize| -> Option<usize> {
        let (owner, fields) = read_name(message, at)?;
        let record_kind = be16(message, fields)?;
        let data = fields + 10;
        let length = usize::from(be16(message, fields + 8)?);
        let bytes = message.get(data..data + length)?;
        if owner == wanted && be16(message, fields + 2)? == CLASS_INTERNET {
            if record_kind == CNAME {
                wanted = read_name(message, data)?.0;
            } else if record_kind == kind {
                if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
                    addresses.push(IpAddr::from(bytes));
                } else if let Ok(bytes) = <[u8; 16]>::try_from(bytes) {
                    addresses.push(IpAddr::from(bytes));
                }
            }
        }
        Some(data + length)
    };
    for _ in 0..count {
        match record(at) {
            Some(next) => at = next,
            None => break,
        }
    }
    addresses
}

/// A name in a message, without compression and in lower case, and where it ends (RFC 1035 section 4.1.4).
fn read_name(message: &[u8], start: usize) -> Option<(Vec<u8>, usize)> {
    let mut name = Vec::new();
    let mut at = start;
    let mut end = None;
    let mut jumps = 0;
    loop {
        let length = *message.get(at)?;
        match length >> 6 {
            0 => {
                let label = message.get(at + 1..at + 1 + usize::from(length))?;
                name.push(length);
                name.extend(label.iter().map(u8::to_ascii_lowercase));
                at += 1 + label.len();
                if name.len() > 255 {
                    return None;
                }
                if length == 0 {
                    return Some((name, end.unwrap_or(at)));
                }
            }
            3 => {
                jumps += 1;
                if jumps > MOST_JUMPS {
                    return None;
                }
                end.get_or_insert(at + 2);
                at = usize::from(be16(message, at)? & 0x3fff);
            }
            _ => return None,
        }
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A reply to `query` with the given answer records: (name as bytes, type, data).
    fn reply(query: &[u8], code: u16, answers: &[(&[u8], u16, &[u8])]) -> Vec<u8> {
        let mut message = query.to_vec();
        message[2..4].copy_from_slice(&(0x8180 | code).to_be_bytes());
        message[6..8].copy_from_slice(&(answers.len() as u16).to_be_bytes());
        for (name, kind, data) in answers {
            message.extend(*name);
            message.extend(kind.to_be_bytes());
            message.extend([0, 1, 0, 0, 0, 60]);
            message.extend((data.len() as u16).to_be_bytes());
            message.extend(*data);
        }
        message
    }

    fn name() -> Vec<u8> {
        encode_name("WWW.example.org").expect("a name")
    }

    #[test]
    fn aliases_are_followed_and_strangers_are_ignored() {
        let query = encode_query(7, &name(), A);
        let message = reply(
            &query,
            0,
            &[
                (&[0xc0, 12], CNAME, &[3, b'c', b'd', b'n', 0]),
                (&[4, b'e', b'v', b'i', b'l', 0], A, &[6, 6, 6, 6]),
                (&[3, b'C', b'D', b'N', 0], A, &[192, 0, 2, 1]),
            ],
        );
        let expected = Reply::Addresses(Vec::from([IpAddr::from([192, 0, 2, 1])]));
        assert_eq!(parse_reply(&message, 7, &name(), A), Some(expected));
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let query = encode_query(7, &name(), A);
        let message = reply(&query, 3, &[]);
        assert_eq!(
            parse_reply(&message, 7, &name(), A),
            Some(Reply::NoSuchName)
        );
        assert_eq!(parse_reply(&message, 8, &name(), A), None);
        assert_eq!(parse_reply(&message, 7, &name(), AAAA), None);
        let other = encode_name("example.net").expect("a name");
        assert_eq!(parse_reply(&message, 7, &other, A), None);
        assert_eq!(parse_reply(&query, 7, &name(), A), None);
    }

    #[test]
    fn a_pointer_to_itself_ends() {
        let mut message = encode_query(7, &name(), A);
        let at = message.len();
        message.extend([0xc0, at as u8]);
        assert_eq!(read_name(&message, at), None);
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        assert_eq!(encode_name(""), None);
        assert_eq!(encode_name("a..b"), None);
        assert_eq!(encode_name(&"x".repeat(64)), None);
        assert_eq!(encode_name(&"abc.".repeat(70)), None);
    }

    #[test]
    fn a_cut_answer_with_nothing_in_it_is_no_answer() {
        let cut = Some(Reply::Truncated(Vec::new()));
        assert_eq!(
            judge([cut.clone(), Some(Reply::NoSuchName)]),
            Err(Error::NameServerFailed)
        );
        let address = IpAddr::from([192, 0, 2, 1]);
        let some = Some(Reply::Truncated(Vec::from([address])));
        assert_eq!(judge([some, cut]), Ok(Vec::from([address])));
    }

    proptest! {
        #[test]
        fn any_message_is_survived(mut message: Vec<u8>, cut in 0usize..600) {
            let _ = parse_reply(&message, 7, &name(), A);
            let mut whole = reply(&encode_query(7, &name(), A), 0, &[(&[0xc0, 12], A, &[1, 2, 3, 4])]);
            whole.truncate(cut);
            whole.append(&mut message);
            let _ = parse_reply(&whole, 7, &name(), A);
        }
    }
}
