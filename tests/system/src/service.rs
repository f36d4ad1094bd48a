//! An example that serves: how it is started, where it is reached, how it is stopped.
//!
//! A [`Service`] owns the session its guest runs in and gives it back when it stops, so that a test can start another one
//! on the same disk. [`connect`] makes the connections of all clients. What goes over them is the matter of
//! [`http`](crate::http), [`resp`](crate::resp) or the test itself.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::Signal;

use crate::process::{Outcome, Running};
use crate::session::Session;

/// How long any answer may take.
pub const ANSWER: Duration = Duration::from_secs(20);

/// An example that runs in the foreground.
pub struct Service {
    /// The session it runs in.
    pub session: Session,
    /// The command that runs it.
    pub running: Running,
    /// Its name in the session.
    pub name: String,
}

impl Service {
    /// Starts an example in a session of its own and waits until it says that it listens.
    ///
    /// # Panics
    /// If it does not within [`PATIENCE`](crate::process::PATIENCE).
    #[track_caller]
    pub fn start(options: &str, example: &str) -> Self {
        Self::start_in(Session::new(), example, options, example)
    }

    /// The same with a name, in a session that has something already, such as a disk.
    ///
    /// # Panics
    /// Like [`start`](Self::start).
    #[track_caller]
    pub fn start_in(session: Session, name: &str, options: &str, example: &str) -> Self {
        let mut running = session.start_guest(&format!("--name {name} {options}"), example, "");
        running.wait_for("listening on port");
        Self {
            session,
            running,
            name: name.to_owned(),
        }
    }

    /// Where on the host a port of the guest is, such as `80/tcp`.
    ///
    /// # Panics
    /// If that port is not forwarded.
    #[track_caller]
    pub fn address(&self, guest_port: &str) -> SocketAddr {
        let shown = self.session.inspect(&self.name);
        let ports = shown["Ports"].as_array().expect("a list of ports");
        let forwards = ports.iter().filter_map(|port| port.as_str());
        let mut hosts = forwards.filter_map(|port| {
            let host = port.strip_suffix(guest_port)?.strip_suffix(':')?;
            host.parse().ok()
        });
        hosts
            .next()
            .unwrap_or_else(|| panic!("no forward of {guest_port}: {shown:#}"))
    }

    /// Asks it to stop with a signal, and waits until it has. The session goes on.
    #[track_caller]
    pub fn stop(self, signal: Signal) -> (Session, Outcome) {
        self.running.signal(signal);
        (self.session, self.running.finish())
    }
}

/// A connection on which nothing waits longer than [`ANSWER`].
///
/// # Panics
/// If there is no answer at the address.
#[track_caller]
pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&to, ANSWER).expect("a connection");
    stream.set_read_timeout(Some(ANSWER)).expect("a timeout");
    stream.set_write_timeout(Some(ANSWER)).expect("a timeout");
    stream
}
