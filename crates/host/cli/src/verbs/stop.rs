//! `kiln stop`: ask instances to end, wait for it, and end them by force when that takes too long.

use kiln_monitor::control::{Request, client};
use kiln_monitor::registry::Status;
use kiln_monitor::{Error, signals};

use super::for_each;
use crate::exit::Failure;

/// Arguments of `kiln stop`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Seconds until it is ended by force [default: as it was started with, 10]
    #[arg(short = 't', long, alias = "timeout", value_name = "SECONDS")]
    time: Option<u64>,
    /// The signal that the guest gets
    #[arg(short = 's', long, default_value = "TERM")]
    signal: String,
    /// Names or ids of instances
    #[arg(required = true, value_name = "INSTANCE")]
    instances: Vec<String>,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let signal = signals::parse(&arguments.signal).ok_or_else(|| {
        Failure::new(format!(
            "unknown signal {:?}: use a name or number of signal(7), as TERM or INT",
            arguments.signal
        ))
    })?;
    let request = Request::Stop {
        signal,
        timeout_ms: arguments.time.map(|seconds| seconds.saturating_mul(1000)),
    };
    for_each(&arguments.instances, |_, instance| {
        if instance.status == Status::Running {
            match client::request(instance, &request) {
                // It ended by itself in the meantime, which is what was wanted.
                Ok(_) | Err(Error::NotRunning(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(instance.record.name.clone())
    })
}
