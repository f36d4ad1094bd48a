//! A lossy link for tests.
//!
//! Frames are relayed between two tap devices, which may be in two network namespaces, and on the way are lost,
//! delayed, reordered, sent twice, damaged, or queued behind a slow line. Every decision comes from a seed. What each
//! end sent and received can be captured as pcapng.
//!
//! The devices are opened without offloads: a large frame of a host is segmented by its kernel before it comes here, so
//! each loss is that of one segment.
//!
//! | module | its part |
//! | --- | --- |
//! | [`impair`] | what happens to frames of one direction: values in, values out, no clock |
//! | [`random`] | the same numbers from the same seed |
//! | [`tap`] | opens tap devices; all `unsafe` is there |
//! | [`pcapng`] | writes captures |
//! | [`relay`] | the loop between two devices |

pub mod impair;
pub mod pcapng;
pub mod random;
pub mod relay;
pub mod tap;

pub use impair::{Counters, Impairment};
pub use relay::{End, Relay, Running};

/// Why a link cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network namespace cannot be entered.
    #[error("network namespace {path}: {reason}")]
    Namespace {
        /// Its file.
        path: String,
        /// What the host says.
        reason: std::io::Error,
    },
    /// The tap device cannot be opened.
    #[error("tap device {name}: {reason} (this needs root, and nobody else may have it open)")]
    Tap {
        /// Its name.
        name: String,
        /// What the host says.
        reason: std::io::Error,
    },
    /// A capture cannot be written.
    #[error("capture {path}: {reason}")]
    Capture {
        /// Its file.
        path: String,
        /// What the host says.
        reason: std::io::Error,
    },
    /// The loop cannot go on.
    #[error("the relay: {0}")]
    Relay(#[from] std::io::Error),
}
