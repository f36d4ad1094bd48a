//! `tcp-spec`: judges a capture.
#![forbid(unsafe_code)]

use std::fs::File;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use kiln_tcp_spec::{Config, Report, Specification, capture};

const USAGE: &str = "\
Usage: tcp-spec [--offload] [--lag MS] [--quiet] FILE ADDRESS...

Judges every TCP segment that the host with these addresses has sent by the RFCs. FILE is a pcapng or pcap capture
from the host's own interface.

  --offload   the host's device segments and sums: frames may be larger than segments, checksums unfinished
  --lag MS    the longest time between capture and processing (100)
  --quiet     print errors only

Exits with 1 if there are errors, with 2 if the capture cannot be judged.";

fn main() -> ExitCode {
    match run() {
        Ok(report) if report.errors().next().is_some() => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("tcp-spec: {reason}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<Report, String> {
    let mut config = Config::new([]);
    let (mut file, mut quiet) = (None, false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--offload" => config.offload = true,
            "--quiet" => quiet = true,
            "--lag" => {
                let value = words.next().and_then(|value| value.parse().ok());
                config.lag =
                    Duration::from_millis(value.ok_or("--lag needs a number of milliseconds")?);
            }
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(Report::default());
            }
            _ if file.is_none() => file = Some(word),
            _ => {
                let address: IpAddr = word
                    .parse()
                    .map_err(|_| format!("{word:?} is no IP address"))?;
                config.hosts.push(address);
            }
        }
    }
    let Some(file) = file.filter(|_| !config.hosts.is_empty()) else {
        return Err(format!(
            "a file and the tested host's addresses are needed\n\n{USAGE}"
        ));
    };
    let opened = File::open(&file).map_err(|error| format!("{file}: {error}"))?;
    let events =
        capture::read(opened, &config.hosts).map_err(|error| format!("{file}: {error}"))?;
    let mut report = Specification::judge(config, &events);
    if quiet {
        report
            .findings
            .retain(|finding| finding.rule.severity == kiln_tcp_spec::Severity::Error);
    }
    println!("{report}");
    Ok(report)
}
