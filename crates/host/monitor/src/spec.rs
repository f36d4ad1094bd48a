//! What the user asks for when he runs an image, and the texts of the options for it.
//!
//! Everything here is a plain value that parses from an option's text and prints again. Nothing is opened or looked
//! up: that is [`devices`](crate::devices) and [`run`](crate::run).

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub use kiln_usernet::PortForward;

use crate::Error;
use crate::devices::net::NetOption;
use crate::names;
use crate::size::Size;

/// Memory of a guest when the user does not say.
pub const DEFAULT_MEMORY: Size = Size::from_bytes(64 << 20);

/// The most memory of one guest. The backends reserve the guest's addresses with it in mind.
pub const MAX_MEMORY: Size = Size::from_bytes(1 << 39);

/// How long a guest may take to end by itself before it is ended by force, when the user does not say.
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// An instance as the user wants it.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The image file.
    pub image: PathBuf,
    /// Its name; one is made up if there is none.
    pub name: Option<String>,
    /// Memory of the guest.
    pub memory: Size,
    /// Ports of the host that lead into the guest.
    pub ports: Vec<PortForward>,
    /// Network links.
    pub nets: Vec<NetOption>,
    /// Disks.
    pub blocks: Vec<BlockOption>,
    /// Environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Arguments behind the program's name.
    pub args: Vec<String>,
    /// Forget the instance when it has ended.
    pub remove: bool,
    /// Refuse to start when a protection is not available.
    pub strict: bool,
    /// What runs the guest.
    pub backend: BackendChoice,
    /// How long the guest may take to end by itself.
    pub stop_timeout: Duration,
}

impl Spec {
    /// The wish to run `image` with everything else left to Kiln.
    pub fn new(image: impl Into<PathBuf>) -> Self {
        Self {
            image: image.into(),
            name: None,
            memory: DEFAULT_MEMORY,
            ports: Vec::new(),
            nets: Vec::new(),
            blocks: Vec::new(),
            env: Vec::new(),
            args: Vec::new(),
            remove: false,
            strict: false,
            backend: BackendChoice::Auto,
            stop_timeout: DEFAULT_STOP_TIMEOUT,
        }
    }

    /// The image's file name, for messages.
    pub fn image_name(&self) -> String {
        self.image.file_name().map_or_else(
            || self.image.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        )
    }

    /// Checks what can be checked without opening anything.
    ///
    /// # Errors
    /// [`Error::Option`] for the first thing that cannot be.
    pub fn check(&self) -> Result<(), Error> {
        if let Some(name) = &self.name
            && !names::valid(name)
        {
            return Err(Error::option(
                "--name",
                name,
                "a name has 1 to 63 letters, digits, '_', '.' or '-' and starts with a letter or digit",
            ));
        }
        if self.memory > MAX_MEMORY {
            return Err(Error::option(
                "--memory",
                &self.memory.to_string(),
                format!("more than a guest can have: at most {MAX_MEMORY}"),
            ));
        }
        for env in &self.env {
            check_env(env)?;
        }
        if let Some(arg) = self.args.iter().find(|arg| arg.contains('\0')) {
            return Err(Error::option("argument", arg, "contains a NUL byte"));
        }
        Ok(())
    }
}

/// `NAME=value` with a name and without NUL bytes.
/// The environment as the guest gets it: of a variable given several times the last one holds, as with docker.
pub fn effective_env(env: &[String]) -> Vec<String> {
    let name = |pair: &String| {
        pair.split_once('=')
            .map_or(pair.clone(), |(name, _)| name.to_owned())
    };
    let overridden = |(index, pair): &(usize, &String)| {
        env[index + 1..]
            .iter()
            .any(|later| name(later) == name(pair))
    };
    let all = env.iter().enumerate();
    all.filter(|entry| !overridden(entry))
        .map(|(_, pair)| pair.clone())
        .collect()
}

fn check_env(env: &str) -> Result<(), Error> {
    let problem = match env.split_once('=') {
        _ if env.contains('\0') => "contains a NUL byte",
        Some(("", _)) => "the name is empty: write NAME=value",
        Some(_) => return Ok(()),
        None => "write NAME=value",
    };
    Err(Error::option("--env", env, problem))
}

/// Which backend the user wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// The best one that works here.
    #[default]
    Auto,
    /// A sandboxed Linux process.
    Process,
}

impl FromStr for BackendChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(Self::Auto),
            "process" => Ok(Self::Process),
            "kvm" | "qemu" | "firecracker" | "cloud-hypervisor" | "xen" => {
                Err(Error::NoBackend(text.to_owned()))
            }
            _ => Err(Error::option(
                "--backend",
                text,
                "not a backend: use auto or process",
            )),
        }
    }
}

/// A disk: `NAME=FILE[:ro]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockOption {
    /// The device that the image declares.
    pub device: String,
    /// A file or block device of the host.
    pub file: PathBuf,
    /// The guest may only read.
    pub read_only: bool,
}

impl FromStr for BlockOption {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |problem: &str| Err(Error::option("--block", text, problem));
        let Some((device, rest)) = text.split_once('=') else {
            return bad("write NAME=FILE, NAME being a block device that the image declares");
        };
        if !kiln_abi::note::valid_name(device.as_bytes()) {
            return bad("a device name has 1 to 23 characters of a-z, 0-9, '-' and '_'");
        }
        let (file, read_only) = match rest.strip_suffix(":ro") {
            Some(file) => (file, true),
            None => (rest, false),
        };
        if file.is_empty() {
            return bad("the file is missing: write NAME=FILE");
        }
        Ok(Self {
            device: device.to_owned(),
            file: file.into(),
            read_only,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_name_a_device_and_a_file() {
        let disk: BlockOption = "data=/var/x=y.img:ro".parse().unwrap();
        assert_eq!(disk.device, "data");
        assert_eq!(disk.file, PathBuf::from("/var/x=y.img"));
        assert!(disk.read_only);
        for bad in ["data", "=x", "Data=x", "data=", "data=:ro"] {
            assert!(bad.parse::<BlockOption>().is_err(), "{bad}");
        }
    }

    #[test]
    fn backends_of_later_versions_are_named_as_such() {
        let error = "kvm".parse::<BackendChoice>().unwrap_err().to_string();
        assert_eq!(
            error,
            "the backend \"kvm\" is not in this version: use --backend process"
        );
        assert!("vmware".parse::<BackendChoice>().is_err());
    }

    #[test]
    fn a_spec_is_checked_before_anything_is_opened() {
        let mut spec = Spec::new("x.kiln");
        assert!(spec.check().is_ok());
        spec.env = vec!["A=1".into(), "=2".into()];
        assert!(spec.check().is_err());
        spec.env = vec!["PLAIN".into()];
        assert!(spec.check().is_err());
        spec.env.clear();
        spec.name = Some("../x".into());
        assert!(spec.check().is_err());
    }
}
