//! Ordinary Linux programs as guests: found or compiled, started with `kiln run PROGRAM`, and reached on a port.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::artifacts::workspace;
use crate::host::free_port;
use crate::process::{Outcome, PATIENCE, Running};
use crate::session::Session;
use crate::skip;

/// A program on `PATH` or in the system's folders, or `None` with a line that says that the test is skipped.
pub fn installed(name: &str) -> Option<PathBuf> {
    // Folders of the distribution first: what is installed there is what its packages say.
    let folders = ["/usr/bin", "/usr/sbin", "/bin", "/usr/local/bin"];
    let found = folders.iter().map(|folder| Path::new(folder).join(name));
    let program = found.into_iter().find(|path| path.is_file());
    if program.is_none() {
        skip(format!("{name} is not installed"));
    }
    program
}

/// A file under `tests/programs`.
pub fn source(name: &str) -> PathBuf {
    workspace().join("tests/programs").join(name)
}

/// Compiles a program of `tests/programs` once for this test process: runs `compiler ARGS -o OUT` with `{source}` in the arguments replaced. `None` if the
/// compiler is missing.
///
/// # Panics
/// If the program does not compile.
pub fn compiled(name: &str, compiler: &str, args: &str) -> Option<PathBuf> {
    static ONE: Mutex<()> = Mutex::new(());
    let compiler = installed(compiler)?;
    let _one = ONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = workspace().join("target/programs");
    std::fs::create_dir_all(&folder).expect("a folder for programs");
    let source = source(name);
    let key: String = format!("{name}-{args}")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    let output = folder.join(key);
    let age = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    if age(&output) >= age(&source) && output.exists() {
        return Some(output);
    }
    let words = args.split_whitespace().map(|word| {
        word.replace("{source}", &source.display().to_string())
            .replace("{out}", &output.display().to_string())
    });
    let made = Command::new(&compiler)
        .args(words)
        .current_dir(&folder)
        .env("GOCACHE", folder.join("go-cache"))
        .env("GO111MODULE", "off")
        .env("HOME", &folder)
        .output()
        .expect("the compiler starts");
    assert!(
        made.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&made.stderr)
    );
    Some(output)
}

/// A program that runs as a guest, with one port of it forwarded.
pub struct Program {
    /// The session it runs in.
    pub session: Session,
    /// The command.
    pub running: Running,
    /// The host's port.
    pub port: u16,
}

impl Program {
    /// Starts `kiln run OPTIONS -p PORT:guest_port PROGRAM ARGS` and waits until the port answers a connection.
    #[track_caller]
    pub fn serve(options: &str, guest_port: u16, program: &Path, args: &[&str]) -> Self {
        Self::serve_in(Session::new(), options, guest_port, program, args)
    }

    /// The same in a session that is there already.
    ///
    /// # Panics
    /// If nothing answers within [`PATIENCE`], or the program ends before.
    #[track_caller]
    pub fn serve_in(
        session: Session,
        options: &str,
        guest_port: u16,
        program: &Path,
        args: &[&str],
    ) -> Self {
        let port = free_port();
        let mut words = vec!["run".to_owned(), "--name=program".to_owned()];
        words.extend(options.split_whitespace().map(str::to_owned));
        words.push(format!("--publish=127.0.0.1:{port}:{guest_port}"));
        words.push(program.display().to_string());
        words.extend(args.iter().map(|&arg| arg.to_owned()));
        let mut running = session.start(words);
        let until = Instant::now() + PATIENCE;
        while !answers(port) {
            assert!(
                !running.has_ended() && Instant::now() < until,
                "nothing answers on port {guest_port}\n{}",
                running.finish()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Self {
            session,
            running,
            port,
        }
    }

    /// Where it is reached.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Runs a client of the host to its end.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn client(&self, program: &Path, args: &[&str]) -> Outcome {
        let port = self.port.to_string();
        let args = args.iter().map(|arg| arg.replace("{port}", &port));
        Running::start(Command::new(program).args(args)).finish_within(Duration::from_mins(2))
    }

    /// The body of a page, by `curl`-less HTTP/1.0.
    ///
    /// # Panics
    /// If there is no answer.
    #[track_caller]
    pub fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address()).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        write!(stream, "GET {path} HTTP/1.0\r\nHost: guest\r\n\r\n").expect("a request");
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).expect("a reply");
        let reply = String::from_utf8_lossy(&reply).into_owned();
        let (head, body) = reply.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(" 200 "), "{head}");
        body.to_owned()
    }

    /// Sends bytes on a connection and expects them back.
    ///
    /// # Panics
    /// If something else comes.
    #[track_caller]
    pub fn echoes(&self, connections: usize) {
        let all: Vec<TcpStream> = (0..connections)
            .map(|_| TcpStream::connect(self.address()).expect("a connection"))
            .collect();
        for (number, mut stream) in all.iter().enumerate() {
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let line = format!("line {number} {}\n", "x".repeat(number * 7 % 500));
            stream.write_all(line.as_bytes()).expect("sent");
            let mut back = vec![0; line.len()];
            stream.read_exact(&mut back).expect("an echo");
            assert_eq!(back, line.as_bytes());
        }
    }
}

/// Whether somebody who listens behind the forward keeps a connection: the forward itself accepts before the guest does.
fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
        return false;
    };
    // A guest's refusal arrives as an end or a reset; who serves waits for a request. Machines take longer to refuse, and guests on a busy host.
    let quiet = if crate::backend::kind() == "process" {
        400
    } else {
        1000
    };
    let _ = stream.set_read_timeout(Some(Duration::from_millis(quiet)));
    match stream.read(&mut [0]) {
        Ok(0) => false,
        Ok(_) => true,
        Err(error) => matches!(
            error.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
        ),
    }
}
