//! `kiln rm`: remove instances that have ended, with their logs.

use kiln_monitor::Error;
use kiln_monitor::control::{Request, client};
use kiln_monitor::registry::Status;

use super::for_each;
use crate::exit::Failure;

/// Arguments of `kiln rm`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// End running instances first, by force
    #[arg(short = 'f', long)]
    force: bool,
    /// Names or ids of instances
    #[arg(required = true, value_name = "INSTANCE")]
    instances: Vec<String>,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<u8, Failure> {
    for_each(&arguments.instances, |registry, instance| {
        let mut ended = instance.clone();
        if arguments.force && instance.status == Status::Running {
            let kill = Request::Stop {
                signal: 9,
                timeout_ms: Some(0),
            };
            match client::request(instance, &kill) {
                Ok(_) | Err(Error::NotRunning(_)) => {}
                Err(error) => return Err(error.into()),
            }
            match registry.load(&instance.record.id)? {
                Some(instance) => ended = instance,
                // It was started with --rm and is gone already.
                None => return Ok(instance.record.name.clone()),
            }
        }
        registry.remove(&ended)?;
        Ok(ended.record.name)
    })
}
