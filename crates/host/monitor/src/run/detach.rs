//! Running in the background.
//!
//! The command forks; the child becomes the supervisor in a session of its own. The parent waits until the guest really
//! runs, or could not be started: one line through a pipe tells which, so errors reach the terminal and the exit code
//! as in the foreground.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use super::{Instance, open};
use crate::console::output::Output;
use crate::control::server::Server;
use crate::registry::{CONTROL_SOCKET, Registry};
use crate::spec::Spec;
use crate::{Error, error};

/// What the parent gets to know of the instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// The instance's id.
    pub id: String,
}

/// Starts an image in the background. Returns when its guest runs. Call it while this process has only one thread.
///
/// # Errors
/// [`Error::Detached`] with the supervisor's message if the guest could not be started, others if it did not come so
/// far. Nothing is left behind then.
pub fn detached(spec: &Spec) -> Result<Started, Error> {
    let (read, write) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|error| Error::host("make a pipe", error))?;
    // SAFETY: the process has one thread, so the child has a consistent copy of everything and may go on as usual.
    match unsafe { libc::fork() } {
        -1 => Err(Error::host(
            "start a process",
            std::io::Error::last_os_error(),
        )),
        0 => {
            drop(read);
            let code = supervisor(spec, write);
            // Not through the caller's code, which is the parent's.
            std::process::exit(i32::from(code));
        }
        _ => {
            drop(write);
            wait_for_start(read)
        }
    }
}

fn wait_for_start(read: OwnedFd) -> Result<Started, Error> {
    let mut text = String::new();
    File::from(read)
        .read_to_string(&mut text)
        .map_err(|error| Error::host("hear from the supervisor", error))?;
    match text.split_once(' ') {
        Some(("started", id)) => Ok(Started { id: id.to_owned() }),
        Some((code, message)) => Err(Error::Detached {
            message: message.to_owned(),
            code: code.parse().unwrap_or(error::EXIT_KILN),
        }),
        None => Err(Error::Detached {
            message: "the supervisor ended before the guest started".to_owned(),
            code: error::EXIT_KILN,
        }),
    }
}

/// The child: everything to the guest's end. `parent` hears of the start, then is left alone.
fn supervisor(spec: &Spec, parent: OwnedFd) -> u8 {
    let mut parent = File::from(parent);
    let mut say = |text: String| {
        // A parent that was killed meanwhile changes nothing for the guest.
        let _ = parent.write_all(text.as_bytes());
    };
    let registry = match leave_terminal().and_then(|()| Registry::open()) {
        Ok(registry) => registry,
        Err(error) => return refuse(&error, &mut say),
    };
    let image = match open(spec) {
        Ok(image) => image,
        Err(error) => return refuse(&error, &mut say),
    };
    let started = Instance::start(spec, &image, &registry, false).and_then(|mut instance| {
        match instance.wait_started().and_then(|()| instance.listen()) {
            Ok((id, server)) => Ok((instance, id, server)),
            Err(error) => {
                instance.give_up();
                Err(error)
            }
        }
    });
    let (mut instance, id, server) = match started {
        Ok(started) => started,
        Err(error) => return refuse(&error, &mut say),
    };
    say(format!("started {id}"));
    drop(parent);
    // The folder it was started in must not be kept from being unmounted.
    let _ = rustix::process::chdir("/");
    instance
        .supervise(Output::none, Some(server), |_| {})
        .unwrap_or(error::EXIT_KILN)
}

fn refuse(error: &Error, say: &mut impl FnMut(String)) -> u8 {
    say(format!("{} {error}", error.exit_code()));
    error.exit_code()
}

/// A session without a terminal, so that neither Ctrl-C nor the end of the shell reaches the supervisor.
fn leave_terminal() -> Result<(), Error> {
    rustix::process::setsid().map_err(|error| Error::host("make a session", error))?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Error::file("open", "/dev/null", error))?;
    rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&null))
        .map_err(|error| Error::host("leave the terminal", error))
}

impl Instance<'_> {
    /// Makes the control socket at once: whoever is told the id may use it.
    fn listen(&self) -> Result<(String, Server), Error> {
        let Some(claim) = &self.claim else {
            return Err(Error::host(
                "find the instance's folder",
                rustix::io::Errno::NOENT,
            ));
        };
        let server = Server::bind(claim.dir(), claim.path())
            .map_err(|error| Error::file("create", claim.path().join(CONTROL_SOCKET), error))?;
        Ok((claim.id().to_owned(), server))
    }

    /// Ends the guest and leaves nothing of the instance.
    fn give_up(&mut self) {
        self.running = None;
        super::forget(self.claim.take(), self.registry);
    }
}
