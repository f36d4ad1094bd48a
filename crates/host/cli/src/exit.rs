//! What goes wrong, as one line and an exit code.
//!
//! Docker's codes: 125 for an error of the command itself, 126 for a target that cannot be run, 127 for one that is not
//! there, and whatever the guest ended with otherwise.

use std::io::{self, Write};

use kiln_image::{BuildError, ImageError};
use kiln_monitor::Error;
use kiln_monitor::error::{EXIT_CANNOT_RUN, EXIT_KILN, EXIT_NOT_FOUND};

use crate::tell::tell;

/// Why a verb could not do its work.
#[derive(Debug)]
pub enum Failure {
    /// The arguments make no sense, or help was asked for.
    Usage(clap::Error),
    /// A message and a code.
    Message {
        /// One line without the leading `kiln: `.
        text: String,
        /// The exit code.
        code: u8,
    },
    /// Everything was said already.
    Silent(u8),
}

impl Failure {
    /// An error of the command itself.
    pub fn new(text: impl Into<String>) -> Self {
        Self::Message {
            text: text.into(),
            code: EXIT_KILN,
        }
    }

    /// A target that is not there.
    pub fn not_found(text: impl Into<String>) -> Self {
        Self::Message {
            text: text.into(),
            code: EXIT_NOT_FOUND,
        }
    }

    /// A target that cannot be run.
    pub fn cannot_run(text: impl Into<String>) -> Self {
        Self::Message {
            text: text.into(),
            code: EXIT_CANNOT_RUN,
        }
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(error) if !error.use_stderr() => 0,
            Self::Usage(_) => EXIT_KILN,
            Self::Message { code, .. } | Self::Silent(code) => *code,
        }
    }

    /// Says it and returns the exit code.
    pub fn report(self) -> u8 {
        match &self {
            Self::Usage(error) if error.use_stderr() && !is_help(error) => {
                tell(one_line(error));
            }
            Self::Usage(error) => {
                let printed = error.print().and_then(|()| io::stdout().flush());
                if let (Err(lost), false) = (printed, error.use_stderr()) {
                    return Self::from(lost).report();
                }
            }
            Self::Message { text, .. } => tell(text),
            Self::Silent(_) => {}
        }
        self.code()
    }
}

/// Whether it is help, asked for or in place of a missing verb.
fn is_help(error: &clap::Error) -> bool {
    error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// Clap's message without its paragraphs: what is wrong, and where help is.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let first = lines.next().unwrap_or_default();
    let mut message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
    for line in lines {
        if let Some(usage) = line.strip_prefix("Usage: ") {
            message.push_str("; usage: ");
            message.push_str(usage);
        } else if let Some(tip) = line.strip_prefix("tip: ") {
            message.push_str("; ");
            message.push_str(tip);
        } else {
            message.push(' ');
            message.push_str(line);
        }
    }
    message
}

impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Self {
        Self::Usage(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Message {
            code: error.exit_code(),
            text: error.to_string(),
        }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Error::from(error).into()
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // Output that nobody reads any more is no failure worth a message.
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Silent(0),
            _ => Self::new(format!("cannot write: {error}")),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        io::Error::from(error).into()
    }
}
