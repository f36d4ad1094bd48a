//! Requests as fast as a server answers them, by `wrk` or, without it, by [`super::generator`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::place::Place;
use crate::process;
use crate::setting::Setting;
use crate::{Result, figures};

/// Connections at once.
pub const CONNECTIONS: usize = 64;

/// What is asked for, and how.
pub struct Case {
    /// For the table.
    pub name: &'static str,
    /// The page.
    pub path: &'static str,
    /// Bytes of the page.
    pub length: usize,
    /// A new connection for each request.
    pub close: bool,
}

/// What is measured on every link.
pub const CASES: [Case; 3] = [
    Case {
        name: "612 bytes, keep-alive",
        path: "/bench/612",
        length: 612,
        close: false,
    },
    Case {
        name: "612 bytes, a connection each",
        path: "/bench/612",
        length: 612,
        close: true,
    },
    Case {
        name: "1 MiB, keep-alive",
        path: "/bench/1m",
        length: 1024 * 1024,
        close: false,
    },
];

/// What one run found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Whole replies.
    pub requests: f64,
    /// Bytes received, heads included.
    pub bytes: f64,
    /// How long it took.
    pub seconds: f64,
    /// Connections that failed, and replies that were not a 200 or did not come.
    pub errors: f64,
}

impl Outcome {
    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.requests / self.seconds
    }

    /// Reads `REQUESTS BYTES MICROSECONDS ERRORS` from a line that begins with the word `outcome`.
    pub fn parse(text: &str) -> Option<Self> {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("outcome "))?;
        let numbers: Vec<f64> = line
            .split(' ')
            .map(|word| word.parse().ok())
            .collect::<Option<_>>()?;
        let &[requests, bytes, micros, errors] = numbers.as_slice() else {
            return None;
        };
        Some(Self {
            requests,
            bytes,
            seconds: micros / 1e6,
            errors,
        })
    }
}

/// `wrk` calls this after a run; without other functions in the script its own fast path makes the requests.
const WRK_SCRIPT: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("outcome %d %d %d %d\n", summary.requests, summary.bytes,
    summary.duration, e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

/// A way to make requests.
pub struct Load {
    wrk: Option<PathBuf>,
    script: PathBuf,
    seconds: u64,
}

impl Load {
    /// `wrk` if it is installed.
    pub fn new(setting: &Setting) -> Self {
        Self {
            wrk: process::find("wrk"),
            script: setting.folder.join("outcome.lua"),
            seconds: setting.pick(3, 1),
        }
    }

    /// Who makes the requests.
    pub fn name(&self) -> &'static str {
        match self.wrk {
            Some(_) => "wrk, one thread",
            None => "the built-in generator, one thread (no `wrk`; Debian: wrk)",
        }
    }

    /// How long a run takes.
    pub fn seconds(&self) -> u64 {
        self.seconds
    }

    /// Loads a server.
    pub fn run(&self, place: &Place, address: SocketAddr, case: &Case) -> Result<Outcome> {
        self.run_from(|command| place.near(command), address, case)
    }

    /// The same from elsewhere: `place` says in which namespace.
    pub fn run_from(
        &self,
        place: impl Fn(&Command) -> Command,
        address: SocketAddr,
        case: &Case,
    ) -> Result<Outcome> {
        let command = match &self.wrk {
            Some(wrk) => self.wrk_command(wrk.clone(), address, case)?,
            None => self.own_command(address, case)?,
        };
        let limit = Duration::from_secs(self.seconds + 10);
        let text = process::output(&mut place(&command), limit)?;
        let outcome = Outcome::parse(&text).ok_or("the load generator says nothing")?;
        if outcome.requests < 1.0 {
            return Err(format!("{address} answers nothing under load"));
        }
        Ok(outcome)
    }

    fn wrk_command(&self, wrk: PathBuf, address: SocketAddr, case: &Case) -> Result<Command> {
        std::fs::write(&self.script, WRK_SCRIPT).map_err(|error| error.to_string())?;
        let mut command = Command::new(wrk);
        command
            .arg(format!("-c{CONNECTIONS}"))
            .arg(format!("-d{}s", self.seconds))
            .args(["-t1", "-s"])
            .arg(&self.script);
        if case.close {
            command.args(["-H", "Connection: close"]);
        }
        command.arg(format!("http://{address}{}", case.path));
        Ok(command)
    }

    fn own_command(&self, address: SocketAddr, case: &Case) -> Result<Command> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command
            .args(["load", &address.to_string(), case.path])
            .arg(self.seconds.to_string())
            .arg(if case.close { "close" } else { "keep" });
        Ok(command)
    }
}

/// The line that [`Outcome::parse`] reads.
pub fn report(requests: u64, bytes: u64, time: Duration, errors: u64) {
    let micros = figures::micros(time);
    println!("outcome {requests} {bytes} {micros:.0} {errors}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_found_among_other_output() {
        let text = "Running 2s test\noutcome 10 20480 2000000 1\n";
        let outcome = Outcome::parse(text).unwrap();
        assert!((outcome.rate() - 5.0).abs() < 1e-9);
        assert!((outcome.errors - 1.0).abs() < 1e-9);
        assert_eq!(Outcome::parse("outcome 1 2"), None);
    }
}
