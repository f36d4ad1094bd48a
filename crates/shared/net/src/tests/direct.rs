//! Sockets without futures: operations end at once, and a watch is told of what has become possible.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use kiln_abi::Instant;

use crate::direct::{BindOptions, Binding, Datagrams, Pings, Ready, SendOptions, Stream, Watch};
use crate::{Config, Error, Stack};

#[derive(Default)]
struct Seen(Cell<u8>);

impl Watch for Seen {
    fn changed(&self, ready: Ready) {
        self.0.set(self.0.get() | ready.0);
    }
}

impl Seen {
    /// What has been told since the last time.
    fn take(&self) -> Ready {
        Ready(self.0.take())
    }
}

const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn local(port: u16) -> SocketAddr {
    (LOCAL, port).into()
}

fn stack() -> Stack {
    Stack::new(Config::new([3; 32]), Instant::ZERO)
}

fn poll(stack: &Stack) {
    stack.settle_local(Instant::ZERO);
}

fn write(stream: &Stream, bytes: &[u8]) -> Result<Option<usize>, Error> {
    let mut rest = bytes;
    stream.write_with(bytes.len(), |buffer, wanted| {
        let (now, later) = rest.split_at(wanted.min(rest.len()));
        buffer.extend_from_slice(now);
        rest = later;
        now.len()
    })
}

fn read(stream: &Stream, most: usize) -> Result<Option<Vec<u8>>, Error> {
    let mut bytes = Vec::new();
    let count = stream.read_with(most, |piece| {
        bytes.extend_from_slice(piece);
        piece.len()
    })?;
    Ok(count.map(|_| bytes))
}

/// Two ends of a connection, and their watches.
fn pair(stack: &Stack) -> [(Stream, Rc<Seen>); 2] {
    let listening = Rc::new(Seen::default());
    let binding = Binding::new(stack, local(0), BindOptions::default()).unwrap();
    binding.listen(1, listening.clone()).unwrap();
    let seen = Rc::new(Seen::default());
    let client = Stream::connect(stack, None, binding.local(), seen.clone()).unwrap();
    assert_eq!(client.outcome(), Ok(None));
    assert!(binding.accept().is_none());
    poll(stack);
    assert_eq!(client.outcome(), Ok(Some(())));
    assert_eq!(seen.take(), Ready::WRITE);
    assert_eq!(listening.take(), Ready::READ);
    let (server, peer) = binding.accept().unwrap();
    assert_eq!(client.ends().unwrap().0, peer);
    let other = Rc::new(Seen::default());
    server.watch(other.clone());
    [(client, seen), (server, other)]
}

#[test]
fn a_watch_stays_and_is_told_of_each_change() {
    let stack = stack();
    let [(client, _), (server, seen)] = pair(&stack);
    client.set_nodelay(true);
    for _ in 0..3 {
        assert_eq!(read(&server, 10), Ok(None));
        assert_eq!(write(&client, b"hello"), Ok(Some(5)));
        poll(&stack);
        assert_eq!(seen.take(), Ready::READ);
        assert_eq!(server.peek_with(2, 2, <[u8]>::len), Ok(Some(2)));
        assert_eq!(read(&server, 3), Ok(Some(b"hel".to_vec())));
        assert_eq!(read(&server, 10), Ok(Some(b"lo".to_vec())));
    }
    client.shutdown();
    poll(&stack);
    assert!(seen.take().any(Ready::READ));
    assert!(server.ready().any(Ready::PEER_CLOSED));
    assert_eq!(read(&server, 10), Ok(Some(Vec::new())));
    assert_eq!(write(&client, b"x"), Err(Error::BrokenPipe));
    client.abort();
    poll(&stack);
    assert!(seen.take().any(Ready::ERROR));
    assert_eq!(read(&server, 10), Ok(Some(Vec::new())));
}

#[test]
fn a_connection_that_was_reset_before_it_was_accepted_is_accepted_with_what_it_had_sent() {
    let stack = stack();
    let binding = Binding::new(&stack, local(0), BindOptions::default()).unwrap();
    binding.listen(2, Rc::new(Seen::default())).unwrap();
    let connect = || {
        let client = Stream::connect(&stack, None, binding.local(), Rc::new(Seen::default()));
        let client = client.unwrap();
        poll(&stack);
        assert_eq!(write(&client, b"hello"), Ok(Some(5)));
        poll(&stack);
        client.abort();
        drop(client);
        poll(&stack);
    };
    connect();
    assert_eq!(binding.waiting(), 1);
    let (server, _) = binding.accept().unwrap();
    assert_eq!(read(&server, 10), Ok(Some(b"hello".to_vec())));
    assert_eq!(read(&server, 10), Err(Error::ConnectionReset));
    drop(server);
    poll(&stack);
    assert_eq!(stack.stats().connections, 0);
    // There are never more of them than the backlog has room for, and they go with their listener.
    connect();
    connect();
    let refused = Stream::connect(&stack, None, binding.local(), Rc::new(Seen::default())).unwrap();
    poll(&stack);
    assert_eq!(refused.outcome(), Ok(None));
    assert_eq!(binding.waiting(), 2);
    drop((binding, refused));
    poll(&stack);
    assert_eq!(stack.stats().connections, 0);
}

#[test]
fn a_writer_without_room_is_told_when_it_is_worth_while() {
    let stack = stack();
    let [(client, seen), (server, _)] = pair(&stack);
    let block = vec![1; 10_000];
    let mut written = 0;
    while let Some(count) = write(&client, &block).unwrap() {
        written += count;
        poll(&stack);
    }
    assert!(!client.ready().any(Ready::WRITE));
    seen.take();
    let mut got = 0;
    while got < written {
        got += read(&server, 1000).unwrap().map_or(0, |bytes| bytes.len());
        poll(&stack);
    }
    assert_eq!(seen.take(), Ready::WRITE);
    assert!(client.ready().any(Ready::WRITE));
    // Nobody is told who has not been refused.
    write(&client, b"x").unwrap();
    poll(&stack);
    read(&server, 1).unwrap();
    poll(&stack);
    assert_eq!(seen.take(), Ready::NONE);
}

#[test]
fn requests_and_answers_of_any_length_share_memory_and_stay_what_they_are() {
    let stack = stack();
    let [(client, _), (server, _)] = pair(&stack);
    for round in 0_usize..400 {
        let (asked, answered) = (1 + round * 7 % 1500, 1 + round * 13 % 2500);
        let request: Vec<u8> = (0..asked).map(|i| (i + round) as u8).collect();
        let answer: Vec<u8> = (0..answered).map(|i| (i * 3 + round) as u8).collect();
        assert_eq!(write(&client, &request), Ok(Some(asked)));
        poll(&stack);
        // Now and then in two parts.
        let first = if round % 3 == 0 { asked / 2 } else { asked };
        let mut got = read(&server, first).expect("a request").unwrap_or_default();
        got.extend(read(&server, asked).expect("the rest").unwrap_or_default());
        assert_eq!(got, request);
        assert_eq!(write(&server, &answer), Ok(Some(answered)));
        poll(&stack);
        let got = read(&client, answered).expect("an answer");
        assert_eq!(got, Some(answer));
    }
    assert_eq!(client.unacknowledged() + client.readable(), 0);
}

#[test]
fn an_address_is_kept_before_anybody_listens() {
    let stack = stack();
    let bind = |options| Binding::new(&stack, local(80), options);
    let reuse = BindOptions {
        reuse_address: true,
        ..BindOptions::default()
    };
    let seen = Rc::new(Seen::default());
    let first = bind(reuse).unwrap();
    assert_eq!(
        bind(BindOptions::default()).err(),
        Some(Error::AddressInUse)
    );
    let second = bind(reuse).unwrap();
    let refused = Stream::connect(&stack, None, local(80), seen.clone()).unwrap();
    poll(&stack);
    assert_eq!(refused.outcome(), Err(Error::ConnectionRefused));
    first.listen(1, seen.clone()).unwrap();
    assert_eq!(second.listen(1, seen.clone()), Err(Error::AddressInUse));
    assert_eq!(bind(reuse).err(), Some(Error::AddressInUse));
    drop(first);
    assert_eq!(second.listen(1, seen), Ok(()));
}

#[test]
fn datagrams_and_pings_tell_where_they_went() {
    let stack = stack();
    let seen = Rc::new(Seen::default());
    let none = BindOptions::default();
    let a = Datagrams::bind(&stack, local(0), none, seen.clone()).unwrap();
    let b = Datagrams::bind(&stack, local(0), none, seen.clone()).unwrap();
    let options = SendOptions {
        hop_limit: Some(9),
        ..SendOptions::default()
    };
    assert_eq!(a.send(b"data", b.local(), options), Ok(true));
    assert_eq!(b.receive_with(true, <[u8]>::len), Ok(None));
    poll(&stack);
    assert_eq!(seen.take(), Ready::READ);
    let (received, len) = b.receive_with(true, <[u8]>::len).unwrap().unwrap();
    assert_eq!((len, received.hop_limit), (4, 9));
    assert_eq!(
        (received.source, received.destination),
        (a.local(), LOCAL.into())
    );
    a.connect(Some(local(9))).unwrap();
    a.send(b"nobody", local(9), options).unwrap();
    poll(&stack);
    assert!(a.ready().any(Ready::ERROR));
    assert_eq!(a.take_error(), Some(Error::ConnectionRefused));

    let pings = Pings::new(&stack, false, Some(77), seen).unwrap();
    let request = [8, 0, 0, 0, 0, 0, 0, 1, 5];
    assert_eq!(pings.send(&request, LOCAL.into(), options), Ok(true));
    poll(&stack);
    let (_, answer) = pings.receive_with(true, <[u8]>::to_vec).unwrap();
    assert_eq!((answer[0], &answer[4..]), (0, &[0, 77, 0, 1, 5][..]));
    assert!(pings.receive_with(true, <[u8]>::len).is_none());
}
