//! Kiln's image files: building, checking and symbolising them.
//!
//! An image is one ELF file (`NAME.kiln`) that every backend runs. This crate knows its format; it neither maps nor runs
//! one.
//!
//! | part | what it does | who calls it |
//! | --- | --- | --- |
//! | [`build`] | compiles a crate's folder into an image and a debug file | `kiln build`, `kiln run DIR` |
//! | [`image`] | opens an image and checks it as hostile input | every backend |
//! | [`symbols`] | names of functions and source lines for addresses | crash reports, profiles |
//! | [`digest`] | identity of an image by content | caches, registries |
#![forbid(unsafe_code)]

pub mod build;
pub mod digest;
pub mod image;
pub mod symbols;

pub use build::{BuildError, Builder, Built, Optimize};
pub use digest::Digest;
pub use image::{Access, BuildId, Device, Fault, Image, ImageError, Layout, LoadSegment};
pub use kiln_abi::DeviceKind;
pub use symbols::{Frame, Symbols};
