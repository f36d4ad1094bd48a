//! A network namespace of one test with tap devices in it. Needs root.
//!
//! Everything lives in the namespace, so nothing of the host's own network is touched and deleting the namespace
//! removes all of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::host;
use crate::process::{Outcome, Running};
use crate::session::Session;

/// A network namespace.
pub struct Netns {
    name: String,
}

impl Netns {
    /// A namespace with its loopback interface up, or why there cannot be one.
    ///
    /// # Errors
    /// What is missing on this machine.
    pub fn new() -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !host::is_root() {
            return Err("tap devices need root".into());
        }
        if host::find_program(&["ip"]).is_none() {
            return Err("`ip` (iproute2) is not installed".into());
        }
        if !Path::new("/dev/net/tun").exists() {
            return Err("this host has no /dev/net/tun".into());
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kiln-test-{}-{number}", std::process::id());
        let made = Command::new("ip")
            .args(["netns", "add", &name])
            .stderr(Stdio::null())
            .status();
        if !made.is_ok_and(|status| status.success()) {
            return Err("network namespaces cannot be made here".into());
        }
        let netns = Self { name };
        netns.ip("link set lo up");
        Ok(netns)
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs `ip` in the namespace.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn ip(&self, words: &str) {
        let output = Command::new("ip")
            .args(["-n", &self.name])
            .args(words.split_whitespace())
            .output()
            .expect("`ip` was found");
        assert!(
            output.status.success(),
            "ip {words}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Adds a tap device with an address, up and ready.
    #[track_caller]
    pub fn tap(&self, interface: &str, address: &str) {
        self.ip(&format!("tuntap add dev {interface} mode tap vnet_hdr"));
        self.ip(&format!("addr add {address} dev {interface}"));
        self.ip(&format!("link set {interface} up"));
    }

    /// A command to be run in the namespace.
    pub fn command(&self, session: &Session, program: &Path, args: &[String]) -> Command {
        let mut words = vec!["netns".to_owned(), "exec".to_owned(), self.name.clone()];
        words.push(program.display().to_string());
        words.extend_from_slice(args);
        session.wrapped(Path::new("ip"), words)
    }

    /// Starts a guest in the foreground, in the namespace.
    pub fn start_guest(
        &self,
        session: &Session,
        options: &str,
        guest: &str,
        args: &str,
    ) -> Running {
        let words = Session::words(options, guest, args);
        Running::start(&mut self.command(session, crate::kiln(), &words))
    }

    /// Runs a program in the namespace to its end.
    #[track_caller]
    pub fn run(&self, session: &Session, program: &Path, args: &str) -> Outcome {
        let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
        Running::start(&mut self.command(session, program, &args)).finish()
    }

    /// Sets a kernel parameter of the namespace, as `name=value`.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[track_caller]
    pub fn set(&self, session: &Session, setting: &str) {
        let words = ["-qw".to_owned(), setting.to_owned()];
        let mut command = self.command(session, Path::new("sysctl"), &words);
        Running::start(&mut command).finish().ends_with(0);
    }

    /// Sends 4 MiB to a TCP echo from the namespace while reading what comes back.
    ///
    /// # Panics
    /// If something else comes back, or nothing for ten seconds.
    #[track_caller]
    pub fn echoes_over_tcp(&self, to: SocketAddr) {
        let mut stream = self.within(|| TcpStream::connect(to).expect("a connection"));
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a timeout");
        let sent: Vec<u8> = (0usize..4 << 20)
            .map(|i| (i * 7 / 3).to_le_bytes()[0])
            .collect();
        let mut writer = stream.try_clone().expect("a second handle");
        let writing = std::thread::spawn({
            let sent = sent.clone();
            move || writer.write_all(&sent).expect("written")
        });
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back).expect("an echo");
        writing.join().expect("the writer");
        assert!(back == sent, "4 MiB came back changed");
    }

    /// Does something on a thread that is in the namespace.
    ///
    /// # Panics
    /// If the thread cannot enter it, or `work` panics.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = self.path();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let file = std::fs::File::open(path).expect("the namespace");
                move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&file),
                    Some(LinkNameSpaceType::Network),
                )
                .expect("root may enter it");
                work()
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Whatever is left of it, the name must go.
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}
