//! The `kiln` command.
//!
//! Each verb is a file in [`verbs`], laid out alike: its arguments as a structure, then `run`, which returns the exit
//! code. This file picks the verb and prints what goes wrong.
//!
//! Only the verb that was asked for is set up for parsing: describing all of them would take longer than a small guest
//! runs. The whole command exists as one for help, for completions, and for words that are no verb.
#![cfg_attr(not(test), no_main)]
#![deny(unsafe_code)]
// They end the command where nothing can be written: `tell` and `style` do not.
#![deny(clippy::print_stderr, clippy::print_stdout)]

#[cfg(not(test))]
mod entry;
mod exit;
mod program;
mod progress;
mod style;
mod table;
mod target;
mod tell;
mod verbs;
mod words;

use std::ffi::OsString;
use std::io::Write;

use clap::{ArgMatches, Args, Command, FromArgMatches};

use exit::Failure;

/// The whole command: from its arguments to its exit code.
#[cfg_attr(
    test,
    allow(dead_code, reason = "the test harness has its own entry point")
)]
fn run() -> u8 {
    let args: Vec<OsString> = std::env::args_os().collect();
    let done = dispatch(&args).and_then(|code| {
        // What is still buffered was asked for, too.
        std::io::stdout().flush()?;
        Ok(code)
    });
    match done {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// Runs the verb that the arguments name.
fn dispatch(args: &[OsString]) -> Result<u8, Failure> {
    let verb = args.get(1).and_then(|verb| verb.to_str());
    if let Some(verb) = verb.and_then(verbs::find) {
        let command =
            (verb.describe)(Command::new(verb.name)).bin_name(format!("kiln {}", verb.name));
        let words = words::separate(&command, &args[1..]);
        let matches = parse(command, &words)?;
        return (verb.run)(&matches);
    }
    // Help, an unknown word, or nothing: clap has the words for all of them.
    parse(whole(), args)?;
    Ok(0)
}

/// The command with all its verbs.
fn whole() -> Command {
    let command = Command::new("kiln")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Build and run programs as unikernels")
        .after_help("TARGET is a Linux program installed here (a path or a name on PATH), an image (a .kiln file) or the folder of a Rust crate.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true);
    verbs::ALL.iter().fold(command, |command, verb| {
        command.subcommand((verb.describe)(Command::new(verb.name)))
    })
}

/// Parses, or ends with what clap has to say: help and the version on the standard output with code 0, mistakes in one
/// line with code 125.
fn parse(command: Command, args: &[OsString]) -> Result<ArgMatches, Failure> {
    command.try_get_matches_from(args).map_err(Failure::from)
}

/// The arguments of a verb out of what was parsed.
fn arguments<T: Args + FromArgMatches>(matches: &ArgMatches) -> Result<T, Failure> {
    T::from_arg_matches(matches).map_err(Failure::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_consistent() {
        whole().debug_assert();
    }

    #[test]
    fn every_verb_has_help_in_one_line() {
        for verb in verbs::ALL {
            let command = (verb.describe)(Command::new(verb.name));
            let about = command.get_about().expect("an about text").to_string();
            assert!(about.len() < 80 && !about.contains('\n'), "{}", verb.name);
        }
    }

    #[test]
    fn words_that_are_no_verb_end_with_125() {
        for args in [
            &["kiln", "explode"][..],
            &["kiln", "run"],
            &["kiln", "ps", "--what"],
        ] {
            let args: Vec<OsString> = args.iter().map(Into::into).collect();
            let failure = dispatch(&args).expect_err("refused");
            assert_eq!(failure.code(), 125, "{args:?}");
        }
    }
}
