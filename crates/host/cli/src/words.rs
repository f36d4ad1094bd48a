//! Short options with their values in one word, as getopt(3) and docker read them: `-p8080:80`, `-m=64M`, `-dp 80:80`.
//!
//! Where a target and its arguments follow, clap takes a word that begins with `-` and is not made of options alone for the
//! first of them. Here such a word is put into the long form, `--publish=8080:80`, which clap reads.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::{Arg, Command};

/// What a word is.
enum Word<'a> {
    /// Flags, and at the end maybe an option whose value is the rest.
    Options(Vec<&'a Arg>, Option<&'a [u8]>),
    /// One option in its long form; its value, if it takes one, follows.
    Long(&'a Arg),
    /// What is complete in itself, or not known.
    Other,
    /// No option: from here on the words are not this command's.
    Target,
}

/// The arguments of a verb, its name first, with the options before the target in a form that clap reads.
pub fn separate(command: &Command, args: &[OsString]) -> Vec<OsString> {
    if !command.get_arguments().any(Arg::is_trailing_var_arg_set) {
        return args.to_vec();
    }
    let mut words = Vec::with_capacity(args.len());
    let mut left = args.iter();
    words.extend(left.next().cloned());
    while let Some(word) = left.next() {
        let takes_next = match read(command, word.as_bytes()) {
            Word::Target => {
                words.push(word.clone());
                break;
            }
            Word::Other => {
                words.push(word.clone());
                false
            }
            Word::Long(option) => {
                words.push(word.clone());
                takes_value(option)
            }
            Word::Options(options, value) => {
                let last = options.last().copied();
                words.extend(options.into_iter().filter_map(long));
                match (words.last_mut(), value) {
                    (Some(word), Some(value)) => {
                        word.push("=");
                        word.push(OsStr::from_bytes(value));
                        false
                    }
                    _ => last.is_some_and(takes_value),
                }
            }
        };
        if takes_next {
            words.extend(left.next().cloned());
        }
    }
    words.extend(left.cloned());
    words
}

fn read<'a>(command: &'a Command, word: &'a [u8]) -> Word<'a> {
    let known = |is: &dyn Fn(&Arg) -> bool| command.get_arguments().find(|option| is(option));
    let cluster = match word {
        [b'-', b'-'] => return Word::Target,
        [b'-', b'-', name @ ..] => {
            let is = |option: &Arg| {
                let names = option.get_long_and_visible_aliases().unwrap_or_default();
                names.iter().any(|known| known.as_bytes() == name)
            };
            return known(&is).map_or(Word::Other, Word::Long);
        }
        [b'-', cluster @ ..] if !cluster.is_empty() => cluster,
        _ => return Word::Target,
    };
    let mut options = Vec::new();
    for (at, letter) in cluster.iter().enumerate() {
        let Some(option) = known(&|option| option.get_short() == Some(char::from(*letter))) else {
            // Clap, or the verb, says what is wrong with it.
            return Word::Other;
        };
        options.push(option);
        if takes_value(option) {
            let rest = &cluster[at + 1..];
            let value = rest.strip_prefix(b"=").unwrap_or(rest);
            return Word::Options(options, (!rest.is_empty()).then_some(value));
        }
    }
    Word::Options(options, None)
}

fn takes_value(option: &Arg) -> bool {
    option.get_action().takes_values()
}

/// All options of the verbs with a target have a long form.
fn long(option: &Arg) -> Option<OsString> {
    let name = option.get_long()?;
    Some(OsString::from_vec([b"--", name.as_bytes()].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs;

    fn separated(line: &str) -> String {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let verb = verbs::find(args[0].to_str().unwrap()).unwrap();
        let command = (verb.describe)(Command::new(verb.name));
        let words = separate(&command, &args);
        words.join(OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn values_may_be_attached_to_short_options() {
        for (line, long) in [
            (
                "run -p8080:80 -m64M x",
                "run --publish=8080:80 --memory=64M x",
            ),
            ("run -p=8080:80 x", "run --publish=8080:80 x"),
            ("run -eA=1 -e=B=2 x", "run --env=A=1 --env=B=2 x"),
            ("run -v./x:/y -u1000 x", "run --volume=./x:/y --user=1000 x"),
            ("run -w/tmp x", "run --workdir=/tmp x"),
            ("run -e-x x", "run --env=-x x"),
            (
                "run -dit -qp80:80 x",
                "run --detach --interactive --tty --quiet --publish=80:80 x",
            ),
            (
                "run -dp 80:80 -q x",
                "run --detach --publish 80:80 --quiet x",
            ),
            (
                "export -fqemu -p8080:80 x",
                "export --format=qemu --publish=8080:80 x",
            ),
        ] {
            assert_eq!(separated(line), long);
        }
    }

    #[test]
    fn words_that_are_no_options_stay() {
        for line in [
            "run x -p8080:80 -m64M",
            "run -- -m64M -eA",
            "run --name -m64M x",
            "run --network -m64M x",
            "run --name=a -- x -m1",
            "run -xm64M y",
            "run --what -h",
            "run -",
            "run",
            "stop -t1 x",
        ] {
            assert_eq!(separated(line), line);
        }
        assert_eq!(separated("run -e -m1 -m2 x"), "run --env -m1 --memory=2 x");
    }

    #[test]
    fn options_of_verbs_with_a_target_have_a_long_form() {
        for verb in verbs::ALL {
            let command = (verb.describe)(Command::new(verb.name));
            let lacking = command
                .get_arguments()
                .filter(|option| option.get_short().is_some() && option.get_long().is_none());
            assert_eq!(lacking.count(), 0, "{}", verb.name);
        }
    }
}
