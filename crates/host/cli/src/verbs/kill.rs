//! `kiln kill`: end instances by force, or send them a signal.

use kiln_monitor::control::{Request, client};
use kiln_monitor::registry::Status;
use kiln_monitor::{Error, signals};

use super::for_each;
use crate::exit::Failure;

/// Arguments of `kiln kill`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// KILL ends it at once, TERM and INT ask it to end; a Linux program gets any other as it is
    #[arg(short = 's', long, default_value = "KILL")]
    signal: String,
    /// Names or ids of instances
    #[arg(required = true, value_name = "INSTANCE")]
    instances: Vec<String>,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let signal = signals::parse(&arguments.signal).ok_or_else(|| {
        Failure::new(format!(
            "unknown signal {:?}: use a name or number of signal(7), as KILL, TERM or HUP",
            arguments.signal
        ))
    })?;
    // A killed guest ends at once, so its end can be waited for: whoever kills it may remove it right afterwards.
    let request = if signal == 9 {
        Request::Stop {
            signal,
            timeout_ms: Some(0),
        }
    } else {
        Request::Signal { signal }
    };
    for_each(&arguments.instances, |_, instance| {
        if instance.status != Status::Running {
            return Err(Error::NotRunning(instance.record.name.clone()).into());
        }
        match client::request(instance, &request) {
            // It ended by itself in the meantime.
            Ok(_) | Err(Error::NotRunning(_)) => Ok(instance.record.name.clone()),
            Err(error) => Err(error.into()),
        }
    })
}
