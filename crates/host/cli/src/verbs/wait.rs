//! `kiln wait`: wait for instances to end and print their exit codes.

use kiln_monitor::Error;
use kiln_monitor::control::{Request, Response, client};

use super::for_each;
use crate::exit::Failure;

/// Arguments of `kiln wait`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Names or ids of instances
    #[arg(required = true, value_name = "INSTANCE")]
    instances: Vec<String>,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<u8, Failure> {
    for_each(&arguments.instances, |registry, instance| {
        if let Some(end) = &instance.end {
            return Ok(end.exit_code.to_string());
        }
        let lost = match client::request(instance, &Request::Wait) {
            Ok(Response::Ended { exit_code }) => return Ok(exit_code.to_string()),
            Ok(_) => Error::NotRunning(instance.record.name.clone()),
            Err(error) => error,
        };
        // Its supervisor ended without an answer: killed, or between its last look at the socket and its end.
        let present = registry.load(&instance.record.id)?;
        match present.and_then(|instance| instance.end) {
            Some(end) => Ok(end.exit_code.to_string()),
            None => Err(lost.into()),
        }
    })
}
