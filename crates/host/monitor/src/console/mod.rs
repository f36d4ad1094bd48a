//! The guest's console on the host.
//!
//! The guest writes into a pipe. The supervisor reads it and passes every piece on to two places: the log
//! ([`log`], read by [`read`]) and, in the foreground, the user's terminal or pipe ([`output`]). Neither may harm the
//! other: a full disk does not silence the terminal, and a terminal that takes nothing does not stop the log for ever.

pub mod log;
pub mod output;
pub mod read;
