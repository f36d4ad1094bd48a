//! Kiln's image files: building, checking and symbolising them.
//!
//! An image is one ELF file (`NAME.kiln`) that every backend runs. This crate knows its format; it neither maps nor runs
//! one.
//!
//! | part | what it does | who calls it |
//! | --- | --- | --- |
//! | [`build`] | compiles a crate's folder into an image and a debug file | `kiln build`, `kiln run DIR` |
//! | [`compose()`] | joins the Linux personality, a root file system and a configuration | `kiln run PROGRAM` |
//! | [`config`] | how a Linux program is started | `kiln run` |
//! | [`image`] | opens an image and checks it as hostile input | every backend |
//! | [`symbols`] | names of functions and source lines for addresses | crash reports, profiles |
//! | [`digest`] | identity of an image by content | caches, registries |
#![forbid(unsafe_code)]

pub mod build;
pub mod compose;
pub mod config;
pub mod digest;
pub mod image;
pub mod symbols;

pub use build::{BuildError, Builder, Built, Optimize, Output};
pub use compose::{ComposeError, compose};
pub use config::Config;
pub use digest::Digest;
pub use image::{Access, BuildId, Device, Fault, Image, ImageError, Layout, LoadSegment};
pub use kiln_abi::DeviceKind;
pub use symbols::{Frame, Symbols};
