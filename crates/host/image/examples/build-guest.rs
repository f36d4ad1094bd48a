//! Builds the crate in a folder into an image: `cargo run -p kiln-image --example build-guest -- CRATE_DIR [OUT.kiln]`.

use std::env;
use std::process::ExitCode;

use kiln_image::Builder;

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    let Some(crate_dir) = args.next() else {
        eprintln!("usage: build-guest CRATE_DIR [OUT.kiln]");
        return ExitCode::from(2);
    };
    let mut builder = Builder::new(crate_dir);
    if let Some(out) = args.next() {
        builder = builder.output(out);
    }
    match builder.build() {
        Ok(built) => {
            println!(
                "{} ({} bytes; debug information in {})",
                built.image.display(),
                built.size,
                built.debug.display()
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("build-guest: {error}");
            ExitCode::FAILURE
        }
    }
}
