//! The control socket with real connections, good ones and bad ones.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;
use crate::registry::testing::TempDir;

struct Setup {
    _dir: TempDir,
    path: std::path::PathBuf,
    server: Server,
}

fn setup() -> Setup {
    let dir = TempDir::new();
    let folder = std::fs::File::open(dir.path()).unwrap();
    let server = Server::bind(folder.as_fd(), dir.path()).unwrap();
    Setup {
        path: dir.path().join(CONTROL_SOCKET),
        _dir: dir,
        server,
    }
}

impl Setup {
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream
    }

    /// One turn of a supervisor's loop.
    fn turn(&mut self, now: Instant) -> Vec<(ClientId, Request)> {
        use rustix::event::{PollFd, Timespec, poll};
        let mut fds: Vec<PollFd<'_>> = self
            .server
            .interests()
            .map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags))
            .collect();
        let brief = Timespec {
            tv_sec: 0,
            tv_nsec: 1_000_000,
        };
        poll(&mut fds, Some(&brief)).unwrap();
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        self.server.handle(&ready, now)
    }

    fn turns(&mut self) -> Vec<(ClientId, Request)> {
        let now = Instant::now();
        (0..4).flat_map(|_| self.turn(now)).collect()
    }
}

fn response(mut stream: UnixStream) -> Response {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_request_in_pieces_is_answered() {
    let mut setup = setup();
    let mut client = setup.connect();
    client.write_all(b"{\"request\":").unwrap();
    assert!(setup.turns().is_empty());
    client.write_all(b"\"ping\"}\n").unwrap();
    let requests = setup.turns();
    assert_eq!(requests[0].1, Request::Ping);
    setup
        .server
        .answer(requests[0].0, &Response::Done, Instant::now());
    // Without another turn of the loop: there may be none for long.
    assert_eq!(response(client), Response::Done);
}

#[test]
fn nonsense_and_endless_lines_are_refused() {
    for bytes in [&b"hello\n"[..], &[b'x'; MAX_REQUEST + 10]] {
        let mut setup = setup();
        let mut client = setup.connect();
        client.write_all(bytes).unwrap();
        assert!(setup.turns().is_empty());
        // The rest of an endless line may be unread when the server hangs up, which resets the connection; the
        // response is there nevertheless.
        let mut text = [0; 200];
        let count = client.read(&mut text).unwrap();
        assert!(String::from_utf8_lossy(&text[..count]).contains("refused"));
    }
}

#[test]
fn silent_clients_are_dropped_after_a_time() {
    let mut setup = setup();
    let mut client = setup.connect();
    setup.turns();
    assert!(setup.server.deadline().is_some());
    setup.turn(Instant::now() + PATIENCE);
    assert!(setup.server.clients.is_empty());
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn many_silent_clients_do_not_keep_a_good_one_out_for_long() {
    let mut setup = setup();
    let silent: Vec<_> = (0..MAX_CLIENTS).map(|_| setup.connect()).collect();
    setup.turns();
    assert_eq!(setup.server.clients.len(), MAX_CLIENTS);
    let mut good = setup.connect();
    good.write_all(b"{\"request\":\"ping\"}\n").unwrap();
    assert!(setup.turns().is_empty());
    setup.turn(Instant::now() + PATIENCE);
    assert_eq!(setup.turns().len(), 1);
    drop(silent);
}

#[test]
fn a_waiting_client_may_go_away() {
    let mut setup = setup();
    let mut client = setup.connect();
    client.write_all(b"{\"request\":\"wait\"}\n").unwrap();
    let requests = setup.turns();
    drop(client);
    setup.turns();
    assert!(setup.server.clients.is_empty());
    let ended = Response::Ended { exit_code: 0 };
    setup.server.answer(requests[0].0, &ended, Instant::now());
}

#[test]
fn a_connection_can_be_given_away() {
    let mut setup = setup();
    let mut stream = setup.connect();
    stream.write_all(b"{\"request\":\"wait\"}\n").unwrap();
    let requests = setup.turns();
    let socket = setup.server.take(requests[0].0).expect("it waits");
    assert!(setup.server.take(requests[0].0).is_none());
    rustix::io::write(&socket, b"more than a line\nof text").unwrap();
    drop(socket);
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "more than a line\nof text");
}
