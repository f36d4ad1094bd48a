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

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

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

/// So many instances are asked at once.
const AT_ONCE: usize = 64;

/// Does something for each of several instances, as docker does: for all of them at the same time, so that they need not
/// wait for each other's end. Prints, in the order of `keys`, the name of each that went well and the message of each that
/// did not, and fails with 1 if any did not.
fn for_each(
    keys: &[String],
    action: impl Fn(&Registry, &Instance) -> Result<String, Failure> + Sync,
) -> Result<u8, Failure> {
    let registry = Registry::open()?;
    let mut code = 0;
    // What is named twice is done twice, and how the second time goes must not be chance.
    let mut seen = HashSet::new();
    let at_once = if keys.iter().all(|key| seen.insert(key)) {
        AT_ONCE
    } else {
        1
    };
    in_order(
        keys,
        at_once,
        |key| action(&registry, &registry.find(key)?),
        |done| match done {
            Ok(text) => crate::style::line(&text),
            Err(failure) => {
                failure.report();
                code = 1;
                Ok(())
            }
        },
    )?;
    Ok(code)
}

/// Does `action` with all items at the same time, so many of them at the most, and `then` with what came of each, in their order and as soon as that
/// allows. An error of `then` is returned when all is done.
fn in_order<T: Sync, R: Send>(
    items: &[T],
    at_once: usize,
    action: impl Fn(&T) -> R + Sync,
    mut then: impl FnMut(R) -> io::Result<()>,
) -> io::Result<()> {
    if let [item] = items {
        return then(action(item));
    }
    let next = AtomicUsize::new(0);
    let (done, results) = mpsc::channel();
    thread::scope(|scope| {
        let mut hands = 0;
        for _ in 0..items.len().min(at_once) {
            let done = done.clone();
            let work = || {
                let done = done;
                while let Some((at, item)) = take(items, &next) {
                    // Nobody takes it any more after an error.
                    let _ = done.send((at, action(item)));
                }
            };
            match thread::Builder::new().spawn_scoped(scope, work) {
                Ok(_) => hands += 1,
                // Where there are no more threads, those that there are do it.
                Err(_) => break,
            }
        }
        if hands == 0 {
            return items.iter().try_for_each(|item| then(action(item)));
        }
        drop(done);
        let (mut early, mut turn) = (HashMap::new(), 0);
        for (at, result) in results {
            early.insert(at, result);
            while let Some(result) = early.remove(&turn) {
                turn += 1;
                then(result)?;
            }
        }
        Ok(())
    })
}

/// The next of the items, which nobody else gets.
fn take<'a, T>(items: &'a [T], next: &AtomicUsize) -> Option<(usize, &'a T)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    items.get(at).map(|item| (at, item))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn all_are_asked_at_once_and_told_in_order() {
        let items: Vec<usize> = (0..AT_ONCE).collect();
        let all = Barrier::new(items.len());
        let mut told = Vec::new();
        in_order(
            &items,
            AT_ONCE,
            |&item| {
                // Nobody gets on before everybody is here.
                all.wait();
                item
            },
            |item| {
                told.push(item);
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(told, items);
    }

    #[test]
    fn more_than_go_at_once_are_all_served_also_after_an_error() {
        let items: Vec<usize> = (0..3 * AT_ONCE).collect();
        let served = AtomicUsize::new(0);
        let result = in_order(
            &items,
            AT_ONCE,
            |_| served.fetch_add(1, Ordering::Relaxed),
            |_| Err(io::ErrorKind::BrokenPipe.into()),
        );
        assert!(result.is_err());
        assert_eq!(served.into_inner(), items.len());
    }
}
