//! `kiln version`: which Kiln this is, and what it speaks.

use serde::Serialize;

use crate::exit::Failure;
use crate::style::{self, Format};

/// Arguments of `kiln version`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// table, or json
    #[arg(long, default_value = "table", value_enum)]
    format: Format,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    #[serde(rename = "Version")]
    kiln: &'static str,
    abi: u32,
    backends: [&'static str; 5],
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let version = Version {
        kiln: env!("CARGO_PKG_VERSION"),
        abi: kiln_monitor::ABI_VERSION,
        backends: ["process", "kvm", "qemu", "firecracker", "cloud-hypervisor"],
    };
    match arguments.format {
        Format::Json => style::json_line(&version)?,
        Format::Table => style::line(&format!(
            "kiln {} (ABI {}, backends: {})",
            version.kiln,
            version.abi,
            version.backends.join(", ")
        ))?,
    }
    Ok(0)
}
