//! The user's terminal while a Linux program has it.
//!
//! The program has a terminal of its own, with the settings that it makes there; this one only passes keys on as they are
//! typed and shows what comes. So it is in raw mode (`cfmakeraw(3)`) until the guest has ended.

use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::Error;

/// What a terminal without a size of its own is taken for.
const USUAL: (u16, u16) = (80, 24);

/// Raw mode, while this lives.
#[derive(Debug)]
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Begins it on this process's standard input, which is a terminal.
    ///
    /// # Errors
    /// [`Error::Host`] if the terminal is no more.
    pub fn begin() -> Result<Self, Error> {
        let failed = |error| Error::host("use the terminal", error);
        let before = tcgetattr(stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // If it is gone, there is nothing to restore.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

/// Columns and rows of the terminal.
pub fn size() -> (u16, u16) {
    let size = tcgetwinsize(stdout()).ok();
    size.map(|size| (size.ws_col, size.ws_row))
        .filter(|&(columns, rows)| columns > 0 && rows > 0)
        .unwrap_or(USUAL)
}

/// What the personality is told of the terminal.
pub fn argument() -> String {
    let (columns, rows) = size();
    format!("--terminal={columns}x{rows}")
}
