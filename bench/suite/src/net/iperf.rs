//! `iperf3`: its server as a peer, its client as the load on both contenders.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::janitor::Kept;
use crate::process;
use crate::setting::Setting;

/// The port that its server listens on.
pub const PORT: u16 = 5201;

/// How long a server may take to listen, or a test longer than it should.
const SLACK: Duration = Duration::from_secs(10);

/// Which way the data flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    In,
    /// From the server to the client.
    Out,
}

/// What a run found.
#[derive(Clone, Copy)]
pub struct Flow {
    /// Bytes that arrived.
    pub bytes: f64,
    /// The same per second.
    pub rate: f64,
}

/// The program, or why there is none.
pub fn program() -> Result<PathBuf> {
    process::need("iperf3", "iperf3")
}

/// Starts a server; `place` says in which namespace.
pub fn serve(setting: &Setting, place: impl Fn(&Command) -> Command) -> Result<Kept> {
    let mut command = Command::new(program()?);
    command.args(["-s", "-p", &PORT.to_string()]);
    setting.keep(place(&command).stdout(Stdio::null()).stderr(Stdio::null()))
}

/// One stream with reno on the client's side; `place` says in which namespace the client is.
///
/// # Errors
/// If the server is not there after [`SLACK`], or the test fails.
pub fn measure(
    place: impl Fn(&Command) -> Command,
    to: SocketAddr,
    way: Way,
    seconds: u64,
) -> Result<Flow> {
    let mut client = Command::new(program()?);
    client
        .args(["-J", "-C", "reno", "-c", &to.ip().to_string()])
        .args(["-p", &to.port().to_string()])
        .args(["-t", &seconds.to_string()]);
    if way == Way::Out {
        client.arg("-R");
    }
    let limit = Duration::from_secs(seconds) + SLACK;
    let deadline = Instant::now() + SLACK;
    loop {
        match process::output(&mut place(&client), limit) {
            Ok(text) => return Flow::parse(&text).ok_or_else(|| complaint(&text)),
            // It may still be starting.
            Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(50)),
            Err(message) => return Err(format!("{to}: {message}")),
        }
    }
}

fn complaint(text: &str) -> String {
    let error = text.split_once("\"error\":").map(|(_, rest)| rest.trim());
    format!(
        "iperf3: {}",
        error.unwrap_or("no result").trim_end_matches('}').trim()
    )
}

impl Flow {
    /// Reads what `iperf3 -J` prints.
    fn parse(text: &str) -> Option<Self> {
        let (_, sum) = text.split_once("\"sum_received\":")?;
        Some(Self {
            bytes: number(sum, "bytes")?,
            rate: number(sum, "bits_per_second")? / 8.0,
        })
    }
}

/// The number behind a name in JSON, the first if there are several.
fn number(json: &str, name: &str) -> Option<f64> {
    let (_, rest) = json.split_once(&format!("\"{name}\":"))?;
    let rest = rest.trim_start();
    let end = rest.find([',', '}', '\n']).unwrap_or(rest.len());
    rest[..end].trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receivers_figures_are_read() {
        let text = r#"{"end": {"sum_sent": {"bytes": 9, "bits_per_second": 9.0},
            "sum_received":	{ "start": 0, "bytes":	1000, "bits_per_second":	8000.5, "sender": true }}}"#;
        let flow = Flow::parse(text).expect("figures");
        assert!((flow.bytes - 1000.0).abs() < 1e-9);
        assert!((flow.rate - 1000.0625).abs() < 1e-9);
        assert!(Flow::parse("{}").is_none());
    }

    #[test]
    fn its_complaint_is_told() {
        let text = "{\n\t\"error\":\t\"unable to connect\"\n}\n";
        assert_eq!(complaint(text), "iperf3: \"unable to connect\"");
    }
}
