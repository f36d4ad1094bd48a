//! `kiln completions`: a script that completes verbs and options in a shell.

use std::io::Write;

use clap_complete::Shell;

use crate::exit::Failure;

/// Arguments of `kiln completions`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut crate::whole(), "kiln", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(0)
}
