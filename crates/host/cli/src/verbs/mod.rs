//! The verbs of the command, one file each.
//!
//! A verb's file has its arguments (`Arguments`), a line of help on them, and `run`. [`ALL`] is the list in the order in
//! which help shows it.

mod build;
mod capture;
mod completions;
mod export;
mod images;
mod inspect;
mod kill;
mod logs;
mod new;
mod ps;
mod rm;
mod run;
mod stats;
mod stop;
mod version;
mod wait;

use clap::{ArgMatches, Args, Command, FromArgMatches};
use kiln_monitor::registry::{Instance, Registry};

use crate::exit::Failure;

/// One verb.
pub struct Verb {
    /// The word.
    pub name: &'static str,
    /// Adds help and arguments to an empty command.
    pub describe: fn(Command) -> Command,
    /// Does the work and returns the exit code.
    pub run: fn(&ArgMatches) -> Result<u8, Failure>,
}

macro_rules! verbs {
    ($($name:ident: $about:literal,)*) => {
        /// All verbs.
        pub const ALL: &[Verb] = &[$(Verb {
            name: stringify!($name),
            describe: |command| $name::Arguments::augment_args(command).about($about),
            run: |matches| $name::run(&arguments_of(matches)?),
        }),*];
    };
}

verbs! {
    run: "Run an image or a crate",
    build: "Build a crate into an image",
    export: "Write an image for another monitor, a cloud or a computer",
    new: "Make a new crate that runs on Kiln",
    ps: "List instances",
    logs: "Show an instance's output",
    stop: "Ask instances to end, and end them by force after a time",
    kill: "End instances by force, or send them a signal",
    rm: "Remove instances that have ended",
    inspect: "Show everything about instances as JSON",
    stats: "Show what instances use",
    capture: "Write the frames on an instance's network links to a file",
    wait: "Wait for instances to end and print their exit codes",
    images: "List built images",
    version: "Show versions",
    completions: "Print a completion script for a shell",
}

/// The verb with this name.
pub fn find(name: &str) -> Option<&'static Verb> {
    ALL.iter().find(|verb| verb.name == name)
}

fn arguments_of<T: Args + FromArgMatches>(matches: &ArgMatches) -> Result<T, Failure> {
    crate::arguments(matches)
}

/// Does something for each of several instances, as docker does: prints the name of each that went well and the message
/// of each that did not, and fails with 1 if any did not.
fn for_each(
    keys: &[String],
    mut action: impl FnMut(&Registry, &Instance) -> Result<String, Failure>,
) -> Result<u8, Failure> {
    let registry = Registry::open()?;
    let mut code = 0;
    for key in keys {
        let done = registry
            .find(key)
            .map_err(Failure::from)
            .and_then(|instance| action(&registry, &instance));
        match done {
            Ok(text) => crate::style::line(&text)?,
            Err(failure) => {
                failure.report();
                code = 1;
            }
        }
    }
    Ok(code)
}
