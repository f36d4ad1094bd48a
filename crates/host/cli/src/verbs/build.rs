//! `kiln build`: compile a crate into an image.

use std::path::PathBuf;

use kiln_image::{Builder, Optimize};

use crate::exit::Failure;
use crate::{progress, style};

/// Arguments of `kiln build`.
#[allow(clippy::struct_excessive_bools, reason = "they are options")]
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The folder of a Rust crate
    #[arg(value_name = "CRATE", default_value = ".")]
    crate_dir: PathBuf,
    /// The image file to write [default: target/kiln/NAME.kiln]
    #[arg(short = 'o', long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Which of the crate's programs to build
    #[arg(long, value_name = "NAME")]
    bin: Option<String>,
    /// Features of the crate to turn on
    #[arg(short = 'F', long, value_delimiter = ',')]
    features: Vec<String>,
    /// Leave the crate's default features off
    #[arg(long)]
    no_default_features: bool,
    /// What to optimize for
    #[arg(long, value_name = "FOR", default_value = "size", value_enum)]
    optimize: For,
    /// Refuse to change Cargo.lock
    #[arg(long)]
    locked: bool,
    /// Do without the network
    #[arg(long)]
    offline: bool,
    /// Print nothing but the image's path
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// What to optimize for.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum For {
    /// A small image
    Size,
    /// A fast one
    Speed,
    /// One to debug
    Debug,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let mut builder = Builder::new(&arguments.crate_dir)
        .optimize(match arguments.optimize {
            For::Size => Optimize::Size,
            For::Speed => Optimize::Speed,
            For::Debug => Optimize::Debug,
        })
        .features(arguments.features.iter().cloned())
        .default_features(!arguments.no_default_features)
        .locked(arguments.locked)
        .offline(arguments.offline)
        .quiet(arguments.quiet);
    if let Some(output) = &arguments.output {
        builder = builder.output(output);
    }
    if let Some(bin) = &arguments.bin {
        builder = builder.bin(bin);
    }
    let built = progress::build(&builder, &arguments.crate_dir, arguments.quiet)?;
    style::line(&built.image.display().to_string())?;
    Ok(0)
}
